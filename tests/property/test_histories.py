"""Whatever is asked of a run, in whatever order, its history holds together."""

from datetime import datetime, timedelta
from fractions import Fraction
from functools import reduce
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from events import codec
from events.commands import EndRun, RunCommand
from events.decisions import decide
from events.errors import Rejected
from events.run import NO_RUN, Run, evolve
from events.run_events import RunDeleted, RunEvent, RunKilled, RunRecovered, RunStarted
from events.transitions import ENDED, TRANSITIONS
from events.types import Status
from projections import runs
from projections.credits import HOUR_US, NO_CREDITS, RunCredits, accrue, as_of, final
from projections.credits import evolve as evolve_credits
from tests.property.strategies import ENDS, START, orders

History = list[tuple[RunEvent, datetime]]
PAUSES = st.lists(st.integers(0, 4 * 10**11), min_size=30, max_size=30)


def lived(commands: list[RunCommand], pauses: list[int]) -> tuple[Run, History]:
    """Carry commands out one after the other; returns the state and what was recorded."""
    run, at, history = NO_RUN, START, []
    for index, command in enumerate(commands):
        at += timedelta(microseconds=pauses[index % len(pauses)])
        try:
            events = decide(command, run)
        except Rejected:
            continue
        for event in events:
            run = evolve(run, event, at)
            history.append((event, at))
    return run, history


def replayed(run: Run, history: History) -> Run:
    return reduce(lambda state, step: evolve(state, *step), history, run)


@settings(max_examples=300)
@given(orders())
def test_what_is_decided_folds_and_keeps_the_invariants(commands: list[RunCommand]) -> None:
    run = NO_RUN
    for command in commands:
        try:
            events = decide(command, run)
        except Rejected:
            continue
        for event in events:
            after = evolve(run, event, START)
            assert after.version == run.version + 1
            assert after.epoch >= run.epoch
            if isinstance(event, RunStarted):
                assert after.epoch == run.epoch + (run.status is not Status.STARTING)
            if run.status in ENDED and after.status is not run.status:
                assert isinstance(event, RunDeleted) or (
                    run.status is Status.CRASHED and isinstance(event, RunRecovered | RunStarted | RunKilled)
                )
            if run.status is Status.DELETED:
                assert after.status is Status.DELETED
            assert (after.ended_at is not None) == (after.status in ENDED) or after.status is Status.DELETED
            assert (after.before_crash is not None) == (after.status is Status.CRASHED)
            run = after


@given(orders(), PAUSES, st.integers(0, 60))
def test_a_history_folds_the_same_from_any_point(commands: list[RunCommand], pauses: list[int], cut: int) -> None:
    run, history = lived(commands, pauses)
    assert replayed(replayed(NO_RUN, history[:cut]), history[cut:]) == run
    stored = [
        (codec.decode(codec.event_type(event), event.schema_version, codec.encode(event)), at) for event, at in history
    ]
    assert replayed(NO_RUN, stored) == run


@given(orders(), PAUSES, ENDS, ENDS)
def test_an_end_is_reported_once_and_stays(
    commands: list[RunCommand], pauses: list[int], first: Status, second: Status
) -> None:
    run, _ = lived(commands, pauses)
    try:
        events = decide(EndRun(epoch=run.epoch, status=first), run)
    except Rejected:
        return
    ended = replayed(run, [(event, START) for event in events])
    if ended.status in ENDED - {Status.CRASHED}:
        assert decide(EndRun(epoch=ended.epoch, status=second), ended) == ()


@given(orders(), PAUSES)
def test_pending_times_settle_to_the_appends_time(commands: list[RunCommand], pauses: list[int]) -> None:
    run, at = NO_RUN, START
    for command in commands:
        at += timedelta(seconds=1)
        try:
            events = decide(command, run)
        except Rejected:
            continue
        pending = runs.settled(replayed(run, [(event, runs.PENDING) for event in events]), at)
        run = replayed(run, [(event, at) for event in events])
        assert pending == run


def transitions(history: History) -> History:
    moved, run = [], NO_RUN
    for event, at in history:
        if (run.status, type(event)) in TRANSITIONS:
            moved.append((event, at))
        run = evolve(run, event, at)
    return moved


def costs(history: History) -> list[RunCredits]:
    states = [NO_CREDITS]
    for event, at in history:
        if isinstance(event, RunDeleted):
            break
        states.append(evolve_credits(states[-1], event, at))
    return states


def exact(history: History) -> Fraction:
    """What a history costs, without any rounding."""
    total, state = Fraction(0), NO_CREDITS
    for event, at in history:
        if isinstance(event, RunDeleted):
            break
        status = state.before_crash if isinstance(event, RunRecovered) else state.status
        rate = state.rate
        if rate is not None and state.since is not None and status in rate.charged:
            span = (at - state.since) // timedelta(microseconds=1)
            total += Fraction(rate.count * rate.micro_credits_per_hour * span, HOUR_US)
        state = evolve_credits(state, event, at)
    return total


@given(orders(), PAUSES)
def test_any_split_of_the_credits_adds_up_to_the_whole(commands: list[RunCommand], pauses: list[int]) -> None:
    _, history = lived(commands, pauses)
    moved = transitions(history)
    state = costs(moved)[-1]
    whole = int(exact(moved) + Fraction(1, 2))
    assert state.consumed_micro == whole
    assert sum(state.by_day.values()) == whole
    assert all(micro > 0 for micro in state.by_day.values())
    if state.saved_micro:
        assert state.estimate_micro == whole + state.saved_micro
    carried = evolve_credits(NO_CREDITS, RunDeleted(credits=final(state)), START)
    assert carried.consumed_micro == whole


@given(orders(), PAUSES, st.lists(st.integers(0, 10**12), max_size=5))
def test_looking_at_the_credits_changes_nothing(
    commands: list[RunCommand], pauses: list[int], looks: list[int]
) -> None:
    _, history = lived(commands, pauses)
    state = costs(transitions(history))[-1]
    if state.since is None:
        return
    last = state.since + timedelta(microseconds=max(looks, default=0))
    looked = state
    for pause in sorted(looks):
        looked = accrue(looked, looked.status, state.since + timedelta(microseconds=pause))
    assert looked.by_day == as_of(state, last).by_day
    assert looked.remainder == as_of(state, last).remainder


@settings(max_examples=300)
@given(orders())
def test_what_changes_a_run_within_its_state_leaves_its_other_columns_alone(commands: list[RunCommand]) -> None:
    run = NO_RUN
    for command in commands:
        try:
            events = decide(command, run)
        except Rejected:
            continue
        for event in events:
            after = evolve(run, event, runs.PENDING)
            if type(event) in runs.WITHIN_STATE:
                assert columns(after) == columns(run)
                assert runs.demand(after) == runs.demand(run)
                assert after.progress_at in (run.progress_at, runs.PENDING)
            run = runs.settled(after, START)


def columns(run: Run) -> dict[str, Any]:
    """Return a run's row but for what a `RunState` brings."""
    row: dict[str, Any] = msgspec.json.decode(runs.run_row(UUID(int=0), run))
    return {name: value for name, value in row.items() if name not in ("version", "progress_at", "state")}
