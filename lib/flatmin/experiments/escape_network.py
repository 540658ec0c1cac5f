"""M22 Fig. 3c at scale: first-passage times of the loss of even/odd networks on 10 000 MNIST images.

Rules, written down before the run. One earlier network (seed 1) had shown a power near the printed one for
n = 9 where passages take 100 to 1000 steps; it is left out, and both windows below are judged on five new
networks, the units of every error (Student's t). M22's axis begins at t = ηk = 1, 100 steps at η = 0.01: the
later window lies on it, the earlier before it.

- A network and its linearisation are run on the same batches: the same seeds, for every step size too. Each
  network has seeds of its own.
- Power of c: :func:`flatmin.networks.passage_times.powers` in each of :data:`.passage_times.WINDOWS`, ranges
  of the network's mean passage time in steps, fewer than three levels reached by all runs counting as none.
- The offset of a network is the mean of power − B/(ηh) over the η at B = 10 that have a power of the network
  and of its linearisation in the window, h its own. It is compared with 1 − n/2, for n = 9 (the one that
  M22 takes) and for its own n = 1/Σp², and with the offset of its linearisation. Without an offset of every
  network a window says nothing.
- B = 5 against B = 10 at equal η/B: log of the ratio of the two mean passage times, at the highest c ≤ 2 that
  all runs of both and of their linearisations reached, mean over the two η/B.
"""

from functools import lru_cache

import numpy as np
import torch

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.parity_network import parity_data
from flatmin.networks import curvature, models, parameters
from flatmin.networks.passage_times import around
from flatmin.networks.passages import first_passages
from flatmin.networks.point import at
from flatmin.networks.train import train
from flatmin.theory.logarithmic.passages import decoupled_passages
from flatmin.theory.stability import threshold as stability

PRETRAINING = {"eta": 0.01, "batch_size": 100}  # M22 §5.3, then B = 10
BATCH_SIZE = 10
#: M22 does not give its step sizes: these go from that of the pre-training, in equal steps, to three quarters
#: of the limit of mean-square stability, 0.023
ETAS = (0.01, 0.0135, 0.017)
LEVELS = np.geomspace(1.05, 8, 64)
SNAPSHOTS = (1.25, 1.5, 2.0, 3.0, 4.0)
SHARP = 60  # directions in which the limit of stability is computed
WINDOW = 200  # steps kept before and after the passage of SHOWN
SHOWN = 2.0
LOOKED = 4  # runs of each network that are looked at, with seeds after those of the passages


@lru_cache(maxsize=1)
def images(name, samples):
    """The even/odd data."""
    return parity_data(name, samples, "unit")


@lru_cache(maxsize=16)
def pretrained(name, samples, steps, seed):
    """The even/odd data and the network 784-10-1 (64-10-1 for digits) trained on it, as M22 pre-trains."""
    data = images(name, samples)
    start = models.mlp((data.inputs[0].numel(), 10, 1), seed, "glorot")
    runs = train(start, "square", data, **PRETRAINING, steps=steps, seed=seed, keep=1)
    return data, runs.model_at()


def network_of(point):
    """The data and the network of a point."""
    return pretrained(point["data"], point["samples"], point["pretraining"], point["network"])


def sharpest(model, data):
    """Curvature and noise along the sharpest direction v of the Gauss–Newton matrix G, and the loss.

    ``h`` = λ₁(G); ``noise`` = vᵀ⟨∇ℓᵢ∇ℓᵢᵀ⟩v/(2Lh), 1 where decoupling holds.
    """
    here = at(model, "square", data)
    passed, pair = here.passed, here.eigenpairs(1, matrix="gauss-newton")
    along = torch.cat([part @ pair.vectors[:, 0] for part in output_gradients(model, data)]).square().numpy()
    h, errors = float(pair.values[0]), 2 * passed.losses.numpy()
    return {"h": h, "noise": (errors * along).mean() / (2 * passed.loss * h), "loss": passed.loss}


def output_gradients(model, data, rows=1000):
    """∇fᵢ of a network of one output, (rows, P) at a time."""
    passed = at(model, "square", data).passed
    for start in range(0, len(data), rows):
        yield passed.sample_roots(slice(start, start + rows))[:, 0]


def at_start(point, seed):
    """The pre-trained network: :func:`sharpest`, ``dimension`` = 1/Σp², and ``threshold``, the largest η
    stable in mean square in the SHARP sharpest directions."""
    data, model = network_of(point)
    here = at(model, "square", data)
    pairs = here.eigenpairs(SHARP, matrix="gauss-newton")
    tops = pairs.values.double().numpy()
    rows = [part @ pairs.vectors for part in output_gradients(model, data)]
    modes = torch.cat(rows).double().numpy() / np.sqrt(len(data) * tops)
    gram = curvature.gram(here.passed).double()
    return sharpest(model, data) | {
        "dimension": float(gram.trace() ** 2 / gram.square().sum()),
        "threshold": stability.largest_step(stability.Minimum(1, pairs=(tops, modes)), BATCH_SIZE),
    }


