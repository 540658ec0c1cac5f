"""Everything that decides what a training call computes: arguments checked, laid out by run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from flatmin import _check
from flatmin.networks import parameters
from flatmin.networks.data.samples import Samples, samples_of
from flatmin.networks.train.identity import digest
from flatmin.sampling import Sampling

__all__ = ["Plan", "path_of"]

_METHODS = ("sgd", "gd", "gld")
_LONGEST, _THREADS = 10**9, 1024  # steps; threads of torch
_LARGEST = 16 << 30  # bytes of kept parameters


class Plan:
    """Arguments of :func:`~flatmin.networks.train.loop.train`, checked and laid out by run.

    ``starts`` are modules, ``etas`` and ``seeds`` (R,), ``kept`` (T,) steps; the others are what they were.
    """

    def __init__(
        self, model, loss, data, eta, batch_size, steps, seed, keep, method, sampling, noise_trace, threads
    ):
        self.starts, self.loss, self.samples = _starts(model), loss, _samples(data)
        self.method, self.sampling = _check.choice("method", method, _METHODS), Sampling.of(sampling)
        steps, n = _check.integer("steps", steps, least=1, most=_LONGEST), len(self.samples)
        size = _check.integer("batch_size", n if batch_size is None else batch_size, least=1, most=n)
        self.batch_size = n if method == "gd" else size
        if noise_trace is not None:
            noise_trace = _check.number("noise_trace", noise_trace, least=0)
            if method != "gld":
                raise _check.refused("noise_trace", noise_trace, f"None with method={method!r}: it is gld's")
        self.noise_trace = noise_trace
        etas, seeds = _row("eta", eta, float, above=0), _row("seed", seed, int, least=0)
        runs = _check.together(seed=seeds, eta=etas, model=np.empty(len(self.starts)))
        self.seeds, self.etas = (np.broadcast_to(row, runs).copy() for row in (seeds, etas))
        self.kept = _kept(keep, steps)
        held = runs[0] * len(self.kept) * sum(p.nbytes for _, p in parameters.trainable(self.starts[0]))
        if held > _LARGEST:
            raise _check.refused("keep", keep, f"fewer steps: {held / 2**30:.3g} GiB of parameters to hold")
        self.threads = _check.integer("threads", threads, least=1, most=_THREADS)

    def __len__(self):
        return len(self.seeds)

    def identity(self) -> str:
        """Hashes of what decides the numbers, by name, as JSON."""
        parts = {
            "model": self.starts[0],
            "start": [parameters.vector(one) for one in self.starts],
            "loss": self.loss,
            "data": (self.samples.inputs, self.samples.targets),
            **{name: getattr(self, name) for name in ("method", "batch_size", "noise_trace")},
            "sampling": str(self.sampling),
            "seed": self.seeds,
            "eta": self.etas,
            "keep": self.kept,
        }
        return json.dumps({name: digest(part) for name, part in parts.items()})


def _samples(data) -> Samples:
    """The samples of ``data``; a loader's data set in its own order, whatever order the loader would draw."""
    if isinstance(data, DataLoader):
        data = DataLoader(data.dataset, batch_size=256, collate_fn=data.collate_fn)
    return samples_of(data)


def _starts(model) -> list[nn.Module]:
    """The models as a list: of one architecture, with the same buffers and frozen parameters."""
    allowed = "a torch.nn.Module, or a list of them"
    if isinstance(model, nn.Module):
        return [model]
    if not isinstance(model, (list, tuple)) or not model:
        raise _check.refused("model", model, allowed)
    for one in model:
        if not isinstance(one, nn.Module):
            raise _check.refused("model", one, allowed)
    if len(model) > 1:
        first = digest(model[0])
        for place, one in enumerate(model):
            if digest(one) != first:
                raise ValueError(
                    f"model: start {place} differs from start 0 in more than trained parameters: must be of "
                    "one architecture, with the same buffers and frozen parameters"
                )
    return list(model)


def _row(name, value, dtype, **bounds) -> np.ndarray:
    if np.ndim(value) == 0:
        one = _check.number if dtype is float else _check.integer
        if dtype is int:
            bounds["most"] = 2**63 - 1
        return np.array([one(name, value, **bounds)])
    return _check.array(name, value, ndim=1, dtype=dtype, **bounds)


def _kept(keep, steps) -> np.ndarray:
    """The steps at which parameters are kept, in order, each once."""
    if isinstance(keep, (Sequence, np.ndarray)) and not isinstance(keep, str):
        return np.unique(_check.array("keep", keep, ndim=1, dtype=int, least=0, most=steps))
    count = _check.integer("keep", keep, least=1, most=steps + 1)
    return np.unique(np.linspace(steps if count == 1 else 0, steps, count).round().astype(int))


def path_of(file) -> Path | None:
    """``file`` as a path, or None."""
    if file is None:
        return None
    if not isinstance(file, (str, os.PathLike)) or not str(file) or Path(file).is_dir():
        raise _check.refused("file", file, "the name of a file, such as 'run.npz'")
    return Path(file)
