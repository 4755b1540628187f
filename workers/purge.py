"""The purge: a deleted run's contents leave every store, and a receipt says what they gave up.

Every step may be repeated, so a purge that died half way is simply done again. The key goes first: from
then on nothing in Postgres can be read. Stores that others still copy into come last, once those have
passed the deletion.
"""

import asyncio
import logging
from collections import Counter
from pathlib import Path
from typing import Final
from uuid import UUID

from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from events.commands import RecordPurge
from events.ledger import Ledger
from events.sql import load
from events.types import StoreReceipt
from projections import archive
from projections.execute import asked_by, execute
from projections.runs import StoredRun

log = logging.getLogger("tachograph.archiver")

STREAM_SUBJECTS: Final = (("EVENTS", "tachograph.events"), ("TELEMETRY", "tachograph.telemetry"))


class Purge:
    """Erases deleted runs; remembers what earlier tries of this process found."""

    def __init__(self, ledger: Ledger, root: Path, jetstream: JetStreamContext | None, actor: str) -> None:
        self._ledger = ledger
        self._root = root
        self._jetstream = jetstream
        self._actor = actor
        self._objects: dict[UUID, Counter[str]] = {}
        self._bytes: dict[UUID, Counter[str]] = {}

    async def purge(self, stored: StoredRun) -> bool:
        """Erase a deleted run; False when a reader still lags behind its deletion and the rest must wait."""
        ledger_id, run_id = stored.ledger_id, stored.run_id
        objects = self._objects.setdefault(run_id, Counter())
        sizes = self._bytes.setdefault(run_id, Counter())
        erased, size = await self._ledger.erase(ledger_id, run_id)
        behind = await self._ledger.pool.fetchval(
            load("projections.sql", "still_reading"), ledger_id, stored.position, self._jetstream is not None
        )
        rows = await self._ledger.pool.fetchval(load("projections.sql", "forget_run"), ledger_id, run_id)
        objects["postgres"] += erased + rows
        sizes["postgres"] += size
        files, size = await asyncio.to_thread(archive.remove_run, self._root, ledger_id, run_id)
        objects["parquet"] += files
        sizes["parquet"] += size
        if behind:
            return False
        if self._jetstream is not None:
            objects["jetstream"] += await self._purge_messages(self._jetstream, ledger_id, run_id)
        receipt = {store: StoreReceipt(objects[store], sizes[store]) for store in sorted(objects)}
        await execute(self._ledger, ledger_id, run_id, RecordPurge(receipt=receipt), asked_by(self._actor))
        del self._objects[run_id], self._bytes[run_id]
        log.info("run %s: purged, %s", run_id, receipt)
        return True

    async def _purge_messages(self, jetstream: JetStreamContext, ledger_id: UUID, run_id: UUID) -> int:
        """Purge the run's messages; returns how many there were (JetStream does not tell their bytes)."""
        messages = 0
        for stream, prefix in STREAM_SUBJECTS:
            subject = f"{prefix}.{ledger_id}.{run_id}.>"
            try:
                info = await jetstream.stream_info(stream, subjects_filter=subject)
                messages += sum((info.state.subjects or {}).values())
                await jetstream.purge_stream(stream, subject=subject)
            except NotFoundError:
                continue  # no such stream, so nothing of the run's is in it
        return messages
