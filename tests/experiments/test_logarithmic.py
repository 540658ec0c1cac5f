"""The functions behind the recorded runs of linear regression."""

import numpy as np
import pytest

from flatmin.experiments import logarithmic_passage, logarithmic_stationary
from flatmin.theory.logarithmic.multiplicative import RegressionChain


def test_stationary_exponents_are_those_of_the_chain():
    point = {"eta": 0.2, "batch_size": 2, "samples": 50_000, "records": 4000, "order": "independent"}
    found = logarithmic_stationary.measure(point, seed=3)
    law = RegressionChain(0.2, 2).stationary(300)
    # 4000 independent records fix the width of the core to some three per cent
    assert found["all"] == pytest.approx(law.fitted_exponent(), rel=0.1)
    assert found["square"] == pytest.approx(RegressionChain(0.2, 2).mean_square, rel=0.1)
    assert 1 < found["beyond"] < found["highest"]
    assert np.isfinite(found["histogram"])
    assert np.isfinite(found["tail"])


def test_passages_are_those_of_the_chain_and_censoring_is_said():
    point = {"dimension": 10, "samples": 20_000, "runs": 100, "steps": 3000, "order": "independent"}
    found = logarithmic_passage.measure(point, seed=4)
    ratios = logarithmic_passage.RATIOS
    at = np.searchsorted(ratios, 2.0)
    exact = RegressionChain(0.1, 1, 10).passage_time(ratios[at])
    assert found["mean"][at] == pytest.approx(exact, rel=0.4)  # four standard errors of 100 exponential times
    assert found["reached"][0] == 1
    assert found["reached"][-1] < 1
    assert np.isnan(found["mean"][-1])
    assert np.all(np.diff(found["reached"]) <= 0)
