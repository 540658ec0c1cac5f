"""Flatness on MNIST (Y23 Fig. 2b, 3b and the late growth): SGD, descent and Langevin noise, compared fairly.

What is known of Y23's runs: a fully connected network with two hidden layers of 50, η = 0.05, B = 50, 100,
200. The number of images, the loss, the start and the Hessian (whole, or a layer's) are not; so the base is
Y26's: the first 100 images of each class, 784-50-50-10, He's start, cross-entropy, and both Hessians.

What decides was fixed before the run. Nothing was looked at on the starts 0–9; a pilot with starts 100 and
101 chose ηt = 200 as the end, the scale 0.3 of the small start and the levels of the loss.

- The quantity is ln F by Y23 Eq. 6 (top ten eigenvalues); Y26's is twice that, with the same verdicts.
- Two runs are compared that share the start; ten starts give ten differences, and their mean an error three
  of which reach Student's 99.73 % quantile (:func:`flatmin.estimate.independent_mean`).
- *Equal ηt*: the mean of the differences at ηt = 20, 50, 100, 200 (``AT``). *Equal loss*: the mean over
  the levels of the training loss (``LEVELS``), each where it is first passed, ln F being linear in ln loss
  between checkpoints. A level counts that all compared runs pass at eight starts of ten or more
  (:func:`flatmin.networks.scaling.over_levels`), a start where they pass all of these. Each level is shown.
- ``y23-mnist-dynamics``: SGD (B = 50) above GD, and above GLD. ``y23-mnist-batch``: the slope of ln F on
  ln of the noise (n − B)/(B(n − 1)), B = 50, 100, 200, at η = 0.05. ``y23-mnist-eta``: the slope on ln η,
  0.01…0.1, at B = 50. Each *reproduced* only where it is positive by three errors at equal ηt and at equal
  loss, of the whole Hessian and of the layer, in the base. The other settings (square loss, small start,
  10,000 images) are shown beside it.
- A control that must find nothing: SGD with other batch orders, the same starts.
- ``y23-scaling``: late is from the first checkpoint on from which all images are classified rightly, to the
  end. If it is a global scaling of the weights by s, ‖W_l‖ grows by s = α^(1/3), where α brings the outputs
  of the early network to the late loss. The measure is the mean over layers of ln(growth of ‖W_l‖)/ln s over
  SGD's runs (B = 50); printed 1, and within ``SCALING`` of 1 counts as that. The test accuracy changes by
  less than ``ACCURACY``.
- *When the noise acts*: SGD until ηt_s, then GD, and the other way round; ln F against that of GD throughout,
  at ηt = 100 and 200 and at equal loss.

Arrays, with C runs (``eta``, ``batch_size``, ``method``), S starts, T checkpoints (``at``): KEY_NAME of shape
(C, S, T, …), NAME as :func:`flatmin.networks.scaling.along` says, for the KEYs base, square, small (both with
all weights at the start scaled by 0.3) and many (10,000 images, fewer runs); KEY_late (C, S) the checkpoint
from which on all images are right (−1: never), KEY_factor (C, S), KEY_copy_whole, KEY_copy_layer (C, S, 4,
10): α and the spectra of the copies (all layers scaled, or layer 1, 2, 3 alone) at the late loss. And
sgd_first_NAME, gd_first_NAME (2 scales of the start, ``switches``, 5 starts, checkpoints after the last
switch, …): SGD, then GD from ηt_s on, and the other way round.
"""

from __future__ import annotations

import numpy as np
import torch

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.networks import device, models, scaling
from flatmin.networks.data import sets
from flatmin.networks.train import train

