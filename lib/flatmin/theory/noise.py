"""Gradient noise: what SGD adds to the gradient step, as covariance and as sampler.

Each kind of noise gives its covariance C(θ) of the *gradient* symbolically, the diffusion matrix
D = ηC/2 of the small-step limit (Y22 S10–S13), and the displacement one step adds to θ in terms of
independent standard normal variables, from which :mod:`flatmin.theory.sgd.simulate` compiles its sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import sympy as sp

from flatmin import _check
from flatmin.theory.landscape import Landscape

__all__ = [
    "HessianAligned",
    "Isotropic",
    "LossProportional",
    "NoNoise",
    "Noise",
    "RandomShift",
    "gaussian_moments",
]

#: the noise strength σ of Y23/Y22/Y26; σ ∝ 1/B
SIGMA = sp.Symbol("sigma", nonnegative=True)
ETA = sp.Symbol("eta", positive=True)


@dataclass(frozen=True)
class Noise:
    """Base class: gradient noise ξ of covariance C(θ), defined by :meth:`gradient_noise`.

    ``sigma`` is the noise strength σ (Y23 Eq. 7), an array spans a grid; ValueError unless 0 ≤ σ ≤ 1e300.
    """

    sigma: float | np.ndarray = 1.0

    def __post_init__(self):
        _check.array("sigma", self.sigma, least=0, most=1e300)

    def covariance(self, landscape: Landscape) -> sp.Matrix:
        """C(θ) = ⟨(∇L^μ − ∇L)(∇L^μ − ∇L)ᵀ⟩ (Y22 S10), (d, d), in σ; ValueError where none is made."""
        normals = self.normals(landscape)
        kick = self.gradient_noise(landscape, normals)
        products, standard = (kick * kick.T).expand(), dict.fromkeys(normals, sp.Integer(1))
        return products.applyfunc(lambda e: sp.expand(gaussian_moments(e, standard)))

    def diffusion(self, landscape: Landscape) -> sp.Matrix:
        """D = ηC/2, the diffusion matrix of the limit η → 0 in the time τ = ηt (Y22 S12); as covariance."""
        return (ETA * self.covariance(landscape) / 2).applyfunc(sp.expand)

    def normals(self, landscape: Landscape) -> tuple[sp.Symbol, ...]:
        """Symbols of the independent standard normal variables one step uses, none of the landscape's own."""
        _check.instance("landscape", landscape, Landscape)
        letter, own = "z", {s.name for s in landscape.coordinates + landscape.parameters}
        while any(f"{letter}{i}" in own for i in range(landscape.dimension)):
            letter += "z"
        return tuple(sp.Symbol(f"{letter}{i}", real=True) for i in range(landscape.dimension))

    def gradient_noise(self, landscape: Landscape, normals: tuple[sp.Symbol, ...]) -> sp.Matrix:
        """∇L^μ − ∇L for one draw of the normals, shape (d, 1), in σ: what each kind of noise is made of."""
        raise NotImplementedError


class RandomShift(Noise):
    """The random-shift minibatch: L^μ(θ) = L(θ) − μ·∇L(θ), μᵢ of variance 2σ (Y22 S1–S4, Y23 Eq. 7).

    Its covariance is C = 2σH², derived here from the minibatch loss and not typed in.

    Examples
    --------
    >>> import flatmin as fm
    >>> import sympy as sp
    >>> x, a = sp.symbols("x a", real=True)
    >>> fm.RandomShift().covariance(fm.Landscape(a * x**2 / 2, (x,), (a,)))
    Matrix([[2*a**2*sigma]])
    """

    def gradient_noise(self, landscape, normals):
        """One draw of ∇L^μ − ∇L, shape (d, 1)."""
        shift = sp.sqrt(2 * SIGMA) * sp.Matrix(normals)
        minibatch = landscape.loss - (shift.T * landscape.gradient)[0]
        difference = [sp.diff(minibatch - landscape.loss, q) for q in landscape.coordinates]
        return sp.Matrix(difference).applyfunc(sp.expand)


class Isotropic(Noise):
    """Isotropic noise of constant strength, C = 2σ·1: gradient Langevin dynamics (GLD).

    Examples
    --------
    >>> import flatmin as fm
    >>> fm.Isotropic().covariance(fm.near_degenerate_valley())
    Matrix([
    [2*sigma,       0],
    [      0, 2*sigma]])
    """

    def gradient_noise(self, landscape, normals):
        """One draw of ∇L^μ − ∇L, shape (d, 1)."""
        return sp.sqrt(2 * SIGMA) * sp.Matrix(normals)


