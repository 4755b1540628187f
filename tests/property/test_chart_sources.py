"""Charts against points taken one at a time: whichever x, and wherever the points are: in tails, files, levels."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from events.ids import uuid7
from events.run import Run
from events.telemetry import MetricColumns
from projections.analytics import Analytics
from projections.archive import level_files, levels, merging, points, sorting, writing
from projections.archive.manifest import Segment
from projections.archive.parquet import segment_path
from projections.archive.sorting import sorted_points
from projections.archive.stores import Directory
from projections.archive.writing import Files, MetricsWriter
from projections.charts import level_curves, reading, sources
from projections.charts.buckets import Series
from projections.charts.groups import Band
from projections.charts.questions import Axis, Question, checked
from projections.charts.run_points import Newest, RunPoints
from projections.runs import StoredRun
from tests.property.test_buckets import VALUES, check

LEDGER = UUID(int=1)
BEGAN = datetime(2026, 11, 1, 12, tzinfo=UTC)
BEGAN_US = int(BEGAN.timestamp()) * 1_000_000
METRICS = ("loss", "x", "ünï/😀")
STAGES = (None, "main", "warmup")

SIZES: dict[str, list[tuple[Any, str, int]]] = {
    "few": [],
    "levels": [
        *((one, "MIN_POINTS", 3) for one in (levels, writing)),
        *((levels, name, 1) for name in ("POINTS_PER_BUCKET", "LEVELS_APART", "_FINEST")),
        (levels, "TOP_BUCKETS", 2),
    ],
    "streamed": [(sources, "AT_ONCE_POINTS", 0), (sources, "ALONE_POINTS", 4), (reading, "PART_POINTS", 3)],
    "bare": [(level_curves, "MAX_BARE_ROWS", 0)],
    "groups": [(one, "ROW_GROUP_ROWS", 4) for one in (points, sorting, writing, level_files)],
    "parts": [(merging, "PART_ROWS", 2)],
}
"""What is made small, so that a few points take every way that many do."""


class Row(NamedTuple):
    """A point as it was logged."""

    step: int
    time_us: int
    value: float
    stage: str | None
    position: int


Batch = dict[str, list[tuple[int, int, float, str | None]]]

STEPS = st.integers(-9, 9) | st.integers(0, 200) | st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)])
TIMES = (st.integers(-20, 400) | st.integers(0, 10**8)).map(lambda us: BEGAN_US + us)
NUMBERS = VALUES | st.integers(-4, 4).map(float)
POINTS = st.tuples(STEPS, TIMES, NUMBERS, st.sampled_from(STAGES))
BATCHES = st.dictionaries(st.sampled_from(METRICS), st.lists(POINTS, min_size=1, max_size=14), min_size=1, max_size=3)


class Logged(NamedTuple):
    """Batches of a run; how many of them each file holds; how many of the files are merged then."""

    batches: list[Batch]
    files: list[int]
    merged: int


LOGGED = st.builds(
    Logged, st.lists(BATCHES, min_size=1, max_size=7), st.lists(st.integers(1, 3), max_size=4), st.integers(0, 4)
)


def columns(batch: Batch) -> MetricColumns:
    every = [row for own in batch.values() for row in own]
    return MetricColumns(
        names=tuple(batch),
        counts=tuple(map(len, batch.values())),
        step=np.array([row[0] for row in every], "<i8").tobytes(),
        time_us=np.array([row[1] for row in every], "<i8").tobytes(),
        value=np.array([row[2] for row in every], "<f8").tobytes(),
        stages=STAGES,
        stage=np.array([STAGES.index(row[3]) for row in every], "<u2").tobytes(),
    )


class World:
    """Runs whose points lie in files below a directory, and in tails."""

    def __init__(self, root: Path) -> None:
        self.store = Directory(root)
        self.analytics = Analytics(self.store, threads=1, queries=1)

    def run(self, logged: Logged, question: Question) -> tuple[RunPoints, dict[str, list[Row]]]:
        """Return where a run's points are, and what they are in order of arrival."""
        stored = StoredRun(ledger_id=LEDGER, run_id=uuid7(), position=1, run=Run(started_at=BEGAN))
        batches = [(position, columns(batch)) for position, batch in enumerate(logged.batches, 1)]
        ends = [min(end, len(batches)) for end in accumulate(logged.files, initial=0)]
        files = [self._file(stored, batches[begin:end]) for begin, end in pairwise(ends) if begin < end]
        if 1 < logged.merged <= len(files):
            files = [self._merge(stored, files[: logged.merged]), *files[logged.merged :]]
        hot: dict[str, list[Any]] = {}
        for position, batch in batches[ends[-1] :]:
            for name, own in reading.wanted(question, stored, batch) if position > question.after else ():
                hot.setdefault(name, []).append(own)
        rows: dict[str, list[Row]] = {}
        for position, batch in enumerate(logged.batches, 1):
            for name, own in batch.items():
                rows.setdefault(name, []).extend(Row(*row, position) for row in own)
        return RunPoints(stored, tuple(files), hot, frozenset(), Newest(len(batches), hot=True)), rows

    def _file(self, stored: StoredRun, batches: Sequence[tuple[int, MetricColumns]]) -> Segment:
        segment, path = self._path(stored)
        with MetricsWriter(path) as writer:
            writer.add(sorted_points(batches))
            files = writer.close()
        return self._segment(segment, files, batches[0][0], batches[-1][0])

    def _merge(self, stored: StoredRun, chosen: Sequence[Segment]) -> Segment:
        segment, path = self._path(stored)
        files = merging.merge_metrics([self.store.root / one.path for one in chosen], path)
        return self._segment(segment, files, chosen[0].first_position, chosen[-1].last_position)

    def _path(self, stored: StoredRun) -> tuple[UUID, Path]:
        segment = uuid7()
        return segment, self.store.root / segment_path(LEDGER, stored.run_id, "metrics", segment)

    def _segment(self, segment: UUID, files: Files, first: int, last: int) -> Segment:
        files.publish()
        root, data, own = self.store.root, files.data, files.levels
        path = str(data.path.relative_to(root))
        if own is None:
            return Segment(segment, path, data.rows, first, last, data.bytes, data.sha256)
        told = str(own.path.relative_to(root)), own.bytes, own.sha256
        return Segment(segment, path, data.rows, first, last, data.bytes, data.sha256, *told)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    memory = Path("/dev/shm")  # thousands of files, each written durably
    with TemporaryDirectory(prefix="tachograph-charts-", dir=memory if memory.exists() else None) as home:
        world = World(Path(home))
        yield world
        world.analytics.close()


