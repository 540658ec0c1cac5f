"""Networks of every kind through the door, against double backward; what cannot be measured is refused."""

import copy
import functools
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import zoo
from torch import nn

from flatmin.networks import models
from flatmin.networks.point import at
from flatmin.theory.stability import threshold
from flatmin.theory.stability.minimum import Minimum

EPS = torch.finfo(torch.float64).eps


def close(found, expected, factor=1e5):
    """Equal but for rounding, in units of the largest entry."""
    scale = max(float(expected.abs().max()), 1e-12)
    assert float((found - expected).abs().max()) <= factor * EPS * scale


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_a_network_of_any_kind_is_measured_right(name):
    model, inputs, targets, loss, (mean, gradient, samples, hessian) = derivatives(name)
    here = at(model, loss, (inputs, targets))
    assert here.loss == pytest.approx(float(mean), rel=1e-12)
    close(here.gradient(), gradient)
    close(here.passed.sample_gradients().cpu(), samples)
    close(here.passed.hessian_product(torch.eye(here.parameters, dtype=here.dtype)), hessian)
    strength = (samples - samples.mean(0)).square().sum(1).mean()
    assert here.noise.strength().value == pytest.approx(float(strength), rel=1e-9)
    close(here.noise.covariance(), torch.cov(samples.T, correction=0))
    values = torch.linalg.eigvalsh(hessian).flip(0)
    close(here.eigenpairs(3, tolerance=1e-6).values.double(), values[:3], 1e8)


@functools.cache
def derivatives(name):
    """Model, data and loss of the zoo with the derivatives by plain backward passes."""
    model, inputs, targets, loss, plain = zoo.problem(name)
    return model, inputs, targets, loss, zoo.reference(model, inputs, targets, plain)


MEASURED = [
    "mlp", "mlp, smooth", "lenet", "groupnorm resnet", "transformer", "lstm", "tied autoencoder", "pruned",
    "frozen", "dict inputs", "vision transformer", "packed gru", "weight norm", "padding", "several labels",
]  # fmt: skip


@pytest.mark.parametrize("name", MEASURED)
def test_every_measure_of_the_curvature_is_that_of_the_dense_hessian(name):
    model, inputs, targets, loss, (_, _, _, hessian) = derivatives(name)
    here = at(model, loss, (inputs, targets))
    everything = {"probes": here.parameters}  # as many products as columns: exact for every network
    assert here.trace(**everything).value == pytest.approx(float(hessian.trace()), rel=1e-9, abs=1e-12)
    assert here.frobenius_norm(**everything).value == pytest.approx(float(hessian.norm()), rel=1e-9)
    close(torch.from_numpy(here.diagonal(**everything).value), hessian.diagonal())
    guess, error = here.trace()
    assert abs(guess - float(hessian.trace())) <= 5 * error + 1e-9 * float(hessian.norm())
    density = here.spectral_density(steps=4, probes=12)
    for power in (1, 2):
        moment = density.moment(power)
        expected = float(torch.linalg.eigvalsh(hessian).pow(power).mean())
        assert abs(moment.value - expected) <= 6 * moment.error
    close(here.hessian(), hessian)
    smallest = here.eigenpairs(2, which="smallest", tolerance=1e-6).values
    scale = float(torch.linalg.eigvalsh(hessian).abs().max())
    assert float((smallest - torch.linalg.eigvalsh(hessian)[:2]).abs().max()) <= 1e-6 * scale


@pytest.mark.parametrize("name", MEASURED)
def test_flatness_by_every_definition_and_layer_is_that_of_the_dense_block(name):
    model, inputs, targets, loss, (_, _, _, hessian) = derivatives(name)
    here = at(model, loss, (inputs, targets))
    layer = max(here.names, key=lambda name: here.block(name).stop - here.block(name).start)
    for where in (None, layer):
        block = here.block(where)
        dense = hessian[block, block]
        values = torch.linalg.eigvalsh(dense).flip(0)
        expected = {
            "Y26": float(values[:2].log().mean().mul(-1).exp()),
            "Y23": float(values[:2].log().mean().mul(-0.5).exp()),
            "Y22": float(values[0] ** -0.5),
            "M22": float(1 / values[0]),
        }
        for definition, value in expected.items():
            found = here.flatness(definition, layer=where, top=2)
            assert found.value == pytest.approx(value, rel=1e-6), definition
        for definition, value in {"W22-trace": dense.trace(), "W22-frobenius": dense.norm()}.items():
            if value <= 0:
                with pytest.raises(ValueError, match="must be positive"):
                    here.flatness(definition, layer=where)
                continue
            found = here.flatness(definition, layer=where)
            assert abs(found.value - 1 / float(value)) <= 6 * found.error + 1e-9 / float(value)


