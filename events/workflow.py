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
    WorkflowUnarchived,
)
from events.types import Resources, StartCommand, Volume


class Workflow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a workflow's events add up to, at `version`."""

    version: int = 0
    name: str = ""
    architecture: str = ""
    dataset: str = ""
    dataset_split: dict[str, float] = {}
    training_parameters: dict[str, Any] = {}
    system_prompt: str = ""
    command: tuple[str, ...] = ()
    commands: tuple[StartCommand, ...] = ()
    environment: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    resources: Resources | None = None
    import_volumes: tuple[Volume, ...] = ()
    export_volumes: tuple[Volume, ...] = ()
    protection: bool = False
    estimate_seconds: float | None = None
    code: str | None = None
    retries: int = 0
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
        case WorkflowArchived() | WorkflowUnarchived():
            return replace(workflow, version=version, archived=isinstance(event, WorkflowArchived))
        case _:
            assert_never(event)
