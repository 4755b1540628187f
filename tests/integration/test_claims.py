"""Claims: quotas of an organisation hold across its projects, whoever claims at the same time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from events.commands import (
    AttachRun,
    ClaimRun,
    CloseRun,
    CreateRun,
    EditRun,
    EndRun,
    KillRun,
    MarkCrashed,
    MarkResponsive,
    ReleaseRun,
    ReportProgress,
    ReportStarted,
    RequeueRun,
)
from events.database import open_pool
from events.errors import Fenced, LedgerError, QuotaReached, Rejected
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import Ledger
from events.organisation import PlanChanged, ProjectChanged, ProjectCreated
from events.run import NO_RUN, evolve
from events.run_events import RunCreated
from events.types import Cause, Limits, Mode, Rate, Status
from projections import runs, tenancy
from projections.claims import claim
from projections.execute import Outcome, asked_by, execute, record
from tests.api import eventually
from tests.integration.fleet import Fleet
from tests.servers import Database

FREE = Rate(micro_credits_per_hour=0, count=1)


@asynccontextmanager
async def another_process(database: Database) -> AsyncIterator[Ledger]:
    """A ledger with connections, keys and queues of its own, as another API process has."""
    pool = await open_pool(database.url, name="other")
    try:
        ledger = Ledger(pool, Keyring(b"f" * 32))
        yield ledger
        await ledger.drained()
    finally:
        await pool.close()


async def plan(fleet: Fleet, limits: Limits) -> None:
    known = await tenancy.organisation(fleet.pool, fleet.organisation_id)
    await record(
        fleet.ledger,
        ledger_id=fleet.organisation_id,
        stream=fleet.organisation_id,
        expected_version=known.version,
        events=[PlanChanged(plan="test", plan_limits=limits)],
        inline=tenancy.organisation_row(
            version=known.version + 1, name=known.name, max_active_runs=5, plan="test", plan_limits=limits
        ),
        request=asked_by("test"),
    )


async def project(fleet: Fleet, limits: Limits | None = None) -> UUID:
    """Open another project of the same organisation."""
    ledger_id = uuid7()
    await fleet.ledger.open(ledger_id, fleet.organisation_id, "project")
    for version, event in enumerate((ProjectCreated(name="q"), ProjectChanged(limits=limits or Limits()))):
        await record(
            fleet.ledger,
            ledger_id=ledger_id,
            stream=ledger_id,
            expected_version=version,
            events=[event],
            inline=tenancy.project_row(
                organisation_id=fleet.organisation_id,
                version=version + 1,
                name=f"q {ledger_id}",
                description="",
                limits=limits or Limits(),
            ),
            request=asked_by("test"),
        )
    return ledger_id


async def queued(fleet: Fleet, ledger_id: UUID) -> UUID:
    run_id = uuid7()
    created = RunCreated(name=f"r {run_id}", session_id="s", mode=Mode.MANAGED, command=("true",))
    await execute(fleet.ledger, ledger_id, run_id, CreateRun(created=created), asked_by("test"))
    return run_id


def claiming(
    kind: str = "cpu", count: int = 1, *, command_id: UUID | None = None, epoch: int | None = None
) -> ClaimRun:
    return ClaimRun(
        worker=UUID(int=7),
        command_id=command_id or uuid7(),
        accelerators=tuple(f"{kind}:{index}" for index in range(count)),
        kinds=(kind,) * count,
        rate=FREE,
        epoch=epoch,
    )


async def claimed(ledger: Ledger, ledger_id: UUID, run_id: UUID, command: ClaimRun | None = None) -> Outcome:
    return await claim(ledger, ledger_id, run_id, command or claiming(), asked_by("worker:w"))


async def test_fifty_claims_at_once_in_two_projects_by_two_processes_pass_no_quota(fleet: Fleet, database: Database):
    await plan(fleet, Limits(max_active_runs=3))
    second = await project(fleet)
    waiting = [
        (ledger_id, await queued(fleet, ledger_id)) for _ in range(25) for ledger_id in (fleet.ledger_id, second)
    ]
    async with another_process(database) as other:
        outcomes = await asyncio.gather(
            *(
                claimed((fleet.ledger, other)[index % 4 // 2], ledger_id, run_id)
                for index, (ledger_id, run_id) in enumerate(waiting)
            ),
            return_exceptions=True,
        )
    won = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(won) == 3
    assert {type(error) for error in lost} == {QuotaReached}
    assert all(
        (e.scope, e.kind, e.bound, e.in_use) == ("plan", None, 3, 3) for e in lost if isinstance(e, QuotaReached)
    )
    states = [await fleet.run(run_id) for _, run_id in waiting]
    assert sorted(run.status for run in states) == ["queued"] * 47 + ["starting"] * 3


async def test_a_claim_waits_for_the_one_before_it_in_its_organisation(fleet: Fleet, database: Database):
    """Two that counted at the same time would each find room: the organisation's row is what they take turns at."""
    await plan(fleet, Limits(max_active_runs=3))
    run_id = await queued(fleet, fleet.ledger_id)
    row = "select from projection.organisation where organisation_id = $1 for update"
    waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with another_process(database) as other:
        async with other.pool.acquire() as holder, holder.transaction():
            await holder.execute(row, fleet.organisation_id)
            claiming_it = asyncio.create_task(claimed(fleet.ledger, fleet.ledger_id, run_id))
            await eventually(lambda: holder.fetchval(waits), "the claim waits")
            assert not claiming_it.done()
        assert isinstance(await claiming_it, Outcome)


