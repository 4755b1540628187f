"""What runs cost, by run, workflow, project, organisation and day; as JSON, CSV and Parquet."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from litestar import Response, Router, get
from litestar.params import Parameter, QueryParameter

from events.errors import TooLarge
from projections import usage
from projections.usage import RunUsage
from service.access import READ
from service.context import Http, Service
from service.openapi import described
from service.paging import Page, Size, page
from service.problems import Invalid
from service.tables import MEDIA_TYPES, Format, download

MAX_DAYS: Final = 3_660
MAX_EXPORTED_ROWS: Final = 200_000
DAYS: Final = 30
_LAST: Final = UUID(int=(1 << 128) - 1)


class UsageRow(msgspec.Struct, frozen=True):
    """Micro-credits of a workflow, a project or the organisation."""

    project_id: UUID | None
    workflow_id: UUID | None
    runs: int
    consumed_micro: int
    estimate_micro: int
    saved_micro: int


class DayUsage(msgspec.Struct, frozen=True):
    """Micro-credits of one day in UTC."""

    day: date
    consumed_micro: int


By = Annotated[Literal["run", "workflow", "project", "organisation", "day"], Parameter(description="what to add up by")]


@get("/usage/credits", needs=READ, operation_class=described(answers=tuple(MEDIA_TYPES.values())))
async def credit_usage(
    request: Http,
    service: Service,
    by: By = "workflow",
    project: str | None = None,
    workflow: UUID | None = None,
    first: Annotated[date | None, QueryParameter(name="from", description="first day, with by=day")] = None,
    last: Annotated[date | None, QueryParameter(name="to", description="last day, with by=day")] = None,
    form: Annotated[Format, QueryParameter(name="format")] = "json",
    limit: Size = 100,
    cursor: UUID | None = None,
) -> Response[Page[RunUsage]] | Response[list[UsageRow]] | Response[list[DayUsage]] | Response[bytes]:
    """Credits by run, workflow, project, organisation or day, running ones counted up to now; CSV and Parquet too."""
    if by != "day" and (first or last):
        raise Invalid(f"days go with by=day, not with by={by}", path="from" if first else "to")
    if by == "day" and workflow:
        raise Invalid("days are added up over whole projects", path="workflow")
    if project is None and request.user.projects is not None:
        raise Invalid("this key is confined to projects: name the one that is asked about", path="project")
    known = await service.project(request, project) if project else None
    scope = _Scope(request.user.organisation_id, known.project_id if known else None, workflow)
    if by == "run":
        if form == "json":
            found = await _runs(service, scope, cursor or _LAST, limit + 1)
            return page(request, found, limit, lambda one: str(one.run_id))
        return download(await _all_runs(service, scope), RunUsage, form, "credits-by-run")
    if by == "day":
        days = await _days(service, scope, first, last)
        return Response(days) if form == "json" else download(days, DayUsage, form, "credits-by-day")
    rows = await _totals(service, scope, by)
    return Response(rows) if form == "json" else download(rows, UsageRow, form, f"credits-by-{by}")


class _Scope(msgspec.Struct, frozen=True):
    organisation_id: UUID
    ledger_id: UUID | None
    workflow_id: UUID | None


async def _runs(service: Service, scope: _Scope, below: UUID, limit: int) -> list[RunUsage]:
    return await usage.by_run(
        service.pool,
        scope.organisation_id,
        datetime.now(UTC),
        ledger_id=scope.ledger_id,
        workflow_id=scope.workflow_id,
        below=below,
        limit=limit,
    )


async def _all_runs(service: Service, scope: _Scope) -> list[RunUsage]:
    found: list[RunUsage] = []
    while more := await _runs(service, scope, found[-1].run_id if found else _LAST, 5_000):
        found += more
        if len(found) > MAX_EXPORTED_ROWS:
            raise TooLarge(
                f"more than {MAX_EXPORTED_ROWS} runs; narrow them down by project or workflow", limit=MAX_EXPORTED_ROWS
            )
    return found


async def _days(service: Service, scope: _Scope, first: date | None, last: date | None) -> list[DayUsage]:
    now = datetime.now(UTC)
    end = last or now.date()
    start = first or end - timedelta(days=DAYS - 1)
    if start > end:
        raise Invalid(f"the first day, {start}, lies after the last, {end}", path="from")
    if (end - start).days >= MAX_DAYS:
        raise Invalid(f"at most {MAX_DAYS} days at a time", path="from", limit=MAX_DAYS)
    days = await usage.by_day(service.pool, scope.organisation_id, start, end, now, ledger_id=scope.ledger_id)
    return [DayUsage(day, micro) for day, micro in days.items()]


async def _totals(
    service: Service, scope: _Scope, by: Literal["workflow", "project", "organisation"]
) -> list[UsageRow]:
    rows = await usage.by_workflow(
        service.pool,
        scope.organisation_id,
        datetime.now(UTC),
        ledger_id=scope.ledger_id,
        workflow_id=scope.workflow_id,
    )
    groups: dict[tuple[UUID | None, UUID | None], list[usage.Usage]] = {}
    for row in rows:
        key = (None if by == "organisation" else row.ledger_id, row.workflow_id if by == "workflow" else None)
        groups.setdefault(key, []).append(row)
    return [
        UsageRow(
            project_id,
            workflow_id,
            sum(row.runs for row in group),
            sum(row.consumed_micro for row in group),
            sum(row.estimate_micro for row in group),
            sum(row.saved_micro for row in group),
        )
        for (project_id, workflow_id), group in groups.items()
    ]


ROUTES = Router(path="", route_handlers=[credit_usage], tags=["credits"])
