"""The archive in an S3, with a cache on this machine that every reader goes through (docs/decisions/0032).

Objects have the names of the files below a directory, so that other tools read `s3://bucket/prefix/ledger=*/run=*/…` as
they do the directory. A file is written here first, sent in one request (parts of a broken multipart upload would stay
where no listing shows them), and read back: only what came back as it was counts. What is read is fetched whole, in
bounded pieces, and compared with its SHA-256 before any reader sees it.

Of an S3 that does not answer everything raises `ArchiveUnavailable`, and nobody else waits to find the same: `Circuit`.
"""

import hashlib
import mmap
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from obstore.store import S3Store

from events.errors import CorruptHistory
from events.settings import SettingsError
from projections.archive import parquet
from projections.archive.cache import Cache
from projections.archive.parquet import File, Found
from projections.archive.writing import Files
from projections.storage.circuit import Circuit
from projections.storage.objects import StoreUnavailable, s3, translated

VARIABLE: Final = "TACHOGRAPH_ARCHIVE_URL"

PIECE_BYTES: Final = 8 << 20
PIECE_SECONDS: Final = 15.0
SEND_SECONDS: Final = 120.0
"""How long a piece may take to be read, and a whole file to be sent."""

DELETED_AT_ONCE: Final = 1_000


class ArchiveUnavailable(StoreUnavailable):
    """The archive's object store does not answer, or refuses us; the same request may be repeated."""


