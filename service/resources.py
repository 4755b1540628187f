"""What the API shows: runs, projects, workflows and workers as JSON-ready Structs."""

from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec

from events.organisation import Slot
from events.progress import estimated
from events.refusals import actions
from events.run import Imported, PrimaryMetric, Run
from events.transitions import ACTIVE
from events.types import (
    Change,
    Failure,
    Liveness,
    Resources,
    Role,
    StartCommand,
    Status,
    StoreReceipt,
    SweepTrial,
    Volume,
    WorkflowRef,
)
from projections.api_keys import ApiKey
from projections.queue import Waiting
from projections.runs import StoredRun
from projections.tenancy import Project, Worker
from projections.workflows import StoredWorkflow


class ProgressResource(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is, by its last report; None is what cannot be told, such as without a total or a second report."""

    done: float
    total: float | None
    unit: str
    percent: float | None
    rate_per_second: float | None
    remaining_seconds: float | None
    reported_at: datetime


class Credits(msgspec.Struct, frozen=True):
    """Micro-credits: what was consumed so far, and of an estimate what an early end saved."""

    consumed_micro: int = 0
    estimate_micro: int | None = None
    saved_micro: int | None = None


class WaitingResource(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run stands in its organisation's queue (1 is next), and why it waits, also as a sentence.

    Of a limit, `scope` is whose it is: the plan's, the organisation's, the project's.
    """

    position: int
    reason: str | None
    detail: str
    scope: str | None = None
    limit: int | None = None
    in_use: int | None = None
    since: datetime | None = None


class RunResource(msgspec.Struct, frozen=True):
    """A run."""

    id: UUID
    project_id: UUID
    name: str
    session_id: str
    external_id: str | None
    mode: str
    status: str
    version: int
    position: int
    epoch: int
    path: str
    alias: str | None
    tags: tuple[str, ...]
    notes: str
    config: dict[str, Any]
    summary: dict[str, Any]
    workflow: WorkflowRef | None
    command: tuple[str, ...]
    commands: tuple[StartCommand, ...]
    environment: dict[str, str]
    secrets: tuple[str, ...]
    resources: Resources | None
    import_volumes: tuple[Volume, ...]
    export_volumes: tuple[Volume, ...]
    protection: bool
    estimate_seconds: float | None
    liveness: Liveness
    code: str | None
    dataset: str | None
    retries: int
    retry_of: UUID | None
    retried_by: UUID | None
    priority: int
    reproduced_from: UUID | None
    changes: tuple[Change, ...]
    trial: SweepTrial | None
    worker: UUID | None
    accelerators: tuple[str, ...]
    host: dict[str, Any]
    stage: str | None
    progress: ProgressResource | None
    primary_metric: PrimaryMetric | None
    kill_requested: bool
    cause: str | None
    exit_code: int | None
    error: Failure | None
    reason: str | None
    unresponsive: bool
    archived: bool
    imported: Imported | None
    imported_at: datetime | None
    created_at: datetime | None
    started_at: datetime | None
    status_since: datetime | None
    ended_at: datetime | None
    training_seconds: float
    waiting: WaitingResource | None
    credits: Credits
    actions: tuple[str, ...]
    synced: bool | None
    reproductions: tuple[UUID, ...] | None


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of a deleted run."""

    id: UUID
    project_id: UUID
    status: str
    version: int
    position: int
    created_at: datetime | None
    ended_at: datetime | None
    deleted_at: datetime | None
    deleted_by: str | None
    reason: str
    receipt: dict[str, StoreReceipt] | None
    credits: Credits


class ProjectResource(msgspec.Struct, frozen=True, kw_only=True):
    """A project; its id is its ledger's."""

    id: UUID
    name: str
    description: str
    created_at: datetime
    version: int


class WorkflowResource(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow at its newest version."""

    id: UUID
    project_id: UUID
    name: str
    version: int
    architecture: str
    dataset: str
    dataset_split: dict[str, float]
    training_parameters: dict[str, Any]
    system_prompt: str
    command: tuple[str, ...]
    commands: tuple[StartCommand, ...]
    environment: dict[str, str]
    secrets: tuple[str, ...]
    resources: Resources | None
    import_volumes: tuple[Volume, ...]
    export_volumes: tuple[Volume, ...]
    protection: bool
    estimate_seconds: float | None
    code: str | None
    retries: int
    archived: bool
    created_at: datetime


class KeyResource(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, without its secret; `last_used_at` is right to about a minute."""

    id: UUID
    name: str
    prefix: str
    role: Role
    projects: list[UUID] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    version: int


def key_resource(key: ApiKey, used_at: datetime | None) -> KeyResource:
    """Return a key as the API shows it."""
    return KeyResource(
        id=key.key_id,
        name=key.label,
        prefix=key.prefix,
        role=key.role,
        projects=None if key.projects is None else sorted(key.projects),
        created_at=key.issued_at,
        expires_at=key.expires_at,
        revoked_at=key.revoked_at,
        last_used_at=used_at,
        version=key.version,
    )


class WorkerResource(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU worker."""

    id: UUID
    name: str
    slots: tuple[Slot, ...]
    registered_at: datetime
    lost_at: datetime | None
    drained_at: datetime | None


def waiting_resource(waiting: Waiting, needed: Resources) -> WaitingResource:
    """Return why a run waits as the API shows it."""
    what = f"{needed.count} x {needed.accelerator}"
    sentences = {
        "no_worker": f"no worker has {what}",
        "workers_away": f"the workers that have {what} are silent or draining",
        "no_free_slots": f"all workers that have {what} are busy, or kept for runs further ahead",
        "active_runs_limit": f"the {waiting.scope} allows {waiting.bound} active runs, {waiting.in_use} are active",
        "accelerator_limit": f"{what} passes the {waiting.scope}'s limit of {waiting.bound}, {waiting.in_use} in use",
        "credits_exhausted": "the organisation has used up its credits; it waits until more is granted",
        "ordered": "a worker was told to start it",
    }
    return WaitingResource(
        position=waiting.position,
        reason=waiting.reason,
        detail=sentences.get(waiting.reason or "", "the scheduler has not looked at it yet"),
        scope=waiting.scope,
        limit=waiting.bound,
        in_use=waiting.in_use,
        since=waiting.since,
    )


def run_resource(
    stored: StoredRun,
    credits_: Credits,
    now: datetime,
    *,
    synced: bool | None = None,
    waiting: WaitingResource | None = None,
) -> RunResource:
    """Return a run as the API shows it at `now`."""
    run = stored.run
    end = run.ended_at or now
    own = (
        stored.run_id,
        stored.ledger_id,
        stored.position,
        _progress(run, now),
        run.kill is not None and run.status in ACTIVE,
        run.kill.reason or None if run.kill else None,
        max(0.0, (end - run.started_at).total_seconds()) if run.started_at else 0.0,
        waiting,
        credits_,
        actions(run),
        synced,
        None,
    )
    values = list(_of_state(run))
    for place, value in zip(_PLACES, own, strict=True):
        values[place] = value
    return RunResource(*values)  # by position: to name more than fifty fields takes three times as long


_OWN = (
    "id",
    "project_id",
    "position",
    "progress",
    "kill_requested",
    "reason",
    "training_seconds",
    "waiting",
    "credits",
    "actions",
    "synced",
    "reproductions",
)
"""What a run's state does not say by itself, in the order of `run_resource`."""

_PLACES = tuple(RunResource.__struct_fields__.index(name) for name in _OWN)
_of_state = attrgetter(*("version" if name in _OWN else name for name in RunResource.__struct_fields__))
"""The state's fields as a resource has them, and anything at the places of its own."""


def _progress(run: Run, now: datetime) -> ProgressResource | None:
    if run.progress is None or run.progress_at is None:
        return None
    goes_on = run.status in {Status.STARTING, Status.RUNNING} and not run.unresponsive
    estimate = estimated(run.progress, run.progress_at, now, goes_on=goes_on)
    return ProgressResource(
        done=run.progress.done,
        total=run.progress.total,
        unit=run.progress.unit,
        percent=estimate.percent,
        rate_per_second=estimate.rate_per_second,
        remaining_seconds=estimate.remaining_seconds,
        reported_at=run.progress_at,
    )


def tombstone(stored: StoredRun, deleted_by: str | None, credits_: Credits) -> Tombstone:
    """Return what is left of a deleted run."""
    run = stored.run
    return Tombstone(
        id=stored.run_id,
        project_id=stored.ledger_id,
        status=run.status,
        version=run.version,
        position=stored.position,
        created_at=run.created_at,
        ended_at=run.ended_at,
        deleted_at=run.deleted_at,
        deleted_by=deleted_by,
        reason=run.deletion_reason,
        receipt=run.receipt,
        credits=credits_,
    )


def project_resource(project: Project) -> ProjectResource:
    """Return a project as the API shows it."""
    return ProjectResource(
        id=project.project_id,
        name=project.name,
        description=project.description,
        created_at=project.created_at,
        version=project.version,
    )


def workflow_resource(stored: StoredWorkflow) -> WorkflowResource:
    """Return a workflow as the API shows it."""
    return WorkflowResource(
        id=stored.workflow_id,
        project_id=stored.ledger_id,
        created_at=stored.created_at,
        **msgspec.structs.asdict(stored.workflow),
    )


def worker_resource(worker: Worker) -> WorkerResource:
    """Return a worker as the API shows it."""
    return WorkerResource(
        id=worker.worker_id,
        name=worker.name,
        slots=worker.slots,
        registered_at=worker.registered_at,
        lost_at=worker.lost_at,
        drained_at=worker.drained_at,
    )
