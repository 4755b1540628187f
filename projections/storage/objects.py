"""The object store: a directory by default, any S3 by its URL. Artifacts and signed heads lie in it.

    objects = ObjectStore.at("s3://bucket/prefix")
    await objects.put(path, data)                     # durable when it returns; the same again changes nothing
    async for page in objects.pages("heads/…/"): ...

Paths are ours: ids and numbers, never a user's text. Endpoint, region and credentials of S3 come from the standard
`AWS_*` variables, which obstore reads by itself; nothing here holds or says them. The local store of obstore renames
without an fsync (as its system calls show), so a directory is written here: temporary, fsync, rename, fsync.
"""

import asyncio
import errno
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, urlsplit

import msgspec
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from events.errors import LedgerError, Unavailable
from events.settings import SettingsError
from projections.archive import parquet
from projections.storage.circuit import Circuit

OPERATION_SECONDS: Final = 40.0
"""How long one operation may take, its retries in it."""

CONNECT_SECONDS: Final = 5.0

CHECK_SECONDS: Final = 1.0
CHECKED_SECONDS: Final = 2.0
"""How long a check counts, however often it is asked for."""

DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

RETRIES: Final = 4
RETRY_SECONDS: Final = 20

SILENT_SECONDS: Final = 2.0
"""How long a store may say nothing while somebody waits; then it is asked once more, and given up."""

PAGE_OBJECTS: Final = 1_000
_PROBE: Final = "nothing-is-here"

T = TypeVar("T")


class StoreUnavailable(Unavailable):
    """The object store does not answer, or refuses us; the same request may be repeated."""


class StoreFull(LedgerError):
    """The disk of the object store is full."""


class Found(msgspec.Struct, frozen=True):
    """An object: its path, size, and when it was written."""

    path: str
    bytes: int
    modified: datetime


