"""What a pass proves on a few samples before the first number is believed.

Each check compares two routes to the same numbers. What fails is refused with a ``ValueError`` that says
which check, by how much, and what to do.

- *same twice*: two calls of the model give the same outputs, and draw nothing at random;
- *samples apart*: an output does not depend on which other samples are in the batch;
- *follows parameters*: a model that has been called before moves with its parameters as one that has not;
- *loss*, *gradient*: of the pass, against the loss itself and plain autograd;
- *sample gradients*: of two samples, against plain autograd on each alone;
- *symmetry*: uᵀHv = vᵀHu;
- *finite difference*: of the gradient along a direction, against Hv, in float64 where the model lets one;
- *product*, *rounding*: Hv against plain double backward in float64.

Differences are in units of the larger side, or of what rounding makes of the terms that are added up, where
these cancel (:class:`_Terms`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flatmin.networks.data.samples import Samples, leaves
from flatmin.networks.network import Network, quiet
from flatmin.networks.passes.generic import AutogradPass, linearise

__all__ = ["Check", "called", "examine", "examine_outputs", "require_pure"]

_FEW, _MANY = 6, 32  # samples that the checks run on, and in whose company these must be the same
_NOISE = 1e-2  # relative rounding error of Hv above which a number is refused
_SLOPE = 1e-2  # relative error of a finite difference of the gradient
_ASIDE = (1e-4, 1e-2)  # how far beside the parameters it is taken, as shares of them, till it fits


@dataclass(frozen=True)
class Check:
    """One comparison: its ``name``, the relative difference ``found`` and the largest one ``allowed``."""

    name: str
    found: float
    allowed: float


_REMEDIES = {
    "same twice": "the model is random or keeps a state: call it with dropout off (mode='eval'), or fix its "
    "randomness",
    "samples apart": "samples influence each other (batch norm in training mode, a batch-wide operation, a "
    "recurrent or attention layer without batch_first=True): measure in mode='eval', or replace that layer",
    "follows parameters": "the model keeps values computed from its parameters (a cache): must compute them "
    "anew at each call; try mode='train'",
    "loss": "the loss is not a mean over the samples: use reduction='mean' and a loss of each sample alone",
    "gradient": "the model rounds its numbers on the way (autocast, .half() or .float() in it), or a "
    "layer's derivatives do not add up over samples",
    "sample gradients": "single samples cannot be differentiated alone: replace the layer that does not "
    "treat each by itself",
    "symmetry": "second derivatives are wrong: a custom backward, detach() or an operation without a second "
    "derivative is in the model",
    "finite difference": "the gradient is not the derivative of a smooth loss here: a custom backward, "
    "detach(), no_grad() or rounding is in the model; to freeze a part use requires_grad_(False)",
    "product": "the fast route does not fit this network: report it",
    "rounding": "the numbers would be rounding noise: measure with dtype='float64'",
}


def examine(point, model: nn.Module | None = None) -> list[Check]:
    """Run all checks on the first few samples of ``point``; return them, or raise the first that fails.

    ``model`` is the reader's own, of whose parameters the loss must know nothing.
    """
    network, few = point.network, point.data.take(slice(0, min(_FEW, point.samples)))
    found: list[Check] = []
    passes, eps = _judge(found, network.dtype), torch.finfo(network.dtype).eps
    with quiet(network):
        fresh = Network(network.module, network.forward, network.mode, network.device)
        many = slice(0, min(_MANY, point.samples, point.chunk or _MANY))
        shape = _outputs(network, few, point.data.rows(many), passes, eps)
        _follows(network, fresh, few, passes, eps)
        point.loss_function.targets(point.data.targets, shape, network.dtype)  # all of them
        try:
            passed, terms = _first(point, few, passes, eps, model)
        except (NotImplementedError, RuntimeError) as error:
            raise _undifferentiable(
                error, "fails under autograd ({}): must be differentiable by torch.autograd.grad"
            ) from error
        try:
            _second(point, fresh, few, passed, terms, passes, eps)
        except (NotImplementedError, RuntimeError) as error:
            raise _undifferentiable(
                error, "has an operation without a second derivative ({}): must be replaced by one that has"
            ) from error
    return found


def examine_outputs(network: Network, samples: Samples) -> tuple[int, ...]:
    """Run the checks that training needs, those of the outputs; return the shape of one sample's output."""
    few, many = samples.take(slice(0, _FEW)), samples.rows(slice(0, _MANY))
    return _outputs(network, few, many, _judge([], network.dtype), torch.finfo(network.dtype).eps)


