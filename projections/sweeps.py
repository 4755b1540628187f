"""Sweeps: an inline projection, what may be done to one, and what its trials come to."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from events.commit import InlineRow
from events.errors import NotFound
from events.ledger import Appended, Ledger
from events.sql import load
from events.sweep import Goal, Objective, Sweep, SweepCreated, SweepEvent, evolve
from projections.changes import carry_out
from projections.execute import Request, record
from projections.runs import Reader, StoredRun, stored_run
from projections.tenancy import Rows

NOT_RUNNING: Final = "TS001"
"""The SQL state by which `check_sweep` refuses."""


class StoredSweep(msgspec.Struct, frozen=True):
    """A sweep with its address."""

    sweep_id: UUID
    ledger_id: UUID
    created_at: datetime
    sweep: Sweep


class Due(msgspec.Struct, frozen=True):
    """A sweep that makes trials: how many it has made, and how many of these have not ended."""

    stored: StoredSweep
    made: int
    open: int


class Tried(msgspec.Struct, frozen=True):
    """A trial's run, and the best that it logged of the sweep's metric, at which step; None where it did not."""

    stored: StoredRun
    number: int
    value: float | None = None
    step: int | None = None


def row(sweep_id: UUID, sweep: Sweep, *, at: str = "infinity") -> Rows:
    """Return the row of a sweep."""
    columns = {
        "sweep_id": sweep_id,
        "version": sweep.version,
        "status": sweep.status,
        "state": msgspec.msgpack.encode(sweep),
        "created_at": at,
    }
    return {"projection.project_sweep": [InlineRow(0, msgspec.Raw(msgspec.json.encode(columns)))]}


def guard(sweep_id: UUID) -> Rows:
    """Return what an append that makes a trial checks: that the sweep is running."""
    return {"projection.check_sweep": [InlineRow(0, msgspec.Raw(msgspec.json.encode({"sweep_id": sweep_id})))]}


async def create(
    ledger: Ledger, ledger_id: UUID, sweep_id: UUID, created: SweepCreated, request: Request
) -> tuple[StoredSweep, int]:
    """Record a sweep and return it with its ledger position; a repetition returns what was recorded."""
    appended = await _append(ledger, ledger_id, sweep_id, Sweep(), created, request)
    return await at_version(ledger, ledger_id, sweep_id, appended.version), appended.last


async def change(
    ledger: Ledger, sweep_id: UUID, decide: Callable[[Sweep], Sequence[SweepEvent]], request: Request
) -> tuple[StoredSweep, int]:
    """Carry out a decision (one event, or none) on a sweep, and return the sweep after it with its ledger position.

    Raises what `decide` and `projections.changes.carry_out` raise.
    """

    async def append(known: StoredSweep) -> Appended | None:
        events = decide(known.sweep)
        if not events:
            return None
        return await _append(ledger, known.ledger_id, sweep_id, known.sweep, events[0], request)

    return await carry_out(ledger, sweep_id, request, get=get, append=append, at_version=at_version)


async def _append(
    ledger: Ledger, ledger_id: UUID, sweep_id: UUID, known: Sweep, event: SweepEvent, request: Request
) -> Appended:
    return await record(
        ledger,
        ledger_id=ledger_id,
        stream=sweep_id,
        expected_version=known.version,
        events=[event],
        inline=row(sweep_id, evolve(known, event)),
        request=request,
    )


async def at_version(ledger: Ledger, ledger_id: UUID, sweep_id: UUID, version: int | None) -> StoredSweep:
    """Return a sweep as it was at a version. Raises `NotFound` where there is none."""
    state, created_at = Sweep(), None
    for recorded in await ledger.read_stream(ledger_id, sweep_id, up_to=version):
        state = evolve(state, recorded.event())
        created_at = created_at or recorded.recorded_at
    if created_at is None:
        raise NotFound(f"there is no sweep {sweep_id}")
    return StoredSweep(sweep_id, ledger_id, created_at, state)


def _sweep(row: asyncpg.Record) -> StoredSweep:
    state = msgspec.msgpack.decode(row["state"], type=Sweep)
    return StoredSweep(row["sweep_id"], row["ledger_id"], row["created_at"], state)


async def get(reader: Reader, sweep_id: UUID) -> StoredSweep | None:
    """Return a sweep by its id."""
    found = await reader.fetchrow("select * from sweep where sweep_id = $1", sweep_id)
    return None if found is None else _sweep(found)


async def of_project(
    reader: Reader, ledger_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[StoredSweep]:
    """Return a project's sweeps, newest first, after the creation and id of one."""
    created_at, sweep_id = after or (None, None)
    rows = await reader.fetch(load("projections.sql", "list_sweeps"), ledger_id, created_at, sweep_id, limit)
    return [_sweep(row) for row in rows]


async def due(reader: Reader, after: UUID, limit: int) -> list[Due]:
    """Return sweeps of all projects that make trials, by id, after one."""
    rows = await reader.fetch(load("projections.sql", "sweeps_due"), after, limit)
    return [Due(_sweep(row), row["made"], row["open"]) for row in rows]


async def cancelled(reader: Reader, limit: int) -> list[StoredRun]:
    """Return runs that are still to be killed because their sweep was cancelled."""
    return [stored_run(row) for row in await reader.fetch(load("projections.sql", "cancelled_trials"), limit)]


async def counts(reader: Reader, ledger_id: UUID, sweep_ids: Sequence[UUID]) -> Mapping[UUID, dict[str, int]]:
    """Return how many trials of each sweep stand where."""
    found: dict[UUID, dict[str, int]] = {sweep_id: {} for sweep_id in sweep_ids}
    for row in await reader.fetch(load("projections.sql", "count_trials"), ledger_id, sweep_ids):
        found[row["sweep_id"]][row["status"]] = row["trials"]
    return found


async def trials(reader: Reader, stored: StoredSweep, after: int, limit: int) -> list[Tried]:
    """Return a sweep's trials in order, after a number."""
    name, goal = _wanted(stored.sweep.metric)
    rows = await reader.fetch(
        load("projections.sql", "list_trials"), stored.ledger_id, stored.sweep_id, name, goal, after, limit
    )
    return [_tried(row) for row in rows]


async def best(reader: Reader, stored: StoredSweep) -> Tried | None:
    """Return the trial with the best value of the metric; None where there is no metric, or no value of it."""
    name, goal = _wanted(stored.sweep.metric)
    if name is None:
        return None
    found = await reader.fetchrow(load("projections.sql", "best_trial"), stored.ledger_id, stored.sweep_id, name, goal)
    return None if found is None else _tried(found)


def _wanted(metric: Objective | None) -> tuple[str | None, Goal]:
    return (None, Goal.MIN) if metric is None else (metric.name, metric.goal)


def _tried(row: Any) -> Tried:
    return Tried(stored_run(row), row["trial"], row["value"], row["step"])
