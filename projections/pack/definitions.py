"""A project's workflows, sweeps, alert rules and webhooks in its archive: a line each, what is referred to first.

Of a webhook's address there are scheme, host and port: services put secrets into what follows. Of a workflow's secrets
there are the names; no more of them is known here.

Source: docs/decisions/0029-archives.md.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from msgspec.structs import replace

from events.ledger import Ledger
from events.types import PastEvent
from projections import subscriptions, sweeps, workflows
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
    """Yield the lines as of a position, rules and webhooks as they are now; what is left out is added to `left_out`."""
    async for kind, identity in _of_project(ledger, project):
        own = kind in {"alert_rule", "webhook"}  # these are of their organisation's ledger
        recorded = await ledger.read_stream(project.organisation_id if own else project.project_id, identity)
        events = [past_event(one) for one in recorded if own or one.position <= position]
        if kind == "webhook":
            events = [_without_secrets(events[-1])]
        if not events:
            continue
        line = _json.encode(Definition(kind=kind, id=identity, events=events)) + b"\n"
        if len(line) > MAX_DEFINITION_BYTES:
            left_out.append(NotPacked(kind, identity, f"its history has over {MAX_DEFINITION_BYTES} bytes"))
        else:
            yield line


def _without_secrets(hook: PastEvent) -> PastEvent:
    """Return what set a webhook as a webhook that waits for the rest of its address."""
    address = urlsplit(hook.data["url"])
    return replace(hook, data=hook.data | {"url": f"{address.scheme}://{address.netloc}", "in_force": False})


async def _of_project(ledger: Ledger, project: Project) -> AsyncIterator[tuple[DefinitionKind, UUID]]:
    name = ""
    while known := await workflows.of_project(ledger.pool, project.project_id, name, PAGE):
        for workflow in known:
            yield "workflow", workflow.workflow_id
        name = known[-1].workflow.name
    after = None
    while searched := await sweeps.of_project(ledger.pool, project.project_id, after, PAGE):
        for sweep in searched:
            yield "sweep", sweep.sweep_id
        after = (searched[-1].created_at, searched[-1].sweep_id)
    kinds: tuple[subscriptions.Kind, ...] = ("alert_rule", "webhook")
    for kind in kinds:
        for one in await subscriptions.of_project(ledger.pool, project.project_id, kind):
            yield kind, one.subscription_id
