"""Upkeep of the telemetry partitions: the coming hours' are made, those in Parquet are dropped."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from events.sql import load
from projections.archive.parquet import File
from projections.archive.stores import Store
from workers.crashpoints import crash_point

log = logging.getLogger("tachograph.archiver")

HOURS_AHEAD: Final = 3


async def create(pool: asyncpg.Pool) -> None:
    """Create the partitions of this hour and the coming ones.

    Nothing is lost without them (batches go to the default partition), so a failure is said and passed over.
    """
    try:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("set local lock_timeout = '2s'")
            await connection.execute("select ledger.create_partitions($1)", HOURS_AHEAD)
        crash_point("archiver.after_create")
    except asyncpg.PostgresError:
        log.exception("telemetry partitions were not created")


async def drop_archived(pool: asyncpg.Pool, store: Store, keep: timedelta) -> Sequence[str]:
    """Drop the partitions that ended over `keep` ago and are wholly in Parquet; returns their names.

    A run whose files are not all there, byte by byte, keeps its batches. A partition that is in use
    is left for the next time.
    """
    rows = await pool.fetch(load("projections.sql", "archived_streams"), datetime.now(UTC) - keep)
    whole = await asyncio.to_thread(_whole, store, rows)
    try:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("set local lock_timeout = '2s'")
            dropped = await connection.fetch(
                "select ledger.drop_partitions($1, $2, $3, $4) as name",
                keep,
                [row["stream"] for row in whole],
                [row["metrics"] for row in whole],
                [row["logs"] for row in whole],
            )
    except asyncpg.LockNotAvailableError as error:
        log.warning("telemetry partitions are in use and stay for now: %s", error)
        return []
    names = [row["name"] for row in dropped]
    if names:
        crash_point("archiver.after_drop")
        log.info("dropped %s", ", ".join(names))
    return names


def _whole(store: Store, rows: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    whole = []
    for row in rows:
        lost = [
            path
            for path, size, digest in zip(row["paths"], row["sizes"], row["digests"], strict=True)
            if not store.is_whole(File(path, size, digest))
        ]
        if lost:
            log.error("run %s: its Parquet files are not whole, its batches stay: %s", row["stream"], lost)
        else:
            whole.append(row)
    return whole
