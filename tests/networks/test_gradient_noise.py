"""Alignment, noise strength and decoupling against dense matrices."""

import pytest
import torch

from flatmin.networks import curvature, gradient_noise
from flatmin.networks.point import at


def dense_alignment(model, data, loss):
    """The definitions of W22 §2, written with (P, P) matrices."""
    passed = at(model, loss, data).passed
    gradients, roots = passed.sample_gradients(), passed.sample_roots()
    mean = gradients.mean(0)
    sigma_1, sigma_2 = gradients.T @ gradients / len(data), torch.outer(mean, mean)
    sigma = sigma_1 - sigma_2
    g = curvature.gauss_newton(model, data, loss)
    chi = torch.einsum("icp,pq,icq->i", roots, g, roots)
    scale = 2 * passed.loss * g.norm() ** 2
    return {
        "alpha": torch.trace(sigma @ g) / (sigma.norm() * g.norm()),
        "beta": sigma.norm() / (2 * passed.loss * g.norm()),
        "mu": torch.trace(sigma @ g) / scale,
        "mu_1": torch.trace(sigma_1 @ g) / scale,
        "mu_2": torch.trace(sigma_2 @ g) / scale,
        "gamma": chi.min() / chi.mean(),
        "tau": torch.linalg.eigvalsh(g)[-1] ** 2 / g.norm() ** 2,
        "loss": torch.tensor(passed.loss),
        "g_norm": g.norm(),
        "sigma_norm": sigma.norm(),
        "trace_sigma": sigma.trace(),
        "trace_sigma_g": torch.trace(sigma @ g),
    }


@pytest.mark.parametrize("entries", [2**25, 300])
def test_alignment_is_that_of_the_dense_matrices(case, wrapped, monkeypatch, entries):
    model, data, loss = case
    monkeypatch.setattr(gradient_noise, "_CACHED", entries)
    monkeypatch.setattr(gradient_noise, "_ENTRIES", entries)
    expected = dense_alignment(model, data, loss)
    for one in (model, wrapped(model)):
        found = at(one, loss, data).noise.alignment()
        for name, value in expected.items():
            assert getattr(found, name) == pytest.approx(float(value), rel=1e-6), name
        assert found.alpha * found.beta == pytest.approx(found.mu)


def test_decoupled_noise_has_alignment_one(small):
    """Equal errors and orthogonal, equally long gradients: Σ₁ = 2LG exactly (W22 Eq. 2)."""
    model = torch.nn.Sequential(torch.nn.Linear(6, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    data = small(samples=6)[1]
    data = type(data)(torch.eye(6, dtype=torch.float64), torch.zeros(6, 1, dtype=torch.float64))
    found = at(model, "square", data).noise.alignment()
    assert found.mu_1 == pytest.approx(1)
    assert found.gamma == pytest.approx(1)
    assert found.mu == pytest.approx(1 - 1 / 6)


def test_noise_strength_is_the_trace_of_the_covariance(case, wrapped):
    model, data, loss = case
    expected = float(at(model, loss, data).noise.covariance().trace())
    for one in (model, wrapped(model)):
        for chunk in (1000, 7):
            found = at(one, loss, data).noise.strength(chunk)
            assert found.value == pytest.approx(expected, rel=1e-10)
            assert found.loss == pytest.approx(at(model, loss, data).passed.loss)
    with pytest.raises(ValueError, match="chunk must be positive, got 0"):
        at(model, loss, data).noise.strength(0)


def test_decoupling_factors_split_the_noise_by_samples_and_outputs(small, wrapped):
    model, data = small("tanh", outputs=3)
    passed = at(model, "square", data).passed
    errors, jacobian = passed.outputs - data.targets, passed.sample_roots()
    pulled = torch.einsum("ic,icp->ip", errors, jacobian).square().sum(1).mean()
    e2, j2 = errors.square().sum(1), jacobian.square().sum((1, 2))
    for one in (model, wrapped(model)):
        found = at(one, "square", data).noise.decoupling_factors()
        assert found.samples == pytest.approx(float((e2 * j2).mean() / (e2.mean() * j2.mean())))
        product = found.samples * found.outputs
        assert product == pytest.approx(float(3 * pulled / (e2.mean() * j2.mean())))
        strength = at(one, "square", data).noise.strength()
        whole = 3 * (strength.value + strength.gradient_square) / (2 * strength.loss * float(j2.mean()))
        assert product == pytest.approx(whole)


@pytest.mark.parametrize("samples", [15, 300])
def test_decoupling_spectra_are_those_of_the_dense_matrices(small, samples, monkeypatch):
    """15 samples go through the Gram matrix, 300 through (P, P) matrices, in chunks."""
    monkeypatch.setattr(gradient_noise, "_ENTRIES", 9000)
    model, data = small("relu", outputs=1, samples=samples)
    passed = at(model, "square", data).passed
    rows = passed.sample_gradients() / passed.deltas[-1]
    exact = torch.linalg.eigvalsh((rows * passed.losses[:, None]).T @ rows / samples).flip(0)
    decoupled = torch.linalg.eigvalsh(rows.T @ rows).flip(0) * passed.loss / samples
    found = at(model, "square", data).noise.decoupling()
    m = min(samples, len(exact))
    assert len(found.exact) == m
    torch.testing.assert_close(found.exact, exact[:m], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.decoupled, decoupled[:m], rtol=1e-8, atol=1e-12)


def test_decoupling_needs_one_output(small):
    with pytest.raises(ValueError, match="one output, got 3"):
        gradient_noise.decoupling(*small("relu"))
