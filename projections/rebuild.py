"""A projection done again from the ledger, beside the live one, compared with it row by row, and put in its place.

    rebuilt = await rebuild(ledger, owner_url, projection)                # compares only
    rebuilt = await rebuild(ledger, owner_url, projection, swap=True)     # and swaps

It is built in short transactions up to where the live one stands, while appends go on. To compare, it is brought level
inside one snapshot. To swap, whoever moves the live one (appends, or the projector) waits for the last few events, the
comparison, and the renaming; what waited goes on with the new tables, and nothing is lost in between.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec.structs import replace

from events.errors import Busy, CorruptHistory, LedgerError
from events.ledger import Ledger
from events.verification import Progress
from projections.apply import Projection, TelemetryMovedError, advance
from projections.credits import Credits
from projections.inline import Runs, Tenancy
from projections.metrics import Metrics
from projections.search.index import Search

log = logging.getLogger("tachograph.rebuild")

SCHEMA: Final = "projection_next"
OLD: Final = "projection_old"
SWAPS: Final = 10
COMPARISONS: Final = 3
SWAP_PAUSE_SECONDS: Final = 0.5
LOCK_SECONDS: Final = 3
SHOWN_DIFFERENCES: Final = 20

INLINE: Final[Mapping[str, Projection]] = {one.name: one for one in (Runs(), Tenancy())}
ASYNCHRONOUS: Final[Mapping[str, Projection]] = {one.name: one for one in (Credits(), Metrics(), Search())}
PROJECTIONS: Final[Mapping[str, Projection]] = {**INLINE, **ASYNCHRONOUS}
"""Everything that can be rebuilt, by name: all tables of the schema `projection` but those in `NOT_PROJECTED`."""

NOT_PROJECTED: Final[Mapping[str, str]] = {
    "checkpoint": "how far each projection is; rebuilt with it",
    "purge": "what a purge under way has found so far; gone once its receipt is an event",
}

NOT_COMPARED: Final[Mapping[str, str]] = {
    # a purge removes these rows some time between the deletion and its receipt
    "segment": "run_id in (select run_id from projection.run where status = 'deleted')",
    "replaced_segment": "run_id in (select run_id from projection.run where status = 'deleted')",
    "artifact": "run_id in (select run_id from projection.run where status = 'deleted')",
}


class RebuildRefusedError(LedgerError):
    """What this projection is made of is neither in Postgres nor where it can look."""


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
    swapped: bool = False
    stopped_seconds: float = 0.0
    """How long writers waited for the swap."""
    left_out: int = 0
    """How many events are in neither, because somebody discarded them as dead letters of this projection."""


async def rebuild(
    ledger: Ledger,
    owner_url: str,
    projection: Projection,
    *,
    swap: bool = False,
    progress: Progress | None = None,
) -> Rebuilt:
    """Rebuild a projection of all ledgers and compare it with the live one at the same positions; perhaps swap them.

    `owner_url` is the owning role's. A swap is tried `SWAPS` times while others hold the tables. Raises
    `RebuildRefusedError` where telemetry that the projection needs is neither in Postgres nor where it can look.
    """
    async with _beside(owner_url, projection) as connection:
        passed = 0
        while True:
            live = await _live(connection, projection)
            more = await _level(ledger, connection, projection, live)
            passed += more
            if progress is not None:
                progress(passed, max(passed, sum(live.values())))
            if not more:
                break
        if swap:
            await finish_copies(connection, projection.tables)
            rebuilt = await _swapped(ledger, connection, projection)
        else:
            rebuilt = await _beside_live(ledger, connection, projection)
        left_out = sum(map(len, (await discarded(connection, projection)).values()))
        return replace(rebuilt, left_out=left_out)


async def _beside_live(ledger: Ledger, connection: asyncpg.Connection, projection: Projection) -> Rebuilt:
    """Bring the rebuilt tables level inside one snapshot, and compare."""
    attempt = 0
    while True:
        attempt += 1
        try:
            async with connection.transaction(isolation="repeatable_read"):
                await keep_whole(connection, projection.tables)
                live = await _live(connection, projection)
                while await _level(ledger, connection, projection, live):
                    pass
                rows, differences = await _differences(connection, projection)
            return Rebuilt(projection.name, rows, differences, live)
        except (RebuildRefusedError, CorruptHistory) as error:
            if attempt == COMPARISONS:
                raise
            log.info("%s: perhaps a run was erased since the snapshot; once more (%s)", projection.name, error)


async def _differences(
    connection: asyncpg.Connection, projection: Projection
) -> tuple[dict[str, int], list[Difference]]:
    """Return how many rows each rebuilt table has, and the first differences from the live ones."""
    rows, differences = {}, []
    for table in projection.tables:
        rows[table] = await connection.fetchval(f"select count(*) from {SCHEMA}.{table}")  # noqa: S608 (our own names)
        differences += await _compared(connection, table)
    return rows, differences


async def _swapped(ledger: Ledger, connection: asyncpg.Connection, projection: Projection) -> Rebuilt:
    """Bring the rebuilt tables level while nobody moves the live ones, compare, and put them in their place."""
    for attempt in range(SWAPS):
        while await _level(ledger, connection, projection, await _live(connection, projection)):
            pass
        began = time.monotonic()
        try:
            async with connection.transaction():
                await connection.execute(f"set local lock_timeout = '{LOCK_SECONDS}s'")
                await _hold(connection, projection)
                live = await _live(connection, projection)
                while await _level(ledger, connection, projection, live):
                    pass
                rows, differences = await _differences(connection, projection)
                for table in projection.tables:
                    await connection.execute(f"alter table projection.{table} set schema {OLD}")
                    await connection.execute(f"alter table {SCHEMA}.{table} set schema projection")
            stopped = time.monotonic() - began
            return Rebuilt(projection.name, rows, differences, live, swapped=True, stopped_seconds=stopped)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            log.info("%s is in use; its swap is tried again (%d)", projection.name, attempt + 1)
            await asyncio.sleep(SWAP_PAUSE_SECONDS * (attempt + 1))
    raise Busy(f"{projection.name} was in use {SWAPS} times when its swap was due")


async def _hold(connection: asyncpg.Connection, projection: Projection) -> None:
    """Hold up whoever moves the live projection: appends to any ledger, or the projector."""
    if projection.name in INLINE:
        await connection.execute("lock table ledger.ledger in share row exclusive mode")  # no new one
        await connection.execute("select from ledger.head order by ledger_id for update")
    else:
        await connection.execute("lock table projection.checkpoint in share row exclusive mode")
    names = ", ".join(f"projection.{table}" for table in projection.tables)
    await connection.execute(f"lock table {names} in access exclusive mode")


async def finish_copies(connection: asyncpg.Connection, tables: Sequence[str]) -> None:
    """Give rebuilt tables what the live ones have besides rows: constraints, indexes, options, statistics, grants."""
    for table in tables:
        for statement in await connection.fetch(_FINISH, f"projection.{table}", SCHEMA, table):
            await connection.execute(statement["text"])
        await connection.execute(f"analyze {SCHEMA}.{table}")


_FINISH: Final = """
select format('alter table %I.%I add constraint %I %s', $2::text, $3::text, c.conname,
              pg_get_constraintdef(c.oid)) as text
