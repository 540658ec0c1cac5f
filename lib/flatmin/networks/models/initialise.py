"""Initial weights by name, the same in every dtype."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from flatmin import _check

__all__ = ["initialise"]

#: widths of convolutions, and numbers in one weight, beyond which a request is taken for a mistake
WIDEST, MOST = 2**15, 2**32


def linear(inputs: int, outputs: int, **how) -> nn.Linear:
    """A linear layer whose weights are not drawn yet: torch's own draw would move its global generator."""
    return skip_init(nn.Linear, inputs, outputs, **how)


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1, **how) -> nn.Conv2d:
    """A padded convolution whose weights are not drawn yet."""
    return skip_init(nn.Conv2d, inputs, outputs, size, stride, size // 2, **how)


def generator_of(seed: int) -> torch.Generator:
    """A generator of its own for a seed."""
    return torch.Generator().manual_seed(_check.integer("seed", seed, least=0, most=2**63 - 1))


def fans(weight: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out)."""
    receptive = math.prod(weight.shape[2:])
    return weight.shape[1] * receptive, weight.shape[0] * receptive


def normal(weight, variance, generator):
    """Draw in float64 and round, so that float32 and float64 networks of one seed are the same network."""
    draw = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    weight.copy_(draw * math.sqrt(variance))


def uniform(weight, bound, generator):
    draw = torch.rand(weight.shape, generator=generator, dtype=torch.float64)
    weight.copy_((2 * draw - 1) * bound)


_INITIALISATIONS = {
    # He et al. 2015; Y26's networks (fully connected: fan_in, convolutions: fan_out)
    "he": lambda w, fan_in, fan_out, g: normal(w, 2 / fan_in, g),
    "he-fan-out": lambda w, fan_in, fan_out, g: normal(w, 2 / fan_out, g),
    # Glorot & Bengio 2010; M22's networks
    "glorot": lambda w, fan_in, fan_out, g: uniform(w, math.sqrt(6 / (fan_in + fan_out)), g),
    "glorot-normal": lambda w, fan_in, fan_out, g: normal(w, 2 / (fan_in + fan_out), g),
    "lecun": lambda w, fan_in, fan_out, g: normal(w, 1 / fan_in, g),
}


def initialise(model: nn.Module, initialisation: str = "he", seed: int = 0) -> nn.Module:
    """Draw the weights of ``model`` by name and set its biases to 0, in place; return it.

    Parameters
    ----------
    model : torch.nn.Module
        Parameters with fewer than two axes are biases.
    initialisation : str
        "he" N(0, 2/fan_in), "he-fan-out" N(0, 2/fan_out), "glorot" U(±√(6/(fan_in+fan_out))),
        "glorot-normal", "lecun" N(0, 1/fan_in).
    seed : int
        The same seed gives the same network in every dtype; no global generator moves.

    Raises
    ------
    ValueError
        For another name, a model that is none, or a seed out of range.
    """
    _check.instance("model", model, nn.Module)
    draw = _INITIALISATIONS[_check.choice("initialisation", initialisation, _INITIALISATIONS)]
    generator = generator_of(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.zero_()
            else:
                draw(parameter, *fans(parameter), generator)
    return model
