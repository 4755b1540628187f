"""Asynchronous projections on a real Postgres: exactly once, and the same again from the ledger alone."""

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from events import codec, organisation
from events import commands as c
from events import types as t
from events.ids import uuid7
from events.telemetry import MetricColumns
from events.types import Status
from events.verification import verify
from events.workflow import Workflow
from events.workflow import evolve as evolve_workflow
from projections import api_keys, runs, tenancy, usage, workflows
from projections.apply import Connection, advance, checkpoint
from projections.credits import Credits, of_runs
from projections.metrics import Metrics, summaries
from projections.rebuild import ASYNCHRONOUS, PROJECTIONS, RebuildRefusedError, rebuild
from tests.integration.histories import RATE, Project, opened_project, points
from tests.servers import Database
from workers.projector import Projector


@pytest.fixture
async def project(database: Database) -> AsyncIterator[Project]:
    async with opened_project(database.url) as opened:
        yield opened


async def rebuilt_is_live(project: Project, database: Database) -> dict[str, int]:
    """Rebuild every projection and return how many rows each table has."""
    counts: dict[str, int] = {}
    for projection in PROJECTIONS.values():
        rebuilt = await rebuild(project.ledger, database.owner_url, projection)
        assert rebuilt.differences == []
        counts |= rebuilt.rows
    return counts


async def rows(project: Project, table: str) -> list[dict[str, Any]]:
    return [dict(row) for row in await project.pool.fetch(f"select * from {table} order by 1, 2, 3")]


async def test_a_run_costs_what_its_transitions_say(project: Project) -> None:
    run_id = await project.ended()
    await project.project_all()
    history = await runs.transitions(project.pool, project.ledger_id, run_id)
    started, completed = (row["at"] for row in history[-2:])
    span = (completed - started) // timedelta(microseconds=1)
    consumed = (RATE.count * RATE.micro_credits_per_hour * span + 1_800_000_000) // 3_600_000_000
    cost = (await of_runs(project.pool, [run_id], datetime.now(UTC)))[run_id]
    assert cost.consumed_micro == consumed > 0
    assert cost.estimate_micro == RATE.count * RATE.micro_credits_per_hour
    assert cost.consumed_micro + (cost.saved_micro or 0) == cost.estimate_micro


async def test_totals_add_up_and_accrue(project: Project) -> None:
    workflow = t.WorkflowRef(id=uuid7(), name="w")
    ended, running, other = [await project.started(workflow=one) for one in (workflow, workflow, None)]
    await project.do(ended, c.EndRun(epoch=1, status=Status.COMPLETED))
    await project.project_all()
    now = datetime.now(UTC) + timedelta(hours=30)
    costs = await of_runs(project.pool, [ended, running, other], now)
    assert costs[running].consumed_micro > 29 * 3 * RATE.micro_credits_per_hour
    found = await usage.by_workflow(project.pool, project.organisation_id, now)
    assert {one.workflow_id: (one.runs, one.consumed_micro) for one in found} == {
        workflow.id: (2, costs[ended].consumed_micro + costs[running].consumed_micro),
        None: (1, costs[other].consumed_micro),
    }
    of_one = await usage.by_workflow(project.pool, project.organisation_id, now, workflow_id=workflow.id)
    assert [one.workflow_id for one in of_one] == [workflow.id]
    days = await usage.by_day(project.pool, project.organisation_id, now.date() - timedelta(days=3), now.date(), now)
    assert sum(days.values()) == sum(cost.consumed_micro for cost in costs.values())
    assert len(days) >= 2
    assert await usage.by_workflow(project.pool, uuid7(), now) == []


async def test_a_deleted_runs_credits_stay(project: Project, database: Database) -> None:
    run_id = await project.ended()
    await project.project_all()
    now = datetime.now(UTC)
    before = await of_runs(project.pool, [run_id], now)
    days = await rows(project, "credit_day")
    await project.log(run_id, points(3))
    await project.erased(run_id)
    await project.project_all()
    assert await of_runs(project.pool, [run_id], now) == before
    assert await rows(project, "credit_day") == days
    assert await rows(project, "metric_summary") == []
    await rebuilt_is_live(project, database)


async def test_a_projector_that_slept_through_a_runs_life_comes_to_the_same(
    project: Project, database: Database
) -> None:
    run_id = await project.ended()
    await project.log(run_id, points(3))
    await project.erased(run_id)
    await project.project_all()
    assert (await rows(project, "run_credit"))[0]["consumed_micro"] > 0
    await rebuilt_is_live(project, database)


async def test_metrics_are_summarised_across_pages(project: Project) -> None:
    run_id = await project.started()
    for step, value in ((3, 1.0), (9, float("nan")), (4, -2.0), (9, 5.0), (1, float("inf"))):
        one = MetricColumns(
            names=("loss",),
            counts=(1,),
            step=step.to_bytes(8, "little"),
            value=struct.pack("<d", value),
            time_us=(step * 10).to_bytes(8, "little"),
        )
        await project.log(run_id, one)
        await project.project_all()
    await project.do(run_id, c.SetPrimaryMetric(name="loss", mode="min"))
    stored = await runs.get(project.pool, run_id)
    assert stored is not None
    assert await summaries(project.pool, stored) == [
        {
            "name": "loss",
            "count": 5,
            "nan_count": 1,
            "first_step": 1,
            "last_step": 9,
            "last": 5.0,
            "last_time_us": 90,
            "min": -2.0,
            "min_step": 4,
            "max": "Infinity",
            "max_step": 1,
            "best": -2.0,
            "best_step": 4,
        }
    ]


