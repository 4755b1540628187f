"""What a run's state allows, and how a refusal says so. Pure."""

from typing import assert_never

from events.commands import RunCommand
from events.errors import Fenced, Rejected
from events.run import Run
from events.transitions import ENDED
from events.types import Status

S = Status


def actions(run: Run) -> tuple[str, ...]:
    """What a person may do to the run now."""
    match run.status:
        case S.QUEUED | S.STARTING | S.RUNNING | S.STOPPING | S.IDLE:
            return ("monitor", "kill", "reproduce")
        case S.COMPLETED:
            return ("view metrics", "download model", "delete", "archive", "reproduce")
        case S.FAILED:
            return ("view logs", "delete", "archive", "reproduce")
        case S.KILLED:
            return ("view progress", "delete", "archive", "reproduce")
        case S.CRASHED:
            return ("view logs", "kill", "delete", "archive", "reproduce")
        case S.DELETED:
            return ("view transitions",)
        case S.ABSENT:
            return ("create",)
        case _:
            assert_never(run.status)


def not_superseded(run: Run) -> None:
    """Raise `Fenced` where another run has followed this one."""
    if run.retried_by is not None:
        raise Fenced(f"run {run.retried_by} has taken over; this process must stop", state=run.status)


def same_epoch(epoch: int, run: Run, asked: str) -> None:
    """Raise `Fenced` for an attempt that is not the latest."""
    if epoch != run.epoch:
        raise Fenced(
            f"epoch {epoch} is not the run's latest attempt ({run.epoch}); this process must stop",
            state=run.status,
            asked=asked,
            allowed=actions(run),
        )


def live(epoch: int, run: Run, asked: str, states: set[Status] | frozenset[Status]) -> None:
    """Raise where the attempt is not the latest, or the state none of these."""
    same_epoch(epoch, run, asked)
    require(run, asked, states)


def require(run: Run, asked: str, states: set[Status] | frozenset[Status]) -> None:
    """Raise `Rejected` where the state is none of these."""
    if run.status not in states:
        wanted = ", ".join(sorted(states))
        raise refused(run, asked, f"that needs {wanted}")


def undeletable(run: Run) -> str | None:
    """Return why the run cannot be deleted now, and the way out; None if it can."""
    if run.status in ENDED:
        return None
    return "it is active; kill it, wait until it is killed, then delete it"


def words(command: RunCommand) -> str:
    """Return a command's name as words: `KillRun` is "kill run"."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(command).__name__).strip()


def refused(run: Run, asked: str, why: str) -> Rejected:
    """Return the refusal of what was asked, with the reason and what is possible instead."""
    return Rejected(
        f"cannot {asked} a run that is {run.status}: {why}", state=run.status, asked=asked, allowed=actions(run)
    )
