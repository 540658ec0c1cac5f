"""Y23 Fig. 1 at scale: Hessian spectrum of an MNIST network, and the gradient noise in its eigenbasis."""

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


def spectra(point, seed):
    """Train one network and measure H and C of its second layer at each checkpoint.

    ``point``: data, images of each class, hidden width, epochs kept. Returns ``curvature`` and ``noise``
    (checkpoints, KEPT or fewer), sharpest first, ``loss`` (checkpoints,), ``top`` (checkpoints, 20)
    eigenvalues of the whole Hessian, ``trace`` of it.
    """
    data, hidden = datasets.by_name(point["data"], dtype=torch.float64).train, point["hidden"]
    data = data.per_class(point["per_class"])
    start = models.mlp((data.inputs[0].numel(), hidden, hidden, 10), seed % 2**31)
    steps = [epoch * (len(data) // BATCH_SIZE) for epoch in point["epochs"]]
    runs = train(
        start,
        "cross-entropy",
        data,
        eta=ETA,
        batch_size=BATCH_SIZE,
        steps=steps[-1],
        seed=seed % 2**31,
        keep=steps,
    )
    rows = {"curvature": [], "noise": [], "top": [], "trace": []}
    for checkpoint in range(len(steps)):
        model = runs.model_at(0, checkpoint).double()
        here = at(model, "cross-entropy", data)
        basis = here.noise.in_hessian_basis(BATCH_SIZE, layer=LAYER)
        rows["curvature"].append(basis.curvature[:KEPT].float())
        rows["noise"].append(basis.noise[:KEPT].float())
        rows["top"].append(here.eigenpairs(20).values)
        rows["trace"].append(torch.tensor(here.trace().value))
    return {name: torch.stack(values).numpy() for name, values in rows.items()} | {
        "loss": runs.losses(data)[0]
    }


def _scale(epochs, networks, size, **texts):
    grids = {"": Grid(spectra, size | {"epochs": epochs}, repeats=networks, seed=1, names="{}")}
    return Scale(grids, {"epochs": epochs}, **texts)


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
