"""How alike end points are: in what they misclassify, in what they predict, across a barrier or not.

What is compared with a threshold are whole numbers: 18 of 20 errors shared is 0.9 exactly (Y26 Eq. 2).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import nn

from flatmin import _check
from flatmin.networks.data.samples import samples_of
from flatmin.networks.device import choose
from flatmin.networks.freezing.forms import Form, vectors
from flatmin.networks.parameters import trainable
from flatmin.networks.train.stacks import private, still

__all__ = [
    "Counts",
    "Readings",
    "agreement",
    "barriers",
    "evaluate",
    "jaccard",
]


@dataclass(frozen=True, eq=False)
class Counts:
    """Shares as whole numbers: ``common`` of ``total``, int64 arrays of one shape; 0 of 0 counts as all."""

    common: np.ndarray
    total: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """common/total, 1 where both are 0."""
        return np.where(self.total > 0, self.common / np.maximum(self.total, 1), 1.0)

    def at_least(self, threshold: float | Fraction) -> np.ndarray:
        """Whether common/total ≥ ``threshold``, in whole numbers: 0.9 is nine tenths.

        Raises ValueError for a threshold outside (0, 1].
        """
        if not isinstance(threshold, Fraction):
            threshold = Fraction(repr(_check.number("threshold", threshold)))
        if not 0 < threshold <= 1:
            raise _check.refused("threshold", threshold, "a number above 0 and at most 1")
        part, whole = threshold.limit_denominator(10**9).as_integer_ratio()
        return self.common * whole >= part * self.total


def jaccard(wrong, others) -> Counts:
    """Jaccard similarity of sets of misclassified samples (Y26 Eq. 2), as |A ∩ B| of |A ∪ B|.

    ``wrong`` and ``others`` (…, n), bool, True where a sample is misclassified; leading axes broadcast, all
    pairs are ``jaccard(wrong[:, None], wrong[None])``. Two empty sets are alike. Raises ValueError for other
    arrays, no samples, or different n.
    """
    wrong, others = _same("wrong", wrong, "others", others, bool)
    both = (wrong & others).sum(-1, dtype=np.int64)
    return Counts(both, (wrong | others).sum(-1, dtype=np.int64))


def agreement(predicted, others) -> Counts:
    """On how many samples predictions (…, n) agree, of n; leading axes broadcast as in :func:`jaccard`.

    Raises ValueError as there, for what is not whole numbers.
    """
    predicted, others = _same("predicted", predicted, "others", others, int)
    equal = (predicted == others).sum(-1, dtype=np.int64)
    return Counts(equal, np.full_like(equal, predicted.shape[-1]))


def _same(first, one, second, other, dtype):
    """Two arrays with the same samples along the last axis, and leading axes that broadcast."""
    arrays = []
    for name, value in ((first, one), (second, other)):
        kinds = "b" if dtype is bool else "iu"
        array = np.asarray(value) if isinstance(value, (np.ndarray, list, tuple)) else None
        if array is None or array.dtype.kind not in kinds or not array.ndim or not array.shape[-1]:
            what = "truth values" if dtype is bool else "whole numbers"
            raise _check.refused(
                name, value, f"an array of {what}, samples along the last axis, at least one"
            )
        arrays.append(array)
    if arrays[0].shape[-1] != arrays[1].shape[-1]:
        lengths = f"{arrays[0].shape[-1]} and {arrays[1].shape[-1]} samples"
        raise ValueError(f"{first}, {second}: {lengths}: must be of the same samples")
    _check.together(**{first: arrays[0], second: arrays[1]})
    return arrays


@dataclass(frozen=True, eq=False)
class Readings:
    """What R networks make of n samples: ``loss`` (R,), ``predictions`` (R, n) uint8, ``wrong`` (R, n)."""

    loss: np.ndarray
    predictions: np.ndarray
    wrong: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """Share that is classified rightly, (R,)."""
        return 1 - self.wrong.mean(1)


def evaluate(model: nn.Module, loss, data, thetas, *, device=None, threads: int = 1) -> Readings:
    """Mean loss, predictions and errors on ``data`` of the networks at ``thetas`` (R, P).

    A network of one output predicts 1 where it is positive, else 0. Raises ValueError for thetas or data that
    do not fit, targets that are no classes, or more than 256 of them.
    """
    with _evaluating(model, loss, data, thetas, device, threads) as (form, thetas):
        losses, chosen, labels = [], [], None
        for part in form.chunks(len(thetas)):
            outputs = form.outputs(thetas[part].to(form.network.device))
            labels = form.labels(outputs) if labels is None else labels
            losses.append(form.mean_losses(outputs).double().cpu())
            chosen.append(_small(form, outputs))
        found, labels = torch.cat(chosen).numpy(), labels.cpu().numpy()
    return Readings(torch.cat(losses).numpy(), found, found != labels)


def barriers(
    model: nn.Module, loss, data, thetas, pairs=None, *, points: int = 11, device=None, threads: int = 1
) -> np.ndarray:
    """Largest loss on the straight line between two networks above the larger of its ends.

    ``thetas`` (M, P), ``pairs`` (Q, 2) numbers of two rows each: (Q,); by default all pairs: (M, M),
    symmetric, diagonal 0. The loss is taken at ``points`` equally spaced points, ends included, so that 0
    stands for no barrier. Raises ValueError for fewer than three points, or what does not fit.
    """
    with _evaluating(model, loss, data, thetas, device, threads) as (form, thetas):
        count = len(thetas)
        if pairs is not None:
            pairs = _check.array("pairs", pairs, dtype=int, shape=(None, 2), least=0, most=count - 1)
            return _heights(_lines(form, thetas, torch.from_numpy(pairs), points))
        found, every = np.zeros((count, count)), np.stack(np.triu_indices(count, 1), 1)
        rows, columns = every.T
        heights = _heights(_lines(form, thetas, torch.from_numpy(every), points))
        found[rows, columns] = found[columns, rows] = heights
        return found


def _heights(lines):
    return lines.max(1) - np.maximum(lines[:, 0], lines[:, -1])


def _lines(form: Form, thetas, pairs, points) -> np.ndarray:
    """Losses (Q, points) on the lines between the rows of ``thetas`` that ``pairs`` (Q, 2) name.

    What the first layer adds up is linear in its weights, so it is computed at the ends only.
    """
    places = torch.linspace(0, 1, _check.integer("points", points, least=3, most=10**6)).to(thetas)
    device, found = form.network.device, thetas.new_empty(len(pairs), points, dtype=torch.float64)
    for part in form.chunks(len(pairs)):
        rows, which = pairs[part].unique(return_inverse=True)
        ends, which = thetas[rows].to(device), which.to(device)
        if form.layers is None:
            held = [ends]
        else:
            parts = form.parts(ends)
            held = [form.first(parts), *(one for pair in parts[1:] for one in pair)]
        sides = [[None if t is None else t[which[:, side]] for t in held] for side in (0, 1)]
        for index, place in enumerate(places.to(device)):
            mixed = [None if a is None else torch.lerp(a, b, place) for a, b in zip(*sides, strict=True)]
            if form.layers is None:
                outputs = form.outputs(mixed[0])
            else:
                uppers = list(zip(mixed[1::2], mixed[2::2], strict=True))
                outputs = form.above(mixed[0], [None, *uppers])[-1]
            found[part, index] = form.mean_losses(outputs).double().cpu()
    return found.numpy()


@contextlib.contextmanager
def _evaluating(model, loss, data, thetas, device, threads):
    """The form of a network, and ``thetas`` (R, P) checked and in its dtype, inside exact kernels."""
    thetas = vectors("thetas", thetas, sum(p.numel() for _, p in trainable(model)))
    threads = _check.integer("threads", threads, least=1, most=1024)
    network, samples = private(model, choose(device, model)), samples_of(data)
    with still(network, threads), torch.no_grad():
        yield Form(network, loss, samples, model), thetas.to(network.dtype)


def _small(form, outputs):
    """Classes as bytes, on the CPU."""
    classes = outputs[0].numel() // form.count
    if classes > 256:
        raise ValueError(f"model has {classes} outputs: must have at most 256 classes")
    return form.chosen(outputs).to(torch.uint8).cpu()
