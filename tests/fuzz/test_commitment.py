"""Bad values for the statistics of freezing."""

import numpy as np
import pytest

from flatmin.networks import commitment
from fuzz import Case, check, uncovered

RNG = np.random.default_rng(0)
START = np.repeat([0, 1], 12)
COLUMNS = RNG.random((24, 2))
MIDDLE = COLUMNS @ [1.0, 2.0] + 0.1 * RNG.standard_normal(24)
BOUNDS = {"lower": MIDDLE - 0.1, "upper": MIDDLE + 0.1}
OPEN = {"entry inf": "no bound", "array with inf": "no bound"}
PAIRS = np.full((4, 4), 0.5)

CASES = [
    Case(commitment.slopes, {"columns": COLUMNS, "y": MIDDLE, "starts": START}),
    Case(
        commitment.bracket,
        {"frozen": np.array([2, 3]), "times": np.array([0.0, 1.0, 2.0, 4.0])},
        right={"frozen": {"*": "no bound beyond the ends"}},
        then=lambda bounds: np.nan_to_num(bounds[1], posinf=0),
    ),
    Case(commitment.censored_fit, {"columns": COLUMNS, **BOUNDS}, right={"lower": OPEN, "upper": OPEN}),
    Case(
        commitment.delay,
        {"eta": np.exp(COLUMNS[:, 0]), "factor": np.exp(COLUMNS[:, 1]), "starts": START, **BOUNDS},
        right={"lower": OPEN, "upper": OPEN},
    ),
    Case(commitment.pair_mean, {"values": PAIRS}),
    Case(commitment.expected_best, {"mean": 1.0, "spread": 0.5, "runs": 20}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    assert not uncovered(CASES, commitment, skip={"Delay": "a record of results"})