async def test_accelerators_are_counted_by_kind_and_only_where_the_claim_takes_some(fleet: Fleet):
    await plan(fleet, Limits(accelerators={"cuda": 3, "cpu": 1}))
    first, second, third, fourth = [await queued(fleet, fleet.ledger_id) for _ in range(4)]
    await claimed(fleet.ledger, fleet.ledger_id, first, claiming("cuda:h200", 2))
    with pytest.raises(QuotaReached, match="the plan allows 3 cuda accelerators, and 2 are in use"):
        await claimed(fleet.ledger, fleet.ledger_id, second, claiming("cuda:a100", 2))
    await claimed(fleet.ledger, fleet.ledger_id, second, claiming("cuda:a100"))
    await plan(fleet, Limits(accelerators={"cuda": 0, "cpu": 1}))
    await claimed(fleet.ledger, fleet.ledger_id, third, claiming("cpu"))
    with pytest.raises(QuotaReached, match="1 cpu accelerators"):
        await claimed(fleet.ledger, fleet.ledger_id, fourth, claiming("cpu"))


async def test_a_projects_own_limit_is_its_own(fleet: Fleet):
    limited = await project(fleet, Limits(max_active_runs=1))
    first, second = await queued(fleet, limited), await queued(fleet, limited)
    await claimed(fleet.ledger, limited, first)
    with pytest.raises(QuotaReached, match="the project allows 1 active runs"):
        await claimed(fleet.ledger, limited, second)
    await claimed(fleet.ledger, fleet.ledger_id, await queued(fleet, fleet.ledger_id))


async def test_what_a_crashed_run_may_still_hold_counts_until_it_is_released(fleet: Fleet):
    await plan(fleet, Limits(max_active_runs=1))
    first, second = await queued(fleet, fleet.ledger_id), await queued(fleet, fleet.ledger_id)
    await claimed(fleet.ledger, fleet.ledger_id, first)
    await fleet.do(first, MarkCrashed(epoch=1, cause=Cause.WORKER_LOST, last_heartbeat_at=None, silence_seconds=50))
    with pytest.raises(QuotaReached):
        await claimed(fleet.ledger, fleet.ledger_id, second)
    await fleet.do(first, ReleaseRun(epoch=1))
    await claimed(fleet.ledger, fleet.ledger_id, second)
    assert (await fleet.do(first, MarkResponsive(epoch=1, silence_seconds=90))).holding, (
        "it holds them still, as it turns out"
    )


async def test_the_same_claim_again_is_the_same_and_an_old_order_claims_nothing(fleet: Fleet):
    await plan(fleet, Limits(max_active_runs=1))
    run_id, command_id = await queued(fleet, fleet.ledger_id), uuid7()
    order = claiming(command_id=command_id, epoch=0)
    outcomes = await asyncio.gather(*(claimed(fleet.ledger, fleet.ledger_id, run_id, order) for _ in range(10)))
    assert {(outcome.run.epoch, outcome.run.version) for outcome in outcomes} == {(1, 2)}
    with pytest.raises(Rejected):
        await claimed(fleet.ledger, fleet.ledger_id, run_id, claiming(epoch=0))
    await fleet.do(run_id, RequeueRun(epoch=1))
    with pytest.raises(Fenced, match="by now"):
        await claimed(fleet.ledger, fleet.ledger_id, run_id, order)
    again = await claimed(fleet.ledger, fleet.ledger_id, run_id, claiming(epoch=1))
    assert again.run.epoch == 2


async def test_two_hundred_commands_at_once_leave_a_legal_history(fleet: Fleet, database: Database):
    tracked, managed = await fleet.tracked(), await queued(fleet, fleet.ledger_id)
    commands = [
        AttachRun(),
        EditRun(notes="n"),
        ReportProgress(epoch=1, done=1),
        ReportProgress(epoch=2, done=1),
        ReportStarted(epoch=1),
        claiming(),
        KillRun(),
        EndRun(epoch=1, status=Status.COMPLETED),
        EndRun(epoch=2, status=Status.FAILED),
        MarkCrashed(epoch=1, cause=Cause.HEARTBEAT_LOST, last_heartbeat_at=None, silence_seconds=50),
        MarkResponsive(epoch=1, silence_seconds=50),
        RequeueRun(epoch=1),
        CloseRun(reason="enough"),
    ]
    async with another_process(database) as other:
        for run_id in (tracked, managed):
            outcomes = await asyncio.gather(
                *(
                    execute((fleet.ledger, other)[n % 2], fleet.ledger_id, run_id, command, asked_by("test"))
                    for n in range(200)
                    for command in [commands[n % 7 if n < 100 else n % len(commands)]]
                ),
                return_exceptions=True,
            )
            assert all(isinstance(outcome, Outcome | LedgerError) for outcome in outcomes), outcomes
            history = await fleet.ledger.read_stream(fleet.ledger_id, run_id)
            assert [event.version for event in history] == list(range(1, len(history) + 1))
            folded = NO_RUN
            for event in history:
                folded = evolve(folded, event.event(), event.recorded_at)
            stored = await runs.get(fleet.pool, run_id)
            assert stored is not None
            assert stored.run == folded


async def test_two_hundred_who_change_one_run_at_once_do_not_refuse_one_another(fleet: Fleet, database: Database):
    run_id = await fleet.tracked()
    commands = [EditRun(summary={f"k{number}": number}) for number in range(199)]
    async with another_process(database) as other:
        await asyncio.gather(
            *(
                execute((fleet.ledger, other)[number % 2], fleet.ledger_id, run_id, command, asked_by("test"))
                for number, command in enumerate([*commands, KillRun()])
            )
        )
    run = await fleet.run(run_id)
    assert run.summary == {f"k{number}": number for number in range(199)}
    assert run.kill is not None
