"""Projects and workflows."""

from uuid import UUID

import msgspec
from litestar import Response, Router, get, patch, post
from litestar.params import JSONBody
from msgspec.structs import asdict

from events import workflow as workflows
from events.errors import NotFound, Rejected
from events.ids import derived
from events.ledger import Appended
from events.organisation import (
    ProjectChanged,
    ProjectCreated,
    WorkflowChanged,
    WorkflowCreated,
    WorkflowEvent,
    WorkflowRenamed,
)
from events.workflow import Workflow
from projections import tenancy
from projections.execute import Request, record
from service.bodies import ChangedProject, NewProject, WorkflowBody
from service.context import Http, Service
from service.paging import Page, Size, page
from service.past import project_then
from service.problems import Invalid
from service.recipes import checked
from service.resources import ProjectResource, WorkflowResource, project_resource, workflow_resource
from service.run_names import no_id


def _at(position: int) -> dict[str, str]:
    return {"Tachograph-Position": str(position)}


@post("/projects", status_code=201)
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
        events=[ProjectCreated(name=data.name, description=data.description)],
        inline=tenancy.project_row(
            organisation_id=organisation_id, version=1, name=data.name, description=data.description
        ),
        request=asked,
    )
    resource = ProjectResource(
        id=project_id, name=data.name, description=data.description, created_at=appended.recorded_at, version=1
    )
    return Response(resource, status_code=201, headers=_at(appended.position))


@get("/projects")
async def list_projects(
    request: Http, service: Service, limit: Size = 100, cursor: str = ""
) -> Response[Page[ProjectResource]]:
    """The projects by name."""
    found = await tenancy.projects(service.pool, request.user.organisation_id, cursor, limit + 1)
    return page(request, [project_resource(one) for one in found], limit, lambda last: last.name)


@get("/projects/{project:str}")
async def get_project(
    request: Http, service: Service, project: str, at: str | None = None
) -> Response[ProjectResource]:
    """One project, by id or name, now or as of `at`: its version, a position (`position:4711`) or a time (RFC 3339)."""
    known = await service.project(request, project)
    if at is None:
        return Response(project_resource(known))
    then, moment = await project_then(service, known, at)
    return Response(project_resource(then), headers=_at(moment.position))


@patch("/projects/{project:str}")
async def change_project(
    request: Http, data: JSONBody[ChangedProject], service: Service, project: str
) -> Response[ProjectResource]:
    """Rename or describe a project."""
    known = await service.project(request, project)
    asked = await service.asked(request, known.project_id)
    name = known.name if data.name is msgspec.UNSET else no_id(data.name)
    description = known.description if data.description is msgspec.UNSET else data.description
    appended = await record(
        service.ledger,
        ledger_id=known.project_id,
        stream=known.project_id,
        expected_version=known.version,
        events=[ProjectChanged(name=name, description=description)],
        inline=tenancy.project_row(
            organisation_id=known.organisation_id, version=known.version + 1, name=name, description=description
        ),
        request=asked,
    )
    changed = await service.project(request, str(known.project_id))
    return Response(project_resource(changed), headers=_at(appended.position))


async def _record_workflow(
    service: Service, asked: Request, ledger_id: UUID, workflow_id: UUID, known: Workflow, events: list[WorkflowEvent]
) -> Appended:
    """Append a workflow's events. A repetition changes nothing."""
    state = known
    for event in events:
        state = workflows.evolve(state, event)
    rows = tenancy.workflow_row(workflow_id, state)
    (name, (row,)), *_ = rows.items()
    return await record(
        service.ledger,
        ledger_id=ledger_id,
        stream=workflow_id,
        expected_version=known.version,
        events=events,
        inline={name: [msgspec.structs.replace(row, event=len(events) - 1)]},
        request=asked,
    )


