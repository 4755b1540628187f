"""Moments of the past, as requests and commands name them.

12, version:12                 the version of the run or project that is asked about
position:4711                  after that event of the ledger
2026-01-31T12:00:00Z           what had been recorded by then (RFC 3339; without an offset it is UTC)
"""

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec

from events.errors import NotFound
from events.sql import load
from projections.past import Moment
from projections.runs import Reader
from service.problems import Invalid

MAX_VERSION: Final = (1 << 31) - 1
MAX_POSITION: Final = (1 << 62) - 1
FORMS: Final = "a version such as 12, a position such as position:4711, or a time such as 2026-01-31T12:00:00Z"


class Version(msgspec.Struct, frozen=True):
    """The version of one stream."""

    number: int


class Position(msgspec.Struct, frozen=True):
    """A place in a ledger."""

    number: int


At = Version | Position | datetime


def parse(text: str, path: str = "at") -> At:
    """Return what a text names. Raises `Invalid`."""
    kind, colon, number = text.partition(":")
    if text.isdecimal() or (colon and kind == "version"):
        return Version(_number(number if colon else text, MAX_VERSION, text, path))
    if colon and kind == "position":
        return Position(_number(number, MAX_POSITION, text, path))
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"`{path}` is {FORMS}, not {text[:40]!r}", path=path) from None


def _number(digits: str, limit: int, text: str, path: str) -> int:
    if not (digits.isascii() and digits.isdecimal()):
        raise Invalid(f"`{path}` is {FORMS}, not {text[:40]!r}", path=path)
    number = int(digits[:20])
    if not 1 <= number <= limit:
        raise Invalid(f"versions and positions begin at 1 and end at {limit}", path=path, limit=limit)
    return number


async def moment(reader: Reader, ledger_id: UUID, at: At, *, stream: UUID | None = None, path: str = "at") -> Moment:
    """Return where a ledger stood. Raises `Invalid` for what lies beyond its head, `NotFound` for no such ledger.

    Only a `stream` has versions.
    """
    match at:
        case Version():
            return await _of_version(reader, ledger_id, stream, at.number, path)
        case Position():
            head = await reader.fetchval("select position from ledger.head where ledger_id = $1", ledger_id)
            if at.number > (head or 0):
                raise Invalid(f"position {at.number} lies beyond the ledger's head, {head or 0}", path=path, limit=head)
            recorded_at = await reader.fetchval(
                "select recorded_at from ledger.event where ledger_id = $1 and position = $2", ledger_id, at.number
            )
            return Moment(at.number, recorded_at)
        case datetime():
            row = await reader.fetchrow(load("projections.sql", "position_at"), ledger_id, at)
            if row is None:
                raise NotFound("there is no such ledger")
            if at > row["now"]:
                raise Invalid(f"{at.isoformat()} has not come yet: it is {row['now'].isoformat()}", path=path)
            return Moment(row["position"], at)


async def _of_version(reader: Reader, ledger_id: UUID, stream: UUID | None, version: int, path: str) -> Moment:
    if stream is None:
        raise Invalid("only one run or project has versions; name a position or a time", path=path)
    row = await reader.fetchrow(
        "select position, recorded_at from ledger.event where ledger_id = $1 and stream = $2 and version = $3",
        ledger_id,
        stream,
        version,
    )
    if row is None:
        newest = await reader.fetchval(
            "select version from ledger.stream where ledger_id = $1 and stream = $2", ledger_id, stream
        )
        raise Invalid(f"version {version} lies beyond the newest, {newest}", path=path, limit=newest)
    return Moment(row["position"], row["recorded_at"])
