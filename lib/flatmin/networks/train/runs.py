"""What training leaves: the parameters along the way, and what is evaluated from them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from flatmin import _check
from flatmin.networks import losses, parameters
from flatmin.networks.data.samples import leaves, samples_of
from flatmin.networks.device import choose
from flatmin.networks.train.stacks import fitted, private, still

__all__ = ["Runs", "predict"]

#: numbers in the inputs of one forward pass: 16 000 digits, 1300 images of MNIST, 340 of CIFAR
_ENTRIES = 2**20


@dataclass(frozen=True, eq=False)
class Runs:
    """What a training call leaves, all on the CPU; R runs, kept at T steps.

    Attributes
    ----------
    model : torch.nn.Module
        A copy of the (first) start.
    loss
        As it was given.
    kept : (T,)
        Steps at which parameters were kept.
    parameters : Tensor, (R, T, P)
        A diverged run keeps its last finite ones.
    seeds, eta : (R,)
    batch_size, method, sampling
        As they were used.
    diverged_at : (R,)
        Step at which a run was found not to be finite, −1 for a run that stayed finite.
    device, threads
        Where the runs were trained, and with how many threads of torch; losses and accuracies are computed
        there too.

    Examples
    --------
    >>> import flatmin as fm
    >>> train, test = fm.datasets.digits()
    >>> model = fm.models.mlp((64, 8, 10))
    >>> runs = fm.train(model, "cross-entropy", train, eta=0.1, batch_size=50, steps=200, keep=3)
    >>> runs.kept, runs.parameters.shape
    (array([  0, 100, 200]), torch.Size([1, 3, 610]))
    >>> runs.losses(train).shape
    (1, 3)
    >>> bool(runs.accuracies(test)[0, -1] > 0.8)
    True
    """

    model: nn.Module
    loss: object
    kept: np.ndarray
    parameters: Tensor = field(repr=False)
    seeds: np.ndarray
    eta: np.ndarray
    batch_size: int
    method: str
    sampling: str
    diverged_at: np.ndarray
    device: torch.device
    threads: int

    def __len__(self):
        return len(self.seeds)

    def __repr__(self):
        kept, lost = len(self.kept), int(self.diverged.sum())
        runs = f"{len(self)} run{'s' if len(self) > 1 else ''} of {self.method}"
        return (
            f"<Runs: {runs}, P = {self.parameters.shape[2]}, kept at {kept} steps up to {self.kept[-1]}, "
            f"{lost or 'none'} diverged>"
        )

    @property
    def diverged(self) -> np.ndarray:
        """Whether each run diverged, (R,) bool."""
        return self.diverged_at >= 0

    def model_at(self, run: int = 0, checkpoint: int = -1) -> nn.Module:
        """Return the network of one run at one checkpoint (positions, the latter in ``kept``).

        Raises ValueError for positions that are not there.
        """
        found = []
        for name, value, count in (("run", run, len(self)), ("checkpoint", checkpoint, len(self.kept))):
            found.append(_check.integer(name, value, least=-count, most=count - 1))
        return parameters.with_parameters(self.model, self.parameters[found[0], found[1]])

    def losses(self, data) -> np.ndarray:
        """Mean loss on ``data`` of every run at every checkpoint, (R, T).

        ∞ once a run has diverged, or where outputs leave the floating-point range. The loss is the one that
        was trained with, over all samples at once; outputs come in chunks of samples. Raises ValueError
        for data that do not fit.
        """
        late = self.diverged[:, None] & (self.kept >= self.diverged_at[:, None])

        def prepared(output, samples):
            loss, targets = losses.of(self.loss), fitted(losses.of(self.loss), output, samples).targets
            return lambda outputs: float(loss.total(outputs, targets) / len(outputs))

        values = self._evaluate(prepared, data)
        return np.where(late | np.isnan(values), np.inf, values)

    def accuracies(self, data) -> np.ndarray:
        """Share of ``data`` that every run classifies rightly at every checkpoint, (R, T).

        One output: its sign against targets ±1, or 1 and 0; several: the largest against labels or one-hot
        targets, classes along the first axis of an output; labels below 0 do not count. Raises ValueError for
        data that do not fit.
        """

        def prepared(output, samples):
            return lambda outputs: float(correct(outputs, samples.targets).double().mean())

        return self._evaluate(prepared, data)

    def _evaluate(self, prepare, data):
        network = private(self.model, self.device)
        samples = samples_of(data).to(self.device, network.dtype)
        measure, values = None, []
        with still(network, self.threads):
            for theta in self.parameters.flatten(0, 1):
                outputs = _outputs(network, theta, samples)
                measure = measure or prepare(outputs[:1], samples)
                values.append(measure(outputs))
        return np.array(values).reshape(self.parameters.shape[:2])


def correct(outputs: Tensor, targets: Tensor) -> Tensor:
    """Which samples (or positions) are classified rightly, bool: outputs (n, C, …); see ``accuracies``."""
    if not isinstance(targets, Tensor):
        raise _check.refused("targets", targets, "one tensor")
    if outputs.numel() == len(outputs) == targets.numel():
        found, wanted = outputs.reshape(-1), targets.reshape(-1)
        return torch.where(wanted > 0, found > 0, found < 0)
    if targets.is_floating_point() and targets.shape == outputs.shape:
        targets = targets.argmax(1)
    chosen = outputs.argmax(1)
    if targets.is_floating_point() or targets.shape != chosen.shape:
        raise ValueError(
            f"targets of shape {tuple(targets.shape)}, {targets.dtype}: must be labels or one-hot rows for "
            f"outputs {tuple(outputs.shape)}"
        )
    return (chosen == targets)[targets >= 0]


def predict(model: nn.Module, theta: Tensor, data, device: str | torch.device | None = None) -> Tensor:
    """Outputs (n, …), on the CPU, of ``model`` with the parameters ``theta`` (P,) on the inputs of ``data``.

    Raises ValueError for a model or data that cannot be read, or another number of parameters.
    """
    device = choose(device, _check.instance("model", model, nn.Module))
    network = private(model, device)
    _check.instance("theta", theta, Tensor)
    if tuple(theta.shape) != (network.parameters,) or not bool(torch.isfinite(theta).all()):
        raise _check.refused("theta", theta, f"{network.parameters} finite numbers, in one axis")
    samples = samples_of(data).to(device, network.dtype)
    with still(network):
        return _outputs(network, theta, samples).cpu()


@torch.no_grad()
def _outputs(network, theta, samples) -> Tensor:
    """Outputs (n, …) in chunks of samples."""
    theta = theta.to(network.device, network.dtype)
    values = dict(zip(network.names, network.split(theta), strict=True))
    rows = max(1, _ENTRIES // max(1, math.prod(leaves(samples.inputs)[0].shape[1:])))
    starts = range(0, len(samples), rows)
    return torch.cat([network.outputs(samples.rows(slice(i, i + rows)), values) for i in starts])
