"""Levels say of the points in a bucket what the points themselves say, in memory and from their file."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from projections.archive import level_files, levels
from projections.archive.levels import LevelRows, Pyramid
from projections.archive.points import SortedPoints
from projections.archive.writing import MetricsWriter
from projections.charts.level_curves import Grid

ANY = st.floats(allow_nan=True, allow_infinity=True, width=32)
POINTS = st.lists(st.tuples(st.integers(-40, 40), ANY), min_size=1, max_size=60)


def expected(step: list[int], value: list[float], level: int) -> list[tuple[float, ...]]:
    """Return what a level says, point by point."""
    found: dict[int, list[tuple[int, float]]] = {}
    for at, one in zip(step, value, strict=True):
        found.setdefault(at >> level, []).append((at, one))
    rows = []
    for bucket, points in found.items():
        values = [one for _, one in points]
        numbers = [one for one in values if not math.isnan(one)]
        rows.append(
            (
                bucket, len(points), len(points) - len(numbers), numbers.count(math.inf), numbers.count(-math.inf),
                points[0][0], points[-1][0], min(numbers, default=math.nan), max(numbers, default=math.nan),
                values[0], values[-1],
            )
        )  # fmt: skip
    return rows


def assert_says(rows: LevelRows, step: list[int], value: list[float], level: int) -> None:
    names = [name for name in LevelRows.__struct_fields__ if name != "sum"]
    columns = np.array([getattr(rows, name) for name in names], np.float64)
    np.testing.assert_array_equal(columns, np.array(expected(step, value, level), np.float64).T.reshape(columns.shape))
    finite = np.array(value)[np.isfinite(value)]
    assert rows.sum.sum() == pytest.approx(finite.sum(), rel=1e-9, abs=1e-9 * (1 + np.abs(finite).sum()))


@given(POINTS, st.integers(0, 8), st.integers(0, 8), st.integers(1, 60))
def test_a_level_is_the_same_from_points_from_a_lower_level_and_from_parts(
    points: list[tuple[int, float]], level: int, by: int, cut: int
) -> None:
    points.sort(key=lambda point: point[0])
    step, value = [at for at, _ in points], [one for _, one in points]
    of = np.array(step, np.int64), np.array(value, np.float64)
    assert_says(levels.of_points(*of, level), step, value, level)
    assert_says(levels.coarser(levels.of_points(*of, level), by), step, value, level + by)
    parts = [levels.of_points(of[0][a : a + cut], of[1][a : a + cut], level) for a in range(0, len(points), cut)]
    assert_says(levels.coarser(levels.behind_each_other(parts), 0), step, value, level)


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.integers(0, 1 << 64), st.integers(0, 63))
def test_whole_buckets_are_those_that_do_not_reach_beyond_a_range(low: int, length: int, level: int) -> None:
    high = min(low + length, (1 << 63) - 1)
    begin, end = levels.whole(low, high, level)
    width = 1 << level
    assert begin % width == 0
    assert low <= begin < low + width
    if begin < end:
        assert end % width == 0
        assert high + 1 - width < end <= high + 1
    else:
        assert high + 1 - begin < width


@given(
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, 1 << 64),
    st.one_of(st.integers(1, 3), st.integers(1, 20_000)),
)
@example(-10, 20, 1)
def test_a_grid_has_the_narrowest_buckets_that_are_few_enough(first: int, length: int, buckets: int) -> None:
    last = min(first + length, (1 << 63) - 1)
    grid = Grid.over(first, last, buckets)
    if grid is None:
        assert buckets == 1
        assert first < 0 <= last
        return
    begins = grid.edges().tolist()
    assert len(begins) < buckets
    assert all(first < begin <= last and begin % (1 << grid.width) == 0 for begin in begins)
    if grid.width:
        assert (last >> grid.width - 1) - (first >> grid.width - 1) >= buckets


@pytest.mark.parametrize(
    "step",
    [
        np.arange(50_000),
        np.arange(50_000) * 1_000,
        np.arange(50_000) // 7,
        np.zeros(50_000, np.int64),
        np.concatenate([np.arange(25_000), 25_000 + np.arange(25_000) * 10**9]),
        np.sort(np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 50_000)),
    ],
    ids=["regular", "sparse", "repeated", "one step", "two densities", "anything"],
)
def test_levels_are_few_rows_whatever_the_steps_are(step: np.ndarray) -> None:
    value = np.random.default_rng(2).standard_normal(len(step))
    pyramid = Pyramid()
    for begin in range(0, len(step), 7_000):
        pyramid.add(step[begin : begin + 7_000], value[begin : begin + 7_000])
    found = list(pyramid.levels())
    assert sum(len(rows) for _, rows in found) <= len(step) / 100 + levels.TOP_BUCKETS
    assert len(found[-1][1]) <= levels.TOP_BUCKETS
    for level, rows in found:
        assert_says(rows, step.tolist(), value.tolist(), level)


def test_what_cannot_be_added_up_has_no_levels() -> None:
    pyramid = Pyramid()
    pyramid.add(np.arange(20_000), np.where(np.arange(20_000) % 2, 1e308, -1e308))
    assert list(pyramid.levels()) == []


def points(metrics: dict[str, int], seed: int = 3) -> SortedPoints:
    """Return so many points of each metric, a step apart, some of them no numbers."""
    choice = np.random.default_rng(seed)
    sizes = list(metrics.values())
    step = np.concatenate([np.arange(size) for size in sizes])
    value = choice.standard_normal(len(step))
    value[choice.random(len(step)) < 0.001] = np.nan
    value[choice.random(len(step)) < 0.001] = np.inf
    zeros = np.zeros(len(step), np.int64)
    return SortedPoints(
        metrics=list(metrics), stages=[], metric=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), step=step,
        time_us=zeros, value=value, stage=np.full(len(step), -1, np.int32), position=zeros,
    )  # fmt: skip


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SortedPoints]:
    sizes = {"few": 16_383, "large": 200_000, "many": 100_000, **{f"m{n}": 20_000 for n in range(120)}}
    found = points(dict(sorted(sizes.items())))
    with MetricsWriter(tmp_path_factory.mktemp("levels") / "metrics-1.parquet") as writer:
        for begin in range(0, len(found), 77_777):
            writer.add(found.part(begin, begin + 77_777))
        files = writer.close()
    files.publish()
    assert files.levels is not None
    assert files.levels.rows > level_files.ROW_GROUP_ROWS
    return files.levels.path, found


@pytest.mark.parametrize(
    ("low", "high"), [(0, 99_999), (-(1 << 63), (1 << 63) - 1), (5, 70_001), (90, 100), (9**9, 9**10)]
)
@pytest.mark.parametrize("widest", [8, 9, 12, 20, 40])
@pytest.mark.parametrize("metric", ["many", "m7", "large"])
def test_a_file_of_levels_answers_for_any_range(
    archived: tuple[Path, SortedPoints], metric: str, low: int, high: int, widest: int
) -> None:
    path, every = archived
    rows = level_files.read(path, metric, low=low, high=high, widest=widest)
    assert rows is not None
    own = every.metric == every.metrics.index(metric)
    begin, end = levels.whole(low, high, widest)
    inside = own & (every.step >= begin) & (every.step <= end - 1)
    assert_says(rows, every.step[inside].tolist(), every.value[inside].tolist(), widest)


def test_a_metric_without_levels_or_without_one_that_is_fine_enough_is_none(
    archived: tuple[Path, SortedPoints],
) -> None:
    path, _ = archived
    for metric, widest in (("few", 30), ("nothing", 30), ("many", 5)):
        assert level_files.read(path, metric, low=0, high=100_000, widest=widest) is None
