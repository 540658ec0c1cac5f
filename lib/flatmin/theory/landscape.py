"""Loss landscapes written once, as sympy expressions.

A :class:`Landscape` holds one expression. Its gradient, its Hessian, the noise covariance built on
them (:mod:`flatmin.theory.noise`) and the compiled simulator (:mod:`flatmin.theory.sgd.simulate`) all come
from that expression, so text, derivation and simulation cannot disagree.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import sympy as sp

__all__ = ["Landscape"]


@dataclass(frozen=True)
class Landscape:
    """A loss function of a few coordinates, with symbolic parameters.

    Parameters
    ----------
    loss : sympy expression
        The loss L(θ), a real scalar. May be piecewise in the coordinates.
    coordinates : sequence of sympy symbols
        θ, in order. Trajectories and gradients use this order.
    parameters : sequence of sympy symbols
        Everything else the loss depends on.
    positive : mapping from text to expression, optional
        Expressions of one coordinate that must stay positive on the whole real line, each under the words
        an error message should use for it (for example ``{"λ(x)": λ0 + λ1 x²}``). Checked once the
        parameters have numbers.
    values : mapping, optional
        Numbers already put in for parameters; use :meth:`at`.
    name : str
        For messages and figures.

    Raises
    ------
    ValueError
        If the loss is complex, has a symbol that is neither coordinate nor parameter, or if a positive
        expression is not positive for the given values.
    """

    loss: sp.Expr
    coordinates: tuple[sp.Symbol, ...]
    parameters: tuple[sp.Symbol, ...] = ()
    positive: Mapping[str, sp.Expr] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    name: str = "landscape"

    def __post_init__(self):
        object.__setattr__(self, "loss", sp.sympify(self.loss))
        object.__setattr__(self, "coordinates", tuple(self.coordinates))
        object.__setattr__(self, "parameters", tuple(self.parameters))
        if not self.coordinates:
            raise ValueError("coordinates is empty: a landscape needs at least one coordinate")
        if self.loss.has(sp.I) or self.loss.is_real is False:
            raise ValueError(f"loss must be real, got the complex expression {self.loss}")
        stray = self.loss.free_symbols - set(self.coordinates) - set(self.parameters)
        if stray:
            names = ", ".join(sorted(map(str, stray)))
            raise ValueError(
                f"loss has free symbols {names} that are neither coordinates {self.coordinates} "
                f"nor parameters {self.parameters}"
            )
        if self.is_numeric:
            self._check_positive()

    def _check_positive(self):
        for words, expression in self.positive.items():
            numeric = self.substitute(expression)
            (variable,) = numeric.free_symbols or (self.coordinates[0],)
            lowest = _minimum(numeric, variable)
            if lowest <= 0:
                given = ", ".join(f"{k}={v:g}" for k, v in self.values.items())
                raise ValueError(
                    f"{words} = {numeric} must be positive for every {variable}, "
                    f"but its minimum is {lowest:.4g} for {given}"
                )

    # ------------------------------------------------------------------ symbols
    @cached_property
    def gradient(self) -> sp.Matrix:
        """∇L, a column of shape (d, 1)."""
        return sp.Matrix([sp.diff(self.loss, q) for q in self.coordinates])

    @cached_property
    def hessian(self) -> sp.Matrix:
        """H = ∇∇L, shape (d, d), symmetric."""
        return sp.hessian(self.loss, self.coordinates)

    @property
    def dimension(self) -> int:
        """Number of coordinates d."""
        return len(self.coordinates)

    @property
    def is_numeric(self) -> bool:
        """Whether every parameter has a number."""
        return all(p.name in self.values for p in self.parameters)

    def symbol(self, name: str) -> sp.Symbol:
        """The coordinate or parameter of that name."""
        for s in self.coordinates + self.parameters:
            if s.name == name:
                return s
        raise ValueError(f"name {name!r} is unknown here; {self._suggest(name)}")

    def _suggest(self, name: str) -> str:
        known = [s.name for s in self.parameters + self.coordinates]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"{hint}{self.name} knows {', '.join(known)}"

    # ------------------------------------------------------------------ numbers
    def at(self, **values: float) -> Landscape:
        """The same landscape with numbers for some or all parameters.

        Raises
        ------
        ValueError
            For an unknown parameter name, a value that is not a finite real number, or values that make
            an expression of ``positive`` negative somewhere.
        """
        known = {p.name for p in self.parameters}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"parameter {name!r} is unknown; {self._suggest(name)}")
            if isinstance(value, complex) or not math.isfinite(float(value)):
                raise ValueError(f"parameter {name} must be a finite real number, got {value!r}")
        merged = {**self.values, **{k: float(v) for k, v in values.items()}}
        return replace(self, values={p.name: merged[p.name] for p in self.parameters if p.name in merged})

    def substitute(self, expression: sp.Expr) -> sp.Expr:
        """Put this landscape's numbers into an expression in its symbols."""
        return expression.subs({p: self.values[p.name] for p in self.parameters if p.name in self.values})

    def expression(self, text: str | sp.Expr) -> sp.Expr:
        """Read ``"x**2"`` and the like as an expression in this landscape's symbols."""
        names = {s.name: s for s in self.coordinates + self.parameters}
        parsed = sp.sympify(text, locals=names) if isinstance(text, str) else sp.sympify(text)
        stray = parsed.free_symbols - set(names.values())
        if stray:
            unknown = ", ".join(sorted(map(str, stray)))
            raise ValueError(f"expression {text!r} has unknown symbols {unknown}; {self._suggest(unknown)}")
        return parsed

    def function(self, expression: str | sp.Expr | sp.Matrix) -> Callable[..., np.ndarray]:
        """Compile an expression in the coordinates to a NumPy function of arrays.

        Parameters
        ----------
        expression : str, expression or Matrix
            In this landscape's symbols, whose parameters must have numbers.

        Returns
        -------
        callable
            ``f(x, y, …)`` broadcasting over arrays. A Matrix gives an array with the broadcast shape
            first and the matrix shape (columns flattened) last.
        """
        self.require_numbers()
        if isinstance(expression, sp.MatrixBase):
            entries = [[self.function(e) for e in expression.row(i)] for i in range(expression.rows)]

            def matrix(*points):
                rows = [np.stack([f(*points) for f in row], axis=-1) for row in entries]
                stacked = np.stack(rows, axis=-2)
                return stacked[..., 0] if expression.cols == 1 else stacked

            return matrix
        numeric = self.substitute(self.expression(expression))
        raw = sp.lambdify(self.coordinates, numeric, modules="numpy", cse=True)

        def scalar(*points):
            points = [np.asarray(p, dtype=float) for p in points]
            return np.broadcast_to(raw(*points), np.broadcast_shapes(*(p.shape for p in points))) + 0.0

        return scalar

    def require_numbers(self):
        """Raise unless every parameter has a number."""
        missing = [p.name for p in self.parameters if p.name not in self.values]
        if missing:
            raise ValueError(f"parameters {', '.join(missing)} have no value yet: give them with .at(...)")

    def _repr_latex_(self):
        return f"$\\displaystyle L = {sp.latex(self.loss)}$"


def _minimum(expression: sp.Expr, variable: sp.Symbol) -> float:
    """Smallest value of a polynomial on the real line (−inf if it falls without bound)."""
    if not expression.has(variable):
        return float(expression)
    coefficients = [float(c) for c in sp.Poly(expression, variable).all_coeffs()]
    while len(coefficients) > 1 and coefficients[0] == 0:
        coefficients = coefficients[1:]
    if len(coefficients) == 1:
        return coefficients[0]
    if len(coefficients) % 2 == 0 or coefficients[0] < 0:
        return -math.inf
    roots = np.roots(np.polyder(coefficients))
    real = roots[np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots))].real
    return float(np.polyval(coefficients, real).min())
