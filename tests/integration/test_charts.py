"""Charts over Parquet and the tail: the same answer wherever the points are, and never a wrong extreme."""

import asyncio
import random
from bisect import bisect_right
from math import isfinite, isnan
from statistics import fmean
from uuid import UUID

import numpy as np
import pytest

from events import codec
from events.errors import CorruptHistory, TooLarge
from events.telemetry import MetricColumns
from projections import chart_reader, chart_sources, run_points
from projections.buckets import Series, edges
from projections.chart_groups import Group
from projections.chart_questions import ChartRefused, Question, axis
from tests.integration.telemetry import TIME_US, World, metric_batch
from workers.archive_policy import Policy

NAN, INF = float("nan"), float("inf")
FIELDS = [name for name in Series.__struct_fields__ if name not in ("metric", "sampled", "points", "left_out", "mean")]

Row = tuple[int, int, float, str | None]
"""Step, time in microseconds, value, stage; in order of arrival."""


def assert_same(one: Series, other: Series) -> None:
    assert (one.metric, one.sampled, one.points) == (other.metric, other.sampled, other.points)
    assert one.left_out == other.left_out
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12, atol=1e-12)


def random_batch(choice: random.Random, metrics: list[str]) -> tuple[MetricColumns, dict[str, list[Row]]]:
    chosen = choice.sample(metrics, choice.randint(1, len(metrics)))
    staged = choice.random() < 0.5
    stages = (None, "warmup", "main")
    rows: dict[str, list[Row]] = {}
    start = choice.randint(-50, 500)
    for metric in chosen:
        steps = [start + choice.choice((index, -index, 0)) for index in range(choice.randint(1, 40))]
        rows[metric] = [
            (
                step,
                TIME_US + choice.randint(0, 300),
                choice.choice((choice.gauss(0, 1), choice.gauss(0, 1), NAN, INF, -INF, 0.0)),
                choice.choice(stages) if staged else None,
            )
            for step in steps
        ]
    every = [row for own in rows.values() for row in own]
    batch = MetricColumns(
        names=tuple(rows),
        counts=tuple(len(own) for own in rows.values()),
        step=np.array([row[0] for row in every], "<i8").tobytes(),
        time_us=np.array([row[1] for row in every], "<i8").tobytes(),
        value=np.array([row[2] for row in every], "<f8").tobytes(),
        stages=stages if staged else (),
        stage=np.array([stages.index(row[3]) for row in every], "<u2").tobytes() if staged else None,
    )
    return batch, rows


def expected_points(
    rows: list[Row], x: str, low: float | None, high: float | None, stage: str | None, origin_us: int
) -> list[tuple[float, float]]:
    """Return (x, value) in the order that a chart promises: x, step, arrival."""

    def of(row: Row) -> float:
        return row[0] if x == "step" else row[1] if x == "time" else (row[1] - origin_us) / 1e6

    kept = [
        row
        for row in rows
        if (low is None or of(row) >= low) and (high is None or of(row) <= high) and stage in (None, row[3])
    ]
    return [(of(row), row[2]) for row in sorted(kept, key=lambda row: (of(row), row[0]))]


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


@pytest.fixture(params=[0, 1 << 21], ids=["extents first", "all at once"])
def at_once_points(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart_sources, "AT_ONCE_POINTS", request.param)


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
    monkeypatch.setattr(chart_sources, "AT_ONCE_POINTS", 0)
    monkeypatch.setattr(chart_reader, "PART_POINTS", 2048)
    streamed = await world.chart(run_id, list(values), buckets=100)
    monkeypatch.setattr(chart_sources, "ALONE_POINTS", 1)
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


@pytest.mark.parametrize("at_once", [0, 60, 1 << 21])
async def test_many_runs_in_one_chart_say_what_each_says_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(chart_sources, "AT_ONCE_POINTS", at_once)
    choice = random.Random(at_once)
    metrics = ["acc", "loss", "rare"]
    runs = [await world.started_run() for _ in range(6)]
    for turn in range(3):
        for run_id in runs[1:]:
            await world.log(run_id, codec.METRICS, random_batch(choice, metrics)[0])
        if turn < 2:
            await world.archive()
    chosen = [runs[3], runs[0], runs[5], runs[1]]
    for asked in (
        {"x": "step", "buckets": 7},
        {"x": "time", "start": TIME_US + 20, "end": TIME_US + 250},
        {"x": "relative", "buckets": 4, "end": 1e12},
        {"x": "step", "stage": "main"},
        {"x": "acc", "buckets": 9},
    ):
        kind = str(asked.pop("x"))
        question = Question(metrics=tuple(metrics), axis=axis(kind), **asked)  # type: ignore[arg-type]
        together = await world.charted(chosen, question)
        assert [one.run_id for one in together.runs] == chosen
        assert together.position == (await world.ledger.head(world.ledger_id))[0]
        for run_id, curves in zip(chosen, together.runs, strict=True):
            alone = await world.chart(run_id, metrics, x=kind, **asked)
            for one, other in zip(curves.series, alone, strict=True):
                assert_same(one, other)
    assert [one.known for one in together.runs][1] == [False, False, False]


