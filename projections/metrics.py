"""A summary of every metric of a run: an asynchronous projection over columns.

However the batches are cut into pages, the rows come out the same, bit for bit.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import numpy as np
from numpy.typing import NDArray

from events.codec import METRICS, SYSTEM_METRICS
from events.errors import CorruptHistory
from events.ledger import Fact
from events.sql import load
from events.telemetry import MetricColumns
from projections.apply import Connection, present
from projections.runs import Reader, StoredRun

Summary: TypeAlias = dict[str, Any]

_DELETED: Final = "run.deleted"
_INT64_MAX: Final = np.iinfo(np.int64).max


async def summaries(reader: Reader, stored: StoredRun) -> list[Summary]:
    """Return a run's metrics by name, ready for JSON.

    Of `count` points `nan_count` are NaN; `min` and `max` are None where all are. Infinities and NaN are strings.
    `best` is there for the run's primary metric.
    """
    rows = await reader.fetch(load("projections.sql", "metric_summaries"), stored.ledger_id, stored.run_id)
    return [_summary(row, stored) for row in rows]


async def metrics_of(
    reader: Reader, ledger_id: UUID, stored: Sequence[StoredRun], names: Sequence[str]
) -> dict[UUID, dict[str, Summary]]:
    """Return these metrics' summaries by run and name, as `summaries` does."""
    runs = {one.run_id: one for one in stored}
    found: dict[UUID, dict[str, Summary]] = {}
    for row in await reader.fetch(load("projections.sql", "metrics_of_runs"), ledger_id, list(runs), names):
        found.setdefault(row["run_id"], {})[row["name"]] = _summary(row, runs[row["run_id"]])
    return found


def _summary(row: asyncpg.Record, stored: StoredRun) -> Summary:
    summary = {name: plain(value) for name, value in row.items() if name not in {"ledger_id", "run_id"}}
    primary = stored.run.primary_metric
    if primary is not None and primary.name == summary["name"]:
        summary["best"] = summary["max" if primary.mode == "max" else "min"]
        summary["best_step"] = summary["max_step" if primary.mode == "max" else "min_step"]
    return summary


def plain(value: Any) -> Any:
    """Return a value as JSON can carry it: a number that is not finite as its name."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


class Metrics:
    """The asynchronous projection: one row a run and metric, until the run is deleted."""

    name = "metrics"
    tables = ("metric_summary",)
    types = (_DELETED, METRICS, SYSTEM_METRICS)
    page_events = 256

    async def apply(self, connection: Connection, ledger_id: UUID, events: Sequence[Fact]) -> None:
        """Merge the page's points; raises `TelemetryMovedError` when a batch is in Parquet only."""
        deleted = {recorded.stream for recorded in events if recorded.type == _DELETED}
        if deleted:
            await connection.execute(load("projections.sql", "drop_metrics"), ledger_id, list(deleted))
        batches = [recorded for recorded in events if recorded.type != _DELETED and recorded.stream not in deleted]
        groups: dict[tuple[UUID, str], int] = {}
        ids: list[int] = []
        counts: list[int] = []
        parts = []
        for run_id, batch in await self.columns(connection, ledger_id, batches):
            ids += [groups.setdefault((run_id, name), len(groups)) for name in batch.names]
            counts += batch.counts
            parts.append(batch)
        if not any(counts):
            return
        present_groups, columns = summarise(
            np.array(ids, np.int64),
            np.array(counts, np.int64),
            np.frombuffer(b"".join([batch.step for batch in parts]), "<i8"),
            np.frombuffer(b"".join([batch.value for batch in parts]), "<f8"),
            np.frombuffer(b"".join([batch.time_us for batch in parts]), "<i8"),
        )
        keys = list(groups)
        named = [keys[group] for group in present_groups]
        await connection.execute(
            load("projections.sql", "merge_metrics"),
            ledger_id,
            [run_id for run_id, _ in named],
            [name for _, name in named],
            *columns,
        )

    async def columns(
        self, connection: Connection, ledger_id: UUID, batches: Sequence[Fact]
    ) -> list[tuple[UUID, MetricColumns]]:
        """Return the points of batches with their runs, in order."""
        found = []
        for recorded in await present(connection, ledger_id, batches):
            batch: MetricColumns = recorded.event()
            if len(batch.names) != len(batch.counts) or sum(batch.counts) != batch.points:
                raise CorruptHistory(f"the columns of the batch at position {recorded.position} do not fit")
            found.append((recorded.stream, batch))
        return found


Ints = NDArray[np.int64]
Column = list[int] | list[float] | list[int | None] | list[float | None]


def summarise(
    group: Ints, counts: Ints, step: Ints, value: NDArray[np.float64], time_us: Ints
) -> tuple[list[int], list[Column]]:
    """Summarise series that lie behind each other in arrival order.

    `group` and `counts` (int64[s]) say which group each of s series belongs to and how long it is; `step`, `value`
    and `time_us` have n points in all. Returns the groups that have points, and the columns of `metric_summary`
    after its name, one element a group.
    """
    groups, starts, order = _gathered(group, counts)
    step, value, time_us = step[order], value[order], time_us[order]
    lengths = np.diff(np.append(starts, len(step)))
    index = np.arange(len(step))

    first_step = np.minimum.reduceat(step, starts)
    last_step = np.maximum.reduceat(step, starts)
    last = np.maximum.reduceat(np.where(step == np.repeat(last_step, lengths), index, -1), starts)

    number = ~np.isnan(value)
    numbers = np.add.reduceat(number.astype(np.int64), starts)
    lowest = _extreme(np.where(number, value, np.inf), number, step, starts, lengths)
    highest = _extreme(np.where(number, -value, np.inf), number, step, starts, lengths)

    def some(column: NDArray[np.float64] | Ints) -> Column:
        return [one if there else None for one, there in zip(column.tolist(), numbers.tolist(), strict=True)]

    return groups.tolist(), [
        lengths.tolist(),
        (lengths - numbers).tolist(),
        first_step.tolist(),
        last_step.tolist(),
        value[last].tolist(),
        time_us[last].tolist(),
        some(value[lowest]),
        some(step[lowest]),
        some(value[highest]),
        some(step[highest]),
    ]


def _gathered(group: Ints, counts: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the groups with points, where each starts, and the order of the points that brings groups together."""
    begins = np.cumsum(counts) - counts
    series = np.argsort(group, kind="stable")
    series = series[counts[series] > 0]
    sizes = counts[series]
    starts = np.cumsum(sizes) - sizes
    order = np.arange(int(sizes.sum())) + np.repeat(begins[series] - starts, sizes)
    sorted_group = group[series]
    first = np.append(True, sorted_group[1:] != sorted_group[:-1])
    return sorted_group[first], starts[first], order


def _extreme(value: NDArray[np.float64], number: NDArray[np.bool_], step: Ints, starts: Ints, lengths: Ints) -> Ints:
    """Return the index of each group's least number: of equal ones the smallest step, then the first to arrive."""
    least = np.minimum.reduceat(value, starts)
    candidate = number & (value == np.repeat(least, lengths))
    least_step = np.minimum.reduceat(np.where(candidate, step, _INT64_MAX), starts)
    candidate &= step == np.repeat(least_step, lengths)
    found = np.minimum.reduceat(np.where(candidate, np.arange(len(value)), len(value)), starts)
    return np.minimum(found, len(value) - 1)
