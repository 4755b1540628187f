"""docs/state-machine.md: the state machine as tables, asked of the code that decides, so that they cannot differ."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec

from events import commands as c
from events.codec import event_type
from events.decisions import decide
from events.errors import Rejected
from events.refusals import actions
from events.run import NO_RUN, Imported, Run
from events.run_events import (
    RunCompleted,
    RunCreated,
    RunEvent,
    RunHistoryImported,
    RunImported,
    RunImportFinished,
    RunTelemetryArchived,
)
from events.transitions import ALLOWED_IN, TRANSITIONS
from events.types import Cause, Failure, Mode, Origin, Rate, Status
from events.vocabulary import VOCABULARIES

S = Status
EPOCH: Final = 1
_WORKER: Final = UUID(int=1)
_RATE: Final = Rate(micro_credits_per_hour=0, count=1)
_ARCHIVED: Final = RunTelemetryArchived(
    segment=_WORKER, kind="metrics", path="", rows=1, first_position=1, last_position=2, sha256="", bytes=1
)
_MERGED: Final = msgspec.structs.replace(_ARCHIVED, first_position=0, last_position=0, replaces=(_WORKER,))

_IMPORTED: Final = RunImported(
    origin=Origin(system="tachograph", run=""), created=RunCreated(name="", session_id="", mode=Mode.TRACKED)
)

COMMANDS: Final[Sequence[tuple[str, c.RunCommand]]] = (
    ("create", c.CreateRun(created=RunCreated(name="", session_id="", mode=Mode.MANAGED))),
    ("import", c.ImportRun(imported=_IMPORTED, end=RunCompleted(epoch=EPOCH))),
    ("add to the history (import under way)", c.RecordHistory(history=RunHistoryImported(epoch=EPOCH))),
    ("finish the import (under way)", c.FinishImport(finished=RunImportFinished(points=0, lines=0))),
    ("claim", c.ClaimRun(worker=_WORKER, command_id=_WORKER, accelerators=(), rate=_RATE)),
    ("give back to the queue", c.RequeueRun(epoch=EPOCH)),
    ("report a preparation stage", c.ReportPreparation(epoch=EPOCH, stage="")),
    ("report started", c.ReportStarted(epoch=EPOCH)),
    ("start or re-attach (tracked)", c.AttachRun()),
    ("report stopping", c.ReportStopping(epoch=EPOCH)),
    ("report idle (protected)", c.ReportIdle(epoch=EPOCH)),
    ("finish completed", c.EndRun(epoch=EPOCH, status=S.COMPLETED)),
    ("finish failed", c.EndRun(epoch=EPOCH, status=S.FAILED)),
    ("finish killed", c.EndRun(epoch=EPOCH, status=S.KILLED)),
    ("fail the start", c.FailStart(cause=Cause.START_DEADLINE, error=Failure())),
    ("kill", c.KillRun()),
    ("declare the kill after its grace", c.ConfirmKill()),
    ("close by force (operator)", c.CloseRun(reason="")),
    ("release what it held", c.ReleaseRun(epoch=EPOCH)),
    ("follow with a retry (asked for, worker lost)", c.MarkRetried(retry=_WORKER)),
    ("mark unresponsive", c.MarkUnresponsive(epoch=EPOCH, last_heartbeat_at=None, silence_seconds=15)),
    ("heartbeat after silence", c.MarkResponsive(epoch=EPOCH, silence_seconds=50)),
    (
        "declare crashed",
        c.MarkCrashed(epoch=EPOCH, cause=Cause.HEARTBEAT_LOST, last_heartbeat_at=None, silence_seconds=45),
    ),
    ("report progress", c.ReportProgress(epoch=EPOCH, done=1)),
    ("change the configuration", c.EditRun(config={"lr": 1})),
    ("change summary, tags, notes or alias", c.EditRun(notes="another")),
    ("set the primary metric", c.SetPrimaryMetric(name="loss", mode="min")),
    ("save an artifact", c.SaveArtifact(name="", kind="file", bytes=1, sha256="")),
    ("archive", c.ArchiveRun()),
    ("take out of the archive", c.ArchiveRun(archived=False)),
    ("record archived telemetry", c.RecordArchive(archived=_ARCHIVED)),
    ("record merged telemetry", c.RecordMerge(archived=_MERGED, merges=0)),
    ("delete", c.DeleteRun()),
    ("record the purge", c.RecordPurge(receipt={})),
)
"""One command of each kind, as it is best known."""

_STATES: Final = tuple(Status)
_TRACKED: Final = frozenset({"start or re-attach (tracked)"})
_RETRIED: Final = frozenset({"follow with a retry (asked for, worker lost)"})
_PROTECTED: Final = frozenset({"report idle (protected)"})
_IMPORTING: Final = frozenset({"add to the history (import under way)", "finish the import (under way)"})


def document() -> str:
    """Return the whole page."""
    parts = [
        "# The run's state machine",
        "",
        "Generated from `events/transitions.py`, `events/decisions.py` and `events/vocabulary.py` by",
        "`python -m service schemas`; `make check` holds it.",
        "",
        "## What an event does",
        "",
        "A state: the run is in it afterwards. `=`: the status stays. `–`: it cannot happen.",
        "",
        *_table("event", _STATES, _event_rows()),
        "",
        "## What a command leads to",
        "",
        "Asked of a managed run in its first attempt, without protection and without a kill under way, except where",
        "the name says otherwise. Event names: that is what is recorded. `so already`: nothing is recorded, the answer",
        "is the run as it is. `–`: refused with the state, what was asked and what is possible instead.",
        "",
        *_table("command", _STATES, _command_rows()),
        "",
        "## What a person may do",
        "",
        "| state | allowed |",
        "|---|---|",
        *(f"| {status} | {', '.join(actions(_run(status, '')))} |" for status in _STATES),
        "",
        "## The same states in other words",
        "",
        "`as=` on reads and lists of runs speaks these, and understands them in `status=` and in filters.",
        "",
        *_table("tachograph", list(VOCABULARIES)[1:], _words()),
    ]
    return "\n".join(parts) + "\n"


def _table(corner: str, columns: Iterable[str], rows: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    columns = list(columns)
    return [
        f"| {corner} | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows),
    ]


def _event_rows() -> list[tuple[str, Sequence[str]]]:
    kinds = dict.fromkeys([*(event for _, event in TRANSITIONS), *ALLOWED_IN])
    return [
        (str(kind.__struct_config__.tag).removeprefix("run."), [_moved(status, kind) for status in _STATES])
        for kind in kinds
    ]


def _moved(status: Status, kind: type[RunEvent]) -> str:
    if (status, kind) in TRANSITIONS:
        return TRANSITIONS[status, kind] or "what it was"
    return "=" if status in ALLOWED_IN.get(kind, ()) else "–"


def _command_rows() -> list[tuple[str, Sequence[str]]]:
    assert {type(command) for _, command in COMMANDS} == set(c.RunCommand.__args__), "a command is missing here"
    return [(name, [_decided(command, _run(status, name)) for status in _STATES]) for name, command in COMMANDS]


def _run(status: Status, name: str) -> Run:
    """Return a run in a state, as the command of that name finds it."""
    if status is S.ABSENT:
        return NO_RUN
    return Run(
        status=status,
        version=1,
        epoch=EPOCH,
        mode=Mode.TRACKED if name in _TRACKED else Mode.MANAGED,
        protection=name in _PROTECTED,
        before_crash=S.RUNNING if status is S.CRASHED else None,
        holding=status is S.CRASHED,
        retries=int(name in _RETRIED),
        cause=Cause.WORKER_LOST if name in _RETRIED else None,
        imported=Imported(_IMPORTED.origin) if name in _IMPORTING else None,
    )


def _decided(command: c.RunCommand, run: Run) -> str:
    try:
        events = decide(command, run)
    except Rejected:
        return "–"
    return ", ".join(event_type(event).removeprefix("run.") for event in events) or "so already"


def _words() -> list[tuple[str, Sequence[str]]]:
    others: list[Mapping[Status, str]] = list(VOCABULARIES.values())[1:]
    return [(status, [words[status] for words in others]) for status in _STATES if status is not S.ABSENT]
