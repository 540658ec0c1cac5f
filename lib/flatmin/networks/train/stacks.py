"""R networks of one architecture, stacked: their gradients on R batches at once, and their steps."""

from __future__ import annotations

import contextlib
import warnings

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils.flop_counter import FlopCounterMode

from flatmin.networks.data.samples import Samples, leaves, mapped
from flatmin.networks.losses import Loss
from flatmin.networks.network import Network, quiet, unfit
from flatmin.networks.passes.dense import dense_layers
from flatmin.networks.passes.generic import AutogradPass
from flatmin.networks.train.graphs import branches
from flatmin.networks.trust import called, examine_outputs, require_pure

__all__ = [
    "SLOPES",
    "DenseStack",
    "GenericStack",
    "chain",
    "fitted",
    "private",
    "ready",
    "spread",
    "stacked",
    "still",
]

_ENTRIES = 2**22  # numbers in one temporary array
#: operations of a run's convolutions in one step from which a CPU is faster with one run after the other:
#: stacked they take 1/6 of that time (small nets) to 2.8 times it, as much at 1e7 to 5e7 (R = 3 … 20)
_HEAVY = 3e7


def private(model: nn.Module, device: torch.device) -> Network:
    """A copy of ``model`` on ``device``, every part in the mode it is in.

    Raises ValueError as :class:`~flatmin.networks.network.Network`, and for parts that in training mode are
    random or depend on the batch.
    """
    network = Network(model, None, "eval", device)
    for (name, part), twin in zip(model.named_modules(), network.module.modules(), strict=True):
        twin.training = part.training
        why = unfit(part) if part.training else ""
        if why:
            raise ValueError(
                f"model: {name or 'itself'} ({type(part).__name__}) is in training mode and {why}: must be "
                "in evaluation mode, model.eval(), or replaced (GroupNorm for batch norm, p=0 for dropout)"
            )
    return network


@contextlib.contextmanager
def still(network: Network, threads: int = 1):
    """Run what is inside with exact kernels and ``threads`` threads of torch; put all global state back."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with quiet(network):
            yield
    finally:
        torch.set_num_threads(before)


def fitted(loss: Loss, output: Tensor, samples: Samples) -> Samples:
    """The samples, their targets in the form that ``loss`` takes; ``output`` (1, …) is that of one sample.

    Raises ValueError for targets that do not fit, and for a loss that is no mean over samples.
    """
    shape, targets = output.shape[1:], samples.targets
    real = isinstance(targets, Tensor) and targets.is_floating_point()
    if real and targets[0].numel() == shape.numel():  # (n,) and (n, 1) are the same; nothing is spread
        targets = targets.reshape(len(targets), *shape)
    if not torch.isfinite(output).all():  # of a run that has diverged: only the shape counts
        output = torch.zeros_like(output)
    few = samples.take(slice(0, max(2, _ENTRIES // shape.numel())))
    some = mapped(lambda tensor: tensor[: len(few)], targets)
    loss.bind(output.expand(len(few), *shape).contiguous(), some)
    return Samples(samples.inputs, loss.targets(targets, shape, output.dtype))


def ready(loss: Loss, network: Network, samples: Samples, model: nn.Module) -> Samples:
    """The samples as :func:`fitted` gives them, once all has been checked that training relies on.

    Raises ValueError as there, for a model that fails on the data, is random or lets samples influence each
    other, and for a loss that sees the parameters of the reader's ``model``.
    """
    with torch.no_grad():
        if torch.isfinite(called(network, samples.take(slice(0, 1)))).all():  # else it will be found diverged
            examine_outputs(network, samples)
        output = network.outputs(samples.rows(slice(0, 1)))
    found = fitted(loss, output, samples)
    require_pure(loss, output, mapped(lambda tensor: tensor[:1], found.targets), model)
    return found


def stacked(network: Network, samples: Samples, loss: Loss, thetas: Tensor, batch_size: int):
    """The fastest stack that is right for the network, and the samples in the form it takes.

    A stack must give the gradients of plain autograd on the first two samples, to rounding; fully connected
    networks have gradients by hand, others mapped ones. What cannot be mapped goes one run after the other,
    and on a CPU so do convolutions of much work, ``batch_size`` samples at a time.
    """
    few = samples.take(slice(0, min(2, len(samples))))
    runs = torch.cat([thetas[:1], thetas[-1:]])
    wanted = GenericStack(network, runs, mapped=False).gradients(spread(few, 2), loss)
    found = _chain(network, samples, loss, runs, wanted)
    if found is not None:
        return DenseStack(found[0], thetas), found[1]
    mapped = batch_size * _convolutions(network, samples) < _HEAVY
    mapped = mapped and _can_be_mapped(network, few, loss, runs, wanted)
    return GenericStack(network, thetas, mapped), samples


def _convolutions(network, samples) -> int:
    """Operations of the convolutions for one sample on a CPU; 0 elsewhere, where one kernel does all runs."""
    if network.device.type != "cpu":
        return 0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.outputs(samples.rows(slice(0, 1)))
    return sum(n for kind, n in counter.get_flop_counts()["Global"].items() if "conv" in str(kind))


def chain(network: Network, samples: Samples, loss: Loss, thetas: Tensor):
    """The layers of a fully connected network and the samples (n, d) as its first layer sees them.

    None for every other network, and for one whose gradients by hand are not those of plain autograd.
    """
    few = samples.take(slice(0, min(2, len(samples))))
    runs = torch.cat([thetas[:1], thetas[-1:]])
    wanted = GenericStack(network, runs, mapped=False).gradients(spread(few, 2), loss)
    return _chain(network, samples, loss, runs, wanted)


def _chain(network, samples, loss, runs, wanted):
    read = dense_layers(network.module) if isinstance(samples.inputs, Tensor) else None
    if read is None or not all(layer.activation in SLOPES for layer in read[1]):
        return None
    inputs = samples.inputs
    for module in read[0]:
        inputs = module(inputs)
    if inputs.ndim != 2 or not inputs.is_floating_point():
        return None
    flat = Samples(inputs, samples.targets)
    few = flat.take(slice(0, min(2, len(flat))))
    found = DenseStack(read[1], runs).gradients(spread(few, 2), loss)
    return (read[1], flat) if _agree(found, wanted) else None


def _can_be_mapped(network, few, loss, runs, wanted) -> bool:
    """Whether ``torch.func`` maps over the runs with the right gradients, and with rules of its own."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*performance drop.*")
            found = GenericStack(network, runs, mapped=True).gradients(spread(few, 2), loss)
    except Exception:  # whatever a model may do that torch.func cannot follow: one after the other is right
        return False
    return _agree(found, wanted)


