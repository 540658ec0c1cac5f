"""Which device is chosen, and that everything is computed there and comes back."""

import dataclasses

import elsewhere
import numpy as np
import pytest
import torch

from flatmin.networks import curvature, device, freezing, models, parameters
from flatmin.networks import train as training
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at

XENT = "cross-entropy"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(device.ENVIRONMENT, raising=False)


def train(model, data, **more):
    call = {"eta": 0.1, "batch_size": 6, "steps": 9, "seed": [0, 1], "keep": 3}
    return training.train(model, XENT, data, **call | more)


def outcome(model, data, **more):
    """What a chapter takes from runs: parameters, losses, accuracies, outputs."""
    runs = train(model, data, **more)
    outputs = training.predict(model, runs.parameters[0, -1], data)
    return runs.parameters, runs.losses(data), runs.accuracies(data), outputs


def ends(model, data):
    """What is read off end points of descents from two checkpoints."""
    starts = parameters.vector(model) * torch.tensor([[1.0], [0.9], [0.8]], dtype=torch.float64)
    how = {"eta": 0.1, "steps": [30, 0, 25], "stop": freezing.Stop(loss=1.0, first=10, every=2)}
    found = freezing.descend(model, XENT, data, starts, keep=[3, 20], **how)
    thetas, read = found.ends, freezing.evaluate(model, XENT, data, found.ends)
    tops = freezing.flatness_of(model, XENT, data, thetas, top=3, tolerance=1e-6).values
    sharpness = freezing.sharpness_of(model, XENT, data, thetas, tolerance=1e-6)
    barriers = freezing.barriers(model, XENT, data, thetas)
    return found.ends, found.losses, found.path, read.loss, read.predictions, tops, sharpness, barriers


#: calls of (model, data); the models have three outputs, or one for decoupling
CALLS = {
    "sgd": outcome,
    "gd": lambda m, d: outcome(m, d, method="gd"),
    "gld": lambda m, d: outcome(m, d, method="gld"),
    "one run": lambda m, d: outcome(m, d, seed=0),
    "diverging": lambda m, d: train(m, d, eta=[1e30, 0.1], steps=150).parameters,
    "hessian": lambda m, d: at(m, XENT, d).hessian(),
    "layer": lambda m, d: at(m, XENT, d).hessian(2),
    "gauss_newton": lambda m, d: at(m, XENT, d).gauss_newton(),
    "spectrum": lambda m, d: curvature.gauss_newton_spectrum(at(m, XENT, d)),
    "spectrum, few samples": lambda m, d: curvature.gauss_newton_spectrum(at(m, XENT, d.first(3))),
    "eigenpairs": lambda m, d: at(m, XENT, d).eigenpairs(3, tolerance=1e-8),
    "eigenpairs of a layer": lambda m, d: at(m, XENT, d).eigenpairs(3, layer=2, tolerance=1e-8),
    "trace": lambda m, d: at(m, XENT, d).trace(probes=3),
    "trace of a layer": lambda m, d: at(m, XENT, d).trace(2, probes=3),
    "diagonal": lambda m, d: at(m, XENT, d).diagonal(probes=3),
    "gauss_newton_trace": lambda m, d: at(m, XENT, d).gauss_newton_trace(),
    "norm": lambda m, d: at(m, XENT, d).frobenius_norm(probes=3),
    "norm of a layer": lambda m, d: at(m, XENT, d).frobenius_norm(2, probes=3),
    "density": lambda m, d: at(m, XENT, d).spectral_density(steps=5, probes=2),
    "flatness": lambda m, d: at(m, XENT, d).flatness("M22"),
    "covariance": lambda m, d: at(m, XENT, d).noise.covariance(5),
    "basis": lambda m, d: at(m, XENT, d).noise.in_hessian_basis(5),
    "decoupling_factors": lambda m, d: at(m, "square", d.one_hot(3)).noise.decoupling_factors(),
    "noise_strength": lambda m, d: at(m, XENT, d).noise.strength(10),
    "freezing": ends,
}
#: forward derivatives do not work with the stand-in
DENSE_CALLS = {
    "alignment": lambda m, d: at(m, XENT, d).noise.alignment(),
    "gauss-newton pairs": lambda m, d: at(m, XENT, d).eigenpairs(3, matrix="gauss-newton"),
}


def flattened(found):
    """All arrays and numbers in a result."""
    if dataclasses.is_dataclass(found):
        found = [getattr(found, field.name) for field in dataclasses.fields(found)]
    if isinstance(found, (tuple, list)):
        return [x for one in found for x in flattened(one)]
    return [found]


