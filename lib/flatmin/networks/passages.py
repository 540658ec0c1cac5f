"""First passages of the training loss: when does SGD, started at a trained network, first exceed c · L*?

M22 §5.3 asks for the loss of all n samples after every step. For a network with one hidden layer that is
cheap and exact: a step on a batch 𝔅 moves W₁ by a combination of the inputs in 𝔅, so the pre-activations of
all samples move by the same combination of rows of the Gram matrix x̃ᵢ·x̃ⱼ (x̃ has a 1 appended for the bias).
A step costs n·B·h operations, whatever the dimension of the inputs. A model that is linear in θ is the same
with h = 1, which gives the linearised network for comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit
from scipy.special import logsumexp
from torch import Tensor, nn

from flatmin import fits
from flatmin.networks import curvature
from flatmin.networks.data.sets import Data
from flatmin.networks.gradient_noise import batch_factor
from flatmin.networks.passes.dense import dense_layers
from flatmin.networks.point import at
from flatmin.sampling import Sampling
from flatmin.theory.logarithmic.multiplicative import kesten_exponent

__all__ = ["Passages", "decoupled_passages", "first_passages", "passage_power", "tail_exponent"]

_TILE = 1024  # samples at a time: their pre-activations stay in the second-level cache
_FAST = {"reassoc", "contract", "nsz"}  # sums may be reordered; infinities keep their meaning


@dataclass(frozen=True)
class Passages:
    """First passages of R runs through C thresholds.

    ``levels`` (C,): thresholds c in units of ``reference`` = L*; ``steps`` (R, C): the first step after
    which the loss of all samples exceeded c · L*, −1 where that did not happen; ``taken`` (R,): the steps of
    each run, which ends when it has passed every level; ``losses`` (R, T): the loss at ``times`` (T,), NaN
    after the end; ``parameters`` (R, S, P): θ at the first passage of each level in ``snapshots`` (S,), NaN
    where there was none (S = 0 for the linearised network).
    """

    levels: np.ndarray
    reference: float
    steps: np.ndarray
    taken: np.ndarray
    times: np.ndarray
    losses: np.ndarray
    snapshots: np.ndarray
    parameters: np.ndarray

    @property
    def censored(self) -> np.ndarray:
        """How many runs ended below each level, (C,)."""
        return (self.steps < 0).sum(0)


@njit(fastmath=_FAST, nogil=True)
def _advance(order, gram, targets, z, weight, bias, scale, coefficients, stop, trace):
    """SGD over the batches ``order`` (m, B) until the loss exceeds ``stop``; return the steps taken.

    ``z`` (h, n), ``weight`` (h,), ``bias`` (1,) and ``coefficients`` (h, n), by which W₁ has moved along the
    inputs, change in place; ``trace`` (m,) receives the loss after each step. ``scale`` = η/B.
    """
    hidden, size, zero = len(z), order.shape[1], np.float32(0.0)
    delta, move = np.empty((hidden, size), np.float32), np.empty(hidden, np.float32)
    out = np.empty(_TILE, np.float32)
    for step in range(len(order)):
        batch, shift = order[step], zero
        move[:] = 0.0
        for k in range(size):
            i = batch[k]
            error = bias[0] - targets[i]
            for j in range(hidden):
                error += weight[j] * max(z[j, i], zero)
            error *= scale
            shift += error
            for j in range(hidden):
                delta[j, k] = -error * weight[j] if z[j, i] > 0 else zero
                move[j] += error * max(z[j, i], zero)
        for j in range(hidden):
            weight[j] -= move[j]
            for k in range(size):
                coefficients[j, batch[k]] += delta[j, k]
        bias[0] -= shift
        trace[step] = _move_all(gram, targets, z, weight, bias[0], batch, delta, out)
        if not trace[step] <= stop:
            return step + 1
    return len(order)


@njit(fastmath=_FAST, nogil=True)
def _move_all(gram, targets, z, weight, bias, batch, delta, out):
    """Move the pre-activations of all samples, z += delta · gram[batch]; return the loss there."""
    (hidden, n), size = z.shape, len(batch)
    zero, total = np.float32(0.0), 0.0
    for low in range(0, n, _TILE):
        width = min(_TILE, n - low)
        for i in range(width):
            out[i] = bias - targets[low + i]
        for j in range(hidden):
            row = z[j, low : low + width]
            for k in range(0, size, 2):  # two at a time: half the traffic through the cache
                last = k + 1 == size
                here, there = delta[j, k], zero if last else delta[j, k + 1]
                if here != 0 or there != 0:
                    one = gram[batch[k], low : low + width]
                    two = one if last else gram[batch[k + 1], low : low + width]
                    for i in range(width):
                        row[i] += here * one[i] + there * two[i]
            w = weight[j]
            for i in range(width):
                out[i] += w * max(row[i], zero)
        part = zero
        for i in range(width):
            part += out[i] * out[i]
        total += part
    return 0.5 * total / n


@njit(fastmath=_FAST, nogil=True)
def _advance_linear(order, gram, errors, scale, stop, trace):
    """The same for a model that is linear in θ: ``errors`` (n,) = f − y, ``gram`` (n, n) = ∇fᵢ·∇fⱼ."""
    n, size = len(errors), order.shape[1]
    for step in range(len(order)):
        batch, total = order[step], 0.0
        moves = scale * errors[batch]
        for low in range(0, n, _TILE):
            tile = errors[low : low + _TILE]
            for k in range(size):
                row = gram[batch[k], low : low + _TILE]
                for i in range(len(tile)):
                    tile[i] -= moves[k] * row[i]
            part = np.float32(0.0)
            for i in range(len(tile)):
                part += tile[i] * tile[i]
            total += part
        trace[step] = 0.5 * total / n
        if not trace[step] <= stop:
            return step + 1
    return len(order)


class _Network:
    """One hidden ReLU layer in function space: the pre-activations of all samples, W₂ and b₂."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor):
        fixed, (first, second) = _two_layers(model)
        for module in fixed:
            inputs = module(inputs)
        self.inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], 1)
        self.gram = (self.inputs @ self.inputs.T).numpy()
        self.targets = targets[:, 0].numpy()
        self.start = torch.cat([first.weight, first.bias[:, None]], 1), second.weight[0], second.bias
        self.loss = self.reset()

    def reset(self) -> float:
        """Go back to the start; return the loss there."""
        self.first = self.start[0].clone()
        self.weight, self.bias = (part.numpy().copy() for part in self.start[1:])
        self._refresh()
        outputs = self.weight @ np.maximum(self.z, 0) + self.bias
        return 0.5 * float(np.square(outputs - self.targets, dtype=float).mean())

    def _refresh(self):
        # pre-activations anew from W₁, so that rounding does not add up
        self.z = (self.first @ self.inputs.T).numpy()
        self.coefficients = np.zeros_like(self.z)

    def advance(self, order, scale, stop, trace) -> int:
        """Take steps until the loss exceeds ``stop``; return their number."""
        state = self.z, self.weight, self.bias, scale, self.coefficients
        taken = _advance(order, self.gram, self.targets, *state, stop, trace)
        self.first += torch.from_numpy(self.coefficients) @ self.inputs
        self._refresh()
        return taken

    def parameters(self) -> np.ndarray:
        """θ (P,), in the order of the model."""
        first = self.first.numpy()
        return np.concatenate([first[:, :-1].ravel(), first[:, -1], self.weight, self.bias])


