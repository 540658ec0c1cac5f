"""Per-sample gradients read off the graph, against plain autograd on one sample at a time."""

import gc

import pytest
import torch
from torch import nn

from flatmin.networks import losses, models
from flatmin.networks.data.samples import Samples
from flatmin.networks.network import Network
from flatmin.networks.passes import generic, layers
from flatmin.networks.passes.generic import AutogradPass
from flatmin.networks.point import at


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
        self.inner, self.outer = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)

    def forward(self, x):
        return self.outer(self.inner(self.inner(x).tanh()).mean((2, 3)))


class Extra(nn.Module):
    """A convolution, and parameters added to and multiplied with what flows."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
        self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(2, 1))
        self.gain, self.place = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.zeros(1, 3, 8, 8))
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        x = torch.sub(self.inner(x + self.place + self.shift[0]) * self.scale, self.shift[1])
        return self.head(torch.tanh(self.gain * x).mean((2, 3)))


class Sequence(nn.Module):
    """A transformer whose output layer is the embedding; ``first``: words along the first axis."""

    def __init__(self, first=False):
        super().__init__()
        self.first, self.word = first, nn.Embedding(5, 6, padding_idx=2)
        self.place = nn.Parameter(torch.randn(4, 1, 6) if first else torch.randn(1, 4, 6))
        how = {"dropout": 0.0, "batch_first": not first, "activation": "gelu"}
        self.block = nn.TransformerEncoderLayer(6, 2, 8, **how)
        self.attended = nn.LayerNorm([4, 6])

    def forward(self, x):
        places = (x.flatten(1)[:, :4].abs() * 7).long() % 5
        x = self.word(places.T if self.first else places) + self.place
        x = self.block(x)
        x = x.transpose(0, 1) if self.first else x
        return nn.functional.linear(self.attended(x).tanh().mean(1), self.word.weight)[:, :3]


class Recurrent(nn.Module):
    """One matrix at every step, and one held the other way round."""

    def __init__(self):
        super().__init__()
        self.into, self.again = nn.Linear(8, 5), nn.Linear(5, 5, bias=False)
        self.out = nn.Parameter(torch.randn(5, 3))

    def forward(self, x):
        x = x.flatten(1, 2)
        h = x.new_zeros(len(x), 5)
        for t in range(x.shape[1]):
            h = torch.tanh(self.into(x[:, t]) + self.again(h))
        return h @ self.out + (h @ self.again.weight)[:, :3]


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.rnn(x.flatten(1, 2))[0][:, -1])


class Sorted(nn.Module):
    """Samples in another order inside than outside."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(192, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = x.flatten(1)
        order = x[:, 0].argsort()
        return self.outer(self.inner(x[order]).tanh()[order.argsort()])


def flat(*modules):
    return nn.Sequential(*modules, nn.Flatten(), nn.LazyLinear(3))


def normed():
    parts = nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.BatchNorm2d(4), nn.LayerNorm([6, 6])
    model = flat(*parts)
    model(torch.randn(20, 3, 8, 8))  # running statistics
    return model


READ = {
    "stacks": lambda: models.cnn_stacks((2, 3), 2, size=8, outputs=3),
    "stride": lambda: flat(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Tanh()),
    "odd stride": lambda: flat(nn.Conv2d(3, 4, (3, 2), stride=(3, 2)), nn.ReLU(inplace=True)),
    "dilation": lambda: flat(nn.Conv2d(3, 4, 3, dilation=2, bias=False), nn.ReLU()),
    "branches": Sum,
    "pool": lambda: flat(nn.Conv2d(3, 4, 5, padding=2), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1)),
    "groups": lambda: flat(nn.Conv2d(3, 6, 3, groups=3)),
    "wide groups": lambda: flat(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 16, (3, 2), groups=2)),
    "circular": lambda: flat(nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular")),
    "same": lambda: flat(nn.Conv2d(3, 6, 3, padding="same")),
    "one axis": lambda: flat(nn.Flatten(2), nn.Conv1d(3, 4, 5, stride=3, padding=2, dilation=2), nn.GELU()),
    "twice": Twice,
    "extra": Extra,
    "fixup": lambda: models.FixupResNet(8, width=2, outputs=3),
    "normed": normed,
    "rows": lambda: nn.Sequential(
        nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(), nn.Linear(24, 3)
    ),
    "sequence": Sequence,
    "sequence along the first axis": lambda: Sequence(True),
    "recurrent": Recurrent,
    "gated": Gated,
}
NOT_READ = {
    "sorted": Sorted,
    "weight norm": lambda: flat(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3))),
    "three axes": lambda: flat(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, 3)),
}


