"""The queue: which runs wait for a worker, in which order, and why, as the scheduler last found."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from events.database import as_struct
from events.sql import load
from projections.runs import Reader

MAX_SHOWN = 1_000


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A run that waits: its place (1 is next), and why; `reason` is None before the scheduler has looked at it.

    Of a limit, `scope` is whose it is (plan, organisation, project), `bound` how much it allows.
    """

    run_id: UUID
    ledger_id: UUID
    position: int
    priority: int
    created_at: datetime
    reason: str | None
    scope: str | None
    bound: int | None
    in_use: int | None
    since: datetime | None


async def of_organisation(
    reader: Reader,
    organisation_id: UUID,
    *,
    runs: Collection[UUID] | None = None,
    only: Collection[UUID] | None = None,
    limit: int = MAX_SHOWN,
) -> list[Waiting]:
    """Return an organisation's queue in order, or of it some runs, or those of `only` some projects."""
    rows = await reader.fetch(load("projections.sql", "read_queue"), organisation_id, runs, limit, only)
    return [as_struct(Waiting, row) for row in rows]


async def say(reader: Reader, waits: Mapping[UUID, Any], gone: Sequence[UUID]) -> None:
    """Write down why runs wait (`reason`, `scope`, `bound`, `in_use` each), and forget those that do not any more."""
    columns = [
        list(waits),
        *([getattr(w, name) for w in waits.values()] for name in ("reason", "scope", "bound", "in_use")),
    ]
    await reader.execute(load("projections.sql", "say_waiting"), *columns, list(gone))


async def forget(reader: Reader) -> None:
    """Forget why runs wait: the scheduler begins anew."""
    await reader.execute("delete from operation.waiting")
