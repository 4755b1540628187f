"""Smoothed curves: each row's value drawn towards its neighbours', by their distance in x. Pure numpy.

n rows have coordinates u (x, or its logarithm to base 10 on a logarithmic axis) in order, values m (the means), and
weights w (how many finite numbers each mean is of, so that a curve in buckets is smoothed as its points would be). Rows
without a finite number are left out, and stay NaN.

ema:a       0 < a < 1. Time-weighted exponential moving average with debiasing: over a thousandth of the range that is
            shown an old value loses the share 1 - a of its weight, however many rows lie there.
                d_i = a ** (1000 (u_i - u_{i-1}) / (u_n - u_1))
                W_i = d_i W_{i-1} + w_i          S_i = d_i S_{i-1} + w_i m_i          smoothed_i = S_i / W_i
gaussian:σ  σ > 0, in the unit of u. With k_ij = w_j exp(-(u_i - u_j)² / 2σ²) over all rows within 4σ,
                smoothed_i = Σ_j k_ij m_j / Σ_j k_ij
mean:h      h > 0, in the unit of u. The running mean: as before, with k_ij = w_j where |u_i - u_j| ≤ h / 2, else 0.
"""

from math import inf
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from projections.charts.questions import ChartRefused

Floats = NDArray[np.float64]

THOUSAND: Final = 1_000
SIGMAS: Final = 4
MAX_PAIRS: Final = 100_000_000
"""So many pairs of rows are looked at for one chart."""
_BLOCK_PAIRS: Final = 1 << 20


class Smoothing(msgspec.Struct, frozen=True):
    """What is asked for: `ema`, `gaussian` or `mean`, and how much of it."""

    kind: str
    amount: float


def parsed(text: str) -> Smoothing:
    """Return what a text such as ema:0.9 asks for. Raises `ChartRefused`."""
    kind, _, amount = text.partition(":")
    try:
        smoothing = Smoothing(kind, float(amount))
    except ValueError:
        smoothing = Smoothing("", 0)
    bound = {"ema": 1.0, "gaussian": inf, "mean": inf}.get(smoothing.kind, 0.0)
    if not 0 < smoothing.amount < bound:
        detail = "smoothing is ema:a with 0 < a < 1, gaussian:σ or mean:h with a number above 0 in x's unit"
        raise ChartRefused(detail, path="smooth")
    return smoothing


class Smoother:
    """Smooths the curves of one chart, and bounds what that takes."""

    def __init__(self, smoothing: Smoothing) -> None:
        self._smoothing = smoothing
        self._pairs = 0

    def smooth(self, u: Any, mean: Floats, weight: Any) -> Floats:
        """Return the smoothed values, float64[n]. Raises `ChartRefused` past `MAX_PAIRS`."""
        there = np.isfinite(mean) & (weight > 0)
        smoothed = np.full(len(mean), np.nan)
        u, m, w = np.asarray(u, np.float64)[there], mean[there], np.asarray(weight, np.float64)[there]
        if not len(m):
            return smoothed
        match self._smoothing.kind:
            case "ema":
                smoothed[there] = ema(u, m, w, self._smoothing.amount)
            case "gaussian":
                smoothed[there] = self._kernel(u, m, w, SIGMAS * self._smoothing.amount, self._smoothing.amount)
            case _:
                smoothed[there] = self._kernel(u, m, w, self._smoothing.amount / 2, None)
        return smoothed

    def _kernel(self, u: Floats, m: Floats, w: Floats, reach: float, sigma: float | None) -> Floats:
        begin, end = np.searchsorted(u, u - reach, "left"), np.searchsorted(u, u + reach, "right")
        self._pairs += int((end - begin).sum())
        if self._pairs > MAX_PAIRS:
            detail = f"{self._smoothing.kind} smoothing over so wide a range looks at over {MAX_PAIRS:,} pairs of rows"
            raise ChartRefused(f"{detail}; ask for fewer buckets, or for less", path="smooth", limit=MAX_PAIRS)
        smoothed = np.empty(len(m))
        first = 0
        while first < len(m):
            rows = max(1, min(len(m) - first, _BLOCK_PAIRS // int(end[first] - begin[first])))
            while rows > 1 and rows * int(end[first + rows - 1] - begin[first]) > 2 * _BLOCK_PAIRS:
                rows //= 2
            own, near = slice(first, first + rows), slice(int(begin[first]), int(end[first + rows - 1]))
            away = np.abs(u[own, None] - u[None, near])
            share = np.where(away <= reach, w[None, near], 0.0)
            if sigma is not None:
                share *= np.exp(-0.5 * np.square(away / sigma))
            share /= share.sum(axis=1, keepdims=True)
            smoothed[own] = share @ m[near]
            first += rows
        return np.clip(smoothed, m.min(), m.max())


def ema(u: Floats, m: Floats, w: Floats, a: float) -> Floats:
    """Return the time-weighted moving average of n > 0 rows, float64[n]."""
    span = u[-1] - u[0]
    decay = a ** (THOUSAND * np.diff(u) / span) if span > 0 else np.ones(len(u) - 1)
    smoothed = [m[0].item()]
    total = w[0].item()
    for d, value, weight in zip(decay.tolist(), m[1:].tolist(), w[1:].tolist(), strict=True):
        total = d * total + weight
        part = weight / total
        smoothed.append(smoothed[-1] * (1 - part) + value * part)  # S and W themselves would overflow sooner
    return np.array(smoothed)
