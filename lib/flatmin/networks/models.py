"""Networks of the five papers, as plain ``torch.nn.Module``.

Parameters are counted in the order of ``module.parameters()``: weight (out, in), then bias, layer by layer.
The flat vector of all of them, (P,), is what :mod:`flatmin.networks` calls θ.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["flat", "initialise", "mlp", "parameter_slice", "with_parameters"]

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "identity": nn.Identity}


def _fans(weight: Tensor) -> tuple[int, int]:
    receptive = math.prod(weight.shape[2:])
    return weight.shape[1] * receptive, weight.shape[0] * receptive


def _normal(weight, variance, generator):
    # drawn in float64 and rounded, so that float32 and float64 networks of one seed are the same network
    draw = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    weight.copy_(draw * math.sqrt(variance))


def _uniform(weight, bound, generator):
    draw = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
    weight.copy_((2 * draw - 1) * bound)


_INITIALISATIONS = {
    # He et al. 2015; Y26's networks (fully connected: fan_in, convolutions: fan_out)
    "he": lambda w, fan_in, fan_out, g: _normal(w, 2 / fan_in, g),
    "he-fan-out": lambda w, fan_in, fan_out, g: _normal(w, 2 / fan_out, g),
    # Glorot & Bengio 2010; M22's networks
    "glorot": lambda w, fan_in, fan_out, g: _uniform(w, math.sqrt(6 / (fan_in + fan_out)), g),
    "glorot-normal": lambda w, fan_in, fan_out, g: _normal(w, 2 / (fan_in + fan_out), g),
    "lecun": lambda w, fan_in, fan_out, g: _normal(w, 1 / fan_in, g),
}


def initialise(model: nn.Module, initialisation: str = "he", seed: int = 0) -> nn.Module:
    """Draw the weights of ``model`` by name and set its biases to 0, in place; return it.

    ``initialisation``: ``"he"`` N(0, 2/fan_in), ``"he-fan-out"`` N(0, 2/fan_out), ``"glorot"``
    U(±√(6/(fan_in+fan_out))), ``"glorot-normal"``, ``"lecun"`` N(0, 1/fan_in). The same seed gives the same
    network in every dtype. Parameters with fewer than two axes are biases.
    Raises ValueError for another name.
    """
    if initialisation not in _INITIALISATIONS:
        raise ValueError(f"initialisation must be one of {sorted(_INITIALISATIONS)}, got {initialisation!r}")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.zero_()
            else:
                _INITIALISATIONS[initialisation](parameter, *_fans(parameter), generator)
    return model


def mlp(
    sizes: Sequence[int],
    seed: int = 0,
    initialisation: str = "he",
    activation: str = "relu",
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Fully connected network of layer widths ``sizes`` = (inputs, hidden…, outputs).

    Inputs of any shape (n, …) are flattened. ``activation`` is ``"relu"``, ``"tanh"`` or ``"identity"`` (a
    deep linear network) after every layer but the last. ``initialisation``: see :func:`initialise`.
    ``mlp((784, 50, 50, 10))`` is the network of Y23 and Y26, ``mlp((784, 10, 1), initialisation="glorot")``
    that of M22 §5.3.
    Raises ValueError for fewer than two sizes, a size below 1, or an unknown name.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be at least two positive widths, got {tuple(sizes)}")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(_ACTIVATIONS)}, got {activation!r}")
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs, bias=bias, dtype=dtype), _ACTIVATIONS[activation]()]
    return initialise(nn.Sequential(*layers[:-1]), initialisation, seed)


def trainable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return (name, parameter) of what is trained, in order."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def flat(model: nn.Module) -> Tensor:
    """Return θ, the trainable parameters of ``model`` as one vector (P,), detached copy."""
    return torch.cat([p.detach().reshape(-1) for _, p in trainable(model)])


def with_parameters(model: nn.Module, theta: Tensor) -> nn.Module:
    """Return a copy of ``model`` whose trainable parameters are the vector ``theta`` (P,).

    Raises ValueError if the number of parameters differs.
    """
    twin = copy.deepcopy(model)
    parameters = [p for _, p in trainable(twin)]
    count = sum(p.numel() for p in parameters)
    if theta.shape != (count,):
        raise ValueError(f"theta must have shape ({count},), got {tuple(theta.shape)}")
    with torch.no_grad():
        start = 0
        for p in parameters:
            p.copy_(theta[start : start + p.numel()].reshape(p.shape))
            start += p.numel()
    return twin


def parameter_slice(model: nn.Module, layer: int | str | None) -> slice:
    """Return which entries of θ belong to ``layer``.

    ``None`` is all of them; a number counts weights with two or more axes from 1 (layer 2 of an MLP is its
    second weight matrix, without bias, the block of Y26); a string is a parameter's name.
    Raises ValueError for a layer that does not exist.
    """
    named = trainable(model)
    if layer is None:
        return slice(0, sum(p.numel() for _, p in named))
    weights = [name for name, p in named if p.ndim >= 2]
    if isinstance(layer, int):
        if not 1 <= layer <= len(weights):
            raise ValueError(f"layer must be 1…{len(weights)}, got {layer}")
        layer = weights[layer - 1]
    start = 0
    for name, p in named:
        if name == layer:
            return slice(start, start + p.numel())
        start += p.numel()
    raise ValueError(f"layer must be one of {[name for name, _ in named]}, got {layer!r}")
