"""M22 Fig. 3c at scale: first-passage times of the loss of the even/odd network on 10 000 MNIST images."""

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
from flatmin.theory.logarithmic.passages import decoupled_passages, kesten_tail
from flatmin.theory.stability import threshold as stability

PRETRAINING = {"eta": 0.01, "batch_size": 100}  # M22 §5.3, then B = 10
BATCH_SIZE = 10
#: M22 does not give its step sizes: these go from that of the pre-training, in equal steps, to a little below
#: the limit of mean-square stability, 0.023
ETAS = (0.01, 0.0125, 0.015, 0.0175, 0.02)
LEVELS = np.geomspace(1.05, 8, 64)
SNAPSHOTS = (1.25, 1.5, 2.0, 3.0, 4.0)
SHARP = (1, 10, 30, 60)
WINDOW = 200  # steps kept before and after the passage of SHOWN
SHOWN = 2.0
LOCAL = ("h", "trace", "kurtosis", "noise", "noise_trace", "loss")


@lru_cache(maxsize=1)
def pretrained(name, samples, steps, seed):
    """The even/odd data and the network 784-10-1 (64-10-1 for digits) trained on it, as M22 pre-trains."""
    data = parity_data(name, samples, "unit")
    start = models.mlp((data.inputs[0].numel(), 10, 1), seed, "glorot")
    runs = train(start, "square", data, **PRETRAINING, steps=steps, seed=seed, keep=1)
    return data, runs.model_at()


def sharpest(model, data):
    """Curvature and noise along the sharpest direction v of the Gauss–Newton matrix G.

    ``h`` = λ₁(G); ``kurtosis`` = ⟨(∇fᵢ·v)⁴⟩/h²; ``noise`` = vᵀ⟨∇ℓᵢ∇ℓᵢᵀ⟩v/(2Lh) and ``noise_trace`` = the
    same for traces, both 1 where decoupling holds; ``trace`` = Tr G; ``loss``; ``along`` = (∇fᵢ·v)², (n,).
    """
    here = at(model, "square", data)
    passed, pair = here.passed, here.eigenpairs(1, matrix="gauss-newton")
    rows = [(part @ pair.vectors[:, 0], part.square().sum(1)) for part in output_gradients(model, data)]
    along, norms = (torch.cat(part).numpy() for part in zip(*rows, strict=True))
    along = np.square(along)
    h, errors = float(pair.values[0]), 2 * passed.losses.numpy()
    return {
        "h": h,
        "trace": norms.mean(),
        "kurtosis": np.square(along).mean() / h**2,
        "noise": (errors * along).mean() / (2 * passed.loss * h),
        "noise_trace": (errors * norms).mean() / (2 * passed.loss * norms.mean()),
        "loss": passed.loss,
        "along": along,
    }


def output_gradients(model, data, rows=1000):
    """∇fᵢ of a network of one output, (rows, P) at a time."""
    passed = at(model, "square", data).passed
    for start in range(0, len(data), rows):
        yield passed.sample_roots(slice(start, start + rows))[:, 0]


def at_start(point, seed):
    """The pre-trained network: spectrum of G, and what linear theories predict.

    ``values`` (100,) largest first, ``dimension`` = 1/Σp², :func:`sharpest`; ``threshold`` (SHARP,): largest
    η stable in mean square, in the so many sharpest directions; ``tail`` (ETAS,):
    :func:`~flatmin.theory.logarithmic.passages.kesten_tail` along v.
    """
    data, model = pretrained(point["data"], point["samples"], point["pretraining"], point["network"])
    here = at(model, "square", data)
    values = curvature.gauss_newton_spectrum(here)
    found = sharpest(model, data)
    pairs = here.eigenpairs(SHARP[-1], matrix="gauss-newton")
    tops = pairs.values.double().numpy()
    rows = [part @ pairs.vectors for part in output_gradients(model, data)]
    modes = torch.cat(rows).double().numpy() / np.sqrt(len(data) * tops)
    sharp = [stability.Minimum(1, pairs=(tops[:k], modes[:, :k])) for k in SHARP]
    along = found.pop("along")
    return found | {
        "values": values[:100].numpy(),
        "dimension": curvature.effective_dimension(values.clamp(min=0)),
        "threshold": [stability.largest_step(minimum, BATCH_SIZE) for minimum in sharp],
        "tail": [kesten_tail(along, eta, BATCH_SIZE) for eta in ETAS],
    }


