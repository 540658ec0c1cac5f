"""Mean first-passage times and escape rates, exact and by Kramers' formula, with the convention named.

A :class:`~.slow.SlowEquation` with drift a, diffusion D and convention s has, in Itô's terms, the drift
A = a + (1 − s)D'. With ψ = exp ∫A/D the mean time from ``start`` to ``target``, with no flux at ``far``, is

    τ = ∫_target^start dx/ψ(x) ∫_x^far ψ(z)/D(z) dz                       (start < target alike, mirrored)
      = ∫_target^start dx/(D(x)P(x)) ∫_x^far P(z) dz,      P = ψ/D the stationary density.

Y22 S44 is the first line with P written for ψ: right for the P of its S30, which lacks the factor 1/D, and
wrong for the stationary density of its S29.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu

from flatmin import _check
from flatmin.theory.continuum.slow import SlowEquation

__all__ = ["escape_rate", "kramers_rate", "mean_passage_time", "plane_passage_time"]

#: collocation points of a panel, and how many panels there may be: their matrices take 2 kB each
_POINTS, _MOST = 12, 100_000


def mean_passage_time(
    equation: SlowEquation, start: float, target: float, far: float, *, panels: int = 200
) -> float:
    """Mean time τ for the coordinate to go from ``start`` to ``target``, reflected at ``far``.

    In the time of the equation (τ = ηt for an equation of x). Raises ValueError for a start not between
    target and far, a diffusion that is not positive on the way, or a time too large for a double (a barrier
    of 700).

    Parameters
    ----------
    equation : SlowEquation
        With numbers.
    start, target, far : float
        Start lies between target and far; far lies far enough out not to matter.
    panels : int
        Panels of 12 Radau points between target and far.
    """
    _check.instance("equation", equation, SlowEquation)
    start, target, far = _check.numbers(start=start, target=target, far=far)
    panels = _check.integer("panels", panels, least=1, most=_MOST)
    if not (min(target, far) <= start <= max(target, far)) or target == far:
        raise ValueError(f"start={start:g}: must lie between target={target:g} and far={far:g}")
    drift, diffusion = equation.converted("ito").functions()
    side = np.sign(far - target)

    def local(distance):
        """Drift away from the target and diffusion at a distance from it."""
        x = target + side * distance
        return side * drift(x), diffusion(x)

    with np.errstate(all="ignore"):
        time = _passage(local, abs(start - target), abs(far - target), panels)
    if not np.isfinite(time):
        raise ValueError(
            f"start={start:g}, target={target:g}, far={far:g}: the mean time exceeds the largest double"
        )
    return float(time)


def _passage(local, start: float, far: float, panels: int) -> float:
    """Mean time from ``start`` > 0 to 0 with a wall at ``far``; panels are split at ``start``."""
    if start == 0:
        return 0.0
    before = max(1, round(panels * (start / far)))
    breaks = np.linspace(0, start, before + 1)
    if start < far:
        breaks = np.concatenate([breaks, np.linspace(start, far, max(1, panels - before) + 1)[1:]])
    nodes, into, weights = _radau()
    width = np.diff(breaks)[:, None]
    drift, diffusion = local(breaks[1:, None] - width * nodes)
    _positive(diffusion)
    # g = dτ/dstart = (1/ψ)∫ψ/D obeys −dg/dx = (A/D)g + 1/D with g(far) = 0. Collocation at Radau points is
    # stable where A/D is large and negative, where the quotient of integrals would be 0/0.
    system = np.eye(len(nodes)) - into * (drift / diffusion * width)[:, None, :]
    sources = np.stack([np.ones_like(drift), (width / diffusion) @ into.T], axis=-1)
    from_right, own = np.moveaxis(np.linalg.solve(system, sources), -1, 0)
    slope, time = 0.0, 0.0
    for k in range(len(width) - 1, -1, -1):
        values = from_right[k] * slope + own[k]
        slope = values[-1]
        time += width[k, 0] * (weights @ values) if k < before else 0.0
    return time


def _positive(diffusion):
    """Refuse a diffusion that is not positive and finite; its range is that from target to far."""
    if not np.all((diffusion > 0) & (diffusion < np.inf)):
        low, high = diffusion.min(), diffusion.max()
        raise ValueError(
            "equation: its diffusion must be positive and finite between target and far (and start), "
            f"it goes from {low:g} to {high:g}"
        )


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

    Found by inverse iteration, u ← ∫_target^x dy/(DP) ∫_y^far u P dz, which starts at the mean passage time,
    until the eigenvalue changes by less than ``tolerance`` of itself. Per unit of the time of the equation.

    Raises ValueError as :func:`mean_passage_time`; also when 100 iterations do not settle.

    Parameters
    ----------
    equation, far, panels
        As for :func:`mean_passage_time`.
    target : float
        Beyond the barrier, such as the bottom of the next well.
    """
    _check.instance("equation", equation, SlowEquation)
    target, far = _check.numbers(target=target, far=far)
    if target == far:
        raise ValueError(f"target={target:g}: must differ from far={far:g}")
    panels = _check.integer("panels", panels, least=1, most=_MOST)
    tolerance = _check.number("tolerance", tolerance, above=0, below=1)
    with np.errstate(all="ignore"):
        rate = _lowest_eigenvalue(equation, target, far, panels, tolerance)
    if rate is None:
        raise ValueError(
            f"target={target:g}, far={far:g}: no separate slow escape, the eigenvalue does not settle"
        )
    if not np.isfinite(rate) or rate == 0:
        raise ValueError(f"target={target:g}, far={far:g}: the mean time to it exceeds the largest double")
    return float(rate)


