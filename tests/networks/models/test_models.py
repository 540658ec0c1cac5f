"""Sizes, starts and functions of the papers' networks."""

import itertools
import math
import random

import numpy as np
import pytest
import torch

from flatmin.networks import models, parameters
from flatmin.networks.data.sets import Data
from flatmin.networks.passes.dense import DensePass
from flatmin.networks.passes.generic import AutogradPass
from flatmin.networks.point import at
from flatmin.networks.train import train

WIDTHS = [3, 64, 64, 64, 128, 128, 128, 256, 256, 256]
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "count", "source"),
    [
        (models.mlp((784, 50, 50, 10)), 42_310, "Y26: 784-50-50-10"),
        (models.mlp((784, 10, 1)), 7_861, "M22 App. E"),
        (models.cnn(), 188_810, "Y26 SI"),
        (models.vgg(19), 20_040_522 - 11_008, "VGG-19 for CIFAR, less its 11 008 of batch norm"),
        (
            models.cnn_stacks(),
            sum(9 * i * o + o for i, o in itertools.pairwise(WIDTHS)) + 40_970,
            "M22 §5.2: nine convolutions and 4096×10",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_number_of_parameters(model, count, source):
    assert parameters.vector(model).numel() == count


@pytest.mark.parametrize("name", ["he", "he-fan-out", "glorot", "glorot-normal", "lecun"])
def test_initialisations_have_their_variance(name):
    model = models.mlp((300, 500, 1), 3, name)
    variance = {
        "he": 2 / 300,
        "he-fan-out": 2 / 500,
        "glorot": 2 / 800,
        "glorot-normal": 2 / 800,
        "lecun": 1 / 300,
    }[name]
    weight = model[1].weight.detach()
    assert float(weight.var()) == pytest.approx(variance, rel=0.02)
    assert not model[1].bias.any()
    if name == "glorot":
        assert float(weight.abs().max()) <= math.sqrt(6 / 800)


def test_y26_cnn_starts_by_fan_out_in_convolutions_and_fan_in_in_layers():
    model = models.cnn(seed=1)
    assert float(model[3].weight.detach().var()) == pytest.approx(2 / (64 * 9), rel=0.05)
    assert float(model[10].weight.detach().var()) == pytest.approx(2 / 1024, rel=0.05)


@pytest.mark.parametrize(
    "model",
    [models.cnn(), models.cnn_stacks((8, 8, 16)), models.vgg(11, width=8), models.vgg(16, width=4)],
    ids=["cnn", "stacks", "vgg11", "vgg16"],
)
def test_image_networks_treat_samples_independently(model):
    outputs = model(IMAGES)
    assert outputs.shape == (6, 10)
    torch.testing.assert_close(model(IMAGES[2:3]), outputs[2:3])


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_fixup_resnet_starts_at_zero_and_counts_its_layers(depth):
    model = models.FixupResNet(depth, width=4)
    assert not model(IMAGES).any()
    convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in model.modules())
    assert convolutions + 1 == depth


def test_fixup_resnet_trains_without_batch_norm():
    model = models.FixupResNet(20, width=8)
    shades = torch.linspace(-2, 2, 6)[:, None, None, None]
    data = Data(IMAGES + shades, torch.arange(6))
    runs = train(model, "cross-entropy", data, eta=0.1, batch_size=6, steps=100)
    values = runs.losses(data)[0]
    assert values[0] == pytest.approx(math.log(10), rel=1e-5)
    assert values[1] < 0.5 * values[0]


def test_the_scalars_of_fixup_move_by_the_square_of_their_factor():
    how = {"width": 4, "branch": 1, "head": 1}
    plain, other = models.FixupResNet(20, 0, **how), models.FixupResNet(20, 0, **how, scalars=0.5)
    plain, other = plain.double(), other.double()
    outputs = [model(IMAGES.double()) for model in (plain, other)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for (name, one), two in zip(plain.named_parameters(), other.parameters(), strict=True):
        factor = 0.5 if "biases" in name or "scale" in name else 1
        torch.testing.assert_close(two.grad, factor * one.grad)


def test_fixup_resnet_with_branches_starts_with_the_scales_asked_for():
    plain, other = models.FixupResNet(56, 1, 8), models.FixupResNet(56, 1, 8, branch=2, head=3)
    torch.testing.assert_close(other.stem.weight, plain.stem.weight)
    for one, two in zip(plain.blocks, other.blocks, strict=True):
        torch.testing.assert_close(one.first.weight, two.first.weight)
    second = torch.cat([b.second.weight.flatten() / b.second.weight.shape[0] ** -0.5 for b in other.blocks])
    wanted = 2 * math.sqrt(2 / 9 / 27)  # per (fan_out / 9)^(-1/2): He times (number of blocks)^(-1/2)
    assert float(second.std()) == pytest.approx(wanted, rel=4 / math.sqrt(2 * second.numel()))
    wanted, count = 3 / math.sqrt(32), other.head.weight.numel()
    assert float(other.head.weight.std()) == pytest.approx(wanted, rel=4 / math.sqrt(2 * count))
    assert float(other(IMAGES).abs().max()) > 0


def test_random_features_are_those_of_the_formula_and_only_the_last_layer_is_trained():
    model = models.random_features(5, 40, seed=2, dtype=torch.float64)
    data = Data(torch.randn(7, 5, dtype=torch.float64), torch.zeros(7, 1, dtype=torch.float64))
    weight = model[0].weight
    torch.testing.assert_close(weight.norm(dim=1), torch.full((40,), math.sqrt(5), dtype=torch.float64))
    assert parameters.vector(model).tolist() == [0.0] * 40
    passed = at(model, "square", data).passed
    assert isinstance(passed, DensePass)
    torch.testing.assert_close(passed.sample_roots()[:, 0], (data.inputs @ weight.T).clamp(min=0))


def test_diagonal_linear_network_is_its_formula():
    model = models.DiagonalLinear(4, dtype=torch.float64)
    with torch.no_grad():
        model.a.copy_(torch.tensor([1.0, 2.0, 0.0, 1.0]))
        model.b.copy_(torch.tensor([0.0, 1.0, 1.0, 1.0]))
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = x @ torch.tensor([1.0, 3.0, -1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(model(x)[:, 0], expected)
    data = Data(x, expected + 1)
    assert isinstance(at(model, "square", data).passed, AutogradPass)
    assert at(model, "square", data).noise.alignment().loss == pytest.approx(0.5)


def test_a_deep_linear_network_is_a_product_of_matrices():
    model = models.linear_network((6, 5, 4, 1), 1, dtype=torch.float64)
    x = torch.randn(3, 6, dtype=torch.float64)
    first, second, third = (p.detach() for p in model.parameters())
    torch.testing.assert_close(model(x).detach(), x @ (third @ second @ first).T)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: models.mlp((5,)), r"sizes=\[5\]: must be two positive widths or more"),
        (lambda: models.mlp((5, 0, 1)), r"sizes=\(5, 0, 1\): must be integers at least 1"),
        (lambda: models.mlp((5, 2.5, 1)), r"sizes=\(5, 2.5, 1\): must be integers"),
        (lambda: models.mlp((10**8, 10**8)), "weights a layer"),
        (lambda: models.mlp((5, 1), activation="gelu"), "activation='gelu': must be one of"),
        (lambda: models.mlp((5, 1), initialisation="zeros"), "initialisation='zeros': must be one of"),
        (lambda: models.mlp((5, 1), dtype=torch.int64), "dtype=torch.int64: must be a floating-point type"),
        (lambda: models.mlp((5, 1), bias=1), "bias=1: must be True or False"),
        (lambda: models.mlp((5, 1), seed=-1), "seed=-1: must be an integer at least 0"),
        (lambda: models.cnn(size=7), "size=7: must be an integer at least 8"),
        (lambda: models.cnn_stacks((8, 8, 8), size=4), "size=4: must be an integer at least 8"),
        (lambda: models.vgg(12), "depth=12: must be one of 11, 13, 16, 19"),
        (lambda: models.vgg(11, width=0), "width=0: must be an integer at least 1"),
        (lambda: models.FixupResNet(21), "depth=21: must be 6·blocks"),
        (lambda: models.FixupResNet(20, branch=-1), "branch=-1: must be a finite real number at least 0"),
        (lambda: models.random_features(0, 5), "dimension=0: must be an integer at least 1"),
        (lambda: models.DiagonalLinear(3, float("nan")), "scale=nan: must be a finite real number"),
        (lambda: models.initialise("model"), "model='model': must be of the type Module"),
        (lambda: parameters.with_parameters(models.mlp((2, 1)), torch.zeros(2)), "theta"),
    ],
)
def test_bad_arguments_are_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()


STARTS = {
    "mlp": lambda: models.mlp((5, 4, 3)),
    "linear_network": lambda: models.linear_network((5, 4, 1)),
    "random_features": lambda: models.random_features(5, 4),
    "DiagonalLinear": lambda: models.DiagonalLinear(4),
    "cnn": lambda: models.cnn(size=8),
    "cnn_stacks": lambda: models.cnn_stacks((2, 2), 1, size=8),
    "vgg": lambda: models.vgg(width=2),
    "FixupResNet": lambda: models.FixupResNet(20, width=2),
    "initialise": lambda: models.initialise(models.mlp((5, 4, 3))),
}


def test_every_constructor_has_its_case():
    assert set(STARTS) == set(models.__all__)


@pytest.mark.parametrize("name", STARTS)
def test_a_constructor_moves_no_global_generator_and_leaves_nothing_unset(name):
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first = parameters.vector(STARTS[name]())
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert random.getstate() == states[2]
    torch.manual_seed(7)
    assert torch.equal(parameters.vector(STARTS[name]()), first)
    assert torch.isfinite(first).all()
