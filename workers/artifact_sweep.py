"""What uploads left behind: those that nobody goes on with, and parts that belong to nothing.

Source: docs/decisions/0013-artifacts.md.
"""

import logging
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

from events.sql import load
from projections.storage.artifacts import ROOT, blob_prefix
from projections.storage.objects import Found, ObjectStore
from workers.crashpoints import crash_point

log = logging.getLogger("tachograph.archiver")

UPLOADS_AT_A_TIME: Final = 100


async def remove_stale_uploads(pool: asyncpg.Pool, objects: ObjectStore, seconds: float) -> int:
    """Remove the parts and rows of uploads that nobody touched for that long; returns how many.

    One whose artifact was recorded before its row could go loses the row alone.
    """
    removed = 0
    while rows := await pool.fetch(load("projections.sql", "condemn_stale_uploads"), seconds, UPLOADS_AT_A_TIME):
        for row in rows:
            if not row["saved"]:
                log.warning("run %s: upload %s was never finished; it is removed", row["run_id"], row["upload_id"])
                await objects.remove(blob_prefix(row["ledger_id"], row["run_id"], row["upload_id"]))
                crash_point("archiver.after_stale_upload")
            await pool.execute(load("projections.sql", "forget_upload"), row["upload_id"])
        removed += len(rows)
    return removed


async def remove_orphans(pool: asyncpg.Pool, objects: ObjectStore, seconds: float) -> int:
    """Remove parts that belong to neither an artifact nor an upload, once they are that old; returns how many objects.

    Nothing in our own order of steps leaves such parts: a process that stood still for long, or a database that was
    restored from a backup, does. What is of no ledger of this database is left alone.
    """
    latest = datetime.now(UTC) - timedelta(seconds=seconds)
    removed = 0
    async for page in objects.pages(ROOT):
        old = [(where, one) for one in page if one.modified <= latest and (where := _blob(one)) is not None]
        blobs = sorted({where for where, _ in old})
        rows = await pool.fetch(
            load("projections.sql", "unknown_blobs"), [ledger for ledger, _ in blobs], [blob for _, blob in blobs]
        )
        unknown = {row["blob_id"] for row in rows}
        paths = [one.path for (_, blob), one in old if blob in unknown]
        for path in paths:
            log.warning("removing %s, which no artifact has", path)
        await objects.delete(paths)
        if paths:
            crash_point("archiver.after_orphan_parts")
        removed += len(paths)
    return removed


def _blob(found: Found) -> tuple[UUID, UUID] | None:
    """Return the ledger and blob of a part, as its path tells."""
    try:
        ledger, _, blob, _ = found.path.removeprefix(ROOT).split("/")
        return UUID(ledger.removeprefix("ledger=")), UUID(blob)
    except ValueError:
        return None