def _lowest_eigenvalue(equation, target, far, panels, tolerance):
    """Inverse iteration; None where 100 of them do not settle, 0 or NaN where numbers overflow."""
    drift, diffusion = equation.converted("ito").functions()
    side, width = np.sign(far - target), abs(far - target) / panels
    nodes, into, weights = _radau()
    distance = width * (np.arange(1, panels + 1)[:, None] - nodes)
    a, d = side * drift(target + side * distance), diffusion(target + side * distance)
    _positive(d)
    system = np.linalg.inv(np.eye(len(nodes)) - into * (a / d * width)[:, None, :])
    carried, old, u = system.sum(axis=-1), 0.0, np.ones_like(d)
    for _ in range(100):
        own = np.einsum("kij,jl,kl->ki", system, into, width * u / d)
        slope, values = 0.0, np.empty_like(d)
        for k in range(panels - 1, -1, -1):
            values[k] = carried[k] * slope + own[k]
            slope = values[k, -1]
        steps = width * values @ weights
        new_u = np.cumsum(steps)[:, None] - width * values @ into.T
        rate = u[-1, 0] / new_u[-1, 0]
        if not np.isfinite(rate) or rate == 0 or abs(rate - old) <= tolerance * rate:
            return rate
        old, u = rate, new_u / new_u[-1, 0]
    return None


def kramers_rate(temperature, barrier, hessian, saddle_hessian):
    """Kramers–Langer rate |v_e|/(2π) √(det V*/|det V_s|) e^(−ΔV/T) of dz = −∇V dτ + √(2T) dW (M22 Eq. 19).

    ``temperature`` T > 0 and ``barrier`` ΔV > 0 are numbers or arrays; ``hessian``, positive definite, and
    ``saddle_hessian``, with one negative eigenvalue, those of V (n, n), or numbers in one dimension. Raises
    ValueError for others.
    """
    temperature = _check.array("temperature", temperature, above=0)
    barrier = _check.array("barrier", barrier, above=0)
    _check.together(temperature=temperature, barrier=barrier)
    stable, unstable = _eigenvalues("hessian", hessian), _eigenvalues("saddle_hessian", saddle_hessian)
    if stable[0] <= 0:
        raise _check.refused("hessian", hessian, "positive definite")
    if len(stable) != len(unstable) or unstable[0] >= 0 or np.any(unstable[1:] <= 0):
        allowed = "of the shape of hessian and with one negative eigenvalue"
        raise _check.refused("saddle_hessian", saddle_hessian, allowed)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        prefactor = -unstable[0] / (2 * np.pi) * np.sqrt(stable.prod() / abs(unstable.prod()))
        rate = prefactor * np.exp(-barrier / temperature)
    return _check.finite(rate, hessian=hessian, saddle_hessian=saddle_hessian)


