"""Where several runs' points are as of one ledger position: Parquet files, and the tails still in Postgres."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol
from uuid import UUID

import msgspec

from events.errors import Busy, Erased, NotFound
from events.ledger import Ledger
from events.sql import load
from events.telemetry import MetricColumns
from events.types import Status
from projections.archive.manifest import ATTEMPTS, KINDS, METRICS, PAGE_BATCHES, Segment, through
from projections.charts.buckets import Points
from projections.runs import Reader, StoredRun


class Wanted(Protocol):
    """Says which points of a run's batch count, by metric."""

    def __call__(self, stored: StoredRun, batch: MetricColumns) -> Iterable[tuple[str, Points]]: ...


class Newest(msgspec.Struct, frozen=True):
    """The position of a run's newest batch of metrics, 0 for none, and whether it is in no Parquet file yet."""

    position: int
    hot: bool


class RunPoints(msgspec.Struct, frozen=True):
    """A run's points: `files` hold those up to `through(files)`, `hot` the wanted ones behind, in order of arrival.

    `newest` is told of batches wanted or not; `names` are the tail's metrics.
    """

    stored: StoredRun
    files: tuple[Segment, ...]
    hot: Mapping[str, list[Points]]
    names: frozenset[str]
    newest: Newest


async def newest(reader: Reader, runs: Sequence[StoredRun]) -> list[Newest]:
    """Return how new the metrics of runs of one ledger are."""
    if not runs:
        return []
    ids = [one.run_id for one in runs]
    sql = load("projections.sql", "newest_metrics")
    rows = await reader.fetch(sql, runs[0].ledger_id, ids, METRICS, KINDS[METRICS])
    return [Newest(row["position"], row["hot"]) for row in rows]


class Border(msgspec.Struct, frozen=True):
    """Where a ledger stands (`head`), its runs' files in order, and the runs that have batches behind theirs."""

    head: int
    files: Mapping[UUID, tuple[Segment, ...]]
    hot: frozenset[UUID]


async def read(
    ledger: Ledger, runs: Sequence[StoredRun], wanted: Wanted, *, after: int = 0
) -> tuple[int, list[RunPoints]]:
    """Return a ledger position, and the points of runs of that ledger as of it: no more, no less.

    Batches up to the position `after` are left out of `hot`. Raises `NotFound`, `Erased`, and `Busy` when the border
    moved `ATTEMPTS` times meanwhile.
    """
    if not runs:
        return 0, []
    known = await border(ledger.pool, runs)
    for _ in range(ATTEMPTS):
        at = known
        tails = await _tails(ledger, [one for one in runs if one.run_id in at.hot], at, wanted, after)
        if at.hot:
            known = await border(ledger.pool, runs)
        if tails is not None and known.files == at.files:
            return at.head, [
                RunPoints(one, at.files[one.run_id], *(tails.get(one.run_id) or _no_tail(at.files[one.run_id])))
                for one in runs
            ]
    raise Busy("the runs' telemetry is being moved; try again")


async def border(reader: Reader, runs: Sequence[StoredRun]) -> Border:
    """Return the border between what runs have in Parquet and what is behind, in one snapshot."""
    ids = [one.run_id for one in runs]
    sql = load("projections.sql", "segments_of_runs")
    rows = await reader.fetch(sql, runs[0].ledger_id, ids, METRICS, KINDS[METRICS])
    found: dict[UUID, list[Segment]] = {}
    names = Segment.__struct_fields__
    for row in rows:
        if row["status"] == Status.DELETED:
            raise Erased(f"run {row['run_id']} was deleted", state=Status.DELETED)
        own = found.setdefault(row["run_id"], [])
        if row["segment_id"] is not None:
            own.append(Segment(*(row[name] for name in names)))
    missing = [one for one in ids if one not in found]
    if missing:
        raise NotFound(f"there is no run {missing[0]}")
    hot = frozenset(row["run_id"] for row in rows if row["hot"])
    return Border(rows[0]["head"], {run_id: tuple(files) for run_id, files in found.items()}, hot)


_Tail = tuple[dict[str, list[Points]], frozenset[str], Newest]


def _no_tail(files: tuple[Segment, ...]) -> _Tail:
    return {}, frozenset(), Newest(through(files), hot=False)


async def _tails(
    ledger: Ledger, runs: Sequence[StoredRun], at: Border, wanted: Wanted, after: int
) -> dict[UUID, _Tail] | None:
    """Return the tails up to where the ledger stood, or None if a batch lost its payload meanwhile."""
    if not runs:
        return {}
    by_id = {one.run_id: one for one in runs}
    hot: dict[UUID, dict[str, list[Points]]] = {run_id: {} for run_id in by_id}
    names: dict[UUID, set[str]] = {run_id: set() for run_id in by_id}
    archived = {run_id: through(at.files[run_id]) for run_id in by_id}
    begins = {run_id: max(after, archived[run_id]) for run_id in by_id}
    last = dict(archived)
    ledger_id = runs[0].ledger_id
    sql, types = load("projections.sql", "telemetry_of_runs"), KINDS[METRICS]
    while begins:
        rows: list[Any] = await ledger.pool.fetch(
            sql, ledger_id, list(begins), list(begins.values()), at.head, types, PAGE_BATCHES
        )
        for recorded in await ledger.unsealed(ledger_id, rows):
            if recorded.payload is None:
                return None
            run_id, batch = recorded.stream, recorded.event()
            last[run_id] = recorded.position
            names[run_id].update(batch.names)
            for metric, points in wanted(by_id[run_id], batch):
                hot[run_id].setdefault(metric, []).append(points)
        if len(rows) < PAGE_BATCHES:
            break
        for run_id in list(begins):  # those before the page's last are done
            if run_id == rows[-1]["stream"]:
                begins[run_id] = rows[-1]["position"]
                break
            del begins[run_id]
    return {
        run_id: (hot[run_id], frozenset(names[run_id]), Newest(last[run_id], last[run_id] > archived[run_id]))
        for run_id in by_id
    }
