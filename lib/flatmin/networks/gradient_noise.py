"""The noise of a minibatch gradient: its covariance, and how that lies against the curvature.

Notation. Σ = (1/n) Σ_i ∇ℓ_i ∇ℓ_iᵀ − ∇L ∇Lᵀ is the covariance of one sample's gradient (W22 §1); C is the
covariance of the gradient of a minibatch of B samples (Y23; M22 Eq. 8 calls it Σ):

- drawn with replacement: C = Σ / B;
- drawn without replacement: C = (n − B)/(n − 1) · Σ / B (M22 Eq. 8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from flatmin.networks import curvature
from flatmin.networks.data.sets import Data
from flatmin.networks.device import choose
from flatmin.networks.eigen import lanczos
from flatmin.networks.losses import Loss
from flatmin.networks.parameters import parameter_slice
from flatmin.networks.passes.dense import DensePass
from flatmin.networks.passes.generic import linearise
from flatmin.theory.stability.threshold import noise_factor

__all__ = [
    "Alignment",
    "Decoupling",
    "DecouplingFactors",
    "HessianBasis",
    "NoiseStrength",
    "alignment",
    "batch_factor",
    "covariance",
    "decoupling",
    "decoupling_factors",
    "in_hessian_basis",
    "noise_strength",
]

#: numbers in one temporary array; and in one that should stay in cache
_ENTRIES, _CACHED = 2**25, 2**21


def batch_factor(samples: int, batch_size: int, replacement: bool) -> float:
    """Return C / Σ: 1/B with replacement, (n − B)/((n − 1)B) without (M22 Eq. 8).

    Raises ValueError for a batch size below 1, or above n without replacement.
    """
    if batch_size < 1 or (not replacement and batch_size > samples):
        raise ValueError(f"batch_size must be 1…{samples}, got {batch_size}")
    return noise_factor(samples, batch_size, replacement)


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
    device: str | torch.device | None = None,
) -> Tensor:
    """Exact covariance C of the minibatch gradient, dense: (P, P), in the dtype of the model.

    ``replacement`` says how the B samples are drawn (see the module's notation); with ``layer`` (2: the
    second weight matrix, or a parameter's name) only that block. ``batch_size=1`` gives Σ itself.
    Raises ValueError for a batch size outside 1…n or an unknown layer.
    """
    block = parameter_slice(model, layer)
    passed = linearise(model, data, loss, choose(device, model))
    size = block.stop - block.start
    total = passed.outputs.new_zeros(size, size)
    for rows in _centred_gradients(passed, block):
        total.addmm_(rows.T, rows)
    return total.cpu() * (batch_factor(passed.samples, batch_size, replacement) / passed.samples)


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
    device: str | torch.device | None = None,
) -> HessianBasis:
    """Diagonal of C in the eigenbasis of the exact Hessian, as in Y23 Fig. 1b.

    C itself is never formed: C_ii is the mean square of v_i·(∇ℓ − ∇L). Arguments as :func:`covariance`.
    """
    device, block = choose(device, model), parameter_slice(model, layer)
    dense = curvature.hessian(model, data, loss, layer, device).to(device)
    values, vectors = torch.linalg.eigh(dense)
    values, vectors = values.flip(0), vectors.flip(1)
    passed = linearise(model, data, loss, device)
    noise = torch.zeros_like(values)
    for rows in _centred_gradients(passed, block):
        noise += (rows @ vectors).square().sum(0)
    noise *= batch_factor(passed.samples, batch_size, replacement) / passed.samples
    return HessianBasis(values.cpu(), noise.cpu(), vectors.cpu())


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


def alignment(
    model: nn.Module,
    data: Data,
    loss: str | Loss = "square",
    device: str | torch.device | None = None,
) -> Alignment:
    """Measure α, β, μ, μ₁, μ₂, γ, τ through n×n Gram matrices; no matrix of the size of P is formed.

    W22 defines them for the square loss and one output. Several outputs: G = (1/n) Σ Jᵀ(∂²ℓ/∂f²)J and
    L = (1/n) Σ ½|f − y|². For cross-entropy the same formulas are evaluated with L the cross-entropy; μ = 1
    has no special meaning then. Memory: about four (n, n) arrays and a few rows of (n·C, n·C).
    """
    passed = linearise(model, data, loss, choose(device, model))
    n = passed.samples
    chi = torch.zeros(n, dtype=torch.float64, device="cpu")
    first, mean_rows = 0.0, 0.0
    gradients = passed.outputs.new_empty(n, n)
    for rows, of_gradients, mixed, roots in _gram_rows(passed):
        gradients[rows] = of_gradients
        chi[rows] = roots.square().sum((1, 2)).double().cpu() / n
        first += float(mixed.square().sum())
        mean_rows = mean_rows + mixed.sum(0).double()
    means = gradients.mean(0, keepdim=True)
    trace_sigma = float(gradients.diagonal().mean() - means.mean())
    centred = gradients - means - means.T + means.mean()
    sigma_norm, g_norm = float(centred.norm()) / n, float(chi.mean()) ** 0.5
    trace_1, trace_2 = first / n**2, float((mean_rows / n).square().sum()) / n
    scale = 2 * passed.loss * g_norm**2
    return Alignment(
        alpha=(trace_1 - trace_2) / (sigma_norm * g_norm),
        beta=sigma_norm / (2 * passed.loss * g_norm),
        mu=(trace_1 - trace_2) / scale,
        mu_1=trace_1 / scale,
        mu_2=trace_2 / scale,
        gamma=float(chi.min() / chi.mean()),
        tau=_largest_gauss_newton(passed) ** 2 / g_norm**2,
        loss=passed.loss,
        g_norm=g_norm,
        sigma_norm=sigma_norm,
        trace_sigma=trace_sigma,
        trace_sigma_g=trace_1 - trace_2,
        chi=chi,
    )


def _largest_gauss_newton(passed) -> float:
    (start,) = curvature.probes_like(passed.outputs, passed.parameters, seed=0)
    pairs = lanczos(lambda v: passed.gauss_newton_product(v[None])[0], start, 1, 1e-4)
    return float(pairs.values[0])


def _gram_rows(passed) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yield for chunks of samples i: ∇ℓ_i·∇ℓ_j (rows, n), ∇ℓ_i·R_j (rows, n·C), R_i·R_j (rows, C, n·C)."""
    return _dense_gram_rows(passed) if isinstance(passed, DensePass) else _generic_gram_rows(passed)


def _dense_gram_rows(passed: DensePass):
    n, classes = passed.outputs.shape
    if classes == 1 and passed.loss_function.name == "square":  # ∇ℓ = e ∇f: one Gram matrix says it all
        errors = passed.deltas[-1]
        products = curvature.root_products(passed, passed.roots, slice(None))
        mixed = products * errors
        yield slice(0, n), mixed * errors.T, mixed, products[:, None]
        return
    step = max(1, _CACHED // (n * classes**2))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        mixed = curvature.root_products(passed, [d[rows] for d in passed.deltas], rows)
        roots = curvature.root_products(passed, [s[rows] for s in passed.roots], rows)
        of_gradients = sum(
            inner[rows] * (delta[rows] @ delta.T)
            for inner, delta in zip(passed.input_products, passed.deltas, strict=True)
        )
        yield rows, of_gradients, mixed, roots.view(-1, classes, n * classes)


def _generic_gram_rows(passed):
    n, classes = passed.outputs.shape
    step = max(1, min(n, _ENTRIES // (passed.parameters * (classes + 1))))
    chunks = [slice(start, min(start + step, n)) for start in range(0, n, step)]
    for rows in chunks:
        gradients, roots = passed.sample_gradients(rows), passed.sample_roots(rows)
        parts = []
        for others in chunks:
            other_roots = passed.sample_roots(others).flatten(0, 1)
            parts.append(
                (
                    gradients @ passed.sample_gradients(others).T,
                    gradients @ other_roots.T,
                    roots @ other_roots.T,
                )
            )
        yield rows, *(torch.cat(part, -1) for part in zip(*parts, strict=True))


@dataclass(frozen=True)
class NoiseStrength:
    """𝒩 = (1/n) Σ |∇ℓ_i|² − |∇L|² = Tr Σ (M22 §5.2), with the mean loss at the same parameters."""

    value: float
    loss: float
    gradient_square: float


def noise_strength(
    model: nn.Module,
    data: Data,
    loss: str | Loss,
    chunk: int = 1000,
    device: str | torch.device | None = None,
) -> NoiseStrength:
    """Measure 𝒩 in one pass over the data, ``chunk`` samples at a time.

    Layer by layer, at about the cost of two gradients; networks with other layers than linear and
    convolutional ones hold per-sample gradients a few at a time. Memory: one gradient and the activations of
    one chunk. Raises ValueError for a chunk below 1.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be positive, got {chunk}")
    device, squares, losses, gradient = choose(device, model), 0.0, 0.0, 0.0
    for start in range(0, len(data), chunk):
        passed = linearise(model, data.subset(slice(start, start + chunk)), loss, device)
        losses += float(passed.losses.double().sum())
        gradient = gradient + passed.gradient().double() * passed.samples
        tops = passed.loss_function.gradient(passed.outputs, passed.targets)
        squares += float(passed.pulled_squares(tops).double().sum())
    n = len(data)
    mean = float((gradient / n).square().sum())
    return NoiseStrength(squares / n - mean, losses / n, mean)


@dataclass(frozen=True)
class Decoupling:
    """Spectra of the two sides of the decoupling approximation (M22 Eq. 7), largest first.

    ``exact`` = eigenvalues of (1/n) Σ ℓ_i ∇f_i∇f_iᵀ, ``decoupled`` = those of L · (1/n) Σ ∇f_i∇f_iᵀ, both
    (m,) with m = min(P, n).
    """

    exact: Tensor
    decoupled: Tensor


@dataclass(frozen=True)
class DecouplingFactors:
    """What decoupling leaves out: ⟨|Jᵀe|²⟩ = ``samples`` · ``outputs`` · ⟨|e|²⟩⟨|J|²⟩/K; 1 each if nothing.

    ``samples`` = ⟨|e|²|J|²⟩/⟨|e|²⟩⟨|J|²⟩: large errors on samples with long gradients; ``outputs`` =
    K⟨|Jᵀe|²⟩/⟨|e|²|J|²⟩: the errors of a sample on those of its outputs that have long gradients.
    """

    samples: float
    outputs: float


def decoupling_factors(
    model: nn.Module, data: Data, device: str | torch.device | None = None
) -> DecouplingFactors:
    """Split K⟨|Jᵀe|²⟩/(⟨|e|²⟩⟨|J|²⟩) for the square loss: errors e (n, K), Jacobians J (n, K, P).

    Without the square of the mean gradient, ⟨|Jᵀe|²⟩ is 𝒩 and the product K𝒩/(2L Tr G).
    """
    passed = linearise(model, data, "square", choose(device, model))
    errors = passed.loss_function.gradient(passed.outputs, passed.targets)
    units = torch.eye(errors.shape[1], dtype=errors.dtype, device=errors.device)
    lengths = sum(passed.pulled_squares(unit.expand_as(errors)) for unit in units)
    squares = errors.square().sum(1)
    both = (squares * lengths).mean()
    pulled = passed.pulled_squares(errors).mean()
    return DecouplingFactors(
        float(both / (squares.mean() * lengths.mean())), float(errors.shape[1] * pulled / both)
    )


def decoupling(model: nn.Module, data: Data, device: str | torch.device | None = None) -> Decoupling:
    """Compare the noise with its decoupled form, for the square loss and one output, as M22 Fig. 1 does.

    Both spectra come from the (n, n) Gram matrix of ∇f, or from (P, P) matrices where P < n. Raises
    ValueError for a network with several outputs.
    """
    passed = linearise(model, data, "square", choose(device, model))
    if passed.outputs.shape[1] != 1:
        raise ValueError(f"model must have one output, got {passed.outputs.shape[1]}")
    n, weights = passed.samples, passed.losses
    if passed.parameters < n:
        exact = passed.outputs.new_zeros(passed.parameters, passed.parameters)
        plain, step = torch.zeros_like(exact), max(1, _ENTRIES // passed.parameters)
        for start in range(0, n, step):
            part = slice(start, start + step)
            rows = passed.sample_roots(part)[:, 0]
            exact.addmm_(rows.T, weights[part, None] * rows)
            plain.addmm_(rows.T, rows)
    else:
        plain = curvature.gram(passed)
        exact = weights.sqrt()[:, None] * plain * weights.sqrt()
    scale = passed.loss / n
    return Decoupling(
        torch.linalg.eigvalsh(exact).flip(0).cpu() / n,
        torch.linalg.eigvalsh(plain).flip(0).cpu() * scale,
    )
