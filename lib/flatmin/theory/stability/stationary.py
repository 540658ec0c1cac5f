"""Where SGD comes to rest around a minimum that does not fit every sample: variances and mean excess loss.

The linearised network has the errors e_i + R_i δ at the distance δ from the minimum, with e_i those there and
Σ R_iᵀe_i = 0. Batches of B drawn anew at each step keep the second moment S = E δδᵀ of

    S = (I − ηH) S (I − ηH) + η² c [ Σ* + Φ(S) − HSH ],   Φ(S) = (1/n) Σ R_iᵀ R_i S R_iᵀ R_i,

with Σ* = (1/n) Σ R_iᵀe_ie_iᵀR_i, c = 1/B with replacement: the recursion of :mod:`.minimum` with a source.
What a law C of the noise alone predicts is its diagonal without Φ, :func:`linear_variance`.
"""

from __future__ import annotations

import numpy as np

from flatmin import _check
from flatmin.theory.stability.minimum import Minimum, checked
from flatmin.theory.stability.threshold import moved, noise_seen, step_of

__all__ = [
    "decoupled_excess",
    "excess",
    "linear_variance",
    "linearised_losses",
    "mean_path",
    "noise_at",
    "second_moment",
]

#: rounds of the fixed point, and the relative change at which it has settled
_ROUNDS, _SETTLED = 1000, 1e-9


def linear_variance(eta, curvature, noise):
    """v = ηC/(λ(2 − ηλ)), exact for δ ← (1 − ηλ)δ − ηξ with ξ of variance C; ∞ from ηλ = 2 on.

    ``eta``, ``curvature`` λ > 0 and ``noise`` C ≥ 0 are numbers or arrays that broadcast. To first order in η
    it is ηL/B for all λ if C = 2Lλ/B (M22 Eq. 6), and in proportion to λ if C ∝ λ² (Y22 S26).
    """
    eta = _check.array("eta", eta, above=0, most=1e100)
    lam = _check.array("curvature", curvature, above=0, most=1e100)
    noise = _check.array("noise", noise, least=0, most=1e100)
    _check.together(eta=eta, curvature=lam, noise=noise)
    room = lam * (2 - eta * lam)
    return np.where(room > 0, eta * noise / np.where(room > 0, room, 1), np.inf)[()]


def excess(curvature, variance) -> float:
    """½ Σ λ_i v_i, the mean excess loss of the variances v (q,) ≥ 0 along curvatures λ (q,) > 0."""
    lam = _check.array("curvature", curvature, ndim=1, above=0, most=1e100)
    variance = _check.array("variance", variance, least=0, shape=lam.shape, infinite=True)
    return float(lam @ variance / 2)


def decoupled_excess(curvature, eta: float, batch_size: float) -> float:
    """(E L − L*)/L* = x/(1 − x), x = (η/B) Σ λ_i/(2 − ηλ_i), for noise of covariance 2LH/B; ∞ if unstable.

    M22 Eq. 6, with L that of the moment. ``curvature`` (q,) > 0, ``eta`` > 0, ``batch_size`` > 0; ValueError
    for others. The edge x = 1 is that of :func:`~.bounds.decoupled_step`.
    """
    lam = _check.array("curvature", curvature, ndim=1, above=0, most=1e100)
    eta = _check.number("eta", eta, above=0, most=1e100)
    x = excess(lam, linear_variance(eta, lam, 2 * lam / _check.number("batch_size", batch_size, above=0)))
    return x / (1 - x) if x < 1 else np.inf


def noise_at(minimum: Minimum, residuals) -> np.ndarray:
    """Covariance Σ of one sample's gradient R_iᵀe_i, in the eigenbasis of H, (r, r).

    ``residuals`` are the e, (n·K,) or (n, K); ValueError for those that do not fit.
    """
    e = checked(minimum).residuals_of(residuals)
    each = np.einsum("ik,ikr->ir", e, minimum.roots)
    each = each - each.mean(0)
    return each.T @ each / minimum.samples


def second_moment(minimum: Minimum, residuals, eta: float, batch_size: float, sampling="replacement"):
    """The stationary E δδᵀ of linearised SGD, exactly, in the eigenbasis of H, (r, r); ∞ beyond the edge.

    A mean gradient Σ R_iᵀe_i that does not vanish is left out, as if it were balanced by what is not in the
    directions of ``minimum``. ∞ too where a thousand rounds do not settle it, within a per cent of the edge.
    Raises ValueError as :func:`~.threshold.growth`, and for residuals that do not fit.
    """
    source, eta = noise_at(minimum, residuals), step_of(minimum, eta)
    weight, lam = eta**2 * minimum.factor(batch_size, sampling), minimum.eigenvalues
    left = 1 - eta * lam
    if np.abs(left).max() >= 1:
        return np.full_like(source, np.inf)
    room, moment = 1 - np.multiply.outer(left, left), np.zeros_like(source)
    for _ in range(_ROUNDS):
        before, moment = moment, weight * (source + noise_seen(minimum, moment)) / room
        if np.abs(moment - before).max() <= _SETTLED * np.abs(moment).max():
            return moment
        if not np.abs(moment).max() < 1e100:
            break
    return np.full_like(source, np.inf)


def mean_path(minimum: Minimum, residuals, eta: float, batch_size: float, steps: int) -> np.ndarray:
    """E L after 0…``steps`` steps of linearised SGD from δ = 0, over the first: exactly, (steps + 1,).

    As :func:`second_moment`, of which it is the way there, with replacement.
    """
    e, eta = checked(minimum).residuals_of(residuals), step_of(minimum, eta)
    c, moment, found = minimum.factor(batch_size, "replacement"), np.zeros((minimum.rank,) * 2), [0.0]
    source = eta**2 * c * noise_at(minimum, e)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(_check.integer("steps", steps, least=0, most=10**6)):
            moment = moved(minimum, moment, eta, c) + source
            found.append(np.trace(moment * minimum.eigenvalues) / 2)
    return 1 + np.nan_to_num(found, nan=np.inf) * 2 * minimum.samples / np.square(e).sum()


def linearised_losses(minimum: Minimum, residuals, eta: float, batches) -> np.ndarray:
    """Loss of linearised SGD from δ = 0 with given ``batches`` (R, T, B): (R, T + 1), ∞ where it overflows.

    L = (1/n) Σ ½|e_i + R_i δ|² with the ``residuals`` e, (n·K,) or (n, K). Raises ValueError for residuals or
    positions that do not fit, and η ≤ 0.
    """
    e, eta = checked(minimum).residuals_of(residuals), step_of(minimum, eta)
    batches = _check.array("batches", batches, ndim=3, dtype=int, least=0, most=minimum.samples - 1)
    roots, lam = minimum.roots, minimum.eigenvalues
    slope = np.einsum("ik,ikr->r", e, roots) / minimum.samples
    delta, found = np.zeros((len(batches), minimum.rank)), []
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(batches.shape[1] + 1):
            if step:
                chosen = batches[:, step - 1]
                rows = roots[chosen].reshape(len(delta), -1, minimum.rank)
                errors = e[chosen].reshape(len(delta), -1) + np.matmul(rows, delta[:, :, None])[..., 0]
                delta = delta - eta / batches.shape[2] * np.matmul(errors[:, None], rows)[:, 0]
            found.append(delta @ slope + np.square(delta) @ lam / 2)
    losses = 0.5 * np.square(e).sum() / minimum.samples + np.stack(found, 1)
    return np.where(np.isfinite(losses), losses, np.inf)
