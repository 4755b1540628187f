"""The file of an attempt's journal: frames are written at its end, and what is done with at its front is given back.

Layout: the header (a frame of JSON), the mark (uint64), and frames. A frame is `length` and `crc32` (little-endian
uint32 each) and as many bytes. The mark says where to read on. A torn last frame, left by a crash, ends the file for
readers. Nothing is ever synced: what a process wrote outlives it in the page cache, if not a loss of power.
"""

import contextlib
import importlib.util
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from tachograph._frames import Header

_FRAME: Final = struct.Struct("<II")
_MARK: Final = struct.Struct("<Q")
SUFFIX: Final = ".spool"
LOCKS: Final = importlib.util.find_spec("fcntl") is not None
"""Whether a lock tells that a file's process lives."""

COMPACT_BYTES: Final = 16 * 1024 * 1024
"""How long the file grows before the rest of it, where that is a quarter at most, moves to a new one."""


class Spool:
    """The file while its run goes on; one thread at a time.

    A place is a number that stays what it is though the file is cut at its front. Raises `OSError` where the file
    system refuses; what was written before stays whole.
    """

    def __init__(self, path: Path, header: Header) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path: Final = path
        self._head = _framed(msgspec.json.encode(header))
        self._first = len(self._head) + _MARK.size
        self._compact_at = COMPACT_BYTES
        try:
            self._file = self._created(path)
        except FileExistsError:
            raise
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self.start = self.end = self._first
        """The places where what is needed begins, and where the next frame goes."""
        self._cut = 0

    @property
    def size_bytes(self) -> int:
        """How long the file is."""
        return self.end - self._cut

    def append(self, contents: Sequence[bytes]) -> list[int]:
        """Add frames at the end, and return their places."""
        frames = [_framed(content) for content in contents]
        size = self.size_bytes
        try:
            _write(self._file, size, b"".join(frames))
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(size)  # a disk that is full: keep whole frames only
            raise
        places = []
        for frame in frames:
            places.append(self.end)
            self.end += len(frame)
        return places

    def read(self, place: int) -> tuple[bytes, int]:
        """Return the frame at a place, and the place of the next."""
        self._file.seek(place - self._cut)
        content = _frame(self._file)
        if content is None:
            raise OSError(f"{self.path} was damaged at byte {place - self._cut}")
        return content, place + _FRAME.size + len(content)

    def forget(self, place: int) -> None:
        """Give back what is in front of a place."""
        if place == self.start:
            return
        self.start = place
        _write(self._file, self._first - _MARK.size, _MARK.pack(place - self._cut))
        rest = self.end - place
        if not rest:
            self._file.truncate(self._first)
            self._cut = place - self._first
            _write(self._file, self._first - _MARK.size, _MARK.pack(self._first))
        elif self.size_bytes >= self._compact_at and rest <= self._compact_at // 4:
            self._compact(rest)

    def close(self, *, keep: bool) -> None:
        """Let go of the file; without `keep` it is removed."""
        self._file.close()
        if not keep:
            self.path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Let go of the file in a child process: it is the parent's."""
        self._file.close()

    def _created(self, path: Path) -> BinaryIO:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b", buffering=0)
        lock(file, wait=True)
        _write(file, 0, self._head + _MARK.pack(self._first))
        return file

    def _compact(self, rest: int) -> None:
        self._file.seek(self.start - self._cut)
        content = self._file.read(rest)
        beside = self.path.with_suffix(".new")
        try:
            file = self._created(beside)
            _write(file, self._first, content)
            beside.replace(self.path)
        except OSError:
            beside.unlink(missing_ok=True)
            self._compact_at *= 2
            return
        self._file.close()
        self._file = file
        self._cut = self.start - self._first


def read(file: BinaryIO) -> tuple[Header, Iterator[bytes]] | None:
    """Return the header and the frames from the mark on, or None where not even the header was written."""
    first = _frame(file)
    if first is None:
        return None
    header = msgspec.json.decode(first, type=Header)
    if header.format > 1:
        mark = file.read(_MARK.size)
        if len(mark) < _MARK.size:
            return None
        file.seek(_MARK.unpack(mark)[0])
    return header, _frames(file)


def lock(file: BinaryIO, *, wait: bool = False) -> bool:
    """Mark the file as in use until it is closed; False where another process uses it."""
    try:
        import fcntl  # noqa: PLC0415 (POSIX only)
    except ImportError:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _frames(file: BinaryIO) -> Iterator[bytes]:
    while (content := _frame(file)) is not None:
        yield content


def _frame(file: BinaryIO) -> bytes | None:
    head = file.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    length, crc = _FRAME.unpack(head)
    content = file.read(length)
    return content if len(content) == length and zlib.crc32(content) == crc else None


def _framed(content: bytes) -> bytes:
    return _FRAME.pack(len(content), zlib.crc32(content)) + content


def _write(file: BinaryIO, at: int, content: bytes) -> None:
    file.seek(at)
    view, written = memoryview(content), 0
    while written < len(view):
        written += file.write(view[written:])
