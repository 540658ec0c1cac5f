import numpy as np
import pytest

from flatmin.theory.logarithmic.multiplicative import RegressionChain, StationaryLaw, kesten_exponent


def steps(eta, batch, dimension, theta, number, seed):
    """One SGD step from θ with ``number`` independent fresh batches, (number, dimension)."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((number, batch, dimension))
    error = x @ theta - rng.standard_normal((number, batch))
    return theta - eta * np.einsum("nbd,nb->nd", x, error) / batch


@pytest.mark.parametrize(("batch", "dimension"), [(1, 1), (3, 1), (2, 4)])
def test_one_step_has_the_moments_and_the_law_of_the_update(batch, dimension):
    eta, r, chain = 0.3, 0.8, RegressionChain(0.3, batch, dimension)
    new = np.linalg.norm(steps(eta, batch, dimension, np.eye(dimension)[0] * r, 200_000, 1), axis=1)
    grid = np.linspace(0, 6, 301)
    row = chain.matrix(grid, nodes=(120, 60, 24))[0][np.searchsorted(grid, r)]
    assert row @ grid**2 == pytest.approx((new**2).mean(), abs=5 * (new**2).std() / 200_000**0.5 + 4e-4)
    below = (new < 0.5).mean()
    inside = np.cumsum(row)[np.searchsorted(grid, 0.5) - 1] + row[np.searchsorted(grid, 0.5)] / 2
    assert inside == pytest.approx(below, abs=0.012)


@pytest.mark.parametrize(
    ("eta", "batch", "dimension"), [(0.1, 1, 1), (1.0, 1, 1), (0.5, 4, 6), (0.05, 2, 30)]
)
def test_second_moment_of_the_factor(eta, batch, dimension):
    chain = RegressionChain(eta, batch, dimension)
    assert np.exp(chain.log_moment(2)) == pytest.approx(chain.mean_square_factor, rel=1e-9)
    assert chain.log_moment(0) == pytest.approx(0, abs=1e-9)
    slope = (chain.log_moment(1e-4) - chain.log_moment(-1e-4)) / 2e-4
    assert chain.lyapunov == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize(("batch", "r"), [(1, 0.0), (1, 0.8), (1, 3.0), (4, 0.8)])
def test_in_one_dimension_the_mean_of_a_hat_is_that_of_a_fine_sum(batch, r):
    eta, grid = 0.3, np.linspace(0, 3.2, 33)
    row, beyond = (part[round(r * 10)] for part in RegressionChain(eta, batch).matrix(grid))
    root = (np.sqrt(batch) + 8) * (np.arange(2000)[:, None] + 0.5) / 2000  # √(Bv), by the midpoint rule
    kick = 16 * (np.arange(1000) + 0.5) / 1000 - 8
    weight = (root ** (batch - 1) * np.exp(-(root**2) / 2) * np.exp(-(kick**2) / 2)).ravel()
    weight /= weight.sum()
    new = np.abs((1 - eta * root**2 / batch) * r + eta * root * kick / batch).ravel()
    inside, place = new < grid[-1], new / 0.1
    cell = np.minimum(place.astype(int), 31)
    expected = np.bincount(cell[inside], (weight * (1 - place + cell))[inside], 33)
    expected += np.bincount(cell[inside] + 1, (weight * (place - cell))[inside], 33)
    np.testing.assert_allclose(row, expected, atol=5e-5)  # the sum halves its step to a quarter of 2e-5
    assert beyond == pytest.approx(weight[~inside].sum(), abs=5e-5)
    assert row.sum() + beyond == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("eta", [0.025, 0.1, 0.5])
def test_in_one_dimension_twice_the_nodes_change_nothing(eta):
    chain, twice = RegressionChain(eta), (64, 2, 2)
    law, finer = chain.stationary(300), chain.stationary(300, nodes=twice)
    assert law.fitted_exponent() == pytest.approx(finer.fitted_exponent(), rel=2e-4)
    assert law.local_exponent(1.5) == pytest.approx(finer.local_exponent(1.5), rel=2e-3)
    ratio = 1 + 8 * eta
    found = chain.passage_time(ratio)
    assert found == pytest.approx(chain.passage_time(ratio, nodes=twice), rel=1e-4)
    assert found == pytest.approx(chain.passage_time(ratio, points=425), rel=2.5e-3)


def test_stationary_mean_square_and_tail():
    chain = RegressionChain(0.1)
    law = chain.stationary(600)
    assert law.mass @ law.r**2 == pytest.approx(chain.mean_square, rel=1e-3)
    assert law.mass.sum() == pytest.approx(1)
    heavy = RegressionChain(0.8)  # α = 1.6: the tail is there to be seen
    law = heavy.stationary(600, highest=1e4)
    far = np.array([20.0, 600.0])
    slope = -np.diff(np.log(law.tail(far))) / np.diff(np.log(far))
    assert slope[0] == pytest.approx(heavy.tail_exponent, rel=0.02)
    assert law.local_exponent(1e4, width=0.2) == pytest.approx((1 + heavy.tail_exponent) / 2, rel=0.05)


def test_mean_square_one_means_tail_exponent_two():
    assert RegressionChain(1.0, 2).tail_exponent == pytest.approx(2, abs=1e-8)  # E A² = 1 at η = 2B/(B + 2)
    assert RegressionChain(0.1, 1, 18).tail_exponent == pytest.approx(2, abs=1e-6)


def test_small_steps_have_the_tail_of_rare_large_ones():
    # κ(log 2κ − 1) = 1/2 as η → 0, α → κB/η
    for batch in (1, 4):
        chain = RegressionChain(0.002 * batch, batch)
        assert chain.tail_exponent * 0.002 == pytest.approx(1.795, rel=0.01)


@pytest.mark.parametrize("eta", [1e-4, 1e-6, 1e-8])
def test_the_tail_of_very_small_steps_is_found(eta):
    # κ of κ(log 2κ − 1) = 1/2 is 1.7955607…; the correction is of the order of η
    assert RegressionChain(eta).tail_exponent * eta == pytest.approx(1.79556, rel=eta + 5e-6)


def test_a_recursion_without_a_tail_is_refused():
    with pytest.raises(ValueError, match="log_moment: must rise above 0"):
        kesten_exponent(lambda kappa: -kappa)
    with pytest.raises(ValueError, match="log_moment: must fall below 0"):
        kesten_exponent(lambda kappa: kappa)
    with pytest.raises(ValueError, match="log_moment=nan"):
        kesten_exponent(lambda kappa: np.nan)


def test_a_law_does_not_answer_beyond_its_grid():
    law = RegressionChain(0.5).stationary(100, highest=5.0)
    assert 0 < law.tail(4.8) < law.tail(1.0) < law.tail(0.0) <= 1
    with pytest.raises(ValueError, match="at=6"):
        law.tail(6.0)


def test_passage_time_against_direct_simulation():
    eta, ratio, runs = 0.3, 2.0, 4000
    rng, theta = np.random.default_rng(3), np.zeros((runs, 3))
    hit, alive = np.zeros(runs), np.ones(runs, bool)
    for t in range(1, 5000):
        x = rng.standard_normal((alive.sum(), 3))
        error = (x * theta[alive]).sum(axis=1) - rng.standard_normal(alive.sum())
        theta[alive] -= eta * error[:, None] * x
        now = np.flatnonzero(alive)[(theta[alive] ** 2).sum(axis=1) > ratio - 1]
        hit[now], alive[now] = t, False
        if not alive.any():
            break
    assert not alive.any()
    exact = RegressionChain(eta, 1, 3).passage_time(ratio)
    assert exact == pytest.approx(hit.mean(), abs=4 * hit.std() / runs**0.5 + 0.02 * exact)


def test_refusals():
    for arguments, words in (
        ((0, 1, 1), "eta=0"),
        ((0.1, 0, 1), "batch_size=0"),
        ((0.1, 1, 1.5), "dimension"),
    ):
        with pytest.raises(ValueError, match=words):
            RegressionChain(*arguments)
    with pytest.raises(ValueError, match="no stationary state"):
        _ = RegressionChain(0.1, 1, 20).tail_exponent
    with pytest.raises(ValueError, match="below 1 for a mean loss"):
        _ = RegressionChain(0.1, 1, 19).mean_square
    with pytest.raises(ValueError, match="ratio=1"):
        RegressionChain(0.1).passage_time(1)
    with pytest.raises(ValueError, match=r"eta must not be so small"):
        _ = RegressionChain(1e-300).tail_exponent
    with pytest.raises(ValueError, match="increase from 0"):
        RegressionChain(0.1).matrix([0.1, 0.2])
    with pytest.raises(ValueError, match="its window"):
        RegressionChain(0.1).stationary(100).local_exponent(1.0)


@pytest.mark.parametrize(("phi", "dimension"), [(3.0, 1), (12.0, 1), (6.0, 3)])
def test_the_exponent_of_a_power_law_is_fitted_to_the_power(phi, dimension):
    # P(θ) ∝ (1 + r²)^−φ itself, by the trapezoidal rule: the fit must give φ back
    r = np.sinh(np.linspace(0, 9, 4001))
    width = np.zeros_like(r)
    width[1:] += np.diff(r) / 2
    width[:-1] += np.diff(r) / 2
    mass = width * r ** (dimension - 1) * (1 + r**2) ** -phi
    found = StationaryLaw(r, mass / mass.sum(), width, dimension).fitted_exponent()
    assert found == pytest.approx(phi, rel=1e-4)
