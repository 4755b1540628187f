"""What can happen to projects, workflows, organisations, keys and workers: events as in `types`."""

from datetime import datetime
from typing import Any
from uuid import UUID

from events.types import Event, Limits, Resources, Role, StartCommand, Value, Volume


class ProjectCreated(Event, frozen=True, tag="project.created"):
    """A project, and with it a ledger, was opened; in old events nothing says by which organisation."""

    name: str
    description: str = ""
    organisation: UUID | None = None


class ProjectChanged(Event, frozen=True, tag="project.changed"):
    """A project's name, description or limits, replaced where given."""

    name: str | None = None
    description: str | None = None
    limits: Limits | None = None


class WorkflowCreated(Event, frozen=True, tag="workflow.created"):
    """The recipe that runs of one kind share."""

    name: str
    architecture: str = ""
    dataset: str = ""
    dataset_split: dict[str, float] = {}
    training_parameters: dict[str, Any] = {}
    system_prompt: str = ""
    command: tuple[str, ...] = ()
    commands: tuple[StartCommand, ...] = ()
    environment: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    resources: Resources | None = None
    import_volumes: tuple[Volume, ...] = ()
    export_volumes: tuple[Volume, ...] = ()
    protection: bool = False
    estimate_seconds: float | None = None
    code: str | None = None
    retries: int = 0


class WorkflowRenamed(Event, frozen=True, tag="workflow.renamed"):
    """A new name, for future runs only."""

    name: str


class WorkflowChanged(Event, frozen=True, tag="workflow.changed"):
    """A new version of the recipe: the whole of it but the name."""

    architecture: str = ""
    dataset: str = ""
    dataset_split: dict[str, float] = {}
    training_parameters: dict[str, Any] = {}
    system_prompt: str = ""
    command: tuple[str, ...] = ()
    commands: tuple[StartCommand, ...] = ()
    environment: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    resources: Resources | None = None
    import_volumes: tuple[Volume, ...] = ()
    export_volumes: tuple[Volume, ...] = ()
    protection: bool = False
    estimate_seconds: float | None = None
    code: str | None = None
    retries: int = 0


class WorkflowArchived(Event, frozen=True, tag="workflow.archived"):
    """The workflow is no longer offered for new runs."""


class WorkflowUnarchived(Event, frozen=True, tag="workflow.unarchived"):
    """The workflow is offered for new runs again."""


class OrganisationCreated(Event, frozen=True, tag="organisation.created"):
    """A tenant, and with it its ledger, was opened."""

    name: str
    max_active_runs: int = 5


class OrganisationChanged(Event, frozen=True, tag="organisation.changed"):
    """What the tenant is called from now on."""

    name: str


class PlanChanged(Event, frozen=True, tag="plan.changed"):
    """What the tenant's plan allows from now on, and what the tenant allows itself within it.

    Without credits no run starts; where `kill_when_exhausted`, those that run are ended too.
    """

    plan: str
    plan_limits: Limits
    limits: Limits = Limits()
    kill_when_exhausted: bool = False


class KeyIssued(Event, frozen=True, tag="key.issued"):
    """An API key was made; only its SHA-256 is known to us.

    Without `projects` it is for all of the organisation, also for those to come.
    """

    key_id: UUID
    label: str
    prefix: str
    sha256: bytes
    role: Role = Role.ADMIN
    projects: tuple[UUID, ...] | None = None
    expires_at: datetime | None = None


class KeyChanged(Event, frozen=True, tag="key.changed"):
    """What an API key is called from now on, and until when it opens anything."""

    key_id: UUID
    label: str
    expires_at: datetime | None = None


class KeyRevoked(Event, frozen=True, tag="key.revoked"):
    """An API key no longer opens anything."""

    key_id: UUID


class Slot(Value, frozen=True):
    """One accelerator, or CPU slot, of a worker."""

    id: str
    kind: str = "cpu"


class WorkerRegistered(Event, frozen=True, tag="worker.registered"):
    """A GPU worker introduced itself, or came back with other hardware."""

    worker: UUID
    name: str
    host: dict[str, Any] = {}
    slots: tuple[Slot, ...] = ()


class WorkerLost(Event, frozen=True, tag="worker.lost"):
    """A GPU worker has been silent for too long."""

    worker: UUID
    last_heartbeat_at: datetime | None = None


class WorkerDrained(Event, frozen=True, tag="worker.drained"):
    """The worker takes no new runs; those that it has go on to their end."""

    worker: UUID
    reason: str = ""


class WorkerResumed(Event, frozen=True, tag="worker.resumed"):
    """The worker takes new runs again."""

    worker: UUID


class WorkerReturned(Event, frozen=True, tag="worker.returned"):
    """A GPU worker that had been declared lost was heard again."""

    worker: UUID


ProjectEvent = ProjectCreated | ProjectChanged
WorkflowEvent = WorkflowCreated | WorkflowRenamed | WorkflowChanged | WorkflowArchived | WorkflowUnarchived
OrganisationEvent = (
    OrganisationCreated
    | OrganisationChanged
    | PlanChanged
    | KeyIssued
    | KeyChanged
    | KeyRevoked
    | WorkerRegistered
    | WorkerLost
    | WorkerReturned
    | WorkerDrained
    | WorkerResumed
)
