"""Race: the exact stability threshold without large matrices, against the large matrices of its definition.

η* of Gaussian gradients, n = 120 samples, P = 60 parameters, B = 4. No public tool computes it: the peer is a
construction of ours, which writes A and M of :mod:`flatmin.theory.stability.minimum` out over the P(P + 1)/2
entries of a symmetric matrix, with the top eigenvalue of A^{-1/2} M A^{-1/2} by LAPACK: the form of Mulayoff
and Michaeli (2024) without the entries that occur twice. At P = 250 that matrix would take 8 GB.
"""

import numpy as np
from scipy.linalg import eigh

from flatmin.sampling import Sampling
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.threshold import largest_step
from harness import Race, relative

BATCH, SAMPLES, PARAMETERS = 4, 120, 60


def gradients(samples, parameters):
    """Gradients with a spectrum that falls as 1/j."""
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


def threshold():
    """η* of one problem; the error is the distance of the two."""
    g = gradients(SAMPLES, PARAMETERS)
    tools = {
        "flatmin": lambda seed: largest_step(Minimum.from_gradients(g), BATCH),
        "dense matrices, LAPACK (ours)": lambda seed: dense(g),
    }
    return Race(tools, relative(dense(g)), allowed=1e-6)


RACES = {"threshold": (threshold, "ms")}
