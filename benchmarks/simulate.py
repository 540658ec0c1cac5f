"""Race: the compiled ensemble against a C loop and two NumPy loops, on the near-degenerate valley.

All do the same work: random-shift SGD at ε = 0.02, η = 0.02, Δ_S = 0.009, in double precision, with the
running sum of x² as the observable. Where the run is long enough to be stationary the error is that of ⟨x²⟩
against the mean of a longer run: it shows that the work is the same.
"""

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from flatmin.theory.noise import RandomShift
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley
from harness import Race

PARAMETERS = {"epsilon": 0.02, "lambda_0": 8.0, "lambda_1": -2.0, "lambda_2": 1.0}
ETA, DELTA_S = 0.02, 0.009
SIGMA = DELTA_S / ETA
#: trajectories and steps of each tool
SIZE, C_SIZE, MANY, FEW = (1024, 40_000), (100, 40_000), (1000, 1_000), 20_000

#: what a careful physicist would write: xoshiro256++ and Marsaglia and Tsang's ziggurat, scalar
C_LOOP = r"""
#include <math.h>
#include <stdint.h>
static uint64_t s[4];
static inline uint64_t rotl(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }
static inline uint64_t next(void) {
    uint64_t r = rotl(s[0] + s[3], 23) + s[0], t = s[1] << 17;
    s[2] ^= s[0]; s[3] ^= s[1]; s[1] ^= s[2]; s[0] ^= s[3]; s[2] ^= t; s[3] = rotl(s[3], 45);
    return r;
}
static inline double uniform(void) { return (double)(next() >> 11) * 0x1.0p-53; }
static double edge[129], height[129]; static const double R = 3.442619855899, V = 9.91256303526217e-3;
static void tables(void) {
    edge[0] = V / exp(-0.5 * R * R); edge[1] = R; edge[128] = 0;
    for (int i = 2; i < 128; i++)
        edge[i] = sqrt(-2 * log(V / edge[i - 1] + exp(-0.5 * edge[i - 1] * edge[i - 1])));
    for (int i = 0; i < 129; i++) height[i] = exp(-0.5 * edge[i] * edge[i]);
}
static inline double normal(void) {
    for (;;) {
        uint64_t bits = next(); int i = bits & 127; double sign = (bits & 128) ? -1 : 1;
        double x = (double)(bits >> 11) * 0x1.0p-53 * edge[i];
        if (x < edge[i + 1]) return sign * x;
        if (i == 0) {
            double a, b;
            do { a = -log(1 - uniform()) / R; b = -log(1 - uniform()); } while (b + b < a * a);
            return sign * (R + a);
        }
        if (height[i] + uniform() * (height[i + 1] - height[i]) < exp(-0.5 * x * x)) return sign * x;
    }
}
double run(uint64_t seed, long trajectories, long steps, double eta, double sigma,
           double el0, double l0, double l1, double l2) {
    for (int i = 0; i < 4; i++) { seed += 0x9e3779b97f4a7c15u; uint64_t z = seed;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u; z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        s[i] = z ^ (z >> 31); }
    tables();
    double amplitude = sqrt(2 * sigma), total = 0;
    for (long k = 0; k < trajectories; k++) {
        double x = 0.1, y = 0.1, sum = 0;
        for (long t = 0; t < steps; t++) {
            double m1 = amplitude * normal(), m2 = amplitude * normal(), x2 = x * x;
            double lam = l0 + x2 * (l1 + x2 * l2), d1 = x * (2 * l1 + 4 * l2 * x2);
            double d2 = 2 * l1 + 12 * l2 * x2;
            double h11 = el0 + 0.5 * d2 * y * y, h12 = d1 * y;
            double gx = el0 * x + 0.5 * d1 * y * y, gy = lam * y;
            x -= eta * (gx - h11 * m1 - h12 * m2); y -= eta * (gy - h12 * m1 - lam * m2);
            sum += x * x;
        }
        total += sum / steps;
    }
    return total / trajectories;
}
double draw_moments(uint64_t seed, long n, double *fourth) {
    run(seed, 1, 1, 0.01, 0.1, 0.1, 8, -2, 1);
    double second = 0; *fourth = 0;
    for (long i = 0; i < n; i++) { double z = normal(); second += z * z; *fourth += z * z * z * z; }
    *fourth /= n; return second / n;
}
"""


