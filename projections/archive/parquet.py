"""Telemetry to Parquet: batches to sorted columns and Arrow tables, and the files' places.

Metrics are sorted by (metric, step), repeated steps in the order in which they arrived; logs stand in the
order in which they arrived. A file is written beside its final name, flushed, and renamed: no reader sees
half of one, and none counts that the manifest does not name.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.telemetry import STREAMS, LogColumns, MetricColumns

ROW_GROUP_ROWS: Final = 122_880
"""A chart reads whole row groups; smaller ones cost more than they spare."""

TEMPORARY: Final = ".tmp"

_TEXTS: Final = pa.dictionary(pa.int32(), pa.string())
METRICS_SCHEMA: Final = pa.schema(
    [
        pa.field("metric", _TEXTS, nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("time_us", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("stage", _TEXTS),
        pa.field("position", pa.int64(), nullable=False),
    ]
)
LOGS_SCHEMA: Final = pa.schema(
    [
        pa.field("time_us", pa.int64(), nullable=False),
        pa.field("stream", _TEXTS, nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
    ]
)
ENCODINGS: Final = {
    "step": "DELTA_BINARY_PACKED",
    "time_us": "DELTA_BINARY_PACKED",
    "position": "DELTA_BINARY_PACKED",
    "line": "DELTA_BINARY_PACKED",
    "value": "BYTE_STREAM_SPLIT",
    "text": "DELTA_LENGTH_BYTE_ARRAY",
}


class SortedPoints(msgspec.Struct, frozen=True, kw_only=True):
    """n points in the order of a file: by metric, step, arrival.

    `metric` and `stage` are int32[n], indices into `metrics` (in order) and `stages`, a stage of -1 being none; `step`,
    `time_us` and `position` are int64[n], `value` float64[n].
    """

    metrics: Sequence[str]
    stages: Sequence[str]
    metric: NDArray[np.int32]
    step: NDArray[np.int64]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    stage: NDArray[np.int32]
    position: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.metric)

    def part(self, begin: int, end: int) -> "SortedPoints":
        """Return the points from one index up to another, without copying them."""
        return msgspec.structs.replace(self, **{name: getattr(self, name)[begin:end] for name in COLUMNS})

    def taken(self, order: NDArray[np.intp]) -> "SortedPoints":
        """Return the points at some indices, in that order."""
        return msgspec.structs.replace(self, **{name: getattr(self, name)[order] for name in COLUMNS})

    def table(self) -> pa.Table:
        """Return the points as the files have them, see `METRICS_SCHEMA`; its dictionary names no other metrics."""
        first, last = (int(self.metric[0]), int(self.metric[-1])) if len(self) else (0, -1)
        columns = [
            pa.DictionaryArray.from_arrays(self.metric - first, pa.array(self.metrics[first : last + 1], pa.string())),
            pa.array(self.step),
            pa.array(self.time_us),
            pa.array(self.value),
            pa.DictionaryArray.from_arrays(
                pa.array(self.stage, mask=self.stage < 0), pa.array(self.stages, pa.string())
            ),
            pa.array(self.position),
        ]
        return pa.Table.from_arrays(columns, schema=METRICS_SCHEMA)


LONG_PIECE: Final = 32
"""From so many points of a series in a batch, on the average, copying them is faster than taking each by its index."""

Column = TypeVar("Column", NDArray[np.int32], NDArray[np.int64], NDArray[np.float64])

COLUMNS: Final = ("metric", "step", "time_us", "value", "stage", "position")


def sorted_points(batches: Sequence[tuple[int, MetricColumns]]) -> SortedPoints:
    """Return the points of batches, given with their positions in order."""
    names = sorted({name for _, batch in batches for name in batch.names})
    pieces = _Pieces(batches, names)
    stage, stages = _stages(batches)
    points = SortedPoints(
        metrics=names,
        stages=stages,
        metric=pieces.repeated(pieces.series).astype(np.int32),
        step=pieces.gathered([batch.steps() for _, batch in batches]),
        time_us=pieces.gathered([batch.times() for _, batch in batches]),
        value=pieces.gathered([batch.values() for _, batch in batches]),
        stage=pieces.gathered(stage),
        position=pieces.repeated(np.array([position for position, _ in batches], np.int64)[pieces.batch]),
    )
    step, metric = points.step, points.metric
    if np.all((step[1:] >= step[:-1]) | (metric[1:] != metric[:-1])):  # as it nearly always is
        return points
    return points.taken(np.lexsort((step, metric)))


class _Pieces:
    """Where each series of each batch lies, in the order of series and, within one, of batches."""

    def __init__(self, batches: Sequence[tuple[int, MetricColumns]], names: Sequence[str]) -> None:
        rank = {name: index for index, name in enumerate(names)}
        counts = [np.array(batch.counts, np.int64) for _, batch in batches]
        series = np.array([rank[name] for _, batch in batches for name in batch.names], np.int64)
        order = np.argsort(series, kind="stable")
        self.series = series[order]
        self.batch = np.repeat(np.arange(len(batches)), [len(batch.names) for _, batch in batches])[order]
        self._begin = np.concatenate([np.cumsum(own) - own for own in counts])[order]
        self._length = np.concatenate(counts)[order]

    def repeated(self, column: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what is known of each piece for each of its points."""
        return np.repeat(column, self._length)

    def gathered(self, columns: Sequence[Column]) -> Column:
        """Return a column of all points, given batch by batch; long pieces are copied as they are."""
        if 0 < len(self.series) * LONG_PIECE <= int(self._length.sum()):
            places = zip(self.batch.tolist(), self._begin.tolist(), (self._begin + self._length).tolist(), strict=True)
            return np.concatenate([columns[batch][begin:end] for batch, begin, end in places])
        sizes = np.array([len(column) for column in columns], np.int64)
        first = (np.cumsum(sizes) - sizes)[self.batch] + self._begin
        before = np.cumsum(self._length) - self._length
        index = np.arange(int(self._length.sum())) + np.repeat(first - before, self._length)
        every: Column = np.concatenate(columns)
        gathered: Column = every[index]
        return gathered


