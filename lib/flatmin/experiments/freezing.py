"""Y26 Figs. 1, 2, S1, S3, S4: when does SGD commit to a valley, and what does its noise change in that?

Set-up as the authors' code has it: the first 100 MNIST images of each class, 784-50-50-10 ReLU, He normal
from a shared start, batches without replacement, ηt = 100, checkpoints at ηt = 0, 1, …, 100. Beyond it: six
shared starts (20 repeats of the first, 4 of each other), errors on all 10 000 test images, end points relaxed
to one loss, barriers, a control without valleys (softmax regression).

**The rules of the verdicts, fixed before the run.** The statistics are those of
:mod:`flatmin.networks.commitment`: by start, Student's t over the six.

- *Checkpoints* are continued at :data:`TIMES`; ηt_f lies between two of them. GD has the η of the run, but at
  least :data:`LEAST_STEP`; whether that gives the same end points is measured for B = 50 (``step_*``).
- *As coded*: at most ηt = 100 in all, stopped by the authors' rule; the reference is the raw last checkpoint.
  *Relaxed*: what the rule did not stop goes on, the reference too, until it does (or for ηt = 100 more), so
  that end points are compared at one loss. A run whose reference is still above the stopping loss is a class
  of its own and no part of the relaxed statistics.
- *y26-delay*: :func:`~flatmin.networks.commitment.delay` of the search as coded (to single checkpoints where
  it was refined), Jaccard ≥ 0.9 on 200 images, all runs that did not diverge. Printed: a > 0 and b > 0. The
  other criteria, Eq. 3 and the relaxed end points are shown beside it and change nothing in the verdict.
  Collapse: |a − b| < 2 errors.
- *y26-spread*, *y26-final-flatness*: slope of ln r_θ (layer 2) and of ln F on ln ηf over the runs that
  converged (training accuracy ≥ 0.999; three of a start at least for a radius), above 0 by three errors. The
  same at equal loss (``equal_*``) is a check of its own: a part of the claim that the paper does not make.
- *y26-best-accuracy*: slope of the best test accuracy of a start's repeats (10 000 images) on ln ηf, above 0,
  over the cells in which half of the start's runs converged. Beside it the slope of the mean, and what a
  normal spread alone gives the best of as many.
- *y26-continuation* (B = 50, η = 0.05): slope over ηt_c ≤ 50 of ln F (printed: above 0) and of the test loss
  (below 0) of the end points at ηt = 100; both must have that sign by three errors. The same slopes at equal
  loss (0.005) are checks of their own.
- *y26-freezing-time*: the mean ηt_f of the 20 repeats by Eq. 3 against the printed 21 of one run, whose error
  is the standard deviation between ours; and the mean Jaccard index (10 000 images) between end points of one
  run with ηt_c ≥ 30 above that between runs of a start, by three errors.
- *y26-robustness*: Spearman's rank correlation over cells of the mean of ln ηt_f (at least ln 1) by each
  criterion with that by Jaccard ≥ 0.9, by start: at least 0.8 is "strongly correlated". Share of runs with
  ηt_f no later than the first checkpoint of 100 % training accuracy (of those that reach it): at least half.
- *y26-valleys*: share of pairs of relaxed end points with a barrier above 0.01 over the 16 conditions of
  ``valley_barrier`` (those that reach the stopping loss): at least a half, by three errors.
- *A frozen index is a frozen valley* (ours): share of runs whose t_f by barrier is no later than that by
  Jaccard ≥ 0.9, both by Eq. 3 and relaxed; the null of each similarity is that between independent repeats
  (``cells_pair_*``), and a criterion that independent repeats pass cannot tell valleys apart.

**What was run.** First the 12 cells of η = 0.1 and 0.05, and all rules above were fixed before them; the rows
of smaller η are the same experiment, under the same rules, run when the 12 had been read; that of η = 0.002
last, two of its cells on a GPU and four on a CPU.

**Arrays**, all beginning with ``cells_``, ``control_`` (softmax regression), ``figure_``, ``valley_``,
``step_`` or ``corridor_``. R = 40 runs (``starts``: which start each has), T = 17 ``times``, S = 101 points
ηt = 0…100; *rule* is 0 as coded, 1 relaxed. NaN, or the largest integer, where a run was not continued or
diverged. The leading axes of the cells are (``etas``, ``batch_sizes``) = (6, 6), of the control (1, 2).

``noise``
    η(n − B)/(B(n − 1)).
``diverged`` (R,); ``loss``, ``correct`` (R, S)
    SGD: training loss, training images right (of ``samples``).
``test_loss``, ``test_correct`` (R, 21), ``flat`` (5, 21)
    At every fifth checkpoint, test images of ``tests``; F of the first five runs.
``few_correct`` (R,)
    Of the 200 test images, at the last checkpoint.
``end_loss``, ``_correct``, ``_test_loss``, ``_test_correct``, ``_steps``, ``_outcome`` (R, T, rule)
    End points; outcome 0 stopped by the rule, 1 length, 2 length with the loss above, 3 diverged.
``end_flat`` (R, T)
    F of the relaxed end points, at ``flat_times``.
``same_few``, ``same_all`` (R, T, rule, 2); ``same_agree``, ``same_barrier`` (R, T, rule)
    With the reference (the last end point): errors shared and errors in either (Jaccard is the first over the
    second) on 200 and on all test images; test images predicted alike; barrier.
``frozen`` (R, criterion, rule, 3)
    Position of t_f in ``times`` by each of the ``criteria``: by Eq. 3 (all pairs), by all later end points
    against the reference, by the search (every tenth backwards, then the bracket); T − 1: not before the end.
``search`` (R,)
    ηt_f of the search as coded to a single checkpoint, of the first 5 continued runs.
``pair_few``, ``pair_all`` (Q, 2, 2), ``pair_agree``, ``pair_barrier`` (Q, 2), ``distance`` (Q, 2)
    Q = 190 pairs of runs of start 0 (upper triangle, row by row): last checkpoints, these relaxed; distances
    of last checkpoints in layer 2 and in all weights.
``radius`` (starts, 2, 2)
    r_θ of converged runs: last checkpoints, end points at equal loss; in layer 2, in all weights.
``final_flat`` (R,), ``sharpness`` (5, 2)
    F of the last checkpoint; λ₁ of it and of it relaxed.
``equal_loss``, ``_flat``, ``_test_loss``, ``_test_correct``, ``_outcome`` (R,)
    GD from the last checkpoint to loss 0.002.
``noise_strength``, ``hessian_trace`` (4,)
    Tr Σ (of one sample's gradient) and Tr H of run 0 at ``noise_times``.

``step_few``, ``step_all`` (2, 4, T, 2), ``step_agree``, ``step_barrier`` (2, 4, T)
    η = 0.01, 0.005, four runs: relaxed end points of GD with the run's own η and with LEAST_STEP.
``corridor_losses`` (2, 2, 12, 10, 11), ``_length`` (…, 10), ``_curvature``, ``_noise`` (…, 10, 2)
    Lines between checkpoints of 10 pairs of repeats at ``corridor_times``, (η = 0.05, 0.02) × (B = 20, 50).

For ``figure_*`` see :func:`figure`, for ``valley_*`` :func:`conditions`.
"""

