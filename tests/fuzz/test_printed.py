"""Bad values for the papers' formulas as printed."""

import pytest

from flatmin.theory import printed
from flatmin.theory.two_valleys import hopping
from flatmin.theory.two_valleys.landscape import PAPER, two_valleys
from fuzz import Case, check, uncovered

FORK = two_valleys().at(**PAPER)
FREEZING = {"landscape": FORK, "delta_s": 1e-3, "eps_phi": 4e-4}
NAN = {name: {"another shape": "NaN outside the regime, as documented"} for name in ("delta_s", "eps_phi")}
AT_X = {"curvature": 7.0, "slope": -1.0, "second": -3.0, "tilt": 0.1, "delta_s": 0.01}

NOISE = {"delta_s": 0.01}
AT_PAPER = {"epsilon": 0.01, "lambda_0": 8.0, "lambda_1": -2.0, "lambda_2": 1.0}
CASES = [
    Case(printed.y22_s4, {"sigma": 0.1, "curvature": 2.0}),
    Case(
        printed.y22_s9,
        {"curvature_mean": 2.0, "curvature_square": 5.0, "slope_square": 1.0, "eta": 0.1, "sigma": 0.5},
    ),
    Case(printed.y22_s20, {"epsilon": 0.1, "delta_s": 0.01, "lambda_1": -2.0}),
    Case(printed.y22_s21, {"x": 0.1, "curvature": 7.0, "tilt": 0.1, "delta": 0.3, "kappa": 10.0}),
    Case(printed.y22_s26, {"curvature": 7.0, "delta_s": 0.01}),
    Case(printed.y22_s28, AT_X),
    Case(printed.y22_s30, {"x": 0.1, **AT_X}),
    Case(printed.y22_s35, {"epsilon": 0.1, "lambda_1": -2.0}),
    Case(printed.y22_s37, {"curvature": 7.0, "kappa": 10.0}),
    Case(printed.y22_s39, {"eta_min": 0.1, "curvature": 7.0, "lambda_1": -2.0}),
    Case(printed.y22_s40, {"eta_min": 0.1, "flatness": 0.4, "lambda_1": -2.0}),
    Case(printed.y22_s41, {"x": 0.1, "kappa": 10.0} | NOISE | AT_PAPER),
    Case(printed.y22_s42, NOISE | AT_PAPER),
    Case(printed.y22_s43, NOISE | AT_PAPER),
    Case(printed.y22_s44, {"density": 2.0, "beyond": 3.0, "diffusion": 0.1}),
    Case(printed.y22_s47, {"curvature": 7.0, "second": -3.0, "tilt": 0.1, "delta_s": 0.01}),
    Case(printed.m22_eq6, {"loss": 0.1, "hessian": 2.0, "batch_size": 5}),
    Case(printed.m22_eq17, {"eta": 0.1, "batch_size": 5, "curvature": 2.0}),
    Case(printed.w22_isotropic, {"size": 10, "batch_size": 5, "eta": 0.1}),
    Case(printed.w22_isotropic_growth, {"size": 10, "batch_size": 5, "eta": 0.1, "trace": 20.0}),
    Case(printed.w22_lemma36, {"eta": 0.1, "sigma": 2.0, "steps": 10.0}),
    Case(printed.y23_eq6, {"curvatures": [1.0, 2.0]}),
    Case(printed.y23_eq15, {"delta": [1.0, 2.0], "kappa": 3.0, "log_flatness": [0.1, 0.2]}),
    Case(printed.y23_eq16, {"delta": [1.0, 2.0], "flatness": [0.1, 0.2]}),
    Case(printed.y26_a13, {"flatness": 0.5, "delta_s": 1e-3}),
    Case(printed.y26_eq7, {"height": 0.5, "rest": 1.0, "gamma": 1.5}),
    Case(printed.y26_a32, {"gamma": 1.5}),
    Case(printed.y26_eq9, {"at": hopping.frozen(FORK, 5.0), "delta_s": 2e-3}),
    Case(printed.y26_a37, {"landscape": FORK}),
    Case(printed.y26_eq11_regime, FREEZING),
    Case(printed.y26_eq11, FREEZING, right=NAN),
    Case(printed.y26_eq12, FREEZING, right=NAN),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    elsewhere = ("kramers_rate", "power_law_rate", "passage_exponent", "critical_dimension")
    elsewhere += ("passage_time_erfi", "passage_rate_asymptotic")
    elsewhere += ("theorem_3_3_step", "proposition_3_4_step", "theorem_3_5_growth")
    assert not uncovered(CASES, printed, skip=dict.fromkeys(elsewhere, "with the module it is from"))