def _agree(found: Tensor, wanted: Tensor) -> bool:
    # sums in another order: some hundred roundings of the largest entry at most
    scale = wanted.abs().max()
    return bool((found - wanted).abs().max() <= 1e3 * torch.finfo(wanted.dtype).eps * scale)


def spread(samples: Samples, runs: int) -> Samples:
    """The same samples for each of ``runs``: every tensor with one more axis in front."""

    def wide(tensor):
        return tensor.expand(runs, *tensor.shape)

    return Samples(mapped(wide, samples.inputs), mapped(wide, samples.targets))


def _relu_slope(back, a):
    return torch.ops.aten.threshold_backward.grad_input(back, a, 0, grad_input=back)


def _tanh_slope(back, a):
    return back.mul_(1 - a * a)


#: φ′ applied in place, from the activation's output
SLOPES = {nn.ReLU: _relu_slope, nn.Tanh: _tanh_slope, nn.Identity: lambda back, a: back}


class DenseStack:
    """R fully connected networks: weights (R, h, d), biases (R, 1, h), gradients by hand.

    Batches are samples with an axis of R runs in front: (R, B, …).
    """

    def __init__(self, layers, thetas: Tensor):
        self.kinds, self.weights, self.biases = [layer.activation for layer in layers], [], []
        alone = {"memory_format": torch.contiguous_format}  # products with parts of one θ are slower
        for layer in layers:
            weight = thetas[:, layer.weight_slice].unflatten(1, layer.weight.shape)
            self.weights.append(weight.clone(**alone))
            bias = None if layer.bias is None else thetas[:, None, layer.bias_slice].clone(**alone)
            self.biases.append(bias)

    def _parts(self):
        pairs = zip(self.weights, self.biases, strict=True)
        return [part for pair in pairs for part in pair if part is not None]

    def thetas(self) -> Tensor:
        """Parameters of all runs, (R, P)."""
        return torch.cat([part.flatten(1) for part in self._parts()], 1)

    def load(self, thetas: Tensor) -> None:
        """Set the parameters of all runs from (R, P)."""
        parts = self._parts()
        for part, new in zip(parts, thetas.split([p[0].numel() for p in parts], 1), strict=True):
            part.copy_(new.view(part.shape))

    def _forward(self, x):
        inputs = []
        for weight, bias, kind in zip(self.weights, self.biases, self.kinds, strict=True):
            inputs.append(x)
            turned = weight.transpose(1, 2)
            x = torch.bmm(x, turned) if bias is None else torch.baddbmm(bias, x, turned)
            x = x.relu_() if kind is nn.ReLU else x.tanh_() if kind is nn.Tanh else x
        return inputs, x

    def _below(self, back, index, inputs):
        """δ of the layer below ``index``; ``inputs`` of that layer are the outputs of the activation."""
        if not index:
            return None
        return SLOPES[self.kinds[index - 1]](torch.bmm(back, self.weights[index]), inputs[index])

    def step(self, batches: Samples, loss: Loss, etas: Tensor) -> None:
        """One step θ ← θ − η ∇L of each run, with ``etas`` (R,)."""
        inputs, outputs = self._forward(batches.inputs)
        back = loss.slopes(outputs, batches.targets).mul_((etas / outputs.shape[1])[:, None, None])
        for index in range(len(self.weights) - 1, -1, -1):
            below = self._below(back, index, inputs)
            self.weights[index].baddbmm_(back.transpose(1, 2), inputs[index], alpha=-1)
            if self.biases[index] is not None:
                self.biases[index].sub_(back.sum(1, keepdim=True))
            back = below

    def gradients(self, batches: Samples, loss: Loss) -> Tensor:
        """∇L of each run, (R, P)."""
        return self._gradients_and_squares(batches, loss)[0]

    def gradients_and_traces(self, batches: Samples, loss: Loss) -> tuple[Tensor, Tensor]:
        """∇L (R, P) and Tr Σ (R,) over the samples."""
        gradient, squares = self._gradients_and_squares(batches, loss)
        return gradient, squares - gradient.square().sum(1)

    def _gradients_and_squares(self, batches, loss):
        inputs, outputs = self._forward(batches.inputs)
        back = loss.slopes(outputs, batches.targets)  # ∂ℓ_i/∂f
        parts, squares = [], 0.0
        for index in range(len(self.weights) - 1, -1, -1):
            bias, a = self.biases[index], inputs[index]
            extra = 0.0 if bias is None else 1.0
            squares = squares + back.square().sum(2) * (a.square().sum(2) + extra)
            if bias is not None:
                parts.append(back.mean(1))
            parts.append(torch.bmm(back.transpose(1, 2), a).flatten(1) / a.shape[1])
            back = self._below(back, index, inputs)
        return torch.cat(parts[::-1], 1), squares.mean(1)