def c_loop():
    """Compile the C loop with gcc -O3 for this processor, or say that there is no gcc."""
    if shutil.which("gcc") is None:
        return "there is no gcc"
    folder = Path(tempfile.mkdtemp(prefix="flatmin-bench-"))
    (folder / "loop.c").write_text(C_LOOP)
    command = ["gcc", "-O3", "-march=native", "-shared", "-fPIC", "loop.c", "-o", "loop.so", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "loop.so"))
    library.run.restype = library.draw_moments.restype = ctypes.c_double
    library.run.argtypes = [ctypes.c_uint64, ctypes.c_long, ctypes.c_long] + [ctypes.c_double] * 6
    library.draw_moments.argtypes = [ctypes.c_uint64, ctypes.c_long, ctypes.POINTER(ctypes.c_double)]
    fourth = ctypes.c_double()
    second = library.draw_moments(1, 4_000_000, ctypes.byref(fourth))
    # a peer that draws wrong normals would be no peer: five standard errors of the second and fourth moment
    assert abs(second - 1) < 5 * np.sqrt(2 / 4e6)
    assert abs(fourth.value - 3) < 5 * np.sqrt(96 / 4e6)
    numbers = (PARAMETERS["epsilon"] * 8.0, 8.0, -2.0, 1.0)
    return lambda seed: library.run(seed, *C_SIZE, ETA, SIGMA, *numbers)


def ensemble():
    """Our simulator."""
    valley = near_degenerate_valley().at(**PARAMETERS)

    def run(seed, trajectories=SIZE[0], steps=SIZE[1]):
        runs = simulate(
            valley, RandomShift(SIGMA), eta=ETA, steps=steps, start=(0.1, 0.1), trajectories=trajectories,
            seed=seed, observe=("x**2",), batches=1, threads=1,
        )  # fmt: skip
        return runs.time_average("x**2").value

    return run


def _slopes(x, y):
    """Gradient and Hessian entries of the valley for floats or arrays."""
    l0, l1, l2 = (PARAMETERS[f"lambda_{i}"] for i in range(3))
    x2 = x * x
    lam, d1, d2 = l0 + x2 * (l1 + x2 * l2), x * (2 * l1 + 4 * l2 * x2), 2 * l1 + 12 * l2 * x2
    tilt = PARAMETERS["epsilon"] * l0
    return tilt * x + 0.5 * d1 * y * y, lam * y, tilt + 0.5 * d2 * y * y, d1 * y, lam


def numpy_vectorised(seed):
    """One NumPy step for all trajectories at once; too short for a stationary mean."""
    trajectories, steps = MANY
    rng, amplitude = np.random.default_rng(seed), np.sqrt(2 * SIGMA)
    x, y, total = np.full(trajectories, 0.1), np.full(trajectories, 0.1), 0.0
    for _ in range(steps):
        m1, m2 = amplitude * rng.standard_normal((2, trajectories))
        gx, gy, h11, h12, h22 = _slopes(x, y)
        x = x - ETA * (gx - h11 * m1 - h12 * m2)
        y = y - ETA * (gy - h12 * m1 - h22 * m2)
        total += (x * x).mean()


def numpy_per_step(seed):
    """Small arrays, one trajectory and one step at a time: how the papers' own code works."""
    rng, total, theta = np.random.default_rng(seed), 0.0, np.array([0.1, 0.1])
    for _ in range(FEW):
        gx, gy, h11, h12, h22 = _slopes(*theta)
        hessian = np.array([[h11, h12], [h12, h22]])
        shift = rng.normal(0.0, np.sqrt(2 * SIGMA), 2)
        theta = theta - ETA * (np.array([gx, gy]) - hessian @ shift)
        total += theta[0] ** 2


def valley():
    """Nanoseconds a step and trajectory."""
    own = ensemble()
    reference = own(99, 8192, 40_000)
    tools = {
        "flatmin": own,
        "C loop, gcc -O3, scalar": c_loop(),
        "NumPy over trajectories": numpy_vectorised,
        "NumPy step by step": numpy_per_step,
    }
    work = dict(zip(tools, (SIZE[0] * SIZE[1], C_SIZE[0] * C_SIZE[1], MANY[0] * MANY[1], FEW), strict=True))
    return Race(tools, lambda found: np.nan if found is None else abs(found / reference - 1), 0.1, work)


RACES = {"simulate": (valley, "ns a step")}
