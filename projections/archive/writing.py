"""Files of the archive being written: rows come in sorted, row groups go out, and levels beside them.

    with MetricsWriter(path) as writer:
        writer.add(points)               # in the order of `SortedPoints`, as often as there are more
        files = writer.close()           # under temporary names, durable; then `files.publish()`

What is held in memory is one row group and the levels so far, however long the file gets. Any failure leaves nothing
behind. The figures are those of docs/decisions/0026.
"""

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from events.types import LevelFile
from projections.archive import level_files, parquet
from projections.archive.levels import MIN_POINTS, Pyramid
from projections.archive.parquet import ENCODINGS, LOGS_SCHEMA, METRICS_SCHEMA, ROW_GROUP_ROWS
from projections.archive.points import SortedPoints, group_end, together

BUFFER_BYTES: Final = 1 << 20
"""What pyarrow gathers before it waits for Python to take it."""


BATCH_ROWS: Final = 20_480
"""What pyarrow encodes at a time: a page. By default it encodes 1,024 rows, to the same bytes in a third more time."""


class Written(msgspec.Struct, frozen=True):
    """A file that is durable under its temporary name."""

    path: Path
    rows: int
    bytes: int
    sha256: str

    @property
    def temporary(self) -> Path:
        """Where it is until it is published."""
        return parquet.temporary_path(self.path)


class _Sink:
    """A file that counts and hashes what is written to it, in order; for pyarrow."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._abandoned = False
        self.bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Write some bytes."""
        view = memoryview(data)
        if self._abandoned:
            return view.nbytes
        self._file.write(view)
        self._digest.update(view)
        self.bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Return how much was written."""
        return self.bytes

    def flush(self) -> None:
        """Wait for `sync`."""

    def close(self) -> None:
        """Wait for `sync`, or for `abandon`."""

    def sync(self) -> str:
        """Make it durable, and return its hexadecimal SHA-256."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Close it as it is, and take no notice of what is still written."""
        self._abandoned = True
        with suppress(OSError):  # what was buffered may find no room
            self._file.close()


class FileWriter:
    """One file under its temporary name; each table that is written becomes a row group."""

    def __init__(self, path: Path, schema: pa.Schema, encodings: Mapping[str, str] = ENCODINGS) -> None:
        self.path = path
        self._rows = 0
        self._temporary = parquet.temporary_path(path)
        parquet.make_directory(path.parent)
        self._sink = _Sink(self._temporary)
        self._buffer = pa.BufferedOutputStream(pa.PythonFile(self._sink, "w"), BUFFER_BYTES)
        options = parquet.parquet_options(schema, encodings)
        self._parquet = pq.ParquetWriter(self._buffer, schema, write_batch_size=BATCH_ROWS, **options)

    def write(self, table: pa.Table) -> None:
        """Write rows."""
        self._parquet.write_table(table, row_group_size=max(1, len(table)))
        self._rows += len(table)

    def close(self) -> Written:
        """End the file and make it durable."""
        self._parquet.close()
        self._buffer.close()
        return Written(self.path, self._rows, self._sink.bytes, self._sink.sync())

    def abandon(self) -> None:
        """Remove what there is."""
        self._temporary.unlink(missing_ok=True)
        self._sink.abandon()
        self._parquet.close()
        self._buffer.close()


class Files(msgspec.Struct, frozen=True):
    """A file of telemetry, and that of its levels if it has any."""

    data: Written
    levels: Written | None

    def level_file(self, root: Path) -> LevelFile | None:
        """Return what an event says of the levels; its path is relative to `root`."""
        one = self.levels
        if one is None:
            return None
        return LevelFile(path=str(one.path.relative_to(root)), rows=one.rows, sha256=one.sha256, bytes=one.bytes)

    def paths(self, root: Path) -> list[str]:
        """Return where both are, relative to `root`."""
        return [str(one.path.relative_to(root)) for one in self.written]

    def publish(self) -> None:
        """Give both their names, durably; the data's last."""
        for one in self.written:
            parquet.publish(one.temporary, one.path)

    @property
    def written(self) -> Sequence[Written]:
        """Both, the data last."""
        return [one for one in (self.levels, self.data) if one is not None]


