"""Networks of the five papers, as plain ``torch.nn.Module``.

Examples
--------
>>> import flatmin as fm
>>> model = fm.models.mlp((784, 50, 50, 10))
>>> sum(p.numel() for p in model.parameters())
42310
"""

from flatmin.networks.models.convolutional import FixupResNet, cnn, cnn_stacks, vgg
from flatmin.networks.models.fully_connected import DiagonalLinear, linear_network, mlp, random_features
from flatmin.networks.models.initialise import initialise

__all__ = [
    "DiagonalLinear",
    "FixupResNet",
    "cnn",
    "cnn_stacks",
    "initialise",
    "linear_network",
    "mlp",
    "random_features",
    "vgg",
]