def problem(make):
    torch.manual_seed(0)
    model, inputs = make(), torch.randn(7, 3, 8, 8, dtype=torch.float64)
    model.eval().double()(inputs)
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return model, inputs, torch.randn(7, 2, 3, generator=generator, dtype=torch.float64)


def passed_of(model, inputs, chunk=None):
    network = Network(model, None, "eval", torch.device("cpu"))
    return AutogradPass(network, Samples(inputs, torch.zeros(7, 3)), losses.of("square"), chunk)


def close(found, expected):
    """Equal to 1e-10 of the largest entry."""
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())


@pytest.mark.parametrize(("entries", "slow", "places"), [(2**24, 20, 64), (100, 0, 1), (100, 10**9, 10**9)])
@pytest.mark.parametrize("name", READ | NOT_READ)
def test_gradients_norms_and_inner_products_are_those_of_plain_autograd(
    name, entries, slow, places, monkeypatch
):
    """By position and through the gradients, in one piece and in many, in one chunk and in three.

    Those of kernels as convolutions and from patches.
    """
    monkeypatch.setattr(layers, "_PLACES", places)
    monkeypatch.setattr(layers, "_ENTRIES", entries)
    monkeypatch.setattr(layers, "_CACHED", entries)
    monkeypatch.setattr(layers, "_SLOW", slow)
    model, inputs, tops = problem((READ | NOT_READ)[name])
    for chunk in (None, 3):
        monkeypatch.setattr(generic, "_ENTRIES", 2**24 if chunk is None else entries)
        passed = passed_of(model, inputs, chunk)
        rows = passed._pull_one_by_one(slice(None), tops).flatten(0, 1)
        close(passed.pulled_gram(tops), rows @ rows.T)
        close(passed.pulled_squares(tops[:, 0]), rows.square().sum(1)[::2])
        close(passed.pulled_squares(tops).flatten(), rows.square().sum(1))
        close(passed.pull(slice(1, 5), tops[1:5]).flatten(0, 1), rows[2:10])
        assert passed._layerwise is (name in READ)
        own = passed._pull_one_by_one(slice(None), passed.output_gradients[:, None])[:, 0]
        sums, expected = passed.gradient_sums(), (own.square().sum(1), own.sum(0), own @ own.sum(0))
        if name not in READ:
            assert sums is None
            continue
        for found, true in zip(sums, expected, strict=True):
            assert (found is None) is (true is expected[2] and chunk is not None)
            if found is not None:
                close(found, true)


def test_all_parameters_that_are_not_read_are_mapped_in_one_pass(monkeypatch):
    """Fixup's scalars, dozens of them: one of its own for each took four times as long as all the rest."""
    passed, seen = passed_of(*problem(READ["fixup"])[:2]), []
    plain = passed._pull_mapped
    monkeypatch.setattr(passed, "_pull_mapped", lambda *given: seen.append(given[2]) or plain(*given))
    passed.pulled_squares(passed.output_gradients)
    assert len(seen) == 1
    assert len(seen[0]) > 1


def test_a_large_parameter_used_twice_goes_through_gradients_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(generic, "_GRAM", 100)
    model, inputs, tops = problem(Sequence)
    passed = passed_of(model, inputs)
    rows = passed._pull_one_by_one(slice(None), tops).flatten(0, 1)
    close(passed.pulled_gram(tops), rows @ rows.T)


