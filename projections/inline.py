"""The inline projections done again from the ledger, for `rebuild`; live, each append writes them itself.

A deleted run's payloads are gone, but not its metadata: an erased event is folded as the bare fact that its columns
state, and the deletion carries the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from events.alerts import AlertFired, AlertRuleRemoved, AlertRuleSet, WebhookRemoved, WebhookSet
from events.billing import CreditsAdjusted, CreditsGranted, RateCardSet
from events.billing import evolve as evolve_account
from events.codec import EVENT_TYPES, LifecycleEvent
from events.commit import InlineRow
from events.errors import CorruptHistory
from events.ledger import SURVIVES_ERASURE, Fact
from events.organisation import (
    KeyChanged,
    KeyIssued,
    KeyRevoked,
    OrganisationChanged,
    OrganisationCreated,
    PlanChanged,
    ProjectChanged,
    ProjectCreated,
    WorkerDrained,
    WorkerLost,
    WorkerRegistered,
    WorkerResumed,
    WorkerReturned,
    WorkflowArchived,
    WorkflowChanged,
    WorkflowCreated,
    WorkflowRenamed,
    WorkflowUnarchived,
)
from events.run import NO_RUN, Run, evolve
from events.run_events import (
    RunCompleted,
    RunCrashed,
    RunCreated,
    RunDeleted,
    RunEvent,
    RunFailed,
    RunIdled,
    RunImported,
    RunKilled,
    RunRecovered,
    RunRequeued,
    RunStarted,
    RunStarting,
    RunStopping,
    RunTagsChanged,
)
from events.sql import load
from events.sweep import (
    Sweep,
    SweepCancelled,
    SweepCreated,
    SweepFinished,
    SweepPaused,
    SweepResumed,
    SweepStopped,
)
from events.sweep import evolve as evolve_sweep
from events.transitions import TRANSITIONS
from events.types import Cause, Mode, Origin, Rate
from events.workflow import Workflow
from events.workflow import evolve as evolve_workflow
from projections import api_keys, billing, runs, subscriptions, sweeps, tenancy, workflows
from projections.apply import Connection, present

_NOBODY: Final = UUID(int=0)


_FREE: Final = Rate(micro_credits_per_hour=0, count=0)

_UNSAID: Final = RunCreated(name="", session_id="", mode=Mode.MANAGED)

_BARE: Final[Mapping[str, Callable[[int, Cause], RunEvent]]] = {
    "run.created": lambda _epoch, _cause: _UNSAID,
    "run.imported": lambda epoch, _: RunImported(origin=Origin(system="", run=""), created=_UNSAID, epoch=epoch),
    "run.starting": lambda epoch, _: RunStarting(
        worker=_NOBODY, command_id=_NOBODY, epoch=epoch, accelerators=(), rate=_FREE
    ),
    "run.requeued": lambda epoch, _: RunRequeued(epoch=epoch),
    "run.started": lambda epoch, _: RunStarted(epoch=epoch),
    "run.stopping": lambda epoch, _: RunStopping(epoch=epoch),
    "run.idled": lambda epoch, _: RunIdled(epoch=epoch),
    "run.completed": lambda epoch, cause: RunCompleted(epoch=epoch, cause=cause),
    "run.failed": lambda epoch, cause: RunFailed(epoch=epoch, cause=cause),
    "run.killed": lambda epoch, cause: RunKilled(epoch=epoch, cause=cause),
    "run.crashed": lambda epoch, cause: RunCrashed(
        epoch=epoch, cause=cause, last_heartbeat_at=None, silence_seconds=0.0
    ),
    "run.recovered": lambda epoch, _: RunRecovered(epoch=epoch, silence_seconds=0.0),
}
assert {_BARE[kind](0, Cause.FINISHED).__class__ for kind in _BARE} == {e for _, e in TRANSITIONS} - {RunDeleted}


def bare(recorded: Fact) -> RunEvent:
    """Return what an erased event's metadata still says: its kind, epoch and cause.

    What is no transition becomes an empty change of tags: it counts as a version, and nothing else of it outlives the
    deletion. Raises `CorruptHistory` for the types that no erasure takes.
    """
    if recorded.type in SURVIVES_ERASURE:
        raise CorruptHistory(f"{recorded.type} at position {recorded.position} lost its payload")
    cause = Cause(recorded.cause) if recorded.cause else Cause.FINISHED
    build = _BARE.get(recorded.type)
    return RunTagsChanged(tags=()) if build is None else build(recorded.epoch or 0, cause)


class Runs:
    """Run states, their transitions, the manifest, and the artifacts."""

    name = "runs"
    tables = ("run", "run_transition", "segment", "replaced_segment", "demand", "artifact")
    types = tuple(sorted(kind for kind in EVENT_TYPES if kind.startswith("run.")))
    page_events = 1_000

    async def apply(self, connection: Connection, ledger_id: UUID, events: Sequence[Fact]) -> None:
        """Fold the page into the runs' rows, as the appends did."""
        await present(connection, ledger_id, events)
        stored = await connection.fetch(
            load("projections.sql", "runs_of_ledger"), ledger_id, list({recorded.stream for recorded in events})
        )
        states: dict[UUID, Run] = {row["run_id"]: runs.stored_run(row).run for row in stored}
        before = dict(states)
        rows, last = refold(states, events)
        rows[runs.PROJECT_RUN] = [
            InlineRow(index, msgspec.Raw(runs.run_row(run_id, states[run_id]))) for run_id, index in last.items()
        ]
        rows[runs.PROJECT_DEMAND] = [
            InlineRow(index, msgspec.Raw(runs.demand_row(run_id, states[run_id])))
            for run_id, index in last.items()
            if runs.demand(states[run_id]) != runs.demand(before.get(run_id, NO_RUN))
        ]
        await _write(connection, ledger_id, events, rows)


