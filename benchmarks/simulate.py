"""The compiled ensemble against a C loop and two NumPy loops, on the near-degenerate valley.

All do the same work: random-shift SGD at ε = 0.02, η = 0.02, Δ_S = 0.009, in double precision, with the
running sum of x² as the observable. They run interleaved in one process, on one core; the ensemble also
on two. Times are the median of the rounds; ratios are good to about 1.3. The mean of x² is printed where
the run is long enough to be stationary, to show that the work is the same.

    python benchmarks/simulate.py
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from flatmin.theory.noise import RandomShift
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

PARAMETERS = {"epsilon": 0.02, "lambda_0": 8.0, "lambda_1": -2.0, "lambda_2": 1.0}
ETA, DELTA_S = 0.02, 0.009
SIGMA = DELTA_S / ETA
ROUNDS = 5

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
    """Compile the C loop with gcc -O3 for this processor, or return None where there is no gcc."""
    if shutil.which("gcc") is None:
        return None
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
    return lambda trajectories, steps: library.run(1, trajectories, steps, ETA, SIGMA, *numbers)


def ensemble(threads):
    """Our simulator."""
    valley = near_degenerate_valley().at(**PARAMETERS)

    def run(trajectories, steps):
        runs = simulate(
            valley, RandomShift(SIGMA), eta=ETA, steps=steps, start=(0.1, 0.1), trajectories=trajectories,
            seed=1, observe=("x**2",), batches=1, threads=threads,
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


def numpy_vectorised(trajectories, steps):
    """One NumPy step for all trajectories at once."""
    rng, amplitude = np.random.default_rng(1), np.sqrt(2 * SIGMA)
    x, y, total = np.full(trajectories, 0.1), np.full(trajectories, 0.1), 0.0
    for _ in range(steps):
        m1, m2 = amplitude * rng.standard_normal((2, trajectories))
        gx, gy, h11, h12, h22 = _slopes(x, y)
        x = x - ETA * (gx - h11 * m1 - h12 * m2)
        y = y - ETA * (gy - h12 * m1 - h22 * m2)
        total += (x * x).mean()
    return total / steps


def numpy_per_step(trajectories, steps):
    """Small arrays, one trajectory and one step at a time: how the papers' own code works."""
    rng, total = np.random.default_rng(1), 0.0
    for _ in range(trajectories):
        theta = np.array([0.1, 0.1])
        for _ in range(steps):
            gx, gy, h11, h12, h22 = _slopes(*theta)
            hessian = np.array([[h11, h12], [h12, h22]])
            shift = rng.normal(0.0, np.sqrt(2 * SIGMA), 2)
            theta = theta - ETA * (np.array([gx, gy]) - hessian @ shift)
            total += theta[0] ** 2
    return total / (trajectories * steps)


def main():
    """Print nanoseconds per step and trajectory, and ratios to the C loop."""
    os.environ["OMP_NUM_THREADS"] = "1"
    tools = {
        "flatmin, 1 thread": (ensemble(1), 1024, 40_000),
        "flatmin, 2 threads": (ensemble(2), 1024, 40_000),
        "C loop (gcc -O3, scalar)": (c_loop(), 100, 40_000),
        "NumPy over trajectories": (numpy_vectorised, 1000, 1_000),
        "NumPy step by step": (numpy_per_step, 1, 20_000),
    }
    tools = {name: tool for name, tool in tools.items() if tool[0] is not None}
    for run, trajectories, _ in tools.values():
        run(trajectories, 300)  # compile and warm up
    times, values = {name: [] for name in tools}, {}
    for _ in range(ROUNDS):
        for name, (run, trajectories, steps) in tools.items():
            begin = time.perf_counter()
            values[name] = run(trajectories, steps)
            times[name].append((time.perf_counter() - begin) / (trajectories * steps) * 1e9)
    reference = median(times.get("C loop (gcc -O3, scalar)", times["flatmin, 1 thread"]))
    print(f"{'':26s} {'ns/step':>9s} {'of the C loop':>14s} {'⟨x²⟩':>9s}")
    for name, measured in times.items():
        shown = f"{values[name]:9.4f}" if tools[name][2] >= 40_000 else "      –"
        print(f"{name:26s} {median(measured):9.2f} {median(measured) / reference:13.2f}× {shown}")


if __name__ == "__main__":
    main()
