"""Small networks and data that the tests of curvature and gradient noise share."""

import pytest
import torch

from flatmin.networks import models
from flatmin.networks.data.sets import Data

torch.set_num_threads(1)


class Wrapped(torch.nn.Module):
    """The same network in a form the fast path does not read."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def make_small(activation="relu", loss="square", outputs=3, bias=True, samples=25, sizes=(4, 6, 3)):
    """A network with biases that are not zero, and samples for it, in float64."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(samples, 5, generator=generator, dtype=torch.float64)
    if loss == "square":
        targets = torch.randn(samples, outputs, generator=generator, dtype=torch.float64)
    else:
        targets = torch.randint(outputs, (samples,), generator=generator)
    model = models.mlp((5, *sizes, outputs), 7, activation=activation, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return model, Data(inputs, targets)


CASES = [
    (activation, loss, bias, outputs)
    for activation in ("relu", "tanh", "identity")
    for loss, outputs in (("square", 1), ("square", 3), ("cross-entropy", 3))
    for bias in (True, False)
]


@pytest.fixture
def small():
    return make_small


@pytest.fixture
def wrapped():
    return Wrapped


@pytest.fixture(params=CASES, ids=lambda c: f"{c[0]}-{c[1]}-{'bias' if c[2] else 'plain'}-{c[3]}")
def case(request):
    """A network, data and the name of the loss, for every kind of network the fast path reads."""
    activation, loss, bias, outputs = request.param
    return *make_small(activation, loss, outputs, bias), loss
