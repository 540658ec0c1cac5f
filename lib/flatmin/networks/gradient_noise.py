"""The noise of a minibatch gradient: its covariance, and how that lies against the curvature.

Notation. Σ = (1/n) Σ_i ∇ℓ_i ∇ℓ_iᵀ − ∇L ∇Lᵀ is the covariance of one sample's gradient (W22 §1); C = c Σ is
that of a minibatch of B samples (Y23; M22 Eq. 8 calls it Σ), with c of :class:`~flatmin.sampling.Sampling`.
Every function takes the point at which the network is measured, made by :func:`flatmin.at`; the same are
methods of ``here.noise``.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from flatmin._check import instance, integer, number, refused
from flatmin.estimate import Estimate, bootstrap_error
from flatmin.fits import Slope
from flatmin.networks import curvature
from flatmin.networks.eigen import Eigenpairs, lanczos
from flatmin.networks.passes.dense import DensePass
from flatmin.networks.passes.generic import linearise
from flatmin.networks.sampled import SampledAlignment, sampled_alignment
from flatmin.sampling import Sampling

__all__ = [
    "Alignment",
    "Decoupling",
    "DecouplingFactors",
    "HessianBasis",
    "Noise",
    "NoiseStrength",
    "alignment",
    "along",
    "covariance",
    "decoupling",
    "decoupling_factors",
    "exponent",
    "in_hessian_basis",
    "noise_strength",
]

#: why no label may be weighed or ignored
_BATCHES = "for batches of several: torch divides by the weights of each; take batch_size=1"
#: numbers in one temporary array; and in one that should stay in cache
_ENTRIES, _CACHED = 2**25, 2**21
#: inner products of gradients and roots that are kept all at once
_KEPT = 2**27
#: eigenvectors along which the exponent is measured, at most
_MOST_VECTORS = 200
#: samples from which on no resample of hundreds holds one of them only; relative spread of the eigenvalues
_FEWEST, _APART = 8, 1e-2


class Noise:
    """The gradient noise at a point, as ``here.noise``; each method is the function of the same name."""

    def __init__(self, here):
        self._here = here

    def strength(self, chunk: int = 1000) -> NoiseStrength:
        """𝒩 = Tr Σ, see :func:`noise_strength`."""
        return noise_strength(self._here, chunk)

    def alignment(self) -> Alignment:
        """α, β, μ, …, see :func:`alignment`."""
        return alignment(self._here)

    def sampled_alignment(self, samples: int = 256, probes: int = 2, seed: int = 0) -> SampledAlignment:
        """α, β, μ, … from a few samples, see :func:`~flatmin.networks.sampled.sampled_alignment`."""
        return sampled_alignment(self._here, samples, probes, seed)

    def covariance(self, batch_size: int = 1, sampling: str = "fresh", layer=None) -> Tensor:
        """C, dense, see :func:`covariance`."""
        return covariance(self._here, batch_size, sampling, layer)

    def in_hessian_basis(self, batch_size: int = 1, sampling: str = "fresh", layer=None) -> HessianBasis:
        """C_ii along the eigenvectors of the Hessian, see :func:`in_hessian_basis`."""
        return in_hessian_basis(self._here, batch_size, sampling, layer)

    def exponent(self, window: float = 1e-2, layer=None, seed: int = 0) -> Slope:
        """x of C_ii ∝ λ_i^x, see :func:`exponent`."""
        return exponent(self._here, window, layer, seed)

    def decoupling(self) -> Decoupling:
        """Spectra of both sides of M22 Eq. 7, see :func:`decoupling`."""
        return decoupling(self._here)

    def decoupling_factors(self) -> DecouplingFactors:
        """What decoupling leaves out, see :func:`decoupling_factors`."""
        return decoupling_factors(self._here)


def _centred_gradients(passed, block: slice):
    """Yield chunks of (∇ℓ_i − ∇L) in the entries ``block`` of θ, (rows, block)."""
    mean = passed.gradient()[block]
    step = max(1, _ENTRIES // passed.parameters)
    for start in range(0, passed.samples, step):
        rows = slice(start, min(start + step, passed.samples))
        yield passed.sample_gradients(rows)[:, block] - mean


def covariance(here, batch_size: int = 1, sampling: str = "fresh", layer: int | str | None = None) -> Tensor:
    """Exact covariance C of the minibatch gradient, dense (M22 Eq. 8).

    Parameters
    ----------
    here : Point
    batch_size : int
        B; 1 gives Σ itself.
    sampling : str
        How the batch is drawn, see :class:`~flatmin.sampling.Sampling`.
    layer : int or str, optional
        Only that block: 2 is the second weight matrix, a text is a parameter's name.

    Returns
    -------
    (P, P) tensor on the CPU, in the type of the point

    Raises
    ------
    ValueError
        For a batch size outside 1…n, an unknown layer, a matrix above 8 GiB, and above B = 1 for a loss that
        weighs or ignores labels.
    """
    factor = _factor(here, batch_size, sampling)
    block = here.dense_block(layer)
    passed, size = here.passed, block.stop - block.start
    total = passed.outputs.new_zeros(size, size)
    for rows in _centred_gradients(passed, block):
        total.addmm_(rows.T, rows)
    return total.cpu() * (factor / passed.samples)


def _factor(here, batch_size, sampling) -> float:
    batch_size = integer("batch_size", batch_size, least=1)
    if batch_size > 1:
        here.loss_function.require_apart(here.data.targets, _BATCHES)
    return Sampling.of(sampling).factor(here.samples, batch_size)


@dataclass(frozen=True)
class HessianBasis:
    """Curvature and noise along the eigenvectors v_i of the Hessian, sharpest first.

    ``curvature`` (P,): λ_i = v_iᵀ H v_i; ``noise`` (P,): C_ii = v_iᵀ C v_i; ``vectors`` (P, P), one a column.
    """

    curvature: Tensor
    noise: Tensor
    vectors: Tensor


def in_hessian_basis(
    here, batch_size: int = 1, sampling: str = "fresh", layer: int | str | None = None
) -> HessianBasis:
    """Diagonal of C in the eigenbasis of the exact Hessian, as in Y23 Fig. 1b; dense.

    C itself is never formed: C_ii is the mean square of v_i·(∇ℓ − ∇L). Arguments and errors as
    :func:`covariance`.
    """
    factor, block = _factor(here, batch_size, sampling), here.block(layer)
    dense = curvature.hessian(here, layer).to(here.device)
    if dense.is_cuda:
        values, vectors = torch.linalg.eigh(dense)
    else:  # two thirds of the time
        values, vectors = map(torch.from_numpy, np.linalg.eigh(dense.cpu().numpy()))
    values, vectors = values.flip(0).to(here.device), vectors.flip(1).to(here.device)
    noise = torch.zeros_like(values)
    for rows in _centred_gradients(here.passed, block):
        noise += (rows @ vectors).square().sum(0)
    return HessianBasis(values.cpu(), (noise * (factor / here.samples)).cpu(), vectors.cpu())


def exponent(here, window: float = 1e-2, layer: int | str | None = None, seed: int = 0, pairs=None) -> Slope:
    """Exponent x of C_ii ∝ λ_i^x along the leading eigenvectors of the Hessian, without a (P, P) matrix.

    Y22 and Y23 assume x = 2, M22, W22 and Y26 x = 1. Least squares of ln C_ii on ln λ_i over the eigenvalues
    above ``window`` · λ₁, at most 200 of them; C_ii needs one derivative along each eigenvector. The error
    is that of the samples (bootstrap): whether one power fits at all is another question, to be answered by
    other windows.

    Parameters
    ----------
    here : Point
    window : float
        Smallest eigenvalue used, as a share of λ₁; between 0 and 1.
    layer : int or str, optional
        Only that block.
    pairs : Eigenpairs, optional
        Leading eigenpairs (of that block), if they are known; by default they are found.

    Raises
    ------
    ValueError
        For a window outside (0, 1), where fewer than three different eigenvalues lie in it, for fewer than 8
        samples, and where the noise vanishes along an eigenvector (a perfect fit, samples all equal).
    """
    window = number("window", window, above=0, below=1)
    if here.samples < _FEWEST:
        raise ValueError(f"data: {here.samples} samples are too few to resample: must be at least {_FEWEST}")
    block = here.block(layer)
    if pairs is None:
        pairs = _leading(here, window, layer, block.stop - block.start, seed)
    instance("pairs", pairs, Eigenpairs)
    values = pairs.values.double().numpy()
    count = int(((values >= window * values[0]) & (values > 0)).sum())
    if count < 3 or values[count - 1] > (1 - _APART) * values[0]:
        found = ", all equal" if count >= 3 else ""
        raise refused(
            "window", window, f"wide enough for three different positive eigenvalues, it holds {count}{found}"
        )
    directions = torch.zeros(count, here.parameters, dtype=here.dtype)
    directions[:, block] = pairs.vectors[:, :count].T.to(here.dtype)
    slopes = sample_slopes(here.passed, directions.to(here.device)).double().cpu().numpy()  # (n, k)
    eps, passed = torch.finfo(here.dtype).eps, here.passed
    bent = passed.loss_function.curvature_product(passed.outputs, slice(None), passed.outputs[:, None])
    fitted = bool(passed.output_gradients.abs().max() <= 1e2 * eps * bent.abs().max())
    if fitted or not (np.var(slopes, axis=0) > (1e2 * eps) ** 2 * np.square(slopes).mean(0)).all():
        raise ValueError(
            "data: the gradient noise vanishes along an eigenvector: must not, its logarithm is fitted"
        )
    logs = np.log(values[:count])
    logs = logs - logs.mean()

    def fit(rows):
        noise = np.var(slopes[rows], axis=0)
        return float(logs @ np.log(noise) / (logs @ logs))

    every = np.arange(len(slopes))
    error = bootstrap_error(fit, len(slopes), 200, seed)
    middle = float(np.log(np.var(slopes, axis=0)).mean() - fit(every) * np.log(values[:count]).mean())
    method = f"along the leading {count} eigenvectors, bootstrap over samples"
    ends = float(values[count - 1]), float(values[0])
    return Slope(fit(every), error, here.samples, method, middle, count, ends)


def _leading(here, window, layer, size, seed):
    """Leading eigenpairs down to ``window`` · λ₁, or the most there may be."""
    k = min(20, size)
    while True:
        pairs = curvature.eigenpairs(here, k, layer=layer, seed=seed)
        if k == min(size, _MOST_VECTORS) or pairs.values[-1] < window * pairs.values[0]:
            return pairs
        k = min(2 * k, size, _MOST_VECTORS)


def along(here, vectors: Tensor) -> Estimate:
    """vᵀΣv along the columns of ``vectors`` (P, k), as numpy (k,), with the errors of the samples, as a draw.

    One derivative of the outputs for each; :class:`HessianBasis` has them for B samples, dense. Raises
    ValueError for fewer than two samples, and vectors that are no finite (P, k) tensor.
    """
    vectors = curvature.columns_of(here, "vectors", vectors)
    if here.samples < 2:
        raise ValueError("data: 1 sample has no scatter: must be at least two")
    slopes = sample_slopes(here.passed, vectors.T.to(here.device, here.dtype)).double()
    squares = (slopes - slopes.mean(0)).square().cpu()
    error = (squares.std(0) / here.samples**0.5).numpy()
    return Estimate(squares.mean(0).numpy(), error, here.samples, "exact for these samples")


def sample_slopes(passed, vectors: Tensor) -> Tensor:
    """v·∇ℓ_i along the rows of ``vectors`` (k, P), (n, k)."""
    step, parts = max(1, _ENTRIES // max(1, passed.outputs.numel())), []
    for start in range(0, len(vectors), step):
        moved = passed.output_derivatives(vectors[start : start + step])  # (n, k, C)
        parts.append((moved @ passed.output_gradients[:, :, None])[:, :, 0])
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class Alignment:
    """How the noise of one sample lies against the Gauss–Newton matrix G (W22 §2), all exact.

    ``alpha`` = Tr(ΣG)/(‖Σ‖‖G‖), ``beta`` = ‖Σ‖/(2L‖G‖), ``mu`` = αβ, ``mu_1`` and ``mu_2`` the same with
    Σ₁ = (1/n) Σ ∇ℓ∇ℓᵀ and Σ₂ = ∇L∇Lᵀ (``mu`` = ``mu_1`` − ``mu_2``); ``chi`` (n,): χ_i = Tr(J_i G J_iᵀ), for
    one output ∇f_iᵀ G ∇f_i; ``gamma`` = min χ/mean χ; ``tau`` = λ₁(G)²/‖G‖² (Lemma 2.4); ``loss`` = L;
    ``g_norm`` = ‖G‖_F, ``sigma_norm`` = ‖Σ‖_F, ``trace_sigma`` = Tr Σ = 𝒩 of M22 §5.2, ``trace_sigma_g`` =
    Tr(ΣG).
    """

    alpha: float
    beta: float
    mu: float
    mu_1: float
    mu_2: float
    gamma: float
    tau: float
    loss: float
    g_norm: float
    sigma_norm: float
    trace_sigma: float
    trace_sigma_g: float
    chi: Tensor = field(repr=False)


def alignment(here) -> Alignment:
    """Measure α, β, μ, μ₁, μ₂, γ, τ through n×n Gram matrices (W22 §2); no matrix of the size of P is formed.

    W22 defines them for the square loss and one output. Several outputs: G = (1/n) Σ Jᵀ(∂²ℓ/∂f²)J and
    L = (1/n) Σ ½|f − y|². For other losses the same formulas are evaluated with their L; μ = 1 has no special
    meaning then. Memory: a few rows of (n·C, n·C) at a time; all of them, once, where n·C is below 5800 or
    the network is not fully connected. Raises ValueError for a loss without a positive semi-definite second
    derivative in the outputs, and where L, Σ or G vanishes.
    """
    passed = here.passed
    n, size = passed.samples, passed.outputs.numel()
    kernel = passed.outputs.new_empty(size, size) if size**2 <= _ENTRIES else None
    chi, first, mean_rows, square, trace_sigma = _pair_sums(passed, kernel)
    sigma_norm, g_norm = square**0.5 / n, float(chi.mean()) ** 0.5
    trace_1, trace_2 = first / n**2, float((mean_rows / n).square().sum()) / n
    scale = 2 * passed.loss * g_norm**2
    if not (scale > 0 and sigma_norm > 0):
        raise ValueError(
            f"alignment: L = {passed.loss:.3g}, |Σ| = {sigma_norm:.3g}, |G| = {g_norm:.3g}: must be positive"
        )
    return Alignment(
        alpha=(trace_1 - trace_2) / (sigma_norm * g_norm),
        beta=sigma_norm / (2 * passed.loss * g_norm),
        mu=(trace_1 - trace_2) / scale,
        mu_1=trace_1 / scale,
        mu_2=trace_2 / scale,
        gamma=float(chi.min() / chi.mean()),
        tau=_largest_gauss_newton(passed, kernel) ** 2 / g_norm**2,
        loss=passed.loss,
        g_norm=g_norm,
        sigma_norm=sigma_norm,
        trace_sigma=trace_sigma,
        trace_sigma_g=trace_1 - trace_2,
        chi=chi,
    )


def _pair_sums(passed, kernel: Tensor | None):
    """χ (n,), Σ_ij |R_j ∇ℓ_i|², Σ_i R ∇ℓ_i (n·C,), Σ_ij (g̃_i·g̃_j)² with g̃_i = ∇ℓ_i − ∇L, and Tr Σ."""
    n = passed.samples
    chi = torch.zeros(n, dtype=torch.float64, device="cpu")
    slopes, first, mean_rows, lengths, square = None, 0.0, 0.0, 0.0, 0.0
    for rows, of_gradients, mixed, squares in _gram_rows(passed, kernel):
        chi[rows] = squares.double().cpu() / n
        first += float(mixed.square().sum())
        mean_rows = mean_rows + mixed.sum(0).double()
        if slopes is None:  # ∇ℓ_i·∇L, (n, 1)
            whole = len(of_gradients) == n
            slopes = of_gradients.mean(1, True) if whole else sample_slopes(passed, passed.gradient()[None])
        lengths += float(of_gradients[:, rows].diagonal().double().sum())
        centred = of_gradients - slopes[rows] - slopes.T + slopes.mean()
        square += float(centred.square_().sum(1).double().sum())
    return chi, first, mean_rows, square, lengths / n - float(slopes.double().mean())


def _largest_gauss_newton(passed, kernel: Tensor | None) -> float:
    """λ₁(G), which is λ₁ of the Gram matrix of its root over n: from that where it was kept."""
    size = passed.parameters if kernel is None else len(kernel)
    (start,) = curvature.probes_like(passed.outputs, size, seed=0)
    if kernel is not None:
        return float(lanczos(lambda v: kernel @ v, start, 1, 1e-4).values[0]) / passed.samples
    return float(lanczos(lambda v: passed.gauss_newton_product(v[None])[0], start, 1, 1e-4).values[0])


def _gram_rows(passed, kernel) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yield for chunks of samples i: ∇ℓ_i·∇ℓ_j (r, n), ∇ℓ_i·R_j (r, n·C), Σ_j |R_i R_jᵀ|² (r,).

    What is R_i R_jᵀ goes into ``kernel`` (n·C, n·C), if there is one.
    """
    make = _dense_gram_rows if isinstance(passed, DensePass) else _generic_gram_rows
    for rows, products, *found in make(passed):
        if kernel is not None:
            classes = passed.outputs.shape[1]
            kernel[rows.start * classes : rows.stop * classes] = products
        yield rows, *found


