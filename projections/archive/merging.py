"""Several files of a run become one: the same rows, in the order in which one file would have had them.

    files = merge_metrics([path, …], into)     # given in order of their positions; under temporary names, as in
                                               # `writing`

What is held in memory is a part of each file, however large the files are. Repeated steps keep the order in which they
arrived: a file's own order, and among files that of their positions.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from projections.archive.parquet import LOGS_SCHEMA, ROW_GROUP_ROWS
from projections.archive.points import SortedPoints, together
from projections.archive.writing import Files, MetricsWriter, write_logs

PART_ROWS: Final = 32_768
"""How many rows of each file are held at once."""

BUFFER_BYTES: Final = 64 << 10

_TEXTS: Final = ["metric", "stage"]


def merge_metrics(paths: Sequence[Path], into: Path) -> Files:
    """Merge files of metrics; see the module. Raises pyarrow's errors for one that is broken."""
    names = _names(paths)
    with ExitStack() as opened, MetricsWriter(into) as writer:
        parquets = [opened.enter_context(_open(path, _TEXTS)) for path in paths]
        for points in merged([_Reader(parquet, names).parts() for parquet in parquets]):
            writer.add(points)
        return writer.close()


def merge_logs(paths: Sequence[Path], into: Path) -> Files:
    """Put files of logs behind each other; see the module."""
    with ExitStack() as opened:
        parquets = [opened.enter_context(_open(path, ["stream"])) for path in paths]
        batches = (batch for parquet in parquets for batch in parquet.iter_batches(batch_size=PART_ROWS))
        return write_logs(into, _gathered(batches))


def _open(path: Path, texts: Sequence[str]) -> pq.ParquetFile:
    """Open a file so that of its columns only what is being decoded is in memory."""
    return pq.ParquetFile(path, read_dictionary=list(texts), pre_buffer=False, buffer_size=BUFFER_BYTES)


def merged(files: Sequence[Iterator[SortedPoints]]) -> Iterator[SortedPoints]:
    """Yield the points of sorted files in order, part by part; all of them share their lists of names.

    A round ends at the least of the places at which the parts at hand end. What lies before that is complete and is
    sorted; then comes what lies at it, file by file, however long a step repeats.
    """
    cursors = [cursor for cursor in map(_Cursor, files) if cursor.more()]
    while cursors:
        end = min(cursor.end for cursor in cursors)
        before = [part for cursor in cursors if len(part := cursor.take_before(end))]
        if before:
            yield _sorted(before)
        for cursor in cursors:
            while cursor.more() and len(part := cursor.take_at(end)):
                yield part
        cursors = [cursor for cursor in cursors if cursor.more()]


Place = tuple[int, int]
"""A metric's index, and a step."""


class _Cursor:
    """A file that is read on: the part at hand, of which what was taken is gone."""

    def __init__(self, parts: Iterator[SortedPoints]) -> None:
        self._parts = parts
        self._part: SortedPoints | None = None

    def more(self) -> bool:
        """Tell whether there is something at hand, after reading on if there was not."""
        while self._part is None or not len(self._part):
            self._part = next(self._parts, None)
            if self._part is None:
                return False
        return True

    @property
    def end(self) -> Place:
        """The place of the last point at hand."""
        assert self._part is not None
        return int(self._part.metric[-1]), int(self._part.step[-1])

    def take_before(self, place: Place) -> SortedPoints:
        """Take what is at hand and lies before a place."""
        return self._take(place, "left")

    def take_at(self, place: Place) -> SortedPoints:
        """Take what is at hand and lies at a place, before which nothing is."""
        return self._take(place, "right")

    def _take(self, place: Place, side: Any) -> SortedPoints:
        part = self._part
        assert part is not None
        begin, end = np.searchsorted(part.metric, [place[0], place[0] + 1])
        cut = int(begin + np.searchsorted(part.step[begin:end], place[1], side=side))
        self._part = part.part(cut, len(part))
        return part.part(0, cut)


def _sorted(parts: Sequence[SortedPoints]) -> SortedPoints:
    points = together(parts)
    if len(parts) == 1:
        return points
    return points.taken(np.lexsort((points.step, points.metric)))


class _Reader:
    """Reads a file of metrics in parts, with indices into lists of names that several files share."""

    def __init__(self, parquet: pq.ParquetFile, names: "_Names") -> None:
        self._parquet = parquet
        self._names = names

    def parts(self) -> Iterator[SortedPoints]:
        """Yield the file's points."""
        for batch in self._parquet.iter_batches(batch_size=PART_ROWS):
            yield SortedPoints(
                metrics=self._names.metrics,
                stages=self._names.stages,
                metric=_indices(batch["metric"], self._names.metric),
                step=batch["step"].to_numpy(),
                time_us=batch["time_us"].to_numpy(),
                value=batch["value"].to_numpy(),
                stage=_indices(batch["stage"], self._names.stage),
                position=batch["position"].to_numpy(),
            )


class _Names:
    """The metrics of some files in order, and their stages."""

    def __init__(self, metrics: Iterable[str], stages: Iterable[str]) -> None:
        self.metrics = sorted(metrics)
        self.stages = sorted(stages)
        self.metric = {name: index for index, name in enumerate(self.metrics)}
        self.stage = {name: index for index, name in enumerate(self.stages)}


def _names(paths: Sequence[Path]) -> _Names:
    metrics: set[str] = set()
    stages: set[str] = set()
    for path in paths:
        with _open(path, _TEXTS) as parquet:
            for batch in parquet.iter_batches(batch_size=PART_ROWS, columns=_TEXTS):
                metrics.update(batch["metric"].dictionary.to_pylist())
                stages.update(batch["stage"].dictionary.to_pylist())
    return _Names(metrics, stages)


def _indices(column: pa.DictionaryArray, index: dict[str, int]) -> NDArray[np.int32]:
    """Return a column's texts as indices, -1 for none."""
    known = np.array([index[name] for name in column.dictionary.to_pylist()] + [-1], np.int32)
    return np.take(known, np.asarray(column.indices.fill_null(len(known) - 1)))


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield batches together in tables that are worth a row group."""
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        pending.append(batch)
        if sum(map(len, pending)) > ROW_GROUP_ROWS - PART_ROWS:
            yield _table(pending)
            pending = []
    if pending:
        yield _table(pending)


def _table(batches: Sequence[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches(batches).unify_dictionaries().cast(LOGS_SCHEMA)
