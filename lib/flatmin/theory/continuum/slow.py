"""Equations of one slow coordinate, and their stationary densities in every convention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import sympy as sp

from flatmin import _check
from flatmin.theory.conventions import convention_power

__all__ = ["SlowEquation"]


@dataclass(frozen=True)
class SlowEquation:
    """One-dimensional stationary equation drift·P − D^(1−s) d/dx (D^s P) = 0, s by the convention.

    ``drift`` is the velocity dx/dτ as the ``convention`` ("ito", "stratonovich" or "isothermal": s = 1, ½ or
    0) reads it, ``diffusion`` is D(x), both expressions or numbers. Raises ValueError for another convention,
    or a drift or diffusion that is no real expression.
    """

    coordinate: sp.Symbol
    drift: sp.Expr
    diffusion: sp.Expr
    convention: str

    def __post_init__(self):
        _check.instance("coordinate", self.coordinate, sp.Symbol)
        for name in ("drift", "diffusion"):
            object.__setattr__(self, name, as_expression(name, getattr(self, name)))
        convention_power(self.convention)

    @property
    def log_slope(self) -> sp.Expr:
        """d ln P_ss/dx = drift/D − s D'/D."""
        power = convention_power(self.convention)
        return (self.drift - power * sp.diff(self.diffusion, self.coordinate)) / self.diffusion

    def read_as(self, convention: str) -> SlowEquation:
        """The same drift and diffusion under another convention (ValueError for none): another process."""
        return replace(self, convention=convention)

    def converted(self, convention: str) -> SlowEquation:
        """The same process in another convention (ValueError for none): the drift changes with it."""
        change = convention_power(convention) - convention_power(self.convention)
        shift = change * sp.diff(self.diffusion, self.coordinate)
        return replace(self, drift=self.drift + shift, convention=convention)

    def functions(self):
        """Drift and diffusion as functions of an array. Raises ValueError for symbols without numbers."""
        return self._function(self.drift), self._function(self.diffusion)

    def _function(self, expression):
        stray = (self.drift.free_symbols | self.diffusion.free_symbols) - {self.coordinate}
        if stray:
            raise ValueError(f"drift and diffusion have symbols without numbers: {sorted(map(str, stray))}")
        return vectorised(self.coordinate, expression)

    def density(self, x) -> np.ndarray:
        """Stationary density at increasing points x (n,), normalised over their range (trapezoidal rule).

        ln P is integrated from point to point by 8-point Gauss quadrature; three points or more, dense enough
        to normalise a density of that width. Raises ValueError for points that do not increase, where the
        diffusion is not positive or the drift not finite, or symbols without numbers.
        """
        x = _check.array("x", x, ndim=1, increasing=True)
        if len(x) < 3:
            raise _check.refused("x", x, "at least three increasing points")
        diffusion, slope = self._function(self.diffusion), self._function(self.log_slope)
        nodes, weights = np.polynomial.legendre.leggauss(8)
        width = np.diff(x)[:, None]
        inside = x[:-1, None] + width * (nodes + 1) / 2
        with np.errstate(all="ignore"):
            if not np.all(diffusion(inside) > 0):
                raise _check.refused("x", x, f"where D = {_check.shown(self.diffusion)} is positive")
            steps = (slope(inside) * weights * width / 2).sum(axis=1)
            log = np.concatenate([[0.0], np.cumsum(steps)])
            density = np.exp(log - log.max())
            return _check.finite(density / np.trapezoid(density, x), x=x)


def vectorised(symbol, expression):
    """The expression as a function of an array; a constant is repeated over it."""
    raw = sp.lambdify(symbol, expression, modules="numpy", cse=True)
    return lambda x: np.broadcast_to(raw(np.asarray(x, dtype=float)), np.shape(x)) + 0.0


def as_expression(name: str, value) -> sp.Expr:
    """``value``, an expression or a real number, as an expression without infinities, NaN and the unit i."""
    found = value
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        found = sp.sympify(value)
    if not isinstance(found, sp.Expr) or found.has(sp.nan, sp.zoo, sp.oo, -sp.oo, sp.I):
        raise _check.refused(name, value, "an expression or a finite real number")
    return found


def as_numbers(name: str, value, **bounds):
    """An expression with symbols as it is; anything else as a checked array."""
    if isinstance(value, sp.Basic) and value.free_symbols:
        return as_expression(name, value)
    if isinstance(value, sp.Basic) and value.is_real:
        value = float(value)
    return _check.array(name, value, **bounds)
