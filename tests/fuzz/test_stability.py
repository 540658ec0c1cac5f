"""Bad values for linear stability: thresholds, bounds, brackets, paths, random families."""

import numpy as np
import pytest

from flatmin.theory.stability import bounds, bracket, families, minimum, paths, sharpness, threshold, walkers
from flatmin.theory.stability.minimum import Minimum
from fuzz import Case, check, uncovered

ROWS = np.random.default_rng(0).normal(size=(5, 2, 7))
HERE = Minimum.from_gradients(ROWS)
ONE = Minimum.from_gradients(ROWS[:, 0])
GRAM = ROWS[:, 0] @ ROWS[:, 0].T
ERRORS = np.linspace(-1, 1, 10)
WHOLE = {"inf": "W22's theorem says nothing", "*": "a bound of ∞ says nothing"}
DRAWN = {"minimum": HERE, "batch_size": 2, "sampling": "fresh"}
STEP = {"minimum": HERE, "eta": 0.1, "batch_size": 2, "sampling": "fresh"}
EMPTY = {"mu_0": dict.fromkeys(("0", "-1", "-0.5"), "c μ ≤ 0: the theorem says nothing")}
EMPTY_1 = {"mu_1": EMPTY["mu_0"]}
NO_NOISE = {"batch_size": {"True": "B = 1"}}

CASES = [
    Case(Minimum.from_gradients, {"gradients": ROWS}),
    Case(Minimum.from_gram, {"gram": GRAM, "outputs": 1}),
    Case(HERE.factor, {"batch_size": 2, "sampling": "fresh"}),
    Case(HERE.leading, {"directions": 2}),
    Case(HERE.gram_product, {"vectors": ERRORS[None]}),
    Case(HERE.reached, {"blocks": HERE.pulls}),
    Case(HERE.alignment, {"residuals": ERRORS}),
    Case(HERE.residuals_of, {"residuals": ERRORS}),
    Case(minimum.checked, {"minimum": HERE}),
    Case(threshold.growth, STEP),
    Case(threshold.leading_mode, STEP, right={"eta": {"None": "the threshold itself"}}),
    Case(threshold.largest_step, DRAWN),
    Case(threshold.second_moment_step, {**STEP, "moment": np.eye(7)}),
    Case(
        threshold.smallest_batch,
        {"minimum": HERE, "eta": 0.1},
        right={"eta": dict.fromkeys(("10**30", "True"), "no batch is large enough")},
    ),
    Case(bounds.gradient_descent_step, {"minimum": HERE}),
    Case(bounds.theorem_3_3_step, DRAWN, right=EMPTY),
    Case(bounds.proposition_3_4_step, DRAWN, right=EMPTY_1),
    Case(bounds.theorem_3_5_growth, STEP),
    Case(bounds.one_step_growth, STEP),
    Case(bounds.trace_necessary_step, DRAWN),
    Case(bounds.trace_sufficient_step, DRAWN),
    Case(bounds.direction_necessary_step, DRAWN),
    Case(bounds.space_necessary_step, DRAWN),
    Case(bounds.necessary_step, DRAWN),
    Case(bounds.decoupled_step, {"eigenvalues": [2.0, 1.0], "noise": [1.0, 3.0], "batch_size": 2}),
    Case(bracket.step_bracket, {**DRAWN, "directions": 3}),
    Case(paths.mean_losses, {**STEP, "steps": 3, "residuals": ERRORS}),
    Case(
        paths.log_losses,
        {**STEP, "steps": 3, "trajectories": 2, "seed": 1, "moment": np.eye(7)},
        leave={"moment": {"None": "errors of length 1"}},
    ),
    Case(paths.typical_growth, {"log_losses": np.cumsum(np.ones((3, 9)), axis=1), "discard": 2}),
    Case(paths.typical_edge, {**DRAWN, "steps": 20, "trajectories": 4}),
    Case(sharpness.at_edge, {**DRAWN, "draws": 5}),
    Case(sharpness.batch_sharpness, {**DRAWN, "residuals": ERRORS, "draws": 5}),
    Case(paths.epoch_growth, {"minimum": ONE, "eta": 0.1, "batch_size": 5}),
    Case(families.random_minimum, {"family": "gaussian", "samples": 4, "seed": 0}),
    Case(families.grouped_minimum, {"groups": [[4, 2, 1.0], [6, 3, 0.5]], "seed": 0}),
    Case(families.shaped_minimum, {"samples": 4}),
    Case(
        walkers.linear_walkers,
        {
            "gradients": ROWS[:, 0],
            "eta": 0.1,
            "batch_size": 2,
            "start": np.ones(7),
            "steps": 3,
            "trajectories": 2,
        },
        then=lambda found: found[0],
    ),
    Case(families.compare, {"minimum": ONE, "batch_sizes": [1.0, 3.0]}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    made = {"Minimum": "made by from_gradients and from_gram"} | dict.fromkeys(
        ("Mode", "Bracket", "AtEdge"), "a result"
    )
    assert not uncovered(
        CASES, minimum, threshold, bounds, bracket, paths, sharpness, families, walkers, skip=made
    )
