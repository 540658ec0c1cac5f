"""Batch sharpness, the exact edge and all other ratios along training, at the edge and in an easy task.

Fully connected 64-32-32-K networks on the handwritten digits, square loss, batches drawn fresh. *Random*
labels take long to fit, and the curvature grows until something stops it; with the *true* labels at the same
step the loss runs out first. So few samples that η* is exact. What is measured and judged, written down
before the run:

- Checkpoints: the start, T/100, T/30 and equal parts of the T steps, twelve for one output and six for ten.
  *Late* are those of the last third of the steps (five, three); *fitting* those whose loss lies between
  1 % and 10 % of that of a network whose outputs are 0 (each run at its own times; a run without such a
  checkpoint does not count).
- A ratio *settles at 1* in a setting if the mean over ten runs of each run's mean over the late checkpoints
  lies within 0.9…1.1 by three errors of Student's t (:func:`flatmin.estimate.independent_mean`); it does not
  if the interval lies outside; otherwise the question is open. The same for the fitting checkpoints.
- Which of two ratios is nearer to 1: the difference of the distances |mean − 1|, paired run by run.
- *Driven to the edge* is a setting whose mean late η/η* is at least 0.8.

The windows are ``LATE``, ``FITTING`` and ``BAND`` of :mod:`flatmin.networks.edges`.
"""

import numpy as np
import torch

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.networks import device, models, stability
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at
from flatmin.networks.train import train
from flatmin.theory.stability import paths, sharpness

LABELS = ("random", "true")
BATCH_SIZES = (1, 5, 40)
#: by number of outputs: samples, equal parts of T, η, and the steps T of each batch size
SETTINGS = {
    1: {"samples": 200, "parts": 12, "eta": 0.02, "steps": {1: 30_000, 5: 15_000, 40: 12_000}},
    10: {"samples": 50, "parts": 6, "eta": 0.05, "steps": {1: 20_000, 5: 15_000, 40: 12_000}},
}
#: for the typical edge of the last network: trajectories by outputs and batch size, as arrays must stay small
TYPICAL_STEPS = {1: 200, 10: 120}
TRAJECTORIES = {1: dict.fromkeys(BATCH_SIZES, 32), 10: {1: 8, 5: 8, 40: 2}}
RATIOS = ("loss", "exact", "sharpness", "hessian", "predicted", "weighted", "descent", "trace", "frobenius")


def data_of(labels, outputs, samples):
    """Digits with one output (±1, even against odd) or ten (one-hot), the labels their own or random ones."""
    data = datasets.digits(samples, "unit").train
    if labels == "random":
        drawn = np.random.default_rng(7).integers(10, size=samples)
        data = datasets.Data(data.inputs, torch.from_numpy(drawn), data.name)
    return data.parity() if outputs == 1 else data.one_hot()


def measure(model, data, eta, batch_size, seed):
    """All ratios of one network, each 1 at its edge, and its loss.

    ``exact`` η/η*; ``sharpness``, ``hessian``: η/2 times the batch sharpness with the Gauss–Newton matrix and
    with the Hessian (50 batches); ``predicted`` and ``weighted`` η*/2 times that in the leading mode
    (:func:`~flatmin.theory.stability.sharpness.at_edge`); ``descent`` ηλ₁/2, ``trace`` ηcTr G/2K, the looser
    form of the trace rule, ``frobenius`` η‖G‖_F √(cμ), c the factor of fresh batches.
    """
    here = at(model, "square", data, dtype="float64")
    tangent = stability.tangent(here)
    minimum, seen = tangent.minimum, tangent.residuals
    c = minimum.factor(batch_size)
    mode = sharpness.at_edge(minimum, batch_size, draws=1000, seed=seed)
    found = sharpness.batch_sharpness(minimum, seen, batch_size, seed=seed)
    return {
        "loss": tangent.loss,
        "exact": eta / mode.eta,
        "sharpness": eta * found.value / 2,
        "hessian": eta * here.batch_sharpness(batch_size, 50, seed=seed).value / 2,
        "predicted": mode.batch_sharpness.value,
        "weighted": mode.weighted.value,
        "descent": eta * minimum.sharpness / 2,
        "trace": eta * c * minimum.trace / (2 * minimum.outputs),
        "frobenius": eta * minimum.frobenius * np.sqrt(c * tangent.mu),
    }


