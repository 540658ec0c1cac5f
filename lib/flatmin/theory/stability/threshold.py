"""The exact mean-square threshold of minibatch SGD at an interpolating minimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal

from flatmin.theory.stability.minimum import Minimum

__all__ = [
    "Mode",
    "growth",
    "largest_step",
    "leading_mode",
    "noise_factor",
    "second_moment_step",
    "smallest_batch",
]


@dataclass(frozen=True)
class Mode:
    """The fastest growing second moment of the linearised dynamics.

    Attributes
    ----------
    eta : float, the learning rate
    growth : float, ρ, the factor of E L per step in the long run
    moment : (r, r) array, S in the eigenbasis of H, scaled to E L = ½ Tr(HS) = 1
    contraction : float, r of W22 Lemma 3.2 averaged over S: what full-batch descent alone leaves of the loss
    noise : float, ρ − contraction: what the noise of the batch puts back
    alignment : float, μ averaged over S: noise = η² c μ ‖H‖_F²
    """

    eta: float
    growth: float
    moment: np.ndarray
    contraction: float
    noise: float
    alignment: float


def noise_factor(samples: int, batch_size: float, replacement: bool = False) -> float:
    """Covariance of the batch gradient over that of one sample: 1/B with replacement, (n − B)/(B(n − 1))
    without.

    ``batch_size`` is any real number from 1 on (up to n without replacement), so that a boundary in the (η,
    B) plane can be drawn as a line. Raises ValueError outside.
    """
    if not batch_size >= 1 or (not replacement and batch_size > samples):
        raise ValueError(
            f"batch_size={batch_size!r}: must be at least 1 and, without replacement, at most {samples}"
        )
    if replacement:
        return 1 / batch_size
    return 0.0 if samples == 1 else (samples - batch_size) / (batch_size * (samples - 1))


def growth(minimum: Minimum, eta: float, batch_size: float, replacement: bool = False) -> float:
    """Factor ρ per step by which E L grows in the long run; the minimum is stable exactly if ρ ≤ 1.

    ``replacement`` says how a batch is drawn; each step draws a fresh one. Raises ValueError for eta ≤ 0 or a
    batch size outside its range.
    """
    return _leading(minimum, eta, batch_size, replacement)[0]


def leading_mode(minimum: Minimum, eta: float | None, batch_size: float, replacement: bool = False) -> Mode:
    """The second moment that grows fastest, and what descent and noise do to it; arguments as :func:`growth`.

    ``eta=None`` takes η = :func:`largest_step`, where the growth is 1 and ``noise`` says how much of it W22's
    Theorem 3.3, which keeps the noise alone, accounts for.
    """
    if eta is None:
        eta, moment = _edge(minimum, batch_size, replacement)
        rho = 1.0
    else:
        rho, moment = _leading(minimum, eta, batch_size, replacement)
    lam = minimum.eigenvalues
    weights = lam * np.diag(moment)
    contraction = float(weights @ np.square(1 - eta * lam) / weights.sum())
    c = noise_factor(minimum.samples, batch_size, replacement)
    scale = eta**2 * c * minimum.frobenius**2
    noise = rho - contraction
    alignment = noise / scale if scale else np.nan
    return Mode(eta, rho, moment * 2 / weights.sum(), contraction, noise, alignment)


def largest_step(minimum: Minimum, batch_size: float, replacement: bool = False) -> float:
    """The largest learning rate at which the minimum is mean-square stable, exactly: η* with ρ(η*) = 1.

    η* = 1/λ_max(A^{-1/2} M A^{-1/2}); stable for every η ≤ η*. Arguments and errors as :func:`growth`.
    """
    return _edge(minimum, batch_size, replacement)[0]


def second_moment_step(
    minimum: Minimum, moment, eta: float, batch_size: float, replacement: bool = False
) -> np.ndarray:
    """T S: the second moment after one step, (r, r), of ``moment`` S (r, r), both in the eigenbasis of H.

    Raises ValueError as :func:`growth`.
    """
    _require_step(eta)
    c, g = noise_factor(minimum.samples, batch_size, replacement), minimum.gradients
    left, lam = 1 - eta * minimum.eigenvalues, minimum.eigenvalues
    seen = np.einsum("ia,ia->i", g @ moment, g) / minimum.samples
    noise = (g.T * seen) @ g - np.multiply.outer(lam, lam) * moment
    return np.multiply.outer(left, left) * moment + eta**2 * c * noise


def smallest_batch(minimum: Minimum, eta: float, replacement: bool = False) -> float:
    """The smallest batch size at which the minimum is mean-square stable, exactly, as a real number ≥ 1.

    ``inf`` where no batch is large enough (ηλ₁ ≥ 2: even gradient descent leaves; without replacement the
    whole set, B = n, is then no help either). A batch of B samples is stable if B is at least the result.
    Raises ValueError for eta ≤ 0.
    """
    _require_step(eta)
    lam, n = minimum.eigenvalues, minimum.samples
    if eta * lam[0] >= 2:
        return np.inf
    products = np.multiply.outer(lam, lam)
    room = lam[:, None] + lam - eta * products  # A − ηHSH: what noise may use up
    top = _top(minimum, -eta * products / room, eta, room**-0.5)[0]  # 1/c*
    return float(max(1.0, top if replacement else n * top / (top + n - 1)))


def _edge(minimum, batch_size, replacement):
    """Return η* and the second moment that neither grows nor shrinks there, an (r, r) matrix."""
    c = noise_factor(minimum.samples, batch_size, replacement)
    lam = minimum.eigenvalues
    scale = (lam[:, None] + lam) ** -0.5  # A^{-1/2}
    top, vector, _ = _top(minimum, (1 - c) * np.multiply.outer(lam, lam) * scale**2, c, scale)
    return 1 / top, scale * vector


def _leading(minimum, eta, batch_size, replacement):
    """Return the largest eigenvalue ρ of T and its eigenvector, an (r, r) matrix.

    T is a diagonal D plus a sum of squares w ΦΦᵀ. Far above the threshold ρ stands alone and Lanczos finds it
    at once; below, the slow directions crowd around it. There ρ is the root of τ(σ) = 1, where τ is the
    largest eigenvalue of (σ − D)^{-1/2} w ΦΦᵀ (σ − D)^{-1/2}, which does stand alone. 1/τ is increasing and
    concave, so Newton's steps from below stay below and converge.
    """
    _require_step(eta)
    c = noise_factor(minimum.samples, batch_size, replacement)
    lam, weight = minimum.eigenvalues, eta**2 * c
    left = 1 - eta * lam
    diagonal = np.multiply.outer(left, left) - weight * np.multiply.outer(lam, lam)
    if weight == 0:  # gradient descent
        slowest = np.argmax(np.abs(left))
        return float(left[slowest] ** 2), np.diag(np.eye(minimum.rank)[slowest])
    rho, moment, settled = _top(minimum, diagonal, weight, np.ones_like(diagonal), restarts=1)
    if settled:
        return rho, moment
    rho = max(rho, diagonal.max() + 1e-12)
    for _ in range(60):
        room = rho - diagonal
        value, vector, _ = _top(minimum, np.zeros_like(diagonal), weight, room**-0.5)
        step = (value - 1) / np.sum(np.square(vector) / room)
        moment = vector / np.sqrt(room)
        if step < 1e-13:
            break
        rho += step
    return rho, moment / np.linalg.norm(moment)


def _top(minimum, diagonal, weight, scale, restarts=40):
    """Top eigenpair of X ↦ diagonal∘X + weight·scale∘Φ(scale∘X), Φ(S) = (1/n) Σ g_i g_iᵀ S g_i g_iᵀ.

    Returns the value, the eigenvector (r, r), and whether it has settled. With all the ``restarts`` it must:
    RuntimeError otherwise.
    """
    g = minimum.gradients

    def product(vector):
        x = vector.reshape(diagonal.shape)
        seen = np.einsum("ia,ia->i", g @ (scale * x), g) / minimum.samples
        return (diagonal * x + weight * scale * ((g.T * seen) @ g)).ravel()

    # a covariance matrix overlaps with the identity, so the Krylov space of the identity holds the right one
    vector = np.eye(minimum.rank).ravel()
    for _ in range(restarts):
        value, vector, settled = _lanczos(product, vector)
        if settled:
            break
    else:
        if restarts > 1:
            raise RuntimeError(f"the largest eigenvalue has not settled after {restarts} rounds of Lanczos")
    return value, vector.reshape(diagonal.shape), settled


def _lanczos(product, start, tolerance=1e-11, width=40):
    """One round of Lanczos with full orthogonalisation: largest eigenvalue, eigenvector, whether it has
    settled.

    It has when the eigenvalue is known to ``tolerance`` of the largest modulus, from the residual or, where
    the eigenvalue stands alone, its square over the gap.
    """
    basis, main, off = [start / np.linalg.norm(start)], [], []
    while True:
        image = product(basis[-1])
        main.append(float(image @ basis[-1]))
        stack = np.asarray(basis)
        for _ in range(2):
            image = image - stack.T @ (stack @ image)
        rest = float(np.linalg.norm(image))
        values, vectors = eigh_tridiagonal(main, off)
        residual = rest * abs(vectors[-1, -1])
        gap = values[-1] - values[-2] if len(values) > 1 else 0.0
        unsure = residual**2 / gap if gap > 2 * residual else residual
        settled = unsure <= tolerance * np.abs(values).max()
        if settled or len(basis) == width:
            return float(values[-1]), vectors[:, -1] @ stack, settled
        basis.append(image / rest)
        off.append(rest)


def _require_step(eta):
    if not (np.isfinite(eta) and eta > 0):
        raise ValueError(f"eta={eta!r}: must be positive")
