"""Paths of linearised SGD around an interpolating minimum: their mean, a typical one, and whole epochs.

The mean of the loss grows as ρᵗ (:mod:`.threshold`). A single path grows as exp(λt), with λ the Lyapunov
exponent of the product of random steps I − ηH_batch; λ ≤ ln ρ, as the logarithm is concave, and in between
the mean is carried by ever rarer paths.
"""

from __future__ import annotations

import math
from itertools import permutations
from typing import NamedTuple

import numpy as np

from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.threshold import noise_factor, second_moment_step

__all__ = ["SAMPLINGS", "Rate", "epoch_growth", "log_losses", "mean_losses", "typical_growth"]

#: how batches are drawn: B draws with replacement; B different samples, fresh at each step; a shuffled pass
SAMPLINGS = ("replacement", "fresh", "epoch")

_ORDERS = 50_000  # most orders of an epoch that are enumerated


class Rate(NamedTuple):
    """A growth rate of the logarithm of the loss per step, with its standard error."""

    value: float
    error: float


def mean_losses(
    minimum: Minimum, eta: float, batch_size: float, steps: int, replacement: bool = False
) -> np.ndarray:
    """E L after 0…``steps`` steps, exactly, (steps + 1,), from errors that are standard normal at the start.

    The start is the one of :func:`log_losses`: E L₀ = r/2n. A fresh batch at each step. Raises ValueError as
    :func:`.stability.growth`.
    """
    lam = minimum.eigenvalues
    moment, losses = np.diag(1 / lam) / minimum.samples, []
    for step in range(steps + 1):
        if step:
            moment = second_moment_step(minimum, moment, eta, batch_size, replacement)
        losses.append(lam @ np.diag(moment) / 2)
    return np.array(losses)


def log_losses(
    minimum: Minimum,
    eta: float,
    batch_size: int,
    steps: int,
    trajectories: int,
    seed: int,
    sampling: str = "fresh",
) -> np.ndarray:
    """Simulate linearised SGD and return ln L, (trajectories, steps + 1); −inf where L is exactly 0.

    The errors are standard normal at the start (those that the model can make). The length of δ is kept
    apart, so that no path overflows or underflows. ``sampling`` is one of ``SAMPLINGS``. Raises ValueError
    for another one, a batch size that is no integer in range, eta ≤ 0, and for epochs that do not divide into
    batches.
    """
    if not eta > 0:
        raise ValueError(f"eta={eta!r}: must be positive")
    rng = np.random.default_rng(seed)
    batches = _batches(rng, minimum.samples, batch_size, trajectories, sampling)
    lam, g = minimum.eigenvalues, minimum.gradients
    delta = rng.standard_normal((trajectories, minimum.rank)) / np.sqrt(lam * minimum.samples)
    length, logs = np.zeros(trajectories), np.empty((trajectories, steps + 1))
    with np.errstate(divide="ignore"):  # the logarithm of a loss that is 0
        for step in range(steps + 1):
            if step:
                chosen = g[next(batches)]  # (trajectories, B, r)
                errors = np.matmul(chosen, delta[:, :, None])
                delta = delta - eta / batch_size * np.matmul(errors.transpose(0, 2, 1), chosen)[:, 0]
            norm = np.linalg.norm(delta, axis=1)
            delta = delta / np.where(norm > 0, norm, 1)[:, None]
            length = length + np.log(norm)
            logs[:, step] = 2 * length + np.log(np.square(delta) @ lam / 2)
    return logs


def _batches(rng, samples, batch_size, trajectories, sampling):
    """Yield the batches of one step after the other, (trajectories, B)."""
    if sampling not in SAMPLINGS:
        raise ValueError(f"sampling={sampling!r}: allowed are {', '.join(SAMPLINGS)}")
    if batch_size != int(batch_size):
        raise ValueError(f"batch_size={batch_size!r}: must be an integer")
    noise_factor(samples, batch_size, sampling == "replacement")  # refuses a size out of range
    if sampling == "epoch" and samples % batch_size:
        raise ValueError(f"batch_size={batch_size!r}: must divide the {samples} samples of an epoch")
    return _drawn(rng, samples, batch_size, trajectories, sampling)


def _drawn(rng, samples, batch_size, trajectories, sampling):
    everyone = np.tile(np.arange(samples), (trajectories, 1))
    while True:
        if sampling == "replacement":
            yield rng.integers(samples, size=(trajectories, batch_size))
            continue
        order = rng.permuted(everyone, axis=1)
        last = samples if sampling == "epoch" else batch_size
        for start in range(0, last, batch_size):
            yield order[:, start : start + batch_size]


def typical_growth(log_losses, discard: int = 0) -> Rate:
    """Rate of ln L per step along single paths (the Lyapunov exponent of the loss), from ``log_losses``.

    ``log_losses`` (trajectories, steps + 1) as of :func:`log_losses`; the first ``discard`` steps are left
    out. The error is that of the mean over trajectories. Raises ValueError for fewer than two trajectories or
    where nothing is left.
    """
    logs = np.asarray(log_losses, dtype=float)
    if logs.ndim != 2 or len(logs) < 2 or not 0 <= discard < logs.shape[1] - 1:
        shape = f"log_losses of shape {logs.shape}"
        raise ValueError(f"discard={discard!r}, {shape}: must leave a step of at least two trajectories")
    rates = (logs[:, -1] - logs[:, discard]) / (logs.shape[1] - 1 - discard)
    return Rate(float(rates.mean()), float(rates.std(ddof=1) / np.sqrt(len(rates))))


def epoch_growth(minimum: Minimum, eta: float, batch_size: int) -> float:
    """Factor ρ of E L per epoch, exactly, where each epoch passes once through all samples in random order.

    The average of M ⊗ M over all orders of the batches, M the product of an epoch's steps: for a few samples
    only. Raises ValueError where more than 50 000 orders would have to be multiplied, or batches do not
    divide n.
    """
    n = minimum.samples
    _batches(np.random.default_rng(0), n, batch_size, 1, "epoch")
    orders = math.factorial(n) // math.factorial(batch_size) ** (n // batch_size)
    if orders > _ORDERS:
        raise ValueError(f"batch_size={batch_size!r}: {n} samples have {orders} orders, more than {_ORDERS}")
    g, r = minimum.gradients, minimum.rank
    identity = np.eye(r)
    total = np.zeros((r * r, r * r))
    for order in _orders(tuple(range(n)), batch_size):
        product = identity
        for batch in order:
            chosen = g[list(batch)]
            product = product - eta / batch_size * chosen.T @ (chosen @ product)
        total += np.kron(product, product)
    return float(np.linalg.eigvalsh(total / orders)[-1])


def _orders(samples, batch_size):
    """All ways to cut the samples into a sequence of batches; the order within a batch does not matter."""
    for order in permutations(samples):
        batches = [order[k : k + batch_size] for k in range(0, len(order), batch_size)]
        if all(list(batch) == sorted(batch) for batch in batches):
            yield batches
