"""Convolutional networks of the papers, without batch norm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from flatmin import _check
from flatmin.networks.data.sets import floating
from flatmin.networks.models.initialise import (
    WIDEST,
    convolution,
    fans,
    generator_of,
    initialise,
    linear,
    normal,
)

__all__ = ["FixupResNet", "cnn", "cnn_stacks", "vgg"]


def _width(name, value, least=1) -> int:
    return _check.integer(name, value, least=least, most=WIDEST)


def _stacks(inputs: int, stacks: Iterable[tuple[int, int]], dtype) -> list[nn.Module]:
    """For each (width, count) so many 3×3 convolutions, ReLU after each, and a 2×2 max-pool."""
    layers: list[nn.Module] = []
    for width, count in stacks:
        for _ in range(count):
            layers += [convolution(inputs, width, dtype=dtype), nn.ReLU()]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    return layers


def cnn(
    seed: int = 0, channels: int = 3, size: int = 32, hidden: int = 128, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Convolutional network of Y26 (SI): 3×3 convolutions to 32, 64, 64 channels, each ReLU and 2×2 max-pool.

    Then ``hidden`` ReLU units and 10 outputs. Convolutions He normal by fan_out, linear layers by fan_in.
    The default is theirs for CIFAR-10, 188 810 parameters; ``channels=1, size=28`` takes MNIST. Raises
    ValueError for channels or hidden below 1, images of ``size`` below 8, or a dtype not of floating point.
    """
    channels, hidden = _width("channels", channels), _width("hidden", hidden)
    size, dtype = _width("size", size, 8), floating(dtype)
    layers = _stacks(channels, ((32, 1), (64, 1), (64, 1)), dtype)
    top = linear(64 * (size // 8) ** 2, hidden, dtype=dtype), nn.ReLU(), linear(hidden, 10, dtype=dtype)
    model = nn.Sequential(*layers, nn.Flatten(), *top)
    initialise(model, "he", seed)
    generator = generator_of(seed)
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.Conv2d):
                normal(module.weight, 2 / fans(module.weight)[1], generator)
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
    Raises ValueError for sizes below 1, images too small to be halved for every width, or unknown names.
    """
    widths = _check.array("widths", widths, ndim=1, dtype=int, least=1, most=WIDEST).tolist()
    depth, channels = _width("depth", depth), _width("channels", channels)
    size, outputs = _width("size", size, 2 ** len(widths)), _width("outputs", outputs)
    layers = _stacks(channels, [(width, depth) for width in widths], floating(dtype))
    top = linear(widths[-1] * (size >> len(widths)) ** 2, outputs, dtype=dtype)
    return initialise(nn.Sequential(*layers, nn.Flatten(), top), initialisation, seed)


#: initial scales beyond which a request is taken for a mistake
_STRONGEST = 1e6

#: convolutions of each stack
_VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(
    depth: int = 11,
    seed: int = 0,
    width: int = 64,
    initialisation: str = "he",
    outputs: int = 10,
    dtype: torch.dtype = torch.float32,
    head: float = 1.0,
) -> nn.Sequential:
    """VGG-11/13/16/19 for 32×32 images without batch norm (W22 §4): five stacks of 3×3 convolutions, one
    linear layer.

    Five stacks of widths 1, 2, 4, 8, 8 times ``width`` (64 in the original). The last layer starts at
    ``head`` times the scale of the initialisation: max-pools let the outputs start large. Raises ValueError
    for another depth, a size below 1, a negative scale or an unknown name.
    """
    if _check.integer("depth", depth) not in _VGG:
        raise _check.refused("depth", depth, f"one of {', '.join(map(str, _VGG))}")
    width, outputs, dtype = _width("width", width), _width("outputs", outputs), floating(dtype)
    widths = [factor * width for factor in (1, 2, 4, 8, 8)]
    layers = _stacks(3, zip(widths, _VGG[depth], strict=True), dtype)
    top, head = (
        linear(widths[-1], outputs, dtype=dtype),
        _check.number("head", head, least=0, most=_STRONGEST),
    )
    model = initialise(nn.Sequential(*layers, nn.Flatten(), top), initialisation, seed)
    with torch.no_grad():
        top.weight *= head
    return model


class _FixupBlock(nn.Module):
    """Two 3×3 convolutions, four scalar biases and a multiplier, around a shortcut (Zhang et al. 2019)."""

    def __init__(self, inputs, outputs, stride, scalars):
        super().__init__()
        self.stride, self.extra, self.scalars = stride, outputs - inputs, scalars
        self.first = convolution(inputs, outputs, stride=stride, bias=False)
        self.second = convolution(outputs, outputs, bias=False)
        self.biases = nn.Parameter(torch.zeros(4))
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        b, scale = self.scalars * self.biases, 1 + self.scalars * (self.scale - 1)
        out = torch.relu(self.first(x + b[0]) + b[1])
        out = self.second(out + b[2]) * scale + b[3]
        if self.stride > 1:
            x = nn.functional.avg_pool2d(x + b[0], 1, self.stride)
            x = nn.functional.pad(x, (0, 0, 0, 0, 0, self.extra))
        return torch.relu(out + x)


class FixupResNet(nn.Module):
    """ResNet-20/32/44/56/110 for 32×32 images with Fixup instead of batch norm (W22 §4, its reference 50).

    ``depth`` = 6·blocks + 2; stack widths are 1, 2, 4 times ``width`` (16 in the original). Fixup: the first
    convolution of each block is He normal by fan_out times (number of blocks)^(−1/2), the second and the last
    layer start at 0. ``branch`` starts the second at so many times the scale of the first, and ``head`` the
    last layer at so many times fan_in^(−1/2): from 0, plain SGD with one step for all moves nothing but the
    last layer for long. The scalars act times ``scalars``, which changes nothing but that SGD moves them by
    its square times the step; Fixup's recipe, a tenth, is 0.1^(1/2). Raises ValueError for a depth that is
    not 6·blocks + 2, a size below 1, negative scales or a factor that is not above 0.
    """

    def __init__(
        self,
        depth: int = 20,
        seed: int = 0,
        width: int = 16,
        outputs: int = 10,
        branch: float = 0.0,
        head: float = 0.0,
        scalars: float = 1.0,
    ):
        super().__init__()
        blocks, rest = divmod(_check.integer("depth", depth, least=8, most=WIDEST) - 2, 6)
        if rest:
            raise _check.refused("depth", depth, "6·blocks + 2 (20, 32, 44, 56, 110, …)")
        width, outputs = _width("width", width), _width("outputs", outputs)
        self.scalars = _check.number("scalars", scalars, above=0, most=_STRONGEST)
        self.stem = convolution(3, width, bias=False)
        self.biases = nn.Parameter(torch.zeros(2))
        stages, inputs = [], width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                stages.append(_FixupBlock(inputs, width * 2**stage, stride, scalars))
                inputs = width * 2**stage
        self.blocks = nn.Sequential(*stages)
        self.head = linear(inputs, outputs)
        scales = _check.numbers(branch=branch, head=head, least=0, most=_STRONGEST)
        self._initialise(generator_of(seed), *scales)

    def _initialise(self, generator, branch, head):
        with torch.no_grad():
            normal(self.stem.weight, 2 / fans(self.stem.weight)[1], generator)
            for part, scale in (("first", 1), ("second", branch)):
                for block in self.blocks:
                    weight = getattr(block, part).weight
                    normal(weight, scale**2 * 2 / fans(weight)[1] / len(self.blocks), generator)
            normal(self.head.weight, head**2 / fans(self.head.weight)[0], generator)
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, 10) of images (n, 3, 32, 32)."""
        b = self.scalars * self.biases
        x = torch.relu(self.stem(x) + b[0])
        x = self.blocks(x).mean((2, 3))
        return self.head(x + b[1])
