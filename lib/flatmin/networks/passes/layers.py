"""Per-sample gradient norms of networks of convolutions and linear layers, one layer at a time.

The gradient of sample i in a linear layer is δᵢ aᵢᵀ, with the layer's input a and the cotangent δ on its
output, so its norm is |δᵢ| |aᵢ|. In a convolution it is a correlation of the two, one small kernel a sample.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flatmin.networks.network import Network

__all__ = ["pulled_squares"]

#: numbers in one temporary array
_ENTRIES = 2**24


def pulled_squares(network: Network, inputs, tops: Tensor) -> Tensor | None:
    """|Jᵢᵀ tᵢ|² for one cotangent ``tops`` (n, C) on each sample's outputs, (n,).

    None for a network with other trainable parameters than those of plain ``Conv2d`` and ``Linear`` modules,
    or one that calls such a module more than once, with other rows than one a sample, or without gradient.
    """
    modules = _readable(network)
    if modules is None:
        return None
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def keep(module, arguments, output):
        seen.append((module, arguments[0].detach() if arguments else None, output))
        return output.clone()  # what follows may work in place

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        with torch.enable_grad():
            outputs = network.outputs(inputs)
            calls = tuple(seen)  # a backward pass may call modules again
            kept = [output for _, _, output in calls]
            if len(kept) != len(modules) or not all(_fits(*call, len(tops)) for call in calls):
                return None
            deltas = torch.autograd.grad(outputs, kept, tops.reshape(outputs.shape))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(_squares(m, a, delta) for (m, a, _), delta in zip(calls, deltas, strict=True))


_AXES = {nn.Conv2d: 4, nn.Linear: 2}


def _fits(module, a, output, rows):
    """Whether a call is one that :func:`_squares` reads: a row a sample, not by keyword, under autograd."""
    return a is not None and a.ndim == _AXES[type(module)] and len(a) == rows and output.requires_grad


def _readable(network):
    """The modules that hold all trainable parameters, if they are of the two kinds; else None."""
    modules = [m for m in network.module.modules() if type(m) in _AXES]
    owned = [p for m in modules for p in m.parameters()]
    wanted = network.tensors
    if len(owned) != len(wanted) or {id(p) for p in owned} != {id(p) for p in wanted}:
        return None
    plain = all(
        m.groups == 1 and m.padding_mode == "zeros" and not isinstance(m.padding, str)
        for m in modules
        if isinstance(m, nn.Conv2d)
    )
    return modules if plain else None


def _squares(module, a, delta):
    if isinstance(module, nn.Linear):
        extra = 0.0 if module.bias is None else 1.0
        return delta.square().sum(1) * (a.square().sum(1) + extra)
    step, parts = max(1, _ENTRIES // module.weight.numel()), []
    for start in range(0, len(a), step):
        square = _kernel_gradients(module, a[start : start + step], delta[start : start + step])
        square = square.square().sum((1, 2, 3, 4))
        if module.bias is not None:
            square += delta[start : start + step].sum((2, 3)).square().sum(1)
        parts.append(square)
    return torch.cat(parts)


def _kernel_gradients(module, a, delta):
    """Per-sample gradients of a convolution's weight, (rows, *weight.shape): samples as channel groups."""
    rows, shape = len(a), module.weight.shape
    flat = torch.nn.grad.conv2d_weight(
        a.reshape(1, -1, *a.shape[2:]),
        (rows * shape[0], *shape[1:]),
        delta.reshape(1, -1, *delta.shape[2:]),
        module.stride,
        module.padding,
        module.dilation,
        rows,
    )
    return flat.view(rows, *shape)
