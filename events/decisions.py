"""What a command leads to: `decide(command, run)` returns the events, or raises `Rejected`.

An empty tuple means that what was asked is already so: the same end reported twice, a second kill.
Every refusal says the state, what was asked and what is possible instead.
"""

from typing import Any, Final, assert_never

import msgspec
from msgspec.structs import replace

from events.commands import (
    ArchiveRun,
    AttachRun,
    ClaimRun,
    CloseRun,
    ConfirmKill,
    CreateRun,
    DeleteRun,
    EditRun,
    EndRun,
    FailStart,
    FinishImport,
    ImportRun,
    KillRun,
    MarkCrashed,
    MarkResponsive,
    MarkRetried,
    MarkUnresponsive,
    RecordArchive,
    RecordHistory,
    RecordMerge,
    RecordPurge,
    ReleaseRun,
    ReportIdle,
    ReportPreparation,
    ReportProgress,
    ReportStarted,
    ReportStopping,
    RequeueRun,
    RunCommand,
    SaveArtifact,
    SetPrimaryMetric,
)
from events.errors import Erased, Fenced, NotFound, Rejected, TooLarge
from events.merge_patch import merge
from events.oversight import oversee
from events.refusals import actions, live, not_superseded, refused, require, same_epoch, undeletable, words
from events.run import Run
from events.run_events import (
    RunAliasSet,
    RunArchived,
    RunArtifactSaved,
    RunCompleted,
    RunConfigUpdated,
    RunDeleted,
    RunEvent,
    RunFailed,
    RunIdled,
    RunKilled,
    RunKillRequested,
    RunNotesSet,
    RunPreparationReported,
    RunPrimaryMetricSet,
    RunProgressReported,
    RunPurged,
    RunRecovered,
    RunRequeued,
    RunStarted,
    RunStarting,
    RunStopping,
    RunSummaryUpdated,
    RunTagsChanged,
    RunTelemetryArchived,
    RunUnarchived,
)
from events.transitions import ACTIVE, ENDED
from events.types import Cause, FinalCredits, Mode, Status

S = Status

MAX_DOCUMENT_BYTES: Final = 1 << 20


def decide(command: RunCommand, run: Run) -> tuple[RunEvent, ...]:
    """Return the events that the command leads to in this state.

    Raises `Rejected` (`NotFound`, `Erased`, `Fenced`) where the state does not allow it.
    """
    if isinstance(command, CreateRun | ImportRun):
        return _opened(command, run)
    if run.status is S.ABSENT:
        raise NotFound("there is no such run", state=run.status, asked=words(command), allowed=actions(run))
    if run.status is S.DELETED and not isinstance(command, RecordPurge | DeleteRun):
        raise Erased(
            "the run was deleted, and nothing of it can be brought back",
            state=run.status,
            asked=words(command),
            allowed=actions(run),
        )
    match command:  # what comes often stands first: each case tried costs
        case EditRun():
            return _edit(command, run)
        case ReportProgress():
            live(command.epoch, run, "report progress", ACTIVE)
            return (RunProgressReported(epoch=run.epoch, done=command.done, total=command.total, unit=command.unit),)
        case RecordHistory() | FinishImport():
            return _more_of_import(command, run)
        case ClaimRun():
            return _claim(command, run)
        case RequeueRun():
            same_epoch(command.epoch, run, "requeue")
            require(run, "requeue", {S.STARTING})
            if run.kill is not None:
                return (RunKilled(epoch=run.epoch, cause=run.kill.cause, reason=run.kill.reason, fenced=True),)
            return (RunRequeued(epoch=run.epoch, reason=command.reason),)
        case ReportPreparation():
            live(command.epoch, run, "report a preparation stage", ACTIVE)
            return (
                RunPreparationReported(
                    epoch=run.epoch, stage=command.stage, message=command.message, fraction=command.fraction
                ),
            )
        case ReportStarted():
            return _started(command, run)
        case AttachRun():
            return _attach(command, run)
        case ReportStopping():
            live(command.epoch, run, "stop", {S.RUNNING})
            return (RunStopping(epoch=run.epoch, exit_code=command.exit_code),)
        case ReportIdle():
            live(command.epoch, run, "idle", {S.RUNNING, S.STOPPING})
            if not run.protection:
                raise refused(run, "idle", "termination protection is off")
            return (RunIdled(epoch=run.epoch, exit_code=command.exit_code, error=command.error),)
        case EndRun():
            return _end(command, run)
        case FailStart():
            require(run, "fail the start of", {S.QUEUED, S.STARTING})
            return (RunFailed(epoch=run.epoch, cause=command.cause, error=command.error),)
        case KillRun():
            return _kill(command, run)
        case (
            ConfirmKill()
            | CloseRun()
            | ReleaseRun()
            | MarkRetried()
            | MarkUnresponsive()
            | MarkResponsive()
            | MarkCrashed()
        ):
            return oversee(command, run)
        case SetPrimaryMetric():
            return (RunPrimaryMetricSet(name=command.name, mode=command.mode),)
        case SaveArtifact():
            return (RunArtifactSaved(**msgspec.structs.asdict(command)),)
        case ArchiveRun():
            if run.archived == command.archived:
                return ()
            return (RunArchived() if command.archived else RunUnarchived(),)
        case RecordArchive():
            return _record_archive(command.archived, run)
        case RecordMerge():
            return _record_merge(command, run)
        case DeleteRun():
            return _delete(command, run)
        case RecordPurge():
            require(run, "purge", {S.DELETED})
            return () if run.receipt is not None else (RunPurged(receipt=command.receipt),)
        case _:
            assert_never(command)