@pytest.mark.parametrize("seed", range(4))
async def test_rebuilt_is_live_after_any_history(project: Project, database: Database, seed: int) -> None:
    random_ = random.Random(seed)
    for _ in range(4):
        await project.live_at_random(random_, 60)
        await project.project_all()
    async with opened_project(database.url) as other:  # a ledger of another key ring's cache, left behind
        await other.live_at_random(random_, 30)
    counts = await rebuilt_is_live(project, database)
    assert counts["run"] > 5
    assert counts["run_transition"] > counts["run"]
    assert (await verify(project.ledger, project.ledger_id)).verified
    schemas = await project.pool.fetchval("select count(*) from pg_namespace where nspname = 'projection_next'")
    assert schemas == 0


@pytest.mark.parametrize("page_events", [1, 7])
async def test_pages_of_any_size_come_to_the_same(project: Project, database: Database, page_events: int) -> None:
    await project.live_at_random(random.Random(page_events), 150)

    class SmallCredits(Credits):
        pass

    class SmallMetrics(Metrics):
        pass

    for small in (SmallCredits(), SmallMetrics()):
        small.page_events = page_events  # type: ignore[misc]
        while await advance(project.ledger, small, project.ledger_id):
            pass
    await rebuilt_is_live(project, database)


async def test_projectors_that_race_apply_every_page_once(project: Project, database: Database) -> None:
    await project.live_at_random(random.Random(5), 150)
    projectors = [Projector(project.ledger) for _ in range(4)]
    while any(await asyncio.gather(*(projector.step() for projector in projectors))):
        pass
    assert not any(projector.lagging for projector in projectors)
    head, _ = await project.ledger.head(project.ledger_id)
    for name in ASYNCHRONOUS:
        assert (await checkpoint(project.pool, name, project.ledger_id)).position == head
    await rebuilt_is_live(project, database)


async def test_a_page_that_fails_leaves_nothing(project: Project) -> None:
    class Failing(Credits):
        async def apply(self, connection: Connection, ledger_id: UUID, events: Sequence[Any]) -> None:
            await super().apply(connection, ledger_id, events)
            raise RuntimeError("after its rows were written")

    await project.ended()
    with pytest.raises(RuntimeError, match="after its rows"):
        await advance(project.ledger, Failing(), project.ledger_id)
    assert await rows(project, "run_credit") == []
    assert (await checkpoint(project.pool, "credits", project.ledger_id)).position == 0


