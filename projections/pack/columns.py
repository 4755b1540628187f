"""Batches of telemetry as the rows of an archive's Parquet files, in the order in which they came. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from events import codec
from events.ledger import Recorded
from events.telemetry import STREAMS, LogColumns, MetricColumns
from projections.pack.format import LOGS, METRICS


class Part(msgspec.Struct, frozen=True):
    """One event of telemetry: its key, when it was received, and its rows (`MetricColumns` or `LogColumns`)."""

    kind: str
    epoch: int | None
    source: str | None
    seq: int | None
    part: int | None
    received_at: datetime
    rows: Any


def part_of(one: Recorded) -> Part:
    """Return a recorded event as a part."""
    return Part(one.type, one.epoch, one.source, one.seq, one.part, one.occurred_at, one.event())


def points(parts: Sequence[Part]) -> pa.RecordBatch:
    """Return the points of batches in the order in which they came; see `METRICS`."""
    batches: list[MetricColumns] = [one.rows for one in parts]
    names = pa.array([name for batch in batches for name in batch.names], pa.string()).dictionary_encode()
    counts = np.array([count for batch in batches for count in batch.counts], np.int64)
    stages = [_stages(batch) for batch in batches]
    columns = [
        *_keys(parts, [batch.points for batch in batches]),
        pa.array(np.repeat([one.kind == codec.SYSTEM_METRICS for one in parts], [b.points for b in batches])),
        names.take(pa.array(np.repeat(np.arange(len(counts)), counts))),
        pa.array(np.concatenate([batch.steps() for batch in batches])),
        pa.array(np.concatenate([batch.times() for batch in batches])),
        pa.array(np.concatenate([batch.values() for batch in batches])),
        pa.chunked_array(stages, pa.string()).combine_chunks().dictionary_encode(),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=METRICS)


def _stages(batch: MetricColumns) -> pa.Array:
    own = batch.stage_indices()
    if own is None:
        return pa.nulls(batch.points, pa.string())
    return pa.array(batch.stages, pa.string()).take(pa.array(own))


def lines(parts: Sequence[Part]) -> pa.RecordBatch:
    """Return the lines of batches in the order in which they came; see `LOGS`."""
    batches: list[LogColumns] = [one.rows for one in parts]
    streams = np.concatenate([batch.streams() for batch in batches]).astype(np.int32)
    columns = [
        *_keys(parts, [batch.points for batch in batches]),
        pa.array(np.concatenate([batch.times() for batch in batches])),
        pa.DictionaryArray.from_arrays(streams, pa.array(STREAMS, pa.string())),
        pa.array([text for batch in batches for text in batch.text], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=LOGS)


def _keys(parts: Sequence[Part], rows: Sequence[int]) -> list[pa.Array]:
    """Return the columns that say of which batch each row is."""

    def repeated(values: Sequence[int | None], kind: type[np.signedinteger]) -> pa.Array:
        return pa.array(np.repeat(np.array(values, kind), rows))

    sources = pa.array([one.source for one in parts], pa.string()).dictionary_encode()
    return [
        repeated([one.epoch for one in parts], np.int32),
        sources.take(pa.array(np.repeat(np.arange(len(parts)), rows))),
        repeated([one.seq for one in parts], np.int64),
        repeated([one.part for one in parts], np.int32),
        repeated([codec.microseconds(one.received_at) for one in parts], np.int64),
    ]