@pytest.mark.parametrize("name", MEASURED)
def test_the_edge_is_that_of_dense_rows(name):
    """The exact operator on rows by plain autograd, of any root of ∂²ℓ/∂f²."""
    model, inputs, targets, loss, plain = zoo.problem(name)
    few = 4
    rows = zoo.output_rows(model, inputs, targets, plain, few)
    gauss_newton = rows.flatten(0, 1).T @ rows.flatten(0, 1) / few
    here = at(model, loss, (inputs, targets)).first(few)
    close(here.gauss_newton(), gauss_newton)
    flat = rows.flatten(0, 1).numpy()
    minimum = Minimum.from_gram(flat @ flat.T, rows.shape[1])
    eta = 0.1
    for batch_size, sampling in ((1, "fresh"), (2, "replacement")):
        step = threshold.largest_step(minimum, batch_size, sampling)
        assert here.largest_step(batch_size, sampling) == pytest.approx(step, rel=1e-6)
        assert here.edge(eta, batch_size, sampling).exact == pytest.approx(eta / step, rel=1e-6)
    largest = float(torch.linalg.eigvalsh(gauss_newton)[-1])
    assert here.edge(eta, 1).descent == pytest.approx(eta * largest / 2, rel=1e-9)


@pytest.mark.parametrize("name", MEASURED)
def test_the_noise_is_that_of_dense_gradients(name):
    model, inputs, targets, loss, (_, _, samples, hessian) = derivatives(name)
    here = at(model, loss, (inputs, targets))
    n, sigma = len(samples), torch.cov(samples.T, correction=0)
    for sampling, factor in {
        "fresh": (n - 4) / (n - 1) / 4,
        "epoch": (n - 4) / (n - 1) / 4,
        "replacement": 0.25,
    }.items():
        close(here.noise.covariance(batch_size=4, sampling=sampling), factor * sigma)
    block = here.block(here.names[0])
    close(here.noise.covariance(layer=here.names[0]), sigma[block, block])
    values, vectors = torch.linalg.eigh(hessian)
    leading = values > 0.1 * values[-1]
    along = (vectors.T @ sigma @ vectors).diagonal()[leading].log()
    logs = values[leading].log()
    expected = float(((logs - logs.mean()) * along).sum() / (logs - logs.mean()).square().sum())
    found = here.noise.exponent(window=0.1)
    assert found.points == int(leading.sum())
    # eigenvectors of a chain are known to tolerance/gap: to a percent of the noise along them
    assert found.value == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    "name", ["lenet", "transformer", "lstm", "pruned", "dict inputs", "batchnorm in eval"]
)
def test_chunks_of_samples_change_nothing_but_rounding(name):
    model, inputs, targets, loss, _ = zoo.problem(name)
    whole, parts = (at(model, loss, (inputs, targets), chunk=chunk) for chunk in (None, 5))
    v = torch.randn(2, whole.parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for measure in (
        lambda p: p.gradient(),
        lambda p: p.hessian_product(v),
        lambda p: p.gauss_newton_product(v),
        lambda p: p.output_derivatives(v),
        lambda p: p.pulled_squares(p.output_gradients),
    ):
        close(measure(parts.passed), measure(whole.passed))


@pytest.mark.parametrize("name", ["mlp", "lenet", "transformer", "lstm"])
def test_derivatives_along_directions_are_those_of_the_outputs(name):
    """J v by double backward (or by hand) against a finite difference of the outputs."""
    model, inputs, targets, loss, _ = zoo.problem(name)
    here = at(model, loss, (inputs, targets))
    v = torch.randn(here.parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = here.passed.output_derivatives(v[None])[:, 0]
    step, theta = 1e-6, here.theta
    ends = []
    for sign in (1, -1):
        here.network.load(theta + sign * step * v)
        with torch.no_grad():
            ends.append(here.network.matrix(here.data.inputs))
    torch.testing.assert_close(found, (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "dict inputs"])
def test_data_of_every_form_are_the_same_samples(name):
    model, inputs, targets, loss, _ = zoo.problem(name)
    expected = at(model, loss, (inputs, targets)).gradient()
    for form, data in zoo.forms(inputs, targets).items():
        torch.testing.assert_close(at(model, loss, data).gradient(), expected, msg=form)


def test_outputs_in_a_tuple_go_through_forward():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(3, 2, batch_first=True)

        def forward(self, x):
            return self.lstm(x)

    model, x = Pair(), torch.randn(6, 4, 3)
    data = x, torch.zeros(6, 2)
    with pytest.raises(ValueError, match="model returned tuple of 2: must return one tensor; give forward="):
        at(model, "square", data)
    here = at(model, "square", data, forward=lambda model, x: model(x)[0][:, -1])
    assert here.loss == pytest.approx(
        0.5 * float(model(x)[0][:, -1].detach().square().sum(1).mean()), rel=1e-5
    )
    assert here.noise.strength().value > 0


def state_of(model):
    """All that may not change: tensors, gradients, modes, hooks, attributes, random states and flags."""
    return {
        "tensors": {k: v.clone() for k, v in model.state_dict().items()},
        "gradients": [p.grad for p in model.parameters()],
        "modes": [m.training for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "hooks": [
            [len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)]
            for m in model.modules()
        ],
        "random": (torch.random.get_rng_state(), np.random.get_state()[1], random.getstate()),  # noqa: NPY002
        "flags": (
            torch.get_float32_matmul_precision(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cuda.flash_sdp_enabled(),
            torch.is_grad_enabled(),
        ),
    }


def same(one, other):
    if isinstance(one, dict):
        return all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, (torch.Tensor, np.ndarray)):
        return bool((torch.as_tensor(one) == torch.as_tensor(other)).all())
    return one == other


@pytest.mark.parametrize(
    "name", ["batchnorm in eval", "transformer", "pruned", "module in two places", "lstm"]
)
def test_measuring_leaves_no_trace(name):
    model, inputs, targets, loss, _ = zoo.problem(name)
    seen = []
    handle = next(iter(model.children())).register_forward_hook(lambda *_: seen.append(1))
    before = state_of(model)
    here = at(
        model, loss, torch.utils.data.DataLoader(list(zip(inputs, targets, strict=True)), shuffle=False)
    )
    here.eigenpairs(2), here.noise.strength(), here.trace(), here.noise.covariance()
    assert same(before, state_of(model))
    handle.remove()
    zoo.call(model, inputs)  # and the model works as before


def test_training_the_model_does_not_move_the_point():
    model, inputs, targets, loss, _ = zoo.problem("mlp")
    here = at(model, loss, (inputs, targets))
    before = here.gradient()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    torch.testing.assert_close(at(here.network.module, loss, (inputs, targets)).gradient(), before)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["mlp", "lenet"])
def test_autograd_switched_off_around_the_call_changes_nothing(name, context):
    model, inputs, targets, loss, _ = zoo.problem(name)
    expected = at(model, loss, (inputs, targets))
    with context():
        found = at(model, loss, (inputs, targets))
        torch.testing.assert_close(found.gradient(), expected.gradient())
        assert found.eigenpairs(2).values[0] == pytest.approx(float(expected.eigenpairs(2).values[0]))
        assert found.noise.strength().value == pytest.approx(expected.noise.strength().value)


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x) + 0.1 * torch.randn(len(x), 3)


