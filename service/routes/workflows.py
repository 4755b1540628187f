"""Workflows: the recipes that runs are made from, in versions."""

from functools import partial
from typing import Any, Literal
from uuid import UUID

import msgspec
from litestar import Response, Router, get, patch, post
from litestar.params import JSONBody
from msgspec.structs import asdict

from events import workflow as recipes
from events.errors import NotFound, Rejected
from events.ids import derived
from events.organisation import WorkflowCreated
from projections import workflows
from projections.workflows import StoredWorkflow
from service.access import READ, WRITE
from service.bodies import ArchiveBody, WorkflowBody
from service.context import Http, Service
from service.openapi import described
from service.paging import Page, Size, page
from service.problems import Invalid
from service.recipes import checked
from service.resources import WorkflowResource, workflow_resource
from service.runs.names import no_id
from service.runs.references import check_seen


def _answer(outcome: tuple[StoredWorkflow, int], status: int = 200) -> Response[WorkflowResource]:
    stored, position = outcome
    return Response(workflow_resource(stored), status_code=status, headers={"Tachograph-Position": str(position)})


def _given(data: WorkflowBody) -> dict[str, Any]:
    """Return what the body gives, as events hold it. Raises `Invalid`."""
    if data.name is not msgspec.UNSET:
        no_id(data.name)
    return checked({name: value for name, value in asdict(data).items() if value is not msgspec.UNSET})


@post("/projects/{project:str}/workflows", needs=WRITE, status_code=201)
async def create_workflow(
    request: Http, data: JSONBody[WorkflowBody], service: Service, project: str
) -> Response[WorkflowResource]:
    """Create a workflow."""
    if data.name is msgspec.UNSET:
        raise Invalid("Object missing required field `name`", path="$.name")
    known = await service.project(request, project)
    asked = await service.asked(request, known.project_id)
    if not asked.named and await workflows.by_name(service.pool, known.project_id, data.name):
        raise Rejected(f"there is a workflow named {data.name!r} already", state="exists", asked="create")
    workflow_id = derived(asked.event_id, "workflow")
    created = WorkflowCreated(**_given(data))
    await check_seen(
        request, service, code=created.code, dataset=created.dataset, import_volumes=created.import_volumes
    )
    return _answer(await workflows.create(service.ledger, known.project_id, workflow_id, created, asked), 201)


@get("/projects/{project:str}/workflows", needs=READ)
async def list_workflows(
    request: Http,
    service: Service,
    project: str,
    archived: Literal["false", "true", "any"] = "false",
    limit: Size = 100,
    cursor: str = "",
) -> Response[Page[WorkflowResource]]:
    """A project's workflows by name; archived ones are left out unless asked for."""
    known = await service.project(request, project)
    wanted = None if archived == "any" else archived == "true"
    found = await workflows.of_project(service.pool, known.project_id, cursor, limit + 1, archived=wanted)
    return page(request, [workflow_resource(one) for one in found], limit, lambda last: last.name)


async def _workflow(service: Service, request: Http, workflow_id: UUID) -> StoredWorkflow:
    stored = await workflows.get(service.pool, workflow_id)
    if stored is None:
        raise NotFound(f"there is no workflow {workflow_id}")
    await service.project(request, str(stored.ledger_id))
    return stored


@get("/workflows/{workflow:uuid}", needs=READ)
async def get_workflow(request: Http, service: Service, workflow: UUID, version: int | None = None) -> WorkflowResource:
    """One workflow, now or at a version, such as a run says that it was made from."""
    stored = await _workflow(service, request, workflow)
    if version is not None:
        if not 0 < version <= stored.workflow.version:
            raise NotFound(f"this workflow has the versions 1 to {stored.workflow.version}")
        stored = await workflows.at_version(service.ledger, stored.ledger_id, workflow, version)
    return workflow_resource(stored)


@patch("/workflows/{workflow:uuid}", needs=WRITE)
async def change_workflow(
    request: Http, data: JSONBody[WorkflowBody], service: Service, workflow: UUID
) -> Response[WorkflowResource]:
    """Change a workflow for future runs: a rename, a new version of the recipe, or both."""
    await _workflow(service, request, workflow)
    asked = await service.asked(request, workflow)
    given = _given(data)
    await check_seen(
        request, service, **{name: given[name] for name in ("code", "dataset", "import_volumes") if name in given}
    )
    decide = partial(recipes.change, given=given)
    return _answer(await workflows.change(service.ledger, workflow, decide, asked))


@post("/workflows/{workflow:uuid}/archive", needs=WRITE, status_code=200, operation_class=described(optional=True))
async def archive_workflow(
    request: Http, service: Service, workflow: UUID, data: JSONBody[ArchiveBody] = ArchiveBody()
) -> Response[WorkflowResource]:
    """Offer a workflow no longer for new runs, or again with `{"archived": false}`; its runs stay as they are."""
    await _workflow(service, request, workflow)
    asked = await service.asked(request, workflow)
    decide = partial(recipes.archive, archived=data.archived)
    return _answer(await workflows.change(service.ledger, workflow, decide, asked))


ROUTES = Router(
    path="",
    route_handlers=[create_workflow, list_workflows, get_workflow, change_workflow, archive_workflow],
    request_max_body_size=256 << 10,
    tags=["workflows"],
)