def metrics_table(batches: Sequence[tuple[int, MetricColumns]]) -> pa.Table:
    """Return the points of batches, given with their positions in order, sorted; see `METRICS_SCHEMA`."""
    return sorted_points(batches).table()


def logs_table(batches: Sequence[tuple[int, LogColumns]]) -> pa.Table:
    """Return the lines of batches, given with their positions in order; see `LOGS_SCHEMA`."""
    streams = np.concatenate([batch.streams() for _, batch in batches]).astype(np.int32)
    columns = [
        pa.array(np.concatenate([batch.times() for _, batch in batches])),
        pa.DictionaryArray.from_arrays(streams, pa.array(STREAMS, pa.string())),
        pa.array(chain.from_iterable(batch.text for _, batch in batches), pa.string()),
        pa.array(_positions(batches)),
        pa.array(np.concatenate([np.arange(batch.points, dtype=np.int32) for _, batch in batches])),
    ]
    return pa.Table.from_arrays(columns, schema=LOGS_SCHEMA)


def _positions(batches: Sequence[tuple[int, MetricColumns | LogColumns]]) -> NDArray[np.int64]:
    positions = np.array([position for position, _ in batches], np.int64)
    return np.repeat(positions, [batch.points for _, batch in batches])


def _stages(batches: Sequence[tuple[int, MetricColumns]]) -> tuple[list[NDArray[np.int32]], list[str]]:
    """Return each point's stage, batch by batch, as an index into the stages' names, -1 for none."""
    index: dict[str, int] = {}
    parts = []
    for _, batch in batches:
        own = batch.stage_indices()
        if own is None:
            parts.append(np.full(batch.points, -1, np.int32))
            continue
        ours = [-1 if stage is None else index.setdefault(stage, len(index)) for stage in batch.stages]
        parts.append(np.array(ours, np.int32)[own])
    return parts, list(index)


def parquet_options(schema: pa.Schema, encodings: Mapping[str, str] = ENCODINGS) -> dict[str, Any]:
    """Return how telemetry is written to Parquet."""
    return {
        "use_dictionary": [field.name for field in schema if pa.types.is_dictionary(field.type)],
        "column_encoding": {name: encodings[name] for name in schema.names if name in encodings},
        "compression": "zstd",
        "write_statistics": True,
        "write_page_index": True,
        "store_schema": False,
    }


def run_directory(ledger_id: UUID, run_id: UUID) -> str:
    """Return where a run's files are, relative to the Parquet root (Hive style)."""
    return f"ledger={ledger_id}/run={run_id}"


def segment_path(ledger_id: UUID, run_id: UUID, kind: str, segment: UUID) -> str:
    """Return a file's place relative to the Parquet root."""
    return f"{run_directory(ledger_id, run_id)}/{kind}-{segment}.parquet"


def levels_path(path: Path) -> Path:
    """Return where the levels of a file of metrics are, be they there or not."""
    return path.with_name(f"levels-{path.name.partition('-')[2]}")


def temporary_path(path: Path) -> Path:
    """Return the name beside `path` that a file has while it is written, at which no reader looks."""
    return path.with_name(f".{path.name}{TEMPORARY}")


def make_directory(path: Path) -> None:
    """Make a directory and those above it, durably."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for created in missing:
        flush_directory(created.parent)


def write_temporary(path: Path, data: pa.Buffer | bytes) -> Path:
    """Write the bytes durably under the temporary name of `path`, and return that name."""
    make_directory(path.parent)
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def publish(temporary: Path, path: Path) -> None:
    """Give the written file its name, durably."""
    temporary.rename(path)
    flush_directory(path.parent)


def flush_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class File(msgspec.Struct, frozen=True):
    """A file as the ledger has it: its path below the root, its size, its hexadecimal SHA-256.

    Of levels that an older release archived the manifest does not say that: None.
    """

    path: str
    bytes: int
    sha256: str | None


class Found(msgspec.Struct, frozen=True):
    """A file of ours that is there, as its name tells; `path` is relative to the root."""

    ledger_id: UUID
    run_id: UUID
    segment_id: UUID
    path: str


def named(path: str) -> Found | None:
    """Return what the name of a file below the root says, or None where the file is none of ours."""
    try:
        ledger, run, name = path.split("/")
        name = name.removeprefix(".").removesuffix(TEMPORARY)
        return Found(
            UUID(ledger.removeprefix("ledger=")),
            UUID(run.removeprefix("run=")),
            UUID(name.removesuffix(".parquet").partition("-")[2]),
            path,
        )
    except ValueError:
        return None
