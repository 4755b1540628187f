"""Every pair of status and event, and every pair of status and command, against tables written from the design."""

from datetime import timedelta
from functools import reduce

import msgspec
import pytest

from events import commands as c
from events import run_events
from events import types as t
from events.decisions import decide
from events.errors import CorruptHistory, Erased, NotFound, Rejected
from events.refusals import actions
from events.run import evolve
from events.transitions import ALLOWED_IN, TRANSITIONS
from events.types import Cause, Status
from tests.unit.run_tables import (
    ACTIVE,
    ARCHIVED,
    AT,
    CLAIM,
    COMPLETE,
    END_KILLED,
    ENDED,
    EVENTS,
    EXISTING,
    FAIL,
    LEGAL,
    OTHER_CLAIM,
    RATE,
    WORKER,
    S,
    run_that_is,
)


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