class Coupled(nn.Module):
    """Its outputs are those of the batch, centred."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        out = self.layer(x)
        return out - out.mean(0)


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(context, top):
        return 3 * context.saved_tensors[0] * top  # the derivative is 2 x


class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return WrongBackward.apply(self.layer(x))


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, top):
        return 2 * context.saved_tensors[0] * top


class Once(Wrong):
    def forward(self, x):
        return OnceDifferentiable.apply(self.layer(x))


class Detached(nn.Module):
    """Half of its dependence on the parameters is hidden from autograd."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        out = self.layer(x)
        return out * out.detach()


class Layers(nn.Module):
    """Two layers; what a subclass does between them is what cannot be measured."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 4), nn.Linear(4, 3)

    def between(self, z):
        return z

    def forward(self, x):
        return self.outer(self.between(self.inner(x)).tanh())


class RarelyRandom(Layers):
    """So rarely that two calls agree."""

    def between(self, z):
        return nn.functional.dropout(z, 1e-4, training=True)


class BatchStatistics(Layers):
    def between(self, z):
        return nn.functional.batch_norm(z, None, None, training=True)


class ManyCoupled(Layers):
    """Samples meet only in batches of more than the first few."""

    def between(self, z):
        return z + z.roll(7, 0) if len(z) > 7 else z


class HiddenInner(Layers):
    def between(self, z):
        return z.detach()


class InnerWithoutGradients(Layers):
    def forward(self, x):
        with torch.no_grad():
            z = self.inner(x)
        return self.outer(z.tanh())


class WithoutGradients(Layers):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class Constant(Layers):
    def forward(self, x):
        return torch.zeros(len(x), 3)


class KeepsItsWeights(Layers):
    """Computes a function of its weights at the first call only, as some do in evaluation mode."""

    kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = nn.functional.normalize(self.inner.weight, dim=1)
        return self.outer((x @ self.kept.T).tanh())


def called_before():
    model = KeepsItsWeights()
    model(torch.zeros(1, 6))
    return model


class Half(Layers):
    def forward(self, x):
        return super().forward(x).bfloat16()


class Rounded(Layers):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(x).float()


class OnSequences(nn.Module):
    """Takes the batch for the sequence."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 3)

    def forward(self, x):
        return self.lstm(x[:, None])[0][:, 0]


