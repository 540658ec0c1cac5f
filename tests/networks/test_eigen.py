"""Eigenpairs by products against numpy's dense solver: multiplicities, clusters, both ends."""

import numpy as np
import pytest
import torch

from flatmin.networks import eigen

DOUBLE = torch.finfo(torch.float64).eps


def matrix_with(values, seed=0):
    """A symmetric matrix with these eigenvalues, in a random basis."""
    values = np.asarray(values, float)
    random = np.random.default_rng(seed).standard_normal((len(values), len(values)))
    basis = np.linalg.qr(random)[0]
    matrix = (basis * values) @ basis.T
    return torch.from_numpy((matrix + matrix.T) / 2)


def outermost(matrix, k, which):
    values = np.linalg.eigvalsh(matrix.numpy())
    size = {"largest": -values, "smallest": values, "magnitude": -abs(values)}[which]
    return values[np.argsort(size, kind="stable")[:k]]


def solve(matrix, k, tolerance=1e-6, seed=0, dtype=torch.float64, fresh=1, **options):
    matrix = matrix.to(dtype)
    start = torch.randn(len(matrix), generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return eigen.lanczos(lambda v: matrix @ v, start, k, tolerance, seed=fresh, **options)


def bulk(count, seed=1):
    return np.random.default_rng(seed).uniform(-1, 0.5, count)


SPECTRA = {
    "each tenfold, as of a linear layer with ten outputs": (np.repeat([7, 6, 5, 4, 3, 2, 1], 10), 10),
    "multiplicities 1 to 12": (np.r_[np.repeat(np.arange(12) + 1.0, np.arange(12) + 1), bulk(400)], 60),
    "twelvefold, simple, fivefold, cut within a multiplet": (
        np.r_[[9] * 12, 8, [7] * 5, [6] * 3, bulk(300)],
        15,
    ),
    "clusters": (np.r_[5 + 1e-3 * np.arange(6), 4 + 1e-5 * np.arange(4), bulk(200)], 10),
    "simple": (np.r_[10 / np.arange(1, 13), bulk(300)], 9),
    "a multiple of the identity": (np.full(300, 3.0), 5),
    "rank three, zero degenerate": (np.r_[3.0, 2.0, 1.0, np.zeros(200)], 10),
    "indefinite": (np.r_[np.repeat([4.0, -5.0, 3.0, -3.5], 4), bulk(200)], 12),
    "nothing": (np.zeros(80), 4),
}


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize("name", SPECTRA)
def test_every_eigenvalue_comes_with_its_multiplicity(name, which):
    values, k = SPECTRA[name]
    matrix = matrix_with(values)
    pairs, expected = solve(matrix, k, which=which), outermost(matrix, k, which)
    # a Ritz value is off by residual²/gap at most, and never by more than its residual
    atol = 1e-6 * abs(expected) + 100 * DOUBLE * len(matrix) * max(1, abs(values).max())
    assert (abs(abs(pairs.values.numpy()) - abs(expected)) <= atol).all()
    left = (matrix @ pairs.vectors - pairs.vectors * pairs.values).norm(dim=0)
    assert (left.numpy() <= atol).all()
    gram = pairs.vectors.T @ pairs.vectors - torch.eye(k, dtype=torch.float64)
    assert gram.abs().max() < 1e-10
    assert pairs.missed <= 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_multiplicities_at_the_default_tolerance_in_single_and_double_precision(dtype):
    matrix = matrix_with(np.r_[np.repeat([4.0, 3.0, 2.0], [7, 2, 4]), bulk(500)])
    pairs = solve(matrix, 13, 1e-3, dtype=dtype)
    assert (abs(pairs.values.double().numpy() - outermost(matrix, 13, "largest")) <= 4e-3).all()


def test_a_double_eigenvalue_is_found_from_every_start():
    """Two hundred starts, each with a chance of at most 1 % to miss: ten misses have one of 3e-5."""
    matrix = matrix_with(np.r_[3.0, 3.0, 2.0, 1.5, bulk(120)])
    found = [solve(matrix, 2, 1e-3, seed, fresh=1000 + seed).values for seed in range(200)]
    assert sum(float(values[1]) < 2.9 for values in found) <= 9


def test_without_the_fresh_chain_copies_are_missed():
    """What the fresh chain is for: one start sees one direction of each eigenspace."""
    matrix = matrix_with(np.r_[np.repeat([3.0, 2.0], 5), bulk(200)])
    single = solve(matrix, 2, 1e-3, missed=1)
    assert abs(float(single.values[1]) - 2) < 1e-3
    assert single.missed == 1
    assert (solve(matrix, 3, 1e-3).values - 3).abs().max() < 1e-3


def test_a_simple_spectrum_costs_few_products_more_than_one_chain():
    matrix = matrix_with(np.r_[10 / np.arange(1, 13), bulk(300)])
    one, checked = solve(matrix, 10, 1e-3, missed=1), solve(matrix, 10, 1e-3)
    assert one.products < checked.products <= 1.5 * one.products
    torch.testing.assert_close(one.values, checked.values)


def test_residuals_bound_the_error():
    matrix = torch.diag(torch.linspace(0, 1, 300, dtype=torch.float64) ** 3)
    loose = solve(matrix, 5, 1e-2)
    errors = (loose.values - matrix.diagonal().flip(0)[:5]).abs()
    assert (errors <= loose.residuals).all()
    assert (loose.residuals <= 1e-2).all()
    assert loose.products < 150


def test_lanczos_stops_at_an_exhausted_krylov_space():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0] + [0.0] * 47, dtype=torch.float64))
    pairs = eigen.lanczos(lambda v: matrix @ v, torch.ones(50, dtype=torch.float64), 3)
    torch.testing.assert_close(pairs.values, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    assert pairs.products <= 5


def test_all_eigenpairs_of_a_small_matrix():
    matrix = matrix_with([2.0, 2.0, 1.0, -1.0])
    torch.testing.assert_close(
        solve(matrix, 4).values, torch.tensor([2.0, 2.0, 1.0, -1.0], dtype=torch.float64)
    )
    one = solve(matrix_with([-3.0]), 1)
    assert float(one.values[0]) == pytest.approx(-3)


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_dense_pairs_are_those_of_the_chains(which):
    matrix = matrix_with(SPECTRA["indefinite"][0])
    pairs = eigen.dense(matrix, 12, which)
    torch.testing.assert_close(pairs.values.abs(), solve(matrix, 12, which=which).values.abs())
    assert (pairs.residuals < 1e-12).all()


def test_a_dense_matrix_on_which_single_precision_fails_is_done_in_double(monkeypatch):
    matrix, eigh = matrix_with(SPECTRA["indefinite"][0]).float(), torch.linalg.eigh

    def failing(matrix):
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("did not converge")
        return eigh(matrix)

    wanted = eigen.dense(matrix, 5)
    monkeypatch.setattr(torch.linalg, "eigh", failing)
    found = eigen.dense(matrix, 5)
    torch.testing.assert_close(found.values, wanted.values)
    assert found.vectors.dtype == torch.float32
    assert (found.residuals < 1e-5 * wanted.values.abs().max()).all()


def test_no_convergence_is_an_error_that_says_the_residual():
    matrix = torch.diag(torch.linspace(0, 1, 500, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"steps=20: must be more than that: the residuals are still \d"):
        solve(matrix, 5, 1e-6, steps=20)
    with pytest.raises(ValueError, match="steps=3: must be more than that: 5 eigenpairs take as many"):
        solve(matrix, 5, 1e-6, steps=3)
    with pytest.raises(ValueError, match="the chance of a missed eigenvalue is still"):
        solve(
            matrix_with(SPECTRA["simple"][0]),
            9,
            1e-3,
            steps=solve(matrix_with(SPECTRA["simple"][0]), 9, 1e-3).products - 1,
        )


BAD = {
    "k": [0, -1, 1.5, 501, None, True],
    "tolerance": [0, -1, np.nan, np.inf, "1"],
    "steps": [0, 2.5],
    "which": ["both", None, 3],
    "missed": [0, 2, np.nan],
    "seed": [-1, 0.5],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_arguments_are_checked(name, value):
    start = torch.ones(500, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"^{name}="):
        eigen.lanczos(lambda v: v, start, **({"k": 3} | {name: value}))


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="product: must be finite"):
        eigen.lanczos(lambda v: v * float("nan"), torch.ones(30), 2)


def test_the_quadrature_of_a_chain_is_exact_for_its_degree():
    matrix = matrix_with(bulk(60))
    start = torch.randn(60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    nodes, weights = eigen.tridiagonal(lambda v: matrix @ v, start, 6)
    for power in range(12):
        moved = start
        for _ in range(power):
            moved = matrix @ moved
        assert (weights * nodes**power).sum() == pytest.approx(
            float(start @ moved / (start @ start)), abs=1e-12
        )


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_the_chance_of_a_miss_is_bounded_by_the_orthonormal_polynomials(which):
    """Those of the measure that the start sees, from the QR of its Chebyshev–Vandermonde matrix.

    (u·z)² ≤ 1/Σ p_j(μ)² for a unit eigenvector u of an eigenvalue μ unseen; for a random one the chance of
    |u·z| ≤ δ is at most 2δ times the largest density, √(d/2π) but for O(1/d).
    """
    places, size, tolerance = np.sort(bulk(60)), 60, 1e-2
    start = torch.randn(size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    weights = start.numpy() / float(start.norm())
    pair = eigen.lanczos(lambda v: torch.from_numpy(places) * v, start, 1, tolerance, which=which, missed=0.3)
    mu = float(pair.values[0]) + (1 if which == "largest" else -1) * tolerance * abs(float(pair.values[0]))
    degree = pair.products
    triangle = np.linalg.qr(weights[:, None] * np.polynomial.chebyshev.chebvander(places, degree))[1]
    polynomials = np.linalg.solve(triangle.T, np.polynomial.chebyshev.chebvander(mu, degree).ravel())
    delta = 1 / np.sqrt(np.square(polynomials).sum())
    assert 0.01 < pair.missed < 0.3
    assert pair.missed == pytest.approx(2 * delta * np.sqrt(size / (2 * np.pi)), rel=1e-6)


@pytest.mark.parametrize("copies", [1, 3])
def test_unconverged_vectors_set_aside_shorten_the_proof_and_change_nothing(copies, monkeypatch):
    """Copies of the eigenvalue that follows the last one, or none: the same pairs, no more are claimed."""
    values = np.r_[20.0 - np.arange(10), np.repeat([10.0, 9.0, 8.0], copies), bulk(3000) * 5]
    expected, products = 20.0 - np.arange(10), {}
    for more in (0, eigen._MORE):
        monkeypatch.setattr(eigen, "_MORE", more)
        found = []
        for seed in range(3):
            pairs = solve(torch.diag(torch.from_numpy(values)), 10, 1e-3, seed, fresh=seed + 10)
            np.testing.assert_allclose(pairs.values.numpy(), expected, rtol=1e-5)
            assert pairs.missed <= 0.01
            found.append(pairs.products)
        products[more] = np.mean(found)
    if copies == 1:
        assert products[eigen._MORE] < products[0]
