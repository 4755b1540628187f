"""Runs whose worker lives and yet does not get them started."""

from collections.abc import AsyncIterator

import pytest
from nats.aio.client import Client

from events import bus
from events.settings import SettingsError, from_environment
from events.types import Cause, Status
from tests.integration.fleet import Fleet, worker_beat
from tests.servers import NatsServer
from workers.scheduler import Scheduler


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    connected = await bus.connect(nats.url("roles"), name="test")
    await bus.ensure_streams(connected.jetstream())
    yield connected
    await connected.close()


async def test_a_start_that_takes_longer_than_was_set_fails_and_one_that_is_killed_is_left_alone(
    fleet: Fleet, client: Client
):
    worker = await fleet.worker("w", slots=4)
    late, killed, running = [await fleet.queued() for _ in range(3)]
    for run_id in (late, killed):
        await fleet.claim(run_id, worker)
    await fleet.kill(killed)
    await fleet.managed(worker)
    for start_seconds, status in ((3_600.0, Status.STARTING), (1e-6, Status.FAILED)):
        scheduler = Scheduler(fleet.ledger, client, client.jetstream(), start_seconds=start_seconds)
        scheduler.hear(worker_beat(worker, {late: 1, killed: 1}))
        await scheduler.step()
        assert (await fleet.run(late)).status is status
    run = await fleet.run(late)
    assert (run.cause, run.error and run.error.message) == (
        Cause.START_DEADLINE,
        "its worker did not start it within 1e-06 s (TACHOGRAPH_START_SECONDS)",
    )
    assert (await fleet.run(killed)).status is Status.STARTING
    assert (await fleet.run(running)).status is Status.QUEUED


@pytest.mark.parametrize("wrong", ["0", "-1", "soon", "inf", "nan"])
def test_the_time_for_a_start_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch, wrong: str):
    monkeypatch.setenv("TACHOGRAPH_DATABASE_URL", "postgresql://nowhere")
    monkeypatch.setenv("TACHOGRAPH_NATS_URL", "nats://nowhere")
    assert from_environment().start_seconds == 900.0
    monkeypatch.setenv("TACHOGRAPH_START_SECONDS", wrong)
    with pytest.raises(SettingsError, match=f"TACHOGRAPH_START_SECONDS is '{wrong}', not a number of seconds"):
        from_environment()
