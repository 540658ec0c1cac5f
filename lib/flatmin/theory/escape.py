"""Mean first-passage times of one-dimensional equations, with the convention named.

A :class:`~flatmin.theory.reduction.SlowEquation` with drift a, diffusion D and convention s has, in Itô's
terms, the drift A = a + (1 − s)D'. With ψ = exp ∫A/D the mean time from ``start`` to ``target``, with no flux
at ``far``, is

    τ = ∫_target^start dx/ψ(x) ∫_x^far ψ(z)/D(z) dz                       (start < target alike, mirrored)
      = ∫_target^start dx/(D(x)P(x)) ∫_x^far P(z) dz,      P = ψ/D the stationary density.

Y22 S44 is the first line with P written for ψ: right for the P of its S30, which lacks the factor 1/D, and
wrong for the stationary density of its S29.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from flatmin.theory.reduction import SlowEquation

__all__ = ["mean_passage_time"]

#: collocation points of a panel
_POINTS = 12


def mean_passage_time(
    equation: SlowEquation, start: float, target: float, far: float, *, panels: int = 200
) -> float:
    """Mean time τ for the coordinate to go from ``start`` to ``target``, reflected at ``far``.

    Parameters
    ----------
    equation : SlowEquation with numbers
    start, target : float
        In the equation's coordinate; start lies between target and far.
    far : float
        Where the process is reflected, on the side of ``start``: far enough not to matter.
    panels : int
        Panels of 12 Radau points between target and far.

    Returns
    -------
    float
        In the time of the equation (τ = ηt for an equation of x).

    Raises
    ------
    ValueError
        For a start not between target and far, fewer than one panel, a diffusion that is not positive on
        the way, or a time too large for a double (a barrier of more than 700).
    """
    start, target, far = float(start), float(target), float(far)
    if not (min(target, far) <= start <= max(target, far)) or target == far:
        raise ValueError(f"start={start:g}: must lie between target={target:g} and far={far:g}")
    if panels < 1:
        raise ValueError(f"panels={panels!r}: must be at least 1")
    drift, diffusion = equation.converted("ito").functions()
    side = np.sign(far - target)

    def local(distance):
        """Drift away from the target and diffusion at a distance from it."""
        x = target + side * distance
        return side * drift(x), diffusion(x)

    return _passage(local, abs(start - target), abs(far - target), panels)


def _passage(local, start: float, far: float, panels: int) -> float:
    """Mean time from ``start`` > 0 to 0 with a wall at ``far``; panels are split at ``start``."""
    if start == 0:
        return 0.0
    before = max(1, round(panels * start / far))
    breaks = np.linspace(0, start, before + 1)
    if start < far:
        breaks = np.concatenate([breaks, np.linspace(start, far, max(1, panels - before) + 1)[1:]])
    nodes, into, weights = _radau()
    width = np.diff(breaks)[:, None]
    drift, diffusion = local(breaks[1:, None] - width * nodes)
    if not np.all(diffusion > 0):
        raise ValueError(
            f"diffusion must be positive between target and far, its minimum is {diffusion.min():g}"
        )
    # g = dτ/dstart = (1/ψ)∫ψ/D obeys −dg/dx = (A/D)g + 1/D with g(far) = 0. Collocation at Radau points is
    # stable where A/D is large and negative, where the quotient of integrals would be 0/0.
    system = np.eye(len(nodes)) - into * (drift / diffusion * width)[:, None, :]
    sources = np.stack([np.ones_like(drift), (width / diffusion) @ into.T], axis=-1)
    from_right, own = np.moveaxis(np.linalg.solve(system, sources), -1, 0)
    slope, time = 0.0, 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(len(width) - 1, -1, -1):
            values = from_right[k] * slope + own[k]
            slope = values[-1]
            time += width[k, 0] * (weights @ values) if k < before else 0.0
    if not np.isfinite(time):
        raise ValueError(f"the mean time from {start:g} above the target exceeds the largest double")
    return float(time)


@lru_cache(maxsize=1)
def _radau() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Radau points of [0, 1] with 1 among them, the matrix of integrals from 0 to each, and the weights."""
    last_two = np.zeros(_POINTS + 1)
    last_two[-2:] = -1, 1
    nodes = np.sort(np.polynomial.legendre.legroots(last_two).real)
    vandermonde = np.polynomial.legendre.legvander(nodes, _POINTS)
    integrals = np.empty((_POINTS, _POINTS))
    # the integral of P_n from −1 is (P_{n+1} − P_{n−1})/(2n + 1), and x + 1 for n = 0
    integrals[:, 0] = nodes + 1
    integrals[:, 1:] = (vandermonde[:, 2:] - vandermonde[:, :-2]) / (2 * np.arange(1, _POINTS) + 1)
    into = integrals @ np.linalg.inv(vandermonde[:, :-1]) / 2
    return (nodes + 1) / 2, into, into[-1]
