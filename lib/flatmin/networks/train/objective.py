"""The loss that training takes the gradient of: the reader's own, on a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from flatmin.networks import losses
from flatmin.networks.data.samples import Samples, leaves, mapped

__all__ = ["Objective"]

_ENTRIES = 2**22  # numbers in one temporary array


class Objective:
    """The mean loss over a batch, as torch users expect it.

    A loss by name has its derivatives in closed form. Any other is evaluated itself on each batch and
    differentiated in the outputs, so class weights, ignored labels and smoothing mean what they mean in a
    plain training loop.

    Parameters
    ----------
    loss : str, torch loss module or callable
        See :func:`flatmin.networks.losses.of`.
    output : Tensor, (1, …)
        The network's output for one sample.
    """

    def __init__(self, loss, output: Tensor):
        self.loss, self.output = losses.of(loss), output.detach()
        if not torch.isfinite(output).all():  # of a run about to diverge: only the shape counts
            self.output = torch.zeros_like(self.output)
        self._closed = isinstance(self.loss.given, str) and output.ndim == 2

    def targets(self, samples: Samples):
        """Targets of ``samples`` in the form that :meth:`total` takes.

        Raises ValueError for targets that do not fit, and for a loss that is no mean over samples.
        """
        shape = self.output.shape[1:]
        targets = samples.targets
        real = isinstance(targets, Tensor) and targets.is_floating_point()
        if real and targets[0].numel() == shape.numel():  # (n,) and (n, 1) are the same; nothing is spread
            targets = targets.reshape(len(targets), *shape)
        few = slice(0, max(2, _ENTRIES // shape.numel()))
        some = mapped(lambda tensor: tensor[few], targets)
        self.loss.bind(self.output.expand(len(leaves(some)[0]), *shape).contiguous(), some)
        return self.loss.targets(targets, shape, self.output.dtype)

    def divisor(self, samples: int) -> int:
        """What the gradient of :meth:`total` is divided by to be that of the mean over ``samples``."""
        return samples if self._closed else 1

    def total(self, outputs: Tensor, targets) -> Tensor:
        """A number whose gradient, over :meth:`divisor`, is that of the mean loss of the batch."""
        return self.loss.values(outputs, targets).sum() if self._closed else self.loss(outputs, targets)

    def slopes(self, outputs: Tensor, targets) -> Tensor:
        """∂total/∂f of R batches, (R, B, C)."""
        if self._closed:
            return self.loss.gradient(outputs, targets)
        return self.loss.batch_gradient(outputs, targets)

    def mean(self, outputs: Tensor, targets) -> float:
        """The loss over all samples, as the reader's own loss function has it."""
        found = self.loss.values(outputs, targets).mean() if self._closed else self.loss(outputs, targets)
        return float(found)
