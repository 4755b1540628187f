"""Curves out of levels: buckets that were made when a run's files were written, instead of their points.

They answer where x is the step, every stage counts and nothing is left out: what is asked of a chart first. The
answer's buckets are a power of two of steps wide, and at most as many as were asked for. A bucket of a level lies in
one of them as a whole; where the ends of a range cut one, and in files where a metric has few points, its points are
read. So every number is as exact as the points' own.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from projections.analytics import Analytics
from projections.buckets import Buckets, Points, Series
from projections.chart_questions import Question
from projections.chart_reader import HIGHEST, LOWEST, Reader, window
from projections.level_files import WIDEST, LevelFile
from projections.levels import whole
from projections.manifest import Segment
from projections.run_points import RunPoints

log = logging.getLogger("tachograph.charts")

MAX_BARE_ROWS: Final = 1 << 20
"""So many rows of a run may lie in files without levels, which are read beside those with."""


def from_levels(analytics: Analytics, question: Question, run: RunPoints) -> dict[str, Series]:
    """Return the series that levels can answer for; blocking. What is not there is to be had from the points.

    Raises `duckdb.IOException` for a file of points that cannot be read.
    """
    asked = question.axis.kind == "step" and not question.axis.log and question.stage is None and not question.after
    bare = sum(file.rows for file in run.files if file.levels_path is None)
    if not asked or bare > MAX_BARE_ROWS or all(file.levels_path is None for file in run.files):
        return {}
    try:
        with ExitStack() as opened:
            files = [
                None if file.levels_path is None else opened.enter_context(LevelFile(analytics.root / file.levels_path))
                for file in run.files
            ]
            found = {metric: _Curve(analytics, question, run, files, metric).series() for metric in question.metrics}
    except (OSError, pa.ArrowException) as error:
        log.warning(
            "run %s: its chart is made of points, since its levels cannot be read: %s", run.stored.run_id, error
        )
        return {}
    return {metric: series for metric, series in found.items() if series is not None}


class _Curve:
    """One metric of one run."""

    def __init__(
        self,
        analytics: Analytics,
        question: Question,
        run: RunPoints,
        levels: Sequence[LevelFile | None],
        metric: str,
    ) -> None:
        self._analytics = analytics
        self._question = question
        self._run = run
        self._levels = levels
        self._metric = metric

    def series(self) -> Series | None:
        """Return the series, or None where levels do not help."""
        known = [None if file is None else file.extent(self._metric) for file in self._levels]
        if not any(known):
            return None
        ours = window(self._run.stored, self._question)
        bare = [file for file, extent in zip(self._run.files, known, strict=True) if extent is None]
        outer = list(self._points(bare, ours.low, ours.high)) + self._hot()
        lows = [extent[0] for extent in known if extent] + [int(points.x.min()) for points in outer]
        highs = [extent[1] for extent in known if extent] + [int(points.x.max()) for points in outer]
        first, last = max(ours.low, min(lows)), min(ours.high, max(highs))
        if first > last:
            return None
        width = _width(first, last, self._question.buckets)
        low = LOWEST if ours.low <= min(lows) else ours.low
        high = HIGHEST if ours.high >= max(highs) else ours.high
        return self._series(known, width, first, last, low, high)

    def _series(self, known: Sequence[object], width: int, first: int, last: int, low: int, high: int) -> Series | None:
        buckets = Buckets(np.arange((first >> width) + 1, (last >> width) + 1, dtype=np.int64) << width)
        begin, end = whole(low, high, width)
        for file, levels, extent in zip(self._run.files, self._levels, known, strict=True):
            if extent is None or levels is None:
                for points in self._points([file], max(begin, LOWEST), min(end - 1, HIGHEST)):
                    buckets.add(points)
                continue
            rows = levels.read(self._metric, low=low, high=high, widest=width)
            if rows is None:
                return None
            buckets.add_level(rows)
        for edge in ((low, min(begin - 1, high)), (max(end, begin, low), high)):
            for points in self._points(self._run.files, *edge):
                buckets.add(points)
        for points in self._hot():
            buckets.add(points)
        series = buckets.series(self._metric)
        return series if series.points > self._question.buckets else None

    def _hot(self) -> list[Points]:
        return self._run.hot.get(self._metric, [])

    def _points(self, files: Sequence[Segment], low: int, high: int) -> Iterator[Points]:
        """Yield the points of files with steps from `low` to `high`, in order."""
        if not files or low > high:
            return
        reader = Reader(self._analytics, msgspec.structs.replace(self._question, start=low, end=high))
        run = msgspec.structs.replace(self._run, files=tuple(files))
        for _, _, points in reader.read([run], [self._metric], None):
            if len(points):
                yield points


def _width(first: int, last: int, buckets: int) -> int:
    """Return the power of two of steps at which at most so many buckets hold all steps from one to another."""
    width = (-(-(last - first + 1) // buckets) - 1).bit_length()
    while (last >> width) - (first >> width) >= buckets:
        width += 1
    return min(width, WIDEST)
