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

__all__ = [
    "DiagonalLinear",
    "FixupResNet",
    "cnn",
    "cnn_stacks",
    "flat",
    "initialise",
    "linear_network",
    "mlp",
    "parameter_slice",
    "random_features",
    "vgg",
    "with_parameters",
]

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
    generator = _generator(seed)
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


def linear_network(
    sizes: Sequence[int], seed: int = 0, initialisation: str = "lecun", dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Deep linear network f(x) = W_L ⋯ W₁ x without biases (W22 §2.1); arguments as :func:`mlp`."""
    return mlp(sizes, seed, initialisation, "identity", bias=False, dtype=dtype)


class DiagonalLinear(nn.Module):
    """Diagonal linear network f(x) = Σ (a_j² − b_j²) x_j (W22 §2.1), (n, d) → (n, 1).

    Parameters a, b (d,), both ``scale`` at the start, so that f = 0 there.
    """

    def __init__(self, dimension: int, scale: float = 0.1, dtype: torch.dtype = torch.float32):
        super().__init__()
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

    θ starts at 0. ``features`` is m. Raises ValueError for a size below 1.
    """
    if dimension < 1 or features < 1:
        raise ValueError(f"dimension and features must be positive, got {dimension} and {features}")
    weight = torch.randn(features, dimension, generator=_generator(seed), dtype=torch.float64)
    weight *= math.sqrt(dimension) / weight.norm(dim=1, keepdim=True)
    model = nn.Sequential(Features(weight.to(dtype)), nn.Linear(features, 1, bias=False, dtype=dtype))
    with torch.no_grad():
        model[1].weight.zero_()
    return model


def _generator(seed):
    return torch.Generator().manual_seed(seed)


def cnn(
    seed: int = 0, channels: int = 3, size: int = 32, hidden: int = 128, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Convolutional network of Y26 (SI): 3×3 convolutions to 32, 64, 64 channels, each ReLU and 2×2 max-pool.

    Then ``hidden`` ReLU units and 10 outputs. Convolutions He normal by fan_out, linear layers by fan_in.
    The default is theirs for CIFAR-10, 188 810 parameters; ``channels=1, size=28`` takes MNIST.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((channels, 32, 64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, dtype=dtype), nn.ReLU(), nn.MaxPool2d(2)]
    wide = 64 * (size // 8) ** 2
    layers += [nn.Flatten(), nn.Linear(wide, hidden, dtype=dtype), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(hidden, 10, dtype=dtype))
    initialise(model, "he", seed)
    generator = _generator(seed)
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Conv2d):
                _normal(module.weight, 2 / _fans(module.weight)[1], generator)
    return model


def cnn_stacks(
    widths: Sequence[int] = (64, 128, 256),
    depth: int = 3,
    seed: int = 0,
    initialisation: str = "glorot",
    channels: int = 3,
    size: int = 32,
    outputs: int = 10,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """Convolutional network of M22 §5.2: for each width a stack of ``depth`` 3×3 convolutions and a 2×2
    max-pool.

    ReLU after every convolution, padding 1 (the paper does not say), one linear output layer, no batch norm.
    """
    layers: list[nn.Module] = []
    inputs = channels
    for width in widths:
        for _ in range(depth):
            layers += [nn.Conv2d(inputs, width, 3, padding=1, dtype=dtype), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
        size //= 2
    layers += [nn.Flatten(), nn.Linear(inputs * size**2, outputs, dtype=dtype)]
    return initialise(nn.Sequential(*layers), initialisation, seed)


_VGG = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def vgg(
    depth: int = 11,
    seed: int = 0,
    width: int = 64,
    initialisation: str = "he",
    outputs: int = 10,
    dtype: torch.dtype = torch.float32,
) -> nn.Sequential:
    """VGG-11/13/16/19 for 32×32 images without batch norm (W22 §4): five stacks of 3×3 convolutions, one
    linear layer.

    Five stacks of widths 1, 2, 4, 8, 8 times ``width`` (64 in the original). Raises ValueError for another
    depth.
    """
    if depth not in _VGG:
        raise ValueError(f"depth must be one of {sorted(_VGG)}, got {depth}")
    layers: list[nn.Module] = []
    inputs = 3
    for factor, count in zip((1, 2, 4, 8, 8), _VGG[depth], strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, factor * width, 3, padding=1, dtype=dtype), nn.ReLU()]
            inputs = factor * width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(inputs, outputs, dtype=dtype)]
    return initialise(nn.Sequential(*layers), initialisation, seed)


class _FixupBlock(nn.Module):
    """Two 3×3 convolutions, four scalar biases and a multiplier, around a shortcut (Zhang et al. 2019)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride, self.extra = stride, outputs - inputs
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.biases = nn.Parameter(torch.zeros(4))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        b = self.biases
        out = torch.relu(self.first(x + b[0]) + b[1])
        out = self.second(out + b[2]) * self.scale + b[3]
        if self.stride > 1:
            x = nn.functional.avg_pool2d(x + b[0], 1, self.stride)
            x = nn.functional.pad(x, (0, 0, 0, 0, 0, self.extra))
        return torch.relu(out + x)


class FixupResNet(nn.Module):
    """ResNet-20/32/44/56/110 for 32×32 images with Fixup instead of batch norm (W22 §4, its reference 50).

    ``depth`` = 6·blocks + 2; stack widths are 1, 2, 4 times ``width`` (16 in the original). Fixup: the first
    convolution of each block is He normal by fan_out times (number of blocks)^(−1/2), the second and the last
    layer start at 0. Raises ValueError for a depth that is not 6·blocks + 2.
    """

    def __init__(self, depth: int = 20, seed: int = 0, width: int = 16, outputs: int = 10):
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6·blocks + 2 (20, 32, 44, 56, 110, …), got {depth}")
        self.stem = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.biases = nn.Parameter(torch.zeros(2))
        stages, inputs = [], width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                stages.append(_FixupBlock(inputs, width * 2**stage, stride))
                inputs = width * 2**stage
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, outputs)
        self._initialise(_generator(seed))

    def _initialise(self, generator):
        with torch.no_grad():
            _normal(self.stem.weight, 2 / _fans(self.stem.weight)[1], generator)
            for block in self.blocks:
                _normal(block.first.weight, 2 / _fans(block.first.weight)[1] / len(self.blocks), generator)
                block.second.weight.zero_()
            self.head.weight.zero_()
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, 10) of images (n, 3, 32, 32)."""
        x = torch.relu(self.stem(x) + self.biases[0])
        x = self.blocks(x).mean((2, 3))
        return self.head(x + self.biases[1])


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
