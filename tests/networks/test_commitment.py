"""The statistics that decide about freezing: they find what was put in, and their errors cover it."""

import numpy as np
import pytest
from scipy import stats

from flatmin.estimate import independent_mean
from flatmin.networks import commitment

TIMES = np.array([0, 2, 4, 6, 8, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100.0])
ETA = np.repeat([0.1, 0.05, 0.02, 0.01, 0.005, 0.002], 6)
BATCH = np.tile([10, 20, 50, 100, 200, 500], 6)
FACTOR = (1000 - BATCH) / (BATCH * 999)


def frozen(a, b, seed, starts=6, repeats=4, shift=0.0):
    """Positions among TIMES of times drawn from the law, and what each run was."""
    rng, rows = np.random.default_rng(seed), []
    for start in range(starts):
        mean = np.log(25) + a * np.log(ETA / 0.01) + b * np.log(FACTOR / 0.01)
        mean = mean + shift * rng.standard_normal()
        for _ in range(repeats):
            times = np.exp(mean + 0.3 * rng.standard_normal(len(ETA)))
            rows.append(
                (ETA, FACTOR, np.minimum(np.searchsorted(TIMES, times), 16), np.full(len(ETA), start))
            )
    eta, factor, place, start = (np.concatenate(each) for each in zip(*rows, strict=True))
    return eta, factor, *commitment.bracket(place, TIMES), start


def test_three_errors_of_an_independent_mean_are_the_quantile_of_student():
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((20_000, 3))
    found = [independent_mean(each) for each in drawn]
    missed = np.mean([abs(each.value) > 3 * each.error for each in found])
    wanted = 2 * stats.norm.sf(3)
    assert missed == pytest.approx(wanted, abs=4 * (wanted / len(drawn)) ** 0.5)
    assert found[0].value == pytest.approx(drawn[0].mean())


@pytest.mark.parametrize(("a", "b"), [(0.3, 0.4), (0.4, 0.4), (0.0, 0.4)])
def test_the_censored_fit_finds_the_exponents(a, b):
    found = commitment.delay(*frozen(a, b, seed=1, shift=0.2))
    assert abs(found.a.value - a) <= 3 * found.a.error
    assert abs(found.b.value - b) <= 3 * found.b.error
    assert found.scatter == pytest.approx(0.3, rel=0.1)
    assert found.grows == (a > 0)
    assert found.collapses == (a == b)


def test_a_fit_of_intervals_is_not_biased_by_what_is_censored():
    eta, factor, lower, upper, start = frozen(0.5, 0.6, seed=2, repeats=20)
    late = np.isinf(upper).mean()
    assert 0.05 < late < 0.5
    found = commitment.delay(eta, factor, lower, upper, start)
    assert abs(found.a.value - 0.5) < 0.03
    assert abs(found.b.value - 0.6) < 0.03


def test_known_numbers_are_fitted_as_by_least_squares():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((200, 2))
    y = 1 + x @ [2.0, -1.0] + 0.5 * rng.standard_normal(200)
    wanted = np.linalg.lstsq(np.column_stack([np.ones(200), x]), y, rcond=None)[0]
    found, scatter = commitment.censored_fit(x, y, y)
    assert found == pytest.approx(wanted, abs=1e-4)
    assert scatter == pytest.approx(np.std(y - np.column_stack([np.ones(200), x]) @ wanted), rel=1e-3)


def test_the_likelihood_of_far_intervals_keeps_its_digits():
    lower, upper = np.array([20.0, -21.0]), np.array([21.0, -20.0])
    found = commitment._likelihood(np.zeros(2), 1.0, lower, upper)
    assert found == pytest.approx(np.full(2, stats.norm.logsf(20)), rel=1e-6)


def test_brackets():
    lower, upper = commitment.bracket([0, 1, 2, 16], TIMES)
    assert lower.tolist() == [-np.inf, -np.inf, np.log(2), np.log(90)]
    assert upper.tolist() == [np.log(2), np.log(2), np.log(4), np.inf]


def test_slopes_are_those_of_each_start():
    rng = np.random.default_rng(4)
    start = np.repeat(np.arange(5), 30)
    x = rng.standard_normal((150, 2))
    y = start * 10.0 + x @ [1.5, -0.5] + 0.1 * rng.standard_normal(150)
    first, second = commitment.slopes(x, y, start)
    assert abs(first.value - 1.5) < 3 * first.error
    assert abs(second.value + 0.5) < 3 * second.error
    assert first.n == 5


def test_the_jackknife_over_runs_covers_the_mean_over_pairs():
    rng, missed = np.random.default_rng(5), 0
    for _ in range(500):  # pairs share runs: the variance is that of 12 runs, not of 66 pairs
        own = rng.standard_normal(12)
        values = own[:, None] + own[None]
        found = commitment.pair_mean(values)
        usual = 3 * found.error / stats.t.ppf(stats.norm.cdf(3), 11)
        missed += abs(found.value) > usual * stats.t.ppf(0.975, 11)
    assert missed / 500 == pytest.approx(0.05, abs=4 * (0.05 / 500) ** 0.5)


def test_the_best_of_many():
    drawn = np.random.default_rng(6).standard_normal((40_000, 20)).max(1)
    found = commitment.expected_best(1.0, 2.0, 20)
    assert (found - 1) / 2 == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 200)
    assert commitment.expected_best(1.0, 2.0, 1) == 1.0


def test_the_mean_over_pairs_leaves_out_the_diagonal():
    # pairs 1, 2 and 6; without the first, second or third run 6, 2 or 1 is left
    values = np.array([[9.0, 1.0, 2.0], [1.0, 9.0, 6.0], [2.0, 6.0, 9.0]])
    found = commitment.pair_mean(values)
    assert found.value == pytest.approx(3, rel=1e-12)
    jackknife = np.sqrt(2 / 3 * np.sum((np.array([6, 2, 1]) - 3) ** 2))
    assert found.error == pytest.approx(jackknife * stats.t.ppf(stats.norm.cdf(3), 2) / 3, rel=1e-12)
    assert commitment.pair_mean(~np.eye(4, dtype=bool)).value == 1