import numpy as np
import torch

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.freezing_runs import LOSS, Ends, Task, cell, half, right
from flatmin.networks import corridors, device, freezing
from flatmin.networks.commitment import CRITERIA
from flatmin.networks.point import at

#: those of the paper; falling, so that what takes longest comes last
ETAS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
BATCH_SIZES = (10, 20, 50, 100, 200, 500)
#: checkpoints, in units of ηt, from which GD continues; every tenth is among them, for the search
TIMES = (0, 2, 4, 6, 8, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100)
#: step of GD where the run's own is smaller: λ₁ of the start is 76, so 2/η is above it all along
LEAST_STEP = 0.02
CORRIDOR_TIMES = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)
#: steps of GD at which the continuations of one run are looked at, in units of ηt
FIGURE_TIMES = (0, 0.25, 0.5, 1, 2, 3.5, 5, 7.5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100)


def figure(point, seed):
    """Fig. 1: continuations of the runs of one cell from ``continued`` ηt_c.

    ``figure_loss``, ``_correct``, ``_test_loss``, ``_test_correct``, ``_flat`` (R, T, 2): end points at the
    horizon, and at the stopping loss; ``_reached`` (R, T): whether the latter was. Of start 0:
    ``_same_few``, ``_same_all`` (20, T(T + 1)/2, 2), ``_same_agree``, ``_same_barrier`` (20, T(T + 1)/2):
    pairs of a run's end points at the horizon (upper triangle with the diagonal, row by row). Of run
    ``shown``: ``_path_*`` (curves, looks): continuations from ``shown_times``: train loss, test loss, F, λ₁;
    ``_sgd_*`` (S,): the same of SGD; ``_path_axes`` (curves, looks, 2), ``_sgd_axes`` (S, 2): on the
    principal axes of layer 2 in all continuations, ``_ratio`` (2,) their share of the variance.
    """
    task, count = Task(point), len(point["times"])
    runs = task.sgd(point["eta"], point["batch_size"], seed)
    which = np.arange(len(runs) * count).reshape(-1, count)
    for start in np.unique(task.start):  # from a shared start there is one descent
        which[task.start == start, 0] = which[np.argmax(task.start == start), 0]
    kept, which = np.unique(which, return_inverse=True)
    which = which.reshape(-1, count)
    row, k = np.divmod(kept, count)
    length = task.horizon - task.times[k]
    starts = runs.parameters[torch.from_numpy(row), torch.from_numpy(task.place(task.times[k]))]
    fixed, equal, reached = _two_ends(task, starts, point["eta"], length)
    found = {"reached": reached[which]}
    for name, values in _readings(task, fixed, equal).items():
        found[name] = values[which]
    own = which[task.start == 0]
    upper = np.stack(np.triu_indices(count), 1)
    test = task.read(task.test, fixed)
    same = [task.alike(test, each) for each in own[:, upper]]
    found |= {f"same_{name}": np.stack([each[name] for each in same]) for name in same[0]}
    heights = [task.barriers(fixed, each) for each in own[:, upper]]
    return found | {"same_barrier": half(heights)} | _shown(task, runs, point)


