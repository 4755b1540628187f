"""Points at rest: one metric's rows of a Parquet file, by pyarrow.

A file is sorted by metric and step, so its footer tells which row groups may hold what is asked for, and only those are
read. For one metric that costs a fraction of what planning a query does; many metrics of many files are read by DuckDB
(`reading`). Nothing of a file is kept, not even its footer: what is deleted must not linger in memory.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from projections.archive.level_files import LOCAL
from projections.charts.buckets import Ints, Points, joined, kept, taken

TEXTS: Final = ("metric", "stage")
BY_STEP: Final = ["step", "value"]
"""The columns that are read where steps, in which a metric's rows are in order, say which of them count."""
FEW_GROUPS: Final = 2
"""To share out the columns of so few row groups among threads costs more than it spares."""


class Unreadable(Exception):
    """A file that is missing, torn or no Parquet."""


class Rows(msgspec.Struct, frozen=True):
    """Which rows of a metric count: `x`, a column of integers, in one of the `ranges`, both ends included.

    The ranges are in order and do not touch.

    Of one stage, unless that is None; at ledger positions behind `after`, unless that is 0.
    """

    metric: str
    x: str
    ranges: Sequence[tuple[int, int]]
    stage: str | None = None
    after: int = 0


def read(path: Path, rows: Rows, part_points: int) -> Iterator[Points]:
    """Yield a file's rows that count, in its order, from at most so many rows at a time. Raises `Unreadable`."""
    try:
        with pq.ParquetFile(path, read_dictionary=list(TEXTS), pre_buffer=False, filesystem=LOCAL) as file:
            groups, alone = _groups(file.metadata, rows)
            columns = list(dict.fromkeys(("step", rows.x, "value")))
            columns += [] if alone else ["metric"]
            columns += [] if rows.stage is None else ["stage"]
            columns += ["position"] if rows.after else []
            if groups:
                for part in file.iter_batches(
                    part_points, row_groups=groups, columns=columns, use_threads=len(groups) > FEW_GROUPS
                ):
                    points = _points(part, rows)
                    if len(points):
                        yield points
    except (OSError, pa.ArrowException) as error:
        raise Unreadable(f"{path.name}: {error}") from error


def _groups(footer: pq.FileMetaData, rows: Rows) -> tuple[list[int], bool]:
    """Return the row groups that may hold rows that count, and whether all of their rows are the metric's."""
    if not footer.num_rows:
        return [], True
    place = {footer.schema.column(index).name: index for index in range(footer.num_columns)}
    extents = _Extents(footer, place["metric"])
    begin = bisect_left(extents, rows.metric, key=lambda extent: extent[1])
    end = bisect_right(extents, rows.metric, key=lambda extent: extent[0])
    of_x = _Extents(footer, place[rows.x])
    groups = [
        number
        for number in range(begin, end)
        if any(low <= of_x[number][1] and of_x[number][0] <= high for low, high in rows.ranges)
    ]
    ends = {*groups[:1], *groups[-1:]}
    return groups, all(extents[number] == (rows.metric, rows.metric) for number in ends)


class _Extents(Sequence[tuple[Any, Any]]):
    """The lowest and the highest value of a column in each row group, looked up as they are asked for."""

    def __init__(self, footer: pq.FileMetaData, column: int) -> None:
        self._footer = footer
        self._column = column

    def __len__(self) -> int:
        return int(self._footer.num_row_groups)

    def __getitem__(self, number: Any) -> Any:
        found = self._footer.row_group(number).column(self._column).statistics
        if found is None or not found.has_min_max:
            raise pa.ArrowInvalid("a row group does not say what it holds")
        return found.min, found.max


def _points(part: pa.RecordBatch, rows: Rows) -> Points:
    step, x = part["step"].to_numpy(), part[rows.x].to_numpy()
    points = Points(step if rows.x == "step" else x, step, part["value"].to_numpy())
    if part.schema.names == BY_STEP:
        return joined([taken(points, one) for one in _slices(step, rows.ranges)])
    keep = _in_ranges(points.x, rows.ranges)
    for name, text in (("metric", rows.metric), ("stage", rows.stage)):
        if name in part.schema.names:
            keep &= pc.fill_null(pc.equal(part[name], text), False).to_numpy(zero_copy_only=False)
    if rows.after:
        keep &= part["position"].to_numpy() > rows.after
    return kept(points, keep)


def _slices(step: Ints, ranges: Sequence[tuple[int, int]]) -> Iterator[slice]:
    """Yield where steps, which are in order, lie in the ranges."""
    for low, high in ranges:
        begin, end = np.searchsorted(step, low), np.searchsorted(step, high, side="right")
        if begin < end:
            yield slice(int(begin), int(end))


def _in_ranges(x: Any, ranges: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    keep = np.zeros(len(x), bool)
    for low, high in ranges:
        keep |= (x >= low) & (x <= high)
    return keep