class Expected(NamedTuple):
    """A curve's points as (x, step, value) in order, and how many have no place on the axis."""

    points: list[tuple[float, int, float]]
    left_out: int


def expected(rows: dict[str, list[Row]], metric: str, question: Question) -> Expected:
    kind, log = question.axis.kind, question.axis.log
    at = {row.step: row.value for row in rows.get(question.axis.metric, [])}

    def x(row: Row) -> float:
        match kind:
            case "step":
                return row.step
            case "time":
                return row.time_us
            case "relative":
                return (row.time_us - BEGAN_US) / 1e6
            case _:
                return at.get(row.step, math.nan)

    low = -math.inf if question.start is None else question.start
    high = math.inf if question.end is None else question.end
    own = [row for row in rows.get(metric, []) if question.stage in (None, row.stage) and row.position > question.after]
    nowhere = sum(not math.isfinite(x(row)) for row in own)
    inside = [(x(row), row.step, row.value) for row in own if low <= x(row) <= high and math.isfinite(x(row))]
    shown = [point for point in inside if point[0] > 0] if log else inside
    return Expected(sorted(shown, key=lambda point: point[:2]), nowhere + len(inside) - len(shown))


@st.composite
def questions(draw: st.DrawFn, logged: Sequence[Logged]) -> Question:
    """Draw a question whose bounds are points of the curve, or lie between some."""
    kind = draw(st.sampled_from(["step", "step", "time", "relative", "metric"]))
    axis = Axis(kind, draw(st.sampled_from(METRICS)) if kind == "metric" else "", draw(st.booleans()))
    every = [row for one in logged for batch in one.batches for own in batch.values() for row in own]
    row = st.sampled_from(every)
    place: Any = (
        {
            "step": row.map(lambda row: row[0]),
            "time": row.map(lambda row: row[1]),
            "relative": row.map(lambda row: (row[1] - BEGAN_US) / 1e6),
            "metric": row.map(lambda row: row[2]).filter(math.isfinite),
        }[kind]
        | st.integers(-9, 9)
        | st.floats(-300, 300)
    )
    start, end = draw(st.none() | place), draw(st.none() | place)
    if start is not None and end is not None and start > end:
        start, end = end, start
    return Question(
        metrics=tuple(draw(st.lists(st.sampled_from(METRICS), min_size=1, unique=True))),
        axis=axis,
        start=start,
        end=end,
        buckets=draw(st.integers(1, 9)),
        stage=draw(st.sampled_from([None, None, None, "main", "nowhere"])),
        after=draw(st.sampled_from([0, 0, 1, 3])) if kind != "metric" else 0,
    )


ASKED = st.lists(LOGGED, min_size=1, max_size=3).flatmap(lambda logged: st.tuples(st.just(logged), questions(logged)))


def check_rows(series: Series, wanted: Expected) -> list[list[tuple[float, int, float]]]:
    """Check that each row tells of the next points, as many as it says, no two of the same x; return them by row."""
    assert (series.points, series.left_out) == (len(wanted.points), wanted.left_out)
    ends = list(accumulate(series.count.tolist(), initial=0))
    assert ends[-1] == len(wanted.points)
    rows = [wanted.points[begin:end] for begin, end in pairwise(ends)]
    for index, own in enumerate(rows):
        if own:
            check(series, index, own)
    told = [own for own in rows if own]
    if series.sampled:
        assert all(one[-1][0] < other[0][0] for one, other in pairwise(told))
    return rows