class Compiled(Layers):
    """What torch.compile leaves in a module."""

    def __init__(self):
        super().__init__()
        self.inner._orig_mod = nn.Linear(6, 4)


def embedded(**options):
    return nn.Sequential(nn.Embedding(7, 3, **options), nn.Flatten(), nn.Linear(15, 3))


def nan_parameter():
    model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    return model


REFUSED = {
    "random": (Random, "check 'same twice': differs by .*dropout"),
    "coupled": (Coupled, "check 'samples apart': differs by .*batch norm"),
    "wrong backward": (Wrong, "check '(symmetry|finite difference)': differs by .*custom backward"),
    "detached": (Detached, "check '(symmetry|finite difference)': differs by .*detach"),
    "once differentiable": (Once, "operation without a second derivative|check 'finite difference'"),
    "NaN": (nan_parameter, "parameter weight holds NaN"),
    "half": (lambda: nn.Linear(6, 3).half(), "derivatives would be noise"),
    "bfloat16": (lambda: nn.Linear(6, 3).bfloat16(), "derivatives would be noise"),
    "complex": (lambda: nn.Linear(6, 3).to(torch.complex64), "must be dense and real"),
    "frozen": (lambda: nn.Linear(6, 3).requires_grad_(False), "must have trainable parameters"),
    "lazy": (lambda: nn.LazyLinear(3), "lazy parameters"),
    "scripted": (lambda: torch.jit.script(nn.Linear(6, 3)), "compiled or scripted"),
    "no module": (lambda: "linear", "must be a torch.nn.Module"),
    "rarely random": (RarelyRandom, "check 'same twice': the model draws random numbers"),
    "statistics of the batch": (BatchStatistics, "check 'samples apart': differs by"),
    "no running statistics": (
        lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, track_running_stats=False)),
        r"1 \(BatchNorm1d\) keeps no running statistics",
    ),
    "coupled in large batches": (ManyCoupled, "check 'samples apart': differs by"),
    "batch taken for sequence": (OnSequences, "check 'samples apart': .*batch_first"),
    "frozen by detach": (HiddenInner, "check 'finite difference': .*requires_grad_"),
    "frozen by no_grad": (InnerWithoutGradients, "check 'finite difference': .*requires_grad_"),
    "under no_grad": (WithoutGradients, "outputs do not depend on its parameters"),
    "constant": (Constant, "outputs do not depend on its parameters"),
    "a cache": (KeepsItsWeights, "check 'follows parameters': differs by .*cache"),
    "a cache from before": (called_before, "kept from an earlier call"),
    "outputs in bfloat16": (Half, "model returned a tensor of torch.bfloat16 .*autocast"),
    "autocast inside": (Rounded, "check 'gradient': .*autocast"),
    "compiled inside": (Compiled, "inner must not be compiled"),
    "on no device": (lambda: nn.Linear(6, 3, device="meta"), "on the device 'meta'"),
    "embedding renormalised": (lambda: embedded(max_norm=1.0), "has max_norm=1.0"),
    "gradients by frequency": (lambda: embedded(scale_grad_by_freq=True), "has scale_grad_by_freq=True"),
    "sums over tokens": (
        lambda: nn.Sequential(nn.Linear(6, 3), nn.Flatten(0)),
        "samples along its first axis",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_right_is_refused(name):
    make, words = REFUSED[name]
    data = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(8, 3)
    with pytest.raises(ValueError, match=words):
        at(make(), "square", data)


@pytest.mark.parametrize("name", ["mlp", "lenet"])
@pytest.mark.parametrize(
    ("quantity", "check"),
    [
        ("losses", "loss"),
        ("gradient", "gradient"),
        ("sample_gradients", "sample gradients"),
        ("pulled_squares", "sample gradients"),
        ("hessian_product", "product|finite difference"),
    ],
)
def test_a_pass_that_is_wrong_by_a_millionth_or_a_product_by_a_twentieth_is_found(
    monkeypatch, name, quantity, check
):
    """Each quantity of the pass is checked against another route; the plain product by differences only."""
    kind, factor = (
        type(at(*_model_loss_data(name)).passed),
        1.05 if quantity == "hessian_product" else 1 + 1e-6,
    )
    right = vars(kind)[quantity]
    if isinstance(right, functools.cached_property):
        wrong = property(lambda self: factor * right.func(self))
    else:
        wrong = lambda self, *arguments: factor * right(self, *arguments)  # noqa: E731
    monkeypatch.setattr(kind, quantity, wrong)
    with pytest.raises(ValueError, match=f"check '({check})': differs by"):
        at(*_model_loss_data(name))


def _model_loss_data(name):
    model, inputs, targets, loss, _ = zoo.problem(name)
    return model, loss, (inputs, targets)


def test_outputs_that_are_all_equal_are_no_fault_of_the_network():
    """Each sample's gradient of the cross-entropy cancels: to rounding of its terms, not of itself."""
    generator = torch.Generator().manual_seed(0)
    model, x = zoo.Alike(), torch.randn(8, 6, generator=generator)
    for dtype in (torch.float32, torch.float64):
        here = at(model, "cross-entropy", (x, torch.arange(8) % 3), dtype=dtype)
        assert float(here.gradient().abs().max()) <= 100 * torch.finfo(dtype).eps * float(x.abs().max())


def test_a_perfect_fit_is_measured():
    model, x = zoo.problem("lenet")[:2]
    rounded = model.eval()(x).detach() * (1 + EPS)  # residuals of rounding
    here = at(model, "square", (x, rounded))
    assert here.loss < 1e-28
    assert here.eigenpairs(1).values[0] > 0.1
    for measure in (
        here.noise.exponent,
        lambda: at(model, "square", (x, model(x).detach())).noise.alignment(),
    ):
        with pytest.raises(ValueError, match=r"vanishes|must be positive"):
            measure()


def test_numbers_beyond_the_range_of_the_type_say_so():
    with pytest.raises(ValueError, match=r"overflow torch.float32: .*float64"):
        at(models.mlp((6, 4, 3), activation="tanh"), "cross-entropy", (1e30 * X, torch.arange(8) % 3))
    with pytest.raises(ValueError, match="must be finite"):
        at(Layers(), "square", (X, 1e30 * Y + 1e30))


def test_autocast_around_the_call_changes_nothing():
    expected = at(zoo.LeNet(), "cross-entropy", zoo.problem("lenet")[1:3], dtype="float32")
    model, data = expected.network.module, zoo.problem("lenet")[1:3]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = at(model, "cross-entropy", data, dtype="float32")
        torch.testing.assert_close(found.gradient(), expected.gradient())
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)


