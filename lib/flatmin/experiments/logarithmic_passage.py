"""M22 Fig. 3b: first-passage times of the loss for linear regression in d = 1 … 25 dimensions."""

import numpy as np

from flatmin.experiments import Experiment
from flatmin.ledger import record
from flatmin.theory.regression import Regression

ETA, BATCH_SIZE = 0.1, 1
DIMENSIONS = (1, 2, 3, 5, 7, 10, 12, 15, 18, 20, 22, 25)
RATIOS = np.geomspace(1.05, 20, 76)


def measure(point, seed):
    """Steps of first passage on a data set of its own: ``steps`` (runs, ratios), −1 where censored.

    ``point``: dimension, samples, runs, steps (the longest run), order.
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
    return {"steps": hits.astype(np.int32), "largest_step": data.largest_step}


def run(folder, quick):
    """Twelve dimensions, four data sets each; three of them also in shuffled epochs."""
    dimensions = DIMENSIONS[::4] if quick else DIMENSIONS
    size = (
        {"samples": 500, "runs": 10, "steps": 20_000}
        if quick
        else {"samples": 10_000, "runs": 100, "steps": 4_000_000}
    )
    grids = {"independent": (dimensions, 4), "shuffled": (dimensions[:6:2], 1)}
    arrays, seconds = {"ratios": RATIOS, "dimension": np.array(dimensions)}, 0.0
    arrays["dimension_shuffled"] = np.array(dimensions[:6:2])
    for order, (chosen, sets) in grids.items():
        points = [{"dimension": d, "order": order, **size} for d in chosen for _ in range(sets)]
        results = record.sweep(measure, points, name=f"{EXPERIMENT.name}-{order}", seed=32, folder=folder)
        ending = "" if order == "independent" else "_shuffled"
        stacked = record.stack(results)
        arrays["steps" + ending] = stacked["steps"].reshape(len(chosen), -1, len(RATIOS))
        arrays["largest_step" + ending] = stacked["largest_step"].reshape(len(chosen), sets)
        seconds += results.seconds
    return record.save(
        EXPERIMENT.name,
        arrays,
        seed=32,
        scale=(
            f"N = {size['samples']}, B = 1, η = 0.1 as in the paper, its 100 runs on each of four data sets; "
            f"runs of at most {size['steps']} steps; the ratios c and the list of dimensions are ours"
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
    minutes=12,
)