def check_group(series: Sequence[Series], rows: Sequence[list[list[tuple[float, int, float]]]]) -> None:
    """Check the curve of a group of runs, given each run's points by bucket."""
    band = Band("m")
    for one in series:
        band.add(one)
    found = band.series()
    together = [[own for own in buckets if own] for buckets in zip(*rows, strict=True)]
    told = [(index, own) for index, own in enumerate(together) if own]
    assert len(found.x) == len(told)
    for row, (index, own) in enumerate(told):
        values = [point[2] for points in own for point in points]
        numbers = [value for value in values if not math.isnan(value)]
        xs = [point[0] for points in own for point in points]
        assert (found.x_first[row], found.x[row], found.runs[row]) == (min(xs), max(xs), len(own))
        assert (found.count[row], found.nan_count[row]) == (len(values), sum(map(math.isnan, values)))
        assert (found.posinf_count[row], found.neginf_count[row]) == (values.count(math.inf), values.count(-math.inf))
        extremes = [float(found.min[row]), float(found.max[row])]
        assert extremes == ([min(numbers), max(numbers)] if numbers else pytest.approx([math.nan] * 2, nan_ok=True))
        means = [one.mean[index] for one in series if not math.isnan(one.mean[index])]
        exact = float(sum(map(Fraction, means)) / len(means)) if means else math.nan
        largest = max(map(abs, means), default=0.0)
        assert found.mean[row] == pytest.approx(exact, rel=1e-9, abs=max(1e-300, largest * 1e-12), nan_ok=True)
    for one, other in pairwise(point for _, own in told for point in [own]):
        assert max(points[-1][0] for points in one) < min(points[0][0] for points in other)


@pytest.mark.parametrize("sizes", [("few",), ("levels",), ("levels", "groups", "parts"), ("levels", "bare"),
                                   ("streamed", "groups"), ("levels", "streamed", "groups")], ids=" ".join)  # fmt: skip
@given(asked=ASKED)
@settings(max_examples=40)
def test_a_chart_says_what_single_points_would(
    world: World, sizes: Sequence[str], asked: tuple[list[Logged], Question]
) -> None:
    logged, question = asked
    question = checked(question, len(logged))
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (one for size in sizes for one in SIZES[size]):
            patch.setattr(module, name, value)
        runs, rows = zip(*(world.run(one, question) for one in logged), strict=True)
        curves = sources.curves(world.analytics, question, runs)
        pooled = [] if question.after else list(sources.pooled(world.analytics, question, runs))
    for own, series in zip(rows, curves, strict=True):
        for metric, one in zip(question.metrics, series, strict=True):
            wanted = expected(own, metric, question)
            assert one.sampled == (len(wanted.points) > question.buckets)
            assert len(one.x) <= max(question.buckets, len(wanted.points) if not one.sampled else 0)
            check_rows(one, wanted)
    for metric, several in zip(question.metrics, zip(*pooled, strict=True) if pooled else (), strict=False):
        scale = 1e6 if question.axis.kind == "relative" else 1
        shown = [replace(one, x=one.x / scale, x_first=one.x_first / scale) if scale > 1 else one for one in several]
        found = [check_rows(one, expected(own, metric, question)) for one, own in zip(shown, rows, strict=True)]
        check_group(shown, found)


@given(st.integers(-(10**12), 10**15), st.floats(-1e9, 1e9))
@example(123, 0.0)
def test_who_zooms_to_where_points_are_shown_sees_them_and_no_others(one: int, other: float) -> None:
    start, end = sorted((one / 1e6, other))
    question = Question(metrics=("m",), axis=Axis("relative"), start=start, end=end)
    ours = reading.window(StoredRun(ledger_id=LEDGER, run_id=LEDGER, position=1, run=Run(started_at=BEGAN)), question)
    assert (ours.low - 1) / 1e6 < start <= ours.low / 1e6
    assert ours.high / 1e6 <= end < (ours.high + 1) / 1e6


def in_files(world: World, *curves: list[tuple[int, float]]) -> RunPoints:
    """Return a run with a file of `loss` for each of the curves, which are of steps and values, all with levels."""
    batches: list[Batch] = [{"loss": [(step, BEGAN_US, value, None) for step, value in curve]} for curve in curves]
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SIZES["levels"]:
            patch.setattr(module, name, value)
        run, _ = world.run(Logged(batches, [1] * len(curves), 0), Question(metrics=("loss",)))
    return run


def test_sums_of_levels_that_are_too_large_together_give_the_mean_all_the_same(world: World) -> None:
    run = in_files(world, *([(step, 1e307) for step in range(16)] for _ in range(3)))
    ((series,),) = sources.curves(world.analytics, Question(metrics=("loss",), buckets=2), [run])
    assert series.mean.tolist() == pytest.approx([1e307, 1e307], rel=1e-12)


def test_levels_reach_to_the_last_step_that_there_is(world: World) -> None:
    last = 2**63 - 1
    run = in_files(world, [(step, float(index)) for step in (last - 1, last) for index in range(64)])
    assert run.files[0].levels is not None
    ((series,),) = sources.curves(world.analytics, Question(metrics=("loss",), buckets=2), [run])
    assert (series.x.tolist(), series.count.tolist(), series.last.tolist()) == ([last - 1, last], [64, 64], [63, 63])
