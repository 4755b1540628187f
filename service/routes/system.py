"""Health, metrics of the process, who am I, and usage."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Response, Router, get
from nats.errors import Error as NatsError

from events.commit import LOST_CONNECTION
from projections import health, tenancy, usage
from projections.dead_letters import waiting
from projections.objects import StoreUnavailable
from service.context import Http, Service
from service.observability import exposition, roles_told

ROLES: Final = ("relay", "projector", "archiver", "scheduler", "monitor", "alerter", "heads")


@get("/healthz", exclude_from_auth=True, tags=["system"])
async def healthz() -> dict[str, str]:
    """The process is alive."""
    return {"status": "alive"}


@get("/readyz", exclude_from_auth=True, tags=["system"])
async def readyz(service: Service) -> Response[dict[str, Any]]:
    """Whether requests can be served, with reasons. Without NATS, object store or a role we are ready, and say so."""
    postgres, objects = await asyncio.gather(_postgres(service), _objects(service))
    reasons = {"postgres": postgres, "nats": _nats(service), "objects": objects}
    roles: dict[str, str] = {}
    if reasons["postgres"] == "ok":
        roles = health.verdicts(await health.heard(service.pool), ROLES)
    ready = reasons["postgres"] == "ok" and not service.stopping.is_set()
    if service.stopping.is_set():
        reasons["service"] = "stopping"
    return Response({"ready": ready, "checks": reasons, "roles": roles}, status_code=200 if ready else 503)


async def _postgres(service: Service) -> str:
    try:
        await service.pool.fetchval("select 1", timeout=2)
    except (*LOST_CONNECTION, TimeoutError) as error:
        return f"does not answer: {error!r}"
    return "ok"


def _nats(service: Service) -> str:
    try:
        connected = service.nats is not None and service.nats.is_connected
    except NatsError as error:
        return f"{error}"
    return "ok" if connected else "not connected: commands, alerts and crash detection wait; ingest goes on"


async def _objects(service: Service) -> str:
    try:
        await service.objects.check()
    except StoreUnavailable as error:
        return f"{error}: artifacts wait; the record goes on"
    return "ok"


@get("/metrics", media_type="text/plain; version=0.0.4", tags=["system"])
async def prometheus(service: Service) -> bytes:
    """The process's figures in Prometheus' text format, and those of the roles."""
    try:
        roles_told(await health.heard(service.pool), await health.lags(service.pool), await waiting(service.pool))
    except (*LOST_CONNECTION, TimeoutError):
        roles_told((), {}, {})  # the other figures are wanted all the more
    return exposition(service)


class Me(msgspec.Struct, frozen=True):
    """Who the credential belongs to."""

    actor: str
    organisation_id: UUID
    run_id: UUID | None


@get("/me", tags=["system"])
async def me(request: Http) -> Me:
    """Who am I."""
    return Me(request.user.actor, request.user.organisation_id, request.user.run_id)


class WorkflowUsage(msgspec.Struct, frozen=True):
    """What the runs of one workflow (or of none) consumed, in micro-credits."""

    project_id: UUID
    workflow_id: UUID | None
    runs: int
    consumed_micro: int
    estimate_micro: int
    saved_micro: int


class UsageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Credits consumed and what is active now, against the limit."""

    consumed_micro: int
    saved_micro: int
    by_workflow: list[WorkflowUsage]
    active_runs: int
    queued_runs: int
    limit_active_runs: int
    slots: int


@get("/usage", tags=["system"])
async def get_usage(request: Http, service: Service) -> UsageAnswer:
    """Credits, active and queued runs, accelerators in use."""
    organisation_id = request.user.organisation_id
    rows = await usage.by_workflow(service.pool, organisation_id, datetime.now(UTC))
    organisation = next(
        one for one in await tenancy.organisations(service.pool) if one.organisation_id == organisation_id
    )
    counts = await service.pool.fetchrow(
        "select count(*) filter (where status = 'queued') as queued,"
        " count(*) filter (where status <> 'queued' and mode = 'managed') as active"
        " from run join ledger.ledger l using (ledger_id)"
        " where l.organisation_id = $1 and status in ('queued', 'starting', 'running', 'stopping', 'idle')",
        organisation_id,
    )
    workers = await tenancy.workers(service.pool, organisation_id)
    return UsageAnswer(
        consumed_micro=sum(row.consumed_micro for row in rows),
        saved_micro=sum(row.saved_micro for row in rows),
        by_workflow=[
            WorkflowUsage(
                row.ledger_id, row.workflow_id, row.runs, row.consumed_micro, row.estimate_micro, row.saved_micro
            )
            for row in rows
        ],
        active_runs=counts["active"],
        queued_runs=counts["queued"],
        limit_active_runs=organisation.max_active_runs,
        slots=sum(len(worker.slots) for worker in workers),
    )


ROOT = Router(path="", route_handlers=[healthz, readyz, prometheus])
ROUTES = Router(path="", route_handlers=[me, get_usage])
