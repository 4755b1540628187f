"""Bodies of metrics as Arrow IPC streams and Parquet files: one row a point, in columns that stay columns.

    metric   a string, or a dictionary of strings       step    any integer
    value    any float or integer that a float64 equals time_us, where there is one: an integer, or a timestamp
    stage    where there is one: a string, a dictionary of strings, or null

The key of the batch stands in the query: `?epoch=1&seq=17&source=rank0`, and `stage` where it is one for all. Rows of
a metric keep their order; metrics stand in the order of their first rows.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.telemetry import MetricColumns
from service.ingest import arrow, batches
from service.ingest.batches import Batch, Key
from service.problems import Invalid

COLUMNS: Final = ("metric", "step", "value", "time_us", "stage")
REQUIRED: Final = COLUMNS[:3]

READERS: Final = {
    "application/vnd.apache.arrow.stream": arrow.from_stream,
    "application/vnd.apache.parquet": arrow.from_parquet,
}

Indices = NDArray[np.int64]


class TableKey(Key, frozen=True, forbid_unknown_fields=True):
    """What the query of a table says."""

    stage: str | None = None


def metrics(raw: bytes, media_type: str, query: Mapping[str, str], received_us: int) -> Batch:
    """Return the batch that a table holds. Raises `Invalid` naming the column, `Malformed` and `TooLarge`."""
    key = msgspec.convert(query, TableKey, strict=False)
    table = READERS[media_type](raw, _check_schema)
    batches.check_points(table.num_rows, "metric")
    columns = _columns(table, key.stage, received_us)
    timed = "time_us" in table.column_names
    return batches.of_metrics(key, columns, lambda _: "time_us", received_us, timed=timed)


def _check_schema(schema: pa.Schema) -> None:
    """Refuse a table by the name of the column that is missing, unknown, there twice, or of a wrong type."""
    _check_types(tuple(schema.names), tuple(schema.types))


@lru_cache(maxsize=64)
def _check_types(names: tuple[str, ...], types: tuple[pa.DataType, ...]) -> None:
    for name in names:
        if name not in COLUMNS:
            raise Invalid(f"there is no column {name!r} in a table of metrics: {', '.join(COLUMNS)}", path=name)
        if names.count(name) > 1:
            raise Invalid(f"the column {name!r} is there twice", path=name)
    for name in REQUIRED:
        if name not in names:
            raise Invalid(f"the column {name!r} is missing", path=name)
    for name, kind in zip(names, types, strict=True):
        if not _fits(name, kind):
            raise Invalid(f"the column {name!r} is {kind}, not {_WANTED[name]}", path=name)


_WANTED: Final = {
    "metric": "a string or a dictionary of strings",
    "stage": "a string or a dictionary of strings",
    "step": "an integer",
    "value": "a float or an integer",
    "time_us": "an integer of microseconds or a timestamp",
}


def _fits(name: str, kind: pa.DataType) -> bool:
    if name in {"metric", "stage"}:
        text = kind.value_type if pa.types.is_dictionary(kind) else kind
        return any(of(text) for of in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
    wider = {"value": pa.types.is_floating, "time_us": pa.types.is_timestamp}.get(name)
    return bool(pa.types.is_integer(kind) or (wider is not None and wider(kind)))


def _columns(table: pa.Table, stage: str | None, received_us: int) -> MetricColumns:
    ranks, lengths, names = _ranked(*_texts(table["metric"], "metric"))
    if None in names:
        raise Invalid("a metric's name is null", path="metric")
    for name in names:
        batches.check_name(str(name), "metric")
    order, counts = None, lengths
    if len(ranks) > len(names):  # the rows of a metric do not stand together
        rank = np.repeat(ranks, lengths)
        order, counts = np.argsort(rank, kind="stable"), np.bincount(rank)
    timed = "time_us" in table.column_names
    stages, stage_column = _stages(table, stage, order)
    return MetricColumns(
        names=tuple(map(str, names)),
        counts=tuple(counts.tolist()),
        step=_bytes(_integers(table["step"], "step"), order),
        value=_bytes(_numbers(table["value"]), order),
        time_us=_bytes(_times(table["time_us"]) if timed else np.full(table.num_rows, received_us, np.int64), order),
        stages=stages,
        stage=stage_column,
    )


def _stages(table: pa.Table, stage: str | None, order: Indices | None) -> tuple[tuple[str | None, ...], bytes | None]:
    stages: tuple[str | None, ...] = ()
    column = None
    if "stage" in table.column_names:
        index, texts = _texts(table["stage"], "stage")
        ranks, lengths, found = _ranked(index if order is None else index[order], texts)
        stages = tuple(found)
        column = np.repeat(ranks, lengths)
    elif stage is not None:
        stages = (stage,)
        column = np.zeros(table.num_rows, np.int64)
    batches.check_stages(stages, "stage")
    return stages, None if column is None else column.astype("<u2").tobytes()


def _bytes(column: NDArray[np.int64] | NDArray[np.float64], order: Indices | None) -> bytes:
    """Return a column as batches hold it: 8 bytes an element, little-endian."""
    return (column if order is None else column[order]).tobytes()


def _texts(column: pa.ChunkedArray, name: str) -> tuple[Indices, list[str | None]]:
    """Return a column of strings as int64[n] indices into its different values; the last of them is null."""
    if not pa.types.is_dictionary(column.type):
        if pa.types.is_string_view(column.type):
            column = column.cast(pa.large_string())
        column = column.dictionary_encode()
    array = column.chunk(0) if column.num_chunks == 1 else column.unify_dictionaries().combine_chunks()
    if len(array.dictionary) > batches.MAX_POINTS:
        raise Invalid(
            f"the dictionary of {name!r} has {len(array.dictionary)} values, over {batches.MAX_POINTS}",
            path=name,
            limit=batches.MAX_POINTS,
        )
    index = array.indices
    if index.null_count:
        index = index.cast(pa.int64()).fill_null(len(array.dictionary))
    return index.to_numpy().astype(np.int64), [*array.dictionary.to_pylist(), None]


def _ranked(index: Indices, texts: list[str | None]) -> tuple[Indices, Indices, list[str | None]]:
    """Return which text each stretch of equal rows has, its length, and the texts in the order of their first rows."""
    ends = np.flatnonzero(index[1:] != index[:-1]) + 1
    starts = np.concatenate(([0], ends))
    known: dict[str | None, int] = {}
    ranks = [known.setdefault(texts[one], len(known)) for one in index[starts].tolist()]
    return np.asarray(ranks, np.int64), np.concatenate((ends, [len(index)])) - starts, list(known)


def _integers(column: pa.ChunkedArray, name: str) -> NDArray[np.int64]:
    """Return a column of integers, int64[n]; refuses nulls, and what has more than 63 bits."""
    integers = _numpy(column, name)
    if integers.dtype == np.uint64 and len(integers) and int(integers.max()) >= 1 << 63:
        raise Invalid(f"the column {name!r} has an integer of more than 63 bits", path=name, limit=(1 << 63) - 1)
    return integers.astype(np.int64)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of numbers, float64[n]; refuses nulls, and an integer that no float64 equals."""
    numbers = _numpy(column, "value")
    if numbers.dtype.kind in "iu":
        beyond = (numbers > batches.EXACT) | (numbers < -batches.EXACT if numbers.dtype.kind == "i" else False)
        batches.check_exact(numbers[beyond].tolist(), "value")
    return numbers.astype(np.float64)


def _times(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Return a column of times in microseconds, int64[n]; refuses nulls, and parts of a microsecond."""
    if pa.types.is_timestamp(column.type):
        try:
            column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise Invalid(f"the column 'time_us' holds no whole microseconds: {error}", path="time_us") from error
    return _integers(column, "time_us")


def _numpy(column: pa.ChunkedArray, name: str) -> NDArray[Any]:
    if column.null_count:
        hint = " (a missing value is NaN)" if name == "value" else ""
        raise Invalid(f"the column {name!r} has {column.null_count} nulls{hint}", path=name)
    array: NDArray[Any] = column.to_numpy()
    return array
