"""Archives as seekable files: on the disk, or in the parts of an upload; and a stretch of one as a file of its own."""

import io
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, BinaryIO, Final

from projections.storage.artifacts import PART_BYTES

CACHED_PARTS: Final = 4
"""Points and lines are read side by side, each from a part of its own."""

Opener = Callable[[], BinaryIO]
"""Opens an archive anew; whoever asks closes it."""


class _Sized(io.RawIOBase):
    """What is read at a place in so many bytes."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at


class Slice(_Sized):
    """A stretch of a file as a file of its own."""

    def __init__(self, open_: Opener, start: int, size: int) -> None:
        super().__init__(size)
        self._file = open_()
        self._start = start

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        self._file.seek(self._start + self._at)
        count = self._file.readinto(view)  # type: ignore[attr-defined]
        self._at += count
        return int(count)

    def close(self) -> None:
        self._file.close()
        super().close()


def parted(read: Callable[[int], bytes], size: int) -> Opener:
    """Return what opens a file of `size` bytes in parts of `PART_BYTES`; `read` gets one by its number.

    A few parts are kept, for all that is opened together. What `read` raises is raised.
    """
    cached = lru_cache(CACHED_PARTS)(read)
    return lambda: io.BufferedReader(_Parts(cached, size), PART_BYTES)


class _Parts(_Sized):
    def __init__(self, read: Callable[[int], bytes], size: int) -> None:
        super().__init__(size)
        self._part = read

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size:
            return 0
        number, start = divmod(self._at, PART_BYTES)
        found = self._part(number)[start : start + len(buffer)]
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)
