"""The power-law fit: exact laws, and an error that is the spread of repeated experiments."""

import numpy as np
import pytest
from scipy.stats import linregress

from flatmin.fits import (
    common_slope,
    half_lost,
    half_slopes,
    halves,
    limit_by_halving,
    log_log_slope,
    onset,
    passage_power,
    peak,
    window_slopes,
)


def test_an_exact_power_law_is_found_without_error():
    x = np.geomspace(1, 100, 20)
    fit = log_log_slope([x, x], [3 * x**1.7, 3 * x**1.7])
    assert fit.value == pytest.approx(1.7)
    assert np.exp(fit.intercept) == pytest.approx(3)
    assert fit.error == pytest.approx(0, abs=1e-12)
    assert (fit.n, fit.points) == (2, 40)


def test_the_window_and_positivity_choose_the_points():
    x = np.array([0.1, 1, 10, 100, -5, 10])
    y = np.array([50, 1, 10, 100, 2, -1])
    fit = log_log_slope([x, x], [y, y], window=(0.5, 200))
    assert fit.value == pytest.approx(1)
    assert fit.points == 6
    assert fit.window == pytest.approx((1, 100))


def test_the_error_is_the_spread_of_repeated_experiments():
    """Points of a group share their deviation: the error must not shrink with the points in a group."""
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 100, 50)
    fits = []
    for _ in range(200):
        exponents = 1 + 0.2 * rng.standard_normal(12)
        fits.append(log_log_slope([x] * 12, [x**e for e in exponents], resamples=200))
    spread = np.std([fit.value for fit in fits])
    assert spread == pytest.approx(0.2 / 12**0.5, rel=0.15)
    assert np.mean([fit.error for fit in fits]) == pytest.approx(spread, rel=0.15)


def test_one_group_or_an_empty_window_is_refused():
    x = np.arange(1.0, 5)
    with pytest.raises(ValueError, match="x holds 1 groups: must be at least two"):
        log_log_slope([x], [x])
    with pytest.raises(ValueError, match=r"window=.* wide enough to leave at least two points"):
        log_log_slope([x, x], [x, x], window=(10, 20))


def test_window_slopes_see_each_group_and_each_window_for_itself():
    x = np.geomspace(1e-4, 1, 41)
    bent = np.where(x < 1e-2, x**1.5, 10 * x**2)  # from slope 3/2 to 2
    found = window_slopes([x, x[::2]], [bent, 5 * bent[::2] ** 2], [(1e-2, 1), (1e-4, 9e-3), None])
    assert found[:, :2] == pytest.approx(np.array([[2, 1.5], [4, 3]]))
    line = [linregress(np.log(u), np.log(v)).slope for u, v in ((x, bent), (x[::2], bent[::2] ** 2))]
    assert found[:, 2] == pytest.approx(line)
    for windows in ([(0.5, 0.6)], [(2e-4, 1), (10, 20)]):
        with pytest.raises(ValueError, match="wide enough for three different points"):
            window_slopes([x], [bent], windows)


def test_the_common_slope_lets_each_run_have_its_intercept():
    x = np.geomspace(1, 100, 9)
    fit = common_slope([x, x[3:]], [3 * x**1.7, 5 * x[3:] ** 1.7])
    assert fit.value == pytest.approx(1.7)
    assert fit.error == pytest.approx(0, abs=1e-12)
    assert np.exp(fit.intercept) == pytest.approx(15**0.5)
    assert (fit.n, fit.points) == (2, 15)


def test_the_error_of_the_common_slope_is_the_spread_of_repeated_experiments():
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 100, 12)
    fits = [
        common_slope([x, x[4:]], [x * np.exp(0.3 * rng.standard_normal(len(x))) for x in (x, x[4:])])
        for _ in range(400)
    ]
    spread = np.std([fit.value for fit in fits])
    assert np.mean([fit.value for fit in fits]) == pytest.approx(1, abs=4 * spread / 20)
    assert np.mean([fit.error for fit in fits]) == pytest.approx(spread, rel=0.1)


def test_the_common_slope_needs_three_points_more_than_runs():
    x = np.arange(1.0, 5)
    assert common_slope([x], [x], window=(1, 4)).points == 4
    assert common_slope([x, x], [x, x**2], window=(1, 3)).n == 2
    assert common_slope([x, x[:1]], [x, x[:1]]).n == 1
    for runs, window in (([x], (1, 3)), ([x, x], (1, 2)), ([x], (8, 9))):
        with pytest.raises(ValueError, match="leave three points more than runs"):
            common_slope(runs, runs, window)


def test_onset_of_a_known_square_root():
    # s = (Δ − 2)(1 + 0.3(Δ − 2)) with noise between trajectories
    rng = np.random.default_rng(1)
    control = np.linspace(1.9, 2.4, 30)
    s = np.maximum(control - 2, 0) * (1 + 0.3 * (control - 2))
    found = onset(control, s[:, None] + 0.01 * rng.standard_normal((30, 40)))
    value, error, count = found.value, found.error, found.n
    assert abs(value - 2) < 4 * error
    assert 0 < error < 0.01
    assert count == 40


def test_peak_of_a_known_parabola():
    rng = np.random.default_rng(2)
    control = np.geomspace(0.5, 2, 21)
    times = np.exp(-(np.log(control / 1.1) ** 2)) * 5
    value, error = peak(control, times[:, None] * rng.uniform(0.9, 1.1, (21, 200)))
    assert abs(value - 1.1) < 4 * error < 0.1


