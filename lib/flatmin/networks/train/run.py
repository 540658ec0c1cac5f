"""Training: SGD, GD and gradient Langevin dynamics, many runs at once.

The runs of one call share a network, a data set and a batch size, and differ in their batch order (seed),
step size or start. Their parameters are stacked and one matrix product serves them all. Everything random
comes from ``(seed, epoch)`` or ``(seed, step)``, so a run that was killed continues from its last checkpoint
bit for bit, and a run does not depend on what it is stacked with except through rounding.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from tqdm import tqdm

from flatmin.networks import losses, parameters
from flatmin.networks.data.sets import Data
from flatmin.networks.device import choose, home, place
from flatmin.networks.gradient_noise import batch_factor
from flatmin.networks.losses import Loss
from flatmin.networks.passes.dense import dense_layers
from flatmin.networks.passes.generic import linearise

__all__ = ["Runs", "batches", "predict", "run"]

_SAMPLINGS = ("shuffle", "subset", "replacement")
_METHODS = ("sgd", "gd", "gld")
_CHECK = 100  # steps between looks at whether a run is still finite
_ENTRIES = 2**25  # numbers in one temporary array


@dataclass(frozen=True)
class Runs:
    """What a training call leaves.

    ``steps`` (T,): iterations at which parameters were kept; ``parameters`` (R, T, P); ``seeds``, ``eta``
    (R,); ``diverged_at`` (R,): iteration at which a run was found not to be finite, −1 for a run that stayed
    finite. A diverged run keeps its last finite parameters, and its losses read ∞ from there on. All lies on
    the CPU; ``device`` is where the runs were trained, and where losses and accuracies are computed.
    """

    model: nn.Module = field(repr=False)
    steps: np.ndarray
    parameters: Tensor = field(repr=False)
    seeds: np.ndarray
    eta: np.ndarray
    batch_size: int
    loss: str
    method: str
    sampling: str
    diverged_at: np.ndarray
    device: torch.device

    def __len__(self):
        return len(self.seeds)

    @property
    def diverged(self) -> np.ndarray:
        """Whether each run diverged, (R,) bool."""
        return self.diverged_at >= 0

    def model_at(self, run: int = 0, checkpoint: int = -1) -> nn.Module:
        """Return the network of one run at one checkpoint (position in ``steps``)."""
        return parameters.with_parameters(self.model, self.parameters[run, checkpoint])

    def losses(self, data: Data) -> np.ndarray:
        """Mean loss on ``data`` of every run at every checkpoint, (R, T); ∞ once a run has diverged."""
        loss = losses.by_name(self.loss)

        def mean(outputs, targets):
            return loss.values(outputs, loss.targets(targets, outputs.shape[-1], outputs.dtype)).mean()

        values = self._evaluate(mean, data)
        late = self.diverged[:, None] & (self.steps >= self.diverged_at[:, None])
        return np.where(late, np.inf, values)

    def accuracies(self, data: Data) -> np.ndarray:
        """Share of ``data`` that every run classifies rightly at every checkpoint, (R, T).

        One output: the sign against targets ±1; several: the largest against labels or one-hot targets.
        """
        return self._evaluate(lambda outputs, targets: correct(outputs, targets).double().mean(), data)

    def _evaluate(self, measure, data):
        model, data = place(self.model, data, self.device)
        values = [
            float(measure(_outputs(model, theta.to(self.device), data.inputs), data.targets))
            for theta in self.parameters.flatten(0, 1)
        ]
        return np.array(values).reshape(self.parameters.shape[:2])


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Which samples are classified rightly, (n,) bool: outputs (n, C), targets as in :class:`Data`."""
    if outputs.shape[1] == 1:
        return (outputs * targets.reshape(outputs.shape) > 0)[:, 0]
    labels = targets.argmax(1) if targets.is_floating_point() else targets
    return outputs.argmax(1) == labels


def _named(model, theta):
    """θ (P,) as the tensors of the model, by name; views."""
    named, start = {}, 0
    for name, p in parameters.trainable(model):
        named[name] = theta[start : start + p.numel()].view(p.shape)
        start += p.numel()
    return named


def predict(model: nn.Module, theta: Tensor, data: Data, device: str | torch.device | None = None) -> Tensor:
    """Outputs (n, C), on the CPU, of ``model`` with the parameters ``theta`` (P,)."""
    device = choose(device, model)
    model, data = place(model, data, device)
    return _outputs(model, theta.to(device), data.inputs).cpu()


