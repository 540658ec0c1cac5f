"""The formulas of the papers as printed, each against a number worked out by hand.

The arguments differ in every place, so that a factor, a sign, an exponent or two swapped letters show.
"""

import math

import numpy as np
import pytest
import sympy as sp

from flatmin.theory import printed
from flatmin.theory.continuum.fokker_planck import DELTA_S
from flatmin.theory.continuum.reduction import Reduction
from flatmin.theory.noise import gaussian_moments
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.two_valleys.hopping import Slice
from flatmin.theory.two_valleys.landscape import PAPER, two_valleys
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

#: z₋² = 1·4.5/(2·1) = 1.5² and z₊² = 1·18/(2·1) = 3² at Δ_S = 1, γ = 4
AT = Slice(y=1.0, f={"flat": 18.0, "sharp": 4.5}, floor={"flat": 18**0.5, "sharp": 4.5**0.5}, barrier=1.0)
FORK = {"x1": 5, "x2": 3, "x0": 3, "f0": 5, "y_b": 10, "y_f": 2, "y_d": 4, "L_d": 8}
#: one parameter, two samples with gradients 1 and 3
TWO = Minimum.from_gradients([[1.0], [3.0]])
#: √Δ_S/εΦ = e^12.5 at Δ_S = 0.01: Δ_S ln(Δ_S/(εΦ)²) = 0.01 · 25 = ½²
EPS_PHI = 0.1 * math.exp(-12.5)
ERFI_1, ERFI_3 = 4.584733257284427, 1629.9946226015657  # erfi 1.5 and erfi 3, of tables

