"""M22 Fig. 2 and 5: noise strength 𝒩 against the loss L at M22's width, and nearer to it.

The fully connected network is M22's own, on its 60 000 images; the convolutional one has half of M22's
channels, on 5000 of its 50 000 images. What is measured, the arrays and the rules are those of
:mod:`.noise_strength`, with the same ranges of losses. Fixed before the run: these runs are judged beside the
smaller ones, each set as a part of its own; where a set and its smaller twin disagree, the verdict at the
larger scale stands and the smaller is named as a matter of scale.

The fully connected network was planned for 320 and 200 epochs; the time on the GPU ended after 272 and 56.
Of the convolutional one, the first run with the square loss is from the GPU too, where its ``factors``,
measured at the end, were not reached (NaN); the others ran on one core each. With cross-entropy it was
planned for 128 epochs too: at 96 the checks refused one of the two runs, whose curvature is rounding in
single precision by then (L = 3e-5), so both end at 88.
"""

from flatmin.experiments import Experiment
from flatmin.experiments.noise_strength import CNN, LARGE_FCN, QUICK, epochs_until, scale_of
from flatmin.networks import device

HALF_CNN = CNN | {"samples": 5000, "widths": (32, 64, 128)}
#: name of a set of runs: point, losses with the epochs measured and repeats
SETS = {
    "large": (LARGE_FCN, {"square": (epochs_until(272, 8), 2), "cross-entropy": (epochs_until(56, 4), 2)}),
    "half": (HALF_CNN, {"square": (epochs_until(128, 8), 3), "cross-entropy": (epochs_until(88, 8), 2)}),
}
QUICK_SETS = {
    "large": (QUICK, {"square": (epochs_until(12, 4), 2), "cross-entropy": (epochs_until(4, 4), 2)}),
    "half": (QUICK, {"square": (epochs_until(4, 4), 3), "cross-entropy": (epochs_until(4, 4), 2)}),
}

EXPERIMENT = Experiment(
    name="noise-strength-wide",
    title="Noise strength against loss at M22's width, both loss functions (M22 Fig. 2, 5)",
    claims=("m22-noise-strength", "m22-noise-strength-xent"),
    full=scale_of(
        SETS,
        text=(
            "η and B of M22 Fig. 2 and 5. Fully connected: M22's 784-2000-2000-2000-10 on its 60 000 images, "
            "2 runs for each loss. Convolutional: 32, 64, 128 channels (paper: 64, 128, 256) on the "
            "first 5000 images (paper: 50 000), 3 runs with the square loss and 2 with cross-entropy"
        ),
        data_set="Fashion-MNIST, 60 000 images; CIFAR-10, 5000 images",
    ),
    quick=scale_of(QUICK_SETS, data_set="digits"),
    minutes=60,
    needs=("Fashion-MNIST", "CIFAR-10", "GPU"),
    seed=(0, 1, 2),
    device=device.describe,
)
