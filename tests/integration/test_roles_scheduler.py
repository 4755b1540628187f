"""The scheduler, step by step, under a clock that the tests move."""

from uuid import UUID

import pytest
from nats.aio.client import Client

from events.billing import CreditsAdjusted, CreditsGranted
from events.commands import CloseRun, DeleteRun, EndRun, MarkCrashed, ReportStarted, RequeueRun
from events.errors import Rejected
from events.types import Cause, Resources, Status
from projections import billing, queue
from projections.execute import asked_by
from tests.integration.desk import Desk, opened_desk, starts
from tests.integration.fleet import Fleet, opened_fleet
from tests.servers import Database
from workers import scheduler as scheduling
from workers.balances import LOOK_SECONDS
from workers.orders import CLAIM_SECONDS, KILL_REPEAT_SECONDS
from workers.scheduler import WORKER_ALIVE_SECONDS


async def test_queued_runs_go_first_come_first_served_to_a_worker_with_free_slots(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w", slots=2)
    queued = [await fleet.queued() for _ in range(3)]
    assert await desk.orders() == [], "nobody has heard of a worker"
    desk.hear(worker)
    orders = await desk.orders()
    assert starts(orders) == [(worker, queued[0]), (worker, queued[1])]
    assert {order.ledger_id for _, order in orders} == {fleet.ledger_id}
    assert len({order.command_id for _, order in orders}) == 2
    for run_id in queued[:2]:
        await fleet.claim(run_id, worker)
    assert await desk.orders() == []
    await fleet.do(queued[0], ReportStarted(epoch=1))
    await fleet.do(queued[0], EndRun(epoch=1, status=Status.COMPLETED))
    assert starts(await desk.orders()) == [(worker, queued[2])]


async def test_an_order_that_nobody_takes_is_given_again(fleet: Fleet, desk: Desk):
    first, second = await fleet.worker("a"), await fleet.worker("b")
    run_id = await fleet.queued()
    desk.hear(first)
    ((worker, order),) = await desk.orders()
    assert (worker, order.run_id) == (first, run_id)
    desk.clock.now += CLAIM_SECONDS - 1
    desk.hear(first)
    assert await desk.orders() == []
    desk.clock.now += 2
    desk.hear(second)
    desk.hear(first, draining=True)
    ((worker, again),) = await desk.orders()
    assert (worker, again.run_id) == (second, run_id)
    assert again.command_id != order.command_id
    await fleet.claim(run_id, second)
    desk.clock.now += 10 * CLAIM_SECONDS
    desk.hear(first, second)
    assert await desk.orders() == []


async def test_a_run_that_was_given_back_is_ordered_again(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w")
    run_id = await fleet.queued()
    desk.hear(worker)
    assert starts(await desk.orders()) == [(worker, run_id)]
    await fleet.claim(run_id, worker)
    assert await desk.orders() == []
    await fleet.do(run_id, RequeueRun(epoch=1))
    assert starts(await desk.orders()) == [(worker, run_id)]


async def test_a_worker_that_is_silent_draining_or_of_another_kind_gets_nothing(fleet: Fleet, desk: Desk):
    silent, draining, cpu = await fleet.worker("s"), await fleet.worker("d"), await fleet.worker("c", slots=4)
    gpu = await fleet.worker("g", slots=2, kind="cuda:h200")
    desk.hear(silent)
    desk.clock.now += WORKER_ALIVE_SECONDS
    desk.hear(draining, draining=True)
    needs = [Resources(accelerator="cuda", count=2), Resources(accelerator="cuda:h200"), Resources(count=3)]
    large, named, plain = [await fleet.queued(need) for need in needs]
    assert await desk.orders() == []
    desk.hear(cpu)
    assert starts(await desk.orders()) == [(cpu, plain)]
    desk.hear(gpu)
    assert starts(await desk.orders()) == [(gpu, large)]
    await fleet.claim(large, gpu)
    assert await desk.orders() == []
    assert (await fleet.run(named)).status is Status.QUEUED


async def test_no_more_runs_are_active_than_the_plan_allows(database: Database, client: Client):
    async with opened_fleet(database.url, max_active_runs=2) as fleet:
        desk = await opened_desk(fleet, client)
        worker = await fleet.worker("w", slots=8)
        queued = [await fleet.queued() for _ in range(4)]
        await fleet.tracked()
        desk.hear(worker)
        assert starts(await desk.orders()) == [(worker, queued[0]), (worker, queued[1])]
        await fleet.claim(queued[0], worker)
        assert await desk.orders() == []
        await fleet.kill(queued[1])
        assert starts(await desk.orders()) == [(worker, queued[2])]


async def test_a_scheduler_that_takes_over_knows_what_is_running(fleet: Fleet, client: Client, desk: Desk):
    worker = await fleet.worker("w", slots=2)
    running = await fleet.managed(worker)
    waiting = [await fleet.queued() for _ in range(2)]
    desk.hear(worker, runs={running: 1})
    assert starts(await desk.orders()) == [(worker, waiting[0])]


async def test_a_crashed_run_holds_its_slot_while_its_worker_says_so(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w")
    lost = await fleet.managed(worker)
    silence = MarkCrashed(epoch=1, cause=Cause.WORKER_LOST, last_heartbeat_at=None, silence_seconds=50)
    await fleet.do(lost, silence)
    assert (await fleet.run(lost)).status is Status.CRASHED
    waiting = await fleet.queued()
    desk.hear(worker, runs={lost: 1})
    assert await desk.orders() == []
    desk.hear(worker)
    assert starts(await desk.orders()) == [(worker, waiting)]


async def test_whoever_holds_a_run_that_was_deleted_is_told_to_end_it(fleet: Fleet, desk: Desk):
    worker, other = await fleet.worker("w"), await fleet.worker("other")
    lost = await fleet.managed(worker)
    await fleet.do(lost, MarkCrashed(epoch=1, cause=Cause.WORKER_LOST, last_heartbeat_at=None, silence_seconds=50))
    await fleet.do(lost, DeleteRun(reason="wrong data"))
    desk.hear(other)
    assert await desk.orders() == []
    desk.hear(worker, runs={lost: 1})
    ((ordered, order),) = await desk.orders()
    assert (ordered, order.kind, order.run_id, order.epoch) == (worker, "kill", lost, 1)
    desk.clock.now += KILL_REPEAT_SECONDS + 1
    ((ordered, _),) = await desk.orders()
    assert ordered == worker
    desk.hear(worker)
    desk.clock.now += KILL_REPEAT_SECONDS + 1
    assert await desk.orders() == []


async def test_a_kill_is_ordered_and_repeated_until_the_run_has_ended(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w")
    run_id = await fleet.managed(worker)
    assert await desk.orders() == []
    await fleet.kill(run_id, grace_seconds=60)
    ((ordered, order),) = await desk.orders()
    assert (ordered, order.kind, order.run_id, order.grace_seconds) == (worker, "kill", run_id, 60)
    assert order.cause == Cause.KILLED_BY_USER
    assert await desk.orders() == []
    desk.clock.now += KILL_REPEAT_SECONDS + 1
    ((_, again),) = await desk.orders()
    assert again.command_id == order.command_id
    await fleet.do(run_id, EndRun(epoch=1, status=Status.KILLED))
    desk.clock.now += KILL_REPEAT_SECONDS + 1
    assert await desk.orders() == []


async def test_a_kill_that_nobody_confirms_is_declared_and_the_attempt_fenced(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w")
    managed, tracked = await fleet.managed(worker), await fleet.tracked()
    for run_id in (managed, tracked):
        await fleet.kill(run_id, grace_seconds=10)
    assert [order.run_id for _, order in await desk.orders()] == [managed], "a tracked run is told by its heartbeat"
    await fleet.pool.execute("update run set kill_requested_at = kill_requested_at - interval '25 seconds'")
    await desk.orders()
    run = await fleet.run(managed)
    assert (run.status, run.cause, run.epoch) == (Status.KILLED, Cause.KILLED_BY_USER, 2)
    assert (await fleet.run(tracked)).status is Status.RUNNING, "it hears of the kill only when it beats"
    await fleet.pool.execute("update run set kill_requested_at = kill_requested_at - interval '10 seconds'")
    await desk.orders()
    assert (await fleet.run(tracked)).status is Status.KILLED
    assert (await fleet.types(managed))[-1] == "run.killed"


async def test_runs_wait_while_their_organisation_has_no_credits_left(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w")
    run_id = await fleet.queued()

    async def enter(event: CreditsGranted | CreditsAdjusted) -> None:
        await billing.enter(fleet.ledger, fleet.organisation_id, event, asked_by("key:test"))
        desk.clock.now += LOOK_SECONDS
        desk.hear(worker)

    await enter(CreditsGranted(micro_credits=1))
    await enter(CreditsAdjusted(micro_credits=-1))
    assert await desk.orders() == []
    (waiting,) = await queue.of_organisation(fleet.pool, fleet.organisation_id)
    assert (waiting.run_id, waiting.reason) == (run_id, "credits_exhausted")
    await enter(CreditsGranted(micro_credits=1))
    assert starts(await desk.orders()) == [(worker, run_id)]


async def reasons(fleet: Fleet) -> list[tuple[UUID, str | None]]:
    found = await queue.of_organisation(fleet.pool, fleet.organisation_id)
    assert [one.position for one in found] == list(range(1, len(found) + 1))
    return [(one.run_id, one.reason) for one in found]


async def test_priority_goes_first_and_every_queued_run_says_why_it_waits(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w")
    low, high, exotic = [
        await fleet.queued(need, priority=priority)
        for need, priority in ((Resources(), 0), (Resources(), 5), (Resources(accelerator="tpu"), 9))
    ]
    assert await reasons(fleet) == [(exotic, None), (high, None), (low, None)], "the scheduler has not looked yet"
    assert await desk.orders() == []
    assert await reasons(fleet) == [(exotic, "no_worker"), (high, "workers_away"), (low, "workers_away")]
    desk.hear(worker)
    assert starts(await desk.orders()) == [(worker, high)]
    assert await reasons(fleet) == [(exotic, "no_worker"), (high, "ordered"), (low, "no_free_slots")]
    await fleet.claim(high, worker)
    await desk.orders()
    assert await reasons(fleet) == [(exotic, "no_worker"), (low, "no_free_slots")]


async def test_a_long_queue_is_looked_at_again_when_a_worker_or_a_slot_changes_or_after_a_while(
    fleet: Fleet, desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(scheduling, "MANY_RUNS", 2)
    worker = await fleet.worker("w")
    first, second = await fleet.queued(), await fleet.queued()
    assert await desk.orders() == []
    later = await fleet.queued(priority=1)
    assert await desk.orders() == []
    assert await reasons(fleet) == [(later, None), (first, "workers_away"), (second, "workers_away")]
    desk.clock.now += scheduling.REST_SECONDS
    assert await desk.orders() == []
    assert (later, "workers_away") in await reasons(fleet)
    desk.hear(worker)
    assert starts(await desk.orders()) == [(worker, later)], "a worker came"
    await fleet.claim(later, worker)
    assert await desk.orders() == []
    await fleet.do(later, ReportStarted(epoch=1))
    await fleet.do(later, EndRun(epoch=1, status=Status.COMPLETED))
    assert starts(await desk.orders()) == [(worker, first)], "a slot is free"


async def test_an_order_says_the_epoch_that_it_follows(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w")
    run_id = await fleet.queued()
    desk.hear(worker)
    assert [order.epoch for _, order in await desk.orders()] == [0]
    await fleet.claim(run_id, worker)
    await fleet.do(run_id, RequeueRun(epoch=1))
    assert [order.epoch for _, order in await desk.orders()] == [1]


async def test_two_schedulers_start_no_run_twice(fleet: Fleet, client: Client, desk: Desk):
    other = await opened_desk(fleet, client)
    first, second = await fleet.worker("a"), await fleet.worker("b")
    run_id = await fleet.queued()
    for one in (desk, other):
        one.hear(first, second)
        await one.scheduler.step()
    orders = await desk.orders()
    assert {order.run_id for _, order in orders} == {run_id}
    assert len(orders) == 2, "both gave an order"
    await fleet.claim(run_id, orders[0][0])
    with pytest.raises(Rejected):
        await fleet.claim(run_id, orders[1][0])
    assert await desk.orders() == []
    assert await other.scheduler.step() == 0


async def test_what_a_crashed_run_held_is_free_once_its_worker_is_lost(fleet: Fleet, desk: Desk):
    worker, other = await fleet.worker("w"), await fleet.worker("v")
    run_id = await fleet.managed(worker)
    await fleet.do(run_id, MarkCrashed(epoch=1, cause=Cause.WORKER_LOST, last_heartbeat_at=None, silence_seconds=50))
    await desk.orders()
    assert (await fleet.run(run_id)).holding
    await fleet.pool.execute("update worker set lost_at = clock_timestamp() where worker_id = $1", worker)
    desk.hear(other)
    await desk.orders()
    assert not (await fleet.run(run_id)).holding
    assert (await fleet.types(run_id))[-2:] == ["run.crashed", "run.released"]


async def test_a_zombie_on_a_worker_is_ended_by_an_order(fleet: Fleet, desk: Desk):
    worker = await fleet.worker("w")
    run_id = await fleet.managed(worker)
    await fleet.do(run_id, CloseRun(reason="it hangs"))
    closed = await fleet.run(run_id)
    assert (closed.status, closed.cause, closed.epoch, closed.holding) == ("killed", "closed_by_operator", 2, True)
    desk.hear(worker, runs={run_id: 1})
    ((_, order),) = await desk.orders()
    assert (order.kind, order.run_id, order.epoch) == ("kill", run_id, 2)
    desk.hear(worker)
    assert await desk.orders() == []
    assert not (await fleet.run(run_id)).holding
