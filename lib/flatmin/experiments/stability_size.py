"""W22 Fig. 3a: ‖H‖_F and Tr H of SGD's solution against the size of the network, η and B fixed."""

import numpy as np

from flatmin.experiments import Experiment
from flatmin.experiments.noise_alignment import SAMPLES, SIZES
from flatmin.experiments.stability_training import along
from flatmin.ledger import record
from flatmin.networks import curvature, gradient_noise, models, parameters
from flatmin.networks.data import sets as datasets
from flatmin.networks.train import run as training

BATCH_SIZE = 5
#: ours: from a step that leaves the curvature to itself up to one that the widest starts do not survive
ETA = {"fcn": (0.01, 0.05, 0.1), "cnn": (0.02,), "linear": (0.01, 0.05)}
STEPS = {"fcn": 10_000, "cnn": 5_000, "linear": 10_000}
#: other data, fully connected networks of three widths; η is about 3/λ₁ at the widest start
VARIANTS = {
    "fashion": {"images": "fashion-mnist", "scale": "unit", "eta": 0.02},
    "cifar": {"images": "cifar10", "scale": "unit", "eta": 0.005},
    "symmetric": {"images": "mnist", "scale": "symmetric", "eta": 0.004},
}
_WIDTHS = (16, 64, 256)


def one_hot(point, seed):
    """Train a fully connected network with ten outputs on one-hot targets; ``loss``, ``frobenius`` ‖G‖_F and
    ``trace`` at the end.

    ``point``: images, size, repeat, eta, steps.
    """
    size, repeat = point["size"], point["repeat"]
    data = datasets.by_name(point["images"], SAMPLES["fcn"], "unit").train
    model = models.mlp((data.inputs[0].numel(), size, size, 10), repeat)
    how = {"eta": point["eta"], "batch_size": BATCH_SIZE, "steps": point["steps"]}
    runs = training.run(model, data, "square", seed=repeat, checkpoints=1, **how)
    end = runs.model_at(0)
    noise = gradient_noise.alignment(end, data, "square")
    return {
        "loss": noise.loss,
        "frobenius": noise.g_norm,
        "trace": curvature.trace(end, data, "square").value,
        "parameters": parameters.flat(model).numel(),
        "diverged": runs.diverged[0],
    }


def run(folder, quick):
    """Five runs of each kind, step size and size at the start and the end: arrays (η, sizes, runs, 2).

    The variants have three runs of three widths: arrays (widths, runs, …).
    """
    arrays, seconds = {}, 0.0
    for kind, etas in ETA.items():
        images, repeats, steps = ("digits", 2, 50) if quick else ("mnist", 5, STEPS[kind])
        sizes = SIZES[kind][: 2 if quick else 4 if kind == "cnn" else None]
        etas = etas[:2] if quick else etas
        common = {"kind": kind, "images": images, "scale": "unit"}
        points = _points(common, sizes, etas, repeats, steps)
        results = record.sweep(along, points, name=f"{EXPERIMENT.name}-{kind}", folder=folder, seed=1)
        seconds += results.seconds
        for name, values in record.stack(results).items():
            arrays[f"{kind}_{name}"] = values.reshape(len(etas), len(sizes), repeats, *values.shape[1:])
        arrays |= {f"{kind}_sizes": sizes, f"{kind}_eta": etas}
    more, took = _variants(folder, quick)
    return record.save(
        EXPERIMENT.name,
        arrays | more,
        seed=1,
        scale=(
            "5 runs as W22 Fig. 3a, B = 5; fully connected with 500 images, convolutional with 200, linear "
            "with n = 100, d = 50; data, sizes, step sizes and B are ours, W22's appendix is not at hand"
        ),
        command=EXPERIMENT.command,
        data_set="Gaussian inputs; "
        + ("digits" if quick else "MNIST, Fashion-MNIST and CIFAR-10, first 500 and 200 images"),
        wall_time=seconds + took,
        folder=folder,
    )


def _points(common, sizes, etas, repeats, steps):
    rest = {"batch_size": BATCH_SIZE, "steps": steps, "checkpoints": [0, steps], "hessian": False}
    return [
        common | rest | {"eta": eta, "size": size, "repeat": repeat}
        for eta in etas
        for size in sizes
        for repeat in range(repeats)
    ]


def _variants(folder, quick):
    """Arrays of the other data and targets, and the seconds they took."""
    widths, repeats, steps = ((4, 8), 2, 50) if quick else (_WIDTHS, 3, STEPS["fcn"])
    tasks = {
        name: (along, _points({"kind": "fcn", **_without(v, "eta")}, widths, (v["eta"],), repeats, steps))
        for name, v in ({} if quick else VARIANTS).items()
    }
    images = "digits" if quick else "mnist"
    tasks["one_hot"] = (
        one_hot,
        [
            {"images": images, "size": size, "repeat": repeat, "eta": 0.05, "steps": steps}
            for size in widths
            for repeat in range(repeats)
        ],
    )
    arrays, seconds = {"variant_widths": widths}, 0.0
    for name, (function, points) in tasks.items():
        sweep_name = f"{EXPERIMENT.name}-{name.replace('_', '-')}"
        results = record.sweep(function, points, name=sweep_name, folder=folder, seed=1)
        seconds += results.seconds
        for key, values in record.stack(results).items():
            arrays[f"{name}_{key}"] = np.reshape(values, (len(widths), repeats, *values.shape[1:]))
    return arrays, seconds


def _without(values, key):
    return {name: value for name, value in values.items() if name != key}


EXPERIMENT = Experiment(
    name="stability-size",
    title="Flatness of SGD's solution against the size of the network (W22 Fig. 3a)",
    claims=("w22-frobenius-size",),
    run=run,
    minutes=20,
    needs=("MNIST", "Fashion-MNIST", "CIFAR-10"),
)
