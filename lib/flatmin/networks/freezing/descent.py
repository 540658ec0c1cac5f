"""Full-batch gradient descent from many checkpoints at once, each run until a rule stops it (Y26 §II.1).

The first layer of a fully connected network sees the same n samples at every step, so GD moves what it adds
up by Z ← Z − η δ K, with K = X Xᵀ (+ 1 for the bias) and δ = ∂L/∂Z: the weights themselves follow at the end
from W ← W − (Σ η δ) X. That is exact, costs 2 n² h instead of 4 n d h multiplications a step, and is taken
where n ≤ 2d. A run that has ended leaves the stack, and the next one takes its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor, nn

from flatmin import _check
from flatmin.networks.data.samples import samples_of
from flatmin.networks.device import choose
from flatmin.networks.freezing.forms import Form, backward_, vectors
from flatmin.networks.parameters import block_of, trainable
from flatmin.networks.train.stacks import private, still

__all__ = ["Descents", "Outcome", "Stop", "descend"]

_LONGEST = 10**9
#: steps between looks at which runs have ended
_LOOK = 10
#: numbers that the state of all runs in a stack may be, and most runs in it, on a CPU and elsewhere
_STACK = {True: (2**24, 32), False: (2**29, 1024)}


class Outcome(IntEnum):
    """How a descent ended: the rule stopped it; all steps taken, with its loss at most or above that of the
    rule (without a rule always LENGTH); not finite any more."""

    STOPPED = 0
    LENGTH = 1
    ABOVE = 2
    DIVERGED = 3


@dataclass(frozen=True)
class Stop:
    """When a descent stops before its length, as the code of Y26 has it.

    After ``times`` looks in a row with training loss at most ``loss`` and training accuracy at least
    ``accuracy``: at step ``first`` and every ``every`` steps from there on; by default max(100, ⌈5/η⌉) and
    max(10, ⌈1/η⌉). Raises ValueError for a loss below 0, an accuracy outside 0…1, or counts below 1.
    """

    loss: float = 0.005
    accuracy: float = 1.0
    first: int | None = None
    every: int | None = None
    times: int = 3

    def __post_init__(self):
        _check.number("loss", self.loss, least=0)
        _check.number("accuracy", self.accuracy, least=0, most=1)
        _check.integer("times", self.times, least=1)
        for name in ("first", "every"):
            if getattr(self, name) is not None:
                _check.integer(name, getattr(self, name), least=1)

    def schedule(self, eta: float) -> tuple[int, int]:
        """(first, every) for a run of step size ``eta``; ValueError unless it is above 0."""
        eta = _check.number("eta", eta, above=0)
        first, every = max(100, _ceil(5 / eta)), max(10, _ceil(1 / eta))
        return (self.first or first), (self.every or every)


def _ceil(value: float) -> int:
    """⌈value⌉, of at most 10⁹, with 5/0.05 = 100 although 0.05 is not that in binary."""
    return math.ceil(min(value, _LONGEST) * (1 - 1e-12))


@dataclass(frozen=True, eq=False)
class Descents:
    """What :func:`descend` leaves, all on the CPU, for R runs.

    Attributes
    ----------
    ends : Tensor, (R, P)
        Where each run ended; for a diverged one its start.
    steps : (R,)
        Steps taken.
    loss, accuracy : (R,)
        On the training set at the end; ∞ and 0 for a diverged run.
    outcome : (R,)
        An :class:`Outcome` each.
    eta : (R,)
    kept : (T,)
        Steps at which the path was kept.
    losses : (R, T)
        Training loss there; from its end on a run stays where it is. ∞ once it has diverged.
    path : Tensor, (R, T, p)
        The kept block of θ there; a diverged run keeps what it had.
    """

    ends: Tensor = field(repr=False)
    steps: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    outcome: np.ndarray
    eta: np.ndarray
    kept: np.ndarray
    losses: np.ndarray = field(repr=False)
    path: Tensor = field(repr=False)

    def __len__(self):
        return len(self.steps)

    def __repr__(self):
        counts = ((int((self.outcome == one).sum()), one.name.lower()) for one in Outcome)
        told = ", ".join(f"{count} {name}" for count, name in counts if count)
        return f"<Descents: {len(self)} runs, P = {self.ends.shape[1]}, {told}>"

    @property
    def diverged(self) -> np.ndarray:
        """Whether each run diverged, (R,) bool."""
        return self.outcome == Outcome.DIVERGED


def descend(
    model: nn.Module,
    loss,
    data,
    starts,
    *,
    eta,
    steps,
    stop: Stop | None = None,
    keep=(),
    layer: int | str | None = None,
    device: str | torch.device | None = None,
    threads: int = 1,
) -> Descents:
    """Descend from every row of ``starts`` by θ ← θ − η ∇L, all runs stacked, until a rule or their length.

    Fully connected networks of ReLU, tanh or no activation move stacked (see the module's text); others one
    by one, in chunks of samples that fit the memory. A run is the same in another stack except for rounding.

    Parameters
    ----------
    model : torch.nn.Module
        Only its architecture counts, its buffers and frozen parameters.
    loss, data
        As :func:`~flatmin.networks.train.train` takes them.
    starts : Tensor or array, (R, P)
        The checkpoints.
    eta : float or (R,)
        Step sizes η.
    steps : int or (R,)
        How many steps a run takes at most; 0 leaves it where it is.
    stop : Stop, optional
        The rule; by default every run takes all its steps.
    keep : sequence of int
        Steps at which loss and parameters are kept; where a run has ended before, those of its end.
    layer : int or str, optional
        Of whose block the path is kept; all of θ by default.
    device, threads
        As for :func:`~flatmin.networks.train.train`.

    Returns
    -------
    Descents
        Divergence is reported there, not raised.

    Raises
    ------
    ValueError
        Naming the argument, for what is out of range or does not fit; for a start that is not finite it says
        which.

    Examples
    --------
    >>> from flatmin.networks import freezing, models, train
    >>> from flatmin.networks.data import sets
    >>> digits, model = sets.digits(200).train, models.mlp((64, 10, 10))
    >>> runs = train(model, "cross-entropy", digits, batch_size=20, steps=200, keep=5)
    >>> freezing.descend(model, "cross-entropy", digits, runs.parameters[0], eta=0.5, steps=50)
    <Descents: 5 runs, P = 760, 5 length>
    """
    named = trainable(model)
    starts = vectors("starts", starts, sum(p.numel() for _, p in named))
    etas = _row("eta", eta, float, len(starts), above=0)
    lengths = _row("steps", steps, int, len(starts), least=0, most=_LONGEST)
    if stop is not None:
        _check.instance("stop", stop, Stop)
    kept = _check.array("keep", keep, ndim=1, dtype=int, least=0, most=_LONGEST, empty=True)
    block = block_of(named, layer)
    threads = _check.integer("threads", threads, least=1, most=1024)
    network = private(model, choose(device, model))
    with still(network, threads), torch.no_grad():
        form = Form(network, loss, samples_of(data), model)
        starts = starts.to(network.dtype)
        return _Descent(form, starts, etas, lengths, stop, np.unique(kept), block).run()


def _row(name, value, dtype, runs, **bounds) -> np.ndarray:
    """One number, or one a run, as an array (R,)."""
    if np.ndim(value) == 0:
        return np.full(runs, (_check.number if dtype is float else _check.integer)(name, value, **bounds))
    return _check.array(name, value, shape=(runs,), dtype=dtype, **bounds)


class _Descent:
    """The runs of one call: those in the stack, those that wait, and what came of those that ended.

    What is known beforehand of the runs in the stack (when they look, when they end) is kept on the host;
    what depends on their losses stays on the device and is fetched every ``_LOOK`` steps.
    """

    def __init__(self, form: Form, starts, etas, lengths, stop, kept, block):
        self.form, self.starts, self.etas, self.lengths, self.stop = form, starts, etas, lengths, stop
        schedules = [(0, 1) if stop is None else stop.schedule(eta) for eta in etas]
        self.first, self.every = np.array(schedules).T
        self.kept, self.block, runs = kept, block, len(starts)
        self.ends, self.steps = starts.clone(), np.zeros(runs, dtype=int)
        self.loss, self.accuracy = np.full(runs, np.inf), np.zeros(runs)
        self.outcome = np.full(runs, Outcome.DIVERGED, dtype=np.uint8)
        self.losses = np.full((runs, len(kept)), np.nan)
        self.path = starts[:, None, block].repeat(1, len(kept), 1)
        self.stack = (_OneByOne if form.layers is None else _Stacked)(form)
        self.labels = self.counted = self.state = None
        numbers, most = _STACK[form.on_cpu]
        self.size = int(np.clip(numbers // self.stack.numbers, 1, most))

    def run(self) -> Descents:
        """Take all steps."""
        self.t, self.waiting, since = np.empty(0, dtype=int), 0, 0
        here = self._fill(np.empty(0, dtype=int))
        while len(here):
            self._step(here)
            since += 1
            if since >= _LOOK or (self.t > self.lengths[here]).any():
                here, since = self._fill(self._leave(here)), 0
        how = self.outcome, self.etas, self.kept, self.losses, self.path
        return Descents(self.ends, self.steps, self.loss, self.accuracy, *how)

    def _fill(self, here):
        """Let runs that wait join those ``here``, as many as the stack can take."""
        count = min(self.size - len(here), len(self.starts) - self.waiting)
        if not count:
            return here
        new, device = np.arange(self.waiting, self.waiting + count), self.form.network.device
        self.waiting += count
        thetas = self.starts[new].to(device)
        self.stack.join(thetas)
        zero = torch.zeros(count, device=device)
        fresh = {
            "alive": zero == 0,
            "eta": torch.from_numpy(self.etas[new]).to(thetas),
            "hits": zero.long(),
            "loss": thetas.new_full((count,), math.inf),
            "right": zero.to(thetas),
            "steps": zero.long(),
        }
        old = self.state
        self.state = fresh if old is None else {k: torch.cat([old[k], fresh[k]]) for k in fresh}
        self.t = np.concatenate([self.t, np.zeros(count, dtype=int)])
        return np.concatenate([here, new])

    def _leave(self, here):
        """Write down the runs that have ended; return those that stay."""
        device = self.form.network.device
        stay = self.state["alive"].cpu().numpy()
        if stay.all():
            return here
        gone = torch.from_numpy(np.flatnonzero(~stay)).to(device)
        rest = torch.from_numpy(np.flatnonzero(stay)).to(device)
        found = {name: values[gone].double().cpu().numpy() for name, values in self.state.items()}
        runs, finite = here[~stay], np.isfinite(found["loss"])
        if finite.any():
            rows = torch.from_numpy(np.flatnonzero(finite)).to(device)
            self.ends[runs[finite]] = self.stack.thetas(gone[rows]).cpu()
        self.steps[runs] = found["steps"].astype(int)
        self.loss[runs] = np.where(finite, found["loss"], np.inf)
        self.accuracy[runs] = np.where(finite, found["right"], 0)
        self.outcome[runs] = self._outcomes(found, finite)
        self._stay(runs)
        self.stack.select(rest)
        self.state = {name: values[rest] for name, values in self.state.items()}
        self.t = self.t[stay]
        return here[stay]

    def _outcomes(self, found, finite):
        ended = np.full(len(finite), Outcome.LENGTH, dtype=np.uint8)
        if self.stop is not None:
            ended[found["loss"] > self.stop.loss] = Outcome.ABOVE
            ended[found["hits"] >= self.stop.times] = Outcome.STOPPED
        return np.where(finite, ended, np.uint8(Outcome.DIVERGED))

    def _stay(self, runs):
        """The kept path of ended runs from their ends on."""
        for run in runs:
            late = self.kept >= self.steps[run]
            self.losses[run, late] = self.loss[run]
            if self.outcome[run] != Outcome.DIVERGED and late.any():
                self.path[run, torch.from_numpy(late)] = self.ends[run, self.block]

    def _step(self, here):
        """One step of every run; where one looks, ends or is kept, its loss is read first."""
        self.stack.forward()
        t, first, every = self.t, self.first[here], self.every[here]
        look = (t >= first) & ((t - first) % every == 0) & (self.stop is not None)
        final, keep = t >= self.lengths[here], np.isin(t, self.kept)
        if (look | final | keep).any():
            self._read(here, look, final, np.flatnonzero(keep))
        self.stack.update(torch.where(self.state["alive"], self.state["eta"], 0))
        self.t = t + 1

    def _read(self, here, look, final, keep):
        state, outputs = self.state, self.stack.outputs
        loss, right = self.form.mean_losses(outputs), self._accuracies(outputs)
        device = loss.device
        look, final = torch.from_numpy(np.stack([look, final])).to(device)
        halt, finite = final, torch.isfinite(loss)
        if self.stop is not None:
            met = (loss <= self.stop.loss) & (right >= self.stop.accuracy)
            counted = torch.where(met, state["hits"] + 1, 0)
            state["hits"] = torch.where(look & state["alive"], counted, state["hits"])
            halt = halt | (state["hits"] >= self.stop.times)
        halt = state["alive"] & (halt | ~finite)
        state["loss"] = torch.where(halt & finite, loss, state["loss"])
        state["right"] = torch.where(halt & finite, right, state["right"])
        state["steps"] = torch.where(halt, torch.from_numpy(self.t).to(device), state["steps"])
        state["alive"] = state["alive"] & ~halt
        if len(keep):
            self._keep(here[keep], torch.from_numpy(keep).to(device), loss, self.t[keep])

    def _keep(self, runs, rows, loss, t):
        loss, places = loss[rows].double().cpu().numpy(), np.searchsorted(self.kept, t)
        finite = np.isfinite(loss)
        self.losses[runs, places] = np.where(finite, loss, np.inf)
        if finite.any():
            chosen = rows[torch.from_numpy(finite).to(rows.device)]
            thetas = self.stack.thetas(chosen)[:, self.block].cpu()
            self.path[torch.from_numpy(runs[finite]), torch.from_numpy(places[finite])] = thetas

    def _accuracies(self, outputs):
        """Share of the samples with a label (not below 0) that each run has right, (S,)."""
        if self.labels is None:
            self.labels = self.form.labels(outputs)
            self.counted = max(int((self.labels >= 0).sum()), 1)
        return (self.form.chosen(outputs) == self.labels).sum(1).to(outputs.dtype) / self.counted


class _Stacked:
    """Fully connected networks side by side; ``tensors`` are their states, runs along the first axis.

    In sample space the state of the first layer is (its weights and biases at the start, Z, Σ η δ).
    """

    def __init__(self, form: Form):
        self.form, self.tensors = form, None
        n, d = form.inputs.shape
        self.kernel = None
        if n <= 2 * d:
            self.kernel = form.inputs @ form.inputs.T + (form.layers[0].bias is not None)
        self.numbers = 3 * n * form.width + 2 * form.network.parameters

    def join(self, thetas: Tensor) -> None:
        """Let the networks at ``thetas`` (S, P) join."""
        parts = self.form.parts(thetas)
        alone = {"memory_format": torch.contiguous_format}
        found = [None if one is None else one.clone(**alone) for pair in parts for one in pair]
        if self.kernel is not None:
            z = self.form.first(parts)
            found += [z, torch.zeros_like(z)]
        if self.tensors is not None:
            pairs = zip(self.tensors, found, strict=True)
            found = [None if new is None else torch.cat([old, new]) for old, new in pairs]
        self.tensors = found

    def select(self, rows: Tensor) -> None:
        """Keep the networks at ``rows``."""
        self.tensors = [None if one is None else one[rows] for one in self.tensors]

    def _parts(self):
        count = 2 * len(self.form.layers)
        return list(zip(self.tensors[0:count:2], self.tensors[1:count:2], strict=True))

    def forward(self) -> None:
        """Activations of all layers; ``outputs`` (S, C, n) are the last."""
        parts = self._parts()
        z = self.form.first(parts) if self.kernel is None else self.tensors[-2]
        self.activations = self.form.above(z, parts, overwrite=self.kernel is None)
        self.outputs = self.activations[-1]

    def update(self, etas: Tensor) -> None:
        """One step of each run from where :meth:`forward` was, with ``etas`` (S,)."""
        form, parts, n = self.form, self._parts(), self.form.count
        back = form.slopes(self.outputs).mul_((etas / n)[:, None, None])
        for index in range(len(parts) - 1, 0, -1):
            (weight, bias), a = parts[index], self.activations[index - 1]
            below = backward_(torch.bmm(weight.mT, back), a, form.layers[index - 1].activation)
            weight.baddbmm_(back, a.mT, alpha=-1)
            if bias is not None:
                bias.sub_(back.sum(2, keepdim=True))
            back = below
        flat = back.reshape(-1, n)
        if self.kernel is not None:
            z, moved = self.tensors[-2:]
            moved.add_(back)
            z.view(-1, n).addmm_(flat, self.kernel, alpha=-1)
            return
        weight, bias = parts[0]
        weight.view(-1, weight.shape[2]).addmm_(flat, form.inputs, alpha=-1)
        if bias is not None:
            bias.sub_(back.sum(2, keepdim=True))

    def thetas(self, rows: Tensor) -> Tensor:
        """Parameters of the networks at ``rows``, (S, P)."""
        parts = [tuple(None if p is None else p[rows] for p in pair) for pair in self._parts()]
        if self.kernel is not None:
            moved, (weight, bias) = self.tensors[-1][rows], parts[0]
            weight = weight - (moved.view(-1, self.form.count) @ self.form.inputs).view(weight.shape)
            parts[0] = weight, None if bias is None else bias - moved.sum(2, keepdim=True)
        return torch.cat([one.flatten(1) for pair in parts for one in pair if one is not None], 1)


class _OneByOne:
    """Networks of any kind, one after the other, each in chunks of samples that fit the memory."""

    def __init__(self, form: Form):
        self.form, self.numbers = form, 4 * form.network.parameters
        self.positions = form.network.tensors[0].new_empty(0, form.network.parameters)

    def join(self, thetas: Tensor) -> None:
        """Let the networks at ``thetas`` (S, P) join."""
        self.positions = torch.cat([self.positions, thetas])

    def select(self, rows: Tensor) -> None:
        """Keep the networks at ``rows``."""
        self.positions = self.positions[rows]

    def forward(self) -> None:
        """Gradients (S, P) and ``outputs`` (S, n, …) of all."""
        found = [self._one(theta) for theta in self.positions]
        gradients, outputs = zip(*found, strict=True)
        self.gradients, self.outputs = torch.stack(gradients), torch.stack(outputs)

    def _one(self, theta):
        form, network = self.form, self.form.network
        network.load(theta)
        total, outputs = 0.0, []
        for rows in form.row_chunks():
            batch = form.samples.take(rows)
            with torch.enable_grad():
                found = network.outputs(batch.inputs)
                value = form.loss.total(found, batch.targets)
                parts = torch.autograd.grad(value, network.tensors, materialize_grads=True)
            total = total + torch.cat([part.reshape(-1) for part in parts])
            outputs.append(found.detach())
        return total / form.count, torch.cat(outputs)

    def update(self, etas: Tensor) -> None:
        """One step of each run, with ``etas`` (S,)."""
        self.positions = self.positions - etas[:, None] * self.gradients

    def thetas(self, rows: Tensor) -> Tensor:
        """Parameters of the networks at ``rows``, (S, P)."""
        return self.positions[rows]
