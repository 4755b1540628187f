"""A workflow: the recipe that runs of one kind share. Pure."""

from collections.abc import Mapping
from typing import Any, assert_never
from uuid import UUID

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
from events.run_events import RunCreated
from events.types import Mode, Resources, StartCommand, Volume, WorkflowRef


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


def change(workflow: Workflow, given: Mapping[str, Any]) -> tuple[WorkflowEvent, ...]:
    """Return what a change leads to: a new name, a new version of the recipe, both, or nothing if all is so already.

    What is not given stays as it is.
    """
    events: list[WorkflowEvent] = []
    if given.get("name", workflow.name) != workflow.name:
        events.append(WorkflowRenamed(name=given["name"]))
    recipe = {name: given.get(name, getattr(workflow, name)) for name in WorkflowChanged.__struct_fields__}
    if any(recipe[name] != getattr(workflow, name) for name in recipe):
        events.append(WorkflowChanged(**recipe))
    return tuple(events)


def archive(workflow: Workflow, archived: bool) -> tuple[WorkflowEvent, ...]:  # noqa: FBT001 (what is asked for)
    """Return what it takes to withdraw the workflow from new runs, or to offer it again."""
    if workflow.archived == archived:
        return ()
    return (WorkflowArchived() if archived else WorkflowUnarchived(),)


def reference(workflow_id: UUID, workflow: Workflow) -> WorkflowRef:
    """Return what a run says of the workflow that it was made from."""
    shared = {name: getattr(workflow, name) for name in WorkflowRef.__struct_fields__ if name != "id"}
    return WorkflowRef(id=workflow_id, **shared)


def run_of(workflow: Workflow, pinned: WorkflowRef | None, mode: Mode) -> RunCreated:
    """Return what a run takes from its workflow; its names come later."""
    managed = mode is Mode.MANAGED
    return RunCreated(
        name="",
        session_id="",
        mode=mode,
        workflow=pinned,
        config=workflow.training_parameters,
        command=workflow.command if managed else (),
        commands=workflow.commands if managed else (),
        environment=workflow.environment,
        secrets=workflow.secrets,
        resources=workflow.resources or (Resources() if managed else None),
        import_volumes=workflow.import_volumes if managed else (),
        export_volumes=workflow.export_volumes if managed else (),
        protection=workflow.protection,
        estimate_seconds=workflow.estimate_seconds,
        code=workflow.code,
        dataset=workflow.dataset or None,
        retries=workflow.retries if managed else 0,
    )
