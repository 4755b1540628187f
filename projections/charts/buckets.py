"""Points to buckets: true extremes, first, last and mean, and counts of what is not finite. Pure numpy.

The order of points is (x, step, arrival), wherever they come from, so that the same points give the same
answer before and after they were archived. Only the `mean` of points that came in parts may differ, by rounding.
"""

from collections.abc import Sequence
from math import ceil, log2
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from projections.archive.levels import LevelRows

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_INT64_MAX: Final = (1 << 63) - 1
_FLOAT64_MAX: Final = np.finfo(np.float64).max
_HUGE: Final = 1e290
"""Sums of larger numbers may overflow, so they are taken of 2⁻⁶⁴ of each."""
_SCALE: Final = 2.0**-64


class Points(msgspec.Struct, frozen=True):
    """n points of a series, in order of arrival within a step.

    `x` is the step itself, microseconds (int64), or another metric's finite value (float64).
    """

    x: Ints | Floats
    step: Ints
    value: Floats

    def __len__(self) -> int:
        return len(self.value)


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """A metric's answer, one element a bucket that holds points, in order of x.

    `x` is the x of the bucket's last point, `x_first` of its first (int64; float64 for seconds and metrics).
    `min` and `max` are exact over all numbers, infinities included, `mean` is over the finite ones; NaN where there is
    none. `points` is how many there are in all; `sampled` is False when each element is one point. `left_out` counts
    points of the range that have no place on the x axis.
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
    mean: Floats
    count: Ints
    nan_count: Ints
    posinf_count: Ints
    neginf_count: Ints
    left_out: int = 0


def nothing() -> Points:
    """Return no points."""
    return Points(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))


def joined(parts: Sequence[Points]) -> Points:
    """Return the parts behind each other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return nothing()
    step = np.concatenate([part.step for part in parts])
    same = all(part.x is part.step for part in parts)
    x = step if same else np.concatenate([part.x for part in parts])
    return Points(x, step, np.concatenate([part.value for part in parts]))


def taken(points: Points, chosen: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Points:
    """Return the chosen ones of the points."""
    step = points.step[chosen]
    return Points(step if points.x is points.step else points.x[chosen], step, points.value[chosen])


def kept(points: Points, keep: NDArray[np.bool_]) -> Points:
    """Return the points that a mask keeps; those that stand together are not copied."""
    if not keep.any():
        return taken(points, slice(0))
    begin, end = int(keep.argmax()), len(keep) - int(keep[::-1].argmax())
    return taken(points, slice(begin, end) if keep[begin:end].all() else keep)


def ordered(points: Points) -> Points:
    """Return the points in order of (x, step, arrival); what is in order already is not sorted."""
    for key in ("step", "x"):
        column = getattr(points, key)
        if np.any(column[1:] < column[:-1]):
            points = taken(points, np.argsort(column, kind="stable"))
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
        mean=value if np.isfinite(value).all() else np.where(np.isfinite(value), value, np.nan),
        count=np.ones(len(value), np.int64),
        nan_count=np.isnan(value).astype(np.int64),
        posinf_count=np.isposinf(value).astype(np.int64),
        neginf_count=np.isneginf(value).astype(np.int64),
    )


