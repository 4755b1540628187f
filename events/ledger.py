"""The one place where what happened is recorded, read back and verified.

appended = await ledger.append(Proposal(...))      # durable when it returns; the same again is the same
async for page in ledger.pages(ledger_id): ...     # in order, unsealed, in short transactions
report = await ledger.verify(ledger_id)            # the first bad record, or "verified up to position N"
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from events.commit import LOST_CONNECTION, GroupCommit, Prepared, Verdict
from events.errors import Busy, NotFound, TooLarge
from events.keys import DataKey, Keyring
from events.recent import Recent
from events.records import (
    GATE_CLOSED,
    GATE_ERASED,
    GATE_OPEN,
    Actor,
    Appended,
    Draft,
    Fact,
    Proposal,
    Recorded,
    sealed,
)
from events.repetition import same_request
from events.sql import load
from events.statements import recording
from events.turns import Turns
from events.verdicts import STORED, as_appended, judged, repeated, verdicts_of

MAX_EVENT_BYTES: Final = 512 << 10
SURVIVES_ERASURE: Final = frozenset({"run.deleted", "run.purged"})
"""Types sealed under the ledger's own key, so that a deletion can be explained for ever."""

PAGE_EVENTS: Final = 1_000
PAGE_BYTES: Final = 8 << 20
EVENTS_AT_A_TIME: Final = 256
STREAM, TYPE, SEALED, EVENT_ID = (
    Recorded.__struct_fields__.index(name) for name in ("stream", "type", "payload", "event_id")
)
"""Where a row of the columns of `Recorded` has these; the ciphertext stands where the payload will."""
FIELDS: Final = len(Recorded.__struct_fields__)

NEAR_EVENTS: Final = 5_000
"""Over a longer span than this, one stream is read by its own indexes."""
LAST: Final = 1 << 62

F = TypeVar("F", bound=Fact)


class Nudge(Protocol):
    """Hears that a ledger has grown: by telemetry, or by what changes something."""

    def __call__(self, ledger_id: UUID, *, telemetry: bool) -> None: ...


def _tells_nobody(ledger_id: UUID, *, telemetry: bool) -> None: ...


