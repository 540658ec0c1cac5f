"""Loss functions by name, with what a curvature measurement needs of them.

Both losses are means over samples of a loss of the outputs f (n, C):

- ``"square"``: ℓ = ½ |f − y|² summed over outputs (W22 §1, M22 Eq. 1). Labels become one-hot targets.
- ``"cross-entropy"``: ℓ = −log softmax(f)[y] of integer labels (Y23, Y26, M22 App. D).
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

__all__ = ["CrossEntropy", "Loss", "SampleLosses", "SquareLoss", "by_name"]


class Loss:
    """A loss of the outputs of a network; all arguments ``outputs`` are (..., n, C)."""

    name: str

    def targets(self, targets: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
        """Targets in the form this loss takes, for ``outputs`` outputs; ValueError if they do not fit."""
        raise NotImplementedError

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each sample, (..., n)."""
        raise NotImplementedError

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """∂ℓ/∂f of each sample, (..., n, C)."""
        raise NotImplementedError

    def root(self, outputs: Tensor) -> Tensor:
        """Q of each sample with Q Qᵀ = ∂²ℓ/∂f², (n, C, C)."""
        raise NotImplementedError

    def prepared(self, outputs: Tensor) -> Tensor:
        """What :meth:`curvature_product` needs of the outputs, computed once for many products."""
        return outputs

    def curvature_product(self, prepared: Tensor, vectors: Tensor) -> Tensor:
        """(∂²ℓ/∂f²) v of each sample, for vectors (n, k, C)."""
        raise NotImplementedError


class SquareLoss(Loss):
    """ℓ = ½ |f − y|²; its second derivative in the outputs is the identity."""

    name = "square"

    def targets(self, targets, outputs, dtype):
        """Real targets as (n, outputs), labels as one-hot rows."""
        if not targets.is_floating_point():
            if outputs == 1:
                raise ValueError(
                    "targets are class labels but the network has one output: "
                    "use Data.parity() or real-valued targets with the square loss"
                )
            return one_hot(targets, outputs, dtype)
        targets = targets.to(dtype)
        if targets.ndim == 1:
            targets = targets[:, None]
        if targets.shape[1] != outputs:
            raise ValueError(f"targets have {targets.shape[1]} columns, the network {outputs} outputs")
        return targets

    def values(self, outputs, targets):
        """½ |f − y|²."""
        return 0.5 * (outputs - targets).square().sum(-1)

    def gradient(self, outputs, targets):
        """f − y."""
        return outputs - targets

    def root(self, outputs):
        """The identity."""
        n, classes = outputs.shape
        return torch.eye(classes, dtype=outputs.dtype, device=outputs.device).expand(n, classes, classes)

    def curvature_product(self, prepared, vectors):
        """The vectors themselves."""
        return vectors


class CrossEntropy(Loss):
    """ℓ = −log p_y, p = softmax(f); its second derivative in the outputs is diag(p) − p pᵀ."""

    name = "cross-entropy"

    def targets(self, targets, outputs, dtype):
        """The labels (n,), checked."""
        if targets.is_floating_point() or targets.ndim != 1:
            raise ValueError(f"cross-entropy needs integer labels (n,), got {targets.dtype} {targets.shape}")
        if len(targets) and (int(targets.min()) < 0 or int(targets.max()) >= outputs):
            raise ValueError(f"labels run to {int(targets.max())}, the network has {outputs} outputs")
        return targets

    def values(self, outputs, targets):
        """log Σ exp f − f_y."""
        at_label = outputs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        return torch.logsumexp(outputs, -1) - at_label

    def gradient(self, outputs, targets):
        """p − one-hot(y)."""
        slopes = torch.softmax(outputs, -1)
        index = targets.unsqueeze(-1)
        return slopes.scatter_add(-1, index, slopes.new_full((1,), -1.0).expand(index.shape))

    def root(self, outputs):
        """diag(√p) − p √pᵀ."""
        # Q Qᵀ = diag(p) − 2 p pᵀ + p (√pᵀ√p) pᵀ = diag(p) − p pᵀ
        p = torch.softmax(outputs, -1)
        roots = p.sqrt()
        return torch.diag_embed(roots) - p.unsqueeze(-1) * roots.unsqueeze(-2)

    def prepared(self, outputs):
        """p."""
        return torch.softmax(outputs, -1)

    def curvature_product(self, prepared, vectors):
        """p ∘ v − p (p·v)."""
        p = prepared.unsqueeze(-2)
        weighted = p * vectors
        return weighted - p * weighted.sum(-1, keepdim=True)


_LOSSES = {loss.name: loss for loss in (SquareLoss(), CrossEntropy())}


def by_name(name: str | Loss) -> Loss:
    """Return the loss called ``name``: ``"square"`` or ``"cross-entropy"``; ValueError for another."""
    if isinstance(name, Loss):
        return name
    if name not in _LOSSES:
        raise ValueError(f"loss must be one of {sorted(_LOSSES)}, got {name!r}")
    return _LOSSES[name]


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Return (n, classes) with a one at each label; ValueError for a label outside 0…classes−1."""
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise ValueError(f"labels must lie in 0…{classes - 1}, got {int(labels.min())}…{int(labels.max())}")
    return torch.nn.functional.one_hot(labels.long(), classes).to(dtype)


class SampleLosses:
    """What every pass knows of its losses, from its ``loss_function``, ``outputs`` and ``targets``."""

    @cached_property
    def losses(self) -> Tensor:
        """ℓ_i, (n,)."""
        return self.loss_function.values(self.outputs, self.targets)

    @property
    def loss(self) -> float:
        """L = (1/n) Σ ℓ_i."""
        return float(self.losses.mean())
