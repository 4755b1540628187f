"""A workflow: the recipe that runs of one kind share. Pure."""

from typing import Any, assert_never

import msgspec
from msgspec.structs import asdict, replace

from events.errors import CorruptHistory
from events.organisation import (
    WorkflowArchived,
    WorkflowChanged,
    WorkflowCreated,
    WorkflowEvent,
    WorkflowRenamed,
)
from events.types import Resources


class Workflow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a workflow's events add up to, at `version`."""

    version: int = 0
    name: str = ""
    architecture: str = ""
    dataset: str = ""
    training_parameters: dict[str, Any] = {}
    system_prompt: str = ""
    command: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    resources: Resources | None = None
    protection: bool = False
    estimate_seconds: float | None = None
    archived: bool = False


def evolve(workflow: Workflow, event: WorkflowEvent) -> Workflow:
    """Fold one event into the state. Raises `CorruptHistory` for an event before the workflow's creation."""
    if (workflow.version == 0) != isinstance(event, WorkflowCreated):
        raise CorruptHistory("a workflow is created once, and first")
    version = workflow.version + 1
    match event:
        case WorkflowCreated() | WorkflowChanged():
            return replace(workflow, version=version, **asdict(event))
        case WorkflowRenamed():
            return replace(workflow, version=version, name=event.name)
        case WorkflowArchived():
            return replace(workflow, version=version, archived=True)
        case _:
            assert_never(event)
