"""Charts: a run's points from Parquet (DuckDB) and from the tail still in Postgres (numpy).

DuckDB finds and filters the rows; only the row groups that hold a metric are read. One pass over x alone
says how many points there are and from where to where. If they are few, all are returned; if not, they
stream through `Buckets` in parts, so that memory does not grow with the run. What is not in Parquet yet
never sees DuckDB.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from math import ceil, floor
from typing import Any, Final, Literal

import duckdb
import msgspec
import numpy as np
from msgspec.structs import replace

from events.codec import microseconds
from events.errors import CorruptHistory, TooLarge
from events.ledger import Ledger
from events.sql import load
from events.telemetry import LogColumns, MetricColumns
from projections import manifest
from projections.analytics import Analytics
from projections.buckets import Buckets, Points, Series, joined, summarised
from projections.manifest import Segment
from projections.runs import StoredRun

X = Literal["step", "time", "relative"]

MAX_METRICS: Final = 200
MAX_BUCKETS: Final = 20_000
PART_POINTS: Final = 1 << 20
AT_ONCE_POINTS: Final = 1 << 21
"""Up to so many points of a run are read without asking first how many a chart shows."""
ALONE_POINTS: Final = 100_000
"""A metric with so many points is read by a query of its own."""

_MICROSECONDS: Final = 1_000_000
_LOWEST: Final = -(1 << 63)
_HIGHEST: Final = (1 << 63) - 1
_COLUMN: Final[Mapping[X, str]] = {"step": "step", "time": "time_us", "relative": "time_us"}


Extent = tuple[int, int, int]
"""Count of points, lowest and highest x."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a chart is to show, in the units of the stored columns."""

    metrics: tuple[str, ...]
    x: X
    low: int
    high: int
    buckets: int
    stage: str | None
    origin_us: int


class Charts:
    """Answers charts of single runs."""

    def __init__(self, ledger: Ledger, analytics: Analytics) -> None:
        self._ledger = ledger
        self._analytics = analytics

    async def chart(
        self,
        stored: StoredRun,
        metrics: Sequence[str],
        *,
        x: X = "step",
        start: float | None = None,
        end: float | None = None,
        buckets: int = 1000,
        stage: str | None = None,
    ) -> list[Series]:
        """Return one series for each metric in the order asked for, empty for one without points.

        `start` and `end` are inclusive, in x's unit: steps, microseconds since the epoch, or seconds since
        the run started. Raises `Erased`, `NotFound`, `Busy`, and `TooLarge` past `MAX_METRICS` or
        `MAX_BUCKETS`.
        """
        asked = _asked(stored, metrics, x, start, end, buckets, stage)

        def collect(taken: list[tuple[str, Points]], _: int, batch: MetricColumns | LogColumns) -> bool:
            assert isinstance(batch, MetricColumns)
            taken.extend(_wanted(batch, asked))
            return True

        files, tail = await manifest.read(self._ledger, stored.ledger_id, stored.run_id, manifest.METRICS, collect)
        hot: dict[str, list[Points]] = {metric: [] for metric in asked.metrics}
        for metric, points in tail:
            hot[metric].append(points)
        parts = {metric: [joined(points)] for metric, points in hot.items() if points}
        try:
            series = await self._analytics.run(self._answer, asked, files, parts)
        except duckdb.IOException as error:
            await manifest.segments(self._ledger.pool, stored.ledger_id, stored.run_id, manifest.METRICS)
            raise CorruptHistory(f"a Parquet file of run {stored.run_id} cannot be read: {error}") from error
        return [_relative(one, asked.origin_us) for one in series] if x == "relative" else series

    def _answer(self, asked: Asked, files: Sequence[Segment], hot: Mapping[str, Sequence[Points]]) -> list[Series]:
        paths = [str(self._analytics.root / file.path) for file in files]
        buckets: dict[str, Buckets] = {}
        extents: Mapping[str, Extent] = {}
        if sum(file.rows for file in files) > AT_ONCE_POINTS:
            extents = _with_hot(self._extents(asked, paths), hot)
            for metric, (count, low, high) in extents.items():
                if count > asked.buckets:
                    buckets[metric] = Buckets(low, high, asked.buckets)
        few: dict[str, list[Points]] = {metric: [] for metric in asked.metrics}
        for metric, points in chain(self._archived(asked, paths, extents), _parts(hot)):
            if metric in buckets:
                buckets[metric].add(points)
            else:
                few[metric].append(points)
        return [
            buckets[metric].series(metric) if metric in buckets else summarised(metric, few[metric], asked.buckets)
            for metric in asked.metrics
        ]

    def _extents(self, asked: Asked, paths: list[str]) -> dict[str, Extent]:
        if len(asked.metrics) == 1:
            query = self._analytics.query(
                _sql("chart_extent_of_one", asked.x), files=paths, metric=asked.metrics[0], **_bounds(asked)
            )
        else:
            query = self._analytics.query(
                _sql("chart_extent", asked.x), files=paths, **_among(asked.metrics), **_bounds(asked)
            )
        return {metric: (count, low, high) for metric, count, low, high in query.fetchall() if count}

    def _archived(self, asked: Asked, paths: list[str], extents: Mapping[str, Extent]) -> Iterator[tuple[str, Points]]:
        """Yield every metric's points in Parquet in parts, in order of arrival; large metrics one by one."""
        if not paths:
            return
        alone = [metric for metric, extent in extents.items() if extent[0] >= ALONE_POINTS]
        together = [metric for metric in asked.metrics if metric not in alone]
        if len(together) == 1:
            alone += together
        for metric in alone:
            query = self._analytics.query(_sql("chart_points", asked.x), files=paths, metric=metric, **_bounds(asked))
            for part in query.to_arrow_reader(PART_POINTS):
                yield metric, _points(part)
        if len(together) > 1:
            query = self._analytics.query(
                _sql("chart_points_of_many", asked.x), files=paths, **_among(together), **_bounds(asked)
            )
            for part in query.to_arrow_reader(PART_POINTS):
                yield from _split(_points(part), part.column(3).to_numpy(), together)


