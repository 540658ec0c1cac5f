import itertools

import numpy as np
import pytest

from flatmin.theory.stability import threshold
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.threshold import (
    growth,
    largest_step,
    leading_mode,
    second_moment_step,
    smallest_batch,
)


def random_gradients(samples, parameters, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, parameters)) * rng.uniform(0.3, 2, size=(samples, 1))


def dense(gradients, eta, c):
    """The operator T on vectorised P×P matrices."""
    samples, parameters = gradients.shape
    hessian = gradients.T @ gradients / samples
    step = np.eye(parameters) - eta * hessian
    operator = np.kron(step, step) - eta**2 * c * np.kron(hessian, hessian)
    for g in gradients:
        operator += eta**2 * c / samples * np.kron(np.outer(g, g), np.outer(g, g))
    return operator


CASES = [(5, 4, 1), (5, 4, 3), (4, 4, 2), (8, 3, 8), (3, 1, 2), (2, 2, 1)]


@pytest.mark.parametrize(("samples", "parameters", "batch_size"), CASES)
@pytest.mark.parametrize("sampling", ["replacement", "fresh"])
def test_growth_is_the_top_eigenvalue_of_the_dense_operator(samples, parameters, batch_size, sampling):
    gradients = random_gradients(samples, parameters)
    minimum = Minimum.from_gradients(gradients)
    c = minimum.factor(batch_size, sampling)
    edge = largest_step(minimum, batch_size, sampling)
    for eta in (0.1 * edge, 0.7 * edge, edge, 1.5 * edge):
        top = np.linalg.eigvalsh(dense(gradients, eta, c))[-1]
        assert growth(minimum, eta, batch_size, sampling) == pytest.approx(top, abs=1e-9)
    assert growth(minimum, edge, batch_size, sampling) == pytest.approx(1, abs=1e-9)


def test_more_parameters_than_samples_do_not_change_the_operator():
    gradients = random_gradients(6, 40)
    few = Minimum.from_gradients(gradients)
    basis = np.linalg.svd(gradients, full_matrices=False)[2]
    same = Minimum.from_gradients(gradients @ basis.T)
    assert few.rank == same.rank == 6
    assert largest_step(few, 2) == pytest.approx(largest_step(same, 2), rel=1e-9)


def test_summaries_of_a_minimum():
    gradients = random_gradients(7, 5)
    minimum = Minimum.from_gradients(gradients)
    hessian = gradients.T @ gradients / 7
    assert minimum.trace == pytest.approx(np.trace(hessian))
    assert minimum.frobenius == pytest.approx(np.linalg.norm(hessian))
    assert minimum.sharpness == pytest.approx(np.linalg.norm(hessian, 2))
    assert minimum.squared_norms == pytest.approx(np.square(gradients).sum(axis=1))
    assert minimum.chi == pytest.approx(np.einsum("ia,ab,ib->i", gradients, hessian, gradients))
    assert minimum.kernel == pytest.approx(gradients @ gradients.T / 7)
    assert minimum.effective_rank == pytest.approx(np.trace(hessian) ** 2 / np.sum(hessian**2))


def test_mu_0_and_mu_1_are_infima():
    gradients = random_gradients(6, 2)
    minimum = Minimum.from_gradients(gradients)
    hessian = gradients.T @ gradients / 6
    found = []
    for angle in np.linspace(0, np.pi, 4001):
        delta = np.array([np.cos(angle), np.sin(angle)])
        errors = gradients @ delta
        first = (gradients * errors[:, None] ** 2).T @ gradients / 6
        full = np.outer(hessian @ delta, hessian @ delta)
        scale = np.mean(errors**2) * np.sum(hessian**2)
        found.append([np.sum(hessian * (first - full)) / scale, np.sum(hessian * first) / scale])
    assert np.min(found, axis=0) == pytest.approx([minimum.mu_0, minimum.mu_1], rel=1e-4)
    assert minimum.mu_1 >= minimum.gamma


