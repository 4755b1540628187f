"""Columns to bodies, and values of any kind to JSON."""

import dataclasses
import enum
import math
import struct
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tachograph._encoding import (
    MAX_LINES,
    MAX_POINTS,
    MAX_TEXT,
    Line,
    LogsBody,
    MetricsBody,
    Rows,
    composable,
    encode,
    finite_or_named,
    line_batches,
    merge,
    metric_bodies,
    numbers,
    plain,
)


def rows(names: tuple[str, ...], *points: tuple[int, int, tuple[float, ...]], stage: str | None = None) -> Rows:
    group = Rows(names, stage)
    for time_us, step, values in points:
        group.times.append(time_us)
        group.steps.append(step)
        group.values.extend(values)
    return group


def decoded(chunk: list[Rows]) -> list[dict]:
    return [
        msgspec.msgpack.decode(encode(MetricsBody(1, "sdk", 7, series, stage)))
        for _, series, stage in metric_bodies(chunk, pause=False)
    ]


def test_a_body_holds_columns():
    (body,) = decoded([rows(("loss", "acc"), (1000, 1, (0.5, 0.9)), (2000, 2, (0.25, 0.95)))])
    assert body == {
        "epoch": 1,
        "source": "sdk",
        "seq": 7,
        "series": {
            "loss": {"step": [1, 2], "value": [0.5, 0.25], "time_us": [1000, 2000]},
            "acc": {"step": [1, 2], "value": [0.9, 0.95], "time_us": [1000, 2000]},
        },
    }


@given(st.floats())
def test_every_float_arrives_bit_for_bit(value):
    (body,) = decoded([rows(("x",), (1, 1, (value,)))])
    (arrived,) = body["series"]["x"]["value"]
    assert struct.pack("<d", arrived) == struct.pack("<d", value)


def test_one_stage_is_said_once_and_several_are_a_column():
    train, val = rows(("x",), (1, 1, (1.0,)), stage="train"), rows(("x",), (2, 1, (2.0,)), stage="val")
    plain_rows = rows(("y",), (3, 1, (3.0,)))
    (body,) = decoded([train])
    assert body["stage"] == "train"
    assert "stage" not in body["series"]["x"]
    (body,) = decoded([val, train, plain_rows])
    assert "stage" not in body
    assert body["series"]["x"] == {"step": [1, 1], "value": [1.0, 2.0], "time_us": [1, 2], "stage": ["train", "val"]}
    assert body["series"]["y"]["stage"] == [None]


def test_points_of_one_name_from_several_rows_keep_the_order_of_their_time():
    alone, together = (
        rows(("a",), (2, 2, (2.0,)), (4, 4, (4.0,))),
        rows(("a", "b"), (1, 1, (1.0, 0.1)), (3, 3, (3.0, 0.3))),
    )
    (body,) = decoded([alone, together])
    assert body["series"]["a"]["step"] == [1, 2, 3, 4]
    assert body["series"]["a"]["value"] == [1.0, 2.0, 3.0, 4.0]


def test_very_many_names_at_once_become_several_bodies():
    names = tuple(f"m/{number}" for number in range(2 * MAX_POINTS + 5))
    chunk = [rows(names, (1, 1, tuple(float(n) for n in range(len(names)))))]
    bodies = decoded(chunk)
    assert [len(body["series"]) for body in bodies] == [MAX_POINTS, MAX_POINTS, 5]
    assert [name for body in bodies for name in body["series"]] == list(names)


def test_rows_without_points_leave_no_trace():
    assert decoded([rows(("x",))]) == []


def test_lines_are_cut_into_batches():
    lines = [Line(n, "log", "x" * 1000) for n in range(MAX_TEXT // 1000 + 10)]
    batches = list(line_batches(lines))
    assert [line for batch in batches for line in batch] == lines
    assert len(batches) == 2
    assert [len(batch) for batch in line_batches([Line(1, "log", "")] * (MAX_LINES + 1))] == [MAX_LINES, 1]
    body = msgspec.msgpack.decode(encode(LogsBody(1, "sdk", 1, [Line(5, "log", "hé\0")])))
    assert body["lines"] == [{"time_us": 5, "stream": "log", "text": "hé\0"}]


def test_json_gets_names_for_what_it_cannot_hold():
    assert finite_or_named([1.0, math.nan, math.inf, -math.inf]) == [1.0, "NaN", "Infinity", "-Infinity"]
    assert [str(n) for n in numbers([1, "NaN", "-Infinity"])] == ["1.0", "nan", "-inf"]


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Settings:
    lr: float
    layers: tuple[int, ...]


def test_plain_takes_what_configurations_are_made_of():
    value = {
        "settings": Settings(math.nan, (1, 2)),
        "colour": Colour.RED,
        "path": Path("/data"),
        "numpy": [np.float32(0.5), np.int64(3), np.array([1.0, math.inf])],
        "none": None,
        "set": {1},
    }
    assert plain(value, "config") == {
        "settings": {"lr": "NaN", "layers": [1, 2]},
        "colour": "red",
        "path": str(PurePosixPath("/data")),
        "numpy": [0.5, 3, [1.0, "Infinity"]],
        "none": None,
        "set": [1],
    }


@pytest.mark.parametrize(
    ("value", "where"),
    [({"a": {"b": object()}}, r"config\.a\.b"), ({"a": [1, 2j]}, r"config\.a\[1\]"), ({1: 2}, "config")],
)
def test_plain_names_the_place_of_what_it_cannot_take(value, where):
    with pytest.raises(TypeError, match=where):
        plain(value, "config")


values = st.recursive(
    st.none() | st.sampled_from([1, "x"]),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
patches = st.dictionaries(st.sampled_from("abc"), values, max_size=3)


def applied(document: dict, *changes: dict) -> dict:
    result: dict = {}
    merge(result, document, keep_null=False)
    for change in changes:
        merge(result, change, keep_null=False)
    return result


@given(patches, patches, patches)
def test_two_patches_merged_do_what_they_do_one_after_the_other(document, first, second):
    assume(composable(first, second))
    both: dict = {}
    merge(both, first, keep_null=True)
    merge(both, second, keep_null=True)
    assert applied(document, both) == applied(document, first, second)
