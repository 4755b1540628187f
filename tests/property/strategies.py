"""Any event of any type, and histories that a run could have had, for Hypothesis."""

import contextlib
import types as python_types
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import reduce
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
from hypothesis import strategies as st

from events import commands as c
from events import run_events
from events import types as t
from events.decisions import decide
from events.errors import Rejected
from events.run import NO_RUN, Run, evolve
from events.types import Cause, Mode, Status

START = datetime(2026, 3, 1, tzinfo=UTC)
INTEGERS = st.integers(min_value=-(2**63), max_value=2**63 - 1)
TEXTS = st.text(max_size=8)
FLOATS = st.floats(allow_nan=False)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)
MOMENTS = st.integers(0, 10**15).map(lambda us: START + timedelta(microseconds=us))

_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: INTEGERS,
    float: FLOATS,
    bool: st.booleans(),
    bytes: st.binary(max_size=8),
    UUID: st.uuids(),
    datetime: MOMENTS,
    Any: JSON,
    type(None): st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for any value of an annotated type."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, python_types.UnionType):
        return st.one_of([values(one) for one in arguments])
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    assert issubclass(kind, msgspec.Struct)
    return structs(kind)


def structs(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for any value of a Struct type."""
    hints = get_type_hints(kind)
    return st.fixed_dictionaries({name: values(hints[name]) for name in kind.__struct_fields__}).map(
        lambda fields: kind(**fields)
    )


EPOCHS = st.sampled_from([1, 1, 1, 1, 2, 2, 0, 3])
SECONDS = st.floats(0, 1e6)
RATES = st.builds(
    t.Rate,
    micro_credits_per_hour=st.integers(0, 10**12),
    count=st.integers(1, 16),
    charged=st.sampled_from(
        [(Status.RUNNING,), (Status.STARTING, Status.RUNNING, Status.IDLE), (Status.RUNNING, Status.STOPPING)]
    ),
)
CREATED = st.builds(
    run_events.RunCreated,
    name=TEXTS,
    session_id=st.just("s"),
    mode=st.sampled_from(Mode),
    protection=st.booleans(),
    estimate_seconds=st.none() | SECONDS,
    workflow=st.none() | st.builds(t.WorkflowRef, id=st.uuids(), name=TEXTS),
    config=st.dictionaries(TEXTS, JSON, max_size=2),
)
ENDS = st.sampled_from([Status.COMPLETED, Status.FAILED, Status.KILLED])
MERGES = st.builds(
    run_events.RunTelemetryArchived,
    segment=st.uuids(),
    kind=st.sampled_from(["metrics", "logs"]),
    path=TEXTS,
    rows=st.integers(0, 9),
    first_position=st.integers(1, 50),
    last_position=st.integers(51, 99),
    sha256=TEXTS,
    bytes=st.integers(0, 9),
    replaces=st.lists(st.uuids(), min_size=2, max_size=3).map(tuple),
)
ARCHIVALS = st.builds(
    run_events.RunTelemetryArchived,
    segment=st.uuids(),
    kind=st.sampled_from(["metrics", "logs"]),
    path=TEXTS,
    rows=st.integers(0, 9),
    first_position=st.integers(1, 50),
    last_position=st.integers(51, 99),
    sha256=TEXTS,
    bytes=st.integers(0, 9),
)

COMMANDS: st.SearchStrategy[c.RunCommand] = st.one_of(
    st.builds(c.CreateRun, created=CREATED),
    st.builds(
        c.ClaimRun,
        worker=st.just(UUID(int=1)),
        command_id=st.sampled_from([UUID(int=2), UUID(int=3)]),
        accelerators=st.just(("cpu:0",)),
        rate=RATES,
    ),
    st.builds(c.RequeueRun, epoch=EPOCHS),
    st.builds(c.ReportPreparation, epoch=EPOCHS, stage=TEXTS),
    st.builds(c.ReportStarted, epoch=EPOCHS),
    st.builds(c.AttachRun, rate=st.none() | RATES),
    st.builds(c.ReportStopping, epoch=EPOCHS, exit_code=st.none() | st.integers(0, 255)),
    st.builds(c.ReportIdle, epoch=EPOCHS),
    st.builds(c.EndRun, epoch=EPOCHS, status=ENDS),
    st.builds(c.FailStart, cause=st.just(Cause.START_DEADLINE), error=st.just(t.Failure())),
    st.builds(c.KillRun),
    st.builds(c.ConfirmKill),
    st.builds(c.CloseRun, reason=TEXTS),
    st.builds(c.ReleaseRun, epoch=EPOCHS),
    st.builds(c.MarkRetried, retry=st.uuids()),
    st.builds(c.MarkUnresponsive, epoch=EPOCHS, last_heartbeat_at=st.none(), silence_seconds=SECONDS),
    st.builds(c.MarkResponsive, epoch=EPOCHS, silence_seconds=SECONDS),
    st.builds(
        c.MarkCrashed,
        epoch=EPOCHS,
        cause=st.just(Cause.HEARTBEAT_LOST),
        last_heartbeat_at=st.none(),
        silence_seconds=SECONDS,
    ),
    st.builds(c.ReportProgress, epoch=EPOCHS, done=SECONDS),
    st.builds(c.EditRun, tags=st.lists(TEXTS, max_size=2).map(tuple), notes=TEXTS),
    st.builds(c.EditRun, config=st.dictionaries(TEXTS, JSON, max_size=2)),
    st.builds(c.EditRun, summary=st.dictionaries(TEXTS, JSON, max_size=2), alias=st.none() | TEXTS),
    st.builds(c.SetPrimaryMetric, name=TEXTS, mode=st.sampled_from(["min", "max"])),
    st.builds(c.SaveArtifact, name=TEXTS, kind=TEXTS, bytes=st.integers(0, 9), sha256=TEXTS),
    st.builds(c.ArchiveRun, archived=st.booleans()),
    st.builds(c.RecordArchive, archived=ARCHIVALS),
    st.builds(c.RecordMerge, archived=MERGES, merges=st.integers(0, 2)),
    st.builds(c.DeleteRun, reason=TEXTS),
    st.builds(c.RecordPurge, receipt=st.just({"postgres": t.StoreReceipt(objects=1, bytes=2)})),
)


@st.composite
def orders(draw: st.DrawFn) -> list[c.RunCommand]:
    """Commands that begin with a run and go on: mostly with a step that is possible then, else with anything."""
    created = c.CreateRun(created=draw(CREATED))
    given: list[c.RunCommand] = [created]
    run = evolve(NO_RUN, created.created, START)
    rate = draw(RATES)
    for _ in range(draw(st.integers(0, 14))):
        possible = _possible(run, rate)
        command = draw(st.sampled_from(possible) if possible and draw(st.integers(0, 3)) else COMMANDS)
        given.append(command)
        with contextlib.suppress(Rejected):
            run = reduce(lambda state, event: evolve(state, event, START), decide(command, run), run)
    return given


def _possible(run: Run, rate: t.Rate) -> list[c.RunCommand]:
    """Return the steps of its latest attempt that change the run's status now."""
    epoch, worker = run.epoch, UUID(int=1)
    steps: list[c.RunCommand] = [
        c.ClaimRun(worker=worker, command_id=UUID(int=2), accelerators=(), rate=rate),
        c.AttachRun(rate=rate),
        c.RequeueRun(epoch=epoch),
        c.ReportStarted(epoch=epoch),
        c.ReportStopping(epoch=epoch),
        c.ReportIdle(epoch=epoch),
        *(c.EndRun(epoch=epoch, status=end) for end in (Status.COMPLETED, Status.FAILED, Status.KILLED)),
        c.MarkCrashed(epoch=epoch, cause=Cause.HEARTBEAT_LOST, last_heartbeat_at=None, silence_seconds=45.0),
        c.MarkResponsive(epoch=epoch, silence_seconds=60.0),
        c.KillRun(),
        c.DeleteRun(),
    ]
    return [step for step in steps if _leads_on(step, run)]


def _leads_on(command: c.RunCommand, run: Run) -> bool:
    try:
        return decide(command, run) != ()
    except Rejected:
        return False
