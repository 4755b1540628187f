"""A project's workflows, sweeps and alert rules, as its archive has them: one a line, what others refer to first.

Webhooks are left out, since an address may be a secret. Of a workflow's secrets there are the names; no more of them is
known here.

Source: docs/decisions/0029-archives.md.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final
from uuid import UUID

import msgspec

from events.ledger import Ledger
from projections import subscriptions, sweeps, tenancy
from projections.pack.format import (
    MAX_DEFINITION_BYTES,
    Definition,
    DefinitionKind,
    NotPacked,
    past_event,
)
from projections.tenancy import Project

PAGE: Final = 100
_json: Final = msgspec.json.Encoder()


async def defined(ledger: Ledger, project: Project, position: int, left_out: list[NotPacked]) -> AsyncGenerator[bytes]:
    """Yield the lines as of a position, alert rules as they are now; what is left out is added to `left_out`."""
    async for kind, identity in _of_project(ledger, project):
        own = kind == "alert_rule"  # rules are of their organisation's ledger
        recorded = await ledger.read_stream(project.organisation_id if own else project.project_id, identity)
        events = [past_event(one) for one in recorded if own or one.position <= position]
        if not events:
            continue
        line = _json.encode(Definition(kind=kind, id=identity, events=events)) + b"\n"
        if len(line) > MAX_DEFINITION_BYTES:
            left_out.append(NotPacked(kind, identity, f"its history has over {MAX_DEFINITION_BYTES} bytes"))
        else:
            yield line
    hooks = await subscriptions.of_project(ledger.pool, project.project_id, "webhook")
    left_out.extend(NotPacked("webhook", hook.subscription_id, "its address may be a secret") for hook in hooks)


async def _of_project(ledger: Ledger, project: Project) -> AsyncIterator[tuple[DefinitionKind, UUID]]:
    name = ""
    while known := await tenancy.workflows(ledger.pool, project.project_id, name, PAGE):
        for workflow in known:
            yield "workflow", workflow.workflow_id
        name = known[-1].workflow.name
    after = None
    while searched := await sweeps.of_project(ledger.pool, project.project_id, after, PAGE):
        for sweep in searched:
            yield "sweep", sweep.sweep_id
        after = (searched[-1].created_at, searched[-1].sweep_id)
    for rule in await subscriptions.of_project(ledger.pool, project.project_id, "alert_rule"):
        yield "alert_rule", rule.subscription_id
