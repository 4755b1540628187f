"""What travels on COMMANDS and HEARTBEATS: orders to GPU workers, and signs of life. Pure."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec


class Beat(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sender's sign of life: a worker with all its runs, an API process for the runs that beat over HTTP,
    or the monitor to itself, to see that beats get through. A worker signs with its id.
    """

    sender: str
    kind: Literal["worker", "api", "canary"]
    runs: dict[UUID, int] = {}
    slots: int = 0
    free_slots: int = 0
    draining: bool = False

    def __post_init__(self) -> None:
        """Refuse a worker that is nobody, while the beat is decoded and not where it is used."""
        if self.kind == "worker":
            UUID(self.sender)


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a GPU worker is to do; it may come more than once, and late.

    `epoch` is the run's latest attempt when the order was given: a start is the one after it, a kill means it and those
    before.
    """

    command_id: UUID
    kind: Literal["start", "kill"]
    ledger_id: UUID
    run_id: UUID
    deadline: datetime
    epoch: int | None = None
    grace_seconds: float = 0.0
    cause: str | None = None


def beat_subject(sender: object) -> str:
    """Return the subject of a sender's beats."""
    return f"tachograph.heartbeats.{sender}"


def order_subject(worker_id: UUID) -> str:
    """Return the subject of a worker's orders."""
    return f"tachograph.commands.{worker_id}"