def passages(point, seed):
    """First passages at one η and B of one ``model``: "network", "tangent" (linear in θ), or "decoupled".

    "decoupled" is M22's own quadratic model with its steps kept discrete, from the 100 largest eigenvalues.
    ``steps`` (R, LEVELS); for a network that is looked at, ``path`` (R, 2 WINDOW + 1): the loss in units of
    L* around the first passage of SHOWN, NaN where there was none; ``local`` (looked, SNAPSHOTS, LOCAL): what
    :func:`sharpest` measures where the first runs pass.
    """
    data, model = pretrained(point["data"], point["samples"], point["pretraining"], point["network"])
    common = {"eta": point["eta"], "batch_size": point["batch_size"], "steps": point["steps"]}
    if point["model"] == "decoupled":
        tops = at(model, "square", data).eigenpairs(100, matrix="gauss-newton").values
        seed %= 2**31
        found = decoupled_passages(tops.numpy(), LEVELS, **common, runs=point["runs"], seed=seed)
        return {"steps": found}
    first = first_passages(
        model,
        data,
        LEVELS,
        **common,
        seeds=np.random.default_rng(seed).integers(2**31, size=point["runs"]),
        linearised=point["model"] == "tangent",
        snapshots=SNAPSHOTS if point["looked"] else (),
        keep_every=1,
    )
    if not point["looked"]:
        return {"steps": first.steps}
    local = np.full((point["looked"], len(SNAPSHOTS), len(LOCAL)), np.nan)
    for place in np.ndindex(local.shape[:2]):
        theta = first.parameters[place]
        if np.isfinite(theta).all():
            found = sharpest(parameters.with_parameters(model, model[1].weight.new_tensor(theta)), data)
            local[place] = [found[name] for name in LOCAL]
    return {
        "steps": first.steps,
        "path": around(first.losses / first.reference, SHOWN, WINDOW),
        "local": local,
    }


def _scale(start, runs, steps, looked, **texts):
    start = {"network": 1, **start}

    def over(model, etas, batch_size=BATCH_SIZE, looked=0):
        point = {"model": model, "batch_size": batch_size, "runs": runs, "steps": steps, "looked": looked}
        return Grid(passages, start | point, {"eta": etas}, seed=1, here=True)

    halves = [eta / 2 for eta in ETAS[::2]]
    grids = {
        "start": Grid(at_start, start, names="{}", here=True),
        "network": over("network", ETAS, looked=looked),
        "tangent": over("tangent", ETAS),
        "smaller": over("network", halves, BATCH_SIZE // 2),
        "smaller_tangent": over("tangent", halves, BATCH_SIZE // 2),
        "decoupled": over("decoupled", ETAS),
        "larger": over("network", [2 * ETAS[0]], 2 * BATCH_SIZE),
    }
    return Scale(grids, {"etas": ETAS, "levels": LEVELS, "snapshots": SNAPSHOTS, "limit": steps}, **texts)


EXPERIMENT = Experiment(
    name="escape-network",
    title="First passages of the loss of the even/odd network (M22 Fig. 3c)",
    claims=("m22-mfpt-network",),
    full=_scale(
        {"data": "mnist", "samples": 10_000, "pretraining": 100_000},  # a Gram matrix takes 0.4 GB
        runs=100,
        steps=4000,
        looked=4,
        text=(
            "one network; images, pre-training, B = 10 and 100 runs of M22, whose step sizes and lengths are "
            "not given; runs of at most 4000 steps; B = 5 and 20 besides"
        ),
        data_set="MNIST, first 10 000 images, even against odd, pixels in [0, 1]",
    ),
    quick=_scale(
        {"data": "digits", "samples": 1000, "pretraining": 20_000},
        runs=10,
        steps=1000,
        looked=2,
        data_set="digits",
    ),
    minutes=13,
    needs=("MNIST",),
)
