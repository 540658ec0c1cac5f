"""The critical window of the near-degenerate valley: the exact limit ε → 0 at x = √ε ξ, Δ_S = Δ₀(1 + εw).

:func:`critical_law` derives it for the continuous equation and for the discrete update at finite step η.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import sympy as sp

from flatmin import _check
from flatmin.theory.continuum.slow import SlowEquation, as_expression, vectorised
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import ETA, gaussian_moments

__all__ = ["XI", "CriticalLaw", "W", "critical_law"]


XI, W = sp.symbols("xi w", real=True)


@dataclass(frozen=True)
class CriticalLaw:
    """The limit law of ξ = x/√ε in the critical window Δ_S = Δ₀(1 + εw), in the slow time s = ε²τ.

    dξ has drift αξ − βξ³ and diffusion d + cξ² (Itô), so that

        P(ξ) ∝ (d + cξ²)^{(α + βd/c)/2c − 1} exp(−βξ²/2c).

    ``centre`` is Δ₀, proportional to ε; ``linear`` (in w), ``cubic``, ``additive`` and ``multiplicative`` are
    α, β, d and c. All are expressions.
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
        """Noise level Δ₀(1 + εw) for numbers w. Raises ValueError for a law without numbers."""
        centre, epsilon = self._number("centre"), self._number("epsilon")
        with np.errstate(over="ignore"):
            return _check.finite(centre * (1 + epsilon * _check.array("w", w)), w=w)

    def w(self, delta_s):
        """w = (Δ_S/Δ₀ − 1)/ε for numbers Δ_S ≥ 0. Raises ValueError for a law without numbers."""
        centre, epsilon = self._number("centre"), self._number("epsilon")
        with np.errstate(over="ignore"):
            away = (_check.array("delta_s", delta_s, least=0) / centre - 1) / epsilon
            return _check.finite(away, delta_s=delta_s)

    def density(self, xi, w: float) -> np.ndarray:
        """P(ξ) at ξ (n,), normalised over the real line, at a distance w ≤ 10⁵ from the transition.

        Beyond, the normalisation is not resolved. Raises ValueError there and for a law without numbers.
        """
        xi, w = _check.array("xi", xi), _check.number("w", w, most=1e5)
        ratio = self._number("multiplicative") / self._number("cubic")
        core = self._number("additive") / self._number("multiplicative")
        # P ≤ (d + cξ²)^power exp(−ξ²/2·ratio): either factor bounds it
        power = float(self.linear.subs(W, w) / self.multiplicative + core / ratio) / 2 - 1
        reach = np.sqrt(80 * ratio * (2 + abs(w)))
        if power < 0:
            reach = min(reach, np.sqrt(core * np.expm1(min(40 / -power, 700.0))))
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            raw = vectorised(XI, self.log_density, (W,))
            line = np.linspace(0, reach, 20001)
            values = raw(line, w)
            top = values.max()
            density = np.exp(raw(xi, w) - top) / (2 * np.trapezoid(np.exp(values - top), line))
        return _check.finite(density, xi=xi, w=w)

    def _number(self, name: str) -> float:
        """A coefficient as a number; ValueError for one with symbols."""
        value = getattr(self, name)
        if value.free_symbols:
            raise _check.refused(name, value, "a number here: take a landscape with numbers")
        return float(value)


def critical_law(landscape: Landscape, eta=0, cross: bool = True) -> CriticalLaw:
    """Derive the critical law of a near-degenerate valley L = ½ελ₀x² + ½(λ₀ + λ₁x² + λ₂x⁴ + …)y², λ₁ < 0.

    One step moves θ by −η(∇L − Hμ). With x = √ε ξ, y = √ε v and Δ_S = Δ₀(1 + εw) the mean of a function
    after one step expands as T₀ + εT₁ + ε²T₂. T₀ moves v alone, a Gaussian chain of variance −λ₀/λ₁ once
    Δ₀ = −ε(1 − ηλ₀/2)/λ₁, which is what makes the mean of T₁ vanish; the law of ξ is then
    ⟨T₂⟩ + ⟨T₁(1 − T₀)⁻¹T₁⟩ per ηε². Everything is polynomial, so the inverse is exact.

    Parameters
    ----------
    landscape : Landscape
        From :func:`flatmin.theory.valleys.near_degenerate.near_degenerate_valley`, with or without numbers.
    eta : number or expression
        Learning rate; 0 for the continuous equation.
    cross : bool
        Keep the cross diffusion; without it x and y are kicked by separate draws of μ.

    Returns
    -------
    CriticalLaw

    Raises
    ------
    ValueError
        For a landscape of another form, λ₁ ≥ 0, or η outside 0 ≤ ηλ₀ < 2.

    Examples
    --------
    >>> import flatmin as fm
    >>> fm.critical_law(fm.near_degenerate_valley()).centre
    -epsilon/lambda_1
    """
    epsilon, lam0, lam1, lam2 = _valley_coefficients(_check.instance("landscape", landscape, Landscape))
    step = as_expression("eta", eta)
    if step.is_number and (step < 0 or (lam0.is_number and not step * lam0 < 2)):
        raise ValueError(f"eta={eta!r}: ηλ₀ must be at least 0 and below 2, with λ₀={lam0}")
    put = dict(zip(_WINDOW, (step, lam0, lam1, lam2), strict=True))
    coefficients = _window_coefficients(_check.flag("cross", cross))
    linear, cubic, additive, multiplicative = (e.subs(put) for e in coefficients)
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
