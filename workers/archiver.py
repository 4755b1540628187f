"""The archiver: telemetry from Postgres to Parquet, and what follows from it (merges, partitions, orphans, purges).

What waits is told by a `Tail` over every ledger, which may tell of telemetry that is in Parquet already: that is seen
in the run's own state, and passed over. A file counts once `run.telemetry_archived` is recorded; the decision refuses
positions that are archived already, and a deleted run.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from nats.js import JetStreamContext

from events.commands import RecordArchive
from events.errors import Erased
from events.ids import uuid7
from events.ledger import Ledger
from events.sql import load
from events.types import Status
from projections import runs
from projections.archive import manifest, parquet
from projections.archive.bucket import ArchiveUnavailable
from projections.archive.sorting import Sorting
from projections.archive.stores import Store, with_room
from projections.archive.writing import Files, MetricsWriter, write_logs
from projections.storage.objects import ObjectStore, StoreUnavailable
from workers import artifact_sweep, partitions
from workers.archive_files import ACTOR, described, put_on_record
from workers.archive_policy import Policy, from_environment
from workers.archive_tail import Key, Tail, Waiting
from workers.crashpoints import crash_point
from workers.merger import Merger
from workers.outage import Outage
from workers.purge import Purge

log = logging.getLogger("tachograph.archiver")

READ_BATCHES: Final = 32
SWEEP_FILES: Final = 1_000
REMOVAL_SECONDS: Final = 30.0
RETRY_SECONDS: Final = (1.0, 5.0, 30.0, 120.0, 600.0)

Batches = list[tuple[int, Any]]
"""Positions with the columnar batches (`MetricColumns` or `LogColumns`, by kind) that stand there."""


class Archiver:
    """Archives what is due, keeps partitions and orphans in order, and purges deleted runs."""

    name = "archiver"
    pause_seconds = 0.5
    gather_seconds = 0.05

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        objects: ObjectStore,
        *,
        jetstream: JetStreamContext | None = None,
        policy: Policy | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._objects = objects
        self._policy = policy or from_environment()
        self._now = now
        self._clock = clock
        self._merger = Merger(ledger, store, self._policy)
        self._purge = Purge(ledger, store, objects, jetstream, ACTOR)
        self._tail = Tail(ledger.pool)
        self._failures: dict[UUID, tuple[int, float]] = {}
        self._grown: set[Key] = set()
        self._outage = Outage(clock)
        self._next_tail = self._next_upkeep = self._next_removal = 0.0

    async def start(self) -> None:
        """Begin from the stored cursors; partitions first."""
        self._store.root.mkdir(parents=True, exist_ok=True)
        self._tail.restart()
        self._failures.clear()
        self._next_tail = self._next_removal = 0.0
        await partitions.create(self._ledger.pool)
        await self._unless_away(self.sweep)
        self._grown = set(await self._merger.scattered())
        await self._sweep_artifacts(orphans=False)
        await self._purge.start()
        self._next_upkeep = self._clock() + self._policy.upkeep_seconds

    async def stop(self) -> None:
        """Nothing is held."""

    async def step(self) -> int:
        """Look for new telemetry, archive a file of each run that is due, purge; returns how much."""
        done = 0
        if self._clock() >= self._next_upkeep:
            self._next_upkeep = self._clock() + self._policy.upkeep_seconds
            await self.upkeep()
        if self._clock() >= self._next_tail:
            passed, more = await self._tail.follow()
            if not more:
                self._next_tail = self._clock() + self._policy.tail_seconds
            done += passed
            done += await self._purge.step(self._guarded, self._may_try)
        for key in [key for key, waiting in self._tail.waiting.items() if self._is_due(key, waiting)]:
            if self._outage.is_over:
                done += await self._guarded(key[1], self._archive(key))
        await self._tail.move_cursors()
        done += await self._unless_away(self._merge)
        if self._clock() >= self._next_removal:
            self._next_removal = self._clock() + min(REMOVAL_SECONDS, self._policy.linger_seconds)
            done += await self._unless_away(self._merger.remove_replaced)
        return done

    async def _unless_away(self, work: Callable[[], Awaitable[int]]) -> int:
        """Do what needs the archive's files; while they are in a store that is away, it waits."""
        if not self._outage.is_over:
            return 0
        try:
            return await work()
        except ArchiveUnavailable as error:
            self._outage.note(error)
            return 0

    async def _merge(self) -> int:
        """Merge files of one run that has got new ones; one that fails is said, and tried again when it grows."""
        if not self._grown:
            return 0
        key = self._grown.pop()
        try:
            merged = await self._merger.merge(*key)
        except ArchiveUnavailable:
            self._grown.add(key)
            raise
        except Exception:
            log.exception("run %s: its files of %s stay as they are", key[1], key[2])
            return 1
        if merged:
            self._grown.add(key)
        return 1

    async def upkeep(self) -> None:
        """Do what is due now and then: partitions made and dropped, orphans and stale uploads swept."""
        await partitions.create(self._ledger.pool)
        await self._unless_away(self._drop_archived)
        await self._unless_away(self.sweep)
        self._grown.update(await self._merger.scattered())
        await self._sweep_artifacts(orphans=True)

    async def _drop_archived(self) -> int:
        return len(await partitions.drop_archived(self._ledger.pool, self._store, self._policy.keep))

    async def _sweep_artifacts(self, *, orphans: bool) -> None:
        """Remove stale uploads, and perhaps look for parts of nothing; an object store that is away is tried later."""
        pool = self._ledger.pool
        try:
            await artifact_sweep.remove_stale_uploads(pool, self._objects, self._policy.upload_seconds)
            if orphans:
                await artifact_sweep.remove_orphans(pool, self._objects, self._policy.orphan_seconds)
        except StoreUnavailable as error:
            log.warning("uploads are swept later: %s", error)

    async def sweep(self) -> int:
        """Remove files that are not in the manifest and that nobody can still be about to record."""
        found = await asyncio.to_thread(lambda: list(self._store.older_than(self._policy.orphan_seconds)))
        removed = 0
        files = iter(found)
        while some := list(islice(files, SWEEP_FILES)):
            rows = await self._ledger.pool.fetch(
                load("projections.sql", "unlisted_files"),
                [file.ledger_id for file in some],
                [file.run_id for file in some],
                [file.segment_id for file in some],
                [file.path for file in some],
                self._policy.linger_seconds,
            )
            for row in rows:
                log.warning("removing %s, which no manifest names", row["path"])
                await asyncio.to_thread(self._store.remove, [row["path"]])
                crash_point("archiver.after_sweep")
            removed += len(rows)
        return removed

    # --- what is due ----------------------------------------------------------------------------------

    def _may_try(self, run_id: UUID) -> bool:
        return self._clock() >= self._failures.get(run_id, (0, 0.0))[1]

    def _is_due(self, key: Key, waiting: Waiting) -> bool:
        return self._may_try(key[1]) and (
            self._tail.has_ended(key[1])
            or waiting.bytes >= self._policy.hot_bytes
            or (self._now() - waiting.since).total_seconds() >= self._policy.age_seconds
        )

    async def _guarded(self, run_id: UUID, work: Awaitable[int]) -> int:
        """Do one run's work; its failure is said, holds up nobody else, and is tried again after a pause."""
        try:
            done = await work
        except ArchiveUnavailable as error:
            self._outage.note(error)
            return 0
        except Exception:
            failures = self._failures.get(run_id, (0, 0.0))[0] + 1
            pause = RETRY_SECONDS[min(failures, len(RETRY_SECONDS)) - 1]
            self._failures[run_id] = (failures, self._clock() + pause)
            log.exception("run %s: failed (%d in a row); again in %.0f s", run_id, failures, pause)
            return 0
        self._failures.pop(run_id, None)
        self._outage.ended()
        return done

    # --- one file ---------------------------------------------------------------------------------------

    async def _archive(self, key: Key) -> int:
        """Archive what waits of a run and kind, or as much as a file takes; returns how many batches."""
        _, run_id, kind = key
        waiting = self._tail.waiting[key]
        stored = await runs.get(self._ledger.pool, run_id)
        if stored is None or stored.run.status is Status.DELETED:
            del self._tail.waiting[key]
            return 0
        after = stored.run.archived_through.get(kind, 0)
        try:
            batches, size, whole = await self._read(key, after, waiting.last)
        except Erased:
            return 0  # deleted since we looked; the next step sees it
        if not batches:
            if after < waiting.last:
                log.error("run %s: %s up to %d are gone, and no file has them", run_id, kind, waiting.last)
            del self._tail.waiting[key]
            return 0
        if not await self._write(key, batches):
            return 0
        self._grown.add(key)
        if whole:
            del self._tail.waiting[key]
        else:
            waiting.first = batches[-1][0] + 1
            waiting.bytes = max(0, waiting.bytes - size)
        return len(batches)

    async def _read(self, key: Key, after: int, up_to: int) -> tuple[Batches, int, bool]:
        """Return batches for one file with their size, and whether they are all up to a position."""
        ledger_id, run_id, kind = key
        batches: Batches = []
        size = held = 0
        while held < self._policy.file_bytes and len(batches) < self._policy.file_batches:
            limit = min(READ_BATCHES, self._policy.file_batches - len(batches))
            page = await self._ledger.read_telemetry(
                ledger_id, run_id, after=after, limit=limit, types=manifest.KINDS[kind]
            )
            for recorded in page:
                if recorded.position > up_to:
                    return batches, size, True
                batch = recorded.event()
                batches.append((recorded.position, batch))
                size += len(recorded.payload or b"")
                held += batch.size_bytes
            if len(page) < limit:
                return batches, size, True
            after = page[-1].position
        return batches, size, False

    async def _write(self, key: Key, batches: Batches) -> bool:
        """Write a file and record it; False when the ledger refused it, and then the file is gone again."""
        ledger_id, run_id, kind = key
        segment = uuid7()
        relative = parquet.segment_path(ledger_id, run_id, kind, segment)
        write = partial(_written, kind, batches, self._store.root / relative)
        files = await asyncio.to_thread(with_room, self._store, write)
        crash_point("archiver.after_write")
        await asyncio.to_thread(self._store.publish, files)
        crash_point("archiver.after_rename")
        archived = described(files, self._store, kind, segment, relative, batches[0][0], batches[-1][0])
        command = RecordArchive(archived=archived)
        if not await put_on_record(self._ledger, self._store, ledger_id, run_id, command, files):
            return False
        crash_point("archiver.after_manifest")
        return True


def _written(kind: str, batches: Batches, path: Path) -> Files:
    """Write a file of batches under its temporary name, and its levels."""
    if kind == manifest.LOGS:
        return write_logs(path, iter([parquet.logs_table(batches)]))
    with MetricsWriter(path) as writer:
        for points in Sorting(batches).groups():
            writer.add_group(points)
        return writer.close()
