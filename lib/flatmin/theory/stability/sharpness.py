"""Batch sharpness beside the exact threshold: the curvature that a batch's gradient finds in its own batch.

With the errors e = Rδ of a displacement δ, a batch has the gradient g_B = H_Bδ = (1/B) Σ R_iᵀe_i. The three
numbers δᵀH_Bδ = (1/B) Σ |e_i|², |g_B|² = δᵀH_B²δ and g_BᵀH_Bg_B = δᵀH_B³δ make the quotients

    descent    |g_B|²/δᵀH_Bδ      and      curvature    g_BᵀH_Bg_B/|g_B|²,

the second never less than the first (Cauchy, Schwarz). Batch sharpness is the mean of the second over batches
(Andreyev & Beneventano, arXiv 2412.20553, with the Hessian in the place of the Gauss–Newton H_B): a step
raises the loss of its own batch where that exceeds 2/η. The mean square of δ moves by another quotient:
E|δ|² grows in a step exactly if E|g_B|²/E δᵀH_Bδ, a quotient of means one power lower, exceeds 2/η. In the
leading mode of :mod:`.threshold` at η* it equals 2/η*. There the mean of the second quotient, weighted with
δᵀH_Bδ or with |g_B|², is at least 2/η*; the plain mean may lie on either side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement, pairwise

import numpy as np

from flatmin import _check
from flatmin.estimate import Estimate
from flatmin.theory.stability.minimum import Minimum, checked
from flatmin.theory.stability.paths import MOST, batches_of, size_of
from flatmin.theory.stability.threshold import leading_mode

__all__ = ["AtEdge", "at_edge", "batch_sharpness"]

#: numbers in one temporary array
_ENTRIES = 2**24


@dataclass(frozen=True)
class AtEdge:
    """Quotients in the leading mode at η*, each times η*/2: 1 where it says that η* is the edge.

    Attributes
    ----------
    eta : float
        η*.
    batch_sharpness : Estimate
        η*/2 ⟨g_BᵀH_Bg_B/|g_B|²⟩, on either side of 1.
    weighted : Estimate
        The same mean with the weights δᵀH_Bδ, twice the losses of the batches; at least 1.
    of_means : Estimate
        η*/2 ⟨g_BᵀH_Bg_B⟩/⟨|g_B|²⟩; at least 1.
    descent : Estimate
        η*/2 ⟨|g_B|²⟩/⟨δᵀH_Bδ⟩; 1.
    """

    eta: float
    batch_sharpness: Estimate
    weighted: Estimate
    of_means: Estimate
    descent: Estimate


def at_edge(
    minimum: Minimum, batch_size: int, sampling: str = "fresh", *, draws: int = 4000, seed: int = 0
) -> AtEdge:
    """The quotients that batches see at η* when δ is in the leading mode: normal, with its second moment.

    The mode fixes the second moment of δ; that δ is normal is an assumption, which the two quotients of means
    do not need. Each of ``draws`` takes a δ and a batch of its own. Raises ValueError as
    :func:`~.threshold.largest_step`, for a batch size that cannot be drawn, fewer than two draws or a
    negative seed.
    """
    checked(minimum).factor(1, sampling)  # refuses a word it does not know
    size = size_of(minimum, batch_size, sampling)
    draws = _check.integer("draws", draws, least=2, most=MOST)
    rng = np.random.default_rng(_check.integer("seed", seed, least=0))
    mode = leading_mode(minimum, None, size, sampling)
    values, vectors = np.linalg.eigh(mode.moment)
    root, found = vectors * np.sqrt(np.maximum(values, 0)), []
    for count in _chunks(draws, minimum.outputs * minimum.samples):
        errors = rng.standard_normal((count, minimum.rank)) @ root.T @ minimum.gradients.T
        parts = _counts(next(batches_of(rng, minimum.samples, size, count, sampling)), minimum.samples)
        found.append(_powers(minimum, errors.reshape(count, minimum.samples, -1), parts / size))
    first, second, third = mode.eta / 2 * np.concatenate(found, 1)
    kept = second > 0
    ratios = mode.eta / 2 * np.divide(third, second, where=kept, out=np.zeros_like(third))
    return AtEdge(
        mode.eta,
        _quotient(ratios[kept], np.ones(kept.sum())),
        _quotient(first * ratios, first),
        _quotient(mode.eta / 2 * third, second),
        _quotient(mode.eta / 2 * second, first),
    )


def batch_sharpness(
    minimum: Minimum,
    residuals,
    batch_size: int,
    sampling: str = "fresh",
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Mean over batches of g_Bᵀ H_B g_B/|g_B|²: the batch's own gradient in its own curvature.

    g_B = (1/B) Σ R_iᵀe_i and H_B = (1/B) Σ R_iᵀR_i over the batch (Andreyev & Beneventano, arXiv 2412.20553;
    there with the Hessian in the place of H_B); ``residuals`` are the e, (n·K,) or (n, K). A mean of ratios;
    batches without a gradient are left out. Where there are no more than ``draws`` batches, all are taken and
    the error is 0. Raises ValueError for residuals or a batch size that do not fit, or where no batch has a
    gradient.
    """
    size, e = size_of(minimum, batch_size, sampling), minimum.residuals_of(residuals)
    draws, n = _check.integer("draws", draws, least=2, most=MOST), minimum.samples
    rng = np.random.default_rng(_check.integer("seed", seed, least=0))
    counts, weights = _batches(rng, n, size, sampling == "replacement", draws)
    chunks = np.cumsum([0, *_chunks(len(counts), e.size)])
    powers = [_powers(minimum, e, counts[start:end] / size) for start, end in pairwise(chunks)]
    _, squares, curved = np.concatenate(powers, axis=1)
    kept = squares > 0
    if not kept.any():
        raise _check.refused("residuals", e, "such that some batch has a gradient")
    ratios = curved[kept] / squares[kept]
    if weights is not None:
        return Estimate(float(np.average(ratios, weights=weights[kept])), 0.0, 0, "all batches")
    error = float(ratios.std(ddof=1) / np.sqrt(len(ratios))) if len(ratios) > 1 else np.inf
    return Estimate(float(ratios.mean()), error, len(ratios), "mean over drawn batches")


