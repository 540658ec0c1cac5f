"""M22 Fig. 3b: first-passage times of the loss for linear regression in d = 1 … 25 dimensions."""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.logarithmic_stationary import SAMPLING
from flatmin.theory.logarithmic.regression import Regression

ETA, BATCH_SIZE = 0.1, 1
RATIOS = np.geomspace(1.05, 20, 76)


def measure(point, seed):
    """Times of first passage in units of steps, over runs on a data set of its own.

    ``point``: dimension, samples, runs, steps (the longest run), order. Returns ``mean`` (ratios,), nan where
    a run did not get there, ``reached`` (ratios,), the share of runs that did, and ``largest_step``.
    """
    data = Regression(point["samples"], point["dimension"], seed % 2**63)
    hits = data.passage_steps(
        ETA,
        BATCH_SIZE,
        RATIOS,
        runs=point["runs"],
        steps=point["steps"],
        sampling=SAMPLING[point["order"]],
        seed=seed + 1,
    )
    reached = (hits >= 0).mean(axis=0)
    mean = np.where(reached == 1, hits.mean(axis=0), np.nan)
    return {
        "mean": mean.astype(np.float32),
        "reached": reached.astype(np.float32),
        "largest_step": data.largest_step,
    }


def _scale(dimensions, fewer, samples, runs, steps, sets, **texts):
    common = {"runs": runs, "steps": steps}

    def grid(dimensions, sets, samples, order="independent", names="{}"):
        shared = common | {"samples": samples, "order": order}
        how = {"repeats": sets, "seed": 32, "names": names, "version": "2"}
        return Grid(measure, shared, {"dimension": dimensions}, **how)

    grids = {
        "": grid(dimensions, sets, samples),
        "large": grid(fewer, sets // 2, 10 * samples, names="{}_large"),
        "shuffled": grid(fewer, sets // 4, samples, "shuffled", "{}_shuffled"),
    }
    return Scale(grids, {"ratios": RATIOS, "dimension": dimensions, "fewer": fewer}, **texts)


EXPERIMENT = Experiment(
    name="logarithmic-passage",
    title="First-passage times of linear regression",
    claims=("m22-mfpt-linear", "m22-critical-dimension"),
    full=_scale(
        dimensions=(1, 2, 3, 5, 7, 10, 15, 18, 20, 25),
        fewer=(1, 5, 10, 15),
        samples=10_000,
        runs=100,
        steps=100_000,
        sets=16,
        text=(
            "N = 10000, B = 1, η = 0.1 and 100 runs as in the paper, on each of 16 data sets; runs of at "
            "most 100000 steps; the ratios c and the list of dimensions are ours"
        ),
    ),
    quick=_scale(dimensions=(1, 7, 20), fewer=(1, 7), samples=500, runs=10, steps=20_000, sets=4),
    minutes=2,
)
