"""A run's creation, carried out under a name that no other run of its project has."""

from random import Random
from typing import Final
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from events.commands import CreateRun
from events.errors import Rejected
from events.ledger import Ledger
from events.run_events import RunCreated
from events.run_names import TRIES, names
from events.sql import load
from projections.execute import Outcome, Request, answered_before, execute
from projections.tenancy import Rows

_CHANCE: Final = Random()  # noqa: S311 (names are no secrets)


async def open_run(
    ledger: Ledger,
    project_id: UUID,
    run_id: UUID,
    wanted: RunCreated,
    asked: Request,
    *,
    workflow: str | None,
    chance: Random = _CHANCE,
    guard: Rows | None = None,
) -> Outcome:
    """Record a run's creation with a session id, and with a name of ours if none was chosen: by `workflow`, if given.

    A name of ours gives way while it is taken. Raises `Rejected` if the name that was chosen, or the external id, is.
    """
    for name, session in names(workflow, chance):
        created = replace(wanted, name=wanted.name or name, session_id=session)
        try:
            return await execute(ledger, project_id, run_id, CreateRun(created=created), asked, guard=guard)
        except asyncpg.UniqueViolationError:
            taken = await _taken(ledger, project_id, created)
            if taken is None:
                raise
        answered = await answered_before(ledger, project_id, run_id, asked)
        if answered is not None:  # taken by this very request, which came twice
            return answered
        if wanted.name or taken != "name":
            value = getattr(created, taken)
            raise Rejected(f"{taken} {value!r} is taken by another run of this project", state="exists", asked="create")
    raise Rejected(f"{TRIES} names were taken; choose one in `name`", state="exists", asked="create")


async def _taken(ledger: Ledger, project_id: UUID, created: RunCreated) -> str | None:
    """Return which of a run's names another run of the project has, or None."""
    row = await ledger.pool.fetchrow(
        load("projections.sql", "names_taken"), project_id, created.name, created.external_id
    )
    if row["name"]:
        return "name"
    return "external_id" if row["external_id"] else None
