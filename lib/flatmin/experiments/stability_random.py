"""W22 §3.1 against the exact threshold: random minima of n = 512 samples, batches from 1 to n.

Fixed before the run: Theorem 3.3 is called tightest where the batch sizes, half an octave apart, have it so;
that is as predicted if it lies within a factor 2 of 2/(λ₁η*(1)) − 1. The simple bounds hold within 20 % if
η* is at least 0.8 of what they allow, at every batch size of every minimum.
"""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.theory.stability.families import FAMILIES, compare, random_minimum


def measure(point, seed):
    """:func:`compare` for one random minimum; ``point``: family, samples, repeat, batch_sizes."""
    minimum = random_minimum(point["family"], point["samples"], seed)
    return compare(minimum, np.array(point["batch_sizes"], dtype=float))


def _scale(samples, repeats, **texts):
    batch_sizes = [2 ** (k / 2) for k in range(2 * samples.bit_length() - 1)]
    common = {"samples": samples, "batch_sizes": batch_sizes}
    axes = {"family": FAMILIES, "repeat": range(repeats)}
    return Scale(
        {"": Grid(measure, common, axes, seed=7, names="{}", version="2")},
        {"batch_sizes": batch_sizes},
        **texts,
    )


EXPERIMENT = Experiment(
    name="stability-random",
    title="How far W22's bounds are from the exact threshold",
    claims=("w22-exact-threshold", "w22-thm-3.3", "w22-prop-3.4"),
    full=_scale(512, 3, text="n = 512, P = 1024, 3 minima in each of 5 families"),
    quick=_scale(60, 2),
    minutes=1,
)
