"""Where the files of the archive are: a directory, or an S3 with a bounded cache before it (`bucket`).

    store = stores.opened(settings)
    with store.held(files) as root:       # all there and whole until the end of the block
        pq.read_table(root / files[0].path)
    store.publish(written)                # from temporary names below `store.root`; when it returns, they last

A file never changes. Its path, size and SHA-256 stand in the ledger; nothing here knows what is in it. All of it
blocks, and belongs on a thread. Of an S3 that is away everything raises `ArchiveUnavailable`.
"""

import asyncio
import hashlib
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

from events.commit import LOST_CONNECTION
from events.settings import Settings
from events.sql import load
from projections.archive import parquet
from projections.archive.bucket import Bucket
from projections.archive.parquet import File, Found
from projections.archive.writing import Files
from projections.runs import Reader
from projections.storage.objects import DISK_FULL

log = logging.getLogger("tachograph.archive")

TIDY_SECONDS: Final = 60.0


class Store(Protocol):
    """See the module. `root` is what files are written below; what is held lies somewhere below `readable`."""

    root: Path
    readable: Path

    def held(self, files: Iterable[File]) -> AbstractContextManager[Path]:
        """Return the root below which files can be read until the end of the block.

        Raises `FileNotFoundError`, `CorruptHistory` for one that is another than was recorded, `TooLarge`, and
        `StoreFull` where the disk has no room for copies.
        """
        ...

    def publish(self, files: Files) -> None:
        """Make files that were written under temporary names last, under their own."""
        ...

    def remove(self, paths: Sequence[str]) -> int:
        """Remove files, under whatever name they have; returns how many were there."""
        ...

    def differs(self, file: File) -> str | None:
        """Say what is wrong with a file, which is read to its end; None where it is as recorded."""
        ...

    def is_whole(self, file: File) -> bool:
        """Tell whether a file is there, byte by byte; where it lies it may be told by what it was when last read."""
        ...

    def measure_run(self, ledger_id: UUID, run_id: UUID) -> tuple[int, int]:
        """Return how many files a run has, and their bytes."""
        ...

    def remove_run(self, ledger_id: UUID, run_id: UUID) -> None:
        """Remove all files of a run."""
        ...

    def older_than(self, age_seconds: float) -> Iterator[Found]:
        """Yield our files, temporary ones too, that nobody has written to for that long."""
        ...

    def give_way(self) -> bool:
        """Remove what of this machine's disk is only copies, for it is full; tells whether there were any."""
        ...

    def copied_runs(self) -> list[tuple[UUID, UUID]]:
        """Return the runs of which there are copies on this machine, each behind its ledger."""
        ...

    def forget_run(self, ledger_id: UUID, run_id: UUID) -> None:
        """Remove this machine's copies of a run."""
        ...


def opened(settings: Settings, *, silent_seconds: float | None = None) -> Store:
    """Return the archive that the environment names; an S3 may be silent for so long. Raises `SettingsError`."""
    if not settings.archive_url:
        return Directory(settings.parquet)
    cache, limit = settings.archive_cache, settings.archive_cache_bytes
    return Bucket.at(settings.archive_url, cache, limit, silent_seconds=silent_seconds)


class Directory:
    """A `Store` that is a directory: files are read where they lie."""

    def __init__(self, root: Path) -> None:
        self.root = self.readable = root

    def held(self, files: Iterable[File]) -> AbstractContextManager[Path]:
        """Return the directory; whoever opens a file that is missing finds out."""
        return nullcontext(self.root)

    def publish(self, files: Files) -> None:
        """Rename them."""
        files.publish()

    def remove(self, paths: Sequence[str]) -> int:
        """Unlink them."""
        removed = 0
        for path in paths:
            for file in (self.root / path, parquet.temporary_path(self.root / path)):
                with suppress(FileNotFoundError):
                    file.unlink()
                    removed += 1
        return removed

    def differs(self, file: File) -> str | None:
        """Read and compare it."""
        path = self.root / file.path
        if not path.resolve().is_relative_to(self.root.resolve()):
            return "lies outside the archive"
        try:
            with path.open("rb") as opened:
                size = os.fstat(opened.fileno()).st_size
                if size != file.bytes:
                    return f"has {size} bytes, not {file.bytes}"
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except FileNotFoundError:
            return "is missing"
        return None if file.sha256 in (digest, None) else "has another SHA-256 than was recorded"

    def is_whole(self, file: File) -> bool:
        """Read and compare it."""
        return self.differs(file) is None

    def measure_run(self, ledger_id: UUID, run_id: UUID) -> tuple[int, int]:
        """Look into its directory."""
        directory = self.root / parquet.run_directory(ledger_id, run_id)
        sizes = [file.stat().st_size for file in directory.iterdir()] if directory.exists() else []
        return len(sizes), sum(sizes)

    def remove_run(self, ledger_id: UUID, run_id: UUID) -> None:
        """Remove its directory."""
        directory = self.root / parquet.run_directory(ledger_id, run_id)
        if directory.exists():
            shutil.rmtree(directory)
            parquet.flush_directory(directory.parent)

    def older_than(self, age_seconds: float) -> Iterator[Found]:
        """Look at the times of all files."""
        latest = time.time() - age_seconds
        for file in self.root.glob("ledger=*/run=*/*"):
            found = parquet.named(str(file.relative_to(self.root)))
            if found is not None and _modified(file) <= latest:
                yield found

    def give_way(self) -> bool:
        """There are no copies."""
        return False

    def copied_runs(self) -> list[tuple[UUID, UUID]]:
        """There are no copies."""
        return []

    def forget_run(self, ledger_id: UUID, run_id: UUID) -> None:
        """There are no copies."""


def with_room(store: Store, write: Callable[[], Files]) -> Files:
    """Return the files that are written below a store's root; where its disk is full, copies give way to them."""
    try:
        return write()
    except OSError as error:
        if error.errno not in DISK_FULL or not store.give_way():
            raise
        return write()


async def forget_deleted(reader: Reader, store: Store) -> int:
    """Remove this machine's copies of runs that were deleted, whichever machine purged them; returns of how many."""
    copied = {run_id: ledger_id for ledger_id, run_id in await asyncio.to_thread(store.copied_runs)}
    rows = await reader.fetch(load("projections.sql", "deleted_of"), list(copied)) if copied else []
    for row in rows:
        await asyncio.to_thread(store.forget_run, copied[row["run_id"]], row["run_id"])
    return len(rows)


async def keep_tidy(reader: Reader, store: Store, *, seconds: float = TIDY_SECONDS) -> None:
    """Do `forget_deleted` now and then, until this is cancelled."""
    while True:
        try:
            await forget_deleted(reader, store)
        except (*LOST_CONNECTION, TimeoutError) as error:
            log.debug("copies of deleted runs are looked for later: %r", error)
        await asyncio.sleep(seconds)


@asynccontextmanager
async def holding(store: Store, files: Iterable[File]) -> AsyncIterator[Path]:
    """`store.held` off the event loop. What was being fetched for who is cancelled is let go of once it is there."""
    held = store.held(files)
    entering = asyncio.ensure_future(asyncio.to_thread(held.__enter__))
    try:
        root = await asyncio.shield(entering)
    except asyncio.CancelledError:
        entering.add_done_callback(lambda done: done.cancelled() or done.exception() or held.__exit__(None, None, None))
        raise
    try:
        yield root
    finally:
        await asyncio.shield(asyncio.to_thread(held.__exit__, None, None, None))


def _modified(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
