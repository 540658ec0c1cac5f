"""The largest eigenvalues of the Hessian of many networks at once, of all parameters or of one layer.

A block Krylov space of each network, orthonormalised, and the Ritz values of the exact Hessian in it; the
products are second derivatives by automatic differentiation through all stacked networks together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from flatmin import _check
from flatmin.networks.eigen import SEEDS
from flatmin.networks.freezing.forms import Form
from flatmin.networks.freezing.similarity import _evaluating
from flatmin.networks.parameters import block_of, trainable

__all__ = ["Tops", "flatness_of", "sharpness_of", "tops"]

#: numbers of the Krylov spaces of one chunk, on a CPU and elsewhere
_ENTRIES = {True: 2**24, False: 2**30}
#: columns of a block: a double eigenvalue is found twice
_WIDTH = 2
#: columns of a space beyond those wanted: at the first look at the residuals, until the next, in all; and how
#: often a space is begun anew from its Ritz vectors
_FIRST, _MORE, _MOST, _ROUNDS = 8, 4, 64, 10


@dataclass(frozen=True, eq=False)
class Tops:
    """The largest eigenvalues of R Hessians: ``values`` (R, k), largest first, and ``residuals`` (R, k).

    A residual |Hv − λv| bounds the distance of λ to an eigenvalue; its error is about residual²/gap.
    """

    values: np.ndarray
    residuals: np.ndarray = field(repr=False)

    @property
    def flatness(self) -> np.ndarray:
        """F = (λ₁⋯λ_k)^(−1/k) of each network (Y26 Eq. 1), (R,); NaN where one of them is not positive."""
        good = (self.values > self.residuals).all(1)
        logs = np.log(np.where(good[:, None], self.values, 1)).mean(1)
        return np.where(good, np.exp(-logs), np.nan)


def tops(
    model: nn.Module,
    loss,
    data,
    thetas,
    *,
    layer: int | str | None = None,
    top: int = 10,
    tolerance: float = 1e-2,
    seed: int = 0,
    device=None,
    threads: int = 1,
) -> Tops:
    """The ``top`` largest eigenvalues of the Hessian at each of ``thetas`` (R, P), or of a layer's block.

    Goes on until every residual is at most ``tolerance`` times its eigenvalue (the error of the eigenvalue is
    of second order in it), or for ten rounds; the residuals say how far it came. ``layer`` as in
    :func:`~flatmin.networks.parameters.block_of`; the starting vectors come from ``seed``.

    Raises ValueError for what does not fit, a ``top`` that the block does not have, or a tolerance outside
    (0, 1).
    """
    block = block_of(trainable(model), layer)
    top = _check.integer("top", top, least=1, most=block.stop - block.start)
    tolerance = _check.number("tolerance", tolerance, above=0, below=1)
    seed = _check.integer("seed", seed, least=0, most=SEEDS)
    with _evaluating(model, loss, data, thetas, device, threads) as (form, thetas):
        size, device = block.stop - block.start, form.network.device
        if size <= top + _MOST:
            first = torch.eye(size, dtype=torch.float64)
        else:
            generator = torch.Generator().manual_seed(seed)
            first = torch.randn(size, _WIDTH, generator=generator, dtype=torch.float64)
        step = _ENTRIES[form.on_cpu] // (2 * size * (top + _MOST))
        step = max(1, min(step, form.chunks(len(thetas), 4 * form.width)[0].stop))
        found, products = [], _one_product if form.layers is None else _product
        for start in range(0, len(thetas), 1 if form.layers is None else step):
            here = thetas[start : start + (1 if form.layers is None else step)].to(device)
            begin = first.to(here).expand(len(here), -1, -1)
            found.append(_largest(products(form, here, block), begin, top, tolerance))
    values, residuals = (np.concatenate(each) for each in zip(*found, strict=True))
    return Tops(values, residuals)


def flatness_of(
    model: nn.Module, loss, data, thetas, layer: int | str | None = 2, top: int = 10, **how
) -> Tops:
    """The eigenvalues of Y26's flatness, ``.flatness``, of the second weight matrix; see :func:`tops`."""
    return tops(model, loss, data, thetas, layer=layer, top=top, **how)


