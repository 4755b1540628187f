"""What is used and what may be: credits, quotas, accelerators, the queue; and the plan that sets the quotas."""

from collections import Counter
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from litestar import Response, Router, get, put
from litestar.params import JSONBody

from events.accelerators import serves
from events.organisation import PlanChanged
from events.sql import load
from events.types import Limits, Resources
from projections import queue, runs, tenancy, usage
from projections.changes import change_organisation
from projections.tenancy import UNLIMITED
from service.access import ADMINISTER, READ, READ_ALL
from service.bodies import MAX_LIMIT, Limit, PlanBody
from service.context import Http, Service
from service.resources import WaitingResource, waiting_resource


class WorkflowUsage(msgspec.Struct, frozen=True):
    """What the runs of one workflow (or of none) consumed, in micro-credits."""

    project_id: UUID
    workflow_id: UUID | None
    runs: int
    consumed_micro: int
    estimate_micro: int
    saved_micro: int


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """One limit and what is in use of it; without a kind it bounds active runs."""

    scope: str
    project_id: UUID | None
    accelerator: str | None
    limit: int
    in_use: int


class Accelerators(msgspec.Struct, frozen=True):
    """Slots of one kind: of workers that are not lost, and held by runs."""

    kind: str
    slots: int
    in_use: int


class UsageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Credits consumed; what is active, in use and waiting now; and the limits.

    A run is active from its claim until its worker's word that it holds nothing any more. Where nothing
    bounds active runs, `limit_active_runs` is the highest limit that can be set.
    """

    consumed_micro: int
    saved_micro: int
    by_workflow: list[WorkflowUsage]
    active_runs: int
    queued_runs: int
    limit_active_runs: int
    slots: int
    accelerators: list[Accelerators]
    quotas: list[Quota]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """An organisation's plan, what it allows, and what the organisation allows itself within it."""

    plan: str
    plan_limits: Limits
    limits: Limits
    kill_when_exhausted: bool
    version: int


class QueuedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of the queue."""

    run_id: UUID
    project_id: UUID
    name: str
    priority: int
    resources: Resources
    created_at: datetime
    waiting: WaitingResource


class QueueAnswer(msgspec.Struct, frozen=True):
    """The queue's head, in the order in which runs are started."""

    queue: list[QueuedRun]


@get("/usage", needs=READ)
async def get_usage(request: Http, service: Service) -> UsageAnswer:
    """Credits, quotas, accelerators in use, and how many runs wait; for a key that is confined, of its projects."""
    pool, organisation_id, only = service.pool, request.user.organisation_id, request.user.projects
    rows = [
        row
        for row in await usage.by_workflow(pool, organisation_id, datetime.now(UTC))
        if request.user.sees(row.ledger_id)
    ]
    organisation = await tenancy.organisation(pool, organisation_id)
    held: dict[UUID | None, Counter[str | None]] = {None: Counter()}
    for row in await pool.fetch(load("projections.sql", "slots_held_of"), organisation_id):
        if not request.user.sees(row["ledger_id"]):
            continue
        for counts in (None, row["ledger_id"]):
            held.setdefault(counts, Counter())[row["kind"]] += row["held"]
    slots = Counter(
        slot.kind
        for worker in await tenancy.workers(pool, organisation_id)
        if not worker.lost_at
        for slot in worker.slots
    )
    quotas = []
    if only is None:  # who does not see all that is in use does not see how much of these is
        quotas += _quotas("plan", None, organisation.plan_limits, held[None])
        quotas += _quotas("organisation", None, organisation.limits, held[None])
    for project in await tenancy.limited_projects(pool, organisation_id):
        if not request.user.sees(project.project_id):
            continue
        quotas += _quotas("project", project.project_id, project.limits, held.get(project.project_id, Counter()))
    of_runs = [quota.limit for quota in quotas if quota.accelerator is None and quota.project_id is None]
    kinds = sorted({*slots, *(kind for kind in held[None] if kind is not None)})
    return UsageAnswer(
        consumed_micro=sum(row.consumed_micro for row in rows),
        saved_micro=sum(row.saved_micro for row in rows),
        by_workflow=[
            WorkflowUsage(
                row.ledger_id, row.workflow_id, row.runs, row.consumed_micro, row.estimate_micro, row.saved_micro
            )
            for row in rows
        ],
        active_runs=held[None][None],
        queued_runs=await pool.fetchval(
            "select count(*) from demand where organisation_id = $1 and waiting"
            " and ($2::uuid[] is null or ledger_id = any($2))",
            organisation_id,
            only,
        ),
        limit_active_runs=min(of_runs, default=MAX_LIMIT),
        slots=slots.total(),
        accelerators=[Accelerators(kind, slots[kind], held[None][kind]) for kind in kinds],
        quotas=quotas,
    )


def _quotas(scope: str, project_id: UUID | None, limits: Limits, held: Counter[str | None]) -> list[Quota]:
    bounds: list[tuple[str | None, int]] = list(limits.accelerators.items())
    if limits.max_active_runs is not None:
        bounds.insert(0, (None, limits.max_active_runs))
    return [
        Quota(
            scope=scope,
            project_id=project_id,
            accelerator=asked,
            limit=bound,
            in_use=held[None]
            if asked is None
            else sum(count for kind, count in held.items() if kind is not None and serves(kind, asked)),
        )
        for asked, bound in bounds
    ]


@get("/queue", needs=READ)
async def get_queue(request: Http, service: Service, limit: Limit = 100) -> QueueAnswer:
    """The organisation's runs that wait for a worker, in order, each with its position and reason."""
    found = await queue.of_organisation(
        service.pool, request.user.organisation_id, limit=limit, only=request.user.projects
    )
    stored = await runs.by_ids(service.pool, [one.run_id for one in found])
    shown = []
    for one in found:
        if one.run_id in stored:
            run = stored[one.run_id].run
            needed = run.resources or Resources()
            shown.append(
                QueuedRun(
                    run_id=one.run_id,
                    project_id=one.ledger_id,
                    name=run.name,
                    priority=one.priority,
                    resources=needed,
                    created_at=one.created_at,
                    waiting=waiting_resource(one, needed),
                )
            )
    return QueueAnswer(shown)


@get("/organisation/plan", needs=READ_ALL)
async def get_plan(request: Http, service: Service) -> Plan:
    """The plan and its limits."""
    return _plan(await tenancy.organisation(service.pool, request.user.organisation_id))


@put("/organisation/plan", needs=ADMINISTER)
async def change_plan(request: Http, data: JSONBody[PlanBody], service: Service) -> Response[Plan]:
    """Set the plan and its limits, from now on: what is running goes on."""
    organisation_id = request.user.organisation_id
    event = PlanChanged(
        plan=data.plan,
        plan_limits=data.plan_limits.value(),
        limits=data.limits.value() if data.limits else UNLIMITED,
        kill_when_exhausted=data.kill_when_exhausted,
    )
    asked = await service.asked(request)
    changed, position = await change_organisation(service.ledger, organisation_id, event, asked)
    return Response(_plan(changed), headers={"Tachograph-Position": str(position)})


def _plan(organisation: tenancy.Organisation) -> Plan:
    return Plan(
        plan=organisation.plan,
        plan_limits=organisation.plan_limits,
        limits=organisation.limits,
        kill_when_exhausted=organisation.kill_when_exhausted,
        version=organisation.version,
    )


ROUTES = Router(
    path="",
    route_handlers=[get_usage, get_queue, get_plan, change_plan],
    request_max_body_size=64 << 10,
    tags=["quotas"],
)
