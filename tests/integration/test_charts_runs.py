"""Charts of several runs, what they know of each, and what is new in them."""

import random

import pytest

from events import codec
from projections.charts import run_points, sources
from projections.charts.questions import Question, axis
from tests.integration.charting import assert_same, random_batch
from tests.integration.telemetry import TIME_US, World
from workers.archive_policy import Policy


@pytest.mark.parametrize("at_once", [0, 60, 1 << 21])
async def test_many_runs_in_one_chart_say_what_each_says_alone(
    world: World, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(sources, "AT_ONCE_POINTS", at_once)
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
