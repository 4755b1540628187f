"""Batches of metrics put into the order of a file: by metric, step, arrival. Pure numpy.

    sorting = Sorting([(position, columns), …])     # given in order of their positions
    for points in sorting.groups():                 # `SortedPoints`, a row group each
        ...

A batch holds each of its series in one piece, and nearly always in order of steps. So which pieces a part of a file is
made of is known without looking at most points, and the part is made of them alone: of all points together there is no
second copy.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle, pairwise
from typing import Final, Protocol, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.telemetry import MetricColumns
from projections.archive.parquet import ROW_GROUP_ROWS
from projections.archive.points import SortedPoints, group_end

Ints = NDArray[np.int64]
Column = TypeVar("Column", NDArray[np.int32], NDArray[np.int64], NDArray[np.float64])

LONG_PIECE: Final = 32
"""From so many points of a series in a batch, on the average, copying them is faster than taking each by its index."""

_NO_STAGE: Final = np.int32(-1)


class _Pieces(msgspec.Struct, frozen=True, kw_only=True):
    """p pieces, none of them empty: int64[p] each.

    A piece is `length` points of a metric, from `begin` on in the columns number `source`, of the batch at `position`.
    """

    metric: Ints
    source: Ints
    begin: Ints
    length: Ints
    position: Ints

    def __len__(self) -> int:
        return len(self.metric)

    def taken(self, which: NDArray[np.intp] | NDArray[np.bool_]) -> "_Pieces":
        """Return some of them."""
        return _Pieces(**{name: getattr(self, name)[which] for name in self.__struct_fields__})


class Sorting:
    """See the module."""

    def __init__(self, batches: Sequence[tuple[int, MetricColumns]]) -> None:
        self.metrics = sorted({name for _, batch in batches for name in batch.names})
        self._step = [batch.steps() for _, batch in batches]
        self._time_us = [batch.times() for _, batch in batches]
        self._value = [batch.values() for _, batch in batches]
        self._stage, self.stages = _stages(batches)
        pieces = _pieces(batches, self.metrics)
        self._points = int(pieces.length.sum())
        self._are_long = 0 < len(pieces) * LONG_PIECE <= self._points
        if not self._are_long:
            pieces = self._in_one_source(pieces)
        unordered, first, last = self._edges(pieces)
        order = np.argsort(pieces.metric, kind="stable")
        self._pieces = pieces = pieces.taken(order)
        self._ends = np.cumsum(pieces.length)
        same = pieces.metric[1:] == pieces.metric[:-1]
        self._starts = np.concatenate(([0], self._ends[:-1][~same], [self._points]))
        back = same & (first[order][1:] < last[order][:-1])
        self._unordered = np.union1d(unordered, pieces.metric[1:][back])
        self._ordered: tuple[int, SortedPoints] | None = None

    def __len__(self) -> int:
        return self._points

    def groups(self) -> Iterator[SortedPoints]:
        """Yield all points, a row group at a time; the arrays of one are those of the next but one."""
        columns = [np.empty((3, ROW_GROUP_ROWS), np.int64) for _ in range(2)]
        begin = 0
        for own in cycle(columns):
            if begin == len(self):
                return
            end = group_end(begin, len(self), self._metric_start)
            yield self.points(begin, end, own)
            begin = end

    def points(self, begin: int, end: int, columns: Ints | None = None) -> SortedPoints:
        """Return the points from one index up to another. Of a metric whose steps go back all are sorted for that."""
        if begin < end and len(self._unordered):
            low, high = self._pieces.metric[np.searchsorted(self._ends, [begin, end - 1], side="right")]
            if np.any((self._unordered >= low) & (self._unordered <= high)):
                return self._put_in_order(begin, end)
        return self._gathered(begin, end, columns)

    def _metric_start(self, index: int) -> int:
        """Return where the metric of a point begins."""
        return int(self._starts[np.searchsorted(self._starts, index, side="right") - 1])

    def _put_in_order(self, begin: int, end: int) -> SortedPoints:
        """Return points of whole metrics that were sorted, which are kept for the next time."""
        first, points = self._ordered or (0, None)
        if points is None or begin < first or end > first + len(points):
            self._ordered = None
            first = self._metric_start(begin)
            points = self._gathered(first, int(self._starts[np.searchsorted(self._starts, end)]))
            points = points.taken(np.lexsort((points.step, points.metric)))
            self._ordered = first, points
        return points.part(begin - first, end - first)

    def _gathered(self, begin: int, end: int, columns: Ints | None = None) -> SortedPoints:
        """Return points by metric and arrival."""
        first, last = np.searchsorted(self._ends, [begin, end - 1], side="right").tolist()
        own = self._pieces.taken(np.arange(first, last + 1 if begin < end else first))
        if begin < end:
            own.length[-1] -= self._ends[last] - end
            skipped = begin - (self._ends[first] - self._pieces.length[first])
            own.begin[0] += skipped
            own.length[0] -= skipped
        gather = _copier(own) if self._are_long else _taker(own)
        columns = np.empty((3, end - begin), np.int64) if columns is None else columns[:, : end - begin]
        stage = np.empty(end - begin, np.int32) if self.stages else np.broadcast_to(_NO_STAGE, end - begin)
        return SortedPoints(
            metrics=self.metrics,
            stages=self.stages,
            metric=np.repeat(own.metric.astype(np.int32), own.length),
            step=gather(self._step, columns[0]),
            time_us=gather(self._time_us, columns[1]),
            value=gather(self._value, columns[2].view(np.float64)),
            stage=gather(self._stage, stage) if self.stages else stage,
            position=np.repeat(own.position, own.length),
        )

    def _in_one_source(self, pieces: _Pieces) -> _Pieces:
        """Put all columns behind each other."""
        sizes = np.array([len(step) for step in self._step], np.int64)
        begin = pieces.begin + (np.cumsum(sizes) - sizes)[pieces.source]
        self._step, self._time_us = [np.concatenate(self._step)], [np.concatenate(self._time_us)]
        self._value, self._stage = [np.concatenate(self._value)], [np.concatenate(self._stage)] if self.stages else []
        return msgspec.structs.replace(pieces, begin=begin, source=np.zeros_like(begin))

    def _edges(self, pieces: _Pieces) -> tuple[Ints, Ints, Ints]:
        """Return the metrics of pieces in which steps go back, and the first and the last step of each piece."""
        first, last = np.empty(len(pieces), np.int64), np.empty(len(pieces), np.int64)
        unordered = [np.empty(0, np.int64)]
        bounds = np.searchsorted(pieces.source, np.arange(len(self._step) + 1)).tolist()
        for step, (low, high) in zip(self._step, pairwise(bounds), strict=True):
            if low == high:
                continue
            begin = pieces.begin[low:high]
            first[low:high] = step[begin]
            last[low:high] = step[begin + pieces.length[low:high] - 1]
            goes_back = step[1:] < step[:-1]
            goes_back[begin[1:] - 1] = False
            if goes_back.any():
                within = np.searchsorted(begin, np.flatnonzero(goes_back), side="right") - 1
                unordered.append(pieces.metric[low:high][within])
        return np.concatenate(unordered), first, last


def _pieces(batches: Sequence[tuple[int, MetricColumns]], metrics: Sequence[str]) -> _Pieces:
    """Return the pieces of batches in the order in which they lie there; the columns number n are those of batch n."""
    index = {name: number for number, name in enumerate(metrics)}
    metric = np.array([index[name] for _, batch in batches for name in batch.names], np.int64)
    length = np.array([count for _, batch in batches for count in batch.counts], np.int64)
    series = [len(batch.names) for _, batch in batches]
    source = np.repeat(np.arange(len(batches)), series)
    points = np.array([0, *(batch.points for _, batch in batches)], np.int64)
    begin = np.cumsum(length) - length - np.cumsum(points)[source]
    position = np.array([position for position, _ in batches], np.int64)[source]
    every = _Pieces(metric=metric, source=source, begin=begin, length=length, position=position)
    return every.taken(length > 0)


class Gather(Protocol):
    """Makes a column of points out of those of the sources."""

    def __call__(self, columns: Sequence[Column], into: Column) -> Column: ...


def _copier(pieces: _Pieces) -> Gather:
    """Copy pieces as they are."""
    ends = pieces.begin + pieces.length
    places = list(zip(pieces.source.tolist(), pieces.begin.tolist(), ends.tolist(), strict=True))

    def gather(columns: Sequence[Column], into: Column) -> Column:
        return np.concatenate([columns[source][begin:end] for source, begin, end in places], out=into)

    return gather


def _taker(pieces: _Pieces) -> Gather:
    """Take each point of pieces by its index into the only source."""
    before = np.cumsum(pieces.length) - pieces.length
    index = np.repeat(pieces.begin - before, pieces.length) + np.arange(int(pieces.length.sum()))

    def gather(columns: Sequence[Column], into: Column) -> Column:
        return np.take(columns[0], index, out=into, mode="clip")  # any other mode makes a copy first

    return gather


def sorted_points(batches: Sequence[tuple[int, MetricColumns]]) -> SortedPoints:
    """Return the points of batches, given with their positions in order."""
    every = Sorting(batches)
    return every.points(0, len(every))


def metrics_table(batches: Sequence[tuple[int, MetricColumns]]) -> pa.Table:
    """Return the points of batches, given with their positions in order, sorted; see `METRICS_SCHEMA`."""
    return sorted_points(batches).table()


def _stages(batches: Sequence[tuple[int, MetricColumns]]) -> tuple[list[NDArray[np.int32]], list[str]]:
    """Return each point's stage, batch by batch, as an index into the stages' names, -1 for none.

    Without any names there are no columns either.
    """
    stages = list(dict.fromkeys(stage for _, batch in batches for stage in batch.stages if stage is not None))
    if not stages:
        return [], []
    index = {stage: number for number, stage in enumerate(stages)}
    columns = []
    for _, batch in batches:
        own = batch.stage_indices()
        known = np.array([-1 if stage is None else index[stage] for stage in batch.stages], np.int32)
        columns.append(np.full(batch.points, _NO_STAGE) if own is None else known[own])
    return columns, stages
