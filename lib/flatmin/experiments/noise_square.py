"""The exponent of the noise for the square loss on MNIST: M22's own case, one output, and ten outputs.

The network, images and layer of ``noise-spectrum``; pixels in [0, 1], Glorot's start, B = 100 and η of M22.
The rule for the exponent, decided before this run, stands there. Arrays: ``one_NAME`` and ``ten_NAME``.
Ten networks each, as planned: five were read first, the others were added under the same rule. With ten
outputs the 1000 eigenvalues kept end within the third window.
"""

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.noise_spectrum import spectra
from flatmin.networks import device

M22 = {"scale": "unit", "loss": "square", "start": "glorot", "kept": 1000}
#: number of outputs and η of M22 §5.1 (even against odd) and §5.2 (one-hot targets)
CASES = {"one": {"outputs": 1, "eta": 0.01}, "ten": {"outputs": 10, "eta": 0.1}}


def _scale(epochs, networks, size, **texts):
    grids = {
        key: Grid(spectra, size | M22 | case | {"epochs": epochs}, repeats=networks, seed=1)
        for key, case in CASES.items()
    }
    return Scale(grids, {"epochs": epochs}, **texts)


EXPERIMENT = Experiment(
    name="noise-square",
    title="Exponent of the noise against the curvature for the square loss, one and ten outputs",
    claims=("exponent-c-h",),
    full=_scale(
        (5, 50, 500),
        10,
        {"data": "mnist", "per_class": 100, "hidden": 50},
        text=(
            "η and B of M22 and its two kinds of targets; MNIST, first 100 images of each class (M22: 10 000 "
            "images), 784-50-50-1 and -10, 500 epochs, the second layer's 2500 weights; 10 networks each"
        ),
        data_set="MNIST, 1000 images",
    ),
    quick=_scale((1, 5), 2, {"data": "digits", "per_class": 90, "hidden": 12}, data_set="digits"),
    minutes=6,
    needs=("MNIST",),
    device=device.describe,
    provenance={"exact": {"hessian": True, "noise": "without replacement"}},
)
