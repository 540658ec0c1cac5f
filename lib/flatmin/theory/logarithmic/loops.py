"""Compiled loops of small SGD problems beside the laws of the logarithmic landscape (M22)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from flatmin import _check
from flatmin.theory.sgd.rng import seed_lanes, standard_normals, stream_key

__all__ = ["Walkers", "both_clocks", "chain_density", "regression_walkers"]

#: a walker with a coordinate beyond this is lost, as in :func:`~flatmin.theory.sgd.simulate.simulate`
BOUND = 1000.0


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


class Walkers(NamedTuple):
    """What :func:`regression_walkers` returns, for all runs.

    Attributes
    ----------
    theta : (runs, d) array
        θ after the last step; of a run that was lost its last within bounds.
    passed : (runs, C) array
        First steps with a loss beyond each level, 0 where there is none; a run that is lost passes them all.
    diverged : (runs,) array
        Which runs were lost.
    """

    theta: np.ndarray
    passed: np.ndarray
    diverged: np.ndarray


def regression_walkers(eta, batch_size, dimension, ratios, *, steps, runs, seed=0) -> Walkers:
    """SGD for linear regression on pure noise, B fresh Gaussian samples a step, from the minimum (M22 §5.3).

    Inputs x ∈ ℝᵈ and labels y are standard normal, θ ← θ − (η/B) Σ x (x·θ − y), and L/L* = 1 + |θ|²: the runs
    whose law :class:`~.multiplicative.RegressionChain` has. Each run draws from a stream of its own, so that
    the explorer of chapter 6 takes the same steps bit for bit.

    Parameters
    ----------
    eta : float
        Learning rate, positive.
    batch_size, dimension : int
        B and d.
    ratios : (C,) array
        Levels c > 1 that increase: when does L first exceed c·L*?
    steps, runs, seed : int
        How long and how many; the streams follow from the seed.

    Raises
    ------
    ValueError
        For numbers out of range.
    """
    eta = _check.number("eta", eta, above=0, most=1e100)
    batch_size, dimension = _check.integers(batch_size=batch_size, dimension=dimension, least=1, most=10_000)
    ratios = _check.array("ratios", ratios, ndim=1, above=1, most=1e100, increasing=True)
    steps = _check.integer("steps", steps, least=0, most=10**12)
    runs = _check.integer("runs", runs, least=1, most=10**6)
    theta, passed = np.zeros((runs, dimension)), np.zeros((runs, len(ratios)), np.int64)
    lost = np.zeros(runs, np.bool_)
    _regress(eta / batch_size, batch_size, ratios, steps, theta, passed, lost, stream_key(seed))
    return Walkers(theta, passed, lost)


@njit(cache=True)
def _regress(share, batch, ratios, steps, theta, passed, lost, key):  # pragma: no cover - compiled
    runs, dimension = theta.shape
    state, new = np.empty((4, runs), np.uint32), np.empty(dimension)
    seed_lanes(key, np.arange(runs), state[0], state[1], state[2], state[3])
    count, level = batch * (dimension + 1), np.zeros(runs, np.int64)
    z = np.empty((count + count % 2, runs), np.float32)  # of each sample its inputs, then its label
    for step in range(1, steps + 1):
        for k in range(0, count, 2):
            standard_normals(state[0], state[1], state[2], state[3], z[k], z[k + 1])
        for i in range(runs):
            if lost[i]:
                continue
            new[:] = 0.0
            for first in range(0, count, dimension + 1):
                error = -np.float64(z[first + dimension, i])
                for a in range(dimension):
                    error += z[first + a, i] * theta[i, a]
                for a in range(dimension):
                    new[a] += error * z[first + a, i]
            ratio = 1.0
            for a in range(dimension):
                new[a] = theta[i, a] - share * new[a]
                lost[i] |= not abs(new[a]) <= BOUND
                ratio += new[a] * new[a]
            if not lost[i]:
                theta[i] = new
            while level[i] < len(ratios) and (lost[i] or ratio > ratios[level[i]]):
                passed[i, level[i]] = step
                level[i] += 1