def _dense_gram_rows(passed: DensePass):
    n, classes = passed.outputs.shape
    alone = classes == 1 and passed.loss_function.loss.name == "square"  # ∇ℓ = e ∇f: one Gram matrix is all
    step = max(1, _CACHED // (n * classes**2))
    columns = max(1, min(classes, _ENTRIES // (n * classes)))
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        f, hidden, products, squares = passed.outputs[rows], passed.hidden_roots(rows), None, 0.0
        for first in range(0, classes, columns):
            part = slice(first, first + columns)
            unit = torch.eye(classes, dtype=f.dtype, device=f.device)[part].expand(len(f), -1, -1)
            left = [*(root[:, part] for root in hidden), passed.loss_function.root_product(f, rows, unit)]
            products = passed.root_products(left, rows)  # all of them where they are kept
            squares = squares + products.view(len(f), -1).square().sum(1)
        if alone:
            mixed = products * passed.output_gradients[rows]
            yield rows, products, mixed * passed.output_gradients.T, mixed, squares
            continue
        mixed = passed.root_products([d[rows] for d in passed.deltas], rows)
        of_gradients = sum(
            inner[rows] * (delta[rows] @ delta.T)
            for inner, delta in zip(passed.input_products, passed.deltas, strict=True)
        )
        yield rows, products, of_gradients, mixed, squares


def _generic_gram_rows(passed):
    n, classes = passed.outputs.shape
    if (n * (classes + 1)) ** 2 <= _KEPT:
        units = torch.eye(classes, dtype=passed.outputs.dtype, device=passed.outputs.device)
        roots = passed.loss_function.root_product(passed.outputs, slice(None), units.expand(n, -1, -1))
        products = passed.pulled_gram(torch.cat([passed.output_gradients[:, None], roots], 1))
        products = products.view(n, classes + 1, n, classes + 1)
        inner, mixed = products[:, 1:, :, 1:], products[:, 0, :, 1:].flatten(1)
        squares = inner.square().sum((1, 2, 3))
        yield slice(0, n), inner.reshape(n * classes, -1), products[:, 0, :, 0], mixed, squares
        return
    step = max(1, min(n, _ENTRIES // (passed.parameters * (classes + 1))))
    chunks = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    for rows in chunks:
        gradients, roots = passed.sample_gradients(rows), passed.sample_roots(rows)
        of_gradients, mixed, products = [], [], []
        for others in chunks:
            other_roots = passed.sample_roots(others).flatten(0, 1)
            of_gradients.append(gradients @ passed.sample_gradients(others).T)
            mixed.append(gradients @ other_roots.T)
            products.append(roots.flatten(0, 1) @ other_roots.T)
        products = torch.cat(products, 1)
        squares = products.view(len(roots), -1).square().sum(1)
        yield rows, products, torch.cat(of_gradients, 1), torch.cat(mixed, 1), squares


@dataclass(frozen=True, eq=False, repr=False)
class NoiseStrength(Estimate):
    """𝒩 = (1/n) Σ |∇ℓ_i|² − |∇L|² = Tr Σ (M22 §5.2), with ``loss`` L and ``gradient_square`` |∇L|².

    The value is exact for these samples; ``error`` is that of the samples, as a draw from a larger set.
    ``squares`` and ``slopes`` (n,): |∇ℓ_i|² and ∇ℓ_i·∇L.
    """

    loss: float = 0.0
    gradient_square: float = 0.0
    squares: np.ndarray = field(default=None, repr=False)
    slopes: np.ndarray = field(default=None, repr=False)


def noise_strength(here, chunk: int = 1000, executor=None) -> NoiseStrength:
    """Measure 𝒩 = Tr Σ in one pass over the data, ``chunk`` samples at a time (M22 §5.2).

    Parameter by parameter (:mod:`~.passes.layers`), at about the cost of three gradients; what cannot be read
    so holds per-sample gradients a few at a time. Memory: those of one chunk where they have less than 2²⁵
    numbers, else one gradient and the activations. The error follows from |∇ℓ_i|² and ∇ℓ_i·∇L, for which a
    second pass is taken where one chunk does not hold all samples; two samples are as far from their mean as
    each other and tell none: infinite below three. ``executor`` (of processes:
    ``concurrent.futures``, Dask) takes the chunks; the result is the same to the last digit. Raises
    ValueError for a chunk below 1, and an executor of threads, which would share torch's global switches.
    """
    chunk = integer("chunk", chunk, least=1)
    mapped = map_of(executor)
    if here.samples <= chunk or not here.loss_function.apart(here.data.targets):
        pieces, shares, slopes = [], *_whole(here.passed)  # or a sample is weighed by all others
    else:
        rows = [slice(start, start + chunk) for start in range(0, here.samples, chunk)]
        pieces = [(here.network, here.data.take(part), here.loss_function, here.chunk) for part in rows]
        shares = list(mapped(_share_of, pieces))
    n, squares = here.samples, torch.cat([share[1] for share in shares])
    losses, gradient = (sum(share[i] for share in shares) / n for i in (0, 2))
    square = float(gradient.square().sum())
    if pieces:
        slopes = torch.cat(list(mapped(_slopes_of, [(piece, gradient) for piece in pieces])))
    value = float(squares.mean()) - square
    error = float((squares - 2 * slopes).std() / n**0.5) if n > 2 else float("inf")
    each = squares.numpy(), slopes.numpy()
    return NoiseStrength(value, error, n, "exact for these samples", losses, square, *each)


def map_of(executor):
    """The ``map`` that work goes to; ValueError for what is no executor, or one of threads."""
    if executor is None:
        return map
    if not callable(getattr(executor, "map", None)) or isinstance(executor, ThreadPoolExecutor):
        raise refused("executor", executor, "an executor of processes, with map()")
    return executor.map


def _whole(passed):
    """The share of all samples in a list, and their ∇ℓ_i·∇L: in one pass where that can be."""
    *share, slopes = _sums(passed)
    if slopes is None:
        return [share], _slopes_along(passed, share[2] / passed.samples)
    return [share], slopes / passed.samples


def _sums(passed):
    """Sum of the losses, |∇ℓ_i|², Σ_j ∇ℓ_j and products of the two (None: in another pass), on the CPU."""
    found = None if isinstance(passed, DensePass) else passed.gradient_sums()
    if found is None:
        squares = passed.pulled_squares(passed.output_gradients)
        found = squares, passed.gradient().double() * passed.samples, None
    found = [None if each is None else each.double().cpu() for each in found]
    return float(passed.losses.double().sum()), *found


def _share_of(piece):
    return _sums(linearise(*piece))[:3]


def _slopes_along(passed, vector):
    """∇ℓ_i·v, (n,), on the CPU."""
    vector = vector.to(passed.outputs)
    dense = isinstance(passed, DensePass)
    found = sample_slopes(passed, vector[None])[:, 0] if dense else passed.loss_slopes(vector)
    return found.double().cpu()


def _slopes_of(work):
    return _slopes_along(linearise(*work[0]), work[1])


@dataclass(frozen=True)
class Decoupling:
    """The two sides of the decoupling approximation (M22 Eq. 7): their spectra, largest first, and distance.

    ``exact`` = eigenvalues of A = (1/n) Σ ℓ_i ∇f_i∇f_iᵀ, ``decoupled`` = those of B = L · (1/n) Σ ∇f_i∇f_iᵀ,
    both (m,) with m = min(P, n). ``distance`` = ‖A − B‖_F/‖B‖_F: equal spectra do not make equal matrices.
    """

    exact: Tensor
    decoupled: Tensor
    distance: float


@dataclass(frozen=True)
class DecouplingFactors:
    """What decoupling leaves out: ⟨|Jᵀe|²⟩ = ``samples`` · ``outputs`` · ⟨|e|²⟩⟨|J|²⟩/K; 1 each if nothing.

    ``samples`` = ⟨|e|²|J|²⟩/⟨|e|²⟩⟨|J|²⟩: large errors on samples with long gradients; ``outputs`` =
    K⟨|Jᵀe|²⟩/⟨|e|²|J|²⟩: the errors of a sample on those of its outputs that have long gradients. Both are
    exact for these samples; ``errors`` are the standard errors of the two, as a draw from a larger set.
    """

    samples: float
    outputs: float
    errors: tuple[float, float] = (0.0, 0.0)


def decoupling_factors(here) -> DecouplingFactors:
    """Split K⟨|Jᵀe|²⟩/(⟨|e|²⟩⟨|J|²⟩) for the square loss: errors e (n, K), Jacobians J (n, K, P).

    Without the square of the mean gradient, ⟨|Jᵀe|²⟩ is 𝒩 and the product K𝒩/(2L Tr G). Raises ValueError for
    another loss, and at a perfect fit.
    """
    errors = _square(here).output_gradients
    passed = here.passed
    units = torch.eye(errors.shape[1], dtype=errors.dtype, device=errors.device)
    lengths = sum(passed.pulled_squares(unit.expand_as(errors)) for unit in units)
    squares = errors.square().sum(1)
    both = squares * lengths
    if not both.mean() > 0:
        raise ValueError("data: errors or Jacobians vanish (a perfect fit?): must not, for ratios of them")
    pulled = passed.pulled_squares(errors)
    means = [each.double().mean() for each in (both, squares, lengths, pulled)]
    found = [means[0] / (means[1] * means[2]), errors.shape[1] * means[3] / means[0]]
    both, squares, lengths, pulled = (
        each.double() / mean for each, mean in zip((both, squares, lengths, pulled), means, strict=True)
    )
    moved = both - squares - lengths, pulled - both  # what a sample adds to the logarithms
    scale = len(both) ** -0.5
    errors = [float(value * each.std() * scale) for value, each in zip(found, moved, strict=True)]
    return DecouplingFactors(*map(float, found), tuple(errors))


def _square(here):
    """The pass of a point on the square loss."""
    if here.loss_function.name != "square":
        raise refused("loss", here.loss_function.name, "'square', for which decoupling is defined")
    return here.passed


def decoupling(here) -> Decoupling:
    """Compare the noise with its decoupled form, for the square loss and one output, as M22 Fig. 1 does.

    Both come from the (n, n) Gram matrix of ∇f, or from (P, P) matrices where P < n. Raises ValueError for
    another loss or several outputs, and at a perfect fit.
    """
    passed = _square(here)
    if passed.outputs.shape[1] != 1:
        raise ValueError(f"model has {passed.outputs.shape[1]} outputs: must have one")
    if not passed.loss > 0:
        raise ValueError("data: all errors vanish (a perfect fit): must not, for ratios of them")
    n, weights = passed.samples, passed.losses / passed.loss
    if passed.parameters < n:
        exact = passed.outputs.new_zeros(passed.parameters, passed.parameters)
        plain, step = torch.zeros_like(exact), max(1, _ENTRIES // passed.parameters)
        for start in range(0, n, step):
            part = slice(start, start + step)
            rows = passed.sample_roots(part)[:, 0]
            exact.addmm_(rows.T, weights[part, None] * rows)
            plain.addmm_(rows.T, rows)
        distance = float((exact - plain).norm() / plain.norm())
    else:
        plain = curvature.gram(passed)
        squares, off = plain.square(), weights - 1
        distance = float((off * (squares @ off)).sum().clamp(min=0) / squares.sum()) ** 0.5
        exact = weights.sqrt()[:, None] * plain * weights.sqrt()
    scale = passed.loss / n
    spectra = [torch.linalg.eigvalsh(matrix).flip(0).cpu() * scale for matrix in (exact, plain)]
    return Decoupling(*spectra, distance)
