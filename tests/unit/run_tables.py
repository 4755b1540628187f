"""The design's tables of runs, statuses and events, written out by hand, and runs that stand anywhere in them."""

from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any
from uuid import UUID

from events import commands as c
from events import run_events
from events import types as t
from events.run import NO_RUN, Run, evolve
from events.types import Cause, Mode, Status

S = Status
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
WORKER, CLAIM, OTHER_CLAIM = UUID(int=1), UUID(int=2), UUID(int=3)
RATE = t.Rate(micro_credits_per_hour=10_000_000, count=1)
ACTIVE = {S.STARTING, S.RUNNING, S.STOPPING, S.IDLE}
ENDED = {S.COMPLETED, S.FAILED, S.KILLED, S.CRASHED}
EXISTING = {S.QUEUED} | ACTIVE | ENDED

ARCHIVED = run_events.RunTelemetryArchived(
    segment=UUID(int=9), kind="metrics", path="x", rows=1, first_position=3, last_position=4, sha256="", bytes=1
)

IMPORTED = run_events.RunImported(
    origin=t.Origin(system="tachograph", run="r"),
    created=run_events.RunCreated(name="a", session_id="s", mode=Mode.TRACKED),
    created_at=AT - timedelta(days=2),
    started_at=AT - timedelta(days=1),
    ended_at=AT - timedelta(hours=1),
)

EVENTS: dict[type[run_events.RunEvent], run_events.RunEvent] = {
    type(event): event
    for event in (
        run_events.RunCreated(name="a", session_id="s", mode=Mode.MANAGED),
        IMPORTED,
        run_events.RunHistoryImported(epoch=2),
        run_events.RunImportFinished(points=1, lines=0),
        run_events.RunStarting(worker=WORKER, command_id=CLAIM, epoch=1, accelerators=("cpu:0",), rate=RATE),
        run_events.RunRequeued(epoch=1),
        run_events.RunPreparationReported(epoch=1, stage="download"),
        run_events.RunStarted(epoch=1),
        run_events.RunProgressReported(epoch=1, done=1.0),
        run_events.RunConfigUpdated(patch={"lr": 1}),
        run_events.RunSummaryUpdated(patch={"acc": 1}),
        run_events.RunPrimaryMetricSet(name="acc", mode="max"),
        run_events.RunTagsChanged(tags=("x",)),
        run_events.RunNotesSet(notes="n"),
        run_events.RunAliasSet(alias="best"),
        run_events.RunArchived(),
        run_events.RunUnarchived(),
        run_events.RunArtifactSaved(name="m", kind="model", bytes=1, sha256="0"),
        run_events.RunKillRequested(cause=Cause.KILLED_BY_USER, grace_seconds=1.0),
        run_events.RunUnresponsive(last_heartbeat_at=None, silence_seconds=1.0),
        run_events.RunResponsive(silence_seconds=1.0),
        run_events.RunStopping(epoch=1),
        run_events.RunIdled(epoch=1),
        run_events.RunCompleted(epoch=1),
        run_events.RunFailed(epoch=1, cause=Cause.EXCEPTION),
        run_events.RunKilled(epoch=1, cause=Cause.KILLED_BY_USER),
        run_events.RunCrashed(epoch=1, cause=Cause.HEARTBEAT_LOST, last_heartbeat_at=None, silence_seconds=45.0),
        run_events.RunRecovered(epoch=1, silence_seconds=50.0),
        run_events.RunReleased(epoch=1),
        run_events.RunRetried(retry=WORKER),
        ARCHIVED,
        run_events.RunDeleted(),
        run_events.RunPurged(receipt={}),
    )
}

