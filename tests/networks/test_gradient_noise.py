"""Alignment, noise strength and decoupling against dense matrices."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from flatmin.networks import gradient_noise
from flatmin.networks.point import at


def dense_alignment(model, data, loss):
    """The definitions of W22 §2, written with (P, P) matrices."""
    passed = at(model, loss, data).passed
    gradients, roots = passed.sample_gradients(), passed.sample_roots()
    mean = gradients.mean(0)
    sigma_1, sigma_2 = gradients.T @ gradients / len(data), torch.outer(mean, mean)
    sigma = sigma_1 - sigma_2
    g = at(model, loss, data).gauss_newton()
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
    monkeypatch.setattr(gradient_noise, "_KEPT", entries)
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
    with pytest.raises(ValueError, match="chunk=0: must be an integer at least 1"):
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
    sides = (rows * passed.losses[:, None]).T @ rows / samples, rows.T @ rows * passed.loss / samples
    exact, decoupled = (torch.linalg.eigvalsh(side).flip(0) for side in sides)
    found = at(model, "square", data).noise.decoupling()
    m = min(samples, len(exact))
    assert len(found.exact) == m
    torch.testing.assert_close(found.exact, exact[:m], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(found.decoupled, decoupled[:m], rtol=1e-8, atol=1e-12)
    assert found.distance == pytest.approx(float((sides[0] - sides[1]).norm() / sides[1].norm()))


def test_decoupling_needs_one_output(small):
    model, data = small("relu")
    with pytest.raises(ValueError, match="3 outputs: must have one"):
        at(model, "square", data).noise.decoupling()
    model, data = small("relu", "cross-entropy")
    with pytest.raises(ValueError, match="loss='cross-entropy': must be 'square'"):
        at(model, "cross-entropy", data).noise.decoupling()
    model, data = small("relu", outputs=1)
    fitted = type(data)(data.inputs, model(data.inputs).detach())
    with pytest.raises(ValueError, match="perfect fit"):
        at(model, "square", fitted).noise.decoupling()


@pytest.mark.parametrize("loss", ["square", "cross-entropy"])
@pytest.mark.parametrize("window", [0.3, 0.01])
def test_the_exponent_without_a_dense_matrix_is_that_of_the_dense_basis(small, wrapped, loss, window):
    model, data = small("tanh", loss, samples=60)
    basis = at(model, loss, data).noise.in_hessian_basis()
    inside = basis.curvature >= window * basis.curvature[0]
    curvature_, noise = (part[inside].log().numpy() for part in (basis.curvature, basis.noise))
    expected = np.polyfit(curvature_, noise, 1)[0]
    for one in (model, wrapped(model)):
        found = at(one, loss, data).noise.exponent(window)
        assert found.points == int(inside.sum())
        assert found.value == pytest.approx(expected, abs=1e-3)
        assert 0 < found.error < 1


def test_the_errors_of_strength_and_exponent_are_those_of_the_samples(small):
    """Subsets of one large set: the deviations from its values have the size of the errors."""
    model, data = small("tanh", "cross-entropy", samples=4000)
    here = at(model, "cross-entropy", data)
    whole, picks = here.noise.strength().value, np.random.default_rng(0)
    z = []
    for _ in range(100):
        part = data.subset(picks.choice(4000, 100, replace=False))
        found = at(model, "cross-entropy", part, checks=False).noise.strength()
        z.append((found.value * 100 / 99 - whole) / found.error)  # 𝒩 of n samples is (n − 1)/n of Tr Σ
    assert abs(np.mean(z)) < 4 / 10
    assert 0.8 < np.std(z) < 1.2
    few = [at(model, "cross-entropy", data.first(n)).noise.strength().error for n in (1, 2, 3)]
    assert few[:2] == [math.inf, math.inf]  # two are as far from their mean as each other
    assert 0 < few[2] < math.inf
    in_parts = here.noise.strength(chunk=500)
    assert in_parts.value == pytest.approx(whole, rel=1e-10)
    assert here.noise.strength(chunk=4000).error <= in_parts.error < 3 * here.noise.strength(chunk=4000).error


def test_a_network_of_many_outputs_is_measured_in_little_memory():
    """2000 outputs and 100 samples: one array (n, C, C) would be 1.6 GB."""
    code = (
        "import resource, torch, flatmin as fm; torch.set_num_threads(1); torch.manual_seed(0)\n"
        "x, y = torch.randn(100, 20), torch.randint(2000, (100,))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "here = fm.at(fm.models.mlp((20, 30, 2000)), 'cross-entropy', (x, y))\n"
        "here.eigenpairs(3), here.trace(), here.frobenius_norm(), here.noise.strength(), here.diagonal()\n"
        "here.gauss_newton_trace(), here.spectral_density(steps=5, probes=2)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 500


def test_no_covariance_of_batches_follows_where_labels_have_weights(small):
    """Torch divides a batch by its own weights; of one sample C = Σ is that of the shares of the mean."""
    model, data = small("tanh", "cross-entropy", 3)
    loss = torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    here = at(model, loss, data, dtype="float64")
    assert torch.isfinite(here.noise.covariance()).all()
    for measure in here.noise.covariance, here.noise.in_hessian_basis:
        with pytest.raises(ValueError, match="must not weigh or ignore labels for batches"):
            measure(batch_size=2)
