"""The functions behind the recorded runs around the transition."""

import numpy as np
import pytest

from flatmin.experiments import critical_marginals, critical_point
from flatmin.theory.continuum.critical import critical_law
from flatmin.theory.continuum.reduction import Reduction


def test_distance_of_a_density_from_itself_is_the_binning_error():
    x = critical_marginals.edges()
    law = np.exp(-(x**2) / 0.08)
    centres = (x[1:] + x[:-1]) / 2
    cells = np.exp(-(centres**2) / 0.08)
    cells /= cells.sum() * (x[1] - x[0])
    value, error = critical_marginals.distance(np.tile(cells, (8, 1)), law)
    assert value < 1e-4
    assert error < 1e-12


def test_distance_sees_a_shift_and_has_the_error_of_its_groups():
    x = critical_marginals.edges()
    width, rng = x[1] - x[0], np.random.default_rng(3)
    law = np.exp(-(x**2) / 0.08)
    draws = rng.normal(0.02, 0.2, (8, 4000))
    density = np.array([np.histogram(d, x)[0] for d in draws]) / 4000 / width
    value, error = critical_marginals.distance(density, law)
    # largest difference of two normal distribution functions that are 0.1 standard deviations apart
    assert value == pytest.approx(0.0399, abs=4 * error + 0.002)
    assert 0.001 < error < 0.01


def test_simulated_marginals_are_densities_and_near_the_equation():
    found = critical_marginals.measure({"eta": 0.005, "tau": 400, "trajectories": 8}, seed=2)
    x = critical_marginals.edges()
    np.testing.assert_allclose(found["density"].sum(axis=-1) * (x[1] - x[0]), 1, atol=1e-5)
    laws = critical_marginals.laws(0.009)
    values = {name: critical_marginals.distance(found["density"][1], law)[0] for name, law in laws.items()}
    assert values["2D equation"] < values["printed (S30)"]


def test_split_is_found_in_exact_densities():
    valley = critical_point.VALLEY.at(epsilon=0.01)
    law = critical_law(valley, eta=0.04)
    w, xi = float(law.onset) + np.linspace(-3, 3, 6), np.linspace(-4, 4, 161)
    density = np.array([np.tile(law.density(xi, value), (8, 1)) for value in w])
    value, error = critical_point.split(w, xi, density)
    assert value == pytest.approx(float(law.onset), abs=0.05)
    assert error < 1e-9


def test_order_parameter_and_search_time_follow_the_second_order_law():
    point = {"epsilon": 0.02, "eta": 0.04, "sigma": [0.15, 0.3], "tau": 2000, "trajectories": 64}
    order = critical_point.order_parameter(point, seed=1)
    valley = critical_point.VALLEY.at(epsilon=0.02)
    grid = np.linspace(0, 1.8, 2001)
    for sigma, mean in zip(point["sigma"], order["mean"], strict=True):
        density = Reduction(valley).marginal(grid, sigma * 0.04, order=2, eta=0.04)
        assert mean == pytest.approx(np.trapezoid(grid * density, grid), rel=0.05)
    search = critical_point.search_time({**point, "level": [0.0, 0.3]}, seed=1)
    assert np.all(search["arrived"] == 1)
    assert np.all(search["error"] < 0.2 * search["mean"])


def test_divergence_counts_losses_over_time_at_risk():
    point = {"epsilon": 0.001, "eta": 0.04, "delta_s": [0.001, 0.05], "tau": 60, "trajectories": 64}
    found = critical_point.divergence(point, seed=1)
    assert found["rate"][0] == 0
    assert found["fraction"][1] > 0.9
    assert found["rate"][1] == pytest.approx(0.085, rel=0.5)


def test_landing_is_where_gradient_descent_meets_the_floor():
    assert critical_point.landing(eta=0.001, steps=8000) == pytest.approx(1.2003, abs=2e-3)
