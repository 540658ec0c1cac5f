"""W22 Fig. 4: gradient descent to near convergence, then SGD at the same step size, 200 times.

From descent's own point the loss has three or four steps to grow before the parabola ends: too few to tell an
exponential from anything else. So the same start is taken again with its errors scaled down to a loss of
1e-18 (the targets move towards the outputs; the network and its curvature stay), with batches of one in
float64. The mean of ln L comes from 100 runs of the network against its linearisation with the same batches,
and from 5000 runs of the linearisation alone. Fixed before the run: the windows, those of
:func:`flatmin.networks.edges.steady_growth`; *exponential* is a typical growth rate that changes by less than
10 % from the first half of the window to the second, three of Student's errors included. A rule for E L was
dropped: no run reaches what carries it, so that it compared the exact recursion with itself.
"""

import numpy as np
import torch

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.noise_alignment import network, task
from flatmin.networks import device, parameters, stability
from flatmin.networks.data.sets import Data
from flatmin.networks.point import at
from flatmin.networks.train import train
from flatmin.theory.stability.threshold import growth, largest_step

#: W22 does not say which; 1 is where its γ₀ exceeds 1 for every model
BATCH_SIZES = (1, 5)
#: chosen from gradient descent alone: it ends just inside its own edge, ηλ₁ a little below 2
ETA = {"linear": 0.15, "fcn": 0.02, "cnn": 0.02}
SIZE = {"rfm": 1000, "linear": 50, "fcn": 64, "cnn": 8}
DESCENT = {"rfm": 2_000, "linear": 1_000, "fcn": 10_000, "cnn": 4_000}
MINIMA = 5  # of each kind
#: "near convergence": the first checkpoint with a loss below this, or else the last
NEAR = 1e-4
STEPS = 20
#: the scaled start: its loss, and the steps of each kind, enough for the runs that grow fastest to reach 0.1
SCALED = 1e-18
SCALED_STEPS = {"rfm": 40, "linear": 16, "fcn": 40, "cnn": 60}


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

    ``point``: kind, size, repeat, images, descent, trajectories, scaled (runs from the scaled start). Returns
    what :func:`escapes` does, but for ``linearised`` only ``apart`` (batch sizes, STEPS + 1), the median over
    the runs of |ln L − ln L linearised|; and what :func:`scaled_down` does.
    """
    kind, seed = point["kind"], seed % 2**31
    where = sharp_minimum(kind, point["size"], point["repeat"], point["images"], point["descent"])
    found = escapes(*where, BATCH_SIZES, point["trajectories"], seed)
    both = np.log(found["losses"].clip(1e-30, 1e30)), np.log(found.pop("linearised").clip(1e-30, 1e30))
    found["apart"] = np.median(np.abs(both[0] - both[1]), axis=1)
    return found | scaled_down(*where, SCALED_STEPS[kind], point["scaled"], seed)


def scaled_down(model, data, eta, steps, trajectories, seed):
    """Start with the errors of ``model`` scaled down to the loss SCALED, B = 1; (steps + 1,) each.

    ``scaled_log``: mean of ln L, its part beyond the linearised network from ``trajectories`` runs, the rest
    from 50 times as many; ``scaled_top``: the largest L of the runs; ``scaled_mean``: the exact E L of the
    linearised network; ``scaled_gap``: mean over the runs of L − L linearised (the same batches).
    """
    model, data = model.double(), data.to(torch.float64)
    with torch.no_grad():
        outputs = model(data.inputs)
    targets = data.targets.reshape(outputs.shape)
    loss = 0.5 * (outputs - targets).square().sum() / len(data)
    near = outputs - torch.sqrt(SCALED / loss) * (outputs - targets)
    here = at(model, "square", Data(data.inputs, near.reshape(data.targets.shape), data.name))
    runs, tangent = stability.escape_runs(here, eta, 1, steps, trajectories, seed), stability.tangent(here)
    losses, linearised = (values.clip(1e-30, 1e30) for values in (runs.losses, runs.linearised))
    more = seed + 2**31 + np.arange(50 * trajectories)  # other batches; single draws are the same either way
    many = tangent.losses(eta, 1, steps, more, "replacement")
    return {
        "scaled_log": np.log(losses / linearised).mean(axis=0) + np.log(many.clip(1e-30)).mean(axis=0),
        "scaled_top": losses.max(axis=0),
        "scaled_mean": tangent.mean_losses(eta, 1, steps),
        "scaled_gap": (losses - linearised).mean(axis=0),
    }


def escapes(model, data, eta, batch_sizes, trajectories, seed):
    """Let SGD go from a network at any minimum, for each B (batch sizes, …).

    ``losses`` and ``linearised`` (trajectories, STEPS + 1), ``mean`` (STEPS + 1,) the exact E L of the
    linearised network, ``growth`` ρ, ``largest_step``; ``descent`` (STEPS + 1,), gradient descent going on;
    ``eta``, ``sharpness``, ``frobenius``, ``trace``, ``mu``, ``mu_0``.
    """
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


def _scale(images, sizes, descent, minima, trajectories, scaled, **texts):
    """``sizes`` and ``descent``: by kind of model."""
    grids = {
        kind: Grid(
            leave,
            {
                "kind": kind,
                "size": sizes[kind],
                "images": images,
                "descent": descent[kind],
                "trajectories": trajectories,
                "scaled": scaled,
            },
            {"repeat": range(minima)},
            seed=1,
            version="3",
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
        scaled=100,
        text=(
            "four models and 200 trajectories as W22 Fig. 4, from 5 minima each; data, sizes, step sizes and "
            "batch sizes are ours, W22's appendix is not at hand"
        ),
        data_set=(
            "Gaussian and sphere inputs; MNIST, first 500 and 200 images, even against odd, pixels in [0, 1]"
        ),
    ),
    quick=_scale(
        images="digits",
        sizes=dict.fromkeys(SIZE, 4),
        descent=dict.fromkeys(SIZE, 50),
        minima=2,
        trajectories=4,
        scaled=2,
        data_set="Gaussian and sphere inputs; digits",
    ),
    minutes=30,
    needs=("MNIST",),
    device=device.describe,
)