async def test_a_poison_event_holds_up_its_own_projection_alone(
    project: Project, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await project.started()
    await project.log(run_id, points(2))
    poison = await project.ledger.append(project.telemetry(run_id, seq=99, payloads=[b"junk"]))
    await project.log(run_id, points(2))
    await project.do(run_id, c.EndRun(epoch=1, status=Status.COMPLETED))
    now = 0.0
    projector = Projector(project.ledger, clock=lambda: now)
    async with opened_project(database.url) as other:
        await other.log(await other.started(), points(2))
        while await projector.step():
            pass
        head, _ = await other.ledger.head(other.ledger_id)
        assert (await checkpoint(project.pool, "metrics", other.ledger_id)).position == head
    (lag,) = projector.lagging
    assert (lag.projection, lag.ledger_id, lag.position) == ("metrics", project.ledger_id, poison.position)
    assert lag.failures == 1
    assert "CorruptHistory" in lag.error
    assert f"held up at position {poison.position}" in caplog.text
    assert [row["count"] for row in await rows(project, "metric_summary") if row["run_id"] == run_id] == [2, 1]
    head, _ = await project.ledger.head(project.ledger_id)
    assert (await checkpoint(project.pool, "credits", project.ledger_id)).position == head

    assert await projector.step() == 0
    assert projector.lagging == (lag,)
    now = lag.retry_at
    assert await projector.step() == 0
    assert [one.failures for one in projector.lagging] == [2]


async def test_a_lag_that_was_cured_is_forgotten(project: Project) -> None:
    class Moody(Metrics):
        ill = True

        async def apply(self, connection: Connection, ledger_id: UUID, events: Sequence[Any]) -> None:
            if self.ill:
                raise RuntimeError("not today")
            await super().apply(connection, ledger_id, events)

    now, moody = 0.0, Moody()
    await project.log(await project.started(), points(2))
    projector = Projector(project.ledger, [moody], clock=lambda: now)
    while await projector.step():
        pass
    assert len(projector.lagging) == 1
    moody.ill, now = False, 100.0
    while await projector.step():
        pass
    assert projector.lagging == ()
    assert len(await rows(project, "metric_summary")) == 2


async def test_rebuild_refuses_what_is_in_parquet_only(
    project: Project, database: Database, owner: asyncpg.Connection
) -> None:
    run_id = await project.started()
    appended = await project.log(run_id, points(2))
    await project.project_all()
    await owner.execute("delete from ledger.telemetry where position = $1", appended.position)
    with pytest.raises(RebuildRefusedError, match=f"position {appended.position} .* Parquet only"):
        await rebuild(project.ledger, database.owner_url, Metrics())
    assert (await rebuild(project.ledger, database.owner_url, Credits())).differences == []


async def test_rebuild_tells_live_rows_that_are_wrong(
    project: Project, database: Database, owner: asyncpg.Connection
) -> None:
    run_id = await project.ended()
    await project.log(run_id, points(2))
    await project.project_all()
    await owner.execute("update projection.run_credit set consumed_micro = consumed_micro + 1")
    (live, rebuilt) = (await rebuild(project.ledger, database.owner_url, Credits())).differences
    assert (live.table, live.side, rebuilt.side) == ("run_credit", "live", "rebuilt")
    assert live.row["consumed_micro"] == rebuilt.row["consumed_micro"] + 1
    await owner.execute("delete from projection.run")
    assert [
        one.side for one in (await rebuild(project.ledger, database.owner_url, PROJECTIONS["runs"])).differences
    ] == ["rebuilt"]


async def test_floats_are_compared_bit_by_bit(project: Project, database: Database, owner: asyncpg.Connection) -> None:
    zero = MetricColumns(names=("z",), counts=(1,), step=bytes(8), value=bytes(8), time_us=bytes(8))
    await project.log(await project.started(), zero)
    await project.project_all()
    assert (await rebuild(project.ledger, database.owner_url, Metrics())).differences == []
    await owner.execute("update projection.metric_summary set last = '-0'")
    found = (await rebuild(project.ledger, database.owner_url, Metrics())).differences
    assert [one.side for one in found] == ["live", "rebuilt"]


async def test_tenants_are_rebuilt(project: Project, database: Database) -> None:
    pool, organisation_id = project.pool, project.organisation_id
    await project.note(
        project.ledger_id,
        1,
        [organisation.ProjectChanged(description="new")],
        tenancy.project_row(
            organisation_id=organisation_id, version=2, name=f"project {project.ledger_id}", description="new"
        ),
    )
    workflow_id, workflow = uuid7(), Workflow()
    for event in (
        organisation.WorkflowCreated(
            name="w", command=("python", "x.py"), resources=t.Resources(accelerator="gpu", count=2)
        ),
        organisation.WorkflowChanged(architecture="mlp", training_parameters={"lr": 0.1}),
        organisation.WorkflowRenamed(name="v"),
        organisation.WorkflowArchived(),
    ):
        version, workflow = workflow.version, evolve_workflow(workflow, event)
        await project.note(workflow_id, version, [event], workflows.row(workflow_id, workflow))
    tenant = Project(pool)
    tenant.ledger_id = organisation_id
    await tenant.ledger.open(organisation_id, organisation_id, "organisation")
    opened = organisation.OrganisationCreated(name="o")
    await tenant.note(organisation_id, 0, [opened], tenancy.organisation_row(version=1, name="o", max_active_runs=5))
    for version, changed in enumerate(
        (
            organisation.OrganisationChanged(name="p"),
            organisation.PlanChanged(plan="q", plan_limits=t.Limits(max_active_runs=1), kill_when_exhausted=True),
        ),
        1,
    ):
        before = await tenancy.organisation(pool, organisation_id)
        row = tenancy.changed_organisation(before, changed, version + 1)
        await tenant.note(organisation_id, version, [changed], row)
    key = organisation.KeyIssued(
        key_id=uuid7(), label="k", prefix="tg_1", sha256=bytes(32), role=t.Role.VIEWER, projects=(project.ledger_id,)
    )
    known = api_keys.issued(organisation_id, key)
    await tenant.note(key.key_id, 0, [key], api_keys.row(known))
    for change in (
        organisation.KeyChanged(key_id=key.key_id, label="other", expires_at=datetime.now(UTC)),
        organisation.KeyRevoked(key_id=key.key_id),
    ):
        version, known = known.version, api_keys.evolve(await api_keys.get(pool, organisation_id, key.key_id), change)
        await tenant.note(key.key_id, version, [change], api_keys.row(known))
    worker = organisation.WorkerRegistered(
        worker=uuid7(), name="w", host={"cpus": 2}, slots=(organisation.Slot(id="cpu:0"),)
    )
    for version in (0, 1):
        await tenant.note(worker.worker, version, [worker], tenancy.worker_row(worker, version=version + 1))
    counts = await rebuilt_is_live(project, database)
    assert {name: counts[name] for name in ("organisation", "api_key", "worker", "project", "workflow")} == {
        "organisation": 1,
        "api_key": 1,
        "worker": 1,
        "project": 1,
        "workflow": 1,
    }
    assert codec.EVENT_TYPES.keys() == {kind for one in ("runs", "tenancy") for kind in PROJECTIONS[one].types}