def _two_ends(task, starts, eta, length):
    """End points of GD at the horizon, at the stopping loss, and whether that was reached."""
    stop = freezing.Stop(task.point["stop"], accuracy=0.0, first=10, every=10, times=1)
    first = task.descend(starts, eta, length, stop)
    stopped = first.outcome == freezing.Outcome.STOPPED
    fixed, equal, reached = first.ends.clone(), first.ends.clone(), stopped.copy()
    early, late = (np.flatnonzero(each) for each in (stopped, ~stopped))
    if len(early):  # GD goes on as if it had not been stopped
        rest = np.maximum(length[early] - first.steps[early] * eta, 0)
        fixed[early] = task.descend(first.ends[early], eta, rest).ends
    if len(late):
        more = task.descend(first.ends[late], eta, task.horizon, stop)
        equal[late], reached[late] = more.ends, more.outcome == freezing.Outcome.STOPPED
    return fixed, equal, reached


def _readings(task, *sets):
    """Loss, images right and F of sets of networks, one set a column."""
    train, test = ([task.read(data, each) for each in sets] for data in (task.train, task.test))
    return {
        "loss": half([each.loss for each in train]).T,
        "correct": np.stack([right(each) for each in train], 1),
        "test_loss": half([each.loss for each in test]).T,
        "test_correct": np.stack([right(each) for each in test], 1),
        "flat": half([task.flat(each) for each in sets]).T,
    }


