"""Alignment from a few samples: exact in the mean, calibrated errors, and batch sharpness."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from flatmin.networks import models, sampled, stability
from flatmin.networks.data.sets import Data
from flatmin.networks.point import at
from flatmin.theory.stability import sharpness

NAMES = ("alpha", "beta", "mu", "g_norm", "sigma_norm", "trace_sigma", "trace_sigma_g", "trace_g")


class Convolutional(nn.Module):
    """Two convolutions, a linear layer, and two parameters that are in no layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, stride=2, bias=False)
        self.scale, self.head = nn.Parameter(torch.tensor([0.8, 0.1])), nn.Linear(5, 10)

    def forward(self, x):
        x = torch.relu(self.first(x)) * self.scale[0] + self.scale[1]
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


def images(samples):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (samples,), generator=generator)
    inputs = torch.randn(samples, 3, 6, 6, generator=generator)
    return Data(inputs + 0.1 * labels[:, None, None, None], labels)


def flat(samples, outputs):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(samples, 8, generator=generator)
    return Data(inputs, torch.randn(samples, outputs, generator=generator))


def point(kind, samples=120):
    torch.manual_seed(0)
    if kind == "convolutional":
        return at(Convolutional(), "square", images(samples), checks=False)
    outputs = int(kind)
    return at(models.mlp((8, 12, outputs), 3), "square", flat(samples, outputs), checks=False)


def exact(here):
    found = here.noise.alignment()
    values = {name: getattr(found, name) for name in NAMES if name != "trace_g"}
    return values | {"trace_g": here.gauss_newton_trace(probes=100).value}


@pytest.mark.parametrize("kind", ["1", "10", "convolutional"])
def test_all_samples_and_all_outputs_give_the_exact_alignment(kind):
    here = point(kind, 40)
    found = here.noise.sampled_alignment(samples=40, probes=10)
    for name, value in exact(here).items():
        assert getattr(found, name).value == pytest.approx(value, rel=2e-5), name
        assert getattr(found, name).error == 0, name
    assert found.loss == pytest.approx(here.loss)
    assert (found.samples, found.of_samples) == (40, 40)


def test_cross_entropy_and_a_loss_that_is_no_name():
    here = at(models.mlp((8, 5, 3), 1), "cross-entropy", (flat(30, 1).inputs, torch.arange(30) % 3))
    assert here.noise.sampled_alignment(30, 3).mu.value == pytest.approx(here.noise.alignment().mu, rel=1e-4)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    here = at(models.mlp((8, 5, 3), 1), loss, (flat(30, 1).inputs, torch.arange(30) % 3))
    assert here.noise.sampled_alignment(30, 3).mu.value == pytest.approx(here.noise.alignment().mu, rel=1e-4)
    with pytest.raises(ValueError, match="take all"):
        here.noise.sampled_alignment(20)


def test_the_means_over_all_draws_and_all_signs_are_those_of_the_data_set():
    """Every choice of 3 of 4 samples, and every pair of sign vectors of each: nothing is left to chance."""
    n, m, columns = 4, 3, 2
    here = at(models.mlp((3, 3, 2), 1, dtype=torch.float64), "square", small(n))
    passed = here.passed
    rows, gradients = passed.sample_roots().numpy(), passed.sample_gradients().numpy()
    centred = gradients - gradients.mean(0)
    g = np.einsum("icp,icq->pq", rows, rows) / n
    sigma = centred.T @ centred / n
    wanted = [np.sum(g**2), np.trace(sigma @ g), np.sum(sigma**2), np.trace(g), np.trace(sigma)]
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=2 * columns))).reshape(-1, 2, columns)
    total, count = 0.0, 0
    for chosen in itertools.combinations(range(n), m):
        own = (np.tile(centred[i], (len(signs), 1, 1)) for i in chosen)
        vectors = [np.concatenate([a, signs @ rows[i]], 1) for a, i in zip(own, chosen, strict=True)]
        for drawn in itertools.product(range(len(signs)), repeat=m):
            v = np.stack([each[k] for each, k in zip(vectors, drawn, strict=True)])
            total += sampled._summed(np.einsum("icp,jdp->icjd", v, v), n, False)[0]
            count += 1
    np.testing.assert_allclose(total / count, wanted, rtol=1e-10)


def small(n):
    generator = torch.Generator().manual_seed(5)
    shapes = (n, 3), (n, 2)
    return Data(*(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes))


def test_products_are_those_of_the_centred_gradients_and_signed_roots():
    here = at(models.mlp((3, 3, 2), 1, dtype=torch.float64), "square", small(9))
    few = at(models.mlp((3, 3, 2), 1, dtype=torch.float64), "square", small(9), samples=4)
    signs = torch.tensor([[[1.0, -1.0], [1.0, 1.0]]], dtype=torch.float64).expand(4, -1, -1)
    found = sampled._centred_products(here.passed, few.passed, signs)
    gradients = few.passed.sample_gradients() - here.gradient()
    rows = torch.cat([gradients[:, None], signs @ few.passed.sample_roots()], 1)
    np.testing.assert_allclose(found, torch.einsum("icp,jdp->icjd", rows, rows), rtol=1e-10, atol=1e-12)


