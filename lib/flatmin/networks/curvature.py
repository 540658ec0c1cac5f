"""Curvature of the loss of a network: the exact Hessian, its spectrum, flatness as each paper defines it.

``here`` is a checked point, as :func:`flatmin.networks.point.at` makes it; ``layer`` a parameter's name, or a
number (2: the second weight matrix, without bias, the block of Y26), None for all parameters. What comes back
lies on the CPU. Memory: two products at least hold a few vectors of P numbers; temporary arrays hold up to
``_ENTRIES`` numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flatmin import _check
from flatmin.estimate import Estimate, student
from flatmin.networks import eigen
from flatmin.networks.eigen import Eigenpairs
from flatmin.networks.passes.dense import DensePass
from flatmin.networks.passes.generic import AutogradPass

__all__ = [
    "Density",
    "diagonal",
    "effective_dimension",
    "eigenpairs",
    "flatness",
    "flatness_of",
    "frobenius_norm",
    "gauss_newton",
    "gauss_newton_shares",
    "gauss_newton_spectrum",
    "gauss_newton_trace",
    "gram",
    "hessian",
    "moments",
    "spectral_density",
    "trace",
]

_MATRICES = ("hessian", "gauss-newton")
#: columns of one block of products, and entries of one temporary array
_COLUMNS, _ENTRIES = 50, 2**25
#: cotangents pulled back at once: each holds the activations of all samples
_TOGETHER = 5
#: entries of a temporary array that should stay in cache
_CACHED = 2**20
#: largest fully connected block whose eigenpairs come from the dense matrix
_SMALL = 600
#: multiplications and numbers kept up to which the norm of a fully connected network is exact
_EXACT_WORK, _EXACT_ENTRIES = 2**38, 2**27

_UNITS, _OUTPUTS = "exact, column by column", "exact, output by output"


def hessian(here, layer: int | str | None = None) -> Tensor:
    """Exact Hessian of the mean loss, dense: (P, P), symmetric, in the dtype of the point.

    Fully connected networks: sums of Kronecker-like products over samples, a few matrix products for each
    pair of layers; others: one product a column. Use ``here.double()`` where a spectrum is compared with
    theory. Raises ValueError for an unknown layer, or a matrix of more than 8 GiB.
    """
    block = here.dense_block(layer)
    return _hessian(here.passed, block).cpu()


def _hessian(passed, block: slice) -> Tensor:
    index = _layer_index(passed, block)
    if index is not None:
        return _kronecker_block(passed, index)
    if isinstance(passed, DensePass) and block == slice(0, passed.parameters):
        return _dense_hessian(passed)
    return _columns_of(passed, block, "hessian")


def _layer_index(passed, block: slice) -> int | None:
    """Which layer's weights the entries ``block`` are, None if they are something else."""
    if not isinstance(passed, DensePass):
        return None
    return next((i for i, one in enumerate(passed.layers) if one.weight_slice == block), None)


def _columns_of(passed, block: slice, matrix: str) -> Tensor:
    size, product = block.stop - block.start, _product(passed, block, matrix)
    out = passed.outputs.new_empty(size, size)
    for start in range(0, size, _COLUMNS):
        stop = min(start + _COLUMNS, size)
        unit = passed.outputs.new_zeros(stop - start, size)
        unit[:, start:stop].fill_diagonal_(1)
        out[start:stop] = product(unit)
    return (out + out.T) / 2


def _sample_chunks(passed: DensePass):
    """Chunks of samples whose M_ll and ∂a/∂z fit into a temporary array."""
    widths = [len(layer.weight) for layer in passed.layers]
    return passed.chunks(2 * sum(widths) ** 2)


def _kronecker_block(passed: DensePass, index: int) -> Tensor:
    """Hessian of one layer's weights, (1/n) Σ M_i ⊗ a_i a_iᵀ, (h·d, h·d), M_i = ∂²ℓ_i/∂z² (h, h), exact."""
    a, chunks = passed.inputs[index], _sample_chunks(passed)
    return sum(_outer_products(passed.curvatures(rows)[index], a[rows]) for rows in chunks) / passed.samples


