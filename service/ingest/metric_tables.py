"""Bodies of metrics as Arrow IPC streams and Parquet files: one row a point, in columns that stay columns.

    metric   a string, or a dictionary of strings       step    any integer
    value    any float or integer that a float64 equals time_us, where there is one: an integer, or a timestamp
    stage    where there is one: a string, a dictionary of strings, or null

The key of the batch stands in the query: `?epoch=1&seq=17&source=rank0`, and `stage` where it is one for all. Rows of
a metric keep their order; metrics stand in the order of their first rows.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.telemetry import MetricColumns
from service.ingest import batches, table_columns
from service.ingest.arrow import READERS
from service.ingest.batches import MAX_POINTS, Batch, Key
from service.ingest.table_columns import Indices, Layout
from service.problems import Invalid

LAYOUT: Final = Layout(
    what="metrics",
    row="point",
    max_rows=MAX_POINTS,
    columns=(("metric", "text"), ("step", "integer"), ("value", "number"), ("time_us", "time"), ("stage", "text")),
    required=("metric", "step", "value"),
)


class TableKey(Key, frozen=True, forbid_unknown_fields=True):
    """What the query of a table of metrics says."""

    stage: str | None = None


def metrics(raw: bytes, media_type: str, query: Mapping[str, str], received_us: int) -> Batch:
    """Return the batch that a table holds. Raises `Invalid` naming the column, `Malformed` and `TooLarge`."""
    key = msgspec.convert(query, TableKey, strict=False)
    rows = READERS[media_type](raw, LAYOUT)
    columns = _columns(rows, key.stage, received_us)
    timed = "time_us" in rows.schema.names
    return batches.of_metrics(key, columns, lambda _: "time_us", received_us, timed=timed)


def _columns(rows: pa.RecordBatch, stage: str | None, received_us: int) -> MetricColumns:
    ranks, lengths, names = _ranked(*table_columns.texts(rows.column("metric"), "metric"))
    known: list[str] = []
    for name in names:
        if name is None:
            raise Invalid("a metric's name is null", path="metric")
        batches.check_name(name, "metric")
        known.append(name)
    order, counts = None, lengths
    if len(ranks) > len(known):  # the rows of a metric do not stand together
        rank = np.repeat(ranks, lengths)
        order, counts = np.argsort(rank, kind="stable"), np.bincount(rank)
    present = rows.schema.names
    if "time_us" in present:
        times = table_columns.times(rows.column("time_us"), "time_us")
    else:
        times = np.full(rows.num_rows, received_us, np.int64)
    stages, stage_column = ((), None) if stage is None and "stage" not in present else _stages(rows, stage, order)
    return MetricColumns(
        names=tuple(known),
        counts=tuple(counts.tolist()),
        step=_bytes(table_columns.integers(rows.column("step"), "step"), order),
        value=_bytes(table_columns.numbers(rows.column("value"), "value"), order),
        time_us=_bytes(times, order),
        stages=stages,
        stage=stage_column,
    )


def _stages(rows: pa.RecordBatch, stage: str | None, order: Indices | None) -> tuple[tuple[str | None, ...], bytes]:
    stages: tuple[str | None, ...] = (stage,)
    column = np.zeros(rows.num_rows, np.int64)
    if "stage" in rows.schema.names:
        index, texts = table_columns.texts(rows.column("stage"), "stage")
        ranks, lengths, found = _ranked(index if order is None else index[order], texts)
        stages = tuple(found)
        column = np.repeat(ranks, lengths)
    batches.check_stages(stages, "stage")
    return stages, column.astype("<u2").tobytes()


def _bytes(column: NDArray[np.int64] | NDArray[np.float64], order: Indices | None) -> bytes:
    """Return a column as batches hold it: 8 bytes an element, little-endian."""
    return (column if order is None else column[order]).tobytes()


def _ranked(index: Indices, texts: list[str | None]) -> tuple[Indices, Indices, list[str | None]]:
    """Return which text each stretch of equal rows has, its length, and the texts in the order of their first rows."""
    starts = np.array([0, *((index[1:] != index[:-1]).nonzero()[0] + 1).tolist(), len(index)])
    known: dict[str | None, int] = {}
    ranks = [known.setdefault(texts[one], len(known)) for one in index[starts[:-1]].tolist()]
    return np.array(ranks), starts[1:] - starts[:-1], list(known)
