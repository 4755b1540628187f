"""Workflows: an inline projection, what may be done to one, and its versions, told by the ledger."""

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from events.commit import InlineRow
from events.errors import NotFound
from events.ledger import Appended, Ledger
from events.organisation import WorkflowCreated, WorkflowEvent
from events.sql import load
from events.workflow import Workflow, evolve
from projections.changes import carry_out
from projections.execute import Request, record
from projections.runs import Reader
from projections.tenancy import Rows


class StoredWorkflow(msgspec.Struct, frozen=True):
    """A workflow with its address."""

    workflow_id: UUID
    ledger_id: UUID
    created_at: datetime
    workflow: Workflow


def row(workflow_id: UUID, workflow: Workflow, *, at: str = "infinity", event: int = 0) -> Rows:
    """Return the row of a workflow, after the `event`-th of the append's events."""
    columns = {
        "workflow_id": workflow_id,
        "version": workflow.version,
        "name": workflow.name,
        "archived": workflow.archived,
        "state": msgspec.msgpack.encode(workflow),
        "created_at": at,
    }
    return {"projection.project_workflow": [InlineRow(event, msgspec.Raw(msgspec.json.encode(columns)))]}


async def create(
    ledger: Ledger, ledger_id: UUID, workflow_id: UUID, created: WorkflowCreated, request: Request
) -> tuple[StoredWorkflow, int]:
    """Record a workflow and return it with its ledger position; a repetition returns what was recorded."""
    appended = await _append(ledger, ledger_id, workflow_id, Workflow(), [created], request)
    return await at_version(ledger, ledger_id, workflow_id, appended.version), appended.last


async def change(
    ledger: Ledger, workflow_id: UUID, decide: Callable[[Workflow], Sequence[WorkflowEvent]], request: Request
) -> tuple[StoredWorkflow, int]:
    """Carry out a decision on a workflow, and return the workflow after it with its ledger position.

    Raises what `decide` and `projections.changes.carry_out` raise.
    """

    async def append(known: StoredWorkflow) -> Appended | None:
        events = decide(known.workflow)
        if not events:
            return None
        return await _append(ledger, known.ledger_id, workflow_id, known.workflow, events, request)

    return await carry_out(ledger, workflow_id, request, get=get, append=append, at_version=at_version)


async def at_version(ledger: Ledger, ledger_id: UUID, workflow_id: UUID, version: int | None) -> StoredWorkflow:
    """Return a workflow as it was at a version. Raises `NotFound` for one that it has not come to."""
    state, created_at = Workflow(), None
    for recorded in await ledger.read_stream(ledger_id, workflow_id, up_to=version):
        state = evolve(state, recorded.event())
        created_at = created_at or recorded.recorded_at
    if created_at is None or state.version != (version or state.version):
        raise NotFound(f"workflow {workflow_id} has no version {version}")
    return StoredWorkflow(workflow_id, ledger_id, created_at, state)


async def _append(
    ledger: Ledger,
    ledger_id: UUID,
    workflow_id: UUID,
    known: Workflow,
    events: Sequence[WorkflowEvent],
    request: Request,
) -> Appended:
    state = known
    for event in events:
        state = evolve(state, event)
    return await record(
        ledger,
        ledger_id=ledger_id,
        stream=workflow_id,
        expected_version=known.version,
        events=events,
        inline=row(workflow_id, state, event=len(events) - 1),
        request=request,
    )


def _workflow(row: asyncpg.Record) -> StoredWorkflow:
    state = msgspec.msgpack.decode(row["state"], type=Workflow)
    return StoredWorkflow(row["workflow_id"], row["ledger_id"], row["created_at"], state)


async def get(reader: Reader, workflow_id: UUID) -> StoredWorkflow | None:
    """Return a workflow by its id."""
    row = await reader.fetchrow("select * from workflow where workflow_id = $1", workflow_id)
    return None if row is None else _workflow(row)


async def by_name(reader: Reader, ledger_id: UUID, name: str) -> StoredWorkflow | None:
    """Return a project's workflow by its name."""
    row = await reader.fetchrow("select * from workflow where ledger_id = $1 and name = $2", ledger_id, name)
    return None if row is None else _workflow(row)


async def by_name_or_id(reader: Reader, ledger_id: UUID, name_or_id: str) -> StoredWorkflow | None:
    """Return a project's workflow by what a caller calls it."""
    try:
        found = await get(reader, UUID(name_or_id))
    except ValueError:
        return await by_name(reader, ledger_id, name_or_id)
    return found if found is not None and found.ledger_id == ledger_id else None


async def of_project(
    reader: Reader, ledger_id: UUID, after: str, limit: int, *, archived: bool | None = None
) -> list[StoredWorkflow]:
    """Return a project's workflows by name, after a name; only archived ones, only others, or all."""
    rows = await reader.fetch(load("projections.sql", "list_workflows"), ledger_id, after, archived, limit)
    return [_workflow(row) for row in rows]
