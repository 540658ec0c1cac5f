"""The exact mean-square threshold of minibatch SGD at an interpolating minimum.

Every function takes a :class:`.Minimum`, the batch size B (a real number from 1 on, so that a boundary in the
(η, B) plane can be drawn as a line) and ``sampling``: ``"fresh"``, B different samples drawn anew at each
step (B ≤ n), or ``"replacement"``. All raise ValueError for η ≤ 0 or not finite, a batch size outside its
range, ``sampling="epoch"`` (:func:`~.paths.epoch_growth` is for that), and a rank for which the matrices (r,
r) of the Lanczos method would not fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh_tridiagonal

from flatmin import _check
from flatmin.theory.stability.minimum import Minimum, checked

__all__ = [
    "Mode",
    "growth",
    "largest_step",
    "leading_mode",
    "second_moment_step",
    "smallest_batch",
]

#: largest rank r of the exact operator: Lanczos keeps up to 40 halves of matrices (r, r), 1 GB
MOST_RANK = 2500

#: the relative accuracy to which Lanczos settles an eigenvalue; in the one round that is only a first try
TOLERANCE, FIRST = 1e-12, 1e-11


@dataclass(frozen=True)
class Mode:
    """The fastest growing second moment of the linearised dynamics.

    Attributes
    ----------
    eta, growth : float
        The learning rate and ρ, the factor of E L per step in the long run.
    moment : (r, r) array
        S in the eigenbasis of H, scaled to E L = ½ Tr(HS) = 1.
    contraction, noise : float
        r of W22 Lemma 3.2 averaged over S, what full-batch descent alone leaves of the loss, and ρ − r, what
        the noise of the batch puts back.
    alignment : float
        μ averaged over S: noise = η² c μ ‖H‖_F²; NaN where c = 0.
    """

    eta: float
    growth: float
    moment: np.ndarray
    contraction: float
    noise: float
    alignment: float


def growth(minimum: Minimum, eta: float, batch_size: float, sampling: str = "fresh") -> float:
    """Factor ρ per step by which E L grows in the long run; the minimum is stable exactly if ρ ≤ 1.

    Away from a minimum: the factor of the mean squared distance of two runs on the same batches.
    """
    return _leading(minimum, step_of(minimum, eta), checked(minimum).factor(batch_size, sampling))[0]


def leading_mode(minimum: Minimum, eta: float | None, batch_size: float, sampling: str = "fresh") -> Mode:
    """The second moment that grows fastest, and what descent and noise do to it.

    ``eta=None`` takes η = :func:`largest_step`, where the growth is 1 and ``noise`` says how much of it W22's
    Theorem 3.3, which keeps the noise alone, accounts for.
    """
    c = checked(minimum).factor(batch_size, sampling)
    if eta is None:
        eta, moment = _edge(minimum, c)
        rho = 1.0
    else:
        eta = step_of(minimum, eta)
        rho, moment = _leading(minimum, eta, c)
    lam = minimum.eigenvalues
    weights = lam * np.diag(moment)
    contraction = float(weights @ np.square(1 - eta * lam) / weights.sum())
    scale = eta**2 * c * minimum.frobenius**2
    noise = rho - contraction
    alignment = noise / scale if scale else np.nan
    return Mode(eta, rho, moment * 2 / weights.sum(), contraction, noise, alignment)


def largest_step(minimum: Minimum, batch_size: float, sampling: str = "fresh") -> float:
    """The largest mean-square stable learning rate, exactly: η* = 1/λ_max(A^{-1/2} M A^{-1/2}), ρ(η*) = 1."""
    return _edge(minimum, checked(minimum).factor(batch_size, sampling))[0]


def second_moment_step(
    minimum: Minimum, moment, eta: float, batch_size: float, sampling: str = "fresh"
) -> np.ndarray:
    """T S: the second moment after one step, (r, r), of ``moment`` S (r, r), both in the eigenbasis of H."""
    eta, c = step_of(minimum, eta), checked(minimum).factor(batch_size, sampling)
    moment = _check.array("moment", moment, shape=(minimum.rank, minimum.rank))
    after = moved(minimum, moment, eta, c)
    return (after + after.T) / 2  # an antisymmetric part, of rounding, would grow on its own


def smallest_batch(minimum: Minimum, eta: float, sampling: str = "fresh") -> float:
    """The smallest batch size at which the minimum is mean-square stable, exactly, as a real number ≥ 1.

    ``inf`` where no batch is large enough (ηλ₁ ≥ 2: even gradient descent leaves; without replacement the
    whole set, B = n, is then no help either). A batch of B samples is stable if B is at least the result.
    """
    eta = step_of(minimum, eta)
    checked(minimum).factor(1, sampling)  # refuses a word it does not know
    lam, n = minimum.eigenvalues, minimum.samples
    if eta * lam[0] >= 2:
        return np.inf
    products = np.multiply.outer(lam, lam)
    room = lam[:, None] + lam - eta * products  # A − ηHSH: what noise may use up
    top = _top(minimum, -eta * products / room, eta, room**-0.5)[0]  # 1/c*
    if sampling == "replacement" or n == 1:  # one sample has no noise
        return float(max(1.0, top))
    return float(max(1.0, n * top / (top + n - 1)))


def step_of(minimum: Minimum, eta: float) -> float:
    """η, checked: positive, and not so large that η²λ² overflows."""
    sharpness = checked(minimum).sharpness
    return _check.number("eta", eta, above=0, most=1e100 / max(sharpness, 1e-100))


def seen(minimum: Minimum, moment) -> np.ndarray:
    """Φ(S) = (1/n) Σ R_iᵀ (R_i S R_iᵀ) R_i for a symmetric S (r, r)."""
    g, n = minimum.gradients, minimum.samples
    if minimum.outputs == 1:
        squares = np.einsum("ia,ia->i", g @ moment, g) / n
        return (g.T * squares) @ g
    roots = minimum.roots
    blocks = (g @ moment).reshape(roots.shape) @ roots.transpose(0, 2, 1) / n
    return g.T @ (blocks @ roots).reshape(g.shape)


def noise_seen(minimum: Minimum, moment) -> np.ndarray:
    """Φ(S) − HSH: the covariance of one sample's gradient where δ has the second moment S (r, r)."""
    lam = minimum.eigenvalues
    return seen(minimum, moment) - np.multiply.outer(lam, lam) * moment


