"""Every pair of status and event, and every pair of status and command, against tables written from the design."""

from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any
from uuid import UUID

import msgspec
import pytest

from events import commands as c
from events import run_events
from events import types as t
from events.decisions import decide
from events.errors import CorruptHistory, Erased, Fenced, NotFound, Rejected
from events.refusals import actions
from events.run import ALLOWED_IN, NO_RUN, TRANSITIONS, Run, evolve, merge
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


def test_the_tables_name_every_event() -> None:
    assert set(EVENTS) == set(run_events.RunEvent.__args__)
    assert {event for _, event in TRANSITIONS} | set(ALLOWED_IN) == set(EVENTS)


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_an_event_is_folded_exactly_where_the_design_allows_it(
    status: Status, event: type[run_events.RunEvent]
) -> None:
    run, later = run_that_is(status), AT + timedelta(minutes=1)
    target = LEGAL.get((status, event))
    if target is None:
        with pytest.raises(CorruptHistory, match=str(status)):
            evolve(run, EVENTS[event], later)
        return
    after = evolve(run, EVENTS[event], later)
    expected = {"same": status, "former": S.RUNNING}.get(target) or S(target)
    assert after.status is expected
    assert after.version == run.version + 1
    assert after.status_since == (run.status_since if target == "same" else later)


COMPLETE = c.EndRun(epoch=1, status=S.COMPLETED)
FAIL = c.EndRun(epoch=1, status=S.FAILED, exit_code=1)
END_KILLED = c.EndRun(epoch=1, status=S.KILLED)
NOTHING: tuple[str, ...] = ()

