"""The monitor, step by step, under a clock that the tests move."""

import asyncio

import msgspec
import pytest
from nats.aio.client import Client

from events import bus
from events.beats import Beat, beat_subject
from events.commands import AttachRun, EndRun
from events.ids import uuid7
from events.types import Cause, Liveness, Status
from projections import tenancy
from stack import Nats
from tests.api import SECONDS, until
from tests.integration.fleet import Fleet, worker_beat
from tests.integration.watch import CRASHED, UNRESPONSIVE, Watch
from workers.lost_workers import LOST_SECONDS


async def test_silence_is_unresponsive_first_and_a_crash_later_and_a_voice_ends_both(fleet: Fleet, watch: Watch):
    run_id = await fleet.tracked()
    voice = Beat(sender="api-1", kind="api", runs={run_id: 1})
    watch.beats = [voice]
    await watch.passes(100)
    assert await fleet.types(run_id) == ["run.created", "run.started"]
    watch.beats = []
    await watch.passes(UNRESPONSIVE - 1)
    assert not (await fleet.run(run_id)).unresponsive
    await watch.passes(2)
    assert (await fleet.run(run_id)).unresponsive
    watch.beats = [voice]
    await watch.passes(1)
    assert not (await fleet.run(run_id)).unresponsive
    watch.beats = []
    await watch.passes(CRASHED - 1)
    assert (await fleet.run(run_id)).status is Status.RUNNING
    await watch.passes(3)
    crashed = await fleet.run(run_id)
    assert (crashed.status, crashed.cause) == (Status.CRASHED, Cause.HEARTBEAT_LOST)
    await watch.passes(200)
    watch.beats = [voice]
    await watch.passes(1)
    recovered = await fleet.run(run_id)
    assert (recovered.status, recovered.cause, recovered.ended_at) == (Status.RUNNING, None, None)
    await watch.passes(100)
    assert await fleet.types(run_id) == [
        "run.created",
        "run.started",
        "run.unresponsive",
        "run.responsive",
        "run.unresponsive",
        "run.crashed",
        "run.recovered",
    ]


async def test_a_run_that_never_spoke_has_its_periods_from_when_it_was_first_seen(fleet: Fleet, watch: Watch):
    await watch.passes(50)
    run_id = await fleet.tracked()
    await watch.passes(CRASHED - 1)
    assert (await fleet.run(run_id)).status is Status.RUNNING
    await watch.passes(5)
    assert (await fleet.run(run_id)).status is Status.CRASHED


async def test_a_silent_run_that_was_to_be_killed_is_killed_and_not_crashed(fleet: Fleet, watch: Watch):
    worker = await fleet.worker("w")
    for mode in ("tracked", "managed"):
        run_id = await (fleet.tracked() if mode == "tracked" else fleet.managed(worker))
        await fleet.kill(run_id)
        await watch.passes(CRASHED + 5)
        run = await fleet.run(run_id)
        assert (run.status, run.cause) == (Status.KILLED, Cause.KILLED_BY_USER)
        assert "run.crashed" not in await fleet.types(run_id)
        watch.beats = [Beat(sender="api-1", kind="api", runs={run_id: 1}), worker_beat(worker, {run_id: 1})]
        await watch.passes(10)
        assert (await fleet.run(run_id)).status is Status.KILLED, "no late beat brings a killed run back"
        watch.beats = []


async def test_after_our_own_pause_everybody_has_fresh_grace(fleet: Fleet, watch: Watch):
    run_id = await fleet.tracked()
    watch.beats = [Beat(sender="api-1", kind="api", runs={run_id: 1})]
    await watch.passes(20)
    watch.beats = []
    watch.clock.now += 3_600
    await watch.passes(UNRESPONSIVE - 1)
    assert await fleet.types(run_id) == ["run.created", "run.started"]
    await watch.passes(CRASHED)
    assert (await fleet.run(run_id)).status is Status.CRASHED