def _eigenvalues(name, matrix):
    """Eigenvalues of a number or a symmetric matrix, from the lowest."""
    given = np.atleast_2d(_check.array(name, matrix))
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not np.allclose(given, given.T):
        raise _check.refused(name, matrix, "a number or a symmetric matrix")
    return np.linalg.eigvalsh(given)


def plane_passage_time(potential, temperatures, start, target: float, box, *, clock=None, cells=(240, 80)):
    """Mean time of dz_i = −∂_iV dτ + √(2T_i) dW_i in the plane to go from ``start`` to x ≥ ``target``.

    The backward equation on a grid with exponentially fitted differences (second order, every rate positive).
    The T_i may differ, in which case V is not the quasi-potential. Raises ValueError for numbers out of
    range, a start outside of the box or beyond the target, or a time so long that rounding decides it (10¹³
    of the shortest times of the grid).

    Parameters
    ----------
    potential, clock : callable
        V of arrays (x, y), and how much of the time to be measured passes per unit of τ: 1/L on the
        logarithmic landscape, 1 by default.
    temperatures, start : (float, float)
        (T_x, T_y), and (x, y), moved to the nearest grid point.
    box : ((x_low, x_high), (y_low, y_high))
        Walls that reflect; x ≥ target inside it is the target.
    cells : (int, int)
        Along x and y.
    """
    _check.instance("potential", potential, Callable)
    temperatures = _check.array("temperatures", temperatures, above=0, shape=(2,))
    start, target = _check.array("start", start, shape=(2,)), _check.number("target", target)
    box = _check.array("box", box, shape=(2, 2), increasing=True)
    cells = _check.array("cells", cells, shape=(2,), dtype=int, least=1, most=5000)
    if not (box[0, 0] <= start[0] < target < box[0, 1] and box[1, 0] <= start[1] <= box[1, 1]):
        allowed = f"in the box {box.tolist()} and before target={target:g}, which ends before it"
        raise _check.refused("start", start, allowed)
    axes = [np.linspace(*side, number + 1) for side, number in zip(box, cells, strict=True)]
    place = [int(np.abs(axis - at).argmin()) for axis, at in zip(axes, start, strict=True)]
    if not axes[0][place[0]] < target:
        raise _check.refused("start", start, f"further than half a cell from target={target:g}")
    grid = np.meshgrid(*axes, indexing="ij")
    with np.errstate(all="ignore"):
        v = _on_grid("potential", potential, grid)
        passing = np.ones(v.shape) if clock is None else _on_grid("clock", clock, grid, above=0)
        generator = _fitted_generator(v, axes, temperatures)
        inside = np.flatnonzero(grid[0].ravel() < target)
        try:
            time = splu(generator[inside][:, inside]).solve(-passing.ravel()[inside])
        except (RuntimeError, ValueError):  # singular: rates that underflow
            time = np.full(len(inside), np.nan)
        result = float(time[np.searchsorted(inside, np.ravel_multi_index(place, v.shape))])
        shortest = np.abs(generator.diagonal()).max()
        if not 0 < result * shortest < 1e13 * passing.max():
            where = f"temperatures={temperatures}, target={target:g}, box={box.tolist()}, cells={cells}"
            raise ValueError(f"{where}, potential, clock: the mean time is too long for this grid")
    return result


def _on_grid(name, function, grid, **bounds):
    """Values of a user's function on the grid, checked."""
    values = _check.array(name, _check.instance(name, function, Callable)(*grid), **bounds)
    if values.shape not in ((), grid[0].shape):
        raise ValueError(f"{name}: must return an array of the shape of its arguments, not {values.shape}")
    return np.broadcast_to(values, grid[0].shape)


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