def test_sparse_gradients_of_an_embedding_are_those_of_a_dense_one():
    tokens, labels = zoo.problem("transformer")[1:3]
    dense = embedded().double()
    sparse = embedded(sparse=True).double()
    sparse.load_state_dict(dense.state_dict())
    one, other = (at(model, "cross-entropy", (tokens, labels)) for model in (dense, sparse))
    close(other.hessian(), one.hessian())
    assert sparse[0].sparse


def test_outputs_more_precise_than_the_parameters_come_in_their_type():
    class Precise(Layers):
        def forward(self, x):
            return super().forward(x).double()

    torch.manual_seed(0)
    model = Precise()
    here = at(model, "square", (X, Y))
    assert here.gradient().dtype == torch.float32
    assert here.noise.strength().value == pytest.approx(float(here.noise.covariance().trace()), rel=1e-5)


def penalised(model, outputs, targets):
    return (outputs - targets).square().mean() + sum(p.square().sum() for p in model.parameters())


class Penalty(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, outputs, targets):
        return penalised(self.model, outputs, targets)


class Scaled(nn.Module):
    """A loss with a parameter of its own, which stays what it is."""

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, outputs, targets):
        return (outputs - targets).square().mean() * torch.exp(-self.log_scale) + self.log_scale


def test_a_loss_that_looks_at_the_parameters_is_refused():
    model = nn.Linear(6, 3)
    for loss in (functools.partial(penalised, model), Penalty(model)):
        with pytest.raises(ValueError, match="depends on parameters besides the outputs"):
            at(model, loss, (X, Y))
    scaled, plain = at(model, Scaled(), (X, Y)), at(model, nn.MSELoss(), (X, Y))
    torch.testing.assert_close(scaled.gradient(), plain.gradient() * float(np.exp(-0.5)))


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        ("cross-entropy", 3, torch.arange(8, dtype=torch.int32) % 3),
        (nn.CrossEntropyLoss(), 3, torch.arange(8, dtype=torch.uint8) % 3),
        (nn.CrossEntropyLoss(), 3, (np.arange(8) % 3).astype(np.uint16)),
        (nn.BCEWithLogitsLoss(), 3, torch.arange(24).reshape(8, 3) % 2 == 0),
        (nn.BCEWithLogitsLoss(), 3, torch.arange(24).reshape(8, 3) % 2),
        (nn.MSELoss(), 3, torch.arange(24, dtype=torch.uint8).reshape(8, 3)),
    ],
)
def test_targets_of_other_integer_types_are_the_same_numbers(loss, outputs, targets):
    model, by_class = nn.Linear(6, outputs), isinstance(loss, (str, nn.CrossEntropyLoss))
    plain = torch.as_tensor(np.asarray(targets).astype(np.int64 if by_class else np.float32))
    torch.testing.assert_close(
        at(model, loss, (X, targets)).gradient(), at(model, loss, (X, plain)).gradient()
    )


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (
            nn.Linear(6, 3),
            (torch.ones(8, 6, dtype=torch.long), torch.zeros(8, 3)),
            r"does not take the inputs.*int64",
        ),
        (
            nn.Linear(5, 3),
            (torch.ones(8, 6), torch.zeros(8, 3)),
            r"Linear does not take the inputs.*\(6, 6\)",
        ),
        (
            nn.Linear(6, 1),
            (torch.ones(8, 6), torch.zeros(8)),
            r"targets of shape \(6,\) against outputs .*\[:, None\]",
        ),
        (nn.Linear(6, 3), (torch.ones(8, 6), torch.zeros(8, 2)), "targets"),
    ],
)
def test_inputs_and_targets_that_do_not_fit_are_refused_in_a_sentence(model, data, words):
    with pytest.raises(ValueError, match=words):
        at(model, nn.MSELoss(), data)


