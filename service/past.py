"""What the API shows of the past; see `service.moments` for how a moment is named."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Response

from events.errors import Erased
from events.types import Status
from projections import past, runs
from projections.credits import RunCredits
from projections.past import Moment, RunThen
from projections.runs import StoredRun
from projections.tenancy import Project
from service import moments
from service.context import Http, Service
from service.paging import foreign
from service.problems import Invalid
from service.resources import Credits, RunResource, Tombstone, run_resource

WITH_A_MOMENT: Final = frozenset({"at", "status", "workflow", "limit", "cursor"})
"""What a list of the past can be asked for."""


class DeletedRun(msgspec.Struct, frozen=True):
    """A run that was there then and has been deleted since: the status that it had, and what is left of it now."""

    status: str
    tombstone: Tombstone


class PastRuns(msgspec.Struct, frozen=True):
    """Runs as they were at a position, newest first; a page may be shorter than its limit before the last one."""

    position: int
    items: list[RunResource]
    deleted: list[DeletedRun]
    next_cursor: str | None


async def run_then(
    request: Http, service: Service, stored: StoredRun, at: str
) -> tuple[StoredRun, Moment, RunResource]:
    """Return a run as it was, the moment, and how it is shown. Raises `Gone` if it is deleted meanwhile."""
    moment = await moments.moment(service.pool, stored.ledger_id, moments.parse(at), stream=stored.run_id)
    try:
        then, counted = await past.run_at(service.ledger, stored.ledger_id, stored.run_id, moment)
    except Erased:
        await service.run(request, str(stored.run_id))  # deleted meanwhile: says what is left
        raise
    return then, moment, _shown(then, counted, moment)


async def project_then(service: Service, project: Project, at: str) -> tuple[Project, Moment]:
    """Return a project as it was, and the moment."""
    moment = await moments.moment(service.pool, project.project_id, moments.parse(at), stream=project.project_id)
    return await past.project_at(service.ledger, project, moment), moment


async def runs_then(
    request: Http,
    service: Service,
    project_id: UUID,
    at: str,
    *,
    statuses: Sequence[Status] | None,
    workflow_id: UUID | None,
    limit: int,
    cursor: str | None,
) -> Response[PastRuns]:
    """Return a page of a project's runs as they were. Raises `Invalid` for a filter that only the present knows."""
    for name in request.query_params:
        if name not in WITH_A_MOMENT:
            raise Invalid(f"`{name}` is known of runs as they are now, not with `at`", path=name)
    moment = await moments.moment(service.pool, project_id, moments.parse(at))
    found, more = await past.runs_at(
        service.ledger,
        project_id,
        moment,
        statuses=statuses,
        workflow_id=workflow_id,
        after=await _seen(service, project_id, cursor) if cursor else None,
        limit=limit,
    )
    items = [_shown(one.stored, one.credits, moment) for one in found if one.credits is not None]
    deleted = [await _left(service, one) for one in found if one.credits is None]
    following = str(found[-1].stored.run_id) if more else None
    headers = {"Tachograph-Position": str(moment.position)}
    if following is not None:
        given = [(name, value) for name, value in request.query_params.multi_items() if name not in {"at", "cursor"}]
        query = urlencode([*given, ("at", f"position:{moment.position}"), ("cursor", following)])
        headers["Link"] = f'<{request.url.path}?{query}>; rel="next"'
    return Response(PastRuns(moment.position, items, deleted, following), headers=headers)


async def _seen(service: Service, project_id: UUID, cursor: str) -> UUID:
    try:
        seen = await runs.get(service.pool, UUID(cursor))
    except ValueError:
        seen = None
    if seen is None or seen.ledger_id != project_id:
        raise foreign()
    return seen.run_id


async def _left(service: Service, one: RunThen) -> DeletedRun:
    return DeletedRun(one.status, await service.tombstone(one.stored))


def _shown(stored: StoredRun, counted: RunCredits, moment: Moment) -> RunResource:
    credits_ = Credits(counted.consumed_micro, counted.estimate_micro, counted.saved_micro)
    return run_resource(stored, credits_, moment.at)