@pytest.mark.parametrize("archived", [False, True])
async def test_over_another_metric_a_point_lies_where_that_metric_was_at_its_step(world: World, archived: bool) -> None:  # noqa: FBT001
    run_id = await world.started_run()
    await world.metrics(
        run_id, {"tokens": ([1, 2, 3, 4, 5], [10.0, 30.0, 20.0, NAN, INF]), "loss": ([1, 2], [5.0, 4.0])}
    )
    await world.metrics(run_id, {"loss": ([3, 3, 4, 5, 6], [3.0, 2.5, 2.0, 1.5, 1.0])}, stage="late")
    await world.metrics(run_id, {"tokens": ([1], [15.0])})
    if archived:
        await world.archive()
    (series,) = await world.chart(run_id, ["loss"], x="tokens")
    assert series.x.tolist() == [15.0, 20.0, 20.0, 30.0], "of one step, what came last"
    assert series.last.tolist() == [5.0, 3.0, 2.5, 4.0]
    assert (series.points, series.left_out) == (4, 3), "two have no finite x, one has none at all"
    (narrow,) = await world.chart(run_id, ["loss"], x="tokens", start=16, end=29.5)
    assert (narrow.x.tolist(), narrow.left_out) == ([20.0, 20.0], 3)
    (staged,) = await world.chart(run_id, ["loss"], x="tokens", stage="late")
    assert (staged.last.tolist(), staged.left_out) == ([3.0, 2.5], 3), "a stage is the curve's, not its x's"
    (itself,) = await world.chart(run_id, ["tokens"], x="tokens")
    assert itself.x.tolist() == [15.0, 15.0, 20.0, 30.0]
    (bucketed,) = await world.chart(run_id, ["loss"], x="tokens", buckets=2)
    assert (bucketed.count.tolist(), bucketed.max.tolist()) == ([3, 1], [5.0, 4.0])
    (nowhere,) = await world.chart(run_id, ["loss"], x="nothing")
    assert (nowhere.points, nowhere.left_out) == (0, 7)


@pytest.mark.usefixtures("at_once_points")
@pytest.mark.parametrize("archived", [False, True])
async def test_a_logarithmic_axis_has_equal_ratios_and_counts_what_it_cannot_show(world: World, archived: bool) -> None:  # noqa: FBT001
    run_id = await world.started_run()
    steps = [-5, 0, *range(1, 513)]
    await world.metrics(run_id, {"loss": (steps, [float(step) for step in steps])})
    if archived:
        await world.archive()
    log = Question(metrics=("loss",), axis=axis("step", log=True), buckets=3)
    (series,) = (await world.charted([run_id], log)).runs[0].series
    assert series.x_first.tolist() == [1, 8, 64]
    assert series.x.tolist() == [7, 63, 512]
    assert (series.points, series.left_out) == (512, 2)


async def test_a_chart_tells_a_metric_that_never_was_from_one_that_has_nothing_here(world: World) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1], [1.0])})
    chart = await world.charted([run_id], Question(metrics=("loss", "typo"), start=100))
    assert (chart.runs[0].known, [one.points for one in chart.runs[0].series]) == ([True, False], [0, 0])


@pytest.mark.usefixtures("at_once_points")
@pytest.mark.parametrize("seed", range(3))
async def test_the_answers_to_what_is_new_add_up_to_the_whole(world: World, seed: int) -> None:
    choice = random.Random(seed)
    runs = [await world.started_run() for _ in range(3)]
    metrics = ["acc", "loss"]
    position = (await world.charted(runs, Question(metrics=("loss",)))).position
    pieces: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for _ in range(8):
        for run_id in choice.sample(runs, 2):
            await world.log(run_id, codec.METRICS, random_batch(choice, metrics)[0])
        if choice.random() < 0.5:
            await world.archive(Policy(age_seconds=0, tail_seconds=0, file_batches=choice.randint(1, 4)))
        if choice.random() < 0.7:
            chart = await world.charted(runs, Question(metrics=tuple(metrics), after=position))
            position = chart.position
            for run, curves in enumerate(chart.runs):
                for metric, series in enumerate(curves.series):
                    assert not series.sampled
                    points = zip(series.x.tolist(), map(repr, series.last.tolist()), strict=True)
                    pieces.setdefault((run, metric), []).extend(points)
    whole = await world.charted(runs, Question(metrics=tuple(metrics)))
    last = await world.charted(runs, Question(metrics=tuple(metrics), after=position))
    for run, (curves, rest) in enumerate(zip(whole.runs, last.runs, strict=True)):
        for metric, (series, more) in enumerate(zip(curves.series, rest.series, strict=True)):
            told = pieces.get((run, metric), [])
            told += zip(more.x.tolist(), map(repr, more.last.tolist()), strict=True)
            assert sorted(told) == sorted(zip(series.x.tolist(), map(repr, series.last.tolist()), strict=True))


async def test_how_new_a_run_is_does_not_change_when_it_is_archived(world: World) -> None:
    runs = [await world.started_run() for _ in range(2)]
    stored = [await world.stored(run_id) for run_id in runs]
    assert [one.position for one in await run_points.newest(world.pool, stored)] == [0, 0]
    at = (await world.metrics(runs[0], {"loss": ([1], [1.0])})).last
    await world.lines(runs[0], "a line")
    for hot in (True, False):
        state = await run_points.newest(world.pool, stored)
        assert [(one.position, one.hot) for one in state] == [(at, hot), (0, False)]
        chart = await world.charted(runs, Question(metrics=("loss",)))
        assert [one.newest for one in chart.runs] == state
        await world.archive()


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
    monkeypatch.setattr(chart_sources, "AT_ONCE_POINTS", at_once)
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


async def test_a_metric_as_x_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1, 2, 3], [1.0, 2.0, 3.0])})
    await world.archive()
    monkeypatch.setattr(chart_sources, "MAX_JOINED_POINTS", 2)
    with pytest.raises(TooLarge) as refused:
        await world.chart(run_id, ["loss"], x="loss")
    assert (refused.value.path, refused.value.limit) == ("x", 2)
    assert (await world.chart(run_id, ["loss"]))[0].points == 3


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