def refold(states: dict[UUID, Run], events: Sequence[Fact]) -> tuple[dict[str, list[InlineRow]], dict[UUID, int]]:
    """Fold events into the states of their runs, in place.

    Returns the rows that they lead to besides the runs' own, and which event (from 1) was each run's last.
    """
    rows: dict[str, list[InlineRow]] = {}
    last: dict[UUID, int] = {}
    for index, recorded in enumerate(events, 1):
        run_id = recorded.stream
        event = bare(recorded) if recorded.payload is None else recorded.event()
        before = states.get(run_id, NO_RUN)
        after = states[run_id] = evolve(before, event, recorded.recorded_at)
        if type(event) in runs.NOTED:
            runs.note_step(rows, index, run_id, before, after, event, recorded.actor, recorded.recorded_at)
        last[run_id] = index
    return rows, last


class Tenancy:
    """Organisations, their accounts, API keys, workers, projects, workflows, sweeps, alert rules and webhooks."""

    name = "tenancy"
    tables = ("organisation", "account", "api_key", "worker", "project", "workflow", "sweep", "subscription")
    types = tuple(sorted(kind for kind in EVENT_TYPES if not kind.startswith("run.")))
    page_events = 1_000

    async def apply(self, connection: Connection, ledger_id: UUID, events: Sequence[Fact]) -> None:
        """Fold the page into rows, event by event: these are few."""
        for recorded in await present(connection, ledger_id, events):
            written = await _tenancy_rows(connection, ledger_id, recorded)
            numbered = {function: [InlineRow(1, row.row) for row in rows] for function, rows in written.items()}
            await _write(connection, ledger_id, [recorded], numbered)


