"""Levels of a series: its points summed up in ever wider buckets of steps, so that a chart reads few rows. Pure numpy.

The bucket b of level k holds the points with steps from b·2**k up to, but not including, (b + 1)·2**k. So buckets of
the same level are the same ones in every file, whatever its points are, and buckets of different files add up. The
lowest level is chosen so that a bucket holds `POINTS_PER_BUCKET` points or more on the average, each next one is eight
times as wide, and the highest has at most `TOP_BUCKETS`: all of them together are some 1 % of the rows.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MIN_POINTS: Final = 16_384
"""A series of fewer points has no levels: they are read as they are."""

POINTS_PER_BUCKET: Final = 128
TOP_BUCKETS: Final = 256
LEVELS_APART: Final = 3

MAX_BUCKETS: Final = 65_536
"""No level of a file has more, so that summing up a series takes as much memory however long it gets."""

_FEW_BUCKETS: Final = 4_096
_FINEST: Final = 32
"""How many points a bucket holds at first, by a guess that only ever errs towards narrow buckets."""


class LevelRows(msgspec.Struct, frozen=True, kw_only=True):
    """Buckets of one level of one series in order, one element a bucket that holds points.

    Extremes are exact over all numbers, infinities included, and NaN where there are none; `first` and `last` are the
    values of the outermost points, NaN or not; `sum` adds up what is finite. All counts and steps are int64.
    """

    bucket: Ints
    count: Ints
    nan_count: Ints
    posinf_count: Ints
    neginf_count: Ints
    first_step: Ints
    last_step: Ints
    min: Floats
    max: Floats
    first: Floats
    last: Floats
    sum: Floats

    def __len__(self) -> int:
        return len(self.bucket)


_NO_INTS: Final = np.empty(0, np.int64)
_NO_FLOATS: Final = np.empty(0, np.float64)
EMPTY: Final = LevelRows(
    bucket=_NO_INTS,
    count=_NO_INTS,
    nan_count=_NO_INTS,
    posinf_count=_NO_INTS,
    neginf_count=_NO_INTS,
    first_step=_NO_INTS,
    last_step=_NO_INTS,
    min=_NO_FLOATS,
    max=_NO_FLOATS,
    first=_NO_FLOATS,
    last=_NO_FLOATS,
    sum=_NO_FLOATS,
)


def whole(low: int, high: int, level: int) -> tuple[int, int]:
    """Return from which step up to, but not including, which the buckets of a level go that lie within [low, high].

    They are the same where there is none.
    """
    begin = -(-low >> level) << level
    return begin, max(begin, high + 1 >> level << level)


def of_points(step: Ints, value: Floats, level: int) -> LevelRows:
    """Return the buckets of at least one point, which are in order of steps."""
    bucket = step >> level
    starts = _starts(bucket)
    ends = np.append(starts[1:], len(step)) - 1
    low, high = np.minimum.reduceat(value, starts), np.maximum.reduceat(value, starts)
    zeros = np.zeros(len(starts), np.int64)
    nan = posinf = neginf = zeros
    finite = value
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        nan, posinf, neginf = (
            np.add.reduceat(are, starts, dtype=np.int64)
            for are in (np.isnan(value), np.isposinf(value), np.isneginf(value))
        )
        finite = np.where(np.isfinite(value), value, 0.0)
        low, high = np.fmin.reduceat(value, starts), np.fmax.reduceat(value, starts)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduceat(finite, starts)
    return LevelRows(
        bucket=bucket[starts],
        count=ends - starts + 1,
        nan_count=nan,
        posinf_count=posinf,
        neginf_count=neginf,
        first_step=step[starts],
        last_step=step[ends],
        min=low,
        max=high,
        first=value[starts],
        last=value[ends],
        sum=total,
    )


def coarser(rows: LevelRows, by: int) -> LevelRows:
    """Return at least one bucket as those of a level that is so much higher; equal ones in a row become one."""
    bucket = rows.bucket >> by
    starts = _starts(bucket)
    if len(starts) == len(rows):
        return msgspec.structs.replace(rows, bucket=bucket)
    ends = np.append(starts[1:], len(rows)) - 1
    with np.errstate(over="ignore", invalid="ignore"):
        added = {
            name: np.add.reduceat(column, starts) if column.any() else np.zeros(len(starts), column.dtype)
            for name in ("count", "nan_count", "posinf_count", "neginf_count", "sum")
            for column in (getattr(rows, name),)
        }
    return LevelRows(
        bucket=bucket[starts],
        first_step=rows.first_step[starts],
        last_step=rows.last_step[ends],
        min=np.fmin.reduceat(rows.min, starts),
        max=np.fmax.reduceat(rows.max, starts),
        first=rows.first[starts],
        last=rows.last[ends],
        **added,
    )


def behind_each_other(parts: Sequence[LevelRows]) -> LevelRows:
    """Return the rows of parts of a level as they are."""
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in LevelRows.__struct_fields__}
    return LevelRows(**columns)


def part(rows: LevelRows, begin: int, end: int) -> LevelRows:
    """Return the buckets from one index up to another, without copying them."""
    return LevelRows(**{name: getattr(rows, name)[begin:end] for name in LevelRows.__struct_fields__})


def _starts(bucket: Ints) -> NDArray[np.intp]:
    begins = np.empty(len(bucket), np.bool_)
    begins[0] = True
    np.not_equal(bucket[1:], bucket[:-1], out=begins[1:])
    return np.flatnonzero(begins)


class Pyramid:
    """Takes the points of one series in parts, in order of steps, and holds a bounded number of rows."""

    def __init__(self) -> None:
        self._level = 0
        self._parts: list[LevelRows] = []
        self._rows = 0
        self.points = 0

    def add(self, step: Ints, value: Floats) -> None:
        """Take at least one point more."""
        if not self._parts:
            self._level = (_FINEST * (int(step[-1]) - int(step[0])) // len(step)).bit_length()
        self.points += len(step)
        part = of_points(step, value, self._level)
        self._parts.append(part)
        self._rows += len(part)
        most = max(_FEW_BUCKETS, min(MAX_BUCKETS, self.points // _FINEST))
        if self._rows > 2 * most:
            self._narrow_to(most)

    def _narrow_to(self, most: int) -> LevelRows:
        """Make buckets as wide as it takes to have at most so many."""
        rows = behind_each_other(self._parts)
        by = 0
        while np.count_nonzero(np.diff(rows.bucket >> by)) >= most:
            by += 1
        rows = coarser(rows, by)
        self._level += by
        self._parts, self._rows = [rows], len(rows)
        return rows

    def levels(self) -> Iterator[tuple[int, LevelRows]]:
        """Yield the levels, the lowest first; none of too few points, nor of numbers too large to be added up."""
        if self.points < MIN_POINTS:
            return
        rows = self._narrow_to(min(MAX_BUCKETS, self.points // POINTS_PER_BUCKET + 2))
        with np.errstate(over="ignore"):
            if not np.isfinite(np.abs(rows.sum).sum()):
                return
        level = self._level
        yield level, rows
        while len(rows) > TOP_BUCKETS:
            rows = coarser(rows, LEVELS_APART)
            level += LEVELS_APART
            yield level, rows
