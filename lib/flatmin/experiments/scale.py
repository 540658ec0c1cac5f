"""W22 Fig. 5a, 6a and 6b: alignment along training, flatness and the bound for VGG and ResNet on CIFAR-10.

Square loss on one-hot targets, plain SGD with batches drawn epoch by epoch; no batch norm, regularisation,
augmentation or momentum. Each image has mean 0 and variance 1. VGG starts from He's initialisation with a
quarter of it in the last layer, ResNet from Fixup's but for its branches and head, which do not start at 0.

Arrays. D depths, R runs, T checkpoints; KIND is ``vgg`` or ``resnet``.

=====================================================  ==================  ==================================
name                                                   shape               meaning
=====================================================  ==================  ==================================
KIND_depths, KIND_eta, KIND_steps, KIND_samples        (D,), (), (T,), ()  networks, η, checkpoints, n
batch_size                                             ()                  B of these runs
KIND_loss                                              (D, R, T)           L on the training set
KIND_mu, KIND_alpha, KIND_beta, KIND_g_norm,           (D, R, T)           μ, α, β, ‖G‖_F, Tr G, Tr Σ of
KIND_trace_g, KIND_trace_sigma                                             ``sampled_alignment``
KIND_bound                                             (D, R, T)           η‖G‖_F √(μ/B), 1 on W22's bound
KIND_NAME_error                                        (D, R, T)           jackknife error of each of these 7
KIND_sharpness                                         (D, R)              at the end: η/2 batch sharpness
KIND_sharpness_error                                   (D, R)
KIND_largest                                           (D, R)              ηλ₁(H)/2, ``few`` samples
KIND_edge_exact, …descent, …trace, …bound,             (D, R)              the front door's ``edge`` on the
KIND_edge_…sharpness                                                       ``rows`` first samples, draws with
                                                                           replacement, each 1 at the edge
KIND_parameters, KIND_diverged                         (D, R)
KIND_batch_NAME                                        (N, R, …)           the same for KIND_batch_depth, at
                                                                           the N other ``batch_sizes``
=====================================================  ==================  ==================================

A run that diverged holds ∞ from then on, and its kind and depth are left out of what is judged.
``scale-full`` (:mod:`.scale_full`) records the same names at full width, without KIND_batch.

Decided before the full run:

* A solution is *convergent* where its last L is at most ``deep.CONVERGED`` = 0.01, of 0.45 for the best
  constant; only those are judged for flatness and batch size. A family with none says so, and the other is
  judged.
* w22-cifar-alignment. "Significantly positive": chapter 5 reads it as μ ≥ 0.1 for one output; with K outputs
  whose blocks of G are alike, ‖G‖² is K times and L the sum of theirs, and μ is 1/K of one's. Read as a
  lower end μ − 3 errors of at least ``deep.LEAST`` = 0.1/10 at every checkpoint, size and run. "Nearly
  independent of size": slope of ln μ against ln P at the last checkpoint within 0.05 of 0, one family at a
  time.
* w22-cifar-flatness. The bound holds: KIND_bound + 3 errors ≤ 1 for all. Tight: KIND_bound ≥ 0.5. Flatness
  nearly independent of size: the slope of ln ‖G‖_F against ln P within 0.05 of 0.
* w22-cifar-batch. Tightens: the mean over runs of the slope of ln KIND_bound on ln B is below 0, by Student's
  t over the runs. What is arithmetic in it: with s the slope of ln ‖G‖_F and m that of ln μ, that slope is
  s + (m − 1)/2; at s = m = 0 only the bound moves, at s = ½ SGD saturates it. W22's reading (the solution
  comes nearer to the edge) needs the exact ratio, KIND_edge_exact, to rise as B falls.

B = 5 and 25 were run first. B = 100 came later, under the same rules, after half of its steps had been tried
on one VGG-13, which was not at its end then.
"""

import math

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.networks import device, models, parameters
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at
from flatmin.networks.sampled import batch_sharpness, sampled_alignment
from flatmin.networks.train import train

