"""Projects."""

import msgspec
from litestar import Response, Router, get, patch, post
from litestar.params import JSONBody

from events.errors import Rejected
from events.ids import derived
from events.organisation import (
    ProjectChanged,
    ProjectCreated,
)
from projections import tenancy
from projections.execute import record
from service.access import ADMINISTER, READ, WRITE_ALL
from service.bodies import ChangedProject, NewProject
from service.context import Http, Service
from service.paging import Page, Size, page
from service.past import project_then
from service.resources import ProjectResource, project_resource
from service.runs.names import no_id


def _at(position: int) -> dict[str, str]:
    return {"Tachograph-Position": str(position)}


@post("/projects", needs=WRITE_ALL, status_code=201)
async def create_project(request: Http, data: JSONBody[NewProject], service: Service) -> Response[ProjectResource]:
    """Open a project and its ledger."""
    no_id(data.name)
    asked = await service.asked(request)
    organisation_id = request.user.organisation_id
    project_id = derived(asked.event_id, "project")
    if not asked.named and await tenancy.project(service.pool, organisation_id, data.name):
        raise Rejected(f"there is a project named {data.name!r} already", state="exists", asked="create")
    await service.ledger.open(project_id, organisation_id, "project")
    appended = await record(
        service.ledger,
        ledger_id=project_id,
        stream=project_id,
        expected_version=0,
        events=[ProjectCreated(name=data.name, description=data.description, organisation=organisation_id)],
        inline=tenancy.project_row(
            organisation_id=organisation_id, version=1, name=data.name, description=data.description
        ),
        request=asked,
    )
    resource = ProjectResource(
        id=project_id, name=data.name, description=data.description, created_at=appended.recorded_at, version=1
    )
    return Response(resource, status_code=201, headers=_at(appended.position))


@get("/projects", needs=READ)
async def list_projects(
    request: Http, service: Service, limit: Size = 100, cursor: str = ""
) -> Response[Page[ProjectResource]]:
    """The projects by name."""
    found = await tenancy.projects(service.pool, request.user.organisation_id, cursor, limit + 1, request.user.projects)
    return page(request, [project_resource(one) for one in found], limit, lambda last: last.name)


@get("/projects/{project:str}", needs=READ)
async def get_project(
    request: Http, service: Service, project: str, at: str | None = None
) -> Response[ProjectResource]:
    """One project, by id or name, now or as of `at`: its version, a position (`position:4711`) or a time (RFC 3339)."""
    known = await service.project(request, project)
    if at is None:
        return Response(project_resource(known))
    then, moment = await project_then(service, known, at)
    return Response(project_resource(then), headers=_at(moment.position))


@patch("/projects/{project:str}", needs=ADMINISTER)
async def change_project(
    request: Http, data: JSONBody[ChangedProject], service: Service, project: str
) -> Response[ProjectResource]:
    """Rename, describe or limit a project."""
    known = await service.project(request, project)
    asked = await service.asked(request, known.project_id)
    name = known.name if data.name is msgspec.UNSET else no_id(data.name)
    description = known.description if data.description is msgspec.UNSET else data.description
    limits = known.limits if data.limits is msgspec.UNSET else data.limits.value()
    appended = await record(
        service.ledger,
        ledger_id=known.project_id,
        stream=known.project_id,
        expected_version=known.version,
        events=[ProjectChanged(name=name, description=description, limits=limits)],
        inline=tenancy.project_row(
            organisation_id=known.organisation_id,
            version=known.version + 1,
            name=name,
            description=description,
            limits=limits,
        ),
        request=asked,
    )
    changed = await service.project(request, str(known.project_id))
    return Response(project_resource(changed), headers=_at(appended.position))


ROUTES = Router(
    path="",
    route_handlers=[
        create_project,
        list_projects,
        get_project,
        change_project,
    ],
    request_max_body_size=256 << 10,
    tags=["projects"],
)
