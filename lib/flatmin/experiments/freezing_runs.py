"""What the freezing experiments measure: SGD from shared starts, GD from its checkpoints, the end points."""

import numpy as np
import torch

from flatmin.networks import freezing, models
from flatmin.networks.commitment import CONVERGED, CRITERIA
from flatmin.networks.data import sets as datasets
from flatmin.networks.parameters import block_of, trainable
from flatmin.networks.point import at
from flatmin.networks.train import train
from flatmin.sampling import Sampling

LOSS = "cross-entropy"


class Task:
    """The data, the network and the shared starts of a point.

    ``point``: data and images (of the set, None: all), per_class (training images), few (test images of each
    class in the small test set), kind ("mlp" or "cnn"), hidden, layer (whose block F is of), horizon (ηt),
    checkpoints, repeats (of each start), times (ηt_c), stop (training loss), flat_runs (whose F is followed).
    """

    def __init__(self, point):
        self.point, self.horizon = point, point["horizon"]
        split = datasets.by_name(point["data"], point["images"])
        self.train, self.test = split.train.per_class(point["per_class"]), split.test
        labels = self.test.targets.numpy()
        first = [np.flatnonzero(labels == c)[: point["few"]] for c in range(10)]
        self.few = np.sort(np.concatenate(first))
        self.starts = [self._network(seed) for seed in range(len(point["repeats"]))]
        self.model, self.layer = self.starts[0], point["layer"]
        self.start = np.repeat(np.arange(len(self.starts)), point["repeats"])
        self.block = block_of(trainable(self.model), self.layer)
        self.times, self.rule = np.array(point["times"]), freezing.Stop(point["stop"])

    def _network(self, seed):
        shape = self.train.inputs.shape[1:]
        if self.point["kind"] == "cnn":
            return models.cnn(seed, channels=shape[0], size=shape[1])
        return models.mlp((int(np.prod(shape)), *self.point["hidden"], 10), seed)

    def place(self, times):
        """Positions of ``times`` ηt among the checkpoints."""
        return np.round(np.asarray(times) / self.horizon * (self.point["checkpoints"] - 1)).astype(int)

    def sgd(self, eta, batch_size, seed):
        """Train all repeats of all starts, each with batches of its own."""
        seeds = np.random.default_rng(seed).integers(2**31, size=len(self.start)).tolist()
        starts = [self.starts[s] for s in self.start]
        how = {"steps": round(self.horizon / eta), "keep": self.point["checkpoints"]}
        return train(starts, LOSS, self.train, eta=eta, batch_size=batch_size, seed=seeds, **how)

    def descend(self, thetas, step, length, stop=None, **more):
        """GD over ``length`` (one, or one a run) in units of ηt."""
        steps = np.round(np.asarray(length) / step).astype(int)
        how = {"eta": step, "steps": steps, "stop": stop}
        return freezing.descend(self.model, LOSS, self.train, thetas, **how, **more)

    def relax(self, descents, step):
        """End points, steps and outcomes of descents that go on until the rule stops them."""
        ends, steps, outcome = descents.ends.clone(), descents.steps.copy(), descents.outcome.copy()
        more = np.flatnonzero((outcome != freezing.Outcome.STOPPED) & (outcome != freezing.Outcome.DIVERGED))
        if len(more):
            further = self.descend(ends[more], step, self.horizon, self.rule)
            ends[more], outcome[more] = further.ends, further.outcome
            steps[more] += further.steps
        return ends, steps, outcome

    def read(self, data, thetas):
        """Loss, predictions and errors of networks (…, P), flattened to (R, …)."""
        return freezing.evaluate(self.model, LOSS, data, thetas.reshape(-1, thetas.shape[-1]))

    def flat(self, thetas):
        """F of networks (R, P), NaN where it is not defined; all NaN where F is of no layer."""
        if not len(thetas) or self.layer is None:
            return np.full(len(thetas), np.nan)
        return freezing.flatness_of(self.model, LOSS, self.train, thetas, layer=self.layer).flatness

    def sharpness(self, thetas):
        """λ₁ of networks (R, P)."""
        return freezing.sharpness_of(self.model, LOSS, self.train, thetas)

    def barriers(self, thetas, pairs):
        """Barriers between the rows of ``thetas`` that ``pairs`` (Q, 2) name, (Q,)."""
        if not len(pairs):
            return np.zeros(0)
        return freezing.barriers(self.model, LOSS, self.train, thetas, pairs=np.asarray(pairs))

    def alike(self, reading, pairs):
        """Of pairs (…, 2) of networks: errors shared, and in either, on few and all images; agreement."""
        one, other = np.moveaxis(np.asarray(pairs), -1, 0)
        wrong, few = reading.wrong, np.ascontiguousarray(reading.wrong[:, self.few])
        counts = {
            "few": freezing.jaccard(few[one], few[other]),
            "all": freezing.jaccard(wrong[one], wrong[other]),
            "agree": freezing.agreement(reading.predictions[one], reading.predictions[other]),
        }
        found = {name: np.stack([c.common, c.total], -1) for name, c in counts.items()}
        found = {
            name: values.astype(np.uint8 if name == "few" else np.uint16) for name, values in found.items()
        }
        return found | {"agree": found["agree"][..., 0]}