def test_one_sample_is_gradient_descent():
    minimum = Minimum.from_gradients([[1.0, 2.0]])
    for sampling in ("replacement", "fresh"):
        assert largest_step(minimum, 1, sampling) == pytest.approx(2 / 5)
        assert growth(minimum, 0.1, 1, sampling) == pytest.approx(0.25)


def test_the_full_batch_without_replacement_is_gradient_descent():
    minimum = Minimum.from_gradients(random_gradients(6, 3))
    assert largest_step(minimum, 6) == pytest.approx(2 / minimum.sharpness)
    assert growth(minimum, 0.3, 6) == pytest.approx(np.max((1 - 0.3 * minimum.eigenvalues) ** 2))
    assert leading_mode(minimum, 0.3, 6).noise == pytest.approx(0, abs=1e-12)


def test_orthogonal_gradients_of_equal_length():
    """n orthogonal gradients of length s: H = (s²/n) 1, and T is a number on diagonal matrices."""
    n, s = 5, 1.3
    minimum = Minimum.from_gradients(s * np.eye(n))
    lam = s**2 / n
    for batch_size, sampling in [(1, "replacement"), (2, "replacement"), (2, "fresh"), (5, "replacement")]:
        c = minimum.factor(batch_size, sampling)
        exact = 2 / (lam * (1 - c + c * n))
        assert largest_step(minimum, batch_size, sampling) == pytest.approx(exact)
        rho = 1 - 2 * 0.4 * lam + 0.16 * lam**2 * (1 - c + c * n)
        assert growth(minimum, 0.4, batch_size, sampling) == pytest.approx(rho)


@pytest.mark.parametrize("sampling", ["replacement", "fresh"])
def test_step_and_batch_are_inverse(sampling):
    minimum = Minimum.from_gradients(random_gradients(12, 30, seed=3))
    for batch_size in (1.5, 4, 9):
        eta = largest_step(minimum, batch_size, sampling)
        assert smallest_batch(minimum, eta, sampling) == pytest.approx(batch_size, rel=1e-8)
    assert smallest_batch(minimum, 1e-3 / minimum.trace, sampling) == 1
    assert smallest_batch(minimum, 2.01 / minimum.sharpness, sampling) == np.inf


def test_leading_mode_splits_the_growth():
    gradients = random_gradients(9, 6)
    minimum = Minimum.from_gradients(gradients)
    eta = 1.2 * largest_step(minimum, 2, "replacement")
    mode = leading_mode(minimum, eta, 2, "replacement")
    assert np.linalg.eigvalsh(mode.moment)[0] > -1e-9
    assert np.sum(minimum.eigenvalues * np.diag(mode.moment)) == pytest.approx(2)
    assert mode.contraction + mode.noise == pytest.approx(mode.growth)
    assert mode.noise == pytest.approx(eta**2 / 2 * mode.alignment * minimum.frobenius**2)
    assert mode.alignment >= minimum.mu_0
    seen = np.einsum("ia,ab,ib->i", minimum.gradients, mode.moment, minimum.gradients)
    noise = (seen * minimum.chi).mean() / 2 - (minimum.eigenvalues**3 @ np.diag(mode.moment)) / 2
    assert mode.noise == pytest.approx(eta**2 / 2 * noise)


def test_mode_at_the_edge_stays_as_it_is():
    minimum = Minimum.from_gradients(random_gradients(9, 6))
    eta = largest_step(minimum, 2)
    mode = leading_mode(minimum, None, 2)
    after = second_moment_step(minimum, mode.moment, eta, 2)
    assert after == pytest.approx(mode.moment, abs=1e-5)
    assert mode.alignment == pytest.approx(leading_mode(minimum, eta, 2).alignment, rel=1e-4)