def _record_archive(written: RunTelemetryArchived, run: Run) -> tuple[RunEvent, ...]:
    if written.first_position <= run.archived_through.get(written.kind, 0):
        raise refused(run, "archive telemetry of", "these positions are archived already")
    return (written,)


def _record_merge(command: RecordMerge, run: Run) -> tuple[RunEvent, ...]:
    merged = command.archived
    if command.merges != run.merges.get(merged.kind, 0):
        raise refused(run, "merge files of", "they were merged meanwhile")
    if merged.last_position > run.archived_through.get(merged.kind, 0):
        raise refused(run, "merge files of", "not all of it is archived yet")
    return (merged,)


def _opened(command: CreateRun | ImportRun, run: Run) -> tuple[RunEvent, ...]:
    if run.status is not S.ABSENT:
        raise refused(run, "create" if isinstance(command, CreateRun) else "import", "this run exists already")
    return (command.created,) if isinstance(command, CreateRun) else (command.imported, command.end)


def _more_of_import(command: RecordHistory | FinishImport, run: Run) -> tuple[RunEvent, ...]:
    asked = "add to the history of" if isinstance(command, RecordHistory) else "finish the import of"
    require(run, asked, ENDED)
    if run.imported is None or run.imported.finished:
        raise refused(run, asked, "its import is not under way")
    return (command.history,) if isinstance(command, RecordHistory) else (command.finished,)


def _claim(command: ClaimRun, run: Run) -> tuple[RunEvent, ...]:
    if run.status in ACTIVE and (run.worker, run.command_id) == (command.worker, command.command_id):
        return ()
    if command.epoch is not None and command.epoch != run.epoch:
        raise Fenced(
            f"the order was given when the run's latest attempt was {command.epoch}; it is {run.epoch} by now",
            state=run.status,
            asked="claim",
        )
    if run.mode is not Mode.MANAGED:
        raise refused(run, "claim", "it is tracked: its own process starts it")
    require(run, "claim", {S.QUEUED})
    return (
        RunStarting(
            worker=command.worker,
            command_id=command.command_id,
            epoch=run.epoch + 1,
            accelerators=command.accelerators,
            rate=command.rate,
            kinds=command.kinds,
        ),
    )


def _started(command: ReportStarted, run: Run) -> tuple[RunEvent, ...]:
    same_epoch(command.epoch, run, "start")
    if run.status is S.RUNNING:
        return ()
    require(run, "start", {S.STARTING})
    return (RunStarted(epoch=run.epoch, pid=command.pid, host=dict(command.host)),)


def _attach(command: AttachRun, run: Run) -> tuple[RunEvent, ...]:
    if run.mode is not Mode.TRACKED:
        raise refused(run, "start", "it is managed: a GPU worker starts it")
    require(run, "start", {S.QUEUED, S.RUNNING, S.CRASHED})
    if run.kill is not None and run.status is S.RUNNING:
        raise refused(run, "start", "it is being killed")
    return (
        RunStarted(
            epoch=run.epoch + 1,
            pid=command.pid,
            host=dict(command.host),
            environment=dict(command.environment),
            rate=command.rate,
        ),
    )


