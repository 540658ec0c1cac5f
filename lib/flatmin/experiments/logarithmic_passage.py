"""M22 Fig. 3b: first-passage times of the loss for linear regression in d = 1 … 25 dimensions.

On 16 data sets the power at d = 5 agrees with the printed one, 8.5, and with the chain's, 8.6. The grid
``five`` is to tell them apart. Rules, written down before it ran: 40 blocks of 50 new data sets, 20 runs on
each; the power of the mean time in the window t = 10 to 500 that all dimensions have, error by bootstrap over
blocks, about 0.016. It is judged for N = 100 000, since the chain and M22's h = 1, n = d are limits of many
samples; N = 10 000 is shown beside it. Runs end at c = 3, beyond
the window.
"""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.logarithmic_stationary import SAMPLING
from flatmin.theory.logarithmic.regression import Regression

ETA, BATCH_SIZE = 0.1, 1
RATIOS = np.geomspace(1.05, 20, 76)


def measure(point, seed):
    """Times of first passage in units of steps, over runs on a data set of its own.

    ``point``: dimension, samples, runs, steps (the longest run), order, levels (so many of the ratios).
    Returns ``mean`` (ratios,), nan where a run did not get there, ``reached`` (ratios,), the share of runs
    that did, and ``largest_step``.
    """
    data = Regression(point["samples"], point["dimension"], seed % 2**63)
    hits = data.passage_steps(
        ETA,
        BATCH_SIZE,
        RATIOS[: point.get("levels")],
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


def averaged(point, seed):
    """``mean`` and ``reached`` of :func:`measure`, averaged over so many ``sets`` of data."""
    found = [measure(point, seed + 2 * number) for number in range(point["sets"])]
    return {name: np.mean([one[name] for one in found], axis=0) for name in ("mean", "reached")}


def _scale(dimensions, fewer, samples, runs, steps, sets, blocks, **texts):
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
    five = common | {
        "dimension": 5,
        "order": "independent",
        "runs": max(runs // 5, 2),
        "sets": 50,
        "levels": 28,
    }
    sizes = {"samples": (samples, 10 * samples)}
    grids["five"] = Grid(averaged, five, sizes, repeats=blocks, seed=33, names="five_{}")
    axes = {"ratios": RATIOS, "dimension": dimensions, "fewer": fewer} | sizes
    return Scale(grids, axes, **texts)


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
        blocks=40,
        text=(
            "N = 10000, B = 1, η = 0.1 and 100 runs as in the paper, on each of 16 data sets; runs of at "
            "most 100000 steps; the ratios c and the list of dimensions are ours; d = 5 besides on 2000 data "
            "sets, 20 runs on each, for each of two N"
        ),
    ),
    quick=_scale(dimensions=(1, 7, 20), fewer=(1, 7), samples=500, runs=10, steps=20_000, sets=4, blocks=2),
    minutes=8,
)
