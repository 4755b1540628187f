"""A run's state, and `evolve`, which folds one event into it. Pure.

What may happen in which state is the table in `transitions`; what a command leads to is decided in `decisions`.
`recorded_at` is the ledger's time of the event; before an append has assigned it, the caller passes a placeholder
(see `projections.runs`).
"""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec.structs import replace

from events.errors import CorruptHistory
from events.merge_patch import merge
from events.progress import Progress, reported
from events.run_events import (
    RunAliasSet,
    RunArchived,
    RunArtifactSaved,
    RunCompleted,
    RunConfigUpdated,
    RunCrashed,
    RunCreated,
    RunDeleted,
    RunEvent,
    RunFailed,
    RunHistoryImported,
    RunIdled,
    RunImported,
    RunImportFinished,
    RunKilled,
    RunKillRequested,
    RunNotesSet,
    RunPreparationReported,
    RunPrimaryMetricSet,
    RunProgressReported,
    RunPurged,
    RunRecovered,
    RunReleased,
    RunRequeued,
    RunResponsive,
    RunRetried,
    RunStarted,
    RunStarting,
    RunStopping,
    RunSummaryUpdated,
    RunTagsChanged,
    RunTelemetryArchived,
    RunUnarchived,
    RunUnresponsive,
)
from events.transitions import ALLOWED_IN, TRANSITIONS
from events.types import (
    Cause,
    Change,
    Failure,
    Liveness,
    Mode,
    Origin,
    Rate,
    Resources,
    StartCommand,
    Status,
    StoreReceipt,
    SweepTrial,
    Volume,
    WorkflowRef,
)

S = Status


class KillRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """A kill that is under way."""

    cause: Cause
    grace_seconds: float
    reason: str = ""


class PrimaryMetric(msgspec.Struct, frozen=True):
    """The metric that tells the best point; `mode` is `max` or `min`."""

    name: str
    mode: str


class Imported(msgspec.Struct, frozen=True):
    """Where an imported run comes from, when it had ended there, and whether all of it is here."""

    origin: Origin
    ended_at: datetime | None = None
    finished: bool = False


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that a run's lifecycle events add up to, at `version`."""

    status: Status = S.ABSENT
    version: int = 0
    epoch: int = 0
    mode: Mode = Mode.MANAGED
    name: str = ""
    session_id: str = ""
    workflow: WorkflowRef | None = None
    external_id: str | None = None
    path: str = "default"
    alias: str | None = None
    tags: tuple[str, ...] = ()
    notes: str = ""
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    command: tuple[str, ...] = ()
    commands: tuple[StartCommand, ...] = ()
    environment: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    resources: Resources | None = None
    import_volumes: tuple[Volume, ...] = ()
    export_volumes: tuple[Volume, ...] = ()
    protection: bool = False
    estimate_seconds: float | None = None
    liveness: Liveness = Liveness()
    reproduced_from: UUID | None = None
    changes: tuple[Change, ...] = ()
    code: str | None = None
    code_saved: str | None = None
    dataset: str | None = None
    retries: int = 0
    retry_of: UUID | None = None
    priority: int = 0
    trial: SweepTrial | None = None
    retried_by: UUID | None = None
    worker: UUID | None = None
    command_id: UUID | None = None
    accelerators: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    holding: bool = False
    rate: Rate | None = None
    host: dict[str, Any] = {}
    pid: int | None = None
    stage: str | None = None
    progress: Progress | None = None
    primary_metric: PrimaryMetric | None = None
    kill: KillRequest | None = None
    unresponsive: bool = False
    cause: Cause | None = None
    exit_code: int | None = None
    error: Failure | None = None
    before_crash: Status | None = None
    last_seq: dict[str, int] = {}
    archived: bool = False
    archived_through: dict[str, int] = {}
    merges: dict[str, int] = {}
    deletion_reason: str = ""
    receipt: dict[str, StoreReceipt] | None = None
    imported: Imported | None = None
    imported_at: datetime | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    status_since: datetime | None = None
    kill_requested_at: datetime | None = None
    progress_at: datetime | None = None
    ended_at: datetime | None = None
    deleted_at: datetime | None = None

    @property
    def start_commands(self) -> tuple[StartCommand, ...]:
        """What the run starts, in order."""
        return self.commands or ((StartCommand(argv=self.command),) if self.command else ())