# What a command leads to in a managed run without protection or a kill under way; elsewhere it is refused.
OUTCOMES: list[tuple[str, c.RunCommand, dict[Status, tuple[str, ...]]]] = [
    (
        "claim",
        c.ClaimRun(worker=WORKER, command_id=OTHER_CLAIM, accelerators=(), rate=RATE),
        {S.QUEUED: ("starting",)},
    ),
    (
        "claim again",
        c.ClaimRun(worker=WORKER, command_id=CLAIM, accelerators=(), rate=RATE),
        {S.QUEUED: ("starting",), **dict.fromkeys(ACTIVE, NOTHING)},
    ),
    ("requeue", c.RequeueRun(epoch=1), {S.STARTING: ("requeued",)}),
    (
        "prepare",
        c.ReportPreparation(epoch=1, stage="x"),
        dict.fromkeys(ACTIVE, ("preparation_reported",)),
    ),
    ("start", c.ReportStarted(epoch=1), {S.STARTING: ("started",), S.RUNNING: NOTHING}),
    ("attach", c.AttachRun(), {}),
    ("stop", c.ReportStopping(epoch=1), {S.RUNNING: ("stopping",)}),
    ("idle", c.ReportIdle(epoch=1), {}),
    (
        "complete",
        COMPLETE,
        {
            **dict.fromkeys((S.RUNNING, S.STOPPING), ("completed",)),
            **dict.fromkeys((S.COMPLETED, S.FAILED, S.KILLED), NOTHING),
            S.CRASHED: ("recovered", "completed"),
        },
    ),
    (
        "fail",
        FAIL,
        {
            **dict.fromkeys((S.STARTING, S.RUNNING, S.STOPPING), ("failed",)),
            **dict.fromkeys((S.COMPLETED, S.FAILED, S.KILLED), NOTHING),
            S.CRASHED: ("recovered", "failed"),
        },
    ),
    (
        "end killed",
        END_KILLED,
        {
            **dict.fromkeys(ACTIVE, ("killed",)),
            **dict.fromkeys((S.COMPLETED, S.FAILED, S.KILLED), NOTHING),
            S.CRASHED: ("recovered", "killed"),
        },
    ),
    (
        "fail the start",
        c.FailStart(cause=Cause.START_DEADLINE, error=t.Failure()),
        {S.QUEUED: ("failed",), S.STARTING: ("failed",)},
    ),
    (
        "kill",
        c.KillRun(),
        {S.QUEUED: ("killed",), S.CRASHED: ("killed",), **dict.fromkeys(ACTIVE, ("kill_requested",))},
    ),
    ("confirm kill", c.ConfirmKill(), dict.fromkeys(EXISTING, NOTHING)),
    ("close", c.CloseRun(reason="hangs"), dict.fromkeys(ACTIVE | {S.QUEUED, S.CRASHED}, ("killed",))),
    ("release", c.ReleaseRun(epoch=1), {**dict.fromkeys(EXISTING, NOTHING), S.CRASHED: ("released",)}),
    ("retry", c.MarkRetried(retry=WORKER), {}),
    (
        "silent",
        c.MarkUnresponsive(epoch=1, last_heartbeat_at=None, silence_seconds=15.0),
        {**dict.fromkeys(EXISTING, NOTHING), **dict.fromkeys(ACTIVE, ("unresponsive",))},
    ),
    (
        "heard",
        c.MarkResponsive(epoch=1, silence_seconds=50.0),
        {**dict.fromkeys(EXISTING, NOTHING), S.CRASHED: ("recovered",)},
    ),
    (
        "crash",
        c.MarkCrashed(epoch=1, cause=Cause.HEARTBEAT_LOST, last_heartbeat_at=None, silence_seconds=45.0),
        {**dict.fromkeys(EXISTING, NOTHING), **dict.fromkeys(ACTIVE, ("crashed",))},
    ),
    ("progress", c.ReportProgress(epoch=1, done=1.0), dict.fromkeys(ACTIVE, ("progress_reported",))),
    ("edit config", c.EditRun(config={"a": 1}), dict.fromkeys(ACTIVE | {S.QUEUED}, ("config_updated",))),
    ("edit tags", c.EditRun(tags=("new",)), dict.fromkeys(EXISTING, ("tags_changed",))),
    ("edit nothing", c.EditRun(tags=(), notes="", alias=None), dict.fromkeys(EXISTING, NOTHING)),
    (
        "primary metric",
        c.SetPrimaryMetric(name="acc", mode="max"),
        dict.fromkeys(EXISTING, ("primary_metric_set",)),
    ),
    (
        "artifact",
        c.SaveArtifact(name="m", kind="model", bytes=1, sha256=""),
        dict.fromkeys(EXISTING, ("artifact_saved",)),
    ),
    ("archive", c.ArchiveRun(), dict.fromkeys(EXISTING, ("archived",))),
    ("unarchive", c.ArchiveRun(archived=False), dict.fromkeys(EXISTING, NOTHING)),
    (
        "record merge",
        c.RecordMerge(archived=msgspec.structs.replace(ARCHIVED, last_position=0), merges=0),
        dict.fromkeys(EXISTING, ("telemetry_archived",)),
    ),
    (
        "record archive",
        c.RecordArchive(archived=ARCHIVED),
        dict.fromkeys(EXISTING, ("telemetry_archived",)),
    ),
    ("delete", c.DeleteRun(), {**dict.fromkeys(ENDED, ("deleted",)), S.DELETED: NOTHING}),
    ("purge", c.RecordPurge(receipt={}), {S.DELETED: ("purged",)}),
]


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize(("command", "outcomes"), [row[1:] for row in OUTCOMES], ids=[row[0] for row in OUTCOMES])
def test_a_command_leads_to_what_the_design_says_or_is_refused(
    status: Status, command: c.RunCommand, outcomes: dict[Status, tuple[str, ...]]
) -> None:
    run = run_that_is(status, epoch=1 if status is S.QUEUED else run_that_is(status).epoch)
    expected = outcomes.get(status)
    if expected is not None:
        events = decide(command, run)
        assert tuple(event.__struct_config__.tag for event in events) == tuple(f"run.{name}" for name in expected)
        reduce(lambda state, event: evolve(state, event, AT), events, run)
        return
    with pytest.raises(Rejected) as refusal:
        decide(command, run)
    assert refusal.value.state == status
    assert refusal.value.asked
    assert refusal.value.allowed == actions(run)
    if status is S.ABSENT:
        assert isinstance(refusal.value, NotFound)
    elif status is S.DELETED and not isinstance(command, c.RecordPurge):
        assert isinstance(refusal.value, Erased)


