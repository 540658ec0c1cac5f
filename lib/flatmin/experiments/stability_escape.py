"""W22 Fig. 4: gradient descent to near convergence, then SGD at the same step size, 200 times."""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.noise_alignment import network, task
from flatmin.networks import device, parameters, stability
from flatmin.networks.point import at
from flatmin.networks.train import train
from flatmin.theory.stability.threshold import growth, largest_step

#: W22 does not say which; 1 is where its γ₀ exceeds 1 for every model
BATCH_SIZES = (1, 2, 5)
#: chosen from gradient descent alone: it ends just inside its own edge, ηλ₁ a little below 2
ETA = {"linear": 0.15, "fcn": 0.02, "cnn": 0.02}
SIZE = {"rfm": 1000, "linear": 50, "fcn": 64, "cnn": 8}
DESCENT = {"rfm": 2_000, "linear": 1_000, "fcn": 10_000, "cnn": 4_000}
#: minima of each kind; the convolutional network takes minutes each
MINIMA = {"rfm": 3, "linear": 3, "fcn": 3, "cnn": 1}
#: "near convergence": the first checkpoint with a loss below this, or else the last
NEAR = 1e-4
STEPS = 20


def sharp_minimum(kind, size, repeat, images="mnist", steps=None):
    """Take a network down by gradient descent; return it, its data and η.

    η of the random-feature model is 0.95 · 2/λ₁, which is known beforehand; ``steps`` defaults to those of
    the full scale.
    """
    data = task(kind, repeat, images)
    start = network(kind, size, repeat, data)
    eta = 1.9 / stability.tangent(at(start, "square", data)).minimum.sharpness if kind == "rfm" else ETA[kind]
    steps = DESCENT[kind] if steps is None else steps
    kept = np.unique(np.geomspace(1, steps, 100).round().astype(int))
    runs = train(start, "square", data, eta=eta, steps=steps, method="gd", keep=kept)
    near = np.flatnonzero(runs.losses(data)[0] <= NEAR)
    return runs.model_at(0, near[0] if len(near) else -1), data, eta


def leave(point, seed):
    """From one sharp minimum let SGD go with each batch size.

    ``point``: kind, size, repeat, images, descent, trajectories. Returns for each B (batch sizes, …):
    ``losses`` and ``linearised`` (trajectories, STEPS + 1), ``mean`` (STEPS + 1,) the exact E L of the
    linearised network, ``growth`` ρ, ``largest_step``; ``descent`` (STEPS + 1,), gradient descent going on;
    ``eta``, ``sharpness``, ``frobenius``, ``trace``, ``mu``, ``mu_0``.
    """
    kind = point["kind"]
    where = sharp_minimum(kind, point["size"], point["repeat"], point["images"], point["descent"])
    return escapes(*where, BATCH_SIZES, point["trajectories"], seed % 2**31)


def escapes(model, data, eta, batch_sizes, trajectories, seed):
    """What :func:`leave` returns, for a network at any minimum."""
    here = at(model, "square", data)
    tangent = stability.tangent(here)
    minimum = tangent.minimum
    runs = [stability.escape_runs(here, eta, size, STEPS, trajectories, seed) for size in batch_sizes]
    on = train(model, "square", data, eta=eta, steps=STEPS, method="gd", keep=STEPS + 1)
    return {
        "losses": np.array([one.losses for one in runs], np.float32),
        "linearised": np.array([one.linearised for one in runs], np.float32),
        "mean": [tangent.mean_losses(eta, size, STEPS) for size in batch_sizes],
        "growth": [growth(minimum, eta, size) for size in batch_sizes],
        "largest_step": [largest_step(minimum, size) for size in batch_sizes],
        "descent": on.losses(data)[0],
        "eta": eta,
        "sharpness": minimum.sharpness,
        "frobenius": minimum.frobenius,
        "trace": minimum.trace,
        "mu": tangent.mu,
        "mu_0": minimum.mu_0,
        "parameters": parameters.vector(model).numel(),
    }


def _scale(images, sizes, descent, minima, trajectories, **texts):
    """``sizes``, ``descent``, ``minima``: by kind of model."""
    grids = {
        kind: Grid(
            leave,
            {
                "kind": kind,
                "size": sizes[kind],
                "images": images,
                "descent": descent[kind],
                "trajectories": trajectories,
            },
            {"repeat": range(minima[kind])},
            seed=1,
        )
        for kind in SIZE
    }
    return Scale(grids, {"batch_sizes": BATCH_SIZES}, **texts)


EXPERIMENT = Experiment(
    name="stability-escape",
    title="SGD leaves the minimum that gradient descent found (W22 Fig. 4)",
    claims=("w22-escape",),
    full=_scale(
        images="mnist",
        sizes=SIZE,
        descent=DESCENT,
        minima=MINIMA,
        trajectories=200,
        text=(
            "four models and 200 trajectories as W22 Fig. 4, from 3 minima each (convolutional: 1); data, "
            "sizes, step sizes and batch sizes are ours, W22's appendix is not at hand"
        ),
        data_set=(
            "Gaussian and sphere inputs; MNIST, first 500 and 200 images, even against odd, pixels in [0, 1]"
        ),
    ),
    quick=_scale(
        images="digits",
        sizes=dict.fromkeys(SIZE, 4),
        descent=dict.fromkeys(SIZE, 50),
        minima=dict.fromkeys(SIZE, 2),
        trajectories=10,
        data_set="Gaussian and sphere inputs; digits",
    ),
    minutes=15,
    needs=("MNIST",),
    device=device.describe,
)
