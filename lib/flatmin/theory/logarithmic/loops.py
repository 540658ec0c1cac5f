"""Compiled loops of small SGD problems beside the laws of the logarithmic landscape (M22)."""

from __future__ import annotations

import numpy as np
from numba import njit

from flatmin import _check

__all__ = ["both_clocks", "chain_density"]


def both_clocks(
    eta: float, temperature: float, runs: int, seed: int = 0, steps: int = 100_000_000
) -> np.ndarray:
    """First passages from x = −1 to x = 1 in L = 1/8 + (x² − 1)²/4 under noise of covariance 2LT/η (M22 §4).

    Returns (runs, 2): t = η × steps, and τ = Σ η L(x) on the way; NaN for a run that takes more than
    ``steps`` or diverges. Raises ValueError for an η or T that is not positive, or no runs.
    """
    eta, temperature = _check.numbers(eta=eta, temperature=temperature, above=0)
    runs, steps = _check.integers(runs=runs, steps=steps, least=1, most=10**12)
    kept = np.empty((runs, 2))
    _clocks(eta, temperature, steps, kept, np.random.default_rng(_check.integer("seed", seed, least=0)))
    return kept


@njit(cache=True)
def _clocks(eta, temperature, steps, kept, rng):  # pragma: no cover - compiled
    scale = np.sqrt(2 * eta * temperature)
    for run in range(len(kept)):
        x, t, tau, left = -1.0, 0.0, 0.0, steps
        while x < 1.0 and left > 0:
            loss = 0.125 + (x * x - 1) ** 2 / 4
            t += eta
            tau += eta * loss
            x += -eta * x * (x * x - 1) + scale * np.sqrt(loss) * rng.standard_normal()
            left -= 1
        kept[run] = (t, tau) if x >= 1.0 and np.isfinite(tau) else (np.nan, np.nan)


def chain_density(eta: float, squares, steps: int = 2_000_000, groups: int = 8, seed: int = 0) -> np.ndarray:
    """Density of θ by SGD with one fresh Gaussian sample a step, d = 1 (M22 §5.1), (groups, cells).

    In the cells between ``squares`` (cells + 1,) of θ², from ``steps`` steps after ten thousand in each of so
    many independent ``groups``; NaN for a run that diverged. Raises ValueError for numbers out of range.
    """
    eta = _check.number("eta", eta, above=0)
    steps = _check.integer("steps", steps, least=1, most=10**12)
    edges = _check.array("squares", squares, ndim=1, least=0, increasing=True)
    counts = np.zeros((_check.integer("groups", groups, least=1, most=10**6), len(edges) - 1))
    rngs = np.random.default_rng(_check.integer("seed", seed, least=0)).spawn(len(counts))
    for row, rng in zip(counts, rngs, strict=True):
        if not np.isfinite(_chain_counts(eta, steps, edges, row, rng)):
            row[:] = np.nan
    return counts / steps / (2 * np.diff(np.sqrt(edges)))


@njit(cache=True)
def _chain_counts(eta, steps, edges, counts, rng):  # pragma: no cover - compiled
    theta = 0.0
    for step in range(steps + 10_000):
        x = rng.standard_normal()
        theta -= eta * x * (x * theta - rng.standard_normal())
        if step >= 10_000:
            place = np.searchsorted(edges, theta * theta, side="right") - 1
            if 0 <= place < len(counts):
                counts[place] += 1
    return theta
