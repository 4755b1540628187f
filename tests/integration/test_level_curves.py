"""Charts out of levels: fewer rows read, and every number as if all points had been."""

import logging
import random

import numpy as np
import pytest

from projections.charts import level_curves, point_files, sources
from projections.charts.buckets import Series
from tests.integration.telemetry import World
from workers.archive_policy import Policy

NAN, INF = float("nan"), float("inf")
POINTS = 60_000
BATCH = 20_000


class Curve:
    """What was logged of a metric, in order of (step, arrival)."""

    def __init__(self) -> None:
        self.step = np.empty(0, np.int64)
        self.value = np.empty(0)

    def add(self, step: np.ndarray, value: np.ndarray) -> None:
        both, values = np.concatenate([self.step, step]), np.concatenate([self.value, value])
        order = np.argsort(both, kind="stable")
        self.step, self.value = both[order], values[order]

    def assert_is(self, series: Series, low: float, high: float, buckets: int) -> None:
        """Every point of the range counts in one row, and each row says of its points what they say."""
        keep = (self.step >= low) & (self.step <= high)
        step, value = self.step[keep], self.value[keep]
        assert series.points == len(step) == int(series.count.sum())
        assert len(series.x) <= buckets
        begins = np.searchsorted(step, series.x_first, side="left")
        ends = np.searchsorted(step, series.x, side="right")
        assert begins[0] == 0
        assert ends[-1] == len(step)
        assert begins[1:].tolist() == ends[:-1].tolist()
        for row, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
            own = value[begin:end]
            numbers, finite = own[~np.isnan(own)], own[np.isfinite(own)]
            said = [series.min[row], series.max[row], series.first[row], series.last[row], series.count[row],
                    series.nan_count[row], series.posinf_count[row], series.neginf_count[row]]  # fmt: skip
            expected = [numbers.min() if len(numbers) else NAN, numbers.max() if len(numbers) else NAN, own[0], own[-1],
                        len(own), np.isnan(own).sum(), np.isposinf(own).sum(), np.isneginf(own).sum()]  # fmt: skip
            np.testing.assert_array_equal(said, expected)
            np.testing.assert_allclose(series.mean[row], finite.mean() if len(finite) else NAN, rtol=1e-9, atol=1e-12)


async def logged(world: World, *, overlap: bool) -> tuple[object, Curve]:
    """Return a run with three files, one of them without levels, and a tail; and what it logged."""
    run_id, curve = await world.started_run(), Curve()
    choice = np.random.default_rng(5)
    for number, count in enumerate((BATCH, 3_000, BATCH, BATCH)):
        step = np.arange(count) + (number * 7_000 if overlap else number * 30_000)
        value = choice.standard_normal(count).astype(np.float32).astype(np.float64)
        for odd in (NAN, INF, -INF):
            value[choice.random(count) < 0.002] = odd
        value[5_000:5_400] = NAN
        curve.add(step, value)
        await world.metrics(run_id, {"few": ([number], [1.0]), "loss": (step.tolist(), value.tolist())})
        if number < 3:
            await world.archive(Policy(age_seconds=0, tail_seconds=0))
    return run_id, curve


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which metrics levels answered for."""
    found: list[str] = []

    def noted(*arguments: object) -> dict[str, Series]:
        own = level_curves.from_levels(*arguments)  # type: ignore[arg-type]
        found.extend(own)
        return own

    monkeypatch.setattr(sources, "from_levels", noted)
    return found


@pytest.mark.parametrize("overlap", [False, True])
async def test_levels_say_what_all_points_say(world: World, asked: list[str], *, overlap: bool) -> None:
    run_id, curve = await logged(world, overlap=overlap)
    choice = random.Random(overlap)
    last = int(curve.step[-1])
    ranges = [(-INF, INF), (0, last), (1, last - 1), (-5, last + 5), (-INF, 4_000), (last - 9_000, INF)]
    ranges += [tuple(sorted(choice.sample(range(last), 2))) for _ in range(6)]
    for low, high in ranges:
        for buckets in (1, 7, 100):
            bounds = {"start": None if low == -INF else low, "end": None if high == INF else high}
            few, loss = await world.chart(run_id, ["few", "loss"], buckets=buckets, **bounds)
            curve.assert_is(loss, low, high, buckets)
            assert few.metric == "few"
            assert few.points == sum(low <= step <= high for step in range(4))
    assert set(asked) == {"loss"}
    assert len(asked) > 20


async def test_the_whole_curve_is_drawn_without_reading_its_points(
    world: World, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": (range(BATCH), [float(n) for n in range(BATCH)])})
    await world.archive()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("points were read")

    monkeypatch.setattr(type(world.analytics), "query", never)
    monkeypatch.setattr(point_files, "read", never)
    (series,) = await world.chart(run_id, ["loss"], buckets=100)
    assert asked == ["loss"]
    assert series.max.tolist() == [float(min(256 * (n + 1), BATCH) - 1) for n in range(len(series.max))]


async def test_one_bucket_of_steps_on_both_sides_of_zero_comes_from_the_points(world: World, asked: list[str]) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": (range(-BATCH, BATCH), [float(n) for n in range(2 * BATCH)])})
    await world.archive()
    (series,) = await world.chart(run_id, ["loss"], buckets=1)
    assert (series.x_first.tolist(), series.x.tolist(), series.count.tolist()) == ([-BATCH], [BATCH - 1], [2 * BATCH])
    assert asked == []
    await world.chart(run_id, ["loss"], buckets=2)
    assert asked == ["loss"]


@pytest.mark.parametrize(
    "question", [{"stage": "main"}, {"x": "time"}, {"x": "relative"}, {"after": 1}, {"buckets": 5_000}, {"x": "few"}]
)
async def test_what_levels_do_not_know_comes_from_the_points(
    world: World, asked: list[str], question: dict[str, object]
) -> None:
    run_id, _ = await logged(world, overlap=False)
    (series,) = await world.chart(run_id, ["loss"], **question)  # type: ignore[arg-type]
    assert asked == []
    assert series.metric == "loss"


@pytest.mark.parametrize("how", ["gone", "torn"])
async def test_without_its_levels_a_chart_is_drawn_from_points(
    world: World, asked: list[str], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    run_id, curve = await logged(world, overlap=False)
    path = next(path for path in world.files() if path.name.startswith("levels"))
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10])
    with caplog.at_level(logging.WARNING):
        (series,) = await world.chart(run_id, ["loss"], buckets=50)
    assert asked == []
    assert "levels cannot be read" in caplog.text
    curve.assert_is(series, -INF, INF, 50)