def test_second_moment_step_is_the_average_over_batches():
    minimum = Minimum.from_gradients(random_gradients(4, 3))
    root = np.random.default_rng(0).normal(size=(3, 3))
    moment, eta, g = root @ root.T, 0.3, minimum.gradients
    for sampling, batches in (
        ("replacement", list(itertools.product(range(4), repeat=2))),
        ("fresh", list(itertools.permutations(range(4), 2))),
    ):
        steps = [np.eye(3) - eta / 2 * g[list(batch)].T @ g[list(batch)] for batch in batches]
        average = np.mean([step @ moment @ step for step in steps], axis=0)
        assert second_moment_step(minimum, moment, eta, 2, sampling) == pytest.approx(average)


def test_a_crowded_spectrum_far_below_the_threshold():
    """Slow directions over many decades crowd below ρ = 1, where Lanczos alone would take for ever."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(30, 30)) * np.geomspace(1, 1e-3, 30)
    minimum = Minimum.from_gradients(gradients)
    eta = 0.3 * largest_step(minimum, 2)
    operator = dense(minimum.gradients, eta, minimum.factor(2))
    top = np.linalg.eigvalsh(operator)[-1]
    # what Lanczos promises, the last step of Newton's, and LAPACK's p·eps‖T‖ for a matrix of p = 900 rows
    allowed = threshold.TOLERANCE + 1e-13 + 900 * np.finfo(float).eps * np.linalg.norm(operator, 2)
    assert growth(minimum, eta, 2) == pytest.approx(top, rel=0, abs=allowed)


def test_average_loss_grows_as_predicted():
    """Monte Carlo: 40 000 runs, one step from the leading second moment, batches drawn both ways."""
    rng = np.random.default_rng(5)
    minimum = Minimum.from_gradients(random_gradients(6, 4))
    runs, batch_size = 40_000, 2
    for sampling in ("replacement", "fresh"):
        eta = 1.1 * largest_step(minimum, batch_size, sampling)
        mode = leading_mode(minimum, eta, batch_size, sampling)
        values, vectors = np.linalg.eigh(mode.moment)
        start = rng.normal(size=(runs, 4)) * np.sqrt(np.clip(values, 0, None)) @ vectors.T
        if sampling == "replacement":
            batch = rng.integers(6, size=(runs, batch_size))
        else:
            batch = rng.permuted(np.tile(np.arange(6), (runs, 1)), axis=1)[:, :batch_size]
        g = minimum.gradients[batch]  # (runs, B, r)
        end = start - eta / batch_size * np.einsum("kba,kb->ka", g, np.einsum("kba,ka->kb", g, start))
        losses = np.square(end) @ minimum.eigenvalues / 2
        assert losses.mean() == pytest.approx(mode.growth, abs=4 * losses.std() / np.sqrt(runs))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda m: growth(m, 0.0, 1), "eta"),
        (lambda m: growth(m, np.nan, 1), "eta"),
        (lambda m: smallest_batch(m, -1.0), "eta"),
        (lambda m: growth(m, 0.1, 0.5), "batch_size"),
        (lambda m: growth(m, 0.1, 4), "batch_size"),
        (lambda m: largest_step(m, np.nan), "batch_size"),
        (lambda m: Minimum.from_gradients(np.zeros((3, 2))), "gradients"),
        (lambda m: Minimum.from_gram(np.zeros((2, 2))), "gram"),
        (lambda m: Minimum.from_gradients([1.0, 2.0]), "gradients"),
        (lambda m: Minimum.from_gradients([[np.inf, 2.0]]), "gradients"),
        (lambda m: Minimum.from_gram([[1.0, 2.0], [0.0, 1.0]]), "gram"),
        (lambda m: Minimum.from_gram([[1.0, 2.0], [2.0, 1.0]]), "gram"),
        (lambda m: Minimum.from_gram([[1.0, 2.0]]), "gram"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(Minimum.from_gradients(random_gradients(3, 2)))


def test_norm_uniformity_of_two_orthogonal_gradients():
    # lengths 1 and 2: H = diag(1, 4)/2, χ = (1/2, 8), γ = min/mean = 2/17
    assert Minimum.from_gradients([[1.0, 0.0], [0.0, 2.0]]).gamma == pytest.approx(2 / 17, rel=1e-12)