#: chosen on one seed and 200 images, before anything was measured
ETA = {"vgg": 0.02, "resnet": 0.2}
STEPS = {"vgg": 4_000, "resnet": 4_000}
DEPTHS = {"vgg": (11, 13, 16, 19), "resnet": (20, 32, 44, 56)}
WIDTH = {"vgg": 16, "resnet": 8}
SAMPLES = {"vgg": 500, "resnet": 200}
BATCH_SIZE, BATCH_SIZES = 25, (5, 100)
#: not VGG-11, of which two of three starts diverge at this η
BATCH_DEPTH = {"vgg": 13, "resnet": 20}
MEASURES = ("mu", "alpha", "beta", "g_norm", "trace_g", "trace_sigma")


def task(images, samples):
    """The first so many images (n, 3, 32, 32), each of mean 0 and variance 1, with one-hot targets.

    Digits are enlarged.
    """
    data = datasets.by_name(images, samples).train.one_hot()
    inputs = data.inputs
    if inputs.ndim == 2:
        side = math.isqrt(inputs.shape[1])
        grey = inputs.view(-1, 1, side, side).repeat_interleave(32 // side, 2)
        inputs = grey.repeat_interleave(32 // side, 3).expand(-1, 3, -1, -1)
    centred = inputs - inputs.mean((1, 2, 3), keepdim=True)
    return datasets.Data(centred / centred.std((1, 2, 3), keepdim=True), data.targets, data.name)


def network(kind, depth, width, seed):
    """VGG with small outputs, or Fixup ResNet whose branches and head do not start at 0; slow scalars."""
    if kind == "vgg":
        return models.vgg(depth, seed, width, head=0.25)
    return models.FixupResNet(depth, seed, width, branch=2.0, head=1.0, scalars=0.1**0.5)


def along(point, seed):
    """Train ``runs`` networks of one kind and size; their arrays, see the module's text, the runs first.

    ``point``: kind, depth, width, images, samples, eta, batch_size, steps, checkpoints, runs; ``drawn``
    samples of the estimator, ``rows`` of the exact edge, ``few`` of λ₁, ``batches`` of the batch sharpness.
    """
    data, seeds = task(point["images"], point["samples"]), range(point["runs"])
    models = [network(point["kind"], point["depth"], point["width"], seed) for seed in seeds]
    how = {name: point[name] for name in ("eta", "batch_size", "steps")}
    runs = train(models, "square", data, seed=seeds, keep=point["checkpoints"], **how)
    lost, found = dict.fromkeys(("loss", *_names()), np.inf), []
    for run in seeds:
        late = runs.diverged[run] & (runs.kept >= runs.diverged_at[run])
        each = [lost if late[i] else noise(runs.model_at(run, i), data, point) for i in range(len(late))]
        values = {name: [one[name] for one in each] for name in lost}
        found.append(values | _ends(None if late[-1] else runs.model_at(run), data, point))
    values = {name: np.array([one[name] for one in found]) for name in found[0]}
    size = np.full(len(seeds), parameters.vector(models[0]).numel())
    return values | {"parameters": size, "diverged": runs.diverged}


def _names():
    return [name + more for name in (*MEASURES, "bound") for more in ("", "_error")]


def noise(model, data, point):
    """L, and α, β, μ, norms and W22's ratio to its bound with their errors, by sampling."""
    here = at(model, "square", data, checks=False)
    found = sampled_alignment(here, point["drawn"])
    each = [getattr(found, name) for name in MEASURES]
    each.append(found.bound(point["eta"], point["batch_size"]))
    numbers = [number for one in each for number in (one.value, one.error)]
    return {"loss": found.loss} | dict(zip(_names(), numbers, strict=True))


def _ends(model, data, point):
    """The edges at the end of training, each a ratio that is 1 there; ∞ for a run that diverged."""
    names = [f"edge_{name}" for name in ("exact", "descent", "trace", "bound", "sharpness")]
    names += ["largest", "sharpness", "sharpness_error"]
    if model is None:
        return dict.fromkeys(names, np.inf)
    eta, size = point["eta"], point["batch_size"]
    here = at(model, "square", data, checks=False)  # at the smallest losses they find 1 % of rounding
    edge = here.first(point["rows"]).edge(eta, size, "replacement")
    largest = here.first(point["few"]).eigenpairs(1, tolerance=1e-2, missed=1).values[0]
    sharp = batch_sharpness(here, size, point["batches"], sampling="epoch")
    found = [edge.exact, edge.descent, edge.trace, edge.bound, float(edge.sharpness)]
    found += [float(largest) * eta / 2, sharp.value * eta / 2, sharp.error * eta / 2]
    return dict(zip(names, found, strict=True))


def grids_of(depths, width, samples, steps, eta, checkpoints, batch_depth=(), batch_sizes=(), **common):
    """Grids and further arrays; the dicts hold a value by kind. ``batch_sizes``: for ``batch_depth``."""
    grids, more = {}, {"batch_size": BATCH_SIZE, "batch_sizes": batch_sizes}
    by_kind = {"width": width, "samples": samples, "steps": steps, "eta": eta}
    for kind in depths:
        at = [0, *np.geomspace(10, steps[kind], checkpoints - 1).round().astype(int).tolist()]
        own = {name: values[kind] for name, values in by_kind.items()} | {"kind": kind, "checkpoints": at}
        grids[kind] = Grid(along, own | common | {"batch_size": BATCH_SIZE}, {"depth": depths[kind]})
        if kind in batch_depth:
            one = {"depth": batch_depth[kind]}
            grids[f"{kind}_batch"] = Grid(along, own | common | one, {"batch_size": batch_sizes})
            more |= {f"{kind}_batch_depth": batch_depth[kind]}
        more |= {f"{kind}_depths": depths[kind], f"{kind}_steps": at}
        more |= {f"{kind}_eta": eta[kind], f"{kind}_samples": samples[kind]}
    return grids, more


#: a few images, for seconds
SMALL = {
    "images": "digits",
    "drawn": 8,
    "rows": 12,
    "few": 12,
    "batches": 2,
    "checkpoints": 2,
    "runs": 2,
    "samples": dict.fromkeys(WIDTH, 40),
    "width": dict.fromkeys(WIDTH, 2),
    "steps": dict.fromkeys(WIDTH, 20),
}

EXPERIMENT = Experiment(
    name="scale",
    title="VGG and ResNet on a few hundred images of CIFAR-10: alignment, flatness, bound (W22 Fig. 5a, 6)",
    claims=("w22-cifar-alignment", "w22-cifar-flatness", "w22-cifar-batch"),
    full=Scale(
        *grids_of(
            depths=DEPTHS,
            width=WIDTH,
            samples=SAMPLES,
            steps=STEPS,
            eta=ETA,
            checkpoints=7,
            runs=3,
            batch_depth=BATCH_DEPTH,
            batch_sizes=BATCH_SIZES,
            images="cifar10",
            drawn=128,
            rows=60,
            few=200,
            batches=40,
        ),
        text=(
            "VGG-11…19 at a quarter and ResNet-20…56 at half of W22's width, on 500 and 200 of its "
            "50,000 images, 3 runs; step sizes, batch sizes and lengths are ours, W22's appendix is not at "
            "hand"
        ),
        data_set="CIFAR-10, first training images, each of mean 0 and variance 1, one-hot targets",
    ),
    quick=Scale(
        *grids_of(
            depths={"vgg": (11, 13), "resnet": (8, 14)},
            eta=ETA,
            batch_depth={"vgg": 11, "resnet": 8},
            batch_sizes=(5, 10),
            **SMALL,
        ),
        data_set="digits, enlarged to 32×32",
    ),
    minutes=60,
    needs=("CIFAR-10",),
    device=device.describe,
)
