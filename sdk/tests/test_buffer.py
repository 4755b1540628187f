"""What `log` takes, refuses and counts."""

import math
import threading

import numpy as np
import pytest

from tachograph._buffer import Buffer
from tachograph._encoding import MAX_POINTS

MIB = 1 << 20


@pytest.fixture
def buffer() -> Buffer:
    return Buffer(8 * MIB)


def columns(buffer: Buffer) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for chunk in buffer.take().chunks:
        for rows in chunk:
            for index, name in enumerate(rows.names):
                values = rows.values[index :: len(rows.names)]
                found.setdefault(name, []).extend(zip(rows.steps, values, strict=True))
    return found


def test_rows_become_columns_and_the_step_counts_on(buffer):
    buffer.add({"loss": 1.0, "acc": 0.5}, None, None)
    buffer.add({"loss": 0.5, "acc": 0.6}, 10, None)
    buffer.add({"loss": 0.25, "acc": 0.7}, None, None)
    assert columns(buffer) == {
        "loss": [(1, 1.0), (10, 0.5), (11, 0.25)],
        "acc": [(1, 0.5), (10, 0.6), (11, 0.7)],
    }
    assert not columns(buffer)


@pytest.mark.parametrize(
    "value", [1, True, 1.0, np.float32(1), np.float64(1), np.int64(1), np.bool_(True), np.array(1.0)]
)
def test_whatever_float_takes_is_a_number(buffer, value):
    buffer.add({"x": value}, None, None)
    assert columns(buffer) == {"x": [(1, 1.0)]}


def test_what_is_not_finite_is_kept(buffer):
    buffer.add({"a": math.nan, "b": math.inf, "c": -math.inf}, None, None)
    found = columns(buffer)
    assert math.isnan(found["a"][0][1])
    assert (found["b"], found["c"]) == ([(1, math.inf)], [(1, -math.inf)])


@pytest.mark.parametrize(
    "bad",
    ["1.0", b"1", None, 1j, [1.0], {"x": 1.0}, np.array([1.0, 2.0]), object()],
    ids=lambda bad: type(bad).__name__,
)
def test_a_value_that_is_no_number_is_named_and_nothing_is_kept(buffer, bad):
    buffer.add({"good": 1.0, "poor": 1.0}, None, None)
    with pytest.raises(TypeError, match="'poor' must be a number"):
        buffer.add({"good": 2.0, "poor": bad}, None, None)
    buffer.add({"good": 3.0, "poor": 3.0}, None, None)
    assert columns(buffer) == {"good": [(1, 1.0), (2, 3.0)], "poor": [(1, 1.0), (2, 3.0)]}


def test_an_integer_beyond_what_a_float_holds_is_named(buffer):
    with pytest.raises(ValueError, match="'poor' must fit a float"):
        buffer.add({"good": 2.0, "poor": 10**400}, None, None)
    assert not columns(buffer)


@pytest.mark.parametrize(("name", "error"), [(1, TypeError), ("", ValueError), ("x" * 251, ValueError)])
@pytest.mark.parametrize("where", ["name", "stage"])
def test_names_and_stages_have_bounds(buffer, name, error, where):
    with pytest.raises(error):
        buffer.add({name: 1.0} if where == "name" else {"x": 1.0}, None, None if where == "name" else name)
    assert not columns(buffer)


def test_control_characters_and_broken_unicode_are_refused(buffer):
    for name in ("a\nb", "a\x7f", "\ud800"):
        with pytest.raises(ValueError, match="a metric's name"):
            buffer.add({name: 1.0}, None, None)


def test_a_step_beyond_64_bits_is_refused_whole(buffer):
    with pytest.raises(ValueError, match="64 bits"):
        buffer.add({"x": 1.0}, 2**63, None)
    buffer.add({"x": 1.0}, None, None)
    assert columns(buffer) == {"x": [(1, 1.0)]}


def test_threads_lose_nothing(buffer):
    def log(thread: int) -> None:
        for number in range(2_000):
            buffer.add({f"m{thread}": number, "shared": 1.0}, number, "train" if thread % 2 else None)

    threads = [threading.Thread(target=log, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = columns(buffer)
    assert len(found.pop("shared")) == 8_000
    assert found == {f"m{thread}": [(n, float(n)) for n in range(2_000)] for thread in range(4)}
    assert buffer.points_logged == 16_000


def test_a_whole_batch_is_urgent(buffer):
    buffer.add({"x": 1.0}, None, None)
    assert buffer.wake.is_set()
    assert not buffer.urgent.is_set()
    for _ in range(MAX_POINTS - 1):
        buffer.add({"x": 1.0}, None, None)
    assert buffer.urgent.is_set()
    taken = buffer.take()
    assert [sum(len(rows.times) for rows in chunk) for chunk in taken.chunks] == [MAX_POINTS]


def test_past_the_bound_the_newest_are_dropped_and_counted():
    buffer = Buffer(3 * MAX_POINTS * 10)
    for number in range(5 * MAX_POINTS):
        buffer.add({"x": float(number)}, number, None)
    kept = columns(buffer)["x"]
    assert buffer.points_dropped + len(kept) == 5 * MAX_POINTS == buffer.points_logged
    assert len(kept) == 3 * MAX_POINTS
    assert kept == [(number, float(number)) for number in range(3 * MAX_POINTS)]


def test_lines_past_the_bound_are_dropped_and_counted():
    buffer = Buffer(10_000)
    for _ in range(12):
        buffer.add_lines("log", ["x" * 900])
    assert buffer.lines_dropped == 2
    assert len(buffer.take().lines) == 10


def test_changes_are_merged_until_they_are_taken(buffer):
    buffer.change("summary", {"a": 1, "deep": {"x": 1, "y": 2}})
    buffer.change("summary", {"a": None, "deep": {"x": None}})
    buffer.change("config", {"lr": 0.1})
    buffer.set_progress({"done": 1.0})
    buffer.set_progress({"done": 2.0})
    taken = buffer.take()
    assert taken.patches == [{"summary": {"a": None, "deep": {"x": None, "y": 2}}, "config": {"lr": 0.1}}]
    assert taken.progress == {"done": 2.0}


def test_changes_that_no_single_patch_can_express_stay_apart(buffer):
    buffer.change("summary", {"a": 1})
    buffer.change("summary", {"a": {"b": 2}})
    assert buffer.take().patches == [{"summary": {"a": 1}}, {"summary": {"a": {"b": 2}}}]
