"""Single points gathered into batches, for inputs that have them one by one."""

from collections.abc import Iterator
from typing import Final

import numpy as np

from events import codec
from events.telemetry import MetricColumns
from service.imports.incoming import Batch

POINTS: Final = 10_000
"""In a batch; its columns then stay within an event."""
NAME_BYTES: Final = 64 << 10


class Points:
    """Batches of one sender, numbered from 1 in the order in which the points come."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._seq = 0
        self._series: dict[str, tuple[list[int], list[int], list[float]]] = {}
        self._count = self._bytes = 0
        self._latest = 0

    def add(self, name: str, step: int, time_us: int, value: float) -> Iterator[Batch]:
        """Take a point, and yield the batch that it fills."""
        known = self._series.get(name)
        if known is None:
            known = self._series[name] = ([], [], [])
            self._bytes += len(name.encode())
        known[0].append(step)
        known[1].append(time_us)
        known[2].append(value)
        self._count += 1
        self._latest = max(self._latest, time_us)
        if self._count >= POINTS or self._bytes >= NAME_BYTES:
            yield from self.rest()

    def rest(self) -> Iterator[Batch]:
        """Yield what is left, if anything is."""
        if not self._count:
            return
        self._seq += 1
        series = self._series.values()
        columns = MetricColumns(
            names=tuple(self._series),
            counts=tuple(len(steps) for steps, _, _ in series),
            step=np.array([one for steps, _, _ in series for one in steps], "<i8").tobytes(),
            time_us=np.array([one for _, times, _ in series for one in times], "<i8").tobytes(),
            value=np.array([one for _, _, values in series for one in values], "<f8").tobytes(),
        )
        received_at = codec.from_microseconds(self._latest)
        self._series, self._count, self._bytes = {}, 0, 0
        yield Batch(1, self._source, self._seq, codec.METRICS, received_at, [columns])
