"""From what a caller asks for, and the workflow it is to follow, to a created run with a name of its own."""

from random import Random, SystemRandom
from typing import Final
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from events.commands import CreateRun
from events.errors import Rejected
from events.ledger import Ledger
from events.run_events import RunCreated
from events.sql import load
from events.types import Mode, Resources, WorkflowRef
from events.workflow import Workflow
from projections.execute import Outcome, Request, answered_before, execute
from projections.tenancy import StoredWorkflow
from service.bodies import NewRun
from service.problems import Invalid
from service.recipes import checked
from service.run_names import TRIES, clean_path, names

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


_CHANCE: Final = SystemRandom()


async def open_run(
    ledger: Ledger,
    project_id: UUID,
    run_id: UUID,
    wanted: RunCreated,
    asked: Request,
    *,
    workflow: str | None,
    chance: Random = _CHANCE,
) -> Outcome:
    """Record a run's creation with a session id, and with a name of ours if none was chosen: by `workflow`, if given.

    A name of ours gives way while it is taken. Raises `Rejected` if the name that was chosen, or the external id, is.
    """
    for name, session in names(workflow, chance):
        created = replace(wanted, name=wanted.name or name, session_id=session)
        taken = await _taken(ledger, project_id, created)
        if taken is None:
            try:
                return await execute(ledger, project_id, run_id, CreateRun(created=created), asked)
            except asyncpg.UniqueViolationError:  # somebody was faster than the look
                taken = await _taken(ledger, project_id, created)
                if taken is None:
                    raise
        answered = await answered_before(ledger, project_id, run_id, asked)
        if answered is not None:  # taken by this very request, which came twice
            return answered
        if wanted.name or taken != "name":
            value = getattr(created, taken)
            raise Rejected(f"{taken} {value!r} is taken by another run of this project", state="exists", asked="create")
    raise Rejected(f"{TRIES} names were taken; choose one in `name`", state="exists", asked="create")


async def _taken(ledger: Ledger, project_id: UUID, created: RunCreated) -> str | None:
    """Return which of a run's names another run of the project has, or None."""
    row = await ledger.pool.fetchrow(
        load("projections.sql", "names_taken"), project_id, created.name, created.external_id
    )
    if row["name"]:
        return "name"
    return "external_id" if row["external_id"] else None


def created(data: NewRun, stored: StoredWorkflow | None) -> RunCreated:
    """Return the creation of a run; what is not asked for comes from the workflow, and a name later.

    Raises `Invalid`.
    """
    base = stored.workflow if stored else Workflow()
    own = checked({name: value for name in _SHARED if (value := getattr(data, name))})
    asked_to_start = "command" in own
    if not asked_to_start and data.mode is not Mode.TRACKED:
        own |= {"command": base.command, "commands": base.commands}
    mode = data.mode or (Mode.MANAGED if own.get("command") or own.get("commands") else Mode.TRACKED)
    managed = mode is Mode.MANAGED
    if managed and not (own["command"] or own["commands"]):
        raise Invalid("a managed run needs a command, its own or its workflow's", path="$.command")
    for name in FOR_A_WORKER:
        if not managed and getattr(data, name):
            raise Invalid("this is for managed runs: a tracked run's own process starts it", path=f"$.{name}")
    return RunCreated(
        name=data.name or "",
        session_id="",
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
