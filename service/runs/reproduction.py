"""A run done again: of the same configuration, dataset and code, but for changes, which are written down."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec.structs import asdict, replace

from events.errors import Erased, Rejected
from events.merge_patch import merge
from events.run import Run
from events.run_events import RunCreated
from events.sql import load
from events.types import Change, Mode, Status
from projections import runs, workflows
from projections.runs import PENDING, StoredRun
from projections.storage import artifacts
from service.bodies import ReproduceBody
from service.context import Http, Service
from service.problems import Invalid
from service.recipes import checked
from service.runs.creation import FOR_A_WORKER
from service.runs.names import clean_path
from service.runs.references import artifacts_of

MAX_CHAIN: Final = 100
MAX_CHANGES: Final = 1_000
SHOWN_REPRODUCTIONS: Final = 1_000

_CONFIGURATION: Final = (
    *("path", "tags", "config", "command", "commands", "environment", "secrets", "resources", "import_volumes"),
    *("export_volumes", "protection", "estimate_seconds", "liveness", "dataset", "retries", "priority"),
)
_OWN: Final = frozenset({"name", "external_id", "alias", "notes"})
"""What names and describes one run alone; it is neither taken over nor a change."""


async def reproduced(service: Service, http: Http, original: StoredRun, data: ReproduceBody) -> RunCreated:
    """Return the creation of a run that does the original again. Raises `Invalid`, `Erased`, `Rejected`."""
    run = original.run
    length = await service.pool.fetchval(
        load("projections.sql", "chain_length"), original.ledger_id, original.run_id, MAX_CHAIN
    )
    if length >= MAX_CHAIN:
        raise Rejected(
            f"{MAX_CHAIN} reproductions lead to this run already; reproduce an earlier one",
            state=run.status,
            asked="reproduce",
        )
    same = RunCreated(
        name="",
        session_id="",
        mode=run.mode,
        workflow=run.workflow,
        code=run.code or _snapshot(original),
        reproduced_from=original.run_id,
        **{name: getattr(run, name) for name in _CONFIGURATION},
    )
    given = _given(run, data)
    created = replace(same, **given)
    if created.mode is Mode.MANAGED and not (created.command or created.commands):
        raise Invalid("a managed run needs a command", path="$.command")
    changes = [
        change
        for name in given
        if name not in _OWN
        for change in differences(_plain(getattr(same, name)), _plain(getattr(created, name)), f"$.{name}")
    ]
    if len(changes) > MAX_CHANGES:
        raise Invalid(f"over {MAX_CHANGES} values would be changed", limit=MAX_CHANGES)
    await _still_there(service, http, created)
    return replace(created, changes=tuple(changes))


async def workflow_name(service: Service, original: StoredRun) -> str | None:
    """Return what the workflow of a run is called now, for the names of its next runs."""
    pinned = original.run.workflow
    if pinned is None:
        return None
    stored = await workflows.get(service.pool, pinned.id)
    return stored.workflow.name if stored else pinned.name


def _snapshot(original: StoredRun) -> str | None:
    """Return a reference to the code that the run itself saved."""
    name = original.run.code_saved
    return None if name is None else f"artifact:{original.run_id}/{name}"


def _given(run: Run, data: ReproduceBody) -> dict[str, Any]:
    given = {name: value for name, value in asdict(data).items() if value is not msgspec.UNSET}
    for name in FOR_A_WORKER:
        if run.mode is not Mode.MANAGED and given.get(name):
            raise Invalid("this is for managed runs: a tracked run's own process starts it", path=f"$.{name}")
    for name in ("config", "environment"):
        if name in given:
            given[name] = merge(getattr(run, name), given[name])
    if "path" in given:
        given["path"] = clean_path(given["path"])
    if "tags" in given:
        given["tags"] = tuple(dict.fromkeys(given["tags"]))
    if "liveness" in given:
        given["liveness"] = given["liveness"].value()
    if given.get("name", "") is None:
        del given["name"]
    return checked(given)


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value)


def differences(old: Any, new: Any, path: str) -> list[Change]:
    """Return where two JSON documents differ, by path; objects are compared by their members."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        same = msgspec.json.encode(old) == msgspec.json.encode(new)  # to Python, 1 and True are the same
        return [] if same else [Change(path=path, old=old, new=new)]
    return [
        change
        for key in dict.fromkeys((*old, *new))
        for change in differences(old.get(key), new.get(key), path + _member(key))
    ]


def _member(key: str) -> str:
    return f".{key}" if key.isidentifier() else f"[{msgspec.json.encode(key).decode()}]"


async def _still_there(service: Service, http: Http, created: RunCreated) -> None:
    """Refuse a reproduction whose code or data went with the run that had it. Raises `Erased`, `Invalid`."""
    for field, reference, run, name in artifacts_of(created.code, created.dataset, created.import_volumes):
        stored = await runs.get(service.pool, UUID(run))
        if stored is None or not await service.sees(http, stored.ledger_id):
            raise Invalid(f"there is no run {run}, of which {reference!r} is", path=f"$.{field}")
        if stored.run.status is Status.DELETED:
            raise Erased(
                f"{field} {reference!r} went for good when run {run} was deleted; give another `{field}`",
                state=stored.run.status,
                asked="reproduce",
                allowed=("create",),
            )
        if await artifacts.by_name(service.pool, stored.ledger_id, stored.run_id, name) is None:
            raise Invalid(f"run {run} has no artifact {name!r}", path=f"$.{field}")


async def reproductions(
    service: Service, ledger_id: UUID, run_id: UUID, until: datetime | None = None
) -> tuple[UUID, ...]:
    """Return the runs that reproduce a run, newest first, `SHOWN_REPRODUCTIONS` at most."""
    rows = await service.pool.fetch(
        load("projections.sql", "reproductions"), ledger_id, run_id, until or PENDING, SHOWN_REPRODUCTIONS
    )
    return tuple(row["run_id"] for row in rows)
