"""Formulas and numbers as the papers print them, named after paper and equation: for ``check``.

Nothing is repaired here, also where the book finds a formula wrong. What a formula leaves open is an
argument. Those of Y22, M22 and W22 take numbers, arrays or sympy expressions, each positive unless said
otherwise; ValueError for others. What the library needs elsewhere too keeps its name there and has its
printed name here: ``m22_eq16`` is :func:`.laws.power_law_rate`, ``m22_eq16_power`` its
:func:`.laws.passage_exponent`, ``m22_eq18`` :func:`.laws.critical_dimension`, ``m22_eq19``
:func:`.escape.kramers_rate`; ``w22_thm33``, ``w22_prop34`` and ``w22_thm35`` are
:func:`.bounds.theorem_3_3_step`, :func:`.bounds.proposition_3_4_step` and
:func:`.bounds.theorem_3_5_growth`; ``y26_a28`` and ``y26_a29`` :func:`.hopping.passage_time_erfi` and
:func:`.hopping.passage_rate_asymptotic`.
"""

from __future__ import annotations

import functools
import inspect

import numpy as np
import sympy as sp
from scipy.special import dawsn, expit

from flatmin import _check
from flatmin.theory.continuum.escape import kramers_rate as m22_eq19
from flatmin.theory.continuum.slow import as_numbers
from flatmin.theory.landscape import Landscape
from flatmin.theory.logarithmic.laws import critical_dimension as m22_eq18
from flatmin.theory.logarithmic.laws import passage_exponent as m22_eq16_power
from flatmin.theory.logarithmic.laws import power_law_rate as m22_eq16
from flatmin.theory.stability.bounds import proposition_3_4_step as w22_prop34
from flatmin.theory.stability.bounds import theorem_3_3_step as w22_thm33
from flatmin.theory.stability.bounds import theorem_3_5_growth as w22_thm35
from flatmin.theory.two_valleys.hopping import SIDES, Slice
from flatmin.theory.two_valleys.hopping import passage_rate_asymptotic as y26_a29
from flatmin.theory.two_valleys.hopping import passage_time_erfi as y26_a28

__all__ = [
    "m22_eq6",
    "m22_eq16",
    "m22_eq16_power",
    "m22_eq17",
    "m22_eq18",
    "m22_eq19",
    "w22_isotropic",
    "w22_isotropic_growth",
    "w22_lemma36",
    "w22_prop34",
    "w22_thm33",
    "w22_thm35",
    "y22_s4",
    "y22_s9",
    "y22_s20",
    "y22_s21",
    "y22_s26",
    "y22_s28",
    "y22_s30",
    "y22_s35",
    "y22_s37",
    "y22_s39",
    "y22_s40",
    "y22_s41",
    "y22_s42",
    "y22_s43",
    "y22_s44",
    "y22_s47",
    "y23_eq6",
    "y23_eq15",
    "y23_eq16",
    "y26_a13",
    "y26_a28",
    "y26_a29",
    "y26_a32",
    "y26_a37",
    "y26_eq7",
    "y26_eq9",
    "y26_eq11",
    "y26_eq11_regime",
    "y26_eq12",
]

#: Y22 §II.B: power of σ in V_y, and in V_x far beyond σ*
Y22_VY, Y22_VX = 1.0, 2.0
#: Y22 S8: η⟨λ⟩ from which on the mean of y is unstable
Y22_S8 = 2.0
#: Y22 Fig. S4: exponents fitted at η = 0.04 around this σ* (its β₁, fitted above σ*, is S46's β₂)
Y22_FIG_S4, Y22_FIG_S4_SIGMA = {"α": 0.85, "β above": 0.48, "β below": 0.56}, 0.0105
#: Y22 S43 (α = 1), S46 (β₁ = β₂ = 0.5)
Y22_S43, Y22_S46 = 1.0, 0.5
#: M22 App. E and §5.3: the largest eigenvalue h*, the n of Eq. 44, and the n that Fig. 3c takes
M22_H, M22_EQ44, M22_FIG3C = 95.6, 12.7, 9
#: M22 §5.3: the loss of that network after pre-training
M22_LOSS = 0.035
#: M22 §5.2 and App. D: power of L in 𝒩 for the square loss; for cross-entropy, at which losses
M22_STRENGTH, M22_STRENGTH_XENT = 1.0, {"middle": 1.0, "small": 2.0}
#: W22 Lemma 3.6: the c of 𝔼[HS] ≤ cσ²
W22_LEMMA36 = 2
#: W22 Prop. 2.5: power of d in the lower bound of μ
W22_PROP25 = -1.0
#: Y26 below A11 and A12: largest τ_x, smallest τ_y, their ratio
Y26_TIMES = {"across": 0.32, "along": 41.8, "ratio": 7.6e-3}
#: Y26 Fig. 4c: ε, and the factor on the Φ of A37 in the curve drawn there (both from the authors' code)
Y26_EPSILON, Y26_DRAWN = 0.01, 3000
#: ηt_f of the run of Fig. 1 (B = 50, η = 0.05), where the authors' script draws the frozen block: t_f = 420
Y26_FIG1 = 420 * 0.05

