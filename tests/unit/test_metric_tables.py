"""Tables of metrics become the columns that the same points have as JSON, or are refused by column."""

import math
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from events.codec import METRICS, PACKED, decode
from events.errors import TooLarge
from service.ingest import bodies, metric_tables
from service.ingest.arrow import MAX_MESSAGES, MAX_PAGES
from service.ingest.batches import MAX_BODY_BYTES, MAX_POINTS, Batch
from service.ingest.parquet_pages import MAX_FOOTER_BYTES, MAX_ROW_GROUPS
from service.problems import Invalid, Malformed
from tests.tables import ARROW, BOTH, PARQUET, views_of_one, written

RECEIVED_US = 1_790_000_000_000_000
KEY = {"epoch": "1", "seq": "7"}


def read(table: pa.Table, media_type: str, **query: str) -> Batch:
    return metric_tables.metrics(written(table, media_type), media_type, KEY | query, RECEIVED_US)


def columns(batch: Batch) -> Any:
    (payload,) = batch.payloads
    return decode(METRICS, PACKED, payload)


def table(**changed: Any) -> pa.Table:
    every = {"metric": ["loss", "loss"], "step": [1, 2], "value": [0.5, 0.25], "time_us": [10, 20], **changed}
    return pa.table({name: column for name, column in every.items() if column is not None})


def as_json(series: dict[str, Any], **fields: Any) -> Batch:
    body = msgspec.json.encode({"epoch": 1, "seq": 7, "series": series, **fields})
    return bodies.metrics(body, "application/json", RECEIVED_US)


@BOTH
def test_a_table_is_the_same_request_as_the_same_points_in_json(media_type: str) -> None:
    mixed = table(
        metric=["b", "a", "b", "a"],
        step=[3, 1, 1, 1],
        value=[math.nan, 1.0, -math.inf, -0.0],
        time_us=[4, 1, 2, 3],
        stage=["warm", None, "warm", "hot"],
    )
    series = {
        "b": {"step": [3, 1], "value": ["NaN", "-Infinity"], "time_us": [4, 2], "stage": ["warm", "warm"]},
        "a": {"step": [1, 1], "value": [1.0, -0.0], "time_us": [1, 3], "stage": [None, "hot"]},
    }
    assert read(mixed, media_type) == as_json(series)
    whole = {"a": {"step": [1], "value": [1.0], "time_us": [1]}}
    one = table(metric=["a"], step=[1], value=[1.0], time_us=[1])
    assert read(one, media_type, stage="x", source="rank-3") == as_json(whole, stage="x", source="rank-3")


@BOTH
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_names_may_be_strings_of_any_kind_and_dictionaries(media_type: str, kind: pa.DataType) -> None:
    names = ["🦊/λoss", "b", "🦊/λoss"]
    plain = pa.array(names, kind)
    coded = pa.array(names).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.large_string()))
    for metric in (plain, coded):
        one = columns(read(table(metric=metric, step=[1, 2, 3], value=[1, 2, 3], time_us=[1, 2, 3]), media_type))
        assert (one.names, one.counts, one.steps().tolist()) == (("🦊/λoss", "b"), (2, 1), [1, 3, 2])


@BOTH
@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers_of_any_width_are_steps_and_values(media_type: str, kind: str) -> None:
    column = pa.array([3, 1], getattr(pa, kind)())
    one = columns(read(table(step=column, value=column, time_us=column), media_type))
    assert (one.steps().tolist(), one.values().tolist(), one.times().tolist()) == ([3, 1], [3.0, 1.0], [3, 1])


@BOTH
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_of_any_width_are_values_exactly(media_type: str, dtype: Any) -> None:
    value = np.array([0.1, np.finfo(dtype).max, np.finfo(dtype).tiny, -0.0, np.nan, np.inf, -np.inf], dtype)
    count = len(value)
    one = columns(read(table(metric=["a"] * count, step=range(count), value=value, time_us=[1] * count), media_type))
    assert one.value == value.astype(np.float64).tobytes()


