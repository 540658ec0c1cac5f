"""W22 Fig. 5a at full width on a GPU: eight of the nine networks, n = 10,000, the first 1500 steps.

Arrays and rules are those of :mod:`.scale`, without KIND_batch. Nothing converges in so few steps: this
judges the alignment alone. ``DEPTHS`` takes ResNet-110 too, and finished points are kept.
"""

from flatmin.experiments import Experiment, Scale, scale
from flatmin.networks import device

DEPTHS = {"vgg": (11, 13, 16, 19), "resnet": (20, 32, 44, 56)}
WIDTH = {"vgg": 64, "resnet": 16}
ETA = {"vgg": 0.005, "resnet": 0.1}

EXPERIMENT = Experiment(
    name="scale-full",
    title="VGG and ResNet at full width on 10,000 images of CIFAR-10 (W22 Fig. 5a)",
    claims=("w22-cifar-alignment",),
    full=Scale(
        *scale.grids_of(
            depths=DEPTHS,
            width=WIDTH,
            samples=dict.fromkeys(WIDTH, 10_000),
            steps=dict.fromkeys(WIDTH, 1_500),
            eta=ETA,
            checkpoints=5,
            images="cifar10",
            drawn=128,
            rows=60,
            few=200,
            batches=10,
            runs=1,
        ),
        text=(
            "eight VGG and ResNet at full width, one run each, 1500 steps on 10,000 of W22's 50,000 images; "
            "step sizes, batch size and lengths are ours, W22's appendix is not at hand"
        ),
        data_set="CIFAR-10, first 10,000 training images, each of mean 0 and variance 1, one-hot targets",
    ),
    quick=Scale(
        *scale.grids_of(depths={"vgg": (11,), "resnet": (8,)}, eta=ETA, **scale.SMALL | {"runs": 1}),
        data_set="digits, enlarged to 32×32",
    ),
    minutes=11,
    needs=("GPU", "CIFAR-10"),
    device=device.describe,
)
