"""W22 Fig. 5b: gradient descent to a small loss, then SGD at a step that descent survives; VGG and ResNet.

Gradient descent goes down at ETA until L ≤ ``deep.NEAR`` = 0.001 (it ends near its edge, on either side).
From there it goes on at η = ``SHARE`` · 2/λ₁ of the place, for ``SETTLE`` steps; then SGD takes over at the
same η, batches drawn anew at each step. ResNet has the smaller share: in a trial with 0.95 and 200 steps its
curvature, still growing at that loss, passed 2/η before SGD was let go. 0.7 leaves it room to grow by 40 %,
and is above the edge for B = 5 of the ResNets in ``scale`` (at 0.6 to 0.7 there, measured after SGD).

Arrays. D depths, R minima, B = ``batch_sizes`` (small, large), S trajectories, t = 0…20; KIND is ``vgg`` or
``resnet``.

==============================================  ============  ===============================================
name                                            shape         meaning
==============================================  ============  ===============================================
batch_sizes, KIND_depths                        (2,), (D,)
KIND_losses, KIND_linearised                    (D, R, 2, S,  L of the network (∞: diverged) and of its
                                                21)           linearisation, same batches
KIND_mean                                       (D, R, 2, 21) exact E L of the linearisation
KIND_growth, KIND_largest_step                  (D, R, 2)     ρ a step; η* of mean-square stability
KIND_descent                                    (D, R, 21)    gradient descent going on
KIND_eta, KIND_sharpness, KIND_frobenius,       (D, R)        η, λ₁(G), ‖G‖_F, Tr G, μ of the start and its
KIND_trace, KIND_mu, KIND_mu_0                                infimum
KIND_reached, KIND_at, KIND_parameters          (D, R)        L and step at the end of the first descent, P
==============================================  ============  ===============================================

Decided before the full run:

* A minimum is judged if ``reached`` ≤ 0.001, ηλ₁ < 2, ρ > 1 at the small and ρ < 1 at the large batch.
* w22-cifar-escape, exponential: the rate at which the mean loss of the network grows at the small batch
  (slope of ln mean L over the steps until the exact mean of the linearisation passes 0.03, at least two
  steps) is above 0, and equal to the same slope of the exact mean, by three standard errors (bootstrap over
  trajectories). Added when ResNet-20 had been seen, where it turns *not reproduced* into no verdict: judged
  only where the linearised runs with the same batches give the rate of the exact mean by three of their
  errors. Where that mean is carried by runs too rare to be among 50, no error of theirs tells.
* Control: at the large batch, mean L after 20 steps is at most ``deep.HELD`` = 2 times that of the start.
"""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.scale import network, task
from flatmin.experiments.stability_escape import escapes
from flatmin.networks import device
from flatmin.networks.deep import NEAR
from flatmin.networks.point import at
from flatmin.networks.train import train

SHARE = {"vgg": 0.95, "resnet": 0.7}
BATCH_SIZES = (5, 50)
SAMPLES, TRAJECTORIES = 100, 50
#: of the first descent, at a quarter (VGG) and half (ResNet) of the full width
ETA = {"vgg": 0.02, "resnet": 0.2}
DESCENT = {"vgg": 3_000, "resnet": 3_000}
SETTLE = {"vgg": 200, "resnet": 50}
DEPTHS = {"vgg": (11, 19), "resnet": (20,)}
WIDTH = {"vgg": 16, "resnet": 8}


def leave(point, seed):
    """Descend and let SGD go; the arrays of one network and minimum, see the module's text.

    ``point``: kind, depth, width, images, samples, eta, descent, kept, trajectories, batch_sizes, repeat.
    """
    data = task(point["images"], point["samples"])
    model = network(point["kind"], point["depth"], point["width"], point["repeat"])
    kept = np.unique(np.geomspace(10, point["descent"], point["kept"]).round().astype(int))
    before = 0
    for step in kept.tolist():
        how = {"eta": point["eta"], "steps": step - before, "method": "gd", "keep": 1}
        runs = train(model, "square", data, **how)
        model, reached, before = runs.model_at(), runs.losses(data)[0, -1], step
        if reached <= NEAR:
            break
    here = at(model, "square", data)
    top = here.eigenpairs(1, matrix="gauss-newton", tolerance=1e-3, missed=1).values[0]
    eta, settle = 2 * SHARE[point["kind"]] / float(top), SETTLE[point["kind"]]
    model = train(model, "square", data, eta=eta, steps=settle, method="gd", keep=1).model_at()
    found = escapes(model, data, eta, point["batch_sizes"], point["trajectories"], seed % 2**31)
    return found | {"reached": reached, "at": before}


def _scale(depths, width, descent, repeats, texts, **common):
    """The dicts hold a value by kind."""
    grids, more = {}, {f"{kind}_depths": each for kind, each in depths.items()}
    for kind in depths:
        own = {"kind": kind, "width": width[kind], "eta": ETA[kind], "descent": descent[kind]}
        own |= common
        axes = {"depth": depths[kind], "repeat": range(repeats)}
        grids[kind] = Grid(leave, own, axes, seed=1)
    return Scale(grids, more | {"batch_sizes": common["batch_sizes"]}, **texts)


EXPERIMENT = Experiment(
    name="scale-escape",
    title="SGD leaves what gradient descent found, VGG and ResNet on 100 images of CIFAR-10 (W22 Fig. 5b)",
    claims=("w22-cifar-escape",),
    full=_scale(
        DEPTHS,
        WIDTH,
        DESCENT,
        repeats=1,
        images="cifar10",
        samples=SAMPLES,
        kept=40,
        trajectories=TRAJECTORIES,
        batch_sizes=BATCH_SIZES,
        texts={
            "text": (
                "VGG-11, VGG-19 at a quarter and ResNet-20 at half of W22's width, on 100 of its 50,000 "
                "images; step and batch sizes are ours, W22's appendix is not at hand"
            ),
            "data_set": "CIFAR-10, first 100 training images, each of mean 0 and variance 1, one-hot targets",
        },
    ),
    quick=_scale(
        {"vgg": (11,), "resnet": (8,)},
        dict.fromkeys(WIDTH, 2),
        dict.fromkeys(WIDTH, 40),
        repeats=1,
        images="digits",
        samples=20,
        kept=4,
        trajectories=4,
        batch_sizes=(2, 10),
        texts={"data_set": "digits, enlarged to 32×32"},
    ),
    minutes=45,
    needs=("CIFAR-10",),
    device=device.describe,
)
