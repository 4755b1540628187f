"""Summaries by columns against a point at a time."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from projections.metrics import summarise

VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 2.5]) | st.floats()
POINTS = st.tuples(st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1), VALUES, st.integers(-(2**63), 2**63 - 1))
SERIES = st.lists(st.tuples(st.integers(0, 3), st.lists(POINTS, max_size=5)), max_size=6)

Point = tuple[int, float, int]


def one_at_a_time(points: list[Point]) -> list[object]:
    last = max(enumerate(points), key=lambda item: (item[1][0], item[0]))[1]
    numbers = [point for point in points if not math.isnan(point[1])]
    least = min(numbers, key=lambda point: (point[1], point[0]), default=(None, None))
    most = min(numbers, key=lambda point: (-point[1], point[0]), default=(None, None))
    return [
        len(points),
        len(points) - len(numbers),
        min(step for step, *_ in points),
        last[0],
        last[1],
        last[2],
        least[1],
        least[0],
        most[1],
        most[0],
    ]


@given(SERIES)
def test_columns_say_what_single_points_would(series: list[tuple[int, list[Point]]]) -> None:
    points = [point for _, own in series for point in own]
    if not points:
        return
    groups, columns = summarise(
        np.array([group for group, _ in series], np.int64),
        np.array([len(own) for _, own in series], np.int64),
        np.array([step for step, _, _ in points], np.int64),
        np.array([value for _, value, _ in points], np.float64),
        np.array([time_us for _, _, time_us in points], np.int64),
    )
    expected: dict[int, list[Point]] = {}
    for group, own in series:
        expected.setdefault(group, []).extend(own)
    expected = {group: own for group, own in expected.items() if own}
    assert groups == sorted(expected)
    for index, group in enumerate(groups):
        found = [column[index] for column in columns]
        assert repr(found) == repr(one_at_a_time(expected[group]))  # tells -0.0 from 0.0 and takes NaN for NaN
