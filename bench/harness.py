"""What every benchmark here shares: rounds in which ours and theirs take turns, and the ratios that come of them.

    measured = await rounds({"ours": ours, "theirs": theirs})
    result = judged(Comparison(what="append", ours="ours", against="theirs", unit="events", goal=0.4), measured)

Each contestant is measured once a round, so that every ratio is one of neighbours in time. Machines are noisy and
differ: ratios are the result, absolute figures orientation.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec
import psutil

ROUNDS: Final = 7


class Void(Exception):
    """The run counts for nothing: something acknowledged was lost, or was never durable."""


class Sample(msgspec.Struct, frozen=True):
    """What one contestant did in one round; the CPU-seconds are those of all our processes together."""

    units: float
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.seconds

    @property
    def cpu_micros(self) -> float:
        """CPU-microseconds a unit."""
        return self.cpu_seconds / self.units * 1e6


Contestant = Callable[[], Awaitable[Sample]]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the table: the contestants `ours` and `against`, and the goal for the ratio of their rates.

    Where `durations`, the ratio is that of the times, and the goal an upper bound.
    """

    what: str
    ours: str
    against: str
    unit: str
    goal: float | None
    durations: bool = False


class Result(msgspec.Struct, frozen=True):
    """A comparison after its rounds, with each side's median round."""

    comparison: Comparison
    ratios: tuple[float, ...]
    ours: Sample
    against: Sample

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the goal was met; None without a goal."""
        goal = self.comparison.goal
        if goal is None:
            return None
        return self.ratio <= goal if self.comparison.durations else self.ratio >= goal


class Stopwatch:
    """Seconds of the clock, and CPU-seconds of this process and all its descendants, since it was made."""

    def __init__(self) -> None:
        self._cpu = _cpu_seconds()
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of the clock so far."""
        return time.perf_counter() - self._began

    def sample(self, units: float, seconds: float | None = None) -> Sample:
        """Return what was done; `seconds` where the work ended before what is charged for it."""
        elapsed = self.seconds
        return Sample(units, seconds or elapsed, _cpu_seconds() - self._cpu)


def _cpu_seconds() -> float:
    total = 0.0
    ourselves = psutil.Process()
    for process in (ourselves, *ourselves.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])  # user and system, its own and its dead children's
        except psutil.NoSuchProcess:
            continue
    return total


async def rounds(contestants: Mapping[str, Contestant], number: int = ROUNDS) -> list[dict[str, Sample]]:
    """Measure each contestant once a round, every other round backwards, after one round for warmth."""
    measured = []
    for index in range(number + 1):
        order = list(contestants) if index % 2 else list(contestants)[::-1]
        samples = {name: await contestants[name]() for name in order}
        if index:
            measured.append(samples)
    return measured


def judged(comparison: Comparison, measured: Sequence[Mapping[str, Sample]]) -> Result:
    """Return what the rounds say of a comparison."""
    ours = [samples[comparison.ours] for samples in measured]
    against = [samples[comparison.against] for samples in measured]
    ratios = [one.rate / other.rate for one, other in zip(ours, against, strict=True)]
    if comparison.durations:
        ratios = [1 / ratio for ratio in ratios]
    return Result(comparison, tuple(ratios), _median(ours), _median(against))


def _median(samples: Sequence[Sample]) -> Sample:
    return sorted(samples, key=lambda sample: sample.rate)[len(samples) // 2]


async def repeated(once: Callable[[int], Awaitable[object]], *, seconds: float, writers: int = 1) -> Sample:
    """Let each of some writers do `once(writer)` again and again for a time; one unit a call."""
    watch = Stopwatch()

    async def write(writer: int) -> int:
        done = 0
        while watch.seconds < seconds:
            await once(writer)
            done += 1
        return done

    return watch.sample(sum(await asyncio.gather(*(write(writer) for writer in range(writers)))))
