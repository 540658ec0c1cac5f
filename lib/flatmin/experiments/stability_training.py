"""W22 Fig. 3b: how near SGD runs to the edge of stability, by W22's bound and by the exact threshold."""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.noise_alignment import network, task
from flatmin.networks import curvature, device, parameters, stability
from flatmin.networks.point import at
from flatmin.networks.train import train
from flatmin.theory.stability import bounds, paths
from flatmin.theory.stability.sharpness import batch_sharpness
from flatmin.theory.stability.threshold import largest_step

#: W22's batch sizes, and step sizes of ours: one that leaves the curvature to itself, and a large one
BATCH_SIZES = (5, 40)
ETA = {"fcn": (0.01, 0.1), "cnn": (0.02,)}
SIZE = {"fcn": 128, "cnn": 8}
STEPS = {"fcn": 10_000, "cnn": 5_000}
#: for the typical edge
TRAJECTORIES = 16


def data_of(point):
    """Training set of a point: that of the noise experiment for its kind, images and scale."""
    return task(point["kind"], point["repeat"], point["images"], point["scale"])


def measure(here, tangent, batch_size, hessian):
    """Where one network stands: loss, ‖G‖_F, Tr G, λ₁(G), μ, its infimum μ₀, the exact η*(B), the ``spaces``
    bound on it, the batch sharpness, and ``hessian`` ‖H‖_F if asked for, which takes long in wide networks.
    """
    minimum = tangent.minimum
    found = {
        "loss": tangent.loss,
        "frobenius": minimum.frobenius,
        "trace": minimum.trace,
        "sharpness": minimum.sharpness,
        "mu": tangent.mu,
        "mu_0": minimum.mu_0,
        "largest_step": largest_step(minimum, batch_size),
        "spaces": bounds.necessary_step(minimum, batch_size),
        "batch_sharpness": batch_sharpness(minimum, tangent.residuals, batch_size).value,
    }
    if hessian:
        found["hessian"] = curvature.frobenius_norm(here, probes=20).value
    return found


def along(point, seed):
    """Train one network and :func:`measure` it at each checkpoint, (checkpoints,) each.

    Also ``typical`` and ``typical_error``, the typical edge at the end, NaN for a run that diverged.

    ``point``: kind, size, images, scale, repeat, eta, batch_size, steps, checkpoints; hessian (default
    true): whether to measure ‖H‖_F too.
    """
    data = data_of(point)
    model = network(point["kind"], point["size"], point["repeat"], data)
    runs = train(
        model,
        "square",
        data,
        eta=point["eta"],
        batch_size=point["batch_size"],
        steps=point["steps"],
        seed=point["repeat"],
        keep=point["checkpoints"],
    )
    found = []
    for i in range(len(runs.kept)):
        here = at(runs.model_at(0, i), "square", data)
        tangent = stability.tangent(here)
        found.append(measure(here, tangent, point["batch_size"], point.get("hessian", True)))
    values = {name: np.array([one[name] for one in found]) for name in found[0]}
    values |= {"parameters": parameters.vector(model).numel(), "diverged": runs.diverged[0]}
    if runs.diverged[0]:
        return values | {"typical": np.nan, "typical_error": np.nan}
    late = paths.typical_edge(tangent.minimum, point["batch_size"], trajectories=TRAJECTORIES)
    return values | {"typical": late.value, "typical_error": late.error}


def _scale(images, repeats, etas, sizes, steps, kept, **texts):
    """``etas``, ``sizes``, ``steps``: by kind of model; ``kept``: the number of checkpoints after 0."""
    grids, more = {}, {"batch_sizes": BATCH_SIZES}
    for kind in ETA:
        at = [0, *np.geomspace(10, steps[kind], kept).round().astype(int).tolist()]
        common = {"kind": kind, "size": sizes[kind], "images": images, "scale": "unit"}
        common |= {"steps": steps[kind], "checkpoints": at}
        axes = {"eta": etas[kind], "batch_size": BATCH_SIZES, "repeat": range(repeats)}
        grids[kind] = Grid(along, common, axes, seed=1)
        more |= {f"{kind}_eta": etas[kind], f"{kind}_steps": at}
    return Scale(grids, more, **texts)


EXPERIMENT = Experiment(
    name="stability-training",
    title="SGD and the edge of stability along training (W22 Fig. 3b)",
    claims=("w22-bound-training",),
    full=_scale(
        images="mnist",
        repeats=10,
        etas=ETA,
        sizes=SIZE,
        steps=STEPS,
        kept=16,
        text=(
            "B = 5 and 40 as W22 Fig. 3b; fully connected 784-128-128-1 on 500 images, convolutional on 200, "
            "10 runs each; data, sizes and step sizes are ours, W22's appendix is not at hand"
        ),
        data_set="MNIST, first 500 and 200 images, even against odd, pixels in [0, 1]",
    ),
    quick=_scale(
        images="digits",
        repeats=2,
        etas={kind: etas[:1] for kind, etas in ETA.items()},
        sizes=dict.fromkeys(ETA, 4),
        steps=dict.fromkeys(ETA, 100),
        kept=3,
        data_set="digits",
    ),
    minutes=30,
    needs=("MNIST",),
    device=device.describe,
)