def test_every_command_is_in_the_table() -> None:
    apart = {c.CreateRun, c.ImportRun, c.RecordHistory, c.FinishImport}
    assert {type(row[1]) for row in OUTCOMES} | apart == set(c.RunCommand.__args__)


def test_a_run_is_created_once() -> None:
    command = c.CreateRun(created=run_events.RunCreated(name="a", session_id="s", mode=Mode.TRACKED))
    assert decide(command, NO_RUN) == (command.created,)
    with pytest.raises(Rejected, match="exists"):
        decide(command, run_that_is(S.QUEUED))


@pytest.mark.parametrize("status", [S.QUEUED, S.RUNNING, S.CRASHED])
def test_a_tracked_run_is_attached_with_the_next_epoch(status: Status) -> None:
    (event,) = decide(c.AttachRun(pid=7), run_that_is(status, mode=Mode.TRACKED))
    assert isinstance(event, run_events.RunStarted)
    assert event.epoch == run_that_is(status).epoch + 1


@pytest.mark.parametrize("status", [S.COMPLETED, S.FAILED, S.KILLED, S.STARTING])
def test_no_other_run_is_attached(status: Status) -> None:
    with pytest.raises(Rejected, match="cannot start"):
        decide(c.AttachRun(), run_that_is(status, mode=Mode.TRACKED))


@pytest.mark.parametrize("status", sorted(ACTIVE))
@pytest.mark.parametrize("epoch", [0, 2])
def test_another_attempt_is_fenced(status: Status, epoch: int) -> None:
    for command in (
        c.ReportProgress(epoch=epoch, done=1.0),
        c.ReportStopping(epoch=epoch),
        c.EndRun(epoch=epoch, status=S.COMPLETED),
        c.MarkResponsive(epoch=epoch, silence_seconds=1.0),
    ):
        with pytest.raises(Fenced):
            decide(command, run_that_is(status))


@pytest.mark.parametrize("status", [S.RUNNING, S.STOPPING])
def test_protection_keeps_a_managed_run_until_it_is_killed(status: Status) -> None:
    run = run_that_is(status, protection=True)
    assert decide(COMPLETE, run) == ()
    (idled,) = decide(c.ReportIdle(epoch=1, exit_code=0), run)
    idle = evolve(run, idled, AT)
    assert idle.status is S.IDLE
    assert decide(FAIL, idle) == ()
    (killed,) = decide(END_KILLED, idle)
    assert evolve(idle, killed, AT).status is S.KILLED


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("end", [COMPLETE, FAIL])
def test_a_run_that_crashed_while_idle_comes_back_idle(mode: Mode, end: c.EndRun) -> None:
    run = run_that_is(S.CRASHED, before_crash=S.IDLE, protection=True, mode=mode)
    (event,) = decide(end, run)
    assert evolve(run, event, AT).status is S.IDLE


def test_a_run_that_crashed_before_it_started_cannot_have_completed() -> None:
    run = run_that_is(S.CRASHED, before_crash=S.STARTING)
    with pytest.raises(Rejected, match="never reported that it had started"):
        decide(COMPLETE, run)
    assert len(decide(FAIL, run)) == 2


@pytest.mark.parametrize("status", sorted(ACTIVE))
def test_silence_after_a_kill_request_ends_killed_and_fenced(status: Status) -> None:
    run = evolve(run_that_is(status), EVENTS[run_events.RunKillRequested], AT)
    crash = c.MarkCrashed(epoch=1, cause=Cause.HEARTBEAT_LOST, last_heartbeat_at=None, silence_seconds=45.0)
    for command in (crash, c.ConfirmKill()):
        (event,) = decide(command, run)
        assert isinstance(event, run_events.RunKilled)
        after = evolve(run, event, AT)
        assert after.status is S.KILLED
        assert after.epoch == run.epoch + 1
    assert decide(c.KillRun(), run) == ()


