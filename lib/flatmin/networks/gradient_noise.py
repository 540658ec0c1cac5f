"""The noise of a minibatch gradient: its covariance, and how that lies against the curvature.

Notation. Σ = (1/n) Σ_i ∇ℓ_i ∇ℓ_iᵀ − ∇L ∇Lᵀ is the covariance of one sample's gradient (W22 §1); C is the
covariance of the gradient of a minibatch of B samples (Y23; M22 Eq. 8 calls it Σ):

- drawn with replacement: C = Σ / B;
- drawn without replacement: C = (n − B)/(n − 1) · Σ / B (M22 Eq. 8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatmin.networks import curvature
from flatmin.networks.datasets import Data
from flatmin.networks.losses import Loss
from flatmin.networks.models import parameter_slice
from flatmin.networks.passes import linearise

__all__ = ["HessianBasis", "batch_factor", "covariance", "in_hessian_basis"]

_ENTRIES = 2**25


def batch_factor(samples: int, batch_size: int, replacement: bool) -> float:
    """Return C / Σ: 1/B with replacement, (n − B)/((n − 1)B) without (M22 Eq. 8).

    Raises ValueError for a batch size below 1, or above n without replacement.
    """
    if batch_size < 1 or (not replacement and batch_size > samples):
        raise ValueError(f"batch_size must be 1…{samples}, got {batch_size}")
    if replacement or samples == 1:
        return 1 / batch_size
    return (samples - batch_size) / ((samples - 1) * batch_size)


def _centred_gradients(passed, block: slice):
    """Yield chunks of (∇ℓ_i − ∇L) in the entries ``block`` of θ, (rows, block)."""
    mean = passed.gradient()[block]
    step = max(1, _ENTRIES // passed.parameters)
    for start in range(0, passed.samples, step):
        yield passed.sample_gradients(slice(start, start + step))[:, block] - mean


def covariance(
    model: nn.Module,
    data: Data,
    loss: str | Loss,
    batch_size: int = 1,
    replacement: bool = False,
    layer: int | str | None = None,
) -> Tensor:
    """Exact covariance C of the minibatch gradient, dense: (P, P), in the dtype of the model.

    ``replacement`` says how the B samples are drawn (see the module's notation); with ``layer`` (2: the
    second weight matrix, or a parameter's name) only that block. ``batch_size=1`` gives Σ itself.
    Raises ValueError for a batch size outside 1…n or an unknown layer.
    """
    block = parameter_slice(model, layer)
    passed = linearise(model, data, loss)
    size = block.stop - block.start
    total = torch.zeros(size, size, dtype=passed.dtype)
    for rows in _centred_gradients(passed, block):
        total.addmm_(rows.T, rows)
    return total * (batch_factor(passed.samples, batch_size, replacement) / passed.samples)


@dataclass(frozen=True)
class HessianBasis:
    """Curvature and noise along the eigenvectors v_i of the Hessian, sharpest first.

    ``curvature`` (P,): λ_i = v_iᵀ H v_i; ``noise`` (P,): C_ii = v_iᵀ C v_i; ``vectors`` (P, P), one a column.
    """

    curvature: Tensor
    noise: Tensor
    vectors: Tensor


def in_hessian_basis(
    model: nn.Module,
    data: Data,
    loss: str | Loss,
    batch_size: int = 1,
    replacement: bool = False,
    layer: int | str | None = None,
) -> HessianBasis:
    """Diagonal of C in the eigenbasis of the exact Hessian, as in Y23 Fig. 1b.

    C itself is never formed: C_ii is the mean square of v_i·(∇ℓ − ∇L). Arguments as :func:`covariance`.
    """
    block = parameter_slice(model, layer)
    values, vectors = torch.linalg.eigh(curvature.hessian(model, data, loss, layer))
    values, vectors = values.flip(0), vectors.flip(1)
    passed = linearise(model, data, loss)
    noise = torch.zeros_like(values)
    for rows in _centred_gradients(passed, block):
        noise += (rows @ vectors).square().sum(0)
    noise *= batch_factor(passed.samples, batch_size, replacement) / passed.samples
    return HessianBasis(values, noise, vectors)
