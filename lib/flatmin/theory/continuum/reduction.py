"""Adiabatic elimination of a fast coordinate: from two dimensions to one equation along the valley.

For a valley L = U(x) + ½λ(x)y² with diffusion matrix D(x, y) = ηC/2 (Δ_S H² for the random shift):

* :class:`Reduction` holds what Y22 §III.B builds: time scales, the conditional density of y, ⟨·⟩_y, Δ(x),
  κ(x), and the slow equation of lowest order (Y22 S29);
* its :meth:`Reduction.slow_equation` at order 2 keeps what the lowest order drops and is as large: the cross
  diffusion and the memory of ⟨y²|x⟩;
* :func:`critical_law` is the exact limit ε → 0 in the critical window x = √ε ξ, Δ_S = Δ₀(1 + εw), for the
  continuous equation and for the discrete update at finite step η.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import sympy as sp

from flatmin import _check
from flatmin.theory.continuum.fokker_planck import DELTA_S, noise_root
from flatmin.theory.continuum.slow import SlowEquation, as_expression, vectorised
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import Noise, RandomShift, gaussian_moments

__all__ = ["Reduction"]


@dataclass(frozen=True)
class Reduction:
    """What eliminating the fast coordinate of a valley L = U(x) + ½λ(x)y² gives, as expressions.

    Parameters
    ----------
    landscape : Landscape
        Of two coordinates, quadratic in the fast one, with its floor at fast = 0.
    fast : str
        Name of the fast coordinate.
    noise : Noise
        The random shift unless given.

    Raises
    ------
    ValueError
        For another number of coordinates, an unknown name, or a loss of another form.

    Examples
    --------
    >>> import flatmin as fm
    >>> fm.Reduction(fm.near_degenerate_valley()).curvature
    lambda_0 + lambda_1*x**2 + lambda_2*x**4
    """

    landscape: Landscape
    fast: str = "y"
    noise: Noise = field(default_factory=RandomShift)

    def __post_init__(self):
        if _check.instance("landscape", self.landscape, Landscape).dimension != 2:
            raise ValueError(f"landscape has {self.landscape.dimension} coordinates: two are needed")
        _check.choice("fast", self.fast, [q.name for q in self.landscape.coordinates])
        _check.instance("noise", self.noise, Noise)
        rest = sp.expand(self.loss - self.floor - self.curvature * self.y**2 / 2)
        if sp.simplify(rest) != 0 or self.curvature.has(self.y):
            raise ValueError(
                f"landscape: its loss must be U(x) + ½λ(x){self.fast}² with fast={self.fast!r}: "
                f"{_check.shown(rest)} is left over; shift or straighten it"
            )

    @property
    def x(self) -> sp.Symbol:
        """The slow coordinate."""
        return next(q for q in self.landscape.coordinates if q.name != self.fast)

    @property
    def y(self) -> sp.Symbol:
        """The fast coordinate."""
        return next(q for q in self.landscape.coordinates if q.name == self.fast)

    @property
    def loss(self) -> sp.Expr:
        """L(x, y), with the landscape's numbers where it has them."""
        return self.landscape.substitute(self.landscape.loss)

    @property
    def floor(self) -> sp.Expr:
        """U(x), the loss on the valley floor y = 0."""
        return self.loss.subs(self.y, 0)

    @property
    def curvature(self) -> sp.Expr:
        """λ(x) = ∂²L/∂y²."""
        return sp.diff(self.loss, self.y, 2)

    @cached_property
    def diffusion(self) -> sp.Matrix:
        """D = ηC/2 in the order (x, y), shape (2, 2), with Δ_S = ησ (Y22 S13 for the random shift)."""
        root = noise_root(self.landscape, self.noise)
        matrix = (root * root.T).applyfunc(lambda e: sp.expand(self.landscape.substitute(e)))
        order = [self.landscape.coordinates.index(q) for q in (self.x, self.y)]
        return matrix.extract(order, order)

    @property
    def timescales(self) -> tuple[sp.Expr, sp.Expr]:
        """(τ_x, τ_y): inverse slopes of the two drifts (Y22 S14)."""
        return 1 / sp.diff(self.loss, self.x, 2), 1 / self.curvature

    # ------------------------------------------------------------- the fast coordinate
    @property
    def log_conditional_slope(self) -> sp.Expr:
        """∂ ln P(y|x)/∂y at frozen x with all of D₂₂ and no cross terms, Itô (Y22 S15)."""
        d22 = self.diffusion[1, 1]
        return sp.factor(-(self.curvature * self.y + sp.diff(d22, self.y)) / d22)

    @property
    def variance(self) -> sp.Expr:
        """⟨y²⟩ of the Gaussian conditional, D₂₂(x, 0)/λ: Δ_S λ for the random shift (Y22 S26)."""
        return sp.simplify(self.diffusion[1, 1].subs(self.y, 0) / self.curvature)

    @property
    def tail(self) -> sp.Expr:
        """ρ(x): the part of D₂₂ that grows as y², over λ (Y22 S26). With all of it ⟨y²⟩ is variance/(1 − ρ).

        The Gaussian conditional needs ρ ≪ 1.
        """
        return sp.simplify(sp.diff(self.diffusion[1, 1], self.y, 2) / 2 / self.curvature)

    def average(self, expression: sp.Expr) -> sp.Expr:
        """⟨expression⟩_y over the Gaussian conditional; ValueError unless it is a polynomial in y."""
        _check.instance("expression", expression, sp.Expr)
        return gaussian_moments(expression, {self.y: self.variance})

    @cached_property
    def delta(self) -> sp.Expr:
        """Δ(x) = D₂₂(x, 0) (Y22 S27)."""
        return sp.factor(self.diffusion[1, 1].subs(self.y, 0))

    @cached_property
    def anisotropy(self) -> sp.Expr:
        """κ(x) = Δ(x)/⟨D₁₁⟩_y (Y22 S28)."""
        return self.delta / self.average(self.diffusion[0, 0])

    # ------------------------------------------------------------- the slow coordinate
    def slow_equation(self, order: int = 1, cross: bool = True, eta=0) -> SlowEquation:
        """The equation of x alone, in the Itô convention that the two-dimensional equation is in.

        Order 1 is Y22 S29: drift −F = −(U' + ½λ'm) and diffusion ⟨D₁₁⟩, with m = ⟨y²⟩. Order 2 adds what y²
        does while it relaxes. With D₁₂ = cy + …, D₂₂ = D₂₂(x,0) + ey² + … and g = 1 − ηλ/2,

            m = D₂₂(x,0)/λg,    k = λ'/4λg,    S = (1 − ηλ)²λ'm² − 4(1 − ηλ)cm,
            drift += Sk' − Fkm' − 2emk − ½ηFF',    diffusion += Sk + ¼ηλ'²m².

        For the random shift and η = 0, c = Δ_Sλ'(λ + U''), so that Sk ≈ −¾Δ_S²λλ'² takes back three quarters
        of what ⟨λ'²y²⟩ put into ⟨D₁₁⟩. Raises ValueError for an order other than 1 or 2, or a negative eta.

        Parameters
        ----------
        order : {1, 2}
        cross : bool
            False sets c = 0.
        eta : number or expression
            Step of the discrete update, whose time is still τ = ηt; 0 is the continuous equation.
        """
        order, cross = _check.integer("order", order, least=1, most=2), _check.flag("cross", cross)
        eta = as_expression("eta", eta)
        if eta.is_negative:
            raise _check.refused("eta", eta, "not negative")
        x, lam = self.x, self.curvature
        slope, lag = sp.diff(lam, x), 1 - eta * lam / 2
        m = self.variance / lag
        force = sp.diff(self.floor, x) + slope * m / 2
        drift, diffusion = -force, gaussian_moments(self.diffusion[0, 0], {self.y: m})
        if order == 2:
            c = sp.diff(self.diffusion[0, 1], self.y).subs(self.y, 0) if cross else sp.Integer(0)
            e = (sp.diff(self.diffusion[1, 1], self.y, 2) / 2).subs(self.y, 0)
            k = slope / (4 * lam * lag)
            s = (1 - eta * lam) ** 2 * slope * m**2 - 4 * (1 - eta * lam) * c * m
            drift += s * sp.diff(k, x) - force * k * sp.diff(m, x) - 2 * e * m * k
            drift -= eta * force * sp.diff(force, x) / 2
            diffusion += s * k + eta * slope**2 * m**2 / 4
        return SlowEquation(x, drift, diffusion, "ito")

    def at_noise(self, expression, delta_s: float):
        """Put a number for Δ_S into an expression or a SlowEquation. Raises ValueError unless positive."""
        delta_s = _check.number("delta_s", delta_s, above=0)
        _check.instance("expression", expression, (SlowEquation, sp.Basic, sp.MatrixBase))
        if isinstance(expression, SlowEquation):
            return expression.at({DELTA_S: delta_s} if DELTA_S in expression.others else {})
        return expression.subs(DELTA_S, delta_s)

    def marginal(self, x, delta_s: float, *, order=1, cross=True, eta=0, convention="ito") -> np.ndarray:
        """P_ss(x) of :meth:`slow_equation` read in ``convention``, at increasing points x (n,).

        The printed density (Y22 S30) is order 1 read as "isothermal"; the one S29 demands is "ito". The other
        arguments and the errors are those of :meth:`slow_equation` and :meth:`SlowEquation.density`.
        """
        equation = self.at_noise(self.slow_equation(order, cross, eta), delta_s).read_as(convention)
        try:
            return equation.density(x)
        except ValueError as error:
            raise ValueError(f"{error}; here delta_s={delta_s:g}, eta={eta}") from None

    def effective_loss(self, x, density, delta_s: float) -> np.ndarray:
        """L_SGD(x) = −Δ(x) ln[P_ss(x) P(y=0|x)] − U(x) for a positive ``density`` of x (n,) (Y22 S31–S33).

        The density is taken as it is, P(0|x) is the normalised Gaussian: because Δ(x) multiplies the
        logarithm, a factor in P adds a multiple of Δ(x), not a constant. Raises ValueError for numbers out of
        range, or points where λ(x) is not positive.
        """
        x = _check.array("x", x, ndim=1)
        density = _check.array("density", density, shape=x.shape, above=0)
        delta_s = _check.number("delta_s", delta_s, above=0)
        names = (self.delta, self.variance, self.floor)
        with np.errstate(all="ignore"):
            strength, variance, floor = (vectorised(self.x, e, (DELTA_S,))(x, delta_s) for e in names)
            if not np.all((variance > 0) & (variance < np.inf)):
                raise _check.refused("x", x, f"where λ(x) is positive and finite at delta_s={delta_s:g}")
            loss = -strength * np.log(density / np.sqrt(2 * np.pi * variance)) - floor
        return _check.finite(loss, x=x, delta_s=delta_s)
