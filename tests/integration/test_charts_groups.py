"""Charts of groups of runs: the mean of the runs, the band of their points, from rows and from levels."""

import random
from bisect import bisect_right
from math import isfinite, isnan
from statistics import fmean
from uuid import UUID

import numpy as np
import pytest

from events import codec
from projections.charts import level_curves, point_files, sources
from projections.charts.buckets import edges
from projections.charts.groups import Group, GroupSeries
from projections.charts.questions import Question, axis
from tests.integration.charting import INF, NAN, Row, random_batch
from tests.integration.telemetry import World
from workers.archive_policy import Policy


def by_hand(question: Question, runs: list[list[Row]]) -> list[dict[str, float]]:
    """Group runs whose points are (x, time, value, stage) on buckets from the first to the last x of all of them."""
    xs = [x for own in runs for x, *_ in own]
    begins = edges(min(xs), max(xs), question.buckets, log=question.axis.log).tolist()
    bucket = [[(bisect_right(begins, x), x, value) for x, _, value, _ in own] for own in runs]
    rows = []
    for at in range(question.buckets):
        here = [[(x, value) for place, x, value in own if place == at] for own in bucket]
        every = [one for own in here for one in own]
        numbers = [value for _, value in every if not isnan(value)]
        finite = [[value for _, value in own if isfinite(value)] for own in here]
        means = [fmean(own) for own in finite if own]
        if every:
            rows.append(
                {
                    "x_first": min(x for x, _ in every),
                    "x": max(x for x, _ in every),
                    "min": min(numbers, default=NAN),
                    "max": max(numbers, default=NAN),
                    "mean": fmean(means) if means else NAN,
                    "runs": sum(bool(own) for own in here),
                    "count": len(every),
                    "nan_count": sum(isnan(value) for _, value in every),
                }
            )
    return rows


