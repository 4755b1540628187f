"""Batches of telemetry given back from Parquet, after their payloads have left Postgres.

    batch = await Restorer(store).batch(pool, ledger_id, recorded)     # the points or lines that stood at that position

A file of metrics is sorted by (metric, step), so a batch comes back with its series by name and its steps in order;
points whose steps are equal keep the order in which they arrived. Nothing else differs: no point, no bit of a value.
"""

import asyncio
from collections import OrderedDict
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from events.ledger import Fact
from events.sql import load
from events.telemetry import STREAMS, LogColumns, MetricColumns
from projections.apply import TelemetryMovedError
from projections.archive import manifest
from projections.archive.parquet import File
from projections.archive.stores import Store
from projections.runs import Reader

WINDOW_ROWS: Final = 2_000_000
"""How many rows of a file are held at once; of a larger one, its next positions."""

CACHE_BYTES: Final = 256 << 20
"""How much of all files is held at once, for runs that logged side by side."""

_DICTIONARIES: Final = {manifest.METRICS: ["metric", "stage"], manifest.LOGS: ["stream"]}
_STREAM_INDEX: Final = {name: index for index, name in enumerate(STREAMS)}


class Window(msgspec.Struct, frozen=True):
    """The rows of a file from position `first` through `last`, by position; `starts` is where each begins."""

    first: int
    last: int
    position: NDArray[np.int64]
    table: pa.Table

    def rows(self, position: int) -> pa.Table:
        """Return the rows of one position, none where it has none."""
        begin, end = np.searchsorted(self.position, [position, position + 1])
        return self.table.slice(begin, end - begin)


class Restorer:
    """Gives batches back, best asked for in order; holds at most `cache_bytes` of files and one window more."""

    def __init__(self, store: Store, *, window_rows: int = WINDOW_ROWS, cache_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._window_rows = window_rows
        self._cache_bytes = cache_bytes
        self._windows: OrderedDict[tuple[UUID, str], Window] = OrderedDict()

    async def batch(self, reader: Reader, ledger_id: UUID, recorded: Fact) -> MetricColumns | LogColumns | None:
        """Return what an event without a payload held, or None where its run was deleted.

        Raises `TelemetryMovedError` where it is in no file of the manifest, or the file is missing.
        """
        kind = manifest.KIND_OF[recorded.type]
        window = self._windows.get((recorded.stream, kind))
        if window is None or not window.first <= recorded.position <= window.last:
            window = await self._window(reader, ledger_id, recorded, kind)
            if window is None:
                return None
            self._windows[recorded.stream, kind] = window
            self._make_room()
        self._windows.move_to_end((recorded.stream, kind))
        rows = window.rows(recorded.position)
        return _metrics(rows) if kind == manifest.METRICS else _lines(rows)

    async def _window(self, reader: Reader, ledger_id: UUID, recorded: Fact, kind: str) -> Window | None:
        missing = None
        while True:
            file = await reader.fetchrow(
                load("projections.sql", "segment_at"), ledger_id, recorded.stream, kind, recorded.position
            )
            if file is None or file["path"] == missing:
                await _require_deleted(reader, ledger_id, recorded, missing)
                return None
            try:
                return await asyncio.to_thread(self._read, file, kind, recorded.position)
            except FileNotFoundError:
                missing = file["path"]  # merged away meanwhile, or really missing

    def _read(self, file: asyncpg.Record, kind: str, position: int) -> Window:
        with self._store.held([File(file["path"], file["bytes"], file["sha256"])]) as root:
            opened = pq.ParquetFile(root / file["path"], read_dictionary=_DICTIONARIES[kind], pre_buffer=False)
        with opened as parquet:
            if parquet.metadata.num_rows <= self._window_rows:
                first, last, table = file["first_position"], file["last_position"], parquet.read()
            else:
                first = position
                last = _last_of_window(parquet, position, self._window_rows, file["last_position"])
                table = pa.Table.from_batches(
                    [_between(batch, first, last) for batch in parquet.iter_batches()], parquet.schema_arrow
                )
        position_column = np.asarray(table["position"].combine_chunks())
        order = np.argsort(position_column, kind="stable")
        table = table.drop_columns("position").unify_dictionaries().combine_chunks().take(pa.array(order))
        return Window(first, last, position_column[order], table)

    def _make_room(self) -> None:
        while len(self._windows) > 1 and sum(one.table.nbytes for one in self._windows.values()) > self._cache_bytes:
            self._windows.popitem(last=False)


async def _require_deleted(reader: Reader, ledger_id: UUID, recorded: Fact, missing: str | None) -> None:
    """Raise `TelemetryMovedError` unless the run was deleted; `missing` is the file that should have the batch."""
    if await reader.fetch(load("projections.sql", "not_erased"), ledger_id, [recorded.stream]):
        what = f"{recorded.type} at position {recorded.position} of ledger {ledger_id}"
        if missing is None:
            raise TelemetryMovedError(f"{what} is neither in Postgres nor in a file of the manifest")
        raise TelemetryMovedError(f"{what} is in {missing}, which is missing")


def _last_of_window(parquet: pq.ParquetFile, first: int, rows: int, last: int) -> int:
    """Return the position up to which, from `first` on, there are about so many rows."""
    found, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for batch in parquet.iter_batches(columns=["position"]):
        positions = batch["position"].to_numpy()
        own, count = np.unique(positions[positions >= first], return_counts=True)
        found, place = np.unique(np.concatenate([found, own]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts, count]), len(found)).astype(np.int64)
    within = int(np.searchsorted(np.cumsum(counts), rows, side="right"))
    return last if within == len(found) else max(first, int(found[max(within, 1) - 1]))


def _between(batch: pa.RecordBatch, first: int, last: int) -> pa.RecordBatch:
    position = batch["position"]
    return batch.filter(pc.and_(pc.greater_equal(position, first), pc.less_equal(position, last)))


def _metrics(rows: pa.Table) -> MetricColumns:
    names, codes = _texts(rows["metric"])
    starts = np.flatnonzero(np.diff(codes, prepend=-2))
    stages, stage = _staged(*_texts(rows["stage"]))
    return MetricColumns(
        names=tuple(names[code] for code in codes[starts].tolist()),
        counts=tuple(np.diff(starts, append=len(codes)).tolist()),
        step=_bytes(rows["step"], "<i8"),
        value=_bytes(rows["value"], "<f8"),
        time_us=_bytes(rows["time_us"], "<i8"),
        stages=stages,
        stage=stage,
    )


def _staged(names: list[str], codes: NDArray[np.int64]) -> tuple[tuple[str | None, ...], bytes | None]:
    if np.all(codes < 0):
        return (), None
    used, indices = np.unique(codes, return_inverse=True)
    stages = tuple(None if code < 0 else names[code] for code in used.tolist())
    return stages, indices.astype("<u2").tobytes()


def _lines(rows: pa.Table) -> LogColumns:
    streams, codes = _texts(rows["stream"])
    indices = np.array([_STREAM_INDEX[name] for name in streams], np.uint8)
    return LogColumns(
        time_us=_bytes(rows["time_us"], "<i8"),
        stream=indices[codes].tobytes(),
        text=tuple(rows["text"].to_pylist()),
    )


def _texts(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """Return a dictionary column's texts, and each row's index into them, -1 for none."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # no rows, no chunk
        return [], np.empty(0, np.int64)
    return array.dictionary.to_pylist(), np.asarray(array.indices.fill_null(-1), np.int64)


def _bytes(column: pa.ChunkedArray, kind: str) -> bytes:
    return np.asarray(column).astype(kind).tobytes()
