"""The trainable parameters of a network as one vector θ (P,), in the order of ``module.parameters()``.

Weight (out, in), then bias, layer by layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from flatmin._check import choice, integer, refused

__all__ = ["block_of", "trainable", "vector", "with_parameters"]


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return (name, parameter) of what is trained, in order; ValueError if ``model`` is no module."""
    if not isinstance(model, nn.Module):
        raise refused("model", model, "a torch.nn.Module")
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def vector(model: nn.Module) -> Tensor:
    """Return θ, the trainable parameters of ``model`` as one vector (P,), detached copy."""
    return torch.cat([p.detach().reshape(-1) for _, p in trainable(model)])


def with_parameters(model: nn.Module, theta: Tensor) -> nn.Module:
    """Return a copy of ``model`` whose trainable parameters are the vector ``theta`` (P,).

    Raises ValueError unless theta is a finite tensor of as many numbers.
    """
    count = sum(p.numel() for _, p in trainable(model))
    if not isinstance(theta, Tensor) or theta.shape != (count,) or not torch.isfinite(theta).all():
        raise refused("theta", theta, f"a tensor of finite numbers, of shape ({count},)")
    twin = copy.deepcopy(model)
    parameters = [p for _, p in trainable(twin)]
    with torch.no_grad():
        for p, part in zip(parameters, theta.split([p.numel() for p in parameters]), strict=True):
            p.copy_(part.view(p.shape))
    return twin


def block_of(named: Iterable[tuple[str, Tensor]], layer: int | str | None) -> slice:
    """Return which entries of θ belong to ``layer``, for (name, parameter) in the order of θ.

    ``None`` is all of them; a number counts weights with two or more axes from 1 (layer 2 of an MLP is its
    second weight matrix, without bias, the block of Y26); a string is a parameter's name.
    Raises ValueError for a layer that does not exist.
    """
    named = list(named)
    if layer is None:
        return slice(0, sum(p.numel() for _, p in named))
    weights = [name for name, p in named if p.ndim >= 2]
    if not isinstance(layer, str):
        layer = weights[integer("layer", layer, least=1, most=len(weights)) - 1]
    names = [name for name, _ in named]
    place = names.index(choice("layer", layer, names))
    start = sum(p.numel() for _, p in named[:place])
    return slice(start, start + named[place][1].numel())