def assert_the_same(found, expected):
    for one, other in zip(flattened(found), flattened(expected), strict=True):
        if isinstance(one, str):  # how it was measured
            assert one == other
            continue
        if isinstance(one, torch.Tensor):
            assert type(one) is torch.Tensor  # back from the device, as one that numpy takes
            one, other = one.numpy(), other.numpy()
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrap", [False, True], ids=["dense", "any"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_computes_elsewhere_what_it_computes_here(name, wrap, small, wrapped):
    model, data = small("tanh", XENT, samples=20)
    model = wrapped(model) if wrap else model
    expected = CALLS[name](model, data)
    with elsewhere.chosen():
        assert_the_same(CALLS[name](model, data), expected)
    assert device.home(model) == data.inputs.device == torch.device("cpu")


@pytest.mark.parametrize("name", DENSE_CALLS)
def test_a_call_for_dense_networks_too(name, small):
    model, data = small("relu", XENT, samples=20)
    expected = DENSE_CALLS[name](model, data)
    with elsewhere.chosen():
        assert_the_same(DENSE_CALLS[name](model, data), expected)


@pytest.mark.parametrize("samples", [15, 200])
def test_decoupling_elsewhere(small, samples):
    model, data = small("relu", outputs=1, samples=samples)
    expected = at(model, "square", data).noise.decoupling()
    with elsewhere.chosen():
        assert_the_same(at(model, "square", data).noise.decoupling(), expected)


def test_convolutions_elsewhere():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 3, 8, 8, generator=generator, dtype=torch.float64)
    data = datasets.Data(images, torch.randint(10, (12,), generator=generator))
    model = models.cnn_stacks((2, 3), 1, 0, "he", 3, 8, 10, torch.float64)
    expected = CALLS["noise_strength"](model, data), CALLS["gauss_newton_trace"](model, data)
    with elsewhere.chosen():
        assert_the_same(
            (CALLS["noise_strength"](model, data), CALLS["gauss_newton_trace"](model, data)), expected
        )


def test_a_run_saved_elsewhere_continues_there(small, tmp_path):
    model, data = small("relu", XENT)
    expected = train(model, data, steps=250).parameters
    file = tmp_path / "run.npz"
    with elsewhere.chosen():
        train(model, data, steps=250, file=file, save_every=0)
        assert_the_same(train(model, data, steps=250, file=file).parameters, expected)


def test_the_stand_in_refuses_what_a_device_would(small):
    model, data = small("relu", XENT)
    with elsewhere.chosen():
        passed = at(model, XENT, data, device=elsewhere.DEVICE).passed
        assert passed.outputs.device.type == elsewhere.DEVICE.type
        with pytest.raises(RuntimeError, match="device"):
            passed.outputs + torch.ones(len(data), 3)
        with pytest.raises((RuntimeError, TypeError)):
            passed.outputs.numpy()


def test_a_pass_lies_where_the_model_lies_unless_told_otherwise(small):
    model, data = small("relu", XENT)
    with elsewhere.chosen():
        there, _ = device.place(model, data, elsewhere.DEVICE)
        assert at(there, XENT, data).passed.outputs.device.type == elsewhere.DEVICE.type


def cuda(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda chosen: f"card {chosen.index}")


def test_cuda_is_chosen_where_it_is(monkeypatch):
    cuda(monkeypatch, 2)
    assert device.choose() == torch.device("cuda", 0)
    assert device.choose("cuda:1") == torch.device("cuda", 1)
    assert device.choose("cpu") == torch.device("cpu")
    assert device.describe() == "card 0"
    assert device.describe("cpu") is None
    monkeypatch.setenv(device.ENVIRONMENT, "cpu")
    assert device.choose() == torch.device("cpu")
    assert device.choose("cuda:1") == torch.device("cuda", 1)
    cuda(monkeypatch, 0)
    monkeypatch.delenv(device.ENVIRONMENT)
    assert device.choose() == torch.device("cpu")


def test_a_model_on_an_accelerator_stays_there(small, monkeypatch):
    model, data = small("relu", XENT)
    with elsewhere.chosen():
        there, _ = device.place(model, data, elsewhere.DEVICE)
    cuda(monkeypatch, 0)
    assert device.choose(None, there) == elsewhere.DEVICE
    assert device.choose("cpu", there) == torch.device("cpu")


@pytest.mark.parametrize(
    ("value", "count", "allowed"),
    [("gpu", 0, "cpu"), ("cuda", 0, "cpu"), ("cuda:2", 2, "cpu, cuda, cuda:0, cuda:1"), ("meta", 0, "cpu")],
)
def test_devices_that_are_not_there_are_named(value, count, allowed, monkeypatch):
    cuda(monkeypatch, count)
    with pytest.raises(ValueError, match=f"device='{value}': must be one of {allowed}"):
        device.choose(value)
    monkeypatch.setenv(device.ENVIRONMENT, value)
    with pytest.raises(ValueError, match=f"FLATMIN_DEVICE='{value}': must be one of {allowed}"):
        device.choose()
