"""Levels at rest: one Parquet file beside a file of metrics, sorted by metric, level, bucket; and how it is read.

    rows = read(path, "train/loss", low=0, high=999_999, widest=9)     # buckets of 2**9 steps, or None

A reader that wants buckets of some width takes them from the highest level that is no wider, and what lies in the
buckets at the ends of its range, which may reach beyond it, from the points themselves. Levels answer charts over
steps, of all stages together.
"""

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import LocalFileSystem

from projections.archive.levels import EMPTY, LevelRows, behind_each_other, coarser, part, whole

ROW_GROUP_ROWS: Final = 16_384

KEPT_GROUPS: Final = 2

LOCAL: Final = LocalFileSystem()
"""Said, so that pyarrow does not find it out for every file."""

WIDEST: Final = 63
"""The level with two buckets: what is below zero, and the rest."""

_COUNTS: Final = ("count", "nan_count", "posinf_count", "neginf_count")
_STEPS: Final = ("bucket", "first_step", "last_step")
_VALUES: Final = ("min", "max", "first", "last", "sum")

LEVELS_SCHEMA: Final = pa.schema(
    [
        pa.field("metric", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("level", pa.int32(), nullable=False),
        pa.field("bucket", pa.int64(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in (*_COUNTS, *_STEPS[1:])),
        *(pa.field(name, pa.float64(), nullable=False) for name in _VALUES),
    ]
)
ENCODINGS: Final = {
    "level": "DELTA_BINARY_PACKED",
    **dict.fromkeys((*_COUNTS, *_STEPS), "DELTA_BINARY_PACKED"),
    **dict.fromkeys(_VALUES, "BYTE_STREAM_SPLIT"),
}


class Level(msgspec.Struct, frozen=True):
    """One level of one metric."""

    metric: str
    level: int
    rows: LevelRows


def table(levels: Sequence[Level]) -> pa.Table:
    """Return levels, given in the order of a file, as its rows; see `LEVELS_SCHEMA`."""
    if not levels:
        return LEVELS_SCHEMA.empty_table()
    names = list(dict.fromkeys(one.metric for one in levels))
    index = {name: number for number, name in enumerate(names)}
    sizes = [len(one.rows) for one in levels]
    codes = np.repeat(np.array([index[one.metric] for one in levels], np.int32), sizes)
    columns = {
        "metric": pa.DictionaryArray.from_arrays(codes, pa.array(names, pa.string())),
        "level": np.repeat(np.array([one.level for one in levels], np.int32), sizes),
        **{name: np.concatenate([getattr(one.rows, name) for one in levels]) for name in LevelRows.__struct_fields__},
    }
    return pa.Table.from_arrays([pa.array(columns[name]) for name in LEVELS_SCHEMA.names], schema=LEVELS_SCHEMA)


class LevelFile:
    """An open file of levels: its footer is read once, and then of its rows those that are asked for.

    Raises `FileNotFoundError`, and pyarrow's errors for a file that is broken.
    """

    def __init__(self, path: Path) -> None:
        self._parquet = pq.ParquetFile(path, read_dictionary=["metric"], pre_buffer=False, filesystem=LOCAL)
        self._groups = _groups(self._parquet.metadata)
        self._blocks: dict[int, _Block] = {}

    def __enter__(self) -> "LevelFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._parquet.close()

    def read(self, metric: str, *, low: int, high: int, widest: int) -> LevelRows | None:
        """Return a metric's buckets of `2**widest` steps that hold points, as far as they lie within [low, high].

        None where the metric has no level that is fine enough, or none at all.
        """
        level, parts = self._find(metric, widest)
        if level is None:
            return None
        begin, end = (edge >> level for edge in whole(low, high, widest))
        rows = parts[0] if len(parts) == 1 else behind_each_other(parts)
        inside = [bisect_left(rows.bucket, begin), bisect_left(rows.bucket, end)]
        return coarser(part(rows, *inside), widest - level) if inside[0] < inside[1] else EMPTY

    def extent(self, metric: str) -> tuple[int, int] | None:
        """Return a metric's first and last step, or None where it has no levels."""
        _, parts = self._find(metric, WIDEST)
        return (int(parts[0].first_step[0]), int(parts[-1].last_step[-1])) if parts else None

    def _find(self, metric: str, widest: int) -> tuple[int | None, list[LevelRows]]:
        """Return the highest level that will do, and its rows, which stand behind all finer ones'."""
        found: int | None = None
        parts: list[LevelRows] = []
        for number in range(len(self._groups) - 1, -1, -1):
            if not self._groups[number].may_hold(metric, widest):
                continue
            block = self._block(number)
            level = np.where(block.metric == block.number_of(metric), block.level, WIDEST + 1)
            if found is None:
                found = int(level.max(initial=-1, where=level <= widest))
                found = None if found < 0 else found
            own = np.flatnonzero(level == found)
            if len(own):
                parts.append(part(block.rows, int(own[0]), int(own[-1]) + 1))
            if found is not None and (not len(own) or own[0] > 0):
                break  # what stands before is of a finer level, or another metric
        return found, parts[::-1]

    def _block(self, number: int) -> "_Block":
        """Return a row group. The last two are kept, for there a metric's neighbours and other levels are."""
        if number not in self._blocks:
            if len(self._blocks) == KEPT_GROUPS:
                del self._blocks[next(iter(self._blocks))]
            table = self._parquet.read_row_group(number, use_threads=False)
            self._blocks[number] = _Block.of(table)
        return self._blocks[number]


class _Block(msgspec.Struct, frozen=True):
    """The rows of a row group, in numpy: `metric` (int32) are indices into `metrics`."""

    metrics: list[str]
    metric: NDArray[np.int32]
    level: NDArray[np.int32]
    rows: LevelRows

    @classmethod
    def of(cls, table: pa.Table) -> "_Block":
        metric = table["metric"].combine_chunks()
        rows = LevelRows(**{name: table[name].to_numpy() for name in LevelRows.__struct_fields__})
        return cls(metric.dictionary.to_pylist(), metric.indices.to_numpy(), table["level"].to_numpy(), rows)

    def number_of(self, metric: str) -> int:
        """Return a metric's index, -1 for one that is not among them."""
        return self.metrics.index(metric) if metric in self.metrics else -1


class _Group(msgspec.Struct, frozen=True):
    """A row group: where it begins in the file, how long it is, its outermost metrics, and its lowest level."""

    begin: int
    rows: int
    first: str
    last: str
    lowest: int

    def may_hold(self, metric: str, widest: int) -> bool:
        return self.first <= metric <= self.last and self.lowest <= widest


def _groups(metadata: pq.FileMetaData) -> list[_Group]:
    groups: list[_Group] = []
    begin = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        metric, level = (group.column(column).statistics for column in (0, 1))
        groups.append(_Group(begin, group.num_rows, metric.min, metric.max, level.min))
        begin += group.num_rows
    return groups


def read(path: Path, metric: str, *, low: int, high: int, widest: int) -> LevelRows | None:
    """Return what `LevelFile.read` does of a file that is opened for it."""
    with LevelFile(path) as file:
        return file.read(metric, low=low, high=high, widest=widest)
