"""An append-only file of requests that wait for the service.

Layout: frames of `length` and `crc32` (little-endian uint32 each) and as many bytes. The first frame is the
header (JSON), every other one a request (MessagePack), byte for byte as it will be sent. A torn last frame,
left by a crash, ends the file for readers.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

_FRAME: Final = struct.Struct("<II")
SUFFIX: Final = ".spool"

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"


class Request(msgspec.Struct, frozen=True, array_like=True):
    """One change to send; its bytes are fixed, so that a repeat is recognised as one."""

    method: str
    path: str
    key: str
    content: bytes
    media_type: str
    points: int = 0
    lines: int = 0

    @property
    def headers(self) -> dict[str, str]:
        """What to send with it."""
        return {"Content-Type": self.media_type, "Idempotency-Key": self.key}

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(self.content) + 200


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Whose requests these are."""

    format: int = 1
    url: str
    run_id: str
    epoch: int
    source: str


class Spool:
    """The file while its run goes on: written at the end, read from the front. One thread at a time.

    Raises `OSError` where the file system refuses.
    """

    def __init__(self, path: Path, header: Header) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path: Final = path
        self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b", buffering=0)
        lock(self._file)
        self._end = 0
        self._write(msgspec.json.encode(header))
        self._front = self._first = self._end
        self.waiting = 0

    @property
    def size_bytes(self) -> int:
        """How long the file is."""
        return self._end

    def append(self, request: Request) -> None:
        """Add a request at the end."""
        self._write(msgspec.msgpack.encode(request))
        self.waiting += 1

    def take(self) -> Request | None:
        """Remove the request at the front; the file is emptied once nothing waits in it."""
        if not self.waiting:
            return None
        self._file.seek(self._front)
        content = _frame(self._file)
        if content is None:
            raise OSError(f"{self.path} was damaged at byte {self._front}")
        self._front += _FRAME.size + len(content)
        self.waiting -= 1
        if not self.waiting:
            self._file.truncate(self._first)
            self._front = self._end = self._first
        return msgspec.msgpack.decode(content, type=Request)

    def close(self) -> None:
        """Let go of the file; it stays if requests wait in it."""
        self._file.close()
        if not self.waiting:
            self.path.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        frame = memoryview(_FRAME.pack(len(content), zlib.crc32(content)) + content)
        self._file.seek(self._end)
        written = 0
        try:
            while written < len(frame):
                written += self._file.write(frame[written:])
        except OSError:
            self._file.truncate(self._end)  # a disk that is full: keep whole frames only
            raise
        self._end += len(frame)


def read(file: BinaryIO) -> tuple[Header, Iterator[Request]] | None:
    """Return what a spool file holds, or None where not even its header was written."""
    first = _frame(file)
    if first is None:
        return None
    return msgspec.json.decode(first, type=Header), _requests(file)


def lock(file: BinaryIO) -> bool:
    """Mark the file as in use until it is closed; False where another process uses it."""
    try:
        import fcntl  # noqa: PLC0415 (POSIX only)
    except ImportError:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _requests(file: BinaryIO) -> Iterator[Request]:
    while (content := _frame(file)) is not None:
        yield msgspec.msgpack.decode(content, type=Request)


def _frame(file: BinaryIO) -> bytes | None:
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    length, crc = _FRAME.unpack(head)
    content = file.read(length)
    return content if len(content) == length and zlib.crc32(content) == crc else None
