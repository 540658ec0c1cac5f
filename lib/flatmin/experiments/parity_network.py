"""M22 Fig. 1 and Fig. 6 at scale: the even/odd networks on 10 000 MNIST images."""

import numpy as np

from flatmin.experiments import Experiment
from flatmin.ledger import record
from flatmin.networks import curvature, device, gradient_noise, models
from flatmin.networks.data import sets as datasets
from flatmin.networks.train import run as training

ETA, BATCH_SIZE, SAMPLES = 0.01, 100, 10_000
SPECTRUM_SAMPLES = 5000  # the decoupling spectra are eigenvalues of Gram matrices of this size
#: M22 does not say how pixels are scaled; λ₁ hangs on it, so all three usual choices are measured
SCALES = ("unit", "symmetric", "standard")


def parity_data(name, samples, scale):
    """Images with targets +1 (even) and −1 (odd); ``"standard"``: mean 0 and variance 1 over all pixels."""
    pixels = "unit" if scale == "standard" else scale
    train = datasets.by_name(name, samples, pixels).train
    if scale == "standard":
        inputs = (train.inputs - train.inputs.mean()) / train.inputs.std()
        train = datasets.Data(inputs, train.targets, train.name)
    return train.parity()


def measure(point, seed):
    """One network: its Gauss–Newton spectrum, or the decoupling spectra along training.

    ``point``: what, data, samples, scale, hidden (widths), epochs (kept). ``"decoupling"`` returns ``exact``,
    ``decoupled`` (checkpoints, 1000) sharpest first and ``loss``; ``"spectrum"`` the 1000 largest
    eigenvalues of the Gauss–Newton matrix at the end, their total number, ``dimension`` = 1/Σp² and ``loss``.
    """
    data = parity_data(point["data"], point["samples"], point["scale"])
    seed %= 2**31
    start = models.mlp((data.inputs[0].numel(), *point["hidden"], 1), seed, "glorot")
    steps = [epoch * (len(data) // BATCH_SIZE) for epoch in point["epochs"]]
    runs = training.run(
        start, data, "square", eta=ETA, batch_size=BATCH_SIZE, steps=steps[-1], seed=seed, checkpoints=steps
    )
    losses = runs.losses(data)[0]
    if point["what"] == "spectrum":
        values = curvature.gauss_newton_spectrum(runs.model_at(), data, "square")
        dimension = curvature.effective_dimension(values.clamp(min=0))
        return {"values": values[:1000].numpy(), "dimension": dimension, "loss": losses[-1]}
    part = data.first(min(SPECTRUM_SAMPLES, len(data)))
    pairs = [gradient_noise.decoupling(runs.model_at(0, i), part) for i in range(len(steps))]
    return {
        "exact": np.stack([pair.exact[:1000].numpy() for pair in pairs]),
        "decoupled": np.stack([pair.decoupled[:1000].numpy() for pair in pairs]),
        "loss": losses,
    }


def run(folder, quick):
    """Decoupling in three networks 784-100-100-1, spectra of three networks 784-10-1 for each scaling."""
    common = {"data": "digits" if quick else "mnist", "samples": 1000 if quick else SAMPLES}
    hidden, epochs = ((20, 20), (0, 5, 10)) if quick else ((100, 100), (0, 50, 500))
    decoupling = [common | {"what": "decoupling", "scale": "unit", "hidden": hidden, "epochs": epochs}] * 3
    spectrum = [
        common | {"what": "spectrum", "scale": scale, "hidden": (10,), "epochs": (20 if quick else 1000,)}
        for scale in SCALES
        for _ in range(3)
    ]
    first = record.sweep(measure, decoupling, name=f"{EXPERIMENT.name}-decoupling", folder=folder, seed=1)
    second = record.sweep(measure, spectrum, name=f"{EXPERIMENT.name}-spectrum", folder=folder, seed=2)
    arrays = record.stack(first) | {f"gn_{k}": v for k, v in record.stack(second).items()}
    return record.save(
        EXPERIMENT.name,
        arrays | {"epochs": epochs, "gn_scale": [point["scale"] for point in spectrum]},
        seed=[1, 2],
        scale=(
            "images, networks, η, B and steps of M22; 3 networks for Fig. 1, spectra of the first 5000 "
            "images; 3 for each pixel scaling for Fig. 6, of which the paper does not give its own"
        ),
        command=EXPERIMENT.command,
        data_set="digits" if quick else "MNIST, first 10 000 images, even against odd",
        device=device.describe(),
        wall_time=first.seconds + second.seconds,
        folder=folder,
    )


EXPERIMENT = Experiment(
    name="parity-network",
    title="Decoupling and Hessian outliers of the even/odd networks (M22 Fig. 1, 6)",
    claims=("m22-decoupling", "m22-hessian-outliers"),
    run=run,
    minutes=10,
    needs=("MNIST",),
)
