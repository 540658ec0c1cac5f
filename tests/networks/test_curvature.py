"""Spectra, trace, norms and flatness against dense linear algebra."""

import numpy as np
import pytest
import torch

from flatmin.networks import curvature, eigen, parameters
from flatmin.networks.passes.generic import linearise


def test_trace_and_norm_are_those_of_the_dense_hessian(case):
    dense = curvature.hessian(*case)
    trace, norm = curvature.trace(*case), curvature.frobenius_norm(*case)
    assert trace.value == pytest.approx(float(dense.trace()), rel=1e-12)
    assert norm.value == pytest.approx(float(dense.norm()), rel=1e-12)
    assert (trace.error, norm.error) == (0, 0)


def test_trace_and_norm_of_one_layer(case):
    for layer in (1, 3):
        dense = curvature.hessian(*case, layer)
        assert curvature.trace(*case, layer).value == pytest.approx(float(dense.trace()), rel=1e-12)
        assert curvature.frobenius_norm(*case, layer).value == pytest.approx(float(dense.norm()), rel=1e-12)


def test_the_gauss_newton_trace_is_the_hessian_trace_for_piecewise_linear_networks(small):
    for activation, same in (("relu", True), ("tanh", False)):
        model, data = small(activation, "cross-entropy")
        trace = curvature.trace(model, data, "cross-entropy").value
        other = float(curvature.gauss_newton(model, data, "cross-entropy").trace())
        assert (abs(trace - other) < 1e-12 * abs(trace)) is same


def test_estimates_for_other_modules_agree_within_their_error(small, wrapped):
    model, data = small("tanh", "cross-entropy")
    dense = curvature.hessian(model, data, "cross-entropy")
    for measure, exact in ((curvature.trace, dense.trace()), (curvature.frobenius_norm, dense.norm())):
        estimate = measure(wrapped(model), data, "cross-entropy", probes=2000)
        assert abs(estimate.value - exact) < 4 * estimate.error
        assert estimate.error < 0.05 * abs(exact)


@pytest.mark.parametrize("loss", ["square", "cross-entropy"])
@pytest.mark.parametrize("wrap", [False, True])
def test_the_gauss_newton_trace_is_estimated_within_its_error(small, wrapped, loss, wrap):
    model, data = small("tanh", loss, samples=400)
    exact = float(curvature.gauss_newton(model, data, loss).trace())
    one = wrapped(model) if wrap else model
    found = [curvature.gauss_newton_trace(one, data, loss, 150, seed) for seed in range(40)]
    values = np.array([estimate.value for estimate in found])
    assert abs(values.mean() - exact) < 4 * values.std(ddof=1) / 40**0.5
    # the spread over 40 seeds is known to 11 %
    assert values.std(ddof=1) / 1.33 < np.mean([estimate.error for estimate in found]) < 0.1 * exact
    assert found[0].value == pytest.approx(curvature.gauss_newton_trace(one, data, loss, 7).value)
    with pytest.raises(ValueError, match="chunk must be positive, got 0"):
        curvature.gauss_newton_trace(one, data, loss, 0)


