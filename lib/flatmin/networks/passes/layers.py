"""Per-sample gradients of any network, parameter by parameter, read from the graph that autograd keeps.

By a matrix W the gradient of sample i is Σ_t δᵢₜ aᵢₜᵀ over the positions t at which W acts on it, with the
inputs a and the cotangents δ on the outputs there: one position in a linear layer, all words of a sequence,
all patches of an image, one-hot inputs in an embedding; a weight used twice has the positions of both uses.
So |·|² = Σ_tt' (δₜ·δₜ')(aₜ·aₜ'), and the inner product of two samples has the same form: for few positions
nothing of the size of W is formed (Goodfellow, arXiv 1510.01799; Rochette et al., arXiv 1912.06015). By
biases and the scales of normalisations the gradients are sums over positions. The graph of the outputs holds
every use of every parameter, whoever calls it; one backward pass that takes no gradients by weights gives
the δ.

Which rows of δ belong to which sample is proven in every pass: cotangents that are scaled sample by sample
must scale them alike. A sequence may run along the second axis or the first.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.nn import functional
from torch.nn.grad import conv2d_weight

from flatmin.networks.network import Network
from flatmin.networks.passes.pieces import LEAF

__all__ = ["Factors", "Share", "shares_of", "stacked"]

#: numbers in one temporary array, and in one that should stay in cache
_ENTRIES, _CACHED = 2**24, 2**21
#: what an entry of an elementwise product costs, in multiplications of a matrix product
_SLOW = 20
#: positions from which on a convolution is faster than patches
_PLACES = 64
#: share of the parameters whose uses may be of a kind that is not read
_REST = 0.1


class _Unread(Exception):
    """A use of a parameter whose per-sample gradients are not known here."""


@dataclass(frozen=True)
class Factors:
    """Uses of a matrix W (h, d) on n samples: ``deltas`` (n, c, T, h), c cotangents on each one's outputs.

    ``sources`` make its inputs (n, T, d): pairs of a tensor (n, …) and what turns rows of it into some of the
    positions; places (n, T) of the ones where the inputs are ``one_hot``. ``size``: d; ``turned``: W is held
    as (d, h). ``product``: the gradients of some samples (r, c, h, d) from rows of the only source and of the
    deltas, or with ``True`` of all of these together, where there is a shorter way than through the inputs.
    """

    sources: tuple[tuple[Tensor, Callable], ...]
    deltas: Tensor
    size: int
    turned: bool = False
    one_hot: bool = False
    product: Callable | None = None

    @property
    def kind(self) -> tuple:
        """What factors must share to be joined sample by sample."""
        return self.deltas.shape[1:], len(self.sources), self.size, self.turned, self.one_hot

    def inputs(self, rows: slice) -> Tensor:
        """a of some samples, (r, T, d), or the places of the ones (r, T)."""
        parts = [expand(raw[rows]) for raw, expand in self.sources]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def gradients(self, rows: slice) -> Tensor:
        """Σ_t δᵢₜ aᵢₜᵀ of some samples, as W is held: (r, c, h, d), or (r, c, d, h) if turned."""
        if self.product is not None and self.deltas.shape[2] >= _PLACES:
            return self.product(self.sources[0][0][rows], self.deltas[rows])
        a, deltas = self.inputs(rows), self.deltas[rows]
        r, c, positions, h = deltas.shape
        if self.one_hot:
            place = torch.arange(r * c, device=a.device).view(r, c, 1) * self.size + a[:, None]
            found = deltas.new_zeros(r * c * self.size, h)
            return found.index_add_(0, place.flatten(), deltas.reshape(-1, h)).view(r, c, self.size, h)
        if self.turned:
            return a.mT[:, None] @ deltas
        return (deltas.mT.reshape(r, c * h, positions) @ a).view(r, c, h, self.size)

    def squares(self) -> Tensor | None:
        """|Σ_t δᵢₜ aᵢₜᵀ|², (n, c), by positions; None where that is the longer way."""
        n, c, positions, h = self.deltas.shape
        width = 0 if self.one_hot else self.size
        if positions * (width + h + _SLOW) > self.size * h:
            return None
        step, found = max(1, _CACHED // (positions * (c * positions + width))), []
        for start in range(0, n, step):
            rows = slice(start, start + step)
            a, deltas = self.inputs(rows), self.deltas[rows]
            if positions == 1:
                length = 1.0 if self.one_hot else a.square().sum((1, 2))[:, None]
                found.append(deltas.square().sum((2, 3)) * length)
            else:
                seen = (a[:, :, None] == a[:, None]).to(deltas) if self.one_hot else a @ a.mT
                found.append(((deltas @ deltas.mT) * seen[:, None]).sum((2, 3)))
        return torch.cat(found)

    def total(self) -> Tensor:
        """The gradients of all samples by their first cotangent added up, (numel,)."""
        if self.product is not None:
            return self.product(self.sources[0][0], self.deltas[:, :1], True).flatten()
        n, _, positions, h = self.deltas.shape
        # as the gradient of one sample that has the positions of all
        step, found = max(1, _ENTRIES // (positions * self.size)), self.deltas.new_zeros(self.size * h)
        for start in range(0, n, step):
            rows = slice(start, start + step)
            a, deltas = self.inputs(rows).flatten(0, 1)[None], self.deltas[rows, 0].flatten(0, 1)[None, None]
            one = replace(self, sources=((a, _same),), deltas=deltas)
            found += one.gradients(slice(None)).flatten()
        return found

    def gram(self) -> Tensor:
        """Inner products of the gradients, (n·c, n·c): by positions or through them, whichever is less."""
        n, c, positions, h = self.deltas.shape
        by_position = positions**2 * (self.size + c**2 * (h + _SLOW))
        through = c**2 * h * self.size + c * h * self.size * positions / n
        if by_position < through and not self.one_hot:
            return self._gram_by_position()
        out = self.deltas.new_zeros(n * c, n * c)
        channels = max(1, _ENTRIES // (n * c * self.size))
        for first in range(0, h, channels):
            part = replace(self, deltas=self.deltas[..., first : first + channels])
            few = max(1, _ENTRIES // (self.size * max(positions, part.deltas[0, :, 0].numel())))
            rows = [part.gradients(slice(i, i + few)).flatten(0, 1).flatten(1) for i in range(0, n, few)]
            rows = torch.cat(rows)
            out.addmm_(rows, rows.T)
        return out

    def _gram_by_position(self):
        n, c, positions, h = self.deltas.shape
        a, d = self.inputs(slice(None)).flatten(0, 1), self.deltas.reshape(n * c * positions, h)
        step, out = max(1, _ENTRIES // (n * (c * positions) ** 2)), d.new_empty(n, c, n, c)
        for start in range(0, n, step):
            r = min(step, n - start)
            seen = a[start * positions : (start + r) * positions] @ a.T
            pulled = d[start * c * positions : (start + r) * c * positions] @ d.T
            pulled = pulled.view(r, c, positions, n, c, positions)
            pulled *= seen.view(r, 1, positions, n, 1, positions)
            out[start : start + r] = pulled.sum((2, 5))
        return out.view(n * c, n * c)


@dataclass(frozen=True)
class Share:
    """What one parameter adds: ``factors``, and gradients ``rows`` (n, c, numel) or None."""

    factors: tuple[Factors, ...] = ()
    rows: Tensor | None = None

    @property
    def numel(self) -> int:
        """Entries of the parameter (0 of one without use)."""
        if self.factors:
            return self.factors[0].size * self.factors[0].deltas.shape[3]
        return 0 if self.rows is None else self.rows.shape[2]

    @property
    def whole(self) -> int:
        """Entries of the gradient of one sample where inner products take it whole, else 0."""
        return self.numel if len(self.factors) != 1 or self.rows is not None else 0

    def gradients(self, rows: slice) -> Tensor | None:
        """Of some samples, (r, c, numel); None for a parameter without use."""
        parts = [one.gradients(rows).flatten(2) for one in self.factors]
        parts += [] if self.rows is None else [self.rows[rows]]
        return functools.reduce(torch.add, parts) if parts else None

    def squares(self) -> Tensor | float:
        """|·|², (n, c)."""
        return self.squares_and_total(False)[0]

    def squares_and_total(self, total: bool = True) -> tuple[Tensor | float, Tensor | None]:
        """|·|², (n, c), and the gradients by the first cotangent added up, (numel,), where asked for."""
        if not self.factors:
            if self.rows is None:
                return 0.0, None
            return self.rows.square().sum(2), self.rows[:, 0].sum(0) if total else None
        found = None if self.whole else self.factors[0].squares()
        if found is not None:
            return found, self.factors[0].total() if total else None
        n, c = self.factors[0].deltas.shape[:2]
        step, parts, added = max(1, _CACHED // (c * self.numel)), [], None
        for start in range(0, n, step):
            each = self.gradients(slice(start, start + step))
            if total:
                added = each[:, 0].sum(0) if added is None else added.add_(each[:, 0].sum(0))
            parts.append(each.square_().sum(2))
        return torch.cat(parts), added

    def gram(self) -> Tensor | float:
        """Inner products, (n·c, n·c)."""
        if self.factors and not self.whole:
            return self.factors[0].gram()
        rows = self.gradients(slice(None))
        return 0.0 if rows is None else rows.flatten(0, 1) @ rows.flatten(0, 1).T


def stacked(shares: list[Share]) -> Share | None:
    """The share of one parameter from those of several chunks; None where they use it differently."""
    if len(shares) == 1:
        return shares[0]
    kinds = [(share.rows is None, [one.kind for one in share.factors]) for share in shares]
    if any(kind != kinds[0] for kind in kinds):
        return None
    factors = []
    for same in zip(*(share.factors for share in shares), strict=True):
        every = zip(*(one.sources for one in same), strict=True)
        sources = tuple((torch.cat([raw for raw, _ in one]), one[0][1]) for one in every)
        factors.append(replace(same[0], sources=sources, deltas=torch.cat([one.deltas for one in same])))
    rows = None if shares[0].rows is None else torch.cat([share.rows for share in shares])
    return Share(tuple(factors), rows)


def shares_of(network: Network, outputs: Tensor, tops: Tensor) -> tuple[list, tuple[str, ...]] | None:
    """The :class:`Share` of each parameter in ``tops`` (n, c, C), cotangents on the network's ``outputs``.

    Instead of it None for a parameter with a use that is not known; and the names of these. None altogether
    where they are more than a tenth of all.
    """
    uses, nodes = _uses(outputs, network.tensors), {}
    for use in (use for found in uses for use in found):
        if use[0].name() in _KINDS:
            nodes.setdefault(use[0], len(nodes))
    reader = _Reader(outputs, list(nodes), tops)
    shares, rest, left = [], [], 0
    for name, p, found in zip(network.names, network.tensors, uses, strict=True):
        try:
            shares.append(reader.share(p, [(*use, nodes.get(use[0])) for use in found]))
        except _Unread:
            shares.append(None)
            rest.append(name)
            left += p.numel()
    return (shares, tuple(rest)) if left <= _REST * network.parameters else None


def _uses(outputs, tensors) -> list[list[tuple]]:
    """(node, place among its arguments, whether transposed) of each use of each parameter."""
    takers, seen, todo, leaves = defaultdict(list), {outputs.grad_fn}, [outputs.grad_fn], {}
    while todo:
        node = todo.pop()
        if node.name() == LEAF:
            leaves[id(node.variable)] = node
        for place, (below, _) in enumerate(node.next_functions):
            if below is not None:
                takers[below].append((node, place))
                if below not in seen:
                    seen.add(below)
                    todo.append(below)
    found = []
    for p in tensors:
        uses = []
        for node, place in takers[leaves[id(p)]] if id(p) in leaves else ():
            if node.name() == "TBackward0":
                uses += [(*use, True) for use in takers[node]]
            else:
                uses.append((node, place, False))
        found.append(uses)
    return found


class _Reader:
    """The cotangents on the outputs of some nodes, and what they make of a parameter."""

    def __init__(self, outputs: Tensor, nodes: list, tops: Tensor):
        self.n, c = tops.shape[:2]
        generator = torch.Generator("cpu").manual_seed(0)
        drawn = torch.rand(self.n + c, generator=generator, dtype=torch.float64, device="cpu").to(tops) + 0.5
        #: how the last cotangent is made of the others: Σ_k mixed_k t_ik, times scale_i
        self.scale, self.mixed = drawn[: self.n], drawn[self.n :]
        last = torch.einsum("ncd,c,n->nd", tops, self.mixed, self.scale)
        edges, pulled = [GradientEdge(node, 0) for node in nodes], []
        for top in (*tops.unbind(1), last) if edges else ():
            how = {"retain_graph": True, "allow_unused": True}
            pulled.append(torch.autograd.grad(outputs, edges, top.reshape(outputs.shape), **how))
        self.deltas = [None if any(d is None for d in one) else one for one in zip(*pulled, strict=True)]

    def share(self, p: Tensor, uses) -> Share:
        """That of the parameter ``p``; raises _Unread."""
        joined, rows = {}, None
        for node, place, turned, number in uses:
            if number is None or self.deltas[number] is None:
                raise _Unread
            found = _KINDS[node.name()](self, node, place, turned, self.deltas[number], p)
            if isinstance(found, Factors):
                key = found.turned, found.one_hot
                joined[key] = _joined(joined[key], found) if key in joined else found
            else:
                rows = found.flatten(2) if rows is None else rows + found.flatten(2)
        return Share(tuple(joined.values()), rows)

    def by_sample(self, deltas: list[Tensor]) -> Tensor:
        """Cotangents (n, …) as (n, c, …), their rows proven to be those of the samples."""
        if len(deltas[0]) != self.n:
            raise _Unread
        seen = _direction(deltas[0].numel() // self.n).to(deltas[0])
        *parts, found = (each.reshape(self.n, -1) @ seen for each in deltas)
        expected = self.mixed @ torch.stack(parts) * self.scale
        own, kind = deltas[-1].reshape(self.n, -1).norm(dim=1), torch.finfo(found.dtype)
        rounding = 1e4 * kind.eps * own + kind.tiny / kind.eps  # of its own: others may be far larger
        if not bool(((found - expected).abs() <= 1e-2 * expected.abs() + rounding).all()):  # NaN fails too
            raise _Unread
        return torch.stack(deltas[:-1], 1) if len(deltas) > 2 else deltas[0][:, None]

    def by_position(self, deltas, other: Tensor | None = None):
        """Cotangents (…, h) on rows as (n, c, T, h), and ``other`` (rows, …) in that order, (n, T, …)."""
        width = deltas[0].shape[-1]
        rows = deltas[0].numel() // width
        if rows % self.n:
            raise _Unread
        shape = self.n, rows // self.n
        try:
            found = self.by_sample([each.reshape(*shape, width) for each in deltas])
            return found if other is None else (found, other.unflatten(0, shape))
        except _Unread:  # the positions come first
            turned = [each.reshape(*shape[::-1], width).transpose(0, 1) for each in deltas]
            found = self.by_sample(turned)
            return found if other is None else (found, other.unflatten(0, shape[::-1]).transpose(0, 1))


@functools.lru_cache(maxsize=4)
def _direction(size: int) -> Tensor:
    """The random direction along which cotangents are compared, (size,)."""
    return torch.randn(size, generator=torch.Generator("cpu").manual_seed(1), device="cpu")


def _joined(one: Factors, other: Factors) -> Factors:
    """Two uses of one matrix as one of more positions."""
    deltas = torch.cat([one.deltas, other.deltas], 2)
    return replace(one, sources=one.sources + other.sources, deltas=deltas, product=None)


def _same(raw):
    return raw


def _kept(tensor: Tensor | None) -> Tensor:
    """What a node keeps, without its own graph."""
    if tensor is None:
        raise _Unread
    return tensor.detach()


def _matrix(reader, node, place, turned, deltas, p):
    """W in x Wᵀ, or in x W; the bias of ``addmm`` has its first place."""
    added = node.name() == "AddmmBackward0"
    if added and not node._saved_alpha == node._saved_beta == 1:
        raise _Unread
    if added and place == 0 and p.ndim == 1:
        return reader.by_position(deltas).sum(2)
    if place != 1 + added:
        raise _Unread
    found, a = reader.by_position(deltas, _kept(node._saved_mat1 if added else node._saved_self))
    return Factors(((a, _same),), found, a.shape[2], not turned)


def _kernel(reader, node, place, turned, deltas, p):
    """A convolution's weight or bias."""
    found = reader.by_sample(deltas).flatten(3)  # (n, c, O, T)
    if place == 2:
        return found.sum(3)
    groups, dimensions = node._saved_groups, p.ndim - 2
    if place != 1 or node._saved_transposed or dimensions not in (1, 2) or turned:
        raise _Unread
    lift = (1,) * (2 - dimensions)
    a, size, none = _kept(node._saved_input), (*lift, *p.shape[2:]), (0,) * len(lift)
    a, spatial = (each.unsqueeze(2) if lift else each for each in (a, deltas[0]))
    how = (*lift, *node._saved_stride), (*none, *node._saved_padding), (*lift, *node._saved_dilation)
    product = functools.partial(_kernel_gradients, size, spatial.shape[2:], groups, how)
    if groups > 1:
        if found.shape[0] * found.shape[1] * p.numel() > _ENTRIES:
            raise _Unread
        return product(a, found.mT)
    stride, padding, dilation = how

    def patches(raw):
        if size == (1, 1) and how == ((1, 1), (0, 0), (1, 1)):
            return raw.flatten(2).mT
        return functional.unfold(raw, size, dilation, padding, stride).mT

    # on a GPU patches are what was measured
    return Factors(((a, patches),), found.mT, p[0].numel(), product=None if a.is_cuda else product)


