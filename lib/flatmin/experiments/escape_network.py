"""M22 Fig. 3c at scale: first-passage times of the loss of the even/odd network on 10 000 MNIST images."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

from flatmin.experiments import Experiment
from flatmin.experiments.parity_network import parity_data
from flatmin.ledger import record
from flatmin.networks import curvature, models, parameters
from flatmin.networks.passages import decoupled_passages, first_passages
from flatmin.networks.passes.generic import linearise
from flatmin.networks.train import run as training
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
    runs = training.run(start, data, "square", **PRETRAINING, steps=steps, seed=seed, checkpoints=1)
    return data, runs.model_at()


def sharpest(model, data):
    """Curvature and noise along the sharpest direction v of the Gauss–Newton matrix G.

    ``h`` = λ₁(G); ``kurtosis`` = ⟨(∇fᵢ·v)⁴⟩/h²; ``noise`` = vᵀ⟨∇ℓᵢ∇ℓᵢᵀ⟩v/(2Lh) and ``noise_trace`` = the
    same for traces, both 1 where decoupling holds; ``trace`` = Tr G; ``loss``; ``along`` = (∇fᵢ·v)², (n,).
    """
    passed = linearise(model, data, "square")
    pair = curvature.eigenpairs(model, data, "square", k=1, matrix="gauss-newton")
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
    passed = linearise(model, data, "square")
    for start in range(0, len(data), rows):
        yield passed.sample_roots(slice(start, start + rows))[:, 0]


def at_start(point, seed):
    """The pre-trained network: spectrum of G, and what linear theories predict.

    ``values`` (100,) largest first, ``dimension`` = 1/Σp², :func:`sharpest`; ``threshold`` (SHARP,): largest
    η stable in mean square, in the so many sharpest directions; ``tail`` (ETAS,):
    :func:`~flatmin.networks.passages.tail_exponent` along v.
    """
    data, model = pretrained(point["data"], point["samples"], point["pretraining"], point["network"])
    values = curvature.gauss_newton_spectrum(model, data, "square")
    found = sharpest(model, data)
    pairs = curvature.eigenpairs(model, data, "square", k=SHARP[-1], matrix="gauss-newton")
    tops = pairs.values.double().numpy()
    rows = [part @ pairs.vectors for part in output_gradients(model, data)]
    modes = torch.cat(rows).double().numpy() / np.sqrt(len(data) * tops)
    sharp = [stability.Minimum(tops[:k], modes[:, :k]) for k in SHARP]
    along = torch.from_numpy(found.pop("along"))
    return found | {
        "values": values[:100].numpy(),
        "dimension": curvature.effective_dimension(values.clamp(min=0)),
        "threshold": [stability.largest_step(minimum, BATCH_SIZE) for minimum in sharp],
        "tail": [passages.tail_exponent(along, eta, BATCH_SIZE) for eta in ETAS],
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
        tops = curvature.eigenpairs(model, data, "square", k=100, matrix="gauss-newton").values
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
    for at in np.ndindex(local.shape[:2]):
        theta = first.parameters[at]
        if np.isfinite(theta).all():
            found = sharpest(parameters.with_parameters(model, model[1].weight.new_tensor(theta)), data)
            local[at] = [found[name] for name in LOCAL]
    return {"steps": first.steps, "path": around(first.losses / first.reference), "local": local}


def around(losses):
    """Each run's loss (R, T) from WINDOW steps before its first passage of SHOWN to WINDOW after."""
    padded = np.pad(losses, ((0, 0), (WINDOW, WINDOW)), constant_values=np.nan)
    above = losses > SHOWN
    where = np.where(above.any(1), above.argmax(1), -1)
    return np.array(
        [
            row[at : at + 2 * WINDOW + 1] if at >= 0 else np.full(2 * WINDOW + 1, np.nan)
            for row, at in zip(padded, where, strict=True)
        ],
        dtype=np.float32,
    )


def grid(quick):
    """The points of :func:`passages`, by what they are called in the record."""
    runs, steps, looked = (10, 1000, 2) if quick else (100, 4000, 4)
    common = {"network": 1, "runs": runs, "steps": steps, "looked": 0}

    def points(model, etas, batch_size=BATCH_SIZE):
        return [common | {"model": model, "batch_size": batch_size, "eta": eta} for eta in etas]

    halves = [eta / 2 for eta in ETAS[::2]]
    return {
        "network": [point | {"looked": looked} for point in points("network", ETAS)],
        "tangent": points("tangent", ETAS),
        "smaller": points("network", halves, BATCH_SIZE // 2),
        "smaller_tangent": points("tangent", halves, BATCH_SIZE // 2),
        "decoupled": points("decoupled", ETAS),
        "larger": points("network", [2 * ETAS[0]], 2 * BATCH_SIZE),
    }


def run(folder, quick):
    """The spectrum of one network and what follows from it; first passages of 100 runs for each η and B."""
    common = {"data": "digits" if quick else "mnist", "samples": 1000 if quick else 10_000}
    common |= {"pretraining": 20_000 if quick else 100_000}
    options, kinds = {"name": EXPERIMENT.name, "folder": folder}, grid(quick)
    with ThreadPoolExecutor(1) as one:  # a Gram matrix takes 0.4 GB: one point at a time
        options["executor"] = one
        start = record.sweep(at_start, [common | {"network": 1}], **options)
        arrays, seconds = dict(start[0]), start.seconds
        for kind, points in kinds.items():
            found = record.sweep(passages, [common | point for point in points], seed=1, **options)
            arrays |= {f"{kind}_{name}": values for name, values in record.stack(found).items()}
            seconds += found.seconds
    steps = kinds["network"][0]["steps"]
    return record.save(
        EXPERIMENT.name,
        arrays | {"etas": ETAS, "levels": LEVELS, "snapshots": SNAPSHOTS, "limit": steps},
        seed=[0, 1],
        scale=(
            "one network; images, pre-training, B = 10 and 100 runs of M22, whose step sizes and lengths are "
            f"not given; runs of at most {steps} steps; B = 5 and 20 besides"
        ),
        command=EXPERIMENT.command,
        data_set="digits" if quick else "MNIST, first 10 000 images, even against odd, pixels in [0, 1]",
        wall_time=seconds,
        folder=folder,
    )


EXPERIMENT = Experiment(
    name="escape-network",
    title="First passages of the loss of the even/odd network (M22 Fig. 3c)",
    claims=("m22-mfpt-network",),
    run=run,
    minutes=13,
    needs=("MNIST",),
)