def moved(minimum: Minimum, moment, eta: float, c: float) -> np.ndarray:
    """The second moment (r, r) after a step from S, unchecked; c is what the batch leaves of the noise."""
    left = 1 - eta * minimum.eigenvalues
    return np.multiply.outer(left, left) * moment + eta**2 * c * noise_seen(minimum, moment)


def _edge(minimum, c):
    """Return η* and the second moment that neither grows nor shrinks there, (r, r); the last is kept."""
    if minimum._edge and minimum._edge[0] == c:
        return minimum._edge[1:]
    lam = minimum.eigenvalues
    scale = (lam[:, None] + lam) ** -0.5  # A^{-1/2}
    top, vector, _ = _top(minimum, (1 - c) * np.multiply.outer(lam, lam) * scale**2, c, scale)
    minimum._edge = c, 1 / top, scale * vector
    return minimum._edge[1:]


def _leading(minimum, eta, c):
    """Return the largest eigenvalue ρ of T and its eigenvector, an (r, r) matrix.

    T is a diagonal D plus a sum of squares w ΦΦᵀ. Far above the threshold ρ stands alone and Lanczos finds it
    at once; below, the slow directions crowd around it. There ρ is the root of τ(σ) = 1, where τ is the
    largest eigenvalue of (σ − D)^{-1/2} w ΦΦᵀ (σ − D)^{-1/2}, which does stand alone. 1/τ is increasing and
    concave, so Newton's steps from below stay below and converge.
    """
    lam, weight = minimum.eigenvalues, eta**2 * c
    left = 1 - eta * lam
    diagonal = np.multiply.outer(left, left) - weight * np.multiply.outer(lam, lam)
    if weight == 0:  # gradient descent
        slowest = np.argmax(np.abs(left))
        return float(left[slowest] ** 2), np.diag(np.eye(minimum.rank)[slowest])
    rho, moment, settled = _top(minimum, diagonal, weight, np.ones_like(diagonal), restarts=1)
    if settled:
        return rho, moment
    rho = max(rho, diagonal.max() + 8 * np.finfo(float).eps * np.abs(diagonal).max())  # room is never 0
    for _ in range(60):
        room = rho - diagonal
        value, vector, _ = _top(minimum, np.zeros_like(diagonal), weight, room**-0.5)
        step = (value - 1) / np.sum(np.square(vector) / room)
        moment = vector / np.sqrt(room)
        if step < 1e-13:
            break
        rho += step
    return float(rho), moment / np.linalg.norm(moment)


