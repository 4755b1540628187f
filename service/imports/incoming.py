"""What every input is read as: runs that ended, what they logged, and the files that they saved. Pure.

An input yields `Incoming` runs, or `Refused` with the reason. It has checked by then all that can be checked without
storing anything: what is refused leaves nothing behind.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import msgspec

from events import codec
from events.errors import LedgerError
from events.ledger import MAX_EVENT_BYTES
from events.run_events import RunCompleted, RunCrashed, RunFailed, RunImported, RunKilled
from events.telemetry import LogColumns, MetricColumns
from events.types import PastEvent
from service.ingest.batches import MAX_LINE_CHARACTERS, MAX_LINES, MAX_NAME_BYTES, MAX_POINTS

End = RunCompleted | RunFailed | RunKilled | RunCrashed

SYSTEMS: Final = ("tachograph", "tensorboard", "mlflow", "neptune")
"""Where runs can come from."""

MAX_SOURCE_BYTES: Final = 64
MAX_PARTS: Final = 1_000
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class Unreadable(LedgerError):
    """The input cannot be read, or is not what it says it is; nothing of it was stored."""


class Refused(msgspec.Struct, frozen=True):
    """A run that is not brought here, and why."""

    original: str
    name: str
    why: str


class Batch(msgspec.Struct, frozen=True):
    """What one sender logged at once: `parts` are the events that it becomes, all of the type `kind`."""

    epoch: int
    source: str
    seq: int
    kind: str
    received_at: datetime
    parts: Sequence[MetricColumns | LogColumns]

    @property
    def points(self) -> int:
        """How many points or lines there are."""
        return sum(part.points for part in self.parts)


Reader = Callable[[], Iterator[bytes]]
"""Opens a content and yields it."""


class IncomingFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a run saved; `sha256` is hexadecimal where it is known."""

    name: str
    kind: str
    bytes: int
    media_type: str = "application/octet-stream"
    caption: str = ""
    sha256: str | None = None
    read: Reader


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """A run to bring here.

    `run_id` is the id that it keeps where that is free. `history` and `batches` may be asked for again and again; the
    batches come in the order in which they were received, those of an attempt (epoch) behind those of the one before.
    """

    run_id: UUID
    imported: RunImported
    end: End
    epoch: int = 1
    history: Callable[[], Iterator[PastEvent]] = lambda: iter(())
    batches: Callable[[], Iterator[Batch]] = lambda: iter(())
    files: Sequence[IncomingFile] = ()
    left_out: Sequence[str] = ()


class Input(Protocol):
    """A place that runs come from."""

    system: str
    expected: int
    """How many runs there are."""

    def runs(self) -> Iterator[Incoming | Refused]:
        """Yield the runs. Raises `Unreadable` where the input as a whole is bad."""


def checked(batch: Batch) -> Batch:
    """Return a batch that the ledger will take. Raises `Unreadable` naming the limit."""
    where = f"batch {batch.seq} of {batch.source!r}, attempt {batch.epoch}"
    if not 0 < len(batch.source.encode()) <= MAX_SOURCE_BYTES or _CONTROL.search(batch.source):
        raise Unreadable(f"{where}: a source has 1 to {MAX_SOURCE_BYTES} bytes and no control characters")
    if batch.epoch < 1 or batch.seq < 0 or batch.seq >= 1 << 63:
        raise Unreadable(f"{where}: attempts count from 1, batches from 0")
    if len(batch.parts) > MAX_PARTS or batch.points > max(MAX_POINTS, MAX_LINES):
        raise Unreadable(
            f"{where} has {batch.points} rows in {len(batch.parts)} parts, over {MAX_POINTS} in {MAX_PARTS}"
        )
    for part in batch.parts:
        if isinstance(part, MetricColumns):
            odd = next((name for name in part.names if not takes_metric(name)), None)
            if odd is not None:
                limit = f"a metric's name has 1 to {MAX_NAME_BYTES} bytes and no control characters"
                raise Unreadable(f"{where}: {limit}, not {odd!r}")
        elif any(len(text) > MAX_LINE_CHARACTERS for text in part.text):
            raise Unreadable(f"{where}: a line has at most {MAX_LINE_CHARACTERS} characters")
        if len(codec.encode(part)) > MAX_EVENT_BYTES:
            raise Unreadable(f"{where}: a part has at most {MAX_EVENT_BYTES} bytes")
    return batch


def takes_metric(name: str) -> bool:
    """Tell whether a metric may have this name."""
    return 0 < len(name.encode()) <= MAX_NAME_BYTES and not _CONTROL.search(name)


def said(error: Exception) -> str:
    """Return what an error says on one line."""
    return " ".join(str(error).split())[:500]
