"""What can be asked of a run: imperative, frozen, decided by `decisions.decide`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from events.run_events import (
    RunCompleted,
    RunCrashed,
    RunCreated,
    RunFailed,
    RunHistoryImported,
    RunImported,
    RunImportFinished,
    RunKilled,
    RunTelemetryArchived,
)
from events.types import Cause, Failure, FinalCredits, Rate, Status, StoreReceipt


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all commands."""


class CreateRun(Command, frozen=True):
    """Open a run; the event is what the caller wants recorded."""

    created: RunCreated


class ImportRun(Command, frozen=True):
    """Bring a run here that ended elsewhere, with its end."""

    imported: RunImported
    end: RunCompleted | RunFailed | RunKilled | RunCrashed


class RecordHistory(Command, frozen=True):
    """Add to what an imported run's own ledger says of it, or let it speak as a later attempt."""

    history: RunHistoryImported


class FinishImport(Command, frozen=True):
    """All of an imported run is here."""

    finished: RunImportFinished


class ClaimRun(Command, frozen=True):
    """A worker takes a queued run. The same worker and command again is the same claim.

    `kinds` are those of the accelerators; `epoch`, where given, is the run's when the order was given.
    """

    worker: UUID
    command_id: UUID
    accelerators: tuple[str, ...]
    rate: Rate
    kinds: tuple[str, ...] = ()
    epoch: int | None = None


class RequeueRun(Command, frozen=True):
    """Back to the queue, before the program started."""

    epoch: int
    reason: str = ""


class ReportPreparation(Command, frozen=True):
    """A stage of the preparation."""

    epoch: int
    stage: str
    message: str = ""
    fraction: float | None = None


class ReportStarted(Command, frozen=True):
    """The worker's process runs."""

    epoch: int
    pid: int | None = None
    host: Mapping[str, Any] = {}


class AttachRun(Command, frozen=True):
    """The user's own process starts a tracked run, or takes it over with a new epoch."""

    pid: int | None = None
    host: Mapping[str, Any] = {}
    environment: Mapping[str, Any] = {}
    rate: Rate | None = None


class ReportStopping(Command, frozen=True):
    """The commands ended; outputs are being stored."""

    epoch: int
    exit_code: int | None = None


class ReportIdle(Command, frozen=True):
    """The commands ended, well or with an error; protection keeps the resources."""

    epoch: int
    exit_code: int | None = None
    error: Failure | None = None


class EndRun(Command, frozen=True):
    """An attempt says how it ended: completed, failed or killed."""

    epoch: int
    status: Status
    cause: Cause | None = None
    exit_code: int | None = None
    error: Failure | None = None
    reason: str = ""
    last_seq: Mapping[str, int] = {}


class FailStart(Command, frozen=True):
    """A queued or starting run cannot be started."""

    cause: Cause
    error: Failure


class KillRun(Command, frozen=True):
    """End the run, from outside."""

    cause: Cause = Cause.KILLED_BY_USER
    grace_seconds: float = 10.0
    reason: str = ""


class ConfirmKill(Command, frozen=True):
    """The grace passed and nobody confirmed the kill: declare it, and fence the attempt."""


class CloseRun(Command, frozen=True):
    """An operator ends the run now, whatever its process may still do, and says why."""

    reason: str


class ReleaseRun(Command, frozen=True):
    """What an ended attempt may still have held is free."""

    epoch: int
    worker_lost: bool = False


class MarkRetried(Command, frozen=True):
    """The run has a successor."""

    retry: UUID


class MarkUnresponsive(Command, frozen=True):
    """The run is silent for longer than it should be."""

    epoch: int
    last_heartbeat_at: datetime | None
    silence_seconds: float


class MarkResponsive(Command, frozen=True):
    """The run was heard again; one that crashed meanwhile recovers."""

    epoch: int
    silence_seconds: float


class MarkCrashed(Command, frozen=True):
    """The run's silence passed its grace period."""

    epoch: int
    cause: Cause
    last_heartbeat_at: datetime | None
    silence_seconds: float


class ReportProgress(Command, frozen=True):
    """How far the program is."""

    epoch: int
    done: float
    total: float | None = None
    unit: str = ""


class EditRun(Command, frozen=True):
    """Change what describes a run; `UNSET` leaves a field alone. `config` and `summary` are merge patches."""

    tags: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    notes: str | msgspec.UnsetType = msgspec.UNSET
    alias: str | msgspec.UnsetType | None = msgspec.UNSET
    config: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    summary: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class SetPrimaryMetric(Command, frozen=True):
    """Name the metric that tells the best point, and its direction."""

    name: str
    mode: str


class SaveArtifact(Command, frozen=True):
    """A file was stored for the run."""

    name: str
    kind: str
    bytes: int
    sha256: str
    media_type: str = "application/octet-stream"
    caption: str = ""
    artifact: UUID | None = None
    blob: UUID | None = None
    part_bytes: int = 0


class ArchiveRun(Command, frozen=True):
    """Take the run out of the everyday lists, or put it back."""

    archived: bool = True


class RecordArchive(Command, frozen=True):
    """A Parquet file was written from the run's telemetry."""

    archived: RunTelemetryArchived


class RecordMerge(Command, frozen=True):
    """A Parquet file was merged from others, after so many `merges` of this kind."""

    archived: RunTelemetryArchived
    merges: int


class DeleteRun(Command, frozen=True):
    """Erase the run's contents for good.

    `credits` is what its history says that it cost; `projections.execute` counts that where it is not given.
    """

    reason: str = ""
    credits: FinalCredits | None = None


class RecordPurge(Command, frozen=True):
    """Every store gave up what it held of the run."""

    receipt: dict[str, StoreReceipt]


RunCommand = (
    CreateRun
    | ImportRun
    | RecordHistory
    | FinishImport
    | ClaimRun
    | RequeueRun
    | ReportPreparation
    | ReportStarted
    | AttachRun
    | ReportStopping
    | ReportIdle
    | EndRun
    | FailStart
    | KillRun
    | ConfirmKill
    | CloseRun
    | ReleaseRun
    | MarkRetried
    | MarkUnresponsive
    | MarkResponsive
    | MarkCrashed
    | ReportProgress
    | EditRun
    | SetPrimaryMetric
    | SaveArtifact
    | ArchiveRun
    | RecordArchive
    | RecordMerge
    | DeleteRun
    | RecordPurge
)
