"""Mean first-passage times of one-dimensional equations by quadrature, with the convention named.

A :class:`~flatmin.theory.reduction.SlowEquation` with drift a, diffusion D and convention s has, in Itô's
terms, the drift A = a + (1 − s)D'. With ψ = exp ∫A/D the mean time from ``start`` to ``target``, with no flux
at ``far``, is

    τ = ∫_target^start dx/ψ(x) ∫_x^far ψ(z)/D(z) dz                       (start < target alike, mirrored)
      = ∫_target^start dx/(D(x)P(x)) ∫_x^far P(z) dz,      P = ψ/D the stationary density.

Y22 S44 is the first line with P written for ψ: right for the P of its S30, which lacks the factor 1/D, and
wrong for the stationary density of its S29.
"""

from __future__ import annotations

import numpy as np

from flatmin.theory.reduction import SlowEquation

__all__ = ["mean_passage_time"]

#: Gauss points of a panel: the antiderivative on a panel is that of the polynomial through them
_POINTS = 16


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
        Panels of 16 Gauss points between target and far.

    Returns
    -------
    float
        In the time of the equation (τ = ηt for an equation of x).

    Raises
    ------
    ValueError
        For a start not between target and far, fewer than one panel, a diffusion that is not positive on
        the way, or a time too large for a double (the barrier exceeds 700).
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
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    half = np.diff(breaks)[:, None] / 2
    drift, diffusion = local(breaks[:-1, None] + half * (nodes + 1))
    if not np.all(diffusion > 0):
        raise ValueError(
            f"diffusion must be positive between target and far, its minimum is {diffusion.min():g}"
        )
    into = _antiderivative(nodes)
    log_psi = _running(drift / diffusion, half, into, weights)
    # 1/ψ(x) ∫ₓ ψ/D, summed from the far end; powers are shifted panel by panel so that none overflows
    top = np.maximum.accumulate(log_psi.max(axis=1)[::-1])[::-1]
    tail = np.zeros(len(half) + 1)  # ∫ beyond a panel, in units of exp(top of the panel that follows)
    inner = np.empty_like(log_psi)
    level = np.append(top, top[-1])
    for k in range(len(half) - 1, -1, -1):
        density = np.exp(log_psi[k] - top[k]) / diffusion[k]
        whole = (weights * density).sum() * half[k, 0]
        carried = tail[k + 1] * np.exp(level[k + 1] - top[k])
        inner[k] = whole - into @ density * half[k, 0] + carried
        tail[k] = whole + carried
    exponent = np.log(np.maximum(inner, 1e-300)) + top[:, None] - log_psi
    if exponent[:before].max() > 700:
        raise ValueError(f"the mean time exceeds the largest double: the barrier is {exponent.max():.0f}")
    return float((np.exp(exponent[:before]) * weights * half[:before]).sum())


def _antiderivative(nodes: np.ndarray) -> np.ndarray:
    """Matrix that takes values at Gauss nodes of [−1, 1] to integrals from −1 to each node."""
    degrees = np.arange(len(nodes))
    vandermonde = np.polynomial.legendre.legvander(nodes, len(nodes))
    to_coefficients = np.linalg.inv(vandermonde[:, :-1])
    # the integral of P_n from −1 is (P_{n+1} − P_{n−1})/(2n + 1), and x + 1 for n = 0
    integrals = np.empty((len(nodes), len(nodes)))
    integrals[:, 0] = nodes + 1
    integrals[:, 1:] = (vandermonde[:, 2:] - vandermonde[:, :-2]) / (2 * degrees[1:] + 1)
    return integrals @ to_coefficients


def _running(values, half, into, weights) -> np.ndarray:
    """Integral from the first break to every node, shape of ``values`` (panels, points)."""
    whole = np.concatenate([[0.0], np.cumsum((values * weights).sum(axis=1) * half[:, 0])])
    return whole[:-1, None] + (values @ into.T) * half
