"""Loss landscapes written once, as sympy expressions.

A :class:`Landscape` holds one expression. Its gradient, its Hessian, the noise covariance built on
them (:mod:`flatmin.theory.noise`) and the compiled simulator (:mod:`flatmin.theory.sgd.simulate`) all come
from that expression, so text, derivation and simulation cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import sympy as sp
from sympy.core.function import AppliedUndef

from flatmin import _check
from flatmin.theory.expressions import parse

__all__ = ["Landscape"]


#: names that the theory needs itself: step size, noise strength, noise level
_TAKEN = ("eta", "sigma", "Delta_S")
#: largest parameter: the square is still a double
_LARGEST = 1e150


@dataclass(frozen=True)
class Landscape:
    """A loss L(θ) of a few coordinates, with symbolic parameters (Y23 Eq. 8, Y26 Eq. 5 and the like).

    Parameters
    ----------
    loss : sympy expression, number or text
        The loss L(θ), a real scalar. May be piecewise in the coordinates. A text is read by
        :func:`flatmin.theory.expressions.parse`.
    coordinates : sequence of sympy symbols
        θ, in order. Trajectories and gradients use this order.
    parameters : sequence of sympy symbols
        Everything else the loss depends on.
    positive : mapping from text to expression, optional
        Polynomials in at most one coordinate that must stay positive on the whole real line, each under the
        words an error message should use for it (for example ``{"λ(x)": λ0 + λ1 x²}``). Checked once the
        parameters have numbers.
    domain : mapping from text to expression, optional
        Expressions that must be positive at a point for the loss to mean anything there, such as
        ``{"y + y_f": …}``. A trajectory that leaves the domain has diverged.
    values : mapping, optional
        Numbers already put in for parameters; use :meth:`at`.
    name : str
        For messages and figures.

    Raises
    ------
    ValueError
        If the loss is complex or not finite, has a symbol that is neither coordinate nor parameter, if two
        symbols share a name or have one of eta, sigma, Delta_S, or if a positive expression is not positive
        for the given values.

    Examples
    --------
    >>> import flatmin as fm
    >>> import numpy as np
    >>> import sympy as sp
    >>> x, y = sp.symbols("x y", real=True)
    >>> k = sp.Symbol("k", positive=True)
    >>> bowl = fm.Landscape(x**2 / 2 + k * y**2, (x, y), (k,))
    >>> bowl.gradient.T
    Matrix([[x, 2*k*y]])
    >>> bowl.at(k=3).function("x + k")(np.array([0.0, 1.0]), 0)
    array([3., 4.])
    """

    loss: sp.Expr
    coordinates: tuple[sp.Symbol, ...]
    parameters: tuple[sp.Symbol, ...] = ()
    positive: Mapping[str, sp.Expr] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    name: str = "landscape"
    domain: Mapping[str, sp.Expr] = field(default_factory=dict)

    def __post_init__(self):
        _check.instance("name", self.name, str)
        object.__setattr__(self, "coordinates", _symbols("coordinates", self.coordinates, least=1))
        object.__setattr__(self, "parameters", _symbols("parameters", self.parameters))
        names = [s.name for s in self.coordinates + self.parameters]
        if len(set(names)) < len(names):
            both = f"coordinates and parameters are {', '.join(names)}"
            raise ValueError(f"{both}: must have different names")
        loss = _expression("loss", self.loss, self._known)
        if loss.has(sp.I, sp.nan, sp.zoo, sp.oo, -sp.oo) or loss.is_real is False:
            raise _check.refused("loss", self.loss, "real and finite")
        object.__setattr__(self, "loss", loss)
        for key in ("positive", "domain"):
            object.__setattr__(self, key, _expressions(key, getattr(self, key), self._known))
        object.__setattr__(self, "values", self._numbers("values", self.values))
        if self.is_numeric:
            self._check_positive()

    @property
    def _known(self) -> dict[str, sp.Symbol]:
        return {s.name: s for s in self.coordinates + self.parameters}

    def _numbers(self, argument, values) -> dict[str, float]:
        """Numbers for parameters, in the order of the parameters."""
        _check.instance(argument, values, Mapping)
        names = [p.name for p in self.parameters]
        for name, value in values.items():
            _check.choice(f"{argument}: parameter", name, names)
            _check.number(name, value, least=-_LARGEST, most=_LARGEST)
        return {name: float(values[name]) for name in names if name in values}

    def _check_positive(self):
        for words, expression in self.positive.items():
            numeric = self.substitute(expression)
            if len(numeric.free_symbols) > 1 or not numeric.is_polynomial(*numeric.free_symbols):
                raise _check.refused("positive", words, "a polynomial in at most one coordinate")
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
        """The coordinate or parameter of that name; ValueError for a name it does not have."""
        return self._known[_check.choice("name", name, self._known)]

    # ------------------------------------------------------------------ numbers
    def at(self, **values: float) -> Landscape:
        """The same landscape with numbers for some or all parameters.

        Raises ValueError for an unknown parameter name, a value that is not a finite real number, or values
        that make an expression of ``positive`` negative somewhere.
        """
        return replace(self, values={**self.values, **self._numbers("at", values)})

    def substitute(self, expression: sp.Expr | sp.Matrix) -> sp.Expr | sp.Matrix:
        """Put this landscape's numbers into a sympy expression or matrix in its symbols; ValueError else."""
        _check.instance("expression", expression, (sp.Expr, sp.MatrixBase))
        return expression.subs({p: self.values[p.name] for p in self.parameters if p.name in self.values})

    def expression(self, expression: str | sp.Expr) -> sp.Expr:
        """Read ``"x**2"`` and the like as an expression in this landscape's symbols.

        ValueError for symbols it does not have, and for a text that holds anything but arithmetic and the
        functions of :mod:`flatmin.theory.expressions`; a text is never executed.
        """
        return _expression("expression", expression, self._known)

    def even(self, expression: str | sp.Expr, coordinate: sp.Symbol) -> bool:
        """Whether an ``expression`` stays as it is when a ``coordinate`` changes its sign.

        Raises ValueError for what is no coordinate, and as :meth:`expression`.
        """
        if not isinstance(coordinate, sp.Symbol) or coordinate not in self.coordinates:
            raise _check.refused("coordinate", coordinate, f"one of {', '.join(map(str, self.coordinates))}")
        found = self.expression(expression)
        return sp.expand(found - found.subs(coordinate, -coordinate)) == 0

    def function(self, expression: str | sp.Expr | sp.Matrix) -> Callable[..., np.ndarray]:
        """Compile an expression in the coordinates to a NumPy function of arrays.

        Raises ValueError for an unknown symbol or function, or a parameter without a number.

        Parameters
        ----------
        expression : str, expression or Matrix
            In this landscape's symbols, whose parameters must have numbers.

        Returns
        -------
        callable
            ``f(x, y, …)`` broadcasting over arrays. A Matrix gives an array with the broadcast shape
            first and the matrix shape (columns flattened) last. It raises ValueError for another number of
            coordinates, and for points outside the landscape's ``domain``.
        """
        self.require_numbers()
        if not isinstance(expression, sp.MatrixBase):
            return self._scalar(self.substitute(self.expression(expression)))
        entries = [[self.function(e) for e in expression.row(i)] for i in range(expression.rows)]

        def matrix(*points):
            rows = [np.stack([f(*points) for f in row], axis=-1) for row in entries]
            stacked = np.stack(rows, axis=-2)
            return stacked[..., 0] if expression.cols == 1 else stacked

        return matrix

    def _scalar(self, numeric):
        """A NumPy function of the coordinates for an expression with numbers."""
        unknown = numeric.atoms(AppliedUndef)
        if unknown:
            raise _check.refused("expression", numeric, f"without the undefined {sorted(map(str, unknown))}")
        raw = sp.lambdify(self.coordinates, numeric, modules="numpy", cse=True)

        def scalar(*points):
            points = self._points(points)
            return np.broadcast_to(raw(*points), np.broadcast_shapes(*(p.shape for p in points))) + 0.0

        return scalar

    def _points(self, points):
        """One float array for each coordinate, inside the domain."""
        if len(points) != self.dimension:
            raise _check.refused("points", len(points), f"{self.dimension} arrays, one for each coordinate")
        arrays = [np.asarray(p) for p in points]
        for coordinate, given, array in zip(self.coordinates, points, arrays, strict=True):
            if array.dtype.kind not in "iuf":
                raise _check.refused(coordinate.name, given, "real numbers")
        arrays = [np.asarray(a, dtype=float) for a in arrays]
        self.require_domain(*arrays)
        return arrays

    def require_domain(self, *points: np.ndarray) -> None:
        """Raise ValueError where an expression of ``domain`` is not positive at one of the points."""
        for words, inside in self._domain:
            if not np.all(inside(*points) > 0):
                raise ValueError(
                    f"{', '.join(c.name for c in self.coordinates)}: must lie where {words} > 0, "
                    f"outside {self.name} is not defined"
                )

    @cached_property
    def _domain(self):
        numeric = {words: self.substitute(e) for words, e in self.domain.items()}
        return [(words, sp.lambdify(self.coordinates, e, modules="numpy")) for words, e in numeric.items()]

    def require_numbers(self):
        """Raise unless every parameter has a number."""
        missing = [p.name for p in self.parameters if p.name not in self.values]
        if missing:
            raise ValueError(f"parameters {', '.join(missing)} have no value yet: give them with .at(...)")

    def _repr_latex_(self):
        return f"$\\displaystyle L = {sp.latex(self.loss)}$"


