"""Which networks are linear in each tensor of parameters, by their second derivatives."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from flatmin.networks import models
from flatmin.networks.passes.generic import AutogradPass
from flatmin.networks.passes.pieces import linear_in_each
from flatmin.networks.point import at


class By(nn.Module):
    """Three layers, and what ``rule`` makes of them and of an image (n, 2, 6, 6)."""

    def __init__(self, rule):
        super().__init__()
        self.rule, self.one, self.two = rule, nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.bend, self.head = nn.BatchNorm2d(4), nn.PReLU(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rule(self, x).mean((2, 3)))


class Steep(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(context, top):
        return 2 * context.saved_tensors[0] * top


Relu = type("Relu", (Steep,), {})
ReluBackward0 = type("ReluBackward0", (Steep,), {})
relu = functional.relu

YES = {
    "relu": lambda m, x: relu(m.two(relu(m.one(x)))),
    "skip": lambda m, x: relu((h := relu(m.one(x))) + m.two(h)),
    "pools": lambda m, x: functional.avg_pool2d(m.two(functional.max_pool2d(m.one(x), 2)), 2),
    "batch norm": lambda m, x: m.two(relu(m.norm(m.one(x)))),
    "own slopes": lambda m, x: m.two(m.bend(m.one(x))),
    "bounds": lambda m, x: functional.hardtanh(m.two(functional.relu6(m.one(x)).clamp(-1, 2).abs())),
    "leaky": lambda m, x: (
        functional.leaky_relu(m.two(m.one(x)), 0.1) / 3 - 2 * m.one(x).mean(1, keepdim=True)
    ),
    "one layer on two images": lambda m, x: relu(m.two(m.one(x))) + m.two(m.one(x.flip(2))),
    "greatest": lambda m, x: torch.maximum(m.two(m.one(x)), torch.cat([m.one(x)[:, :2]] * 2, 1)),
    "in place": lambda m, x: m.two(m.one(x).relu_()).mul_(0.5).add_(1),
    "by a number, as attention does": lambda m, x: torch.ops.aten.mul.Scalar(m.two(relu(m.one(x))), 0.5),
    "curved by the data": lambda m, x: m.two(m.one(x.exp()) * x[:, :1].sigmoid()),
}
NO = {
    "gelu": lambda m, x: m.two(functional.gelu(m.one(x))),
    "tanh of one entry": lambda m, x: m.two(torch.cat([m.one(x)[:, :3], m.one(x)[:, 3:].tanh()], 1)),
    "layer after itself": lambda m, x: m.two(relu(m.two(m.one(x)))),
    "square": lambda m, x: m.two(m.one(x)) * m.one(x),
    "quotient": lambda m, x: m.two(x.new_ones(1) / (1 + m.one(x).abs())),
    "normed": lambda m, x: m.two(functional.group_norm(m.one(x), 2)),
    "gate": lambda m, x: m.two(m.one(x)).softmax(1),
    "own operation": lambda m, x: Steep.apply(m.two(m.one(x))),
    "named as another": lambda m, x: Relu.apply(m.two(m.one(x))),
    "named as its node": lambda m, x: ReluBackward0.apply(m.two(m.one(x))),
    "weights of weights": lambda m, x: functional.conv2d(m.one(x), m.two.weight * m.two.weight.sum()),
}


def case(name):
    torch.manual_seed(0)
    model = By((YES | NO)[name])
    model(torch.randn(20, 2, 6, 6))  # running statistics
    data = torch.randn(6, 2, 6, 6, dtype=torch.float64), torch.randint(3, (6,))
    return at(model.eval().double(), "cross-entropy", data)


@pytest.mark.parametrize("name", YES | NO)
def test_the_answer_is_that_of_the_diagonals_of_both_matrices(name):
    here = case(name)
    unit = torch.eye(here.parameters, dtype=torch.float64)
    hessian, gauss_newton = here.passed.hessian_product(unit), here.passed.gauss_newton_product(unit)
    gap = (hessian - gauss_newton).diagonal().abs().max() / hessian.diagonal().abs().max()
    assert here.passed.linear_in_each is (name in YES)
    assert gap < 1e-12 if name in YES else gap > 1e-6
    assert (hessian - gauss_newton).abs().max() > 1e-4 * hessian.abs().max()  # elsewhere they differ
    trace = here.trace(probes=3)
    if name in YES:
        assert (trace.error, trace.method) == (0, "exact, output by output")
        assert trace.value == pytest.approx(float(hessian.trace()), rel=1e-11, abs=0)
        diagonal = here.diagonal(probes=3)
        assert abs(diagonal.value - hessian.diagonal().numpy()).max() < 1e-12 * float(hessian.abs().max())
        assert here.trace(2, probes=3).value == pytest.approx(
            diagonal.value[here.block(2)].sum(), rel=1e-12, abs=0
        )
    else:
        assert trace.error > 0


def test_more_outputs_than_probes_and_losses_that_are_not_convex_are_estimated():
    here = case("relu")
    assert here.trace(probes=2).error > 0
    data = here.data.inputs, torch.randn(6, 3, dtype=torch.float64)
    bent = at(here.network.module, lambda f, y: (f.sum(1) * y.sum(1)).sin().mean(), data)
    assert bent.trace(probes=20).error > 0


def test_a_chunk_that_bends_makes_it_no():
    def rule(m, x):
        h = m.two(m.one(x))
        return h.tanh() if bool((x == 7).any()) else h

    model = By(rule)
    inputs = torch.randn(6, 2, 6, 6)
    inputs[5, 0, 0, 0] = 7
    here = at(model, "cross-entropy", (inputs, torch.zeros(6, dtype=torch.long)), checks=False)
    passed = AutogradPass(here.network, here.data, here.loss_function, chunk=2)
    assert not passed.linear_in_each
    first = here.data.take(slice(0, 4))
    assert AutogradPass(here.network, first, here.loss_function, chunk=2).linear_in_each


def test_the_books_convolutional_networks_are_linear_in_each():
    images = torch.randn(2, 3, 32, 32)
    for model in (models.cnn(), models.vgg(11, width=4), models.FixupResNet(8, width=2)):
        assert linear_in_each(model(images))