def test_half_lost_of_a_known_sigmoid():
    rng = np.random.default_rng(3)
    control = np.geomspace(0.1, 10, 25)
    fraction = 1 / (1 + control**-3)
    value, error = half_lost(control, rng.random((25, 400)) < fraction[:, None])
    assert abs(value - 1) < 4 * error < 0.5


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (onset, (np.arange(1.0, 6), np.zeros((5, 3))), "it holds 0"),
        (peak, (np.arange(1.0, 9), np.arange(1.0, 9)[:, None]), "too near an end"),
        (half_lost, (np.arange(1.0, 4), np.zeros((3, 2), bool)), "not across ½"),
    ],
)
def test_what_cannot_be_read_off_is_refused(function, arguments, words):
    with pytest.raises(ValueError, match=words):
        function(*arguments)


def test_a_range_is_halved_where_every_run_reached_it():
    upper, lower = halves([[0.5, 0.001], [0.5, 0.0045]], (0, 0.045))
    assert upper == pytest.approx((0.045 / 10**0.5, 0.045))
    assert lower == pytest.approx((0.0045, 0.045 / 10**0.5))
    assert halves([[0.5, 0.001], [0.5, 0.005]], (0, 0.045)) is None
    assert halves([[2.3, 0.001]], (0.1, 1))[1] == pytest.approx((0.1, 0.1 * 10**0.5))


def test_a_bend_shows_in_the_slopes_of_the_two_halves():
    losses = np.geomspace(0.5, 0.00045, 40)[None]
    bent = np.where(losses > 0.0045, 1, losses / 0.0045)
    upper, lower = half_slopes(losses, bent, (0, 0.045))
    assert (upper.value, lower.value) == (pytest.approx(0), pytest.approx(1))
    assert half_slopes(losses[:, :20], bent[:, :20], (0, 0.045)) is None
    kept = (losses[0] > 0.045) | (losses[0] < 0.003)  # the upper half is crossed at one leap
    assert half_slopes(losses[:, kept], bent[:, kept], (0, 0.045)) is None


def test_power_of_known_passages_and_its_error():
    rng, levels = np.random.default_rng(0), np.geomspace(1.1, 3, 20)
    found = []
    for _ in range(200):
        factors = rng.exponential(size=(100, 1)) + np.zeros((1, 20))
        factors[:, 10:] = rng.exponential(size=(100, 1))  # two groups of levels that share their runs
        found.append(passage_power(100 * factors * levels**4, levels, between=(1.0, 9.0), resamples=100))
    values, errors = np.array([(one.value, one.error) for one in found]).T
    assert abs(values.mean() - 4) < 4 * values.std() / np.sqrt(200)
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)
    exact = passage_power(np.ones((5, 1)) * 10 * levels**3, levels, times=(20, 100))
    assert exact.value == pytest.approx(3)
    assert exact.error < 1e-9
    assert exact.window[0] >= 2 ** (1 / 3)


def test_power_refuses_levels_that_were_not_reached():
    levels, steps = np.geomspace(1.1, 3, 20), np.full((4, 20), 7)
    steps[0, 15:] = -1
    assert passage_power(steps, levels, between=(1.0, levels[14])).value == pytest.approx(0)
    for arguments in ({"between": (1, 9)}, {"times": (8, 9)}, {}, {"times": (1, 9), "between": (1, 9)}):
        with pytest.raises(ValueError, match=r"between|times"):
            passage_power(steps, levels, **arguments)


def test_onset_is_exact_where_order_balances_a_polynomial():
    # force = Δ (1/2 − 3s/10 + s²/5) in balance with 1: 1/Δ is the polynomial, and Δ(0) = 2
    s = np.linspace(0.04, 0.29, 9)
    found = onset(1 / (0.5 - 0.3 * s + 0.2 * s**2), np.repeat(s[:, None], 3, axis=1))
    assert found.value == pytest.approx(2, rel=1e-10)
    assert found.error < 1e-10  # all trajectories are the same


def test_peak_of_an_exact_parabola_between_its_points():
    control = np.geomspace(0.5, 2, 21)
    times = np.repeat(np.exp(-(np.log(control / 1.03) ** 2))[:, None], 3, axis=1)
    assert peak(control, times).value == pytest.approx(1.03, rel=1e-10)


def test_the_error_of_the_common_slope_is_that_of_ordinary_least_squares():
    x, y = np.exp([0.0, 1, 2, 3]), np.exp([0.0, 1, 1, 3])
    one = linregress(np.log(x), np.log(y))
    assert common_slope([x], [y]).error == pytest.approx(one.stderr, rel=1e-10)


def test_a_polynomial_in_the_step_is_extrapolated_exactly():
    h = 0.3 / 2.0 ** np.arange(4)
    cubic = 2 + 5 * h - 7 * h**2 + 11 * h**3
    limit, change = limit_by_halving(np.stack([cubic, -cubic], axis=1))
    assert limit == pytest.approx([2, -2], abs=1e-13)
    assert limit_by_halving(cubic[1:])[0] == pytest.approx(2 + 11 * h[1] * h[2] * h[3], abs=1e-13)
    one, two = cubic[2:]
    assert limit_by_halving([one, two]) == pytest.approx((2 * two - one, abs(two - one)), abs=1e-13)
    assert change == pytest.approx(11 * h[1] * h[2] * h[3] * np.ones(2), abs=1e-13)
