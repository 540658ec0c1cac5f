"""Curvature of the loss of a network: the exact Hessian, its spectrum, flatness as each paper defines it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flatmin.networks.datasets import Data
from flatmin.networks.dense import DensePass
from flatmin.networks.losses import Loss
from flatmin.networks.models import parameter_slice
from flatmin.networks.passes import linearise

__all__ = ["hessian"]

#: columns of one block of products, and entries of one temporary array
_COLUMNS, _ENTRIES = 50, 2**25


def hessian(model: nn.Module, data: Data, loss: str | Loss, layer: int | str | None = None) -> Tensor:
    """Exact Hessian of the mean loss, dense: (P, P), symmetric, in the dtype of the model.

    With ``layer`` (2: the second weight matrix, or a parameter's name) only that block. Fully connected
    networks: sums of Kronecker-like products over samples, a few matrix products for each pair of layers;
    other networks: one backward pass a column. Use a float64 model where a spectrum is compared with theory.
    Memory: P² numbers. Raises ValueError as :func:`~flatmin.networks.passes.linearise`, or for an unknown
    layer.
    """
    block = parameter_slice(model, layer)
    passed = linearise(model, data, loss)
    if not isinstance(passed, DensePass):
        return _columns_of(passed, block)
    if layer is None:
        return _dense_hessian(passed)
    index = next(
        (i for i, one in enumerate(passed.layers) if one.weight_slice == block),
        None,
    )
    return _columns_of(passed, block) if index is None else kronecker_block(passed, index)


def _columns_of(passed, block: slice) -> Tensor:
    size = block.stop - block.start
    out = torch.empty(size, size, dtype=passed.dtype)
    for start in range(0, size, _COLUMNS):
        stop = min(start + _COLUMNS, size)
        unit = torch.zeros(stop - start, passed.parameters, dtype=passed.dtype)
        unit[torch.arange(stop - start), block.start + torch.arange(start, stop)] = 1
        out[start:stop] = passed.hessian_product(unit)[:, block]
    return (out + out.T) / 2


def kronecker_block(passed: DensePass, index: int) -> Tensor:
    """Hessian of one layer's weights, (1/n) Σ M_i ⊗ a_i a_iᵀ, (h·d, h·d), exact.

    M_i = ∂²ℓ_i/∂z² is h×h and a_i the layer's input, so only one product of the distinct entries of the two
    symmetric matrices is needed: h(h+1)/2 · d(d+1)/2 · n multiplications.
    """
    a, curvature = passed.inputs[index], passed.curvatures[index]
    (n, d), h = a.shape, curvature.shape[1]
    rows, columns = torch.triu_indices(h, h)
    outer = curvature[:, rows, columns].T.contiguous() / n
    first, second = torch.triu_indices(d, d)
    pairs = torch.empty(len(rows), len(first), dtype=passed.dtype)
    step = max(1, _ENTRIES // n)
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        pairs[:, part] = outer @ (a[:, first[part]] * a[:, second[part]])
    place_h, place_d = _pair_index(h), _pair_index(d)
    full = pairs[:, place_d.reshape(-1)].view(len(rows), d, d)[place_h.reshape(-1)]
    return full.view(h, h, d, d).transpose(1, 2).reshape(h * d, h * d)


def _pair_index(size):
    """Position of the pair (i, j) in the upper triangle, (size, size), symmetric."""
    rows, columns = torch.triu_indices(size, size)
    place = torch.empty(size, size, dtype=torch.long)
    place[rows, columns] = torch.arange(len(rows))
    place[columns, rows] = place[rows, columns]
    return place


def _dense_hessian(passed: DensePass) -> Tensor:
    out = torch.empty(passed.parameters, passed.parameters, dtype=passed.dtype)
    places = [_augmented_places(layer) for layer in passed.layers]
    for lower in range(len(passed.layers)):
        slopes = passed.input_slopes(lower)
        for upper in range(lower, len(passed.layers)):
            block = _pair_block(passed, lower, upper, slopes[upper])
            out[places[upper][:, None], places[lower]] = block
            out[places[lower][:, None], places[upper]] = block.T
    return out


def _augmented_places(layer):
    """Entries of θ of one layer in the order of the matrix [W b], row by row."""
    weight = torch.arange(layer.weight_slice.start, layer.weight_slice.stop).view(layer.weight.shape)
    if layer.bias is None:
        return weight.reshape(-1)
    bias = torch.arange(layer.bias_slice.start, layer.bias_slice.stop)[:, None]
    return torch.cat([weight, bias], 1).reshape(-1)


def _augmented(passed, index):
    a = passed.inputs[index]
    return a if passed.layers[index].bias is None else torch.cat([a, torch.ones_like(a[:, :1])], 1)


def _pair_block(passed: DensePass, lower: int, upper: int, slope: Tensor | None) -> Tensor:
    """Block of layers (upper, lower) in the order [W b] of both.

    ∂²ℓ/∂W_m[i,j]∂W_l[p,q] = (M_ml[i,p] a_{m−1}[j] + δ_m[i] A[j,p]) a_{l−1}[q], with A = ∂a_{m−1}/∂z_l and
    M_ml = M_mm W_m A; the second term exists only for m > l and not in the bias of layer m.
    """
    inputs, low = _augmented(passed, upper), _augmented(passed, lower)
    mixed = passed.curvatures[upper]
    if upper > lower:
        mixed = (mixed @ passed.layers[upper].weight) @ slope
    n, h, p = mixed.shape
    d, q = inputs.shape[1], low.shape[1]
    out = torch.empty(h, d, p, q, dtype=passed.dtype)
    step = max(1, _ENTRIES // (n * d * p))
    for start in range(0, h, step):
        part = slice(start, start + step)
        inner = mixed[:, part, None, :] * inputs[:, None, :, None]
        if upper > lower:
            width = slope.shape[1]
            inner[:, :, :width] += passed.deltas[upper][:, part, None, None] * slope[:, None]
        out[part] = (inner.reshape(n, -1).T @ low).view(-1, d, p, q)
    return out.view(h * d, p * q) / n
