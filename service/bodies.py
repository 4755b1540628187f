"""What the API accepts: one Struct a request body, with its bounds. Unknown fields are refused by name."""

from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from events.organisation import Slot
from events.types import Cause, Failure, Limits, Mode, Role
from service.patterns import EXTERNAL_ID, LINE, NAME, PROJECT_NAME, TAG
from service.recipes import (
    Argument,
    Arguments,
    Body,
    Commands,
    Document,
    LivenessBody,
    Reference,
    ResourcesBody,
    Seconds,
    Secrets,
    Split,
    Text,
    Variable,
    Variables,
    Volumes,
)

Name = Annotated[str, Meta(min_length=1, max_length=250, pattern=NAME)]
"""No control characters, and no space around it."""
ProjectName = Annotated[str, Meta(min_length=1, max_length=250, pattern=PROJECT_NAME)]
"""No slash and no colon either: it stands in paths."""
WorkflowName = Annotated[str, Meta(min_length=1, max_length=220, pattern=NAME)]
"""Shorter: its runs add their session ids to it."""
ExternalId = Annotated[str, Meta(min_length=1, max_length=250, pattern=EXTERNAL_ID)]
"""No slash: it stands in paths."""
Tag = Annotated[str, Meta(min_length=1, max_length=128, pattern=TAG)]
Tags = Annotated[tuple[Tag, ...], Meta(max_length=100)]
Epoch = Annotated[int, Meta(ge=0, le=1 << 30)]
Priority = Annotated[int, Meta(ge=-1_000, le=1_000)]
Retries = Annotated[int, Meta(ge=0, le=100)]
Limit = Annotated[int, Meta(ge=1, le=1_000)]


MAX_LIMIT: Final = 1_000_000


class LimitsBody(Body, frozen=True):
    """What may be in use at once; what is left out is unlimited. Accelerators by kind; `gpu` means any."""

    max_active_runs: Annotated[int, Meta(ge=0, le=MAX_LIMIT)] | None = None
    accelerators: Annotated[
        dict[Annotated[str, Meta(min_length=1, max_length=128)], Annotated[int, Meta(ge=0, le=MAX_LIMIT)]],
        Meta(max_length=100),
    ] = {}

    def value(self) -> Limits:
        """Return it as events hold it."""
        return Limits(max_active_runs=self.max_active_runs, accelerators=self.accelerators)


class PlanBody(Body, frozen=True):
    """The plan of an organisation, and what the organisation allows itself within it."""

    plan: Name
    plan_limits: LimitsBody
    limits: LimitsBody | None = None
    kill_when_exhausted: bool = False


class CloseBody(Body, frozen=True):
    """Why a run is closed by force; this sentence stays with the run."""

    reason: Annotated[str, Meta(min_length=1, max_length=1_000)]


class NewProject(Body, frozen=True):
    """A project to open."""

    name: ProjectName
    description: Text = ""


class ChangedProject(Body, frozen=True):
    """What of a project is to change."""

    name: ProjectName | msgspec.UnsetType = msgspec.UNSET
    description: Text | msgspec.UnsetType = msgspec.UNSET
    limits: LimitsBody | msgspec.UnsetType = msgspec.UNSET


class WorkflowBody(Body, frozen=True):
    """The recipe of a workflow; in a PATCH, a field that is left out stays as it is."""

    name: WorkflowName | msgspec.UnsetType = msgspec.UNSET
    architecture: Text | msgspec.UnsetType = msgspec.UNSET
    dataset: Text | msgspec.UnsetType = msgspec.UNSET
    dataset_split: Split | msgspec.UnsetType = msgspec.UNSET
    training_parameters: Document | msgspec.UnsetType = msgspec.UNSET
    system_prompt: Text | msgspec.UnsetType = msgspec.UNSET
    command: Arguments | msgspec.UnsetType = msgspec.UNSET
    commands: Commands | msgspec.UnsetType = msgspec.UNSET
    environment: Variables | msgspec.UnsetType = msgspec.UNSET
    secrets: Secrets | msgspec.UnsetType = msgspec.UNSET
    resources: ResourcesBody | msgspec.UnsetType | None = msgspec.UNSET
    import_volumes: Volumes | msgspec.UnsetType = msgspec.UNSET
    export_volumes: Volumes | msgspec.UnsetType = msgspec.UNSET
    protection: bool | msgspec.UnsetType = msgspec.UNSET
    estimate_seconds: Seconds | msgspec.UnsetType | None = msgspec.UNSET
    code: Reference | msgspec.UnsetType | None = msgspec.UNSET
    retries: Retries | msgspec.UnsetType = msgspec.UNSET


