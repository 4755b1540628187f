"""Where a chart's numbers come from: levels, rows of Parquet, found by DuckDB, and the tails' points, in numpy.

`curves` is the one place that decides it. Long curves over steps come from levels, where files have them. Other runs
that are small enough are read together by one query; a larger one is read alone, a metric at a time, and streams
through `Buckets` in parts, so that memory does not grow with the run. What is not in Parquet yet never sees DuckDB.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import inf
from typing import Any, Final

import msgspec
import numpy as np
from msgspec.structs import replace

from events.errors import TooLarge
from projections.analytics import Analytics
from projections.charts import level_curves
from projections.charts.buckets import Buckets, Points, Series, edges, joined, nothing, ordered, summarised, taken
from projections.charts.level_curves import Grid, from_levels
from projections.charts.questions import Question
from projections.charts.reading import HIGHEST, LOWEST, MICROSECONDS, Reader, X, among, window
from projections.charts.run_points import RunPoints

AT_ONCE_POINTS: Final = 1 << 21
"""Runs with so many points in Parquet together are read without asking first how many of them a chart shows."""
ALONE_POINTS: Final = 100_000
"""A metric with so many points is read by a query of its own."""
MAX_JOINED_POINTS: Final = 1 << 23
"""So many points of a run may lie in Parquet where x is another metric."""

Extent = tuple[int, int, int]
"""Count of points, lowest and highest x."""


def curves(analytics: Analytics, question: Question, runs: Sequence[RunPoints]) -> list[list[Series]]:
    """Return each run's series, in the order of `question.metrics`; blocking.

    Of the points that the question wants (metric, range, stage, behind `after`), every one counts in exactly one row:
    `min`, `max`, `first`, `last` and the counts are exact, rows are in order of (x, step, arrival), and up to
    `question.buckets` points are rows of their own. Whoever answers from elsewhere than rows (levels of buckets that
    were made before) keeps to that; rows are what answers in the end for a stage, an `after`, or a metric as x.

    Raises `duckdb.IOException` and `Unreadable` for a file that cannot be read, and `TooLarge`.
    """
    levels = [from_levels(analytics, question, run) for run in runs]
    rest = iter(_of_rows(analytics, question, [run for run, own in zip(runs, levels, strict=True) if not own]))
    return [
        _completed(analytics, question, run, own) if own else next(rest) for run, own in zip(runs, levels, strict=True)
    ]


def _completed(analytics: Analytics, question: Question, run: RunPoints, own: Mapping[str, Series]) -> list[Series]:
    """Return a run's series, of which levels had some."""
    missing = tuple(metric for metric in question.metrics if metric not in own)
    found = dict(own)
    if missing:
        (series,) = _of_rows(analytics, replace(question, metrics=missing), [run])
        found |= {one.metric: one for one in series}
    return [found[metric] for metric in question.metrics]


def _of_rows(analytics: Analytics, question: Question, runs: Sequence[RunPoints]) -> list[list[Series]]:
    """Return each run's series out of its points."""
    found: list[list[Series]] = []
    for group in _together(runs):
        if _is_large(group, question):
            found.append(_Streamed(analytics, question, group[0]).series())
        else:
            found += _at_once(analytics, question, group)
    if question.axis.kind == "relative":
        return [[_seconds(one) for one in series] for series in found]
    return found