class Bucket:
    """A `Store`, see `stores`. `reading` and `sending` are the same place with other patience."""

    def __init__(
        self, reading: S3Store, sending: S3Store, cache: Path, cache_bytes: int, silent_seconds: float
    ) -> None:
        self._reading = reading
        self._sending = sending
        self._silent_seconds = silent_seconds
        self._cache = Cache(cache, cache_bytes, self._fetch)
        self.root = self.readable = cache
        self._tags: dict[str, str | None] = {}
        self._circuit = Circuit()

    @classmethod
    def at(cls, place: str, cache: Path, cache_bytes: int, *, silent_seconds: float | None = None) -> "Bucket":
        """Open `s3://bucket/prefix`, with copies in a directory (made where it is missing). Raises `SettingsError`.

        What is read may be silent for so long, or for `PIECE_SECONDS`.
        """
        url = urlsplit(place)
        if url.scheme != "s3":
            raise SettingsError(f"{VARIABLE} is s3://bucket/prefix; a directory is named by TACHOGRAPH_PARQUET")
        cache = cache.resolve()
        try:
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"TACHOGRAPH_ARCHIVE_CACHE: {cache} cannot be used ({error.strerror})") from error
        reading = s3(VARIABLE, url, seconds=PIECE_SECONDS, silent_seconds=silent_seconds)
        sending = s3(VARIABLE, url, seconds=SEND_SECONDS)
        return cls(reading, sending, cache, cache_bytes, silent_seconds or PIECE_SECONDS)

    def held(self, files: Iterable[File]) -> AbstractContextManager[Path]:
        """Fetch what the cache lacks."""
        return self._cache.held(files)

    def publish(self, files: Files) -> None:
        """Send them, read them back, and keep them as copies. Of what fails nothing stays here."""
        try:
            for one in files.written:
                self._send(File(str(one.path.relative_to(self.root)), one.bytes, one.sha256), one.temporary)
        except BaseException:
            for one in files.written:
                one.temporary.unlink(missing_ok=True)
            raise
        for one in files.written:
            one.temporary.rename(one.path)
            self._cache.note(File(str(one.path.relative_to(self.root)), one.bytes, one.sha256))

    def remove(self, paths: Sequence[str]) -> int:
        """Delete objects and copies; an S3 does not say which were there."""
        self._cache.forget(paths)
        with self._asking():
            self._sending.delete(paths)
        return len(paths)

    def differs(self, file: File) -> str | None:
        """Read the object to its end."""
        if parquet.named(file.path) is None:
            return "lies outside the archive"
        try:
            with self._asking():
                meta = self._reading.head(file.path)
            if meta["size"] != file.bytes:
                return f"has {meta['size']} bytes, not {file.bytes}"
            digest = hashlib.sha256()
            for piece in self._pieces(file):
                digest.update(piece)
        except FileNotFoundError:
            return "is missing"
        return None if file.sha256 in (digest.hexdigest(), None) else "has another SHA-256 than was recorded"

    def is_whole(self, file: File) -> bool:
        """Compare the object's tag with the one that it had when it was last read to its end; else read it now."""
        try:
            with self._asking():
                meta = self._reading.head(file.path)
        except FileNotFoundError:
            return False
        if self._tags.get(file.path, "") == meta["e_tag"] and meta["size"] == file.bytes:
            return True
        if self.differs(file) is not None:
            return False
        self._tags[file.path] = meta["e_tag"]
        return True

    def measure_run(self, ledger_id: UUID, run_id: UUID) -> tuple[int, int]:
        """List its objects."""
        sizes = [size for _, size, _ in self._listed(f"{parquet.run_directory(ledger_id, run_id)}/")]
        return len(sizes), sum(sizes)

    def remove_run(self, ledger_id: UUID, run_id: UUID) -> None:
        """Delete its objects and all copies of them."""
        self.forget_run(ledger_id, run_id)
        paths = [path for path, _, _ in self._listed(f"{parquet.run_directory(ledger_id, run_id)}/")]
        for begin in range(0, len(paths), DELETED_AT_ONCE):
            with self._asking():
                self._sending.delete(paths[begin : begin + DELETED_AT_ONCE])
        for path in paths:
            self._tags.pop(path, None)

    def older_than(self, age_seconds: float) -> Iterator[Found]:
        """List all objects. What died here while it was written goes with the cache's copies."""
        latest = datetime.now(UTC) - timedelta(seconds=age_seconds)
        for path, _, modified in self._listed(None):
            found = parquet.named(path)
            if found is not None and modified <= latest:
                yield found

    def give_way(self) -> bool:
        """Remove the cache's copies that nobody holds."""
        return self._cache.give_way()

    def copied_runs(self) -> list[tuple[UUID, UUID]]:
        """Look into the cache."""
        return self._cache.runs()

    def forget_run(self, ledger_id: UUID, run_id: UUID) -> None:
        """Remove the cache's copies."""
        self._cache.forget_run(ledger_id, run_id)

    def _send(self, file: File, temporary: Path) -> None:
        with (
            temporary.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data,
            self._asking(),
        ):
            tag = self._sending.put(file.path, data, use_multipart=False)["e_tag"]
        if (differs := self.differs(file)) is not None:
            with suppress(ArchiveUnavailable):
                self.remove([file.path])
            raise ArchiveUnavailable(f"{file.path} was sent to the archive's object store, and {differs}")
        self._tags[file.path] = tag

    def _fetch(self, file: File, into: Path) -> None:
        """Write an object to a path. Raises `CorruptHistory` where it is not what was recorded."""
        digest = hashlib.sha256()
        size = 0
        with translated("the archive's cache", ArchiveUnavailable), into.open("wb") as out:
            for piece in self._pieces(file):
                size += out.write(piece)
                digest.update(piece)
        if size != file.bytes or file.sha256 not in (digest.hexdigest(), None):
            raise CorruptHistory(f"{file.path} in the archive's object store is not the file that was recorded")

    def _pieces(self, file: File) -> Iterator[memoryview]:
        """Yield an object's bytes, fewer only where it has no more."""
        for start in range(0, file.bytes, PIECE_BYTES):
            end = min(start + PIECE_BYTES, file.bytes)
            began, was_away = time.monotonic(), self._circuit.is_open
            try:
                with self._asking():
                    piece = self._piece(file.path, start, end)
            except ArchiveUnavailable:
                is_silent = was_away or time.monotonic() - began >= self._silent_seconds
                if not is_silent and self._is_shorter(file):
                    self._circuit.close()  # it answered
                    return
                raise
            yield piece

    def _piece(self, path: str, start: int, end: int) -> memoryview:
        piece = memoryview(self._reading.get_range(path, start=start, end=end))
        if len(piece) != end - start:
            raise ArchiveUnavailable(f"the archive's object store gave {len(piece)} of {end - start} bytes of {path}")
        return piece

    def _is_shorter(self, file: File) -> bool:
        """Tell whether a piece was refused because the object ends before it."""
        try:
            return int(self._reading.head(file.path)["size"]) < file.bytes
        except Exception:  # noqa: BLE001 (the first failure is what is told)
            return False

    def _listed(self, prefix: str | None) -> Iterator[tuple[str, int, datetime]]:
        pages = iter(self._reading.list(prefix))
        while True:
            with self._asking():
                page = next(pages, None)
            if page is None:
                return
            for one in page:
                yield one["path"], one["size"], one["last_modified"]

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Ask the store something, unless it was found away just now."""
        with self._circuit.asking(), translated("the archive's object store", ArchiveUnavailable):
            yield
