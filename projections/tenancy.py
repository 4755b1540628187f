"""Organisations, workers and projects: inline projections and their queries."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from events.commit import InlineRow
from events.database import as_struct
from events.organisation import OrganisationChanged, PlanChanged, Slot, WorkerRegistered
from events.types import Limits
from projections.runs import Reader

Rows = Mapping[str, Sequence[InlineRow]]

UNLIMITED: Final = Limits()

_json: Final = msgspec.json.Encoder()
_limits: Final = msgspec.json.Decoder(Limits).decode


def _row(function: str, event: int = 0, /, **columns: object) -> Rows:
    return {f"projection.{function}": [InlineRow(event, msgspec.Raw(_json.encode(columns)))]}


def organisation_row(
    *,
    version: int,
    name: str,
    max_active_runs: int,
    plan: str = "default",
    plan_limits: Limits | None = None,
    limits: Limits = UNLIMITED,
    kill_when_exhausted: bool = False,
) -> Rows:
    """Return the row of an organisation; its first plan is what it was opened with."""
    return _row(
        "project_organisation",
        version=version,
        name=name,
        max_active_runs=max_active_runs,
        plan=plan,
        plan_limits=plan_limits or Limits(max_active_runs=max_active_runs),
        limits=limits,
        kill_when_exhausted=kill_when_exhausted,
    )


def changed_organisation(known: "Organisation", event: OrganisationChanged | PlanChanged, version: int) -> Rows:
    """Return the row of an organisation after an event."""
    columns = {name: getattr(known, name) for name in known.__struct_fields__ if name != "organisation_id"}
    columns |= {name: getattr(event, name) for name in event.__struct_fields__}
    return organisation_row(**columns | {"version": version})


def worker_row(registered: WorkerRegistered, *, version: int, at: str = "infinity", lost_at: str | None = None) -> Rows:
    """Return the row of a GPU worker."""
    return _row(
        "project_worker",
        worker_id=registered.worker,
        version=version,
        name=registered.name,
        host=registered.host,
        slots=registered.slots,
        registered_at=at,
        lost_at=lost_at,
    )


def worker_standing(worker_id: UUID, *, version: int, lost: bool) -> Rows:
    """Return what changes in the row of a worker that is lost, or back."""
    lost_at = "infinity" if lost else None
    return _row("project_worker_standing", worker_id=worker_id, version=version, lost_at=lost_at)


def worker_drain(worker_id: UUID, *, version: int, drained: bool) -> Rows:
    """Return what changes in the row of a worker that is drained, or takes runs again."""
    drained_at = "infinity" if drained else None
    return _row("project_worker_drain", worker_id=worker_id, version=version, drained_at=drained_at)


def project_row(
    *,
    organisation_id: UUID,
    version: int,
    name: str,
    description: str,
    limits: Limits = UNLIMITED,
    at: str = "infinity",
) -> Rows:
    """Return the row of a project."""
    return _row(
        "project_project",
        organisation_id=organisation_id,
        version=version,
        name=name,
        description=description,
        created_at=at,
        limits=limits,
    )


class Organisation(msgspec.Struct, frozen=True):
    """A tenant."""

    organisation_id: UUID
    version: int
    name: str
    max_active_runs: int
    plan: str
    plan_limits: Limits
    limits: Limits
    kill_when_exhausted: bool


class Project(msgspec.Struct, frozen=True):
    """A project; its id is its ledger's id."""

    project_id: UUID
    organisation_id: UUID
    version: int
    name: str
    description: str
    created_at: datetime
    limits: Limits


class Worker(msgspec.Struct, frozen=True):
    """A GPU worker that has registered."""

    worker_id: UUID
    organisation_id: UUID
    version: int
    name: str
    slots: tuple[Slot, ...]
    registered_at: datetime
    lost_at: datetime | None
    drained_at: datetime | None


async def organisations(reader: Reader) -> list[Organisation]:
    """Return all tenants, oldest first."""
    rows = await reader.fetch("select * from organisation order by organisation_id")
    return [_organisation(row) for row in rows]


async def organisation(reader: Reader, organisation_id: UUID) -> Organisation:
    """Return a tenant that exists."""
    return _organisation(
        await reader.fetchrow("select * from organisation where organisation_id = $1", organisation_id)
    )


def _organisation(row: asyncpg.Record) -> Organisation:
    return as_struct(
        Organisation, {**row, "plan_limits": _limits(row["plan_limits"]), "limits": _limits(row["limits"])}
    )


def _project(row: asyncpg.Record) -> Project:
    return as_struct(Project, {**row, "limits": _limits(row["limits"])})


async def project(reader: Reader, organisation_id: UUID, name_or_id: str) -> Project | None:
    """Return an organisation's project by its id or its name."""
    try:
        identity = UUID(name_or_id)
    except ValueError:
        identity = None
    row = await reader.fetchrow(
        "select * from project where organisation_id = $1 and (project_id = $2 or name = $3)",
        organisation_id,
        identity,
        name_or_id,
    )
    return None if row is None else _project(row)


async def project_by_id(reader: Reader, project_id: UUID) -> Project | None:
    """Return a project of whatever organisation by its id."""
    row = await reader.fetchrow("select * from project where project_id = $1", project_id)
    return None if row is None else _project(row)


async def projects_by_id(reader: Reader, ids: Collection[UUID]) -> list[Project]:
    """Return projects of whatever organisations."""
    rows = await reader.fetch("select * from project where project_id = any($1)", list(ids))
    return [_project(row) for row in rows]


async def limited_projects(reader: Reader, organisation_id: UUID) -> list[Project]:
    """Return an organisation's projects that have limits of their own."""
    rows = await reader.fetch(
        "select * from project where organisation_id = $1 and limits not in ('{}', $2::jsonb) order by name",
        organisation_id,
        _json.encode(UNLIMITED).decode(),
    )
    return [_project(row) for row in rows]


async def projects(
    reader: Reader, organisation_id: UUID, after: str, limit: int, only: Collection[UUID] | None = None
) -> list[Project]:
    """Return an organisation's projects by name, after a name; of `only` these, where that is given."""
    rows = await reader.fetch(
        "select * from project where organisation_id = $1 and name > $2"
        " and ($4::uuid[] is null or project_id = any($4)) order by name limit $3",
        organisation_id,
        after,
        limit,
        None if only is None else list(only),
    )
    return [_project(row) for row in rows]


def _worker(row: Any) -> Worker:
    slots = msgspec.json.decode(row["slots"], type=tuple[Slot, ...])
    return Worker(
        row["worker_id"],
        row["organisation_id"],
        row["version"],
        row["name"],
        slots,
        row["registered_at"],
        row["lost_at"],
        row["drained_at"],
    )


async def worker(reader: Reader, worker_id: UUID) -> Worker | None:
    """Return a worker by its id."""
    row = await reader.fetchrow("select * from worker where worker_id = $1", worker_id)
    return None if row is None else _worker(row)


async def workers(reader: Reader, organisation_id: UUID | None = None) -> list[Worker]:
    """Return the workers of an organisation, or of all."""
    rows = await reader.fetch(
        "select * from worker where $1::uuid is null or organisation_id = $1 order by name", organisation_id
    )
    return [_worker(row) for row in rows]
