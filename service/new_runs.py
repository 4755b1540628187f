"""From what a caller asks for, and the workflow it is to follow, to the event that creates a run."""

from typing import Final

from events.run_events import RunCreated
from events.types import Mode, Resources, WorkflowRef
from events.workflow import Workflow
from projections.tenancy import StoredWorkflow
from service.bodies import NewRun
from service.problems import Invalid
from service.recipes import checked
from service.run_names import clean_path, memorable_name, session_id

_SHARED: Final = (
    "command",
    "commands",
    "environment",
    "secrets",
    "resources",
    "import_volumes",
    "export_volumes",
)
"""What a run and its workflow say in the same words, and `checked` checks."""

_FOR_A_WORKER: Final = ("retries", "priority", "import_volumes", "export_volumes")
"""What only a worker of ours heeds."""


def created(data: NewRun, stored: StoredWorkflow | None) -> RunCreated:
    """Return the creation of a run; what is not asked for comes from the workflow. Raises `Invalid`."""
    base = stored.workflow if stored else Workflow()
    own = checked({name: value for name in _SHARED if (value := getattr(data, name))})
    asked_to_start = "command" in own
    if not asked_to_start and data.mode is not Mode.TRACKED:
        own |= {"command": base.command, "commands": base.commands}
    mode = data.mode or (Mode.MANAGED if own.get("command") or own.get("commands") else Mode.TRACKED)
    managed = mode is Mode.MANAGED
    if managed and not (own["command"] or own["commands"]):
        raise Invalid("a managed run needs a command, its own or its workflow's", path="$.command")
    for name in _FOR_A_WORKER:
        if not managed and getattr(data, name):
            raise Invalid("this is for managed runs: a tracked run's own process starts it", path=f"$.{name}")
    session = session_id()
    return RunCreated(
        name=data.name or (f"{base.name}-{session}" if stored else memorable_name()),
        session_id=session,
        mode=mode,
        workflow=_reference(stored),
        external_id=data.external_id,
        path=clean_path(data.path),
        alias=data.alias,
        tags=tuple(dict.fromkeys(data.tags)),
        notes=data.notes,
        config={**base.training_parameters, **data.config},
        command=own.get("command", ()),
        commands=own.get("commands", ()),
        environment={**base.environment, **data.environment},
        secrets=tuple(dict.fromkeys((*base.secrets, *own.get("secrets", ())))),
        resources=own.get("resources") or base.resources or (Resources() if managed else None),
        import_volumes=own.get("import_volumes", base.import_volumes if managed else ()),
        export_volumes=own.get("export_volumes", base.export_volumes if managed else ()),
        protection=base.protection if data.protection is None else data.protection,
        estimate_seconds=base.estimate_seconds if data.estimate_seconds is None else data.estimate_seconds,
        liveness=data.liveness.value(),
        code=data.code or base.code,
        dataset=data.dataset or base.dataset or None,
        retries=(base.retries if managed else 0) if data.retries is None else data.retries,
        priority=data.priority,
    )


def _reference(stored: StoredWorkflow | None) -> WorkflowRef | None:
    if stored is None:
        return None
    workflow = stored.workflow
    return WorkflowRef(
        id=stored.workflow_id,
        name=workflow.name,
        version=workflow.version,
        architecture=workflow.architecture,
        dataset=workflow.dataset,
        dataset_split=workflow.dataset_split,
        training_parameters=workflow.training_parameters,
        system_prompt=workflow.system_prompt,
    )
