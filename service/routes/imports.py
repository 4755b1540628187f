"""Archives brought in over HTTP: uploaded in pieces, then imported behind the API, with progress and a report.

The headers are those of the IETF's draft on resumable uploads, as for artifacts.
"""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import HttpMethod, Response, Router, delete, get, patch, post, route
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody
from msgspec import Meta

from events.errors import NotFound
from events.ids import derived, uuid7
from projections import import_jobs
from projections.import_jobs import ImportJob, State
from projections.storage import artifacts
from service.access import READ, WRITE
from service.context import Http, Service, idempotency_key
from service.imports.jobs import report_of
from service.imports.report import Outcomes
from service.openapi import BYTES, described
from service.paging import Page, Size, linked, opened, sealed
from service.recipes import Body
from service.routes.artifacts import body_of, check_piece, upload_offset


class ImportResource(msgspec.Struct, frozen=True, kw_only=True):
    """An import: go on from `offset` while it is uploading; then runs and rows (points, lines) are counted.

    `runs` is 0 until the archive was read. `report` is there in the end, for seven days.
    """

    id: UUID
    state: State
    dry_run: bool
    offset: int
    bytes: int
    part_bytes: int = artifacts.PART_BYTES
    runs_done: int
    runs: int
    rows_done: int
    created_at: datetime
    changed_at: datetime
    report: Outcomes | None = None


class NewImport(Body, frozen=True):
    """An archive to be uploaded in pieces; `dry_run` checks everything and stores nothing."""

    bytes: Annotated[int, Meta(ge=1, le=1 << 50)]
    dry_run: bool = False


class _Place(msgspec.Struct):
    created_at: datetime
    import_id: UUID


@post("/projects/{project:str}/imports", needs=WRITE, status_code=201)
async def open_import(
    request: Http, data: JSONBody[NewImport], service: Service, project: str
) -> Response[ImportResource]:
    """Open an import of an archive that `export` made: its pieces go to `Location` by PATCH."""
    known = await service.project(request, project)
    key = idempotency_key(request)
    import_id = uuid7() if key is None else derived(request.user.actor, "import", known.project_id, key)
    job = await import_jobs.reserve(
        service.ledger,
        known.project_id,
        request.user.organisation_id,
        import_id,
        data.bytes,
        request.user.actor,
        service.uploads.limits,
        dry_run=data.dry_run,
    )
    location = {"Location": f"/api/v1/projects/{known.project_id}/imports/{import_id}"}
    return await _answer(service, job, location, status=201)


@patch(
    "/projects/{project:str}/imports/{import_id:uuid}",
    needs=WRITE,
    responses={202: ResponseSpec(ImportResource, description="All is there; it begins", generate_examples=False)},
    operation_class=described(takes={BYTES: None}),
)
async def continue_import(request: Http, service: Service, project: str, import_id: UUID) -> Response[ImportResource]:
    """Send the bytes that follow `Upload-Offset`: a multiple of `part_bytes`, or all that is left.

    The answer says what is durable; the last piece lets the import begin (202). After a cut, ask where to go on.
    """
    job = await _job(request, service, project, import_id)
    offset = upload_offset(request)
    if job.state != "uploading":
        return await _answer(service, job)
    check_piece(request, job.bytes - offset)
    async with service.uploads.transfer():
        received = await service.uploads.receive(job.upload, offset, body_of(request))
    if received.received < job.bytes:
        return await _answer(service, await _job(request, service, project, import_id))
    await import_jobs.queue(service.pool, import_id)
    service.imports.nudge()
    return await _answer(service, await _job(request, service, project, import_id), status=202)


@route("/projects/{project:str}/imports/{import_id:uuid}", needs=READ, http_method=[HttpMethod.GET, HttpMethod.HEAD])
async def get_import(request: Http, service: Service, project: str, import_id: UUID) -> Response[Any]:
    """How far an import is: `Upload-Offset` and the state, and in the end the report."""
    return await _answer(service, await _job(request, service, project, import_id), {"Cache-Control": "no-store"})


@get("/projects/{project:str}/imports", needs=READ)
async def list_imports(
    request: Http, service: Service, project: str, limit: Size = 100, cursor: str = ""
) -> Response[Page[ImportResource]]:
    """A project's imports, newest first, without their reports."""
    known = await service.project(request, project)
    place = opened(cursor, _Place) if cursor else None
    after = (place.created_at, place.import_id) if place else None
    found = await import_jobs.listed(service.pool, known.project_id, after, limit + 1)
    last = found[limit - 1] if len(found) > limit else None
    following = sealed(_Place(last.created_at, last.import_id)) if last else None
    return linked(request, [_resource(job) for job in found[:limit]], following)


@delete("/projects/{project:str}/imports/{import_id:uuid}", needs=WRITE, status_code=204)
async def remove_import(request: Http, service: Service, project: str, import_id: UUID) -> None:
    """Give an import up, or forget its report; runs that it brought here stay."""
    job = await _job(request, service, project, import_id)
    await import_jobs.remove(service.pool, import_id)
    await service.uploads.discard(job.upload)


async def _job(request: Http, service: Service, project: str, import_id: UUID) -> ImportJob:
    known = await service.project(request, project)
    job = await import_jobs.find(service.pool, known.project_id, import_id)
    if job is None:
        raise NotFound("there is no such import, or it was forgotten")
    return job


def _resource(job: ImportJob, report: Outcomes | None = None) -> ImportResource:
    return ImportResource(
        id=job.import_id,
        state=job.state,
        dry_run=job.dry_run,
        offset=job.received,
        bytes=job.bytes,
        runs_done=job.runs_done,
        runs=job.runs,
        rows_done=job.rows_done,
        created_at=job.created_at,
        changed_at=job.changed_at,
        report=report,
    )


async def _answer(
    service: Service, job: ImportJob, headers: dict[str, str] | None = None, status: int = 200
) -> Response[Any]:
    resource = _resource(job, await report_of(service.ledger, job))
    return Response(resource, status_code=status, headers={**(headers or {}), "Upload-Offset": str(job.received)})


ROUTES = Router(
    path="",
    route_handlers=[open_import, continue_import, get_import, list_imports, remove_import],
    request_max_body_size=None,
    tags=["imports"],
)
"""Where archives are brought in."""
