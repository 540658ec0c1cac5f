"""Bad values for the valley of many directions and its compiled step."""

import numpy as np
import pytest

from flatmin.theory import noise
from flatmin.theory.sgd import structured
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.valleys import high_dimensional as many
from fuzz import Case, check, uncovered

VALLEY = many.high_dimensional_valley(2, 3, seed=1)
X, POINT = np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.3, 0.4, 0.5])
COEFFICIENTS = {"lambda_0": [8.0, 4.0], "lambda_1": [[-1.0], [0.5]], "lambda_2": [[1.0], [0.5]]}
SIGN = {"lambda_1": dict.fromkeys(("entry -1", "reversed"), "still positive everywhere")}

CASES = [
    Case(many.HighDimensionalValley, COEFFICIENTS, right=SIGN),
    Case(many.high_dimensional_valley, {"n_sharp": 2, "n_flat": 3}),
    Case(VALLEY.curvatures, {"x": X}),
    Case(VALLEY.slopes, {"x": X}),
    Case(VALLEY.log_flatness, {"x": X}),
    Case(VALLEY.loss, {"point": POINT}),
    Case(VALLEY.gradient, {"point": POINT}),
    Case(VALLEY.hessian_product, {"point": POINT, "vector": POINT}),
    Case(VALLEY.start, {"seed": 1}),
    Case(
        VALLEY.mean_squares,
        {"x": X, "eta": 0.1, "sigma": 0.1},
        right={name: {"*": "infinite beyond the edge, as documented"} for name in ("x", "eta", "sigma")},
    ),
    Case(
        VALLEY.thresholds,
        {"eta": 0.1},
        right={"eta": {"*": "infinite where nothing pulls"}},
    ),
    Case(VALLEY.averaged, {"eta": 0.1, "sigma": 0.01, "start": POINT, "tau": np.array([0.0, 1.0, 2.0])}),
    Case(many.isotropic_strength, {"valley": VALLEY, "sigma": 0.1, "x": X}),
    Case(
        structured.build,
        {"valley": VALLEY, "noise": noise.NoNoise()},
        leave={"valley": "checked by simulate"},
    ),
    Case(
        lambda eta, steps, start: simulate(VALLEY, noise.RandomShift(0.1), eta=eta, steps=steps, start=start),
        {"eta": 0.02, "steps": 3, "start": POINT},
        name="simulate(many directions)",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    skip = {"Averaged": "made by averaged", "HighDimensionalValley.require_domain": "asks for nothing"}
    assert not uncovered(CASES, many, structured, skip=skip)
