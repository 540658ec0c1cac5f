"""Bounds on linear stability at an interpolating minimum: W22's, and simpler and sharper ones of trace type.

All are statements about the exact operator T = 1 − ηA + η²M of :mod:`flatmin.theory.stability.minimum`. For a
positive definite X, T X ≥ ρ₋X implies ρ ≥ ρ₋ and T X ≤ ρ₊X implies ρ ≤ ρ₊ (T keeps the order of covariance
matrices); for any X, ρ ≥ ⟨X, TX⟩/⟨X, X⟩. X = H gives bounds on the loss in one step: W22's theorems are the
lower one without its full-batch part. X = 1 gives the trace.

The functions return learning rates, so that bounds can be compared with :func:`.stability.largest_step`;
W22's ‖H‖_F ≤ √(B/μ₀)/η reads η ≤ √(B/μ₀)/‖H‖_F. ``batch_size`` and ``replacement`` are as there: 1/B is
replaced by the factor c of the covariance, which is 1/B for draws with replacement, W22's case.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.threshold import noise_factor

__all__ = [
    "decoupled_step",
    "direction_necessary_step",
    "gradient_descent_step",
    "isotropic_step",
    "necessary_step",
    "one_step_growth",
    "proposition_3_4_step",
    "theorem_3_3_step",
    "theorem_3_5_growth",
    "trace_necessary_step",
    "trace_sufficient_step",
]


def gradient_descent_step(minimum: Minimum) -> float:
    """2/λ₁(H): largest η at which full-batch gradient descent is stable; necessary for SGD too."""
    return 2 / minimum.sharpness


def theorem_3_3_step(
    minimum: Minimum, batch_size: float, replacement: bool = False, mu_0: float | None = None
) -> float:
    """Necessary for stability: η ≤ 1/(‖H‖_F √(c μ₀)) (W22 Theorem 3.3, c = 1/B there).

    ``mu_0`` is a lower bound of μ(θ) for all θ, by default the best there is, :attr:`.Minimum.mu_0`; with
    another value (μ at one θ, say) the result is an estimate. ``inf`` where c μ₀ ≤ 0: the theorem says
    nothing.
    """
    mu_0 = minimum.mu_0 if mu_0 is None else mu_0
    strength = noise_factor(minimum.samples, batch_size, replacement) * mu_0
    return 1 / (minimum.frobenius * np.sqrt(strength)) if strength > 0 else np.inf


def proposition_3_4_step(
    minimum: Minimum, batch_size: float, replacement: bool = False, mu_1: float | None = None
) -> float:
    """Necessary for stability: η‖H‖_F ≤ min(1/√(c(1 − c)μ₁), 2/(cμ₁)) (W22 Proposition 3.4, c = 1/B there).

    ``mu_1`` is a lower bound of μ₁(θ) for all θ, by default the best there is, :attr:`.Minimum.mu_1`. ``inf``
    where c μ₁ ≤ 0.
    """
    mu_1 = minimum.mu_1 if mu_1 is None else mu_1
    c = noise_factor(minimum.samples, batch_size, replacement)
    if c * mu_1 <= 0:
        return np.inf
    first = 1 / np.sqrt(c * (1 - c) * mu_1) if c < 1 else np.inf
    return min(first, 2 / (c * mu_1)) / minimum.frobenius


def theorem_3_5_growth(
    minimum: Minimum, eta: float, batch_size: float, replacement: bool = False, mu_0: float | None = None
) -> float:
    """γ₀ = η² c μ₀ ‖H‖_F²: E L grows at least by this factor per step (W22 Theorem 3.5, c = 1/B there).

    ``mu_0`` as for :func:`theorem_3_3_step`.
    """
    return float((eta / theorem_3_3_step(minimum, batch_size, replacement, mu_0)) ** 2)


def one_step_growth(
    minimum: Minimum, eta: float, batch_size: float, replacement: bool = False
) -> tuple[float, float]:
    """Least and largest factor by which E L can change in one step, over all θ; ρ lies between (X = H).

    They are the extreme eigenvalues of (1 − ηK)² + η² c (diag χ − K²) on the errors that the model can make:
    Lemma 3.2 and Theorem 3.3 together, nothing dropped. Cost n³.
    """
    c = noise_factor(minimum.samples, batch_size, replacement)
    lam, modes = minimum.eigenvalues, minimum.modes
    form = np.diag(np.square(1 - eta * lam) - eta**2 * c * np.square(lam))
    form += eta**2 * c * (modes.T * minimum.chi) @ modes
    values = np.linalg.eigvalsh(form)
    return float(values[0]), float(values[-1])


def trace_necessary_step(minimum: Minimum, batch_size: float, replacement: bool = False) -> float:
    """Necessary for stability: η ≤ 2 Tr H / ((1 − c)‖H‖_F² + c ⟨‖g‖⁴⟩), the mean over samples (X = 1).

    As ⟨‖g‖⁴⟩ ≥ (Tr H)², a stable minimum has Tr H ≤ 2/(cη), that is 2B/η, whatever the alignment of the
    noise.
    """
    c = noise_factor(minimum.samples, batch_size, replacement)
    fourth = np.square(minimum.squared_norms).mean()
    return float(2 * minimum.trace / ((1 - c) * minimum.frobenius**2 + c * fourth))


def trace_sufficient_step(minimum: Minimum, batch_size: float, replacement: bool = False) -> float:
    """Sufficient for stability: η ≤ 2/((1 − c)λ₁ + c max‖g_i‖²) (X = 1).

    For B = 1 and gradients of equal length this and :func:`trace_necessary_step` meet: stable exactly if Tr H
    ≤ 2/η.
    """
    c = noise_factor(minimum.samples, batch_size, replacement)
    return float(2 / ((1 - c) * minimum.sharpness + c * minimum.squared_norms.max()))


def direction_necessary_step(minimum: Minimum, batch_size: float, replacement: bool = False) -> float:
    """Necessary for stability: η ≤ 2h/((1 − c)h² + c ⟨(g·u)⁴⟩), h = uᵀHu, for every unit vector u (X = uuᵀ).

    The least over the eigenvectors of H and the directions of the g_i. As ⟨(g·u)⁴⟩ ≥ h² it is never above
    2/λ₁; a single long gradient makes it small where the trace sees only the mean.
    """
    c = noise_factor(minimum.samples, batch_size, replacement)
    inner = minimum.samples * minimum.kernel / np.sqrt(minimum.squared_norms + np.finfo(float).tiny)
    bounds = []
    for along in (minimum.gradients, inner):  # (n, directions): g_i·u
        h = np.square(along).mean(axis=0)
        fourth = np.square(np.square(along)).mean(axis=0)
        bounds.append(2 / np.max((1 - c) * h + c * fourth / np.where(h > 0, h, 1)))
    return float(min(bounds))


def necessary_step(minimum: Minimum, batch_size: float, replacement: bool = False) -> float:
    """Necessary for stability: the lesser of the steps that the trace and that single directions allow.

    It needs no alignment factor and implies η ≤ 2/λ₁ and Tr H ≤ 2/(cη).
    """
    bounds = (trace_necessary_step, direction_necessary_step)
    return min(bound(minimum, batch_size, replacement) for bound in bounds)


def isotropic_step(minimum: Minimum, parameters: int, batch_size: float) -> float:
    """W22's bound for isotropic noise of the same trace, Σ = 2L (Tr H/P) 1: η ≤ √(PB)/Tr H (W22 §3.3)."""
    return float(np.sqrt(parameters * batch_size) / minimum.trace)


