"""Where hopping stops: a rate equation without a fitted constant.

At each y the exact rates of the discrete chain (``hopping.FrozenChain``) say how P_flat relaxes and how soon
x changes sign again, and y drifts by the chain's own mean force. Y26's estimate, which has a free constant
(Eq. 10–12, A33–A41), is in :mod:`flatmin.theory.printed`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from flatmin import _check
from flatmin.theory.landscape import Landscape
from flatmin.theory.two_valleys.hopping import SIDES, FrozenChain, frozen, slicer
from flatmin.theory.two_valleys.landscape import barrier, flatness, path_drift

__all__ = ["Path", "follow"]

#: a rate per iteration that stands for none
_NEVER = 1e-15
#: positions at which the chain is solved, at most
_LONGEST_TABLE = 4000
_FARTHEST = 1e6


@dataclass(frozen=True)
class Path:
    """What the rate equation gives for one learning rate and noise: arrays (times,) over iterations ``t``.

    ``y`` is the mean position along the valleys; ``flat`` P_flat, whose first entry is that of
    :meth:`FrozenChain.settled_flat`, which may lie a little outside 0…1; ``settled`` the cumulative
    probability that the last change of sign of x lies at or before t, from the probability that there is
    none.
    """

    t: np.ndarray
    y: np.ndarray
    flat: np.ndarray
    settled: np.ndarray

    def __post_init__(self):
        t = _check.array("t", self.t, ndim=1, least=0, increasing=True)
        for name in ("y", "flat", "settled"):
            _check.array(name, getattr(self, name), shape=t.shape)

    def last_hop(self) -> tuple[float, float]:
        """Mean and standard deviation of t_f, the iteration of the last change of sign (0 if none)."""
        return self._moments(self.t)

    def freezing_y(self) -> tuple[float, float]:
        """Mean and standard deviation of y at the last change of sign (the start where there is none)."""
        return self._moments(self.y)

    def _moments(self, values):
        # an atom at the start, then the probability of each interval at its middle
        weights = np.concatenate([self.settled[:1], np.diff(self.settled)])
        middles = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2])
        mean = float(weights @ middles)
        return mean, float(np.sqrt(max(weights @ (middles - mean) ** 2, 0.0)))


def follow(
    landscape: Landscape,
    eta: float,
    delta_s: float,
    *,
    start_y: float,
    start_x=(-0.01, 0.01),
    steps: int,
    power: int = 1,
    resolution: float = 0.7,
    points: int = 4000,
) -> Path:
    """Follow P_flat along the drift y(t) with the chain's exact hopping rates at each y; no free constant.

    dP/dt = (1 − λ₂(y)) (π_flat(y) − P), dy/dt = −η⟨∂_yL⟩, the mean over the chain's stationary law in either
    valley, weighted by P. The last change of sign lies before t if neither valley is left afterwards: P
    exp(−∫κ_flat) + (1 − P) exp(−∫κ_sharp), κ the exit rates. Raises ValueError for values out of range, from
    :class:`FrozenChain` where the step is unstable, and where noise drives y out of the tabulated range.

    Parameters
    ----------
    landscape, eta, delta_s, power
        As for :func:`.hopping.frozen` and :class:`FrozenChain`.
    start_y : float
        The common y of the starts, from 0 to 10⁶.
    start_x : float or array
        The x of the starts, equally likely, among the nodes of the chain at ``start_y``.
    resolution : float, 0.01 or more
        Largest change of the sharp side's reduced barrier z² between tabulated y.
    points : int
        Times at which the solution is kept.
    """
    steps = _check.integer("steps", steps, least=1, most=10**12)
    points = _check.integer("points", points, least=1, most=10**7)
    start_y = _check.number("start_y", start_y, above=0, most=_FARTHEST)
    starts = np.ravel(_check.array("start_x", start_x))
    first = FrozenChain(frozen(landscape, start_y), eta, delta_s, power)
    if starts.min() < first.x[0] or starts.max() > first.x[-1]:
        raise _check.refused("start_x", start_x, f"between {first.x[0]:.4g} and {first.x[-1]:.4g}")
    table = _tabulate(landscape, eta, delta_s, start_y, steps, power, resolution)
    t = np.linspace(0, steps, points + 1)
    y, flat = np.empty_like(t), np.empty_like(t)
    y[0], flat[0] = start_y, np.mean(starts >= 0 if first.isolated else first.settled_flat(starts))
    step = t[1] - t[0]
    for k in range(points):
        # midpoint in y; P relaxes exactly at frozen y, however fast the hops
        half = y[k] + step / 2 * _velocity(table, y[k], flat[k])
        rate, target = np.exp(table["relaxation"](half)), table["stationary"](half)
        flat[k + 1] = target + (flat[k] - target) * np.exp(-rate * step)
        y[k + 1] = y[k] + step * _velocity(table, half, (flat[k] + flat[k + 1]) / 2)
    low, high = table["stationary"].x[[0, -1]]
    if not (y.min() >= low and y.max() <= high):
        allowed = f"so small that noise does not drive y out of the tabulated {low:.4g}…{high:.4g}"
        raise _check.refused("delta_s", delta_s, allowed)
    return Path(t, y, flat, _settled(table, first, starts, t, y, flat))


def _settled(table, first, starts, t, y, flat):
    """Probability, at every time, that x changes sign no more."""
    settled, untouched = np.zeros_like(t), 0.0
    for side, share in (("flat", flat), ("sharp", 1 - flat)):
        rate = np.exp(table[f"exit {side}"](y))
        later = np.cumsum(((rate[1:] + rate[:-1]) / 2 * np.diff(t))[::-1])[::-1]
        unbroken = np.exp(-np.append(later, 0.0))
        settled += share * unbroken
        on_side = (starts >= 0) == (side == "flat")
        untouched += np.sum(first.survival(starts[on_side])) / len(starts) * unbroken[0]
    # a start close to the ridge is likelier to change side at once than one settled in a valley
    settled[0] = min(untouched, settled[0])
    return np.maximum.accumulate(settled)


def _velocity(table, y, flat):
    return flat * table["drift flat"](y) + (1 - flat) * table["drift sharp"](y)


def _tabulate(landscape, eta, delta_s, start_y, steps, power, resolution):
    """Interpolators in y of ln(1 − λ₂), π_flat, ln κ and the drift per iteration, from a chain at each y.

    The grid starts at ``start_y`` and ends beyond the farthest point of the run; it is close where the
    barrier grows fast, until the valleys are isolated.
    """
    resolution = _check.number("resolution", resolution, least=0.01)
    at, slope = slicer(landscape), landscape.function(landscape.gradient[1])
    drift = landscape.function(path_drift())
    reduced = landscape.function(barrier() * (flatness("sharp") / 2) ** power / delta_s)
    names = ("relaxation", "stationary", *(f"{q} {side}" for q in ("exit", "drift") for side in SIDES))
    rows, grid, y, t, stationary = {name: [] for name in names}, [], float(start_y), 0.0, 0.5
    while True:
        chain = FrozenChain(at(y), eta, delta_s, power)
        # where nothing relaxes any more, what it would relax to does not matter
        stationary = stationary if chain.isolated else chain.flat_probability
        rows["stationary"].append(stationary)
        rows["relaxation"].append(np.log(max(0.0 if chain.isolated else chain.relaxation_rate, _NEVER)))
        for side in SIDES:
            rows[f"exit {side}"].append(np.log(max(chain.exit_rates[side], _NEVER)))
            rows[f"drift {side}"].append(chain.mean(-eta * slope(chain.x, y), side))
        grid.append(y)
        # noise speeds the drift up by a few per cent: a third more time than the run has is ample
        if len(grid) > 1 and t > 1.33 * steps:
            break
        if len(grid) >= _LONGEST_TABLE:
            raise _check.refused("resolution", resolution, f"so large that {_LONGEST_TABLE} positions do")
        speed = eta * float(drift(0.0, y))
        growth = float(reduced(0.0, 1.001 * y) - reduced(0.0, y)) / (0.001 * y)
        move = 0.1 * y + 0.3 if growth <= 0 else min(resolution / growth, 0.1 * y + 0.3)
        move = 0.2 * y if chain.isolated else min(move, speed * steps / 8)
        if not y + move > y:
            raise _check.refused("start_y or steps", (start_y, steps), "such that y moves during the run")
        t += move / speed
        y += move
    return {name: PchipInterpolator(grid, values) for name, values in rows.items()}
