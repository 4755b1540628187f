"""What alert rules fired: the alerter keeps each beside its event, which says only what a ledger may keep for ever."""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from events.database import as_struct
from events.sql import load
from projections.runs import Reader

MAX_PER_PROJECT: Final = 10_000
"""How many are kept, the newest ones; their events stay in the ledger."""


class Firing(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that came about: for which run, at which position of the project's ledger, recorded when.

    For a metric's rule also the metric, the step, and the value as text, which go with a deleted run.
    """

    alert_id: UUID
    rule_id: UUID
    project_id: UUID
    run_id: UUID | None
    position: int
    at: datetime
    name: str
    metric: str | None = None
    step: int | None = None
    value: str | None = None


async def keep(reader: Reader, firing: Firing) -> None:
    """Keep a firing; one that is there already stays as it is."""
    await reader.execute(load("projections.sql", "keep_firing"), *msgspec.structs.astuple(firing))


async def trim(reader: Reader, project_id: UUID) -> None:
    """Drop the oldest beyond the bound."""
    await reader.execute(load("projections.sql", "trim_firings"), project_id, MAX_PER_PROJECT)


async def get(reader: Reader, alert_id: UUID) -> Firing | None:
    """Return a firing by its event's stream, while it is kept."""
    found = await reader.fetchrow("select * from operation.alert_firing where alert_id = $1", alert_id)
    return None if found is None else as_struct(Firing, found)


async def of_project(
    reader: Reader,
    project_id: UUID,
    *,
    rule: UUID | None = None,
    run: UUID | None = None,
    before: tuple[datetime, UUID] | None = None,
    limit: int,
) -> list[Firing]:
    """Return a project's firings, newest first: of one rule or run perhaps, from behind a place on."""
    at, alert_id = before or (None, None)
    rows = await reader.fetch(load("projections.sql", "list_firings"), project_id, rule, run, at, alert_id, limit)
    return [as_struct(Firing, row) for row in rows]
