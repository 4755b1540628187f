"""What the machine itself does at the moment: a benchmark between two probes that differ says nothing about us."""

import os
import statistics
import tempfile
import time
from typing import Final

import msgspec
import numpy as np

WRITES: Final = 100
TIMES: Final = 5
COPIED: Final = 1 << 24
"""float64 values copied at a time: more than any cache holds."""

DRIFT: Final = 2.0
"""By how much a probe may differ from the one before before no goal is judged any more."""


class Probes(msgspec.Struct, frozen=True):
    """4 KiB writes a second that reach the disk one by one, and bytes a second copied in memory."""

    fdatasync_rate: float
    memcpy_rate: float

    def __str__(self) -> str:
        return f"{self.fdatasync_rate:,.0f} fdatasync/s, {self.memcpy_rate / 1e9:.1f} GB/s memcpy"


def probe(directory: str) -> Probes:
    """Measure both, each as the median of some tries; the disk is that of the directory."""
    return Probes(
        fdatasync_rate=WRITES / statistics.median(_fdatasync_seconds(directory) for _ in range(TIMES)),
        memcpy_rate=COPIED * 8 / statistics.median(_memcpy_seconds()),
    )


def drift(before: Probes, after: Probes) -> str | None:
    """Return which probe differs too much to judge anything measured between the two, or None."""
    for name, one, other in (
        ("fdatasync", before.fdatasync_rate, after.fdatasync_rate),
        ("memcpy", before.memcpy_rate, after.memcpy_rate),
    ):
        if not 1 / DRIFT <= other / one <= DRIFT:
            return f"{name} went to {other / one:.2f} times its rate meanwhile"
    return None


def _fdatasync_seconds(directory: str) -> float:
    block = os.urandom(4096)
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        began = time.perf_counter()
        for _ in range(WRITES):
            os.pwrite(file.fileno(), block, 0)
            os.fdatasync(file.fileno())
        return time.perf_counter() - began


def _memcpy_seconds() -> list[float]:
    source, target = np.ones(COPIED), np.empty(COPIED)
    seconds = []
    for _ in range(TIMES):
        began = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - began)
    return seconds