@pytest.mark.parametrize("at_once", [0, 60, 1 << 21])
@pytest.mark.parametrize("log", [False, True])
async def test_groups_are_the_mean_of_runs_and_the_band_of_their_points(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
    log: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(sources, "AT_ONCE_POINTS", at_once)
    choice = random.Random(at_once)
    runs = [await world.started_run() for _ in range(5)]
    rows: list[list[Row]] = [[] for _ in runs]
    for turn in range(4):
        for index, run_id in list(enumerate(runs))[1:]:
            batch, logged = random_batch(choice, ["loss", "acc"])
            await world.log(run_id, codec.METRICS, batch)
            rows[index] += logged.get("loss", [])
        if turn < 2:
            await world.archive()
    question = Question(metrics=("loss", "none"), axis=axis("step", log=log), buckets=6)
    groups = [Group("a", (0, 2, 3)), Group(None, (1, 2)), Group("all", (0, 1, 2, 3, 4))]
    chart = await world.grouped(runs, question, *groups)
    shown = [[row for row in own if row[0] > 0 or not log] for own in rows]
    whole = by_hand(question, shown)
    loss, none = chart.groups[2].series
    for name in ("x_first", "x", "min", "max", "runs", "count", "nan_count"):
        np.testing.assert_array_equal(getattr(loss, name), [row[name] for row in whole], err_msg=name)
    np.testing.assert_allclose(loss.mean, [row["mean"] for row in whole], rtol=1e-9)
    assert loss.left_out == sum(map(len, rows)) - sum(map(len, shown))
    assert (none.points, len(none.x)) == (0, 0)
    for group, curves in zip(groups, chart.groups, strict=True):
        assert curves.series[0].points == sum(len(shown[run]) for run in group.runs)
    (own_grid,) = (await world.grouped(runs, question, Group(0, (0, 1, 2, 3, 4)))).groups
    assert own_grid.series[0].x.tolist() == loss.x.tolist()


async def test_no_runs_have_no_curves(world: World) -> None:
    question = Question(metrics=("loss",))
    assert (await world.charted([], question)).runs == []
    (group,) = (await world.grouped([], question, Group("none", ()))).groups
    assert group.series[0].points == 0


COUNTED = ("x", "x_first", "min", "max", "runs", "count", "nan_count", "posinf_count", "neginf_count")


async def long_runs(world: World) -> tuple[list[UUID], list[tuple[np.ndarray, np.ndarray]]]:
    """Return runs of `loss` with levels, with some levels and a tail, and without any; and what each logged."""
    choice = np.random.default_rng(9)
    runs, logged = [], []
    for begin, counts in ((0, (20_000,)), (-3_000, (20_000, 500, 17_000)), (8_000, (900,)), (0, ())):
        run_id = await world.started_run()
        steps, values = [np.empty(0, np.int64)], [np.empty(0)]
        for number, count in enumerate(counts):
            step = begin + number * 9_001 + np.arange(count)
            value = choice.standard_normal(count)
            for odd in (NAN, INF, -INF):
                value[choice.random(count) < 0.01] = odd
            await world.metrics(run_id, {"few": ([number], [1.0]), "loss": (step.tolist(), value.tolist())})
            if number < 2:
                await world.archive(Policy(age_seconds=0, tail_seconds=0))
            steps.append(step)
            values.append(value)
        runs.append(run_id)
        logged.append((np.concatenate(steps), np.concatenate(values)))
    return runs, logged


async def test_groups_are_made_of_levels_and_say_what_all_points_say(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, logged = await long_runs(world)
    groups = [Group("all", (0, 1, 2, 3)), Group("long", (0, 1)), Group("short", (2, 3))]
    asked: list[tuple[float | None, float | None, int]] = [
        (None, None, 100), (None, None, 1), (1, 19_990, 70), (-1_234, 12_345, 33), (8_100, 8_200, 1_000),
        (50_000, None, 9),
    ]  # fmt: skip
    for low, high, buckets in asked:
        question = Question(metrics=("loss", "few", "none"), start=low, end=high, buckets=buckets)
        leveled = await world.grouped(runs, question, *groups)
        with monkeypatch.context() as patch:
            patch.setattr(level_curves, "pooled", lambda *_: {})
            pointwise = await world.grouped(runs, question, *groups)
        for group, one, other in zip(groups, leveled.groups, pointwise.groups, strict=True):
            for first, second in zip(one.series, other.series, strict=True):
                for name in COUNTED:
                    np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
                np.testing.assert_allclose(first.mean, second.mean, rtol=1e-9, atol=1e-12)
            assert_is_of(one.series[0], [logged[run] for run in group.runs], low, high, buckets)


def assert_is_of(
    series: GroupSeries,
    runs: list[tuple[np.ndarray, np.ndarray]],
    low: float | None,
    high: float | None,
    buckets: int,
) -> None:
    """Every point of the range counts in one row, and each row says of them what they say."""
    inside = [(step >= (-INF if low is None else low)) & (step <= (INF if high is None else high)) for step, _ in runs]
    assert series.points == series.count.sum() == sum(map(np.count_nonzero, inside))
    assert len(series.x) <= buckets
    for row, (begin, end) in enumerate(zip(series.x_first.tolist(), series.x.tolist(), strict=True)):
        own = [value[(step >= begin) & (step <= end)] for step, value in runs]
        every, finite = np.concatenate(own), [one[np.isfinite(one)] for one in own]
        assert series.count[row] == len(every)
        assert series.runs[row] == sum(map(bool, map(len, own)))
        np.testing.assert_array_equal(
            (series.min[row], series.max[row]), (np.fmin.reduce(every), np.fmax.reduce(every))
        )
        means = [one.mean() for one in finite if len(one)]
        np.testing.assert_allclose(series.mean[row], np.mean(means) if means else NAN, rtol=1e-9)


async def test_whole_groups_read_no_point_of_what_has_levels(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [await world.started_run() for _ in range(2)]
    for offset, run_id in enumerate(runs):
        steps = range(offset * 500, offset * 500 + 20_000)
        await world.metrics(run_id, {"loss": (steps, [float(step) for step in steps])})
    await world.archive()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("points were read")

    monkeypatch.setattr(type(world.analytics), "query", never)
    monkeypatch.setattr(point_files, "read", never)
    (group,) = (await world.grouped(runs, Question(metrics=("loss",), buckets=100), Group("both", (0, 1)))).groups
    (loss,) = group.series
    assert loss.max.tolist() == [float(min(256 * (n + 1), 20_500) - 1) for n in range(len(loss.max))]
    assert (loss.points, loss.runs.tolist()[:3]) == (40_000, [1, 2, 2])


@pytest.mark.parametrize("how", ["gone before", "gone meanwhile"])
async def test_without_levels_groups_are_made_of_points(
    world: World, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    runs, _ = await long_runs(world)
    question, group = Question(metrics=("loss", "few"), buckets=40), Group("all", (0, 1, 2, 3))
    (before,) = (await world.grouped(runs, question, group)).groups
    extents, lost = level_curves.extents, [path for path in world.files() if path.name.startswith("levels")]

    def then_they_are_gone(*arguments: object) -> object:
        found = extents(*arguments)  # type: ignore[arg-type]
        if arguments[2].stored.run_id == runs[-1]:  # type: ignore[attr-defined]
            for path in lost:
                path.unlink()
        return found

    if how == "gone before":
        for path in lost:
            path.unlink()
    else:
        monkeypatch.setattr(level_curves, "extents", then_they_are_gone)
    (after,) = (await world.grouped(runs, question, group)).groups
    assert [one.points for one in after.series] == [one.points for one in before.series]
    assert np.nanmin(after.series[0].min) == np.nanmin(before.series[0].min)
    if how == "gone meanwhile":
        assert after.series[0].x.tolist() == before.series[0].x.tolist()
