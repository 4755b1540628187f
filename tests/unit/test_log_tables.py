"""Tables of log lines become the lines that the same have as JSON, or are refused by column."""

from typing import Any

import msgspec
import pyarrow as pa
import pytest

from events.codec import LOGS, PACKED, decode
from events.errors import TooLarge
from service.ingest import bodies, log_tables
from service.ingest.batches import MAX_BODY_BYTES, MAX_LINE_CHARACTERS, MAX_LINES, Batch
from service.problems import Invalid, Malformed
from tests.tables import ARROW, BOTH, PARQUET, views_of_one, written

RECEIVED_US = 1_790_000_000_000_000
KEY = {"epoch": "1", "seq": "7"}


def read(table: pa.Table, media_type: str, **query: str) -> Batch:
    return log_tables.logs(written(table, media_type), media_type, KEY | query, RECEIVED_US)


def table(**changed: Any) -> pa.Table:
    every = {"text": ["one", "two"], "time_us": [10, 20], "stream": ["stdout", "log"], **changed}
    return pa.table({name: column for name, column in every.items() if column is not None})


def as_json(lines: list[dict[str, Any]], **fields: Any) -> Batch:
    body = msgspec.json.encode({"epoch": 1, "seq": 7, "lines": lines, **fields})
    return bodies.logs(body, "application/json", RECEIVED_US)


@BOTH
def test_a_table_is_the_same_request_as_the_same_lines_in_json(media_type: str) -> None:
    texts = ["Zoë 🦊", "", "Zoë 🦊", "a\r\0\tb"]
    streams = ["stderr", "stdout", "log", "stderr"]
    times = [5, 3, 3, 9]
    lines = [
        {"text": text, "time_us": time_us, "stream": stream}
        for text, time_us, stream in zip(texts, times, streams, strict=True)
    ]
    for text in (pa.array(texts), pa.array(texts, pa.string_view()), pa.array(texts).dictionary_encode()):
        whole = table(text=text, time_us=times, stream=pa.array(streams).dictionary_encode())
        assert read(whole, media_type, source="rank-3") == as_json(lines, source="rank-3")
    plain = [{"text": text} for text in texts]
    assert read(table(text=texts, time_us=None, stream=None), media_type) == as_json(plain)
    timed = table(time_us=pa.array([10, 20], pa.timestamp("us", "UTC")), stream=None)
    assert read(timed, media_type) == as_json([{"text": "one", "time_us": 10}, {"text": "two", "time_us": 20}])


@BOTH
def test_many_long_lines_become_several_events_in_order(media_type: str) -> None:
    texts = [f"{index:05d}" * 40 for index in range(MAX_LINES)]
    batch = read(table(text=texts, time_us=None, stream=None), media_type)
    parts: list[Any] = [decode(LOGS, PACKED, payload) for payload in batch.payloads]
    assert len(parts) > 1
    assert [text for part in parts for text in part.text] == texts
    assert batch.points == MAX_LINES


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"text": None}, "text"),
        ({"colour": ["red", "red"]}, "colour"),
        ({"metric": ["a", "a"]}, "metric"),
        ({"text": [1, 2]}, "text"),
        ({"text": ["a", None]}, "text"),
        ({"text": pa.array([b"a", b"b"])}, "text"),
        ({"text": pa.nulls(2)}, "text"),
        ({"text": ["a", "é" * (MAX_LINE_CHARACTERS + 1)]}, "text"),
        ({"stream": ["log", "stdin"]}, "stream"),
        ({"stream": ["log", None]}, "stream"),
        ({"stream": ["log", ""]}, "stream"),
        ({"stream": [0, 1]}, "stream"),
        ({"time_us": [1, None]}, "time_us"),
        ({"time_us": [1.5, 2.5]}, "time_us"),
        ({"time_us": [1, -1]}, "time_us"),
        ({"time_us": [1, RECEIVED_US * 2]}, "time_us"),
        ({"time_us": pa.array([1_000, 1_001], pa.timestamp("ns"))}, "time_us"),
    ],
)
@BOTH
def test_what_does_not_fit_is_refused_by_column(changed: dict[str, Any], path: str, media_type: str) -> None:
    with pytest.raises(Invalid) as refusal:
        read(table(**changed), media_type)
    assert refusal.value.path == path


@BOTH
def test_a_line_and_a_table_may_be_as_long_as_their_limits(media_type: str) -> None:
    longest = "é" * MAX_LINE_CHARACTERS
    assert read(table(text=[longest, ""]), media_type) == as_json(
        [{"text": longest, "time_us": 10, "stream": "stdout"}, {"text": "", "time_us": 20, "stream": "log"}]
    )
    for count in (0, MAX_LINES + 1):
        with pytest.raises(Invalid) as refusal:
            read(table(text=pa.array(["a"] * count, pa.string()), time_us=None, stream=None), media_type)
        assert (refusal.value.path, refusal.value.limit) == ("text", MAX_LINES if count else None)


def test_lines_that_repeat_count_each_time() -> None:
    long = "x" * 60_000
    coded = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int8()), [long])
    for text, media_type in ((coded, ARROW), (coded, PARQUET), (views_of_one(long, 1_000), ARROW)):
        many = table(text=text, time_us=None, stream=None)
        raw = written(many, media_type)
        assert len(raw) < MAX_BODY_BYTES
        with pytest.raises(TooLarge) as refusal:
            log_tables.logs(raw, media_type, KEY, RECEIVED_US)
        assert refusal.value.limit == MAX_BODY_BYTES


@pytest.mark.parametrize("missing", ["epoch", "seq"])
def test_the_key_of_a_table_stands_in_the_query(missing: str) -> None:
    query = {name: value for name, value in KEY.items() if name != missing}
    with pytest.raises(msgspec.ValidationError, match=missing):
        log_tables.logs(written(table(), ARROW), ARROW, query, RECEIVED_US)
    with pytest.raises(msgspec.ValidationError, match="stage"):
        log_tables.logs(written(table(), ARROW), ARROW, KEY | {"stage": "x"}, RECEIVED_US)


@BOTH
def test_what_is_cut_off_or_altered_anywhere_is_refused_or_another_table(media_type: str) -> None:
    raw = written(table(), media_type)
    for size in range(len(raw)):
        with pytest.raises(Malformed):
            log_tables.logs(raw[:size], media_type, KEY, RECEIVED_US)
    for index in range(len(raw)):
        for value in (0, 0xFF):
            altered = raw[:index] + bytes([value]) + raw[index + 1 :]
            try:
                log_tables.logs(altered, media_type, KEY, RECEIVED_US)
            except (Malformed, Invalid, TooLarge):
                continue
