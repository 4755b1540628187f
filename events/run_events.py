"""What can happen to runs: their lifecycle events, frozen and tagged as in `types`."""

from datetime import datetime
from typing import Any
from uuid import UUID

from events.types import (
    Cause,
    Change,
    Event,
    Failure,
    FinalCredits,
    LevelFile,
    Liveness,
    Mode,
    Origin,
    PastEvent,
    Rate,
    Resources,
    StartCommand,
    StoreReceipt,
    SweepTrial,
    Volume,
    WorkflowRef,
)


class RunCreated(Event, frozen=True, tag="run.created"):
    """A run was asked for, with everything needed to do it again.

    One command in the run's directory is `command`, anything else `commands`. `changes` is how it differs from the run
    that it reproduces; of queued runs the highest `priority` goes first.
    """

    name: str
    session_id: str
    mode: Mode
    workflow: WorkflowRef | None = None
    external_id: str | None = None
    path: str = "default"
    alias: str | None = None
    tags: tuple[str, ...] = ()
    notes: str = ""
    config: dict[str, Any] = {}
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
    dataset: str | None = None
    retries: int = 0
    retry_of: UUID | None = None
    priority: int = 0
    trial: SweepTrial | None = None


class RunImported(Event, frozen=True, tag="run.imported"):
    """A run that ended elsewhere was brought here; its end follows at once, in the same append.

    `created` is what it was asked to be, with the configuration that it ended with. The times are those of its origin.
    """

    origin: Origin
    created: RunCreated
    epoch: int = 0
    summary: dict[str, Any] = {}
    primary_metric: str | None = None
    primary_mode: str | None = None
    host: dict[str, Any] = {}
    archived: bool = False
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


class RunHistoryImported(Event, frozen=True, tag="run.history_imported"):
    """What had happened to an imported run, as its own ledger has it; what it logged in attempt `epoch` follows."""

    epoch: int
    events: tuple[PastEvent, ...] = ()


class RunImportFinished(Event, frozen=True, tag="run.import_finished"):
    """All of an imported run is here; `left_out` says what is not, and why."""

    points: int
    lines: int
    events: int = 0
    artifacts: int = 0
    left_out: tuple[str, ...] = ()


class RunStarting(Event, frozen=True, tag="run.starting"):
    """A worker claimed the run and begins to prepare it."""

    worker: UUID
    command_id: UUID
    epoch: int
    accelerators: tuple[str, ...]
    rate: Rate
    kinds: tuple[str, ...] = ()


class RunRequeued(Event, frozen=True, tag="run.requeued"):
    """The worker was lost, or gave the run back, before the program started."""

    epoch: int
    reason: str = ""


class RunPreparationReported(Event, frozen=True, tag="run.preparation_reported"):
    """A stage of the preparation; `fraction` is 0 to 1 where known."""

    epoch: int
    stage: str
    message: str = ""
    fraction: float | None = None


class RunStarted(Event, frozen=True, tag="run.started"):
    """The program runs: in a worker's hands, or a process of the user's own."""

    epoch: int
    pid: int | None = None
    host: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    rate: Rate | None = None


class RunProgressReported(Event, frozen=True, tag="run.progress_reported"):
    """How far the program says it is."""

    epoch: int
    done: float
    total: float | None = None
    unit: str = ""


class RunConfigUpdated(Event, frozen=True, tag="run.config_updated"):
    """A JSON merge patch (RFC 7396) of the configuration."""

    patch: dict[str, Any]


class RunSummaryUpdated(Event, frozen=True, tag="run.summary_updated"):
    """A JSON merge patch (RFC 7396) of the summary."""

    patch: dict[str, Any]


class RunPrimaryMetricSet(Event, frozen=True, tag="run.primary_metric_set"):
    """Which metric tells the best point, and whether more or less is better (`max`, `min`)."""

    name: str
    mode: str


class RunTagsChanged(Event, frozen=True, tag="run.tags_changed"):
    """The whole new set of tags."""

    tags: tuple[str, ...]


class RunNotesSet(Event, frozen=True, tag="run.notes_set"):
    """The run's notes, replaced."""

    notes: str


class RunAliasSet(Event, frozen=True, tag="run.alias_set"):
    """The run's short label, replaced or removed."""

    alias: str | None


class RunArchived(Event, frozen=True, tag="run.archived"):
    """The run left the everyday lists; nothing was deleted."""


class RunUnarchived(Event, frozen=True, tag="run.unarchived"):
    """The run is back in the everyday lists."""


