"""What the tables of statuses and events do not say: epochs, protection, silence, files, imports."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from events import commands as c
from events import run_events
from events.decisions import decide
from events.errors import Fenced, Rejected
from events.merge_patch import merge
from events.run import NO_RUN, evolve
from events.types import Cause, Mode, Status
from tests.unit.run_tables import ACTIVE, ARCHIVED, AT, COMPLETE, END_KILLED, EVENTS, FAIL, IMPORTED, S, run_that_is


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
