"""Random minima of several families, and the exact threshold beside W22's bounds at each."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import block_diag

from flatmin import _check
from flatmin.theory.stability import bounds
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.threshold import leading_mode

__all__ = ["BOUNDS", "FAMILIES", "compare", "grouped_minimum", "random_minimum", "shaped_minimum"]

#: bounds compared with the exact learning rate, by the name of their array
BOUNDS = {
    "theorem_3_3": bounds.theorem_3_3_step,
    "proposition_3_4": bounds.proposition_3_4_step,
    "trace": bounds.trace_necessary_step,
    "necessary": bounds.necessary_step,
    "sufficient": bounds.trace_sufficient_step,
}
FAMILIES = ("gaussian", "power law", "relu features", "unequal", "groups")


def random_minimum(family: str, samples: int, seed: int) -> Minimum:
    """A minimum with random per-sample gradients (samples, 2 samples).

    ``family`` is "gaussian": independent standard normals; "power law": the same with variance 1/j in
    parameter j; "relu features": W22's random features, ReLU(w_j·x), x uniform on the sphere in 10 dimensions
    (Prop. 2.5); "unequal": Gaussian, each gradient times exp of a normal number with standard deviation ½;
    "groups": a tenth of the samples with |g|² = 1 in n/100 directions of their own (at least two), the others
    with |g|² = 0.1 in n/2 others; or "orthogonal": unit vectors (no randomness). Raises ValueError for
    another, fewer than one sample or a negative seed.
    """
    family = _check.choice("family", family, (*FAMILIES, "orthogonal"))
    samples = _check.integer("samples", samples, least=1, most=10_000)
    rng = np.random.default_rng(_check.integer("seed", seed, least=0))
    size = (samples, 2 * samples)
    if family == "groups":
        tenth = math.ceil(samples / 10)
        small, large = (tenth, max(2, samples // 100), 1.0), (samples - tenth, max(1, samples // 2), 0.1)
        return grouped_minimum([small, large][: 1 + (samples > tenth)], seed)
    if family == "orthogonal":
        gradients = np.eye(samples)
    elif family == "gaussian":
        gradients = rng.normal(size=size)
    elif family == "power law":
        gradients = rng.normal(size=size) / np.sqrt(np.arange(1, 2 * samples + 1))
    elif family == "unequal":
        gradients = rng.normal(size=size) * np.exp(rng.normal(size=(samples, 1)) / 2)
    else:
        inputs, weights = rng.normal(size=(samples, 10)), rng.normal(size=(2 * samples, 10))
        inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        gradients = np.maximum(inputs @ weights.T, 0)
    return Minimum.from_gradients(gradients)


def grouped_minimum(groups, seed: int) -> Minimum:
    """A minimum with groups of samples, each with random gradients of one length in directions of its own.

    ``groups`` holds (samples, directions, |g|²) for each. Raises ValueError for counts below 1, lengths that
    are not positive, or a negative seed.
    """
    groups = _check.array("groups", groups, shape=(None, 3), above=0, most=1e9)
    counts = groups[:, :2].astype(int)
    if (counts != groups[:, :2]).any() or counts.sum() > 10_000:
        raise _check.refused(
            "groups",
            groups,
            "(samples, directions, |g|²): integers that add up to at most 10 000, and a number",
        )
    rng, blocks = np.random.default_rng(_check.integer("seed", seed, least=0)), []
    for count, square in zip(counts, groups[:, 2], strict=True):
        block = rng.normal(size=count)
        blocks.append(block * np.sqrt(square / np.square(block).sum(axis=1, keepdims=True)))
    return Minimum.from_gradients(block_diag(*blocks))


def compare(minimum: Minimum, batch_sizes) -> dict[str, np.ndarray | float]:
    """Exact threshold and bounds at each batch size, drawn with replacement, as W22 does.

    Returns ``exact`` (B,), the largest stable η; each of ``BOUNDS`` (B,), the η it allows; ``contraction``
    and ``alignment`` (B,) of the critical mode; ``trace_h``, ``frobenius``, ``sharpness``,
    ``effective_rank``, ``gamma``, ``mu_0``. Raises ValueError for batch sizes below 1.
    """
    batch_sizes = _check.array("batch_sizes", batch_sizes, ndim=1, least=1)
    found = {name: [bound(minimum, b, "replacement") for b in batch_sizes] for name, bound in BOUNDS.items()}
    modes = [leading_mode(minimum, None, b, "replacement") for b in batch_sizes]
    return {
        **{name: np.array(values) for name, values in found.items()},
        "exact": np.array([mode.eta for mode in modes]),
        "contraction": np.array([mode.contraction for mode in modes]),
        "alignment": np.array([mode.alignment for mode in modes]),
        "trace_h": minimum.trace,
        "frobenius": minimum.frobenius,
        "sharpness": minimum.sharpness,
        "effective_rank": minimum.effective_rank,
        "gamma": minimum.gamma,
        "mu_0": minimum.mu_0,
    }


def shaped_minimum(decay: float = 1.0, spread: float = 0.0, samples: int = 24, seed: int = 0) -> Minimum:
    """A minimum with random gradients and Tr H = 1.

    Parameter j has the variance j^(−``decay``); each gradient is multiplied by exp of a normal number with
    standard deviation ``spread`` ≥ 0; twice as many parameters as samples. Raises ValueError for others.
    """
    decay, spread = _check.number("decay", decay), _check.number("spread", spread, least=0, most=20)
    samples = _check.integer("samples", samples, least=1, most=10_000)
    rng = np.random.default_rng(_check.integer("seed", seed, least=0))
    gradients = rng.normal(size=(samples, 2 * samples)) * np.arange(1, 2 * samples + 1) ** (-decay / 2)
    gradients *= np.exp(spread * rng.normal(size=(samples, 1)))
    return Minimum.from_gradients(gradients * np.sqrt(samples) / np.linalg.norm(gradients))
