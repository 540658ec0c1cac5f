"""M22 Fig. 2 and 5: noise strength 𝒩 against the loss along training, as far as CPU minutes allow."""

import numpy as np

from flatmin.experiments import Experiment
from flatmin.ledger import record
from flatmin.networks import datasets, gradient_noise, models, training

BATCH_SIZE = 100
#: the convolutional network takes too long on a CPU for both
LOSSES = {"fcn": ("square", "cross-entropy"), "cnn": ("square",)}
#: M22 does not give its pixel scaling; with the square loss on [−1, 1] its η = 0.1 diverges
SCALE = "unit"
ETA = {"fcn": {"square": 0.1, "cross-entropy": 0.1}, "cnn": {"square": 0.1, "cross-entropy": 0.05}}


def measure(point, seed):
    """Train one network and return ``loss``, ``strength`` 𝒩, ``gradient_square`` and ``accuracy`` along it.

    ``point``: kind (``"fcn"``, ``"cnn"``), data, samples, widths, loss, epochs (kept).
    """
    kind, loss, seed = point["kind"], point["loss"], seed % 2**31
    load = {"fashion": datasets.fashion_mnist, "cifar": datasets.cifar10}.get(point["data"])
    data = (datasets.digits(point["samples"]) if load is None else load(SCALE, train=point["samples"])).train
    if kind == "fcn":
        start = models.mlp((data.inputs[0].numel(), *point["widths"], 10), seed, "glorot")
    else:
        start = models.cnn_stacks(point["widths"], seed=seed)
    steps = np.array(point["epochs"]) * (len(data) // BATCH_SIZE)
    runs = training.run(
        start,
        data,
        loss,
        eta=ETA[kind][loss],
        batch_size=BATCH_SIZE,
        steps=int(steps[-1]),
        seed=seed,
        checkpoints=steps,
    )
    found = [
        gradient_noise.noise_strength(runs.model_at(0, i), data, loss, 500 if kind == "cnn" else 2000)
        for i in range(len(steps))
    ]
    return {
        "loss": [one.loss for one in found],
        "strength": [one.value for one in found],
        "gradient_square": [one.gradient_square for one in found],
        "accuracy": runs.accuracies(data)[0],
    }


def epochs_until(last, count):
    """Epochs 0, 1, …, ``last``, denser at the start; at most ``count`` of them."""
    return sorted({0, *np.geomspace(1, last, count - 1).round().astype(int).tolist()})


def run(folder, quick):
    """Two networks of each kind for each loss."""
    if quick:
        fcn = {
            "kind": "fcn",
            "data": "digits",
            "samples": 1000,
            "widths": (20, 20, 20),
            "epochs": epochs_until(40, 12),
        }
        kinds = [fcn]
    else:
        fcn = {
            "kind": "fcn",
            "data": "fashion",
            "samples": 10_000,
            "widths": (300,) * 3,
            "epochs": epochs_until(200, 28),
        }
        cnn = {
            "kind": "cnn",
            "data": "cifar",
            "samples": 500,
            "widths": (8, 16, 32),
            "epochs": epochs_until(800, 16),
        }
        kinds = [fcn, cnn]
    arrays, seconds = {}, 0.0
    for kind in kinds:
        name = kind["kind"]
        points = [kind | {"loss": loss} for loss in LOSSES[name] for _ in range(2)]
        results = record.sweep(measure, points, name=f"{EXPERIMENT.name}-{name}", folder=folder, seed=1)
        seconds += results.seconds
        arrays |= {f"{name}_{key}": value for key, value in record.stack(results).items()}
        arrays |= {f"{name}_epochs": kind["epochs"], f"{name}_losses": [point["loss"] for point in points]}
    return record.save(
        EXPERIMENT.name,
        arrays,
        seed=1,
        scale=(
            "η and B of M22 Fig. 2 and 5; smaller: first 10 000 Fashion-MNIST images and 784-300-300-300-10 "
            "(paper: 60 000 and 2000 units), first 500 CIFAR-10 images and stacks of 8, 16, 32 channels "
            "(paper: 50 000 and 64, 128, 256), square loss only; 2 runs of each"
        ),
        command=EXPERIMENT.command,
        data_set="digits" if quick else "Fashion-MNIST, 10 000 images; CIFAR-10, 500 images",
        wall_time=seconds,
        folder=folder,
    )


EXPERIMENT = Experiment(
    name="noise-strength",
    title="Noise strength against loss, both loss functions (M22 Fig. 2, 5)",
    claims=("m22-noise-strength", "m22-noise-strength-xent"),
    run=run,
    minutes=20,
    needs=("Fashion-MNIST", "CIFAR-10"),
)