class HessianAligned(Noise):
    """C = 2σH, H projected on its positive part where it is indefinite (Y26 Eq. 6); two coordinates.

    The sampler is H₊^{1/2} z in closed form: for a symmetric 2×2 matrix with mean m of the diagonal and
    half-gap d, H₊^{1/2} = ½(s₊ + s₋)·1 + ½(s₊ − s₋)(H − m)/d with s± = √max(m ± d, 0).

    Examples
    --------
    >>> import flatmin as fm
    >>> import sympy as sp
    >>> x, y = sp.symbols("x y", real=True)
    >>> bowl = fm.Landscape(x**2 / 2 + 2 * y**2, (x, y))
    >>> noise = fm.HessianAligned().covariance(bowl).subs("sigma", 1)  # 2H, as σ = 1
    >>> [round(float(entry), 6) for entry in noise.subs({s: 1 for s in noise.free_symbols})]
    [2.0, 0.0, 0.0, 8.0]
    """

    def covariance(self, landscape):
        """2σH₊, the projected Hessian in closed form."""
        return 2 * SIGMA * self._positive_part(landscape, lambda eigenvalue: sp.Max(eigenvalue, 0))

    def gradient_noise(self, landscape, normals):
        """One draw of ∇L^μ − ∇L, shape (d, 1)."""
        root = self._positive_part(landscape, lambda eigenvalue: sp.sqrt(sp.Max(eigenvalue, 0)))
        return sp.sqrt(2 * SIGMA) * root * sp.Matrix(normals)

    @staticmethod
    def _positive_part(landscape, function):
        """f(H) of the symmetric 2×2 Hessian for a function f of its eigenvalues m ± d."""
        _check.instance("landscape", landscape, Landscape)
        if landscape.dimension != 2:
            allowed = f"of two coordinates for HessianAligned, it has {landscape.dimension}"
            raise _check.refused("landscape", landscape.name, allowed)
        a, b, c = landscape.hessian[0, 0], landscape.hessian[0, 1], landscape.hessian[1, 1]
        mean = (a + c) / 2
        # the smallest normal double keeps 0/0 away where both eigenvalues coincide
        gap = sp.sqrt(((a - c) / 2) ** 2 + b**2 + sp.Float(2.3e-308))
        upper, lower = function(mean + gap), function(mean - gap)
        along, middle = (upper - lower) / (2 * gap), (upper + lower) / 2
        return sp.Matrix([[middle + along * (a - mean), along * b], [along * b, middle + along * (c - mean)]])


@dataclass(frozen=True)
class LossProportional(Noise):
    """Gaussian noise in proportion to the loss, C = 2σL(θ)M with a constant matrix M; σ = 1/B (M22 Eq. 6).

    ``matrix``, d rows of d numbers, is H(θ*) for noise aligned with the Hessian; the identity unless given.
    The loss must stay positive: where it does not, the step is not a number and the run has diverged. Raises
    ValueError if sigma is negative or not finite, or matrix is not symmetric and positive definite.
    """

    matrix: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.matrix is None:
            return
        rows = _check.array("matrix", self.matrix, ndim=2)
        # symmetric to rounding: Cholesky reads one half only
        square = rows.shape[0] == rows.shape[1] and np.abs(rows - rows.T).max() <= 1e-12 * np.abs(rows).max()
        if not (square and np.linalg.eigvalsh(rows)[0] > 0):
            raise _check.refused("matrix", self.matrix, "symmetric and positive definite")
        object.__setattr__(self, "matrix", tuple(tuple(float(v) for v in row) for row in rows))

    def gradient_noise(self, landscape, normals):
        """One draw of ∇L^μ − ∇L, shape (d, 1)."""
        root = sp.eye(landscape.dimension)
        if self.matrix is not None:
            if len(self.matrix) != landscape.dimension:
                allowed = f"of as many rows as {landscape.name} has coordinates, {landscape.dimension}"
                raise _check.refused("matrix", self.matrix, allowed)
            root = sp.Matrix(np.linalg.cholesky(np.array(self.matrix)))
        return sp.sqrt(2 * SIGMA * landscape.loss) * (root * sp.Matrix(normals))


class NoNoise(Noise):
    """Gradient descent (GD): C = 0.

    Examples
    --------
    >>> import flatmin as fm
    >>> fm.NoNoise().covariance(fm.near_degenerate_valley())
    Matrix([
    [0, 0],
    [0, 0]])
    """

    def __init__(self):
        super().__init__(0.0)

    def normals(self, landscape):
        """None: the step is deterministic."""
        _check.instance("landscape", landscape, Landscape)
        return ()

    def gradient_noise(self, landscape, normals):
        """One draw of ∇L^μ − ∇L, shape (d, 1)."""
        return sp.zeros(landscape.dimension, 1)


def gaussian_moments(expression: sp.Expr, variables: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
    """Mean of a polynomial in independent centred normal ``variables`` (symbol → variance).

    ⟨z^2k⟩ = (2k − 1)!! v^k, term by term; ValueError when the expression is not a polynomial in them.
    """
    _check.instance("expression", expression, sp.Expr)
    _check.instance("variables", variables, Mapping)
    if not all(isinstance(v, sp.Symbol) for v in variables):
        raise _check.refused("variables", variables, "a mapping from symbols to variances")
    if not variables:
        return expression
    try:
        polynomial = sp.Poly(sp.expand(expression), *variables)
    except sp.PolynomialError:
        raise _check.refused("expression", expression, f"a polynomial in {list(variables)}") from None
    total, variances = sp.Integer(0), [_variance(v) for v in variables.values()]
    for powers, coefficient in polynomial.terms():
        if all(p % 2 == 0 for p in powers):
            pairs = zip(powers, variances, strict=True)
            total += coefficient * sp.prod([sp.factorial2(p - 1) * v ** (p // 2) for p, v in pairs if p])
    return total


def _variance(given) -> sp.Expr:
    if isinstance(given, sp.Expr):
        return given
    return sp.sympify(_check.number("variables", given, least=0))
