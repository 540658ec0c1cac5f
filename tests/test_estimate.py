"""Errors of few repeats, against the tables of Student's t."""

import numpy as np
import pytest
from scipy import stats

from flatmin.estimate import independent_mean, student

#: the two-sided quantiles of t for 68.27, 95.45 and 99.73 %: GUM (JCGM 100:2008), Table G.2
TABLE = {
    1: (1.84, 13.97, 235.80),
    2: (1.32, 4.53, 19.21),
    3: (1.20, 3.31, 9.22),
    4: (1.14, 2.87, 6.62),
    5: (1.11, 2.65, 5.51),
    9: (1.06, 2.32, 4.09),
    20: (1.03, 2.13, 3.42),
    100: (1.005, 2.025, 3.077),
}


@pytest.mark.parametrize("freedom", TABLE)
def test_as_many_errors_reach_the_quantile_of_the_table(freedom):
    for sigmas, quantile in zip((1, 2, 3), TABLE[freedom], strict=True):
        digits = 0.0006 if freedom == 100 else 0.006  # half of the table's last digit, and rounding
        assert sigmas * student(1.0, freedom, sigmas) == pytest.approx(quantile, abs=digits)
        assert student(0.3, freedom, sigmas) == pytest.approx(0.3 * student(1.0, freedom, sigmas))


def test_three_errors_are_the_rule_and_few_of_many_degrees_are_the_usual():
    assert student(0.2, 4) == student(0.2, 4, 3.0)
    for sigmas in (0.01, 1, 3, 8, 10):
        assert student(0.2, 10**9, sigmas) == pytest.approx(0.2, rel=1e-6)


def test_one_degree_of_freedom_is_the_law_of_cauchy():
    """Its quantile is a cotangent: cot πp of the tail p, also of a tail near rounding of 1."""
    for sigmas in (0.01, 0.5, 3, 7, 9):
        expected = 1 / np.tan(np.pi * stats.norm.sf(sigmas))
        assert sigmas * student(1.0, 1, sigmas) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sigmas", [1.0, 2.0, 3.0])
def test_a_mean_of_three_misses_as_often_as_a_normal_number(sigmas):
    drawn = np.random.default_rng(0).standard_normal((20_000, 3))
    found = [independent_mean(each, sigmas) for each in drawn]
    missed = np.mean([abs(each.value) > sigmas * each.error for each in found])
    wanted = 2 * stats.norm.sf(sigmas)
    assert missed == pytest.approx(wanted, abs=4 * (wanted * (1 - wanted) / len(drawn)) ** 0.5)


@pytest.mark.parametrize("sigmas", [0, -2.0, 0.009, 10.1, np.nan, np.inf, "2", None, True])
def test_sigmas_out_of_range_are_named(sigmas):
    for call in (lambda: student(1.0, 4, sigmas), lambda: independent_mean([1.0, 2.0], sigmas)):
        with pytest.raises(ValueError, match=r"^sigmas=.*: must be a finite real number at least 0\.01"):
            call()
    with pytest.raises(ValueError, match=r"error=1e\+308, freedom=1, sigmas=3\.0"):
        student(1e308, 1)