def pooled(analytics: Analytics, question: Question, runs: Sequence[RunPoints]) -> Iterator[list[Series]]:
    """Yield each run's series in turn, all on the same buckets a metric, empty ones too; blocking.

    A metric's buckets, at most `question.buckets`, hold the first to the last point of all runs; where levels answer
    for one of them they are a power of two of steps wide, else equal ranges. Otherwise as `curves`, and reads twice
    what does not fit into memory. Seconds are microseconds still.
    """
    leveled = [level_curves.extents(analytics, question, run) for run in runs]
    ends: dict[str, tuple[float, float]] = {}
    for run, own in zip(runs, leveled, strict=True):
        _widen(ends, own)
        missing = tuple(metric for metric in question.metrics if metric not in own)
        if own and missing:
            _widen(ends, _Streamed(analytics, replace(question, metrics=missing), run).ends())
    groups = list(_together([run for run, own in zip(runs, leveled, strict=True) if not own]))
    held: list[dict[str, _Located]] = []
    for group in groups:
        if _is_large(group, question):
            _widen(ends, _Streamed(analytics, question, group[0]).ends())
            continue
        held = _located(analytics, question, group)
        for located in held:
            _widen(ends, {metric: one.ends() for metric, one in located.items() if len(one.points)})
    log = question.axis.log
    of_levels = {
        metric: grid
        for metric in {name for own in leveled for name in own}
        if (grid := Grid.over(int(ends[metric][0]), int(ends[metric][1]), question.buckets))
    }
    grids = {
        metric: of_levels[metric].edges()
        if metric in of_levels
        else edges(*ends.get(metric, (1, 1)), question.buckets, log=log)
        for metric in question.metrics
    }
    rest = _rows_on(analytics, question, groups, grids, held)
    for run, own in zip(runs, leveled, strict=True):
        if own:
            chosen = {metric: of_levels[metric] for metric in own if metric in of_levels}
            found = level_curves.pooled(analytics, question, run, chosen)
            yield _completed_on(analytics, question, run, grids, found)
        else:
            yield next(rest)


def _rows_on(
    analytics: Analytics,
    question: Question,
    groups: Sequence[Sequence[RunPoints]],
    grids: Mapping[str, Any],
    held: list[dict[str, "_Located"]],
) -> Iterator[list[Series]]:
    """Yield each run's series on given edges, out of its points; `held` are those of a last group that is not large."""
    for group in groups:
        if _is_large(group, question):
            yield _Streamed(analytics, question, group[0]).pooled(grids)
            continue
        for own in held if len(groups) == 1 else _located(analytics, question, group):
            series = []
            for metric, one in own.items():
                buckets = Buckets(grids[metric])
                buckets.add(one.points)
                series.append(replace(buckets.every(metric), left_out=one.left_out))
            yield series


def _completed_on(
    analytics: Analytics, question: Question, run: RunPoints, grids: Mapping[str, Any], own: Mapping[str, Series]
) -> list[Series]:
    """Return a run's series on given edges, of which levels had some."""
    missing = {metric: grids[metric] for metric in question.metrics if metric not in own}
    found = dict(own)
    if missing:
        streamed = _Streamed(analytics, replace(question, metrics=tuple(missing)), run)
        found |= {one.metric: one for one in streamed.pooled(missing)}
    return [found[metric] for metric in question.metrics]


def _widen(ends: dict[str, tuple[float, float]], found: Mapping[str, tuple[float, float]]) -> None:
    for metric, (low, high) in found.items():
        known = ends.get(metric, (low, high))
        ends[metric] = (min(low, known[0]), max(high, known[1]))


def _is_large(group: Sequence[RunPoints], question: Question) -> bool:
    return len(group) == 1 and _rows(group[0]) > AT_ONCE_POINTS and question.axis.kind != "metric"


def _rows(run: RunPoints) -> int:
    return sum(file.rows for file in run.files)


def _together(runs: Sequence[RunPoints]) -> Iterator[list[RunPoints]]:
    """Yield runs in order, so many at a time that their rows are few enough to be read together."""
    group: list[RunPoints] = []
    rows = 0
    for run in runs:
        if group and rows + _rows(run) > AT_ONCE_POINTS:
            yield group
            group, rows = [], 0
        group.append(run)
        rows += _rows(run)
    if group:
        yield group