PINNED = [
    (printed.y22_s4, (0.5, 3), 9),  # 2 · ½ · 3²
    (printed.y22_s9, (3, 10, 4, 0.1, 0.5), -0.46),  # 0.01 · 10 − 2 · 0.1 · 3 + 2 · 0.01 · 0.5 · 4
    (printed.y22_s20, (0.1, 0.2, -3), 1 / 0.97),  # 0.01 − 2 · 0.1 · 0.2 · 3 + 3 · 0.04 · 9
    (printed.y22_s21, (3, math.exp(2), 0.5, 0.25, 7), -70),  # −7 · 0.5 · 9/(2 · 0.25) − 7/2 · 2
    (printed.y22_s26, (3, 0.2), 0.6),
    # 0.6² + 0.1 (−0.6 · 4 + 3²) 5 + ¾ (0.1 · 4 · 5)² = 0.36 + 3.3 + 3
    (printed.y22_s28, (5, 3, -4, 0.6, 0.1), 25 / 6.66),
    # −κ (0.6 · 0.7/(0.1 · 5²) + 3/(2 · 5)) = −κ (0.168 + 0.3)
    (printed.y22_s30, (0.7, 5, 3, -4, 0.6, 0.1), -0.468 * 25 / 6.66),
    (printed.y22_s35, (0.001, -2), 0.0005),
    (printed.y22_s37, (3, 0.25), 9),  # 3 √(2.25/0.25)
    (printed.y22_s39, (0.1, 4, -2), 3**-0.5),  # √((2/0.4 − 1)/(3 · 4)) = √(4/12)
    (printed.y22_s40, (0.1, 2.4, -2), 2),  # √(4.8/(3 · 0.1 · 4))
    # −κλ₀λ₁ = 7 · 8 · 2 = 112, Δ_S* − Δ_S = −0.015, κΔ_S (4 + 2 · 8 · 3) = 7.28: −112 · 0.015 · 2 + 7.28 · 4
    (printed.y22_s41, (2, 0.02, 0.01, 8, -2, 3, 7), 25.76),
    (printed.y22_s42, (0.02, 0.01, 8, -2, 3), 3 / 13),  # 8 · 2/(0.02 (4 + 2 · 24)) (0.02 − 0.005)
    (printed.y22_s43, (0.02, 0.01, 4, -2, 6), 3 / 208),  # 2/(2 · 8) · 8/(0.02 (4 + 48)) · 0.015
    (printed.y22_s44, (2, 3, 5), 0.3),
    (printed.y22_s47, (5, -4, 0.6, 0.1), -0.08),  # (0.6 − 0.1 · 4 · 5/2)/5
    (printed.m22_eq6, (0.5, 3, 10), 0.3),  # 2 · 0.5 · 3/10
    (printed.m22_eq17, (0.1, 10, 2), 51),  # 1 + 10/0.2
    (printed.m22_eq16_power, (0.5, 10, 4, 9), 1.5),  # 10/2 + 1 − 9/2
    (printed.m22_eq18, (0.5, 10, 4), 12),  # 2 (10/2 + 1)
    # 1/2π · √(36/4) · 2^−(1/½ + 1 − 2/2)
    (printed.m22_eq16, (0.5, 3, 6, np.diag([4.0, 9.0]), np.diag([-1.0, 4.0])), 3 / (8 * math.pi)),
    (
        printed.m22_eq19,
        (0.5, 1, np.diag([4.0, 9.0]), np.diag([-1.0, 4.0])),
        3 / (2 * math.pi) * math.exp(-2),
    ),
    (printed.w22_isotropic, (9, 4, 0.5), 12),  # √36/0.5
    (printed.w22_isotropic_growth, (9, 4, 0.5, 6), 0.25),  # 0.25 · 36/36
    (printed.w22_lemma36, (0.1, 3, 7), 0.63),
    # H = (1 + 9)/2 = 5: √(8/2)/5; min(8/√(7 · 2), 2 · 8/2)/5; min(2/√16, 2 · 2/16)/5; 0.2² · 2/8 · 5²
    (printed.w22_thm33, (TWO, 8, "replacement", 2), 0.4),
    (printed.w22_prop34, (TWO, 8, "replacement", 2), 8 / (5 * 14**0.5)),
    (printed.w22_prop34, (TWO, 2, "replacement", 16), 0.05),
    (printed.w22_thm35, (TWO, 0.2, 8, "replacement", 2), 0.25),
    (printed.y26_a13, (0.5, 0.1), 0.4),
    (printed.y26_eq7, (3, 5, 4), 1),  # 2 · 3 + (1 − 2) · 5
    (printed.y26_eq7, (3, 5, 0.25), 4),  # ½ · 3 + ½ · 5
    (printed.y26_a32, (1.5,), 0.6),
    (printed.y26_a28, (AT, "sharp", 1.0), 2.25 * math.pi * ERFI_1),  # (π/2) · 4.5 · erfi 1.5
    (printed.y26_a28, (AT, "flat", 1.0), 9 * math.pi * ERFI_3),
    (printed.y26_a29, (AT, "sharp", 1.0), 2 / 3 * math.pi**-0.5 * math.exp(-2.25)),  # √(2/4.5π) e^−1.5²
    (printed.y26_eq9, (AT, 1.0), 1 / (1 + ERFI_1 / ERFI_3 / 4)),
    (printed.y26_eq9, (AT, 1.0, True), 1 / (1 + 0.5 * math.exp(-6.75))),  # 4^−½ exp(1 (4.5 − 18)/2)
    (printed.y26_a37, (two_valleys().at(**FORK),), 32 / 81),  # 2 (25 − 9)/270 · (8/4 + 8 · 9/(27 · 2))
    (printed.y26_eq11_regime, (two_valleys().at(**FORK), 0.01, EPS_PHI), 1 / 36),  # 0.01 · 25/3²
    (printed.y26_eq11, (two_valleys().at(**FORK), 0.01, EPS_PHI), 2),  # 10 · ½/(3 − ½)
    # γ = 1.04: 1.04^−½ e^(−0.04 · 12.5)
    (
        printed.y26_eq12,
        (two_valleys().at(**FORK | {"x1": 3 * 1.04**0.5}), 0.01, EPS_PHI),
        1 / (1 + 1.04**-0.5 * math.exp(-0.5)),
    ),
    # mean Δ = 2: (2 − 10 · 1) ln 2 + (2 − 10 · 3) ln ½ = 20 ln 2
    (printed.y23_eq15, ([1.0, 3.0], 10.0, np.log([2.0, 0.5])), 20 * math.log(2)),
    # one direction: the first term of Eq. 14, Δ(1 − κ) ln F
    (printed.y23_eq15, ([0.5], 9.0, [2.0]), -8.0),
    (printed.y23_eq16, ([1.0, 3.0], [[16.0, 1.0], [1.0, 16.0]]), [2.0, 8.0]),
]


@pytest.mark.parametrize(("formula", "arguments", "by_hand"), PINNED)
def test_by_hand(formula, arguments, by_hand):
    np.testing.assert_allclose(formula(*arguments), by_hand, rtol=1e-12)


