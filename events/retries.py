"""Retries: whether a run that ended is followed by another one of the same configuration, and which. Pure."""

from typing import Final
from uuid import UUID

from msgspec.structs import replace

from events.ids import derived
from events.run import Run
from events.run_events import RunCreated
from events.types import Cause, Mode, Status

RETRIED_CAUSES: Final = frozenset(
    {
        Cause.EXIT_CODE,
        Cause.EXCEPTION,
        Cause.WORKER_LOST,
        Cause.START_DEADLINE,
        Cause.PREPARE_FAILED,
        Cause.PREEMPTED,
    }
)
"""Ends that another attempt may mend. Memory that did not suffice will not suffice again; a kill is meant."""


def may_retry(run: Run) -> bool:
    """Whether the run asked to be followed by another one after an end like this, and is not yet."""
    asked = run.retries > 0 and run.mode is Mode.MANAGED and run.retried_by is None
    return asked and run.status in {Status.FAILED, Status.CRASHED} and run.cause in RETRIED_CAUSES


def successor_id(run_id: UUID) -> UUID:
    """Return the id of the run that follows: always the same, so that no run is followed twice."""
    return derived(run_id, "retry")


def successor(run_id: UUID, created: RunCreated) -> RunCreated:
    """Return the run that follows: the configuration as it was created, one retry less, its name numbered."""
    root, _, number = created.name.rpartition("-retry-") if created.retry_of else ("", "", "")
    session, _, _ = created.session_id.rpartition("-") if root else ("", "", "")
    retry = int(number) + 1 if root and number.isdecimal() else 1
    return replace(
        created,
        name=f"{(root or created.name)[:230]}-retry-{retry}",
        session_id=f"{(session or created.session_id)[:200]}-{retry}",
        external_id=None,
        retries=created.retries - 1,
        retry_of=run_id,
    )
