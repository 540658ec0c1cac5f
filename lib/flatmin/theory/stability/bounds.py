"""Bounds on linear stability at an interpolating minimum: W22's, and simpler and sharper ones of trace type.

All are statements about the exact operator T = 1 − ηA + η²M of :mod:`flatmin.theory.stability.minimum`. For a
positive definite X, T X ≥ ρ₋X implies ρ ≥ ρ₋ and T X ≤ ρ₊X implies ρ ≤ ρ₊ (T keeps the order of covariance
matrices); for any X, ρ ≥ ⟨X, TX⟩/⟨X, X⟩. X = H gives bounds on the loss in one step: W22's theorems are the
lower one without its full-batch part. X = 1 gives the trace.

The functions return learning rates, so that bounds can be compared with :func:`.stability.largest_step`;
W22's ‖H‖_F ≤ √(B/μ₀)/η reads η ≤ √(B/μ₀)/‖H‖_F. ``batch_size`` and ``sampling`` are as there, and so is
what they raise: 1/B is replaced by the factor c of the covariance, which is 1/B for draws with replacement,
W22's case. W22 has one output. With K of them the same proofs hold with the matrices R_i H R_iᵀ in the place
of the numbers χ_i; what cannot be carried over is refused.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from flatmin import _check
from flatmin.theory.stability.minimum import Minimum, checked
from flatmin.theory.stability.threshold import step_of

__all__ = [
    "decoupled_step",
    "direction_necessary_step",
    "gradient_descent_step",
    "necessary_step",
    "one_step_growth",
    "proposition_3_4_step",
    "space_necessary_step",
    "theorem_3_3_step",
    "theorem_3_5_growth",
    "trace_necessary_step",
    "trace_sufficient_step",
]


def gradient_descent_step(minimum: Minimum) -> float:
    """2/λ₁(H): largest η at which full-batch gradient descent is stable; necessary for SGD too."""
    return 2 / checked(minimum).sharpness


def theorem_3_3_step(
    minimum: Minimum, batch_size: float, sampling: str = "fresh", mu_0: float | None = None
) -> float:
    """Necessary for stability: η ≤ 1/(‖H‖_F √(c μ₀)) (W22 Theorem 3.3, c = 1/B there).

    ``mu_0`` is a lower bound of μ(θ) for all θ, by default the best there is, :attr:`.Minimum.mu_0`; with
    another value (μ at one θ, say) the result is an estimate. ``inf`` where c μ₀ ≤ 0: the theorem says
    nothing.
    """
    c = checked(minimum).factor(batch_size, sampling)
    strength = c * (minimum.mu_0 if mu_0 is None else _check.number("mu_0", mu_0))
    return 1 / (minimum.frobenius * np.sqrt(strength)) if strength > 0 else np.inf


def proposition_3_4_step(
    minimum: Minimum, batch_size: float, sampling: str = "fresh", mu_1: float | None = None
) -> float:
    """Necessary for stability: η‖H‖_F ≤ min(1/√(c(1 − c)μ₁), 2/(cμ₁)) (W22 Proposition 3.4, c = 1/B there).

    ``mu_1`` is a lower bound of μ₁(θ) for all θ, by default the best there is, :attr:`.Minimum.mu_1`. ``inf``
    where c μ₁ ≤ 0.
    """
    c = checked(minimum).factor(batch_size, sampling)
    mu_1 = minimum.mu_1 if mu_1 is None else _check.number("mu_1", mu_1)
    if c * mu_1 <= 0:
        return np.inf
    first = 1 / np.sqrt(c * (1 - c) * mu_1) if c < 1 else np.inf
    return min(first, 2 / (c * mu_1)) / minimum.frobenius


def theorem_3_5_growth(
    minimum: Minimum, eta: float, batch_size: float, sampling: str = "fresh", mu_0: float | None = None
) -> float:
    """γ₀ = η² c μ₀ ‖H‖_F²: E L grows at least by this factor per step (W22 Theorem 3.5, c = 1/B there).

    ``mu_0`` as for :func:`theorem_3_3_step`.
    """
    eta = step_of(minimum, eta)
    return float((eta / theorem_3_3_step(minimum, batch_size, sampling, mu_0)) ** 2)


def one_step_growth(
    minimum: Minimum, eta: float, batch_size: float, sampling: str = "fresh"
) -> tuple[float, float]:
    """Least and largest factor by which E L can change in one step, over all θ; ρ lies between (X = H).

    They are the extreme eigenvalues of (1 − ηK)² + η² c (X − K²) on the errors that the model can make, with
    the R_i H R_iᵀ (χ_i for one output) on the diagonal of X: Lemma 3.2 and Theorem 3.3 together, nothing
    dropped. Cost (nK)³.
    """
    eta, c = step_of(minimum, eta), checked(minimum).factor(batch_size, sampling)
    lam = minimum.eigenvalues
    form = np.diag(np.square(1 - eta * lam) - eta**2 * c * np.square(lam))
    form += eta**2 * c * minimum.reached(minimum.pulls)
    values = np.linalg.eigvalsh(form)
    return float(values[0]), float(values[-1])


def trace_necessary_step(minimum: Minimum, batch_size: float, sampling: str = "fresh") -> float:
    """Necessary for stability: η ≤ 2 Tr H / ((1 − c)‖H‖_F² + c ⟨‖H_i‖_F²⟩), the mean over samples (X = 1).

    ‖H_i‖_F is ‖g_i‖² for one output. As H_i has rank K or less, ⟨‖H_i‖_F²⟩ ≥ ⟨(Tr H_i)²⟩/K ≥ (Tr H)²/K: a
    stable minimum has Tr H ≤ 2K/(cη), that is 2KB/η, whatever the alignment of the noise. The K is needed
    where the outputs of a sample have orthogonal gradients of equal length, and only there.
    """
    c = checked(minimum).factor(batch_size, sampling)
    fourth = np.square(minimum.blocks).sum(axis=(1, 2)).mean()
    return float(2 * minimum.trace / ((1 - c) * minimum.frobenius**2 + c * fourth))


def trace_sufficient_step(minimum: Minimum, batch_size: float, sampling: str = "fresh") -> float:
    """Sufficient for stability: η ≤ 2/((1 − c)λ₁ + c max λ₁(H_i)) (X = 1); λ₁(H_i) is ‖g_i‖² for one output.

    For B = 1 and gradients of equal length (K outputs: R_iR_iᵀ = s·1 for all samples) this and
    :func:`trace_necessary_step` meet: stable exactly if Tr H ≤ 2K/η.
    """
    c = checked(minimum).factor(batch_size, sampling)
    longest = np.linalg.eigvalsh(minimum.blocks)[:, -1].max()
    return float(2 / ((1 - c) * minimum.sharpness + c * longest))


def direction_necessary_step(minimum: Minimum, batch_size: float, sampling: str = "fresh") -> float:
    """Necessary for stability: η ≤ 2h/((1 − c)h² + c ⟨(uᵀH_iu)²⟩), h = uᵀHu, for every unit u (X = uuᵀ).

    The least over the eigenvectors of H and of each H_i its first, for one output the direction of g_i. As
    ⟨(uᵀH_iu)²⟩ ≥ h² it is never above 2/λ₁; a single long gradient makes it small where the trace sees only
    the mean.
    """
    c, g = checked(minimum).factor(batch_size, sampling), minimum.gradients
    tops = np.linalg.eigh(minimum.blocks)[1][:, :, -1]  # of R_i R_iᵀ, (n, K)
    firsts = np.einsum("ik,ikr->ir", tops, minimum.roots)
    inner = g @ firsts.T / np.sqrt(np.square(firsts).sum(axis=1) + np.finfo(float).tiny)
    bounds = []
    for along in (g, inner):  # (n·K, directions): R_i u
        each = np.square(along).reshape(minimum.samples, minimum.outputs, -1).sum(axis=1)  # uᵀH_iu
        h, fourth = each.mean(axis=0), np.square(each).mean(axis=0)
        bounds.append(2 / np.max((1 - c) * h + c * fourth / np.where(h > 0, h, 1)))
    return float(min(bounds))


def space_necessary_step(minimum: Minimum, batch_size: float, sampling: str = "fresh") -> float:
    """Necessary for stability: η ≤ 2 Tr PH/((1 − c)‖PHP‖_F² + c ⟨‖PH_iP‖_F²⟩), every projection P (X = P).

    P = 1 is the trace rule, P = uuᵀ that of directions. The least over two nested families: the spaces of
    the leading eigenvectors of H, and those of the longest gradients (of all rows of the samples with the
    largest Tr H_i). What a few samples do in directions of their own, the mean over all of them hides; one of
    these spaces finds it unless the samples stand out neither by their length nor by their curvature.
    """
    c, g = checked(minimum).factor(batch_size, sampling), minimum.gradients
    order = np.argsort(-minimum.squared_norms, kind="stable")
    longest = minimum.roots[order].reshape(g.shape)
    found = []
    for basis in (None, np.linalg.qr(longest.T)[0]):
        rows = g if basis is None else g @ basis
        inner = np.square(rows.T @ rows / minimum.samples)  # squares of uᵀHv for all pairs of the basis
        fourth, blocks = np.empty(rows.shape[1]), np.zeros_like(minimum.blocks)
        for m, column in enumerate(rows.T):
            one = column.reshape(minimum.samples, minimum.outputs)
            blocks = blocks + one[:, :, None] * one[:, None, :]
            fourth[m] = np.square(blocks).sum() / minimum.samples
        square = np.diag(np.cumsum(np.cumsum(inner, axis=0), axis=1))
        trace = np.cumsum(np.square(rows).sum(axis=0)) / minimum.samples
        found.append(np.min(2 * trace / ((1 - c) * square + c * fourth)))
    return float(min(found))


def necessary_step(minimum: Minimum, batch_size: float, sampling: str = "fresh") -> float:
    """Necessary for stability: the lesser of the steps that spaces and single directions allow.

    It needs no alignment factor and implies η ≤ 2/λ₁ and Tr H ≤ 2K/(cη).
    """
    bounds = (space_necessary_step, direction_necessary_step)
    return min(bound(minimum, batch_size, sampling) for bound in bounds)


def decoupled_step(eigenvalues, noise, batch_size: float) -> float:
    """Largest stable η, exactly, if the noise were Σ = 2L C with a fixed C that commutes with H.

    C = H is W22's geometry-aware noise, C = (Tr H/P) 1 its isotropic one, for which W22 §3.3 prints the bound
    η ≤ √(PB)/Tr H. The second moment then closes on one number, and the threshold is the root of (η/B) Σ_a
    C_a/(2 − ηλ_a) = 1: to first order in η, Tr C ≤ 2B/η over directions with λ > 0, in whatever direction the
    noise points. ``eigenvalues`` (r,) > 0 are those of H, ``noise`` (r,) ≥ 0 those of C in the same
    directions. Raises ValueError for others, or nothing but zeros.
    """
    lam = _check.array("eigenvalues", eigenvalues, above=0, most=1e150, ndim=1)
    noise = _check.array("noise", noise, least=0, most=1e150, shape=lam.shape)
    batch_size = _check.number("batch_size", batch_size, above=0)
    if not noise.any():
        raise _check.refused("noise", noise, "not all 0")

    def excess(x):  # x = η λ₁
        return x / batch_size * np.sum(noise / lam.max() / (2 - x * lam / lam.max())) - 1

    top = 2 * (1 - 1e-15)
    root = brentq(excess, 0, top, xtol=2e-15) if excess(top) > 0 else top
    return float(root / lam.max())
