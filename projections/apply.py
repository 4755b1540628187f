"""How every asynchronous projection keeps up: by position, a page at a time, rows and checkpoint in one transaction.

    moved = await advance(ledger, projection, ledger_id)   # 0: nothing to do, or another process was faster

Any number of processes may advance the same projection; of two that read from the same position one commits, the
other rolls back. Nothing here needs NATS.
"""

from collections.abc import Collection, Sequence
from typing import Final, Protocol, TypeAlias
from uuid import UUID

import asyncpg
import msgspec
from asyncpg.pool import PoolConnectionProxy

from events.codec import TELEMETRY
from events.errors import CorruptHistory, LedgerError, NotFound
from events.ledger import Fact, Ledger
from events.sql import load

WINDOW_POSITIONS: Final = 50_000
"""How many positions one page looks through for the types that it wants."""

Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy


class Projection(Protocol):
    """What some types of events add up to.

    `apply` folds events, in order, into its `tables`, named without a schema; it must come to the same rows however
    the events are cut into pages. `page_events` bounds a page's memory.
    """

    @property
    def name(self) -> str: ...
    @property
    def types(self) -> tuple[str, ...]: ...
    @property
    def tables(self) -> tuple[str, ...]: ...
    @property
    def page_events(self) -> int: ...

    async def apply(self, connection: Connection, ledger_id: UUID, events: Sequence[Fact]) -> None:
        """Fold a page into the tables; `connection` is in a transaction."""


class TelemetryMovedError(LedgerError):
    """A batch is in Parquet only, and this projection reads Postgres."""


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a projection of a ledger is, and how far the ledger."""

    position: int
    head: int


class _OvertakenError(Exception):
    """Another process has committed this page."""


async def checkpoint(reader: asyncpg.Pool | Connection, projection: str, ledger_id: UUID) -> Checkpoint:
    """Return how far a projection of a ledger is. Raises `NotFound` where there is no such ledger."""
    row = await reader.fetchrow(load("projections.sql", "read_checkpoint"), projection, ledger_id)
    if row is None:
        raise NotFound("there is no such ledger")
    return Checkpoint(row["position"], row["head"])


async def advance(
    ledger: Ledger,
    projection: Projection,
    ledger_id: UUID,
    *,
    into: Connection | None = None,
    up_to: int | None = None,
    limit: int | None = None,
    without: Collection[int] = (),
) -> int:
    """Apply the next page and return how many positions were passed.

    `into` is a connection to write by (its search path chooses the schema) instead of one of the pool; `up_to` a
    position not to go past; `limit` a smaller page; `without` positions to pass over. Raises whatever `apply` raises,
    with nothing written.
    """
    stands = await checkpoint(into or ledger.pool, projection.name, ledger_id)
    end = min(stands.head if up_to is None else min(up_to, stands.head), stands.position + WINDOW_POSITIONS)
    if end <= stands.position:
        return 0
    size = limit or projection.page_events
    read = ledger.facts if TELEMETRY.isdisjoint(projection.types) else ledger.read
    page: Sequence[Fact] = await read(ledger_id, after=stands.position, up_to=end, limit=size, types=projection.types)
    reached = page[-1].position if page else end
    page = [recorded for recorded in page if recorded.position not in without]
    try:
        if into is not None:
            await _commit(into, projection, ledger_id, page, stands.position, reached)
        else:
            async with ledger.pool.acquire() as connection:
                await _commit(connection, projection, ledger_id, page, stands.position, reached)
    except _OvertakenError:
        return 0
    return reached - stands.position


async def _commit(
    connection: Connection, projection: Projection, ledger_id: UUID, page: Sequence[Fact], after: int, reached: int
) -> None:
    if not page and after:  # one statement is a transaction by itself
        await _move(connection, projection, ledger_id, after, reached)
        return
    async with connection.transaction():
        if after == 0:
            await connection.execute(load("projections.sql", "open_checkpoint"), projection.name, ledger_id)
        await _move(connection, projection, ledger_id, after, reached)
        if page:
            await projection.apply(connection, ledger_id, page)


async def _move(connection: Connection, projection: Projection, ledger_id: UUID, after: int, reached: int) -> None:
    moved = await connection.fetchval(
        load("projections.sql", "move_checkpoint"), projection.name, ledger_id, after, reached
    )
    if moved is None:
        raise _OvertakenError


async def present(connection: Connection, ledger_id: UUID, events: Sequence[Fact]) -> list[Fact]:
    """Return the events whose payload is there; the others must belong to deleted streams.

    Raises `TelemetryMovedError` for a batch that was archived, `CorruptHistory` for any other missing payload.
    """
    missing = [recorded for recorded in events if recorded.payload is None]
    if not missing:
        return list(events)
    streams = {recorded.stream for recorded in missing}
    rows = await connection.fetch(load("projections.sql", "not_erased"), ledger_id, list(streams))
    kept = {row["stream"] for row in rows}
    for recorded in missing:
        if recorded.stream in kept:
            where = f"of {recorded.type} at position {recorded.position} of ledger {ledger_id}"
            if recorded.type in TELEMETRY:
                raise TelemetryMovedError(f"the payload {where} is in Parquet only")
            raise CorruptHistory(f"the payload {where} is gone, but its stream was not deleted")
    return [recorded for recorded in events if recorded.payload is not None]


def older(events: Sequence[Fact]) -> list[UUID]:
    """Return the streams of a page that began before it; of the others a projection has stored nothing yet."""
    begun = {recorded.stream for recorded in events if recorded.version == 1}
    return list({recorded.stream for recorded in events} - begun)