class GenericStack:
    """R networks of any kind: gradients by autograd, ``mapped`` over the stacked parameters or in turn."""

    def __init__(self, network: Network, thetas: Tensor, mapped: bool):
        self.network, self.mapped, self._thetas = network, mapped and len(thetas) > 1, thetas.clone()

    def thetas(self) -> Tensor:
        """Parameters of all runs, (R, P)."""
        return self._thetas.clone()

    def load(self, thetas: Tensor) -> None:
        """Set the parameters of all runs from (R, P)."""
        self._thetas.copy_(thetas)

    def _total(self, run, batches, loss) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """θ of one run as the network's tensors, views, and B ∇L of its batch."""
        batch, views = batches.take(run), self.network.hold(self._thetas[run])
        with torch.enable_grad():
            value = loss.total(self.network.outputs(batch.inputs), batch.targets)
            return views, torch.autograd.grad(value, self.network.tensors, materialize_grads=True)

    def _mapped_totals(self, batches, loss):
        network = self.network

        def total(theta, inputs, targets):
            values = dict(zip(network.names, network.split(theta), strict=True))
            return loss.total(network.outputs(inputs, values), targets)

        return vmap(grad(total))(self._thetas, batches.inputs, batches.targets)

    def step(self, batches: Samples, loss: Loss, etas: Tensor) -> None:
        """One step θ ← θ − η ∇L of each run, with ``etas`` (R,)."""
        scales = etas / _count(batches)
        if self.mapped:
            self._thetas -= scales[:, None] * self._mapped_totals(batches, loss)
            return
        for run, branch in enumerate(branches(len(scales))):  # cheaper than vmap for convolutions of a run
            with branch:
                views, totals = self._total(run, batches, loss)
                torch._foreach_sub_(views, torch._foreach_mul(totals, scales[run]))

    def gradients(self, batches: Samples, loss: Loss) -> Tensor:
        """∇L of each run, (R, P)."""
        if self.mapped:
            return self._mapped_totals(batches, loss) / _count(batches)
        totals = (self._total(run, batches, loss)[1] for run in range(len(self._thetas)))
        found = [torch.cat([part.reshape(-1) for part in parts]) for parts in totals]
        return torch.stack(found) / _count(batches)

    def gradients_and_traces(self, batches: Samples, loss: Loss) -> tuple[Tensor, Tensor]:
        """∇L (R, P) and Tr Σ (R,) over the samples."""
        gradient, squares = self.gradients(batches, loss), []
        for run, theta in enumerate(self._thetas):
            self.network.hold(theta)
            passed = AutogradPass(self.network, batches.take(run), loss)
            squares.append(passed.pulled_squares(passed.output_gradients).mean())
        return gradient, torch.stack(squares) - gradient.square().sum(1)


def _count(batches: Samples) -> int:
    """B, of batches (R, B, …)."""
    return leaves(batches.targets)[0].shape[1]
