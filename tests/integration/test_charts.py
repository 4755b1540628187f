"""Charts over Parquet and the tail: the same answer wherever the points are, and never a wrong extreme."""

import asyncio
import random
from math import isnan
from uuid import UUID

import numpy as np
import pytest

from events import codec
from events.errors import CorruptHistory, TooLarge
from projections.charts import reading, sources
from projections.charts.buckets import Series
from projections.charts.questions import ChartRefused
from tests.integration.charting import Row, assert_same, expected_points, random_batch
from tests.integration.telemetry import TIME_US, World, metric_batch
from workers.archive_policy import Policy


@pytest.mark.usefixtures("at_once_points")
@pytest.mark.parametrize("seed", range(6))
async def test_a_chart_is_the_same_before_while_and_after_its_points_are_archived(world: World, seed: int) -> None:
    choice = random.Random(seed)
    metrics = ["loss", "acc", "ünï/😀", "rare"]
    run_id = await world.started_run()
    batches = [random_batch(choice, metrics) for _ in range(choice.randint(3, 14))]
    rows: dict[str, list[Row]] = {metric: [] for metric in metrics}
    for batch, own in batches:
        await world.log(run_id, choice.choice((codec.METRICS, codec.SYSTEM_METRICS)), batch)
        for metric, more in own.items():
            rows[metric] += more
    stored = await world.stored(run_id)
    assert stored.run.started_at is not None
    origin = codec.microseconds(stored.run.started_at)
    asked: list[dict[str, object]] = [
        {"x": "step", "buckets": 5},
        {"x": "step", "buckets": 1000},
        {"x": "time", "buckets": 7},
        {"x": "time", "buckets": 1000, "stage": "main"},
        {"x": "relative", "buckets": 1000},
        {"x": "step", "buckets": 3, "start": 20, "end": 260.5},
        {"x": "time", "buckets": 10, "start": TIME_US + 50, "end": TIME_US + 200},
        {"x": "step", "buckets": 1, "stage": "warmup"},
        {"x": "step", "start": 10_000},
    ]

    async def answers() -> list[list[Series]]:
        return [await world.chart(run_id, metrics, **question) for question in asked]

    hot = await answers()
    for question, answer in zip(asked, hot, strict=True):
        for metric, series in zip(metrics, answer, strict=True):
            points = expected_points(
                rows[metric], question["x"], question.get("start"), question.get("end"), question.get("stage"), origin
            )  # type: ignore[arg-type]  # fmt: skip
            assert series.points == len(points)
            assert int(series.count.sum()) == len(points)
            assert int(series.nan_count.sum()) == sum(isnan(value) for _, value in points)
            assert series.sampled == (len(points) > int(question.get("buckets", 1000)))  # type: ignore[call-overload]
            if not series.sampled:
                assert series.x.tolist() == [place for place, _ in points]
                np.testing.assert_array_equal(series.last, [value for _, value in points])
            numbers = [value for _, value in points if not isnan(value)]
            if numbers:
                assert (np.nanmin(series.min), np.nanmax(series.max)) == (min(numbers), max(numbers))
    await world.archive(Policy(age_seconds=0, tail_seconds=0, file_batches=choice.randint(1, 4)))
    assert len(world.files()) > 0
    for one, other in zip(hot, await answers(), strict=True):
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)


@pytest.mark.parametrize("seed", range(3))
async def test_a_chart_over_the_border_equals_one_that_is_wholly_hot(world: World, seed: int) -> None:
    choice = random.Random(100 + seed)
    batches = [random_batch(choice, ["loss", "acc"])[0] for _ in range(8)]
    hot, split = await world.started_run(), await world.started_run()
    for batch in batches[:5]:
        await world.log(split, codec.METRICS, batch)
    await world.archive()
    for run_id, own in ((hot, batches), (split, batches[5:])):
        for batch in own:
            await world.log(run_id, codec.METRICS, batch)
    for buckets in (4, 1000):
        one = await world.chart(hot, ["loss", "acc"], buckets=buckets)
        other = await world.chart(split, ["loss", "acc"], buckets=buckets)
        for first, second in zip(one, other, strict=True):
            assert_same(first, second)


