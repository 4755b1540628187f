"""How far a run is, how fast, and how long it will take: pure.

    progress = reported(progress, event, previous_at)     # folds a report; its own time need not be known yet
    estimate = estimated(progress, at, now)               # with the time of the last report

The rate is a time-weighted average: what was done over the seconds that it took, where both fade with a time constant
of `MEMORY_SECONDS`. The time of an event is known only once it is recorded, so a report's own interval is left to
whoever reads: the next report, or the estimate.
"""

import math
from datetime import datetime
from typing import Final

import msgspec
from msgspec.structs import replace

from events.run_events import RunProgressReported

MEMORY_SECONDS: Final = 300.0
"""After this time, what was measured before counts for 1/e."""
STALE_SECONDS: Final = 600.0
STALE_INTERVALS: Final = 5
"""Silence after which nothing is foretold: both the time and so many times the last interval between reports."""
MAX_REMAINING_SECONDS: Final = 10 * 366 * 86_400.0


class Sample(msgspec.Struct, frozen=True):
    """What was done at a time."""

    done: float
    at: datetime


class Progress(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last progress report, the one before it, and the faded sums of all intervals before that."""

    done: float
    total: float | None = None
    unit: str = ""
    epoch: int = 0
    before: Sample | None = None
    gained: float = 0.0
    seconds: float = 0.0


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What progress tells; None is what cannot be told."""

    percent: float | None = None
    rate_per_second: float | None = None
    remaining_seconds: float | None = None


def reported(known: Progress | None, event: RunProgressReported, previous_at: datetime | None) -> Progress:
    """Return the progress after a report; `previous_at` is the time of the report before it.

    Another attempt, another unit, and less than was done already are a new beginning.
    """
    told = Progress(done=event.done, total=event.total, unit=event.unit, epoch=event.epoch)
    goes_on = known is not None and (known.epoch, known.unit) == (event.epoch, event.unit) and event.done >= known.done
    if known is None or previous_at is None or not goes_on:
        return told
    gained, seconds = _sums(known, previous_at)
    return replace(told, before=Sample(known.done, previous_at), gained=gained, seconds=seconds)


def estimated(progress: Progress, at: datetime, now: datetime, *, goes_on: bool = True) -> Estimate:
    """Return what can be told at `now`, when the last report came at `at`.

    Nothing remains to be told of a run that no longer `goes_on`, that was silent for too long, or that has done more
    than all.
    """
    percent = None
    if progress.total is not None and progress.done <= progress.total:
        percent = 100.0 * progress.done / progress.total
    gained, seconds = _sums(progress, at)
    rate = gained / seconds if seconds > 0 else None
    silence = max(0.0, (now - at).total_seconds())
    if not goes_on or _stale(progress, at, silence):
        return Estimate(percent=percent, rate_per_second=rate)
    return Estimate(percent=percent, rate_per_second=rate, remaining_seconds=_remaining(progress, rate, silence))


def _sums(progress: Progress, at: datetime) -> tuple[float, float]:
    """Return what was gained in how many seconds, with the last interval."""
    if progress.before is None:
        return progress.gained, progress.seconds
    interval = max(0.0, (at - progress.before.at).total_seconds())
    fade = math.exp(-interval / MEMORY_SECONDS)
    gained = progress.done - progress.before.done
    return progress.gained * fade + gained, progress.seconds * fade + interval


def _stale(progress: Progress, at: datetime, silence: float) -> bool:
    interval = 0.0 if progress.before is None else (at - progress.before.at).total_seconds()
    return silence > max(STALE_SECONDS, STALE_INTERVALS * interval)


def _remaining(progress: Progress, rate: float | None, silence: float) -> float | None:
    """Return the seconds to go, of which those since the last report have passed."""
    if progress.total is None or progress.done > progress.total:
        return None
    left = progress.total - progress.done
    if left == 0:
        return 0.0
    if rate is None or rate <= 0 or left / rate > MAX_REMAINING_SECONDS:
        return None
    return max(0.0, left / rate - silence)