def _shown(task, runs, point):
    """The continuations of one run as curves, and its path and theirs on principal axes."""
    thetas, eta = runs.parameters[point["shown"]], point["eta"]
    looks = np.round(np.array(point["looks"]) / eta).astype(int)
    begun = thetas[torch.from_numpy(task.place(task.times))]
    paths = task.descend(begun, eta, task.horizon - task.times, keep=looks.tolist()).path
    drawn = np.flatnonzero(np.isin(task.times, point["shown_times"]))
    found = {}
    for name, some in (("path", paths[torch.from_numpy(drawn)]), ("sgd", thetas)):
        flat, lead = some.flatten(0, -2), some.shape[:-1]
        curves = {
            "loss": task.read(task.train, flat).loss,
            "test_loss": task.read(task.test, flat).loss,
            "flat": task.flat(flat),
            "sharpness": task.sharpness(flat),
        }
        found |= {f"{name}_{key}": np.float32(values).reshape(lead) for key, values in curves.items()}
    axes = freezing.principal(paths[:, :, task.block])
    found["path_axes"] = np.float32(axes.project(paths[drawn][:, :, task.block]))
    return found | {"sgd_axes": np.float32(axes.project(thetas[:, task.block])), "ratio": axes.ratio}


def conditions(point, seed):
    """Fig. S1: one run of start 0 for each of K conditions (η, B), ``valleys_etas`` outermost.

    ``valley_few``, ``_all`` (K, K, 2, 2), ``_agree``, ``_barrier``, ``_distance`` (K, K, 2): all pairs of
    last checkpoints, and of these relaxed; ``_loss``, ``_accuracy``, ``_flat`` (K, 2); ``_axes`` (K, 21, 2),
    ``_ratio``: principal axes of layer 2 along SGD; ``_spectrum`` (K, 2500): eigenvalues of the block of
    layer 2 at the last checkpoint.
    """
    task, ends, paths, spectra = Task(point), ([], []), [], []
    pairs = [(b, eta) for eta in point["etas"] for b in point["batch_sizes"]]
    for number, (batch_size, eta) in enumerate(pairs):
        runs = task.sgd(eta, batch_size, seed + number)
        thetas, step = runs.parameters[0], max(eta, point["least_step"])
        relaxed = task.relax(task.descend(thetas[-1:], step, 0), step)[0]
        ends[0].append(thetas[-1:])
        ends[1].append(relaxed)
        paths.append(thetas[:: max(1, (len(thetas) - 1) // 20), task.block])
        block = at(runs.model_at(0), LOSS, task.train).hessian(task.layer)
        spectra.append(torch.linalg.eigvalsh(block).flip(0).cpu().numpy())
    count, found = len(pairs), {"spectrum": np.float32(spectra)}
    place = np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij"), -1)
    each = []
    for thetas in map(torch.cat, ends):
        same = task.alike(task.read(task.test, thetas), place)
        same["barrier"] = half(task.barriers(thetas, place.reshape(-1, 2)).reshape(count, count))
        same["distance"] = half(torch.cdist(thetas[:, task.block], thetas[:, task.block]))
        train = task.read(task.train, thetas)
        same |= {"loss": half(train.loss), "accuracy": half(train.accuracy), "flat": half(task.flat(thetas))}
        each.append(same)
    for name in each[0]:
        found[name] = np.stack([one[name] for one in each], 1 if each[0][name].ndim == 1 else 2)
    paths = torch.stack(paths)
    axes = freezing.principal(paths)
    return found | {"axes": np.float32(axes.project(paths)), "ratio": axes.ratio}


def own_step(point, seed):
    """Whether GD with the run's own η ends where GD with ``least_step`` does, both relaxed: see the text."""
    task = Task(point)
    runs = task.sgd(point["eta"], point["batch_size"], seed)
    repeats = point["repeats"]
    one, other = (Ends(task, runs, step, repeats) for step in (point["eta"], point["least_step"]))
    thetas = torch.cat([one.thetas[1], other.thetas[1]])
    pairs = np.stack([one.which, other.which + len(one.thetas[1])], -1)
    same = task.alike(task.read(task.test, thetas), pairs)
    return same | {"barrier": half(task.barriers(thetas, pairs.reshape(-1, 2)).reshape(pairs.shape[:2]))}


def corridor(point, seed):
    """Lines between the checkpoints of pairs of runs of start 0 at one time (Y26's two-valley model)."""
    task, found = Task(point), []
    runs = task.sgd(point["eta"], point["batch_size"], seed)
    one, other = map(torch.from_numpy, np.triu_indices(len(runs), 1))
    for place in task.place(point["corridor_times"]):
        thetas = runs.parameters[:, place]
        found.append(corridors.corridors(task.model, LOSS, task.train, thetas[one], thetas[other]))
    names = ("losses", "length", "curvature", "noise")
    return {name: np.float32([getattr(each, name) for each in found]) for name in names}


_PARTS = {
    "figure": figure,
    "valley": conditions,
    "control": cell,
    "corridor": corridor,
    "step": own_step,
    "cells": cell,
}


def measure(point, seed):
    """One point of any ``part``: all share a sweep, so that no process waits for another."""
    return _PARTS[point["part"]](point, seed)


#: the scale of the record
FULL = {
    "data": "mnist",
    "per_class": 100,
    "tests": 10_000,
    "hidden": (50, 50),
    "horizon": 100,
    "etas": ETAS,
    "batch_sizes": BATCH_SIZES,
    "repeats": (20, 4, 4, 4, 4, 4),
    "continued_slow": (5, 2, 2, 2, 2, 2),
    "refined": 5,
    "times": TIMES,
    "flat_times": (0, 10, 20, 30, 50, 100),
    "noise_times": (5, 20, 50, 100),
    "figure": (50, 0.05),
    "figure_times": tuple(range(51)),
    "shown_times": (0, 1, 2, 4, 8, 16, 32),
    "valleys": ((20, 50, 100, 200), (0.05, 0.02, 0.01, 0.005)),
    "own": (50, (0.01, 0.005)),
    "control": ((10, 50), (0.02,)),
    "corridors": ((20, 50), (0.05, 0.02)),
}
QUICK = FULL | {
    "data": "digits",
    "per_class": 10,
    "tests": 797,
    "hidden": (8, 8),
    "horizon": 20,
    "etas": (0.2, 0.1),
    "batch_sizes": (10, 20),
    "repeats": (3, 2),
    "continued_slow": (2, 1),
    "refined": 2,
    "times": (0, 2, 5, 10, 15, 20),
    "flat_times": (0, 10, 20),
    "noise_times": (5, 20),
    "figure": (20, 0.1),
    "figure_times": (0, 5, 10, 20),
    "shown_times": (0, 10),
    "valleys": ((20, 10), (0.1, 0.2)),
    "own": (20, (0.1,)),
    "control": ((20,), (0.1,)),
    "corridors": ((20,), (0.1,)),
    "corridor_times": (5, 20),
    "looks": (0, 1, 5, 20),
    "least_step": 0.2,
    "slow": 0.15,
    "checkpoints": 21,
    "coarse": 5,
    "stop": 0.1,
    "equal_loss": 0.05,
}


#: what all points share, and what is recorded beside the arrays
_COMMON = {
    "images": None,
    "few": 20,
    "kind": "mlp",
    "layer": 2,
    "checkpoints": 101,
    "coarse": 10,
    "stop": 0.005,
    "equal_loss": 0.002,
    "flat_runs": 5,
    "least_step": LEAST_STEP,
    "slow": 0.05,
    "looks": FIGURE_TIMES,
    "corridor_times": CORRIDOR_TIMES,
}
_SHARED = (
    "data",
    "per_class",
    "hidden",
    "horizon",
    "repeats",
    "times",
    "least_step",
    "checkpoints",
    "coarse",
    "stop",
    "equal_loss",
    "flat_runs",
)
_OF_CELLS = ("slow", "continued_slow", "refined", "flat_times", "noise_times")
_RECORDED = (
    "horizon",
    "etas",
    "batch_sizes",
    "repeats",
    "times",
    "flat_times",
    "noise_times",
    "figure",
    "figure_times",
    "shown_times",
    "looks",
    "corridor_times",
    "least_step",
    "valleys_etas",
    "valleys_batch_sizes",
    "control_etas",
    "control_batch_sizes",
    "corridors_etas",
    "corridors_batch_sizes",
)


def _scale(sizes, **texts):
    """All grids at the given sizes."""
    sizes = _COMMON | sizes
    for name in ("valleys", "control", "corridors"):
        sizes |= {f"{name}_batch_sizes": sizes[name][0], f"{name}_etas": sizes[name][1]}
    common = _COMMON | {name: sizes[name] for name in _SHARED}
    cells = common | {name: sizes[name] for name in _OF_CELLS} | {"continued": sizes["repeats"]}
    control = cells | {"hidden": (), "layer": None, "stop": 0.06, "equal_loss": 0.05}
    one = common | {
        "batch_size": sizes["figure"][0],
        "eta": sizes["figure"][1],
        "times": sizes["figure_times"],
    }
    one |= {"shown": 1, "looks": sizes["looks"], "shown_times": sizes["shown_times"]}
    valley = common | {"repeats": (1,), "batch_sizes": sizes["valleys"][0], "etas": sizes["valleys"][1]}
    own = common | {"repeats": (1,) * min(len(sizes["repeats"]), 4), "batch_size": sizes["own"][0]}
    walks = common | {"repeats": (5,), "corridor_times": sizes["corridor_times"]}
    points = {  # what takes long and stands alone first, the cells of the smallest η last
        "figure": (one, {}),
        "valley": (valley, {}),
        "control": (control, _axes(*sizes["control"])),
        "corridor": (walks, _axes(*sizes["corridors"])),
        "step": (own, {"eta": sizes["own"][1]}),
        "cells": (cells, _axes(sizes["batch_sizes"], sizes["etas"])),
    }
    grids = {
        name: Grid(measure, point | {"part": name}, axes, seed=1) for name, (point, axes) in points.items()
    }
    starts = np.repeat(np.arange(len(sizes["repeats"])), sizes["repeats"])
    more = {name: sizes[name] for name in _RECORDED} | {"starts": starts}
    more |= {"criteria": list(CRITERIA)}
    more |= {"samples": 10 * sizes["per_class"], "tests": sizes["tests"]}
    return Scale(grids, more, **texts)


def _axes(batch_sizes, etas):
    return {"eta": etas, "batch_size": batch_sizes}


EXPERIMENT = Experiment(
    name="freezing",
    title="When SGD commits to its valley (Y26 Figs. 1, 2, S1, S3, S4)",
    claims=(
        "y26-valleys",
        "y26-continuation",
        "y26-freezing-time",
        "y26-robustness",
        "y26-delay",
        "y26-spread",
        "y26-final-flatness",
        "y26-best-accuracy",
    ),
    full=_scale(
        FULL,
        text=(
            "the paper's network, data, length, checkpoints and all 36 cells, with 20 repeats of one "
            "start and 4 of each of five others; continued from 17 of the 101 checkpoints, for η ≥ 0.02 in "
            "all runs and below in 15 of the 40; from 51 checkpoints for B = 50, η = 0.05"
        ),
        data_set="MNIST, first 100 training images of each class; all 10 000 test images, 200 as the paper",
    ),
    quick=_scale(QUICK, data_set="digits"),
    minutes=10,
    needs=("MNIST", "GPU"),
    device=device.describe,
)
