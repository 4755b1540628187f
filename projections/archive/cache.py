"""Copies of files that lie elsewhere: a directory of bounded size, which all processes of a machine share.

    cache = Cache(directory, limit_bytes, fetch)          # `fetch(file, into)` writes a file and checks what it wrote
    with cache.held(files) as root:                       # all there, and as recorded, until the end of the block
        ...

A copy lies at `ledger=…/run=…/…`, as the file itself does. Who reads some gets hard links to them, below a directory of
their own, so that no process waits for another: what is removed to make room, or because its run was deleted, is gone
for the next reader and whole for this one. So the directory takes at most the limit and what is just being read. Copies
that were not asked for the longest go first.

A copy is compared with its SHA-256 the first time that a process uses it, and whenever it was written since.
"""

import fcntl
import hashlib
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

from events.errors import TooLarge
from projections.archive import parquet
from projections.archive.parquet import File
from projections.storage.objects import StoreFull, translated

AT_ONCE: Final = 16
"""How many files are fetched at a time."""

SCAN_SHARE: Final = 16
"""The directory is looked through whenever this part of its limit was added."""

ABANDONED_SECONDS: Final = 3_600.0
"""A temporary file that nobody has written to for so long is of a process that died."""

REMEMBERED: Final = 100_000

Mark = tuple[int, int]
"""Inode and time of the last write of a copy that was compared."""