async def test_while_the_api_is_silent_no_tracked_run_is_declared_and_afterwards_grace_is_fresh(
    fleet: Fleet, watch: Watch
):
    run_id = await fleet.tracked()
    await watch.passes(5)
    watch.api_is_up = False
    await watch.passes(10 * CRASHED)
    watch.api_is_up = True
    await watch.passes(UNRESPONSIVE - 1)
    assert await fleet.types(run_id) == ["run.created", "run.started"]
    await watch.passes(CRASHED)
    assert (await fleet.run(run_id)).status is Status.CRASHED


async def test_a_monitor_that_takes_over_gives_fresh_grace_too(fleet: Fleet, client: Client, watch: Watch):
    run_id = await fleet.tracked()
    await watch.passes(CRASHED - 5)
    successor = Watch(fleet, client)
    successor.clock.now = watch.clock.now
    await successor.monitor.start()
    await successor.passes(UNRESPONSIVE + 1)
    assert (await fleet.run(run_id)).status is Status.RUNNING
    await successor.monitor.stop()


async def test_only_the_latest_attempts_beats_keep_a_run_alive(fleet: Fleet, watch: Watch):
    run_id = await fleet.tracked()
    await fleet.do(run_id, AttachRun())
    watch.beats = [Beat(sender="api-1", kind="api", runs={run_id: 1})]
    await watch.passes(CRASHED + 5)
    crashed = await fleet.run(run_id)
    assert (crashed.status, crashed.epoch) == (Status.CRASHED, 2)
    await watch.passes(50)
    assert (await fleet.run(run_id)).status is Status.CRASHED, "a zombie of the first attempt brings nothing back"
    watch.beats = [Beat(sender="api-1", kind="api", runs={run_id: 2})]
    await watch.passes(1)
    assert (await fleet.run(run_id)).status is Status.RUNNING


async def test_a_managed_run_lives_by_its_own_workers_beats_alone(fleet: Fleet, watch: Watch):
    worker, other = await fleet.worker("w"), await fleet.worker("other")
    run_id = await fleet.managed(worker)
    watch.beats = [worker_beat(worker, {run_id: 1})]
    await watch.passes(60)
    assert await fleet.types(run_id) == ["run.created", "run.starting", "run.started"]
    strangers = [worker_beat(other, {run_id: 1}), Beat(sender="api-1", kind="api", runs={run_id: 1})]
    watch.beats = strangers
    await watch.passes(CRASHED + 5)
    crashed = await fleet.run(run_id)
    assert (crashed.status, crashed.cause) == (Status.CRASHED, Cause.WORKER_LOST)
    await watch.passes(20)
    assert (await fleet.run(run_id)).status is Status.CRASHED
    watch.beats = [worker_beat(worker, {run_id: 1})]
    await watch.passes(1)
    assert (await fleet.run(run_id)).status is Status.RUNNING


async def test_a_run_whose_worker_is_lost_before_the_start_goes_back_to_the_queue(fleet: Fleet, watch: Watch):
    run_id = await fleet.queued()
    await fleet.claim(run_id, await fleet.worker("w"))
    await watch.passes(CRASHED + 5)
    run = await fleet.run(run_id)
    assert (run.status, run.worker) == (Status.QUEUED, None)


async def test_ended_and_queued_runs_are_not_watched(fleet: Fleet, watch: Watch):
    queued, ended = await fleet.queued(), await fleet.tracked()
    await fleet.do(ended, EndRun(epoch=1, status=Status.COMPLETED))
    watch.beats = [Beat(sender="api-1", kind="api", runs={ended: 1, uuid7(): 1})]
    await watch.passes(100)
    assert (await fleet.run(queued)).status is Status.QUEUED
    assert (await fleet.run(ended)).status is Status.COMPLETED


async def test_many_runs_fall_silent_and_one_speaks(fleet: Fleet, watch: Watch):
    silent = [await fleet.tracked() for _ in range(4)]
    alive = [await fleet.tracked() for _ in range(5)]
    watch.beats = [Beat(sender="api-1", kind="api", runs=dict.fromkeys(alive, 1))]
    await watch.passes(CRASHED + 5)
    assert {(await fleet.run(run_id)).status for run_id in silent} == {Status.CRASHED}
    assert {(await fleet.run(run_id)).status for run_id in alive} == {Status.RUNNING}


