import math

import numpy as np
import pytest
from numba import njit

from flatmin.theory.sgd import elementary

EPSILON = np.finfo(float).eps


@pytest.fixture(scope="module")
def compiled():
    """Each function by name, over an array."""
    scope = {}
    exec(
        "import numpy as np\nfrom numba import njit\n"
        + elementary.source("".join(f"{n}(" for n in elementary.SOURCES)),
        scope,
    )

    def over(function):
        @njit(error_model="numpy")
        def loop(points, others):
            return np.array([function(points[i], others[i]) for i in range(len(points))])

        @njit(error_model="numpy")
        def single(points):
            return np.array([function(p) for p in points])

        def apply(points, *others):
            points = np.asarray(points, dtype=float)
            if not others:
                return single(points)
            return loop(points, np.broadcast_to(np.asarray(others[0]), points.shape).copy())

        return apply

    return {name: over(scope[name]) for name in elementary.SOURCES}


def test_compiled_exponential_is_exact_to_rounding(compiled):
    points = np.concatenate([np.linspace(-700, 700, 1401), np.linspace(-1, 1, 1001)])
    np.testing.assert_allclose(compiled["exponential"](points), np.exp(points), rtol=1e-15)
    assert compiled["exponential"]([-1e4])[0] == pytest.approx(math.exp(-708), rel=1e-12, abs=0)
    assert np.isnan(compiled["exponential"]([np.nan])[0])


def test_compiled_logarithm_is_exact_to_rounding(compiled):
    points = np.concatenate([np.geomspace(5e-324, 1.7e308, 5001), 1 + np.linspace(-0.4, 0.6, 2001)])
    exact = np.log(points)
    np.testing.assert_allclose(compiled["logarithm"](points), exact, rtol=2 * EPSILON, atol=0)
    odd = compiled["logarithm"]([0.0, -1.0, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(odd, [-np.inf, np.nan, np.nan, np.inf, np.nan])


@pytest.mark.parametrize(("turn", "exact"), [(0, np.sin), (1, np.cos)])
def test_compiled_sine_and_cosine_are_exact_to_rounding(compiled, turn, exact):
    points = np.concatenate(
        [np.linspace(-9, 9, 5001), np.linspace(-8e5, 8e5, 5001), np.arange(-50, 50) * np.pi / 2]
    )
    np.testing.assert_allclose(compiled["sine"](points, turn), exact(points), rtol=0, atol=1.5 * EPSILON)
    # near the zero of the sine the error is relative
    small = np.geomspace(1e-300, 0.7, 500)
    if turn == 0:
        np.testing.assert_allclose(compiled["sine"](small, 0), np.sin(small), rtol=2 * EPSILON, atol=0)
    # beyond, the angle itself is rounded
    far = np.linspace(1e6, 9e8, 1001)
    assert np.all(np.abs(compiled["sine"](far, turn) - exact(far)) < 4 * EPSILON * far)
    assert np.isnan(compiled["sine"]([1e9, -1e300, np.inf, np.nan], turn)).all()


def test_compiled_hyperbolic_tangent_is_exact_to_rounding(compiled):
    points = np.concatenate(
        [np.linspace(-25, 25, 5001), np.geomspace(1e-300, 1, 500), -np.geomspace(1e-300, 1, 500)]
    )
    np.testing.assert_allclose(
        compiled["hyperbolic_tangent"](points), np.tanh(points), rtol=4 * EPSILON, atol=0
    )
    odd = compiled["hyperbolic_tangent"]([0.0, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(odd, [0, 1, -1, np.nan])


@pytest.mark.parametrize("exponent", [1 / 3, -0.7, 2.2, 70.0])
def test_compiled_power_loses_no_more_than_its_logarithm(compiled, exponent):
    points = np.geomspace(1e-4, 1e4, 2001)
    with np.errstate(all="ignore"):
        exact = points**exponent
    error = np.abs(compiled["power"](points, exponent) / exact - 1)
    assert np.all(error < (4 + 2 * np.abs(exponent * np.log(points))) * EPSILON)
    odd = compiled["power"]([0.0, -1.0, np.nan], exponent)
    assert odd[0] == 0 if exponent > 0 else np.isnan(odd[0])
    assert np.isnan(odd[1:]).all()


def test_selects_and_sign(compiled):
    assert list(compiled["larger"]([1.0, 2.0], 1.5)) == [1.5, 2.0]
    assert list(compiled["smaller"]([1.0, 2.0], 1.5)) == [1.0, 1.5]
    np.testing.assert_array_equal(compiled["sign"]([-3.0, 0.0, 2.0, np.nan]), [-1, 0, 1, np.nan])


def test_only_what_is_called_is_written():
    assert elementary.source("w = 1.0*x") == ""
    text = elementary.source("w = power(x, 0.3)")
    assert [text.count(f"def {name}(") for name in elementary.SOURCES] == [0, 0, 0, 1, 1, 0, 0, 1]
    assert text.index("def exponential(") < text.index("def power(")