class MetricsWriter:
    """Writes a file of metrics and its levels. In a `with` block, which removes what was not closed.

    While a row group is encoded, on a thread of its own, the next one can be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileWriter | None = None
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="parquet")
        self._encoding: Future[None] | None = None
        self._pending: list[SortedPoints] = []
        self._rows = 0
        self._levels = _Levels()
        self._closed = False

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._encoder.shutdown()
        if not self._closed and self._file is not None:
            self._file.abandon()

    def add(self, points: SortedPoints) -> None:
        """Write points that come after all others. Their lists of names must be the others' as well."""
        if not len(points):
            return
        self._levels.add(points)
        self._pending.append(points)
        self._rows += len(points)
        self._flush(ROW_GROUP_ROWS)

    def add_group(self, points: SortedPoints) -> None:
        """Write points that are a row group; after the next one nothing of them is held."""
        self._encode(points)
        self._levels.add(points)

    def _flush(self, leave: int) -> None:
        """Write row groups until at most so many rows are pending."""
        while self._rows > leave:
            self._encode(together(self._taken(group_end(0, self._rows, self._metric_start))))

    def _encode(self, points: SortedPoints) -> None:
        self._encoded()
        self._encoding = self._encoder.submit(self._write, points)

    def _encoded(self) -> None:
        """Wait for the row group under way. Raises what befell it."""
        if self._encoding is not None:
            self._encoding.result()

    def _write(self, points: SortedPoints) -> None:
        table = points.table(points.file_schema())
        self._file = self._file or FileWriter(self._path, table.schema)
        self._file.write(table)

    def _metric_start(self, index: int) -> int:
        """Return where, in what is pending, the metric of a point begins."""
        ends = list(accumulate(map(len, self._pending)))
        number = bisect_right(ends, index)
        metric = self._pending[number].metric[index - ends[number]]
        for end, part in zip(ends, self._pending, strict=True):
            if part.metric[-1] >= metric:
                return end - len(part) + int(np.searchsorted(part.metric, metric))
        return index

    def _taken(self, rows: int) -> list[SortedPoints]:
        """Take the first rows out of what is pending."""
        self._rows -= rows
        taken = []
        while rows:
            part = self._pending.pop(0)
            if len(part) > rows:
                self._pending.insert(0, part.part(rows, len(part)))
                part = part.part(0, rows)
            taken.append(part)
            rows -= len(part)
        return taken

    def close(self) -> Files:
        """End both files; what fails removes both."""
        levels = None
        try:
            self._flush(0)
            self._encoded()
            if self._file is None:
                self._file = FileWriter(self._path, METRICS_SCHEMA)
                self._file.write(METRICS_SCHEMA.empty_table())
            table = self._levels.table()
            if len(table):
                levels = write_levels(parquet.levels_path(self._path), table)
            files = Files(self._file.close(), levels)
        except BaseException:
            if levels is not None:
                levels.temporary.unlink(missing_ok=True)
            raise
        self._closed = True
        return files


def write_logs(path: Path, tables: Iterable[pa.Table]) -> Files:
    """Write a file of log lines, which come in order."""
    writer = FileWriter(path, LOGS_SCHEMA)
    return Files(_written(writer, (part for table in tables for part in _parts(table, ROW_GROUP_ROWS))), None)


def write_levels(path: Path, table: pa.Table) -> Written:
    """Write a file of levels."""
    writer = FileWriter(path, table.schema, level_files.ENCODINGS)
    return _written(writer, _parts(table, level_files.ROW_GROUP_ROWS))


def _parts(table: pa.Table, rows: int) -> Iterable[pa.Table]:
    return (table.slice(begin, rows) for begin in range(0, max(1, len(table)), rows))


def _written(writer: FileWriter, tables: Iterable[pa.Table]) -> Written:
    try:
        for table in tables:
            writer.write(table)
        return writer.close()
    except BaseException:
        writer.abandon()
        raise


class _Levels:
    """Takes the points of a file in order, and gives the rows of its levels."""

    def __init__(self) -> None:
        self._found: list[level_files.Level] = []
        self._metric = ""
        self._pyramid = Pyramid()

    def add(self, points: SortedPoints) -> None:
        """Take points that come after all others. Of metrics with few of them only the outer two may go on."""
        starts = np.flatnonzero(np.concatenate(([True], points.metric[1:] != points.metric[:-1])))
        ends = np.append(starts[1:], len(points))
        taken = ends - starts >= MIN_POINTS
        taken[[0, -1]] = True
        for index in np.flatnonzero(taken).tolist():
            metric = points.metrics[points.metric[starts[index]]]
            if metric != self._metric:
                self._end()
                self._metric = metric
            own = slice(starts[index], ends[index])
            self._pyramid.add(points.step[own], points.value[own])

    def _end(self) -> None:
        for level, rows in self._pyramid.levels():
            self._found.append(level_files.Level(self._metric, level, rows))
        self._pyramid = Pyramid()

    def table(self) -> pa.Table:
        """Return all levels; after that nothing more is taken."""
        self._end()
        return level_files.table(self._found)