from pg_constraint c where c.conrelid = $1::regclass and c.contype = 'u'
union all
select replace(pg_get_indexdef(i.indexrelid), ' ON projection.', format(' ON %I.', $2::text))
from pg_index i
where i.indrelid = $1::regclass and not exists (select from pg_constraint c where c.conindid = i.indexrelid)
union all
select format('alter table %I.%I set (%s)', $2::text, $3::text, array_to_string(t.reloptions, ', '))
from pg_class t where t.oid = $1::regclass and t.reloptions is not null
union all
select format('alter table %I.%I alter column %I set statistics %s', $2::text, $3::text, a.attname, a.attstattarget)
from pg_attribute a where a.attrelid = $1::regclass and a.attnum > 0 and not a.attisdropped and a.attstattarget >= 0
union all
select format('grant %s on %I.%I to %s', g.privilege_type, $2::text, $3::text, g.grantee::regrole)
from pg_class t, aclexplode(t.relacl) g where t.oid = $1::regclass and g.grantee <> t.relowner
"""


@asynccontextmanager
async def _beside(owner_url: str, projection: Projection) -> AsyncIterator[asyncpg.Connection]:
    """Give a connection whose search path starts at empty copies of the projection's tables; drop them afterwards."""
    connection = await asyncpg.connect(
        owner_url, server_settings={"search_path": f"{SCHEMA}, ledger", "application_name": "tachograph-rebuild"}
    )
    try:
        await connection.execute("select pg_advisory_lock(hashtext('tachograph.rebuild'))")
        await connection.execute(f"drop schema if exists {SCHEMA} cascade; create schema {SCHEMA}")
        await connection.execute(f"drop schema if exists {OLD} cascade; create schema {OLD}")
        await copy_empty(connection, (*projection.tables, "checkpoint"))
        yield connection
        await connection.execute(f"drop schema {SCHEMA} cascade; drop schema {OLD} cascade")
    finally:
        await connection.close()


