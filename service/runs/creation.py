"""From what a caller asks for, and the workflow it is to follow, to the creation of a run."""

from typing import Final
from uuid import UUID

from msgspec.structs import replace

from events.run_events import RunCreated
from events.types import Mode
from events.workflow import Workflow, reference, run_of
from projections import workflows
from projections.runs import Reader
from projections.workflows import StoredWorkflow
from service.bodies import NewRun
from service.problems import Invalid
from service.recipes import checked
from service.runs.names import clean_path

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

FOR_A_WORKER: Final = ("retries", "priority", "import_volumes", "export_volumes")
"""What only a worker of ours heeds."""


async def offered(reader: Reader, project_id: UUID, name_or_id: str) -> StoredWorkflow:
    """Return a project's workflow that new runs may be made from, by its id or its name. Raises `Invalid`."""
    stored = await workflows.by_name_or_id(reader, project_id, name_or_id)
    if stored is None:
        raise Invalid(f"there is no workflow {name_or_id!r} in this project", path="$.workflow")
    if stored.workflow.archived:
        raise Invalid(f"workflow {name_or_id!r} is archived; its runs stay, new ones need it back", path="$.workflow")
    return stored


def created(data: NewRun, stored: StoredWorkflow | None) -> RunCreated:
    """Return the creation of a run; what is not asked for comes from the workflow, and a name later.

    Raises `Invalid`.
    """
    recipe = stored.workflow if stored else Workflow()
    own = checked({name: value for name in _SHARED if (value := getattr(data, name))})
    asked_to_start = "command" in own
    if not asked_to_start and data.mode is not Mode.TRACKED:
        own |= {"command": recipe.command, "commands": recipe.commands}
    mode = data.mode or (Mode.MANAGED if own.get("command") or own.get("commands") else Mode.TRACKED)
    managed = mode is Mode.MANAGED
    if managed and not (own["command"] or own["commands"]):
        raise Invalid("a managed run needs a command, its own or its workflow's", path="$.command")
    for name in FOR_A_WORKER:
        if not managed and getattr(data, name):
            raise Invalid("this is for managed runs: a tracked run's own process starts it", path=f"$.{name}")
    base = run_of(recipe, reference(stored.workflow_id, recipe) if stored else None, mode)
    return replace(
        base,
        name=data.name or "",
        external_id=data.external_id,
        path=clean_path(data.path),
        alias=data.alias,
        tags=tuple(dict.fromkeys(data.tags)),
        notes=data.notes,
        config={**base.config, **data.config},
        command=own.get("command", ()),
        commands=own.get("commands", ()),
        environment={**base.environment, **data.environment},
        secrets=tuple(dict.fromkeys((*base.secrets, *own.get("secrets", ())))),
        resources=own.get("resources") or base.resources,
        import_volumes=own.get("import_volumes", base.import_volumes),
        export_volumes=own.get("export_volumes", base.export_volumes),
        protection=base.protection if data.protection is None else data.protection,
        estimate_seconds=base.estimate_seconds if data.estimate_seconds is None else data.estimate_seconds,
        liveness=data.liveness.value(),
        code=data.code or base.code,
        dataset=data.dataset or base.dataset,
        retries=base.retries if data.retries is None else data.retries,
        priority=data.priority,
    )
