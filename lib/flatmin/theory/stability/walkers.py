"""Walkers of linearised SGD in the coordinates of the gradients, from streams that a browser has too."""

from __future__ import annotations

import numpy as np
from numba import njit

from flatmin import _check
from flatmin.theory.sgd.rng import seed_lanes, stream_key

__all__ = ["linear_walkers"]

#: a displacement is kept between 2^−SCALE and 2^SCALE, the rest in whole powers of two
SCALE = 100.0
_MANY = 10**9


def linear_walkers(gradients, eta, batch_size, start, *, steps, trajectories, seed=0):
    """SGD at an interpolating minimum, δ ← δ − (η/B) Σ g_i (g_i·δ), batches drawn with replacement (W22 §3).

    The dynamics of :func:`~.paths.log_losses` for one output, in the parameters themselves and from a stream
    of its own for each trajectory, so that the explorer of chapter 7 takes the same steps bit for bit. No
    path overflows or vanishes: powers of two are kept apart.

    Parameters
    ----------
    gradients : (n, P) array
        The gradients g_i of the samples' outputs.
    eta : float
        Learning rate, positive.
    batch_size, steps, trajectories, seed : int
        B, how many steps and paths; the streams follow from the seed.
    start : (P,) array
        δ at the start.

    Returns
    -------
    (trajectories, P) array, (trajectories,) array
        δ/2^k and k; the loss is 4^k (1/2n) Σ (g_i·δ/2^k)².

    Raises
    ------
    ValueError
        For numbers out of range, or gradients so long, for this η, that one step overflows.
    """
    gradients = _check.array("gradients", gradients, ndim=2, least=-1e50, most=1e50)
    start = _check.array("start", start, shape=gradients.shape[1:], least=-1e30, most=1e30)
    eta = _check.number("eta", eta, above=0, most=1e100)
    longest = np.square(gradients).sum(axis=1).max()
    if eta * longest > 1e100:
        allowed = f"such that η|g|² is at most 1e100, where max |g|² = {longest:.3g}"
        raise _check.refused("gradients, eta", eta, allowed)
    batch_size, trajectories = _check.integers(
        batch_size=batch_size, trajectories=trajectories, least=1, most=10**6
    )
    steps = _check.integer("steps", steps, least=0, most=_MANY)
    delta, twos = np.tile(start, (trajectories, 1)), np.zeros(trajectories)
    _walk(gradients, eta / batch_size, batch_size, steps, delta, twos, stream_key(seed))
    return delta, twos


@njit(cache=True)
def _walk(gradients, share, batch, steps, delta, twos, key):  # pragma: no cover - compiled
    n, size = gradients.shape
    runs = len(delta)
    state, change = np.empty((4, runs), np.uint32), np.empty(size)
    seed_lanes(key, np.arange(runs), state[0], state[1], state[2], state[3])
    for walker in range(runs):
        a, b, c, d = state[:, walker]
        for _ in range(steps):
            change[:] = 0.0
            for _ in range(batch):
                word = np.uint32(a + d)  # xoshiro128++
                word = np.uint32(np.uint32((word << np.uint32(7)) | (word >> np.uint32(25))) + a)
                t = np.uint32(b << np.uint32(9))
                c, d = np.uint32(c ^ a), np.uint32(d ^ b)
                b, a = np.uint32(b ^ c), np.uint32(a ^ d)
                c, d = np.uint32(c ^ t), np.uint32((d << np.uint32(11)) | (d >> np.uint32(21)))
                i = np.int64((np.uint64(word) * np.uint64(n)) >> np.uint64(32))
                error = 0.0
                for k in range(size):
                    error += gradients[i, k] * delta[walker, k]
                for k in range(size):
                    change[k] += error * gradients[i, k]
            square = 0.0
            for k in range(size):
                delta[walker, k] -= share * change[k]
                square += delta[walker, k] * delta[walker, k]
            if square > 2.0 ** (2 * SCALE) or 0 < square < 2.0 ** (-2 * SCALE):
                turn = SCALE if square > 1 else -SCALE
                delta[walker] *= 2.0**-turn
                twos[walker] += turn
