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
from torch import Tensor, nn

from flatmin import _check
from flatmin.networks import curvature
from flatmin.networks.data.sets import Data
from flatmin.networks.passes.dense import dense_layers
from flatmin.networks.point import at
from flatmin.sampling import Sampling

__all__ = ["Passages", "first_passages"]

_TILE = 1024  # samples at a time: their pre-activations stay in the second-level cache
_FAST = {"reassoc", "contract", "nsz"}  # sums may be reordered; infinities keep their meaning


@dataclass(frozen=True)
class Passages:
    """First passages of R runs through C thresholds.

    Attributes
    ----------
    levels : (C,)
        Thresholds c in units of ``reference``.
    reference : float
        L*, the loss at the start.
    steps : (R, C)
        The first step after which the loss of all samples exceeded c · L*, −1 where that did not happen.
    taken : (R,)
        Steps of each run, which ends when it has passed every level.
    times, losses : (T,), (R, T)
        The loss at some steps, NaN after the end of a run.
    snapshots, parameters : (S,), (R, S, P)
        θ at the first passage of each of these levels, NaN where there was none (S = 0 for the linearised
        network).
    """

    levels: np.ndarray
    reference: float
    steps: np.ndarray
    taken: np.ndarray
    times: np.ndarray
    losses: np.ndarray
    snapshots: np.ndarray
    parameters: np.ndarray


@njit(fastmath=_FAST, nogil=True, cache=True)
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


@njit(fastmath=_FAST, nogil=True, cache=True)
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


@njit(fastmath=_FAST, nogil=True, cache=True)
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
        with torch.enable_grad():  # the point tries its derivatives
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

    All levels are read off one run: their passages are correlated. Divergence passes every level.

    Parameters
    ----------
    model : nn.Module
        Inputs – one hidden ReLU layer – one output, in float32; any network of one output if linearised.
    data : Data
        One real target a sample, square loss. The loss of all of it is computed after every step, in float32.
    levels : (C,)
        c, increasing and above 1, in units of the loss L* at the start.
    eta, batch_size, sampling
        As for :func:`flatmin.networks.train.train`, whose batches these are.
    steps : int
        Length of the longest run.
    seeds : sequence of int
        One for each run.
    linearised : bool
        Run the tangent model at the start instead, to which every network is close nearby.
    snapshots : sequence of float
        Levels at whose first passage θ is kept.
    keep_every : int
        Steps between kept losses.

    Returns
    -------
    Passages

    Raises
    ------
    ValueError
        For arguments out of range, snapshots of the linearised model, or a network or data of another form.
    """
    _check.instance("model", model, nn.Module)
    inputs, targets = _one_target(_check.instance("data", data, Data))
    levels = _check.array("levels", levels, ndim=1, above=1, increasing=True)
    kept_levels = _check.array("snapshots", snapshots, ndim=1, above=1, empty=True)
    kept_levels = _check.array("snapshots", np.sort(kept_levels), increasing=True, empty=True)
    if _check.flag("linearised", linearised) and len(kept_levels):
        raise _check.refused("snapshots", snapshots, "empty for the linearised network")
    eta = _check.number("eta", eta, above=0, most=float(np.finfo(np.float32).max))
    batch_size = _check.integer("batch_size", batch_size, least=1, most=len(data))
    steps = _check.integer("steps", steps, least=1, most=10**9)
    keep_every = _check.integer("keep_every", keep_every, least=1, most=10**9)
    seeds = _check.array("seeds", seeds, ndim=1, dtype=int, least=0)
    chain = (_Linearised if linearised else _Network)(model, inputs, targets)
    plan = (np.float32(eta / batch_size), batch_size, steps, Sampling.of(sampling), keep_every)
    runs = [_one_run(chain, len(data), levels, kept_levels, seed, *plan) for seed in seeds]
    hit, taken, losses, parameters = (np.stack(part) for part in zip(*runs, strict=True))
    times = np.arange(0, steps + 1, keep_every)
    return Passages(levels, chain.loss, hit, taken, times, losses, kept_levels, parameters)


def _one_target(data: Data) -> tuple[Tensor, Tensor]:
    """Inputs, and targets (n, 1), in float32."""
    targets = data.targets.float().reshape(len(data), -1)
    if targets.shape[1] != 1:
        raise ValueError(f"data must have one real target a sample, got {tuple(data.targets.shape)}")
    return data.inputs.float(), targets


def _one_run(chain, samples, levels, kept_levels, seed, scale, batch_size, steps, sampling, keep_every):
    """First passages (C,), steps taken, losses (T,) and θ at the kept levels (S, P) of one run."""
    chain.reset()
    losses, passed, highest = [np.array([chain.loss])], np.full(len(levels), -1), chain.loss
    parameters, taken, epoch = [], 0, 0
    while taken < steps and highest <= levels[-1] * chain.loss:
        order = sampling.draw(samples, batch_size, int(seed), epoch)[: steps - taken]
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
