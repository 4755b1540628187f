"""The points that a question wants, out of batches and out of Parquet: with x as the question has it, order kept."""

from collections.abc import Iterator, Sequence
from math import ceil, floor
from typing import Any, Final

import msgspec
import numpy as np
from msgspec.structs import replace

from events.codec import microseconds
from events.sql import load
from events.telemetry import MetricColumns
from projections.analytics import Analytics
from projections.archive.parquet import File
from projections.charts import point_files
from projections.charts.buckets import Points, kept, taken
from projections.charts.point_files import Rows
from projections.charts.questions import Question
from projections.charts.run_points import RunPoints
from projections.runs import StoredRun

PART_POINTS: Final = 1 << 20

MICROSECONDS: Final = 1_000_000
LOWEST: Final = -(1 << 63)
HIGHEST: Final = (1 << 63) - 1

X: Final = "\0"
"""Before the name of the metric that is x, whose points count whatever their stage; no name has it."""


class Window(msgspec.Struct, frozen=True):
    """A question as one run's stored columns have it: x is `column` less `origin`, and counts from `low` to `high`."""

    column: str
    origin: int
    low: int
    high: int


def window(stored: StoredRun, question: Question) -> Window:
    """Return the window of a question; where x is a metric, that of all steps."""
    kind, start, end = question.axis.kind, question.start, question.end
    if kind == "metric":
        return Window("step", 0, LOWEST, HIGHEST)
    clamped = _microseconds if kind == "relative" else _clamped
    return Window(
        column="step" if kind == "step" else "time_us",
        origin=began_us(stored) if kind == "relative" else 0,
        low=LOWEST if start is None else clamped(start, up=True),
        high=HIGHEST if end is None else clamped(end, up=False),
    )


def began_us(stored: StoredRun) -> int:
    """Return when a run began, in microseconds since the epoch; 0 if nobody knows."""
    began = stored.run.started_at or stored.run.created_at
    return microseconds(began) if began is not None else 0


def _clamped(bound: float, *, up: bool) -> int:
    return max(LOWEST, min(HIGHEST, ceil(bound) if up else floor(bound)))


def _microseconds(seconds: float, *, up: bool) -> int:
    """Return the first microsecond that is not shown before so many seconds, or the last that is not shown behind.

    Their product with a million may be off by a microsecond, so that who zooms to a point would not see it.
    """
    if not LOWEST < seconds * MICROSECONDS < HIGHEST:
        return HIGHEST if seconds > 0 else LOWEST
    at, away = round(seconds * MICROSECONDS), 1 if up else -1
    while (at / MICROSECONDS - seconds) * away < 0:
        at += away
    while ((at - away) / MICROSECONDS - seconds) * away >= 0:
        at -= away
    return at


def wanted(question: Question, stored: StoredRun, batch: MetricColumns) -> Iterator[tuple[str, Points]]:
    """Yield the points of a batch that `curves` wants, by metric."""
    x_metric = question.axis.metric
    if x_metric not in batch.names and set(question.metrics).isdisjoint(batch.names):
        return
    ours = window(stored, question)
    staged = _staged(batch, question.stage)
    ends = np.cumsum(batch.counts)
    step, value = batch.steps(), batch.values()
    x = step if ours.column == "step" else batch.times() - ours.origin
    for index, name in enumerate(batch.names):
        own = slice(int(ends[index]) - batch.counts[index], int(ends[index]))
        points = Points(x[own], step[own], value[own])
        if name == x_metric and len(points):
            yield X + name, points
        if name in question.metrics:
            points = within(points if staged is None else taken(points, staged[own]), ours)
            if len(points):
                yield name, points


def _staged(batch: MetricColumns, stage: str | None) -> Any:
    """Return which points of a batch are of the stage; None for all."""
    if stage is None:
        return None
    indices = batch.stage_indices()
    if indices is None:
        return np.zeros(batch.points, bool)
    return np.array([one == stage for one in batch.stages], bool)[indices]


def within(points: Points, ours: Window) -> Points:
    if ours.low == LOWEST and ours.high == HIGHEST:
        return points
    return kept(points, (points.x >= ours.low) & (points.x <= ours.high))


