"""Points that are read once and asked for again: kept in a file that has no name, 24 bytes each."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Final, Self

import numpy as np

ROW: Final = np.dtype([("step", "<i8"), ("time_us", "<i8"), ("value", "<f8")])
ROWS_AT_ONCE: Final = 10_000


class Spool:
    """The file, and how many rows there are of each metric, one behind the other."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed on exit)
        self._counts: list[tuple[str, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, rows: Sequence[tuple[int, int, float]]) -> bytes:
        """Keep rows of (step, time in microseconds, value), and return them as they are kept."""
        data = np.array(rows, ROW).tobytes()
        self._file.write(data)
        self._counts.append((name, len(rows)))
        return data

    def points(self) -> Iterator[tuple[str, int, int, float]]:
        """Yield name, step, time and value of each point; any number of times, and also side by side."""
        self._file.flush()
        at = 0
        for name, count in self._counts:
            end = at + count * ROW.itemsize
            while at < end:
                data = os.pread(self._file.fileno(), min(end - at, ROWS_AT_ONCE * ROW.itemsize), at)
                rows = np.frombuffer(data, ROW)
                for step, time_us, value in rows.tolist():
                    yield name, step, time_us, value
                at += len(data)
