"""The shapes that the metrics of training have: noise, spikes, plateaus, missing values, rare validations, hardware.

float32 at their origin, of a fixed seed: the same ones every time, whichever part is asked for first.
"""

from collections.abc import Callable
from functools import cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

SEED: Final = 20_240_601

Steps = NDArray[np.int64]
Values = NDArray[np.float64]
Chance = np.random.Generator


class Shape(msgspec.Struct, frozen=True):
    """A metric: its name, its values at steps (int64[n] → float64[n]), and at every how many steps it is logged."""

    name: str
    values: Callable[[Steps, Chance], Values]
    every: int = 1


def _falling(steps: Steps, chance: Chance) -> Values:
    return 2.3 / (1 + steps / 1e4) + 0.05 * chance.standard_normal(steps.size)


def _spiking(steps: Steps, chance: Chance) -> Values:
    spikes = (chance.random(steps.size) < 1e-3) * chance.exponential(5, steps.size)
    return _falling(steps, chance) * (1 + spikes)


def _saturating(steps: Steps, chance: Chance) -> Values:
    return np.clip(0.97 * (1 - np.exp(-steps / 2e4)) + 0.01 * chance.standard_normal(steps.size), 0, 1)


def _scheduled(steps: Steps, _: Chance) -> Values:
    return 3e-4 * np.minimum(1, (steps + 1) / 1e3) * 0.1 ** (steps // 30_000)


def _heavy(steps: Steps, chance: Chance) -> Values:
    return chance.lognormal(0, 0.8, steps.size)


def _overflowing(steps: Steps, chance: Chance) -> Values:
    values = _heavy(steps, chance)
    missing = chance.random(steps.size)
    values[missing < 2e-3] = np.nan
    values[missing < 5e-4] = np.inf
    return values


def _counted(steps: Steps, chance: Chance) -> Values:
    return np.round(1_200 + 40 * chance.standard_normal(steps.size))


def _busy(steps: Steps, chance: Chance) -> Values:
    return np.round(np.where(steps % 1_000 < 30, 5, 97) + chance.integers(-3, 4, steps.size))


def _filling(steps: Steps, _: Chance) -> Values:
    return np.float64(6e9) + np.float64(1e6) * (steps % 5_000)


def _warming(steps: Steps, chance: Chance) -> Values:
    return np.round(40 + 35 * (1 - np.exp(-steps / 500)) + chance.integers(0, 2, steps.size))


SHAPES: Final = (
    Shape("train/loss", _falling),
    Shape("train/loss_unclipped", _spiking),
    Shape("train/accuracy", _saturating),
    Shape("train/learning_rate", _scheduled),
    Shape("train/gradient_norm", _heavy),
    Shape("train/samples_per_second", _counted),
    Shape("system/gpu_utilisation_percent", _busy),
    Shape("system/gpu_memory_bytes", _filling),
    Shape("system/gpu_temperature_celsius", _warming),
    Shape("train/perplexity", lambda steps, chance: np.exp(_falling(steps, chance))),
    Shape("val/loss", _falling, every=100),
    Shape("train/gradient_norm_unscaled", _overflowing),
)
"""The first ten are logged at every step and have no missing values."""


def shape(series: int) -> Shape:
    """Return the shape of a series: they come again and again, with other noise."""
    return SHAPES[series % len(SHAPES)]


def names(metrics: int) -> tuple[str, ...]:
    """Return the names of the first series."""
    kinds = len(SHAPES)
    return tuple(f"{shape(n).name}{f'/{n // kinds}' if n >= kinds else ''}" for n in range(metrics))


def steps(series: int, first: int, points: int) -> Steps:
    """Return at which steps a series' points from the first-th on are, int64[points]."""
    return np.arange(first, first + points, dtype=np.int64) * shape(series).every


@cache
def curve(series: int, first: int, points: int) -> Values:
    """Return a series' values from the first-th on, float64[points]."""
    chance = np.random.default_rng((SEED, series, first))
    return shape(series).values(steps(series, first, points), chance).astype(np.float32).astype(np.float64)
