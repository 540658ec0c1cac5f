"""Per-sample gradients of networks of convolutions and linear layers, one layer at a time.

The gradient of sample i in a linear layer is δᵢ aᵢᵀ, with the layer's input a and the cotangent δ on its
output, so its norm is |δᵢ| |aᵢ|. In a convolution it is Σ_t δᵢₜ aᵢₜᵀ over the positions t of the output, with
aᵢₜ the patch of the input that is seen there, so the inner product of two samples is
Σ_tt' (δᵢₜ·δⱼₜ') (aᵢₜ·aⱼₜ'): for few positions nothing of the size of the weights is formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from flatmin.networks.network import Network

__all__ = ["Call", "calls_of", "gram", "pulled_squares", "readable"]

#: numbers in one temporary array
_ENTRIES = 2**24
#: what an entry of an elementwise product costs, in multiplications of a matrix product
_SLOW = 20
_AXES = {nn.Conv2d: 4, nn.Linear: 2}


@dataclass(frozen=True)
class Call:
    """One layer's share: its ``module``, inputs (n, …) and cotangents on its outputs (n, c, …)."""

    module: nn.Module
    inputs: Tensor
    deltas: Tensor


def readable(network: Network) -> tuple[list[nn.Module], tuple[str, ...]] | None:
    """The layers that this module reads, and the names of the trainable parameters that are in none of them.

    None for a network with a convolution or linear layer of another kind, or one whose weights are not all
    trained, or shared, and where more than a tenth of the parameters are in none.
    """
    modules = [m for m in network.module.modules() if type(m) in _AXES]
    parameters = [p for m in modules for p in m.parameters()]
    wanted = {id(p): name for name, p in zip(network.names, network.tensors, strict=True)}
    owned = {id(p) for p in parameters}
    enough = sum(p.numel() for p in parameters) >= 0.9 * network.parameters
    if len(owned) != len(parameters) or not owned <= set(wanted) or not enough:
        return None
    plain = all(
        m.groups == 1 and m.padding_mode == "zeros" and not isinstance(m.padding, str)
        for m in modules
        if isinstance(m, nn.Conv2d)
    )
    rest = tuple(name for key, name in wanted.items() if key not in owned)
    return (modules, rest) if plain else None


def calls_of(network: Network, inputs, tops: Tensor) -> list[Call] | None:
    """What each layer sees of ``tops`` (n, c, C), c cotangents on each sample's outputs, pulled back.

    None for a network that is not :func:`readable`, or that calls a layer more than once, with other rows
    than one a sample, or without gradient.
    """
    read = readable(network)
    if read is None:
        return None
    modules, seen = read[0], []

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
            pulled = [
                torch.autograd.grad(outputs, kept, top.reshape(outputs.shape), retain_graph=True)
                for top in tops.unbind(1)
            ]
    finally:
        for hook in hooks:
            hook.remove()
    deltas = [torch.stack(parts, 1) for parts in zip(*pulled, strict=True)]
    return [Call(m, a, delta) for (m, a, _), delta in zip(calls, deltas, strict=True)]


def _fits(module, a, output, rows):
    """Whether a call is one that can be read: a row a sample, not by keyword, under autograd."""
    return a is not None and a.ndim == _AXES[type(module)] and len(a) == rows and output.requires_grad


def pulled_squares(network: Network, inputs, tops: Tensor) -> Tensor | None:
    """Σ_layers |Jᵢᵀ tᵢ|² for one cotangent ``tops`` (n, C) on each sample's outputs, (n,).

    The parameters in no layer are left out. None as :func:`calls_of`.
    """
    calls = calls_of(network, inputs, tops[:, None])
    return None if calls is None else sum(_squares(c.module, c.inputs, c.deltas[:, 0]) for c in calls)


def _squares(module, a, delta):
    if isinstance(module, nn.Linear):
        extra = 0.0 if module.bias is None else 1.0
        return delta.square().sum(1) * (a.square().sum(1) + extra)
    step, parts = max(1, _ENTRIES // module.weight.numel()), []
    for start in range(0, len(a), step):
        rows = slice(start, start + step)
        kernels = delta[rows].flatten(2) @ _patches(module, a[rows])  # (r, O, d)
        parts.append(kernels.square().sum((1, 2)))
    return torch.cat(parts)


def _patches(module, a: Tensor) -> Tensor:
    """What each output position sees, 1 appended where there is a bias, (n, T, d)."""
    if isinstance(module, nn.Linear):
        seen = a[:, None]
    else:
        how = module.dilation, module.padding, module.stride
        seen = functional.unfold(a, module.kernel_size, *how).transpose(1, 2)
    if module.bias is None:
        return seen
    return torch.cat([seen, torch.ones_like(seen[..., :1])], 2)


def gram(call: Call) -> Tensor:
    """One layer's share of the inner products of c per-sample gradients, (n·c, n·c).

    Position by position or through the gradients, whichever multiplies less. Memory: that array, the patches
    of the samples where the positions are few, and temporary arrays.
    """
    n, c, width = call.deltas.shape[:3]
    deltas = call.deltas.reshape(n, c, width, -1)
    positions, size = deltas.shape[3], call.module.weight[0].numel() + (call.module.bias is not None)
    by_position = positions**2 * (size + c**2 * (width + _SLOW))
    through = c**2 * width * size + c * width * size * positions / n
    return _by_position(call, deltas) if by_position < through else _through_gradients(call, deltas, size)


def _by_position(call, deltas):
    n, c, width, positions = deltas.shape
    a = _patches(call.module, call.inputs).reshape(n * positions, -1)
    d = deltas.transpose(2, 3).reshape(n * c * positions, width)
    step, out = max(1, _ENTRIES // (n * (c * positions) ** 2)), d.new_empty(n, c, n, c)
    for start in range(0, n, step):
        r = min(step, n - start)
        seen = a[start * positions : (start + r) * positions] @ a.T
        pulled = d[start * c * positions : (start + r) * c * positions] @ d.T
        pulled = pulled.view(r, c, positions, n, c, positions)
        pulled *= seen.view(r, 1, positions, n, 1, positions)
        out[start : start + r] = pulled.sum((2, 5))
    return out.view(n * c, n * c)


def _through_gradients(call, deltas, size):
    n, c, width, positions = deltas.shape
    out = deltas.new_zeros(n * c, n * c)
    channels = max(1, _ENTRIES // (n * c * size))
    few = max(1, _ENTRIES // (positions * size))
    for first in range(0, width, channels):
        part = deltas[:, :, first : first + channels]
        rows = deltas.new_empty(n, c * part.shape[2], size)
        for start in range(0, n, few):
            some = slice(start, start + few)
            rows[some] = part[some].flatten(1, 2) @ _patches(call.module, call.inputs[some])
        rows = rows.view(n * c, -1)
        out.addmm_(rows, rows.T)
    return out