@torch.no_grad()
def _outputs(model, theta, inputs):
    outputs = functional_call(model, _named(model, theta), (inputs.to(theta.dtype),))
    return outputs[:, None] if outputs.ndim == 1 else outputs


def batches(samples: int, batch_size: int, seed: int, epoch: int, sampling: str = "shuffle") -> np.ndarray:
    """Return the batches of one epoch, positions (samples // batch_size, batch_size).

    ``"shuffle"``: a fresh permutation cut into batches, a remainder is left out (Y26, and most practice);
    ``"subset"``: each batch drawn without replacement, independently of the others, the case for which
    C = (n − B)/((n − 1)B) Σ is exact at every step; ``"replacement"``: each sample drawn independently.
    The result depends on the arguments only.
    """
    rng = np.random.default_rng([seed, epoch])
    count = samples // batch_size
    if sampling == "shuffle":
        return rng.permutation(samples)[: count * batch_size].reshape(count, batch_size)
    if sampling == "replacement":
        return rng.integers(samples, size=(count, batch_size))
    return np.stack([rng.permutation(samples)[:batch_size] for _ in range(count)])


class DenseStack:
    """R fully connected networks: weights (R, h, d), biases (R, 1, h), gradients by hand."""

    def __init__(self, layers, thetas: Tensor):
        self.kinds = [layer.activation for layer in layers]
        self.weights, self.biases = [], []
        for layer in layers:
            h, d = layer.weight.shape
            self.weights.append(thetas[:, layer.weight_slice].reshape(-1, h, d).contiguous())
            bias = None if layer.bias is None else thetas[:, layer.bias_slice].reshape(-1, 1, h).contiguous()
            self.biases.append(bias)

    def thetas(self) -> Tensor:
        """Parameters of all runs, (R, P)."""
        parts = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            parts.append(weight.flatten(1))
            if bias is not None:
                parts.append(bias.flatten(1))
        return torch.cat(parts, 1)

    def load(self, thetas: Tensor) -> None:
        """Set the parameters of all runs from (R, P)."""
        start = 0
        for weight, bias in zip(self.weights, self.biases, strict=True):
            for part in (weight, bias):
                if part is not None:
                    count = part[0].numel()
                    part.copy_(thetas[:, start : start + count].view(part.shape))
                    start += count

    def _forward(self, x):
        inputs = []
        for weight, bias, kind in zip(self.weights, self.biases, self.kinds, strict=True):
            inputs.append(x)
            turned = weight.transpose(1, 2)
            x = torch.bmm(x, turned) if bias is None else torch.baddbmm(bias, x, turned)
            x = x.relu_() if kind is nn.ReLU else x.tanh_() if kind is nn.Tanh else x
        return inputs, x

    def _below(self, back, weight, a, kind):
        """δ of the layer below, whose activation ``kind`` gave its output ``a``."""
        back = torch.bmm(back, weight)
        if kind is nn.ReLU:
            return back.mul_(a > 0)
        return back.mul_(1 - a * a) if kind is nn.Tanh else back

    def step(self, x: Tensor, y: Tensor, loss: Loss, scale: Tensor) -> None:
        """One step θ ← θ − scale Σ ∇ℓ on inputs (R, B, d); scale = η/B as (R, 1, 1)."""
        inputs, outputs = self._forward(x)
        back = loss.gradient(outputs, y).mul_(scale)
        for index in range(len(self.weights) - 1, -1, -1):
            weight, bias, a = self.weights[index], self.biases[index], inputs[index]
            below = self._below(back, weight, a, self.kinds[index - 1]) if index else None
            weight.baddbmm_(back.transpose(1, 2), a, alpha=-1)
            if bias is not None:
                bias.sub_(back.sum(1, keepdim=True))
            back = below

    def gradient_and_trace(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """∇L (R, P) over the samples x (R, n, d), and Tr Σ (R,)."""
        inputs, outputs = self._forward(x)
        back, parts, norms = loss.gradient(outputs, y), [], 0.0
        for index in range(len(self.weights) - 1, -1, -1):
            weight, bias, a = self.weights[index], self.biases[index], inputs[index]
            extra = 0.0 if bias is None else 1.0
            norms = norms + back.square().sum(2) * (a.square().sum(2) + extra)
            if bias is not None:
                parts.append(back.mean(1))
            parts.append(torch.bmm(back.transpose(1, 2), a).flatten(1) / x.shape[1])
            back = self._below(back, weight, a, self.kinds[index - 1]) if index else None
        gradient = torch.cat(parts[::-1], 1)
        return gradient, norms.mean(1) - gradient.square().sum(1)


class GenericStack:
    """R networks of any kind: gradients by ``torch.func``, mapped over the stacked parameters."""

    def __init__(self, model: nn.Module, thetas: Tensor):
        self.model, self._thetas = model, thetas.clone()

    def thetas(self) -> Tensor:
        """Parameters of all runs, (R, P)."""
        return self._thetas.clone()

    def load(self, thetas: Tensor) -> None:
        """Set the parameters of all runs from (R, P)."""
        self._thetas.copy_(thetas)

    def _gradients(self, x, y, loss):
        def total(theta, one_x, one_y):
            outputs = functional_call(self.model, _named(self.model, theta), (one_x,))
            outputs = outputs[:, None] if outputs.ndim == 1 else outputs
            return loss.values(outputs, one_y).sum()

        if len(self._thetas) == 1:  # without the overhead of vmap, which convolutions feel most
            theta = self._thetas[0].detach().requires_grad_()
            with torch.enable_grad():
                return torch.autograd.grad(total(theta, x[0], y[0]), theta)[0][None]
        return vmap(grad(total))(self._thetas, x, y)

    def step(self, x: Tensor, y: Tensor, loss: Loss, scale: Tensor) -> None:
        """One step θ ← θ − scale Σ ∇ℓ on inputs (R, B, …); scale = η/B as (R, 1, 1)."""
        self._thetas -= scale[:, 0] * self._gradients(x, y, loss)

    def gradient_and_trace(self, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """∇L (R, P) over the samples x (R, n, …), and Tr Σ (R,)."""
        gradient = self._gradients(x, y, loss) / x.shape[1]
        square = []
        for theta, one_x, one_y in zip(self._thetas, x, y, strict=True):
            passed = linearise(parameters.with_parameters(self.model, theta), Data(one_x, one_y), loss)
            rows = max(1, _ENTRIES // passed.parameters)
            chunks = [slice(i, i + rows) for i in range(0, passed.samples, rows)]
            square.append(sum(passed.sample_gradients(c).square().sum() for c in chunks) / passed.samples)
        return gradient, torch.stack(square) - gradient.square().sum(1)


@dataclass
class _Plan:
    """Everything that decides what a training call computes."""

    loss: Loss
    method: str
    sampling: str
    batch_size: int
    noise_trace: float | None
    seeds: np.ndarray
    eta: np.ndarray
    kept: np.ndarray
    inputs: Tensor
    targets: Tensor

    def fingerprint(self, start: Tensor) -> str:
        """Hash of the plan and the start: a checkpoint of another call is not continued."""
        words = [self.loss.name, self.method, self.sampling, self.batch_size, self.noise_trace]
        digest = hashlib.sha256(json.dumps(words).encode())
        for array in (self.seeds, self.eta, self.kept, self.inputs, self.targets, start):
            digest.update(np.ascontiguousarray(torch.as_tensor(array).cpu().numpy()).tobytes())
        return digest.hexdigest()


def run(
    model: nn.Module | Sequence[nn.Module],
    data: Data,
    loss: str | Loss = "cross-entropy",
    *,
    eta: float | Sequence[float] = 0.1,
    batch_size: int | None = None,
    steps: int = 1000,
    seed: int | Sequence[int] = 0,
    method: str = "sgd",
    sampling: str = "shuffle",
    noise_trace: float | None = None,
    checkpoints: int | Sequence[int] = 2,
    file: str | Path | None = None,
    save_every: float = 30.0,
    progress: bool = False,
    device: str | torch.device | None = None,
) -> Runs:
    """Train ``model`` on the mean loss from its present parameters; the model itself is left as it is.

    Several seeds, step sizes or starts (a sequence of models of one architecture) are broadcast to R runs
    that are trained together: θ ← θ − η g.

    method
        ``"sgd"``: g is the gradient of a batch, see :func:`batches` for ``sampling``; ``"gd"``: the full
        gradient (``batch_size`` is not used); ``"gld"``: the full gradient plus isotropic Gaussian noise
        whose covariance has the trace of C, at every step that of a batch of ``batch_size`` at the present
        parameters (with the finite-population factor unless ``sampling="replacement"``), or ``noise_trace``.
    checkpoints
        How many parameter vectors to keep, equally spaced from step 0 to ``steps``, or the steps themselves.
    file
        An ``.npz`` file: the state is saved there about every ``save_every`` seconds and at the end; the same
        call continues from it with the same numbers as if it had never stopped (on the same device).
    progress
        Show a progress bar where someone watches.
    device
        Where to train, see :func:`flatmin.networks.device.choose`. Batches and noise are the same everywhere.

    Returns :class:`Runs`. Divergence is reported there, not raised.
    Raises ValueError for an unknown name, a batch size outside 1…n, a step size or number of steps that is
    not positive, checkpoints outside 0…steps, shapes that do not broadcast, or a ``file`` of another call.
    """
    starts = [model] if isinstance(model, nn.Module) else list(model)
    device = choose(device, starts[0])
    plan = _plan(starts, data, loss, eta, batch_size, steps, seed, method, sampling, noise_trace, checkpoints)
    thetas = torch.stack([parameters.flat(one).to(device) for one in starts]).expand(len(plan.seeds), -1)
    plan.inputs, plan.targets = plan.inputs.to(device), plan.targets.to(device)
    there, _ = place(starts[0], data.first(1), device)
    read = dense_layers(there)
    stack = GenericStack(there, thetas) if read is None else DenseStack(read[1], thetas)
    if read is not None:
        with torch.no_grad():
            for module in read[0]:
                plan.inputs = module(plan.inputs)
    kept, diverged_at = _train(stack, plan, thetas, file, save_every, progress)
    return Runs(
        starts[0],
        plan.kept,
        kept,
        plan.seeds,
        plan.eta,
        plan.batch_size,
        plan.loss.name,
        method,
        sampling,
        diverged_at,
        device,
    )


def _plan(starts, data, loss, eta, batch_size, steps, seed, method, sampling, noise_trace, checkpoints):
    for name, value, allowed in (("method", method, _METHODS), ("sampling", sampling, _SAMPLINGS)):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
    batch_size = len(data) if batch_size is None or method == "gd" else batch_size
    batch_factor(len(data), batch_size, replacement=False)  # 1 ≤ B ≤ n
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    shape = np.broadcast_shapes(np.shape(np.atleast_1d(seed)), np.shape(np.atleast_1d(eta)), (len(starts),))
    etas = np.broadcast_to(np.asarray(eta, float), shape).copy()
    if not (np.isfinite(etas).all() and (etas > 0).all()):
        raise ValueError(f"eta must be positive, got {eta}")
    if isinstance(checkpoints, int):
        if checkpoints < 1:
            raise ValueError(f"checkpoints must be at least 1, got {checkpoints}")
        kept = np.linspace(steps if checkpoints == 1 else 0, steps, checkpoints).round().astype(int)
    else:
        kept = np.asarray(checkpoints, int)
    kept = np.unique(kept)
    if kept[0] < 0 or kept[-1] > steps:
        raise ValueError(f"checkpoints must lie in 0…{steps}, got {kept[0]}…{kept[-1]}")
    loss = losses.by_name(loss)
    dtype = parameters.flat(starts[0]).dtype
    inputs = data.inputs.to(dtype)
    with torch.no_grad():
        outputs = starts[0](inputs[:1].to(home(starts[0])))
    targets = loss.targets(data.targets, 1 if outputs.ndim == 1 else outputs.shape[1], dtype)
    seeds = np.broadcast_to(np.asarray(seed, int), shape).copy()
    return _Plan(loss, method, sampling, batch_size, noise_trace, seeds, etas, kept, inputs, targets)


class _Gradient:
    """Applies step number t to a stack; knows the batches of the present epoch."""

    def __init__(self, stack, plan: _Plan):
        self.stack, self.plan, self.epoch = stack, plan, None
        self.per_epoch = len(plan.inputs) // plan.batch_size
        self.etas = torch.from_numpy(plan.eta).to(plan.inputs)
        runs = len(plan.seeds)
        self.whole = [x.expand(runs, *x.shape) for x in (plan.inputs, plan.targets)]

    def __call__(self, t: int) -> None:
        plan = self.plan
        if plan.method == "gld":
            self._langevin(t)
        elif plan.method == "gd":
            self.stack.step(*self.whole, plan.loss, (self.etas / len(plan.inputs))[:, None, None])
        else:
            index = self._batch(t)
            x, y = (part[index] for part in (plan.inputs, plan.targets))
            self.stack.step(x, y, plan.loss, (self.etas / plan.batch_size)[:, None, None])

    def _batch(self, t):
        plan, epoch = self.plan, t // self.per_epoch
        if epoch != self.epoch:
            n, size = len(plan.inputs), plan.batch_size
            drawn = [batches(n, size, int(seed), epoch, plan.sampling) for seed in plan.seeds]
            self.order, self.epoch = torch.from_numpy(np.stack(drawn, 1)).to(plan.inputs.device), epoch
        return self.order[t % self.per_epoch]

    def _langevin(self, t):
        plan = self.plan
        gradient, trace = self.stack.gradient_and_trace(*self.whole, plan.loss)
        if plan.noise_trace is None:
            factor = batch_factor(len(plan.inputs), plan.batch_size, plan.sampling == "replacement")
            trace = trace.clamp(min=0) * factor
        else:
            trace = torch.full_like(trace, plan.noise_trace)
        shape, dtype = gradient.shape, np.float64 if gradient.dtype == torch.float64 else np.float32
        normals = np.stack(
            [
                np.random.default_rng([int(seed), t]).standard_normal(shape[1], dtype=dtype)
                for seed in plan.seeds
            ]
        )
        noise = torch.from_numpy(normals).to(gradient) * (trace / shape[1]).sqrt()[:, None]
        self.stack.load(self.stack.thetas() - self.etas[:, None] * (gradient + noise))


@torch.no_grad()
def _train(stack, plan: _Plan, start: Tensor, file, save_every, progress):
    """Take the steps of the plan; return the kept parameters (R, T, P) and where runs diverged (R,)."""
    kept = torch.zeros(
        len(plan.seeds), len(plan.kept), start.shape[1], dtype=start.dtype, device="cpu"
    )  # on the CPU: there is more room
    diverged_at = np.full(len(plan.seeds), -1)
    print_of = plan.fingerprint(start)
    t = 0
    if file is not None and Path(file).exists():
        t, thetas, done, diverged_at = _load(file, print_of)
        kept[:, : done.shape[1]] = done
        stack.load(thetas.to(start))
    advance, last = _Gradient(stack, plan), int(plan.kept[-1])
    advance.etas[torch.from_numpy(diverged_at >= 0).to(start.device)] = 0
    safe, saved = stack.thetas(), time.monotonic()
    stops = np.union1d(np.arange(0, last + 1, _CHECK), plan.kept)
    with tqdm(
        total=last, initial=t, desc=plan.method, unit="step", disable=None if progress else True
    ) as bar:
        for stop in stops[stops >= t]:
            for step in range(t, stop):
                advance(step)
            bar.update(int(stop) - t)
            t = int(stop)
            safe = _guard(stack, safe, advance, diverged_at, t)
            if t in plan.kept:
                kept[:, int(np.searchsorted(plan.kept, t))] = safe.cpu()
            late = time.monotonic() - saved > save_every
            if file is not None and (late or t == last):
                _save(file, print_of, t, safe.cpu(), kept[:, plan.kept <= t], diverged_at)
                saved = time.monotonic()
    return kept, diverged_at


def _guard(stack, safe, advance, diverged_at, t):
    """Put runs that are no longer finite back to their last finite parameters and stop them."""
    thetas = stack.thetas()
    lost = ~torch.isfinite(thetas).all(1)
    if lost.any():
        thetas[lost] = safe[lost]
        stack.load(thetas)
        advance.etas[lost] = 0
        diverged_at[lost.cpu().numpy() & (diverged_at < 0)] = t
    return thetas


def _save(file, print_of, t, thetas, kept, diverged_at):
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as out:
        np.savez(out, plan=print_of, t=t, thetas=thetas, kept=kept, diverged_at=diverged_at)
    os.replace(part, path)  # a kill leaves the old state or the new one, never half of it


def _load(file, print_of):
    with np.load(file, allow_pickle=False) as stored:
        if str(stored["plan"]) != print_of:
            raise ValueError(
                f"file {str(file)!r} holds another training call: give another name or remove it"
            )
        arrays = [torch.from_numpy(stored[name]) for name in ("thetas", "kept")]
        return int(stored["t"]), *arrays, stored["diverged_at"].copy()
