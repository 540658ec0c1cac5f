"""The stationary state of linearised SGD: against dense linear algebra and runs of the recursion."""

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov

from flatmin.theory.stability import bounds, stationary, threshold
from flatmin.theory.stability.minimum import Minimum

ETA, B = 0.05, 3


@pytest.fixture(scope="module")
def some():
    """A minimum of 30 samples, two outputs, four parameters, with residuals that R takes to 0."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(60, 4)) * [2.0, 1.0, 1.0, 0.5]
    e = rng.normal(size=60)
    e -= rows @ np.linalg.lstsq(rows, e, rcond=None)[0]
    return Minimum.from_gradients(rows.reshape(30, 2, 4)), e.reshape(30, 2)


def test_linear_variance_is_that_of_the_recursion():
    lam, noise = np.array([0.3, 2.0, 30.0]), np.array([1.0, 0.2, 5.0])
    expected = solve_discrete_lyapunov(np.diag(1 - ETA * lam), ETA**2 * np.diag(noise)).diagonal()
    assert stationary.linear_variance(ETA, lam, noise) == pytest.approx(expected, rel=1e-12)
    assert stationary.linear_variance(0.1, 20.0, 1.0) == np.inf
    assert stationary.excess(lam, expected) == pytest.approx(lam @ expected / 2, rel=1e-12)


def test_the_decoupled_excess_diverges_at_the_decoupled_edge():
    lam = np.array([5.0, 2.0, 1.0])
    edge = bounds.decoupled_step(lam, lam, 4)
    assert stationary.decoupled_excess(lam, 1.0001 * edge, 4) == np.inf
    assert stationary.decoupled_excess(lam, 0.999 * edge, 4) > 100
    small = 1e-6
    assert stationary.decoupled_excess(lam, small, 4) == pytest.approx(small * lam.sum() / 8, rel=1e-4)


def dense_moment(minimum, e, eta, c):
    """S from one linear system of its r² entries, all moments written out."""
    n, r = minimum.samples, minimum.rank
    H = np.diag(minimum.eigenvalues)
    left = np.eye(r) - eta * H
    T = np.kron(left, left) - eta**2 * c * np.kron(H, H)
    source = np.zeros((r, r))
    for one, errors in zip(minimum.roots, e, strict=True):
        T += eta**2 * c / n * np.kron(one.T @ one, one.T @ one)
        gradient = one.T @ errors
        source += np.outer(gradient, gradient) / n
    return np.linalg.solve(np.eye(r * r) - T, eta**2 * c * source.ravel()).reshape(r, r)


def test_second_moment_solves_the_dense_system(some):
    found = stationary.second_moment(*some, ETA, B)
    assert found == pytest.approx(dense_moment(*some, ETA, 1 / B), rel=1e-7, abs=1e-12)
    edge = threshold.largest_step(some[0], B, "replacement")
    assert np.all(stationary.second_moment(*some, 1.05 * edge, B) == np.inf)


def test_the_path_ends_in_the_stationary_state(some):
    minimum, e = some
    path = stationary.mean_path(minimum, e, ETA, B, 3000)
    moment = stationary.second_moment(minimum, e, ETA, B)
    rest = np.square(e).sum() / (2 * minimum.samples)
    assert path[0] == 1
    assert rest * (path[-1] - 1) == pytest.approx(np.trace(moment * minimum.eigenvalues) / 2, rel=1e-6)


def test_linearised_losses_are_those_of_single_steps(some):
    minimum, e = some
    batches = np.random.default_rng(1).integers(30, size=(500, 6, B))
    found = stationary.linearised_losses(minimum, e, ETA, batches)
    delta = np.zeros(4)
    for batch in batches[7]:
        delta = delta - ETA / B * sum(minimum.roots[i].T @ (e[i] + minimum.roots[i] @ delta) for i in batch)
    last = np.square(e + minimum.roots @ delta).sum() / 60
    assert found[7, -1] == pytest.approx(last, rel=1e-10)
    ratio = found[:, -1].mean() / found[0, 0]
    error = found[:, -1].std() / found[0, 0] / 500**0.5
    assert ratio == pytest.approx(stationary.mean_path(minimum, e, ETA, B, 6)[-1], abs=4 * error)
    assert np.isinf(stationary.linearised_losses(minimum, e, 1e60, batches[:2])[:, -1]).all()
