"""Every derivative of the fast pass against torch.func, on small networks in float64."""

import pytest
import torch
from torch.func import functional_call, hessian, jacrev

from flatmin.networks import losses, models, parameters
from flatmin.networks.data.sets import Data
from flatmin.networks.passes.dense import DensePass
from flatmin.networks.passes.generic import AutogradPass
from flatmin.networks.point import at


def reference(model, data, loss):
    """Mean loss, its Hessian, per-sample gradients and Gauss–Newton matrix through torch.func."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    kind = losses.of(loss)

    def outputs(theta):
        parts = theta.split([s.numel() for s in shapes])
        named = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return functional_call(model, named, (data.inputs,))

    def values(theta):
        f = outputs(theta)
        if loss == "square":
            return 0.5 * (f - data.targets).square().sum(1)
        return torch.nn.functional.cross_entropy(f, data.targets, reduction="none")

    theta = parameters.vector(model)
    dense = hessian(lambda t: values(t).mean())(theta)
    jacobian = jacrev(outputs)(theta)
    f = outputs(theta)
    inner = torch.stack(
        [hessian(lambda one, i=i: kind(one[None], data.targets[i : i + 1]))(f[i]) for i in range(len(f))]
    )
    gauss_newton = torch.einsum("icp,icd,idq->pq", jacobian, inner, jacobian) / len(f)
    return values(theta), dense, jacrev(values)(theta), gauss_newton


def generic(model, loss, data, chunk=None):
    """The pass through autograd, also of a network that the fast pass reads."""
    here = at(model, loss, data)
    return AutogradPass(here.network, here.data, here.loss_function, chunk)


def test_every_derivative_matches_torch_func(case):
    model, data, loss = case
    values, dense, per_sample, gauss_newton = reference(model, data, loss)
    unit = torch.eye(len(dense), dtype=torch.float64)
    passes = [at(model, loss, data).passed]
    assert isinstance(passes[0], DensePass)
    passes += [generic(model, loss, data), generic(model, loss, data, chunk=4)]
    for passed in passes:
        torch.testing.assert_close(passed.losses, values)
        torch.testing.assert_close(passed.gradient(), per_sample.mean(0))
        torch.testing.assert_close(passed.sample_gradients(), per_sample)
        torch.testing.assert_close(passed.hessian_product(unit), dense)
        torch.testing.assert_close(passed.gauss_newton_product(unit), gauss_newton)
        roots = passed.sample_roots().flatten(0, 1)
        torch.testing.assert_close(roots.T @ roots / len(data), gauss_newton)


def test_dense_hessian_matches_torch_func(case):
    model, data, loss = case
    _, dense, _, _ = reference(model, data, loss)
    torch.testing.assert_close(at(model, loss, data).hessian(), dense)


@pytest.mark.parametrize("layer", [1, 2, 4, "3.bias"])
def test_one_layer_is_a_block_of_the_whole(small, layer):
    model, data = small("tanh", "cross-entropy")
    block = parameters.block_of(parameters.trainable(model), layer)
    whole = at(model, "cross-entropy", data).hessian()
    part = at(model, "cross-entropy", data).hessian(layer)
    torch.testing.assert_close(part, whole[block, block])


def test_covariance_is_that_of_the_per_sample_gradients(case):
    model, data, loss = case
    _, _, per_sample, _ = reference(model, data, loss)
    sigma = torch.cov(per_sample.T, correction=0)
    torch.testing.assert_close(at(model, loss, data).noise.covariance(1), sigma)
    torch.testing.assert_close(at(model, loss, data).noise.covariance(5, sampling="replacement"), sigma / 5)
    torch.testing.assert_close(at(model, loss, data).noise.covariance(5), sigma / 5 * (25 - 5) / (25 - 1))


def test_covariance_without_replacement_is_exact_over_all_batches(small):
    """Enumerate all 15 batches of 2 of 6 samples: their gradients have the covariance of M22 Eq. 8."""
    model, data = small("relu", "square", samples=6)
    gradients = at(model, "square", data).passed.sample_gradients()
    drawn = torch.combinations(torch.arange(6), 2)
    of_batches = gradients[drawn].mean(1)
    expected = torch.cov(of_batches.T, correction=0)
    torch.testing.assert_close(at(model, "square", data).noise.covariance(2), expected)


def test_noise_in_the_hessian_basis_is_the_diagonal_of_the_turned_covariance(case):
    model, data, loss = case
    basis = at(model, loss, data).noise.in_hessian_basis(5)
    noise = at(model, loss, data).noise.covariance(5)
    dense = at(model, loss, data).hessian()
    turned = basis.vectors.T @ noise @ basis.vectors
    torch.testing.assert_close(basis.noise, turned.diagonal(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(basis.vectors.T @ dense @ basis.vectors, basis.curvature.diag())
    assert (basis.curvature.diff() <= 0).all()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda here: here.noise.covariance(0), "batch_size=0: must be an integer at least 1"),
        (lambda here: here.noise.covariance(26), "batch_size=26.*at most 25"),
        (lambda here: here.noise.covariance(layer=5), "layer=5: must be an integer at least 1 and at most 4"),
        (lambda here: here.noise.covariance(layer="no"), "layer='no': must be one of"),
        (lambda here: here.noise.covariance(sampling="subset"), "sampling='subset': must be one of"),
    ],
)
def test_bad_arguments_are_named(small, call, word):
    model, data = small("relu", "cross-entropy")
    with pytest.raises(ValueError, match=word):
        call(at(model, "cross-entropy", data))


@pytest.mark.parametrize(
    ("targets", "outputs", "loss", "word"),
    [
        (torch.tensor([0, 3]), 3, "cross-entropy", "0…2"),
        (torch.zeros(2, 3), 3, "cross-entropy", "integer labels"),
        (torch.zeros(2, 2), 3, "square", "2"),
        (torch.tensor([0, 1]), 1, "square", "one output"),
        (torch.tensor([0, 5]), 3, "square", "labels must lie in 0…2"),
    ],
)
def test_targets_that_do_not_fit_the_loss_are_refused(targets, outputs, loss, word):
    model = models.mlp((4, outputs))
    with pytest.raises(ValueError, match=word):
        at(model, loss, Data(torch.zeros(2, 4), targets))
