"""Current run state: an inline projection, written in the append's own transaction, and its queries.

Before an append has a time, its events are folded with `PENDING`; the row says `infinity` there and the SQL puts
the append's time in. `settled` does the same to the state in memory.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import msgspec
from msgspec.structs import force_setattr, replace

from events.codec import event_type
from events.commit import InlineRow, RunState
from events.errors import Erased, NotFound
from events.retries import may_retry
from events.run import Run, evolve
from events.run_events import (
    RunAliasSet,
    RunArtifactSaved,
    RunConfigUpdated,
    RunEvent,
    RunNotesSet,
    RunPreparationReported,
    RunPrimaryMetricSet,
    RunProgressReported,
    RunSummaryUpdated,
    RunTagsChanged,
    RunTelemetryArchived,
)
from events.sql import load
from events.transitions import ACTIVE, TRANSITIONS
from events.types import Mode, Status

PENDING: Final = datetime.max.replace(tzinfo=UTC)
"""Stands for the time that an append is about to have: this very object, not its equals."""

PROJECT_RUN: Final = "projection.project_run"
"""The SQL function that writes a run's row."""
PROJECT_DEMAND: Final = "projection.project_demand"

NOTED: Final = frozenset({RunTelemetryArchived, RunArtifactSaved, *(kind for _, kind in TRANSITIONS)})
"""The events that `note_step` adds rows for."""

TIMES: Final = (
    "created_at",
    "started_at",
    "status_since",
    "kill_requested_at",
    "progress_at",
    "ended_at",
    "deleted_at",
    "imported_at",
)

Deleted: TypeAlias = tuple[datetime, UUID]
"""A place among the deleted runs: when, and which."""

NEVER_DELETED: Final[Deleted] = (datetime.min.replace(tzinfo=UTC), UUID(int=0))
"""The place before all of them."""

_NO_TIMES: Final[Mapping[str, None]] = dict.fromkeys(TIMES)

WITHIN_STATE: Final = frozenset(
    {
        RunAliasSet,
        RunArtifactSaved,
        RunConfigUpdated,
        RunNotesSet,
        RunPreparationReported,
        RunPrimaryMetricSet,
        RunProgressReported,
        RunSummaryUpdated,
        RunTagsChanged,
        RunTelemetryArchived,
    }
)
"""The events that change nothing of a run's row but its state, version and time of progress."""

_state_encoder: Final = msgspec.msgpack.Encoder()
_state_decoder: Final = msgspec.msgpack.Decoder(Run)
_json: Final = msgspec.json.Encoder()


class StoredRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run with its address: ledger, id, and the position of its last lifecycle event."""

    ledger_id: UUID
    run_id: UUID
    position: int
    run: Run


def settled(run: Run, recorded_at: datetime) -> Run:
    """Return the state with the append's time where it was pending."""
    times = {name: recorded_at for name in TIMES if getattr(run, name) is PENDING}
    return replace(run, **times) if times else run


def inline_rows(
    run_id: UUID, run: Run, events: Sequence[RunEvent], actor: str, at: datetime = PENDING
) -> tuple[Run, RunState | None, Mapping[str, list[InlineRow]]]:
    """Return the run after the events, its state where they change no more of its row, and rows by SQL function."""
    rows: dict[str, list[InlineRow]] = {}
    first = run
    for index, event in enumerate(events):
        after = evolve(run, event, at)
        if type(event) in NOTED:
            note_step(rows, index, run_id, run, after, event, actor, at)
        run = after
    if all(type(event) in WITHIN_STATE for event in events):
        return run, RunState(_state(run), progressed=run.progress_at == at), rows
    last = len(events) - 1
    rows[PROJECT_RUN] = [InlineRow(last, msgspec.Raw(run_row(run_id, run)))]
    if demand(run) != demand(first):
        rows[PROJECT_DEMAND] = [InlineRow(last, msgspec.Raw(demand_row(run_id, run)))]
    return run, None, rows


def note_step(
    rows: dict[str, list[InlineRow]],
    index: int,
    run_id: UUID,
    before: Run,
    after: Run,
    event: RunEvent,
    actor: str,
    at: datetime,
) -> None:
    """Add the rows that one event leads to besides its run's: a transition, or a part of the manifests."""
    if (before.status, type(event)) in TRANSITIONS:
        row = _transition(run_id, before, after, event, actor, at)
        rows.setdefault("projection.project_transition", []).append(InlineRow(index, msgspec.Raw(row)))
    elif isinstance(event, RunTelemetryArchived):
        row = _json.encode({"run_id": run_id, **_segment(event), "at": _time(at)})
        rows.setdefault("projection.project_segment", []).append(InlineRow(index, msgspec.Raw(row)))
    elif isinstance(event, RunArtifactSaved) and event.artifact is not None:
        row = _artifact(run_id, event, at)
        rows.setdefault("projection.project_artifact", []).append(InlineRow(index, msgspec.Raw(row)))


def _segment(event: RunTelemetryArchived) -> dict[str, Any]:
    row = msgspec.structs.asdict(event)
    levels = row.pop("levels")
    if levels is not None:
        row |= {"levels_path": levels.path, "levels_bytes": levels.bytes, "levels_sha256": levels.sha256}
    return row


class Demand(msgspec.Struct, frozen=True):
    """What a run wants of the queue: it waits, holds slots (maybe for an ended attempt), is to be retried."""

    waiting: bool
    held: tuple[str, ...]
    ended: bool
    to_stop: bool
    retry_due: bool


