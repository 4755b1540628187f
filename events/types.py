"""What events are made of: their base, and the values in them. The events are in the modules of their streams.

Events are past tense and immutable. A field added later gets a default; a changed meaning gets a new
`schema_version` and an upcaster in `codec`. Times inside events are the reporter's; the ledger adds its own.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

import msgspec


class Status(StrEnum):
    """Where a run stands. `ABSENT` is the state before `run.created`."""

    ABSENT = "absent"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    IDLE = "idle"
    COMPLETED = "completed"
    FAILED = "failed"
    KILLED = "killed"
    CRASHED = "crashed"
    DELETED = "deleted"


class Mode(StrEnum):
    """Who owns a run's process: a GPU worker of ours (managed) or the user (tracked)."""

    MANAGED = "managed"
    TRACKED = "tracked"


class Role(StrEnum):
    """What an API key is for; which routes that opens is said by each route."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"
    WORKER = "worker"


class Cause(StrEnum):
    """Why a run ended, in clear; the sentence to it is in the payload."""

    FINISHED = "finished"
    EXIT_CODE = "exit_code"
    EXCEPTION = "exception"
    KILLED_BY_USER = "killed_by_user"
    CREDITS_EXHAUSTED = "credits_exhausted"
    SWEEP_CANCELLED = "sweep_cancelled"
    HEARTBEAT_LOST = "heartbeat_lost"
    WORKER_LOST = "worker_lost"
    START_DEADLINE = "start_deadline"
    PREPARE_FAILED = "prepare_failed"
    OUT_OF_MEMORY = "out_of_memory"
    PREEMPTED = "preempted"
    CLOSED_BY_OPERATOR = "closed_by_operator"


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an event or a state."""


class Resources(Value, frozen=True):
    """What a run needs: `count` accelerators of one kind (`cpu` is a CPU slot)."""

    accelerator: str = "cpu"
    count: int = 1


class StartCommand(Value, frozen=True):
    """One of the commands that a run starts in order; its directory is relative to the run's own."""

    argv: tuple[str, ...]
    working_directory: str = ""


class LevelFile(Value, frozen=True):
    """A Parquet file with the levels of a file of metrics: buckets of its points, ever wider."""

    path: str
    rows: int
    sha256: str
    bytes: int


class Volume(Value, frozen=True):
    """What is brought to `path` before a run's start, or taken from it after its end.

    `path` is relative to the run's directory; `place` is `artifact:<run>/<name>` (when written, `artifact:<name>` of
    the run itself) or `volume:<name>[/path]`, a directory that the worker offers.
    """

    place: str
    path: str


class Change(Value, frozen=True):
    """A value that differs from another run's, by its JSON path; None where there is none."""

    path: str
    old: Any
    new: Any


class Limits(Value, frozen=True):
    """What may be in use at once; None and kinds that are not named are unlimited.

    `accelerators` bounds slots by kind: a kind's own name, a wider one (`cuda` of `cuda:h200`), `gpu` for any, `cpu`.
    """

    max_active_runs: int | None = None
    accelerators: dict[str, int] = {}


class Liveness(Value, frozen=True):
    """How often a run beats, and how long its silence is borne."""

    beat_seconds: float = 5.0
    unresponsive_seconds: float = 15.0
    crashed_seconds: float = 45.0


class Rate(Value, frozen=True):
    """The price in force for a run, pinned when it starts.

    A charged second costs `count * micro_credits_per_hour / 3600` micro-credits.
    """

    micro_credits_per_hour: int
    count: int
    charged: tuple[Status, ...] = (Status.RUNNING,)
    card_version: int = 1


class Failure(Value, frozen=True):
    """An error as its program told it."""

    type: str = ""
    message: str = ""
    traceback: str = ""


class WorkflowRef(Value, frozen=True):
    """The workflow of a run as it was when the run was created."""

    id: UUID
    name: str
    version: int = 0
    architecture: str = ""
    dataset: str = ""
    dataset_split: dict[str, float] = {}
    training_parameters: dict[str, Any] = {}
    system_prompt: str = ""


class SweepTrial(Value, frozen=True):
    """Which trial of a sweep a run is, and the parameters that the sweep chose for it."""

    sweep: UUID
    number: int
    parameters: dict[str, Any] = {}


class FinalCredits(Value, frozen=True):
    """What a deleted run had cost, in micro-credits; days are ISO dates in UTC."""

    workflow_id: UUID | None = None
    estimate_micro: int | None = None
    by_day: dict[str, int] = {}
    by_status: dict[Status, int] = {}


class StoreReceipt(Value, frozen=True):
    """What one store gave up in a purge."""

    objects: int
    bytes: int


class Origin(Value, frozen=True):
    """Where an imported run comes from: `system` is tachograph, tensorboard, mlflow or neptune.

    `run` and `project` are the ids that it had there, `sha256` is of what was read of it, in hexadecimal.
    """

    system: str
    run: str
    project: str = ""
    sha256: str = ""
    exported_at: datetime | None = None


class PastEvent(Value, frozen=True):
    """A lifecycle event of another ledger, as that has it: reported to ours, not recorded by it."""

    id: UUID
    position: int
    version: int
    type: str
    schema_version: int
    actor: str
    occurred_at: datetime
    recorded_at: datetime
    cause: str | None = None
    epoch: int | None = None
    data: dict[str, Any] = {}


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """Base of all events; the tag is the event's type."""

    schema_version: ClassVar[int] = 1
