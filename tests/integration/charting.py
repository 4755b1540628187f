"""What the tests of charts share: batches of odd points, and what a chart of them says."""

import random

import numpy as np

from events.telemetry import MetricColumns
from projections.charts.buckets import Series
from tests.integration.telemetry import TIME_US

NAN, INF = float("nan"), float("inf")
FIELDS = [name for name in Series.__struct_fields__ if name not in ("metric", "sampled", "points", "left_out", "mean")]

Row = tuple[int, int, float, str | None]
"""Step, time in microseconds, value, stage; in order of arrival."""


def assert_same(one: Series, other: Series) -> None:
    assert (one.metric, one.sampled, one.points) == (other.metric, other.sampled, other.points)
    assert one.left_out == other.left_out
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-12, atol=1e-12)


def random_batch(choice: random.Random, metrics: list[str]) -> tuple[MetricColumns, dict[str, list[Row]]]:
    chosen = choice.sample(metrics, choice.randint(1, len(metrics)))
    staged = choice.random() < 0.5
    stages = (None, "warmup", "main")
    rows: dict[str, list[Row]] = {}
    start = choice.randint(-50, 500)
    for metric in chosen:
        steps = [start + choice.choice((index, -index, 0)) for index in range(choice.randint(1, 40))]
        rows[metric] = [
            (
                step,
                TIME_US + choice.randint(0, 300),
                choice.choice((choice.gauss(0, 1), choice.gauss(0, 1), NAN, INF, -INF, 0.0)),
                choice.choice(stages) if staged else None,
            )
            for step in steps
        ]
    every = [row for own in rows.values() for row in own]
    batch = MetricColumns(
        names=tuple(rows),
        counts=tuple(len(own) for own in rows.values()),
        step=np.array([row[0] for row in every], "<i8").tobytes(),
        time_us=np.array([row[1] for row in every], "<i8").tobytes(),
        value=np.array([row[2] for row in every], "<f8").tobytes(),
        stages=stages if staged else (),
        stage=np.array([stages.index(row[3]) for row in every], "<u2").tobytes() if staged else None,
    )
    return batch, rows


def expected_points(
    rows: list[Row], x: str, low: float | None, high: float | None, stage: str | None, origin_us: int
) -> list[tuple[float, float]]:
    """Return (x, value) in the order that a chart promises: x, step, arrival."""

    def of(row: Row) -> float:
        return row[0] if x == "step" else row[1] if x == "time" else (row[1] - origin_us) / 1e6

    kept = [
        row
        for row in rows
        if (low is None or of(row) >= low) and (high is None or of(row) <= high) and stage in (None, row[3])
    ]
    return [(of(row), row[2]) for row in sorted(kept, key=lambda row: (of(row), row[0]))]
