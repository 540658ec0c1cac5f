"""A network with its loss and samples, to be evaluated at many parameter vectors at once.

Fully connected networks hold the samples along the *last* axis: activations are (S, h, n) for S parameter
vectors, so that the first layer of all of them is one product with the inputs and every other a batched one.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from flatmin import _check
from flatmin.networks import losses
from flatmin.networks.data.samples import Samples, leaves
from flatmin.networks.network import Network
from flatmin.networks.train.stacks import chain, ready

__all__ = ["Form", "backward_", "vectors"]

#: numbers in the temporary arrays of one chunk: on a CPU as many as stay near its caches, and elsewhere
_ENTRIES = {True: 2**22, False: 2**28}
#: most parameter vectors in one chunk
_MOST = 1024


class Form:
    """A network, its loss and its samples, all on one device; ``layers`` is None unless fully connected.

    ``width`` is how many numbers the activations of one sample are, about.
    """

    def __init__(self, network: Network, loss, samples: Samples, model: nn.Module):
        self.network, self.loss, self.on_cpu = network, losses.of(loss), network.device.type == "cpu"
        samples = ready(self.loss, network, samples.to(network.device, network.dtype), model)
        theta = torch.cat([p.detach().reshape(-1) for p in network.tensors])[None]
        read = chain(network, samples, self.loss, theta)
        self.layers, self.samples = (None, samples) if read is None else read
        self.count = len(samples)
        if self.layers is not None:
            self.width = sum(len(layer.weight) for layer in self.layers)
            self.inputs = self.samples.inputs
        else:
            self.width = 64 * leaves(samples.inputs)[0][0].numel()

    def chunks(self, total: int, width: int | None = None):
        """Slices of ``total`` parameter vectors, of ``width`` numbers a sample each, that fit together."""
        budget = _ENTRIES[self.on_cpu]
        step = budget // max(self.count * (width or self.width), self.network.parameters)
        step = min(max(step, 1), _MOST)
        return [slice(i, min(i + step, total)) for i in range(0, total, step)]

    def parts(self, thetas: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Weights (S, h, d) and biases (S, h, 1) of the layers of a fully connected network."""
        found = []
        for layer in self.layers:
            weight = thetas[:, layer.weight_slice].unflatten(1, layer.weight.shape)
            found.append((weight, None if layer.bias is None else thetas[:, layer.bias_slice, None]))
        return found

    def first(self, parts) -> Tensor:
        """What the first layer adds up before its activation, (S, h, n): one product for all."""
        weight, bias = parts[0]
        found = (weight.reshape(-1, weight.shape[2]) @ self.inputs.T).view(*weight.shape[:2], -1)
        return found if bias is None else found.add_(bias)

    def above(self, z: Tensor, parts, overwrite: bool = True) -> list[Tensor]:
        """Activations of all layers, the last are the outputs (S, C, n), from what :meth:`first` gives.

        Where no graph is kept, and unless told otherwise, ``z`` is overwritten.
        """
        found = [_activated(z, self.layers[0].activation, overwrite)]
        for layer, (weight, bias) in zip(self.layers[1:], parts[1:], strict=True):
            a = found[-1]
            z = torch.bmm(weight, a) if bias is None else torch.baddbmm(bias, weight, a)
            found.append(_activated(z, layer.activation))
        return found

    def outputs(self, thetas: Tensor) -> Tensor:
        """Outputs at ``thetas`` (S, P) on the device: (S, C, n), for networks one by one (S, n, …)."""
        if self.layers is not None:
            parts = self.parts(thetas)
            return self.above(self.first(parts), parts)[-1]
        found = []
        for theta in thetas:
            values = dict(zip(self.network.names, self.network.split(theta), strict=True))
            rows = [self.network.outputs(self.samples.rows(r), values) for r in self.row_chunks()]
            found.append(torch.cat(rows))
        return torch.stack(found)

    def row_chunks(self):
        """Slices of the samples whose activations fit together, for networks that go one by one."""
        step = max(1, _ENTRIES[self.on_cpu] * 16 // self.width)
        return [slice(i, min(i + step, self.count)) for i in range(0, self.count, step)]

    @cached_property
    def places(self) -> Tensor | None:
        """Labels as unit columns (C, n) for the cross-entropy of a fully connected network, else None.

        Softmax along the first axis of (C, n) is some twenty times as fast as along the last of (n, C).
        """
        if self.layers is None or self.loss.given != "cross-entropy":
            return None
        found = torch.nn.functional.one_hot(self.samples.targets.long(), len(self.layers[-1].weight))
        return found.T.to(self.inputs).contiguous()

    def mean_losses(self, outputs: Tensor) -> Tensor:
        """Mean loss (S,) of outputs as :meth:`outputs` gives them, differentiable."""
        if self.places is not None:
            return (torch.logsumexp(outputs, 1) - (outputs * self.places).sum(1)).mean(1)
        outputs, targets = self._by_sample(outputs), self.samples.targets
        return self.loss.totals(outputs, targets.expand(len(outputs), *targets.shape)) / self.count

    def slopes(self, outputs: Tensor) -> Tensor:
        """∂(n L)/∂f of the outputs (S, C, n) of fully connected networks."""
        if self.places is not None:
            return torch.softmax(outputs, 1).sub_(self.places)
        targets = self.samples.targets
        return self.loss.slopes(outputs.mT, targets.expand(len(outputs), *targets.shape)).mT

    def _by_sample(self, outputs):
        return outputs if self.layers is None else outputs.mT

    def chosen(self, outputs: Tensor) -> Tensor:
        """The class that each output names, (S, n); a single output by whether it is positive."""
        axis = 2 if self.layers is None else 1
        if self.layers is None:
            outputs = outputs.flatten(2)
        if outputs.shape[axis] == 1:
            return (outputs.squeeze(axis) > 0).long()
        return outputs.argmax(axis)

    def labels(self, outputs: Tensor) -> Tensor:
        """The targets as classes (n,); ValueError where they are none."""
        targets, width = self.samples.targets, outputs[0].numel() // self.count
        if isinstance(targets, Tensor) and targets.numel() == self.count * width and width == 1:
            return (targets.reshape(-1) > 0).long()
        if isinstance(targets, Tensor) and targets.is_floating_point() and targets.ndim == 2:
            return targets.argmax(1)
        if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 1:
            raise ValueError("data: targets must be class labels, one-hot rows, or signs for one output")
        return targets


def _activated(z: Tensor, kind, overwrite: bool = True) -> Tensor:
    """φ(z), in its place where no graph is kept."""
    if kind is nn.Identity:
        return z
    if torch.is_grad_enabled() or not overwrite:
        return z.relu() if kind is nn.ReLU else z.tanh()
    return z.relu_() if kind is nn.ReLU else z.tanh_()


def backward_(back: Tensor, a: Tensor, kind) -> Tensor:
    """∂L/∂z in the place of ∂L/∂a, for the activations of the stacks, from the activation's output ``a``."""
    if kind is nn.ReLU:
        return torch.ops.aten.threshold_backward.grad_input(back, a, 0, grad_input=back)
    if kind is nn.Tanh:
        return torch.ops.aten.tanh_backward.grad_input(back, a, grad_input=back)
    return back


def vectors(name: str, value, parameters: int) -> Tensor:
    """``value`` as a tensor (R, P) on the CPU; ValueError naming the argument, also for rows not finite."""
    allowed = f"finite real numbers, of shape (R, {parameters}), one network a row, at least one row"
    if not isinstance(value, (Tensor, np.ndarray)):
        raise _check.refused(name, value, allowed)
    kind = value.dtype.is_floating_point if isinstance(value, Tensor) else value.dtype.kind == "f"
    if not kind or value.ndim != 2 or value.shape[1] != parameters or not len(value):
        raise _check.refused(name, value, allowed)
    found = torch.as_tensor(value).detach().cpu()
    lost = (~torch.isfinite(found).all(1)).nonzero()
    if len(lost):
        where = f"row {int(lost[0])} of {len(found)} of {name}={_check.shown(value)}"
        raise ValueError(
            f"{name}: {where} holds NaN or ∞: must be finite; "
            "a run that diverged has no valley to descend into, leave it out"
        )
    return found
