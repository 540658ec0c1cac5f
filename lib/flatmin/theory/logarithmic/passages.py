"""First passages of a loss near a minimum, in M22's model with discrete steps."""

from __future__ import annotations

import numpy as np

from flatmin import _check

__all__ = ["decoupled_passages"]

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