def test_a_label_out_of_range_is_found_at_the_door_wherever_it_stands():
    labels = torch.zeros(40, dtype=torch.long)
    labels[-1] = 3
    with pytest.raises(ValueError, match="labels run to 3"):
        at(nn.Linear(6, 3), "cross-entropy", (torch.ones(40, 6), labels))


@pytest.mark.parametrize("module", [nn.BatchNorm1d(6), nn.Dropout(0.2)])
def test_training_mode_refuses_what_couples_samples_or_is_random(module):
    model, data = (
        nn.Sequential(nn.Linear(6, 6), module, nn.Linear(6, 3)),
        (torch.randn(8, 6), torch.zeros(8, 3)),
    )
    with pytest.raises(ValueError, match=rf"mode='train': 1 \({type(module).__name__}"):
        at(model, "square", data, mode="train")
    at(model, "square", data)
    assert model.training


X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(8, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"data": (X[:0], Y[:0])}, "no samples"),
        ({"data": (X, Y[:5])}, r"tensors of \[5, 8\] samples"),
        ({"data": (X * torch.inf, Y)}, "data: inputs .* must be finite"),
        ({"data": (X, Y * torch.nan)}, "data: targets .* must be finite"),
        ({"data": (X.to(torch.complex64), Y)}, "data: inputs .*must be dense and real"),
        ({"data": X}, "data"),
        ({"data": 3}, "data=3: must be"),
        ({"data": None}, "data=None: must be"),
        ({"data": {"x": X, "y": Y}}, "targets under one of"),
        ({"loss": "hinge"}, "loss='hinge'"),
        ({"loss": None}, "loss=None"),
        ({"loss": nn.MSELoss(reduction="sum")}, "must be a mean over samples"),
        ({"mode": "test"}, "mode='test': must be one of 'eval', 'train'"),
        ({"device": "abacus"}, "device"),
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"dtype": torch.bfloat16}, "dtype=torch.bfloat16"),
        ({"chunk": 0}, "chunk=0: must be an integer at least 1"),
        ({"samples": 0}, "samples=0: must be an integer at least 1"),
        ({"samples": 2.5}, "samples=2.5"),
        ({"forward": 7}, "forward=7: must be a function"),
    ],
)
def test_a_bad_argument_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        at(**{"model": nn.Linear(6, 3), "loss": "square", "data": (X, Y)} | arguments)


def test_float32_states_how_far_it_is_from_float64():
    model, inputs, targets, loss, _ = zoo.problem("groupnorm resnet")
    here = at(model.float(), loss, (inputs, targets))
    rounding = {check.name: check for check in here.checks}["rounding"]
    assert 0 < rounding.found < 1e-4
    double = here.double()
    assert double.dtype == torch.float64
    error = float((here.gradient() - double.gradient()).norm() / double.gradient().norm())
    assert error < 1e-5


