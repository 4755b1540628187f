"""A projection done again from the ledger, beside the live one, and compared with it row by row.

    rebuilt = await rebuild(ledger, owner_url, projection)
    assert not rebuilt.differences

It is built in short transactions up to where the live one stands, then brought level and compared inside one
snapshot; appends go on meanwhile. Nothing but tables is touched, and the live ones only read.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from events.errors import LedgerError
from events.ledger import Ledger
from projections.apply import Projection, TelemetryMovedError, advance
from projections.credits import Credits
from projections.inline import Runs, Tenancy
from projections.metrics import Metrics

SCHEMA: Final = "projection_next"
SHOWN_DIFFERENCES: Final = 20

INLINE: Final[Mapping[str, Projection]] = {one.name: one for one in (Runs(), Tenancy())}
ASYNCHRONOUS: Final[Mapping[str, Projection]] = {one.name: one for one in (Credits(), Metrics())}
PROJECTIONS: Final[Mapping[str, Projection]] = {**INLINE, **ASYNCHRONOUS}
"""Everything that can be rebuilt, by name."""

_NOT_COMPARED: Final[Mapping[str, str]] = {
    # a purge removes these rows some time between the deletion and its receipt
    "segment": "run_id in (select run_id from projection.run where status = 'deleted')",
}


class RebuildRefusedError(LedgerError):
    """The ledger's tables alone do not hold what this projection is made of any more."""


class Difference(msgspec.Struct, frozen=True):
    """A row that only one side has: `live` or `rebuilt`. Floats are shown as the bytes that were compared."""

    table: str
    side: str
    row: dict[str, Any]


class Rebuilt(msgspec.Struct, frozen=True):
    """How a rebuilt projection compares: rows per table, differences (the first of them), ledgers and positions."""

    projection: str
    rows: dict[str, int]
    differences: list[Difference]
    positions: dict[UUID, int]


async def rebuild(ledger: Ledger, owner_url: str, projection: Projection) -> Rebuilt:
    """Rebuild a projection of all ledgers and compare it with the live one at the same positions.

    `owner_url` is the owning role's. Raises `RebuildRefusedError` where telemetry that the projection needs is in
    Parquet only.
    """
    async with _beside(owner_url, projection) as connection:
        while await _level(ledger, connection, projection, await _live(connection, projection)):
            pass
        async with connection.transaction(isolation="repeatable_read"):
            live = await _live(connection, projection)
            while await _level(ledger, connection, projection, live):
                pass
            rows, differences = {}, []
            for table in projection.tables:
                rows[table] = await connection.fetchval(f"select count(*) from {SCHEMA}.{table}")  # noqa: S608 (our own names)
                differences += await _compared(connection, table)
        return Rebuilt(projection.name, rows, differences, live)


@asynccontextmanager
async def _beside(owner_url: str, projection: Projection) -> AsyncIterator[asyncpg.Connection]:
    """Give a connection whose search path starts at empty copies of the projection's tables; drop them afterwards."""
    connection = await asyncpg.connect(
        owner_url, server_settings={"search_path": f"{SCHEMA}, ledger", "application_name": "tachograph-rebuild"}
    )
    try:
        await connection.execute("select pg_advisory_lock(hashtext('tachograph.rebuild'))")
        await connection.execute(f"drop schema if exists {SCHEMA} cascade; create schema {SCHEMA}")
        for table in (*projection.tables, "checkpoint"):
            await connection.execute(f"create table {table} (like projection.{table} including all excluding indexes)")
            key = await connection.fetchval(
                "select pg_get_constraintdef(oid) from pg_constraint where conrelid = $1::regclass and contype = 'p'",
                f"projection.{table}",
            )
            await connection.execute(f"alter table {table} add {key}")
        yield connection
        await connection.execute(f"drop schema {SCHEMA} cascade")
    finally:
        await connection.close()


async def _live(connection: asyncpg.Connection, projection: Projection) -> dict[UUID, int]:
    """Return where the live projection of each ledger stands."""
    if projection.name in INLINE:
        rows = await connection.fetch("select ledger_id, position from ledger.head")
    else:
        rows = await connection.fetch(
            "select ledger_id, position from projection.checkpoint where projection = $1", projection.name
        )
    return {row["ledger_id"]: row["position"] for row in rows}


async def _level(
    ledger: Ledger, connection: asyncpg.Connection, projection: Projection, targets: Mapping[UUID, int]
) -> int:
    """Apply one page of each ledger; returns how many positions were passed."""
    passed = 0
    try:
        for ledger_id, position in targets.items():
            passed += await advance(ledger, projection, ledger_id, into=connection, up_to=position)
    except TelemetryMovedError as moved:
        raise RebuildRefusedError(f"{projection.name} cannot be rebuilt from Postgres alone: {moved}") from moved
    return passed


async def _compared(connection: asyncpg.Connection, table: str) -> list[Difference]:
    """Return the rows that only one side has; floats are compared bit by bit."""
    columns = await connection.fetch(
        "select attname, atttypid = 'float8'::regtype as is_float from pg_attribute"
        " where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum",
        f"projection.{table}",
    )
    listed = ", ".join(
        f'float8send("{one["attname"]}") as "{one["attname"]}"' if one["is_float"] else f'"{one["attname"]}"'
        for one in columns
    )
    where = f"where not ({_NOT_COMPARED[table]})" if table in _NOT_COMPARED else ""
    live = f"select {listed} from projection.{table} {where}"  # noqa: S608 (our own names)
    rebuilt = f"select {listed} from {SCHEMA}.{table} {where}"  # noqa: S608 (our own names)
    found = []
    for side, one, other in (("live", live, rebuilt), ("rebuilt", rebuilt, live)):
        rows: Sequence[asyncpg.Record] = await connection.fetch(f"({one}) except ({other}) limit {SHOWN_DIFFERENCES}")
        found += [Difference(table, side, dict(row)) for row in rows]
    return found
