"""Fully connected and linear networks of the papers, and random features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flatmin import _check
from flatmin.networks.data.sets import floating
from flatmin.networks.models.initialise import MOST, generator_of, initialise, linear

__all__ = ["DiagonalLinear", "linear_network", "mlp", "random_features"]

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "identity": nn.Identity}


def mlp(
    sizes: Sequence[int],
    seed: int = 0,
    initialisation: str = "he",
    activation: str = "relu",
    bias: bool = True,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Fully connected network of layer widths ``sizes`` = (inputs, hidden…, outputs).

    ``mlp((784, 50, 50, 10))`` is the network of Y23 and Y26, ``mlp((784, 10, 1), initialisation="glorot")``
    that of M22 §5.3.

    Parameters
    ----------
    sizes : sequence of int
        At least two widths. Inputs of any shape (n, …) are flattened.
    seed : int
    initialisation : str
        See :func:`initialise`.
    activation : "relu", "tanh" or "identity"
        After every layer but the last; "identity" makes a deep linear network.
    bias : bool
    dtype : torch.dtype
        A floating-point type.

    Raises
    ------
    ValueError
        Naming the argument: fewer than two sizes, a size below 1, an unknown name.
    """
    sizes = _check.array("sizes", sizes, ndim=1, dtype=int, least=1, most=MOST).tolist()
    if len(sizes) < 2 or max(a * b for a, b in itertools.pairwise(sizes)) > MOST:
        allowed = f"two positive widths or more, of at most {MOST:.2g} weights a layer"
        raise _check.refused("sizes", sizes, allowed)
    kind = _ACTIVATIONS[_check.choice("activation", activation, _ACTIVATIONS)]
    how = {"bias": _check.flag("bias", bias), "dtype": floating(dtype)}
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [linear(inputs, outputs, **how), kind()]
    return initialise(nn.Sequential(*layers[:-1]), initialisation, seed)


def linear_network(
    sizes: Sequence[int], seed: int = 0, initialisation: str = "lecun", dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Deep linear network f(x) = W_L ⋯ W₁ x without biases (W22 §2.1); otherwise as :func:`mlp`."""
    return mlp(sizes, seed, initialisation, "identity", bias=False, dtype=dtype)


class DiagonalLinear(nn.Module):
    """Diagonal linear network f(x) = Σ (a_j² − b_j²) x_j (W22 §2.1), (n, d) → (n, 1).

    Parameters a, b (d,), both ``scale`` at the start, so that f = 0 there. Raises ValueError for a
    ``dimension`` below 1, a ``scale`` that is not finite, or a ``dtype`` that is not floating point.
    """

    def __init__(self, dimension: int, scale: float = 0.1, dtype: torch.dtype = torch.float32):
        super().__init__()
        dimension = _check.integer("dimension", dimension, least=1, most=MOST)
        scale = _check.number("scale", scale, least=-1e18, most=1e18)  # its square must be finite in float32
        dtype = floating(dtype)
        self.a = nn.Parameter(torch.full((dimension,), scale, dtype=dtype))
        self.b = nn.Parameter(torch.full((dimension,), scale, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, 1) of inputs (n, d)."""
        return (x @ (self.a.square() - self.b.square()))[:, None]


class Features(nn.Module):
    """Fixed random features φ_j(x) = ReLU(w_j·x), (n, d) → (n, m); not trained."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        """Features (n, m) of inputs (n, d)."""
        return (x @ self.weight.T).relu_()


def random_features(
    dimension: int, features: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Random ReLU feature model f(x) = Σ_j θ_j ReLU(w_j·x), w_j uniform on the sphere of radius √d (W22 Prop.
    2.5).

    θ starts at 0. ``dimension`` is d, ``features`` m. Raises ValueError for a size below 1, a seed below 0,
    or a ``dtype`` that is not floating point.
    """
    dimension = _check.integer("dimension", dimension, least=1, most=MOST)
    features, dtype = _check.integer("features", features, least=1, most=MOST // dimension), floating(dtype)
    weight = torch.randn(features, dimension, generator=generator_of(seed), dtype=torch.float64)
    weight *= math.sqrt(dimension) / weight.norm(dim=1, keepdim=True)
    model = nn.Sequential(Features(weight.to(dtype)), linear(features, 1, bias=False, dtype=dtype))
    with torch.no_grad():
        model[1].weight.zero_()
    return model