PATHS: dict[Status, tuple[type[run_events.RunEvent], ...]] = {
    S.ABSENT: (),
    S.QUEUED: (run_events.RunCreated,),
    S.STARTING: (run_events.RunCreated, run_events.RunStarting),
    S.RUNNING: (run_events.RunCreated, run_events.RunStarting, run_events.RunStarted),
    S.STOPPING: (run_events.RunCreated, run_events.RunStarting, run_events.RunStarted, run_events.RunStopping),
    S.IDLE: (run_events.RunCreated, run_events.RunStarting, run_events.RunStarted, run_events.RunIdled),
    S.COMPLETED: (run_events.RunCreated, run_events.RunStarting, run_events.RunStarted, run_events.RunCompleted),
    S.FAILED: (run_events.RunCreated, run_events.RunStarting, run_events.RunStarted, run_events.RunFailed),
    S.KILLED: (run_events.RunCreated, run_events.RunStarting, run_events.RunStarted, run_events.RunKilled),
    S.CRASHED: (run_events.RunCreated, run_events.RunStarting, run_events.RunStarted, run_events.RunCrashed),
    S.DELETED: (
        run_events.RunCreated,
        run_events.RunStarting,
        run_events.RunStarted,
        run_events.RunCompleted,
        run_events.RunDeleted,
    ),
}

# events.md, "Transitions", row by row; "former" is what the run was before it crashed.
STEPS: list[tuple[set[Status], type[run_events.RunEvent], str]] = [
    ({S.ABSENT}, run_events.RunCreated, "queued"),
    ({S.ABSENT}, run_events.RunImported, "stopping"),
    ({S.QUEUED}, run_events.RunStarting, "starting"),
    ({S.QUEUED, S.STARTING, S.RUNNING, S.CRASHED}, run_events.RunStarted, "running"),
    ({S.STARTING}, run_events.RunRequeued, "queued"),
    ({S.RUNNING}, run_events.RunStopping, "stopping"),
    ({S.RUNNING, S.STOPPING}, run_events.RunIdled, "idle"),
    ({S.RUNNING, S.STOPPING}, run_events.RunCompleted, "completed"),
    ({S.QUEUED, S.STARTING, S.RUNNING, S.STOPPING}, run_events.RunFailed, "failed"),
    ({S.QUEUED, S.STARTING, S.RUNNING, S.STOPPING, S.IDLE, S.CRASHED}, run_events.RunKilled, "killed"),
    ({S.STARTING, S.RUNNING, S.STOPPING, S.IDLE}, run_events.RunCrashed, "crashed"),
    ({S.CRASHED}, run_events.RunRecovered, "former"),
    (ENDED, run_events.RunDeleted, "deleted"),
]
UNCHANGED: dict[type[run_events.RunEvent], set[Status]] = {
    **dict.fromkeys(
        (run_events.RunProgressReported, run_events.RunPreparationReported, run_events.RunUnresponsive), ACTIVE
    ),
    **dict.fromkeys((run_events.RunResponsive, run_events.RunKillRequested), ACTIVE),
    run_events.RunConfigUpdated: ACTIVE | {S.QUEUED},
    **dict.fromkeys(
        (
            run_events.RunSummaryUpdated,
            run_events.RunPrimaryMetricSet,
            run_events.RunArtifactSaved,
            run_events.RunTagsChanged,
        ),
        EXISTING,
    ),
    **dict.fromkeys(
        (run_events.RunNotesSet, run_events.RunAliasSet, run_events.RunArchived, run_events.RunUnarchived), EXISTING
    ),
    run_events.RunHistoryImported: ENDED,
    run_events.RunImportFinished: ENDED,
    run_events.RunReleased: {S.FAILED, S.KILLED, S.CRASHED},
    run_events.RunRetried: {S.FAILED, S.CRASHED},
    run_events.RunTelemetryArchived: EXISTING,
    run_events.RunPurged: {S.DELETED},
}
LEGAL = {(status, event): target for froms, event, target in STEPS for status in froms}
LEGAL |= {(status, event): "same" for event, froms in UNCHANGED.items() for status in froms}


def run_that_is(status: Status, **changes: Any) -> Run:
    """A managed run in its first attempt, led there by its events."""
    run = reduce(lambda state, kind: evolve(state, EVENTS[kind], AT), PATHS[status], NO_RUN)
    assert run.status is status
    return Run(**{field: getattr(run, field) for field in Run.__struct_fields__} | changes)


COMPLETE = c.EndRun(epoch=1, status=S.COMPLETED)
FAIL = c.EndRun(epoch=1, status=S.FAILED, exit_code=1)
END_KILLED = c.EndRun(epoch=1, status=S.KILLED)
