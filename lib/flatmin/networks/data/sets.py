"""Data sets: scikit-learn's digits at hand, the image sets of the papers by download, and random inputs.

The image sets are looked for in the folder that the environment variable FLATMIN_DATA names, then in a cache,
then downloaded into it (see :mod:`flatmin.networks.data.files`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flatmin.networks import losses
from flatmin.networks.data import files

__all__ = ["Data", "Split", "by_name", "cifar10", "digits", "fashion_mnist", "gaussian", "mnist", "sphere"]

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
        labels = self._labels("per_class").cpu().numpy()
        keep = []
        for label in np.unique(labels):
            where = np.flatnonzero(labels == label)
            if not 1 <= samples <= len(where):
                raise ValueError(f"samples must be 1…{len(where)} for class {label}, got {samples}")
            keep.append(where[:samples])
        return self.subset(torch.from_numpy(np.sort(np.concatenate(keep))).to(self.targets.device))

    def parity(self) -> Data:
        """Return the samples with targets +1 (even label) and −1 (odd label), (n, 1): the task of M22 §5."""
        labels = self._labels("parity")
        return replace(self, targets=(1 - 2 * (labels % 2)).to(self.inputs.dtype)[:, None])

    def one_hot(self, classes: int = 10) -> Data:
        """Return the samples with one-hot targets (n, classes)."""
        return replace(self, targets=losses.one_hot(self._labels("one_hot"), classes, self.inputs.dtype))

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Data:
        """Return the samples with inputs (and real targets) of ``dtype``, on ``device``."""
        kind = dtype if self.targets.is_floating_point() else None
        inputs = self.inputs.to(device=device, dtype=dtype)
        return replace(self, inputs=inputs, targets=self.targets.to(device=device, dtype=kind))

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


def mnist(
    scale: str = "symmetric",
    dtype: torch.dtype = torch.float32,
    train: int | None = None,
    test: int | None = None,
) -> Split:
    """MNIST, 60 000 and 10 000 images: (n, 1, 28, 28), labels 0…9.

    ``train`` and ``test`` keep the first so many images in file order (default: all). ``scale`` as in
    :func:`digits`. Y26's training set is ``mnist().train.per_class(100)``, its test set
    ``mnist().test.per_class(20)``; M22's is ``mnist("unit", train=10_000).train.parity()``.
    Raises DataUnavailableError (an OSError) where the files can be had from nowhere.
    """
    return _idx_set(files.MNIST, "MNIST", scale, dtype, train, test)


def fashion_mnist(
    scale: str = "symmetric",
    dtype: torch.dtype = torch.float32,
    train: int | None = None,
    test: int | None = None,
) -> Split:
    """Fashion-MNIST, 60 000 and 10 000 images: (n, 1, 28, 28), labels 0…9. Arguments as :func:`mnist`."""
    return _idx_set(files.FASHION_MNIST, "Fashion-MNIST", scale, dtype, train, test)


def _idx_set(source, name, scale, dtype, train, test):
    parts = []
    for prefix, count in (("train", train), ("t10k", test)):
        images = files.read_idx(files.fetch(source, f"{prefix}-images-idx3-ubyte.gz"))
        labels = files.read_idx(files.fetch(source, f"{prefix}-labels-idx1-ubyte.gz"))
        parts.append(_images(images[:, None], labels, count, scale, dtype, name))
    return Split(*parts)


def cifar10(
    scale: str = "symmetric",
    dtype: torch.dtype = torch.float32,
    train: int | None = None,
    test: int | None = None,
) -> Split:
    """CIFAR-10, 50 000 and 10 000 images: (n, 3, 32, 32), labels 0…9, binary version (no pickles).

    Arguments as :func:`mnist`.
    """
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)]
    if train is not None:
        batches = batches[: max(1, -(-train // 10_000))]
    parts = []
    for names, count in ((batches, train), (["test_batch.bin"], test)):
        images, labels = files.read_cifar10(names)
        parts.append(_images(images, labels, count, scale, dtype, "CIFAR-10"))
    return Split(*parts)


def _images(images, labels, count, scale, dtype, name):
    if count is not None and not 1 <= count <= len(labels):
        raise ValueError(f"train and test must be 1…{len(labels)}, got {count}")
    inputs = _scaled(images[:count].copy(), 255.0, scale, dtype)
    return Data(inputs, torch.from_numpy(labels[:count].astype(np.int64)), name)


_SETS = {"digits": digits, "mnist": mnist, "fashion-mnist": fashion_mnist, "cifar10": cifar10}


def by_name(
    name: str, train: int | None = None, scale: str = "symmetric", dtype: torch.dtype = torch.float32
) -> Split:
    """Return the image set called ``name``: ``"digits"``, ``"mnist"``, ``"fashion-mnist"`` or ``"cifar10"``.

    ``train`` keeps the first so many training images (default: as many as the set's own function does).
    Raises ValueError for another name, and what that function raises.
    """
    if name not in _SETS:
        raise ValueError(f"name must be one of {sorted(_SETS)}, got {name!r}")
    count = {} if train is None else {"train": train}
    return _SETS[name](scale=scale, dtype=dtype, **count)


_TARGETS = ("teacher", "noise")


def gaussian(
    samples: int, dimension: int, seed: int = 0, targets: str = "teacher", dtype: torch.dtype = torch.float64
) -> Data:
    """Inputs x ~ N(0, 1) of ``dimension`` d, real targets (n, 1).

    ``targets``: ``"teacher"`` y = w·x with one random unit vector w; ``"noise"`` y ~ N(0, 1) independent of x
    (the linear regression of M22 §5.3). Raises ValueError for a size below 1 or other targets.
    """
    x, rng = _normal_inputs(samples, dimension, seed)
    return Data(*_with_targets(x, rng, targets, dtype), "Gaussian inputs")


def sphere(
    samples: int, dimension: int, seed: int = 0, targets: str = "teacher", dtype: torch.dtype = torch.float64
) -> Data:
    """Inputs uniform on the unit sphere of ``dimension`` d (W22 Prop. 2.5); otherwise as :func:`gaussian`."""
    x, rng = _normal_inputs(samples, dimension, seed)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return Data(*_with_targets(x, rng, targets, dtype), "inputs on the sphere")


def _normal_inputs(samples, dimension, seed):
    if samples < 1 or dimension < 1:
        raise ValueError(f"samples and dimension must be positive, got {samples} and {dimension}")
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, dimension)), rng


def _with_targets(x, rng, targets, dtype):
    if targets not in _TARGETS:
        raise ValueError(f"targets must be one of {_TARGETS}, got {targets!r}")
    if targets == "teacher":
        w = rng.standard_normal(x.shape[1])
        y = x @ (w / np.linalg.norm(w))
    else:
        y = rng.standard_normal(len(x))
    return torch.from_numpy(x).to(dtype), torch.from_numpy(y[:, None]).to(dtype)
