"""Bad values for the laws of the logarithmic landscape, the regression and its exact chain."""

import numpy as np
import pytest

from flatmin.theory.logarithmic import laws, loops, multiplicative, passages, regression
from flatmin.theory.logarithmic.multiplicative import RegressionChain, StationaryLaw, kesten_exponent
from flatmin.theory.logarithmic.regression import Regression
from fuzz import Case, check, uncovered

TEMPERATURE = {"eta": 0.1, "batch_size": 5, "curvature": 2.0}
CHAIN = RegressionChain(0.3)
LAW = CHAIN.stationary(60)
DATA = Regression(50, 2)
RATIOS = 1 + np.random.default_rng(0).standard_normal(200) ** 2
NODES = {"nodes": (20, 12, 8)}
_SAID = dict.fromkeys(("1e308", "10**30"), "a run that diverges is reported as it is")
DIVERGES = {"eta": _SAID}


def well(x):
    return 1 / 8 + (x**2 - 1) ** 2 / 4


CASES = [
    Case(laws.temperature, TEMPERATURE),
    Case(laws.critical_dimension, TEMPERATURE),
    Case(laws.passage_exponent, TEMPERATURE),
    Case(
        laws.power_law_rate,
        {
            "temperature": 0.1,
            "minimum": 0.3,
            "saddle": 0.8,
            "hessian": np.diag([2.0, 5.0]),
            "saddle_hessian": np.diag([-1.0, 4.0]),
        },
    ),
    Case(
        laws.aligned_factor,
        {"loss": well, "curvature": lambda x: 3.0, "ratio": 1.5, "minimum": -1.0, "saddle": 0.0},
    ),
    Case(laws.fit_exponent, {"ratios": RATIOS}),
    Case(laws.exponent_of, {"mean_log": 0.3}),
    Case(laws.fit_histogram, {"theta": np.sqrt(RATIOS - 1), "ratios_of": lambda at: 1 + at**2, "bins": 10}),
    Case(kesten_exponent, {"log_moment": lambda kappa: kappa * (kappa - 2)}),
    Case(StationaryLaw, {"r": LAW.r, "mass": LAW.mass, "width": LAW.width, "dimension": 1}),
    Case(LAW.tail, {"at": np.array([0.1, 0.5])}),
    Case(LAW.local_exponent, {"ratios": np.array([1.5, 1.6]), "width": 0.3}),
    Case(
        RegressionChain,
        {"eta": 0.3, "batch_size": 2, "dimension": 1},
        then=lambda chain: (chain.tail_exponent, chain.lyapunov, chain.mean_square_factor),
        name="RegressionChain",
    ),
    Case(CHAIN.log_moment, {"power": 1.0}),
    Case(CHAIN.matrix, {"grid": np.linspace(0, 3, 12), **NODES}),
    Case(CHAIN.stationary, {"points": 30, **NODES}),
    Case(CHAIN.passage_time, {"ratio": 1.5, "points": 30, **NODES}),
    Case(Regression, {"samples": 50, "dimension": 2}, then=lambda data: data.minimum),
    Case(DATA.run, {"eta": 0.01, "batch_size": 2, "steps": 20, "keep": 4}, right=DIVERGES),
    Case(
        DATA.passage_steps,
        {"eta": 0.01, "batch_size": 2, "ratios": np.array([1.1, 2.0]), "runs": 2, "steps": 50},
    ),
    Case(
        passages.decoupled_passages,
        {
            "curvatures": np.array([2.0, 1.0]),
            "levels": np.array([1.5, 3.0]),
            "eta": 0.1,
            "batch_size": 2,
            "steps": 50,
            "runs": 3,
        },
    ),
    Case(
        loops.both_clocks,
        {"eta": 0.1, "temperature": 1.0, "runs": 3, "steps": 1000},
        right={**DIVERGES, "temperature": _SAID},
    ),
    Case(
        loops.chain_density,
        {"eta": 0.1, "squares": np.array([0.0, 0.1]), "steps": 500, "groups": 2},
        right=DIVERGES,
    ),
    Case(
        loops.regression_walkers,
        {"eta": 0.1, "batch_size": 2, "dimension": 3, "ratios": np.array([1.1, 2.0]), "steps": 9, "runs": 2},
        right={**DIVERGES, "steps": {"0": "no step"}},
        then=lambda runs: runs.passed,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    made = {"Walkers": "a result"}
    assert not uncovered(CASES, laws, loops, multiplicative, passages, regression, skip=made)
