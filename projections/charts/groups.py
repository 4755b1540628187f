"""Groups of runs as one curve a metric: the mean of the runs, and the band from the lowest to the highest point. Pure.

All runs of a chart have the same buckets, and a run counts in those in which it has points: nothing is interpolated.
Each run's mean in a bucket weighs the same, however many points it has there.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

from projections.charts.buckets import Floats, Ints, Series
from projections.search.fields import Field, Known, value_of

MAX_GROUPS: Final = 500


class Group(msgspec.Struct, frozen=True):
    """A value of the field that is grouped by, None for none, and the indices of the runs that have it."""

    value: Any
    runs: tuple[int, ...]


class GroupSeries(msgspec.Struct, frozen=True, kw_only=True):
    """A group's curve of a metric, one element a bucket that holds points, in order of x.

    `runs` says how many runs have points there; `mean` is the mean of those runs' means (NaN where none has one); `min`
    and `max` are exact over all points. Counts are of points.
    """

    metric: str
    points: int
    left_out: int
    x: Ints | Floats
    x_first: Ints | Floats
    min: Floats
    max: Floats
    mean: Floats
    runs: Ints
    count: Ints
    nan_count: Ints
    posinf_count: Ints
    neginf_count: Ints


def grouped(known: Sequence[Known], by: Field) -> list[Group]:
    """Return runs by their value of a field, the most frequent first. A run stands with each of its tags."""
    values: dict[bytes, Any] = {}
    members: dict[bytes, list[int]] = {}
    for index, one in enumerate(known):
        value = value_of(one, by)
        for each in dict.fromkeys(value) or [None] if isinstance(value, tuple) else [value]:
            key = msgspec.json.encode(float(each) if type(each) is int else each)
            values.setdefault(key, each)
            members.setdefault(key, []).append(index)
    order = sorted(members, key=lambda key: (-len(members[key]), values[key] is None, key))
    return [Group(values[key], tuple(members[key])) for key in order]


class Band:
    """Takes the runs of a group one after another, all on the same buckets."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._left_out = 0
        self._first: Any = None
        self._last: Any = None
        self._empty(0)

    def _empty(self, buckets: int) -> None:
        self._runs, self._means = np.zeros(buckets, np.int64), np.zeros(buckets, np.int64)
        self._count, self._nan, self._posinf, self._neginf = (np.zeros(buckets, np.int64) for _ in range(4))
        self._min, self._max = (np.full(buckets, np.nan) for _ in range(2))
        self._mean = np.zeros(buckets)

    def add(self, series: Series) -> None:
        """Take a run's series, of all buckets."""
        there = series.count > 0
        if self._first is None:
            self._empty(len(there))
            self._first, self._last = series.x_first.copy(), series.x.copy()
        new = there & (self._count == 0)
        self._first = np.where(
            new, series.x_first, np.where(there, np.minimum(self._first, series.x_first), self._first)
        )
        self._last = np.where(new, series.x, np.where(there, np.maximum(self._last, series.x), self._last))
        self._runs += there
        has_mean = ~np.isnan(series.mean)
        self._means += has_mean
        part = 1 / np.maximum(self._means, 1)
        mean = self._mean * (1 - part) + np.where(has_mean, series.mean, 0.0) * part  # sums would overflow sooner
        self._mean = np.where(has_mean, mean, self._mean)
        self._min, self._max = np.fmin(self._min, series.min), np.fmax(self._max, series.max)
        self._count += series.count
        self._nan += series.nan_count
        self._posinf += series.posinf_count
        self._neginf += series.neginf_count
        self._left_out += series.left_out

    def series(self) -> GroupSeries:
        """Return what came together."""
        at = np.flatnonzero(self._count)
        nowhere = np.empty(0, np.int64)
        return GroupSeries(
            metric=self._metric,
            points=int(self._count.sum()),
            left_out=self._left_out,
            x=nowhere if self._last is None else self._last[at],
            x_first=nowhere if self._first is None else self._first[at],
            min=self._min[at],
            max=self._max[at],
            mean=np.where(self._means > 0, self._mean, np.nan)[at],
            runs=self._runs[at],
            count=self._count[at],
            nan_count=self._nan[at],
            posinf_count=self._posinf[at],
            neginf_count=self._neginf[at],
        )
