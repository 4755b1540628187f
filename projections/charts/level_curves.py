"""Curves out of levels: buckets that were made when a run's files were written, instead of their points.

They answer where x is the step, every stage counts and nothing is left out: what is asked of a chart first. The
answer's buckets are a power of two of steps wide, and at most as many as were asked for. A bucket of a level lies in
one of them as a whole; where the ends of a range cut one, and in files where a metric has few points, its points are
read. So every number is as exact as the points' own.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Final, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from msgspec.structs import replace

from events.errors import CorruptHistory
from projections.analytics import Analytics
from projections.archive.level_files import WIDEST, LevelFile
from projections.archive.levels import whole
from projections.charts.buckets import Buckets, Ints, Points, Series
from projections.charts.questions import Question
from projections.charts.reading import HIGHEST, LOWEST, Reader, window
from projections.charts.run_points import RunPoints

log = logging.getLogger("tachograph.charts")

Answer = TypeVar("Answer")

MAX_BARE_ROWS: Final = 1 << 20
"""So many rows of a run may lie in files without levels, which are read beside those with."""


def from_levels(analytics: Analytics, question: Question, run: RunPoints) -> dict[str, Series]:
    """Return the series that levels can answer for; blocking. What is not there is to be had from the points.

    Raises `Unreadable` for a file of points that cannot be read.
    """

    def series(curve: _Curve) -> Series | None:
        extent = curve.extent()
        grid = extent and Grid.over(*extent, question.buckets)
        found = curve.series(grid) if grid else None
        return found if found is not None and found.points > question.buckets else None

    return _answers(analytics, question, run, series)


def extents(analytics: Analytics, question: Question, run: RunPoints) -> dict[str, tuple[int, int]]:
    """Return from which to which step the curves go that levels can answer for; blocking. Raises `Unreadable`."""
    return _answers(analytics, question, run, _Curve.extent)


def pooled(analytics: Analytics, question: Question, run: RunPoints, grids: Mapping[str, "Grid"]) -> dict[str, Series]:
    """Return the series of `extents`' metrics on given buckets, empty ones too, as `from_levels` does."""
    return _answers(
        analytics,
        replace(question, metrics=tuple(grids)),
        run,
        lambda curve: curve.series(grids[curve.metric], every=True),
    )


class Grid(msgspec.Struct, frozen=True):
    """Buckets of `2**width` steps that hold the steps from `first` to `last`."""

    width: int
    first: int
    last: int

    @classmethod
    def over(cls, first: int, last: int, buckets: int) -> "Grid | None":
        """Return the narrowest buckets of which at most so many hold all steps from one to another.

        None for one bucket of steps on both sides of 0, where every bucket begins or ends.
        """
        for width in range((-(-(last - first + 1) // buckets) - 1).bit_length(), WIDEST + 1):
            if (last >> width) - (first >> width) < buckets:
                return cls(width, first, last)
        return None

    def edges(self) -> Ints:
        """Return where the buckets but the first begin."""
        return np.arange((self.first >> self.width) + 1, (self.last >> self.width) + 1, dtype=np.int64) << self.width


def _answers(
    analytics: Analytics, question: Question, run: RunPoints, answer: Callable[["_Curve"], Answer | None]
) -> dict[str, Answer]:
    """Return what `answer` makes of each metric of the question, where that is something."""
    asked = question.axis.kind == "step" and not question.axis.log and question.stage is None and not question.after
    bare = sum(file.rows for file in run.files if file.levels_path is None)
    if not asked or bare > MAX_BARE_ROWS or all(file.levels_path is None for file in run.files):
        return {}
    try:
        with ExitStack() as opened:
            levels = [file.levels for file in run.files]
            root = opened.enter_context(analytics.store.held(filter(None, levels)))
            files = [None if one is None else opened.enter_context(LevelFile(root / one.path)) for one in levels]
            reader = Reader(analytics, question)
            found = {metric: answer(_Curve(reader, question, run, files, metric)) for metric in question.metrics}
    except (OSError, pa.ArrowException, CorruptHistory) as error:
        log.warning(
            "run %s: its chart is made of points, since its levels cannot be read: %s", run.stored.run_id, error
        )
        return {}
    return {metric: one for metric, one in found.items() if one is not None}


class _Curve:
    """One metric of one run."""

    def __init__(
        self, reader: Reader, question: Question, run: RunPoints, levels: Sequence[LevelFile | None], metric: str
    ) -> None:
        self.metric = metric
        self._reader = reader
        self._run = run
        self._window = window(run.stored, question)
        self._levels = levels
        self._extents = [None if file is None else file.extent(metric) for file in levels]
        self._bare: dict[int, list[Points]] = {}
        if any(self._extents):
            self._bare = {
                number: list(self._points(number, [(self._window.low, self._window.high)]))
                for number, extent in enumerate(self._extents)
                if extent is None
            }

    def extent(self) -> tuple[int, int] | None:
        """Return from which to which step the curve goes at most, or None where levels do not help."""
        if not any(self._extents):
            return None
        known = self._outermost()
        first, last = max(self._window.low, known[0]), min(self._window.high, known[1])
        return (first, last) if first <= last else None

    def _outermost(self) -> tuple[int, int]:
        outer = [points for parts in self._bare.values() for points in parts] + self._hot()
        found = [extent for extent in self._extents if extent]
        found += [(int(points.x.min()), int(points.x.max())) for points in outer]
        return min(low for low, _ in found), max(high for _, high in found)

    def series(self, grid: Grid, *, every: bool = False) -> Series | None:
        """Return the curve on given buckets, of which `every` says whether empty ones count; None as in `extent`."""
        if not any(self._extents):
            return None
        lowest, highest = self._outermost()
        low = LOWEST if self._window.low <= lowest else self._window.low
        high = HIGHEST if self._window.high >= highest else self._window.high
        begin, end = whole(low, high, grid.width)
        ends = [(low, min(begin - 1, high)), (max(end, begin, low), high)]
        buckets = Buckets(grid.edges())
        for number, (levels, extent) in enumerate(zip(self._levels, self._extents, strict=True)):
            if extent is None or levels is None:
                for points in self._bare[number]:
                    buckets.add(points)
                continue
            rows = levels.read(self.metric, low=low, high=high, widest=grid.width)
            if rows is None:
                return None
            buckets.add_level(rows)
            cut = [(a, b) for a, b in ends if a <= b and a <= extent[1] and extent[0] <= b]
            for points in self._points(number, cut):
                buckets.add(points)
        for points in self._hot():
            buckets.add(points)
        return buckets.every(self.metric) if every else buckets.series(self.metric)

    def _hot(self) -> list[Points]:
        return self._run.hot.get(self.metric, [])

    def _points(self, number: int, ranges: Sequence[tuple[int, int]]) -> Iterator[Points]:
        """Yield the points of a file with steps in the ranges, in order."""
        if ranges:
            run = replace(self._run, files=(self._run.files[number],))
            yield from self._reader.of_one(run, self.metric, None, ranges)
