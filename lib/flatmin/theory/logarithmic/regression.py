"""Linear regression on pure noise, by SGD on a data set: M22 §5.3.

Inputs and labels are independent standard normal numbers, L(θ) = (1/2N) Σ (θ·x − y)². Everything is kept
relative to the minimum θ*: δ = θ − θ*, the residuals e = x·θ* − y, and L − L* = ½ δ·Hδ, which is updated
with the step instead of being summed over the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from flatmin import _check
from flatmin.sampling import Sampling

__all__ = ["Regression"]

#: how large a learning rate, a number of steps and a level may be
_LARGE, _MANY = 1e100, 10**12


@dataclass(frozen=True)
class Regression:
    """A data set of N pairs (x, y) of independent standard normal numbers, x of ``dimension`` entries.

    Raises ValueError for fewer than 2·dimension + 2 ``samples`` N, or other numbers out of range.
    """

    samples: int
    dimension: int = 1
    seed: int = 0

    def __post_init__(self):
        _check.integer("dimension", self.dimension, least=1, most=10_000)
        _check.integer("seed", self.seed, least=0)
        if _check.integer("samples", self.samples, most=10**9) < 2 * self.dimension + 2:
            allowed = f"at least 2·dimension + 2 = {2 * self.dimension + 2}"
            raise _check.refused("samples", self.samples, allowed)

    @cached_property
    def _drawn(self):
        rng = np.random.default_rng(self.seed)
        return rng.standard_normal((self.samples, self.dimension)), rng.standard_normal(self.samples)

    @property
    def inputs(self) -> np.ndarray:
        """The x, (samples, dimension)."""
        return self._drawn[0]

    @cached_property
    def hessian(self) -> np.ndarray:
        """H = (1/N) Σ x xᵀ, (dimension, dimension)."""
        return self.inputs.T @ self.inputs / self.samples

    @cached_property
    def minimum(self) -> np.ndarray:
        """θ*, (dimension,)."""
        return np.linalg.solve(self.hessian, self.inputs.T @ self._drawn[1] / self.samples)

    @cached_property
    def residuals(self) -> np.ndarray:
        """e = x·θ* − y, (samples,)."""
        return self.inputs @ self.minimum - self._drawn[1]

    @property
    def lowest_loss(self) -> float:
        """L* = L(θ*)."""
        return float(self.residuals @ self.residuals / (2 * self.samples))

    @property
    def largest_step(self) -> float:
        """η beyond which a batch of one sample can increase |δ|: 2/max |x|². Below it δ stays bounded."""
        return float(2 / (self.inputs**2).sum(axis=1).max())

    def run(
        self, eta: float, batch_size: int, steps: int, *, keep: int, sampling="replacement", seed: int = 0
    ) -> np.ndarray:
        """δ along one run of SGD that starts at the minimum, (keep, dimension).

        Equally spaced, the last at the end; infinite or NaN from where the run diverges. ``sampling`` is
        "replacement" or "epoch". Raises ValueError for a number of steps that is no multiple of ``keep``, or
        arguments out of range.
        """
        eta, batch_size, shuffled, seed = self._checked(eta, batch_size, sampling, seed)
        keep = _check.integer("keep", keep, least=1, most=10**9)
        steps = _check.integer("steps", steps, least=1, most=_MANY)
        if steps % keep:
            raise _check.refused("steps", steps, f"a multiple of keep={keep}")
        state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
        return _run(self.inputs, self.residuals, eta, batch_size, keep, steps // keep, shuffled, state)

    def passage_steps(
        self, eta: float, batch_size: int, ratios, *, runs: int, steps: int, sampling="replacement", seed=0
    ) -> np.ndarray:
        """First step at which L exceeds c·L*, for all levels c at once, (runs, C).

        Every run starts at the minimum and ends after ``steps`` steps, or when all levels were exceeded: −1
        where a level was not; a run that diverges exceeds them all. Raises ValueError for ``ratios`` c (C,)
        that do not increase from above 1, or arguments out of range.
        """
        eta, batch_size, shuffled, seed = self._checked(eta, batch_size, sampling, seed)
        ratios = _check.array("ratios", ratios, ndim=1, above=1, most=_LARGE, increasing=True)
        runs = _check.integer("runs", runs, least=1, most=10**9)
        steps = _check.integer("steps", steps, least=1, most=_MANY)
        levels = (ratios - 1) * self.lowest_loss
        states = np.random.SeedSequence(seed).generate_state(runs, np.uint64)
        hits = np.full((runs, len(ratios)), -1, np.int64)
        turned = self.inputs @ self.hessian
        for state, row in zip(states, hits, strict=True):
            _passages(
                self.inputs, self.residuals, turned, self.hessian, eta, batch_size, levels, steps,
                shuffled, state, row,
            )  # fmt: skip
        return hits

    def _checked(self, eta, batch_size, sampling, seed):
        """Learning rate, batch size, whether in epochs, and seed."""
        return (
            _check.number("eta", eta, above=0, most=_LARGE),
            _check.integer("batch_size", batch_size, least=1, most=self.samples),
            Sampling.of(sampling, ("replacement", "epoch")) is Sampling.EPOCH,
            _check.integer("seed", seed, least=0),
        )


@njit(cache=True, inline="always")
def _below(state, number):  # pragma: no cover - compiled
    """Advance a 64-bit congruential state and return it with an integer in [0, number) (PCG-XSH-RR)."""
    one = np.uint64(1)
    shifted = np.uint32(((state >> np.uint64(18)) ^ state) >> np.uint64(27))
    turn = np.uint32(state >> np.uint64(59))
    word = np.uint32((shifted >> turn) | (shifted << ((np.uint32(32) - turn) & np.uint32(31))))
    state = state * np.uint64(6364136223846793005) + (np.uint64(1442695040888963407) | one)
    return state, np.int64((np.uint64(word) * np.uint64(number)) >> np.uint64(32))


@njit(cache=True)
def _shuffle(order, state):  # pragma: no cover - compiled
    for last in range(len(order) - 1, 0, -1):
        state, other = _below(state, last + 1)
        order[last], order[other] = order[other], order[last]
    return state


@njit(cache=True, inline="always")
def _drawn_error(order, place, shuffled, state, inputs, residuals, delta):  # pragma: no cover - compiled
    """Draw the next sample, or take it from the order; return the state, the sample and its error."""
    if shuffled:
        i = order[place]
    else:
        state, i = _below(state, len(residuals))
    error = residuals[i]
    for a in range(len(delta)):
        error += inputs[i, a] * delta[a]
    return state, i, error


@njit(cache=True)
def _run(inputs, residuals, eta, batch, records, every, shuffled, state):  # pragma: no cover - compiled
    samples, dimension = inputs.shape
    delta, gradient = np.zeros(dimension), np.zeros(dimension)
    kept = np.empty((records, dimension))
    order, place = np.arange(samples), samples
    for record in range(records):
        for _ in range(every):
            gradient[:] = 0.0
            if shuffled and place + batch > samples:
                state, place = _shuffle(order, state), 0
            for k in range(batch):
                state, i, error = _drawn_error(order, place + k, shuffled, state, inputs, residuals, delta)
                for a in range(dimension):
                    gradient[a] += error * inputs[i, a]
            place += batch
            for a in range(dimension):
                delta[a] -= eta / batch * gradient[a]
        kept[record] = delta
    return kept


@njit(cache=True)
def _passages(
    inputs, residuals, turned, hessian, eta, batch, levels, steps, shuffled, state, hits
):  # pragma: no cover - compiled
    samples, dimension = inputs.shape
    delta, change = np.zeros(dimension), np.zeros(dimension)
    slope, slope_change = np.zeros(dimension), np.zeros(dimension)  # Hδ
    order, place, level = np.arange(samples), samples, 0
    for step in range(1, steps + 1):
        change[:] = 0.0
        slope_change[:] = 0.0
        if shuffled and place + batch > samples:
            state, place = _shuffle(order, state), 0
        for k in range(batch):
            state, i, error = _drawn_error(order, place + k, shuffled, state, inputs, residuals, delta)
            for a in range(dimension):
                change[a] += error * inputs[i, a]
                slope_change[a] += error * turned[i, a]
        place += batch
        excess = 0.0
        for a in range(dimension):
            delta[a] -= eta / batch * change[a]
            slope[a] -= eta / batch * slope_change[a]
            excess += delta[a] * slope[a] / 2
        if step % 1000 == 0:  # keep rounding errors of the updates from adding up
            slope[:] = hessian @ delta
        while not excess <= levels[level]:  # NaN, too: the run has diverged
            hits[level] = step
            level += 1
            if level == len(levels):
                return
