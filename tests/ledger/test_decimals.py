import math
import re
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given
from hypothesis import strategies as st

from flatmin.ledger.decimals import approx, exact, number
from rules import APPROXIMATE


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.010473, 0.000118, "≈ 0.01047(12)"),
        (1234.5, 120, "≈ 1230(120)"),
        (10.3, 1.23, "≈ 10.3(1.2)"),
        (10.3, 0.0996, "≈ 10.30(10)"),
        (1.047e-7, 1.2e-9, "≈ 1.047(12)e-07"),
        (-3.2e8, 1e6, "≈ -3.200(10)e+08"),
        (0.001, 0.12, "≈ 0.00(12)"),
        (5, 1500, "≈ 0(1500)"),
        (1.0, 0, "≈ 1.00(0)"),
        (0.010473, None, "≈ 0.0105"),
        (1234.5, None, "≈ 1230"),
        (99.96, None, "≈ 100"),
        (0.02, None, "≈ 0.0200"),
        (1.23e-5, None, "≈ 1.23e-05"),
        (math.inf, None, "∞"),
        (-math.inf, None, "−∞"),
        (math.nan, None, "nan"),
        (sp.Rational(1, 3), None, "≈ 0.333"),
        (np.float32(0.1), None, "≈ 0.100"),
    ],
)
def test_measured_numbers_carry_their_error(value, error, text):
    assert approx(value, error) == text


@given(
    st.floats(-1e12, 1e12).filter(lambda value: value == 0 or abs(value) > 1e-12),
    st.one_of(st.none(), st.floats(1e-13, 1e12)),
    st.integers(1, 9),
)
def test_the_notebook_test_skips_exactly_what_approx_writes(value, error, digits):
    assert re.sub(APPROXIMATE, "≈ #", approx(value, error, digits)) == "≈ #"


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_parentheses_say_the_error_to_two_digits(value, error):
    assume(error > 1e-12 * abs(value))  # beyond that, digits of a float mean nothing
    written = re.fullmatch(r"≈ (-?[\d.]+)\(([\d.]+)\)(e[+-]\d+)?", approx(value, error))
    decimals = len(written[1].partition(".")[2])
    power = float("1" + (written[3] or ""))
    shown = float(written[2]) * (1 if "." in written[2] else 10.0**-decimals) * power
    assert shown == pytest.approx(error, rel=0.051)
    assert abs(float(written[1]) * power - value) <= 0.51 * shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (0.1 + 0.2, "0.3"),
        (1.0, "1"),
        (12345, "12345"),
        (12344.999999999998, "12345"),
        (sp.Rational(1, 8), "0.125"),
        (Fraction(1, 3), "≈ 0.3333"),
        (sp.sqrt(2) / 2, "≈ 0.7071"),
        (1e-12, "1e-12"),
        (-1 / 7, "≈ -0.1429"),
    ],
)
def test_exact_numbers_stay_bare_and_computed_ones_do_not(value, text):
    assert exact(value) == text


@pytest.mark.parametrize(
    "value", [True, np.True_, "1", None, 1j, math.nan, math.inf, sp.Symbol("x"), np.ones(2), sp.zoo, [1.0]]
)
def test_what_is_no_finite_number_is_named(value):
    with pytest.raises(ValueError, match=r"^measured="):
        number("measured", value)


@pytest.mark.parametrize("value", [2, 2.0, np.int64(2), np.array(2.0), np.array([2.0]), sp.Integer(2)])
def test_numbers_of_any_library_become_floats(value):
    assert number("measured", value) == 2.0


def test_digits_and_error_are_checked():
    with pytest.raises(ValueError, match="digits=0"):
        approx(1.0, digits=0)
    with pytest.raises(ValueError, match="error=-1"):
        approx(1.0, -1)
