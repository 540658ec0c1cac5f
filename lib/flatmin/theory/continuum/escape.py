"""Mean first-passage times and escape rates, exact and by Kramers' formula, with the convention named.

A :class:`~.slow.SlowEquation` with drift a, diffusion D and convention s has, in Itô's terms, the drift
A = a + (1 − s)D'. With ψ = exp ∫A/D the mean time from ``start`` to ``target``, with no flux at ``far``, is

    τ = ∫_target^start dx/ψ(x) ∫_x^far ψ(z)/D(z) dz                       (start < target alike, mirrored)
      = ∫_target^start dx/(D(x)P(x)) ∫_x^far P(z) dz,      P = ψ/D the stationary density.

Y22 S44 is the first line with P written for ψ: right for the P of its S30, which lacks the factor 1/D, and
wrong for the stationary density of its S29.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu

from flatmin.theory.continuum.slow import SlowEquation

__all__ = ["escape_rate", "kramers_rate", "mean_passage_time", "plane_passage_time"]

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


def escape_rate(
    equation: SlowEquation, target: float, far: float, *, panels: int = 400, tolerance: float = 1e-10
) -> float:
    """Quasi-stationary escape rate: the lowest eigenvalue of the equation absorbed at ``target``.

    Found by inverse iteration, u ← ∫_target^x dy/(DP) ∫_y^far u P dz, which starts at the mean passage time.

    Parameters
    ----------
    equation : SlowEquation with numbers
    target : float
        Where the process is absorbed: beyond the barrier, such as the bottom of the next well.
    far : float
        Where it is reflected, on the side it escapes from.
    panels : int
        Panels of 12 Radau points.
    tolerance : float
        Relative change of the eigenvalue at which to stop.

    Returns
    -------
    float
        Rate per unit of the time of the equation.

    Raises
    ------
    ValueError
        As :func:`mean_passage_time`; also when 100 iterations do not settle.
    """
    target, far = float(target), float(far)
    if target == far:
        raise ValueError(f"target={target:g}: must differ from far={far:g}")
    if panels < 1:
        raise ValueError(f"panels={panels!r}: must be at least 1")
    drift, diffusion = equation.converted("ito").functions()
    side, width = np.sign(far - target), abs(far - target) / panels
    nodes, into, weights = _radau()
    distance = width * (np.arange(1, panels + 1)[:, None] - nodes)
    a, d = side * drift(target + side * distance), diffusion(target + side * distance)
    if not np.all(d > 0):
        raise ValueError(f"diffusion must be positive between target and far, its minimum is {d.min():g}")
    system = np.linalg.inv(np.eye(len(nodes)) - into * (a / d * width)[:, None, :])
    carried, old, u = system.sum(axis=-1), 0.0, np.ones_like(d)
    for _ in range(100):
        own = np.einsum("kij,jl,kl->ki", system, into, width * u / d)
        slope, values = 0.0, np.empty_like(d)
        with np.errstate(over="ignore", invalid="ignore"):
            for k in range(panels - 1, -1, -1):
                values[k] = carried[k] * slope + own[k]
                slope = values[k, -1]
            steps = width * values @ weights
            new_u = np.cumsum(steps)[:, None] - width * values @ into.T
            rate = u[-1, 0] / new_u[-1, 0]
        if not np.isfinite(rate) or rate == 0:
            raise ValueError(f"target={target:g}: the mean time to it exceeds the largest double")
        if abs(rate - old) <= tolerance * rate:
            return float(rate)
        old, u = rate, new_u / new_u[-1, 0]
    raise ValueError(
        f"target={target:g}, far={far:g}: no separate slow escape, the eigenvalue does not settle"
    )


def kramers_rate(temperature, barrier, hessian, saddle_hessian):
    """Kramers–Langer rate |v_e|/(2π) √(det V*/|det V_s|) e^(−ΔV/T) of dz = −∇V dτ + √(2T) dW (M22 Eq. 19).

    Parameters
    ----------
    temperature, barrier : T > 0 and ΔV > 0, numbers or arrays
    hessian, saddle_hessian : numbers in one dimension, else (n, n) matrices of V at minimum and saddle

    Raises
    ------
    ValueError
        For a temperature or barrier that is not positive, a minimum that is not one, or a saddle whose
        Hessian has not exactly one negative eigenvalue.
    """
    temperature, barrier = np.asarray(temperature, dtype=float), np.asarray(barrier, dtype=float)
    if not np.all(temperature > 0):
        raise ValueError(f"temperature={temperature}: must be positive")
    if not np.all(barrier > 0):
        raise ValueError(f"barrier={barrier}: must be positive, the saddle lies above the minimum")
    stable = np.linalg.eigvalsh(np.atleast_2d(np.asarray(hessian, dtype=float)))
    unstable = np.linalg.eigvalsh(np.atleast_2d(np.asarray(saddle_hessian, dtype=float)))
    if stable[0] <= 0:
        raise ValueError(f"hessian={hessian!r}: must be positive definite")
    if len(stable) != len(unstable) or unstable[0] >= 0 or np.any(unstable[1:] <= 0):
        raise ValueError(
            f"saddle_hessian={saddle_hessian!r}: must have the shape of hessian and one negative eigenvalue"
        )
    prefactor = -unstable[0] / (2 * np.pi) * np.sqrt(stable.prod() / abs(unstable.prod()))
    return prefactor * np.exp(-barrier / temperature)


def plane_passage_time(potential, temperatures, start, target: float, box, *, clock=None, cells=(240, 80)):
    """Mean time of dz_i = −∂_iV dτ + √(2T_i) dW_i in the plane to go from ``start`` to x ≥ ``target``.

    The backward equation on a grid with exponentially fitted differences (second order, every rate
    positive). The T_i may differ, in which case V is not the quasi-potential.

    Parameters
    ----------
    potential : callable of arrays (x, y)
    temperatures : (T_x, T_y), positive
    start : (x, y), moved to the nearest grid point
    target : float
    box : ((x_low, x_high), (y_low, y_high))
        Walls that reflect; x ≥ target inside it is the target.
    clock : callable of arrays (x, y), optional
        Units of the time to be measured that pass per unit of τ; 1/L on the logarithmic landscape.
    cells : (int, int)
        Cells along x and y.

    Raises
    ------
    ValueError
        For temperatures that are not positive, a start outside of the box or beyond the target, or a time so
        long that rounding decides it (10¹³ of the shortest times of the grid).
    """
    if not min(temperatures) > 0:
        raise ValueError(f"temperatures={temperatures!r}: must be positive")
    if not (box[0][0] <= start[0] < target < box[0][1] and box[1][0] <= start[1] <= box[1][1]):
        raise ValueError(f"start={start!r}: must lie in the box {box!r} and before target={target!r}")
    axes = [np.linspace(*side, number + 1) for side, number in zip(box, cells, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    v = potential(*grid)
    generator = _fitted_generator(v, axes, temperatures)
    inside = np.flatnonzero(grid[0].ravel() < target)
    passing = np.ones(v.size) if clock is None else np.broadcast_to(clock(*grid), v.shape).ravel()
    time = splu(generator[inside][:, inside]).solve(-passing[inside])
    place = [int(np.abs(axis - at).argmin()) for axis, at in zip(axes, start, strict=True)]
    result = float(time[np.searchsorted(inside, np.ravel_multi_index(place, v.shape))])
    if not 0 < result * np.abs(generator.diagonal()).max() < 1e13 * passing.max():
        raise ValueError(f"temperatures={temperatures!r}: the mean time is too long for this grid")
    return result


def _fitted_generator(v, axes, temperatures):
    """Backward generator on the grid, (points, points): the rate up a rise ΔV of a step h is T/h²·b(ΔV/T).

    b(z) = z/(eᶻ − 1); rates across the walls are left out, so that they reflect.
    """
    number = np.arange(v.size).reshape(v.shape)
    rows, columns, rates = [], [], []
    for axis, temperature in enumerate(temperatures):
        step = axes[axis][1] - axes[axis][0]
        first, second = np.moveaxis(number, axis, 0)[:-1].ravel(), np.moveaxis(number, axis, 0)[1:].ravel()
        rise = (v.ravel()[second] - v.ravel()[first]) / temperature
        for here, there, up in ((first, second, rise), (second, first, -rise)):
            small = np.abs(up) < 1e-9
            fitted = np.where(small, 1 - up / 2, up / np.expm1(np.where(small, 1.0, up)))
            rows.append(here)
            columns.append(there)
            rates.append(temperature / step**2 * fitted)
    rows, columns, rates = (np.concatenate(part) for part in (rows, columns, rates))
    return coo_matrix(
        (np.concatenate([rates, -rates]), (np.concatenate([rows, rows]), np.concatenate([columns, rows])))
    ).tocsc()
