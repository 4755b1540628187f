"""Smoothing against its formulas, row by row."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.charts.questions import ChartRefused
from projections.charts.smoothing import SIGMAS, THOUSAND, Smoother, Smoothing, parsed

Row = tuple[float, float, int]

VALUES = st.floats(-1e6, 1e6) | st.just(math.nan)
ROWS = st.lists(st.tuples(st.integers(-50, 50).map(float), VALUES, st.integers(0, 5)), max_size=30).map(
    lambda rows: sorted(rows, key=lambda row: row[0])
)
AMOUNTS = {"ema": st.floats(0.01, 0.999), "gaussian": st.floats(0.1, 50), "mean": st.floats(0.1, 200)}
ASKED = st.sampled_from(sorted(AMOUNTS)).flatmap(lambda kind: AMOUNTS[kind].map(lambda amount: Smoothing(kind, amount)))


def by_formula(rows: list[Row], asked: Smoothing) -> list[float]:
    """Smooth as the formulas say, which the rows' order and weights are put into."""
    there = [row for row in rows if math.isfinite(row[1]) and row[2]]
    found: dict[int, float] = {}
    total = weights = 0.0
    for index, (u, m, w) in enumerate(there):
        if asked.kind == "ema":
            span = there[-1][0] - there[0][0]
            decay = asked.amount ** (THOUSAND * (u - there[index - 1][0]) / span) if index and span else 1.0
            total, weights = decay * total + w * m, decay * weights + w
        else:
            sigma = asked.amount
            reach = SIGMAS * sigma if asked.kind == "gaussian" else asked.amount / 2
            near = [row for row in there if abs(u - row[0]) <= reach]
            share = [
                row[2] * (math.exp(-((u - row[0]) ** 2) / (2 * sigma**2)) if asked.kind == "gaussian" else 1)
                for row in near
            ]
            total = sum(k * row[1] for k, row in zip(share, near, strict=True))
            weights = sum(share)
        found[index] = total / weights
    numbers = iter(found.values())
    return [next(numbers) if math.isfinite(m) and w else math.nan for _, m, w in rows]


@given(ROWS, ASKED)
def test_curves_are_smoothed_by_their_formula(rows: list[Row], asked: Smoothing) -> None:
    u, m, w = (np.array([row[column] for row in rows], np.float64) for column in range(3))
    found = Smoother(asked).smooth(u, m, w)
    np.testing.assert_allclose(found, by_formula(rows, asked), rtol=1e-9, atol=1e-6)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20), ASKED)
def test_smoothed_values_never_leave_the_range_of_the_values(values: list[float], asked: Smoothing) -> None:
    found = Smoother(asked).smooth(np.arange(len(values)), np.array(values), np.ones(len(values)))
    slack = 1e-9 * max(map(abs, values))
    assert min(values) - slack <= found.min()
    assert found.max() <= max(values) + slack


@given(ASKED, st.integers(1, 9), st.floats(-10, 10))
def test_what_is_level_stays_level(asked: Smoothing, weight: int, value: float) -> None:
    found = Smoother(asked).smooth(np.arange(40), np.full(40, value), np.full(40, weight))
    np.testing.assert_allclose(found, value, rtol=1e-12)


@pytest.mark.parametrize("kind", ["gaussian", "mean"])
def test_many_rows_are_smoothed_in_blocks_as_few_are(kind: str) -> None:
    rng = np.random.default_rng(1)
    u, m, w = np.sort(rng.uniform(0, 100, 4_000)), rng.standard_normal(4_000), rng.integers(1, 9, 4_000)
    found = Smoother(Smoothing(kind, 20.0)).smooth(u, m, w)
    some = rng.integers(0, 4_000, 20)
    for index in some:
        away = np.abs(u[index] - u)
        share = w * np.exp(-0.5 * (away / 20) ** 2) * (away <= 80) if kind == "gaussian" else w * (away <= 10)
        assert found[index] == pytest.approx((share @ m) / share.sum(), abs=1e-12)


def test_smoothing_is_bounded_over_all_curves_of_a_chart() -> None:
    smoother = Smoother(Smoothing("gaussian", 1e9))
    columns = np.arange(7_000), np.zeros(7_000), np.ones(7_000)
    smoother.smooth(*columns)
    smoother.smooth(*columns)
    with pytest.raises(ChartRefused) as refused:
        smoother.smooth(*columns)
    assert (refused.value.path, refused.value.limit) == ("smooth", 100_000_000)


@pytest.mark.parametrize(
    "text", ["", "ema", "ema:", "ema:0", "ema:1", "ema:-1", "ema:nan", "gaussian:0", "gaussian:inf", "mean:x", "box:3"]
)
def test_what_is_no_smoothing_is_refused(text: str) -> None:
    with pytest.raises(ChartRefused) as refused:
        parsed(text)
    assert refused.value.path == "smooth"


def test_a_smoothing_is_read() -> None:
    assert parsed("ema:0.9") == Smoothing("ema", 0.9)
    assert parsed("gaussian:2e3") == Smoothing("gaussian", 2_000.0)