def _symbols(name, given, least=0) -> tuple[sp.Symbol, ...]:
    """A tuple of symbols with names of their own."""
    allowed = "a sequence of sympy symbols" + (", at least one" if least else "")
    symbols = isinstance(given, (tuple, list)) and all(isinstance(s, sp.Symbol) for s in given)
    if not symbols or len(given) < least:
        raise _check.refused(name, given, allowed)
    if any(s.name in _TAKEN for s in given):
        raise _check.refused(name, given, f"named otherwise than {', '.join(_TAKEN)}")
    return tuple(given)


def _expression(name, given, known) -> sp.Expr:
    """A text, number or expression in the known symbols."""
    if isinstance(given, str):
        return parse(name, given, known)
    if not isinstance(given, sp.Expr):
        try:
            given = sp.sympify(_check.number(name, given))
        except ValueError:
            raise _check.refused(name, given, "a sympy expression, a number or a text") from None
    stray = given.free_symbols - set(known.values())
    if stray:
        names = ", ".join(sorted(map(str, stray)))
        raise _check.refused(name, given, f"an expression in {', '.join(known)}; it has free symbols {names}")
    return given


def _expressions(name, given, known) -> dict[str, sp.Expr]:
    _check.instance(name, given, Mapping)
    return {str(words): _expression(name, e, known) for words, e in given.items()}


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
