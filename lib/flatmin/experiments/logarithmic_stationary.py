"""M22 Fig. 3a: the exponent φ of P ∝ L^(−φ) for linear regression in one dimension."""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.theory.logarithmic.laws import fit_exponent, fit_histogram
from flatmin.theory.logarithmic.regression import Regression

#: the words of the recorded points, from which their seeds are made
SAMPLING = {"independent": "replacement", "shuffled": "epoch"}
ETAS = (0.01, 0.1, 1.0)
BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def measure(point, seed):
    """One run on a data set of its own: exponents by several fits, and the relative mean square.

    ``point``: eta, batch_size, samples, records, order. Returns ``all`` (maximum likelihood over all
    samples), ``tail`` (over the tenth of highest loss), ``histogram`` (least squares on log counts),
    ``square`` = ⟨L/L* − 1⟩ and ``highest``, the largest L/L* met. nan where a fit is not possible.
    """
    data = Regression(point["samples"], 1, seed % 2**63)
    keep = point["records"]
    delta = data.run(
        point["eta"],
        point["batch_size"],
        100 * keep,
        keep=keep,
        sampling=SAMPLING[point["order"]],
        seed=seed + 1,
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


def _scale(batches, samples, records, sets, **texts):
    size = {"samples": samples, "records": records}

    def grid(etas, batches, sets, order, names):
        axes = {"eta": etas, "batch_size": batches}
        return Grid(measure, size | {"order": order}, axes, repeats=sets, seed=31, names=names)

    grids = {
        "independent": grid(ETAS, batches, sets, "independent", "{}"),
        "shuffled": grid(ETAS[:2], batches[::3], sets // 2, "shuffled", "{}_shuffled"),
    }
    axes = {"eta": ETAS, "batch_size": batches, "batch_size_shuffled": batches[::3]}
    return Scale(grids, axes, **texts)


EXPERIMENT = Experiment(
    name="logarithmic-stationary",
    title="Exponent of the stationary law of linear regression",
    claims=("m22-stationary",),
    full=_scale(
        BATCHES,
        samples=100_000,
        records=10_000,
        sets=8,
        text=(
            "the paper's: 100000 samples, 10000 records 100 iterations apart; 8 runs, each on a data set of "
            "its own; step sizes 0.01 and 0.1 and batch sizes are ours"
        ),
    ),
    quick=_scale(BATCHES[:3], samples=2000, records=400, sets=2),
    minutes=6,
)
