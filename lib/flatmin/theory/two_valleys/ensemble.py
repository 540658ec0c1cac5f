"""Ensembles of the two valleys from the paper's start (Y26 Fig. 3): where they end and when they froze."""

from __future__ import annotations

import numpy as np

from flatmin import _check
from flatmin.estimate import proportion
from flatmin.theory.noise import Noise
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.two_valleys.landscape import PAPER, two_valleys

__all__ = ["SEED", "START_X", "START_Y", "alternating", "run_grid"]

#: start of the paper's runs: y = 5, x alternating between the two sides of the ridge
START_Y, START_X = 5.0, 0.01
SEED = 2026


def alternating(trajectories: int) -> np.ndarray:
    """x of the starts, (trajectories,): −0.01 and 0.01 in turn, as in the authors' code."""
    trajectories = _check.integer("trajectories", trajectories, least=1, most=10**9)
    return np.where(np.arange(trajectories) % 2 == 0, -START_X, START_X)


def run_grid(
    noise: type[Noise], etas, sigmas, *, trajectories: int, steps: int, seed: int = SEED, progress=False
) -> dict[str, np.ndarray]:
    """Run every pair of η (n,) and σ (m,) from y = 5, :func:`alternating` x, and summarise it (Y26 Fig. 3).

    ``noise`` is a class such as :class:`~flatmin.theory.noise.HessianAligned`; it is made with σ. Returns
    arrays (n, m) beside the axes ``eta``, ``sigma``: ``flat`` and its error (share of x > 0 at the end), also
    by side of the start; ``time``, ``y`` at the last change of sign of x (0 and the start where there is
    none), their standard errors and standard deviations; ``mobile``, the share that hopped in the last tenth
    of the run; ``still``, the share that never hopped; ``end_y``. Raises ValueError for numbers out of range.
    """
    if not (isinstance(noise, type) and issubclass(noise, Noise)):
        raise _check.refused("noise", noise, "a class of noise")
    eta, sigma = _check.array("etas", etas, ndim=1, above=0), _check.array("sigmas", sigmas, ndim=1, least=0)
    steps = _check.integer("steps", steps, least=1)
    runs = simulate(
        two_valleys().at(**PAPER),
        noise(sigma),
        eta=eta[:, None],
        steps=steps,
        start=(alternating(trajectories), START_Y),
        trajectories=trajectories,
        seed=seed,
        hops="x",
        progress=progress,
    )
    flat, last = runs.final[..., 0] > 0, runs.hops.last
    cells = {"eta": eta, "sigma": sigma, "diverged": runs.diverged.mean(axis=-1)}
    cells["flat"], cells["flat_error"] = proportion(flat)
    cells["flat_from_sharp"], _ = proportion(flat[..., ::2])
    cells["flat_from_flat"], _ = proportion(flat[..., 1::2])
    for name, values in (("time", last), ("y", runs.hops.position[..., 1])):
        spread = values.std(axis=-1, ddof=1)
        cells[name], cells[f"{name}_spread"] = values.mean(axis=-1), spread
        cells[f"{name}_error"] = spread / np.sqrt(trajectories)
    cells["mobile"], _ = proportion(last > 0.9 * steps)
    cells["still"], _ = proportion(runs.hops.number == 0)
    cells["end_y"] = runs.final[..., 1].mean(axis=-1)
    return cells