def test_y23_eq6():
    assert printed.y23_eq6([4.0, 16.0]) == pytest.approx(2**-1.5)  # (½ · ¼)^½


def test_every_formula_is_pinned():
    pinned = {formula for formula, *_ in PINNED} | {printed.y23_eq6}
    assert pinned == {getattr(printed, name) for name in printed.__all__}


def test_numbers_as_the_papers_state_them():
    assert (printed.Y22_VY, printed.Y22_VX, printed.Y22_S8, printed.Y22_S43, printed.Y22_S46) == (
        1,
        2,
        2,
        1,
        0.5,
    )
    assert printed.Y22_FIG_S4 == {"α": 0.85, "β above": 0.48, "β below": 0.56}
    assert printed.Y22_FIG_S4_SIGMA == 0.0105
    assert (printed.M22_H, printed.M22_EQ44, printed.M22_FIG3C, printed.M22_LOSS) == (95.6, 12.7, 9, 0.035)
    assert (printed.M22_STRENGTH, printed.M22_STRENGTH_XENT) == (1, {"middle": 1, "small": 2})
    assert (printed.W22_PROP25, printed.W22_LEMMA36) == (-1, 2)
    assert printed.Y26_TIMES == {"across": 0.32, "along": 41.8, "ratio": 0.0076}
    assert (printed.Y26_EPSILON, printed.Y26_DRAWN, printed.Y26_FIG1) == (0.01, 3000, 21.0)


def test_numbers_that_follow_from_a_formula():
    """0.32 = 0.8²/2; Φ = 2 (0.64 − 0.4225)/(27 · 30) · (0.01 + 8/540) = 1.3326e-5; both digits of A11–A37."""
    assert PAPER["f0"] * PAPER["x1"] ** 2 / 2 == pytest.approx(printed.Y26_TIMES["across"])
    assert printed.y26_a37(two_valleys().at(**PAPER)) == pytest.approx(1.3326e-5, rel=1e-4)


def test_s28_and_s30_are_what_the_elimination_gives_in_the_isothermal_reading():
    valley = near_degenerate_valley()
    (x, _), (epsilon, lambda_0, *_) = valley.coordinates, valley.parameters
    reduction = Reduction(valley)
    curvature = reduction.curvature
    given = curvature, sp.diff(curvature, x), sp.diff(curvature, x, 2), epsilon * lambda_0, DELTA_S
    assert sp.simplify(printed.y22_s28(*given) - reduction.anisotropy) == 0
    read = reduction.slow_equation().read_as("isothermal").log_slope
    assert sp.simplify(printed.y22_s30(x, *given) - read) == 0


def test_s21_in_the_critical_window():
    """−(κ/2)[ελ₀x²/Δ + ln λ/λ₀] → −(2λ₀λ₂ − λ₁²)ξ⁴/8λ₀² at w = 0: −3ξ⁴/128 for 8, −2, 1 (κ → 1/2ε²).

    x² = εξ², Δ_S = ε/2. With Δ(x) = Δ_Sλ² for the constant Δ of S18 it would be 2λ₀λ₂ + λ₁², −5ξ⁴/128.
    """
    tilt, xi = sp.Symbol("epsilon", positive=True), sp.Symbol("xi")
    x = sp.sqrt(tilt) * xi
    kappa = printed.y22_s20(tilt, tilt / 2, -2)
    log_p = printed.y22_s21(x, 8 - 2 * x**2 + x**4, 8 * tilt, 64 * tilt / 2, kappa)
    limit = sp.limit(sp.simplify(sp.diff(log_p, xi)), tilt, 0)
    assert sp.nsimplify(sp.simplify(limit)) == sp.Rational(-3, 32) * xi**3


def test_s9_is_the_mean_square_of_the_multiplier():
    lam, slope, eta, sigma, z = sp.symbols("lam slope eta sigma z")
    multiplier = 1 - eta * lam + eta * slope * sp.sqrt(2 * sigma) * z  # S7
    mean_square = gaussian_moments(multiplier**2, {z: sp.Integer(1)})
    assert sp.expand(mean_square - 1 - printed.y22_s9(lam, lam**2, slope**2, eta, sigma)) == 0


def test_beyond_its_range_s39_is_refused():
    with pytest.raises(ValueError, match=r"eta_min=.*curvature"):
        printed.y22_s39(0.3, 7.0, -2.0)  # ηλ = 2.1