class NewRun(Body, frozen=True):
    """A run to create; what is left out comes from its workflow."""

    workflow: str | None = None
    mode: Mode | None = None
    name: Name | None = None
    external_id: ExternalId | None = None
    path: Annotated[str, Meta(max_length=1_000)] | None = None
    alias: Name | None = None
    tags: Tags = ()
    notes: Text = ""
    config: Document = {}
    command: Arguments = ()
    commands: Commands = ()
    environment: Variables = {}
    secrets: Secrets = ()
    resources: ResourcesBody | None = None
    import_volumes: Volumes = ()
    export_volumes: Volumes = ()
    protection: bool | None = None
    estimate_seconds: Seconds | None = None
    liveness: LivenessBody = LivenessBody()
    code: Reference | None = None
    dataset: Reference | None = None
    retries: Retries | None = None
    priority: Priority = 0


class ReproduceBody(Body, frozen=True):
    """How a run is to differ from the one that it reproduces; `config` and `environment` are JSON merge patches."""

    name: Name | None = None
    external_id: ExternalId | None = None
    alias: Name | None = None
    notes: Text = ""
    path: Annotated[str, Meta(max_length=1_000)] | msgspec.UnsetType | None = msgspec.UNSET
    tags: Tags | msgspec.UnsetType = msgspec.UNSET
    config: Document | msgspec.UnsetType = msgspec.UNSET
    command: Arguments | msgspec.UnsetType = msgspec.UNSET
    commands: Commands | msgspec.UnsetType = msgspec.UNSET
    environment: Annotated[dict[Variable, Argument | None], Meta(max_length=1_000)] | msgspec.UnsetType = msgspec.UNSET
    secrets: Secrets | msgspec.UnsetType = msgspec.UNSET
    resources: ResourcesBody | msgspec.UnsetType = msgspec.UNSET
    import_volumes: Volumes | msgspec.UnsetType = msgspec.UNSET
    export_volumes: Volumes | msgspec.UnsetType = msgspec.UNSET
    protection: bool | msgspec.UnsetType = msgspec.UNSET
    estimate_seconds: Seconds | msgspec.UnsetType | None = msgspec.UNSET
    liveness: LivenessBody | msgspec.UnsetType = msgspec.UNSET
    code: Reference | msgspec.UnsetType | None = msgspec.UNSET
    dataset: Reference | msgspec.UnsetType | None = msgspec.UNSET
    retries: Retries | msgspec.UnsetType = msgspec.UNSET
    priority: Priority | msgspec.UnsetType = msgspec.UNSET


class StartBody(Body, frozen=True):
    """The process that starts, or takes over, a tracked run."""

    host: Document = {}
    pid: int | None = None
    environment_captured: Document = {}


class FinishBody(Body, frozen=True):
    """How a tracked run's process says it ended."""

    epoch: Epoch
    status: Literal["completed", "failed", "killed"]
    exit_code: int | None = None
    cause: Cause | None = None
    error: Failure | None = None
    last_seq: dict[str, int] = {}


class KillBody(Body, frozen=True):
    """A kill: how long the process may take to go, and why."""

    grace_seconds: Annotated[float, Meta(ge=0, le=3_600)] = 10.0
    reason: Text = ""


class DeleteBody(Body, frozen=True):
    """Why a run is deleted; this sentence stays."""

    reason: Annotated[str, Meta(max_length=1_000)] = ""