def _with_hot(archived: Mapping[str, Extent], hot: Mapping[str, Sequence[Points]]) -> Mapping[str, Extent]:
    """Return the extents of what is in Parquet and in the tail together."""
    extents = dict(archived)
    for metric, points in _parts(hot):
        count, low, high = extents.get(metric, (0, _HIGHEST, _LOWEST))
        lowest, highest = int(points.x.min()), int(points.x.max())
        extents[metric] = (count + len(points), min(low, lowest), max(high, highest))
    return extents


def _parts(hot: Mapping[str, Sequence[Points]]) -> Iterator[tuple[str, Points]]:
    for metric, parts in hot.items():
        for points in parts:
            yield metric, points


def _asked(
    stored: StoredRun,
    metrics: Sequence[str],
    x: X,
    start: float | None,
    end: float | None,
    buckets: int,
    stage: str | None,
) -> Asked:
    names = tuple(dict.fromkeys(metrics))
    if len(names) > MAX_METRICS:
        raise TooLarge(f"{len(names)} metrics in one chart", limit=MAX_METRICS)
    if not 1 <= buckets <= MAX_BUCKETS:
        raise TooLarge(f"a chart has 1 to {MAX_BUCKETS} buckets, not {buckets}", limit=MAX_BUCKETS)
    began: datetime | None = stored.run.started_at or stored.run.created_at
    origin = microseconds(began) if began is not None else 0
    scale, shift = (_MICROSECONDS, origin) if x == "relative" else (1, 0)
    return Asked(
        metrics=names,
        x=x,
        low=_LOWEST if start is None else _clamped(ceil(start * scale) + shift),
        high=_HIGHEST if end is None else _clamped(floor(end * scale) + shift),
        buckets=buckets,
        stage=stage,
        origin_us=origin,
    )


def _clamped(bound: int) -> int:
    return max(_LOWEST, min(_HIGHEST, bound))


def _bounds(asked: Asked) -> dict[str, Any]:
    return {"low": asked.low, "high": asked.high, "stage": asked.stage}


def _among(metrics: Sequence[str]) -> dict[str, Any]:
    return {"metrics": list(metrics), "first": min(metrics), "last": max(metrics)}


def _sql(name: str, x: X) -> str:
    return load("projections.sql", name).replace("{x}", _COLUMN[x])


def _points(part: Any) -> Points:
    return Points(part.column(1).to_numpy(), part.column(0).to_numpy(), part.column(2).to_numpy())


def _split(points: Points, series: Any, metrics: Sequence[str]) -> Iterator[tuple[str, Points]]:
    """Take a part that holds several metrics apart, order kept."""
    order = np.argsort(series, kind="stable")
    bounds = np.searchsorted(series[order], np.arange(len(metrics) + 1))
    for index, metric in enumerate(metrics):
        own = order[bounds[index] : bounds[index + 1]]
        if len(own):
            yield metric, Points(points.x[own], points.step[own], points.value[own])


def _wanted(batch: MetricColumns, asked: Asked) -> Iterator[tuple[str, Points]]:
    """Yield the points of a batch that a chart shows, by metric."""
    if set(asked.metrics).isdisjoint(batch.names):
        return
    ends = np.cumsum(batch.counts)
    stages = batch.stage_indices()
    staged = None
    if asked.stage is not None:
        if stages is None:
            return
        staged = np.array([stage == asked.stage for stage in batch.stages], bool)[stages]
    step, value = batch.steps(), batch.values()
    x = step if asked.x == "step" else batch.times()
    for index, name in enumerate(batch.names):
        if name not in asked.metrics:
            continue
        own = slice(int(ends[index]) - batch.counts[index], int(ends[index]))
        keep = (x[own] >= asked.low) & (x[own] <= asked.high)
        if staged is not None:
            keep &= staged[own]
        if keep.all() and len(keep):
            yield name, Points(x[own], step[own], value[own])
        elif keep.any():
            yield name, Points(x[own][keep], step[own][keep], value[own][keep])


def _relative(series: Series, origin_us: int) -> Series:
    """Return the series with x in seconds since the run began."""
    return replace(
        series, x=(series.x - origin_us) / _MICROSECONDS, x_first=(series.x_first - origin_us) / _MICROSECONDS
    )
