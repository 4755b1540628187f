"""A run's status in the words of other systems."""

from collections.abc import Mapping
from typing import Final, Literal

System = Literal["datature", "vessl", "finetuner", "runicorn", "wandb", "mlflow"]

_SYSTEMS: Final = ("datature", "vessl", "finetuner", "runicorn", "wandb", "mlflow")
_TABLE: Final = {
    "queued": ("Queued", "Pending", "CREATED", "running", "pending", "SCHEDULED"),
    "starting": ("Starting", "Initializing", "CREATED", "running", "pending", "SCHEDULED"),
    "running": ("Running", "Running", "STARTED", "running", "running", "RUNNING"),
    "stopping": ("Running", "Stopping", "STARTED", "running", "running", "RUNNING"),
    "idle": ("Running", "Idle", "STARTED", "running", "running", "RUNNING"),
    "completed": ("Completed", "Completed", "FINISHED", "finished", "finished", "FINISHED"),
    "failed": ("Failed", "Failed", "FAILED", "failed", "failed", "FAILED"),
    "killed": ("Killed", "Terminated", "FAILED", "interrupted", "killed", "KILLED"),
    "crashed": ("Failed", "Failed", "FAILED", "failed", "crashed", "FAILED"),
}

WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    status: dict(zip(_SYSTEMS, words, strict=True)) for status, words in _TABLE.items()
}


def state_as(status: str, system: System) -> str:
    """Return a run's status as another system calls it: `crashed` is `Failed` to Datature, `crashed` to W&B."""
    return WORDS[status][system]
