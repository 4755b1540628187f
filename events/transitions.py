"""Where a run may go: the one table of its transitions, and what may happen in which state besides. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from events.run_events import (
    RunAliasSet,
    RunArchived,
    RunArtifactSaved,
    RunCompleted,
    RunConfigUpdated,
    RunCrashed,
    RunCreated,
    RunDeleted,
    RunEvent,
    RunFailed,
    RunHistoryImported,
    RunIdled,
    RunImported,
    RunImportFinished,
    RunKilled,
    RunKillRequested,
    RunNotesSet,
    RunPreparationReported,
    RunPrimaryMetricSet,
    RunProgressReported,
    RunPurged,
    RunRecovered,
    RunReleased,
    RunRequeued,
    RunResponsive,
    RunRetried,
    RunStarted,
    RunStarting,
    RunStopping,
    RunSummaryUpdated,
    RunTagsChanged,
    RunTelemetryArchived,
    RunUnarchived,
    RunUnresponsive,
)
from events.types import Status

S = Status

ACTIVE: Final = frozenset({S.STARTING, S.RUNNING, S.STOPPING, S.IDLE})
ENDED: Final = frozenset({S.COMPLETED, S.FAILED, S.KILLED, S.CRASHED})
EXISTING: Final = ACTIVE | ENDED | {S.QUEUED}

FORMER: Final = None
"""In `TRANSITIONS`: back to what the run was before it crashed."""


def _transitions() -> Mapping[tuple[Status, type[RunEvent]], Status | None]:
    rows: list[tuple[set[Status], type[RunEvent], Status | None]] = [
        ({S.ABSENT}, RunCreated, S.QUEUED),
        ({S.ABSENT}, RunImported, S.STOPPING),
        ({S.QUEUED}, RunStarting, S.STARTING),
        ({S.STARTING}, RunRequeued, S.QUEUED),
        ({S.QUEUED, S.STARTING, S.RUNNING, S.CRASHED}, RunStarted, S.RUNNING),
        ({S.RUNNING}, RunStopping, S.STOPPING),
        ({S.RUNNING, S.STOPPING}, RunIdled, S.IDLE),
        ({S.RUNNING, S.STOPPING}, RunCompleted, S.COMPLETED),
        ({S.QUEUED, S.STARTING, S.RUNNING, S.STOPPING}, RunFailed, S.FAILED),
        ({S.QUEUED, S.STARTING, S.RUNNING, S.STOPPING, S.IDLE, S.CRASHED}, RunKilled, S.KILLED),
        (set(ACTIVE), RunCrashed, S.CRASHED),
        ({S.CRASHED}, RunRecovered, FORMER),
        (set(ENDED), RunDeleted, S.DELETED),
    ]
    return MappingProxyType({(status, event): to for froms, event, to in rows for status in froms})


TRANSITIONS: Final = _transitions()

ALLOWED_IN: Final[Mapping[type[RunEvent], frozenset[Status]]] = MappingProxyType(
    {
        RunPreparationReported: ACTIVE,
        RunProgressReported: ACTIVE,
        RunUnresponsive: ACTIVE,
        RunResponsive: ACTIVE,
        RunKillRequested: ACTIVE,
        RunConfigUpdated: ACTIVE | {S.QUEUED},
        RunSummaryUpdated: EXISTING,
        RunPrimaryMetricSet: EXISTING,
        RunArtifactSaved: EXISTING,
        RunTagsChanged: EXISTING,
        RunNotesSet: EXISTING,
        RunAliasSet: EXISTING,
        RunArchived: EXISTING,
        RunUnarchived: EXISTING,
        RunReleased: frozenset({S.FAILED, S.KILLED, S.CRASHED}),
        RunRetried: frozenset({S.FAILED, S.CRASHED}),
        RunHistoryImported: frozenset(ENDED),
        RunImportFinished: frozenset(ENDED),
        RunTelemetryArchived: EXISTING,
        RunPurged: frozenset({S.DELETED}),
    }
)
"""Where the events that change no status may happen."""
