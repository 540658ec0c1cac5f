"""M22 Fig. 1 and Fig. 6 at scale: the even/odd networks on 10 000 MNIST images."""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.networks import curvature, device, models
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at
from flatmin.networks.train import train

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
    runs = train(
        start, "square", data, eta=ETA, batch_size=BATCH_SIZE, steps=steps[-1], seed=seed, keep=steps
    )
    losses = runs.losses(data)[0]
    if point["what"] == "spectrum":
        values = curvature.gauss_newton_spectrum(at(runs.model_at(), "square", data))
        dimension = curvature.effective_dimension(values.clamp(min=0))
        return {"values": values[:1000].numpy(), "dimension": dimension, "loss": losses[-1]}
    part = data.first(min(SPECTRUM_SAMPLES, len(data)))
    pairs = [at(runs.model_at(0, i), "square", part).noise.decoupling() for i in range(len(steps))]
    return {
        "exact": np.stack([pair.exact[:1000].numpy() for pair in pairs]),
        "decoupled": np.stack([pair.decoupled[:1000].numpy() for pair in pairs]),
        "loss": losses,
    }


def _scale(data, hidden, samples, epochs, last, **texts):
    common = {"data": data, "samples": samples}
    decoupling = common | {"what": "decoupling", "scale": "unit", "hidden": hidden, "epochs": epochs}
    spectrum = common | {"what": "spectrum", "hidden": (10,), "epochs": (last,)}
    grids = {
        "decoupling": Grid(measure, decoupling, repeats=3, seed=1, names="{}"),
        "gn": Grid(measure, spectrum, {"scale": SCALES}, repeats=3, seed=2, shape=(9,)),
    }
    return Scale(grids, {"epochs": epochs, "gn_scale": np.repeat(SCALES, 3)}, **texts)


EXPERIMENT = Experiment(
    name="parity-network",
    title="Decoupling and Hessian outliers of the even/odd networks (M22 Fig. 1, 6)",
    claims=("m22-decoupling", "m22-hessian-outliers"),
    full=_scale(
        data="mnist",
        hidden=(100, 100),
        samples=SAMPLES,
        epochs=(0, 50, 500),
        last=1000,
        text=(
            "images, networks, η, B and steps of M22; 3 networks for Fig. 1, spectra of the first 5000 "
            "images; 3 for each pixel scaling for Fig. 6, of which the paper does not give its own"
        ),
        data_set="MNIST, first 10 000 images, even against odd",
    ),
    quick=_scale("digits", hidden=(20, 20), samples=1000, epochs=(0, 5, 10), last=20, data_set="digits"),
    minutes=10,
    needs=("MNIST",),
    device=device.describe,
)
