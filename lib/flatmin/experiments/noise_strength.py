"""M22 Fig. 2 and 5: noise strength 𝒩 = Tr Σ against the loss L along training.

M22's fully connected network on all 60 000 images takes hours of CPU time to small losses, so a smaller one
on 10 000 of them is judged, and the first epochs of the large one are kept beside it.

The rule of the verdicts, fixed before the curves at this scale were seen:

- *Late*, for the square loss: L at most a tenth of 0.45, the loss of the best constant outputs on ten equal
  classes. For cross-entropy the *middle* is 0.1 ≤ L ≤ 1 and *small* is L ≤ 0.01. A network is judged in such
  a range if its losses there span a factor of 10; if not, it did not get there and says nothing. (Nor does
  a run that crosses half of it between two measurements: such a half has no slope.)
- Each range is cut at its geometric middle. In either half the slope of log 𝒩 against log L is fitted by
  least squares, with its standard error from the scatter about the line.
- M22 says "roughly 𝒩 ∝ L": the slope in *both* halves must be the printed one within three standard
  errors, allowing a tenth of the printed value for "roughly". Where the halves disagree there is no power
  law, whatever one line through both gives: not reproduced.
- The repaired statement, for the square loss: 𝒩 ∝ L Tr G, the decoupling approximation without M22's
  further assumption that Tr G has stopped to change. Where the slope against L fails and the slope against
  L Tr G is 1 by the same test, the claim is corrected.
"""

import time
import warnings
from pathlib import Path

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.ledger.arrays import load_state, save_state, sha256
from flatmin.ledger.sweeps import canonical
from flatmin.networks import device, models, parameters
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at
from flatmin.networks.train import train

STATE = "noise-strength run"
BATCH_SIZE = 100
#: M22 does not give its pixel scaling; with the square loss on [−1, 1] its η = 0.1 diverges
SCALE = "unit"
ETA = {"fcn": {"square": 0.1, "cross-entropy": 0.1}, "cnn": {"square": 0.1, "cross-entropy": 0.05}}
#: names of the losses in the names of arrays
SHORT = {"square": "square", "cross-entropy": "xent"}
MEASURES = ("loss", "strength", "gradient_square", "trace_g")
#: images in one pass, and images that Tr G is measured on (None: all)
CHUNK = {"fcn": 2000, "cnn": 250}
FACTOR_SAMPLES = 1000
TRACE_SAMPLES = {"fcn": 2000, "cnn": None}


def measure(point, seed):
    """Train one network; return MEASURES along it, (epochs,) each, ∞ once it has diverged.

    Also ``seconds``, and for the square loss ``factors`` (2,), by which samples and outputs leave decoupling
    at the end.

    ``point``: kind (``"fcn"``, ``"cnn"``), data, samples, widths, loss, epochs (measured; the first is 0),
    repeat; states: a folder where the run is kept and goes on after a kill, with more epochs too (default:
    not kept). The repeat is the seed.
    """
    seed = point["repeat"]
    data = datasets.by_name(point["data"], point["samples"], SCALE).train
    model, epochs = network(point, data, seed), list(point["epochs"])
    file = state_file(point) if "states" in point else None
    rows, model, seconds = resumed(file, epochs, model)
    begun = time.perf_counter() - seconds
    for index in range(len(rows), len(epochs)):
        model = trained(model, data, point, seed, epochs[max(index - 1, 0)], epochs[index])
        if model is None:
            rows += [[np.inf] * len(MEASURES)] * (len(epochs) - len(rows))
            break
        rows.append(observed(model, data, point))
        if file is not None:
            state = {"rows": rows, "epochs": epochs[: len(rows)], "theta": parameters.vector(model).numpy()}
            save_state(file, state | {"seconds": time.perf_counter() - begun}, STATE)
    found = dict(zip(MEASURES, np.array(rows).T, strict=True))
    if point["loss"] == "square":
        found["factors"] = factors(model, data)
    return found | {"seconds": time.perf_counter() - begun}


def network(point, data, seed):
    """The network of a point at its start."""
    if point["kind"] == "fcn":
        return models.mlp((data.inputs[0].numel(), *point["widths"], 10), seed, "glorot")
    return models.cnn_stacks(point["widths"], seed=seed)


