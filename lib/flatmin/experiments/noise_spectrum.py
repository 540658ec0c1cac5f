"""Y23 Fig. 1 at scale: Hessian spectrum of an MNIST network, and the gradient noise in its eigenbasis.

How the exponent of C_ii ∝ λ_i^s is judged, here and in ``noise-square``; decided before the square losses
were run (of cross-entropy, fits over λ ≥ 10⁻², 10⁻³, 10⁻⁴ λ₁ had been seen):

* The slope of ln C_ii against ln λ_i is fitted in each network and each of three disjoint windows, λ/λ₁ in
  10⁻²…1, 10⁻³…10⁻², 10⁻⁴…10⁻³; mean and error over the networks by Student's t.
* *One power*: the difference of the largest and the smallest of the three slopes, paired over networks, stays
  below 0.2 (a tenth to either side of 1). If not, there is no single exponent, whatever one line gives.
* *The power is 1, or 2*: the slope in the window where it is farthest from that agrees within three errors
  and a tenth of the power.
* y23-noise-in-hessian-basis. C follows H over four decades: in each of them the slope is at least ½, and the
  points scatter about the line of their decade by less than a factor of 2.
"""

import torch

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.networks import device, models
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at
from flatmin.networks.train import train

#: η and B of Y23 Fig. 1; the network, its 1000 images and the start are those of the same group's Y26
ETA, BATCH_SIZE, EPOCHS = 0.05, 100, 200
CHECKPOINTS = (0, 1, 5, 20, 50, 100, 200)  # epochs
KEPT = 2000  # eigenvalues shown in Y23 Fig. 1b
LAYER = 2


def task(point):
    """The images of a point, so many of each class: labels, or ±1 for even and odd with one output."""
    data = datasets.by_name(point["data"], None, point["scale"], torch.float64).train
    data = data.per_class(point["per_class"])
    return data.parity() if point["outputs"] == 1 else data


def spectra(point, seed):
    """Train one network and measure H and C of its second layer at each checkpoint.

    ``point``: data, scale of its pixels, images of each class, hidden width, outputs, loss, eta, start,
    epochs kept, eigenvalues kept. Returns ``curvature`` and ``noise`` (checkpoints, eigenvalues), sharpest
    first, and ``loss`` (checkpoints,).
    """
    data, seed, hidden = task(point), seed % 2**31, point["hidden"]
    sizes = (data.inputs[0].numel(), hidden, hidden, point["outputs"])
    start = models.mlp(sizes, seed, point["start"])
    steps = [epoch * (len(data) // BATCH_SIZE) for epoch in point["epochs"]]
    how = {"eta": point["eta"], "batch_size": BATCH_SIZE, "steps": steps[-1]}
    runs = train(start, point["loss"], data, **how, seed=seed, keep=steps)
    rows = {"curvature": [], "noise": []}
    for checkpoint in range(len(steps)):
        here = at(runs.model_at(0, checkpoint).double(), point["loss"], data)
        basis = here.noise.in_hessian_basis(BATCH_SIZE, layer=LAYER)
        for name, values in rows.items():
            values.append(getattr(basis, name)[: point["kept"]].float())
    return {name: torch.stack(values).numpy() for name, values in rows.items()} | {
        "loss": runs.losses(data)[0]
    }


ENTROPY = {
    "scale": "symmetric",
    "loss": "cross-entropy",
    "outputs": 10,
    "eta": ETA,
    "start": "he",
    "kept": KEPT,
}


def _scale(epochs, networks, size, **texts):
    common = size | ENTROPY | {"epochs": epochs}
    return Scale(
        {"": Grid(spectra, common, repeats=networks, seed=1, names="{}")}, {"epochs": epochs}, **texts
    )


EXPERIMENT = Experiment(
    name="noise-spectrum",
    title="Gradient noise in the eigenbasis of the Hessian along training (Y23 Fig. 1)",
    claims=("y23-hessian-spectrum", "y23-noise-in-hessian-basis", "exponent-c-h"),
    full=_scale(
        CHECKPOINTS,
        10,
        {"data": "mnist", "per_class": 100, "hidden": 50},
        text=(
            "η, B and epochs of Y23 Fig. 1; MNIST, first 100 images of each class, and the second layer's "
            "2500 weights (Y23 does not say which images and which part of the Hessian)"
        ),
        data_set="MNIST, 1000 images",
    ),
    quick=_scale(CHECKPOINTS[:4], 2, {"data": "digits", "per_class": 90, "hidden": 12}, data_set="digits"),
    minutes=10,
    needs=("MNIST",),
    device=device.describe,
    provenance={"exact": {"hessian": True, "noise": "without replacement"}},
)