def _outer_products(curvatures: Tensor, a: Tensor) -> Tensor:
    """Σ_i M_i ⊗ a_i a_iᵀ of the symmetric ``curvatures`` (r, h, h) and the inputs ``a`` (r, d), (h·d, h·d).

    By one product of the distinct entries of both: h(h+1)/2 · d(d+1)/2 · r multiplications.
    """
    (n, d), h = a.shape, curvatures.shape[1]
    rows, columns = torch.triu_indices(h, h, device=a.device)
    first, second = torch.triu_indices(d, d, device=a.device)
    outer = curvatures[:, rows, columns].T.contiguous()
    pairs, step = a.new_empty(len(rows), len(first)), max(1, _at_a_time(a) // n)
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        pairs[:, part] = outer @ (a[:, first[part]] * a[:, second[part]])
    place_h, place_d = _pair_index(h, a.device), _pair_index(d, a.device)
    full = pairs[:, place_d.reshape(-1)].view(len(rows), d, d)[place_h.reshape(-1)]
    return full.view(h, h, d, d).transpose(1, 2).reshape(h * d, h * d)


def _at_a_time(like: Tensor) -> int:
    """Entries of a temporary array: on a CPU what stays in its cache."""
    return _CACHED if like.device.type == "cpu" else _ENTRIES


def _pair_index(size, device):
    """Position of the pair (i, j) in the upper triangle, (size, size), symmetric."""
    rows, columns = torch.triu_indices(size, size, device=device)
    place = rows.new_empty(size, size)
    place[rows, columns] = torch.arange(len(rows), device=device)
    place[columns, rows] = place[rows, columns]
    return place


def _dense_hessian(passed: DensePass) -> Tensor:
    out = passed.outputs.new_zeros(passed.parameters, passed.parameters)
    places = [_augmented_places(layer) for layer in passed.layers]
    for chunk in _sample_chunks(passed):
        curvatures = passed.curvatures(chunk)
        for lower in range(len(passed.layers)):
            own = _outer_products(curvatures[lower], _augmented(passed, lower, chunk))
            out[places[lower][:, None], places[lower]] += own / passed.samples
            slopes = passed.input_slopes(lower, chunk)
            for upper in range(lower + 1, len(passed.layers)):
                block = _pair_block(passed, lower, upper, curvatures[upper], slopes[upper], chunk)
                out[places[upper][:, None], places[lower]] += block
                out[places[lower][:, None], places[upper]] += block.T
    return out


def _augmented_places(layer):
    """Entries of θ of one layer in the order of the matrix [W b], row by row."""
    where = {"device": layer.weight.device}
    weight = torch.arange(layer.weight_slice.start, layer.weight_slice.stop, **where)
    weight = weight.view(layer.weight.shape)
    if layer.bias is None:
        return weight.reshape(-1)
    bias = torch.arange(layer.bias_slice.start, layer.bias_slice.stop, **where)[:, None]
    return torch.cat([weight, bias], 1).reshape(-1)


def _augmented(passed, index, rows):
    a = passed.inputs[index][rows]
    return a if passed.layers[index].bias is None else torch.cat([a, torch.ones_like(a[:, :1])], 1)


def _pair_block(passed: DensePass, lower: int, upper: int, mixed: Tensor, slope, rows: slice) -> Tensor:
    """What the samples in ``rows`` add to block (upper, lower) of H, upper > lower, in the order [W b].

    ∂²ℓ/∂W_m[i,j]∂W_l[p,q] = (M_ml[i,p] a_{m−1}[j] + δ_m[i] A[j,p]) a_{l−1}[q], with A = ∂a_{m−1}/∂z_l and
    M_ml = M_mm W_m A; the second term is not in the bias of layer m.
    """
    inputs, low = _augmented(passed, upper, rows), _augmented(passed, lower, rows)
    mixed = (mixed @ passed.layers[upper].weight) @ slope
    (n, h, p), width = mixed.shape, slope.shape[1]
    d, q = inputs.shape[1], low.shape[1]
    out = mixed.new_empty(h, d, p, q)
    step = max(1, _at_a_time(mixed) // (n * d * p))
    for start in range(0, h, step):
        part = slice(start, start + step)
        inner = mixed[:, part, None, :] * inputs[:, None, :, None]
        inner[:, :, :width] += passed.deltas[upper][rows][:, part, None, None] * slope[:, None]
        out[part] = (inner.reshape(n, -1).T @ low).view(-1, d, p, q)
    return out.view(h * d, p * q) / passed.samples


def gauss_newton(here, layer: int | str | None = None) -> Tensor:
    """Gauss–Newton matrix G = (1/n) Σ Jᵢᵀ (∂²ℓ/∂f²) Jᵢ, dense: (P, P) or one layer's block.

    For the square loss G = (1/n) Σ ∇f ∇fᵀ, the Fisher matrix of W22 §1 and M22 Eq. 43. Raises ValueError as
    :func:`hessian`, and for a loss whose ∂²ℓ/∂f² is not positive semi-definite.
    """
    block = here.dense_block(layer)
    return _gauss_newton(here.passed, block).cpu()


def _gauss_newton(passed, block: slice) -> Tensor:
    size = block.stop - block.start
    total = passed.outputs.new_zeros(size, size)
    for rows in _root_chunks(passed):
        total.addmm_(rows[:, block].T, rows[:, block])
    return total / passed.samples


def _root_chunks(passed) -> Iterator[Tensor]:
    """Rows of the Gauss–Newton root in chunks, (rows · C, P)."""
    step = max(1, _ENTRIES // (passed.parameters * passed.outputs.shape[1]))
    for start in range(0, passed.samples, step):
        yield passed.sample_roots(slice(start, min(start + step, passed.samples))).flatten(0, 1)


def gauss_newton_spectrum(here) -> Tensor:
    """All min(P, n·C) largest eigenvalues of the Gauss–Newton matrix, exact, largest first.

    The smaller of G (P, P) and the Gram matrix of its root (n·C, n·C) is formed; they share their spectrum.
    Raises ValueError where both have more than 20 000 rows.
    """
    passed = here.passed
    size = min(passed.parameters, passed.outputs.numel())
    if size > 20_000:
        raise ValueError(
            f"here: {passed.parameters} parameters and {passed.outputs.numel()} outputs are too many for a "
            'dense spectrum: one must be at most 20000; take eigenpairs(matrix="gauss-newton")'
        )
    if size == passed.parameters:
        matrix = _gauss_newton(passed, slice(0, passed.parameters))
    else:
        matrix = gram(passed) / passed.samples
    return torch.linalg.eigvalsh(matrix).flip(0).cpu()


def gram(passed: DensePass | AutogradPass) -> Tensor:
    """Gram matrix of the Gauss–Newton root, K = R Rᵀ, (n·C, n·C); sample by sample, output by output.

    Fully connected networks: K = Σ_l (ã_i·ã_j) (S_i·S_j), a sum of elementwise products of layer Grams;
    nothing of the size of P is formed. Others: see :meth:`~.passes.generic.AutogradPass.pulled_gram`.
    """
    if isinstance(passed, DensePass):
        return passed.root_products(passed.roots, slice(None))
    units = torch.eye(passed.outputs.shape[1], dtype=passed.outputs.dtype, device=passed.outputs.device)
    units = units.expand(passed.samples, -1, -1)
    return passed.pulled_gram(passed.loss_function.root_product(passed.outputs, slice(None), units))


def eigenpairs(
    here,
    k: int = 10,
    layer: int | str | None = None,
    matrix: str = "hessian",
    which: str = "largest",
    tolerance: float = 1e-3,
    steps: int = 5000,
    seed: int = 0,
    missed: float = 0.01,
) -> Eigenpairs:
    """k eigenpairs at one end of the spectrum of the Hessian, each as often as its multiplicity.

    Blocks of up to 600 parameters of fully connected networks, and small ones of others: by dense linear
    algebra. Else by Lanczos chains, see :func:`~flatmin.networks.eigen.lanczos`; in a fully connected network
    of few samples along the directions that they span (:meth:`~.passes.dense.DensePass.narrowed`).

    Parameters
    ----------
    here : Point
    k : int, 1…P
    layer : int or str, optional
        One parameter's block.
    matrix : "hessian" or "gauss-newton"
    which : "largest", "smallest" (algebraic ends) or "magnitude"
    tolerance : float
        Bounds every residual |Hv − λv| in units of its own |λ|.
    steps : int
        Products allowed.
    seed : int
        Of the starting vectors.
    missed : float
        Chance allowed that a copy of a multiple eigenvalue is overlooked; 1 does without the proof, about a
        quarter of the products, and may find each eigenvalue once only.

    Raises
    ------
    ValueError
        For an argument out of range, or where ``steps`` products do not suffice; it says how far they came.
    """
    _check.choice("matrix", matrix, _MATRICES)
    block, passed = here.block(layer), here.passed
    k = _check.integer("k", k, least=1, most=block.stop - block.start)
    seed = _check.integer("seed", seed, least=0, most=eigen.SEEDS)
    _check.choice("which", which, eigen.ENDS)
    how = (_check.number("tolerance", tolerance, above=0, below=1), _check.integer("steps", steps, least=1))
    how = (k, *how, which, seed, _check.number("missed", missed, above=0, most=1))
    first = _layer_index(passed, block) == 0
    if isinstance(passed, DensePass) and (first or layer is None) and (narrow := passed.narrowed()):
        narrow, widened = narrow
        own = narrow.layers[0].weight_slice if first else slice(0, narrow.parameters)
        if own.stop > k:
            found = _pairs(narrow, own, matrix, *how)
            if eigen.outwards(found.values, which).min() > 0:  # no 0 of the other directions lies among them
                return replace(found, vectors=widened(found.vectors))
    return _pairs(passed, block, matrix, *how)


def _pairs(passed, block: slice, matrix: str, k: int, tolerance, steps, which, seed, missed) -> Eigenpairs:
    size = block.stop - block.start
    if isinstance(passed, DensePass) and size <= _SMALL:
        make = _hessian if matrix == "hessian" else _gauss_newton
        return eigen.dense(make(passed, block), k, which)
    if size <= 4 * k + 20:
        return eigen.dense(_columns_of(passed, block, matrix), k, which)
    product = _product(passed, block, matrix)
    (start,) = probes_like(passed.outputs, size, seed)
    return eigen.lanczos(lambda v: product(v[None])[0], start, k, tolerance, steps, which, seed + 1, missed)


def probes_like(outputs: Tensor, size: int, seed: int, count: int = 1) -> Iterator[Tensor]:
    """Yield ``count`` normal vectors (size,), the same for every dtype and device but for rounding."""
    generator = torch.Generator("cpu").manual_seed(seed)
    for _ in range(count):
        yield torch.randn(size, generator=generator, dtype=torch.float64, device="cpu").to(outputs)


def _product(passed, block: slice, matrix: str):
    """The map v ↦ A v on the entries ``block`` of θ, for rows v (k, size)."""
    index = _layer_index(passed, block)
    if index is not None and matrix == "hessian":
        return _block_product(passed, index)
    apply = passed.hessian_product if matrix == "hessian" else passed.gauss_newton_product
    if block == slice(0, passed.parameters):
        return apply

    def padded(v):
        whole = v.new_zeros(len(v), passed.parameters)
        whole[:, block] = v
        return apply(whole)[:, block]

    return padded


def _block_product(passed: DensePass, index: int):
    """Product with one layer's Hessian: forward through a, across M, back through a."""
    a, (h, d) = passed.inputs[index], passed.layers[index].weight.shape
    widths = sum(len(layer.weight) for layer in passed.layers[index:])

    def product(v):
        k, total = len(v), 0.0
        for rows in passed.chunks(4 * k * widths):
            moved = (a[rows] @ v.view(k * h, d).T).view(-1, k, h)
            back = passed.curvature_product(index, rows, moved)
            total = total + (back.reshape(-1, k * h).T @ a[rows]).view(k, h * d)
        return total / passed.samples

    return product


def diagonal(here, layer: int | str | None = None, probes: int = 100, seed: int = 0) -> Estimate:
    """Diagonal of the Hessian, (P,) or that of one layer's block, numpy float64.

    Fully connected networks: exact, ∂²L/∂W_pq² = (1/n) Σ_i M_pp,i a_q,i² layer by layer, at the cost of a
    gradient. Other piecewise linear ones (:mod:`~.passes.pieces`) of no more outputs than ``probes``: exact
    too, H and G have the same diagonal. Others: the mean of z ∘ Hz over ``probes`` vectors of random signs
    (Bekas, Kokiopoulou & Saad 2007), with a standard error for each entry; or exact, column by column, where
    that takes no more products. Raises ValueError for an unknown layer or fewer than two probes.
    """
    block, probes, seed = here.block(layer), *_random(probes, seed)
    exact = _exact_diagonal(here.passed, block, probes)
    if exact is not None:
        return exact
    total = squares = 0.0
    for z, product in _probe(here.passed, block, probes, seed):
        found = (z * product).double()
        total, squares = total + found.sum(0), squares + found.square().sum(0)
    mean = total / probes
    variance = ((squares - probes * mean.square()) / (probes - 1)).clamp(min=0)
    return Estimate(mean.cpu().numpy(), (variance / probes).sqrt().cpu().numpy(), probes, "random signs")


def _exact_diagonal(passed, block: slice, probes: int) -> Estimate | None:
    size = block.stop - block.start
    if isinstance(passed, DensePass):
        parts = []
        for layer, a, curved in zip(passed.layers, passed.inputs, passed.curvature_diagonals, strict=True):
            parts.append((curved.T @ a.square()).reshape(-1))
            if layer.bias is not None:
                parts.append(curved.sum(0))
        whole = torch.cat(parts)[block].double() / passed.samples
        return Estimate(whole.cpu().numpy(), np.zeros(size), 0, "exact, layer by layer")
    if size <= probes:
        found = _columns_of(passed, block, "hessian").diagonal().double().cpu().numpy()
        return Estimate(found, np.zeros(size), 0, _UNITS)
    if _by_outputs(passed, probes):
        rows = _root_chunks(passed)
        whole = sum(part[:, block].square_().sum(0).double() for part in rows) / passed.samples
        return Estimate(whole.cpu().numpy(), np.zeros(size), 0, _OUTPUTS)
    return None


def _by_outputs(passed, probes: int) -> bool:
    """Whether H and G have the same diagonal, and that of G takes no more passes than ``probes``."""
    few = not isinstance(passed, DensePass) and passed.outputs.shape[1] <= probes
    return few and passed.loss_function.convex and passed.linear_in_each


def trace(here, layer: int | str | None = None, probes: int = 100, seed: int = 0) -> Estimate:
    """Trace of the Hessian, or of one layer's block.

    Fully connected networks: exact, Tr H = Σ_l (1/n) Σ_i |ã_{l−1,i}|² Tr M_ll,i, the sum of the
    :func:`diagonal`; with piecewise linear activations it is the trace of the Gauss–Newton matrix too. Other
    piecewise linear networks (:mod:`~.passes.pieces`) of no more outputs than ``probes``: that trace, exact.
    Others: Hutchinson's mean of zᵀHz over ``probes`` vectors of random signs, with its standard error; exact
    where the block has no more than ``probes`` parameters. Raises ValueError as :func:`diagonal`.
    """
    block, probes, seed = here.block(layer), *_random(probes, seed)
    if layer is None and here.parameters > probes and _by_outputs(here.passed, probes):
        return gauss_newton_trace(here, probes)
    exact = _exact_diagonal(here.passed, block, probes)
    if exact is not None:
        return Estimate(float(exact.value.sum()), 0.0, 0, exact.method)
    drawn = _probe(here.passed, block, probes, seed)
    values = torch.cat([(z * product).double().sum(1) for z, product in drawn])
    return Estimate(float(values.mean()), float(values.std()) / probes**0.5, probes, "random signs")


def moments(
    here, probes: int = 100, seed: int = 0, norm: bool = True
) -> tuple[Estimate, Estimate | None, Estimate]:
    """Tr H, ‖H‖_F and the traces of the blocks of all parameters (in the order of ``here.names``) at once.

    As :func:`trace` and :func:`frobenius_norm`, from the same ``probes`` products; raises as they do. The
    exact diagonal of a wide network of curved activations, which takes longer than these, is left. Where the
    traces need no products, ``norm=False`` saves them: None for ‖H‖_F.
    """
    probes, seed = _random(probes, seed)
    _check.flag("norm", norm)
    every, blocks = here.block(), [here.block(name) for name in here.names]
    long = isinstance(here.passed, DensePass) and here.passed.diagonal_products > probes
    exact = None if long else _exact_diagonal(here.passed, every, probes)
    if exact is not None:
        parts = np.array([exact.value[block].sum() for block in blocks])
        whole = Estimate(float(exact.value.sum()), 0.0, 0, exact.method)
        traces = whole, replace(whole, value=parts, error=0.0 * parts)
        if not norm:
            return traces[0], None, traces[1]
        if exact.method != _OUTPUTS:
            return traces[0], frobenius_norm(here, None, probes, seed), traces[1]
    sums, squares = [], []
    for z, product in _probe(here.passed, every, probes, seed):
        shares = (z * product).double()
        sums.append(torch.stack([shares[:, block].sum(1) for block in blocks], 1).cpu())
        squares.append(product.double().square().sum(1).cpu())
    sums = torch.cat(sums)
    wider = student(1.0, probes - 1) / probes**0.5
    found = [(v.mean(0).numpy(), v.std(0).numpy() * wider) for v in (sums.sum(1), sums)]
    (value, error), layers = found
    how, root = "random signs, Student's t", _root_mean(torch.cat(squares))
    root = replace(root, error=student(root.error, probes - 1), method=how)
    if exact is None:
        traces = Estimate(float(value), float(error), probes, how), Estimate(*layers, probes, how)
    return traces[0], root, traces[1]


def gauss_newton_trace(here, probes: int = 1, seed: int = 0) -> Estimate:
    """Tr G = (1/n) Σ |Qᵢᵀ Jᵢ|² over samples, Q Qᵀ = ∂²ℓ/∂f².

    Exact, in one pass over the data for each output, where there are no more outputs than ``probes``; else
    with ``probes`` vectors of random signs z for each sample: E |Jᵢᵀ Qᵢ z|² is the sample's share. The error
    comes from the scatter between the signs; for a single probe from that over samples, which is above it.
    Raises ValueError for probes below 1, or a loss without a root.
    """
    return mean_of_shares(gauss_newton_shares(here, probes, seed), here.passed.outputs.shape[1])


def mean_of_shares(shares: Tensor, outputs: int) -> Estimate:
    """Tr G from what :func:`gauss_newton_shares` gives for so many ``outputs``."""
    probes, n = shares.shape
    if probes == outputs:
        return Estimate(float(shares.mean()), 0.0, 0, _OUTPUTS)
    if probes > 1:
        error = float(shares.var(0).sum() / probes) ** 0.5 / n
    else:
        error = float(shares.std()) / n**0.5 if n > 1 else float(shares.mean()) * 2**0.5
    return Estimate(float(shares.mean()), error, n * probes, "random signs for each sample")


def gauss_newton_shares(here, probes: int = 1, seed: int = 0) -> Tensor:
    """|Jᵢᵀ Qᵢ z|² for ``probes`` vectors z of each sample, (probes, n), on the CPU; their mean is Tr G.

    √C times the unit vectors z, (C, n), where there are no more outputs C than ``probes``. Raises ValueError
    as :func:`gauss_newton_trace`.
    """
    passed, probes = here.passed, _check.integer("probes", probes, least=1)
    outputs = passed.outputs.shape[1]
    generator = torch.Generator("cpu").manual_seed(_check.integer("seed", seed, least=0, most=eigen.SEEDS))
    count, parts, (n, _) = min(outputs, probes), [], passed.outputs.shape
    for start in range(0, count, _TOGETHER):
        some = slice(start, min(start + _TOGETHER, count))
        if outputs <= probes:
            unit = torch.eye(outputs, dtype=passed.outputs.dtype, device=passed.outputs.device)
            signs = unit[some].expand(n, -1, -1)
        else:
            drawn = [signs_like(passed.outputs, (n, outputs), generator) for _ in range(*some.indices(count))]
            signs = torch.stack(drawn, 1)
        tops = passed.loss_function.root_product(passed.outputs, slice(None), signs)
        parts.append(passed.pulled_squares(tops).double().cpu())
    return torch.cat(parts, 1).T * (outputs if outputs <= probes else 1)


def columns_of(here, name: str, vectors) -> Tensor:
    """``vectors`` if they are a finite tensor (P, k) at the point ``here``; ValueError otherwise."""
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != here.parameters:
        raise _check.refused(name, vectors, f"a tensor of shape ({here.parameters}, k)")
    if not vectors.numel() or not vectors.is_floating_point() or not torch.isfinite(vectors).all():
        raise _check.refused(name, vectors, "finite real numbers, at least one column")
    return vectors


def signs_like(outputs: Tensor, shape, generator: torch.Generator) -> Tensor:
    """±1 at random, drawn on the CPU, in the dtype and on the device of ``outputs``."""
    return torch.randint(2, shape, generator=generator, device="cpu").to(outputs) * 2 - 1


def _random(probes, seed) -> tuple[int, int]:
    """The two arguments of an estimate, checked also where the answer turns out to be exact."""
    return _check.integer("probes", probes, least=2), _check.integer("seed", seed, least=0, most=eigen.SEEDS)


def _probe(passed, block: slice, probes: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield random signs z and H z, a few rows (·, size) at a time."""
    generator = torch.Generator("cpu").manual_seed(seed)
    product, size = _product(passed, block, "hessian"), block.stop - block.start
    step = max(1, min(_COLUMNS, _ENTRIES // passed.parameters))
    for start in range(0, probes, step):
        z = signs_like(passed.outputs, (min(step, probes - start), size), generator)
        yield z, product(z)


def frobenius_norm(here, layer: int | str | None = None, probes: int = 100, seed: int = 0) -> Estimate:
    """Frobenius norm of the Hessian, or of one layer's block (W22 §3).

    Fully connected networks: exact, ‖H‖² = (1/n²) Σ_ij ⟨H_i, H_j⟩, where the inner product of two samples'
    Hessians is a short sum of products of small matrices for each pair of layers; H itself is never formed.
    That is up to 2³⁸ multiplications (some seconds) and 2²⁷ numbers kept. Beyond, and for other networks: the
    root of the mean of |Hz|² over ``probes`` vectors of random signs, its bias from the curved root taken off
    to first order, with its standard error; exact where the block has no more than ``probes`` parameters.
    Raises ValueError as :func:`diagonal`.
    """
    block, probes, seed = here.block(layer), *_random(probes, seed)
    passed, index = here.passed, _layer_index(here.passed, block)
    if index is not None and passed.samples**2 * (len(passed.layers) + 1) <= _EXACT_ENTRIES:
        everyone, a = slice(0, passed.samples), passed.inputs[index]
        square = float((passed.curvature_inner(index, everyone, everyone) * (a @ a.T).square()).sum())
        return Estimate(max(square, 0.0) ** 0.5 / passed.samples, 0.0, 0, "exact, sample by sample")
    if isinstance(passed, DensePass) and layer is None and _affordable(passed):
        return Estimate(max(_frobenius_square(passed), 0.0) ** 0.5, 0.0, 0, "exact, sample by sample")
    if block.stop - block.start <= probes:
        return Estimate(float(_columns_of(passed, block, "hessian").double().norm()), 0.0, 0, _UNITS)
    drawn = _probe(passed, block, probes, seed)
    return _root_mean(torch.cat([product.double().square().sum(1) for _, product in drawn]))


def _root_mean(squares: Tensor) -> Estimate:
    """The root of the mean of independent numbers, its bias to first order taken off."""
    mean, variance = float(squares.mean()), float(squares.var()) / len(squares)
    value = mean**0.5
    if value:
        value, variance = value * (1 + variance / (8 * mean**2)), variance / (4 * mean)
    return Estimate(value, variance**0.5, len(squares), "random signs")


def _affordable(passed: DensePass) -> bool:
    """Whether the exact norm is within the stated work and memory."""
    n, widths = passed.samples, [len(layer.weight) for layer in passed.layers]
    inner = [layer.weight.shape[1] for layer in passed.layers[1:]]
    pairs = sum(widths) ** 2 + 2 * sum(d * sum(widths[: i + 1]) for i, d in enumerate(inner))
    return n**2 * pairs <= _EXACT_WORK and n * pairs + n**2 * (len(widths) + 3) <= _EXACT_ENTRIES


def _frobenius_square(passed: DensePass) -> float:
    total, everyone = 0.0, slice(0, passed.samples)
    for lower in range(len(passed.layers)):
        slopes = passed.input_slopes(lower)
        for upper in range(lower, len(passed.layers)):
            if upper == lower:
                inner = passed.curvature_inner(lower, everyone, everyone)
                total += float((inner * passed.input_products[lower].square()).sum())
            else:
                total += 2 * _pair_square(passed, lower, upper, slopes[upper])
    return total / passed.samples**2


def _pair_square(passed: DensePass, lower: int, upper: int, slope: Tensor) -> float:
    """Σ_ij of the inner products of the (upper, lower) blocks of two samples' Hessians.

    A block is (M[i,p] ã_m[j] + δ[i] A[j,p]) ã_l[q] (see :func:`_pair_block`), so the inner product is
    ã_l·ã_l' (⟨M,M'⟩ ã_m·ã_m' + δ·δ' ⟨A,A'⟩ + δ'ᵀM A'ᵀa + δᵀM' Aᵀa'); the last two give the same sum.
    """
    mixed = _mixed(passed, upper, passed.layers[upper].weight @ slope)
    delta, weights = passed.deltas[upper], passed.input_products[lower]
    flat = mixed.flatten(1)
    inner = (flat @ flat.T).mul_(passed.input_products[upper])
    if upper == lower + 1:  # A is diagonal: A'ᵀa = φ′ ∘ a, and every term is one product over (i, p)
        below, a = passed.slopes[lower], passed.inputs[upper]
        inner += (delta @ delta.T).mul_(below @ below.T)
        left = (delta[:, :, None] * below[:, None, :]).flatten(1)
        inner += 2 * ((mixed * a[:, None, :]).flatten(1) @ left.T)
        return float((inner * weights).sum())
    flat_slope = slope.flatten(1)
    inner += (delta @ delta.T).mul_(flat_slope @ flat_slope.T)
    return float((inner * weights).sum()) + 2 * _cross_terms(passed, upper, mixed, slope, weights)


def _mixed(passed: DensePass, upper: int, moved: Tensor) -> Tensor:
    """M_mm times ``moved`` (n, h_m, p) of each sample, (n, h_m, p)."""
    if upper < len(passed.layers) - 1:
        return passed.hidden_curvatures()[upper] @ moved
    return passed.curvature_product(upper, slice(0, passed.samples), moved.transpose(1, 2)).transpose(1, 2)


def _cross_terms(passed, upper, mixed, slope, weights) -> float:
    """Σ_ij weights_ij δ_jᵀ M_i A_jᵀ a_i, in chunks of i that stay in cache."""
    n, _, p = mixed.shape
    d = slope.shape[1]
    slope_first = slope.transpose(0, 1).reshape(d, n * p)
    total, step = 0.0, max(1, _CACHED // (n * p))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        left = passed.deltas[upper] @ mixed[rows]  # (rows, n, p)
        right = (passed.inputs[upper][rows] @ slope_first).view(-1, n, p)
        total += float((left.mul_(right).sum(2) * weights[rows]).sum())
    return total


@dataclass(frozen=True)
class Density:
    """Spectral density as weighted points, from several random vectors.

    ``nodes`` and ``weights`` (m,): eigenvalues and weights, of sum 1; ``probe`` (m,): number of the random
    vector, 0 … probes − 1, that a point comes from; ``parameters`` P. A random direction sees f(H) with the
    variance 2(⟨f²⟩ − ⟨f⟩²)/(P + 2), means over all eigenvalues: that is where the errors come from, as the
    scatter among a few vectors is too rough where one eigenvalue counts.
    """

    nodes: np.ndarray
    weights: np.ndarray
    probe: np.ndarray
    parameters: int

    def moment(self, power: int) -> Estimate:
        """Tr H^power / P; unbiased for powers below twice the steps."""
        return self._mean(self.nodes ** _check.integer("power", power, least=0))

    def on(self, grid, width: float) -> Estimate:
        """Density on ``grid`` (g,), each point widened to a Gaussian of standard deviation ``width``."""
        grid = _check.array("grid", grid, ndim=1)
        width = _check.number("width", width, above=0)
        z = (self.nodes[:, None] - grid) / width
        return self._mean(np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) / width)

    def _mean(self, values):
        """Mean of values (m, …) at the nodes, with the standard error."""
        count = int(self.probe.max()) + 1
        found, square = self.weights @ values, self.weights @ np.square(values)
        error = np.sqrt(2 * np.maximum(square - found**2, 0) / ((self.parameters + 2) * count))
        if not np.ndim(found):
            found, error = float(found), float(error)
        return Estimate(found, error, count, "Lanczos quadrature")


def spectral_density(here, steps: int = 80, probes: int = 10, seed: int = 0) -> Density:
    """Spectral density of the Hessian by stochastic Lanczos quadrature.

    ``probes`` Gaussian vectors, ``steps`` Lanczos steps each. Raises ValueError for fewer than one step or
    two probes. Memory: ``steps`` vectors of P numbers.
    """
    steps, passed = _check.integer("steps", steps, least=1), here.passed
    probes, seed = _random(probes, seed)
    product = _product(passed, slice(0, passed.parameters), "hessian")
    nodes, weights, probe = [], [], []
    for number, start in enumerate(probes_like(passed.outputs, passed.parameters, seed, probes)):
        one_nodes, one_weights = eigen.tridiagonal(lambda v: product(v[None])[0], start, steps)
        nodes.append(one_nodes)
        weights.append(one_weights / probes)
        probe.append(np.full(len(one_nodes), number))
    return Density(*map(np.concatenate, (nodes, weights, probe)), passed.parameters)


_FLATNESS = ("Y26", "Y23", "Y22", "W22-frobenius", "W22-trace", "M22")


def flatness(here, definition: str, layer: int | str | None = None, top: int = 10) -> Estimate:
    """Flatness as a paper defines it; larger is flatter.

    =================  ============================================================================
    ``"Y26"``          (λ₁⋯λ_top)^(−1/top) (Eq. 1; there ``layer=2, top=10``)
    ``"Y23"``          (λ₁⋯λ_top)^(−1/(2·top)), the mean of λ^(−1/2) (Eq. 6; ``top=10``)
    ``"Y22"``          λ₁^(−1/2), of the one steep direction (Eq. 3)
    ``"W22-frobenius"``  1/‖H‖_F (§3, Theorem 3.3)
    ``"W22-trace"``    1/Tr H (§3.2)
    ``"M22"``          1/λ₁, its h*, taken along the sharpest direction
    =================  ============================================================================

    Parameters
    ----------
    here : Point
    definition : str
    layer : int or str, optional
        Whose block H is.
    top : int
        How many eigenvalues Y26 and Y23 take.

    Returns
    -------
    Estimate
        With the error of what it is made of: for eigenvalues a bound, from their residuals.

    Raises
    ------
    ValueError
        For another definition, and where an eigenvalue or trace that it takes is not positive: flatness is
        not defined there.
    """
    _check.choice("definition", definition, _FLATNESS)
    block = here.block(layer)
    top = _check.integer("top", top, least=1)
    if definition.startswith("W22"):
        measure = trace if definition == "W22-trace" else frobenius_norm
        found = measure(here, layer)
        if not found.value > 0:
            raise ValueError(
                f"definition={definition!r}: the {measure.__name__} is {found.value:.3g}: must be positive"
            )
        return found.inverse()
    top = top if definition in ("Y26", "Y23") else 1
    top = _check.integer("top", top, most=block.stop - block.start)
    return flatness_of(eigenpairs(here, top, layer, tolerance=1e-4), definition)


def flatness_of(pairs: Eigenpairs, definition: str) -> Estimate:
    """Flatness by eigenvalues, as :func:`flatness` defines it, from all of the largest ``pairs`` (one for
    Y22 and M22); ValueError for another definition, and eigenvalues that are not positive."""
    _check.choice("definition", definition, [name for name in _FLATNESS if not name.startswith("W22")])
    values, residuals = pairs.values.double().numpy(), pairs.residuals.double().numpy()
    if definition in ("Y22", "M22"):
        values, residuals = values[:1], residuals[:1]
    if not (values > residuals).all():
        bad = int(np.argmin(values > residuals))
        allowed = f"as many as there are positive eigenvalues; number {bad + 1} is {values[bad]:.3g}"
        raise _check.refused("top", len(values), allowed)
    power = 1.0 if definition in ("Y26", "M22") else 0.5
    value = float(np.exp(-power * np.log(values).mean()))
    method = f"{len(values)} largest eigenvalues, "
    method += f"≈ {pairs.products} products" if pairs.products else "dense"
    return Estimate(value, value * power * float((residuals / values).mean()), 0, method)


def effective_dimension(values) -> float:
    """Participation ratio 1/Σpᵢ² of eigenvalues, pᵢ = λᵢ/Σλ: the number of outliers in M22 App. E (Eq. 44).

    ``values`` (m,), none negative beyond 10⁻⁶ of the largest and one positive; ValueError otherwise.
    """
    values = _check.array("values", values, ndim=1)
    if values.max() <= 0 or values.min() < -1e-6 * values.max():
        allowed = f"not negative, and not all zero; the least is {values.min():.3g}"
        raise _check.refused("values", values, allowed)
    return float(1 / np.square(values / values.sum()).sum())
