"""Merges a run's small files into larger ones, and removes those that were merged away once nobody reads them.

The new file is written beside the old ones, and counts from the very moment at which they stop to: the event that
records it names them, and the manifest changes with it. The run counts its merges, so of two archivers that merged the
same files one is refused.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from msgspec.structs import replace

from events.commands import RecordMerge
from events.errors import CorruptHistory, Erased, NotFound
from events.ids import uuid7
from events.ledger import Ledger
from events.sql import load
from events.transitions import ENDED
from projections import runs
from projections.archive import manifest, parquet
from projections.archive.merging import merge_logs, merge_metrics
from projections.archive.parquet import File
from projections.archive.stores import Store, with_room
from projections.archive.writing import Files
from workers.archive_files import described, put_on_record
from workers.archive_policy import Policy, to_merge
from workers.crashpoints import crash_point

log = logging.getLogger("tachograph.archiver")

REMOVED_AT_ONCE: Final = 1_000
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Merger:
    """Keeps the files of runs few."""

    def __init__(self, ledger: Ledger, store: Store, policy: Policy) -> None:
        self._ledger = ledger
        self._store = store
        self._policy = policy
        self._removed_to = _LONG_AGO

    async def scattered(self) -> list[tuple[UUID, UUID, str]]:
        """Return what has many files: ledger, run, kind. After a start, since nobody remembers what was due."""
        rows = await self._ledger.pool.fetch(load("projections.sql", "scattered_runs"), self._policy.merge_files)
        return [(row["ledger_id"], row["run_id"], row["kind"]) for row in rows]

    async def merge(self, ledger_id: UUID, run_id: UUID, kind: str) -> int:
        """Merge some files of a run, if there are enough that are small; returns how many there were.

        Raises `CorruptHistory` for a file that is not what was recorded: what it has lost must stay to be seen.
        """
        stored = await runs.get(self._ledger.pool, run_id)
        if stored is None:
            return 0
        try:
            files = await manifest.segments(self._ledger.pool, ledger_id, run_id, kind)
        except (Erased, NotFound):
            return 0
        chosen = to_merge(files, self._policy, ended=stored.run.status in ENDED)
        if not chosen:
            return 0
        segment = uuid7()
        relative = parquet.segment_path(ledger_id, run_id, kind, segment)
        written = await asyncio.to_thread(_merged, self._store, kind, [file.file for file in chosen], relative)
        crash_point("archiver.after_merge_write")
        await asyncio.to_thread(self._store.publish, written)
        crash_point("archiver.after_merge_rename")
        first, last = chosen[0].first_position, chosen[-1].last_position
        merged = described(written, self._store, kind, segment, relative, first, last)
        merged = replace(merged, replaces=tuple(file.segment_id for file in chosen))
        command = RecordMerge(archived=merged, merges=stored.run.merges.get(kind, 0))
        if not await put_on_record(self._ledger, self._store, ledger_id, run_id, command, written):
            return 0
        crash_point("archiver.after_merge")
        return len(chosen)

    async def remove_replaced(self) -> int:
        """Remove the files that were merged away long enough ago; returns how many."""
        removed = 0
        while rows := await self._ledger.pool.fetch(
            load("projections.sql", "replaced_files"), self._removed_to, self._policy.linger_seconds, REMOVED_AT_ONCE
        ):
            for row in rows:
                paths = list(filter(None, (row["path"], row["levels_path"])))
                if found := await asyncio.to_thread(self._store.remove, paths):
                    removed += found
                    crash_point("archiver.after_removal")
            self._removed_to = rows[-1]["replaced_at"]
        return removed


def _merged(store: Store, kind: str, files: Sequence[File], relative: str) -> Files:
    for file in files:
        if not store.is_whole(file):
            raise CorruptHistory(f"{file.path} is not the file that was recorded")
    merge = merge_logs if kind == manifest.LOGS else merge_metrics
    with store.held(files) as root:
        paths = [root / file.path for file in files]
        return with_room(store, lambda: merge(paths, store.root / relative))
