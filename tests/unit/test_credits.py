"""What runs cost, by the pure fold: no clock but the times that are handed in."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from events import run_events
from events import types as t
from events.errors import CorruptHistory
from events.types import Cause, Mode, Rate, Status
from projections.credits import NO_CREDITS, RunCredits, as_of, evolve, final

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WORKFLOW = UUID(int=5)
TEN_AN_HOUR = Rate(micro_credits_per_hour=10_000_000, count=1)
FROM_START_TO_IDLE = Rate(
    micro_credits_per_hour=10_000_000, count=1, charged=(Status.STARTING, Status.RUNNING, Status.IDLE)
)

Step = tuple[float, run_events.RunEvent]
"""Minutes after noon, and what happened then."""


def created(estimate_seconds: float | None = 3600.0) -> run_events.RunCreated:
    workflow = t.WorkflowRef(id=WORKFLOW, name="w")
    return run_events.RunCreated(
        name="a", session_id="s", mode=Mode.MANAGED, workflow=workflow, estimate_seconds=estimate_seconds
    )


def starting(rate: Rate = TEN_AN_HOUR) -> run_events.RunStarting:
    return run_events.RunStarting(
        worker=UUID(int=1), command_id=UUID(int=2), epoch=1, accelerators=("gpu:0",), rate=rate
    )


STARTED = run_events.RunStarted(epoch=1)
IDLED = run_events.RunIdled(epoch=1)
COMPLETED = run_events.RunCompleted(epoch=1)
KILLED = run_events.RunKilled(epoch=1, cause=Cause.KILLED_BY_USER)
CRASHED = run_events.RunCrashed(epoch=1, cause=Cause.HEARTBEAT_LOST, last_heartbeat_at=None, silence_seconds=45.0)
RECOVERED = run_events.RunRecovered(epoch=1, silence_seconds=60.0)


def after(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


def cost(*steps: Step) -> RunCredits:
    state = NO_CREDITS
    for minutes, event in steps:
        state = evolve(state, event, after(minutes))
    return state


def test_fifteen_of_sixty_minutes_cost_a_quarter_and_save_the_rest() -> None:
    run = cost((0, created()), (5, starting()), (10, STARTED), (25, KILLED))
    assert run.consumed_micro == 2_500_000
    assert run.estimate_micro == 10_000_000
    assert run.saved_micro == 7_500_000
    assert run.by_status == {Status.RUNNING: 2_500_000}
    assert run.by_day == {"2026-03-01": 2_500_000}
    assert run.workflow_id == WORKFLOW


def test_only_charged_states_cost() -> None:
    steps: list[Step] = [(0, created()), (6, starting(FROM_START_TO_IDLE)), (12, STARTED), (18, IDLED), (24, KILLED)]
    assert cost(*steps).by_status == dict.fromkeys((Status.STARTING, Status.RUNNING, Status.IDLE), 1_000_000)
    assert cost(*steps[:1], (6, starting()), *steps[2:]).by_status == {Status.RUNNING: 1_000_000}


def test_every_accelerator_costs() -> None:
    rate = Rate(micro_credits_per_hour=10_000_000, count=8)
    assert cost((0, created()), (0, starting(rate)), (0, STARTED), (60, COMPLETED)).consumed_micro == 80_000_000


def test_a_run_costs_more_while_it_runs() -> None:
    run = cost((0, created()), (0, starting()), (0, STARTED))
    assert run.accruing
    assert run.consumed_micro == 0
    assert as_of(run, after(30)).consumed_micro == 5_000_000
    assert as_of(run, after(30)).saved_micro is None
    assert as_of(run, after(-1)).consumed_micro == 0


def test_a_run_costs_no_more_once_it_has_ended() -> None:
    run = cost((0, created()), (0, starting()), (0, STARTED), (15, COMPLETED))
    assert not run.accruing
    assert as_of(run, after(600)) == run


def test_the_gap_of_a_recovered_run_is_charged_as_what_it_was() -> None:
    steps: list[Step] = [(0, created()), (0, starting()), (0, STARTED), (6, CRASHED)]
    assert cost(*steps).consumed_micro == 1_000_000
    assert as_of(cost(*steps), after(60)).consumed_micro == 1_000_000
    recovered = cost(*steps, (12, RECOVERED))
    assert recovered.by_status == {Status.RUNNING: 2_000_000}
    assert recovered.accruing
    assert cost(*steps, (12, RECOVERED), (18, COMPLETED)).consumed_micro == 3_000_000


def test_the_gap_before_a_new_attempt_is_not_charged() -> None:
    rate = TEN_AN_HOUR
    run = cost(
        (0, created()),
        (0, run_events.RunStarted(epoch=1, rate=rate)),
        (6, CRASHED),
        (60, run_events.RunStarted(epoch=2, rate=rate)),
    )
    assert as_of(run, after(66)).consumed_micro == 2_000_000


def test_a_new_attempt_may_have_another_rate() -> None:
    dear = Rate(micro_credits_per_hour=20_000_000, count=1)
    steps: list[Step] = [
        (0, created()),
        (0, run_events.RunStarted(epoch=1, rate=TEN_AN_HOUR)),
        (6, run_events.RunStarted(epoch=2)),
    ]
    assert as_of(cost(*steps), after(12)).consumed_micro == 2_000_000
    steps[-1] = (6, run_events.RunStarted(epoch=2, rate=dear))
    assert as_of(cost(*steps), after(12)).consumed_micro == 3_000_000


def test_a_tracked_run_without_accelerators_costs_nothing() -> None:
    run = cost((0, created()), (0, STARTED), (600, COMPLETED))
    assert (run.consumed_micro, run.estimate_micro, run.saved_micro) == (0, None, None)
    assert run.by_day == {}


def test_a_requeued_run_forgets_its_rate_and_keeps_its_cost() -> None:
    run = cost((0, created()), (0, starting(FROM_START_TO_IDLE)), (6, run_events.RunRequeued(epoch=1)))
    assert run.consumed_micro == 1_000_000
    assert (run.rate, run.estimate_micro) == (None, None)


def test_nothing_is_saved_past_the_estimate() -> None:
    run = cost((0, created(estimate_seconds=60.0)), (0, starting()), (0, STARTED), (60, COMPLETED))
    assert (run.estimate_micro, run.saved_micro) == (166_667, 0)


def test_a_day_ends_at_midnight_utc() -> None:
    run = cost((0, created()), (0, starting()), (0, STARTED), (24 * 60 + 30, COMPLETED))
    assert run.by_day == {"2026-03-01": 120_000_000, "2026-03-02": 125_000_000}


def test_a_part_rounds_with_what_came_before_it() -> None:
    third = Rate(micro_credits_per_hour=1_200_000_000, count=1)  # a third of a micro-credit a microsecond
    run = NO_CREDITS
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    at = midnight - timedelta(microseconds=1)
    for event in (created(None), starting(third), STARTED):
        run = evolve(run, event, at)
    run = evolve(run, COMPLETED, midnight + timedelta(microseconds=1))
    assert run.consumed_micro == 1  # two thirds
    assert run.by_day == {"2026-03-02": 1}  # one third rounds to nothing, two thirds to one


def test_what_a_deletion_carries_is_what_is_left() -> None:
    run = cost((0, created()), (0, starting()), (0, STARTED), (15, KILLED))
    left = evolve(NO_CREDITS, run_events.RunDeleted(credits=final(run)), after(20))
    assert left == evolve(run, run_events.RunDeleted(credits=final(run)), after(20))
    assert (left.consumed_micro, left.estimate_micro, left.saved_micro) == (2_500_000, 10_000_000, 7_500_000)
    assert (left.by_day, left.by_status, left.workflow_id) == (run.by_day, run.by_status, WORKFLOW)
    assert left.status is Status.DELETED
    assert not left.accruing


def test_an_impossible_step_is_not_passed_over() -> None:
    with pytest.raises(CorruptHistory, match=r"run\.completed"):
        cost((0, created()), (1, COMPLETED))