def _top(minimum, diagonal, weight, scale, restarts=40):
    """Top eigenpair of X ↦ diagonal∘X + weight·scale∘Φ(scale∘X).

    Returns the value, the eigenvector (r, r), and whether it has settled. With all the ``restarts`` it must:
    RuntimeError otherwise.
    """
    if minimum.rank > MOST_RANK:
        allowed = f"at most {MOST_RANK} for the exact operator; step_bracket encloses the threshold beyond"
        raise _check.refused("rank", minimum.rank, allowed)

    # of symmetric matrices the upper triangle, with the lengths of the whole
    at = np.triu_indices(minimum.rank)
    lengths = np.where(at[0] == at[1], 1.0, 2**0.5)
    main, sides = diagonal[at], scale[at]

    def unpacked(vector):
        whole = np.empty(diagonal.shape)
        whole[at] = whole.T[at] = vector
        return whole

    def product(vector):
        after = seen(minimum, unpacked(sides / lengths * vector))[at]
        return main * vector + weight * lengths * sides * after

    # a covariance matrix overlaps with the identity, so the Krylov space of the identity holds the right one
    vector = np.where(at[0] == at[1], 1.0, 0.0)
    for _ in range(restarts):
        value, vector, settled = lanczos(product, vector, TOLERANCE if restarts > 1 else FIRST)
        if settled:
            break
    else:
        if restarts > 1:
            raise RuntimeError(f"the largest eigenvalue has not settled after {restarts} rounds of Lanczos")
    return value, unpacked(vector / lengths), settled


def lanczos(product, start, tolerance, width=40):
    """One round of Lanczos, fully orthogonalised: largest eigenvalue, its vector, whether it has settled.

    It has when the eigenvalue is known to ``tolerance`` of the largest modulus, from the residual or, where
    the eigenvalue stands alone, its square over the gap.
    """
    basis, main, off = np.empty((width, len(start))), [], []
    basis[0] = start / np.linalg.norm(start)
    while True:
        stack = basis[: len(main) + 1]
        image = product(stack[-1])
        main.append(float(image @ stack[-1]))
        # exact but for rounding, which a pass against all takes away, and another one where that cancels
        image = image - main[-1] * stack[-1] - (off[-1] * stack[-2] if off else 0.0)
        before, rest = np.inf, float(np.linalg.norm(image))
        while rest < 0.7 * before:
            image -= stack.T @ (stack @ image)
            before, rest = rest, float(np.linalg.norm(image))
        values, vectors = eigh_tridiagonal(main, off)
        residual = rest * abs(vectors[-1, -1])
        gap = values[-1] - values[-2] if len(values) > 1 else 0.0
        unsure = residual**2 / gap if gap > 2 * residual else residual
        settled = unsure <= tolerance * np.abs(values).max()
        if settled or len(main) == width:
            return float(values[-1]), vectors[:, -1] @ stack, settled
        np.divide(image, rest, out=basis[len(main)])
        off.append(rest)