def edges(low: float, high: float, buckets: int, *, log: bool = False) -> Ints | Floats:
    """Return where buckets 1 to `buckets` - 1 begin, when [low, high] is cut into equal ranges, or its logarithm is.

    Of x's own type: int64 for integers. A bucket holds what is at or above its edge and below the next.
    """
    if log:
        return _log_edges(low, high, buckets)
    if isinstance(low, int) and isinstance(high, int):
        span = high - low + 1
        if span * buckets <= _INT64_MAX and abs(low) + span <= _INT64_MAX:
            index = np.arange(1, buckets, dtype=np.int64)
            return low - (-(index * span) // buckets)
        begins = (low - (-(index * span) // buckets) for index in range(1, buckets))
        return np.array([min(begin, _INT64_MAX) for begin in begins], np.int64)
    part = np.arange(1, buckets) / buckets
    return np.asarray(np.maximum.accumulate(low * (1 - part) + high * part), np.float64)


def _log_edges(low: float, high: float, buckets: int) -> Ints | Floats:
    part = np.arange(1, buckets) / buckets
    at = np.maximum.accumulate(np.exp2(log2(low) * (1 - part) + log2(high) * part))  # each may be off by its rounding
    at = np.clip(at, low, high)
    if isinstance(low, int):
        return np.array([max(low, min(ceil(one), int(high))) for one in at.tolist()], np.int64)
    return at


class Buckets:
    """Takes points in parts, each part having arrived before the next, and keeps only the buckets.

    `edges` are those of `edges()`; x of points have their type.
    """

    def __init__(self, edges: Ints | Floats) -> None:
        buckets = len(edges) + 1
        self._edges = edges
        self._count = np.zeros(buckets, np.int64)
        self._nan, self._posinf, self._neginf = (np.zeros(buckets, np.int64) for _ in range(3))
        self._min, self._max, self._first, self._last = (np.full(buckets, np.nan) for _ in range(4))
        self._sum, self._huge_sum = np.zeros(buckets), np.zeros(buckets)
        self._first_x: Any = np.zeros(buckets, edges.dtype)
        self._last_x: Any = np.zeros(buckets, edges.dtype)
        self._first_step, self._last_step = (np.zeros(buckets, np.int64) for _ in range(2))

    def add(self, points: Points) -> None:
        """Take a part."""
        if not len(points):
            return
        points = ordered(points)
        x, step, value = points.x, points.step, points.value
        bounds = np.concatenate(([0], np.searchsorted(x, self._edges), [len(x)]))
        at = np.flatnonzero(bounds[1:] > bounds[:-1])
        starts, ends = bounds[at], bounds[at + 1]
        self._take_values(at, starts, value)
        empty = self._count[at] == 0
        self._count[at] += ends - starts
        self._take_first(at, empty, x[starts], step[starts], value[starts])
        self._take_last(at, empty, x[ends - 1], step[ends - 1], value[ends - 1])

    def add_level(self, rows: LevelRows) -> None:
        """Take the buckets of a level, x being the step; each lies in a bucket here as a whole, no two in the same."""
        at = np.searchsorted(self._edges, rows.first_step, side="right")
        empty = self._count[at] == 0
        self._count[at] += rows.count
        self._nan[at] += rows.nan_count
        self._posinf[at] += rows.posinf_count
        self._neginf[at] += rows.neginf_count
        self._add_sums(at, rows.sum)
        self._min[at] = np.fmin(self._min[at], rows.min)
        self._max[at] = np.fmax(self._max[at], rows.max)
        self._take_first(at, empty, rows.first_step, rows.first_step, rows.first)
        self._take_last(at, empty, rows.last_step, rows.last_step, rows.last)

    def _take_first(self, at: Any, empty: Any, x: Any, step: Ints, value: Floats) -> None:
        """Take the first points of some buckets where they come before those that are known."""
        known_x, known_step = self._first_x[at], self._first_step[at]
        chosen = empty | (x < known_x) | ((x == known_x) & (step < known_step))
        into = at[chosen]
        self._first_x[into], self._first_step[into], self._first[into] = x[chosen], step[chosen], value[chosen]

    def _take_last(self, at: Any, empty: Any, x: Any, step: Ints, value: Floats) -> None:
        """Take the last points of some buckets where they come behind those that are known, or at the same place."""
        known_x, known_step = self._last_x[at], self._last_step[at]
        chosen = empty | (x > known_x) | ((x == known_x) & (step >= known_step))
        into = at[chosen]
        self._last_x[into], self._last_step[into], self._last[into] = x[chosen], step[chosen], value[chosen]

    def _take_values(self, at: NDArray[np.intp], starts: NDArray[np.intp], value: Floats) -> None:
        low, high = np.minimum.reduceat(value, starts), np.maximum.reduceat(value, starts)
        finite, peak = value, max(-low.min(), high.max())
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            self._nan[at] += np.add.reduceat(np.isnan(value), starts, dtype=np.int64)
            self._posinf[at] += np.add.reduceat(np.isposinf(value), starts, dtype=np.int64)
            self._neginf[at] += np.add.reduceat(np.isneginf(value), starts, dtype=np.int64)
            low, high = np.fmin.reduceat(value, starts), np.fmax.reduceat(value, starts)
            finite = np.where(np.isfinite(value), value, 0.0)
            peak = np.abs(finite).max()
        if peak < _HUGE:
            self._add_sums(at, np.add.reduceat(finite, starts))
        else:
            self._huge_sum[at] += np.add.reduceat(finite * _SCALE, starts)
        self._min[at] = np.fmin(self._min[at], low)
        self._max[at] = np.fmax(self._max[at], high)

    def _add_sums(self, at: NDArray[np.intp], sums: Floats) -> None:
        if np.abs(sums).max(initial=0.0) < _HUGE:
            self._sum[at] += sums
        else:
            self._huge_sum[at] += sums * _SCALE

    def series(self, metric: str) -> Series:
        """Return the buckets that hold points."""
        return self._series(metric, np.flatnonzero(self._count))

    def every(self, metric: str) -> Series:
        """Return all buckets; in those without points, x means nothing."""
        return self._series(metric, np.arange(len(self._count)))

    def _series(self, metric: str, at: NDArray[np.intp]) -> Series:
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
            mean=self._mean()[at],
            count=self._count[at],
            nan_count=self._nan[at],
            posinf_count=self._posinf[at],
            neginf_count=self._neginf[at],
        )

    def _mean(self) -> Floats:
        finite = self._count - self._nan - self._posinf - self._neginf
        number = np.where(finite > 0, finite, np.nan)
        with np.errstate(over="ignore"):
            mean = self._sum / number + self._huge_sum / number / _SCALE
        return np.clip(mean, -_FLOAT64_MAX, _FLOAT64_MAX)


def summarised(metric: str, parts: Sequence[Points], buckets: int, *, log: bool = False) -> Series:
    """Return parts that are all in memory as points where they are few, else as buckets."""
    points = joined([part for part in parts if len(part)])
    if len(points) <= buckets:
        return exact(metric, points)
    whole = Buckets(edges(points.x.min().item(), points.x.max().item(), buckets, log=log))
    whole.add(points)
    return whole.series(metric)