async def test_beats_come_over_nats_and_junk_among_them_does_no_harm(
    fleet: Fleet, watch: Watch, client: Client, caplog: pytest.LogCaptureFixture
):
    run_id = await fleet.tracked()
    await watch.passes(CRASHED + 5)
    assert (await fleet.run(run_id)).status is Status.CRASHED
    async with asyncio.timeout(SECONDS):
        while (await fleet.run(run_id)).status is Status.CRASHED:
            for junk in (b"\xff not a beat", b'{"sender":"nobody","kind":"worker"}'):
                await client.publish(beat_subject("api-2"), junk)
            beat = Beat(sender="api-2", kind="api", runs={run_id: 1})
            await client.publish(beat_subject("api-2"), msgspec.json.encode(beat))
            await client.flush()
            await watch.monitor.step()
    assert caplog.text.count("NATS:") == 0, "what is wrong with a beat is found before it is used"
    assert "a heartbeat on tachograph.heartbeats.api-2 cannot be read: badly formed" in caplog.text


async def test_while_nats_is_away_nothing_is_declared(fleet: Fleet, own_nats: Nats):
    client = await bus.connect(own_nats.url(), name="test")
    watch = Watch(fleet, client)
    await watch.monitor.start()
    run_id = await fleet.tracked()
    await watch.passes(10)
    await asyncio.to_thread(own_nats.kill)
    await asyncio.to_thread(until, lambda: not client.is_connected, "the loss of NATS was noticed")
    await watch.passes(300)
    assert await fleet.types(run_id) == ["run.created", "run.started"]
    await asyncio.to_thread(own_nats.start)
    await asyncio.to_thread(until, lambda: client.is_connected, "NATS is there again")
    await watch.passes(UNRESPONSIVE - 1)
    assert await fleet.types(run_id) == ["run.created", "run.started"]
    await watch.passes(CRASHED)
    assert (await fleet.run(run_id)).status is Status.CRASHED
    await client.close()


async def test_each_run_has_its_own_periods_and_a_crash_is_declared_within_a_second_of_them(fleet: Fleet, watch: Watch):
    quick = await fleet.tracked(Liveness(beat_seconds=1, unresponsive_seconds=2, crashed_seconds=4))
    slow = await fleet.tracked(Liveness(beat_seconds=60, unresponsive_seconds=120, crashed_seconds=600))
    watch.beats = [Beat(sender="api-1", kind="api", runs={quick: 1, slow: 1})]
    await watch.passes(5)
    watch.beats = []
    began = watch.clock.now
    while (await fleet.run(quick)).status is Status.RUNNING:
        watch.clock.now += 0.5
        watch.monitor.hear(Beat(sender="api-0", kind="api"))
        await watch.monitor.step()
    assert 4 <= watch.clock.now - began <= 5
    await watch.passes(599 - (watch.clock.now - began))
    assert (await fleet.run(slow)).status is Status.RUNNING
    await watch.passes(2)
    assert (await fleet.run(slow)).status is Status.CRASHED


async def test_a_silent_worker_is_lost_after_its_runs_and_back_when_it_is_heard(fleet: Fleet, watch: Watch):
    worker = await fleet.worker("w")
    run_id = await fleet.managed(worker)
    watch.beats = [worker_beat(worker, {run_id: 1})]
    await watch.passes(LOST_SECONDS + 10)
    watch.beats = []

    async def lost() -> bool:
        known = await tenancy.worker(fleet.pool, worker)
        assert known is not None
        return known.lost_at is not None

    await watch.passes(LOST_SECONDS - 5)
    assert not await lost()
    assert (await fleet.run(run_id)).cause is Cause.WORKER_LOST
    await watch.passes(10)
    assert await lost()
    watch.beats = [worker_beat(worker, {run_id: 1})]
    await watch.passes(1)
    assert not await lost()
    assert (await fleet.run(run_id)).status is Status.RUNNING
    organisation = await fleet.ledger.read_stream(fleet.organisation_id, worker)
    assert [event.type for event in organisation] == ["worker.registered", "worker.lost", "worker.returned"]