def trained(model, data, point, seed, start, stop):
    """The network after the epochs ``start`` … ``stop``; None if it diverged."""
    if start == stop:
        return model
    runs = train(
        model,
        point["loss"],
        data,
        eta=ETA[point["kind"]][point["loss"]],
        batch_size=BATCH_SIZE,
        steps=(stop - start) * (len(data) // BATCH_SIZE),
        seed=1_000_000 * seed + start,  # other batches in every stretch
        keep=1,
    )
    return None if runs.diverged[0] else runs.model_at()


def observed(model, data, point):
    """MEASURES of one network."""
    kind, loss = point["kind"], point["loss"]
    found = at(model, loss, data).noise.strength(CHUNK[kind])
    count = TRACE_SAMPLES[kind]
    part = data if count is None else data.first(min(count, len(data)))
    trace = at(model, loss, part, chunk=CHUNK[kind]).gauss_newton_trace()
    return [found.loss, found.value, found.gradient_square, trace.value]


def factors(model, data):
    """The factors by which samples and outputs leave decoupling, on at most FACTOR_SAMPLES images."""
    if model is None:
        return np.full(2, np.nan)
    part = data.first(min(FACTOR_SAMPLES, len(data)))
    found = at(model, "square", part).noise.decoupling_factors()
    return np.array([found.samples, found.outputs])


def state_file(point) -> Path:
    """Where the state of a run is kept: the same file for any number of epochs, in any folder."""
    rest = {key: value for key, value in point.items() if key not in ("epochs", "states")}
    return Path(point["states"]) / f"{sha256(canonical(rest).encode())[:32]}.npz"


def resumed(file, epochs, model):
    """Rows measured so far, the network there and the seconds spent; the start where no state fits."""
    try:
        state = None if file is None else load_state(file, STATE)
    except ValueError as damaged:
        warnings.warn(f"{damaged}: the run begins anew", stacklevel=2)
        state = None
    done = [] if state is None else np.atleast_1d(state["epochs"]).tolist()
    if not done or done != epochs[: len(done)]:
        return [], model, 0.0
    theta = parameters.vector(model).new_tensor(state["theta"])
    rows = np.reshape(state["rows"], (len(done), -1)).tolist()
    return rows, parameters.with_parameters(model, theta), float(state["seconds"])


def epochs_until(last, every):
    """Epochs 0, 1, 2, 3, 4, 6, 8, 12, … doubling in pairs, then one in ``every``, up to ``last``."""
    early = sorted({0, 1, 2, 3, *(2**k for k in range(2, 20)), *(3 * 2**k for k in range(1, 20))})
    return [e for e in early if e < min(2 * every, last + 1)] + list(range(2 * every, last + 1, every))


#: the paper's fully connected network, and one of 300 units on 10 000 images; stacks of 16, 32, 64 channels
#: (paper: 64, 128, 256) on 2000 images (paper: 50 000)
LARGE_FCN = {"kind": "fcn", "data": "fashion-mnist", "samples": 60_000, "widths": (2000,) * 3}
FCN = LARGE_FCN | {"samples": 10_000, "widths": (300,) * 3}
CNN = {"kind": "cnn", "data": "cifar10", "samples": 2000, "widths": (16, 32, 64)}
#: name of a set of runs: point, losses with the epochs measured and repeats
SETS = {
    "large": (LARGE_FCN, {"square": (epochs_until(28, 4), 1)}),
    "fcn": (FCN, {"square": (epochs_until(320, 8), 2), "cross-entropy": (epochs_until(200, 2), 2)}),
    "cnn": (CNN, {"square": (epochs_until(300, 10), 1), "cross-entropy": (epochs_until(200, 10), 1)}),
}
QUICK = {"kind": "fcn", "data": "digits", "samples": 1000, "widths": (20, 20, 20)}
QUICK_SETS = {"fcn": (QUICK, {loss: (epochs_until(40, 4), 2) for loss in ("square", "cross-entropy")})}


def scale_of(sets, **texts):
    """The scale of ``sets``: name → point, {loss: (epochs, repeats)}; arrays SET_LOSS_MEASURE."""
    grids, more = {}, {}
    for name, (point, losses) in sets.items():
        for loss, (epochs, repeats) in losses.items():
            common = point | {"loss": loss, "epochs": epochs}
            key = f"{name}_{SHORT[loss]}"
            grids[key] = Grid(measure, common, {"repeat": range(repeats)}, seed=1, states=True)
            more[f"{key}_epochs"] = epochs
    return Scale(grids, more, **texts)


EXPERIMENT = Experiment(
    name="noise-strength",
    title="Noise strength against loss, both loss functions (M22 Fig. 2, 5)",
    claims=("m22-noise-strength", "m22-noise-strength-xent"),
    full=scale_of(
        SETS,
        text=(
            "η and B of M22 Fig. 2 and 5. Fully connected: 784-300-300-300-10 on the first 10 000 images, 2 "
            "runs for each loss, and M22's own network on its 60 000 images for 28 epochs with the square "
            "loss. Convolutional: stacks of 16, 32, 64 channels (paper: 64, 128, 256) on the first 2000 "
            "images (paper: 50 000), one run for each loss"
        ),
        data_set="Fashion-MNIST, 10 000 and 60 000 images; CIFAR-10, 2000 images",
    ),
    quick=scale_of(QUICK_SETS, data_set="digits"),
    minutes=40,
    needs=("Fashion-MNIST", "CIFAR-10"),
    seed=(0, 1),
    device=device.describe,
)
