"""A workflow's changes, carried out, and its versions, told by the ledger."""

from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

from events.errors import NotFound, VersionConflict
from events.ledger import Appended, Ledger
from events.organisation import WorkflowCreated, WorkflowEvent
from events.workflow import Workflow, evolve
from projections import tenancy
from projections.execute import Request, record
from projections.tenancy import StoredWorkflow

ATTEMPTS: Final = 20


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

    A named request that was recorded before gives the first answer again. Raises `NotFound`, and `VersionConflict` only
    after `ATTEMPTS` rounds.
    """
    async with ledger.turns.of(workflow_id):
        for _ in range(ATTEMPTS):
            known = await tenancy.workflow(ledger.pool, workflow_id)
            if known is None:
                raise NotFound(f"there is no workflow {workflow_id}")
            before = await ledger.stored(known.ledger_id, request.event_id, request.body) if request.named else None
            if before is not None:
                return await at_version(ledger, known.ledger_id, workflow_id, before.version), before.last
            events = decide(known.workflow)
            if not events:
                return known, (await ledger.head(known.ledger_id))[0]
            try:
                appended = await _append(ledger, known.ledger_id, workflow_id, known.workflow, events, request)
            except VersionConflict:
                continue
            return await at_version(ledger, known.ledger_id, workflow_id, appended.version), appended.last
        raise VersionConflict(f"others changed this workflow {ATTEMPTS} times meanwhile")


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
        inline=tenancy.workflow_row(workflow_id, state, event=len(events) - 1),
        request=request,
    )