NO_RUN: Final = Run()


def evolve(run: Run, event: RunEvent, recorded_at: datetime) -> Run:
    """Fold one event into the state.

    Raises `CorruptHistory` where the state machine knows no such step.
    """
    known = run.status in ALLOWED_IN.get(type(event), ())
    moved = {} if known else _moved(run, event, recorded_at)
    return replace(run, version=run.version + 1, **moved, **_changes(run, event, recorded_at))


def _moved(run: Run, event: RunEvent, at: datetime) -> dict[str, Any]:
    """Return the status that a transition leads to, and since when it is that."""
    step = (run.status, type(event))
    if step not in TRANSITIONS:
        raise CorruptHistory(f"{event.__struct_config__.tag} cannot happen to a run that is {run.status}")
    target = TRANSITIONS[step]
    status = run.before_crash if target is None else target
    if status is None:
        raise CorruptHistory("a recovery without a crash before it")
    return {"status": status, "status_since": at}


def _changes(run: Run, event: RunEvent, at: datetime) -> dict[str, Any]:
    """Return what the event makes of which fields, but for version and status; what comes often stands first."""
    match event:
        case RunSummaryUpdated():
            return {"summary": merge(run.summary, event.patch)}
        case RunProgressReported():
            return {"progress": reported(run.progress, event, run.progress_at), "progress_at": at}
        case RunNotesSet():
            return {"notes": event.notes}
        case RunTagsChanged():
            return {"tags": event.tags}
        case RunTelemetryArchived() if event.replaces:
            return {"merges": {**run.merges, event.kind: run.merges.get(event.kind, 0) + 1}}
        case RunTelemetryArchived():
            return {"archived_through": {**run.archived_through, event.kind: event.last_position}}
        case RunCreated():
            return _created(event, at)
        case RunImported():
            return _imported(event, at)
        case RunHistoryImported():
            return {"epoch": event.epoch}
        case RunImportFinished():
            return {"imported": run.imported and replace(run.imported, finished=True)}
        case RunStarting():
            return {
                "epoch": event.epoch,
                "worker": event.worker,
                "command_id": event.command_id,
                "accelerators": event.accelerators,
                "kinds": event.kinds
                or tuple("cpu" if slot.startswith("cpu") else "gpu" for slot in event.accelerators),
                "holding": True,
                "rate": event.rate,
                "stage": None,
            }
        case RunRequeued():
            return {
                "worker": None,
                "command_id": None,
                "accelerators": (),
                "kinds": (),
                "holding": False,
                "rate": None,
                "stage": None,
                "unresponsive": False,
            }
        case RunPreparationReported():
            return {"stage": event.stage}
        case RunStarted():
            return {
                "epoch": event.epoch,
                "pid": event.pid,
                "host": event.host,
                "rate": event.rate or run.rate,
                "started_at": run.started_at or at,
                "stage": None,
                "unresponsive": False,
                "before_crash": None,
                "cause": None,
                "ended_at": None,
            }
        case RunConfigUpdated():
            return {"config": merge(run.config, event.patch)}
        case RunPrimaryMetricSet():
            return {"primary_metric": PrimaryMetric(event.name, event.mode)}
        case RunAliasSet():
            return {"alias": event.alias}
        case RunArchived():
            return {"archived": True}
        case RunUnarchived():
            return {"archived": False}
        case RunArtifactSaved():
            return {"code_saved": event.name} if event.kind == "code" else {}
        case RunKillRequested():
            return {"kill": KillRequest(event.cause, event.grace_seconds, event.reason), "kill_requested_at": at}
        case RunUnresponsive():
            return {"unresponsive": True}
        case RunResponsive():
            return {"unresponsive": False}
        case RunStopping():
            return {} if event.exit_code is None else {"exit_code": event.exit_code}
        case RunIdled():
            said = {"exit_code": event.exit_code, "error": event.error}
            return {field: value for field, value in said.items() if value is not None}
        case RunCompleted():
            return _ended(run, event, at)
        case RunFailed():
            holding = run.holding and event.cause is Cause.START_DEADLINE
            return {**_ended(run, event, at), "error": event.error, "holding": holding}
        case RunKilled():
            ended = {**_ended(run, event, at), "error": run.error}  # of a program whose resources were kept
            return {**ended, "epoch": run.epoch + 1, "holding": run.holding} if event.fenced else ended
        case RunCrashed():
            ended_at = _end_of(run, at)
            return {"cause": event.cause, "ended_at": ended_at, "before_crash": run.status, "unresponsive": False}
        case RunRecovered():
            return {
                "before_crash": None,
                "cause": None,
                "ended_at": None,
                "unresponsive": False,
                "holding": run.mode is Mode.MANAGED,
            }
        case RunReleased():
            return {"holding": False}
        case RunRetried():
            return {"retried_by": event.retry}
        case RunDeleted():
            return _tombstone(run, event, at)
        case RunPurged():
            return {"receipt": event.receipt}