class _Located(msgspec.Struct, frozen=True):
    """A curve's points that have a place on the x axis, in order of arrival within a step, and how many have none."""

    points: Points
    left_out: int = 0

    def ends(self) -> tuple[float, float]:
        """Return the first and the last x of at least one point."""
        return self.points.x.min().item(), self.points.x.max().item()


def _at_once(analytics: Analytics, question: Question, runs: Sequence[RunPoints]) -> list[list[Series]]:
    """Return the series of runs whose points fit into memory."""
    log = question.axis.log
    return [
        [
            replace(summarised(metric, [one.points], question.buckets, log=log), left_out=one.left_out)
            for metric, one in own.items()
        ]
        for own in _located(analytics, question, runs)
    ]


def _located(analytics: Analytics, question: Question, runs: Sequence[RunPoints]) -> list[dict[str, _Located]]:
    """Return each run's curves by metric, in the question's order. Raises `TooLarge` past `MAX_JOINED_POINTS`."""
    for run in runs if question.axis.kind == "metric" else ():
        if _rows(run) > MAX_JOINED_POINTS:
            detail = f"run {run.stored.run_id} has {_rows(run):,} points in Parquet; as x, a metric is for fewer"
            raise TooLarge(detail, limit=MAX_JOINED_POINTS, path="x")
    parts = [{metric: list[Points]() for metric in question.metrics} for _ in runs]
    reader = Reader(analytics, question)
    for index, metric, points in reader.read(runs, question.metrics, question.stage):
        parts[index][metric].append(points)
    for own, run in zip(parts, runs, strict=True):
        for metric in question.metrics:
            own[metric] += run.hot.get(metric, [])
    whole = [{metric: _Located(joined(own[metric])) for metric in question.metrics} for own in parts]
    if question.axis.kind == "metric":
        places = _places(reader, question, runs)
        whole = [
            {metric: _against(one.points, at, question) for metric, one in own.items()}
            for own, at in zip(whole, places, strict=True)
        ]
    if question.axis.log:
        return [{metric: _positive(one) for metric, one in own.items()} for own in whole]
    return whole


def _positive(one: _Located) -> _Located:
    points = taken(one.points, one.points.x > 0)
    return _Located(points, one.left_out + len(one.points) - len(points))


def _places(reader: Reader, question: Question, runs: Sequence[RunPoints]) -> list[Points]:
    """Return each run's points of the metric that is x, one a step."""
    parts: list[list[Points]] = [[] for _ in runs]
    for index, _, points in reader.read(runs, (question.axis.metric,), None):
        parts[index].append(points)
    return [
        last_of_each_step(joined([*own, *run.hot.get(X + question.axis.metric, [])]))
        for own, run in zip(parts, runs, strict=True)
    ]


def last_of_each_step(points: Points) -> Points:
    """Return of each step the point that arrived last, in order of steps."""
    points = ordered(points)
    return taken(points, np.append(points.step[1:] != points.step[:-1], True)) if len(points) else points


def _against(points: Points, at: Points, question: Question) -> _Located:
    """Return a curve over another metric: a point's x is what that metric said last at the same step."""
    if not len(at):
        return _Located(nothing(), len(points))
    place = np.minimum(np.searchsorted(at.step, points.step), len(at) - 1)
    x = at.value[place]
    known = np.isfinite(x) & (at.step[place] == points.step)
    low = -inf if question.start is None else question.start
    high = inf if question.end is None else question.end
    located = taken(replace(points, x=x), known & (x >= low) & (x <= high))
    return _Located(located, int(len(points) - np.count_nonzero(known)))


def _seconds(series: Series) -> Series:
    """Return the series with x in seconds."""
    return replace(series, x=series.x / MICROSECONDS, x_first=series.x_first / MICROSECONDS)