async def test_large_metrics_stream_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await world.started_run()
    n = 10_000
    rng = np.random.default_rng(7)
    values = {name: rng.standard_normal(n) for name in ("a", "b", "c")}
    values["a"][777] = 1e9
    for half in (slice(0, n // 2), slice(n // 2, n)):
        steps = np.arange(n)[half]
        await world.metrics(run_id, {name: (steps.tolist(), value[half].tolist()) for name, value in values.items()})
        await world.archive()
    whole = await world.chart(run_id, list(values), buckets=100)
    monkeypatch.setattr(sources, "AT_ONCE_POINTS", 0)
    monkeypatch.setattr(reading, "PART_POINTS", 2048)
    streamed = await world.chart(run_id, list(values), buckets=100)
    monkeypatch.setattr(sources, "ALONE_POINTS", 1)
    alone = await world.chart(run_id, list(values), buckets=100)
    (single,) = await world.chart(run_id, ["a"], buckets=100)
    assert_same(whole[0], single)
    for one, second, other, value in zip(whole, streamed, alone, values.values(), strict=True):
        assert_same(one, second)
        assert_same(one, other)
        np.testing.assert_array_equal(one.max, value.reshape(100, -1).max(axis=1))
        np.testing.assert_array_equal(one.first, value.reshape(100, -1)[:, 0])
        assert one.sampled
    assert whole[0].max.max() == 1e9


async def test_a_metric_without_points_has_an_empty_series(world: World) -> None:
    run_id = await world.started_run()
    for _ in range(2):
        (series,) = await world.chart(run_id, ["nothing"])
        assert (series.points, series.sampled, len(series.x)) == (0, False, 0)
        await world.metrics(run_id, {"loss": ([1], [1.0])})
        await world.archive()


async def test_names_are_data_not_sql(world: World) -> None:
    run_id = await world.started_run()
    names = ["a'b", 'a"; drop table x; --', "*", "$metric", "\\"]
    await world.metrics(run_id, {name: ([1], [float(index)]) for index, name in enumerate(names)})
    await world.archive()
    answer = await world.chart(run_id, names)
    assert [series.last.tolist() for series in answer] == [[float(index)] for index in range(len(names))]


async def test_bounds_are_said(world: World) -> None:
    run_id = await world.started_run()
    for metrics, buckets, refusal, path in (
        (["m"], 0, ChartRefused, "buckets"),
        ([], 10, ChartRefused, "metric"),
        (["m"], 1 << 20, TooLarge, "buckets"),
        ([str(n) for n in range(1000)], 10, TooLarge, "metric"),
        ([str(n) for n in range(200)], 5_001, TooLarge, "buckets"),
    ):
        with pytest.raises(refusal) as refused:
            await world.chart(run_id, metrics, buckets=buckets)
        assert refused.value.path == path


async def test_a_missing_file_is_an_error_and_no_shorter_chart(world: World) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1], [1.0])})
    await world.archive()
    world.files()[0].unlink()
    with pytest.raises(CorruptHistory):
        await world.chart(run_id, ["loss"])


async def test_readers_see_every_point_once_while_an_archiver_and_writers_work(world: World) -> None:
    run_id = await world.started_run()
    writing = True

    async def write() -> None:
        nonlocal writing
        for step in range(150):
            await world.log(run_id, codec.METRICS, metric_batch({"loss": ([step], [float(step)])}))
        writing = False

    async def archive(run: UUID) -> None:
        while writing:
            await world.archive(Policy(age_seconds=0, tail_seconds=0, file_batches=8))
            assert run

    async def look() -> None:
        seen = 0
        while writing:
            (series,) = await world.chart(run_id, ["loss"], buckets=1000)
            assert series.x.tolist() == list(range(series.points))
            assert series.points >= seen
            seen = series.points

    await asyncio.gather(write(), archive(run_id), look(), look())
    (series,) = await world.chart(run_id, ["loss"], buckets=1000)
    assert series.x.tolist() == list(range(150))


async def test_steps_that_fall_and_repeat_keep_their_order_of_arrival(world: World) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([5, 3, 5, 3], [1.0, 2.0, 3.0, 4.0])})
    await world.metrics(run_id, {"loss": ([3, 9, 5], [5.0, 6.0, 7.0])})
    for _ in range(2):
        (series,) = await world.chart(run_id, ["loss"])
        assert series.x.tolist() == [3, 3, 3, 5, 5, 5, 9]
        assert series.last.tolist() == [2.0, 4.0, 5.0, 1.0, 3.0, 7.0, 6.0]
        (one,) = await world.chart(run_id, ["loss"], buckets=1)
        assert (one.first.tolist(), one.last.tolist(), one.mean.tolist()) == ([2.0], [6.0], [4.0])
        await world.archive()
