"""Every derivative of the fast pass against torch.func, on small networks in float64."""

import pytest
import torch
from torch.func import functional_call, hessian, jacrev

from flatmin.networks import curvature, gradient_noise, losses, models, parameters
from flatmin.networks.data.sets import Data
from flatmin.networks.passes.dense import DensePass
from flatmin.networks.passes.generic import AutogradPass, linearise


def reference(model, data, loss):
    """Mean loss, its Hessian, per-sample gradients and Gauss–Newton matrix through torch.func."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    kind = losses.by_name(loss)

    def outputs(theta):
        parts = theta.split([s.numel() for s in shapes])
        named = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return functional_call(model, named, (data.inputs,))

    def values(theta):
        f = outputs(theta)
        if loss == "square":
            return 0.5 * (f - data.targets).square().sum(1)
        return torch.nn.functional.cross_entropy(f, data.targets, reduction="none")

    theta = parameters.flat(model)
    dense = hessian(lambda t: values(t).mean())(theta)
    jacobian = jacrev(outputs)(theta)
    f = outputs(theta)
    inner = torch.stack(
        [
            hessian(lambda one, i=i: kind.values(one[None], data.targets[i : i + 1])[0])(f[i])
            for i in range(len(f))
        ]
    )
    gauss_newton = torch.einsum("icp,icd,idq->pq", jacobian, inner, jacobian) / len(f)
    return values(theta), dense, jacrev(values)(theta), gauss_newton


def test_every_derivative_matches_torch_func(case):
    model, data, loss = case
    values, dense, per_sample, gauss_newton = reference(model, data, loss)
    unit = torch.eye(len(dense), dtype=torch.float64)
    passes = [linearise(model, data, loss)]
    assert isinstance(passes[0], DensePass)
    passes.append(AutogradPass(model, data.inputs, data.targets, losses.by_name(loss)))
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
    torch.testing.assert_close(curvature.hessian(model, data, loss), dense)


@pytest.mark.parametrize("layer", [1, 2, 4, "3.bias"])
def test_one_layer_is_a_block_of_the_whole(small, layer):
    model, data = small("tanh", "cross-entropy")
    block = parameters.parameter_slice(model, layer)
    whole = curvature.hessian(model, data, "cross-entropy")
    part = curvature.hessian(model, data, "cross-entropy", layer)
    torch.testing.assert_close(part, whole[block, block])


def test_covariance_is_that_of_the_per_sample_gradients(case):
    model, data, loss = case
    _, _, per_sample, _ = reference(model, data, loss)
    sigma = torch.cov(per_sample.T, correction=0)
    torch.testing.assert_close(gradient_noise.covariance(model, data, loss, 1), sigma)
    torch.testing.assert_close(gradient_noise.covariance(model, data, loss, 5, replacement=True), sigma / 5)
    torch.testing.assert_close(
        gradient_noise.covariance(model, data, loss, 5), sigma / 5 * (25 - 5) / (25 - 1)
    )


def test_covariance_without_replacement_is_exact_over_all_batches(small):
    """Enumerate all 15 batches of 2 of 6 samples: their gradients have the covariance of M22 Eq. 8."""
    model, data = small("relu", "square", samples=6)
    gradients = linearise(model, data, "square").sample_gradients()
    drawn = torch.combinations(torch.arange(6), 2)
    of_batches = gradients[drawn].mean(1)
    expected = torch.cov(of_batches.T, correction=0)
    torch.testing.assert_close(gradient_noise.covariance(model, data, "square", 2), expected)


def test_noise_in_the_hessian_basis_is_the_diagonal_of_the_turned_covariance(case):
    model, data, loss = case
    basis = gradient_noise.in_hessian_basis(model, data, loss, 5)
    noise = gradient_noise.covariance(model, data, loss, 5)
    dense = curvature.hessian(model, data, loss)
    turned = basis.vectors.T @ noise @ basis.vectors
    torch.testing.assert_close(basis.noise, turned.diagonal(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(basis.vectors.T @ dense @ basis.vectors, basis.curvature.diag())
    assert (basis.curvature.diff() <= 0).all()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"batch_size": 0}, "batch_size must be 1…25, got 0"),
        ({"batch_size": 26}, "batch_size must be 1…25, got 26"),
        ({"layer": 5}, "layer must be 1…4, got 5"),
        ({"layer": "no"}, "layer must be one of"),
        ({"loss": "hinge"}, "loss must be one of"),
    ],
)
def test_bad_arguments_are_named(small, arguments, word):
    model, data = small("relu", "cross-entropy")
    with pytest.raises(ValueError, match=word):
        gradient_noise.covariance(**{"model": model, "data": data, "loss": "cross-entropy"} | arguments)


@pytest.mark.parametrize(
    ("targets", "outputs", "loss", "word"),
    [
        (torch.tensor([0, 3]), 3, "cross-entropy", "labels run to 3"),
        (torch.zeros(2, 3), 3, "cross-entropy", "integer labels"),
        (torch.zeros(2, 2), 3, "square", "2 columns"),
        (torch.tensor([0, 1]), 1, "square", "one output"),
        (torch.tensor([0, 5]), 3, "square", "labels must lie in 0…2"),
    ],
)
def test_targets_that_do_not_fit_the_loss_are_refused(targets, outputs, loss, word):
    model = models.mlp((4, outputs))
    with pytest.raises(ValueError, match=word):
        linearise(model, Data(torch.zeros(2, 4), targets), loss)
