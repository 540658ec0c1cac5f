import numpy as np
import pytest
from scipy.optimize import brentq

from flatmin.theory.stability.bounds import (
    decoupled_step,
    direction_necessary_step,
    gradient_descent_step,
    necessary_step,
    one_step_growth,
    proposition_3_4_step,
    theorem_3_3_step,
    theorem_3_5_growth,
    trace_necessary_step,
    trace_sufficient_step,
)
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.threshold import growth, largest_step

NECESSARY = [
    theorem_3_3_step,
    proposition_3_4_step,
    trace_necessary_step,
    direction_necessary_step,
    necessary_step,
]


def minima():
    """Flat and steep spectra, equal and unequal samples, more and fewer samples than parameters."""
    rng = np.random.default_rng(2)
    for samples, parameters in ((8, 20), (20, 8), (6, 6), (2, 5), (9, 1)):
        for decay in (0, 1):
            for spread in (0, 0.7):
                g = rng.normal(size=(samples, parameters)) * np.arange(1, parameters + 1.0) ** -decay
                yield Minimum.from_gradients(g * np.exp(spread * rng.normal(size=(samples, 1))))


@pytest.mark.parametrize("sampling", ["replacement", "fresh"])
def test_every_bound_is_on_its_side_of_the_exact_step(sampling):
    for minimum in minima():
        for batch_size in (1, 2, minimum.samples - 0.5):
            exact = largest_step(minimum, batch_size, sampling)
            slack = 1 + 1e-9
            for bound in NECESSARY:
                assert exact <= slack * bound(minimum, batch_size, sampling), bound.__name__
            assert exact <= slack * gradient_descent_step(minimum)
            assert exact >= trace_sufficient_step(minimum, batch_size, sampling) / slack
            for eta in (0.5 * exact, 1.3 * exact):
                rho = growth(minimum, eta, batch_size, sampling)
                least, most = one_step_growth(minimum, eta, batch_size, sampling)
                assert least - 1e-9 <= rho <= most + 1e-9
                assert theorem_3_5_growth(minimum, eta, batch_size, sampling) <= least + 1e-9


def test_the_printed_forms_with_replacement():
    minimum = next(minima())
    h, mu_0, mu_1 = minimum.frobenius, minimum.mu_0, minimum.mu_1
    for batch_size in (2, 5):
        assert theorem_3_3_step(minimum, batch_size, "replacement") == pytest.approx(
            np.sqrt(batch_size / mu_0) / h
        )
        printed = min(batch_size / np.sqrt((batch_size - 1) * mu_1), 2 * batch_size / mu_1) / h
        assert proposition_3_4_step(minimum, batch_size, "replacement") == pytest.approx(printed)
    assert proposition_3_4_step(minimum, 1, "replacement") == pytest.approx(2 / mu_1 / h)
    assert theorem_3_3_step(minimum, 3, "replacement", mu_0=1.0) == pytest.approx(np.sqrt(3) / h)
    assert theorem_3_5_growth(minimum, 0.2, 3, "replacement") == pytest.approx(0.04 * mu_0 * h**2 / 3)


def test_no_noise_leaves_the_theorems_empty():
    minimum = next(minima())
    assert theorem_3_3_step(minimum, minimum.samples) == np.inf
    assert proposition_3_4_step(minimum, minimum.samples) == np.inf
    assert theorem_3_5_growth(minimum, 1.0, minimum.samples) == 0


def test_equal_lengths_and_single_draws_make_the_trace_exact():
    rng = np.random.default_rng(0)
    g = rng.normal(size=(15, 40)) / np.arange(1, 41)
    minimum = Minimum.from_gradients(3 * g / np.linalg.norm(g, axis=1, keepdims=True))
    for bound in (largest_step, trace_necessary_step, trace_sufficient_step, necessary_step):
        assert bound(minimum, 1) == pytest.approx(2 / minimum.trace)


def test_theorem_3_3_is_attained():
    """Orthogonal gradients of equal length, B = n − 1 draws with replacement: the bound is the threshold."""
    minimum = Minimum.from_gradients(np.eye(6))
    assert theorem_3_3_step(minimum, 5, "replacement") == pytest.approx(
        largest_step(minimum, 5, "replacement")
    )
    assert theorem_3_3_step(minimum, 2, "replacement") > 1.05 * largest_step(minimum, 2, "replacement")


def second_moment_growth(eigenvalues, noise, eta, batch_size):
    """Top eigenvalue of s ← (1 − ηλ)² s + (η²/B) C (λ·s), the recursion that decoupled noise makes."""
    matrix = np.diag((1 - eta * eigenvalues) ** 2) + eta**2 / batch_size * np.outer(noise, eigenvalues)
    return np.abs(np.linalg.eigvals(matrix)).max()


@pytest.mark.parametrize("batch_size", [1, 8, 300])
def test_decoupled_step(batch_size):
    eigenvalues = np.geomspace(2, 0.01, 12)
    for noise in (eigenvalues, np.full(12, eigenvalues.mean())):
        exact = brentq(
            lambda eta, noise=noise: second_moment_growth(eigenvalues, noise, eta, batch_size) - 1,
            1e-3 / noise.sum(),
            2 / eigenvalues[0],
        )
        assert decoupled_step(eigenvalues, noise, batch_size) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([1.0, 0.0], [1.0, 1.0], 1), "eigenvalues"),
        (([1.0], [1.0, 1.0], 1), "noise"),
        (([1.0], [-1.0], 1), "noise"),
        (([1.0], [0.0], 1), "noise"),
        (([1.0], [1.0], 0), "batch_size"),
    ],
)
def test_bad_input_is_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        decoupled_step(*arguments)


def test_trace_bound_follows_from_the_necessary_one():
    for minimum in minima():
        c = minimum.factor(2, "replacement")
        assert trace_necessary_step(minimum, 2, "replacement") <= 2 / (c * minimum.trace) * (1 + 1e-12)