class _Streamed:
    """One run's curves, in parts: what lies in Parquet is counted first."""

    def __init__(self, analytics: Analytics, question: Question, run: RunPoints) -> None:
        self._analytics = analytics
        self._question = question
        self._run = run
        self._reader = Reader(analytics, question)
        self._window = window(run.stored, question)

    def series(self) -> list[Series]:
        """Return a series for each metric: points where they are few, else buckets."""
        question, log = self._question, self._question.axis.log
        extents = self.extents()
        buckets = {
            metric: Buckets(edges(low, high, question.buckets, log=log))
            for metric, (count, low, high) in extents.items()
            if count > question.buckets
        }
        few: dict[str, list[Points]] = {metric: [] for metric in question.metrics}
        left_out = self._take(buckets, few, extents)
        return [
            replace(
                buckets[metric].series(metric)
                if metric in buckets
                else summarised(metric, few[metric], question.buckets, log=log),
                left_out=left_out[metric],
            )
            for metric in question.metrics
        ]

    def pooled(self, grids: Mapping[str, Any]) -> list[Series]:
        """Return a series for each metric on the given edges, empty buckets too."""
        buckets = {metric: Buckets(grid) for metric, grid in grids.items()}
        left_out = self._take(buckets, {}, {})
        return [replace(one.every(metric), left_out=left_out[metric]) for metric, one in buckets.items()]

    def _take(
        self, buckets: Mapping[str, Buckets], few: Mapping[str, list[Points]], extents: Mapping[str, Extent]
    ) -> dict[str, int]:
        """Put every point where it belongs; returns how many have no place, by metric."""
        left_out = dict.fromkeys(self._question.metrics, 0)
        for metric, read in chain(self._archived(extents), self._hot()):
            points = taken(read, read.x > 0) if self._question.axis.log else read
            left_out[metric] += len(read) - len(points)
            if metric in buckets:
                buckets[metric].add(points)
            else:
                few[metric].append(points)
        return left_out

    def _hot(self) -> Iterator[tuple[str, Points]]:
        for metric in self._question.metrics:
            for points in self._run.hot.get(metric, []):
                yield metric, points

    def ends(self) -> dict[str, tuple[float, float]]:
        """Return from where to where each metric goes that has points."""
        return {metric: (low, high) for metric, (_, low, high) in self.extents().items()}

    def extents(self) -> Mapping[str, Extent]:
        """Return how many points each metric has and from where to where, of those that have a place."""
        metrics, files = self._question.metrics, self._reader.files(self._run)
        bounds = self._reader.bounds([self._window], self._question.stage)
        if self._question.axis.log:
            bounds["low"] = max(bounds["low"], self._window.origin + 1)
        one = len(metrics) == 1
        found: list[tuple[str, int, int, int]] = []
        if files:
            sql = self._reader.sql("chart_extent_of_one" if one else "chart_extent", self._window.column)
            asked = {"metric": metrics[0]} if one else among(metrics)
            with self._analytics.store.held(files) as root:
                paths = [str(root / file.path) for file in files]
                found = self._analytics.query(sql, files=paths, **asked, **bounds).fetchall()
        origin = self._window.origin
        extents = {metric: (count, low - origin, high - origin) for metric, count, low, high in found if count}
        for metric, points in self._hot():
            x = points.x[points.x > 0] if self._question.axis.log else points.x
            if len(x):
                count, low, high = extents.get(metric, (0, HIGHEST, LOWEST))
                extents[metric] = (count + len(x), min(low, int(x.min())), max(high, int(x.max())))
        return extents

    def _archived(self, extents: Mapping[str, Extent]) -> Iterator[tuple[str, Points]]:
        """Yield what is in Parquet in parts, in order of arrival within a step; large metrics one by one."""
        question, run = self._question, self._run
        alone = [metric for metric, extent in extents.items() if extent[0] >= ALONE_POINTS]
        together = [metric for metric in question.metrics if metric not in alone]
        for metrics in ([metric] for metric in alone):
            for _, metric, points in self._reader.read([run], metrics, question.stage):
                yield metric, points
        if together:
            for _, metric, points in self._reader.read([run], together, question.stage):
                yield metric, points