def _chunks(count, row):
    """``count`` rows of ``row`` numbers in pieces that fit."""
    most = max(1, _ENTRIES // row)
    return [min(most, count - start) for start in range(0, count, most)]


def _powers(minimum, errors, parts):
    """δᵀH_Bδ, |g_B|² and g_BᵀH_Bg_B, (3, k), of ``errors`` (n, K) or (k, n, K) and ``parts`` (k, n), the
    share of each sample in a batch."""
    drawn = (parts[:, :, None] * errors).reshape(len(parts), -1)  # g_B = Rᵀ drawn
    moved = minimum.gram_product(drawn)  # R g_B
    seen = np.square(moved).reshape(*parts.shape, -1).sum(axis=2)
    loss = (parts * np.square(errors).sum(axis=-1)).sum(axis=1)
    return np.array([loss, np.sum(drawn * moved, axis=1), (parts * seen).sum(axis=1)])


def _quotient(above, below):
    """⟨above⟩/⟨below⟩ over independent draws, with the error of first order."""
    value, n = float(above.mean() / below.mean()), len(above)
    error = float(np.std(above - value * below, ddof=1) / abs(below.mean()) / np.sqrt(n))
    return Estimate(value, error, n, "draws of the mode and of a batch")


def _counts(chosen, samples):
    """How often each sample is in a batch, (batches, n)."""
    counts = np.zeros((len(chosen), samples))
    np.add.at(counts, (np.arange(len(chosen))[:, None], np.asarray(chosen)), 1)
    return counts


def _batches(rng, samples, batch_size, replacement, draws):
    """How often each sample is in a batch, (batches, n), and their weights; None where they are drawn."""
    pool = range(samples)
    if not replacement and math.comb(samples, batch_size) <= draws:
        return _counts(list(combinations(pool, batch_size)), samples), np.ones(math.comb(samples, batch_size))
    if replacement and math.comb(samples + batch_size - 1, batch_size) <= draws:
        counts = _counts(list(combinations_with_replacement(pool, batch_size)), samples)
        orders = [math.prod(math.factorial(int(k)) for k in row if k > 1) for row in counts]
        return counts, math.factorial(batch_size) / np.array(orders, float)  # orders of a multiset
    how = "replacement" if replacement else "fresh"
    return _counts(next(batches_of(rng, samples, batch_size, draws, how)), samples), None