def _end(command: EndRun, run: Run) -> tuple[RunEvent, ...]:
    same_epoch(command.epoch, run, "end")
    if run.status in ENDED - {S.CRASHED}:
        return ()
    end = _end_event(command, run)
    if run.status is S.CRASHED:
        not_superseded(run)
        if run.before_crash is S.STARTING and isinstance(end, RunCompleted):
            raise refused(run, "complete", "it never reported that it had started")
        recovered = RunRecovered(epoch=run.epoch, silence_seconds=0.0)
        kept = run.before_crash is S.IDLE or (run.protection and run.mode is Mode.MANAGED)
        if kept and run.before_crash is not S.STARTING and not isinstance(end, RunKilled):
            return (recovered,)  # as below: it keeps its resources, and only a kill ends it
        return (recovered, end)
    if isinstance(end, RunKilled):
        require(run, "end as killed", ACTIVE)
    elif run.protection and run.mode is Mode.MANAGED and run.status in {S.RUNNING, S.STOPPING, S.IDLE}:
        return ()  # its worker reports it idle once the commands are gone; only a kill ends it
    elif isinstance(end, RunFailed):
        require(run, "fail", {S.STARTING, S.RUNNING, S.STOPPING})
    else:
        require(run, "complete", {S.RUNNING, S.STOPPING})
    return (end,)


def _end_event(command: EndRun, run: Run) -> RunCompleted | RunFailed | RunKilled:
    last_seq = dict(command.last_seq)
    match command.status:
        case S.COMPLETED:
            return RunCompleted(epoch=run.epoch, exit_code=command.exit_code, last_seq=last_seq)
        case S.FAILED:
            cause = command.cause or (Cause.EXCEPTION if command.error else Cause.EXIT_CODE)
            return RunFailed(
                epoch=run.epoch, cause=cause, exit_code=command.exit_code, error=command.error, last_seq=last_seq
            )
        case S.KILLED:
            cause = command.cause or (run.kill.cause if run.kill else Cause.KILLED_BY_USER)
            reason = command.reason or (run.kill.reason if run.kill else "")
            return RunKilled(
                epoch=run.epoch, cause=cause, exit_code=command.exit_code, reason=reason, last_seq=last_seq
            )
        case _:
            raise Rejected(
                f"a run ends completed, failed or killed, not {command.status}",
                state=run.status,
                asked="end",
                allowed=(S.COMPLETED, S.FAILED, S.KILLED),
            )


def _kill(command: KillRun, run: Run) -> tuple[RunEvent, ...]:
    if run.status in {S.QUEUED, S.CRASHED}:
        return (RunKilled(epoch=run.epoch, cause=command.cause, reason=command.reason, fenced=run.epoch > 0),)
    if run.status not in ACTIVE:
        raise refused(run, "kill", "it has ended already")
    if run.kill is not None:
        return ()
    return (RunKillRequested(cause=command.cause, grace_seconds=command.grace_seconds, reason=command.reason),)


def _edit(command: EditRun, run: Run) -> tuple[RunEvent, ...]:
    events: list[RunEvent] = []
    if command.config is not msgspec.UNSET:
        require(run, "change the configuration of", ACTIVE | {S.QUEUED})
        _bounded("configuration", merge(run.config, command.config))
        events.append(RunConfigUpdated(patch=command.config))
    if command.summary is not msgspec.UNSET:
        _bounded("summary", merge(run.summary, command.summary))
        events.append(RunSummaryUpdated(patch=command.summary))
    if command.tags is not msgspec.UNSET and command.tags != run.tags:
        events.append(RunTagsChanged(tags=command.tags))
    if command.notes is not msgspec.UNSET and command.notes != run.notes:
        events.append(RunNotesSet(notes=command.notes))
    if command.alias is not msgspec.UNSET and command.alias != run.alias:
        events.append(RunAliasSet(alias=command.alias))
    return tuple(events)


def _bounded(what: str, document: dict[str, Any]) -> None:
    size = len(msgspec.msgpack.encode(document))
    if size > MAX_DOCUMENT_BYTES:
        raise TooLarge(f"the run's {what} would have {size} bytes, over {MAX_DOCUMENT_BYTES}", limit=MAX_DOCUMENT_BYTES)


def _delete(command: DeleteRun, run: Run) -> tuple[RunEvent, ...]:
    if run.status is S.DELETED:
        return ()
    if (why := undeletable(run)) is not None:
        raise refused(run, "delete", why)
    cost = command.credits or FinalCredits()
    trial = replace(run.trial, parameters={}) if run.trial else None
    return (RunDeleted(reason=command.reason, epoch=run.epoch, mode=run.mode, credits=cost, trial=trial),)