def half(values):
    """In half precision; what it cannot hold is ∞."""
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(np.float16)


def right(reading):
    """How many samples each network classifies rightly."""
    return (~reading.wrong).sum(1).astype(np.uint16)


def filled(values, rows, runs):
    """Values of the runs ``rows`` among all ``runs``; NaN, or the largest integer, for the others."""
    values = np.asarray(values)
    empty = np.nan if values.dtype.kind == "f" else np.iinfo(values.dtype).max
    found = np.full((runs, *values.shape[1:]), empty, values.dtype)
    found[rows] = values
    return found


def cell(point, seed):
    """Train one cell and measure it; the arrays are those of :mod:`flatmin.experiments.freezing`.

    ``point``: as for :class:`Task`, and batch_size, eta, least_step (of GD); continued: how many repeats of
    each start are continued, continued_slow where η is below least_step; refined: how many runs are searched
    to single checkpoints; coarse (of the search), flat_times, noise_times.
    """
    task, eta = Task(point), point["eta"]
    runs = task.sgd(eta, point["batch_size"], seed)
    step = max(eta, point["least_step"])
    ends = Ends(task, runs, step, point["continued" if eta >= step else "continued_slow"])
    found = {"noise": eta * Sampling.EPOCH.factor(len(task.train), point["batch_size"])}
    found |= along(task, runs) | ends.readings() | ends.similarities()
    found["search"] = ends.search(point["refined"])
    return found | lasts(task, runs, step) | gradient_noise(task, runs)


