"""Convolutional networks of the papers, without batch norm."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flatmin.networks.models.initialise import fans, generator_of, initialise, normal

__all__ = ["FixupResNet", "cnn", "cnn_stacks", "vgg"]


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
        self._initialise(generator_of(seed))

    def _initialise(self, generator):
        with torch.no_grad():
            normal(self.stem.weight, 2 / fans(self.stem.weight)[1], generator)
            for block in self.blocks:
                normal(block.first.weight, 2 / fans(block.first.weight)[1] / len(self.blocks), generator)
                block.second.weight.zero_()
            self.head.weight.zero_()
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, 10) of images (n, 3, 32, 32)."""
        x = torch.relu(self.stem(x) + self.biases[0])
        x = self.blocks(x).mean((2, 3))
        return self.head(x + self.biases[1])
