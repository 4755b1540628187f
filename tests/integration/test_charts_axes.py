"""Charts over other x than steps and times, and on a logarithmic axis."""

import pytest

from events.errors import TooLarge
from projections.charts import sources
from projections.charts.questions import Question, axis
from tests.integration.charting import INF, NAN
from tests.integration.telemetry import World


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


async def test_a_metric_as_x_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1, 2, 3], [1.0, 2.0, 3.0])})
    await world.archive()
    monkeypatch.setattr(sources, "MAX_JOINED_POINTS", 2)
    with pytest.raises(TooLarge) as refused:
        await world.chart(run_id, ["loss"], x="loss")
    assert (refused.value.path, refused.value.limit) == ("x", 2)
    assert (await world.chart(run_id, ["loss"]))[0].points == 3


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
