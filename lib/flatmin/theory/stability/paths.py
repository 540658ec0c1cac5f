"""Paths of linearised SGD around an interpolating minimum: their mean, a typical one, and whole epochs.

The mean of the loss grows as ρᵗ (:mod:`.threshold`). A single path grows as exp(λt), with λ the Lyapunov
exponent of the product of random steps I − ηH_batch; λ ≤ ln ρ, as the logarithm is concave, and in between
the mean is carried by ever rarer paths. So there are two edges: η* with ρ(η*) = 1, and a later one with
λ = 0, beyond which a typical path leaves too (:func:`typical_edge`).
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from scipy.optimize import brentq

from flatmin import _check
from flatmin.estimate import Estimate
from flatmin.sampling import Sampling
from flatmin.theory.stability.bounds import trace_sufficient_step
from flatmin.theory.stability.minimum import Minimum, checked
from flatmin.theory.stability.threshold import leading_mode, step_of

__all__ = ["epoch_growth", "log_losses", "mean_losses", "typical_edge", "typical_growth"]

#: most orders of an epoch that are enumerated, and most directions for the matrix (r², r²) of one
_ORDERS, _DIRECTIONS = 50_000, 50

#: most steps, trajectories, draws of a call, and samples in a batch drawn with replacement
MOST = 10**6


def mean_losses(
    minimum: Minimum,
    eta: float,
    batch_size: float,
    steps: int,
    sampling: str = "fresh",
    residuals=None,
) -> np.ndarray:
    """E L after 0…``steps`` steps, exactly, (steps + 1,); every step draws its batch anew.

    The recursion of :mod:`.threshold` in the space of errors, where it is exact for errors that no δ reaches
    too: E eeᵀ ← (1 − ηK) E eeᵀ (1 − ηK) + η² c K [n D − E eeᵀ] K, with D the blocks of E eeᵀ that belong to
    one sample and K = RRᵀ/n. A step costs four products of matrices (n·K, n·K). ``residuals``, (n·K,) or (n,
    K), are the errors at the start; by default standard normal ones (those that the model can make), the
    start of :func:`log_losses`, E L₀ = r/2n. Raises ValueError as :func:`~.threshold.growth`, and for
    residuals that do not fit.
    """
    eta, c = step_of(minimum, eta), checked(minimum).factor(batch_size, sampling)
    steps, n = _check.integer("steps", steps, least=0, most=MOST), minimum.samples
    if residuals is None:
        second = minimum.modes @ minimum.modes.T
    else:
        residuals = minimum.residuals_of(residuals).ravel()
        second = np.outer(residuals, residuals)
    owner = np.repeat(np.arange(n), minimum.outputs)
    same, kernel, losses = owner[:, None] == owner, minimum.kernel, []
    for step in range(steps + 1):
        if step:
            pulled = eta * (kernel @ second)
            drawn = (1 - c) * second + c * n * np.where(same, second, 0)
            second = second - pulled - pulled.T + eta**2 * (kernel @ drawn @ kernel)
            second = (second + second.T) / 2  # an antisymmetric part, of rounding, would grow on its own
        losses.append(np.trace(second) / (2 * n))
    return np.array(losses)


def log_losses(
    minimum: Minimum,
    eta: float,
    batch_size: int,
    steps: int,
    trajectories: int,
    seed: int,
    sampling: str = "fresh",
    moment=None,
) -> np.ndarray:
    """Simulate linearised SGD and return ln L, (trajectories, steps + 1); −inf where L is exactly 0.

    The errors are standard normal at the start (those that the model can make), or δ is Gaussian with the
    second ``moment`` (r, r), in the eigenbasis of H. The length of δ is kept apart, so that no path overflows
    or underflows. Raises ValueError for an unknown ``sampling``, a batch size that is no integer in 1…n (or
    does not divide the n samples of an epoch), η ≤ 0, a moment that is none, or steps, trajectories or a seed
    that are no counts.
    """
    eta, rng = step_of(minimum, eta), np.random.default_rng(_check.integer("seed", seed, least=0))
    steps = _check.integer("steps", steps, least=0, most=MOST)
    trajectories = _check.integer("trajectories", trajectories, least=1, most=MOST)
    batch_size = size_of(minimum, batch_size, sampling)
    batches = batches_of(rng, minimum.samples, batch_size, trajectories, sampling)
    lam, roots = minimum.eigenvalues, minimum.roots
    delta = rng.standard_normal((trajectories, minimum.rank))
    if moment is None:
        delta /= np.sqrt(lam * minimum.samples)
    else:
        values, axes = np.linalg.eigh(_check.array("moment", moment, shape=(minimum.rank, minimum.rank)))
        if not values[-1] > 0:
            raise _check.refused("moment", moment, "a second moment, not 0")
        delta = delta * np.sqrt(np.maximum(values, 0)) @ axes.T
    length, logs = np.zeros(trajectories), np.empty((trajectories, steps + 1))
    with np.errstate(divide="ignore"):  # the logarithm of a loss that is 0
        for step in range(steps + 1):
            if step:
                chosen = roots[next(batches)].reshape(trajectories, -1, minimum.rank)  # (…, B·K, r)
                errors = np.matmul(chosen, delta[:, :, None])
                delta = delta - eta / batch_size * np.matmul(errors.transpose(0, 2, 1), chosen)[:, 0]
            norm = np.linalg.norm(delta, axis=1)
            delta = delta / np.where(norm > 0, norm, 1)[:, None]
            length = length + np.log(norm)
            logs[:, step] = 2 * length + np.log(np.square(delta) @ lam / 2)
    return logs


def size_of(minimum, batch_size, sampling):
    """The batch size as an integer that ``sampling`` can draw; ValueError otherwise."""
    sampling, n = Sampling.of(sampling), checked(minimum).samples
    most = MOST if sampling is Sampling.REPLACEMENT else n
    size = _check.integer("batch_size", batch_size, least=1, most=most)
    if sampling is Sampling.EPOCH and n % size:
        raise _check.refused("batch_size", size, f"a divisor of the {n} samples of an epoch")
    return size


def batches_of(rng, samples, batch_size, trajectories, sampling):
    """Yield the batches of one step after the other, (trajectories, B)."""
    everyone = np.tile(np.arange(samples), (trajectories, 1))
    while True:
        if sampling == "replacement":
            yield rng.integers(samples, size=(trajectories, batch_size))
            continue
        order = rng.permuted(everyone, axis=1)
        last = samples if sampling == "epoch" else batch_size
        for start in range(0, last, batch_size):
            yield order[:, start : start + batch_size]


def typical_growth(log_losses, discard: int = 0) -> Estimate:
    """Rate of ln L per step along single paths: the Lyapunov exponent of the loss, 2λ of δ.

    From ``log_losses`` (trajectories, steps + 1) as of :func:`log_losses`, of which the first ``discard``
    steps are left out, with the error of the mean over two trajectories or more. Raises ValueError where
    nothing is left, or a loss compared is exactly 0 (or no number).
    """
    logs = _check.array("log_losses", log_losses, shape=(None, None), infinite=True)
    if len(logs) < 2:
        raise _check.refused("log_losses", logs, "at least two trajectories")
    discard = _check.integer("discard", discard, least=0, most=max(logs.shape[1] - 2, 0))
    ends = logs[:, [discard, -1]]
    if logs.shape[1] < 2 or not np.isfinite(ends).all():
        raise _check.refused("log_losses", logs, "finite at the two steps compared")
    rates = (ends[:, 1] - ends[:, 0]) / (logs.shape[1] - 1 - discard)
    error = float(rates.std(ddof=1) / np.sqrt(len(rates)))
    return Estimate(float(rates.mean()), error, len(rates), "mean rate of ln L over trajectories")


def typical_edge(
    minimum: Minimum,
    batch_size: int,
    sampling: str = "fresh",
    *,
    steps: int = 400,
    trajectories: int = 64,
    seed: int = 0,
) -> Estimate:
    """The learning rate at which a typical path turns from falling to growing: Lyapunov exponent 0.

    Root of the mean rate of ln L of simulated paths, with the same batches at every η; never below η* in the
    limit, as λ ≤ ½ ln ρ. The paths start in the second moment that η* keeps
    (:func:`~.threshold.leading_mode`) and not in directions so slow that nothing happens there; the first
    quarter of the steps is left out. For ``sampling="epoch"`` the steps are rounded up to whole epochs. The
    error is that of the rate over its slope in η. Raises ValueError as :func:`log_losses`, and for fewer than
    8 steps or 2 trajectories.
    """
    size = size_of(minimum, batch_size, sampling)
    unit = minimum.samples // size if sampling == "epoch" else 1
    quarter = unit * math.ceil(_check.integer("steps", steps, least=8, most=MOST) / 4 / unit)
    trajectories = _check.integer("trajectories", trajectories, least=2, most=MOST)

    how = "replacement" if sampling == "replacement" else "fresh"
    moment = leading_mode(minimum, None, size, how).moment

    def rates(eta):
        logs = log_losses(minimum, eta, size, 4 * quarter, trajectories, seed, sampling, moment)
        moved = logs[:, -1] - np.maximum(logs[:, quarter], -1e6)  # a loss that has vanished stays 0
        return np.maximum(moved, -1e6) / (3 * quarter)

    low = high = trace_sufficient_step(minimum, size, "replacement")  # below η*, however it is drawn
    while rates(high).mean() <= 0:
        low, high = high, 2 * high
    if low == high:
        raise _check.refused("steps", steps, "more: the paths have not found their rate")
    edge = brentq(lambda eta: rates(eta).mean(), low, high, rtol=1e-6)
    near = 1.02
    slope = (rates(edge * near).mean() - rates(edge / near).mean()) / (edge * (near - 1 / near))
    error = rates(edge).std(ddof=1) / np.sqrt(trajectories) / abs(slope)
    return Estimate(float(edge), float(error), trajectories, "root of the mean rate of ln L, common batches")


def epoch_growth(minimum: Minimum, eta: float, batch_size: int) -> float:
    """Factor ρ of E L per epoch, exactly, where each epoch passes once through all samples in random order.

    The average of M ⊗ M over all orders of the batches, M the product of an epoch's steps: for a few samples
    only. Raises ValueError where more than 50 000 orders would have to be multiplied, for more than 50
    directions, η ≤ 0, or batches that do not divide n.
    """
    eta, n, r = step_of(minimum, eta), minimum.samples, minimum.rank
    size = size_of(minimum, batch_size, "epoch")
    orders = math.factorial(n) // math.factorial(size) ** (n // size)
    if orders > _ORDERS:
        many = "many" if orders > 10**9 else orders
        raise _check.refused("batch_size", size, f"such that {n} samples have {_ORDERS} orders, not {many}")
    if r > _DIRECTIONS:
        raise _check.refused("rank", r, f"at most {_DIRECTIONS}")
    roots, total = minimum.roots, np.zeros((r * r, r * r))
    for order in _orders(tuple(range(n)), size):
        product = np.eye(r)
        for batch in order:
            chosen = roots[list(batch)].reshape(-1, r)
            product = product - eta / size * chosen.T @ (chosen @ product)
        total += np.kron(product, product)
    return float(np.linalg.eigvalsh(total / orders)[-1])


def _orders(samples, batch_size):
    """All ways to cut the samples into a sequence of batches; the order within a batch does not matter."""
    if not samples:
        yield []
        return
    for batch in combinations(samples, batch_size):
        rest = tuple(i for i in samples if i not in batch)
        for order in _orders(rest, batch_size):
            yield [batch, *order]
