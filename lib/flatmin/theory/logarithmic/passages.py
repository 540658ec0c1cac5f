"""First passages of a loss near a minimum: M22's model with discrete steps, and the tail of SGD itself."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from flatmin import _check
from flatmin.theory.logarithmic.multiplicative import kesten_exponent

__all__ = ["decoupled_passages", "kesten_tail"]

#: numbers beyond this have squares that exceed a double
_LARGE = 1e150


def decoupled_passages(
    curvatures, levels, *, eta: float, batch_size: int, steps: int, runs: int, seed: int = 0
) -> np.ndarray:
    """First steps at which L > c · L*, in M22's model with its steps kept discrete, (runs, C).

    A quadratic minimum and Gaussian noise of covariance 2LH/B (M22 Eq. 6): in units x_i = δ_i √(h_i/2L*) of a
    loss L = L*(1 + |x|²) a step does x_i ← (1 − ηh_i)x_i + ηh_i √((1 + |x|²)/B) ξ_i. −1 where a level is not
    reached within ``steps``; a run that diverges reaches them all.

    Raises ValueError for curvatures h_i (k,) that are not positive, levels c (C,) that do not increase from
    above 1, or other numbers out of range.
    """
    h = _check.array("curvatures", curvatures, ndim=1, above=0, most=_LARGE)
    levels = _check.array("levels", levels, ndim=1, above=1, most=_LARGE, increasing=True)
    eta = _check.number("eta", eta, above=0, most=_LARGE)
    batch_size = _check.integer("batch_size", batch_size, least=1)
    steps, runs = _check.integers(steps=steps, runs=runs, least=1, most=10**9)
    rng = np.random.default_rng(_check.integer("seed", seed, least=0))
    x, ratio, highest = np.zeros((runs, len(h))), np.ones(runs), np.ones(runs)
    passed, alive = np.full((runs, len(levels)), -1), np.arange(runs)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(1, steps + 1):
            noise = rng.standard_normal(x.shape) * np.sqrt(ratio / batch_size)[:, None]
            x += eta * h * (noise - x)
            ratio = np.nan_to_num(1 + np.square(x).sum(1), nan=np.inf, posinf=np.inf)
            for run in np.flatnonzero(ratio > highest):
                new = slice(*np.searchsorted(levels, [highest[run], ratio[run]]))
                passed[alive[run], new] = step
            highest = np.maximum(highest, ratio)
            kept = highest <= levels[-1]
            if not kept.all():
                x, ratio, highest, alive = x[kept], ratio[kept], highest[kept], alive[kept]
                if not len(alive):
                    break
    return passed


def kesten_tail(curvatures, eta: float, batch_size: int, draws: int = 200_000, seed: int = 0) -> float:
    """x with P(L > c) ∝ c^−x, and t_p ∝ c^x, for the recursion δ ← (1 − ηĥ)δ + noise along one direction v.

    ĥ, the mean over a batch drawn with replacement from the samples' ``curvatures`` (∇fᵢ·v)² ≥ 0, is the
    batch's own curvature; expectations are taken over so many ``draws`` of it. Kesten's theorem: P(|δ| > s) ∝
    s^−κ with E|1 − ηĥ|^κ = 1, and L − L* ∝ δ² gives x = κ/2. It is ∞ if no batch expands, 0 if E log|1 − ηĥ|
    ≥ 0: then there is no stationary state. Raises ValueError for numbers out of range.
    """
    values = _check.array("curvatures", curvatures, ndim=1, least=0, most=_LARGE)
    eta = _check.number("eta", eta, above=0, most=_LARGE)
    batch_size = _check.integer("batch_size", batch_size, least=1, most=10**6)
    draws = _check.integer("draws", draws, least=1, most=10**8)
    rng = np.random.default_rng(_check.integer("seed", seed, least=0))
    batch = np.zeros(draws)
    for _ in range(batch_size):
        batch += values[rng.integers(len(values), size=draws)]
    logs = np.log(np.maximum(np.abs(1 - eta * batch / batch_size), 1e-300))
    if logs.mean() >= 0:
        return 0.0
    if logs.max() <= 0:
        return np.inf
    return kesten_exponent(lambda kappa: logsumexp(kappa * logs) - np.log(draws)) / 2
