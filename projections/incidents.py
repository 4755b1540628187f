"""What an operator should look at: opened and closed by a role, shown by the service."""

from datetime import datetime
from typing import Final

import msgspec

from events.database import as_struct
from events.sql import load
from projections.runs import Reader

MASS_SILENCE: Final = "mass_silence"


class Incident(msgspec.Struct, frozen=True):
    """Something out of the ordinary; `outcome` is None while it goes on."""

    kind: str
    silent: int
    watched: int
    opened_at: datetime
    closed_at: datetime | None
    outcome: str | None


async def open_(reader: Reader, kind: str, *, silent: int, watched: int) -> None:
    """Open an incident, or bring the open one of its kind up to date."""
    await reader.execute(load("projections.sql", "open_incident"), kind, silent, watched)


async def close(reader: Reader, kind: str, outcome: str) -> None:
    """Close the open incident of a kind, if there is one."""
    await reader.execute(
        "update operation.incident set closed_at = clock_timestamp(), outcome = $2"
        " where kind = $1 and closed_at is null",
        kind,
        outcome,
    )


async def latest(reader: Reader, limit: int = 20) -> list[Incident]:
    """Return the latest incidents, the open ones among them, newest first."""
    rows = await reader.fetch(load("projections.sql", "read_incidents"), limit)
    return [as_struct(Incident, row) for row in rows]
