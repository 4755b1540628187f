"""What goes into a ledger and what comes out of it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from events import codec, wire
from events.commit import InlineRow, RunState
from events.errors import Erased
from events.ids import derived
from events.keys import DataKey

GATE_CLOSED, GATE_OPEN, GATE_ERASED = 0, 1, 2

IMPORTER: Final = "system:import"
"""Who records what an import brings: it happened elsewhere, so nobody is alerted of it."""


class Actor(msgspec.Struct, frozen=True):
    """Who asks: an opaque id such as `key:…`, `worker:…`, `system:monitor`."""

    id: str


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """An event before it is recorded: its type, payload bytes, and what its metadata columns take from it."""

    type: str
    payload: bytes
    schema_version: int = 1
    cause: str | None = None
    epoch: int | None = None


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What one caller wants recorded, whole or not at all.

    Lifecycle: `expected_version` is the version that was decided on, `epoch` and `gate` what the stream has
    afterwards. Telemetry: `source` and `seq` key it, `epoch` is the attempt that speaks. `request` is what makes a
    repetition the same request.
    """

    ledger_id: UUID
    stream: UUID
    event_id: UUID
    actor: str
    occurred_at: datetime
    drafts: Sequence[Draft]
    request: bytes
    expected_version: int | None = None
    epoch: int | None = None
    gate: int = GATE_CLOSED
    source: str | None = None
    seq: int | None = None
    causation_id: UUID | None = None
    inline: Mapping[str, Sequence[InlineRow]] = {}
    state: RunState | None = None


class Appended(msgspec.Struct, frozen=True):
    """Where a proposal stands: first and last position, version after it, and whether it stood there before."""

    position: int
    last: int
    recorded_at: datetime
    version: int | None
    repeated: bool


class Fact(msgspec.Struct, frozen=True, gc=False):
    """What a fold needs of a stored event; `payload` is None once it was erased or moved to Parquet."""

    position: int
    stream: UUID
    version: int | None
    type: str
    schema_version: int
    actor: str
    cause: str | None
    epoch: int | None
    recorded_at: datetime
    payload: bytes | None

    def event(self) -> Any:
        """Return the decoded event. Raises `Erased` where its payload is gone, `CorruptHistory` if it is bad."""
        if self.payload is None:
            raise Erased("the payload of this event is gone")
        return codec.decode(self.type, self.schema_version, self.payload)


class Recorded(Fact, frozen=True, gc=False):
    """A stored event with all that is published of it."""

    event_id: UUID
    ledger_id: UUID
    correlation_id: UUID | None
    causation_id: UUID | None
    source: str | None
    seq: int | None
    part: int | None
    occurred_at: datetime
    commitment: bytes


def sealed(proposal: Proposal, draft: Draft, index: int, salt: bytes, key: DataKey) -> bytes:
    """Return one event as `append.sql` takes it, its payload sealed."""
    event_id = proposal.event_id if index == 0 else derived(proposal.event_id, index)
    if proposal.seq is None:
        version, part, epoch = (proposal.expected_version or 0) + index + 1, None, draft.epoch
        request = None if index else codec.request_digest(salt, proposal.request)
    else:
        version, part, epoch = None, index, proposal.epoch
        request = None if index else key.digest(proposal.request)
    causation_id = proposal.causation_id
    occurred_us = codec.microseconds(proposal.occurred_at)
    commitment = codec.commitment(salt, draft.payload)
    columns = (
        event_id.bytes,
        proposal.stream.bytes,
        version,
        draft.type,
        draft.schema_version,
        proposal.actor,
        draft.cause,
        proposal.event_id.bytes,
        None if causation_id is None else causation_id.bytes,
        epoch,
        proposal.source,
        proposal.seq,
        part,
    )
    body = codec.body(proposal.ledger_id.bytes, *columns, codec.time_column(occurred_us), commitment)
    ciphertext = key.seal(draft.payload, event_id)
    return wire.row(*columns, occurred_us, commitment, body, salt, request, ciphertext)
