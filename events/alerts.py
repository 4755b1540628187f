"""Alert rules and webhooks: their events, and how a rule's condition comes about. Pure.

A condition that holds opens an episode, and the rule fires once for it; when it no longer holds the episode is over,
and the next one fires again. What happens at a moment (an event, a change of status) is an episode by itself.
"""

import math
from enum import StrEnum
from typing import assert_never
from uuid import UUID

import msgspec
from msgspec.structs import replace

from events.types import Event, Status, Value


class Side(StrEnum):
    """Of a threshold."""

    ABOVE = "above"
    BELOW = "below"


class Better(StrEnum):
    """What an improvement of a metric is."""

    MIN = "min"
    MAX = "max"


class EventHappens(Value, frozen=True, tag_field="when", tag="event"):
    """An event of one of these types is recorded."""

    types: tuple[str, ...]


class StatusBecomes(Value, frozen=True, tag_field="when", tag="status"):
    """A run comes to one of these statuses."""

    statuses: tuple[Status, ...]


class MetricIsNan(Value, frozen=True, tag_field="when", tag="nan"):
    """A metric is not a number."""

    metric: str


class MetricBeyond(Value, frozen=True, tag_field="when", tag="threshold"):
    """A metric is above or below a value."""

    metric: str
    side: Side
    value: float


class NoImprovement(Value, frozen=True, tag_field="when", tag="no_improvement"):
    """A metric has not become better for so many steps, or for so many seconds of its points' recording."""

    metric: str
    mode: Better
    steps: int | None = None
    seconds: float | None = None


MetricCondition = MetricIsNan | MetricBeyond | NoImprovement
Condition = EventHappens | StatusBecomes | MetricCondition


class AlertRuleSet(Event, frozen=True, tag="alert_rule.set"):
    """A rule is in force from now on, for all runs of a project, or those of a workflow, or one run."""

    project: UUID
    name: str
    condition: Condition
    workflow: UUID | None = None
    run: UUID | None = None


class AlertRuleRemoved(Event, frozen=True, tag="alert_rule.removed"):
    """A rule is no longer in force."""

    project: UUID


class AlertFired(Event, frozen=True, tag="alert.fired"):
    """A rule's condition came about, at `position` of the project's ledger.

    `value`, a metric's as text, is in old events alone: the ledger would keep it when its run is deleted.
    """

    rule: UUID
    project: UUID
    run: UUID | None
    position: int
    name: str
    step: int | None = None
    value: str | None = None


class WebhookSet(Event, frozen=True, tag="webhook.set"):
    """Events of these types (of a project, and its alerts) are sent to an address from now on.

    One that an import brought is not in force until it is set again: the rest of its address stayed behind.
    """

    project: UUID
    url: str
    types: tuple[str, ...]
    in_force: bool = True


class WebhookRemoved(Event, frozen=True, tag="webhook.removed"):
    """Nothing is sent to the address any more."""

    project: UUID


AlertEvent = AlertRuleSet | AlertRuleRemoved | AlertFired | WebhookSet | WebhookRemoved


class Watch(msgspec.Struct, frozen=True, array_like=True):
    """What a metric's condition remembers of a run: whether an episode is open, and the best point so far."""

    open: bool = False
    best: float | None = None
    best_step: int = 0
    best_at_us: int = 0


def watch(condition: MetricCondition, before: Watch, step: int, value: float, at_us: int) -> tuple[Watch, bool]:
    """Take one point; returns what is remembered, and whether the rule fires. `at_us` is when it was recorded."""
    after = before
    match condition:
        case MetricIsNan():
            holds = math.isnan(value)
        case MetricBeyond():
            holds = value > condition.value if condition.side is Side.ABOVE else value < condition.value
        case NoImprovement():
            better = before.best is None or (
                value < before.best if condition.mode is Better.MIN else value > before.best
            )
            if better and not math.isnan(value):
                after = replace(before, best=value, best_step=step, best_at_us=at_us)
            holds = after.best is not None and (
                (condition.steps is not None and step - after.best_step >= condition.steps)
                or (condition.seconds is not None and at_us - after.best_at_us >= condition.seconds * 1e6)
            )
        case _:
            assert_never(condition)
    return replace(after, open=holds), holds and not before.open
