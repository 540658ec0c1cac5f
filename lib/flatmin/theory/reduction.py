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

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import sympy as sp

from flatmin.theory.fokker_planck import CONVENTIONS, DELTA_S, noise_root
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import ETA, Noise, RandomShift

__all__ = ["CriticalLaw", "Reduction", "SlowEquation", "critical_law", "gaussian_moments", "variance_growth"]

#: power s of D in P ∝ D^(−s) exp ∫drift/D
_POWERS = dict(zip(CONVENTIONS, (1, sp.Rational(1, 2), 0), strict=True))

XI, W = sp.symbols("xi w", real=True)


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
        return tuple(_vectorised(self.coordinate, e) for e in (self.drift, self.diffusion))

    def density(self, x) -> np.ndarray:
        """Stationary density at increasing points x (n,), normalised over their range (trapezoidal rule).

        ln P is integrated from point to point by 8-point Gauss quadrature; the points must be dense
        enough for the trapezoidal rule to normalise a density of that width.
        """
        x = np.asarray(x, dtype=float)
        if x.ndim != 1 or len(x) < 3 or not np.all(np.diff(x) > 0):
            raise ValueError(f"x={x!r}: must be at least three increasing points")
        self.functions()
        slope = _vectorised(self.coordinate, self.log_slope)
        nodes, weights = np.polynomial.legendre.leggauss(8)
        width = np.diff(x)[:, None]
        inside = x[:-1, None] + width * (nodes + 1) / 2
        steps = (slope(inside) * weights * width / 2).sum(axis=1)
        log = np.concatenate([[0.0], np.cumsum(steps)])
        density = np.exp(log - log.max())
        return density / np.trapezoid(density, x)


def _vectorised(symbol, expression):
    raw = sp.lambdify(symbol, expression, modules="numpy", cse=True)
    return lambda x: np.broadcast_to(raw(np.asarray(x, dtype=float)), np.shape(x)) + 0.0


