"""Networks of every kind through the door, against double backward; what cannot be measured is refused."""

import copy
import random

import numpy as np
import pytest
import torch
import zoo
from torch import nn

from flatmin.networks import models
from flatmin.networks.point import at

EPS = torch.finfo(torch.float64).eps


def close(found, expected, factor=1e5):
    """Equal but for rounding, in units of the largest entry."""
    scale = max(float(expected.abs().max()), 1e-12)
    assert float((found - expected).abs().max()) <= factor * EPS * scale


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_a_network_of_any_kind_is_measured_right(name):
    model, inputs, targets, loss, plain = zoo.problem(name)
    mean, gradient, samples, hessian = zoo.reference(model, inputs, targets, plain)
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
