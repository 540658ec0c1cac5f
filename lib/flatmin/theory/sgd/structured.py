"""The compiled step of a valley with many directions, written from its structure.

What :mod:`flatmin.theory.sgd.kernels` prints from an expression is here a loop over pairs of a sharp and a
flat direction: the Hessian of L = ½ Σᵢ λᵢ(x) yᵢ² + ½ t Σⱼ xⱼ² is never formed, only its product with the
shift μ of the step, ξ = −Hμ (Y23 Eq. 7). Streams and order of the normal variables are those of the printed
kernels, so the same seed gives the same trajectories, but for rounding.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from flatmin import _check
from flatmin.theory.noise import Isotropic, Noise, NoNoise, RandomShift
from flatmin.theory.sgd.kernels import Call
from flatmin.theory.sgd.rng import seed_lanes, standard_normals

__all__ = ["build"]

#: trajectories that advance side by side: with 105 coordinates more would not stay in the nearest cache
WIDTH = 16
_NOISES = (RandomShift, Isotropic, NoNoise)


def build(valley, noise: Noise):
    """The ``run`` of a valley with many directions under a noise, to be called with a :class:`Call`.

    Raises ValueError for another noise than RandomShift, Isotropic and NoNoise.
    """
    if type(noise) not in _NOISES:
        words = ", ".join(kind.__name__ for kind in _NOISES)
        raise _check.refused("noise", type(noise).__name__, f"one of {words} on many directions")
    shifted, isotropic = float(type(noise) is RandomShift), float(type(noise) is Isotropic)

    def run(first, until, *arguments):
        call = Call(*arguments)
        _run(
            first, until, shifted, isotropic, valley.lambda_0, valley.lambda_1, valley.lambda_2, valley.tilt,
            call.key, call.numbers, call.begin, call.step, call.amp, call.bound, call.steps, call.kept,
            call.final, call.life, call.living, call.points,
        )  # fmt: skip

    run.signatures, run.lanes = _run.signatures, WIDTH
    return run


@njit(nogil=True, error_model="numpy", cache=True)
def _advance(q, z, new, curve, along, first, second, c0, c1, c2, tilt, step, shift, iso):  # pragma: no cover
    """One step of all lanes, from q (d, WIDTH) to new; z the normals, the rest scratch (sharp, WIDTH)."""
    sharp, flat = c1.shape
    for i in range(sharp):
        for lane in range(WIDTH):
            curve[i, lane], along[i, lane] = c0[i], 0.0
    for j in range(flat):
        for i in range(sharp):
            one, two = c1[i, j], c2[i, j]
            for lane in range(WIDTH):
                x = q[j, lane]
                square, moved = x * x, 2.0 * x * shift[lane] * z[j, lane]
                curve[i, lane] += square * (one + two * square)
                along[i, lane] += moved * (one + 2.0 * two * square)
    for i in range(sharp):
        k = flat + i
        for lane in range(WIDTH):
            y, mu = q[k, lane], shift[lane] * z[k, lane]
            first[i, lane], second[i, lane] = y * (0.5 * y - mu), y * y
            pull = curve[i, lane] * (y - mu) - y * along[i, lane] + iso[lane] * z[k, lane]
            new[k, lane] = y - step[lane] * pull
    force, bend = np.empty(WIDTH), np.empty(WIDTH)
    for j in range(flat):
        for lane in range(WIDTH):
            force[lane], bend[lane] = tilt, tilt
        for i in range(sharp):
            one, two = c1[i, j], c2[i, j]
            for lane in range(WIDTH):
                square = q[j, lane] * q[j, lane]
                force[lane] += first[i, lane] * (2.0 * one + 4.0 * two * square)
                bend[lane] += second[i, lane] * (one + 6.0 * two * square)
        for lane in range(WIDTH):
            x, kick = q[j, lane], z[j, lane]
            pull = force[lane] * x - bend[lane] * shift[lane] * kick + iso[lane] * kick
            new[j, lane] = x - step[lane] * pull


@njit(nogil=True, error_model="numpy", cache=True)
def _run(
    lowest, until, shifted, isotropic, c0, c1, c2, tilt, key, numbers, begin, step, amp, bound, steps, kept,
    final, life, living, points,
):  # fmt: skip # pragma: no cover - compiled
    sharp, dimension = c1.shape[0], begin.shape[0]
    for block in range(lowest, until):
        lo = block * WIDTH
        hi = lo + WIDTH
        s0 = np.empty(WIDTH, np.uint32)
        s1, s2, s3 = np.empty_like(s0), np.empty_like(s0), np.empty_like(s0)
        seed_lanes(key, numbers[lo:hi], s0, s1, s2, s3)
        q, new = begin[:, lo:hi].copy(), np.empty((dimension, WIDTH))
        z = np.zeros((dimension + dimension % 2, WIDTH), np.float32)
        curve, along = np.empty((sharp, WIDTH)), np.empty((sharp, WIDTH))
        first, second = np.empty((sharp, WIDTH)), np.empty((sharp, WIDTH))
        e, shift, iso = step[lo:hi].copy(), shifted * amp[lo:hi], isotropic * amp[lo:hi]
        inside, alive, slot = np.empty(WIDTH, np.int64), np.ones(WIDTH, np.int64), 0
        for t in range(steps):
            if slot < kept.shape[0] and t == kept[slot]:
                points[slot, :, lo:hi] = q
                slot += 1
            if shifted + isotropic > 0.0:
                for k in range(0, dimension, 2):
                    standard_normals(s0, s1, s2, s3, z[k], z[k + 1])
            _advance(q, z, new, curve, along, first, second, c0, c1, c2, tilt, e, shift, iso)
            for lane in range(WIDTH):
                inside[lane] = alive[lane]
            for k in range(dimension):
                for lane in range(WIDTH):
                    inside[lane] = inside[lane] if abs(new[k, lane]) <= bound else 0
            for lane in range(WIDTH):
                alive[lane] = inside[lane]
                life[lo + lane] += inside[lane]
            for k in range(dimension):
                for lane in range(WIDTH):
                    q[k, lane] = new[k, lane] if inside[lane] else q[k, lane]
            if t % 256 == 255 and not np.any(alive):
                break
        for rest in range(slot, kept.shape[0]):  # the end, and what comes after a divergence
            points[rest, :, lo:hi] = q
        final[:, lo:hi] = q
        living[lo:hi] = alive
