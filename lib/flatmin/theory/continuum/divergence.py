"""How long a run of SGD lives in a valley, from its own update: no density, no fitted constant.

One step of the random shift moves θ to θ − η∇L + √(2ηΔ_S) H z (Y22 S1–S4). Near the floor it multiplies y
by 1 − a + bz with a = ηλ(x) and b = √(2ηΔ_S) λ'(x) (:func:`typical_growth`, :func:`edges`). The mean time to
be lost solves T(θ) = η + E T(θ') (:class:`Lifetime`). Far out the valley is ½λ₂x⁴y² and the noise outruns the
drift; the law there is scale-free (:func:`tail_exponent`), and :data:`CONFINING` makes a function V which
shows that the equation of η → 0 does not explode.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import sympy as sp
from scipy.integrate import solve_ivp
from scipy.linalg import solve
from scipy.optimize import brentq
from scipy.special import dawsn

from flatmin import _check
from flatmin.theory.landscape import Landscape

__all__ = ["CONFINING", "Lifetime", "edges", "tail_exponent", "typical_growth"]

#: s² and q₁, q₂, … of V = ln R + Σ qⱼ(X/R)ʲ with X² = 1 + x², R² = y² + s²X², which falls far out
CONFINING = sp.Rational(9, 20), tuple(sp.Rational(q, 1000) for q in (-20, -369, 750, -1978, 1961, -574))

#: nodes of the quadrature over one normal variable, by how many cells a step spreads over
_ORDERS = ((0.5, 5), (2.0, 9), (6.0, 15), (np.inf, 23))
_STENCIL = np.arange(-2, 3)
_CHUNK = 3_000_000


def typical_growth(shrink, kick):
    """E ln|1 − a + bz| of a standard normal z: by what a typical run's ln|y| grows in a step.

    With μ = (1 − a)/b it is ln b − (γ + ln 2)/2 + 2∫₀^(μ/√2) F(s) ds, F Dawson's function. ``shrink`` a and
    ``kick`` b > 0 are numbers or arrays that broadcast; ValueError for others.
    """
    shrink, kick = _check.array("shrink", shrink), _check.array("kick", kick, above=0)
    _check.together(shrink=shrink, kick=kick)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    with np.errstate(all="ignore"):
        ratio = np.abs(1 - shrink) / kick
        near = np.minimum(ratio, 10.0) / np.sqrt(2)
        integral = near * (dawsn(near[..., None] * (nodes + 1) / 2) @ weights)
        inner = -(np.euler_gamma + np.log(2)) / 2 + integral
        r = np.maximum(ratio, 10.0) ** -2.0
        outer = np.log(np.maximum(ratio, 10.0)) - r / 2 - 3 * r**2 / 4 - 5 * r**3 / 2 - 105 * r**4 / 8
        result = np.log(kick) + np.where(ratio < 10, inner, outer)
    return _check.finite(result[()], shrink=shrink, kick=kick)


def edges(landscape: Landscape, eta: float, delta_s: float) -> tuple[float, float]:
    """The x > 0 beyond which one step's factor 1 − a + bz of y makes ⟨y²⟩ grow, and beyond which ln|y| does.

    The first is where (1 − a)² + b² = 1, Y22 S9 at frozen x; the second, further out, where
    :func:`typical_growth` vanishes. Both are the outermost such x below 10⁴; ∞ if there is growth nowhere out
    there, 0 if everywhere. Raises ValueError for a landscape without numbers or not of two coordinates, or
    η and Δ_S not between 0 and 10¹⁰⁰.
    """
    eta, delta_s = _check.numbers(eta=eta, delta_s=delta_s, above=0, most=1e100)
    curvature = _plane(landscape).hessian[1, 1]
    value, slope = (landscape.function(e) for e in (curvature, sp.diff(curvature, landscape.coordinates[0])))

    def factor(x):
        """a and b at x, the latter kept from 0."""
        return eta * value(x, 0.0), np.maximum(np.sqrt(2 * eta * delta_s) * np.abs(slope(x, 0.0)), 1e-300)

    def square(x):
        a, b = factor(x)
        return -2 * a + a**2 + b**2

    line = np.geomspace(1e-3, 1e4, 2001)
    found = []
    for growth in (square, lambda x: typical_growth(*factor(x))):
        inside = np.flatnonzero(growth(line) < 0)
        if not len(inside) or inside[-1] == len(line) - 1:
            found.append(np.inf if len(inside) else 0.0)
        else:
            found.append(float(brentq(growth, *line[inside[-1] : inside[-1] + 2])))
    return tuple(found)


def _plane(landscape) -> Landscape:
    """The landscape, with numbers and two coordinates."""
    _check.instance("landscape", landscape, Landscape).require_numbers()
    if landscape.dimension != 2:
        allowed = f"of two coordinates, it has {landscape.dimension}"
        raise _check.refused("landscape", landscape.name, allowed)
    return landscape


class Lifetime:
    """The mean time τ = ηt until a run of the random shift leaves a box: T(θ) = η + E T(θ'), T = 0 outside.

    T is kept at nodes equally spaced in arcsinh(x/x₀) and arcsinh(y/y₀), which resolve the floor and jumps of
    fifty alike; between them it is a polynomial of degree four, and the mean over a step a Gauss–Hermite sum.
    With the default cells the time is right to about 1 % down to rates of 10⁻⁴ per τ; smaller rates need more
    cells, and a rim that a run crosses in steps much shorter than a cell costs some per cent.

    Parameters
    ----------
    landscape : Landscape
        With numbers and two coordinates, even in each.
    eta, delta_s : float
        Step size and noise level Δ_S = ησ, above 0, at most 10¹⁰⁰.
    bound : float or (float, float)
        A run is lost when |x| or |y| exceeds it; at most 10³⁰.
    cells : (int, int)
        Nodes between 0 and the bound along each coordinate, 8 to 400, at most 8000 in all.
    core : (float, float), optional
        x₀ and y₀; by default ½ and ½√(Δ_S λ) with λ = ∂²L/∂y² at 0.

    Raises
    ------
    ValueError
        For arguments outside of these, and where the nodes are too coarse for an answer.
    """

    def __init__(self, landscape, eta, delta_s, *, bound=50.0, cells=(36, 40), core=None):
        self.landscape = _plane(landscape)
        for q in landscape.coordinates:
            if not landscape.even(landscape.loss, q):
                raise _check.refused("landscape", landscape.name, f"even in {q}")
        self.eta, self.delta_s = _check.numbers(eta=eta, delta_s=delta_s, above=0, most=1e100)
        bound = _check.array("bound", bound, above=0, most=1e30)
        if bound.shape not in ((), (2,)):
            raise _check.refused("bound", bound, "one number or two")
        self.bound = np.broadcast_to(bound, (2,))
        self.cells = _check.array("cells", cells, shape=(2,), dtype=int, least=8, most=400)
        if self.cells.prod() > 8000:
            raise _check.refused("cells", cells, "at most 8000 in all")
        if core is None:
            core = 0.5, 0.5 * np.sqrt(delta_s * landscape.function(landscape.hessian[1, 1])(0.0, 0.0))
        self.core = _check.array("core", core, above=0, shape=(2,))
        # the outermost node stands on the bound, where T falls to 0 at once
        self._spacing = np.arcsinh(self.bound / self.core) / (self.cells - 1)
        with np.errstate(all="ignore"):
            self._times = solve(self._matrix(), np.full(self.cells.prod(), self.eta), check_finite=False)
        if not (np.isfinite(self._times).all() and self._times[0] > 0):
            raise ValueError(
                f"cells={cells}: must be more for eta={eta:g}, delta_s={delta_s:g}, bound={bound.tolist()}"
            )

    @property
    def nodes(self) -> np.ndarray:
        """Where T is kept, (2, nodes)."""
        lines = [
            c * np.sinh(h * np.arange(n))
            for c, h, n in zip(self.core, self._spacing, self.cells, strict=True)
        ]
        return np.stack([part.ravel() for part in np.meshgrid(*lines, indexing="ij")])

    def time(self, start) -> float | np.ndarray:
        """Mean τ to be lost from ``start``, (x, y) as numbers or arrays within the bound; else ValueError."""
        columns, weights = self._at(start)
        found = (self._times[columns] * weights).sum(axis=-1).reshape(np.shape(start)[1:])
        return found if found.ndim else float(found)

    def rate(self, start) -> float:
        """1/T(start), per unit of τ; ValueError as :meth:`time`."""
        return 1 / float(self.time(_check.array("start", start, shape=(2,))))

    def _at(self, start):
        """Columns and weights that read T at points (2, …)."""
        points = _check.array("start", start)
        if points.ndim < 1 or len(points) != 2 or not self._inside(points):
            raise _check.refused("start", start, f"two coordinates within {self.bound.tolist()}")
        return self._reading(np.abs(points).reshape(2, -1))

    def _inside(self, points) -> bool:
        return all((np.abs(q) <= b).all() for q, b in zip(points, self.bound, strict=True))

    def _reading(self, points):
        """Columns and weights (n, 25) of the polynomial through the nearest nodes at points (2, n) ≥ 0."""
        parts = []
        for c, h, n, q in zip(self.core, self._spacing, self.cells, points, strict=True):
            place = np.arcsinh(q / c) / h
            middle = np.clip(np.rint(place), 0, n - 3).astype(int)
            inside = (place < n - 1 + 1e-9)[:, None]
            parts.append((np.abs(middle[:, None] + _STENCIL), _lagrange(place - middle) * inside))
        (i, u), (j, v) = parts
        columns = i[:, :, None] * self.cells[1] + j[:, None, :]
        return columns.reshape(len(i), -1), (u[:, :, None] * v[:, None, :]).reshape(len(i), -1)

    def _matrix(self):
        """1 − P, P the mean over one step."""
        nodes, total = self.nodes, self.cells.prod()
        gradient = np.moveaxis(self.landscape.function(self.landscape.gradient)(*nodes), -1, 0)
        root = np.moveaxis(self.landscape.function(self.landscape.hessian)(*nodes), 0, -1)
        root = np.sqrt(2 * self.eta * self.delta_s) * root
        mean = nodes - self.eta * gradient
        gap = np.hypot(nodes, self.core[:, None]) * self._spacing[:, None]
        spread = (np.hypot(root[:, 0], root[:, 1]) / gap).max(axis=0)
        matrix, low = np.identity(total), 0.0
        for high, order in _ORDERS:
            rows = np.flatnonzero((spread >= low) & (spread < high))
            step = max(1, _CHUNK // (25 * order**2))
            for some in (rows[i : i + step] for i in range(0, len(rows), step)):
                matrix[some] -= self._step(mean[:, some], root[:, :, some], order)
            low = high
        return matrix

    def _step(self, mean, root, order):
        """Rows of P (n, nodes): the mean over the order² draws of a step from n nodes."""
        z, w = np.polynomial.hermite_e.hermegauss(order)
        draws = np.stack([part.ravel() for part in np.meshgrid(z, z, indexing="ij")])
        share = np.outer(w, w).ravel() / w.sum() ** 2
        moved = np.abs(mean[:, :, None] + np.einsum("ijn,jq->inq", root, draws))
        columns, weights = self._reading(np.minimum(moved, 2 * self.bound[:, None, None]).reshape(2, -1))
        number, total = mean.shape[1], self.cells.prod()
        weights = weights.reshape(number, len(share), -1) * share[:, None]
        columns = columns.reshape(number, -1) + total * np.arange(number)[:, None]
        return np.bincount(columns.ravel(), weights.ravel(), minlength=number * total).reshape(number, total)


def _lagrange(offset):
    """Weights (n, 5) of the values at −2 … 2 in the polynomial of degree 4 at ``offset`` (n,)."""
    o, s = offset, offset**2
    edge, near = s * (s - 1) / 24, s * (s - 4) / -6
    outer, inner = o * (s - 1) / 12, o * (s - 4) / -6
    return np.stack([edge - outer, near - inner, (s - 1) * (s - 4) / 4, near + inner, edge + outer], axis=1)


@lru_cache(maxsize=1)
def tail_exponent() -> float:
    """The p, about 0.71, for which x^p k(y/x) ~ y^p is harmonic for dθ = H dW of L = ½λ₂x⁴y².

    There the chance to climb from y to Y is (y/Y)^p. k solves the generator's equation with k'(0) = 0 and is
    αu^p + βu^(p−1) far out; p is where β = 0. The second walk around x = 0 is then as likely up as down.
    """

    def beta(p):
        u_far = 1e4

        def slope(u, state):
            k, bend = state
            a, c = 36 * u**4 + 16 * u**2, 24 * u**3 + 4 * u  # (H²)₁₁ and (H²)₁₂ at (1, u)
            square = 36 * u**6 - 32 * u**4 + 8 * u**2 + 1
            return bend, (p - 1) * (2 * (u * a - c) * bend - p * a * k) / square

        k, bend = solve_ivp(slope, (0, u_far), (1.0, 0.0), method="LSODA", rtol=1e-11, atol=1e-13).y[:, -1]
        return (p * k - u_far * bend) * u_far ** (1 - p)

    return float(brentq(beta, 0.6, 0.8, xtol=1e-9))