async def copy_empty(connection: asyncpg.Connection, tables: Sequence[str]) -> None:
    """Create empty copies of projections' tables where the search path begins, with no index but the primary key."""
    for table in tables:
        await connection.execute(f"create table {table} (like projection.{table} including all excluding indexes)")
        key = await connection.fetchval(
            "select pg_get_constraintdef(oid) from pg_constraint where conrelid = $1::regclass and contype = 'p'",
            f"projection.{table}",
        )
        await connection.execute(f"alter table {table} add {key}")


async def keep_whole(connection: asyncpg.Connection, tables: Sequence[str]) -> None:
    """Lock live tables against being rewritten, before a snapshot is taken to which a rewritten table were empty."""
    await connection.execute(f"lock table {', '.join(f'projection.{table}' for table in tables)} in access share mode")


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
    left_out = await discarded(connection, projection)
    try:
        for ledger_id, position in targets.items():
            without = left_out.get(ledger_id, ())
            passed += await advance(ledger, projection, ledger_id, into=connection, up_to=position, without=without)
    except TelemetryMovedError as moved:
        raise RebuildRefusedError(f"{projection.name} cannot be rebuilt from what is there: {moved}") from moved
    return passed


async def discarded(connection: asyncpg.Connection, projection: Projection) -> dict[UUID, list[int]]:
    """Return the positions that the live projection was told to go on without."""
    rows = await connection.fetch(
        "select ledger_id, array_agg(position) as positions from operation.dead_letter"
        " where reader = $1 and state = 'discarded' group by ledger_id",
        f"projector.{projection.name}",
    )
    return {row["ledger_id"]: row["positions"] for row in rows}


async def _compared(connection: asyncpg.Connection, table: str) -> list[Difference]:
    """Return the rows that only one side has; floats are compared bit by bit."""
    listed = await compared_columns(connection, table)
    where = f"where not ({NOT_COMPARED[table]})" if table in NOT_COMPARED else ""
    live = f"select {listed} from projection.{table} {where}"  # noqa: S608 (our own names)
    rebuilt = f"select {listed} from {SCHEMA}.{table} {where}"  # noqa: S608 (our own names)
    found = []
    for side, one, other in (("live", live, rebuilt), ("rebuilt", rebuilt, live)):
        rows: Sequence[asyncpg.Record] = await connection.fetch(f"({one}) except ({other}) limit {SHOWN_DIFFERENCES}")
        found += [Difference(table, side, dict(row)) for row in rows]
    return found


async def compared_columns(connection: asyncpg.Connection, table: str) -> str:
    """Return a table's columns as a select list in which floats are their bytes."""
    columns = await connection.fetch(
        "select attname, atttypid = 'float8'::regtype as is_float from pg_attribute"
        " where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum",
        f"projection.{table}",
    )
    return ", ".join(
        f'float8send("{one["attname"]}") as "{one["attname"]}"' if one["is_float"] else f'"{one["attname"]}"'
        for one in columns
    )