def _judge(found: list[Check], dtype):
    """What compares two routes, keeps the comparison in ``found`` and refuses what differs too much."""

    def passes(name, one, other, allowed, scale=0.0):
        difference = _relative(one, other, scale)
        found.append(Check(name, difference, allowed))
        if not difference <= allowed:  # NaN fails too
            why = _REMEDIES[name] if math.isfinite(difference) else _overflows(dtype)
            raise ValueError(
                f"check {name!r}: differs by {difference:.2g} of its size, allowed is {allowed:.2g}: {why}"
            )

    return passes


def _overflows(dtype) -> str:
    return f"numbers overflow {dtype}: scale the inputs, or measure with dtype='float64'"


def _undifferentiable(error, words) -> Exception:
    if isinstance(error, torch.OutOfMemoryError):
        return error
    return ValueError("model or loss " + words.format((str(error).splitlines() or [""])[0]))


def _relative(one: Tensor, other: Tensor, scale: float = 0.0) -> float:
    scale = max(float(one.abs().max()), float(other.abs().max()), float(scale))
    return float((one - other).abs().max()) / scale if scale else 0.0


class _Terms:
    """Sizes of the terms that loss and derivatives are sums of: of them rounding is a share.

    A sample's slope ∂ℓ/∂f is known to rounding of t = |∂ℓ/∂f| + |∂²ℓ f|, as f is to rounding of itself;
    random signs keep Jᵀt from cancelling where Jᵀ∂ℓ/∂f does (for outputs that are all equal). Cross-entropy's
    slope at the label is p − 1, so terms of size 1 are added in it however good the fit: ``resolved`` is the
    curvature without these.
    """

    def __init__(self, passed, network):
        f, every, losses = passed.outputs, slice(0, passed.samples), passed.losses.detach()
        bent = passed.loss_function.curvature_product(f, every, f[:, None])[:, 0]
        tops = passed.output_gradients.abs() + bent.abs()
        generator = torch.Generator("cpu").manual_seed(1)
        signs = torch.randint(2, f.shape, generator=generator, device="cpu").to(f) * 2 - 1
        size = math.sqrt(sum(float(p.detach().square().sum()) for p in network.tensors))
        for added in (0.0, 1.0) if passed.loss_function.loss.saturates else (0.0,):
            rows = passed.pull(every, (signs * (tops + added))[:, None])[:, 0]
            self.loss = float(losses.abs().mean() + ((tops + added) * f.abs()).sum(1).mean() + added)
            self.entry = float(rows.abs().max()) if rows.numel() else 0.0
            self.square = float(rows.square().sum(1).max())
            self.norm = self.square**0.5
            self.curvature = self.norm / size if size else 0.0  # the natural size of |Hv|/|v|
            if not added:
                self.resolved = self.curvature


