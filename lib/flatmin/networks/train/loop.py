"""Training: SGD, GD and gradient Langevin dynamics, many runs at once.

The runs of one call share a network, a data set and a batch size, and differ in their batch order (seed),
step size or start. Their parameters are stacked and one matrix product serves them all. Everything random
comes from ``(seed, epoch)`` or ``(seed, step)``, so a run that was killed continues from its last checkpoint
bit for bit, and a run does not depend on what it is stacked with except through rounding.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from flatmin import _check
from flatmin.ledger.arrays import load_state, save_state
from flatmin.networks import losses, parameters
from flatmin.networks.device import choose
from flatmin.networks.train.graphs import recorded
from flatmin.networks.train.plan import Plan, path_of
from flatmin.networks.train.runs import Runs
from flatmin.networks.train.stacks import private, ready, spread, stacked, still

__all__ = ["train"]

_CHECK = 100  # steps between looks at whether a run is still finite
_RECORDED = 100  # steps that are worth the recording of a CUDA graph
_AHEAD, _DRAWN = 512, 2**22  # steps, and positions, that are drawn ahead of a device
_KIND = "training"


def train(
    model: nn.Module | Sequence[nn.Module],
    loss,
    data,
    *,
    eta: float | Sequence[float] = 0.1,
    batch_size: int | None = None,
    steps: int = 1000,
    seed: int | Sequence[int] = 0,
    keep: int | Sequence[int] = 2,
    method: str = "sgd",
    sampling: str = "epoch",
    noise_trace: float | None = None,
    file: str | Path | None = None,
    save_every: float = 30.0,
    progress: bool = False,
    device: str | torch.device | None = None,
    threads: int = 1,
) -> Runs:
    """Train ``model`` on the mean loss from its present parameters: θ ← θ − η g, R runs together.

    The model itself, its buffers and mode, and the global random states are left as they are. Several seeds,
    step sizes or starts are broadcast to R runs.

    Parameters
    ----------
    model : torch.nn.Module, or a list of them
        Any module whose samples do not influence each other; several starts share all but their trained
        parameters. It is trained in the mode it is in; dropout and batch norm must be in evaluation mode.
    loss : str, torch loss or callable
        "square" (½|f − y|² summed over outputs), "cross-entropy", a torch loss, or any function of
        (outputs, targets) that is a mean over the samples: it is evaluated itself on each batch.
    data
        (inputs, targets), a Data, a Dataset, a dict, or a DataLoader, of which only the data set is used: how
        batches are drawn says ``sampling``. See :func:`~flatmin.networks.data.samples.samples_of`.
    eta : float or (R,)
        Step size η.
    batch_size : int, optional
        B; all samples by default.
    steps : int
        Iterations.
    seed : int or (R,)
        Same seed, same batches and noise.
    keep : int or sequence of int
        How many parameter vectors to keep, equally spaced from step 0 to ``steps`` (1: the last), or the
        steps themselves; training ends at the last of them.
    method : "sgd", "gd" or "gld"
        "sgd": g is the gradient of a batch; "gd": the full gradient (``batch_size`` is not used); "gld": the
        full gradient plus isotropic Gaussian noise whose covariance has the trace of C, at every step that of
        a batch of ``batch_size`` at the present parameters, or ``noise_trace``. For "gd" of many runs where n
        ≤ 2d, :func:`~flatmin.networks.freezing.descend` takes half the time: it moves in sample space.
    sampling : "epoch", "fresh" or "replacement"
        How batches are drawn, see :mod:`flatmin.sampling`; also the factor of C for "gld".
    noise_trace : float, optional
        Trace of the noise's covariance, for "gld".
    file : path, optional
        The state is kept there about every ``save_every`` seconds and at the end; the same call continues
        from it with the same numbers as if it had never stopped.
    save_every : float
        Seconds.
    progress : bool
        Show a progress bar where someone watches.
    device : str or torch.device, optional
        Where to train, see :func:`flatmin.networks.device.choose`. Batches and noise are the same everywhere.
        With CUDA a step is recorded as a graph where it can be, which changes no number but the time.
    threads : int
        Threads of torch during the call. Sums over several threads are rounded otherwise, and their number
        may be cut by the machine: with one, the same call gives the same bits on every machine with the same
        kind of processor. One is also fastest for small networks; a large one, or many runs, gain from more.

    Returns
    -------
    Runs
        Divergence is reported there, not raised.

    Raises
    ------
    ValueError
        Naming the argument, for what is out of range or does not fit, and for a ``file`` that holds another
        call or is damaged.
    OSError
        For a file that cannot be read or written.

    Examples
    --------
    >>> import flatmin as fm
    >>> digits = fm.datasets.digits()
    >>> call = dict(eta=0.1, batch_size=50, steps=300, seed=range(4), keep=3)
    >>> fm.train(fm.models.mlp((64, 20, 10)), "cross-entropy", digits.train, **call)
    <Runs: 4 runs of sgd, P = 1510, kept at 3 steps up to 300, none diverged>
    """
    plan = Plan(model, loss, data, eta, batch_size, steps, seed, keep, method, sampling, noise_trace, threads)
    file, save_every = path_of(file), _check.number("save_every", save_every, least=0, infinite=True)
    progress, device = _check.flag("progress", progress), choose(device, plan.starts[0])
    networks = [private(one, device) for one in plan.starts]
    network = networks[0]
    thetas = torch.stack([parameters.vector(one.module) for one in networks]).expand(len(plan), -1)
    saved = _Saved(file, plan, device, save_every)
    with still(network, plan.threads):
        samples = plan.samples.to(device, network.dtype)
        read = losses.of(loss)
        samples = ready(read, network, samples, plan.starts[0])
        stack, samples = stacked(network, samples, read, thetas, plan.batch_size)
        kept, diverged_at = _train(_Steps(stack, read, samples, plan), thetas, saved, progress)
    start = private(plan.starts[0], torch.device("cpu")).module
    how = plan.batch_size, plan.method, str(plan.sampling), diverged_at, device, plan.threads
    return Runs(start, loss, plan.kept, kept, plan.seeds, plan.etas, *how)


class _Steps:
    """Takes step number t with a stack."""

    def __init__(self, stack, loss, samples, plan: Plan):
        self.stack, self.loss, self.plan = stack, loss, plan
        self.samples, self.count = samples, len(plan.samples)
        thetas = stack.thetas()
        self.etas = torch.from_numpy(plan.etas).to(thetas)
        self.whole, self.batches = spread(samples, len(plan)), _Batches(plan, thetas.device)
        self.advance = self._plain
        if plan.method != "gld" and plan.kept[-1] >= _RECORDED:
            self.advance = recorded(self._plain, stack, self._positions(0))

    def __call__(self, t: int) -> None:
        if self.plan.method == "gld":
            self._langevin(t)
        else:
            self.advance(self._positions(t))

    def _positions(self, t):
        """Those of the batch of step t, (R, B); none for full gradients."""
        return self.etas[:0] if self.plan.method == "gd" else self.batches(t)

    def _plain(self, positions):
        batches = self.whole if self.plan.method == "gd" else self.samples.take(positions)
        self.stack.step(batches, self.loss, self.etas)

    def _langevin(self, t):
        plan = self.plan
        gradient, trace = self.stack.gradients_and_traces(self.whole, self.loss)
        if plan.noise_trace is None:
            trace = trace.clamp(min=0) * plan.sampling.factor(self.count, plan.batch_size)
        else:
            trace = torch.full_like(trace, plan.noise_trace)
        size, dtype = gradient.shape[1], np.float64 if gradient.dtype == torch.float64 else np.float32
        normals = np.stack(
            [np.random.default_rng([int(s), t]).standard_normal(size, dtype=dtype) for s in plan.seeds]
        )
        noise = torch.from_numpy(normals).to(gradient) * (trace / size).sqrt()[:, None]
        self.stack.load(self.stack.thetas() - self.etas[:, None] * (gradient + noise))

    def stop(self, runs) -> None:
        """Let the runs at these positions (bool, on the CPU) stay where they are."""
        self.etas[torch.from_numpy(runs).to(self.etas.device)] = 0


class _Batches:
    """The batches of step t, positions (R, B) on the device, drawn some epochs at a time.

    Beside a device that computes on its own, the next ones are drawn by a thread meanwhile.
    """

    def __init__(self, plan: Plan, device: torch.device):
        self.plan, self.device, self.count = plan, device, len(plan.samples)
        self.per_epoch = self.count // plan.batch_size
        ahead = min(_AHEAD // self.per_epoch, _DRAWN // (len(plan) * self.count))
        self.epochs = 1 if device.type == "cpu" else max(1, ahead)
        self.thread = None if device.type == "cpu" else ThreadPoolExecutor(1)
        self.block, self.coming = None, None

    def __call__(self, t: int) -> Tensor:
        block, place = divmod(t, self.epochs * self.per_epoch)
        if block != self.block:
            self.order = self._drawn(block)
            self.block = block
        return self.order[place]

    def _drawn(self, block):
        if self.thread is None:
            return self._draw(block).to(self.device)
        coming, found = self.coming or (None, None)
        order = found.result() if coming == block else self._draw(block)
        if (block + 1) * self.epochs * self.per_epoch < self.plan.kept[-1]:
            self.coming = block + 1, self.thread.submit(self._draw, block + 1)
        return order.to(self.device, non_blocking=True)

    def _draw(self, block):
        plan, found = self.plan, []
        for epoch in range(block * self.epochs, (block + 1) * self.epochs):
            size = self.count, plan.batch_size
            found.append(np.stack([plan.sampling.draw(*size, int(seed), epoch) for seed in plan.seeds], 1))
        return torch.from_numpy(found[0] if len(found) == 1 else np.concatenate(found))


@torch.no_grad()
def _train(advance: _Steps, start: Tensor, saved: _Saved, progress):
    """Take the steps of the plan; return the kept parameters (R, T, P) and where runs diverged (R,)."""
    plan, stack = advance.plan, advance.stack
    shape = len(plan), len(plan.kept), start.shape[1]
    kept = torch.zeros(shape, dtype=start.dtype, device="cpu")  # on the CPU: there is more room
    t, thetas, done, diverged_at = saved.load(start)
    kept[:, : done.shape[1]] = done
    stack.load(thetas)
    advance.stop(diverged_at >= 0)
    safe, last = stack.thetas(), int(plan.kept[-1])
    bar = tqdm(total=last, initial=t, desc=plan.method, unit="step", disable=None if progress else True)
    with bar:
        for stop in _stops(t, plan.kept):
            for step in range(t, stop):
                advance(step)
            bar.update(stop - t)
            t = stop
            safe = _guard(stack, safe, advance, diverged_at, t)
            if t in plan.kept:
                kept[:, int(np.searchsorted(plan.kept, t))] = safe.cpu()
            saved.save(t, safe, kept[:, plan.kept <= t], diverged_at, t == last)
    return kept, diverged_at


def _stops(t, kept):
    """Steps from t on at which runs are looked at: multiples of _CHECK, and those at which they are kept."""
    yield t
    while t < kept[-1]:
        t = int(min((t // _CHECK + 1) * _CHECK, kept[np.searchsorted(kept, t, side="right")]))
        yield t


def _guard(stack, safe, advance, diverged_at, t):
    """Put runs that are no longer finite back to their last finite parameters and stop them."""
    thetas = stack.thetas()
    lost = ~torch.isfinite(thetas).all(1)
    if lost.any():
        thetas[lost] = safe[lost]
        stack.load(thetas)
        lost = lost.cpu().numpy()
        advance.stop(lost)
        diverged_at[lost & (diverged_at < 0)] = t
    return thetas


class _Saved:
    """The state of a call in its file, if it has one."""

    def __init__(self, file: Path | None, plan: Plan, device, every: float):
        self.file, self.plan, self.every, self.last = file, plan, every, time.monotonic()
        if file is not None:
            self.identity = plan.identity()
            self.place = f"threads={plan.threads} on {device.type}"

    def load(self, start: Tensor):
        """(t, θ, what is kept, where runs diverged): of the file, or of the start."""
        runs = len(self.plan)
        state = None if self.file is None else load_state(self.file, _KIND)
        if state is None:
            return 0, start, start.new_zeros(runs, 0, start.shape[1], device="cpu"), np.full(runs, -1)
        mine, other = json.loads(self.identity), json.loads(str(state["identity"]))
        differing = [name for name in mine if mine[name] != other.get(name)]
        if differing:
            raise ValueError(
                f"file={str(self.file)!r}: holds another training call, which differs in "
                f"{', '.join(differing)}: name another file, or remove it"
            )
        if str(state["place"]) != self.place:
            raise ValueError(
                f"file={str(self.file)!r}: was begun with {state['place']} and not {self.place}: must be the "
                "same to go on with the same numbers"
            )
        thetas, kept = (torch.from_numpy(state[name]) for name in ("thetas", "kept"))
        return int(state["t"]), thetas.to(start), kept, state["diverged_at"].copy()

    def save(self, t, thetas, kept, diverged_at, at_once: bool) -> None:
        """Keep the state if it is time, or ``at_once``."""
        if self.file is None or not (at_once or time.monotonic() - self.last > self.every):
            return
        state = {"identity": self.identity, "place": self.place, "t": t, "thetas": thetas.cpu().numpy()}
        save_state(self.file, state | {"kept": kept.numpy(), "diverged_at": diverged_at}, _KIND)
        self.last = time.monotonic()