async def _as_of(service: Service, stored: tenancy.StoredWorkflow, version: int | None) -> tenancy.StoredWorkflow:
    """Return the workflow at a version, folded from the ledger."""
    state = Workflow()
    for recorded in await service.ledger.read_stream(stored.ledger_id, stored.workflow_id, up_to=version):
        state = workflows.evolve(state, recorded.event())
    return tenancy.StoredWorkflow(stored.workflow_id, stored.ledger_id, stored.created_at, state)


@post("/projects/{project:str}/workflows", status_code=201)
async def create_workflow(
    request: Http, data: JSONBody[WorkflowBody], service: Service, project: str
) -> Response[WorkflowResource]:
    """Create a workflow."""
    if data.name is msgspec.UNSET:
        raise Invalid("Object missing required field `name`", path="$.name")
    no_id(data.name)
    known = await service.project(request, project)
    asked = await service.asked(request, known.project_id)
    if not asked.named and await tenancy.workflow_by_name(service.pool, known.project_id, data.name):
        raise Rejected(f"there is a workflow named {data.name!r} already", state="exists", asked="create")
    workflow_id = derived(asked.event_id, "workflow")
    given = checked({name: value for name, value in asdict(data).items() if value is not msgspec.UNSET})
    created = WorkflowCreated(**given)
    appended = await _record_workflow(service, asked, known.project_id, workflow_id, Workflow(), [created])
    stored = tenancy.StoredWorkflow(
        workflow_id, known.project_id, appended.recorded_at, workflows.evolve(Workflow(), created)
    )
    return Response(workflow_resource(stored), status_code=201, headers=_at(appended.last))


@get("/projects/{project:str}/workflows")
async def list_workflows(
    request: Http, service: Service, project: str, limit: Size = 100, cursor: str = ""
) -> Response[Page[WorkflowResource]]:
    """A project's workflows by name."""
    known = await service.project(request, project)
    found = await tenancy.workflows(service.pool, known.project_id, cursor, limit + 1)
    return page(request, [workflow_resource(one) for one in found], limit, lambda last: last.name)


async def _workflow(service: Service, request: Http, workflow_id: UUID) -> tenancy.StoredWorkflow:
    stored = await tenancy.workflow(service.pool, workflow_id)
    if stored is None:
        raise NotFound(f"there is no workflow {workflow_id}")
    await service.project(request, str(stored.ledger_id))
    return stored


@get("/workflows/{workflow:uuid}")
async def get_workflow(request: Http, service: Service, workflow: UUID) -> WorkflowResource:
    """One workflow."""
    return workflow_resource(await _workflow(service, request, workflow))


@patch("/workflows/{workflow:uuid}")
async def change_workflow(
    request: Http, data: JSONBody[WorkflowBody], service: Service, workflow: UUID
) -> Response[WorkflowResource]:
    """Change a workflow for future runs: a rename, a new version of the recipe, or both."""
    stored = await _workflow(service, request, workflow)
    asked = await service.asked(request, workflow)
    before = await service.ledger.stored(stored.ledger_id, asked.event_id, asked.body) if asked.named else None
    if before is not None:
        first = await _as_of(service, stored, before.version)
        return Response(workflow_resource(first), headers=_at(before.last))
    known = stored.workflow
    given = checked({name: value for name, value in asdict(data).items() if value is not msgspec.UNSET})
    events: list[WorkflowEvent] = []
    if given.get("name", known.name) != known.name:
        events.append(WorkflowRenamed(name=no_id(given["name"])))
    recipe = {name: given.get(name, getattr(known, name)) for name in WorkflowChanged.__struct_fields__}
    if any(recipe[name] != getattr(known, name) for name in recipe):
        events.append(WorkflowChanged(**recipe))
    position = 0
    if events:
        position = (await _record_workflow(service, asked, stored.ledger_id, workflow, known, events)).last
    changed = await _workflow(service, request, workflow)
    return Response(workflow_resource(changed), headers=_at(position))


ROUTES = Router(
    path="",
    route_handlers=[
        create_project,
        list_projects,
        get_project,
        change_project,
        create_workflow,
        list_workflows,
        get_workflow,
        change_workflow,
    ],
    request_max_body_size=256 << 10,
    tags=["projects"],
)