#: method, batch size (also of the noise that GLD matches), step size, batch orders
RUNS = (
    ("sgd", 50, 0.05, 0),
    ("sgd", 100, 0.05, 0),
    ("sgd", 200, 0.05, 0),
    ("gd", 50, 0.05, 0),
    ("gld", 50, 0.05, 0),
    ("sgd", 50, 0.01, 0),
    ("sgd", 50, 0.02, 0),
    ("sgd", 50, 0.1, 0),
    ("sgd", 50, 0.05, 1),
)
#: checkpoints ηt
TAUS = (0, 1, 2, 3, 5, 7, 10, 14, 20, 30, 40, 50, 70, 100, 140, 200)
#: where runs are compared at equal ηt, and the levels of the training loss by setting
AT = (20, 50, 100, 200)
LEVELS = {
    "base": (0.2, 0.05, 0.01, 0.005),
    "small": (0.2, 0.05, 0.01, 0.005),
    "square": (0.2, 0.1, 0.03, 0.012),
    "many": (0.3, 0.2, 0.1),
}
#: scale of the small start; ηt at which the method is switched
SMALL, SWITCHES = 0.3, (2, 5, 10, 20, 40)
#: what still counts as a scaling by the whole factor, and as an unchanged test accuracy
SCALING, ACCURACY = 0.1, 0.005


def images(kind, per_class):
    """Training and test images of a point; ``per_class`` of each class, or the first 10 ``per_class``."""
    train_set, test = sets.by_name(kind)
    whole = per_class > 500
    return (train_set.first(10 * per_class) if whole else train_set.per_class(per_class)), test


def networks(data, starts, hidden, scale):
    """One network a start, all weights multiplied by ``scale``."""
    sizes = (data.inputs[0].numel(), *hidden, 10)
    found = [models.mlp(sizes, seed=start) for start in range(starts)]
    with torch.no_grad():
        for model in found:
            for parameter in model.parameters():
                parameter.mul_(scale)
    return found


def steps_of(taus, eta):
    """Steps at which ηt has the values ``taus``."""
    return np.rint(np.asarray(taus) / eta).astype(int).tolist()


def seeds(starts, orders=0):
    """Seeds of the batch orders, or of Langevin noise: one a start."""
    return [1000 * (1 + orders) + start for start in range(starts)]


def along(point, seed):
    """All starts of one setting by one method, and :func:`flatmin.networks.scaling.along` them.

    ``point``: kind, per_class, loss, hidden, scale, starts, taus, run (method, batch size, η, orders).
    """
    data, test = images(point["kind"], point["per_class"])
    method, batch_size, eta, orders = point["run"]
    runs = train(
        networks(data, point["starts"], point["hidden"], point["scale"]),
        point["loss"],
        data,
        method=method,
        eta=eta,
        batch_size=batch_size,
        seed=seeds(point["starts"], orders),
        steps=steps_of(point["taus"], eta)[-1],
        keep=steps_of(point["taus"], eta),
    )
    found = scaling.along(runs, data, test)
    return short(found | {"diverged": runs.diverged} | late(runs, found, data))


def short(found):
    """The arrays with as many digits as they are worth."""
    floats = {n: np.asarray(v) for n, v in found.items()}
    return {n: v.astype(np.float32) if v.dtype.kind == "f" else v for n, v in floats.items()}


