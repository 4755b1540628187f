"""Checks projections against their events: each stream of a ledger is folded afresh, and compared with its rows.

A page of streams at a time: live rows are read in one short snapshot, the events up to the versions that they had then
are folded into temporary tables by the code that rebuilds, and the two are compared column by column. Besides inline
projections these are credits, as far as they have come; what telemetry adds up to is compared by a rebuild alone.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence, Set
from typing import Any, Final, Self
from uuid import UUID

import asyncpg

from events.ledger import Ledger, Recorded
from events.sql import load
from events.verification import FirstBad, Progress
from projections.apply import Projection
from projections.credits import Credits
from projections.inline import Runs, Tenancy
from projections.rebuild import NOT_COMPARED, compared_columns, copy_empty, discarded, keep_whole

PAGE_STREAMS: Final = 100
PAGE_VERSIONS: Final = 500
SHOWN_COLUMNS: Final = 3
SHOWN_CHARACTERS: Final = 60
ATTEMPTS: Final = 3
"""A deletion may take payloads between the snapshot and the fold; what differs is looked at again."""

RUNS: Final = Runs()
TENANCY: Final = Tenancy()
CREDITS: Final = Credits()

KEYS: Final[Mapping[str, str]] = {
    "run": "run_id",
    "run_transition": "run_id",
    "demand": "run_id",
    "segment": "run_id",
    "replaced_segment": "run_id",
    "artifact": "run_id",
    "organisation": "organisation_id",
    "account": "account_id",
    "api_key": "key_id",
    "worker": "worker_id",
    "project": "project_id",
    "workflow": "workflow_id",
    "sweep": "sweep_id",
    "subscription": "subscription_id",
    "run_credit": "run_id",
    "credit_day": "run_id",
}


async def check_projections(
    ledger: Ledger, database_url: str, ledger_id: UUID, *, progress: Progress | None = None
) -> tuple[int, FirstBad | None]:
    """Return how many rows of projections were compared, and the first found to differ.

    `database_url` is the application role's; memory is bounded by a page of streams. The search path of the connection
    holds temporary tables alone, so that nothing it does can reach a live one.
    """
    connection = await asyncpg.connect(
        database_url, server_settings={"search_path": "pg_temp", "application_name": "tachograph-verify"}
    )
    try:
        await copy_empty(connection, list(KEYS))
        listed = {table: await compared_columns(connection, table) for table in KEYS}
        checked, after = 0, UUID(int=0)
        total = await connection.fetchval("select count(*) from ledger.stream where ledger_id = $1", ledger_id)
        streams = 0
        while True:
            page, rows, bad = await _page(ledger, connection, ledger_id, after, listed)
            checked += rows
            if bad is not None:
                return checked, bad
            if not page:
                return checked, await _made_up(connection, ledger_id) or await _owner(connection, ledger_id)
            after = page[-1]
            streams += len(page)
            if progress is not None:
                progress(streams, max(total, streams))
    finally:
        await connection.close()


async def _page(
    ledger: Ledger, connection: asyncpg.Connection, ledger_id: UUID, after: UUID, listed: Mapping[str, str]
) -> tuple[list[UUID], int, FirstBad | None]:
    """Return a page's streams, how many live rows they have, and what differs every time that it is looked at."""
    streams: list[UUID] = []
    rows, bad = 0, None
    for _ in range(ATTEMPTS):
        async with connection.transaction(isolation="repeatable_read"):
            await keep_whole(connection, list(KEYS))
            found = await connection.fetch(
                "select stream, version, epoch from ledger.stream where ledger_id = $1 and stream > $2"
                " order by stream limit $3",
                ledger_id,
                after,
                PAGE_STREAMS,
            )
            streams = [row["stream"] for row in found]
            counting = await _Counting.of(connection, ledger_id)
            last = {row["stream"]: await _fold(ledger, connection, ledger_id, row, counting) for row in found}
            rows, bad = await _compare(connection, ledger_id, last, listed, counting.ahead)
            if bad is None:
                bad = await _fences(connection, ledger_id, streams)
            await connection.execute("; ".join(f"delete from {table}" for table in KEYS))  # noqa: S608 (our own names)
        if bad is None:
            break
    return streams, rows, bad


class _Counting:
    """How far credits are in a snapshot, what they go on without, and which deletions they have yet to see.

    What a run had cost is told by its deletion once its history is gone: until then they are ahead of a fold.
    """

    def __init__(self, position: int, without: Collection[int]) -> None:
        self.position = position
        self.without = without
        self.ahead: set[UUID] = set()

    @classmethod
    async def of(cls, connection: asyncpg.Connection, ledger_id: UUID) -> Self:
        position = await connection.fetchval(
            "select position from projection.checkpoint where projection = $1 and ledger_id = $2",
            CREDITS.name,
            ledger_id,
        )
        return cls(position or 0, (await discarded(connection, CREDITS)).get(ledger_id, ()))

    def of_these(self, events: Sequence[Recorded]) -> list[Recorded]:
        """Return the events that have been counted; none of a run whose deletion was not."""
        self.ahead |= {one.stream for one in events if one.type == "run.deleted" and one.position > self.position}
        return [
            one
            for one in events
            if one.type in CREDITS.types
            and one.position <= self.position
            and one.position not in self.without
            and one.stream not in self.ahead
        ]


