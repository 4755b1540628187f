"""Many fall silent at once: an incident, in which nobody is declared before we are known to hear."""

from events.beats import Beat
from events.types import Cause, Status
from projections import incidents
from tests.integration.fleet import Fleet, worker_beat
from tests.integration.watch import CRASHED, UNRESPONSIVE, Watch


async def incidents_of(fleet: Fleet) -> list[tuple[int, int, bool]]:
    return [(one.silent, one.watched, one.closed_at is not None) for one in await incidents.latest(fleet.pool)]


async def test_a_mass_silence_is_held_until_the_canaries_worked_for_a_period_and_declared_then(
    fleet: Fleet, watch: Watch
):
    silent = [await fleet.tracked() for _ in range(6)]
    alive = [await fleet.tracked() for _ in range(4)]
    everybody = Beat(sender="api-1", kind="api", runs=dict.fromkeys([*silent, *alive], 1))
    watch.beats = [everybody]
    await watch.passes(10)
    watch.beats = [Beat(sender="api-1", kind="api", runs=dict.fromkeys(alive, 1))]
    await watch.passes(UNRESPONSIVE + 1)
    assert await incidents_of(fleet) == [(6, 10, False)]
    await watch.passes(CRASHED - 3)
    assert {(await fleet.run(run_id)).status for run_id in silent} == {Status.RUNNING}, "silent for longer than allowed"
    assert {tuple(await fleet.types(run_id)) for run_id in silent} == {("run.created", "run.started")}
    await watch.passes(5)
    assert {(await fleet.run(run_id)).status for run_id in silent} == {Status.CRASHED}
    assert {(await fleet.run(run_id)).status for run_id in alive} == {Status.RUNNING}
    await watch.passes(1)
    assert await incidents_of(fleet) == [(6, 10, True)]


async def test_a_mass_silence_that_ends_by_itself_crashes_nobody(fleet: Fleet, watch: Watch):
    silent = [await fleet.tracked() for _ in range(5)]
    voices = Beat(sender="api-1", kind="api", runs=dict.fromkeys(silent, 1))
    watch.beats = [voices]
    await watch.passes(10)
    watch.beats = []
    await watch.passes(CRASHED + 5)
    watch.beats = [voices]
    await watch.passes(100)
    assert {tuple(await fleet.types(run_id)) for run_id in silent} == {("run.created", "run.started")}
    assert await incidents_of(fleet) == [(5, 5, True)]


async def test_a_hold_goes_on_while_the_canaries_do_not_work(fleet: Fleet, watch: Watch):
    worker = await fleet.worker("w")
    silent = [await fleet.managed(worker) for _ in range(5)]
    watch.beats = [worker_beat(worker, dict.fromkeys(silent, 1))]
    await watch.passes(10)
    watch.beats = []
    watch.deafen()
    await watch.passes(20 * CRASHED)
    assert {(await fleet.run(run_id)).status for run_id in silent} == {Status.RUNNING}
    watch.nats_is_up = True
    await watch.passes(CRASHED - 1)
    assert {(await fleet.run(run_id)).status for run_id in silent} == {Status.RUNNING}
    await watch.passes(5)
    assert {(await fleet.run(run_id)).cause for run_id in silent} == {Cause.WORKER_LOST}


async def test_four_of_four_and_a_single_run_are_never_held(fleet: Fleet, watch: Watch):
    silent = [await fleet.tracked() for _ in range(4)]
    watch.beats = [Beat(sender="api-1", kind="api", runs=dict.fromkeys(silent, 1))]
    await watch.passes(10)
    watch.beats = []
    await watch.passes(CRASHED + 1)
    assert {(await fleet.run(run_id)).status for run_id in silent} == {Status.CRASHED}
    assert await incidents_of(fleet) == []