class ObjectStore:
    """Objects by path. Every operation is bounded in time, and raises `StoreUnavailable` or `StoreFull`."""

    def __init__(
        self,
        store: LocalStore | S3Store,
        root: Path | None,
        name: str,
        reading: S3Store | None = None,
        silent_seconds: float | None = None,
    ) -> None:
        self._store = store
        self._reading = reading or store
        self._silent_seconds = silent_seconds
        self._circuit, self._writing = Circuit(), Circuit()  # one that takes nothing more may still give
        self._root = root
        self.name = name
        self._checked: tuple[float, StoreUnavailable | None] = (-CHECKED_SECONDS, None)

    @classmethod
    def at(cls, place: str | Path, *, silent_seconds: float | None = None) -> "ObjectStore":
        """Open a directory (made where it is missing) or `s3://bucket/prefix`. Raises `SettingsError`.

        An S3 may be silent for so long: while an object is read, or to anything else that is asked while one is
        written, which itself may take longer. Without, it is waited for to the end of each operation.
        """
        url = urlsplit(str(place))
        if url.scheme == "s3":
            variable = "TACHOGRAPH_OBJECT_STORE"
            reading = s3(variable, url, silent_seconds=silent_seconds)
            return cls(s3(variable, url), None, f"s3://{url.hostname}{url.path}", reading, silent_seconds)
        if url.scheme not in {"", "file"}:
            raise SettingsError("TACHOGRAPH_OBJECT_STORE is a directory, or s3://bucket/prefix")
        root = Path(url.path if url.scheme else place).resolve()
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"TACHOGRAPH_OBJECT_STORE: {root} cannot be used ({error.strerror})") from error
        return cls(LocalStore(root), root, str(root))

    def check_writable(self) -> None:
        """Raise `StoreUnavailable` where a write would be refused at once, because the store was found away."""
        self._writing.check()

    async def put(self, path: str, data: bytes) -> None:
        """Store an object, over one that is there."""
        if self._root is not None:
            await _bounded(asyncio.to_thread(_write, self._root / path, data))
        else:
            await self._sent(lambda: self._store.put_async(path, data, use_multipart=False))

    async def create(self, path: str, data: bytes) -> bool:
        """Store an object where none is; False if one was there, which stays as it is."""
        try:
            if self._root is not None:
                await _bounded(asyncio.to_thread(_write_new, self._root / path, data))
            else:
                await self._sent(lambda: self._store.put_async(path, data, mode="create", use_multipart=False))
        except (AlreadyExistsError, FileExistsError):
            return False
        return True

    async def _sent(self, write: Callable[[], Awaitable[object]]) -> None:
        """Write, for as long as the store answers who asks it something else meanwhile."""
        with self._writing.asking():
            writing = asyncio.ensure_future(_bounded(write()))
            try:
                while not (await asyncio.wait({writing}, timeout=self._silent_seconds))[0]:
                    with suppress(FileNotFoundError):
                        await _bounded(self._reading.head_async(_PROBE))
                await writing
            finally:
                writing.cancel()

    async def get(self, path: str) -> bytes:
        """Return an object's bytes. Raises `FileNotFoundError`."""
        with self._circuit.asking():
            return await _bounded(self._read(path))

    async def _read(self, path: str) -> bytes:
        result = await self._reading.get_async(path)
        return (await result.bytes_async()).to_bytes()

    async def size(self, path: str) -> int:
        """Return how many bytes an object has. Raises `FileNotFoundError`."""
        with self._circuit.asking():
            return (await _bounded(self._reading.head_async(path)))["size"]

    async def pages(self, prefix: str) -> AsyncIterator[list[Found]]:
        """Yield what lies below a prefix that ends in a slash, a page at a time; in order of paths on S3."""
        stream = aiter(self._store.list(prefix, chunk_size=PAGE_OBJECTS))
        while True:
            page = await _bounded(anext(stream, None))
            if page is None:
                return
            yield [Found(one["path"], one["size"], one["last_modified"]) for one in page]

    async def measure(self, prefix: str) -> tuple[int, int]:
        """Return how many objects lie below a prefix, and their bytes."""
        objects = size = 0
        async for page in self.pages(prefix):
            objects += len(page)
            size += sum(one.bytes for one in page)
        return objects, size

    async def remove(self, prefix: str) -> None:
        """Remove all that lies below a prefix that ends in a slash, durably; nothing may be writing there."""
        if self._root is not None:
            await _bounded(asyncio.to_thread(_remove_directory, self._root / prefix))
            return
        async for page in self.pages(prefix):
            await self.delete([one.path for one in page])

    async def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; one that is not there is passed over."""
        if self._root is not None:
            await _bounded(asyncio.to_thread(_unlink, [self._root / path for path in paths]))
        elif paths:
            with suppress(FileNotFoundError):
                await _bounded(self._store.delete_async(paths))

    async def check(self) -> None:
        """Raise `StoreUnavailable` unless the store answered just now."""
        at, failure = self._checked
        if time.monotonic() - at >= CHECKED_SECONDS:
            failure = None
            try:
                await self._look()
            except StoreUnavailable as error:
                failure = error
            self._checked = (time.monotonic(), failure)
        if failure is not None:
            raise failure

    async def _look(self) -> None:
        if self._root is not None and not os.access(self._root, os.W_OK | os.X_OK):
            raise StoreUnavailable(f"the object store's directory {self._root} cannot be written")
        with suppress(FileNotFoundError):
            await _bounded(self._store.head_async(_PROBE), seconds=CHECK_SECONDS)


def s3(
    variable: str, url: SplitResult, *, seconds: float | None = None, silent_seconds: float | None = None
) -> S3Store:
    """Open the S3 that a variable names by its URL. One request takes at most so long, or `RETRY_SECONDS`.

    What is only read from may be silent for `silent_seconds`, be it asked to connect or for the next bytes; then it is
    asked once more. Raises `SettingsError`.
    """
    bucket, path = url.netloc, url.path
    if not bucket or "@" in bucket or ":" in bucket:
        raise SettingsError(f"{variable} is s3://bucket/prefix; credentials come from AWS_* variables")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    most = seconds or RETRY_SECONDS
    retry_seconds = RETRY_SECONDS if silent_seconds is None else 1.5 * silent_seconds
    try:
        return S3Store(
            bucket,
            prefix=path.strip("/") or None,
            client_options={
                "allow_http": endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=silent_seconds or CONNECT_SECONDS),
                "read_timeout": timedelta(seconds=silent_seconds or most),
                "timeout": timedelta(seconds=most),
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=retry_seconds)},
        )
    except BaseError as error:
        raise SettingsError(f"{variable} cannot be used: {_first_line(error)}") from None


async def _bounded(operation: Awaitable[T], seconds: float | None = None) -> T:
    """Return an operation's result within its time; what the libraries raise becomes ours."""
    seconds = seconds or OPERATION_SECONDS
    with translated("the object store"):
        try:
            async with asyncio.timeout(seconds):
                return await operation
        except TimeoutError:
            raise StoreUnavailable(f"the object store did not answer within {seconds:g} s") from None


@contextmanager
def translated(what: str, unavailable: type[StoreUnavailable] = StoreUnavailable) -> Iterator[None]:
    """Raise ours for what the libraries raise; that something is not there, or is, passes."""
    try:
        yield
    except (FileNotFoundError, AlreadyExistsError, FileExistsError):
        raise
    except OSError as error:
        if error.errno in DISK_FULL:
            raise StoreFull(f"the disk of {what} is full") from None
        raise unavailable(f"{what} cannot be used: {_first_line(error)}") from None
    except BaseError as error:
        raise unavailable(f"{what} cannot be used: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    """Return what an error says; the lines behind it are for who debugs the library."""
    return str(error).partition("\n")[0]


def _write(path: Path, data: bytes) -> None:
    parquet.publish(parquet.write_temporary(path, data), path)


def _write_new(path: Path, data: bytes) -> None:
    temporary = parquet.write_temporary(path, data)
    try:
        path.hardlink_to(temporary)
    finally:
        temporary.unlink()
    parquet.flush_directory(path.parent)


def _remove_directory(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
        parquet.flush_directory(directory.parent)


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
    for directory in {path.parent for path in paths if path.parent.exists()}:
        parquet.flush_directory(directory)
