"""Columnar batches of metrics and logs: the payloads of telemetry events. Pure.

All series of a batch lie behind each other in shared columns; `counts` says how long each is. Columns are raw
little-endian bytes, so reading them is `numpy.frombuffer` and no point is ever an object of its own.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

STREAMS: Final = ("stdout", "stderr", "log")
"""The streams of a log line; a line stores the index."""


class MetricColumns(msgspec.Struct, frozen=True, tag="metrics", kw_only=True, omit_defaults=True):
    """A batch of points of `len(names)` series; n is the sum of `counts`.

    `step` and `time_us` are n int64, `value` n float64 (NaN and infinities bit for bit). `stage` is absent, or n
    uint16 indices into `stages`.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    step: bytes
    value: bytes
    time_us: bytes
    stages: tuple[str | None, ...] = ()
    stage: bytes | None = None

    @property
    def points(self) -> int:
        """How many points the batch holds."""
        return len(self.step) // 8

    @property
    def size_bytes(self) -> int:
        """How many bytes the batch takes as MessagePack, or a few more."""
        texts = sum(len(text.encode()) + 5 for text in (*self.names, *self.stages) if text is not None)
        return 128 + self.points * 26 + texts + len(self.names) * 5 + len(self.stages)

    def steps(self) -> NDArray[np.int64]:
        """Return the steps, int64[n]."""
        return np.frombuffer(self.step, "<i8")

    def values(self) -> NDArray[np.float64]:
        """Return the values, float64[n]."""
        return np.frombuffer(self.value, "<f8")

    def times(self) -> NDArray[np.int64]:
        """Return the times in microseconds since the epoch, int64[n]."""
        return np.frombuffer(self.time_us, "<i8")

    def stage_indices(self) -> NDArray[np.uint16] | None:
        """Return the indices into `stages`, uint16[n], or None without stages."""
        return None if self.stage is None else np.frombuffer(self.stage, "<u2")


class LogColumns(msgspec.Struct, frozen=True, tag="logs", kw_only=True):
    """A batch of n log lines: `time_us` n int64, `stream` n uint8 (index into `STREAMS`), `text` n strings."""

    time_us: bytes
    stream: bytes
    text: tuple[str, ...]

    @property
    def points(self) -> int:
        """How many lines the batch holds."""
        return len(self.text)

    @property
    def size_bytes(self) -> int:
        """How many bytes the batch takes as MessagePack, or a few more."""
        return 128 + self.points * 14 + sum(len(text.encode()) for text in self.text)

    def times(self) -> NDArray[np.int64]:
        """Return the times in microseconds since the epoch, int64[n]."""
        return np.frombuffer(self.time_us, "<i8")

    def streams(self) -> NDArray[np.uint8]:
        """Return the indices into `STREAMS`, uint8[n]."""
        return np.frombuffer(self.stream, "u1")


def split_metrics(batch: MetricColumns, max_points: int) -> list[MetricColumns]:
    """Cut a batch into parts of at most `max_points` points each, order kept."""
    if batch.points <= max_points:
        return [batch]
    ends = np.cumsum(batch.counts)
    parts = []
    for start in range(0, batch.points, max_points):
        stop = min(start + max_points, batch.points)
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop, side="left"))
        starts = ends[first : last + 1] - np.asarray(batch.counts[first : last + 1])
        counts = np.minimum(ends[first : last + 1], stop) - np.maximum(starts, start)
        parts.append(
            MetricColumns(
                names=batch.names[first : last + 1],
                counts=tuple(int(count) for count in counts),
                step=batch.step[start * 8 : stop * 8],
                value=batch.value[start * 8 : stop * 8],
                time_us=batch.time_us[start * 8 : stop * 8],
                stages=batch.stages,
                stage=None if batch.stage is None else batch.stage[start * 2 : stop * 2],
            )
        )
    return parts


def split_logs(batch: LogColumns, max_bytes: int) -> list[LogColumns]:
    """Cut a batch into parts of at most about `max_bytes` of text each, order kept; a line is never cut."""
    parts = []
    start = size = 0
    for index, text in enumerate(batch.text):
        length = len(text.encode()) + 9
        if size and size + length > max_bytes:
            parts.append(_lines(batch, start, index))
            start, size = index, 0
        size += length
    parts.append(_lines(batch, start, len(batch.text)))
    return parts


def _lines(batch: LogColumns, start: int, stop: int) -> LogColumns:
    return LogColumns(
        time_us=batch.time_us[start * 8 : stop * 8],
        stream=batch.stream[start:stop],
        text=batch.text[start:stop],
    )