async def _tenancy_rows(connection: Connection, ledger_id: UUID, recorded: Fact) -> tenancy.Rows:
    event: LifecycleEvent = recorded.event()
    at, version = recorded.recorded_at, recorded.version or 0
    match event:
        case OrganisationCreated():
            return tenancy.organisation_row(version=version, name=event.name, max_active_runs=event.max_active_runs)
        case KeyIssued():
            return api_keys.row(api_keys.issued(ledger_id, event, at))
        case KeyChanged() | KeyRevoked():
            return api_keys.row(api_keys.evolve(await api_keys.get(connection, ledger_id, event.key_id), event, at))
        case OrganisationChanged() | PlanChanged():
            return tenancy.changed_organisation(await tenancy.organisation(connection, ledger_id), event, version)
        case WorkerRegistered():
            return tenancy.worker_row(event, version=version, at=at.isoformat())
        case WorkerLost():
            await connection.execute(
                "update worker set lost_at = $2, version = $3 where worker_id = $1", event.worker, at, version
            )
            return {}
        case WorkerReturned():
            await connection.execute(
                "update worker set lost_at = null, version = $2 where worker_id = $1", event.worker, version
            )
            return {}
        case WorkerDrained() | WorkerResumed():
            await connection.execute(
                "update worker set drained_at = $2, version = $3 where worker_id = $1",
                event.worker,
                at if isinstance(event, WorkerDrained) else None,
                version,
            )
            return {}
        case ProjectCreated() | ProjectChanged():
            return await _project_row(connection, ledger_id, event, at, version)
        case WorkflowCreated() | WorkflowRenamed() | WorkflowChanged() | WorkflowArchived() | WorkflowUnarchived():
            recipe = await workflows.get(connection, recorded.stream)
            workflow = evolve_workflow(recipe.workflow if recipe else Workflow(), event)
            return workflows.row(recorded.stream, workflow, at=at.isoformat())
        case SweepCreated() | SweepPaused() | SweepResumed() | SweepStopped() | SweepCancelled() | SweepFinished():
            searched = await sweeps.get(connection, recorded.stream)
            sweep = evolve_sweep(searched.sweep if searched else Sweep(), event)
            return sweeps.row(recorded.stream, sweep, at=at.isoformat())
        case AlertRuleSet() | WebhookSet():
            return subscriptions.row(recorded.stream, event, version=version, set_at=at.isoformat())
        case AlertRuleRemoved() | WebhookRemoved():
            await connection.execute(
                "update subscription set removed_at = $2, version = $3 where subscription_id = $1",
                recorded.stream,
                at,
                version,
            )
            return {}
        case RateCardSet() | CreditsGranted() | CreditsAdjusted():
            account = evolve_account(await billing.account(connection, ledger_id), event)
            return billing.row(ledger_id, account)
        case AlertFired():
            return {}
        case _:
            raise CorruptHistory(f"{recorded.type} at position {recorded.position} is no event of a tenant")


async def _project_row(
    connection: Connection, ledger_id: UUID, event: ProjectCreated | ProjectChanged, at: datetime, version: int
) -> tenancy.Rows:
    name, description = event.name, event.description
    limits = tenancy.UNLIMITED
    organisation_id: UUID | None
    if isinstance(event, ProjectCreated):
        organisation_id = event.organisation
    else:
        known = await tenancy.project_by_id(connection, ledger_id)
        if known is None:
            raise CorruptHistory("a project is created before it is changed")
        name = known.name if name is None else name
        description = known.description if description is None else description
        limits = known.limits if event.limits is None else event.limits
        organisation_id = known.organisation_id
    if organisation_id is None:  # an old event
        organisation_id = await connection.fetchval(
            "select organisation_id from ledger.ledger where ledger_id = $1", ledger_id
        )
    return tenancy.project_row(
        organisation_id=organisation_id,
        version=version,
        name=name or "",
        description=description or "",
        limits=limits,
        at=at.isoformat(),
    )


async def _write(
    connection: Connection, ledger_id: UUID, events: Sequence[Fact], rows: Mapping[str, Sequence[InlineRow]]
) -> None:
    """Write rows by the functions that `append.sql` calls; their `event` counts the page's events from 1."""
    positions = [recorded.position for recorded in events]
    for function, inline in rows.items():
        document = msgspec.json.encode(inline).decode()
        await connection.execute(
            f"select {function}($1, $2, $3, $4)", ledger_id, events[-1].recorded_at, positions, document
        )
