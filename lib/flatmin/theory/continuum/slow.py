"""Equations of one slow coordinate, and their stationary densities in every convention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import sympy as sp

from flatmin import _check
from flatmin.theory.conventions import convention_power

__all__ = ["SlowEquation"]


@dataclass(frozen=True)
class SlowEquation:
    """One-dimensional stationary equation drift·P − D^(1−s) d/dx (D^s P) = 0, s by the convention.

    ``drift`` is the velocity dx/dτ as the ``convention`` ("ito", "stratonovich" or "isothermal": s = 1, ½ or
    0) reads it, ``diffusion`` is D(x), both expressions or numbers. ``values`` are numbers for their other
    symbols, as :meth:`at` takes them. Raises ValueError for another convention, a drift or diffusion that is
    no real expression, or values that are not numbers for its symbols.
    """

    coordinate: sp.Symbol
    drift: sp.Expr
    diffusion: sp.Expr
    convention: str
    values: tuple[tuple[sp.Symbol, float], ...] = ()

    def __post_init__(self):
        _check.instance("coordinate", self.coordinate, sp.Symbol)
        for name in ("drift", "diffusion"):
            object.__setattr__(self, name, as_expression(name, getattr(self, name)))
        convention_power(self.convention)
        object.__setattr__(self, "values", tuple(self._checked(self.values).items()))

    @property
    def others(self) -> set[sp.Symbol]:
        """Symbols of drift and diffusion other than the coordinate."""
        return (self.drift.free_symbols | self.diffusion.free_symbols) - {self.coordinate}

    def _checked(self, values) -> dict[sp.Symbol, float]:
        """``values`` if they are numbers for other symbols than the coordinate, ValueError otherwise."""
        try:
            found = dict(_check.instance("values", values, (Mapping, tuple)))
        except (TypeError, ValueError):
            found = {None: values}
        if not found.keys() <= self.others:
            some = ", ".join(sorted(map(str, self.others))) or "none"
            raise _check.refused("values", values, f"numbers for other symbols than the coordinate: {some}")
        return {q: _check.number(f"values[{q}]", number) for q, number in found.items()}

    def at(self, values: Mapping[sp.Symbol, float]) -> SlowEquation:
        """The same with numbers for other symbols than the coordinate, such as Δ_S.

        They are put in where functions are evaluated: compiled once, these serve for all numbers. Raises
        ValueError for a symbol that drift and diffusion have not, or what is no finite number.
        """
        return replace(self, values={**dict(self.values), **self._checked(values)})

    @property
    def log_slope(self) -> sp.Expr:
        """d ln P_ss/dx = drift/D − s D'/D."""
        return _log_slope(self.coordinate, self.drift, self.diffusion, convention_power(self.convention))

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
        values = dict(self.values)
        if stray := self.others - set(values):
            raise ValueError(f"drift and diffusion have symbols without numbers: {sorted(map(str, stray))}")
        raw = vectorised(self.coordinate, expression, tuple(values))
        return lambda x: raw(x, *values.values())

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


@lru_cache(maxsize=64)
def _log_slope(coordinate, drift, diffusion, power) -> sp.Expr:
    return (drift - power * sp.diff(diffusion, coordinate)) / diffusion


@lru_cache(maxsize=64)
def vectorised(symbol, expression, others=()):
    """The expression as a function of an array, and of numbers for ``others``; a constant is repeated."""
    raw = sp.lambdify((symbol, *others), expression, modules="numpy", cse=True)

    def function(x, *numbers):
        x, *numbers = (np.asarray(part, dtype=float) for part in (x, *numbers))
        return np.broadcast_to(raw(x, *numbers), x.shape) + 0.0

    return function


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