def along(point, seed):
    """Train ``runs`` networks together and :func:`measure` each at each checkpoint, (runs, T); ``typical``
    (runs,) is η over the typical edge at the end. A run that diverges has ∞ everywhere.

    ``point``: labels, outputs, samples, batch_size, eta, steps (by batch size), parts, width, first, runs.
    """
    outputs, eta, size = point["outputs"], point["eta"], point["batch_size"]
    data = data_of(point["labels"], outputs, point["samples"])
    seeds = [point["first"] + run for run in range(point["runs"])]
    starts = [models.mlp((64, point["width"], point["width"], outputs), one) for one in seeds]
    kept = checkpoints(dict(point["steps"])[size], point["parts"])
    how = {"eta": eta, "batch_size": size, "steps": kept[-1], "keep": kept, "sampling": "fresh"}
    runs = train(starts, "square", data, seed=seeds, **how)
    values = {name: np.full((len(seeds), len(kept)), np.inf) for name in RATIOS}
    values["typical"] = np.full(len(seeds), np.inf)
    for run in np.flatnonzero(~runs.diverged):
        for place in range(len(kept)):
            found = measure(runs.model_at(run, place), data, eta, size, seeds[run])
            for name in RATIOS:
                values[name][run, place] = found[name]
        last = stability.tangent(at(runs.model_at(run), "square", data, dtype="float64")).minimum
        few = {"steps": TYPICAL_STEPS[outputs], "trajectories": TRAJECTORIES[outputs][size]}
        edge = paths.typical_edge(last, size, seed=seeds[run], **few)
        values["typical"][run] = eta / edge.value
    return values | {"diverged": runs.diverged}


def checkpoints(steps, parts):
    """The start, T/100, T/30, and ``parts`` equal parts of T ``steps``."""
    equal = [steps * part // parts for part in range(1, parts + 1)]
    return sorted({0, steps // 100, steps // 30, *equal})


def _scale(settings, labels, width, blocks, runs, **texts):
    """``settings`` as :data:`SETTINGS`; ``blocks`` of ``runs`` networks that are trained together."""
    grids, more = {}, {"batch_sizes": BATCH_SIZES, "labels": labels}
    for outputs, how in settings.items():
        common = {name: how[name] for name in ("samples", "parts", "eta")} | {
            "outputs": outputs,
            "width": width,
        }
        common |= {"steps": list(how["steps"].items()), "runs": runs}
        axes = {
            "labels": labels,
            "batch_size": BATCH_SIZES,
            "first": [runs * block for block in range(blocks)],
        }
        grids[f"outputs_{outputs}"] = Grid(along, common, axes, seed=1)
        more[f"steps_{outputs}"] = [checkpoints(how["steps"][size], how["parts"]) for size in BATCH_SIZES]
        more[f"eta_{outputs}"] = how["eta"]
    return Scale(grids, more, **texts)


EXPERIMENT = Experiment(
    name="stability-edge",
    title="Batch sharpness and the exact edge of stability along training",
    claims=("edge-stochastic",),
    full=_scale(
        SETTINGS,
        LABELS,
        width=32,
        blocks=2,
        runs=5,
        text="64-32-32-K networks, K = 1 on 200 samples and K = 10 on 50, B = 1, 5, 40, ten runs each; ours",
        data_set="digits, random labels and their own",
    ),
    quick=_scale(
        {1: {"samples": 50, "parts": 1, "eta": 0.02, "steps": dict.fromkeys(BATCH_SIZES, 30)}},
        LABELS,
        width=4,
        blocks=1,
        runs=2,
        data_set="digits",
    ),
    minutes=50,
    device=device.describe,
)
