"""A sweep: trials of a workflow with other parameters each. Its events, its state, and what may follow what. Pure.

Its status governs only the creation of trials. Pausing and stopping leave the runs that there are alone; only a
cancellation ends them. Source: the meaning that Weights & Biases gives these words.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, assert_never
from uuid import UUID

import msgspec
from msgspec.structs import asdict, replace

from events.errors import CorruptHistory, Rejected
from events.search_space import Parameter
from events.types import Event, Value


class Method(StrEnum):
    """How the next parameters are found."""

    GRID = "grid"
    RANDOM = "random"
    BAYES = "bayes"


class Goal(StrEnum):
    """Which values of a metric are better."""

    MIN = "min"
    MAX = "max"


class Objective(Value, frozen=True):
    """The primary metric: a trial counts by the best that it logged of it."""

    name: str
    goal: Goal


class SweepStatus(StrEnum):
    """Where a sweep stands. `ABSENT` is the state before `sweep.created`."""

    ABSENT = "absent"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    FINISHED = "finished"


class SweepCreated(Event, frozen=True, tag="sweep.created"):
    """A search was asked for: `max_runs` trials of a workflow at this version, `concurrency` of them at once."""

    name: str
    workflow: UUID
    workflow_version: int
    method: Method
    parameters: dict[str, Parameter]
    max_runs: int
    metric: Objective | None = None
    concurrency: int = 1
    seed: int = 0


class SweepPaused(Event, frozen=True, tag="sweep.paused"):
    """No trial is made until the sweep is resumed."""


class SweepResumed(Event, frozen=True, tag="sweep.resumed"):
    """Trials are made again."""


class SweepStopped(Event, frozen=True, tag="sweep.stopped"):
    """No trial is made any more; those that run go on to their end."""


class SweepCancelled(Event, frozen=True, tag="sweep.cancelled"):
    """No trial is made any more, and those that run are killed."""


class SweepFinished(Event, frozen=True, tag="sweep.finished"):
    """All trials were made, and have ended."""


SweepEvent = SweepCreated | SweepPaused | SweepResumed | SweepStopped | SweepCancelled | SweepFinished

S = SweepStatus

TRANSITIONS: Final[Mapping[tuple[SweepStatus, type[SweepEvent]], SweepStatus]] = MappingProxyType(
    {
        (S.ABSENT, SweepCreated): S.RUNNING,
        (S.RUNNING, SweepPaused): S.PAUSED,
        (S.PAUSED, SweepResumed): S.RUNNING,
        (S.RUNNING, SweepStopped): S.STOPPED,
        (S.PAUSED, SweepStopped): S.STOPPED,
        (S.RUNNING, SweepCancelled): S.CANCELLED,
        (S.PAUSED, SweepCancelled): S.CANCELLED,
        (S.STOPPED, SweepCancelled): S.CANCELLED,
        (S.RUNNING, SweepFinished): S.FINISHED,
    }
)

ACTIONS: Final[Mapping[str, SweepEvent]] = MappingProxyType(
    {"pause": SweepPaused(), "resume": SweepResumed(), "stop": SweepStopped(), "cancel": SweepCancelled()}
)
"""What a person may ask of a sweep, and what it leads to."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a sweep's events add up to, at `version`."""

    status: SweepStatus = S.ABSENT
    version: int = 0
    name: str = ""
    workflow: UUID = UUID(int=0)
    workflow_version: int = 0
    method: Method = Method.RANDOM
    parameters: dict[str, Parameter] = {}
    metric: Objective | None = None
    max_runs: int = 0
    concurrency: int = 1
    seed: int = 0


def evolve(sweep: Sweep, event: SweepEvent) -> Sweep:
    """Fold one event into the state. Raises `CorruptHistory` where the state machine knows no such step."""
    status = TRANSITIONS.get((sweep.status, type(event)))
    if status is None:
        raise CorruptHistory(f"{event.__struct_config__.tag} cannot happen to a sweep that is {sweep.status}")
    moved = replace(sweep, status=status, version=sweep.version + 1)
    match event:
        case SweepCreated():
            return replace(moved, **asdict(event))
        case SweepPaused() | SweepResumed() | SweepStopped() | SweepCancelled() | SweepFinished():
            return moved
        case _:
            assert_never(event)


def actions(sweep: Sweep) -> tuple[str, ...]:
    """Return what a person may ask of the sweep now."""
    return tuple(name for name, event in ACTIONS.items() if (sweep.status, type(event)) in TRANSITIONS)


def decide(asked: str, sweep: Sweep) -> tuple[SweepEvent, ...]:
    """Return what one of the `ACTIONS` leads to: nothing, where the sweep is so already. Raises `Rejected`."""
    event = ACTIONS[asked]
    if (sweep.status, type(event)) in TRANSITIONS:
        return (event,)
    if sweep.status in {to for (_, kind), to in TRANSITIONS.items() if kind is type(event)}:
        return ()
    raise Rejected(
        f"cannot {asked} a sweep that is {sweep.status}", state=sweep.status, asked=asked, allowed=actions(sweep)
    )
