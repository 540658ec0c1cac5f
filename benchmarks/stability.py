"""The exact stability threshold without large matrices, against the large matrices of its definition.

η* of Gaussian gradients, n = 2P samples, B = 4. The reference writes A and M of
:mod:`flatmin.theory.stability.minimum` out over the P(P + 1)/2 entries of a symmetric matrix, with the top
eigenvalue of A^{-1/2} M A^{-1/2} by LAPACK: the form of Mulayoff and Michaeli (2024) without the entries that
occur twice. All run interleaved in one process on one core; times are medians of the rounds; ratios are
good to about 1.5. At P = 250 the large matrix would take 8 GB; there only our times are shown. Last, K
outputs with n·K up to 10 000: the exact operator where it fits, and the bracket.

    python benchmarks/stability.py
"""

from __future__ import annotations

import os
import resource
import time
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.linalg import eigh

from flatmin.sampling import Sampling
from flatmin.theory.stability.bracket import step_bracket
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.threshold import growth, largest_step

BATCH, ROUNDS = 4, 3


def gradients(samples, parameters):
    """Gradients with a spectrum that falls as 1/j, (samples, parameters)."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(samples, parameters)) / np.sqrt(np.arange(1, parameters + 1))


def dense(g):
    """η* from matrices over the entries of the second moment."""
    samples, parameters = g.shape
    c = Sampling.FRESH.factor(samples, BATCH)
    lam, basis = np.linalg.eigh(g.T @ g / samples)
    rows, columns = np.triu_indices(parameters)
    g = g @ basis
    outer = g[:, rows] * g[:, columns] * np.where(rows == columns, 1, np.sqrt(2))
    matrix = c / samples * outer.T @ outer
    matrix[np.diag_indices(len(rows))] += (1 - c) * lam[rows] * lam[columns]
    root = (lam[rows] + lam[columns]) ** -0.5
    matrix *= np.multiply.outer(root, root)
    top = len(rows) - 1
    return 1 / eigh(matrix, eigvals_only=True, subset_by_index=[top, top])[0]


def ours(g):
    """η* from the gradients."""
    return largest_step(Minimum.from_gradients(g), BATCH)


def timed(function, g):
    begin = time.perf_counter()
    value = function(g)
    return value, time.perf_counter() - begin


def main():
    """Print one line for each size."""
    print("   n     P   dense [s]   ours [s]   ratio   relative difference")
    for parameters in (12, 24, 48, 72):
        g = gradients(2 * parameters, parameters)
        rounds = [(timed(dense, g), timed(ours, g)) for _ in range(ROUNDS)]
        slow, fast = (median(one[k][1] for one in rounds) for k in (0, 1))
        gap = abs(rounds[0][0][0] / rounds[0][1][0] - 1)
        times = f"{slow:9.4f}   {fast:8.4f}   {slow / fast:5.0f}"
        print(f"{2 * parameters:4d} {parameters:5d}   {times}   {gap:.0e}")
    print("   n      P   η* [s]   ρ(1.2 η*) [s]   ρ(η*/2) [s]")
    for samples in (250, 500, 1000):
        g = gradients(samples, 10 * samples)
        edge, spent = timed(ours, g)
        minimum = Minimum.from_gradients(g)
        above = timed(lambda m, eta=1.2 * edge: growth(m, eta, BATCH), minimum)[1]
        below = timed(lambda m, eta=0.5 * edge: growth(m, eta, BATCH), minimum)[1]
        print(f"{samples:4d}  {10 * samples:5d}   {spent:6.2f}   {above:13.2f}   {below:11.2f}")
    many_outputs()


def many_outputs():
    """η* of K outputs: the exact operator, and its bracket from 100 directions."""
    print("   n   K    rows   exact [s]   bracket [s]   upper/lower   peak so far [MB]")
    for samples, outputs in ((1000, 1), (200, 10), (1000, 10)):
        rows = samples * outputs
        minimum = Minimum.from_gram(gram(rows), outputs)
        exact = timed(lambda m: largest_step(m, BATCH), minimum)[1] if rows <= 2500 else np.nan
        found, spent = timed(lambda m: step_bracket(m, BATCH), minimum)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        width = found.upper / found.lower
        size = f"{samples:4d}  {outputs:2d}  {rows:6d}"
        print(f"{size}   {exact:9.2f}   {spent:11.2f}   {width:11.3f}   {peak:8.0f}")


def gram(rows):
    """Gram matrix of rows whose spectrum falls as 1/j, from single-precision products."""
    rng = np.random.default_rng(0)
    g = rng.standard_normal((rows, rows), dtype=np.float32)
    g /= np.sqrt(np.arange(1, rows + 1, dtype=np.float32))
    return (g @ g.T).astype(float)


if __name__ == "__main__":
    main()