def test_leaving_out_is_the_same_as_never_having_had():
    """The numbers without one sample, and without one of its signs, from products that lack them."""
    rng, n, m, p = np.random.default_rng(0), 20, 9, 3
    v = rng.standard_normal((m, 1 + p, 30))
    products = np.einsum("icp,jdp->icjd", v, v)
    _, without_sample, without_sign = sampled._summed(products.copy(), n, False)
    for i in range(m):
        kept = np.delete(np.arange(m), i)
        expected = sampled._summed(products[np.ix_(kept, range(1 + p), kept, range(1 + p))], n, False)[0]
        np.testing.assert_allclose(without_sample[:, i], expected, rtol=1e-12)
    assert without_sign.shape == (5, m, p)
    assert sampled._summed(products.copy(), n, True)[2].shape == (5, m, 0)
    for k in range(p):  # of sample 2, for ‖G‖²
        others = [1 + j for j in range(p) if j != k]
        inner = np.einsum("cp,jdp->cjd", v[2, others], np.delete(v, 2, 0)[:, 1:])
        rest = np.delete(np.delete(products, 2, 0), 2, 2)[:, 1:, :, 1:]
        pairs = np.square(rest).mean((1, 3))
        off = pairs.sum() - np.trace(pairs) + 2 * np.square(inner).mean((0, 2)).sum()
        own = np.square(products[range(m), 1:, range(m), 1:])
        own = (own.sum((1, 2)) - np.diagonal(own, axis1=1, axis2=2).sum(1)).sum() / (p * (p - 1))
        expected = (1 - 1 / n) * off / (m * (m - 1)) + own / (n * m)
        assert without_sign[0, 2, k] == pytest.approx(expected, rel=1e-12)


DRAWN = [("10", 50, 120), ("10", 120, 120), ("1", 150, 400), ("convolutional", 50, 120)]


@pytest.mark.parametrize(("kind", "samples", "of"), DRAWN)
def test_errors_are_what_they_say(kind, samples, of):
    """100 seeds: standardised deviations from the exact numbers have mean 0 and standard deviation 1."""
    here, seeds = point(kind, of), 100 if kind != "convolutional" else 60
    found = [here.noise.sampled_alignment(samples, seed=seed) for seed in range(seeds)]
    expected = exact(here)
    if kind == "1":
        expected.pop("alpha")  # near its largest value, 1, and so skewed
    for name, value in expected.items():
        pairs = np.array([tuple(getattr(one, name)) for one in found])
        if not pairs[:, 1].any():  # not random where all samples are taken
            assert samples == of
            assert name in ("sigma_norm", "trace_sigma")
            assert np.allclose(pairs[:, 0], value, rtol=1e-4)
            continue
        z = (pairs[:, 0] - value) / pairs[:, 1]
        assert abs(z.mean()) < 4 / seeds**0.5, (name, z.mean())  # ratios and roots: some bias is left
        assert abs(z.std() - 1) < 0.3, (name, z.std())


def test_any_function_of_the_numbers_has_an_error():
    here = point("10")
    found = here.noise.sampled_alignment(60)
    again = here.noise.sampled_alignment(60)
    assert tuple(found.mu) == tuple(again.mu)
    assert "60 of 120 samples" in found.mu.method
    bound = found.bound(0.1, 5)
    assert bound.value == pytest.approx(0.1 * found.g_norm.value * (found.mu.value / 5) ** 0.5, rel=0.02)
    squared = found.of(lambda one: one.trace_sigma_g / (2 * one.loss))  # ‖G‖²μ
    assert 2 * bound.error / bound.value == pytest.approx(squared.error / squared.value, rel=0.05)
    assert found.of(lambda one: one.g_norm / one.g_norm).error == pytest.approx(0, abs=1e-12)
    assert "mu" in repr(found)


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(ValueError, match="samples=7"):
        point("10").noise.sampled_alignment(7)
    with pytest.raises(ValueError, match="data: 7 samples"):
        point("10", 7).noise.sampled_alignment()
    with pytest.raises(ValueError, match="at most"):
        sampled.sampled_alignment(point("1", 9000), samples=9000)
    fitted = nn.Linear(8, 1)
    with torch.no_grad():
        fitted.weight.zero_(), fitted.bias.zero_()
    with pytest.raises(ValueError, match="must be positive"):
        at(fitted, "square", (flat(20, 1).inputs, torch.zeros(20, 1))).noise.sampled_alignment()


@pytest.mark.parametrize("kind", ["10", "convolutional"])
def test_batch_sharpness_is_that_of_the_linearised_network(kind):
    here = point(kind, 30)
    tangent = stability.tangent(here)
    expected = sharpness.batch_sharpness(tangent.minimum, tangent.residuals, 5, draws=4000)
    found = here.batch_sharpness(5, 400, matrix="gauss-newton")
    assert abs(found.value - expected.value) < 4 * (found.error**2 + expected.error**2) ** 0.5
    assert found.n == 400
    assert found.error < 0.1 * found.value


def test_batch_sharpness_of_the_hessian():
    here = point("10", 12)
    gradient, hessian = here.gradient(), here.hessian()
    expected = gradient @ hessian @ gradient / (gradient @ gradient)
    found = here.batch_sharpness(12, 2)
    assert found.value == pytest.approx(float(expected), rel=1e-4)
    assert found.error < 1e-4 * found.value
    every = [here.first(12).batch_sharpness(1, 300, sampling=how).value for how in ("epoch", "replacement")]
    assert every[0] == pytest.approx(every[1], rel=0.2)


def test_batches_without_a_gradient_are_left_out_and_none_is_refused():
    model = nn.Linear(8, 1)
    with torch.no_grad():
        model.weight.zero_(), model.bias.zero_()
    targets = torch.zeros(20, 1)
    with pytest.raises(ValueError, match="have a gradient"):
        at(model, "square", (flat(20, 1).inputs, targets)).batch_sharpness(1, 10)
    targets[:10] = 1
    here = at(model, "square", (flat(20, 1).inputs, targets))
    found = here.batch_sharpness(1, 40, sampling="epoch")
    assert found.n == here.batch_sharpness(1, 40).n  # an epoch's batches are drawn as fresh ones
    assert 8 <= found.n <= 32  # of 40, half of them without a gradient
