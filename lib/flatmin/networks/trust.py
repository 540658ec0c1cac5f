"""What a pass proves on a few samples before the first number is believed.

Each check compares two routes to the same numbers. What fails is refused with a ``ValueError`` that says
which check, by how much, and what to do.

- *same twice*: two calls of the model give the same outputs;
- *samples apart*: an output does not depend on which other samples are in the batch;
- *loss*, *gradient*: of the pass, against the loss itself and plain autograd;
- *sample gradients*: of two samples, against plain autograd on each alone;
- *symmetry*: uᵀHv = vᵀHu;
- *finite difference*: of the gradient along a direction, in float64, against Hv;
- *product*, *rounding*: Hv against plain double backward in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flatmin.networks.data.samples import leaves
from flatmin.networks.network import Network, quiet
from flatmin.networks.passes.generic import AutogradPass, linearise

__all__ = ["Check", "examine"]

_FEW = 6  # samples that the checks run on
_NOISE = 1e-2  # relative rounding error of Hv above which a number is refused
_SLOPE = 1e-2  # relative error of a finite difference of the gradient
_ASIDE = 1e-4  # how far beside the parameters it is taken, as a share of them


@dataclass(frozen=True)
class Check:
    """One comparison: its ``name``, the relative difference ``found`` and the largest one ``allowed``."""

    name: str
    found: float
    allowed: float


_REMEDIES = {
    "same twice": "the model is random or keeps a state: call it with dropout off (mode='eval'), or fix its "
    "randomness",
    "samples apart": "samples influence each other (batch norm in training mode, a batch-wide operation): "
    "measure in mode='eval', or replace that layer",
    "loss": "the loss is not a mean over the samples: use reduction='mean' and a loss of each sample alone",
    "gradient": "the model's derivatives do not add up over samples: give forward= and report the layer",
    "sample gradients": "single samples cannot be differentiated alone: report the layer",
    "symmetry": "second derivatives are wrong: a custom backward, detach() or an operation without a second "
    "derivative is in the model",
    "finite difference": "the gradient is not the derivative of a smooth loss here: a custom backward, "
    "detach() or rounding is in the model",
    "product": "the fast route does not fit this network: report it",
    "rounding": "the numbers would be rounding noise: measure with dtype='float64'",
}


def examine(point) -> list[Check]:
    """Run all checks on the first few samples of ``point``; return them, or raise the first that fails."""
    network, few = point.network, point.data.take(slice(0, min(_FEW, point.samples)))
    found: list[Check] = []

    def passes(name, one, other, allowed):
        difference = float(one.abs().max()) if other is None else _relative(one, other)
        found.append(Check(name, difference, allowed))
        if not difference <= allowed:  # NaN fails too
            raise ValueError(
                f"check {name!r}: differs by {difference:.2g} of its size, allowed is {allowed:.2g}: "
                f"{_REMEDIES[name]}"
            )

    eps = torch.finfo(network.dtype).eps
    with quiet(network):
        _outputs(network, few, passes, eps)
        passed = linearise(network, few, point.loss_function)
        point.loss_function.targets(
            point.data.targets, passed.loss_function.shape, network.dtype
        )  # all of them
        plain = _plain(network, point.loss_function, few)
        passes("loss", passed.losses.mean(), plain[0], 1e3 * eps)
        passes("gradient", passed.gradient(), plain[1], 1e4 * eps)
        _samples(passed, network, passes, eps)
        try:
            _second(point, few, passed, passes, eps)
        except (NotImplementedError, RuntimeError) as error:
            raise ValueError(
                f"model has an operation without a second derivative ({str(error).splitlines()[0]}): must be "
                "replaced by one that has"
            ) from None
    return found


def _relative(one: Tensor, other: Tensor) -> float:
    scale = max(float(one.abs().max()), float(other.abs().max()))
    return float((one - other).abs().max()) / scale if scale else 0.0


def _outputs(network, few, passes, eps):
    with torch.no_grad():
        once = _finite(_called(network, few))
        passes("same twice", network.matrix(few.inputs), once, 100 * eps)
        if len(few) > 1:
            parts = [network.matrix(few.rows(slice(i, i + 1))) for i in range(len(few))]
            half = network.matrix(few.rows(slice(0, (len(few) + 1) // 2)))
            alone = torch.cat(parts)
            passes("samples apart", half, once[: len(half)], 1e4 * eps)
            passes("samples apart", alone, once, 1e4 * eps)


def _called(network, few):
    """The first outputs; whatever the model says against its inputs becomes one sentence."""
    try:
        return network.matrix(few.inputs)
    except (RuntimeError, TypeError, IndexError, KeyError, AttributeError) as error:
        kinds = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in leaves(few.inputs))
        raise ValueError(
            f"model={type(network.module).__name__} does not take the inputs ({kinds}, {len(few)} samples): "
            f"{str(error).splitlines()[0]}; must be what the model takes, or forward= must make it so"
        ) from error


def _finite(outputs):
    if not torch.isfinite(outputs).all():
        raise ValueError("model returns NaN or ∞ for the first samples: must be finite")
    return outputs


def _plain(network, loss, few):
    """Loss and gradient as torch alone has them."""
    outputs = network.outputs(few.inputs)
    shapes = tuple(outputs.shape), tuple(getattr(few.targets, "shape", outputs.shape))
    if isinstance(loss.given, torch.nn.Module) and len(shapes[0]) != len(shapes[1]) and _broadcast(*shapes):
        raise ValueError(
            f"targets of shape {shapes[1]} against outputs of shape {shapes[0]}: {loss.name} pairs every one "
            "with every other; must be of one shape (targets[:, None], or outputs squeezed)"
        )
    with torch.enable_grad():
        by_name = isinstance(loss.given, str)  # labels may stand for one-hot targets there
        targets = (
            loss.targets(few.targets, tuple(outputs.shape[1:]), outputs.dtype) if by_name else few.targets
        )
        value = loss(outputs, targets)
        grads = torch.autograd.grad(value, network.tensors, materialize_grads=True)
    return value.detach(), torch.cat([g.reshape(-1) for g in grads])


def _broadcast(one, other) -> bool:
    """Whether two shapes of as many numbers are not one and the same, as (n, 1) and (n,)."""
    return math.prod(one) == math.prod(other)


def _samples(passed, network, passes, eps):
    few = slice(0, min(2, passed.samples))
    found = passed.sample_gradients(few)
    mean = passed.sample_gradients(slice(0, passed.samples)).mean(0)
    passes("sample gradients", mean, passed.gradient(), 1e4 * eps)
    squares = passed.pulled_squares(passed.output_gradients)[few]
    passes("sample gradients", squares, found.square().sum(1), 1e4 * eps)


def _second(point, few, passed, passes, eps):
    network = point.network
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (2, network.parameters)
    both = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    directions = both.to(passed.outputs)
    images = passed.hessian_product(directions)
    scale = images.norm(dim=1).max() * directions.norm(dim=1).max()
    if scale > 0:
        gap = (images[0] @ directions[1] - images[1] @ directions[0]) / scale
        passes("symmetry", gap, None, 1e4 * eps)
    exact = _in_double(point, few)
    if exact is None:  # a module that insists on its own type
        return
    image = exact.hessian_product(both.to(exact.outputs))
    if point.dtype == torch.float64:
        passes("product", images, image, 1e4 * eps)
    else:
        passes("rounding", images.to(image), image, _NOISE)
    passes("finite difference", _difference_error(exact, both.to(image)), None, _SLOPE)


def _in_double(point, few):
    """The pass over the first samples in float64; None for a module that cannot be cast."""
    network = point.network
    try:
        twin = Network(network.module, network.forward, network.mode, network.device, torch.float64)
        return AutogradPass(twin, few.to(dtype=torch.float64), point.loss_function)
    except (RuntimeError, TypeError):
        return None


def _difference_error(exact: AutogradPass, directions: Tensor) -> Tensor:
    """By how much a finite difference of the gradient misses Hv, in units of what it can resolve.

    Taken a little beside the parameters: right at them a unit may sit on the kink of its ReLU (no bias and a
    blank input). Steps are short: a longer one crosses kinks, and one crossing is enough to spoil it; the
    best of three counts.
    """
    network, errors = exact.network, []
    theta = torch.cat([p.detach().reshape(-1) for p in network.tensors])
    size = max(float(theta.norm()), 1.0)
    direction, aside = directions[0], directions[1] / directions[1].norm()
    unit = direction / direction.norm()
    network.load(theta + _ASIDE * size * aside)
    beside = torch.cat([p.detach().reshape(-1) for p in network.tensors])
    image = AutogradPass(network, exact.data, exact.loss_function.loss).hessian_product(direction[None])[0]
    for share in (1e-8, 1e-9, 1e-7):
        step = share * size
        ends = [_gradient_at(exact, beside + sign * step * unit) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step) * direction.norm()
        noise = torch.finfo(theta.dtype).eps * float(ends[0].norm() + 1) / step * float(direction.norm())
        errors.append(float((slope - image).norm()) / max(float(image.norm()), noise / _SLOPE * 100))
    network.load(theta)
    return torch.tensor([min(errors)])


def _gradient_at(exact, theta):
    exact.network.load(theta)
    outputs = exact.network.matrix(exact.inputs)
    total = exact.loss_function.total(outputs, slice(None)) / exact.samples
    grads = torch.autograd.grad(total, exact.network.tensors, materialize_grads=True)
    return torch.cat([g.reshape(-1) for g in grads])
