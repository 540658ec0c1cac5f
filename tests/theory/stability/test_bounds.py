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
    space_necessary_step,
    theorem_3_3_step,
    theorem_3_5_growth,
    trace_necessary_step,
    trace_sufficient_step,
)
from flatmin.theory.stability.families import grouped_minimum
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.threshold import growth, largest_step

NECESSARY = [
    theorem_3_3_step,
    proposition_3_4_step,
    trace_necessary_step,
    direction_necessary_step,
    space_necessary_step,
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


@pytest.mark.parametrize("samples", [2, 5, 20, 60, 200])
@pytest.mark.parametrize("outputs", [1, 3])
def test_one_gradient_repeated_has_no_noise_whatever_the_rounding(samples, outputs):
    rng = np.random.default_rng(samples)
    rows = rng.normal(size=(outputs, 7)) * 10.0 ** rng.uniform(-3, 3)
    signs = rng.choice([-1.0, 1.0], samples)
    repeated = signs[:, None, None] * rows
    flat = repeated.reshape(samples * outputs, -1)
    for minimum in (Minimum.from_gradients(repeated), Minimum.from_gram(flat @ flat.T, outputs)):
        assert minimum.mu_0 == 0
        for batch_size in (1, samples // 2):
            assert theorem_3_3_step(minimum, batch_size, "replacement") == np.inf
        assert theorem_3_5_growth(minimum, 1.0, 1, "replacement") == 0
        assert proposition_3_4_step(minimum, 1, "replacement") < np.inf


def test_a_little_noise_is_not_taken_for_rounding():
    # one direction: μ₀ is the relative variance of the squared lengths, here 4e-10
    squares = np.where(np.arange(200) % 2, 1 + 2e-5, 1 - 2e-5)
    minimum = Minimum.from_gradients(np.sqrt(squares)[:, None] * [3.0, -1.0])
    assert minimum.mu_0 == pytest.approx(4e-10, rel=1e-4, abs=0)
    assert theorem_3_3_step(minimum, 1, "replacement") == pytest.approx(5e4 / minimum.frobenius, rel=1e-4)


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


def projected_step(rows, projection, c):
    """2⟨P, H⟩ over ⟨P, MP⟩, sample by sample: the rule of one projection, from its definition."""
    each = np.einsum("nkp,nkq->npq", rows, rows)
    mean = each.mean(axis=0)
    noise = np.mean([np.trace(projection @ h @ projection @ h) for h in each])
    full = np.trace(projection @ mean @ projection @ mean)
    return 2 * np.trace(projection @ mean) / ((1 - c) * full + c * noise)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_the_rule_of_spaces_is_the_least_over_both_nested_families(outputs, seed):
    """Long gradients in a plane, short ones with more curvature beside it: either family may decide."""
    rows = np.random.default_rng(seed).normal(size=(24, outputs, 5))
    rows *= np.where(np.arange(24)[:, None, None] < 6, [1, 1, 0, 0, 0], [0, 0, 1, 1, 1])
    rows /= np.linalg.norm(rows, axis=(1, 2), keepdims=True)
    rows[6:] *= 0.8
    minimum = Minimum.from_gradients(rows)
    leading = np.linalg.eigh(np.einsum("nkp,nkq->pq", rows, rows) / 24)[1][:, ::-1]
    order = np.argsort(-minimum.squared_norms, kind="stable")
    longest = np.linalg.qr(rows[order].reshape(-1, 5).T)[0]
    for batch_size in (1, 2, 5, 12):
        c = minimum.factor(batch_size, "fresh")
        bases = (basis[:, :m] for basis in (leading, longest) for m in range(1, 6))
        expected = min(projected_step(rows, basis @ basis.T, c) for basis in bases)
        assert space_necessary_step(minimum, batch_size) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("large", [(540, 300, 0.1), (540, 27, 0.5)])  # flatter, and of the same curvature
def test_a_few_samples_with_directions_of_their_own_do_not_hide(large):
    minimum = grouped_minimum([(60, 6, 1.0), large], 0)
    for batch_size in (1, 4, 16, 64, 256):
        exact = largest_step(minimum, batch_size, "replacement")
        assert exact >= 0.9 * necessary_step(minimum, batch_size, "replacement")
    exact = largest_step(minimum, 1, "replacement")
    assert exact == pytest.approx(2, rel=1e-9)  # |g|² = 1 in the first group
    assert exact == pytest.approx(space_necessary_step(minimum, 1, "replacement"), rel=1e-6)
    assert exact < 0.6 * trace_necessary_step(minimum, 1, "replacement")


def test_groups_at_random_stay_within_a_fifth():
    rng = np.random.default_rng(1)
    for seed in range(60):
        counts = [(int(rng.integers(8, 60)), int(rng.integers(1, 8))) for _ in range(rng.integers(2, 5))]
        groups = [(n, d, float(np.exp(rng.normal()))) for n, d in counts]
        minimum, batch_size = grouped_minimum(groups, seed), 2.0 ** rng.uniform(0, 7)
        exact = largest_step(minimum, batch_size, "replacement")
        assert 0.8 < exact / necessary_step(minimum, batch_size, "replacement") <= 1 + 1e-9


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
