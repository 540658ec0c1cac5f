import numpy as np
import pytest
import sympy as sp

from flatmin.theory.landscape import Landscape
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

PAPER = {"epsilon": 0.001, "lambda_0": 8, "lambda_1": -2, "lambda_2": 1}
x, y = sp.symbols("x y", real=True)


def test_gradient_and_hessian_agree_with_central_differences():
    valley = near_degenerate_valley().at(**PAPER)
    loss, gradient, hessian = map(valley.function, (valley.loss, valley.gradient, valley.hessian))
    point, h = np.array([0.7, -0.4]), 1e-5
    for i in range(2):
        step = np.eye(2)[i] * h
        slope = (loss(*(point + step)) - loss(*(point - step))) / (2 * h)
        assert gradient(*point)[i] == pytest.approx(slope, rel=1e-8)
        column = (gradient(*(point + step)) - gradient(*(point - step))) / (2 * h)
        np.testing.assert_allclose(hessian(*point)[:, i], column, rtol=1e-7)


def test_compiled_functions_broadcast():
    valley = near_degenerate_valley().at(**PAPER)
    grid = np.linspace(-1, 1, 5)
    assert valley.function("lambda_0 + 0*x")(grid, grid).shape == (5,)
    assert valley.function(valley.gradient)(grid[:, None], grid).shape == (5, 5, 2)
    assert valley.function(valley.hessian)(0.0, grid).shape == (5, 2, 2)


def test_numbers_can_come_in_two_steps():
    half = near_degenerate_valley().at(epsilon=0.1, lambda_0=8)
    assert not half.is_numeric
    assert half.at(lambda_1=-2, lambda_2=1).values["lambda_0"] == 8.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lamda_1": -2}, "did you mean 'lambda_1'"),
        ({"lambda_0": float("nan")}, "lambda_0 must be a finite real number"),
        ({"lambda_0": 2j}, "lambda_0 must be a finite real number"),
        ({"lambda_0": 0.9}, r"λ\(x\) .* must be positive for every x"),
        ({"lambda_2": -1}, "minimum is -inf"),
        ({"epsilon": -0.1}, "ε = .* must be positive"),
    ],
)
def test_bad_values_name_the_parameter(change, words):
    with pytest.raises(ValueError, match=words):
        near_degenerate_valley().at(**{**PAPER, **change})


def test_positivity_is_the_condition_of_the_paper():
    # λ₀ > λ₁²/4λ₂ (Y22 §I.B): just above passes, just below does not
    near_degenerate_valley().at(**{**PAPER, "lambda_0": 1.0001})
    with pytest.raises(ValueError, match="must be positive"):
        near_degenerate_valley().at(**{**PAPER, "lambda_0": 0.9999})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (sp.I * x**2, "must be real"),
        (sp.Symbol("c") * x**2, "free symbols c"),
    ],
)
def test_bad_landscapes_are_refused(loss, words):
    with pytest.raises(ValueError, match=words):
        Landscape(loss, (x, y))


def test_a_landscape_needs_coordinates_and_numbers():
    with pytest.raises(ValueError, match="coordinates is empty"):
        Landscape(sp.Integer(1), ())
    with pytest.raises(ValueError, match="terms is empty"):
        near_degenerate_valley(terms=())
    with pytest.raises(ValueError, match="epsilon, lambda_0, lambda_1, lambda_2 have no value"):
        near_degenerate_valley().function("x")
    with pytest.raises(ValueError, match="unknown symbols q"):
        near_degenerate_valley().expression("q + x")
    with pytest.raises(ValueError, match="'lambda' is unknown"):
        near_degenerate_valley().symbol("lambda")