def decoupled_step(eigenvalues, noise, batch_size: float) -> float:
    """Largest stable η, exactly, if the noise were Σ = 2L C with a fixed C that commutes with H.

    ``eigenvalues`` (r,) of H, all positive, and ``noise`` (r,), those of C in the same directions: C = H is
    W22's geometry-aware noise, C = (Tr H/P) 1 its isotropic one. The second moment then closes on one number,
    and the threshold is the root of (η/B) Σ_a C_a/(2 − ηλ_a) = 1: to first order in η, Tr C ≤ 2B/η over
    directions with λ > 0, in whatever direction the noise points. Raises ValueError for non-positive
    eigenvalues, negative or all-zero noise.
    """
    lam, noise = np.asarray(eigenvalues, dtype=float), np.asarray(noise, dtype=float)
    if lam.ndim != 1 or noise.shape != lam.shape or not np.all(lam > 0):
        raise ValueError(f"eigenvalues={eigenvalues!r}: must be positive, (r,), and noise of the same shape")
    if not np.all(noise >= 0) or not noise.any():
        raise ValueError(f"noise={noise!r}: must be at least 0 and not all 0")
    if not batch_size > 0:
        raise ValueError(f"batch_size={batch_size!r}: must be positive")

    def excess(eta):
        return eta / batch_size * np.sum(noise / (2 - eta * lam)) - 1

    top = 2 / lam.max()
    return float(brentq(excess, 0, top * (1 - 1e-15), xtol=1e-15 * top))
