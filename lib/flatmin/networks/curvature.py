"""Curvature of the loss of a network: the exact Hessian, its spectrum, flatness as each paper defines it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from flatmin.networks.data.sets import Data
from flatmin.networks.device import choose
from flatmin.networks.eigen import Eigenpairs, lanczos, tridiagonal
from flatmin.networks.losses import Loss
from flatmin.networks.parameters import parameter_slice
from flatmin.networks.passes.dense import DensePass
from flatmin.networks.passes.generic import AutogradPass, linearise

__all__ = [
    "Density",
    "Estimate",
    "effective_dimension",
    "eigenpairs",
    "flatness",
    "frobenius_norm",
    "gauss_newton",
    "gauss_newton_spectrum",
    "gauss_newton_trace",
    "hessian",
    "spectral_density",
    "trace",
]

_MATRICES = ("hessian", "gauss-newton")

#: columns of one block of products, and entries of one temporary array
_COLUMNS, _ENTRIES = 50, 2**25
#: entries of a temporary array that should stay in cache
_CACHED = 2**20


def hessian(
    model: nn.Module,
    data: Data,
    loss: str | Loss,
    layer: int | str | None = None,
    device: str | torch.device | None = None,
) -> Tensor:
    """Exact Hessian of the mean loss, dense: (P, P), symmetric, in the dtype of the model.

    With ``layer`` (2: the second weight matrix, or a parameter's name) only that block. Fully connected
    networks: sums of Kronecker-like products over samples, a few matrix products for each pair of layers;
    other networks: one backward pass a column. Use a float64 model where a spectrum is compared with theory.
    Memory: P² numbers. Raises ValueError as :func:`~flatmin.networks.passes.generic.linearise`, or for an
    unknown layer.
    """
    block = parameter_slice(model, layer)
    passed = linearise(model, data, loss, choose(device, model))
    if layer is None and isinstance(passed, DensePass):
        return _dense_hessian(passed).cpu()
    index = _layer_index(passed, block)
    found = _columns_of(passed, block) if index is None else kronecker_block(passed, index)
    return found.cpu()


def _layer_index(passed, block: slice) -> int | None:
    """Which layer's weights the entries ``block`` are, None if they are something else."""
    if not isinstance(passed, DensePass):
        return None
    return next((i for i, one in enumerate(passed.layers) if one.weight_slice == block), None)


def _columns_of(passed, block: slice) -> Tensor:
    size = block.stop - block.start
    out = passed.outputs.new_empty(size, size)
    for start in range(0, size, _COLUMNS):
        stop = min(start + _COLUMNS, size)
        unit = passed.outputs.new_zeros(stop - start, passed.parameters)
        unit[:, block.start + start : block.start + stop].fill_diagonal_(1)
        out[start:stop] = passed.hessian_product(unit)[:, block]
    return (out + out.T) / 2


def kronecker_block(passed: DensePass, index: int) -> Tensor:
    """Hessian of one layer's weights, (1/n) Σ M_i ⊗ a_i a_iᵀ, (h·d, h·d), exact.

    M_i = ∂²ℓ_i/∂z² is h×h and a_i the layer's input, so only one product of the distinct entries of the two
    symmetric matrices is needed: h(h+1)/2 · d(d+1)/2 · n multiplications.
    """
    a, curvature = passed.inputs[index], passed.curvatures[index]
    (n, d), h = a.shape, curvature.shape[1]
    rows, columns = torch.triu_indices(h, h, device=a.device)
    outer = curvature[:, rows, columns].T.contiguous() / n
    first, second = torch.triu_indices(d, d, device=a.device)
    pairs = a.new_empty(len(rows), len(first))
    step = max(1, _ENTRIES // n)
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        pairs[:, part] = outer @ (a[:, first[part]] * a[:, second[part]])
    place_h, place_d = _pair_index(h, a.device), _pair_index(d, a.device)
    full = pairs[:, place_d.reshape(-1)].view(len(rows), d, d)[place_h.reshape(-1)]
    return full.view(h, h, d, d).transpose(1, 2).reshape(h * d, h * d)


def _pair_index(size, device):
    """Position of the pair (i, j) in the upper triangle, (size, size), symmetric."""
    rows, columns = torch.triu_indices(size, size, device=device)
    place = rows.new_empty(size, size)
    place[rows, columns] = torch.arange(len(rows), device=device)
    place[columns, rows] = place[rows, columns]
    return place


def _dense_hessian(passed: DensePass) -> Tensor:
    out = passed.outputs.new_empty(passed.parameters, passed.parameters)
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
    where = {"device": layer.weight.device}
    weight = torch.arange(layer.weight_slice.start, layer.weight_slice.stop, **where)
    weight = weight.view(layer.weight.shape)
    if layer.bias is None:
        return weight.reshape(-1)
    bias = torch.arange(layer.bias_slice.start, layer.bias_slice.stop, **where)[:, None]
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
    out = mixed.new_empty(h, d, p, q)
    step = max(1, _ENTRIES // (n * d * p))
    for start in range(0, h, step):
        part = slice(start, start + step)
        inner = mixed[:, part, None, :] * inputs[:, None, :, None]
        if upper > lower:
            width = slope.shape[1]
            inner[:, :, :width] += passed.deltas[upper][:, part, None, None] * slope[:, None]
        out[part] = (inner.reshape(n, -1).T @ low).view(-1, d, p, q)
    return out.view(h * d, p * q) / n


def gauss_newton(
    model: nn.Module,
    data: Data,
    loss: str | Loss,
    layer: int | str | None = None,
    device: str | torch.device | None = None,
) -> Tensor:
    """Gauss–Newton matrix G = (1/n) Σ Jᵢᵀ (∂²ℓ/∂f²) Jᵢ, dense: (P, P) or one layer's block.

    For the square loss G = (1/n) Σ ∇f ∇fᵀ, the Fisher matrix of W22 §1 and M22 Eq. 43.
    """
    block = parameter_slice(model, layer)
    return _gauss_newton(linearise(model, data, loss, choose(device, model)), block).cpu()


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
        yield passed.sample_roots(slice(start, start + step)).flatten(0, 1)


def gauss_newton_spectrum(
    model: nn.Module, data: Data, loss: str | Loss, device: str | torch.device | None = None
) -> Tensor:
    """All min(P, n·C) largest eigenvalues of the Gauss–Newton matrix, exact, largest first.

    The smaller of G (P, P) and the Gram matrix of its root (n·C, n·C) is formed; they share their spectrum.
    """
    passed = linearise(model, data, loss, choose(device, model))
    if passed.parameters <= passed.samples * passed.outputs.shape[1]:
        matrix = _gauss_newton(passed, slice(0, passed.parameters))
    else:
        matrix = gram(passed) / passed.samples
    return torch.linalg.eigvalsh(matrix).flip(0).cpu()


def gram(passed: DensePass | AutogradPass) -> Tensor:
    """Gram matrix of the Gauss–Newton root, K = R Rᵀ, (n·C, n·C); sample by sample, output by output.

    Fully connected networks: K = Σ_l (ã_i·ã_j) (S_i·S_j), a sum of elementwise products of layer Grams;
    nothing of the size of P is formed. Other networks: one product of the roots, kept when they fit.
    """
    if isinstance(passed, DensePass):
        return root_products(passed, passed.roots, slice(None))
    rows = torch.cat(list(_root_chunks(passed)))
    return rows @ rows.T


def root_products(passed: DensePass, left: list[Tensor], rows: slice) -> Tensor:
    """Inner products of parameter-space rows with the Gauss–Newton root, (rows · c, n · C).

    ``left`` holds for each layer what the rows carry in z_l: (rows, c, h_l) for several of a sample, (rows,
    h_l) for one.
    """
    n, classes = passed.outputs.shape
    total = None
    for inner, one, root in zip(passed.input_products, left, passed.roots, strict=True):
        one = one if one.ndim == 3 else one[:, None]
        count, c, h = one.shape
        part = (one.reshape(count * c, h) @ root.reshape(n * classes, h).T).view(count, c, n, classes)
        part *= inner[rows][:, None, :, None]
        total = part if total is None else total.add_(part)
    return total.view(count * c, n * classes)


def eigenpairs(
    model: nn.Module,
    data: Data,
    loss: str | Loss,
    k: int = 10,
    layer: int | str | None = None,
    matrix: str = "hessian",
    tolerance: float = 1e-3,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Eigenpairs:
    """The k largest eigenpairs of the Hessian (or ``matrix="gauss-newton"``), or of one layer's block, by
    Lanczos.

    ``tolerance`` bounds every residual |Hv − λv| in units of its own |λ|; see
    :func:`~flatmin.networks.eigen.lanczos`. Raises ValueError for an unknown matrix or layer, or k outside
    1…P.
    """
    if matrix not in _MATRICES:
        raise ValueError(f"matrix must be one of {_MATRICES}, got {matrix!r}")
    block = parameter_slice(model, layer)
    passed = linearise(model, data, loss, choose(device, model))
    (start,) = probes_like(passed.outputs, block.stop - block.start, seed)
    return lanczos(_product(passed, block, matrix), start, k, tolerance)


def probes_like(outputs: Tensor, size: int, seed: int, count: int = 1) -> Iterator[Tensor]:
    """Yield ``count`` normal vectors (size,), the same for every dtype and device but for rounding."""
    generator = torch.Generator("cpu").manual_seed(seed)
    for _ in range(count):
        yield torch.randn(size, generator=generator, dtype=torch.float64, device="cpu").to(outputs)


def _product(passed, block: slice, matrix: str):
    """The map v ↦ A v on the entries ``block`` of θ."""
    index = _layer_index(passed, block)
    if index is not None and matrix == "hessian":
        return _block_product(passed, index)
    apply = passed.hessian_product if matrix == "hessian" else passed.gauss_newton_product
    if block == slice(0, passed.parameters):
        return lambda v: apply(v[None])[0]

    def padded(v):
        whole = v.new_zeros(1, passed.parameters)
        whole[0, block] = v
        return apply(whole)[0, block]

    return padded


def _block_product(passed: DensePass, index: int):
    """Product with one layer's Hessian: forward through a, across M, back through a."""
    a, n = passed.inputs[index], passed.samples
    shape = passed.layers[index].weight.shape
    roots = passed.roots[index] if passed.piecewise_linear else None
    curvature = None if passed.piecewise_linear else passed.curvatures[index]

    def product(v):
        moved = (a @ v.view(shape).T)[:, :, None]
        back = curvature @ moved if roots is None else roots.transpose(1, 2) @ (roots @ moved)
        return (back[:, :, 0].T @ a).reshape(-1) / n

    return product


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error (0 where it is exact); ``probes`` random vectors were used."""

    value: float
    error: float
    probes: int


def trace(
    model: nn.Module,
    data: Data,
    loss: str | Loss,
    layer: int | str | None = None,
    probes: int = 100,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Estimate:
    """Trace of the Hessian. Exact for fully connected networks, Hutchinson's estimate for others.

    Exact: Tr H = Σ_l (1/n) Σ_i |ã_{l−1,i}|² Tr M_ll,i. With piecewise linear activations Tr M_ll = |S_l|² and
    one backward pass with C columns is all; Tr H is then also the trace of the Gauss–Newton matrix.
    """
    block = parameter_slice(model, layer)
    passed = linearise(model, data, loss, choose(device, model))
    index = _layer_index(passed, block)
    if isinstance(passed, DensePass) and (layer is None or index is not None):
        layers = range(len(passed.layers)) if index is None else [index]
        norms = passed.input_norms() if index is None else [a.square().sum(1) for a in passed.inputs]
        total = sum(float((norms[i] * _inner_trace(passed, i)).sum()) for i in layers)
        return Estimate(total / passed.samples, 0.0, 0)
    values = [float(z @ product) for z, product in _probe(passed, block, probes, seed)]
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(probes)), probes)


def gauss_newton_trace(
    model: nn.Module,
    data: Data,
    loss: str | Loss,
    chunk: int = 1000,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Estimate:
    """Estimate Tr G = (1/n) Σ |Qᵢᵀ Jᵢ|², ``chunk`` samples at a time, from one random sign vector a sample.

    E |Jᵢᵀ Qᵢ z|² over signs z is sample i's share, so one pass over the data does, in the memory of one
    chunk. ``error``, from the scatter over samples, is above that of the signs alone. Raises ValueError for a
    chunk below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be positive, got {chunk}")
    device, shares = choose(device, model), []
    generator = torch.Generator("cpu").manual_seed(seed)
    for start in range(0, len(data), chunk):
        passed = linearise(model, data.subset(slice(start, start + chunk)), loss, device)
        signs = random_signs(passed.outputs, passed.outputs.shape, generator)
        tops = passed.loss_function.root_product(passed.outputs, slice(None), signs[:, None])[:, 0]
        shares.append(passed.pulled_squares(tops).double().cpu())
    every = torch.cat(shares)
    error = float(every.std() / len(every) ** 0.5) if len(every) > 1 else float("nan")
    return Estimate(float(every.mean()), error, 1)


def random_signs(outputs: Tensor, shape, generator: torch.Generator) -> Tensor:
    """±1 at random, drawn on the CPU, in the dtype and on the device of ``outputs``."""
    return torch.randint(2, shape, generator=generator, device="cpu").to(outputs) * 2 - 1


def _inner_trace(passed, index):
    if passed.piecewise_linear:
        return passed.roots[index].square().sum((1, 2))
    return passed.curvatures[index].diagonal(dim1=1, dim2=2).sum(1)


def _probe(passed, block, probes, seed):
    """Yield random signs z and H z."""
    if probes < 2:
        raise ValueError(f"probes must be at least 2, got {probes}")
    generator = torch.Generator("cpu").manual_seed(seed)
    product = _product(passed, block, "hessian")
    for _ in range(probes):
        z = random_signs(passed.outputs, (block.stop - block.start,), generator)
        yield z, product(z)


def frobenius_norm(
    model: nn.Module,
    data: Data,
    loss: str | Loss,
    layer: int | str | None = None,
    probes: int = 100,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Estimate:
    """Frobenius norm of the Hessian. Exact for fully connected networks, else from E|Hz|² = ‖H‖² over random
    z.

    Exact: ‖H‖² = (1/n²) Σ_ij ⟨H_i, H_j⟩, where the inner product of two samples' Hessians is a short sum of
    products of small matrices for each pair of layers; H itself is never formed.
    """
    block = parameter_slice(model, layer)
    passed = linearise(model, data, loss, choose(device, model))
    index = _layer_index(passed, block)
    if index is not None:
        flat = passed.curvatures[index].flatten(1)
        square = float(((flat @ flat.T) * (passed.inputs[index] @ passed.inputs[index].T).square()).sum())
        return Estimate(square**0.5 / passed.samples, 0.0, 0)
    if isinstance(passed, DensePass) and layer is None:
        return Estimate(_frobenius_square(passed) ** 0.5, 0.0, 0)
    squares = [float(product.square().sum()) for _, product in _probe(passed, block, probes, seed)]
    value = float(np.mean(squares)) ** 0.5
    return Estimate(value, float(np.std(squares, ddof=1) / np.sqrt(probes) / (2 * value)), probes)


def _frobenius_square(passed: DensePass) -> float:
    total = 0.0
    for lower in range(len(passed.layers)):
        slopes = passed.input_slopes(lower)
        for upper in range(lower, len(passed.layers)):
            if upper == lower:
                flat = passed.curvatures[lower].flatten(1)
                total += float(((flat @ flat.T) * passed.input_products[lower].square()).sum())
            else:
                total += 2 * _pair_square(passed, lower, upper, slopes[upper])
    return total / passed.samples**2


def _pair_square(passed: DensePass, lower: int, upper: int, slope: Tensor) -> float:
    """Σ_ij of the inner products of the (upper, lower) blocks of two samples' Hessians.

    A block is (M[i,p] ã_m[j] + δ[i] A[j,p]) ã_l[q] (see :func:`_pair_block`), so the inner product is
    ã_l·ã_l' (⟨M,M'⟩ ã_m·ã_m' + δ·δ' ⟨A,A'⟩ + δ'ᵀM A'ᵀa + δᵀM' Aᵀa'); the last two give the same sum.
    """
    mixed = (passed.curvatures[upper] @ passed.layers[upper].weight) @ slope
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
    """Spectral density as weighted points: eigenvalues ``nodes`` (m,) and ``weights`` (m,) of sum 1."""

    nodes: np.ndarray
    weights: np.ndarray

    def on(self, grid: np.ndarray, width: float) -> np.ndarray:
        """Density on ``grid``, each point widened to a Gaussian of standard deviation ``width``."""
        z = (grid[:, None] - self.nodes) / width
        return (np.exp(-0.5 * z**2) @ self.weights) / (width * np.sqrt(2 * np.pi))


def spectral_density(
    model: nn.Module,
    data: Data,
    loss: str | Loss,
    steps: int = 80,
    probes: int = 10,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Density:
    """Spectral density of the Hessian by stochastic Lanczos quadrature.

    ``probes`` Gaussian vectors, ``steps`` Lanczos steps each. Moments of the density up to degree 2·steps − 1
    are unbiased estimates of Tr Hᵐ / P. Raises ValueError for a number below 1.
    """
    if steps < 1 or probes < 1:
        raise ValueError(f"steps and probes must be positive, got {steps} and {probes}")
    passed = linearise(model, data, loss, choose(device, model))
    product = _product(passed, slice(0, passed.parameters), "hessian")
    nodes, weights = [], []
    for start in probes_like(passed.outputs, passed.parameters, seed, probes):
        one_nodes, one_weights = tridiagonal(product, start, steps)
        nodes.append(one_nodes)
        weights.append(one_weights / probes)
    return Density(np.concatenate(nodes), np.concatenate(weights))


_FLATNESS = ("geometric-mean", "root-geometric-mean", "trace", "frobenius", "largest")


def flatness(
    model: nn.Module,
    data: Data,
    loss: str | Loss,
    definition: str = "geometric-mean",
    layer: int | str | None = None,
    top: int = 10,
    device: str | torch.device | None = None,
) -> float:
    """Flatness as a paper defines it; larger is flatter.

    ``"geometric-mean"``: F = (λ₁⋯λ_top)^(−1/top) (Y26 Eq. 1, there with ``layer=2, top=10``);
    ``"root-geometric-mean"``: its square root (Y23 Eq. 6, exponent −1/(2·top));
    ``"frobenius"``: 1/‖H‖_F and ``"trace"``: 1/Tr H (W22 §3); ``"largest"``: 1/λ₁ (M22's h*).
    NaN where one of the top eigenvalues is not positive. Raises ValueError for another definition.
    """
    if definition not in _FLATNESS:
        raise ValueError(f"definition must be one of {_FLATNESS}, got {definition!r}")
    if definition == "trace":
        return 1 / trace(model, data, loss, layer, device=device).value
    if definition == "frobenius":
        return 1 / frobenius_norm(model, data, loss, layer, device=device).value
    if definition == "largest":
        return 1 / float(eigenpairs(model, data, loss, 1, layer, device=device).values[0])
    values = eigenpairs(model, data, loss, top, layer, device=device).values.double()
    if not (values > 0).all():
        return float("nan")
    mean = float(values.log().mean().exp())
    return 1 / mean if definition == "geometric-mean" else mean**-0.5


def effective_dimension(values: Tensor) -> float:
    """Participation ratio 1/Σpᵢ² of eigenvalues, pᵢ = λᵢ/Σλ: the number of outliers in M22 App. E (Eq. 44).

    ``values`` (m,) not negative; ValueError otherwise.
    """
    if (values < -1e-6 * values.max()).any():
        raise ValueError(f"values must not be negative, got {float(values.min()):.3g}")
    shares = values.double() / values.double().sum()
    return float(1 / shares.square().sum())
