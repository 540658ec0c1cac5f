"""Ensembles around the transition of the near-degenerate valley."""

import numpy as np
import pytest

from flatmin.theory.continuum.critical import critical_law
from flatmin.theory.continuum.reduction import Reduction
from flatmin.theory.valleys import transition
from flatmin.theory.valleys.near_degenerate import boundary


def test_distance_of_a_density_from_itself_is_the_binning_error():
    x = transition.edges()
    law = np.exp(-(x**2) / 0.08)
    centres = (x[1:] + x[:-1]) / 2
    cells = np.exp(-(centres**2) / 0.08)
    cells /= cells.sum() * (x[1] - x[0])
    value, error = transition.distance(np.tile(cells, (8, 1)), law)
    assert value < 1e-4
    assert error < 1e-12


def test_distance_sees_a_shift_and_has_the_error_of_its_groups():
    x = transition.edges()
    width, rng = x[1] - x[0], np.random.default_rng(3)
    law = np.exp(-(x**2) / 0.08)
    draws = rng.normal(0.02, 0.2, (8, 4000))
    density = np.array([np.histogram(d, x)[0] for d in draws]) / 4000 / width
    value, error = transition.distance(density, law)
    # largest difference of two normal distribution functions that are 0.1 standard deviations apart
    assert value == pytest.approx(0.0399, abs=4 * error + 0.002)
    # there F = 1/2: √(F(1 − F)/N) of all N draws, as eight groups know it
    assert error == pytest.approx(0.5 / np.sqrt(draws.size), rel=0.5)


def test_simulated_marginals_are_densities_and_near_the_equation():
    found = transition.marginals((0.008, 0.009), eta=0.005, tau=400, trajectories=8, seed=2)
    x = transition.edges()
    np.testing.assert_allclose(found["density"].sum(axis=-1) * (x[1] - x[0]), 1, atol=1e-5)
    laws = transition.laws(0.009)
    values = {name: transition.distance(found["density"][1], law).value for name, law in laws.items()}
    assert values["2D equation"] < values["printed (S30)"]


def test_split_is_found_in_exact_densities():
    valley = transition.VALLEY.at(epsilon=0.01)
    law = critical_law(valley, eta=0.04)
    w, xi = float(law.onset) + np.linspace(-3, 3, 6), np.linspace(-4, 4, 161)
    density = np.array([np.tile(law.density(xi, value), (8, 1)) for value in w])
    value, error = transition.split(w, xi, density)
    assert value == pytest.approx(float(law.onset), abs=0.05)
    assert error < 1e-9


def test_order_parameter_follows_the_second_order_law():
    point = {"epsilon": 0.02, "eta": 0.04, "sigma": [0.15, 0.3], "tau": 2000, "trajectories": 64}
    order = transition.order_parameter(**point, seed=1)
    valley = transition.VALLEY.at(epsilon=0.02)
    grid = np.linspace(0, 1.8, 2001)
    for sigma, mean in zip(point["sigma"], order["mean"], strict=True):
        density = Reduction(valley).marginal(grid, sigma * 0.04, order=2, eta=0.04)
        assert mean == pytest.approx(np.trapezoid(grid * density, grid), rel=0.05)


def test_landing_is_where_gradient_descent_meets_the_floor():
    assert transition.landing(eta=0.001, steps=8000) == pytest.approx(1.2003, abs=2e-3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: transition.marginals([], eta=0.01, tau=10, trajectories=1, seed=0), "delta_s"),
        (lambda: transition.marginals([0.01], eta=-1, tau=10, trajectories=1, seed=0), "eta=-1"),
        (lambda: transition.marginals([0.01], eta=0.1, tau=float("nan"), trajectories=1, seed=0), "tau=nan"),
        (lambda: transition.laws(0.0), "delta_s=0.0"),
        (lambda: transition.distance(np.ones((8, 3)), np.ones(321)), "density="),
        (lambda: transition.distance(np.ones((1, 320)), np.ones(321)), "density="),
        (lambda: transition.distance(np.ones((8, 320)), np.ones(3)), "law="),
        (lambda: transition.split([1, 2, 3], [0, 1], np.ones((2, 8, 2))), "density="),
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_the_boundary_is_the_leading_order_of_the_critical_law():
    eta, valley = np.array([0.0, 0.04, 0.1, 0.25, 0.3]), transition.VALLEY.at(epsilon=0.02)
    found = boundary(valley.values, eta)
    expected = [float(critical_law(valley, eta=step).centre) for step in eta[:3]]
    np.testing.assert_allclose(found[:3], expected, rtol=1e-12)
    assert found[0] == pytest.approx(0.01)  # −ε/λ₁ (Y22 Eq. S34)
    assert found[3:].tolist() == [0, 0]  # ηλ₀ ≥ 2: y itself is unstable
