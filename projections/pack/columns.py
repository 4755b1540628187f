"""Batches of telemetry as the rows of an archive's Parquet files, in the order in which they came. Pure."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from events import codec
from events.ledger import Recorded
from events.telemetry import STREAMS, LogColumns, MetricColumns
from projections.pack.format import LOGS, METRICS


def points(recorded: Sequence[Recorded]) -> pa.RecordBatch:
    """Return the points of batches in the order in which they came; see `METRICS`."""
    batches: list[MetricColumns] = [one.event() for one in recorded]
    names = pa.array([name for batch in batches for name in batch.names], pa.string()).dictionary_encode()
    counts = np.array([count for batch in batches for count in batch.counts], np.int64)
    stages = [_stages(batch) for batch in batches]
    columns = [
        *_keys(recorded, [batch.points for batch in batches]),
        pa.array(np.repeat([one.type == codec.SYSTEM_METRICS for one in recorded], [b.points for b in batches])),
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


def lines(recorded: Sequence[Recorded]) -> pa.RecordBatch:
    """Return the lines of batches in the order in which they came; see `LOGS`."""
    batches: list[LogColumns] = [one.event() for one in recorded]
    streams = np.concatenate([batch.streams() for batch in batches]).astype(np.int32)
    columns = [
        *_keys(recorded, [batch.points for batch in batches]),
        pa.array(np.concatenate([batch.times() for batch in batches])),
        pa.DictionaryArray.from_arrays(streams, pa.array(STREAMS, pa.string())),
        pa.array([text for batch in batches for text in batch.text], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=LOGS)


def _keys(recorded: Sequence[Recorded], rows: Sequence[int]) -> list[pa.Array]:
    """Return the columns that say of which batch each row is."""

    def repeated(values: Sequence[int | None], kind: type[np.signedinteger]) -> pa.Array:
        return pa.array(np.repeat(np.array(values, kind), rows))

    sources = pa.array([one.source for one in recorded], pa.string()).dictionary_encode()
    return [
        repeated([one.epoch for one in recorded], np.int32),
        sources.take(pa.array(np.repeat(np.arange(len(recorded)), rows))),
        repeated([one.seq for one in recorded], np.int64),
        repeated([one.part for one in recorded], np.int32),
        repeated([codec.microseconds(one.occurred_at) for one in recorded], np.int64),
    ]
