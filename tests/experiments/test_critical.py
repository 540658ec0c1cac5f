"""The functions behind the recorded runs around the transition."""

import numpy as np
import pytest

from flatmin.experiments import critical_lifetimes, critical_point


def test_every_search_from_afar_arrives():
    point = {"epsilon": 0.02, "eta": 0.04, "sigma": [0.15, 0.3], "tau": 2000, "trajectories": 64}
    search = critical_point.search_time({**point, "level": [0.0, 0.3]}, seed=1)
    assert np.all(search["arrived"] == 1)
    assert np.all(search["error"] < 0.2 * search["mean"])


def test_a_lifetime_is_time_at_risk_over_losses_and_the_law_gives_the_same():
    point = {"eta": 0.04, "delta_s": 0.05, "trajectories": 512, "horizon": 1.0}
    found = critical_lifetimes.lifetime(point, seed=1)
    law = critical_lifetimes.law({"eta": 0.04, "delta_s": 0.05, "cells": (36, 40), "bound": 50.0}, seed=1)
    assert found["lost"] > 500
    assert found["error"] == pytest.approx(found["rate"] / found["lost"] ** 0.5)
    assert abs(found["rate"] - law["rate"]) < 4 * found["error"]