@pytest.mark.parametrize("layer", [None, 2, "3.bias"])
@pytest.mark.parametrize("matrix", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_eigenpairs_are_those_of_the_dense_matrix(small, wrapped, activation, wrap, matrix, layer):
    model, data = small(activation, "cross-entropy")
    make = curvature.hessian if matrix == "hessian" else curvature.gauss_newton
    dense = make(model, data, "cross-entropy", layer)
    k = 3 if layer == "3.bias" else 8
    pairs = curvature.eigenpairs(
        wrapped(model) if wrap else model,
        data,
        "cross-entropy",
        k,
        layer if isinstance(layer, int | None) or not wrap else "inner." + layer,
        matrix,
        tolerance=1e-9,
    )
    expected = torch.linalg.eigvalsh(dense).flip(0)[:k]
    torch.testing.assert_close(pairs.values, expected, rtol=1e-9, atol=1e-12)
    off = dense @ pairs.vectors - pairs.vectors * pairs.values
    assert (off.norm(dim=0) < 1e-8 * expected[0]).all()
    torch.testing.assert_close(pairs.vectors.T @ pairs.vectors, torch.eye(k, dtype=torch.float64))


def test_lanczos_residuals_bound_the_error():
    matrix = torch.diag(torch.linspace(0, 1, 300, dtype=torch.float64) ** 3)
    start = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loose = eigen.lanczos(lambda v: matrix @ v, start, 5, tolerance=1e-2)
    errors = (loose.values - matrix.diagonal().flip(0)[:5]).abs()
    assert (errors <= loose.residuals).all()
    assert (loose.residuals <= 1e-2).all()
    assert loose.products < 150


def test_lanczos_stops_at_an_exhausted_krylov_space():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0] + [0.0] * 47, dtype=torch.float64))
    pairs = eigen.lanczos(lambda v: matrix @ v, torch.ones(50, dtype=torch.float64), 3)
    torch.testing.assert_close(pairs.values, torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    assert pairs.products <= 5


def test_lanczos_says_when_it_does_not_converge():
    matrix = torch.diag(torch.linspace(0, 1, 500, dtype=torch.float64))
    with pytest.raises(ValueError, match="steps must be more than 20"):
        eigen.lanczos(lambda v: matrix @ v, torch.ones(500, dtype=torch.float64), 5, 1e-6, steps=20)
    with pytest.raises(ValueError, match="k must be 1…500, got 0"):
        eigen.lanczos(lambda v: matrix @ v, torch.ones(500, dtype=torch.float64), 0)


@pytest.mark.parametrize("samples", [8, 60])
def test_gauss_newton_spectrum_is_that_of_the_dense_matrix(small, wrapped, samples):
    """8 samples go through the Gram matrix, 60 through the matrix itself."""
    model, data = small("relu", "cross-entropy", samples=samples)
    expected = torch.linalg.eigvalsh(curvature.gauss_newton(model, data, "cross-entropy")).flip(0)
    for one in (model, wrapped(model)):
        found = curvature.gauss_newton_spectrum(one, data, "cross-entropy")
        m = min(len(found), len(expected))
        torch.testing.assert_close(found[:m], expected[:m], rtol=1e-8, atol=1e-12)


def test_gram_matrix_is_that_of_the_root(case):
    model, data, loss = case
    passed = linearise(model, data, loss)
    root = passed.sample_roots().flatten(0, 1)
    torch.testing.assert_close(curvature.gram(passed), root @ root.T)


def test_spectral_density_has_the_moments_of_the_hessian(small):
    model, data = small("tanh", "cross-entropy")
    values = torch.linalg.eigvalsh(curvature.hessian(model, data, "cross-entropy")).numpy()
    density = curvature.spectral_density(model, data, "cross-entropy", steps=30, probes=400)
    assert density.weights.sum() == pytest.approx(1)
    for power in (1, 2, 4):
        moments = (density.weights * density.nodes**power).reshape(400, -1).sum(1) * 400
        assert abs(moments.mean() - (values**power).mean()) < 4 * moments.std() / 20
    grid = np.linspace(-2, 2 * values.max(), 4000)
    assert np.trapezoid(density.on(grid, 0.05), grid) == pytest.approx(1, abs=1e-6)


def test_flatness_follows_each_definition(small):
    model, data = small("relu", "cross-entropy")
    arguments = (model, data, "cross-entropy")
    block = torch.linalg.eigvalsh(curvature.hessian(*arguments, 2)).flip(0)
    product = float(block[:4].prod())
    close = {"rel": 1e-5}
    assert curvature.flatness(*arguments, layer=2, top=4) == pytest.approx(product ** (-1 / 4), **close)
    root = curvature.flatness(*arguments, "root-geometric-mean", 2, 4)
    assert root == pytest.approx(product ** (-1 / 8), **close)
    assert curvature.flatness(*arguments, "largest", 2) == pytest.approx(1 / float(block[0]), **close)
    assert curvature.flatness(*arguments, "trace", 2) == pytest.approx(1 / float(block.sum()), **close)
    assert curvature.flatness(*arguments, "frobenius", 2) == pytest.approx(1 / float(block.norm()), **close)
    assert np.isnan(curvature.flatness(*arguments, top=87))
    with pytest.raises(ValueError, match="definition must be one of"):
        curvature.flatness(*arguments, "volume")


def test_effective_dimension_counts_equal_eigenvalues():
    values = torch.tensor([2.0] * 7 + [0.0] * 20)
    assert curvature.effective_dimension(values) == pytest.approx(7)
    with pytest.raises(ValueError, match="values must not be negative"):
        curvature.effective_dimension(torch.tensor([1.0, -0.5]))


def test_kronecker_block_in_chunks(small, monkeypatch):
    model, data = small("tanh", "cross-entropy")
    whole = curvature.hessian(model, data, "cross-entropy")
    monkeypatch.setattr(curvature, "_ENTRIES", 40)
    monkeypatch.setattr(curvature, "_CACHED", 40)
    block = parameters.parameter_slice(model, 2)
    torch.testing.assert_close(curvature.hessian(model, data, "cross-entropy"), whole)
    torch.testing.assert_close(curvature.hessian(model, data, "cross-entropy", 2), whole[block, block])
    assert curvature.frobenius_norm(model, data, "cross-entropy").value == pytest.approx(float(whole.norm()))
    with pytest.raises(ValueError, match="matrix must be one of"):
        curvature.eigenpairs(model, data, "cross-entropy", 1, matrix="fisher")
    with pytest.raises(ValueError, match="probes must be at least 2"):
        curvature.trace(model, data, "cross-entropy", "3.bias", probes=1)