def _kernel_gradients(size, spatial, groups, how, a, deltas, together=False):
    """Gradients (r, c, O, d) by a kernel, of inputs ``a`` (r, C, …) and ``deltas`` (r, c, T, O).

    One convolution, in which each sample is a group of channels of its own. ``together``: (1, 1, O, d), of
    all samples added up, by their first cotangent.
    """
    deltas = deltas.mT.unflatten(3, spatial)
    r, c, out = deltas.shape[:3]
    shape = a.shape[1] // groups, *size
    if together:
        return conv2d_weight(a, (out, *shape), deltas[:, 0], *how, groups).view(1, 1, out, -1)
    # (r, g, c, O/g, …): those that see the same inputs beside each other
    apart = deltas.unflatten(2, (groups, -1)).transpose(1, 2).reshape(1, -1, *spatial)
    rows = a.reshape(1, -1, *a.shape[2:])
    found = conv2d_weight(rows, (r * c * out, *shape), apart, *how, r * groups)
    return found.view(r, groups, c, out // groups, -1).transpose(1, 2).reshape(r, c, out, -1)


def _lookup(reader, node, place, turned, deltas, p):
    """The rows of an embedding; the one for padding has no gradient."""
    if turned:
        raise _Unread
    found, places = reader.by_position(deltas, node._saved_indices.flatten())
    if 0 <= node._saved_padding_idx < len(p):
        found = found * (places != node._saved_padding_idx)[:, None, :, None]
    return Factors(((places, _same),), found, len(p), turned=True, one_hot=True)


def _layer_norm(reader, node, place, turned, deltas, p):
    if place == 0:  # the parameter itself is normed
        raise _Unread
    axes = len(node._saved_normalized_shape)
    kept = node._saved_input, node._saved_result1, node._saved_result2
    x, mean, scale = (_kept(each).flatten(0, -axes - 1).flatten(1) for each in kept)
    deltas = [each.flatten(-axes) for each in deltas]
    found, normed = reader.by_position(deltas, (x - mean) * scale)
    return (found * normed[:, None] if place == 1 else found).sum(2)


def _channels(reader, node, place, turned, deltas, p):
    """Scale or shift of each channel, after group norm or batch norm by running statistics."""
    if place == 0:
        raise _Unread
    found, x = reader.by_sample(deltas).flatten(3), _kept(node._saved_input).flatten(2)  # (n, c, C, T)
    if node.name() == "NativeBatchNormBackward0":
        if node._saved_training or node._saved_running_mean is None:
            raise _Unread
        mean, variance = node._saved_running_mean[:, None], node._saved_running_var[:, None]
        normed = (x - mean) / (variance + node._saved_eps).sqrt()
    else:
        groups = x.reshape(len(x), node._saved_group, -1)
        mean, scale = _kept(node._saved_result1), _kept(node._saved_result2)
        normed = (groups - mean[..., None]) * scale[..., None]
    return (found * normed.view_as(x)[:, None] if place == 1 else found).sum(3)


def _elementwise(reader, node, place, turned, deltas, p):
    """A parameter added to numbers of each sample, or multiplied with them."""
    shape, times = deltas[0].shape, node.name() == "MulBackward0"
    weight = 1 if times or place == 0 else node._saved_alpha
    if p.shape == shape[-1:] and not (turned or times):  # a bias
        return weight * reader.by_position(deltas).sum(2)
    held = (1,) * (len(shape) - p.ndim) + tuple(p.shape)
    if turned or len(held) != len(shape) or held[0] != 1:
        raise _Unread
    found = reader.by_sample(deltas)  # (n, c, …)
    if times:
        other = _kept(node._saved_other if place == 0 else node._saved_self)
        found = found * other.expand(shape)[:, None]
    spread = [2 + axis for axis, one in enumerate(held[1:]) if one == 1]
    return weight * (found.sum(spread, keepdim=True) if spread else found)


_KINDS = {
    "AddmmBackward0": _matrix,
    "MmBackward0": _matrix,
    "ConvolutionBackward0": _kernel,
    "EmbeddingBackward0": _lookup,
    "NativeLayerNormBackward0": _layer_norm,
    "NativeGroupNormBackward0": _channels,
    "NativeBatchNormBackward0": _channels,
    "AddBackward0": _elementwise,
    "MulBackward0": _elementwise,
}