class RunArtifactSaved(Event, frozen=True, tag="run.artifact_saved"):
    """A file of the run is durable: its content lies in `blob`, in parts of `part_bytes`."""

    name: str
    kind: str
    bytes: int
    sha256: str
    media_type: str = "application/octet-stream"
    caption: str = ""
    artifact: UUID | None = None
    blob: UUID | None = None
    part_bytes: int = 0


class RunKillRequested(Event, frozen=True, tag="run.kill_requested"):
    """Somebody wants the run ended; its process has `grace_seconds` to go by itself."""

    cause: Cause
    grace_seconds: float
    reason: str = ""


class RunUnresponsive(Event, frozen=True, tag="run.unresponsive"):
    """The run has been silent for longer than it should be; reversible."""

    last_heartbeat_at: datetime | None
    silence_seconds: float


class RunResponsive(Event, frozen=True, tag="run.responsive"):
    """An unresponsive run was heard again."""

    silence_seconds: float


class RunStopping(Event, frozen=True, tag="run.stopping"):
    """The commands ended; outputs are being stored."""

    epoch: int
    exit_code: int | None = None


class RunIdled(Event, frozen=True, tag="run.idled"):
    """The commands ended, well or with an error, and termination protection keeps the resources."""

    epoch: int
    exit_code: int | None = None
    error: Failure | None = None


class RunCompleted(Event, frozen=True, tag="run.completed"):
    """The run did what it was asked to."""

    epoch: int
    cause: Cause = Cause.FINISHED
    exit_code: int | None = None
    last_seq: dict[str, int] = {}


class RunFailed(Event, frozen=True, tag="run.failed"):
    """The run ended with an error of its own, or could not be started."""

    epoch: int
    cause: Cause
    exit_code: int | None = None
    error: Failure | None = None
    last_seq: dict[str, int] = {}


class RunKilled(Event, frozen=True, tag="run.killed"):
    """The run was ended from outside; `fenced` when its process never confirmed it."""

    epoch: int
    cause: Cause
    exit_code: int | None = None
    reason: str = ""
    fenced: bool = False
    last_seq: dict[str, int] = {}


class RunCrashed(Event, frozen=True, tag="run.crashed"):
    """The run's heartbeats stopped and its grace period passed."""

    epoch: int
    cause: Cause
    last_heartbeat_at: datetime | None
    silence_seconds: float


class RunRecovered(Event, frozen=True, tag="run.recovered"):
    """The run's own latest attempt came back; the state is what it was before the crash."""

    epoch: int
    silence_seconds: float


class RunReleased(Event, frozen=True, tag="run.released"):
    """What an ended attempt may still have held is free: its worker says so, or was declared lost."""

    epoch: int
    worker_lost: bool = False


class RunRetried(Event, frozen=True, tag="run.retried"):
    """Another run follows this one, as it asked for; one that crashed does not come back from here."""

    retry: UUID


class RunTelemetryArchived(Event, frozen=True, tag="run.telemetry_archived"):
    """A Parquet file now holds the run's telemetry of `kind` (metrics, logs) in these positions.

    `levels` is a second file, for charts of metrics that have many points in the first. Where it was merged from other
    files, it stands for those that it `replaces`.
    """

    segment: UUID
    kind: str
    path: str
    rows: int
    first_position: int
    last_position: int
    sha256: str
    bytes: int
    levels: LevelFile | None = None
    replaces: tuple[UUID, ...] = ()


class RunDeleted(Event, frozen=True, tag="run.deleted"):
    """The run's contents are to be erased from every store; sealed under the project's key, so it stays.

    It carries whatever outlives the run's other events and cannot be told from their metadata.
    """

    reason: str = ""
    epoch: int = 0
    mode: Mode = Mode.MANAGED
    credits: FinalCredits = FinalCredits()
    trial: SweepTrial | None = None


class RunPurged(Event, frozen=True, tag="run.purged"):
    """Erasure is done; per store what it gave up. Sealed under the project's key, so it stays."""

    receipt: dict[str, StoreReceipt]


RunEvent = (
    RunCreated
    | RunImported
    | RunHistoryImported
    | RunImportFinished
    | RunStarting
    | RunRequeued
    | RunPreparationReported
    | RunStarted
    | RunProgressReported
    | RunConfigUpdated
    | RunSummaryUpdated
    | RunPrimaryMetricSet
    | RunTagsChanged
    | RunNotesSet
    | RunAliasSet
    | RunArchived
    | RunUnarchived
    | RunArtifactSaved
    | RunKillRequested
    | RunUnresponsive
    | RunResponsive
    | RunStopping
    | RunIdled
    | RunCompleted
    | RunFailed
    | RunKilled
    | RunCrashed
    | RunRecovered
    | RunReleased
    | RunRetried
    | RunTelemetryArchived
    | RunDeleted
    | RunPurged
)
