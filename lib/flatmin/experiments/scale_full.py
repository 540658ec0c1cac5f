"""W22 Fig. 5 and 6 at full width on a GPU: all nine networks, and the escape of the two that W22 shows.

Arrays and rules are those of :mod:`.scale`, without KIND_batch, and, under KIND_escape_NAME, those of
:mod:`.scale_escape` for VGG-19 and ResNet-110.
"""

from flatmin.experiments import Experiment, Scale, scale, scale_escape
from flatmin.networks import device

DEPTHS = {"vgg": (11, 13, 16, 19), "resnet": (20, 32, 44, 56, 110)}
WIDTH = {"vgg": 64, "resnet": 16}
ETA = {"vgg": 0.0025, "resnet": 0.2}
STEPS = {"vgg": 4_000, "resnet": 3_000}
DESCENT = {"vgg": 2_500, "resnet": 2_500}
#: as many as these lengths bring to a small loss
SAMPLES = {"vgg": 1_000, "resnet": 200}


def _scale(depths, width, steps, descent, few, near, **texts):
    """``near``: what the descents share; ``few``: what the runs share."""
    grids, more = scale.grids_of(depths, width, steps=steps, eta=ETA, **few)
    last = {kind: each[-1:] for kind, each in depths.items()}
    grids |= scale_escape.grids_of(last, width, ETA, descent, repeats=1, names="{}_escape", **near)
    return Scale(grids, more | {"escape_batch_sizes": near["batch_sizes"]}, **texts)


EXPERIMENT = Experiment(
    name="scale-full",
    title="All nine VGG and ResNet at full width on CIFAR-10 (W22 Fig. 5, 6)",
    claims=("w22-cifar-alignment", "w22-cifar-escape", "w22-cifar-flatness"),
    full=_scale(
        DEPTHS,
        WIDTH,
        STEPS,
        DESCENT,
        few={
            "images": "cifar10",
            "samples": SAMPLES,
            "drawn": 128,
            "rows": 60,
            "few": 200,
            "batches": 10,
            "checkpoints": 5,
            "runs": 1,
        },
        near={
            "images": "cifar10",
            "samples": scale_escape.SAMPLES,
            "kept": 20,
            "trajectories": 20,
            "batch_sizes": scale_escape.BATCH_SIZES,
        },
        text=(
            "nine VGG and ResNet at full width, one run each, on 1000 (VGG) and 200 (ResNet) of W22's "
            "50,000 images; step sizes, batch size and lengths are ours, W22's appendix is not at hand"
        ),
        data_set="CIFAR-10, first training images, each of mean 0 and variance 1, one-hot targets",
    ),
    quick=_scale(
        {"vgg": (11,), "resnet": (8,)},
        scale.SMALL["width"],
        scale.SMALL["steps"],
        dict.fromkeys(WIDTH, 40),
        few={name: value for name, value in scale.SMALL.items() if name not in ("width", "steps")}
        | {"runs": 1},
        near={"images": "digits", "samples": 20, "kept": 4, "trajectories": 4, "batch_sizes": (2, 10)},
        data_set="digits, enlarged to 32×32",
    ),
    minutes=5,
    needs=("GPU", "CIFAR-10"),
    device=device.describe,
)
