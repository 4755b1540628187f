"""Points to buckets: true extremes, first and last, and counts of what is not finite. Pure numpy.

The order of points is (x, step, arrival), wherever they come from, so that the same points give the same
answer before and after they were archived.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_INT64_MAX: Final = (1 << 63) - 1


class Points(msgspec.Struct, frozen=True):
    """n points of a series, in order of arrival within a step; `x` is the step itself, or microseconds."""

    x: Ints
    step: Ints
    value: Floats

    def __len__(self) -> int:
        return len(self.value)


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A metric's answer, one element a bucket that holds points, in order of x.

    `x` is the x of the bucket's last point, `x_first` of its first (int64; float64 seconds for relative
    time). `min` and `max` are exact over all numbers, infinities included, and NaN where there is none.
    `points` is how many there are in all; `sampled` is False when each element is one point.
    """

    metric: str
    sampled: bool
    points: int
    x: Ints | Floats
    x_first: Ints | Floats
    min: Floats
    max: Floats
    first: Floats
    last: Floats
    count: Ints
    nan_count: Ints
    posinf_count: Ints
    neginf_count: Ints


def joined(parts: Sequence[Points]) -> Points:
    """Return the parts behind each other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Points(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))
    step = np.concatenate([part.step for part in parts])
    same = all(part.x is part.step for part in parts)
    x = step if same else np.concatenate([part.x for part in parts])
    return Points(x, step, np.concatenate([part.value for part in parts]))


def ordered(points: Points) -> Points:
    """Return the points in order of (x, step, arrival); what is in order already is not sorted."""
    for key in ("step", "x"):
        column = getattr(points, key)
        if np.any(column[1:] < column[:-1]):
            order = np.argsort(column, kind="stable")
            step = points.step[order]
            points = Points(step if points.x is points.step else points.x[order], step, points.value[order])
    return points


def exact(metric: str, points: Points) -> Series:
    """Return every point as an element of its own."""
    points = ordered(points)
    value = points.value
    return Series(
        metric=metric,
        sampled=False,
        points=len(value),
        x=points.x,
        x_first=points.x,
        min=value,
        max=value,
        first=value,
        last=value,
        count=np.ones(len(value), np.int64),
        nan_count=np.isnan(value).astype(np.int64),
        posinf_count=np.isposinf(value).astype(np.int64),
        neginf_count=np.isneginf(value).astype(np.int64),
    )


def edges(low: int, high: int, buckets: int) -> Ints:
    """Return where buckets 1 to `buckets` - 1 begin, when [low, high] is cut into equal ranges; int64."""
    span = high - low + 1
    if span * buckets <= _INT64_MAX and abs(low) + span <= _INT64_MAX:
        index = np.arange(1, buckets, dtype=np.int64)
        return low - (-(index * span) // buckets)
    return np.array([low - (-(index * span) // buckets) for index in range(1, buckets)], np.int64)


class Buckets:
    """Takes points in parts, each part having arrived before the next, and keeps only the buckets."""

    def __init__(self, low: int, high: int, buckets: int) -> None:
        self._edges = edges(low, high, buckets)
        self._count = np.zeros(buckets, np.int64)
        self._nan, self._posinf, self._neginf = (np.zeros(buckets, np.int64) for _ in range(3))
        self._min, self._max, self._first, self._last = (np.full(buckets, np.nan) for _ in range(4))
        self._first_x, self._first_step, self._last_x, self._last_step = (np.zeros(buckets, np.int64) for _ in range(4))

    def add(self, points: Points) -> None:
        """Take a part. All its x lie within [low, high]."""
        if not len(points):
            return
        points = ordered(points)
        x, step, value = points.x, points.step, points.value
        bounds = np.concatenate(([0], np.searchsorted(x, self._edges), [len(x)]))
        at = np.flatnonzero(bounds[1:] > bounds[:-1])
        starts, ends = bounds[at], bounds[at + 1]
        self._take_extremes(at, starts, value)
        empty = self._count[at] == 0
        self._count[at] += ends - starts
        x_here, step_here = x[starts], step[starts]
        known_x, known_step = self._first_x[at], self._first_step[at]
        earlier = empty | (x_here < known_x) | ((x_here == known_x) & (step_here < known_step))
        chosen, source = at[earlier], starts[earlier]
        self._first_x[chosen], self._first_step[chosen], self._first[chosen] = (
            x[source],
            step[source],
            value[source],
        )
        x_here, step_here = x[ends - 1], step[ends - 1]
        known_x, known_step = self._last_x[at], self._last_step[at]
        later = empty | (x_here > known_x) | ((x_here == known_x) & (step_here >= known_step))
        chosen, source = at[later], ends[later] - 1
        self._last_x[chosen], self._last_step[chosen], self._last[chosen] = (
            x[source],
            step[source],
            value[source],
        )

    def _take_extremes(self, at: NDArray[np.intp], starts: NDArray[np.intp], value: Floats) -> None:
        low, high = np.minimum.reduceat(value, starts), np.maximum.reduceat(value, starts)
        if np.isnan(low).any():
            nan = np.isnan(value)
            self._nan[at] += np.add.reduceat(nan, starts, dtype=np.int64)
            low, high = np.fmin.reduceat(value, starts), np.fmax.reduceat(value, starts)
        if np.isposinf(high).any():
            self._posinf[at] += np.add.reduceat(np.isposinf(value), starts, dtype=np.int64)
        if np.isneginf(low).any():
            self._neginf[at] += np.add.reduceat(np.isneginf(value), starts, dtype=np.int64)
        self._min[at] = np.fmin(self._min[at], low)
        self._max[at] = np.fmax(self._max[at], high)

    def series(self, metric: str) -> Series:
        """Return the buckets that hold points."""
        at = np.flatnonzero(self._count)
        return Series(
            metric=metric,
            sampled=True,
            points=int(self._count.sum()),
            x=self._last_x[at],
            x_first=self._first_x[at],
            min=self._min[at],
            max=self._max[at],
            first=self._first[at],
            last=self._last[at],
            count=self._count[at],
            nan_count=self._nan[at],
            posinf_count=self._posinf[at],
            neginf_count=self._neginf[at],
        )


def summarised(metric: str, parts: Sequence[Points], buckets: int) -> Series:
    """Return parts that are all in memory as points where they are few, else as buckets."""
    parts = [part for part in parts if len(part)]
    if sum(len(part) for part in parts) <= buckets:
        return exact(metric, joined(parts))
    taken = Buckets(min(int(p.x.min()) for p in parts), max(int(p.x.max()) for p in parts), buckets)
    for part in parts:
        taken.add(part)
    return taken.series(metric)