_REAL = ("x", "slope", "second", "curvature_mean", "height", "rest")
_NOT_NEGATIVE = ("curvature_square", "slope_square", "tilt", "hessian")
_BOUNDS = {name: {} for name in _REAL} | {name: {"least": 0} for name in _NOT_NEGATIVE}
_BOUNDS["lambda_1"] = {"below": 0}


def _checked(formula):
    """``formula`` with its arguments checked: expressions, or arrays that broadcast to a finite result."""
    signature = inspect.signature(formula)

    @functools.wraps(formula)
    def evaluated(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        given = {name: as_numbers(name, v, **_BOUNDS.get(name, {"above": 0})) for name, v in given.items()}
        if any(isinstance(value, sp.Basic) for value in given.values()):
            return formula(**given)
        _check.together(**given)
        with np.errstate(all="ignore"):
            return _check.finite(np.asarray(formula(**given))[()], **given)

    return evaluated


def _log(value):
    return sp.log(value) if isinstance(value, sp.Basic) else np.log(value)


def _root(value):
    return sp.sqrt(value) if isinstance(value, sp.Basic) else np.sqrt(value)


@_checked
def y22_s4(sigma, curvature):
    """C = 2σλ², the noise in a direction of curvature λ (Y22 S4, Y23 below Eq. 7: C = 2σH²)."""
    return 2 * sigma * curvature**2


@_checked
def y22_s9(curvature_mean, curvature_square, slope_square, eta, sigma):
    """η²⟨λ²⟩ − 2η⟨λ⟩ + 2η²σ⟨λ'²⟩, by which a step multiplies ⟨y²⟩, less one (Y22 S9); stable below 0.

    The arguments are ⟨λ⟩ (any sign), ⟨λ²⟩ ≥ 0, ⟨λ'²⟩ ≥ 0, η and σ.
    """
    return eta**2 * curvature_square - 2 * eta * curvature_mean + 2 * eta**2 * sigma * slope_square


@_checked
def y22_s20(epsilon, delta_s, lambda_1):
    """κ = 1/(ε² + 2εΔ_Sλ₁ + 3Δ_S²λ₁²), the anisotropy at x → 0, λ₁ < 0 (Y22 S20, Y23 above Eq. 14)."""
    return 1 / (epsilon**2 + 2 * epsilon * delta_s * lambda_1 + 3 * delta_s**2 * lambda_1**2)


@_checked
def y22_s21(x, curvature, tilt, delta, kappa):
    """ln P_ss(x) = −κελ₀x²/2Δ − (κ/2) ln λ(x), not normalised (Y22 S21); Δ and κ do not depend on x.

    ``curvature`` is λ(x), ``tilt`` ελ₀ ≥ 0, ``delta`` Δ = Δ_Sλ₀² (S18), ``kappa`` that of S20. For ελ₀ = 0 it
    is the marginal of Y23 Eq. 11.
    """
    return -kappa * tilt * x**2 / (2 * delta) - kappa * _log(curvature) / 2


@_checked
def y22_s26(curvature, delta_s):
    """⟨y²|x⟩ = Δ_S λ(x), the variance of the Gaussian Y22 S26."""
    return delta_s * curvature


@_checked
def y22_s28(curvature, slope, second, tilt, delta_s):
    """κ(x) = λ²/(ε²λ₀² + Δ_S[ελ₀λ'' + λ'²]λ + ¾[Δ_Sλ''λ]²) (Y22 S28).

    Arguments: λ, λ' and λ'' (any sign) at x, ελ₀ ≥ 0 and Δ_S.
    """
    below = tilt**2 + delta_s * (tilt * second + slope**2) * curvature
    return curvature**2 / (below + 3 * (delta_s * second * curvature) ** 2 / 4)


@_checked
def y22_s30(x, curvature, slope, second, tilt, delta_s):
    """d ln P_ss/dx = −κ(x)ελ₀x/Δ(x) − κ(x)λ'/2λ (Y22 S30) with κ of S28 and Δ(x) = Δ_Sλ² of S27."""
    kappa = y22_s28(curvature, slope, second, tilt, delta_s)
    return -kappa * tilt * x / (delta_s * curvature**2) - kappa * slope / (2 * curvature)


@_checked
def y22_s35(epsilon, lambda_1):
    """Δ_S* = −ε/λ₁, λ₁ < 0, the noise level at which x = 0 gives way (Y22 S35 and Y23, Appendix)."""
    return -epsilon / lambda_1


@_checked
def y22_s37(curvature, kappa):
    """⟨λ⟩_ss = λ(x_F)√((κ + 2)/κ) (Y22 S37); ``curvature`` is λ(x_F)."""
    return curvature * _root((kappa + 2) / kappa)


@_checked
def y22_s39(eta_min, curvature, lambda_1):
    """Δ_m = √{(2/(η_min λ(x_F)) − 1)/(3λ₁²)}, beyond which SGD diverges (Y22 S39), λ₁ < 0.

    ``eta_min`` is the least learning rate of a diagram; with a run's own η it is S38 solved for Δ_S.
    ``curvature`` is λ(x_F). Raises ValueError also for ηλ(x_F) > 2, where there is none.
    """
    return _root((2 / (eta_min * curvature) - 1) / (3 * lambda_1**2))


@_checked
def y22_s40(eta_min, flatness, lambda_1):
    """Δ_m ≈ √(2F(x_F)/(3η_min λ₁²)) (Y22 S40), λ₁ < 0; ``flatness`` is F(x_F)."""
    return _root(2 / (3 * eta_min * lambda_1**2) * flatness)


@_checked
def y22_s41(x, delta_s, epsilon, lambda_0, lambda_1, lambda_2, kappa):
    """L_eff = A(Δ_S* − Δ_S)x²/2 + Bx⁴/4 on the floor (Y22 S41), A = −κλ₀λ₁, B = κΔ_S(λ₁² + 2λ₀λ₂), λ₁ < 0.

    ``kappa`` is κ(0), Δ_S* = −ε/λ₁.
    """
    quadratic = -kappa * lambda_0 * lambda_1 * (y22_s35(epsilon, lambda_1) - delta_s)
    return quadratic * x**2 / 2 + kappa * delta_s * (lambda_1**2 + 2 * lambda_0 * lambda_2) * x**4 / 4


@_checked
def y22_s42(delta_s, epsilon, lambda_0, lambda_1, lambda_2):
    """x_ss² = (A/B)(Δ_S − Δ_S*), A/B = −λ₀λ₁/(Δ_S(λ₁² + 2λ₀λ₂)) (Y22 S41, S42), λ₁ < 0.

    Negative below Δ_S* = −ε/λ₁, where x_ss = 0.
    """
    return -lambda_0 * lambda_1 / (delta_s * (lambda_1**2 + 2 * lambda_0 * lambda_2)) * (
        delta_s + epsilon / lambda_1
    )  # fmt: skip


@_checked
def y22_s43(delta_s, epsilon, lambda_0, lambda_1, lambda_2):
    """F(x_ss) − F(0) = −(Aλ₁/2B√λ₀³)(Δ_S − Δ_S*), A/B of S42, λ₁ < 0 (Y22 S43); negative below Δ_S*."""
    return -lambda_1 / (2 * lambda_0**1.5) * y22_s42(delta_s, epsilon, lambda_0, lambda_1, lambda_2)


@_checked
def y22_s44(density, beyond, diffusion):
    """P_ss(x')/(P_ss(x)D(x')), of which τ_s is the integral over x from x_ss to x₀ and x' > x (Y22 S44).

    ``density`` is P_ss at x, ``beyond`` at x', normalised or not; ``diffusion`` D = Δ/κ at x'.
    """
    return beyond / (density * diffusion)


@_checked
def y22_s47(curvature, second, tilt, delta_s):
    """(ελ₀ + Δ_Sλ''λ/2)/λ, which is to be small (Y22 S47), from λ, λ'' (any sign) at x, ελ₀ ≥ 0 and Δ_S."""
    return (tilt + delta_s * second * curvature / 2) / curvature


@_checked
def m22_eq6(loss, hessian, batch_size):
    """Σ = 2LH/B, H ≥ 0 of one direction at the minimum (M22 Eq. 6)."""
    return 2 * loss * hessian / batch_size


@_checked
def m22_eq17(eta, batch_size, curvature):
    """φ = 1 + B/(ηh), the power in P_ss ∝ L^(−φ) (M22 Eq. 17)."""
    return 1 + batch_size / (eta * curvature)


@_checked
def w22_lemma36(eta, sigma, steps):
    """η²σ²t, the most that 𝔼L rises in t steps where η ≤ 2/λ₁ and 𝔼[HS] ≤ 2σ² (W22 Lemma 3.6)."""
    return eta**2 * sigma**2 * steps


@_checked
def w22_isotropic_growth(size, batch_size, eta, trace):
    """η²(Tr H)²/nB, by which a step of isotropic noise multiplies 𝔼L at least (W22 §3.3); n is ``size``."""
    return eta**2 * trace**2 / (size * batch_size)


@_checked
def w22_isotropic(size, batch_size, eta):
    """Largest stable Tr H = √(pB)/η of isotropic noise, p the number of parameters (W22 §3.3)."""
    return _root(size * batch_size) / eta


def y23_eq6(curvatures) -> np.ndarray:
    """Average flatness F = Πᵢ F⁽ⁱ⁾^(1/N_S), F⁽ⁱ⁾ = λᵢ^(−1/2), of curvatures (…, N_S) > 0 (Y23 Eq. 6)."""
    curvatures = _vectors("curvatures", curvatures, above=0)
    return np.exp(-np.log(curvatures).mean(axis=-1) / 2)


def y23_eq15(delta, kappa: float, log_flatness) -> np.ndarray:
    """L_SGD,F = Σᵢ (Δ̄ − κΔ⁽ⁱ⁾) ln F⁽ⁱ⁾, Δ̄ the mean of Δ⁽ⁱ⁾ (Y23 Eq. 15); linear in ``log_flatness``.

    ``delta`` (N_S,) > 0 are the noise strengths Δ⁽ⁱ⁾ ≈ Δ_S λᵢ(0)², ``kappa`` > 0 the overall anisotropy,
    ``log_flatness`` (…, N_S) the ln F⁽ⁱ⁾, or their slopes ∂ⱼ ln F⁽ⁱ⁾ for the slope of L_SGD,F.
    """
    delta, kappa = _strengths(delta), _check.number("kappa", kappa, above=0, most=1e100)
    log_flatness = _vectors("log_flatness", log_flatness, delta, least=-1e100, most=1e100)
    return log_flatness @ (delta.mean() - kappa * delta)


def y23_eq16(delta, flatness) -> np.ndarray:
    """Weighted flatness F̂ = Πᵢ F⁽ⁱ⁾^γᵢ, γᵢ = Δ⁽ⁱ⁾/Σ Δ⁽ⁱ⁾ (Y23 Eq. 16), of F⁽ⁱ⁾ (…, N_S) > 0."""
    delta = _strengths(delta)
    return np.exp(np.log(_vectors("flatness", flatness, delta, above=0)) @ (delta / delta.sum()))


@_checked
def y26_a13(flatness, delta_s):
    """D₁₁ = 2Δ_S/f, the diffusion across a valley of flatness f (Y26 A13)."""
    return 2 * delta_s / flatness


@_checked
def y26_eq7(height, rest, gamma):
    """L_eff = γ^½L + (1 − γ^½)L₀, L the ``height``, L₀ the ``rest``; sharp side: 1/γ for γ (Y26 Eq. 7)."""
    return gamma**0.5 * height + (1 - gamma**0.5) * rest


@_checked
def y26_a32(gamma):
    """P_flat^eq = γ/(1 + γ), called the equilibrium value (Y26 A32)."""
    return gamma / (1 + gamma)


def y26_eq9(at: Slice, delta_s, asymptotic: bool = False):
    """The steady-state P_flat as printed in Y26 Eq. 9: its left form (erfi) or its right (exponential).

    The ratio of two erfi is taken through Dawson's function, so it does not overflow. Arguments and errors as
    for :func:`.hopping.stationary_flat`.
    """
    _check.instance("at", at, Slice)
    _check.flag("asymptotic", asymptotic)
    z = {side: at.reduced_barrier(side, delta_s) for side in SIDES}
    log_gamma = np.log(at.f["flat"] / at.f["sharp"])
    log_ratio = z["flat"] ** 2 - z["sharp"] ** 2
    if asymptotic:
        return expit(log_gamma / 2 + log_ratio)
    return expit(log_gamma + log_ratio + np.log(dawsn(z["flat"]) / dawsn(z["sharp"])))


def y26_a37(landscape: Landscape) -> float:
    """Φ ≈ (2(x₁² − x₂²)/(27y_b)) (L_d/y_d + 8x₀²/(27y_f)), its bound (Y26 A37, second line).

    1.33e-5 for the paper's parameters. ValueError for a ``landscape`` that is not two_valleys() with numbers.
    """
    v = _values(landscape)
    drift = v["L_d"] / v["y_d"] + 8 * v["x0"] ** 2 / (27 * v["y_f"])
    return 2 * (v["x1"] ** 2 - v["x2"] ** 2) / (27 * v["y_b"]) * drift


def y26_eq11_regime(landscape: Landscape, delta_s, eps_phi):
    """Δ_S ln(Δ_S/(εΦ)²)/x₂², which must lie between 0 and 1 for Y26 Eq. 11 to mean anything.

    ``landscape`` is two_valleys() with numbers; Δ_S = ησ and the free constant ``eps_phi``, εΦ, lie between 0
    and 10¹⁰⁰ and broadcast. Raises ValueError for values outside these.
    """
    delta_s = _check.array("delta_s", delta_s, above=0, most=1e100)
    eps_phi = _check.array("eps_phi", eps_phi, above=0, most=1e100)
    _check.together(delta_s=delta_s, eps_phi=eps_phi)
    # one logarithm each: (εΦ)² may be too small for a double
    return delta_s * (np.log(delta_s) - 2 * np.log(eps_phi)) / _values(landscape)["x2"] ** 2


def y26_eq11(landscape: Landscape, delta_s, eps_phi):
    """y_freeze = y_b r/(x₂ − r), r² = Δ_S ln(Δ_S/(εΦ)²) (Y26 Eq. 11, A40); NaN outside its regime.

    Arguments and errors as for :func:`y26_eq11_regime`.
    """
    share = y26_eq11_regime(landscape, delta_s, eps_phi)
    root = np.sqrt(np.where((share > 0) & (share < 1), share, np.nan))
    return landscape.values["y_b"] * root / (1 - root)


def y26_eq12(landscape: Landscape, delta_s, eps_phi):
    """P_flat = [1 + γ^{−1/2} (√Δ_S/εΦ)^{1−γ}]⁻¹ (Y26 Eq. 12, A41); NaN outside the regime of Eq. 11.

    Arguments and errors as for :func:`y26_eq11_regime`.
    """
    share = y26_eq11_regime(landscape, delta_s, eps_phi)
    gamma = (landscape.values["x1"] / landscape.values["x2"]) ** 2
    ratio = np.where((share > 0) & (share < 1), np.sqrt(delta_s) / np.asarray(eps_phi), np.nan)
    return 1 / (1 + gamma**-0.5 * ratio ** (1 - gamma))


def _values(landscape) -> dict[str, float]:
    """The numbers of a two-valley landscape."""
    values = _check.instance("landscape", landscape, Landscape).values
    if not {"x1", "x2", "y_b", "y_f"} <= set(values):
        raise _check.refused("landscape", landscape.name, "two_valleys() with numbers for its parameters")
    return values


def _strengths(delta) -> np.ndarray:
    return _check.array("delta", delta, ndim=1, above=0, most=1e100)


def _vectors(name, values, like=None, **bounds) -> np.ndarray:
    """An array of vectors along the last axis, as long as those of ``like``."""
    values = _check.array(name, values, **bounds)
    if not values.ndim or (like is not None and values.shape[-1] != len(like)):
        count = "N_S" if like is None else len(like)
        raise _check.refused(name, values, f"of {count} numbers along the last axis")
    return values