def late(runs, found, data):
    """The copies of the networks from which on all images are classified rightly, at the final loss."""
    wrong = found["fitted"] < 1
    first = wrong.shape[1] - np.argmax(wrong[:, ::-1], axis=1)
    first = np.where(wrong.any(1), first, 0)
    fits = (first < wrong.shape[1] - 1) & ~runs.diverged
    shape = len(runs), 1 + found["norms"].shape[-1], found["whole"].shape[-1]
    factor, whole, layer = np.full(shape[:1], np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    if runs.loss == "cross-entropy" and fits.any():
        thetas, levels = runs.parameters[fits, first[fits]], found["loss"][fits, -1]
        factor[fits], whole[fits], layer[fits] = scaling.copies(runs.model, runs.loss, data, thetas, levels)
    first = np.where(fits, first, -1)
    return {"late": first, "factor": factor, "copy_whole": whole, "copy_layer": layer}


def switched(point, seed):
    """One method until ηt_s, another from there to the end, for every ηt_s; all starts.

    ``point``: as for :func:`along`, with ``switches``, ``first`` and ``then`` (methods), ``eta``,
    ``batch_size``; the checkpoints are those of ``taus`` after the last switch. (switches, S, T, …).
    """
    data, test = images(point["kind"], point["per_class"])
    times, starts, eta = point["switches"], point["starts"], point["eta"]
    how = {"eta": eta, "batch_size": point["batch_size"], "seed": seeds(starts)}
    before = train(
        networks(data, starts, point["hidden"], point["scale"]),
        point["loss"],
        data,
        method=point["first"],
        steps=steps_of(times, eta)[-1],
        keep=steps_of(times, eta),
        **how,
    )
    how["seed"] = seeds(starts, 2)
    rows = []
    for place, time in enumerate(times):
        keep = steps_of([tau - time for tau in point["taus"] if tau > times[-1]], eta)
        midway = [before.model_at(start, place) for start in range(starts)]
        how |= {"method": point["then"], "steps": keep[-1], "keep": keep}
        runs = train(midway, point["loss"], data, **how)
        rows.append(scaling.along(runs, data, test) | {"diverged": runs.diverged})
    return short({name: np.stack([row[name] for row in rows]) for name in rows[0]})


def _scale(kind, sizes, starts, hidden, taus, compared, runs, fewer, switches, **texts):
    """``sizes``: images of a class, few and many; ``runs``, and the ``fewer`` of the setting with many."""
    few, many = sizes
    common = {"kind": kind, "per_class": few, "hidden": hidden, "taus": taus, "starts": starts}
    common |= {"scale": 1.0, "loss": "cross-entropy"}
    settings = {
        "base": {},
        "square": {"loss": "square", "scale": SMALL},
        "small": {"scale": SMALL},
        "many": {"per_class": many, "starts": min(5, starts)},
    }
    chosen = {"many": fewer}
    grids = {
        key: Grid(along, common | own, {"run": [list(run) for run in chosen.get(key, runs)]}, seed=1)
        for key, own in settings.items()
    }
    _, batch_size, eta, _ = runs[0]
    common |= {"starts": min(5, starts), "switches": switches, "eta": eta, "batch_size": batch_size}
    for first, then in (("sgd", "gd"), ("gd", "sgd")):
        how = common | {"first": first, "then": then}
        grids[f"{first}_first"] = Grid(switched, how, {"scale": (1.0, SMALL)}, seed=1)
    names = ("method", "batch_size", "eta", "orders")
    more = {name: np.array(values) for name, values in zip(names, zip(*runs, strict=True), strict=True)}
    more |= {f"levels_{key}": levels for key, levels in LEVELS.items()}
    more |= {"compared_at": compared, "late_at": [tau for tau in taus if tau > switches[-1]]}
    more |= {"at": taus, "switches": switches, "fewer": [runs.index(run) for run in fewer]}
    return Scale(grids, more, **texts)


EXPERIMENT = Experiment(
    name="flatness-mnist",
    title="Flatness on MNIST: SGD, descent and Langevin noise (Y23 Fig. 2b, 3b)",
    claims=("y23-mnist-dynamics", "y23-mnist-batch", "y23-mnist-eta", "y23-scaling"),
    full=_scale(
        kind="mnist",
        sizes=(100, 1000),
        starts=10,
        hidden=(50, 50),
        taus=TAUS,
        compared=AT,
        runs=RUNS,
        fewer=(RUNS[0], RUNS[2], RUNS[3], RUNS[4]),
        switches=SWITCHES,
        text=(
            "784-50-50-10 as Y23, η = 0.05 and B = 50, 100, 200 as its Fig. 3b; 10 starts, ηt = 200; the "
            "1000 images, the starts and both Hessians are Y26's or ours, Y23's own are not known"
        ),
        data_set="MNIST, first 100 images of each class (and the first 10,000); test: all 10,000",
    ),
    quick=_scale(
        kind="digits",
        sizes=(10, 20),
        starts=3,
        hidden=(12, 10),
        taus=(0, 2, 10, 40),
        compared=(10, 40),
        runs=(("sgd", 20, 0.1, 0), ("gd", 20, 0.1, 0)),
        fewer=(("sgd", 20, 0.1, 0),),
        switches=(2, 4),
        data_set="digits",
    ),
    minutes=55,
    needs=("MNIST",),
    device=device.describe,
)