class Reader:
    """Reads points from the files of runs."""

    def __init__(self, analytics: Analytics, question: Question) -> None:
        self._analytics = analytics
        self._question = question
        self._after = question.after

    def files(self, run: RunPoints) -> list[File]:
        """Return the files that may hold wanted points."""
        return [one.file for one in run.files if one.last_position > self._after]

    def read(
        self, runs: Sequence[RunPoints], metrics: Sequence[str], stage: str | None
    ) -> Iterator[tuple[int, str, Points]]:
        """Yield what is wanted of metrics in parts, with the run's index; in order of arrival within a step."""
        windows = [window(run.stored, self._question) for run in runs]
        if len(runs) == len(metrics) == 1:
            for points in self.of_one(runs[0], metrics[0], stage, [bounds_of(windows)]):
                yield 0, metrics[0], _shifted(points, windows[0])
            return
        files = [(index, file) for index, run in enumerate(runs) for file in self.files(run)]
        if not files:
            return
        run_of = np.array([index for index, _ in files])
        sql = self.sql("chart_points", windows[0].column)
        with self._analytics.store.held([file for _, file in files]) as root:
            paths = [str(root / file.path) for _, file in files]
            query = self._analytics.query(sql, files=paths, **among(metrics), **self.bounds(windows, stage))
            for part in query.to_arrow_reader(PART_POINTS):
                curve = run_of[part.column(4).to_numpy()] * len(metrics) + part.column(3).to_numpy()
                for number, points in _split(_points(part), curve):
                    index, metric = divmod(number, len(metrics))
                    ours = windows[index]
                    inside = within(_shifted(points, ours), ours)
                    if len(inside):
                        yield index, metrics[metric], inside

    def of_one(
        self, run: RunPoints, metric: str, stage: str | None, ranges: Sequence[tuple[int, int]]
    ) -> Iterator[Points]:
        """Yield a metric's points in ranges of the x column as it is stored. Raises `Unreadable`."""
        rows = Rows(metric, window(run.stored, self._question).column, ranges, stage, self._after)
        files = self.files(run)
        with self._analytics.store.held(files) as root:
            for file in files:
                yield from point_files.read(root / file.path, rows, PART_POINTS)

    def bounds(self, windows: Sequence[Window], stage: str | None) -> dict[str, Any]:
        """Return the parameters that narrow a query down to windows and a stage."""
        low, high = bounds_of(windows)
        return {"low": low, "high": high, "stage": stage, **({"after": self._after} if self._after else {})}

    def sql(self, name: str, column: str) -> str:
        """Return the text of a query over one column as x."""
        after = "and position > $after" if self._after else ""
        return load("projections.sql", name).replace("{x}", column).replace("{after}", after)


def bounds_of(windows: Sequence[Window]) -> tuple[int, int]:
    """Return what the widest of windows lets in, of the column as it is stored."""
    low = min(_clamped_int(one.low, one.origin) for one in windows)
    high = max(_clamped_int(one.high, one.origin) for one in windows)
    return low, high


def _clamped_int(bound: int, origin: int) -> int:
    return bound if bound in (LOWEST, HIGHEST) else max(LOWEST, min(HIGHEST, bound + origin))


def among(metrics: Sequence[str]) -> dict[str, Any]:
    return {"metrics": list(metrics), "first": min(metrics), "last": max(metrics)}


def _points(part: Any) -> Points:
    return Points(part.column(1).to_numpy(), part.column(0).to_numpy(), part.column(2).to_numpy())


def _shifted(points: Points, ours: Window) -> Points:
    return replace(points, x=points.x - ours.origin) if ours.origin else points


def _split(points: Points, curve: Any) -> Iterator[tuple[int, Points]]:
    """Take a part that holds several curves apart, order kept; curves that lie behind each other are not copied."""
    if np.any(curve[1:] < curve[:-1]):
        order = np.argsort(curve, kind="stable")
        points, curve = taken(points, order), curve[order]
    starts = np.flatnonzero(np.append(True, curve[1:] != curve[:-1])[: len(curve)]).tolist()
    for start, end in zip(starts, [*starts[1:], len(curve)], strict=True):
        yield int(curve[start]), taken(points, slice(start, end))
