"""How the background roles are: each copy says so every few seconds, and everybody may look."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from msgspec.structs import astuple

from events.database import as_struct
from events.sql import load
from projections.runs import Reader

SILENT_SECONDS: Final = 15.0
"""After this long without a word a copy of a role counts as gone."""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What one copy of a role says: whether it leads, its failures in a row, and how often it was started again.

    `last_error` is what is wrong with it, which may be a step that does not end as well.
    """

    role: str
    instance: str
    leads: bool
    failures: int
    restarts: int
    last_error: str | None
    stepped_at: datetime | None


class Heard(Said, frozen=True, kw_only=True):
    """What a copy last said, and how long ago."""

    silence_seconds: float


async def say(reader: Reader, said: Sequence[Said]) -> None:
    """Write down how the roles of a process are."""
    await reader.execute(load("projections.sql", "say_health"), *map(list, zip(*map(astuple, said), strict=True)))


async def forget(reader: Reader, instance: str) -> None:
    """Forget a process that stopped as it should."""
    await reader.execute("delete from operation.role where instance = $1", instance)


async def heard(reader: Reader) -> list[Heard]:
    """Return what every copy of every role last said, the latest first."""
    return [as_struct(Heard, row) for row in await reader.fetch(load("projections.sql", "read_health"))]


async def lags(reader: Reader) -> dict[str, int]:
    """Return how many events each reader has not passed, over all ledgers that it knows."""
    return {row["reader"]: row["events"] for row in await reader.fetch(load("projections.sql", "read_lags"))}


def verdicts(copies: Sequence[Heard], roles: Sequence[str]) -> dict[str, str]:
    """Return one line a role: `ok`, or what is wrong with it."""
    found = {}
    for role in roles:
        alive = [one for one in copies if one.role == role and one.silence_seconds < SILENT_SECONDS]
        leader = next((one for one in alive if one.leads), None)
        if not alive:
            found[role] = "not running"
        elif leader is not None and not leader.failures:
            found[role] = leader.last_error or "ok"
        else:
            failing = leader or max(alive, key=lambda one: one.failures)
            why = f"failing ({failing.failures} in a row): {failing.last_error}"
            found[role] = why if failing.failures else "nobody leads yet"
    return found
