"""Where a run's telemetry is: in Parquet files that the manifest names, and behind them in Postgres.

The archiver moves the border between the two while others read. So a reader takes the manifest, then the tail
after it, then looks whether the manifest is still the same; a run is at rest often enough for that to end
soon. Files never change, and only a deletion removes them.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from events import codec
from events.errors import Busy, Erased, NotFound
from events.ledger import Ledger
from events.sql import load
from events.telemetry import LogColumns, MetricColumns
from events.types import Status
from projections.archive.parquet import File
from projections.runs import Reader

METRICS: Final = "metrics"
LOGS: Final = "logs"
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    METRICS: (codec.METRICS, codec.SYSTEM_METRICS),
    LOGS: (codec.LOGS,),
}
"""The event types that each kind of file holds."""

KIND_OF: Final[Mapping[str, str]] = {type_: kind for kind, types in KINDS.items() for type_ in types}

PAGE_BATCHES: Final = 64
ATTEMPTS: Final = 10

Taken = TypeVar("Taken")


class Segment(msgspec.Struct, frozen=True):
    """A Parquet file of a run; paths are relative to the root of the archive, `levels_path` is None without levels."""

    segment_id: UUID
    path: str
    rows: int
    first_position: int
    last_position: int
    bytes: int
    sha256: str
    levels_path: str | None = None
    levels_bytes: int | None = None
    levels_sha256: str | None = None

    @property
    def file(self) -> File:
        """The file itself."""
        return File(self.path, self.bytes, self.sha256)

    @property
    def levels(self) -> File | None:
        """The file of its levels."""
        return None if self.levels_path is None else File(self.levels_path, self.levels_bytes or 0, self.levels_sha256)


def through(segments: tuple[Segment, ...]) -> int:
    """Return the position up to which everything is in Parquet."""
    return segments[-1].last_position if segments else 0


async def segments(reader: Reader, ledger_id: UUID, run_id: UUID, kind: str) -> tuple[Segment, ...]:
    """Return a run's Parquet files of a kind in order. Raises `NotFound`, and `Erased` for a deleted run."""
    rows = await reader.fetch(load("projections.sql", "segments"), ledger_id, run_id, kind)
    if not rows:
        raise NotFound("there is no such run")
    if rows[0]["status"] == Status.DELETED:
        raise Erased("the run was deleted", state=Status.DELETED)
    names = Segment.__struct_fields__
    return tuple(Segment(*(row[name] for name in names)) for row in rows if row["segment_id"] is not None)


Collect = Callable[[list[Taken], int, MetricColumns | LogColumns], bool]
"""Takes what it wants from the batch at a position into the list, and says whether it wants to see more."""


async def read(
    ledger: Ledger, ledger_id: UUID, run_id: UUID, kind: str, collect: Collect[Taken], *, after: int = 0
) -> tuple[tuple[Segment, ...], list[Taken]]:
    """Return a run's files, and what `collect` took from the batches that are in none of them, in order.

    Batches up to the position `after` may be left out. Raises `NotFound`, `Erased`, and `Busy` when the
    border moved `ATTEMPTS` times meanwhile.
    """
    files = await segments(ledger.pool, ledger_id, run_id, kind)
    for _ in range(ATTEMPTS):
        tail = await _tail(ledger, ledger_id, run_id, kind, collect, max(after, through(files)))
        now = await segments(ledger.pool, ledger_id, run_id, kind)
        if tail is not None and now == files:
            return files, tail
        files = now
    raise Busy("the run's telemetry is being moved; try again")


async def _tail(
    ledger: Ledger, ledger_id: UUID, run_id: UUID, kind: str, collect: Collect[Taken], after: int
) -> list[Taken] | None:
    """Return what is taken from the batches in Postgres, or None if one lost its payload meanwhile."""
    taken: list[Taken] = []
    while True:
        page = await ledger.read_telemetry(ledger_id, run_id, after=after, limit=PAGE_BATCHES, types=KINDS[kind])
        for recorded in page:
            if recorded.payload is None:
                return None
            if not collect(taken, recorded.position, recorded.event()):
                return taken
        if len(page) < PAGE_BATCHES:
            return taken
        after = page[-1].position
