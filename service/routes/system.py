"""Health, metrics of the process, who am I."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar import Response, Router, get
from nats.errors import Error as NatsError

from events.commit import LOST_CONNECTION
from projections import api_keys, health, tenancy
from projections.incidents import Incident
from projections.storage.objects import StoreUnavailable
from service.access import IDENTITY, NOTHING, READ_ALL
from service.context import Http, Service
from service.glance import Standing
from service.observability import exposition, incidents_told, roles_told
from service.resources import KeyResource, key_resource

ROLES: Final = ("relay", "projector", "archiver", "scheduler", "monitor", "sweeper", "alerter", "heads")


@get("/healthz", needs=NOTHING, tags=["system"])
async def healthz() -> dict[str, str]:
    """The process is alive."""
    return {"status": "alive"}


@get("/readyz", needs=NOTHING, tags=["system"])
async def readyz(service: Service) -> Response[dict[str, Any]]:
    """Whether requests can be served, with reasons. Without NATS, object store or a role we are ready, and say so."""
    postgres, objects = await asyncio.gather(_postgres(service), _objects(service))
    reasons = {"postgres": postgres if isinstance(postgres, str) else "ok", "nats": _nats(service), "objects": objects}
    roles: dict[str, str] = {}
    if not isinstance(postgres, str):
        roles = health.verdicts(postgres.copies, ROLES)
        reasons["liveness"] = _liveness(postgres.incidents)
    ready = reasons["postgres"] == "ok" and not service.stopping.is_set()
    if service.database_full.is_set() and reasons["postgres"] == "ok":
        reasons["postgres"] = "its disk is full: nothing is recorded until there is room; what is there can be read"
    if service.stopping.is_set():
        reasons["service"] = "stopping"
    return Response({"ready": ready, "checks": reasons, "roles": roles}, status_code=200 if ready else 503)


async def _postgres(service: Service) -> Standing | str:
    """Return what Postgres says of everything else, or what is wrong with it."""
    try:
        return await service.standing.answer()
    except LOST_CONNECTION as error:
        return f"does not answer: {error!r}"


def _liveness(latest: Sequence[Incident]) -> str:
    """Return `ok`, or what is held and since when."""
    for one in latest:
        if one.closed_at is None:
            return f"{one.kind}: {one.silent} of {one.watched} runs, crashes are held since {one.opened_at:%FT%TZ}"
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


@get("/metrics", needs=READ_ALL, media_type="text/plain; version=0.0.4", tags=["system"])
async def prometheus(service: Service) -> bytes:
    """The process's figures in Prometheus' text format, and those of the roles."""
    try:
        standing, (lags, letters) = await asyncio.gather(service.standing.answer(), service.backlog.answer())
        roles_told(standing.copies, lags, letters)
        incidents_told(standing.incidents)
    except LOST_CONNECTION:
        roles_told((), {}, {})  # the other figures are wanted all the more
    return exposition(service)


class ProjectName(msgspec.Struct, frozen=True):
    """A project and what it is called."""

    id: UUID
    name: str


class Me(msgspec.Struct, frozen=True):
    """Who the credential belongs to."""

    actor: str
    organisation_id: UUID
    run_id: UUID | None
    role: str
    organisation: str
    projects: list[ProjectName] | None
    key: KeyResource | None


@get("/me", needs=IDENTITY, tags=["system"])
async def me(request: Http, service: Service) -> Me:
    """Who am I: the key, its role, and the projects that it is confined to (null: none)."""
    user = request.user
    organisation = await tenancy.organisation(service.pool, user.organisation_id)
    confined = None if user.projects is None else await tenancy.projects_by_id(service.pool, user.projects)
    key = None if user.key_id is None else await api_keys.get(service.pool, user.organisation_id, user.key_id)
    return Me(
        actor=user.actor,
        organisation_id=user.organisation_id,
        run_id=user.run_id,
        role=user.role,
        organisation=organisation.name,
        projects=None if confined is None else [ProjectName(one.project_id, one.name) for one in confined],
        key=None if key is None else key_resource(key, await api_keys.used_at(service.pool, key.key_id)),
    )


ROOT = Router(path="", route_handlers=[healthz, readyz, prometheus])
ROUTES = Router(path="", route_handlers=[me])