def along(task, runs):
    """What SGD goes through: loss and images right at all checkpoints; test set and F at 21 of them."""
    thetas, every = runs.parameters, max(1, (task.point["checkpoints"] - 1) // 20)
    few, train = thetas[:, ::every], task.read(task.train, thetas)
    test = task.read(task.test, few)
    lost = runs.diverged[:, None] & (runs.kept >= runs.diverged_at[:, None])
    return {
        "diverged": runs.diverged,
        "loss": half(np.where(lost, np.inf, train.loss.reshape(lost.shape))),
        "correct": right(train).reshape(lost.shape),
        "test_loss": half(test.loss.reshape(few.shape[:2])),
        "test_correct": right(test).reshape(few.shape[:2]),
        "flat": half(task.flat(few[: task.point["flat_runs"]].flatten(0, 1)).reshape(-1, few.shape[1])),
    }


class Ends:
    """End points of GD from the checkpoints of the continued runs, by both rules (as coded, relaxed).

    ``rows`` are the K continued runs; ``which`` (K, T) says which of the N descents belongs to a run and a
    checkpoint: from a shared start there is one for all its runs. ``thetas`` are the end points, twice.
    """

    def __init__(self, task, runs, step, repeats):
        self.task, self.runs, self.step = task, runs, step
        repeat = np.concatenate([np.arange(n) for n in task.point["repeats"]])
        self.rows = np.flatnonzero((repeat < np.array(repeats)[task.start]) & ~runs.diverged)
        count = len(task.times)
        self.which = np.arange(len(self.rows) * count).reshape(-1, count)
        for start in np.unique(task.start[self.rows]):
            own = np.flatnonzero(task.start[self.rows] == start)
            self.which[own, 0] = self.which[own[0], 0]
        kept, self.which = np.unique(self.which, return_inverse=True)
        self.which = self.which.reshape(-1, count)
        row, self.k = np.divmod(kept, count)
        coded = self._descend(self.rows[row], task.times[self.k])
        relaxed, steps, outcome = task.relax(coded, step)
        self.thetas = coded.ends, relaxed
        self.steps, self.outcome = np.stack([coded.steps, steps], 1), np.stack([coded.outcome, outcome], 1)
        self.test = [task.read(task.test, each) for each in self.thetas]

    def _descend(self, rows, times):
        """As coded, from the checkpoints at ``times`` of the runs ``rows``."""
        task = self.task
        starts = self.runs.parameters[torch.from_numpy(rows), torch.from_numpy(task.place(times))]
        return task.descend(starts, self.step, task.horizon - times, task.rule)

    def _all(self, values):
        """Values (N, …) of the descents for all runs and checkpoints."""
        return filled(np.asarray(values)[self.which], self.rows, len(self.task.start))

    def readings(self):
        """Losses, images right, steps, outcomes and F of all end points."""
        task = self.task
        train = [task.read(task.train, each) for each in self.thetas]
        chosen = np.flatnonzero(np.isin(task.times, task.point["flat_times"])[self.k])
        flat = filled(half(task.flat(self.thetas[1][torch.from_numpy(chosen)])), chosen, len(self.k))
        found = {
            "end_loss": half([each.loss for each in train]).T,
            "end_correct": np.stack([right(each) for each in train], 1),
            "end_test_loss": half([each.loss for each in self.test]).T,
            "end_test_correct": np.stack([right(each) for each in self.test], 1),
            "end_steps": self.steps.astype(np.uint16),
            "end_outcome": self.outcome.astype(np.uint8),
            "end_flat": flat,
        }
        return {name: self._all(values) for name, values in found.items()}

    def similarities(self):
        """How alike the end points of a run are to its last, and since when all of them are."""
        task, count = self.task, len(self.task.times)
        upper = np.stack(np.triu_indices(count), 1)
        pairs, last = self.which[:, upper], upper[:, 1] == count - 1
        found, frozen = [], np.zeros((len(pairs), len(CRITERIA), 2, 3), np.uint8)
        for rule in (0, 1):
            same = [task.alike(self.test[rule], each) for each in pairs]  # run by run: there are many pairs
            same = {name: np.stack([each[name] for each in same]) for name in same[0]}
            heights = task.barriers(self.thetas[rule], pairs.reshape(-1, 2)).reshape(pairs.shape[:2])
            same["barrier"] = half(heights)
            for number, (what, level) in enumerate(CRITERIA.values()):
                alike = self._alike(same, what, level)
                frozen[:, number, rule] = [self._frozen(each, upper) for each in alike]
            found.append({name: values[:, last] for name, values in same.items()})
        found = {f"same_{name}": np.stack([one[name] for one in found], 2) for name in found[0]}
        found["frozen"] = frozen
        return {name: filled(values, self.rows, len(task.start)) for name, values in found.items()}

    def _alike(self, same, what, level):
        if what == "barrier":
            return same["barrier"] <= level
        if what == "agree":
            return freezing.Counts(same["agree"].astype(int), len(self.task.test)).at_least(level)
        return freezing.Counts(*np.moveaxis(same[what].astype(int), -1, 0)).at_least(level)

    def _frozen(self, alike, upper):
        """Positions of t_f by Eq. 3, by all later end points against the last, and by the search."""
        task, matrix = self.task, np.zeros((len(self.task.times),) * 2, dtype=bool)
        matrix[tuple(upper.T)] = matrix[tuple(upper.T[::-1])] = alike
        exact = [int(freezing.frozen_from(each, task.times).index) for each in (matrix, matrix[-1])]
        last, coarse = matrix[-1], np.flatnonzero(task.times % task.point["coarse"] == 0)
        differs = _last_false(last[coarse])
        if differs is None:
            return *exact, 0
        inside = last[coarse[differs] + 1 : coarse[differs + 1]]
        late = _last_false(inside)
        return *exact, int(coarse[differs] + 1 + (0 if late is None else late + 1))

    def search(self, count):
        """ηt_f of the search as coded, to one checkpoint, for ``count`` continued runs; NaN for others."""
        task, coarse = self.task, self.task.point["coarse"]
        grid = np.flatnonzero(task.times % coarse == 0)
        found, brackets, references = np.full(len(task.start), np.nan), {}, {}
        for c, row in enumerate(self.rows[:count]):
            wrong = self.test[0].wrong[self.which[c]][:, task.few]
            differs = _last_false(freezing.jaccard(wrong[grid], wrong[-1:]).at_least(0.9))
            found[row] = 0.0
            if differs is not None:
                low = task.times[grid[differs]]
                brackets[row], references[row] = np.arange(low + 1, low + coarse), wrong[-1:]
        if not brackets:
            return found
        rows = np.repeat([*brackets], [len(times) for times in brackets.values()])
        ends = self._descend(rows, np.concatenate([*brackets.values()])).ends
        wrong = task.read(task.test, ends).wrong[:, task.few]
        for row, times in brackets.items():
            late = _last_false(freezing.jaccard(wrong[rows == row], references[row]).at_least(0.9))
            found[row] = times[0] + (0 if late is None else late + 1)
        return found


def _last_false(values):
    """Position of the last False, None if there is none."""
    places = np.flatnonzero(~np.asarray(values))
    return int(places[-1]) if len(places) else None


def lasts(task, runs, step):
    """The last checkpoints of all runs, relaxed, and at equal loss: F, λ₁, how far apart and how alike."""
    rows, count = np.flatnonzero(~runs.diverged), len(task.start)
    raw = runs.parameters[torch.from_numpy(rows), -1]
    if not len(rows):
        raise ValueError(f"eta={task.point['eta']}: every run diverges, so there is nothing to continue")
    relaxed = task.relax(task.descend(raw, step, 0), step)[0]
    stop = freezing.Stop(task.point["equal_loss"], accuracy=0.0, times=1)
    equal = task.descend(raw, step, 3 * task.horizon, stop)
    test = task.read(task.test, equal.ends)
    found = {
        "final_flat": half(task.flat(raw)),
        "equal_loss": half(equal.loss),
        "equal_outcome": equal.outcome.astype(np.uint8),
        "equal_flat": half(task.flat(equal.ends)),
        "equal_test_loss": half(test.loss),
        "equal_test_correct": right(test),
    }
    found = {name: filled(values, rows, count) for name, values in found.items()}
    few = filled(right_of(task.read(task.test, raw), task.few), rows, count)
    sharp = [half(task.sharpness(each[:5])) for each in (raw, relaxed)]
    found |= {"few_correct": few, "sharpness": filled(np.stack(sharp, 1), rows[:5], 5)}
    done = task.read(task.train, raw).wrong.mean(1) <= 1 - CONVERGED + 1e-9
    reached = done & (equal.outcome == freezing.Outcome.STOPPED)
    pairs = apart(task, rows, raw, relaxed)
    return found | pairs | {"radius": radii(task, rows, (raw, equal.ends), (done, reached))}


def right_of(reading, few):
    """How many of the few samples each network classifies rightly."""
    return (~reading.wrong[:, few]).sum(1).astype(np.uint8)


def apart(task, rows, raw, relaxed):
    """Pairs of runs of the first start: their last checkpoints and these relaxed."""
    own = np.flatnonzero(task.start[rows] == 0)
    total = task.point["repeats"][0]
    place = np.stack(np.triu_indices(total, 1), 1)
    known = np.flatnonzero(np.isin(place, rows[own]).all(1))
    pairs = np.searchsorted(rows[own], place[known])
    found, block = [], task.block
    for thetas in (raw[own], relaxed[own]):
        same = task.alike(task.read(task.test, thetas), pairs)
        found.append(same | {"barrier": half(task.barriers(thetas, pairs))})
    found = {f"pair_{name}": np.stack([one[name] for one in found], 1) for name in found[0]}
    gaps = [torch.cdist(part, part).numpy()[tuple(pairs.T)] for part in (raw[own][:, block], raw[own])]
    found["distance"] = half(np.stack(gaps, 1))
    return {name: filled(values, known, len(place)) for name, values in found.items()}


def radii(task, rows, ends, chosen):
    """r_θ (starts, 2, 2) of the chosen end points: of two sets, in F's layer and in all weights."""
    found = np.full((len(task.starts), 2, 2), np.nan, np.float32)
    for start in range(len(task.starts)):
        for which in (0, 1):
            own = ends[which][torch.from_numpy((task.start[rows] == start) & chosen[which])]
            if len(own) >= 3:
                found[start, which] = freezing.radius(own[:, task.block]), freezing.radius(own)
    return found


def gradient_noise(task, runs):
    """Tr Σ, of one sample's gradient, and Tr H of the first run at ``noise_times``."""
    run, times = int(np.argmin(runs.diverged)), task.place(task.point["noise_times"])
    points = [at(runs.model_at(run, int(time)), LOSS, task.train) for time in times]
    return {
        "noise_strength": np.array([float(here.noise.strength()) for here in points]),
        "hessian_trace": np.array([float(here.trace()) for here in points]),
    }