def _outputs(network, few, many, passes, eps) -> tuple[int, ...]:
    """Check the outputs; return the shape of one sample's."""
    with torch.no_grad():
        once = _finite(called(network, few), network)
        drawn = _random_states(network)
        passes("same twice", network.matrix(few.inputs), once, 100 * eps)
        if _random_states(network) != drawn:
            raise ValueError(
                "check 'same twice': the model draws random numbers when it is called, if only to turn out "
                f"the same twice: {_REMEDIES['same twice']}"
            )
        if len(few) > 1:
            half = network.matrix(few.rows(slice(0, (len(few) + 1) // 2)))
            passes("samples apart", half, once[: len(half)], 1e4 * eps)
            passes("samples apart", _alone(network, few), once, 1e4 * eps)
            passes(
                "samples apart", network.matrix(many)[: len(once)], once[: len(leaves(many)[0])], 1e4 * eps
            )
        return tuple(network.outputs(few.inputs).shape[1:])


def _random_states(network):
    """Where the global generators are."""
    _, keys, *place = np.random.get_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state(network.device).numpy() if network.device.type == "cuda" else np.empty(0)
    return torch.get_rng_state().numpy().tobytes(), cuda.tobytes(), keys.tobytes(), place, random.getstate()


def _alone(network, few):
    """Outputs of each sample alone."""
    try:
        return torch.cat([network.matrix(few.rows(slice(i, i + 1))) for i in range(len(few))])
    except Exception as error:
        raise ValueError(
            f"check 'samples apart': the model takes {len(few)} samples but not one alone "
            f"({(str(error).splitlines() or [type(error).__name__])[0]}): {_REMEDIES['samples apart']}"
        ) from error


def _follows(network, fresh, few, passes, eps):
    """Move the parameters of the network, and of a copy made before the first call: same outputs?"""
    theta = torch.cat([p.detach().reshape(-1) for p in network.tensors])
    generator = torch.Generator("cpu").manual_seed(2)
    aside = torch.randn(theta.shape, generator=generator, dtype=torch.float64, device="cpu").to(theta)
    moved = theta + 1e-2 * theta.square().mean().sqrt() * aside
    with torch.no_grad():
        fresh.load(moved)
        expected = fresh.matrix(few.inputs)
        fresh.load(theta)
        network.load(moved)
        try:
            found = network.matrix(few.inputs)
        finally:
            network.load(theta)
        if torch.isfinite(expected).all():
            passes("follows parameters", found, expected, 100 * eps)


def called(network, few):
    """The first outputs; whatever the model says against its inputs becomes one sentence."""
    try:
        return network.matrix(few.inputs)
    except (RuntimeError, TypeError, IndexError, KeyError, AttributeError) as error:
        kinds = ", ".join(f"{tuple(t.shape)} {t.dtype}" for t in leaves(few.inputs))
        raise ValueError(
            f"model={type(network.module).__name__} does not take the inputs ({kinds}, {len(few)} samples): "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}; must be what the model takes, or "
            "forward= must make it so"
        ) from error


def _finite(outputs, network):
    if not torch.isfinite(outputs).all():
        raise ValueError(
            "model returns NaN or ∞ for the first samples: must be finite, and must not use a tensor that it "
            f"kept from an earlier call; or {_overflows(network.dtype)}"
        )
    return outputs


def _first(point, few, passes, eps, model):
    """First derivatives."""
    network, loss = point.network, point.loss_function
    outputs = network.outputs(few.inputs)
    if not outputs.requires_grad:
        raise ValueError(
            "model's outputs do not depend on its parameters, as far as autograd sees (they are constant, or "
            "computed under no_grad(), detached or kept): must be computed from them with gradients on"
        )
    _require_paired(loss, few.targets, outputs)
    passed = linearise(network, few, loss)
    terms = _Terms(passed, network)
    if loss.saturates:
        _resolved(float(passed.output_gradients.abs().max()), network.dtype)
    plain = _plain(network, loss, outputs, passed.loss_function.targets, model)
    passes("loss", passed.losses.detach().mean(), plain[0], 1e3 * eps, 0.1 * terms.loss)
    passes("gradient", passed.gradient(), plain[1], 1e4 * eps, 1e-2 * terms.entry)
    one = slice(0, min(2, passed.samples))
    found = passed.sample_gradients(one)
    mean = passed.sample_gradients(slice(0, passed.samples)).mean(0)
    passes("sample gradients", mean, passed.gradient(), 1e4 * eps, 1e-2 * terms.entry)
    squares = passed.pulled_squares(passed.output_gradients)[one]
    passes("sample gradients", squares, found.square().sum(1), 1e4 * eps, 1e-2 * terms.square)
    return passed, terms


def _resolved(left: float, dtype):
    """Refuse a cross-entropy whose slopes of at most ``left`` are rounding of the p − 1 that they are."""
    wide, eps = dtype == torch.float64, torch.finfo(dtype).eps
    if left < (eps / _NOISE if wide else eps):
        remedy = "take an earlier step, or smaller weights" if wide else "measure with dtype='float64'"
        raise ValueError(
            f"check 'rounding': ∂ℓ/∂f is {left:.1g} at most, a difference p − 1 in {str(dtype)[6:]}: the "
            f"samples are fitted too well for derivatives of this loss; {remedy}"
        )


def _plain(network, loss, outputs, targets, model):
    """Loss and gradient as torch alone has them."""
    value = loss(outputs, targets)
    grads = torch.autograd.grad(value, network.tensors, materialize_grads=True)
    require_pure(loss, outputs, targets, model)
    return value.detach(), torch.cat([g.reshape(-1) for g in grads])


def require_pure(loss, outputs: Tensor, targets, model: nn.Module | None):
    """Refuse a loss that sees parameters besides the outputs, those of the reader's ``model`` among them."""
    rest, own = loss(outputs.detach(), targets), []
    if isinstance(loss.given, nn.Module):
        own = list(loss.function(outputs).parameters())
    theirs = [] if model is None else [p for p in model.parameters() if any(p is q for q in own)]
    if theirs or (rest.requires_grad and not own):
        raise ValueError(
            f"loss={loss.name}: depends on parameters besides the outputs (a penalty on weights?): must be a "
            "function of outputs and targets alone; ½λ|θ|² adds λθ to the gradient and λ to the Hessian"
        )


def _require_paired(loss, targets, outputs):
    """Refuse shapes of as many numbers that a torch loss would spread over each other, as (n, 1) and (n,)."""
    shapes = tuple(outputs.shape), tuple(getattr(targets, "shape", outputs.shape))
    if not isinstance(loss.given, nn.Module) or len(shapes[0]) == len(shapes[1]):
        return
    if math.prod(shapes[0]) == math.prod(shapes[1]):
        raise ValueError(
            f"targets of shape {shapes[1]} against outputs of shape {shapes[0]}: {loss.name} pairs every one "
            "with every other; must be of one shape (targets[:, None], or outputs squeezed)"
        )


def _second(point, fresh, few, passed, terms, passes, eps):
    """Second derivatives."""
    network = point.network
    generator = torch.Generator("cpu").manual_seed(0)
    shape = (2, network.parameters)
    both = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu") * _moving(network)
    directions = both.to(passed.outputs)
    images = passed.hessian_product(directions)
    longest = directions.norm(dim=1).max()
    gap = images[0] @ directions[1], images[1] @ directions[0]
    natural = images.norm(dim=1).max() + 1e-2 * terms.curvature * longest
    passes("symmetry", *gap, 1e4 * eps, natural * longest)
    exact = _in_double(point, fresh, few)
    if exact is None:  # a module that insists on its own type
        exact = AutogradPass(fresh, few, point.loss_function)
    else:
        image = exact.hessian_product(both.to(exact.outputs))
        size = eps * terms.curvature * float(longest)
        if point.dtype == torch.float64:
            passes("product", images, image, 1e4 * eps, 1e-2 * size / eps)
        else:
            size = eps * terms.resolved * float(longest)
            passes("rounding", images.to(image), image, _NOISE, 1e2 * size / _NOISE)
    error = _difference_error(exact, both.to(exact.outputs), terms)
    passes("finite difference", torch.tensor([error]), torch.tensor([0.0]), _SLOPE, 1.0)


def _moving(network) -> Tensor:
    """1 for each parameter but those of padding, which torch holds where they are, (P,)."""
    parts = [torch.ones(p.shape, dtype=torch.float64, device="cpu") for p in network.tensors]
    for part in network.module.modules():
        row = getattr(part, "padding_idx", None)
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and row is not None:
            for mask, p in zip(parts, network.tensors, strict=True):
                if p is part.weight:
                    mask[row] = 0
    return torch.cat([mask.reshape(-1) for mask in parts])


def _in_double(point, fresh, few):
    """The pass over the first samples in float64; None for a module that cannot be cast."""
    try:
        twin = Network(fresh.module, fresh.forward, fresh.mode, fresh.device, torch.float64)
        return AutogradPass(twin, few.to(dtype=torch.float64), point.loss_function)
    except (RuntimeError, TypeError, ValueError):
        return None


def _difference_error(exact: AutogradPass, directions: Tensor, terms: _Terms) -> float:
    """By how much a finite difference of the gradient misses Hv, in units of what it can resolve.

    Taken a little beside the parameters: right at them a unit may sit on the kink of its ReLU (no bias and a
    blank input). Steps are short: a longer one crosses kinks, and one crossing is enough to spoil it, while a
    model that rounds its own large numbers needs longer ones; the first that fits counts. Blocks whose last
    layer starts at zero put the kinks of all units as near as one is beside the parameters: then farther.
    """
    errors, theta = [], torch.cat([p.detach().reshape(-1) for p in exact.network.tensors])
    for error in _misses(exact, theta, directions, terms):
        errors.append(error)
        if error <= _SLOPE:
            break
    exact.network.load(theta)
    return min(errors)


def _misses(exact: AutogradPass, theta: Tensor, directions: Tensor, terms: _Terms) -> Iterator[float]:
    """The errors at one step after another, beside ``theta`` and then farther; the network is left there."""
    eps, size = torch.finfo(theta.dtype).eps, max(float(theta.norm()), 1.0)
    direction, aside = directions[0], directions[1] / directions[1].norm()
    length = float(direction.norm())
    for far in _ASIDE:
        beside = theta + far * size * aside
        exact.network.load(beside)
        there = AutogradPass(exact.network, exact.data, exact.loss_function.loss)
        image = there.hessian_product(direction[None])[0]
        for share in (1, 0.1, 10, 1e2, 1e3):
            step = share * eps**0.5 * size
            ends = [_gradient_at(exact, beside + sign * step / length * direction) for sign in (1, -1)]
            slope = (ends[0] - ends[1]) / (2 * step) * length
            noise = 100 * eps * terms.norm / step * length / _SLOPE
            unit = max(float(image.norm()), noise)
            yield float((slope - image).norm()) / unit if unit else 0.0


def _gradient_at(exact, theta):
    exact.network.load(theta)
    outputs = exact.network.matrix(exact.inputs)
    total = exact.loss_function.total(outputs, slice(None)) / exact.samples
    grads = torch.autograd.grad(total, exact.network.tensors, materialize_grads=True)
    return torch.cat([g.reshape(-1) for g in grads])