def seeds_of(point, first, runs):
    """Seeds of so many runs of a network's, the same for every η, B and model."""
    return 1000 * point["network"] + first + np.arange(runs)


def passages(point, seed):
    """First passages (R, LEVELS) at one η and B: ``network``, ``tangent`` (linear in θ) on the same batches,
    and ``decoupled``, M22's own quadratic model with its steps kept discrete, from 100 eigenvalues."""
    data, model = network_of(point)
    how = {"eta": point["eta"], "batch_size": point["batch_size"], "steps": point["steps"]}
    seeds = seeds_of(point, 0, point["runs"])
    found = {
        name: first_passages(model, data, LEVELS, **how, seeds=seeds, linearised=name == "tangent").steps
        for name in ("network", "tangent")
    }
    tops = at(model, "square", data).eigenpairs(100, matrix="gauss-newton").values.numpy()
    decoupled = decoupled_passages(tops, LEVELS, **how, runs=point["runs"], seed=seed)
    return {name: steps.astype(np.int32) for name, steps in (found | {"decoupled": decoupled}).items()}


def looked(point, seed):
    """Some runs looked at: ``path`` (LOOKED, 2 WINDOW + 1), the loss in units of L* around the first passage
    of SHOWN, NaN where there was none; ``local_h``, ``local_noise``, ``local_loss`` (LOOKED, SNAPSHOTS): what
    :func:`sharpest` measures where the runs pass, NaN where they do not."""
    data, model = network_of(point)
    how = {"eta": point["eta"], "batch_size": BATCH_SIZE, "steps": point["steps"], "keep_every": 1}
    seeds = seeds_of(point, point["runs"], LOOKED)
    first = first_passages(model, data, LEVELS, **how, seeds=seeds, snapshots=SNAPSHOTS)
    local = {name: np.full((LOOKED, len(SNAPSHOTS)), np.nan) for name in ("h", "noise", "loss")}
    for place in np.ndindex(LOOKED, len(SNAPSHOTS)):
        theta = first.parameters[place]
        if np.isfinite(theta).all():
            there = parameters.with_parameters(model, model[1].weight.new_tensor(theta))
            for name, value in sharpest(there, data).items():
                local[name][place] = value
    paths = around(first.losses / first.reference, SHOWN, WINDOW)
    return {"path": paths} | {f"local_{name}": values for name, values in local.items()}


def _scale(networks, start, runs, steps, **texts):
    common = start | {"runs": runs, "steps": steps, "batch_size": BATCH_SIZE}
    axis, halves = {"network": networks}, [eta / 2 for eta in ETAS[::2]]
    smaller = common | {"batch_size": BATCH_SIZE // 2}
    grids = {  # here: the points of a network share it, and its Gram matrix fills the memory
        "start": Grid(at_start, start, axis, names="{}", here=True),
        "looked": Grid(looked, common | {"eta": ETAS[1]}, axis, seed=1, names="{}", here=True),
        "passages": Grid(passages, common, axis | {"eta": ETAS}, seed=1, names="{}", here=True),
        "smaller": Grid(passages, smaller, axis | {"eta": halves}, seed=1, here=True),
    }
    return Scale(grids, {"etas": ETAS, "levels": LEVELS, "snapshots": SNAPSHOTS, "limit": steps}, **texts)


EXPERIMENT = Experiment(
    name="escape-network",
    title="First passages of the loss of the even/odd network (M22 Fig. 3c)",
    claims=("m22-mfpt-network",),
    full=_scale(
        (2, 3, 4, 5, 6),
        {"data": "mnist", "samples": 10_000, "pretraining": 100_000},  # a Gram matrix takes 0.4 GB
        runs=20,
        steps=2000,
        text=(
            "five networks, 20 runs of each at every η (M22: one, 100 runs); images, pre-training and B = 10 "
            "of M22, whose step sizes and lengths are not given; runs of at most 2000 steps; B = 5 besides"
        ),
        data_set="MNIST, first 10 000 images, even against odd, pixels in [0, 1]",
    ),
    quick=_scale(
        (2, 3),
        {"data": "digits", "samples": 300, "pretraining": 5000},
        runs=4,
        steps=300,
        data_set="digits",
    ),
    minutes=20,
    needs=("MNIST",),
)
