"""Bad values for what all wings share: estimates, sampling, and what is read off measured curves."""

import numpy as np
import pytest

from flatmin import estimate, fits, sampling
from flatmin.estimate import Estimate, bootstrap_error, independent_mean, proportion, student
from flatmin.sampling import Sampling
from fuzz import Case, check, uncovered

RNG = np.random.default_rng(0)
X = np.geomspace(1, 10, 12)
GROUPS = np.tile(X, (3, 1))
NOISY = GROUPS**2 * RNG.uniform(0.9, 1.1, (3, 12))
CONTROL = np.geomspace(0.5, 2, 15)
TIMES = np.exp(-(np.log(CONTROL) ** 2))[:, None] * RNG.uniform(0.9, 1.1, (15, 8))
SQUARES = np.linspace(0.02, 0.3, 15)[:, None] + 0.001 * RNG.random((15, 8))
LOST = RNG.random((15, 8)) < (CONTROL > 1)[:, None]
LOSSES = np.exp(0.1 * np.arange(10)) * RNG.uniform(0.9, 1.1, (6, 10))

ANY = {"window": {"None": "everything"}}

CASES = [
    Case(bootstrap_error, {"statistic": lambda draw: draw.mean(), "n": 8, "resamples": 20}),
    Case(proportion, {"happened": np.array([True, False])}),
    Case(Estimate(1.0, 0.1).scaled, {"factor": 2.0}),
    Case(student, {"error": 0.3, "freedom": 5, "sigmas": 2.0}),
    Case(independent_mean, {"values": np.array([1.0, 2.0, 4.0]), "sigmas": 2.0}),
    Case(Sampling("fresh").factor, {"samples": 10, "batch_size": 3}),
    Case(Sampling("epoch").draw, {"samples": 10, "batch_size": 3, "seed": 1, "epoch": 0}),
    Case(fits.log_log_slope, {"x": GROUPS, "y": NOISY, "resamples": 20}),
    Case(fits.common_slope, {"x": GROUPS, "y": NOISY}),
    Case(fits.window_slopes, {"x": GROUPS, "y": NOISY, "windows": [(1.0, 5.0), (5.0, 10.0)]}),
    Case(fits.halves, {"x": GROUPS, "window": (1.0, 10.0), "span": 5.0}),
    Case(fits.half_slopes, {"x": GROUPS, "y": NOISY, "window": (1.0, 10.0), "span": 5.0}),
    Case(fits.growth_rate, {"losses": LOSSES, "window": (1, 8), "resamples": 20}),
    Case(fits.onset, {"control": CONTROL, "squares": SQUARES, "resamples": 20}, right=ANY),
    Case(fits.passage_power, {"steps": NOISY, "levels": X, "between": (1, 10), "resamples": 20}),
    Case(fits.peak, {"control": CONTROL, "times": TIMES, "resamples": 20}),
    Case(fits.half_lost, {"control": CONTROL, "lost": LOST, "resamples": 20}),
    Case(fits.limit_by_halving, {"values": [1.0, 0.5, 0.26]}),
]
SKIP = {
    "Estimate": "a record of results",
    "Slope": "a record of results",
    "Sampling": "an enumeration",
    "Sampling.of": "names what it is told to, see the tests of the checks",
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    assert not uncovered(CASES, estimate, fits, sampling, skip=SKIP)
