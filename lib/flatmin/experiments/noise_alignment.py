"""W22 Fig. 1 and 2: α, β, μ, γ along training and at its end against model size, four kinds of models.

w22-norm-uniformity, "γ is bounded below along training". The least γ of each kind (.003 to .3) had been seen;
the rule follows from what γ is for, and not from these. Judged by the mean over the 5 runs, Student's t:

* *It does not fall*: the slope of ln γ against the logarithm of the step, over the last tenfold of steps and
  averaged over sizes, is at least −0.05, the 0.05 by which "nearly independent" of size is read. (Random
  features have a constant γ.)
* *It says something*: γ stands for μ₀ in ‖H‖_F ≤ √(B/μ₀)/η (W22 Theorem 3.3). Gradient descent's λ₁ ≤ 2/η
  alone gives ‖H‖_F ≤ 2√r/η for a matrix of rank r, at most the least of n, P and, for the linear network, d.
  So γ must exceed B/(4r), at every size and checkpoint, or Lemma 2.2 tells nothing that is not known.
"""

import numpy as np
import torch

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.networks import device, models, parameters
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at
from flatmin.networks.train import train

MEASURES = ("alpha", "beta", "mu", "mu_1", "mu_2", "gamma", "tau", "loss")
#: step sizes and numbers of steps are ours: W22's appendix, which has theirs, is not at hand
ETA = {"rfm": None, "linear": 0.002, "fcn": 0.01, "cnn": 0.01}
STEPS = {"rfm": 20_000, "linear": 20_000, "fcn": 10_000, "cnn": 5_000}
SIZES = {
    "rfm": (50, 100, 200, 500, 1000, 2000, 5000),  # features m
    "linear": (10, 20, 50, 100, 200, 500),  # width of two hidden layers
    "fcn": (8, 16, 32, 64, 128, 256, 512),  # width of two hidden layers
    "cnn": (2, 4, 8, 16, 32),  # channels of the first stack
}
#: samples and input dimension: Gaussian for the linear network (W22: 100 and 50), sphere for the features
SAMPLES = {"rfm": 100, "linear": 100, "fcn": 500, "cnn": 200}


def task(kind, seed, images="mnist", scale="unit"):
    """Training set of a kind of model: one real output, square loss; images are even against odd labels."""
    n = SAMPLES[kind]
    if kind == "linear":
        return datasets.gaussian(n, 50, seed, dtype=torch.float32)
    if kind == "rfm":
        return datasets.sphere(n, 10, seed, dtype=torch.float32)
    data = datasets.by_name(images, n, scale).train.parity()
    if data.inputs.ndim == 4:
        return data
    side = round(data.inputs.shape[1] ** 0.5)  # the digits come flat
    return datasets.Data(data.inputs.view(n, 1, side, side), data.targets, data.name)


def network(kind, size, seed, data):
    """Model of a kind and size for the inputs of ``data``."""
    if kind == "rfm":
        return models.random_features(data.inputs.shape[1], size, seed)
    inputs = data.inputs[0].numel()
    if kind == "linear":
        return models.linear_network((inputs, size, size, 1), seed)
    if kind == "fcn":
        return models.mlp((inputs, size, size, 1), seed)
    return models.cnn_stacks((size, 2 * size), 1, seed, "he", 1, data.inputs.shape[-1], 1)


def step_size(kind, model, data):
    """η of a kind; for the random-feature model 1/λ₁(G), which is known and constant."""
    if kind != "rfm":
        return ETA[kind]
    features = model[0](data.inputs)
    return float(1 / torch.linalg.matrix_norm(features, 2) ** 2 * len(data))


def along(point, seed):
    """Train one model with B = 5 and return MEASURES at each checkpoint, (checkpoints,) each.

    ``point``: kind, size, steps, checkpoints, images, repeat. ``parameters`` is P.
    """
    kind, repeat = point["kind"], point["repeat"]
    data = task(kind, repeat, point["images"])
    model = network(kind, point["size"], repeat, data)
    runs = train(
        model,
        "square",
        data,
        eta=step_size(kind, model, data),
        batch_size=5,
        steps=point["steps"],
        seed=repeat,
        keep=point["checkpoints"],
    )
    found = [
        at(runs.model_at(0, i).double(), "square", data.to(torch.float64)).noise.alignment()
        for i in range(len(runs.kept))
    ]
    values = {name: np.array([getattr(one, name) for one in found]) for name in MEASURES}
    return values | {"parameters": parameters.vector(model).numel(), "diverged": runs.diverged[0]}


def _scale(images, repeats, sizes, steps, kept, **texts):
    """``sizes``, ``steps``, ``kept``: by kind of model; the last is the number of checkpoints after 0."""
    grids, more = {}, {}
    for kind in SIZES:
        at = [0, *np.geomspace(5, steps[kind], kept[kind]).round().astype(int).tolist()]
        common = {"kind": kind, "steps": steps[kind], "images": images, "checkpoints": at}
        axes = {"size": sizes[kind], "repeat": range(repeats)}
        grids[kind] = Grid(along, common, axes, seed=1)
        more |= {f"{kind}_sizes": sizes[kind], f"{kind}_steps": at}
    return Scale(grids, more, **texts)


EXPERIMENT = Experiment(
    name="noise-alignment",
    title="Alignment of the noise along training and against size (W22 Fig. 1, 2)",
    claims=("w22-alignment-training", "w22-alignment-size", "w22-norm-uniformity"),
    full=_scale(
        images="mnist",
        repeats=5,
        sizes=SIZES,
        steps=STEPS,
        kept=dict.fromkeys(SIZES, 17) | {"cnn": 9},
        text=(
            "four kinds of models and 5 runs as W22 Fig. 1; n = 100, d = 50 for the linear network; all "
            "other sizes, data and step sizes are ours, W22's appendix is not at hand"
        ),
        data_set="Gaussian and sphere inputs; MNIST, first 500 and 200 images, even against odd",
    ),
    quick=_scale(
        images="digits",
        repeats=2,
        sizes={kind: sizes[:2] for kind, sizes in SIZES.items()},
        steps=dict.fromkeys(SIZES, 50),
        kept=dict.fromkeys(SIZES, 3),
        data_set="Gaussian and sphere inputs; digits",
    ),
    minutes=20,
    needs=("MNIST",),
    device=device.describe,
)
