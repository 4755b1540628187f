"""What the scheduler does about ends: retries, drained workers, credits that are used up."""

import asyncio

import pytest
from nats.aio.client import Client

from events.billing import CreditsGranted
from events.commands import ClaimRun, EndRun, MarkCrashed, MarkResponsive, ReportStarted
from events.errors import Fenced
from events.ids import uuid7
from events.organisation import PlanChanged, WorkerDrained, WorkerResumed
from events.types import Cause, Rate, Resources, Status
from projections import billing, queue, tenancy
from projections.apply import advance
from projections.credits import Credits
from projections.execute import asked_by, record
from tests.integration.desk import Desk, starts
from tests.integration.fleet import Fleet

FAILURE = EndRun(epoch=1, status=Status.FAILED, exit_code=1)


async def test_a_run_that_asked_for_it_is_followed_by_another_as_often_as_it_asked(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w")
    first = await fleet.managed(worker, retries=2)
    await fleet.do(first, FAILURE)
    await desk.scheduler.step()
    chain = [first]
    for left in (1, 0):
        successor = (await fleet.run(chain[-1])).retried_by
        assert successor is not None
        run = await fleet.run(successor)
        assert (run.status, run.retry_of, run.retries) == (Status.QUEUED, chain[-1], left)
        assert (run.command, run.resources, run.config) == (("true",), Resources(), {})
        assert run.name.endswith(f"-retry-{2 - left}")
        await fleet.claim(successor, worker)
        await fleet.do(successor, ReportStarted(epoch=1))
        await fleet.do(successor, FAILURE)
        await desk.scheduler.step()
        chain.append(successor)
    last = await fleet.run(chain[-1])
    assert (last.status, last.retried_by) == (Status.FAILED, None)
    assert await fleet.pool.fetchval("select count(*) from run") == 3


async def test_kills_and_lack_of_memory_are_not_retried_and_a_retry_is_made_once(
    fleet: Fleet, desk: Desk, client: Client
):
    worker = await fleet.worker("w", slots=4)
    killed, starved, failed = [await fleet.managed(worker, retries=1) for _ in range(3)]
    await fleet.do(killed, EndRun(epoch=1, status=Status.KILLED))
    await fleet.do(starved, EndRun(epoch=1, status=Status.FAILED, cause=Cause.OUT_OF_MEMORY))
    await fleet.do(failed, FAILURE)
    await asyncio.gather(desk.scheduler.step(), Desk(fleet, client).scheduler.step())
    assert await fleet.pool.fetchval("select count(*) from run") == 4
    assert [(await fleet.run(run_id)).retried_by for run_id in (killed, starved)] == [None, None]
    assert (await fleet.run(failed)).retried_by is not None


async def test_a_crashed_run_is_retried_after_a_grace_and_does_not_come_back_then(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w")
    run_id = await fleet.managed(worker, retries=1)
    await fleet.do(run_id, MarkCrashed(epoch=1, cause=Cause.WORKER_LOST, last_heartbeat_at=None, silence_seconds=50))
    await desk.orders()
    assert (await fleet.run(run_id)).retried_by is None, "it may still come back"
    await fleet.pool.execute("update run set ended_at = ended_at - interval '46 seconds' where run_id = $1", run_id)
    await desk.orders()
    assert (await fleet.run(run_id)).retried_by is not None
    with pytest.raises(Fenced, match="has taken over"):
        await fleet.do(run_id, MarkResponsive(epoch=1, silence_seconds=60))


async def test_a_drained_worker_gets_nothing_until_it_is_taken_back(fleet: Fleet, desk: Desk):
    worker, run_id = await fleet.worker("w"), await fleet.queued()

    async def drain(version: int, *, drained: bool) -> None:
        event = WorkerDrained(worker=worker) if drained else WorkerResumed(worker=worker)
        await record(
            fleet.ledger,
            ledger_id=fleet.organisation_id,
            stream=worker,
            expected_version=version,
            events=[event],
            inline=tenancy.worker_drain(worker, version=version + 1, drained=drained),
            request=asked_by("key:test"),
        )
        desk.hear(worker)

    await drain(1, drained=True)
    assert await desk.orders() == []
    (waiting,) = await queue.of_organisation(fleet.pool, fleet.organisation_id)
    assert waiting.reason == "workers_away"
    await drain(2, drained=False)
    assert starts(await desk.orders()) == [(worker, run_id)]


async def test_a_plan_may_end_what_runs_when_the_credits_are_used_up(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w", slots=2)
    dear = Rate(micro_credits_per_hour=10**12, count=1)
    paid, free = await fleet.queued(), await fleet.managed(worker)
    claimed = await fleet.do(paid, ClaimRun(worker=worker, command_id=uuid7(), accelerators=("cpu:1",), rate=dear))
    await fleet.do(paid, ReportStarted(epoch=claimed.epoch))
    await advance_all(fleet, Credits())
    await billing.enter(fleet.ledger, fleet.organisation_id, CreditsGranted(micro_credits=1), asked_by("key:test"))
    desk.hear(worker, runs={paid: 1, free: 1})
    assert await desk.orders() == []
    assert (await fleet.run(paid)).kill is None
    known = await tenancy.organisation(fleet.pool, fleet.organisation_id)
    await record(
        fleet.ledger,
        ledger_id=fleet.organisation_id,
        stream=fleet.organisation_id,
        expected_version=known.version,
        events=[PlanChanged(plan="strict", plan_limits=known.plan_limits, kill_when_exhausted=True)],
        inline=tenancy.organisation_row(
            version=known.version + 1, name="o", max_active_runs=5, plan="strict", kill_when_exhausted=True
        ),
        request=asked_by("key:test"),
    )
    ordered = await desk.orders()
    assert [(order.kind, order.run_id, order.cause) for _, order in ordered] == [("kill", paid, "credits_exhausted")]
    assert (await fleet.run(free)).kill is None


async def advance_all(fleet: Fleet, projection: Credits) -> None:
    while await advance(fleet.ledger, projection, fleet.ledger_id):
        pass
