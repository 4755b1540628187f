"""Buckets by columns against a point at a time, however the points come in parts."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from projections.charts.buckets import Buckets, Points, Series, edges, joined, summarised

VALUES = st.sampled_from([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan, 1.7e308, -1.7e308, 5e-324]) | st.floats()
STEPS = st.integers(-4, 4) | st.integers(-(2**63), 2**63 - 1)
FLOATS = st.integers(-4, 4).map(float) | st.floats(allow_nan=False, allow_infinity=False)
INTEGER_POINTS = st.lists(st.tuples(STEPS, STEPS, VALUES), min_size=1, max_size=25)
FLOAT_POINTS = st.lists(st.tuples(FLOATS, STEPS, VALUES), min_size=1, max_size=25)
CUTS = st.lists(st.integers(0, 25), max_size=3)

Point = tuple[float, int, float]


def columns(points: list[Point], dtype: type[np.generic]) -> Points:
    x, step, value = ([point[column] for point in points] for column in range(3))
    return Points(np.array(x, dtype), np.array(step, np.int64), np.array(value, np.float64))


def in_parts(points: list[Point], cuts: list[int], dtype: type[np.generic]) -> list[Points]:
    at = [0, *sorted(min(cut, len(points)) for cut in cuts), len(points)]
    return [columns(points[low:high], dtype) for low, high in pairwise(at)]


def in_buckets(parts: list[Points], buckets: int) -> Series:
    """Summarise as large runs are: part by part."""
    points = joined(parts)
    streamed = Buckets(edges(points.x.min().item(), points.x.max().item(), buckets))
    for part in parts:
        streamed.add(part)
    return streamed.series("m")


def same(found: float, expected: float) -> bool:
    """Tell whether two numbers are one: NaN is NaN, and 0.0 is not -0.0."""
    return repr(float(found)) == repr(float(expected))


def check(series: Series, index: int, own: list[Point]) -> None:
    """Check a row against the points that it stands for, in order."""
    numbers = [value for *_, value in own if not math.isnan(value)]
    finite = [value for value in numbers if math.isfinite(value)]
    assert (series.x_first[index], series.x[index]) == (own[0][0], own[-1][0])
    assert same(series.first[index], own[0][2])
    assert same(series.last[index], own[-1][2])
    if numbers:
        assert (series.min[index], series.max[index]) == (min(numbers), max(numbers))
    else:
        assert math.isnan(series.min[index])
        assert math.isnan(series.max[index])
    if finite:
        exact = sum(map(Fraction, finite)) / len(finite)
        tolerance = sum(abs(Fraction(value)) for value in finite) / 10**12 + Fraction(1, 10**300)
        assert abs(Fraction(float(series.mean[index])) - exact) <= tolerance
    else:
        assert math.isnan(series.mean[index])
    values = [value for *_, value in own]
    assert series.count[index] == len(own)
    assert series.nan_count[index] == sum(map(math.isnan, values))
    assert series.posinf_count[index] == values.count(math.inf)
    assert series.neginf_count[index] == values.count(-math.inf)


def check_all(points: list[Point], series: Series, buckets: int, *, log: bool = False) -> None:
    in_order = sorted(points, key=lambda point: point[:2])
    assert series.points == len(points)
    assert series.sampled == (len(points) > buckets)
    rows = [[point] for point in in_order]
    if series.sampled:
        begins = edges(in_order[0][0], in_order[-1][0], buckets, log=log).tolist()
        bucket = [sum(x >= edge for edge in begins) for x, *_ in in_order]
        rows = [[one for one, at in zip(in_order, bucket, strict=True) if at == wanted] for wanted in sorted({*bucket})]
    assert len(series.x) == len(rows)
    for index, own in enumerate(rows):
        check(series, index, own)


@given(INTEGER_POINTS, CUTS, st.integers(1, 12))
def test_buckets_of_integers_say_what_single_points_would(points: list[Point], cuts: list[int], buckets: int) -> None:
    check_all(points, summarised("m", in_parts(points, cuts, np.int64), buckets), buckets)
    if len(points) > buckets:
        check_all(points, in_buckets(in_parts(points, cuts, np.int64), buckets), buckets)


@given(FLOAT_POINTS, CUTS, st.integers(1, 12))
def test_buckets_of_floats_say_what_single_points_would(points: list[Point], cuts: list[int], buckets: int) -> None:
    check_all(points, summarised("m", in_parts(points, cuts, np.float64), buckets), buckets)
    if len(points) > buckets:
        check_all(points, in_buckets(in_parts(points, cuts, np.float64), buckets), buckets)


@given(INTEGER_POINTS, FLOAT_POINTS, CUTS, st.integers(1, 12))
def test_logarithmic_buckets_say_what_single_points_would(
    integers: list[Point], floats: list[Point], cuts: list[int], buckets: int
) -> None:
    for points, dtype in ((integers, np.int64), (floats, np.float64)):
        positive = [point for point in points if point[0] > 0]
        series = summarised("m", in_parts(positive, cuts, dtype), buckets, log=True)
        if positive:
            check_all(positive, series, buckets, log=True)
        else:
            assert series.points == 0


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(1, 50))
@example(2**63 - 49, 2**63 - 1, 50)
def test_linear_buckets_of_integers_differ_by_one_at_most(one: int, other: int, buckets: int) -> None:
    low, high = sorted((one, other))
    begins = [low, *edges(low, high, buckets).tolist(), high + 1]
    sizes = [after - before for before, after in pairwise(begins)]
    assert sum(sizes) == high - low + 1
    assert max(sizes) - min(sizes) <= 1


@given(FLOATS, FLOATS, st.integers(2, 50))
def test_edges_of_floats_rise_and_stay_inside(one: float, other: float, buckets: int) -> None:
    low, high = sorted((one, other))
    begins = edges(low, high, buckets)
    assert (np.diff(begins) >= 0).all()
    assert np.isfinite(begins).all()


@given(st.integers(1, 2**63 - 1), st.integers(0, 4_000), st.integers(2, 300), st.sampled_from([1, 1.0, 1e-200]))
@example(2**53 + 1, 3_000, 1_000, 1)
def test_logarithmic_edges_rise_and_stay_inside(low: int, span: int, buckets: int, unit: float) -> None:
    high = min(low + span, 2**63 - 1)
    begins = edges(low * unit, high * unit, buckets, log=True).tolist()
    assert begins == sorted(begins)
    assert low * unit <= begins[0]
    assert begins[-1] <= high * unit


def test_nothing_joined_is_nothing() -> None:
    assert len(joined([])) == 0
