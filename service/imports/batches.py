"""The rows of an archive's Parquet files as the batches that they were, in constant memory."""

import heapq
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from events import codec
from events.telemetry import STREAMS, LogColumns, MetricColumns
from service.imports.incoming import Batch, Unreadable
from service.ingest.batches import MAX_POINTS

BATCH_ROWS: Final = 65_536
MAX_GROUP_ROWS: Final = 4 << 20
MAX_GROUP_BYTES: Final = 512 << 20
"""Row groups that are larger are not ours, and would be read at once."""

_STREAM_INDEX: Final = {name: index for index, name in enumerate(STREAMS)}

Key = tuple[int, str, int, str, int, int]
"""Of an event: epoch, source, seq, kind, microseconds of receipt, part."""


def merged(points: Iterator[Batch], lines: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches of both, attempt by attempt, in the order of their receipt."""
    return heapq.merge(points, lines, key=lambda batch: (batch.epoch, batch.received_at))


def read_batches(parquet: pq.ParquetFile, schema: pa.Schema) -> Iterator[Batch]:
    """Yield the batches of a file of that schema, which stand behind each other. Raises `Unreadable`."""
    with parquet:
        found = parquet.schema_arrow
        if found.names != schema.names or found.types != schema.types:
            raise Unreadable(f"a file of the archive has other columns than {', '.join(schema.names)}")
        for number in range(parquet.num_row_groups):
            group = parquet.metadata.row_group(number)
            if group.num_rows > MAX_GROUP_ROWS or group.total_byte_size > MAX_GROUP_BYTES:
                raise Unreadable(f"a row group has over {MAX_GROUP_ROWS} rows or {MAX_GROUP_BYTES} bytes")
        parts = ((key, _part(rows)) for key, rows in _events(parquet))
        for (epoch, source, seq, kind, received_us), several in groupby(parts, key=lambda one: one[0][:-1]):
            received_at = codec.from_microseconds(received_us)
            yield Batch(epoch, source, seq, kind, received_at, [part for _, part in several])


def _events(parquet: pq.ParquetFile) -> Iterator[tuple[Key, pa.Table]]:
    """Yield the rows of each event with its key."""
    held: list[pa.RecordBatch] = []
    known: Key | None = None
    for batch in parquet.iter_batches(batch_size=BATCH_ROWS):
        for key, rows in _stretches(batch):
            if held and key != known:
                assert known is not None
                yield known, pa.Table.from_batches(held)
                held = []
            held.append(rows)
            known = key
            if sum(one.num_rows for one in held) > MAX_POINTS:
                raise Unreadable(f"batch {key[2]} of {key[1]!r} has over {MAX_POINTS} rows")
    if held:
        assert known is not None
        yield known, pa.Table.from_batches(held)


def _stretches(batch: pa.RecordBatch) -> Iterator[tuple[Key, pa.RecordBatch]]:
    """Yield neighbouring rows of the same event."""
    if batch.num_rows == 0:
        return
    metrics = "metric" in batch.schema.names
    sources = batch["source"].dictionary.to_pylist()
    columns: list[Any] = [np.asarray(batch[name]) for name in ("epoch", "seq", "part", "received_us")]
    columns.append(np.asarray(batch["source"].indices))
    columns.append(np.asarray(batch["system"].cast("int8")) if metrics else np.zeros(batch.num_rows, np.int8))
    changed = np.zeros(batch.num_rows - 1, bool)
    for column in columns:
        changed |= column[1:] != column[:-1]
    starts = [0, *(np.flatnonzero(changed) + 1).tolist()]
    for start, end in zip(starts, [*starts[1:], batch.num_rows], strict=True):
        epoch, seq, part, received_us, source, system = (int(column[start]) for column in columns)
        kind = (codec.SYSTEM_METRICS if system else codec.METRICS) if metrics else codec.LOGS
        yield (epoch, sources[source], seq, kind, received_us, part), batch.slice(start, end - start)


def _part(rows: pa.Table) -> MetricColumns | LogColumns:
    """Return the rows of one event as its columns."""
    rows = rows.unify_dictionaries().combine_chunks()
    if "metric" not in rows.column_names:
        streams = rows["stream"].combine_chunks()
        if unknown := set(streams.dictionary.to_pylist()) - set(STREAMS):
            raise Unreadable(f"there is no stream {unknown.pop()!r}")
        codes = np.array([_STREAM_INDEX[name] for name in streams.dictionary.to_pylist()], np.uint8)
        return LogColumns(
            time_us=_bytes(rows["time_us"], "<i8"),
            stream=codes[np.asarray(streams.indices)].tobytes(),
            text=tuple(rows["text"].to_pylist()),
        )
    metric = rows["metric"].combine_chunks()
    codes = np.asarray(metric.indices)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    names = metric.dictionary.to_pylist()
    stages, stage = _stages(rows["stage"].combine_chunks())
    return MetricColumns(
        names=tuple(names[code] for code in codes[starts].tolist()),
        counts=tuple(np.diff(starts, append=len(codes)).tolist()),
        step=_bytes(rows["step"], "<i8"),
        value=_bytes(rows["value"], "<f8"),
        time_us=_bytes(rows["time_us"], "<i8"),
        stages=stages,
        stage=stage,
    )


def _stages(column: pa.DictionaryArray) -> tuple[tuple[str | None, ...], bytes | None]:
    if column.null_count == len(column):
        return (), None
    names, codes = column.dictionary.to_pylist(), np.asarray(column.indices.fill_null(-1), np.int64)
    used, indices = np.unique(codes, return_inverse=True)
    return tuple(None if code < 0 else names[code] for code in used.tolist()), indices.astype("<u2").tobytes()


def _bytes(column: pa.ChunkedArray, kind: str) -> bytes:
    data: bytes = np.asarray(column).astype(kind).tobytes()
    return data
