"""Bodies of metrics and logs become columns, or are refused by path and limit."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest

from events.codec import LOGS, METRICS, PACKED, decode
from events.ledger import MAX_EVENT_BYTES
from events.packing import unpacked
from events.telemetry import LogColumns, MetricColumns
from service.ingest import batches, bodies
from service.problems import Invalid

RECEIVED_US = 1_790_000_000_000_000


def body(**changes: Any) -> bytes:
    series = {"loss": {"step": [1, 2], "value": [0.5, 0.25], "time_us": [10, 20]}}
    return msgspec.json.encode({"epoch": 1, "seq": 7, "series": series, **changes})


def columns(batch: batches.Batch) -> list[MetricColumns]:
    decoded = [decode(METRICS, PACKED, payload) for payload in batch.payloads]
    assert all(isinstance(one, MetricColumns) for one in decoded)
    return decoded  # type: ignore[return-value]


def test_a_batch_becomes_columns_in_order() -> None:
    series = {
        "a": {"step": [3, 1], "value": [1, 2.5]},
        "b": {"step": [9], "value": [-0.0], "time_us": [5]},
    }
    batch = bodies.metrics(body(series=series), "application/json", RECEIVED_US)
    (one,) = columns(batch)
    assert (batch.epoch, batch.source, batch.seq, batch.points) == (1, "sdk", 7, 3)
    assert one.names == ("a", "b")
    assert one.counts == (2, 1)
    assert one.steps().tolist() == [3, 1, 9]
    assert one.values().tolist() == [1.0, 2.5, -0.0]
    assert math.copysign(1, one.values()[2]) == -1
    assert one.times().tolist() == [RECEIVED_US, RECEIVED_US, 5]


def test_non_finite_numbers_are_kept() -> None:
    series = {"a": {"step": [1, 2, 3], "value": ["NaN", "Infinity", "-Infinity"]}}
    (one,) = columns(bodies.metrics(body(series=series), "application/json", RECEIVED_US))
    assert np.isnan(one.values()[0])
    assert one.values()[1:].tolist() == [math.inf, -math.inf]


def test_message_pack_carries_the_same() -> None:
    document = msgspec.json.decode(body())
    packed = msgspec.msgpack.encode(document)
    from_packed = bodies.metrics(packed, "application/msgpack", RECEIVED_US)
    assert from_packed == bodies.metrics(body(), "application/json", RECEIVED_US)


def test_a_repetition_is_the_same_request_whenever_it_is_received() -> None:
    series = {"a": {"step": [1], "value": [1.0]}}
    first = bodies.metrics(body(series=series), "", 1)
    again = bodies.metrics(body(series=series), "", 2)
    other = bodies.metrics(body(series={"a": {"step": [1], "value": [2.0]}}), "", 1)
    assert first.request == again.request
    assert first.request != other.request


def test_stages_are_one_for_the_batch_or_a_column() -> None:
    series = {
        "a": {"step": [1, 2], "value": [1.0, 2.0], "stage": ["warmup", None]},
        "b": {"step": [1], "value": [3.0]},
    }
    (one,) = columns(bodies.metrics(body(series=series, stage="epoch_1"), "", RECEIVED_US))
    indices = one.stage_indices()
    assert indices is not None
    assert [one.stages[index] for index in indices] == ["warmup", None, "epoch_1"]


def test_a_large_body_becomes_several_events_that_fit_and_lose_nothing() -> None:
    count = 1_000
    series = {
        f"{index:03d}/{'x' * 200}": {"step": list(range(count)), "value": [float(index)] * count} for index in range(60)
    }
    batch = bodies.metrics(body(series=series), "", RECEIVED_US)
    parts = columns(batch)
    assert len(parts) > 1
    assert all(len(unpacked(payload)) <= MAX_EVENT_BYTES for payload in batch.payloads)
    joined: dict[str, list[int]] = {}
    for part in parts:
        start = 0
        for name, length in zip(part.names, part.counts, strict=True):
            joined.setdefault(name, []).extend(part.steps()[start : start + length].tolist())
            start += length
    assert joined == {name: list(range(count)) for name in series}


@pytest.mark.parametrize(
    ("changes", "path", "limit"),
    [
        ({"series": {}}, "$.series", None),
        ({"series": {"a": {"step": [1, 2], "value": [1.0]}}}, "$.series['a'].value", None),
        ({"series": {"a": {"step": [1], "value": [1.0], "time_us": []}}}, "$.series['a'].time_us", None),
        ({"series": {"a": {"step": [1], "value": [1.0], "stage": []}}}, "$.series['a'].stage", None),
        ({"series": {"": {"step": [1], "value": [1.0]}}}, "$.series['']", 250),
        ({"series": {"é" * 126: {"step": [1], "value": [1.0]}}}, f"$.series['{'é' * 126}']", 250),
        ({"series": {"a\n": {"step": [1], "value": [1.0]}}}, "$.series['a\\n']", None),
        ({"series": {"a": {"step": [1 << 63], "value": [1.0]}}}, "$.series['a'].step", None),
        (
            {"series": {"a": {"step": list(range(100_001)), "value": [0.0] * 100_001}}},
            "$.series",
            batches.MAX_POINTS,
        ),
    ],
)
def test_what_cannot_be_is_refused_by_path_and_limit(changes: dict[str, Any], path: str, limit: int | None) -> None:
    with pytest.raises(Invalid) as refusal:
        bodies.metrics(body(**changes), "", RECEIVED_US)
    assert refusal.value.path == path
    assert refusal.value.limit == limit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq": 0}, "seq"),
        ({"seq": -1}, "seq"),
        ({"epoch": "1"}, "epoch"),
        ({"source": "a b"}, "source"),
        ({"source": "x" * 65}, "source"),
        ({"series": {"a": {"step": [1.5], "value": [1.0]}}}, "step"),
        ({"series": {"a": {"step": ["1"], "value": [1.0]}}}, "step"),
        ({"series": {"a": {"step": [1], "value": ["1"]}}}, "value"),
        ({"series": {"a": {"step": [1], "value": [None]}}}, "value"),
        ({"series": {"a": {"step": [1], "value": [1.0], "colour": 1}}}, "colour"),
        ({"sequence": 1}, "sequence"),
    ],
)
def test_wrong_types_are_refused_naming_the_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        bodies.metrics(body(**changes), "", RECEIVED_US)


def test_lines_become_columns_and_long_batches_several_events() -> None:
    lines = [{"text": f"{index} {'y' * 2_000}", "stream": "stderr", "time_us": index} for index in range(500)]
    batch = bodies.logs(msgspec.json.encode({"epoch": 1, "seq": 1, "lines": lines}), "", RECEIVED_US)
    assert batch.points == 500
    assert len(batch.payloads) > 1
    assert all(len(unpacked(payload)) <= MAX_EVENT_BYTES for payload in batch.payloads)
    parts = [decode(LOGS, PACKED, payload) for payload in batch.payloads]
    texts = [text for part in parts if isinstance(part, LogColumns) for text in part.text]
    assert texts == [line["text"] for line in lines]


def test_an_empty_batch_of_lines_is_refused() -> None:
    with pytest.raises(Invalid, match="at least one line"):
        bodies.logs(msgspec.json.encode({"epoch": 1, "seq": 1, "lines": []}), "", RECEIVED_US)


@pytest.mark.parametrize("time_us", [-1, RECEIVED_US + batches.MAX_AHEAD_US + 1, (1 << 63) - 1])
def test_a_clock_that_is_far_off_is_named(time_us: int) -> None:
    series = {
        "a": {"step": [1, 2], "value": [1, 2]},
        "b": {"step": [3, 4], "value": [3, 4], "time_us": [0, time_us]},
        "c": {"step": [5], "value": [5], "time_us": [RECEIVED_US]},
    }
    with pytest.raises(Invalid, match="clock is far off") as refused:
        bodies.metrics(body(series=series), "application/json", RECEIVED_US)
    assert refused.value.path == "$.series['b'].time_us"
    lines = {"epoch": 1, "seq": 1, "lines": [{"text": "x"}, {"text": "y", "time_us": time_us}]}
    with pytest.raises(Invalid, match="clock is far off"):
        bodies.logs(msgspec.json.encode(lines), "application/json", RECEIVED_US)


def test_telemetry_may_come_late_and_a_little_early() -> None:
    series = {"a": {"step": [1, 2], "value": [1, 2], "time_us": [0, RECEIVED_US + batches.MAX_AHEAD_US]}}
    assert bodies.metrics(body(series=series), "application/json", RECEIVED_US).points == 2