@dataclass(frozen=True)
class Reduction:
    """What eliminating the fast coordinate of a valley L = U(x) + ½λ(x)y² gives, as expressions.

    Parameters
    ----------
    landscape : Landscape of two coordinates, quadratic in the fast one, with its floor at fast = 0.
    fast : str
        Name of the fast coordinate.
    noise : Noise, the random shift unless given.

    Raises
    ------
    ValueError
        For another number of coordinates, an unknown name, or a loss of another form.
    """

    landscape: Landscape
    fast: str = "y"
    noise: Noise = field(default_factory=RandomShift)

    def __post_init__(self):
        if self.landscape.dimension != 2:
            raise ValueError(f"landscape has {self.landscape.dimension} coordinates: two are needed")
        names = [q.name for q in self.landscape.coordinates]
        if self.fast not in names:
            raise ValueError(f"fast={self.fast!r}: allowed are {names}")
        rest = sp.expand(self.loss - self.floor - self.curvature * self.y**2 / 2)
        if sp.simplify(rest) != 0 or self.curvature.has(self.y):
            raise ValueError(
                f"loss must be U(x) + ½λ(x){self.fast}²: {rest} is left over; shift or straighten it"
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
        """ρ(x): the part of D₂₂ that grows as y², over λ (Y22 S26). The Gaussian conditional needs ρ ≪ 1."""
        return sp.simplify(sp.diff(self.diffusion[1, 1], self.y, 2) / 2 / self.curvature)

    @property
    def exact_variance(self) -> sp.Expr:
        """⟨y²⟩ at frozen x with all of D₂₂: variance/(1 − ρ); infinite from ρ = 1 on."""
        return self.variance / (1 - self.tail)

    def average(self, expression: sp.Expr) -> sp.Expr:
        """⟨expression⟩_y over the Gaussian conditional; the expression must be a polynomial in y."""
        return gaussian_moments(expression, {self.y: self.variance})

    @cached_property
    def noise_strength(self) -> sp.Expr:
        """Δ(x) = D₂₂(x, 0) (Y22 S27)."""
        return sp.factor(self.diffusion[1, 1].subs(self.y, 0))

    @cached_property
    def anisotropy(self) -> sp.Expr:
        """κ(x) = Δ(x)/⟨D₁₁⟩_y (Y22 S28)."""
        return self.noise_strength / self.average(self.diffusion[0, 0])

    # ------------------------------------------------------------- the slow coordinate
    def slow_equation(self, order: int = 1, cross: bool = True, eta=0) -> SlowEquation:
        """The equation of x alone, in the Itô convention that the two-dimensional equation is in.

        Order 1 is Y22 S29: drift −F = −(U' + ½λ'm) and diffusion ⟨D₁₁⟩, with m = ⟨y²⟩. Order 2 adds what y²
        does while it relaxes. With D₁₂ = cy + …, D₂₂ = D₂₂(x,0) + ey² + … and g = 1 − ηλ/2,

            m = D₂₂(x,0)/λg,    k = λ'/4λg,    S = (1 − ηλ)²λ'm² − 4(1 − ηλ)cm,
            drift += Sk' − Fkm' − 2emk − ½ηFF',    diffusion += Sk + ¼ηλ'²m².

        For the random shift and η = 0, c = Δ_Sλ'(λ + U''), so that Sk ≈ −¾Δ_S²λλ'² takes back three quarters
        of what ⟨λ'²y²⟩ put into ⟨D₁₁⟩. ``cross=False`` sets c = 0. ``eta`` is the step of the discrete
        update, whose time is still τ = ηt; 0 is the continuous equation.

        Raises
        ------
        ValueError
            For an order other than 1 or 2, or a negative eta.
        """
        if order not in (1, 2):
            raise ValueError(f"order={order!r}: allowed are 1 and 2")
        if sp.sympify(eta).is_negative:
            raise ValueError(f"eta={eta!r}: must not be negative")
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
        if not (np.isfinite(delta_s) and delta_s > 0):
            raise ValueError(f"delta_s={delta_s!r}: must be positive and finite")
        if isinstance(expression, SlowEquation):
            parts = {n: getattr(expression, n).subs(DELTA_S, delta_s) for n in ("drift", "diffusion")}
            return replace(expression, **parts)
        return expression.subs(DELTA_S, delta_s)

    def marginal(self, x, delta_s: float, *, order=1, cross=True, eta=0, convention="ito") -> np.ndarray:
        """P_ss(x) of :meth:`slow_equation` read in ``convention``, at increasing points x (n,).

        The printed density (Y22 S30) is order 1 read as "isothermal"; the one S29 demands is "ito".
        """
        equation = self.at_noise(self.slow_equation(order, cross, eta), delta_s).read_as(convention)
        return equation.density(x)

    def effective_loss(self, x, density, delta_s: float) -> np.ndarray:
        """L_SGD(x) = −Δ(x) ln[P_ss(x) P(y=0|x)] − U(x) for a density of x (n,) (Y22 S31–S33).

        Because Δ(x) multiplies the logarithm, the normalisation of P matters: a factor in P adds a multiple
        of Δ(x), not a constant. ``density`` is taken as it is; P(0|x) is the normalised Gaussian.
        """
        names = (self.noise_strength, self.variance, self.floor)
        strength, variance, floor = (_vectorised(self.x, self.at_noise(e, delta_s))(x) for e in names)
        return -strength * np.log(np.asarray(density) / np.sqrt(2 * np.pi * variance)) - floor


@dataclass(frozen=True)
class CriticalLaw:
    """The limit law of ξ = x/√ε in the critical window Δ_S = Δ₀(1 + εw), in the slow time s = ε²τ.

    dξ has drift αξ − βξ³ and diffusion d + cξ² (Itô), so that

        P(ξ) ∝ (d + cξ²)^{(α + βd/c)/2c − 1} exp(−βξ²/2c).

    Attributes
    ----------
    centre : expression
        Δ₀, proportional to ε.
    linear, cubic, additive, multiplicative : expressions
        α (linear in w), β, d and c.
    epsilon : expression
        ε, its symbol or its number.
    """

    centre: sp.Expr
    linear: sp.Expr
    cubic: sp.Expr
    additive: sp.Expr
    multiplicative: sp.Expr
    epsilon: sp.Expr

    @property
    def equation(self) -> SlowEquation:
        """The law as an equation in ξ (and w)."""
        return SlowEquation(
            XI, self.linear * XI - self.cubic * XI**3, self.additive + self.multiplicative * XI**2, "ito"
        )

    @property
    def log_density(self) -> sp.Expr:
        """ln P(ξ) up to a constant, in closed form."""
        ratio = self.cubic / self.multiplicative
        power = (self.linear + ratio * self.additive) / (2 * self.multiplicative) - 1
        return power * sp.log(self.additive + self.multiplicative * XI**2) - ratio * XI**2 / 2

    @property
    def onset(self) -> sp.Expr:
        """w at which ξ = 0 turns from the maximum of P into a minimum (P-bifurcation)."""
        return sp.factor(sp.solve(self.linear - 2 * self.multiplicative, W)[0])

    @property
    def drift_onset(self) -> sp.Expr:
        """w at which the drift at ξ = 0 changes sign."""
        return sp.factor(sp.solve(self.linear, W)[0])

    @property
    def lyapunov_onset(self) -> sp.Expr:
        """w at which ⟨d ln|ξ|/ds⟩ = α − c of the linearised law without its additive noise vanishes."""
        return sp.factor(sp.solve(self.linear - self.multiplicative, W)[0])

    @property
    def boundary(self) -> sp.Expr:
        """Δ_S* to next order: Δ₀(1 + ε · onset)."""
        return sp.expand(self.centre * (1 + self.epsilon * self.onset))

    @property
    def maximum(self) -> sp.Expr:
        """ξ² at the maximum of P beyond the onset."""
        return sp.factor((self.linear - 2 * self.multiplicative) / self.cubic)

    def delta_s(self, w):
        """Noise level Δ₀(1 + εw) for numbers w."""
        return float(self.centre) * (1 + float(self.epsilon) * np.asarray(w, dtype=float))

    def w(self, delta_s):
        """Distance from the transition w = (Δ_S/Δ₀ − 1)/ε for numbers Δ_S."""
        return (np.asarray(delta_s, dtype=float) / float(self.centre) - 1) / float(self.epsilon)

    def density(self, xi, w: float) -> np.ndarray:
        """P(ξ) at points ξ (n,), normalised over the real line."""
        log = _vectorised(XI, self.log_density.subs(W, w))
        reach = np.sqrt(80 * float(self.multiplicative / self.cubic) * (2 + abs(w)))
        line = np.linspace(0, reach, 20001)
        values = log(line)
        top = values.max()
        return np.exp(log(xi) - top) / (2 * np.trapezoid(np.exp(values - top), line))


def critical_law(landscape: Landscape, eta=0, cross: bool = True) -> CriticalLaw:
    """Derive the critical law of a near-degenerate valley L = ½ελ₀x² + ½(λ₀ + λ₁x² + λ₂x⁴ + …)y², λ₁ < 0.

    One step moves θ by −η(∇L − Hμ). With x = √ε ξ, y = √ε v and Δ_S = Δ₀(1 + εw) the mean of a function
    after one step expands as T₀ + εT₁ + ε²T₂. T₀ moves v alone, a Gaussian chain of variance −λ₀/λ₁ once
    Δ₀ = −ε(1 − ηλ₀/2)/λ₁, which is what makes the mean of T₁ vanish; the law of ξ is then
    ⟨T₂⟩ + ⟨T₁(1 − T₀)⁻¹T₁⟩ per ηε². Everything is polynomial, so the inverse is exact.

    Parameters
    ----------
    landscape : Landscape, with or without numbers
        From :func:`flatmin.theory.landscape.near_degenerate_valley`.
    eta : number or expression
        Learning rate; 0 for the continuous equation.
    cross : bool
        Keep the cross diffusion; without it x and y are kicked by separate draws of μ.

    Raises
    ------
    ValueError
        For a landscape of another form, λ₁ ≥ 0, or η outside 0 ≤ ηλ₀ < 2.
    """
    values = _valley_coefficients(landscape)
    epsilon, lam0, lam1, lam2 = values
    if sp.sympify(eta).is_number and lam0.is_number and not 0 <= eta * lam0 < 2:
        raise ValueError(f"eta={eta!r}: ηλ₀ must be at least 0 and below 2, with λ₀={lam0}")
    put = dict(zip(_WINDOW, (sp.sympify(eta), lam0, lam1, lam2), strict=True))
    linear, cubic, additive, multiplicative = (e.subs(put) for e in _window_coefficients(bool(cross)))
    return CriticalLaw(
        centre=-epsilon * (1 - put[ETA] * lam0 / 2) / lam1,
        linear=sp.collect(sp.expand(linear), W),
        cubic=sp.factor(cubic),
        additive=sp.factor(additive),
        multiplicative=sp.factor(multiplicative),
        epsilon=epsilon,
    )


_WINDOW = (ETA, sp.Symbol("lambda_0", positive=True), *sp.symbols("lambda_1 lambda_2", real=True))


def _valley_coefficients(landscape: Landscape) -> tuple[sp.Expr, ...]:
    """(ε, λ₀, λ₁, λ₂) of a near-degenerate valley, numbers where it has them; ValueError for another form."""
    known = {p.name: landscape.substitute(p) for p in landscape.parameters}
    if not {"epsilon", "lambda_0", "lambda_1"} <= set(known):
        raise ValueError(f"landscape {landscape.name!r}: needs the parameters epsilon, lambda_0 and lambda_1")
    x, y = landscape.coordinates
    epsilon, lam0, lam1 = (known[n] for n in ("epsilon", "lambda_0", "lambda_1"))
    lam2 = known.get("lambda_2", sp.Integer(0))
    rest = landscape.substitute(landscape.loss) - epsilon * lam0 * x**2 / 2
    rest -= (lam0 + lam1 * x**2 + lam2 * x**4) * y**2 / 2
    if sp.series(sp.expand(rest), x, 0, 6).removeO().expand() != 0:
        raise ValueError(f"landscape {landscape.name!r}: must be ½ελ₀x² + ½(λ₀ + λ₁x² + λ₂x⁴ + …)y²")
    if lam1.is_number and lam1 >= 0:
        raise ValueError(f"lambda_1={lam1}: must be negative, or there is no transition")
    return epsilon, lam0, lam1, lam2


@lru_cache(maxsize=2)
def _window_coefficients(cross: bool) -> tuple[sp.Expr, ...]:
    """(α, β, d, c) of the critical law in the symbols of ``_WINDOW``, by the expansion of one step."""
    eta, lam0, lam1, _ = _WINDOW
    v, amplitude = sp.symbols("v amplitude", real=True)
    slope, bend = sp.symbols("slope bend")  # f'(ξ) and f''(ξ) of the function that is averaged
    z = dict.fromkeys(sp.symbols("z:4", real=True), sp.Integer(1))
    x_step, y_step = _window_step(v, amplitude, tuple(z), cross)
    centre = -(1 - eta * lam0 / 2) / lam1
    strength = 2 * eta * centre  # amplitude² at w = 0

    def kicked(expression):
        """Mean over the draws of one step."""
        mean = sp.expand(gaussian_moments(expression, z))
        return mean.subs({amplitude**4: strength**2, amplitude**2: strength})

    def settled(expression):
        """Mean over the stationary v at w = 0, whose variance is −λ₀/λ₁."""
        return gaussian_moments(expression, {v: -lam0 / lam1})

    # T₁f = −ηλ₁(v² − ⟨v²⟩)ξf', and (T₀ − 1)v² = (r − 1)(v² − ⟨v²⟩): g = (1 − T₀)⁻¹T₁f is a multiple of v²ξf'
    decay = (1 - eta * lam0) ** 2
    k = -eta * lam1 / (1 - decay)
    g_slope = slope + XI * bend
    once = x_step[2]
    total = settled(kicked(x_step[4])) * slope + settled(kicked(once**2)) * bend / 2
    total += k * settled(kicked(y_step[0] ** 2 * once)) * g_slope
    total += k * settled(kicked(2 * y_step[0] * y_step[2])) * XI * slope
    total += k * strength * W * lam0**2 * XI * slope  # the part of the noise that is first order in ε
    per_time = sp.expand(total / eta)
    drift = sp.Poly(per_time.coeff(slope), XI)
    diffusion = sp.Poly(per_time.coeff(bend), XI)
    wanted = (
        drift.coeff_monomial(XI),
        -drift.coeff_monomial(XI**3),
        diffusion.coeff_monomial(1),
        diffusion.coeff_monomial(XI**2),
    )
    return tuple(sp.cancel(e) for e in wanted)


def _window_step(v, amplitude, z, cross):
    """One update in the window: ξ' − ξ and v' as dicts from the power of √ε to an expression."""
    eta, lam0, lam1, lam2 = _WINDOW
    x, y, epsilon, root = sp.symbols("x y epsilon root", positive=True)
    loss = epsilon * lam0 * x**2 / 2 + (lam0 + lam1 * x**2 + lam2 * x**4) * y**2 / 2
    gradient, hessian = [sp.diff(loss, q) for q in (x, y)], sp.hessian(loss, (x, y))
    scaled = {x: root * XI, y: root * v, epsilon: root**2}
    draws = (z[:2], z[:2]) if cross else (z[:2], z[2:])
    steps = []
    for i in range(2):
        kick = amplitude * root * sum(hessian[i, j] * draws[i][j] for j in range(2))
        step = sp.expand((-eta * gradient[i] + kick).subs(scaled) / root)
        steps.append({power: step.coeff(root, power) for power in (0, 2, 4)})
    steps[1][0] += v
    return steps