class EditBody(Body, frozen=True):
    """What of a run's description is to change; `config` and `summary` are JSON merge patches.

    `name` is here to be refused with the reason: a run keeps its name.
    """

    name: str | msgspec.UnsetType = msgspec.UNSET
    tags: Tags | msgspec.UnsetType = msgspec.UNSET
    notes: Text | msgspec.UnsetType = msgspec.UNSET
    alias: Name | msgspec.UnsetType | None = msgspec.UNSET
    config: Document | msgspec.UnsetType = msgspec.UNSET
    summary: Document | msgspec.UnsetType = msgspec.UNSET


class HeartbeatBody(Body, frozen=True):
    """An attempt says that it lives."""

    epoch: Epoch


class ProgressBody(Body, frozen=True):
    """How far the program is."""

    epoch: Epoch
    done: Annotated[float, Meta(ge=0)]
    total: Annotated[float, Meta(gt=0)] | None = None
    unit: Annotated[str, Meta(max_length=64, pattern=LINE)] = ""


class PrimaryMetricBody(Body, frozen=True):
    """The metric that tells the best point."""

    name: Annotated[str, Meta(min_length=1, max_length=250)]
    mode: Literal["min", "max"]


class ArchiveBody(Body, frozen=True):
    """Into the archive, or out of it."""

    archived: bool = True


class DrainBody(Body, frozen=True):
    """Why a worker is drained."""

    reason: Annotated[str, Meta(max_length=1_000)] = ""


class ClaimBody(Body, frozen=True):
    """A GPU worker takes a queued run."""

    worker: UUID
    command_id: UUID
    slots: tuple[Annotated[str, Meta(max_length=128)], ...]
    epoch: Epoch | None = None


class Preparing(Body, frozen=True, tag_field="report", tag="preparing"):
    """A stage of the preparation."""

    epoch: Epoch
    stage: Annotated[str, Meta(max_length=128)]
    message: Text = ""
    fraction: Annotated[float, Meta(ge=0, le=1)] | None = None


class Started(Body, frozen=True, tag_field="report", tag="started"):
    """The program runs."""

    epoch: Epoch
    pid: int | None = None
    host: Document = {}


class Stopping(Body, frozen=True, tag_field="report", tag="stopping"):
    """The commands ended; outputs are being stored."""

    epoch: Epoch
    exit_code: int | None = None


class Idle(Body, frozen=True, tag_field="report", tag="idle"):
    """The commands ended, well or with an error; protection keeps the resources."""

    epoch: Epoch
    exit_code: int | None = None
    error: Failure | None = None


class Requeue(Body, frozen=True, tag_field="report", tag="requeue"):
    """The worker gives the run back before its start."""

    epoch: Epoch
    reason: Text = ""


class Ended(Body, frozen=True, tag_field="report", tag="ended"):
    """The process is gone."""

    epoch: Epoch
    status: Literal["completed", "failed", "killed"]
    cause: Cause | None = None
    exit_code: int | None = None
    error: Failure | None = None
    reason: Text = ""
    last_seq: dict[str, int] = {}


Report = Preparing | Started | Stopping | Idle | Requeue | Ended


class ChangedOrganisation(Body, frozen=True):
    """What an organisation is called."""

    name: Name


class NewKey(Body, frozen=True):
    """An API key; `projects` (ids or names) confine it to these, and without `expires_at` it never expires."""

    name: Name
    role: Role
    projects: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=100)] | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None


class ChangedKey(Body, frozen=True):
    """What a key is called, and until when it opens anything (null: for ever); what is left out stays."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    expires_at: Annotated[datetime, Meta(tz=True)] | msgspec.UnsetType | None = msgspec.UNSET


class NewWorker(Body, frozen=True):
    """A GPU worker introduces itself."""

    name: Name
    host: Document = {}
    slots: Annotated[tuple[Slot, ...], Meta(max_length=1_024)] = ()
