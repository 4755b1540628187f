"""What was consumed, per run, workflow, project, organisation and day; runs that accrue are counted up to `now`."""

from datetime import date, datetime
from uuid import UUID

import msgspec

from events.sql import load
from projections.credits import as_of, decoded
from projections.runs import Reader


class Usage(msgspec.Struct, frozen=True):
    """Micro-credits of the runs of one workflow (or of none) of one project.

    Of runs that have ended with an estimate, `estimate_micro` is that estimate and `saved_micro` what they left of it.
    """

    ledger_id: UUID
    workflow_id: UUID | None
    runs: int
    consumed_micro: int
    estimate_micro: int
    saved_micro: int


class RunUsage(msgspec.Struct, frozen=True):
    """Micro-credits of one run, see `RunCredits`; a deleted run has no name."""

    ledger_id: UUID
    run_id: UUID
    workflow_id: UUID | None
    name: str | None
    status: str
    accruing: bool
    consumed_micro: int
    estimate_micro: int | None
    saved_micro: int | None


async def by_run(
    reader: Reader,
    organisation_id: UUID,
    now: datetime,
    *,
    ledger_id: UUID | None,
    workflow_id: UUID | None,
    below: UUID,
    limit: int,
) -> list[RunUsage]:
    """Return what single runs cost, newest first, of those whose id lies below one."""
    rows = await reader.fetch(
        load("projections.sql", "credit_runs"), organisation_id, ledger_id, workflow_id, below, limit
    )
    found = []
    for row in rows:
        counted = as_of(decoded(row["state"]), now)
        found.append(
            RunUsage(
                row["ledger_id"],
                row["run_id"],
                row["workflow_id"],
                row["name"],
                row["status"],
                row["accruing"],
                counted.consumed_micro,
                counted.estimate_micro,
                counted.saved_micro,
            )
        )
    return found


async def by_workflow(
    reader: Reader,
    organisation_id: UUID,
    now: datetime,
    *,
    ledger_id: UUID | None = None,
    workflow_id: UUID | None = None,
) -> list[Usage]:
    """Return an organisation's usage by project and workflow; sum it up for a project's or the organisation's."""
    rows = await reader.fetch(load("projections.sql", "credit_totals"), organisation_id, ledger_id, workflow_id)
    accrued: dict[tuple[UUID, UUID | None], int] = {}
    for row in rows:
        if row["state"] is not None:
            open_ = decoded(row["state"])
            key = (row["ledger_id"], row["workflow_id"])
            more = as_of(open_, now).consumed_micro - open_.consumed_micro
            accrued[key] = accrued.get(key, 0) + more
    return [
        Usage(
            row["ledger_id"],
            row["workflow_id"],
            row["runs"],
            row["consumed_micro"] + accrued.get((row["ledger_id"], row["workflow_id"]), 0),
            row["estimate_micro"],
            row["saved_micro"],
        )
        for row in rows
        if row["state"] is None
    ]


async def by_day(
    reader: Reader, organisation_id: UUID, first: date, last: date, now: datetime, *, ledger_id: UUID | None = None
) -> dict[date, int]:
    """Return the micro-credits that an organisation (or one of its projects) consumed on each day, in UTC."""
    rows = await reader.fetch(load("projections.sql", "credit_days"), organisation_id, ledger_id, first, last)
    days = {row["day"]: int(row["consumed_micro"]) for row in rows if row["state"] is None}
    for row in rows:
        if row["state"] is not None:
            open_ = decoded(row["state"])
            for day, micro in as_of(open_, now).by_day.items():
                when, more = date.fromisoformat(day), micro - open_.by_day.get(day, 0)
                if more and first <= when <= last:
                    days[when] = days.get(when, 0) + more
    return dict(sorted(days.items()))