def test_numbers_that_would_be_rounding_noise_are_refused():
    """Phases near 2e6, where neighbours in float32 are 0.12 apart."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))

        def forward(self, x):
            return torch.sin(2e6 + self.layer(x))

    data = X, torch.zeros(8, 1)
    with pytest.raises(ValueError, match=r"check 'rounding': .*float64"):
        at(Shifted(), "square", data)
    assert at(Shifted(), "square", data, dtype="float64").dtype == torch.float64


def test_the_first_samples_of_a_loader_are_enough():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=3)
    assert at(nn.Linear(6, 3), "square", loader, samples=4).samples == 4
    assert at(nn.Linear(6, 3), "square", (X, Y)).first(5).samples == 5


def test_the_point_says_in_a_line_what_it_is():
    text = repr(at(models.mlp((6, 4, 3)), "square", (X, Y)))
    assert len(text) < 160
    assert "\n" not in text
    assert "Sequential of 43 parameters, 8 samples" in text
    assert copy.copy(text) == text


class Pairs(torch.utils.data.Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return self.make(i)


class Streamed(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Table:
    """Columns by name, an array when asked: the manners of pandas."""

    def __len__(self):
        return len(X)

    def __getitem__(self, name):
        raise KeyError(name)

    def __array__(self, dtype=None, copy=None):
        return X.numpy()


def _loader(data, **options):
    return torch.utils.data.DataLoader(data, batch_size=3, **options)


BACKWARDS = X.flip(0).numpy()[::-1]
SAME = {
    "lists": lambda: (X.tolist(), Y.tolist()),
    "list of pairs": lambda: list(zip(X, Y, strict=True)),
    "list of dicts": lambda: [{"input": x, "labels": y} for x, y in zip(X, Y, strict=True)],
    "items of lists": lambda: Pairs(lambda i: (X[i].tolist(), Y[i].tolist())),
    "items of arrays": lambda: Pairs(lambda i: (X[i].numpy(), Y[i].numpy())),
    "items of dicts": lambda: Pairs(lambda i: {"input": X[i], "labels": Y[i]}),
    "a stream": lambda: Streamed(),
    "a loader of a stream": lambda: _loader(Streamed()),
    "a loader in another order": lambda: _loader(torch.utils.data.TensorDataset(X, Y), shuffle=True),
    "a loader with a worker": lambda: _loader(Pairs(lambda i: (X[i], Y[i])), num_workers=1),
    "a part of a set": lambda: torch.utils.data.Subset(
        torch.utils.data.TensorDataset(torch.cat([X, X]), torch.cat([Y, Y])), range(8)
    ),
    "array backwards": lambda: (BACKWARDS, Y),
    "foreign bytes": lambda: (X.numpy().astype(">f4"), Y),
    "a table": lambda: (Table(), Y),
    "inputs that require gradients": lambda: (X.clone().requires_grad_(), Y),
    "doubles": lambda: (X.double(), Y.double()),
    "not contiguous": lambda: (X.T.contiguous().T, Y),
}


@pytest.mark.parametrize("form", SAME)
def test_every_way_to_hold_the_samples_gives_the_same_numbers(form):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(6, 3)
    here, expected = at(model, "square", SAME[form]()), at(model, "square", (X, Y))
    assert here.samples == 8
    torch.testing.assert_close(here.gradient(), expected.gradient())
    assert here.noise.strength().value == pytest.approx(expected.noise.strength().value, rel=1e-4)


def _ragged(batch):
    return nn.utils.rnn.pad_sequence([x for x, _ in batch], batch_first=True), torch.zeros(len(batch), 3)


UNREADABLE = {
    "inputs alone": (lambda: X.numpy(), "data=.*must be .inputs, targets."),
    "a table alone": (lambda: Table(), "data=.*must be .inputs, targets."),
    "a name": (lambda: "mnist", "data='mnist': must be .inputs, targets."),
    "a generator": (lambda: zip(X, Y, strict=True), "data=.*must be .inputs, targets."),
    "objects": (lambda: (np.array([[1.0], [1.0, 2.0]], dtype=object), Y[:2]), "not of object"),
    "texts": (lambda: (["a", "b"], [0, 1]), "data=.*must be tensors or arrays of numbers"),
    "masked": (lambda: (np.ma.masked_less(X.numpy(), 0), Y), "without masked entries"),
    "three parts": (lambda: (X, X, Y), r"3 parts.*several inputs: \(\(a, b\), targets\)"),
    "two sets": (
        lambda: (torch.utils.data.TensorDataset(X, Y), torch.utils.data.TensorDataset(X, Y)),
        "several data sets: must be one",
    ),
    "pictures": (lambda: Pairs(lambda i: (object(), 0)), "data: .*transform to tensors"),
    "different lengths": (lambda: Pairs(lambda i: (torch.ones(1 + i), 0)), "do not fit together.*pad"),
    "padded by batch": (
        lambda: _loader(Pairs(lambda i: (torch.ones(1 + i), 0)), collate_fn=_ragged),
        "do not fit together.*pad",
    ),
    "single items": (
        lambda: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=None),
        "do not fit together|as many inputs as targets",
    ),
    "list of numbers of rank 0": (lambda: ([torch.tensor(1.0)] * 8, Y), "torch.stack"),
    "an empty loader": (
        lambda: torch.utils.data.DataLoader(Pairs(lambda i: (X[i], Y[i])), batch_size=30, drop_last=True),
        "no samples",
    ),
}


@pytest.mark.parametrize("form", UNREADABLE)
def test_data_that_cannot_be_read_are_refused_in_a_sentence(form):
    make, words = UNREADABLE[form]
    with pytest.raises(ValueError, match=words):
        at(nn.Linear(6, 3), "square", make())


@pytest.mark.parametrize("seed", range(12))
def test_an_honest_network_is_not_refused(seed):
    """Any depth, activation and norm, weights and inputs from 1e-2 to 1e2, both types."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    kinds = [nn.ReLU, nn.Tanh, nn.GELU, nn.LeakyReLU, nn.Sigmoid, nn.Softplus, nn.Hardtanh]
    width, parts, inner = int(rng.integers(2, 16)), [], 6
    for _ in range(rng.integers(1, 5)):
        parts += [nn.Linear(inner, width), *([nn.LayerNorm(width)] if rng.integers(2) else [])]
        parts.append(kinds[rng.integers(len(kinds))]())
        inner = width
    model = nn.Sequential(*parts, nn.Linear(inner, 3)).to([torch.float32, torch.float64][seed % 2])
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(10 ** rng.uniform(-2, 2) * torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5)
    x = 10 ** rng.uniform(-2, 2) * torch.randn(9, 6, generator=generator)
    x[torch.rand(x.shape, generator=generator) < 0.3] = 0
    here = at(model, "cross-entropy", (x, torch.arange(9) % 3))
    assert {check.name for check in here.checks} >= {"same twice", "symmetry", "finite difference"}
    assert all(check.found <= check.allowed for check in here.checks)