class _Linearised:
    """The tangent model f(θ*) + ∇f·(θ − θ*) in function space."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor):
        passed = at(model, "square", Data(inputs, targets)).passed
        if passed.outputs.shape[1] != 1:
            raise ValueError(f"model must have one output, got {passed.outputs.shape[1]}")
        self.gram = curvature.gram(passed).float().numpy()
        self.start = (passed.outputs - passed.targets)[:, 0].float().numpy()
        self.loss = self.reset()

    def reset(self) -> float:
        """Go back to the start; return the loss there."""
        self.errors = self.start.copy()
        return 0.5 * float(np.square(self.errors, dtype=float).mean())

    def advance(self, order, scale, stop, trace) -> int:
        """Take steps until the loss exceeds ``stop``; return their number."""
        return _advance_linear(order, self.gram, self.errors, scale, stop, trace)


def _two_layers(model):
    read = dense_layers(model)
    fits = read is not None and [layer.activation for layer in read[1]] == [nn.ReLU, nn.Identity]
    if not fits or any(layer.bias is None for layer in read[1]) or len(read[1][1].weight) != 1:
        raise ValueError(f"model must be one hidden ReLU layer and one output, with biases, got {model}")
    if read[1][0].weight.dtype != torch.float32:
        raise ValueError(f"model must be of dtype float32, got {read[1][0].weight.dtype}")
    return read


@torch.no_grad()
def first_passages(
    model: nn.Module,
    data: Data,
    levels: Sequence[float],
    *,
    eta: float,
    batch_size: int,
    steps: int,
    seeds: Sequence[int],
    sampling: str = "epoch",
    linearised: bool = False,
    snapshots: Sequence[float] = (),
    keep_every: int = 100,
) -> Passages:
    """Run SGD from the parameters of ``model`` and note when the loss first exceeds each level c · L*.

    Square loss, one output; the loss of all of ``data`` is computed after every step, in float32. L* is the
    loss at the start. Each seed is one run of at most ``steps`` steps; its batches are those of
    :func:`flatmin.networks.train.train`. All levels are read off one run: their passages are correlated.
    ``linearised``: run the tangent model at the start instead, to which every network is close nearby.
    ``snapshots``: levels at whose first passage θ is kept. Divergence passes every level.
    Raises ValueError for levels that do not increase or do not lie above 1, a step size, number of steps or
    batch size out of range, snapshots of the linearised model, or a network that is not
    inputs – hidden ReLU layer – one output in float32 (any network of one output if linearised).
    """
    levels, kept_levels = np.asarray(levels, float), np.asarray(sorted(snapshots), float)
    for name, values in (("levels", levels), ("snapshots", kept_levels)):
        if values.ndim != 1 or not (values > 1).all() or not (np.diff(values) > 0).all():
            raise ValueError(f"{name} must increase and lie above 1, the start, got {values}")
    if not len(levels) or not eta > 0 or steps < 1 or keep_every < 1:
        raise ValueError(
            f"levels must not be empty, eta, steps and keep_every positive, got {len(levels)} levels, {eta}, "
            f"{steps} and {keep_every}"
        )
    if linearised and len(kept_levels):
        raise ValueError(f"snapshots must be empty for the linearised network, got {snapshots}")
    batch_factor(len(data), batch_size, replacement=False)  # 1 ≤ B ≤ n
    targets = data.targets.float().reshape(len(data), -1)
    if targets.shape[1] != 1:
        raise ValueError(f"data must have one real target a sample, got {tuple(data.targets.shape)}")
    chain = (_Linearised if linearised else _Network)(model, data.inputs.float(), targets)
    plan = (np.float32(eta / batch_size), batch_size, steps, sampling, keep_every)
    runs = [_one_run(chain, len(data), levels, kept_levels, seed, *plan) for seed in seeds]
    hit, taken, losses, parameters = (np.stack(part) for part in zip(*runs, strict=True))
    times = np.arange(0, steps + 1, keep_every)
    return Passages(levels, chain.loss, hit, taken, times, losses, kept_levels, parameters)


def _one_run(chain, samples, levels, kept_levels, seed, scale, batch_size, steps, sampling, keep_every):
    """First passages (C,), steps taken, losses (T,) and θ at the kept levels (S, P) of one run."""
    chain.reset()
    losses, passed, highest = [np.array([chain.loss])], np.full(len(levels), -1), chain.loss
    parameters, taken, epoch = [], 0, 0
    while taken < steps and highest <= levels[-1] * chain.loss:
        order = Sampling.of(sampling).draw(samples, batch_size, int(seed), epoch)[: steps - taken]
        epoch += 1
        while len(order) and highest <= levels[-1] * chain.loss:
            stops = np.append(kept_levels[len(parameters) :], levels[-1]) * chain.loss
            trace = np.empty(len(order))
            done = chain.advance(order, scale, min(stops[0], stops[-1]), trace)
            trace = np.where(np.isnan(trace[:done]), np.inf, trace[:done])
            rising = np.maximum.accumulate(trace)
            for c in np.flatnonzero((passed < 0) & (rising[-1] > levels * chain.loss)):
                passed[c] = taken + 1 + np.searchsorted(rising, levels[c] * chain.loss, side="right")
            taken, highest, order = taken + done, max(highest, rising[-1]), order[done:]
            losses.append(trace)
            while len(parameters) < len(kept_levels) and highest > kept_levels[len(parameters)] * chain.loss:
                parameters.append(chain.parameters())
    size = len(chain.parameters()) if len(kept_levels) else 0
    missing = [np.full(size, np.nan, np.float32)] * (len(kept_levels) - len(parameters))
    path = np.concatenate(losses)[::keep_every]
    path = np.pad(path, (0, steps // keep_every + 1 - len(path)), constant_values=np.nan)
    return passed, taken, path, np.array(parameters + missing).reshape(len(kept_levels), size)


def tail_exponent(
    curvatures: Tensor, eta: float, batch_size: int, draws: int = 200_000, seed: int = 0
) -> float:
    """x with P(L > c) ∝ c^−x, and t_p ∝ c^x, for the recursion δ ← (1 − ηĥ)δ + noise along one direction v.

    ``curvatures`` (n,): (∇fᵢ·v)², so that ĥ, the mean over a batch (drawn with replacement), is the batch's
    own curvature. Kesten's theorem: P(|δ| > s) ∝ s^−κ with E|1 − ηĥ|^κ = 1, and L − L* ∝ δ² gives x = κ/2.
    ∞ if no batch expands, 0 if E log|1 − ηĥ| ≥ 0: then there is no stationary state. The expectations are
    over ``draws`` batches. Raises ValueError for negative curvatures or an η that is not positive.
    """
    values = curvatures.double().numpy()
    if values.ndim != 1 or not (values >= 0).all() or not eta > 0:
        raise ValueError(f"curvatures must be non-negative (n,) and eta positive, got {curvatures} and {eta}")
    rng = np.random.default_rng(seed)
    batch = np.zeros(draws)
    for _ in range(batch_size):
        batch += values[rng.integers(len(values), size=draws)]
    logs = np.log(np.maximum(np.abs(1 - eta * batch / batch_size), 1e-300))

    def growth(kappa):
        return logsumexp(kappa * logs) - np.log(draws)

    if logs.mean() >= 0:
        return 0.0
    if logs.max() <= 0:
        return np.inf
    return kesten_exponent(growth) / 2


def decoupled_passages(
    curvatures: Sequence[float],
    levels: Sequence[float],
    *,
    eta: float,
    batch_size: int,
    steps: int,
    runs: int,
    seed: int = 0,
) -> np.ndarray:
    """First steps at which L > c · L*, (runs, levels), in M22's model with its steps kept discrete.

    A quadratic minimum with the eigenvalues ``curvatures`` h_i (k,) and Gaussian noise of covariance 2LH/B
    (M22 Eq. 6): in units x_i = δ_i √(h_i/2L*) of a loss L = L*(1 + |x|²) a step does
    x_i ← (1 − ηh_i)x_i + ηh_i √((1 + |x|²)/B) ξ_i. −1 where a level is not reached within ``steps``.
    Raises ValueError for curvatures that are not positive or levels that do not increase from above 1.
    """
    h, levels = np.asarray(curvatures, float), np.asarray(levels, float)
    if h.ndim != 1 or not (h > 0).all():
        raise ValueError(f"curvatures must be positive (k,), got {curvatures}")
    if not (levels > 1).all() or not (np.diff(levels) > 0).all():
        raise ValueError(f"levels must increase and lie above 1, the start, got {levels}")
    rng = np.random.default_rng(seed)
    x, ratio, highest = np.zeros((runs, len(h))), np.ones(runs), np.ones(runs)
    passed, alive = np.full((runs, len(levels)), -1), np.arange(runs)
    for step in range(1, steps + 1):
        noise = rng.standard_normal(x.shape) * np.sqrt(ratio / batch_size)[:, None]
        x += eta * h * (noise - x)
        ratio = 1 + np.square(x).sum(1)
        for run in np.flatnonzero(ratio > highest):
            new = slice(*np.searchsorted(levels, [highest[run], ratio[run]]))
            passed[alive[run], new] = step
        highest = np.maximum(highest, ratio)
        kept = highest <= levels[-1]
        if not kept.all():
            x, ratio, highest, alive = x[kept], ratio[kept], highest[kept], alive[kept]
            if not len(alive):
                break
    return passed


def passage_power(
    steps, levels, *, times=None, between=None, resamples: int = 400, seed: int = 0
) -> fits.Slope:
    """Power x of t_p ∝ c^x: least-squares slope of log mean first-passage time against log c.

    ``steps`` (R, C) of R independent runs, ``levels`` (C,); the levels used are those whose mean time lies in
    ``times`` = (low, high), or those in ``between`` = (low, high); exactly one is given. The points along c
    come from the same runs: the error is the spread over resampled runs. The result's ``window`` is in c.
    Raises ValueError if runs did not reach a level used, or if fewer than three levels are left.
    """
    steps, levels = np.asarray(steps, float), np.asarray(levels, float)
    if (times is None) == (between is None):
        raise ValueError(f"times={times}, between={between}: exactly one of them is to be given")
    reached = (steps >= 0).all(0)
    mean = np.where(reached, steps.mean(0), np.inf)
    low, high = between if times is None else times
    scale = levels if times is None else mean
    used = np.flatnonzero((scale >= low) & (scale <= high))
    if len(used) < 3 or not reached[used].all():
        raise ValueError(
            f"{'between' if times is None else 'times'}={(low, high)}: must leave at least three levels, all "
            f"reached by every run; it leaves {len(used)}, {int(reached[used].sum())} of them reached"
        )
    logs, rng = np.log(levels[used]), np.random.default_rng(seed)
    slope, intercept = np.polyfit(logs, np.log(mean[used]), 1)
    draws = rng.integers(len(steps), size=(resamples, len(steps)))
    spread = np.polyfit(logs, np.log(steps[draws][:, :, used].mean(1)).T, 1)[0]
    window = tuple(float(levels[i]) for i in used[[0, -1]])
    return fits.Slope(float(slope), float(spread.std()), float(intercept), len(steps), len(used), window)