async def _fold(
    ledger: Ledger, connection: asyncpg.Connection, ledger_id: UUID, stream: asyncpg.Record, counting: _Counting
) -> int:
    """Fold a stream's events up to its version into the temporary tables; returns the last one's position."""
    position, projection = 0, None
    for after in range(0, stream["version"], PAGE_VERSIONS):
        up_to = min(after + PAGE_VERSIONS, stream["version"])
        events = await ledger.read_stream(ledger_id, stream["stream"], after=after, up_to=up_to)
        if not events:
            break
        if projection is None:
            projection = _projection_of(events[0].type)
        await projection.apply(connection, ledger_id, events)
        if projection is RUNS and (counted := counting.of_these(events)):
            await CREDITS.apply(connection, ledger_id, counted)
        position = events[-1].position
    return position


def _projection_of(kind: str) -> Projection:
    return RUNS if kind.startswith("run.") else TENANCY


async def _compare(
    connection: asyncpg.Connection,
    ledger_id: UUID,
    last: Mapping[UUID, int],
    listed: Mapping[str, str],
    uncounted: Set[UUID],
) -> tuple[int, FirstBad | None]:
    rows = 0
    for table, key in KEYS.items():
        where = f"{key} = any($1)"
        if table in NOT_COMPARED:
            where += f" and not ({NOT_COMPARED[table]})"
        live = f"select {listed[table]} from projection.{table} where {where}"  # noqa: S608 (our own names)
        fresh = f"select {listed[table]} from pg_temp.{table} where {where}"  # noqa: S608 (our own names)
        ids = [stream for stream in last if table not in CREDITS.tables or stream not in uncounted]
        rows += await connection.fetchval(f"select count(*) from projection.{table} where {where}", ids)  # noqa: S608
        stands = await connection.fetch(f"({live}) except ({fresh}) limit 20", ids)
        folded = await connection.fetch(f"({fresh}) except ({live}) limit 20", ids)
        if stands or folded:
            return rows, _named(table, key, last, stands, folded, ledger_id)
    return rows, None


def _named(
    table: str,
    key: str,
    last: Mapping[UUID, int],
    stands: Sequence[asyncpg.Record],
    folded: Sequence[asyncpg.Record],
    ledger_id: UUID,
) -> FirstBad:
    """Say which row differs, in which columns; where only one side has it, that."""
    one: Any = stands[0] if stands else folded[0]
    position = last.get(one[key], 0) or last.get(ledger_id, 0)
    row = f"projection.{table} of {one[key]}"
    if not folded:
        return FirstBad(position, f"{row}: a row that no event leads to")
    if not stands:
        return FirstBad(position, f"{row}: a row is missing that its events lead to")
    other = next((row for row in folded if row[key] == one[key]), folded[0])
    columns = [name for name, value in one.items() if other[name] != value]
    values = [f"{name} is {_shown(one[name])}, not {_shown(other[name])}" for name in columns[:SHOWN_COLUMNS]]
    return FirstBad(position, f"{row}: {', '.join(columns)} differ from a fresh fold ({'; '.join(values)})")


def _shown(value: object) -> str:
    """Return a column's value as people can tell it from another."""
    if isinstance(value, bytes):
        return f"{len(value)} bytes with SHA-256 {hashlib.sha256(value).hexdigest()[:12]}…"
    shown = repr(value) if isinstance(value, str | None) else str(value)
    return shown if len(shown) <= SHOWN_CHARACTERS else f"{shown[:SHOWN_CHARACTERS]}…"


async def _fences(connection: asyncpg.Connection, ledger_id: UUID, streams: Sequence[UUID]) -> FirstBad | None:
    """Compare what lets telemetry in, attempt and gate, with the runs' rows, which have just been found right.

    What is no run takes none.
    """
    row = await connection.fetchrow(load("projections.sql", "misfenced"), ledger_id, streams)
    if row is None:
        return None
    one = f"the row of its stream {row['stream']}"
    if row["epoch"] != row["attempt"]:
        return FirstBad(row["position"], f"{one} says epoch {row['epoch']}, its events {row['attempt']}")
    return FirstBad(row["position"], f"{one} says gate {row['gate']}, its events {row['due']}")


async def _made_up(connection: asyncpg.Connection, ledger_id: UUID) -> FirstBad | None:
    """Return a live row of this ledger whose stream does not exist; a project's is in a ledger of its own."""
    for table, key in KEYS.items():
        owner = "organisation_id" if table in TENANCY.tables and table not in {"workflow", "sweep"} else "ledger_id"
        of = f"t.{key}" if table == "project" else "$1"
        stream = await connection.fetchval(
            f"select t.{key} from projection.{table} t where t.{owner} = $1 and not exists"  # noqa: S608 (our own names)
            f" (select from ledger.stream s where s.ledger_id = {of} and s.stream = t.{key}) limit 1",
            ledger_id,
        )
        if stream is not None:
            return FirstBad(0, f"projection.{table} of {stream}: a row that no event leads to")
    return None


async def _owner(connection: asyncpg.Connection, ledger_id: UUID) -> FirstBad | None:
    """Compare whose the ledger is, as its own row says, with what its first event led to."""
    row = await connection.fetchrow(load("projections.sql", "misowned"), ledger_id)
    if row is None:
        return None
    said, led = (
        f"{kind} of {owner}" for kind, owner in ((row["kind"], row["organisation_id"]), (row["due"], row["owner"]))
    )
    return FirstBad(1, f"the row in ledger.ledger says {said}, its events {led}")
