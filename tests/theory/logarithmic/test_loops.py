"""Compiled loops of small problems against the laws they illustrate."""

import numpy as np
import pytest
import sympy as sp

from flatmin.theory.continuum.escape import mean_passage_time
from flatmin.theory.continuum.slow import SlowEquation
from flatmin.theory.logarithmic import loops
from flatmin.theory.logarithmic.multiplicative import RegressionChain


def test_both_clocks_agree_where_the_loss_is_constant_in_the_mean():
    times = loops.both_clocks(0.05, 1.0, 400)
    assert np.all(times > 0)
    # every step has L ≥ 1/8
    assert np.all(times[:, 1] >= times[:, 0] / 8)


def test_chain_density_is_the_law():
    edges = np.array([0, 0.02, 0.1, 0.3])
    density = loops.chain_density(0.2, edges, steps=200_000, seed=1)
    law = RegressionChain(0.2).stationary(400)
    # tail() counts both signs of θ, the density one point of the line
    exact = -np.diff(law.tail(np.sqrt(edges))) / (2 * np.diff(np.sqrt(edges)))
    error = density.std(axis=0, ddof=1) / np.sqrt(8)
    np.testing.assert_allclose(density.mean(axis=0), exact, atol=5 * error.max() + 0.003)


def test_a_run_too_long_or_diverged_is_said_and_not_endless():
    assert np.isnan(loops.both_clocks(0.01, 0.01, 2, steps=1000)).all()  # too cold to get there
    assert np.isnan(loops.chain_density(50.0, [0.0, 1.0], steps=10, groups=2)).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: loops.both_clocks(0.0, 1.0, 1), "eta=0.0"),
        (lambda: loops.both_clocks(0.1, -1.0, 1), "temperature=-1.0"),
        (lambda: loops.both_clocks(0.1, 1.0, 0), "runs=0"),
        (lambda: loops.both_clocks(0.1, 1.0, 1, seed=-1), "seed=-1"),
        (lambda: loops.chain_density(float("nan"), [0, 1]), "eta=nan"),
        (lambda: loops.chain_density(0.1, [1, 0]), "squares="),
        (lambda: loops.chain_density(0.1, [-1, 0]), "squares="),
        (lambda: loops.chain_density(0.1, [0, 1], groups=0), "groups=0"),
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_both_clocks_have_the_mean_times_of_their_equations():
    # t: drift −L', diffusion TL; τ = ∫L dt: drift −(log L)', diffusion T (M22 §4). At η = 0.002
    # a run oversteps x = 1 by 0.58 √(2ηTL) = 0.007, which is under 3 % of either time
    x = sp.Symbol("x", real=True)
    loss = sp.Rational(1, 8) + (x**2 - 1) ** 2 / 4
    times = loops.both_clocks(0.002, 0.5, 4000, seed=2)
    plain = SlowEquation(x, -sp.diff(loss, x), loss / 2, "ito")
    logarithmic = SlowEquation(x, -sp.diff(sp.log(loss), x), sp.Rational(1, 2), "ito")
    for measured, equation in zip(times.T, (plain, logarithmic), strict=True):
        expected = mean_passage_time(equation, -1.0, 1.0, -12.0, panels=600)
        assert measured.mean() == pytest.approx(
            expected, rel=0.03, abs=4 * measured.std() / len(measured) ** 0.5
        )


@pytest.mark.parametrize(("batch_size", "dimension"), [(1, 1), (2, 4), (1, 20)])
def test_walkers_pass_levels_when_the_chain_says(batch_size, dimension):
    eta = 0.1
    ratios = 1 + eta * dimension / batch_size * np.array([0.5, 2.0])
    how = {"eta": eta, "batch_size": batch_size, "dimension": dimension, "ratios": ratios}
    runs = loops.regression_walkers(**how, steps=5000, runs=4000, seed=2)
    assert (runs.passed > 0).all()
    chain = RegressionChain(eta, batch_size, dimension)
    exact = [chain.passage_time(c, points=200, nodes=(96, 64, 24)) for c in ratios]
    error = runs.passed.std(axis=0) / np.sqrt(4000)
    assert (abs(runs.passed.mean(axis=0) - exact) < 4 * error + 0.005 * np.array(exact)).all()


def test_a_lost_walker_passes_all_levels_and_stays_within_bounds():
    runs = loops.regression_walkers(1.0, 1, 25, [2.0, 1e9], steps=500, runs=20)
    assert runs.diverged.all()
    assert (runs.passed[:, 1] >= runs.passed[:, 0]).all()
    assert (runs.passed[:, 0] > 0).all()
    assert np.isfinite(runs.theta).all()
    assert (abs(runs.theta) <= 1000).all()
    few = loops.regression_walkers(1.0, 1, 25, [2.0, 1e9], steps=500, runs=3)
    assert (few.passed == runs.passed[:3]).all()  # a walker does not depend on how many there are