def sharpness_of(model: nn.Module, loss, data, thetas, **how) -> np.ndarray:
    """λ₁ of the whole Hessian of each network, (R,): GD at step η is stable up to 2/η. See :func:`tops`."""
    return tops(model, loss, data, thetas, top=1, **how).values[:, 0]


def _product(form: Form, thetas: Tensor, block: slice):
    """V ↦ H V on the entries ``block`` for V (S, size, k): one graph of all networks, k times back."""
    with torch.enable_grad():
        inner = thetas[:, block].clone().requires_grad_()
        parts = form.parts(inner if inner.shape == thetas.shape else thetas)
        for index, layer in enumerate(form.layers):  # only what the block needs is differentiated
            weight, bias = parts[index]
            if layer.weight_slice == block:
                parts[index] = inner.view(weight.shape), bias
            elif bias is not None and layer.bias_slice == block:
                parts[index] = weight, inner[:, :, None]
        total = form.mean_losses(form.above(form.first(parts), parts)[-1]).sum()
        (slope,) = torch.autograd.grad(total, inner, create_graph=True)
    return _columns(slope, inner)


def _columns(slope: Tensor, inner: Tensor):
    def product(vectors):
        columns = []
        for vector in vectors.unbind(2):
            (column,) = torch.autograd.grad(slope, inner, vector, retain_graph=True, materialize_grads=True)
            columns.append(column)
        return torch.stack(columns, 2)

    return product


def _one_product(form: Form, thetas: Tensor, block: slice):
    """The same for a network of another kind, (1, size, k); one graph of all its samples."""
    network, samples, start = form.network, form.samples, 0
    with torch.enable_grad():
        inner = thetas[:, block].clone().requires_grad_()
        values = dict(zip(network.names, network.split(thetas[0]), strict=True))
        for name, value in values.items():
            if block.start <= start < block.stop:
                values[name] = inner[0, start - block.start :][: value.numel()].view(value.shape)
            start += value.numel()
        total = form.loss.total(network.outputs(samples.inputs, values), samples.targets) / form.count
        (slope,) = torch.autograd.grad(total, inner, create_graph=True)
    return _columns(slope, inner)


def _largest(product, block: Tensor, top: int, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Ritz values and residuals (S, top) from block Krylov spaces begun at ``block`` (S, size, width)."""
    size = block.shape[1]
    for _ in range(_ROUNDS):
        space = _orthonormal(block)
        image, width, look = product(space), space.shape[2], top + _FIRST
        while True:
            full = space.shape[2] + width > min(top + _MOST, size)
            if full or space.shape[2] >= look:
                values, vectors, residuals = _ritz(space, image)
                good = (residuals[:, :top] <= tolerance * values[:, :top].abs()).all()
                if good or full:
                    break
                look += _MORE
            fresh = image[:, :, -width:]
            for _ in range(2):
                fresh = _orthonormal(fresh - space @ (space.mT @ fresh))
            space, image = torch.cat([space, fresh], 2), torch.cat([image, product(fresh)], 2)
        if good or space.shape[2] == size:
            break
        block = space @ vectors[:, :, : top + 2]
    return values[:, :top].numpy(), residuals[:, :top].numpy()


def _ritz(space, image):
    """Ritz values, the largest first, vectors in terms of the columns of the space, and residuals."""
    small = (space.mT @ image).double()
    values, vectors = torch.linalg.eigh(((small + small.mT) / 2).cpu())
    values, vectors = values.flip(1), vectors.flip(2).to(space)
    residuals = image @ vectors - space @ vectors * values[:, None].to(space)
    return values, vectors, residuals.norm(dim=1).double().cpu()


def _orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the columns (S, size, k); columns that add nothing become (nearly) zero."""
    for _ in range(2):
        columns = columns / columns.norm(dim=1, keepdim=True).clamp(min=torch.finfo(columns.dtype).tiny)
        values, vectors = torch.linalg.eigh((columns.mT @ columns).double())
        floor = 1e-12 * values[:, -1:]
        scale = torch.where(values > floor, values.clamp(min=1e-300).rsqrt(), 0)
        columns = columns @ (vectors * scale[:, None]).to(columns)
    return columns
