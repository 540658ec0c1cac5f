"""M22 Fig. 3b: first-passage times of the loss for linear regression in d = 1 … 25 dimensions."""

import numpy as np

from flatmin.experiments import Experiment
from flatmin.ledger import record
from flatmin.theory.logarithmic.regression import Regression

ETA, BATCH_SIZE = 0.1, 1
DIMENSIONS = (1, 2, 3, 5, 7, 10, 15, 18, 20, 25)
FEWER = (1, 5, 10, 15)
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
        order=point["order"],
        seed=seed + 1,
    )
    reached = (hits >= 0).mean(axis=0)
    mean = np.where(reached == 1, hits.mean(axis=0), np.nan)
    return {
        "mean": mean.astype(np.float32),
        "reached": reached.astype(np.float32),
        "largest_step": data.largest_step,
    }


def run(folder, quick):
    """Ten dimensions, 16 data sets each; some of them also with more data and in shuffled epochs."""
    samples, runs, steps, sets = (500, 10, 20_000, 4) if quick else (10_000, 100, 100_000, 16)
    dimensions = DIMENSIONS[::4] if quick else DIMENSIONS
    fewer = dimensions[:2] if quick else FEWER
    grids = {  # name: dimensions, data sets, samples, order
        "": (dimensions, sets, samples, "independent"),
        "large": (fewer, sets // 2, 10 * samples, "independent"),
        "shuffled": (fewer, sets // 4, samples, "shuffled"),
    }
    arrays, seconds = {"ratios": RATIOS, "dimension": np.array(dimensions), "fewer": np.array(fewer)}, 0.0
    for name, (chosen, number, size, order) in grids.items():
        common = {"samples": size, "runs": runs, "steps": steps, "order": order}
        points = [{"dimension": d, **common} for d in chosen for _ in range(number)]
        store = "-".join(filter(None, (EXPERIMENT.name, name)))
        results = record.sweep(measure, points, name=store, seed=32, folder=folder, version="2")
        for key, values in record.stack(results).items():
            arrays["_".join(filter(None, (key, name)))] = values.reshape(
                len(chosen), number, *values.shape[1:]
            )
        seconds += results.seconds
    return record.save(
        EXPERIMENT.name,
        arrays,
        seed=32,
        scale=(
            f"N = {samples}, B = 1, η = 0.1 and {runs} runs as in the paper, on each of {sets} data sets; "
            f"runs of at most {steps} steps; the ratios c and the list of dimensions are ours"
        ),
        command=EXPERIMENT.command,
        wall_time=seconds,
        folder=folder,
    )


EXPERIMENT = Experiment(
    name="logarithmic-passage",
    title="First-passage times of linear regression",
    claims=("m22-mfpt-linear", "m22-critical-dimension"),
    run=run,
    minutes=2,
)
