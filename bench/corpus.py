"""The points that are logged here: curves as training makes them, float32 at their origin. The same ones every time."""

from collections.abc import Callable
from functools import cache
from typing import Any, Final
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from events.telemetry import MetricColumns

SEED: Final = 20_240_601
START_US: Final = 1_790_000_000_000_000
STEP_US: Final = 50_000

MEDIA: Final[dict[str, tuple[str, Callable[[Any], bytes]]]] = {
    "JSON": ("application/json", msgspec.json.encode),
    "MessagePack": ("application/msgpack", msgspec.msgpack.encode),
}
"""How a body can be written."""


def names(metrics: int) -> tuple[str, ...]:
    """Return names of metrics."""
    return tuple(f"train/block_{index}/loss" for index in range(metrics))


@cache
def curve(series: int, first_step: int, points: int) -> NDArray[np.float64]:
    """Return a part of a falling, noisy loss, float64[points]."""
    noise = np.random.default_rng((SEED, series, first_step)).standard_normal(points)
    steps = np.arange(first_step, first_step + points)
    return (2.3 / (1 + steps / 1e4) + 0.05 * noise).astype(np.float32).astype(np.float64)


def steps(first_step: int, points: int) -> NDArray[np.int64]:
    """Return consecutive steps, int64[points]."""
    return np.arange(first_step, first_step + points, dtype=np.int64)


def batch(metrics: int, first_step: int, points: int) -> MetricColumns:
    """Return a batch of `points` points of each metric."""
    step = steps(first_step, points)
    return MetricColumns(
        names=names(metrics),
        counts=(points,) * metrics,
        step=np.tile(step, metrics).tobytes(),
        value=np.concatenate([curve(series, first_step, points) for series in range(metrics)]).tobytes(),
        time_us=np.tile(START_US + step * STEP_US, metrics).tobytes(),
    )


def body(media: str, seq: int, metrics: int, first_step: int, points: int) -> bytes:
    """Return an HTTP body of `points` points of each metric, with their times."""
    step = steps(first_step, points)
    columns = {"step": step.tolist(), "time_us": (START_US + step * STEP_US).tolist()}
    series = {
        name: {**columns, "value": curve(index, first_step, points).tolist()}
        for index, name in enumerate(names(metrics))
    }
    return MEDIA[media][1]({"epoch": 1, "seq": seq, "series": series})


def rows(run_id: UUID, metrics: int, first_step: int, points: int) -> bytes:
    """Return the same points as COPY's text, one row a point: run, metric, step, time in microseconds, value."""
    step = steps(first_step, points).tolist()
    return "".join(
        f"{run_id}\t{name}\t{at}\t{START_US + at * STEP_US}\t{value!r}\n"
        for index, name in enumerate(names(metrics))
        for at, value in zip(step, curve(index, first_step, points).tolist(), strict=True)
    ).encode()