@BOTH
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_are_times_in_whole_microseconds(media_type: str, unit: str) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    for zone in (None, "UTC", "Europe/Paris"):
        time_us = pa.array([5 * per_second, 7 * per_second], pa.int64()).cast(pa.timestamp(unit, zone))
        assert columns(read(table(time_us=time_us), media_type)).times().tolist() == [5_000_000, 7_000_000]


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"metric": None}, "metric"),
        ({"step": None}, "step"),
        ({"value": None}, "value"),
        ({"colour": ["red", "red"]}, "colour"),
        ({"metric": [1, 2]}, "metric"),
        ({"metric": ["a", None]}, "metric"),
        ({"metric": ["a", ""]}, "metric"),
        ({"metric": ["a", "b\n"]}, "metric"),
        ({"metric": ["a", "é" * 125 + "a"]}, "metric"),
        ({"metric": pa.array([b"a", b"b"])}, "metric"),
        ({"metric": pa.nulls(2)}, "metric"),
        ({"step": [1.0, 2.0]}, "step"),
        ({"step": ["1", "2"]}, "step"),
        ({"step": [1, None]}, "step"),
        ({"step": [True, False]}, "step"),
        ({"step": pa.array([1, 1 << 63], pa.uint64())}, "step"),
        ({"value": ["a", "b"]}, "value"),
        ({"value": [1.0, None]}, "value"),
        ({"value": [True, False]}, "value"),
        ({"value": pa.array([1, 2]).cast(pa.decimal128(30, 2))}, "value"),
        ({"value": [1, (1 << 53) + 1]}, "value"),
        ({"value": [1, -(1 << 53) - 1]}, "value"),
        ({"value": pa.array([1, (1 << 64) - 1], pa.uint64())}, "value"),
        ({"time_us": [1, None]}, "time_us"),
        ({"time_us": [1.5, 2.5]}, "time_us"),
        ({"time_us": [1, -1]}, "time_us"),
        ({"time_us": pa.array([1_000, 1_001], pa.timestamp("ns"))}, "time_us"),
        ({"time_us": pa.array([1, 1 << 60], pa.timestamp("s"))}, "time_us"),
        ({"stage": [1, 2]}, "stage"),
        ({"stage": ["x" * 251, "y"]}, "stage"),
    ],
)
def test_what_does_not_fit_is_refused_by_column(changed: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as refusal:
        read(table(**changed), ARROW)
    assert refusal.value.path == path


def test_a_column_that_is_there_twice_is_refused() -> None:
    twice = pa.Table.from_arrays([pa.array([1])] * 2, names=["step", "step"])
    with pytest.raises(Invalid, match="twice"):
        read(twice, ARROW)


@BOTH
def test_large_integers_that_a_float_equals_are_kept(media_type: str) -> None:
    values = [1 << 53, -(1 << 60)]
    assert columns(read(table(value=values), media_type)).values().tolist() == [float(one) for one in values]


@BOTH
def test_a_table_has_at_most_a_hundred_thousand_points(media_type: str) -> None:
    for count in (0, MAX_POINTS, MAX_POINTS + 1):
        long = table(
            metric=pa.array(["a"] * count, pa.string()),
            step=pa.array(range(count), pa.int32()),
            value=np.zeros(count, np.float32),
            time_us=None,
        )
        if count == MAX_POINTS:
            assert read(long, media_type).points == MAX_POINTS
            continue
        with pytest.raises(Invalid) as refusal:
            read(long, media_type)
        assert refusal.value.limit == (MAX_POINTS if count else None)


@pytest.mark.parametrize("missing", ["epoch", "seq"])
def test_the_key_of_a_table_stands_in_the_query(missing: str) -> None:
    query = {name: value for name, value in KEY.items() if name != missing}
    with pytest.raises(msgspec.ValidationError, match=missing):
        metric_tables.metrics(written(table(), ARROW), ARROW, query, RECEIVED_US)
    with pytest.raises(msgspec.ValidationError, match="sequence"):
        metric_tables.metrics(written(table(), ARROW), ARROW, KEY | {"sequence": "1"}, RECEIVED_US)


@BOTH
def test_what_is_cut_off_anywhere_is_refused(media_type: str) -> None:
    raw = written(table(), media_type)
    for size in range(len(raw)):
        with pytest.raises(Malformed):
            metric_tables.metrics(raw[:size], media_type, KEY, RECEIVED_US)
    with pytest.raises(Malformed):
        metric_tables.metrics(raw + b"\0" * 8, media_type, KEY, RECEIVED_US)


def test_the_buffers_of_a_stream_are_not_compressed_one_by_one() -> None:
    for codec in ("lz4", "zstd"):
        coded = table(metric=pa.array(["a", "a"]).dictionary_encode())
        raw = written(coded, ARROW, options=pa.ipc.IpcWriteOptions(compression=codec))
        with pytest.raises(Malformed, match="Content-Encoding"):
            metric_tables.metrics(raw, ARROW, KEY, RECEIVED_US)


def test_a_file_is_not_read_where_its_pages_would_be_too_large() -> None:
    count = 90_000
    long = table(
        metric=[f"{index:06d}{'x' * 100}" for index in range(count)],
        step=range(count),
        value=np.zeros(count),
        time_us=None,
    )
    raw = written(long, PARQUET, compression="zstd")
    assert len(raw) < MAX_BODY_BYTES
    with pytest.raises(TooLarge):
        metric_tables.metrics(raw, PARQUET, KEY, RECEIVED_US)


def test_texts_that_are_shown_often_count_each_time() -> None:
    views = views_of_one("x" * 100_000, 1_000)
    coded = pa.DictionaryArray.from_arrays(pa.array(range(1_000), pa.int32()), views)
    for metric in (views, coded):
        many = table(metric=metric, step=range(1_000), value=np.zeros(1_000), time_us=None)
        with pytest.raises(TooLarge) as refusal:
            read(many, ARROW)
        assert refusal.value.limit == MAX_BODY_BYTES
    few = table(metric=views_of_one("a metric's long name", 2))
    assert columns(read(few, ARROW)).names == ("a metric's long name",)


def test_a_stream_may_come_in_parts_each_with_a_dictionary_of_its_own() -> None:
    parts = [
        table(metric=pa.array(names).dictionary_encode(), step=steps)
        for names, steps in ((["b", "a"], [1, 2]), (["a", "c"], [3, 4]), (["b", "b"], [5, 6]))
    ]
    one = columns(read(pa.concat_tables(parts), ARROW))
    assert (one.names, one.counts, one.steps().tolist()) == (("b", "a", "c"), (3, 2, 1), [1, 5, 6, 2, 3, 4])


def growing(parts: int) -> bytes:
    """Return a stream of so many points, each of a metric that its dictionary did not have before."""
    words = [f"metric {index}" for index in range(parts)]
    grown = [pa.DictionaryArray.from_arrays(pa.array([last], pa.int32()), words[: last + 1]) for last in range(parts)]
    batches = [pa.record_batch({"metric": one, "step": [1], "value": [1.0], "time_us": [1]}) for one in grown]
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    return written(pa.Table.from_batches(batches), ARROW, options=options)


def test_dictionaries_grow_only_so_often() -> None:
    assert metric_tables.metrics(growing(65), ARROW, KEY, RECEIVED_US).points == 65
    with pytest.raises(Malformed, match="grow 65 times"):
        metric_tables.metrics(growing(66), ARROW, KEY, RECEIVED_US)


def test_a_schema_may_say_much_beside_its_columns() -> None:
    described = table().replace_schema_metadata({"pandas": "x" * 20_000})
    assert read(described, ARROW) == read(table(), ARROW)
    with pytest.raises(Invalid, match="no column 'colour'"):
        read(described.append_column("colour", [["red", "red"]]), ARROW)


def test_a_stream_of_the_old_framing_is_refused() -> None:
    options = pa.ipc.IpcWriteOptions(use_legacy_format=True)
    with pytest.raises(Malformed, match="marker"):
        metric_tables.metrics(written(table(), ARROW, options=options), ARROW, KEY, RECEIVED_US)


def test_an_encoding_by_which_few_bytes_are_many_texts_is_refused() -> None:
    raw = written(table(), PARQUET, use_dictionary=False, column_encoding={"metric": "DELTA_BYTE_ARRAY"})
    with pytest.raises(Malformed, match="DELTA_BYTE_ARRAY"):
        metric_tables.metrics(raw, PARQUET, KEY, RECEIVED_US)


@BOTH
def test_no_altered_byte_does_more_than_be_refused(media_type: str) -> None:
    raw = written(table(), media_type)
    for index in range(len(raw)):
        for value in (0, 1, 0x7F, 0xFF):
            altered = raw[:index] + bytes([value]) + raw[index + 1 :]
            try:
                metric_tables.metrics(altered, media_type, KEY, RECEIVED_US)
            except (Malformed, Invalid, TooLarge):
                continue


def test_a_list_that_is_longer_than_its_file_is_refused() -> None:
    raw = written(table(), PARQUET)
    footer = struct.unpack("<I", raw[-8:-4])[0]
    with pytest.raises(Malformed):
        metric_tables.metrics(raw[:-8] + struct.pack("<I", footer + len(raw)) + b"PAR1", PARQUET, KEY, RECEIVED_US)


def repeated(count: int) -> pa.Table:
    """Return a table of so many equal points."""
    return table(metric=["a"] * count, step=[1] * count, value=[1.0] * count, time_us=[1] * count)


def in_batches(count: int) -> bytes:
    """Return an Arrow stream of so many messages behind its schema, a row each."""
    return written(pa.Table.from_batches(repeated(1).to_batches() * count), ARROW)


def in_row_groups(count: int) -> bytes:
    """Return a Parquet file of so many row groups, a row each."""
    return written(repeated(count), PARQUET, row_group_size=1)


def in_pages(count: int) -> bytes:
    """Return a Parquet file of so many pages, four a row."""
    return written(repeated(count // 4), PARQUET, use_dictionary=False, data_page_size=1, write_batch_size=1)


@pytest.mark.parametrize(
    ("media_type", "write", "limit", "piece"),
    [
        (ARROW, in_batches, MAX_MESSAGES, 1),
        (PARQUET, in_row_groups, MAX_ROW_GROUPS, 1),
        (PARQUET, in_pages, MAX_PAGES, 4),
    ],
)
def test_a_table_comes_in_so_many_pieces_and_no_more(
    media_type: str, write: Callable[[int], bytes], limit: int, piece: int
) -> None:
    batch = metric_tables.metrics(write(limit), media_type, KEY, RECEIVED_US)
    assert batch.points == limit // piece
    with pytest.raises(Invalid, match=f"over {limit}") as refused:
        metric_tables.metrics(write(limit + piece), media_type, KEY, RECEIVED_US)
    assert refused.value.limit == limit


def test_a_file_has_a_footer_that_is_read_in_a_moment() -> None:
    described = repeated(1).replace_schema_metadata({"pandas": "x" * MAX_FOOTER_BYTES})
    with pytest.raises(Invalid, match="footer") as refused:
        read(described, PARQUET)
    assert refused.value.limit == MAX_FOOTER_BYTES