def demand(run: Run) -> Demand:
    """Return what a run wants of the queue."""
    held = run.kinds if run.holding else ()
    ended = bool(held) and run.status not in ACTIVE
    return Demand(
        waiting=run.status is Status.QUEUED and run.mode is Mode.MANAGED,
        held=held,
        ended=ended,
        to_stop=ended and (run.status is not Status.CRASHED or run.retried_by is not None),
        retry_due=may_retry(run),
    )


def demand_row(run_id: UUID, run: Run) -> bytes:
    """Return the JSON row of what a run wants of the queue."""
    columns = msgspec.structs.asdict(demand(run))
    return _json.encode({"run_id": run_id, "priority": run.priority, "created_at": _time(run.created_at), **columns})


def run_row(run_id: UUID, run: Run) -> bytes:
    """Return the JSON row of a run's state."""
    return _json.encode(
        {
            "run_id": run_id,
            "version": run.version,
            "name": run.name or None,
            "external_id": run.external_id,
            "status": run.status,
            "mode": run.mode,
            "workflow_id": run.workflow.id if run.workflow else None,
            "worker_id": run.worker,
            "epoch": run.epoch,
            "kill_requested": run.kill is not None,
            "unresponsive": run.unresponsive,
            "archived": run.archived,
            "purged": run.receipt is not None,
            "reproduced_from": run.reproduced_from,
            "sweep_id": run.trial.sweep if run.trial else None,
            "trial": run.trial.number if run.trial else None,
            **{name: _time(getattr(run, name)) for name in TIMES},
            "state": _state(run),
        }
    )


def _state(run: Run) -> bytes:
    """Return the state as MessagePack, without the times, which are columns."""
    return _state_encoder.encode(replace(run, **_NO_TIMES))


def _transition(run_id: UUID, before: Run, after: Run, event: RunEvent, actor: str, at: datetime) -> bytes:
    return _json.encode(
        {
            "run_id": run_id,
            "version": after.version,
            "event": event_type(event),
            "from_status": before.status,
            "to_status": after.status,
            "cause": getattr(event, "cause", None),
            "actor": actor,
            "epoch": getattr(event, "epoch", after.epoch),
            "at": _time(at),
        }
    )


def _artifact(run_id: UUID, event: RunArtifactSaved, at: datetime) -> bytes:
    return _json.encode(
        {
            "run_id": run_id,
            "artifact_id": event.artifact,
            "blob_id": event.blob,
            **{name: getattr(event, name) for name in ("name", "kind", "bytes", "sha256", "media_type", "caption")},
            "part_bytes": event.part_bytes,
            "at": _time(at),
        }
    )


def _time(moment: datetime | None) -> datetime | str | None:
    return "infinity" if moment is PENDING else moment


def stored_run(row: asyncpg.Record) -> StoredRun:
    """Return the run that a row of the table `run` holds."""
    run = _state_decoder.decode(row["state"])
    for name in TIMES:  # nobody else has this run yet
        force_setattr(run, name, row[name])
    return StoredRun(ledger_id=row["ledger_id"], run_id=row["run_id"], position=row["position"], run=run)


Reader: TypeAlias = asyncpg.Pool | asyncpg.Connection


async def get(reader: Reader, run_id: UUID) -> StoredRun | None:
    """Return one run by its id."""
    row = await reader.fetchrow(load("projections.sql", "run"), run_id)
    return None if row is None else stored_run(row)


async def by_ids(reader: Reader, run_ids: Sequence[UUID]) -> dict[UUID, StoredRun]:
    """Return runs by their ids."""
    rows = await reader.fetch(load("projections.sql", "runs_by_id"), run_ids)
    return {row["run_id"]: stored_run(row) for row in rows}


async def several(reader: Reader, ledger_id: UUID, run_ids: Sequence[UUID]) -> list[StoredRun]:
    """Return a project's runs, in the order of their ids. Raises `NotFound`, and `Erased` for a deleted one."""
    found = await by_ids(reader, run_ids)
    for run_id in run_ids:
        stored = found.get(run_id)
        if stored is None or stored.ledger_id != ledger_id:
            raise NotFound(f"there is no run {run_id} in this project")
        if stored.run.status is Status.DELETED:
            raise Erased(f"run {run_id} was deleted", state=Status.DELETED)
    return [found[run_id] for run_id in run_ids]


async def by_external_id(reader: Reader, ledger_id: UUID, external_id: str) -> StoredRun | None:
    """Return one run by the id that its client gave it."""
    row = await reader.fetchrow(load("projections.sql", "run_by_external_id"), ledger_id, external_id)
    return None if row is None else stored_run(row)


async def by_name(reader: Reader, ledger_id: UUID, name: str) -> StoredRun | None:
    """Return one run by its name."""
    row = await reader.fetchrow(load("projections.sql", "run_by_name"), ledger_id, name)
    return None if row is None else stored_run(row)


async def unpurged(reader: Reader, after: Deleted, limit: int) -> tuple[list[StoredRun], Deleted | None]:
    """Return deleted runs whose contents are not yet erased everywhere, the oldest behind `after`, and what is behind
    them in turn if there may be more."""
    rows = await reader.fetch(load("projections.sql", "unpurged_runs"), *after, limit)
    following = (rows[-1]["deleted_at"], rows[-1]["run_id"]) if len(rows) == limit else None
    return [stored_run(row) for row in rows], following


async def transitions(reader: Reader, ledger_id: UUID, run_id: UUID) -> list[dict[str, Any]]:
    """Return a run's status history in order."""
    return [dict(row) for row in await reader.fetch(load("projections.sql", "transitions"), ledger_id, run_id)]
