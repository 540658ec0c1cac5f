"""M22 Fig. 3a: the exponent φ of P ∝ L^(−φ) for linear regression in one dimension."""

import numpy as np

from flatmin.experiments import Experiment
from flatmin.ledger import record
from flatmin.theory.logarithmic.laws import fit_exponent, fit_histogram
from flatmin.theory.logarithmic.regression import Regression

ETAS = (0.01, 0.1, 1.0)
BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def measure(point, seed):
    """One run on a data set of its own: exponents by several fits, and the relative mean square.

    ``point``: eta, batch_size, samples, records, order. Returns ``all`` (maximum likelihood over all
    samples), ``tail`` (over the tenth of highest loss), ``histogram`` (least squares on log counts),
    ``square`` = ⟨L/L* − 1⟩ and ``highest``, the largest L/L* met. nan where a fit is not possible.
    """
    data = Regression(point["samples"], 1, seed % 2**63)
    delta = data.record(
        point["eta"], point["batch_size"], point["records"], order=point["order"], seed=seed + 1
    )[:, 0]
    scale = data.hessian[0, 0] / (2 * data.lowest_loss)
    ratios = 1 + scale * delta**2
    found = {"all": fit_exponent(ratios), "square": ratios.mean() - 1, "highest": ratios.max()}
    found["beyond"] = np.quantile(ratios, 0.9)
    found["tail"] = fit_exponent(ratios, beyond=found["beyond"])
    try:
        found["histogram"] = fit_histogram(delta, lambda at: 1 + scale * at**2)[0]
    except ValueError:  # one far outlier can leave all others in a single bin
        found["histogram"] = np.nan
    return {name: float(value) for name, value in found.items()}


def run(folder, quick):
    """Three step sizes, ten batch sizes, eight data sets; and four of them in shuffled epochs."""
    samples, records, sets = (2000, 400, 2) if quick else (100_000, 10_000, 8)
    batches = BATCHES[:3] if quick else BATCHES
    size = {"samples": samples, "records": records}
    grids = {
        "independent": [(eta, batch, sets) for eta in ETAS for batch in batches],
        "shuffled": [(eta, batch, sets // 2) for eta in ETAS[:2] for batch in batches[::3]],
    }
    arrays, seconds = {"eta": np.array(ETAS), "batch_size": np.array(batches)}, 0.0
    arrays["batch_size_shuffled"] = np.array(batches[::3])
    for order, grid in grids.items():
        points = [
            {"eta": eta, "batch_size": batch, "order": order, **size}
            for eta, batch, repeats in grid
            for _ in range(repeats)
        ]
        results = record.sweep(measure, points, name=f"{EXPERIMENT.name}-{order}", seed=31, folder=folder)
        etas = len(ETAS) if order == "independent" else 2
        ending = "" if order == "independent" else "_shuffled"
        for name, values in record.stack(results).items():
            arrays[name + ending] = values.reshape(etas, -1, grid[0][2])
        seconds += results.seconds
    return record.save(
        EXPERIMENT.name,
        arrays,
        seed=31,
        scale=(
            f"the paper's: {samples} samples, {records} records 100 iterations apart; "
            f"{sets} runs, each on a data set of its own; step sizes 0.01 and 0.1 and batch sizes are ours"
        ),
        command=EXPERIMENT.command,
        wall_time=seconds,
        folder=folder,
    )


EXPERIMENT = Experiment(
    name="logarithmic-stationary",
    title="Exponent of the stationary law of linear regression",
    claims=("m22-stationary",),
    run=run,
    minutes=6,
)