def test_blocks_that_start_at_zero_are_not_taken_for_a_wrong_gradient():
    """All their units sit on the kinks of their ReLUs; 100 000 of them, as a crossed one is enough."""
    model = models.FixupResNet(20, width=16, outputs=10, seed=0)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(6, 3, 32, 32, generator=generator), torch.arange(6)
    here = at(model, "cross-entropy", data)
    (found,) = (check.found for check in here.checks if check.name == "finite difference")
    assert found < 1e-2


def test_the_network_wing_needs_no_download_no_mesh_and_no_widgets():
    """On a machine without scikit-fem, pooch and ipywidgets."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['skfem', 'pooch', 'ipywidgets']))\n"
        "import flatmin as fm\n"
        "train, test = fm.datasets.digits()\n"
        "here = fm.at(fm.models.mlp((64, 4, 10)), 'cross-entropy', train, samples=20)\n"
        "here.eigenpairs(1); here.edge(eta=0.1, batch_size=5); fm.train\n"
        "import pkgutil, importlib, flatmin.networks, flatmin.experiments\n"
        "for package in (flatmin.networks, flatmin.experiments):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("chunk", [None, 20])
def test_the_memory_of_a_measure_is_that_of_a_chunk_and_is_said(chunk):
    """A CNN of 189k parameters on 400 images, 1 MB of graph each: growth measured against what is said."""
    code = (
        "import resource, torch, flatmin as fm; torch.set_num_threads(1)\n"
        "x, y = torch.rand(400, 3, 32, 32), torch.randint(10, (400,))\n"
        f"few = fm.at(fm.models.cnn(), 'cross-entropy', (x[:8], y[:8])); few.eigenpairs(1, tolerance=0.5)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        f"here = fm.at(fm.models.cnn(), 'cross-entropy', (x, y), chunk={chunk})\n"
        "here.passed.hessian_product(torch.randn(1, here.parameters)), here.noise.strength()\n"
        "print(peak() - before, here.memory, here.passed.chunk)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    grown, said, size = map(int, done.stdout.split())
    assert said <= 2**30
    assert size == (chunk or size) <= 400
    assert grown < 1.5 * said + 150e6
