"""Y26 Fig. S5: freezing of a convolutional network on CIFAR-10, on a stated subset.

The paper's network of 188 810 parameters, pixels in [−1, 1], batches without replacement, F of the output
layer; on the first :data:`PER_CLASS` images of each class in the first training file instead of all 50 000,
6 cells instead of 25, ηt = 80 instead of 1000 (in a pilot at B = 50, η = 0.05 the loss is 0.1 by 35 and
0.005 by 55). Five repeats, all but one with a start of its own; GD continues the first.

**The rules of the verdict, fixed before the run.**

- *Delay*: what the paper plots is the proxy, the first checkpoint with training loss ≤ 0.1. ln ηt of it is
  fitted as in :func:`~flatmin.networks.commitment.delay`; printed: a > 0 and b > 0 by three errors over
  starts (a run that does not get there is censored).
- *Flatness*: slope of ln F of the last checkpoint on ln ηf over the runs that got there, above 0 by three
  errors; at equal loss it is a check of its own.
- The freezing time by Jaccard ≥ 0.9 (200 images as coded; all 10 000) and by barrier is measured beside it:
  shown by cell, without a verdict: one run a cell is continued.

Before the run 3 × 3 cells were planned; the time on the GPU ended after four (η = 0.05, and η = 0.02 at
B = 20); more of them were run later, under the same rules. The arrays ``cells_*`` are those of
:mod:`flatmin.experiments.freezing`, with
``etas``, ``batch_sizes`` and ``times`` of their own; F is of the last weight matrix, and radii need
three repeats of a start, so are NaN.
"""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.freezing_runs import cell
from flatmin.networks import device
from flatmin.networks.commitment import CRITERIA

PER_CLASS = 100
COMMON = {
    "data": "cifar10",
    "images": 10_000,
    "per_class": PER_CLASS,
    "few": 20,
    "kind": "cnn",
    "hidden": (),
    "layer": 5,
    "horizon": 80,
    "checkpoints": 81,
    "coarse": 20,
    "stop": 0.005,
    "equal_loss": 0.001,
    "least_step": 0.05,
    "slow": 0.0,
    "refined": 0,
    "flat_runs": 1,
    "times": (0, 20, 30, 40, 80),
    "flat_times": (0, 30, 80),
    "noise_times": (20,),
    "repeats": (2, 1, 1, 1),
    "continued": (1, 0, 0, 0),
}
#: what shares of a GPU gave; η = 0.01, the third row that was planned, is added here
FULL = {"eta": (0.05, 0.02), "batch_size": (20, 50, 100)}
QUICK = COMMON | {
    "data": "digits",
    "images": None,
    "per_class": 5,
    "kind": "mlp",
    "hidden": (8,),
    "layer": 2,
    "horizon": 10,
    "checkpoints": 21,
    "coarse": 5,
    "stop": 0.5,
    "equal_loss": 0.4,
    "times": (0, 5, 10),
    "flat_times": (10,),
    "noise_times": (10,),
    "repeats": (2, 1),
    "continued": (1, 1),
}


def _scale(common, grid, **texts):
    common = common | {"continued_slow": common["continued"]}
    starts = np.repeat(np.arange(len(common["repeats"])), common["repeats"])
    more = {"etas": grid["eta"], "batch_sizes": grid["batch_size"], "starts": starts}
    more |= {name: common[name] for name in ("horizon", "times", "flat_times", "noise_times", "least_step")}
    more |= {"criteria": list(CRITERIA), "samples": 10 * common["per_class"]}
    return Scale({"cells": Grid(cell, common, grid, seed=6)}, more, **texts)


EXPERIMENT = Experiment(
    name="freezing-cnn",
    title="Freezing of a convolutional network (Y26 Fig. S5)",
    claims=("y26-cnn",),
    full=_scale(
        COMMON,
        FULL,
        text=(
            f"the paper's network; {10 * PER_CLASS} of its 50 000 training images, 6 of its 25 cells, ηt = "
            "80 instead of 1000, 5 repeats from 4 starts instead of 10 from one; F of the output layer"
        ),
        data_set=f"CIFAR-10, first {PER_CLASS} images of each class of the first file; 10 000 test images",
    ),
    quick=_scale(
        QUICK,
        {"eta": (0.2, 0.1), "batch_size": (10, 25)},
        data_set="digits",
    ),
    minutes=10,
    needs=("CIFAR-10", "GPU"),
    device=device.describe,
)