def test_a_killed_run_does_not_go_back_to_the_queue() -> None:
    run = evolve(run_that_is(S.STARTING), EVENTS[run_events.RunKillRequested], AT)
    (event,) = decide(c.RequeueRun(epoch=1), run)
    assert evolve(run, event, AT).status is S.KILLED


def test_telemetry_is_archived_once() -> None:
    run = evolve(run_that_is(S.RUNNING), ARCHIVED, AT)
    assert run.archived_through == {"metrics": 4}
    with pytest.raises(Rejected, match="archived already"):
        decide(c.RecordArchive(archived=ARCHIVED), run)


def test_files_are_merged_once_and_only_what_is_archived() -> None:
    merged = msgspec.structs.replace(ARCHIVED, segment=UUID(int=9), replaces=(ARCHIVED.segment,))
    run = run_that_is(S.COMPLETED)
    with pytest.raises(Rejected, match="not all of it is archived"):
        decide(c.RecordMerge(archived=merged, merges=0), run)
    run = evolve(run, ARCHIVED, AT)
    assert decide(c.RecordMerge(archived=merged, merges=0), run) == (merged,)
    run = evolve(run, merged, AT)
    assert (run.archived_through, run.merges) == ({"metrics": 4}, {"metrics": 1})
    with pytest.raises(Rejected, match="merged meanwhile"):
        decide(c.RecordMerge(archived=merged, merges=0), run)
    assert decide(c.RecordMerge(archived=merged, merges=1), run) == (merged,)


def test_a_run_ends_in_an_end() -> None:
    with pytest.raises(Rejected, match="ends completed, failed or killed"):
        decide(c.EndRun(epoch=1, status=S.QUEUED), run_that_is(S.RUNNING))


def test_a_tombstone_holds_no_text() -> None:
    run = run_that_is(S.COMPLETED, notes="hush", config={"hush": 1}, name="hush", tags=("hush",))
    (event,) = decide(c.DeleteRun(reason="asked to"), run)
    left = evolve(run, event, AT)
    assert "hush" not in repr(left)
    assert (left.status, left.epoch, left.mode, left.deletion_reason) == (S.DELETED, 1, Mode.MANAGED, "asked to")
    assert left.created_at == AT
    assert left.ended_at == AT


@pytest.mark.parametrize(
    ("document", "patch", "merged"),
    [
        ({"a": 1}, {"a": None}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
        ({"a": 1}, {"a": {"b": None, "c": 3}}, {"a": {"c": 3}}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ({}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
    ],
)
def test_merge_patches_are_those_of_the_rfc(document: Any, patch: Any, merged: Any) -> None:
    assert merge(document, patch) == merged


def test_an_imported_run_keeps_its_times_and_a_deleted_one_only_ours() -> None:
    run = evolve(evolve(NO_RUN, IMPORTED, AT), run_events.RunCompleted(epoch=1), AT)
    assert (run.status, run.imported_at, run.status_since) == (S.COMPLETED, AT, AT)
    assert (run.created_at, run.started_at, run.ended_at) == (
        IMPORTED.created_at,
        IMPORTED.started_at,
        IMPORTED.ended_at,
    )
    later = AT + timedelta(days=1)
    gone = evolve(run, run_events.RunDeleted(), later)
    assert (gone.created_at, gone.started_at, gone.ended_at, gone.deleted_at) == (AT, None, AT, later)


def test_an_import_is_added_to_until_it_is_finished() -> None:
    imported, end = decide(c.ImportRun(imported=IMPORTED, end=run_events.RunCompleted(epoch=1)), NO_RUN)
    run = evolve(evolve(NO_RUN, imported, AT), end, AT)
    more = c.RecordHistory(history=run_events.RunHistoryImported(epoch=3))
    run = evolve(run, *decide(more, run), AT)
    assert run.epoch == 3
    finish = c.FinishImport(finished=run_events.RunImportFinished(points=1, lines=2))
    run = evolve(run, *decide(finish, run), AT)
    for command in (more, finish):
        with pytest.raises(Rejected, match="its import is not under way"):
            decide(command, run)
    with pytest.raises(Rejected, match="exists already"):
        decide(c.ImportRun(imported=IMPORTED, end=run_events.RunCompleted(epoch=1)), run)
