"""Linear stability of a trained network, and its escape from a sharp minimum.

Near an interpolating minimum of the square loss a network with one output is its linearisation, and
everything about its SGD is in two arrays: the Gram matrix K_ij = ∇f_i·∇f_j and the residuals e_i = f_i − y_i
(:class:`Tangent`). The Gauss–Newton matrix G = (1/n) Σ ∇f_i ∇f_iᵀ has the non-zero eigenvalues of K/n; it is
the Hessian where the residuals vanish. The thresholds are those of :mod:`flatmin.theory.stability.minimum`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import nn

from flatmin.networks import curvature, parameters
from flatmin.networks.data.sets import Data
from flatmin.networks.gradient_noise import batch_factor
from flatmin.networks.passes.generic import linearise
from flatmin.networks.train import run as training
from flatmin.theory.stability.bounds import gradient_descent_step, theorem_3_3_step
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.threshold import largest_step

__all__ = ["Edge", "Escape", "Growth", "Tangent", "edge", "escape", "growth", "tangent"]

#: numbers in the kept parameters of one block of trajectories
_ENTRIES = 2**25


@dataclass(frozen=True)
class Tangent:
    """A network linearised at its present parameters: ``gram`` K (n, n) and ``residuals`` e (n,), float64.

    K_ij = ∇f_i·∇f_j without a factor 1/n. A batch I of B samples moves the residuals of the linearised
    network by e ← e − (η/B) Σ_{i∈I} K_{·i} e_i (W22 Eq. 4, in the space of outputs).
    """

    gram: np.ndarray = field(repr=False)
    residuals: np.ndarray = field(repr=False)

    @cached_property
    def minimum(self) -> Minimum:
        """The minimum of the linearised network, for :mod:`flatmin.theory.stability.minimum`; its H is G."""
        return Minimum.from_gram(self.gram)

    @property
    def loss(self) -> float:
        """L = (1/n) Σ ½ e_i²."""
        return float(0.5 * np.mean(self.residuals**2))

    @property
    def mu(self) -> float:
        """Alignment μ = Tr(ΣG)/(2L‖G‖²) of the noise at these residuals (W22 §2)."""
        e, chi, moved = self.residuals, self.minimum.chi, self.minimum.kernel @ self.residuals
        return float((chi @ e**2 - moved @ moved) / (e @ e * chi.mean()))

    def mean_losses(self, eta: float, batch_size: int, steps: int) -> np.ndarray:
        """Exact E L_t of linearised SGD from these residuals, t = 0 … ``steps``: (steps + 1,).

        Each step draws a fresh batch without replacement. The recursion of E eeᵀ (n, n) is exact at every η;
        a step costs three products of (n, n) matrices. Raises ValueError for a batch size outside 1…n.
        """
        n = len(self.gram)
        batch_factor(n, batch_size, replacement=False)  # 1 ≤ B ≤ n
        both = (batch_size - 1) / max(n - 1, 1) / (batch_size * n)  # P(i and j in I)/B², i ≠ j
        once = 1 / (batch_size * n)  # P(i in I)/B²
        second, found = np.outer(self.residuals, self.residuals), []
        for _ in range(steps + 1):
            found.append(0.5 * np.trace(second) / n)
            drawn = both * second
            np.fill_diagonal(drawn, once * np.diag(second))
            pulled = eta / n * (self.gram @ second)
            second = second - pulled - pulled.T + eta**2 * (self.gram @ drawn @ self.gram)
        return np.array(found)

    def losses(self, eta: float, batch_size: int, steps: int, seeds) -> np.ndarray:
        """L_t of linearised SGD for each seed, (seeds, steps + 1), from the batches that
        :func:`~flatmin.networks.train.run.run` draws for ``sampling="subset"``."""
        n = len(self.gram)
        per_epoch = n // batch_size
        residuals = np.repeat(self.residuals[None], len(seeds), 0)
        found = [0.5 * np.mean(residuals**2, axis=1)]
        for step in range(steps):
            epoch, place = divmod(step, per_epoch)
            if place == 0:
                drawn = [training.batches(n, batch_size, int(seed), epoch, "subset") for seed in seeds]
            chosen = np.stack([batches[place] for batches in drawn])
            kept = np.take_along_axis(residuals, chosen, 1)
            residuals = residuals - eta / batch_size * np.einsum("rb,rbn->rn", kept, self.gram[chosen])
            found.append(0.5 * np.mean(residuals**2, axis=1))
        return np.stack(found, 1)


def tangent(model: nn.Module, data: Data) -> Tangent:
    """Linearise ``model`` on ``data`` for the square loss, in float64.

    Raises ValueError for a network with several outputs or targets that do not fit. Memory: an (n, n) array,
    and for networks that are not fully connected the (n, P) gradients.
    """
    passed = linearise(copy.deepcopy(model).double(), data, "square")
    if passed.outputs.shape[1] != 1:
        raise ValueError(f"model must have one output, got {passed.outputs.shape[1]}")
    gram = curvature.gram(passed).numpy()
    return Tangent((gram + gram.T) / 2, (passed.outputs - passed.targets)[:, 0].numpy())


@dataclass(frozen=True)
class Edge:
    """Where a network stands against three edges of stability, each a ratio that is 1 at the edge.

    ``bound`` = η‖G‖_F √(μ/B) of W22 Theorem 3.3, with the μ of the present residuals as W22 Fig. 3b takes it;
    ``exact`` = η/η*(B), mean-square stability with fresh batches without replacement; ``descent`` = ηλ₁(G)/2,
    full-batch gradient descent. ``exact`` is never below ``descent``.
    """

    bound: float
    exact: float
    descent: float


def edge(model: nn.Module, data: Data, eta: float, batch_size: int) -> Edge:
    """Measure how near SGD with ``eta`` and ``batch_size`` is to the edge of stability at ``model``.

    For the square loss and one output, with the Gauss–Newton matrix in the place of the Hessian. Raises
    ValueError as :func:`tangent`, and for a batch size outside 1…n.
    """
    here = tangent(model, data)
    minimum = here.minimum
    return Edge(
        bound=float(eta / theorem_3_3_step(minimum, batch_size, True, here.mu)),
        exact=eta / largest_step(minimum, batch_size),
        descent=eta / gradient_descent_step(minimum),
    )


@dataclass(frozen=True)
class Escape:
    """SGD from one network: ``losses`` (R, T + 1) of the network and ``linearised`` (R, T + 1) of its
    linearisation with the same batches, t = 0 … T; ∞ once a run has diverged."""

    losses: np.ndarray
    linearised: np.ndarray


def escape(
    model: nn.Module,
    data: Data,
    eta: float,
    batch_size: int,
    steps: int = 20,
    trajectories: int = 200,
    seed: int = 0,
) -> Escape:
    """Let ``trajectories`` runs of SGD go from ``model``, each with batches of its own (W22 Fig. 4).

    Every batch is drawn anew without replacement. Raises ValueError as
    :func:`~flatmin.networks.train.run.run` and :func:`tangent`.
    """
    seeds = seed + np.arange(trajectories)
    block = max(1, _ENTRIES // ((steps + 1) * parameters.flat(model).numel()))
    found = []
    for start in range(0, trajectories, block):
        runs = training.run(
            model,
            data,
            "square",
            eta=eta,
            batch_size=batch_size,
            steps=steps,
            seed=seeds[start : start + block],
            sampling="subset",
            checkpoints=range(steps + 1),
        )
        found.append(runs.losses(data))
    losses = np.concatenate(found)
    losses[np.isnan(losses)] = np.inf  # parameters still finite, outputs beyond the floating-point range
    return Escape(losses, tangent(model, data).losses(eta, batch_size, steps, seeds))


@dataclass(frozen=True)
class Growth:
    """A mean loss growing as e^(value·t): ``value`` a step, its bootstrap ``error``, and the steps used."""

    value: float
    error: float
    window: tuple[int, int]


def growth(losses: np.ndarray, window: tuple[int, int], resamples: int = 1000, seed: int = 0) -> Growth:
    """Fit log of the mean of ``losses`` (R, T + 1) against t over first ≤ t ≤ last of ``window``.

    The error is the standard deviation over resamples of whole trajectories. Raises ValueError for a window
    outside 0…T or of fewer than two steps, fewer than two trajectories, or losses that are not finite there.
    """
    losses = np.asarray(losses, float)
    first, last = window
    if not 0 <= first < last < losses.shape[1]:
        raise ValueError(f"window must be two increasing steps within 0…{losses.shape[1] - 1}, got {window}")
    if len(losses) < 2:
        raise ValueError(f"losses must hold at least two trajectories, got {len(losses)}")
    part = losses[:, first : last + 1]
    if not np.isfinite(part).all():
        raise ValueError(f"window must end before a run diverges, got {window}")
    t = np.arange(part.shape[1]) - (part.shape[1] - 1) / 2
    draws = np.random.default_rng(seed).integers(len(part), size=(resamples, len(part)))
    spread = [_slope(t, part[draw].mean(0)) for draw in draws]
    return Growth(_slope(t, part.mean(0)), float(np.std(spread)), (first, last))


def _slope(t, mean):
    return float(t @ np.log(mean) / (t @ t))
