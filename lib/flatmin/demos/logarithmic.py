"""Loops and pictures of the chapter on the logarithmic landscape."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from numba import njit

from flatmin.ledger import plots
from flatmin.theory.logarithmic import critical_dimension, passage_exponent
from flatmin.theory.multiplicative import RegressionChain

__all__ = ["both_clocks", "chain_density", "show_regression"]


@njit(cache=True)
def both_clocks(eta, temperature, runs, rng):  # pragma: no cover - compiled
    """First passages from x = −1 to x = 1 in L = 1/8 + (x² − 1)²/4 under noise of covariance 2LT/η.

    ``rng`` is a numpy Generator. Returns (runs, 2): t = η × steps, and τ = Σ η L(x) on the way.
    """
    kept = np.empty((runs, 2))
    scale = np.sqrt(2 * eta * temperature)
    for run in range(runs):
        x, t, tau = -1.0, 0.0, 0.0
        while x < 1.0:
            loss = 0.125 + (x * x - 1) ** 2 / 4
            t += eta
            tau += eta * loss
            x += -eta * x * (x * x - 1) + scale * np.sqrt(loss) * rng.standard_normal()
        kept[run] = t, tau
    return kept


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


def chain_density(eta, squares, steps=2_000_000, groups=8, seed=0):
    """Density of θ by SGD with one fresh Gaussian sample a step, d = 1, in cells of θ² with these edges.

    Returns (density (groups, cells), one row for each independent run).
    """
    edges = np.asarray(squares, dtype=float)
    counts = np.zeros((groups, len(edges) - 1))
    for row, rng in zip(counts, np.random.default_rng(seed).spawn(groups), strict=True):
        _chain_counts(eta, steps, edges, row, rng)
    return counts / steps / (2 * np.diff(np.sqrt(edges)))


def show_regression(eta, batch_size, dimension):
    """Mean time to reach c·L* and its local power of c: exact, as printed, and the exponents in words."""
    chain = RegressionChain(eta, batch_size, dimension)
    ratios = 1 + dimension * eta / batch_size * np.geomspace(0.5, 12, 16)
    times = eta * np.array([chain.passage_time(c, points=100, nodes=(40, 28, 10)) for c in ratios])
    shown = times < 1e8
    ratios, times = ratios[shown], times[shown]
    power = passage_exponent(eta, batch_size, dimension=dimension)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4))
    middle = len(ratios) // 2
    plots.theory(left, ratios, times, "the chain, exactly")
    plots.printed(left, ratios, times[middle] * (ratios / ratios[middle]) ** power)
    left.set(xscale="log", yscale="log", xlabel="c = L/L*", ylabel="mean time to reach c, $t_p$")
    left.legend()
    between = np.sqrt(ratios[1:] * ratios[:-1])
    plots.theory(right, between, np.diff(np.log(times)) / np.diff(np.log(ratios)), "the chain, exactly")
    right.axhline(power, **{"color": plots.COLOURS["printed"], "linestyle": plots.LINES["printed"]})
    if chain.lyapunov < 0:
        right.axhline(chain.tail_exponent / 2, color=plots.COLOURS["exact"], linestyle=plots.LINES["exact"])
    right.set(xscale="log", xlabel="c = L/L*", ylabel="local power of c", ylim=(0, None))
    figure.suptitle(
        f"η = {eta:g}, B = {batch_size}, d = {dimension}: "
        f"printed n_c = {critical_dimension(eta, batch_size):.4g}, "
        f"E A² = {chain.mean_square_factor:.3f}, E log A = {chain.lyapunov:.3f}",
        fontsize=10,
    )
    plt.show()
