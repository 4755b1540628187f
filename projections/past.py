"""Time travel: a run, a project, or a project's runs, as they were at a moment of the past.

    moment = Moment(position=4711, at=...)                      # what had happened, and the time to look at it from
    run, counted = await run_at(ledger, ledger_id, run_id, moment)

Everything is folded from the events up to the moment's position; what goes on by itself (credits, training time) is
counted up to its time.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from msgspec.structs import replace

from events.errors import CorruptHistory, Erased, NotFound
from events.ledger import Ledger, Recorded
from events.organisation import ProjectChanged, ProjectCreated
from events.run import NO_RUN, evolve
from events.sql import load
from events.types import Status
from projections import credits, runs
from projections.credits import NO_CREDITS, Credits, RunCredits
from projections.runs import Reader, StoredRun
from projections.tenancy import Project

PAGE_VERSIONS: Final = 500
LIST_EVENTS: Final = 20_000
"""How many events one page of a list may fold; then it ends early."""


class Moment(msgspec.Struct, frozen=True):
    """What had happened up to `position`, looked at from the time `at`."""

    position: int
    at: datetime


class RunThen(msgspec.Struct, frozen=True):
    """A run of a list: as it was, with its credits; of one that was deleted since, `stored` is what is left of it."""

    stored: StoredRun
    status: Status
    credits: RunCredits | None


async def events_until(ledger: Ledger, ledger_id: UUID, stream: UUID, position: int) -> AsyncIterator[Recorded]:
    """Yield a stream's lifecycle events up to a position, a page at a time."""
    after = 0
    while page := await ledger.read_stream(ledger_id, stream, after=after, up_to=after + PAGE_VERSIONS):
        for recorded in page:
            if recorded.position > position:
                return
            yield recorded
        after += PAGE_VERSIONS


async def run_at(ledger: Ledger, ledger_id: UUID, run_id: UUID, moment: Moment) -> tuple[StoredRun, RunCredits]:
    """Return a run and what it had cost. Raises `NotFound` before its creation, `Erased` once its payloads are gone."""
    run, counted, position = NO_RUN, NO_CREDITS, 0
    async for recorded in events_until(ledger, ledger_id, run_id, moment.position):
        event = recorded.event()
        run, position = evolve(run, event, recorded.recorded_at), recorded.position
        if recorded.type in Credits.types:
            counted = credits.evolve(counted, event, recorded.recorded_at)
    if run.version == 0:
        raise NotFound(f"this run did not exist yet at position {moment.position}")
    stored = StoredRun(ledger_id=ledger_id, run_id=run_id, position=position, run=run)
    return stored, credits.as_of(counted, moment.at)


async def project_at(ledger: Ledger, project: Project, moment: Moment) -> Project:
    """Return a project as it was. Raises `NotFound` before its creation."""
    then: Project | None = None
    async for recorded in events_until(ledger, project.project_id, project.project_id, moment.position):
        match recorded.event():
            case ProjectCreated(name=name, description=description):
                then = replace(project, version=1, name=name, description=description, created_at=recorded.recorded_at)
            case ProjectChanged(name=name, description=description) if then is not None:
                then = replace(
                    then,
                    version=then.version + 1,
                    name=then.name if name is None else name,
                    description=then.description if description is None else description,
                )
            case other:
                raise CorruptHistory(f"{type(other).__name__} at position {recorded.position} of a project")
    if then is None:
        raise NotFound(f"this project did not exist yet at position {moment.position}")
    return then


async def runs_at(
    ledger: Ledger,
    ledger_id: UUID,
    moment: Moment,
    *,
    statuses: Sequence[Status] | None,
    workflow_id: UUID | None,
    after: UUID | None,
    limit: int,
) -> tuple[list[RunThen], bool]:
    """Return runs as they were, newest first, after the last one seen; and whether there are more.

    A page has at most `limit` runs, and fewer where their histories come to more than `LIST_EVENTS`.
    """
    rows = await ledger.pool.fetch(
        load("projections.sql", "runs_then"),
        ledger_id,
        statuses,
        workflow_id,
        moment.position,
        moment.at,
        after,
        limit + 1,
    )
    unmoved = [row["run_id"] for row in rows if row["position"] <= moment.position]
    counted = await _counted(ledger.pool, unmoved)
    found: list[RunThen] = []
    folded = 0
    for row in rows[:limit]:
        stored, status = runs.stored_run(row), Status(row["status_then"])
        known = counted.get(stored.run_id)
        if stored.run.status is Status.DELETED:
            found.append(RunThen(stored, status, None))
        elif stored.position <= moment.position and known is not None and known.since == stored.run.status_since:
            found.append(RunThen(stored, status, credits.as_of(known, moment.at)))
        elif folded and folded + stored.run.version > LIST_EVENTS:
            return found, True
        else:
            found.append(await _folded(ledger, stored, status, moment))
            folded += found[-1].stored.run.version
    return found, len(rows) > limit


async def _folded(ledger: Ledger, stored: StoredRun, status: Status, moment: Moment) -> RunThen:
    try:
        then, cost = await run_at(ledger, stored.ledger_id, stored.run_id, moment)
    except Erased:  # deleted since it was listed
        left = await runs.get(ledger.pool, stored.run_id)
        if left is None or left.run.status is not Status.DELETED:
            raise
        return RunThen(left, status, None)
    return RunThen(then, status, cost)


async def _counted(reader: Reader, run_ids: Sequence[UUID]) -> dict[UUID, RunCredits]:
    """Return what the projection has counted of runs that have not moved since."""
    rows = await reader.fetch(load("projections.sql", "run_credits"), run_ids)
    return {row["run_id"]: credits.decoded(row["state"]) for row in rows}