def _created(event: RunCreated, at: datetime) -> dict[str, Any]:
    return {"created_at": at, **{field: getattr(event, field) for field in _CREATED_FIELDS}}


def _imported(event: RunImported, at: datetime) -> dict[str, Any]:
    """Take over what another ledger, or another system, says of a run that had ended there."""
    primary = PrimaryMetric(event.primary_metric, event.primary_mode or "max") if event.primary_metric else None
    return {
        **_created(event.created, event.created_at or at),
        "epoch": event.epoch,
        "summary": event.summary,
        "primary_metric": primary,
        "host": event.host,
        "archived": event.archived,
        "started_at": event.started_at,
        "imported": Imported(event.origin, event.ended_at),
        "imported_at": at,
    }


def _end_of(run: Run, at: datetime) -> datetime:
    """Return when a run ends: one that is being imported, when its origin says."""
    return (run.imported.ended_at if run.imported and run.status is S.STOPPING else None) or at


_CREATED_FIELDS: Final = frozenset(Run.__struct_fields__) & frozenset(RunCreated.__struct_fields__)


def _ended(run: Run, event: RunCompleted | RunFailed | RunKilled, at: datetime) -> dict[str, Any]:
    return {
        "cause": event.cause,
        "exit_code": run.exit_code if event.exit_code is None else event.exit_code,
        "error": None,
        "last_seq": {**run.last_seq, **event.last_seq},
        "ended_at": _end_of(run, at),
        "before_crash": None,
        "unresponsive": False,
        "holding": False,
    }


def _tombstone(run: Run, event: RunDeleted, at: datetime) -> dict[str, Any]:
    """What stays of a deleted run: when and why; no name, no text, no parameter, and of its origin's times none.

    All of it comes from this event or from metadata, so that it can be told again once the rest is erased.
    """
    return {
        **{field: getattr(NO_RUN, field) for field in _FORGOTTEN},
        "epoch": event.epoch,
        "mode": event.mode,
        "cause": run.cause,
        "deletion_reason": event.reason,
        "trial": event.trial,
        "imported_at": run.imported_at,
        "created_at": run.imported_at or run.created_at,
        "started_at": None if run.imported_at else run.started_at,
        "ended_at": run.imported_at or run.ended_at,
        "deleted_at": at,
    }


_FORGOTTEN: Final = frozenset(Run.__struct_fields__) - {"version", "status", "status_since"}
