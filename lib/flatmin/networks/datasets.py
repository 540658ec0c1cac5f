"""Data sets: scikit-learn's digits at hand, the image sets of the papers by download."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flatmin.networks import losses

__all__ = ["Data", "Split", "digits"]

_SCALES = {"symmetric": (0.5, 0.5), "unit": (0.0, 1.0)}


@dataclass(frozen=True)
class Data:
    """Samples of one data set.

    ``inputs`` (n, …) floating point; ``targets`` integer labels (n,) or real targets (n, outputs);
    ``name`` says where they come from.
    Raises ValueError if the lengths differ.
    """

    inputs: Tensor
    targets: Tensor
    name: str = ""

    def __post_init__(self):
        if len(self.inputs) != len(self.targets):
            raise ValueError(f"inputs hold {len(self.inputs)} samples, targets {len(self.targets)}")

    def __len__(self):
        return len(self.inputs)

    def subset(self, index) -> Data:
        """Return the samples at ``index`` (a slice, or an array of positions), in that order."""
        return replace(self, inputs=self.inputs[index], targets=self.targets[index])

    def first(self, samples: int) -> Data:
        """Return the first ``samples`` samples in file order; ValueError if there are fewer."""
        if not 1 <= samples <= len(self):
            raise ValueError(f"samples must be 1…{len(self)}, got {samples}")
        return self.subset(slice(0, samples))

    def per_class(self, samples: int) -> Data:
        """Return the first ``samples`` of each class in file order, classes interleaved as in the file.

        Y26 trains on ``mnist().train.per_class(100)``. ValueError if a class has fewer, or without labels.
        """
        labels = self._labels("per_class").numpy()
        keep = []
        for label in np.unique(labels):
            where = np.flatnonzero(labels == label)
            if not 1 <= samples <= len(where):
                raise ValueError(f"samples must be 1…{len(where)} for class {label}, got {samples}")
            keep.append(where[:samples])
        return self.subset(torch.from_numpy(np.sort(np.concatenate(keep))))

    def parity(self) -> Data:
        """Return the samples with targets +1 (even label) and −1 (odd label), (n, 1): the task of M22 §5."""
        labels = self._labels("parity")
        return replace(self, targets=(1 - 2 * (labels % 2)).to(self.inputs.dtype)[:, None])

    def one_hot(self, classes: int = 10) -> Data:
        """Return the samples with one-hot targets (n, classes)."""
        return replace(self, targets=losses.one_hot(self._labels("one_hot"), classes, self.inputs.dtype))

    def to(self, dtype: torch.dtype) -> Data:
        """Return the samples with inputs (and real targets) of ``dtype``."""
        targets = self.targets.to(dtype) if self.targets.is_floating_point() else self.targets
        return replace(self, inputs=self.inputs.to(dtype), targets=targets)

    def _labels(self, method):
        if self.targets.is_floating_point():
            raise ValueError(f"{method} needs integer labels, got targets of {self.targets.dtype}")
        return self.targets


class Split(NamedTuple):
    """Training and test samples; unpacks as ``train, test``."""

    train: Data
    test: Data


def _scaled(values: np.ndarray, top: float, scale: str, dtype: torch.dtype) -> Tensor:
    if scale not in _SCALES:
        raise ValueError(f"scale must be one of {sorted(_SCALES)}, got {scale!r}")
    offset, width = _SCALES[scale]
    return ((torch.from_numpy(values).to(torch.float64) / top - offset) / width).to(dtype)


def digits(train: int = 1000, scale: str = "symmetric", dtype: torch.dtype = torch.float32) -> Split:
    """Handwritten digits of scikit-learn, 1797 images of 8×8 pixels: (n, 64), labels 0…9. No download.

    The first ``train`` images in file order are for training, the rest for testing. ``scale``:
    ``"symmetric"`` maps pixels to [−1, 1] (as Y26 does with MNIST), ``"unit"`` to [0, 1].
    Raises ValueError for ``train`` outside 1…1796 or an unknown scale.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    if not 1 <= train < len(labels):
        raise ValueError(f"train must be 1…{len(labels) - 1}, got {train}")
    inputs = _scaled(images, 16.0, scale, dtype)
    data = Data(inputs, torch.from_numpy(labels).long(), "digits")
    return Split(data.subset(slice(0, train)), data.subset(slice(train, None)))
