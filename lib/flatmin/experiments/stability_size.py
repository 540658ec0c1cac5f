"""W22 Fig. 3a: ‖H‖_F and Tr H of SGD's solution against the size of the network, η and B fixed."""

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.noise_alignment import SAMPLES, SIZES
from flatmin.experiments.stability_training import along
from flatmin.networks import device, models, parameters
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at
from flatmin.networks.train import train

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


def one_hot(point, seed):
    """Train a fully connected network with ten outputs on one-hot targets; ``loss``, ``frobenius`` ‖G‖_F and
    ``trace`` at the end.

    ``point``: images, size, repeat, eta, steps.
    """
    size, repeat = point["size"], point["repeat"]
    data = datasets.by_name(point["images"], SAMPLES["fcn"], "unit").train
    model = models.mlp((data.inputs[0].numel(), size, size, 10), repeat)
    how = {"eta": point["eta"], "batch_size": BATCH_SIZE, "steps": point["steps"]}
    runs = train(model, "square", data, seed=repeat, keep=1, **how)
    end = runs.model_at(0)
    here = at(end, "square", data)
    noise = here.noise.alignment()
    return {
        "loss": noise.loss,
        "frobenius": noise.g_norm,
        "trace": here.trace().value,
        "parameters": parameters.vector(model).numel(),
        "diverged": runs.diverged[0],
    }


def _grid(axes, repeats, steps, **common):
    """Networks measured at the start and the end; the runs are the last axis."""
    common |= {"batch_size": BATCH_SIZE, "steps": steps, "checkpoints": [0, steps], "hessian": False}
    return Grid(along, common, axes | {"repeat": range(repeats)}, seed=1)


def _scale(images, repeats, etas, sizes, steps, widths, variants, few, **texts):
    """``etas``, ``sizes``, ``steps``: by kind of model; ``few``: the runs of the variants."""
    grids, more = {}, {"variant_widths": widths}
    for kind in ETA:
        axes = {"eta": etas[kind], "size": sizes[kind]}
        grids[kind] = _grid(axes, repeats, steps[kind], kind=kind, images=images, scale="unit")
        more |= {f"{kind}_sizes": sizes[kind], f"{kind}_eta": etas[kind]}
    for name, variant in variants.items():
        grids[name] = _grid({"size": widths}, few, steps["fcn"], kind="fcn", **variant)
    common = {"images": images, "eta": 0.05, "steps": steps["fcn"]}
    grids["one_hot"] = Grid(one_hot, common, {"size": widths, "repeat": range(few)}, seed=1)
    return Scale(grids, more, **texts)


EXPERIMENT = Experiment(
    name="stability-size",
    title="Flatness of SGD's solution against the size of the network (W22 Fig. 3a)",
    claims=("w22-frobenius-size",),
    full=_scale(
        images="mnist",
        repeats=5,
        etas=ETA,
        sizes={kind: SIZES[kind][: 4 if kind == "cnn" else None] for kind in ETA},
        steps=STEPS,
        widths=(16, 64, 256),
        variants=VARIANTS,
        few=3,
        text=(
            "5 runs as W22 Fig. 3a, B = 5; fully connected with 500 images, convolutional with 200, linear "
            "with n = 100, d = 50; data, sizes, step sizes and B are ours, W22's appendix is not at hand"
        ),
        data_set="Gaussian inputs; MNIST, Fashion-MNIST and CIFAR-10, first 500 and 200 images",
    ),
    quick=_scale(
        images="digits",
        repeats=2,
        etas={kind: etas[:2] for kind, etas in ETA.items()},
        sizes={kind: SIZES[kind][:2] for kind in ETA},
        steps=dict.fromkeys(ETA, 50),
        widths=(4, 8),
        variants={},
        few=2,
        data_set="Gaussian inputs; digits",
    ),
    minutes=20,
    needs=("MNIST", "Fashion-MNIST", "CIFAR-10"),
    device=device.describe,
)
