"""Normal variates for the compiled simulator: one xoshiro128++ stream per trajectory, in lanes.

Why not the library generators: a ziggurat branches and looks up tables, so a compiler cannot vectorise
it, and one shared stream would tie the numbers to the number of threads. Here each trajectory owns a
stream seeded by (key, trajectory number), and 64 of them advance side by side in vector registers. Only
correctly rounded operations (+, −, ×, √) are used and none is contracted, so a seed gives the same bits
on every machine.

Tail: the radius uses 38 random bits and the smallest uniform is 2⁻³⁹, so |z| reaches 7.35;
a normal variate lies beyond that with probability 2·10⁻¹³, less than once in the 10¹¹ draws of the
largest run in the book.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from flatmin import _check

__all__ = ["LANES", "TAIL", "seed_lanes", "standard_normals", "stream_key"]

#: trajectories that advance side by side
LANES = 64
#: the largest |z| the generator can give
TAIL = math.sqrt(-2 * math.log(2.0**-39))

_F = np.float32
_U = np.uint32


def stream_key(seed: int) -> np.uint64:
    """A 64-bit key from a seed ≥ 0 (ValueError else); the streams follow from it and their numbers."""
    seed = _check.integer("seed", seed, least=0)
    return np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]


@njit(nogil=True, cache=True)
def seed_lanes(key, numbers, s0, s1, s2, s3):  # pragma: no cover - compiled
    """Fill the four state words of each lane by SplitMix64 from the key and the trajectory numbers.

    Shapes: numbers (LANES,) int64; s0…s3 (LANES,) uint32, overwritten.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    for lane in range(s0.shape[0]):
        # key and number are mixed before they meet, so neighbouring numbers start far apart
        state = key ^ _mix(np.uint64(numbers[lane]) * golden + golden)
        state = state + golden
        low = _mix(state)
        state = state + golden
        high = _mix(state)
        s0[lane] = np.uint32(low & np.uint64(0xFFFFFFFF))
        s1[lane] = np.uint32(low >> np.uint64(32))
        s2[lane] = np.uint32(high & np.uint64(0xFFFFFFFF))
        # the all-zero state is the one xoshiro cannot leave
        s3[lane] = np.uint32(high >> np.uint64(32)) | np.uint32(1)


@njit(nogil=True, cache=True)
def _mix(word):  # pragma: no cover - compiled
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


@njit(nogil=True, cache=True, error_model="numpy")
def standard_normals(s0, s1, s2, s3, z0, z1):  # pragma: no cover - compiled
    """Two independent standard normals per lane, by Box and Muller in single precision.

    Shapes: s0…s3 (LANES,) uint32, the xoshiro128++ states, advanced by two draws; z0, z1 (LANES,)
    float32, overwritten. The loop body is branch-free so that it vectorises: the logarithm is a
    polynomial in the mantissa, the angle a polynomial on (−π/4, π/4) with a random swap and sign.
    """
    for lane in range(s0.shape[0]):
        a, b, c, d = s0[lane], s1[lane], s2[lane], s3[lane]
        r = _U(a + d)
        first = _U(_U(_U(r << _U(7)) | _U(r >> _U(25))) + a)
        t = _U(b << _U(9))
        c, d = _U(c ^ a), _U(d ^ b)
        b, a = _U(b ^ c), _U(a ^ d)
        c, d = _U(c ^ t), _U(_U(d << _U(11)) | _U(d >> _U(21)))
        r = _U(a + d)
        second = _U(_U(_U(r << _U(7)) | _U(r >> _U(25))) + a)
        t = _U(b << _U(9))
        c, d = _U(c ^ a), _U(d ^ b)
        b, a = _U(b ^ c), _U(a ^ d)
        c, d = _U(c ^ t), _U(_U(d << _U(11)) | _U(d >> _U(21)))
        s0[lane], s1[lane], s2[lane], s3[lane] = a, b, c, d

        # uniform in (0, 1]: 31 bits of the first word, 7 of the second below them, centred by 2⁻³⁹
        low = _F(np.int32(_U(_U(second >> _U(1)) & _U(127)))) * _F(2.0**-38) + _F(2.0**-39)
        u = _F(np.int32(_U(first >> _U(1)))) * _F(2.0**-31) + low
        radius = np.sqrt(max(_F(-2) * _log(u), _F(0)))

        # 24 bits of angle in (−π/4, π/4), two more to swap the axes and to choose a side
        angle = (_F(np.int32(second) >> np.int32(8)) + _F(0.5)) * _F(np.pi / 4 * 2.0**-23)
        square = angle * angle
        sine = angle + angle * square * (
            _F(-1.6666654611e-1) + square * (_F(8.3321608736e-3) + square * _F(-1.9515295891e-4))
        )
        cosine = (_F(1) - _F(0.5) * square) + square * square * (
            _F(4.166664568298827e-2)
            + square * (_F(-1.388731625493765e-3) + square * _F(2.443315711809948e-5))
        )
        cosine = -cosine if (second & _U(1)) != 0 else cosine
        swap = (first & _U(1)) != 0
        z0[lane] = radius * (sine if swap else cosine)
        z1[lane] = radius * (cosine if swap else sine)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _log(u):  # pragma: no cover - compiled
    """Natural logarithm in single precision, relative error about 1e-7 (minimax form as in Cephes)."""
    bits = np.float32(u).view(np.int32)
    # split u = m·2ᵉ with m in [√½, √2), where the polynomial is good
    shifted = np.int32(bits + np.int32(0x3F800000 - 0x3F3504F3))
    exponent = _F(np.int32(np.int32(shifted >> np.int32(23)) - np.int32(127)))
    mantissa = np.int32(np.int32(shifted & np.int32(0x007FFFFF)) + np.int32(0x3F3504F3)).view(np.float32)
    g = mantissa - _F(1)
    p = _F(7.0376836292e-2)
    p = p * g + _F(-1.1514610310e-1)
    p = p * g + _F(1.1676998740e-1)
    p = p * g + _F(-1.2420140846e-1)
    p = p * g + _F(1.4249322787e-1)
    p = p * g + _F(-1.6668057665e-1)
    p = p * g + _F(2.0000714765e-1)
    p = p * g + _F(-2.4999993993e-1)
    p = p * g + _F(3.3333331174e-1)
    return (g + (p * g * g * g - _F(0.5) * g * g)) + exponent * _F(0.69314718056)
