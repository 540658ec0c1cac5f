"""Norms of per-sample gradients layer by layer, against the gradients themselves."""

import pytest
import torch
from torch import nn

from flatmin.networks import losses, models, parameters
from flatmin.networks.data.samples import Samples
from flatmin.networks.network import Network
from flatmin.networks.passes import generic, layers
from flatmin.networks.passes.generic import AutogradPass


class Sum(nn.Module):
    """Two parts beside each other, and what they share is called once."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.left = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x.relu_() + self.left(x)
        return self.head(x.relu_().mean((2, 3)))


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.outer(self.inner(self.inner(x)))


def flat(*modules):
    return nn.Sequential(*modules, nn.Flatten(), nn.LazyLinear(3))


READ = {
    "stacks": lambda: models.cnn_stacks((2, 3), 2, size=8, outputs=3),
    "stride": lambda: flat(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh()),
    "odd stride": lambda: flat(nn.Conv2d(3, 4, (3, 2), stride=(3, 2)), nn.ReLU(inplace=True)),
    "dilation": lambda: flat(nn.Conv2d(3, 4, 3, dilation=2, bias=False), nn.ReLU()),
    "branches": Sum,
    "pool": lambda: flat(nn.Conv2d(3, 4, 5, padding=2), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1)),
}
NOT_READ = {
    "groups": lambda: flat(nn.Conv2d(3, 6, 3, groups=3)),
    "circular": lambda: flat(nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular")),
    "same": lambda: flat(nn.Conv2d(3, 6, 3, padding="same")),
}


def problem(make, shape=(3, 8, 8)):
    torch.manual_seed(0)
    model, inputs = make(), torch.randn(7, *shape, dtype=torch.float64)
    model.double()(inputs)
    return model, inputs, torch.randn(7, 3, dtype=torch.float64)


def network_of(model):
    """A copy of the model, with a copy of what it owns."""
    return Network(model, None, "eval", torch.device("cpu"))


def by_gradients(model, inputs, tops):
    """|∂(t·f_i)/∂θ|², one sample at a time."""
    trained = [p for _, p in parameters.trainable(model)]
    rows = []
    for x, top in zip(inputs, tops, strict=True):
        found = torch.autograd.grad((model(x[None])[0] * top).sum(), trained)
        rows.append(sum(g.square().sum() for g in found))
    return torch.stack(rows)


@pytest.mark.parametrize("entries", [2**24, 100])
@pytest.mark.parametrize("name", READ)
def test_norms_are_those_of_the_gradients(name, entries, monkeypatch):
    monkeypatch.setattr(layers, "_ENTRIES", entries)
    model, inputs, tops = problem(READ[name])
    torch.testing.assert_close(
        layers.pulled_squares(network_of(model), inputs, tops), by_gradients(model, inputs, tops)
    )
    network = network_of(model)
    layers.pulled_squares(network, inputs, tops)
    assert all(not module._forward_hooks for module in network.module.modules())


class Extra(nn.Module):
    """A convolution, and parameters in no layer."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(2, 1))

    def forward(self, x):
        return self.head(torch.tanh(self.inner(x + self.shift[0]) * self.scale + self.shift[1]).mean((2, 3)))


GRAM = READ | NOT_READ | {"extra": Extra, "fixup": lambda: models.FixupResNet(8, width=2, outputs=3)}


@pytest.mark.parametrize(("entries", "slow"), [(2**24, 20), (100, 0), (100, 10**9)])
@pytest.mark.parametrize("name", GRAM)
def test_inner_products_are_those_of_the_gradients(name, entries, slow, monkeypatch):
    """By position and through the gradients, in one piece and in many, in one chunk of samples and three."""
    monkeypatch.setattr(layers, "_ENTRIES", entries)
    monkeypatch.setattr(generic, "_ENTRIES", entries)
    monkeypatch.setattr(layers, "_SLOW", slow)
    model, inputs, _ = problem(GRAM[name])
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    tops = torch.randn(7, 2, 3, generator=generator, dtype=torch.float64)
    for chunk in (None, 3):
        samples = Samples(inputs, torch.zeros(7, 3))
        passed = AutogradPass(network_of(model), samples, losses.of("square"), chunk)
        rows = passed._pull_one_by_one(slice(None), tops).flatten(0, 1)
        torch.testing.assert_close(passed.pulled_gram(tops), rows @ rows.T)
        assert passed._layerwise == (name not in NOT_READ)
        torch.testing.assert_close(passed.pulled_squares(tops[:, 0]), rows.square().sum(1)[::2])


@pytest.mark.parametrize("name", NOT_READ)
def test_other_networks_go_through_their_gradients(name):
    model, inputs, tops = problem(NOT_READ[name])
    assert layers.pulled_squares(network_of(model), inputs, tops) is None
    samples = Samples(inputs, torch.zeros(7, 3))
    passed = AutogradPass(network_of(model), samples, losses.of("square"))
    torch.testing.assert_close(passed.pulled_squares(tops), by_gradients(model, inputs, tops))


def test_a_layer_called_twice_or_frozen_or_on_sequences_is_not_read():
    model, inputs, tops = problem(Twice, (5,))
    assert layers.pulled_squares(network_of(model), inputs, tops) is None
    model.inner.weight.requires_grad_(False)
    assert layers.pulled_squares(network_of(model), inputs, tops) is None
    rows = nn.Sequential(nn.Linear(5, 1), nn.Flatten())
    model, inputs, tops = problem(lambda: rows, (3, 5))
    assert layers.pulled_squares(network_of(model), inputs, tops) is None


class Tied(nn.Module):
    """An encoder whose weight decodes too, outside of its module."""

    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(6, 3)

    def forward(self, x):
        return torch.tanh(self.enc(x)) @ self.enc.weight


def test_a_weight_used_outside_its_module_is_not_taken_for_a_layer():
    torch.manual_seed(0)
    model, inputs = Tied().double(), torch.randn(7, 6, dtype=torch.float64)
    tops = torch.randn(7, 6, dtype=torch.float64)
    assert not torch.allclose(
        layers.pulled_squares(network_of(model), inputs, tops), by_gradients(model, inputs, tops)
    )
    passed = AutogradPass(network_of(model), Samples(inputs, inputs), losses.of("square"))
    torch.testing.assert_close(passed.pulled_squares(tops), by_gradients(model, inputs, tops))