def test_the_first_outputs_are_used_once_and_not_after_the_parameters_moved():
    model, inputs, tops = problem(Sum)
    passed = passed_of(model, inputs)
    first = passed._first[0]
    assert passed._outputs_of(slice(None)) is first is not passed._outputs_of(slice(None))
    passed = passed_of(model, inputs)
    with torch.no_grad():
        passed.network.tensors[0].mul_(2)
    close(passed.pull(slice(None), tops), passed._pull_one_by_one(slice(None), tops))


def test_samples_without_cotangent_prove_nothing():
    """Not until a cotangent differs from zero is it decided how the network is read."""
    model, inputs, tops = problem(Sorted)
    passed = passed_of(model, inputs)
    assert not passed.pulled_squares(0 * tops[:, 0]).any()
    rows = passed._pull_one_by_one(slice(None), tops[:, :1])[:, 0]
    close(passed.pulled_squares(tops[:, 0]), rows.square().sum(1))


class Sometimes(nn.Module):
    """A shift and a layer that only a batch with a marked sample uses."""

    def __init__(self):
        super().__init__()
        self.inner, self.more, self.outer = nn.Linear(192, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.shift = nn.Parameter(torch.ones(5))

    def forward(self, x):
        x = x.flatten(1)
        marked = (x[:, :1] > 0.3).to(x)
        x = self.inner(x)
        return self.outer((x + marked * self.shift + marked * self.more(x) if marked.any() else x).tanh())


class Start(nn.Module):
    """A parameter that is normed itself: alone in a chunk of one sample, it has one row as this has."""

    def __init__(self, layer):
        super().__init__()
        self.inner, self.outer, self.layer = nn.Linear(192, 5), nn.Linear(5, 3), layer
        self.start = nn.Parameter(torch.randn(1, 5))

    def forward(self, x):
        norm = nn.functional.layer_norm if self.layer else nn.functional.group_norm
        start = norm(self.start, (5,) if self.layer else 1)
        return self.outer((self.inner(x.flatten(1)) + start).tanh())


@pytest.mark.parametrize("which", [slice(0, 3), slice(3, 6), slice(6, 7)])
@pytest.mark.parametrize("make", [Sometimes, lambda: Start(True), lambda: Start(False)])
def test_chunks_that_use_different_parameters_and_chunks_of_one_sample(make, which):
    model, inputs, tops = problem(make)
    inputs[:, 0, 0, 0] = -1
    inputs[which, 0, 0, 0] = 1
    passed = passed_of(model, inputs, 3)
    rows = passed._pull_one_by_one(slice(None), tops).flatten(0, 1)
    close(passed.pulled_gram(tops), rows @ rows.T)
    close(passed.pulled_squares(tops).flatten(), rows.square().sum(1))
    close(passed.pull(slice(6, 7), tops[6:]).flatten(0, 1), rows[12:])


def test_samples_that_change_places_are_seen_beside_one_that_is_far_larger():
    """In float32 all their cotangents together are a rounding of its own."""
    model, inputs, tops = problem(Sorted)
    inputs = inputs[inputs[:, 0, 0, 0].argsort()][[0, 2, 1, 4, 3, 6, 5]].float()  # first: its place
    tops[1:] *= 1e-5
    passed = passed_of(model.float(), inputs)
    rows = passed._pull_one_by_one(slice(None), tops[:, :1].float())[:, 0]
    ratio = passed.pulled_squares(tops[:, 0].float()) / rows.square().sum(1)
    assert not passed._layerwise
    assert float((ratio - 1).abs().max()) < 1e-4


def test_nothing_of_a_pass_outlives_it():
    """Many networks are measured one after the other: activations that stay would add up."""
    data = torch.rand(6, 1, 8, 8), torch.eye(3)[torch.arange(6) % 3]
    model = models.cnn_stacks((2, 3), depth=1, channels=1, size=8, outputs=3)

    def left():
        at(model, "square", data, checks=False).noise.alignment()
        gc.collect()
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    first = left()
    assert left() == first
