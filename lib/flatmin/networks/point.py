"""The checked point: a network, its loss and its data, measured where the parameters stand."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from flatmin.networks import parameters
from flatmin.networks.data.sets import Data
from flatmin.networks.device import choose
from flatmin.networks.losses import Loss
from flatmin.networks.passes.generic import linearise

__all__ = ["Point", "at"]


class Point:
    """A network at its present parameters; made by :func:`at`."""

    def __init__(self, model: nn.Module, loss: str | Loss, data, device=None):
        self.model, self.loss_function, self.data = model, loss, data
        self.device = choose(device, model)

    @cached_property
    def passed(self):
        """The pass over all samples, from which derivatives are taken."""
        return linearise(self.model, self.data, self.loss_function, self.device)

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return len(self.data)

    @cached_property
    def parameters(self) -> int:
        """Number of trainable parameters P."""
        return parameters.flat(self.model).numel()

    @property
    def loss(self) -> float:
        """Mean loss L."""
        return self.passed.loss

    def block(self, layer: int | str | None = None) -> slice:
        """Entries of θ that belong to ``layer``, see :func:`~flatmin.networks.parameters.parameter_slice`."""
        return parameters.parameter_slice(self.model, layer)

    def gradient(self) -> Tensor:
        """∇L, (P,), on the CPU."""
        return self.passed.gradient().cpu()


def at(model: nn.Module, loss: str | Loss, data: Data, *, device: str | torch.device | None = None) -> Point:
    """Measure ``model`` at its present parameters on ``loss`` and ``data``."""
    return Point(model, loss, data, device)