class Cache:
    """See the module."""

    def __init__(self, root: Path, limit_bytes: int, fetch: Callable[[File, Path], None]) -> None:
        self.root = root
        self._limit = limit_bytes
        self._fetch = fetch
        self._links = root / "held"
        self._own: Path | None = None
        self._numbers = count()
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}
        self._compared: dict[str, Mark] = {}
        self._added = limit_bytes  # nobody knows what is there
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="archive")

    @contextmanager
    def held(self, files: Iterable[File]) -> Iterator[Path]:
        """Give the root of links to files. Raises `TooLarge`, `StoreFull` for a full disk, and what `fetch` raises."""
        files = list(dict.fromkeys(files))
        size = sum(file.bytes for file in files)
        if size > self._limit:
            detail = f"this reads files of {size} bytes at once, and the archive's cache holds {self._limit}"
            raise TooLarge(f"{detail} (TACHOGRAPH_ARCHIVE_CACHE_BYTES)", limit=self._limit)
        with translated("the archive's cache"):
            place = self._process_directory() / str(next(self._numbers))
            place.mkdir(parents=True)  # somebody may have emptied the cache
        try:
            with translated("the archive's cache"):
                for directory in {(place / file.path).parent for file in files}:
                    directory.mkdir(parents=True, exist_ok=True)
                missing = [file for file in files if not self._linked(file, place)]
            for _ in self._threads.map(partial(self._fetched, place), missing):
                pass
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def note(self, file: File) -> None:
        """Take notice of a copy that was put at its place, and is as recorded."""
        with suppress(FileNotFoundError):
            self._compared[file.path] = _mark((self.root / file.path).stat())
        self._make_room(file.bytes)

    def forget(self, paths: Sequence[str]) -> None:
        """Remove copies."""
        for path in paths:
            (self.root / path).unlink(missing_ok=True)
            parquet.temporary_path(self.root / path).unlink(missing_ok=True)

    def forget_run(self, ledger_id: UUID, run_id: UUID) -> None:
        """Remove all copies of a run, those that somebody reads too."""
        directory = parquet.run_directory(ledger_id, run_id)
        for place in (self.root / directory, *self._links.glob(f"*/*/{directory}")):
            shutil.rmtree(place, ignore_errors=True)

    def runs(self) -> list[tuple[UUID, UUID]]:
        """Return the runs of which there are copies, each behind its ledger."""
        places = self.root.glob("ledger=*/run=*")
        return [
            (UUID(place.parent.name.removeprefix("ledger=")), UUID(place.name.removeprefix("run="))) for place in places
        ]

    # --- one file ---------------------------------------------------------------------------------------

    def _linked(self, file: File, place: Path) -> bool:
        """Link a copy that is there and as recorded; one that is not is removed."""
        link = place / file.path
        try:
            link.hardlink_to(self.root / file.path)
        except FileNotFoundError:
            return False
        if not self._is_whole(file, link):
            self.forget([file.path])
            link.unlink()
            return False
        found = link.stat()
        os.utime(link, ns=(time.time_ns(), found.st_mtime_ns))
        return True

    def _is_whole(self, file: File, copy: Path) -> bool:
        found = copy.stat()
        if found.st_size != file.bytes:
            return False
        if file.sha256 is None or self._compared.get(file.path) == _mark(found):
            return True
        with copy.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
                return False
        self._remember(file.path, _mark(found))
        return True

    def _fetched(self, place: Path, file: File) -> None:
        """Fetch a file, unless another thread just did, and link it."""
        with self._lock:
            own = self._fetching.setdefault(file.path, threading.Lock())
        with own:
            try:
                if not self._linked(file, place):
                    self._fetch_anew(place, file)
            finally:
                with self._lock:
                    self._fetching.pop(file.path, None)

    def _fetch_anew(self, place: Path, file: File) -> None:
        self._make_room(file.bytes)
        try:
            self._fetch_once(place, file)
        except StoreFull:  # others than we are on that disk too
            if not self.give_way():
                raise
            self._fetch_once(place, file)

    def _fetch_once(self, place: Path, file: File) -> None:
        copy = self.root / file.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary = copy.with_name(f".{copy.name}.{uuid4()}{parquet.TEMPORARY}")
        try:
            self._fetch(file, temporary)
            (place / file.path).hardlink_to(temporary)
            self._remember(file.path, _mark(temporary.stat()))
            temporary.rename(copy)
        finally:
            temporary.unlink(missing_ok=True)

    def give_way(self) -> bool:
        """Remove all copies that nobody holds, for the disk is full; tells whether there were any."""
        found = False
        for file in self.root.glob("ledger=*/run=*/*"):
            with suppress(FileNotFoundError):
                if not file.name.endswith(parquet.TEMPORARY) and file.stat().st_nlink == 1:
                    file.unlink()
                    found = True
        return found

    def _remember(self, path: str, mark: Mark) -> None:
        if len(self._compared) >= REMEMBERED:
            self._compared.clear()
        self._compared[path] = mark

    # --- the directory ----------------------------------------------------------------------------------

    def _process_directory(self) -> Path:
        """Return where this process has its links; the first time, what dead ones left is removed.

        Whoever is alive has a lock on its directory.
        """
        with self._lock:
            if self._own is None:
                self._links.mkdir(mode=0o700, parents=True, exist_ok=True)
                with (self.root / "lock").open("w") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    for other in self._links.iterdir():
                        _remove_abandoned(other)
                    self._own = self._links / str(uuid4())
                    self._own.mkdir()
                    descriptor = os.open(self._own, os.O_RDONLY | os.O_DIRECTORY)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    weakref.finalize(self, os.close, descriptor)
            return self._own

    def _make_room(self, size: int) -> None:
        """Remove the copies that were not asked for the longest, until there is room for one more."""
        with self._lock:
            self._added += size
            if self._added * SCAN_SHARE < self._limit:
                return
            self._added = 0
        found = []
        for file in self.root.glob("ledger=*/run=*/*"):
            with suppress(FileNotFoundError):
                is_temporary = file.name.endswith(parquet.TEMPORARY)
                status = file.stat()
                if not is_temporary or time.time() - status.st_mtime > ABANDONED_SECONDS:
                    found.append((0 if is_temporary else status.st_atime_ns, status.st_size, file))
        most = self._limit - self._limit // SCAN_SHARE - size
        taken = sum(bytes_ for _, bytes_, _ in found)
        for used_ns, bytes_, file in sorted(found):
            if taken <= most and used_ns:
                return
            file.unlink(missing_ok=True)
            taken -= bytes_


def _mark(status: os.stat_result) -> Mark:
    return status.st_ino, status.st_mtime_ns


def _remove_abandoned(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(place, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
