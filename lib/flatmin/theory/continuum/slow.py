"""Equations of one slow coordinate, their stationary densities in every convention, and Gaussian averages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import sympy as sp

from flatmin.theory.continuum.fokker_planck import CONVENTIONS

__all__ = ["SlowEquation", "gaussian_moments", "variance_growth"]


#: power s of D in P ∝ D^(−s) exp ∫drift/D
_POWERS = dict(zip(CONVENTIONS, (1, sp.Rational(1, 2), 0), strict=True))


def gaussian_moments(expression: sp.Expr, variables: dict[sp.Symbol, sp.Expr]) -> sp.Expr:
    """Mean of a polynomial in independent centred normal ``variables`` (symbol → variance).

    Raises ValueError when the expression is not a polynomial in them.
    """
    try:
        polynomial = sp.Poly(sp.expand(expression), *variables)
    except sp.PolynomialError:
        raise ValueError(f"expression {expression}: must be a polynomial in {list(variables)}") from None
    total = sp.Integer(0)
    for powers, coefficient in polynomial.terms():
        if all(p % 2 == 0 for p in powers):
            factors = [
                sp.factorial2(p - 1) * v ** (p // 2)
                for p, v in zip(powers, variables.values(), strict=True)
                if p
            ]
            total += coefficient * sp.prod(factors)
    return total


def variance_growth(curvature_mean, curvature_square, slope_square, eta, sigma):
    """Factor by which one step multiplies ⟨y²⟩, less one (Y22 S9): η²⟨λ²⟩ − 2η⟨λ⟩ + 2η²σ⟨λ'²⟩.

    Parameters
    ----------
    curvature_mean, curvature_square, slope_square : ⟨λ⟩, ⟨λ²⟩, ⟨λ'²⟩ (numbers, arrays or expressions)
    eta, sigma : learning rate and noise strength

    Returns
    -------
    The same kind; negative where the variance of y is stable.
    """
    return eta**2 * curvature_square - 2 * eta * curvature_mean + 2 * eta**2 * sigma * slope_square


@dataclass(frozen=True)
class SlowEquation:
    """One-dimensional stationary equation drift·P − D^(1−s) d/dx (D^s P) = 0, s by the convention.

    Attributes
    ----------
    coordinate : sympy symbol
    drift : expression
        Velocity dx/dτ as the convention reads it.
    diffusion : expression, positive
    convention : "ito" (s = 1), "stratonovich" (s = ½) or "isothermal" (s = 0)

    Raises
    ------
    ValueError
        For an unknown convention.
    """

    coordinate: sp.Symbol
    drift: sp.Expr
    diffusion: sp.Expr
    convention: str

    def __post_init__(self):
        if self.convention not in CONVENTIONS:
            raise ValueError(f"convention={self.convention!r}: allowed are {', '.join(CONVENTIONS)}")

    @property
    def log_slope(self) -> sp.Expr:
        """d ln P_ss/dx = drift/D − s D'/D."""
        power = _POWERS[self.convention]
        return (self.drift - power * sp.diff(self.diffusion, self.coordinate)) / self.diffusion

    def read_as(self, convention: str) -> SlowEquation:
        """The same drift and diffusion under another convention: another process."""
        return replace(self, convention=convention)

    def converted(self, convention: str) -> SlowEquation:
        """The same process written in another convention: the drift changes with it."""
        if convention not in CONVENTIONS:
            raise ValueError(f"convention={convention!r}: allowed are {', '.join(CONVENTIONS)}")
        shift = (_POWERS[convention] - _POWERS[self.convention]) * sp.diff(self.diffusion, self.coordinate)
        return replace(self, drift=self.drift + shift, convention=convention)

    def functions(self):
        """Drift and diffusion as functions of an array. Raises ValueError for symbols without numbers."""
        stray = (self.drift.free_symbols | self.diffusion.free_symbols) - {self.coordinate}
        if stray:
            raise ValueError(f"drift and diffusion have symbols without numbers: {sorted(map(str, stray))}")
        return tuple(vectorised(self.coordinate, e) for e in (self.drift, self.diffusion))

    def density(self, x) -> np.ndarray:
        """Stationary density at increasing points x (n,), normalised over their range (trapezoidal rule).

        ln P is integrated from point to point by 8-point Gauss quadrature; the points must be dense
        enough for the trapezoidal rule to normalise a density of that width.
        """
        x = np.asarray(x, dtype=float)
        if x.ndim != 1 or len(x) < 3 or not np.all(np.diff(x) > 0):
            raise ValueError(f"x={x!r}: must be at least three increasing points")
        self.functions()
        slope = vectorised(self.coordinate, self.log_slope)
        nodes, weights = np.polynomial.legendre.leggauss(8)
        width = np.diff(x)[:, None]
        inside = x[:-1, None] + width * (nodes + 1) / 2
        steps = (slope(inside) * weights * width / 2).sum(axis=1)
        log = np.concatenate([[0.0], np.cumsum(steps)])
        density = np.exp(log - log.max())
        return density / np.trapezoid(density, x)


def vectorised(symbol, expression):
    raw = sp.lambdify(symbol, expression, modules="numpy", cse=True)
    return lambda x: np.broadcast_to(raw(np.asarray(x, dtype=float)), np.shape(x)) + 0.0
