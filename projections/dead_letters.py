"""Events that a reader of a ledger cannot take, and what was decided about each.

A reader (the relay, a projection) stops in front of such an event; nothing is skipped unless somebody says so, and
that stays on record. States: `held`, `retry` (asked for, not yet tried), `discarded`, `resolved`.
"""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from events.database import as_struct
from events.ledger import Ledger
from events.sql import load
from projections.runs import Reader

MAX_ERROR: Final = 500


class DeadLetter(msgspec.Struct, frozen=True):
    """One event that one reader cannot take."""

    reader: str
    ledger_id: UUID
    position: int
    event_id: UUID
    type: str
    state: str
    error: str
    failures: int
    first_at: datetime
    last_at: datetime
    decided_by: str | None
    decided_at: datetime | None


async def hold(ledger: Ledger, reader: str, ledger_id: UUID, position: int, error: Exception) -> str:
    """Note that a reader failed on an event; returns the letter's state (`discarded`: go on without it)."""
    (event,) = await ledger.read(ledger_id, after=position - 1, up_to=position, payloads=False)
    said = f"{type(error).__name__}: {error}"[:MAX_ERROR]
    state: str = await ledger.pool.fetchval(
        load("projections.sql", "hold_letter"), reader, ledger_id, position, event.event_id, event.type, said
    )
    return state


async def state(reader: Reader, name: str, ledger_id: UUID, position: int) -> str | None:
    """Return a letter's state, or None where there is none."""
    found: str | None = await reader.fetchval(
        "select state from operation.dead_letter where reader = $1 and ledger_id = $2 and position = $3",
        name,
        ledger_id,
        position,
    )
    return found


async def held(reader: Reader, name: str) -> list[DeadLetter]:
    """Return the letters in front of which a reader stands: of each ledger one at most."""
    rows = await reader.fetch(
        "select * from operation.dead_letter where reader = $1 and state in ('held', 'retry')", name
    )
    return [as_struct(DeadLetter, row) for row in rows]


async def resolve(reader: Reader, name: str, ledger_id: UUID, up_to: int) -> None:
    """Note that a reader has taken what it could not take before."""
    await reader.execute(
        "update operation.dead_letter set state = 'resolved', decided_at = clock_timestamp()"
        " where reader = $1 and ledger_id = $2 and position <= $3 and state in ('held', 'retry')",
        name,
        ledger_id,
        up_to,
    )


async def decide(
    reader: Reader, name: str, ledger_id: UUID, position: int, decision: str, decided_by: str
) -> DeadLetter | None:
    """Ask for a retry, or discard; returns the letter, or None where none waits."""
    row = await reader.fetchrow(
        load("projections.sql", "decide_letter"), name, ledger_id, position, decision, decided_by
    )
    return None if row is None else as_struct(DeadLetter, row)


async def of_ledger(
    reader: Reader, ledger_id: UUID, states: list[str], after: tuple[int, str], limit: int
) -> list[DeadLetter]:
    """Return a ledger's letters in some states by position and reader, after such a pair."""
    rows = await reader.fetch(
        "select * from operation.dead_letter where ledger_id = $1 and state = any($2)"
        " and (position, reader) > ($3, $4) order by position, reader limit $5",
        ledger_id,
        states,
        *after,
        limit,
    )
    return [as_struct(DeadLetter, row) for row in rows]


async def waiting(reader: Reader) -> dict[str, int]:
    """Return how many letters wait for a decision, by reader."""
    rows = await reader.fetch(
        "select reader, count(*) as letters from operation.dead_letter where state in ('held', 'retry') group by 1"
    )
    return {row["reader"]: row["letters"] for row in rows}
