"""What the monitor, the scheduler and an operator decide about runs. Pure; a part of `decisions`."""

from typing import assert_never

from events.commands import (
    CloseRun,
    ConfirmKill,
    MarkCrashed,
    MarkResponsive,
    MarkRetried,
    MarkUnresponsive,
    ReleaseRun,
)
from events.errors import Fenced
from events.refusals import actions, not_superseded, refused, require
from events.retries import may_retry
from events.run import Run
from events.run_events import (
    RunCrashed,
    RunEvent,
    RunKilled,
    RunRecovered,
    RunReleased,
    RunResponsive,
    RunRetried,
    RunUnresponsive,
)
from events.transitions import ACTIVE, ENDED
from events.types import Cause, Status

S = Status

Oversight = ConfirmKill | CloseRun | ReleaseRun | MarkRetried | MarkUnresponsive | MarkResponsive | MarkCrashed


def oversee(command: Oversight, run: Run) -> tuple[RunEvent, ...]:
    """Return the events that the command leads to; raises as `decisions.decide`."""
    match command:
        case ConfirmKill():
            if run.kill is None or run.status not in ACTIVE:
                return ()
            return (RunKilled(epoch=run.epoch, cause=run.kill.cause, reason=run.kill.reason, fenced=True),)
        case CloseRun():
            require(run, "close", ACTIVE | {S.QUEUED, S.CRASHED})
            cause = Cause.CLOSED_BY_OPERATOR
            return (RunKilled(epoch=run.epoch, cause=cause, reason=command.reason, fenced=run.epoch > 0),)
        case ReleaseRun():
            if not run.holding or run.status not in ENDED or command.epoch != run.epoch:
                return ()
            return (RunReleased(epoch=run.epoch, worker_lost=command.worker_lost),)
        case MarkRetried():
            if run.retried_by == command.retry:
                return ()
            if not may_retry(run):
                raise refused(run, "retry", "it did not ask for it, or ended for a reason that a retry does not mend")
            return (RunRetried(retry=command.retry),)
        case MarkUnresponsive():
            if run.status not in ACTIVE or run.unresponsive or command.epoch != run.epoch:
                return ()
            return (
                RunUnresponsive(last_heartbeat_at=command.last_heartbeat_at, silence_seconds=command.silence_seconds),
            )
        case MarkResponsive():
            return _responsive(command, run)
        case MarkCrashed():
            return _crash(command, run)
        case _:
            assert_never(command)


def _crash(command: MarkCrashed, run: Run) -> tuple[RunEvent, ...]:
    if run.status not in ACTIVE or command.epoch != run.epoch:
        return ()
    if run.kill is not None:
        return (RunKilled(epoch=run.epoch, cause=run.kill.cause, reason=run.kill.reason, fenced=True),)
    return (
        RunCrashed(
            epoch=run.epoch,
            cause=command.cause,
            last_heartbeat_at=command.last_heartbeat_at,
            silence_seconds=command.silence_seconds,
        ),
    )


def _responsive(command: MarkResponsive, run: Run) -> tuple[RunEvent, ...]:
    if command.epoch != run.epoch:
        raise Fenced(
            "a newer attempt has taken over; this process must stop",
            state=run.status,
            asked="heartbeat",
            allowed=actions(run),
        )
    if run.status is S.CRASHED:
        not_superseded(run)
        return (RunRecovered(epoch=run.epoch, silence_seconds=command.silence_seconds),)
    if run.status in ACTIVE and run.unresponsive:
        return (RunResponsive(silence_seconds=command.silence_seconds),)
    return ()
