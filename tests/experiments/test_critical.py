"""The functions behind the recorded runs around the transition."""

import numpy as np
import pytest

from flatmin.experiments import critical_point


def test_every_search_from_afar_arrives():
    point = {"epsilon": 0.02, "eta": 0.04, "sigma": [0.15, 0.3], "tau": 2000, "trajectories": 64}
    search = critical_point.search_time({**point, "level": [0.0, 0.3]}, seed=1)
    assert np.all(search["arrived"] == 1)
    assert np.all(search["error"] < 0.2 * search["mean"])


def test_divergence_counts_losses_over_time_at_risk():
    point = {"epsilon": 0.001, "eta": 0.04, "delta_s": [0.001, 0.05], "tau": 60, "trajectories": 64}
    found = critical_point.divergence(point, seed=1)
    assert found["rate"][0] == 0
    assert found["fraction"][1] > 0.9
    assert found["rate"][1] == pytest.approx(0.085, rel=0.5)