class Ledger:
    """All ledgers of one database; `pool` is one of `open_pool`.

    Safe for any number of concurrent callers of one event loop.
    """

    def __init__(self, pool: asyncpg.Pool, keyring: Keyring, *, nudge: Nudge = _tells_nobody) -> None:
        self.pool = pool
        self.keyring = keyring
        self.recent = Recent()
        self.turns = Turns()
        self._nudge = nudge
        self._commits: dict[UUID, GroupCommit] = {}
        self._held: dict[UUID, PoolConnectionProxy] = {}

    async def open(self, ledger_id: UUID, organisation_id: UUID, kind: str) -> None:
        """Open a ledger (`organisation` or `project`); opening it again changes nothing."""
        await self.pool.execute(load("events.sql", "open_ledger"), ledger_id, organisation_id, kind)

    async def append(self, proposal: Proposal) -> Appended:
        """Record a proposal and return where it stands; the commit has happened when this returns.

        The same `event_id` (or telemetry key) with the same request returns the first result again. Raises
        `VersionConflict` (decide again), `Fenced`, `Rejected`, `Erased`, `IdReused`, `NotFound`, `TooLarge`,
        `Busy` and `Unavailable` (repeat the same request).
        """
        prepared, salt, new_key = await self._prepare(proposal)
        commits = self._commits.get(proposal.ledger_id)
        if commits is None:
            commits = self._commits[proposal.ledger_id] = GroupCommit(proposal.ledger_id, self._commit, self._rest)
        verdict = await commits.submit(prepared)
        stored = verdict.stored
        if new_key is not None and (verdict.refusal is None or (stored is not None and stored["salt"] == salt)):
            self.keyring.remember(*new_key)
        if stored is None:
            appended = judged(verdict, proposal)
        else:
            appended = repeated(stored, proposal, await self.key(proposal.ledger_id, proposal.stream))
        self._nudge(proposal.ledger_id, telemetry=proposal.seq is not None)
        return appended

    async def drained(self) -> None:
        """Wait until every append under way has ended."""
        for commits in list(self._commits.values()):
            await commits.drained()

    async def stored(self, ledger_id: UUID, event_id: UUID, request: bytes) -> Appended | None:
        """Return where an earlier lifecycle request stands, or None.

        Raises `IdReused` when the id came with another request, `Erased` when it can no longer be told.
        """
        row = await self.pool.fetchrow(STORED, ledger_id, None, True, event_id, None, None, None)
        if row is None:
            return None
        same_request(row["salt"], row["request"], request)
        return as_appended(row)

    async def head(self, ledger_id: UUID) -> tuple[int, bytes]:
        """Return a ledger's last position and chain value. Raises `NotFound`."""
        row = await self.pool.fetchrow(load("events.sql", "read_head"), ledger_id)
        if row is None:
            raise NotFound("there is no such ledger")
        return row["position"], row["chain"]

    async def read(
        self,
        ledger_id: UUID,
        *,
        after: int = 0,
        up_to: int | None = None,
        limit: int = PAGE_EVENTS,
        types: Sequence[str] | None = None,
        stream: UUID | None = None,
        payloads: bool = True,
    ) -> list[Recorded]:
        """Return a page of a ledger in order, after a position; all of it, or some types or one stream.

        A page ends at `limit` events or about `PAGE_BYTES` of payload, so only an empty one is the end.
        """
        last = up_to or LAST
        query = "read_far" if stream is not None and last - after > NEAR_EVENTS else "read_ledger"
        rows = await self.pool.fetch(
            load("events.sql", query), ledger_id, after, last, limit, payloads, types, stream, PAGE_BYTES
        )
        return await self.unsealed(ledger_id, rows)

    async def facts(
        self,
        ledger_id: UUID,
        *,
        after: int = 0,
        up_to: int = LAST,
        limit: int = PAGE_EVENTS,
        types: Sequence[str] | None = None,
    ) -> list[Fact]:
        """Return a page of a ledger's lifecycle events, or of some types of them, with what a fold needs of each."""
        rows = await self.pool.fetch(
            load("events.sql", "read_facts"), ledger_id, after, up_to, limit, types, PAGE_BYTES
        )
        payloads = await self._payloads(ledger_id, rows, [row[EVENT_ID] for row in rows])
        return [Fact(*row[:SEALED], payload) for row, payload in zip(rows, payloads, strict=True)]  # type: ignore[call-arg]

    def pages(
        self, ledger_id: UUID, *, after: int = 0, types: Sequence[str] | None = None
    ) -> AsyncIterator[list[Recorded]]:
        """Yield a ledger page by page up to its end, the next one read meanwhile; no snapshot is held between pages."""
        return _ahead(lambda position: self.read(ledger_id, after=position, types=types), after)

    def pages_of_facts(
        self, ledger_id: UUID, *, after: int = 0, types: Sequence[str] | None = None
    ) -> AsyncIterator[list[Fact]]:
        """Yield the pages of `facts` up to the ledger's end, the next one read meanwhile."""
        return _ahead(lambda position: self.facts(ledger_id, after=position, types=types), after)

    async def read_stream(
        self, ledger_id: UUID, stream: UUID, *, after: int = 0, up_to: int | None = None
    ) -> list[Recorded]:
        """Return a stream's lifecycle events in order, after a version, up to another."""
        rows = await self.pool.fetch(load("events.sql", "read_stream"), ledger_id, stream, after, up_to or (1 << 30))
        return await self.unsealed(ledger_id, rows)

    async def read_telemetry(
        self, ledger_id: UUID, stream: UUID, *, after: int, limit: int, types: Sequence[str] | None = None
    ) -> list[Recorded]:
        """Return a run's telemetry batches that are still in Postgres, in order, after a position."""
        rows = await self.pool.fetch(load("events.sql", "read_telemetry"), ledger_id, stream, after, limit, types)
        return await self.unsealed(ledger_id, rows)

    async def erase(self, ledger_id: UUID, stream: UUID) -> tuple[int, int]:
        """Destroy a deleted stream's key and payloads; returns how many objects and bytes went."""
        row = await self.pool.fetchrow("select * from ledger.erase($1, $2)", ledger_id, stream)
        self.keyring.forget(stream)
        self.recent.forget(stream)
        return row["objects"], row["bytes"]

    async def key(self, ledger_id: UUID, stream: UUID) -> DataKey | None:
        """Return a stream's data key; None where it was erased, or never was."""
        key = self.keyring.cached(stream)
        if key is None:
            wrapped = await self.pool.fetchval(load("events.sql", "read_key"), ledger_id, stream)
            if wrapped is not None:
                key = self.keyring.unwrap(wrapped)
                self.keyring.remember(stream, key)
        return key

    async def _keys(self, ledger_id: UUID, streams: set[UUID]) -> Mapping[UUID, DataKey]:
        """Return the keys of streams; one without was erased, or never was."""
        found = {stream: key for stream in streams if (key := self.keyring.cached(stream)) is not None}
        if len(found) < len(streams):
            missing = list(streams - found.keys())
            for row in await self.pool.fetch(load("events.sql", "read_keys"), ledger_id, missing):
                key = found[row["stream"]] = self.keyring.unwrap(row["wrapped"])
                self.keyring.remember(row["stream"], key)
        return found

    async def unsealed(self, ledger_id: UUID, rows: Sequence[asyncpg.Record]) -> list[Recorded]:
        """Return rows of the columns of `Recorded`, ciphertext for payload, as what they hold."""
        payloads = await self._payloads(ledger_id, rows, [row[EVENT_ID].bytes for row in rows])
        return [
            Recorded(*row[:SEALED], payload, *row[SEALED + 1 : FIELDS])  # type: ignore[call-arg]
            for row, payload in zip(rows, payloads, strict=True)
        ]

    async def _payloads(
        self, ledger_id: UUID, rows: Sequence[asyncpg.Record], event_ids: Sequence[bytes]
    ) -> list[bytes | None]:
        """Return the payloads of rows, None where there is none or no key to it, giving way every now and then."""
        owners = [ledger_id if row[TYPE] in SURVIVES_ERASURE else row[STREAM] for row in rows]
        keys = await self._keys(ledger_id, set(owners))
        payloads: list[bytes | None] = []
        for row, owner, event_id in zip(rows, owners, event_ids, strict=True):
            sealed_payload, key = row[SEALED], keys.get(owner)
            payloads.append(key.unseal(sealed_payload, event_id) if key and sealed_payload is not None else None)
            if len(payloads) % EVENTS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        return payloads

    async def _prepare(self, proposal: Proposal) -> tuple[Prepared, bytes, tuple[UUID, DataKey] | None]:
        """Seal a proposal; also returns the first event's salt, and the stream's key if it is new."""
        lifecycle = proposal.seq is None
        wrapped = new_key = None
        if proposal.expected_version == 0:
            key, wrapped = self.keyring.new()
            new_key = (proposal.stream, key)
        else:
            found = await self.key(proposal.ledger_id, proposal.stream)
            if found is None and not all(draft.type in SURVIVES_ERASURE for draft in proposal.drafts):
                raise NotFound("there is no such stream, or it was deleted")
            key = found or self.keyring.new()[0]
        rows = []
        size = 0
        salts = os.urandom(16 * len(proposal.drafts))
        for index, draft in enumerate(proposal.drafts):
            if len(draft.payload) > MAX_EVENT_BYTES:
                raise TooLarge(f"an event of {len(draft.payload)} bytes", limit=MAX_EVENT_BYTES)
            salt = salts[index * 16 : index * 16 + 16]
            sealing = key
            if draft.type in SURVIVES_ERASURE:
                own = await self.key(proposal.ledger_id, proposal.ledger_id)
                if own is None:  # under the run's key it would be gone with that
                    raise NotFound("this ledger has no key of its own: its first event was never recorded")
                sealing = own
            rows.append(sealed(proposal, draft, index, salt, sealing))
            size += len(draft.payload) + 256
        prepared = Prepared(
            stream=proposal.stream,
            first_id=proposal.event_id,
            expected=proposal.expected_version,
            epoch=proposal.epoch,
            gate=proposal.gate,
            wrapped_key=wrapped,
            source=proposal.source,
            seq=proposal.seq,
            events=rows,
            inline={name: list(inline) for name, inline in proposal.inline.items()} if lifecycle else {},
            state=proposal.state,
            size=size,
        )
        return prepared, salts[:16], new_key

    async def _rest(self, ledger_id: UUID) -> None:
        """Give the connection that served a ledger's last groups back to the pool."""
        connection = self._held.pop(ledger_id, None)
        if connection is not None:
            with contextlib.suppress(*LOST_CONNECTION):  # it broke; the pool makes another
                await self.pool.release(connection)

    async def _commit(self, ledger_id: UUID, group: Sequence[Prepared]) -> list[Verdict]:
        connection = self._held.get(ledger_id)
        if connection is None:
            connection = self._held[ledger_id] = await self.pool.acquire()
        try:
            outcome = await connection.fetchval(*recording(ledger_id, group))
            return await verdicts_of(connection, ledger_id, group, outcome)
        except BaseException:
            await self._rest(ledger_id)
            raise


async def _ahead(read: Callable[[int], Awaitable[list[F]]], after: int) -> AsyncIterator[list[F]]:
    """Yield page after page, the next one asked for before the one at hand is given out."""
    following = asyncio.ensure_future(read(after))
    try:
        while page := await following:
            following = asyncio.ensure_future(read(page[-1].position))
            await asyncio.sleep(0)  # the question goes out now, whatever the caller does with the page
            yield page
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


__all__ = [
    "GATE_CLOSED",
    "GATE_ERASED",
    "GATE_OPEN",
    "Actor",
    "Appended",
    "Busy",
    "Draft",
    "Fact",
    "Ledger",
    "Proposal",
    "Recorded",
]
