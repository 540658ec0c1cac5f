"""Data sets: scikit-learn's digits at hand, the image sets of the papers by download, and random inputs.

The image sets are looked for in the folder that the environment variable FLATMIN_DATA names, then in a cache,
then downloaded into it (see :mod:`flatmin.networks.data.files`).

Examples
--------
>>> import flatmin as fm
>>> train, test = fm.datasets.digits(train=1000)
>>> len(train), len(test), train.inputs.shape[1]
(1000, 797, 64)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flatmin import _check
from flatmin.networks.data import files

__all__ = ["Data", "Split", "by_name", "cifar10", "digits", "fashion_mnist", "gaussian", "mnist", "sphere"]

_SCALES = {"symmetric": (0.5, 0.5), "unit": (0.0, 1.0)}


@dataclass(frozen=True, eq=False)
class Data:
    """Samples of one data set, checked once.

    Attributes
    ----------
    inputs : Tensor, (n, …)
        Real and finite; integers (tokens) stay integers.
    targets : Tensor
        Labels (n,) or (n, …): integers from 0 on, or −100 where a loss of torch is to ignore one; or real
        targets (n, outputs).
    name : str
        Where they come from.

    Raises
    ------
    ValueError
        For other than dense real tensors, NaN or ∞, negative labels, no samples, or lengths that differ.

    Examples
    --------
    >>> import flatmin as fm
    >>> train = fm.datasets.digits().train
    >>> train.inputs.shape, train.per_class(10).targets.shape
    (torch.Size([1000, 64]), torch.Size([100]))
    >>> train.first(3).parity().targets.ravel()
    tensor([ 1., -1.,  1.])
    """

    inputs: Tensor
    targets: Tensor
    name: str = ""

    def __post_init__(self):
        _check.instance("name", self.name, str)
        for name in ("inputs", "targets"):
            _require_tensor(name, getattr(self, name))
        if len(self.inputs) != len(self.targets):
            raise ValueError(
                f"inputs hold {len(self.inputs)} samples, targets {len(self.targets)}: must be as many"
            )
        if self.targets.dtype == torch.bool:
            raise _check.refused("targets", self.targets, "integer labels or real numbers, not truth values")
        if not self.targets.is_floating_point():
            labels = self.targets
            if bool(((labels < 0) & (labels != _IGNORED)).any()):
                raise ValueError(f"targets={int(labels.min())}: labels must be integers from 0 on")

    def __len__(self):
        return len(self.inputs)

    def __repr__(self):
        shapes = f"inputs {tuple(self.inputs.shape)}, targets {tuple(self.targets.shape)}"
        return f"<Data {self.name or 'without a name'}: {shapes}>"

    def _with(self, **parts) -> Data:
        """These samples with other ``parts`` that need no check: they are pieces of checked ones."""
        made = object.__new__(Data)
        for name in ("inputs", "targets", "name"):
            object.__setattr__(made, name, parts.get(name, getattr(self, name)))
        return made

    def subset(self, index) -> Data:
        """Return the samples at ``index``, in that order.

        ``index`` is a slice, positions −n…n − 1, or truth values (n,). Raises ValueError for others, or when
        no sample is left.
        """
        if not isinstance(index, slice):
            index = _positions(index, len(self))
        found = self._with(inputs=self.inputs[index], targets=self.targets[index])
        if len(found) == 0:
            raise _check.refused("index", index, "such that a sample is left")
        return found

    def first(self, samples: int) -> Data:
        """Return the first ``samples`` samples in file order; ValueError if there are fewer."""
        return self.subset(slice(0, _check.integer("samples", samples, least=1, most=len(self))))

    def per_class(self, samples: int) -> Data:
        """Return the first ``samples`` of each class in file order, classes interleaved as in the file.

        Y26 trains on ``mnist().train.per_class(100)``. ValueError if a class has fewer, or without labels.
        """
        labels = self._labels("per_class").cpu().numpy()
        classes, counts = np.unique(labels, return_counts=True)
        samples = _check.integer("samples", samples, least=1, most=int(counts.min()))
        keep = np.sort(np.concatenate([np.flatnonzero(labels == each)[:samples] for each in classes]))
        return self.subset(torch.from_numpy(keep).to(self.targets.device))

    def parity(self) -> Data:
        """Return the samples with targets +1 (even label) and −1 (odd label), (n, 1): the task of M22 §5.

        Raises ValueError without labels.
        """
        labels = self._labels("parity")
        return self._with(targets=(1 - 2 * (labels % 2)).to(_real(self.inputs))[:, None])

    def one_hot(self, classes: int = 10) -> Data:
        """Return the samples with one-hot targets (n, classes).

        Raises ValueError without labels, or for fewer classes than there are.
        """
        labels = self._labels("one_hot").long()
        classes = _check.integer("classes", classes, least=int(labels.max()) + 1, most=_MOST // len(labels))
        return self._with(targets=nn.functional.one_hot(labels, classes).to(_real(self.inputs)))

    def to(self, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> Data:
        """Return the samples on ``device``, real inputs and targets in the floating-point type ``dtype``.

        Integers stay what they are. Raises ValueError for another kind of type, a device that is none, or
        numbers that do not fit into the type.
        """
        if dtype is not None:
            dtype = floating(dtype)
        if device is not None:
            try:
                device = torch.device(_check.instance("device", device, (str, torch.device)))
            except RuntimeError:
                raise _check.refused("device", device, "a device of torch, such as 'cpu' or 'cuda'") from None
        parts = {}
        for name in ("inputs", "targets"):
            before = getattr(self, name)
            kind = dtype if before.is_floating_point() else None
            parts[name] = before.to(device=device, dtype=kind)
            if kind is not None and kind.itemsize < before.element_size():
                _require_finite(f"{name} in {kind}", parts[name])
        return self._with(**parts)

    def _labels(self, method):
        labels = self.targets
        if labels.is_floating_point() or labels.ndim != 1 or int(labels.min()) < 0:
            shape = tuple(labels.shape)
            raise ValueError(
                f"{method} needs integer labels (n,) from 0 on, got targets of {labels.dtype}, {shape}"
            )
        return labels


#: labels that torch's losses ignore, as they come
_IGNORED = -100
#: numbers in one array, beyond which a request is taken for a mistake
_MOST = 2**32


def _require_tensor(name, value):
    _check.instance(name, value, Tensor)
    if value.is_complex() or value.layout != torch.strided or value.ndim == 0:
        raise _check.refused(name, value, "a dense real tensor with the samples along its first axis")
    if value.numel() == 0:
        raise _check.refused(name, value, "at least one number for each of at least one sample")
    _require_finite(name, value)


def _require_finite(name, value):
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise ValueError(f"{name}: must be finite, holds NaN or ∞ (shape {tuple(value.shape)})")


def _positions(index, count):
    """Positions as a tensor, checked."""
    allowed = f"a slice, positions of {count} samples, or {count} truth values"
    try:
        found = index if isinstance(index, Tensor) else torch.as_tensor(np.array(index))
    except (TypeError, ValueError):
        raise _check.refused("index", index, allowed) from None
    truth = found.dtype == torch.bool
    whole = not (truth or found.is_floating_point() or found.is_complex())
    if found.ndim != 1 or len(found) == 0 or not (whole or (truth and len(found) == count)):
        raise _check.refused("index", index, allowed)
    if whole and (int(found.min()) < -count or int(found.max()) >= count):
        raise _check.refused("index", index, allowed)
    return found


def floating(dtype: torch.dtype) -> torch.dtype:
    """``dtype`` if it is a floating-point type (pixels would be truncated in another); else ValueError."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise _check.refused("dtype", dtype, "a floating-point type of torch, such as torch.float32")
    return dtype


def _real(tensor):
    """The floating-point type that goes with a tensor: its own, or torch's default."""
    return tensor.dtype if tensor.is_floating_point() else torch.get_default_dtype()


class Split(NamedTuple):
    """Training and test samples; unpacks as ``train, test``."""

    train: Data
    test: Data


def _scaled(values: np.ndarray, top: float, scale: str, dtype: torch.dtype) -> Tensor:
    offset, width = _SCALES[scale]
    return ((torch.from_numpy(values).to(torch.float64) / top - offset) / width).to(dtype)


def _require_image_words(scale, dtype, train, test=None):
    """Check what the image sets share, before anything is downloaded."""
    _check.choice("scale", scale, _SCALES)
    floating(dtype)
    for name, count in (("train", train), ("test", test)):
        if count is not None:
            _check.integer(name, count, least=1)


def digits(train: int = 1000, scale: str = "symmetric", dtype: torch.dtype = torch.float32) -> Split:
    """Handwritten digits of scikit-learn, 1797 images of 8×8 pixels: (n, 64), labels 0…9. No download.

    The first ``train`` images in file order are for training, the rest for testing. ``scale``:
    ``"symmetric"`` maps pixels to [−1, 1] (as Y26 does with MNIST), ``"unit"`` to [0, 1].
    Raises ValueError for ``train`` outside 1…1796, an unknown scale, or a dtype that truncates.
    """
    from sklearn.datasets import load_digits

    _require_image_words(scale, dtype, train)
    images, labels = load_digits(return_X_y=True)
    train = _check.integer("train", train, least=1, most=len(labels) - 1)
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
    Raises ValueError as :func:`digits`, DataUnavailableError (an OSError) where the files can be had from
    nowhere.
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
    _require_image_words(scale, dtype, train, test)
    parts = []
    for part, prefix, count in (("train", "train", train), ("test", "t10k", test)):
        images, labels = (
            files.read_idx(files.fetch(source, f"{prefix}-{kind}-ubyte.gz"))
            for kind in ("images-idx3", "labels-idx1")
        )
        parts.append(_images(images[:, None], labels, count, scale, dtype, name, part))
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
    _require_image_words(scale, dtype, train, test)
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)]
    if train is not None:
        batches = batches[: max(1, -(-train // 10_000))]
    parts = []
    for names, count, part in ((batches, train, "train"), (["test_batch.bin"], test, "test")):
        images, labels = files.read_cifar10(names)
        parts.append(_images(images, labels, count, scale, dtype, "CIFAR-10", part))
    return Split(*parts)


def _images(images, labels, count, scale, dtype, name, part):
    if count is not None:
        count = _check.integer(part, count, least=1, most=len(labels))
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
    _check.choice("name", name, _SETS)
    count = {} if train is None else {"train": train}
    return _SETS[name](scale=scale, dtype=dtype, **count)


def gaussian(
    samples: int, dimension: int, seed: int = 0, targets: str = "teacher", dtype: torch.dtype = torch.float64
) -> Data:
    """Inputs x ~ N(0, 1) of ``dimension`` d, real targets (n, 1).

    ``targets``: ``"teacher"`` y = w·x with one random unit vector w; ``"noise"`` y ~ N(0, 1) independent of x
    (the linear regression of M22 §5.3). Raises ValueError for a size below 1 or other targets.
    """
    return _random("Gaussian inputs", samples, dimension, seed, targets, dtype)


def sphere(
    samples: int, dimension: int, seed: int = 0, targets: str = "teacher", dtype: torch.dtype = torch.float64
) -> Data:
    """Inputs uniform on the unit sphere of ``dimension`` d (W22 Prop. 2.5); otherwise as :func:`gaussian`."""
    return _random("inputs on the sphere", samples, dimension, seed, targets, dtype)


def _random(name, samples, dimension, seed, targets, dtype) -> Data:
    _check.choice("targets", targets, ("teacher", "noise"))
    floating(dtype)
    samples = _check.integer("samples", samples, least=1, most=_MOST)
    dimension = _check.integer("dimension", dimension, least=1, most=_MOST // samples)
    rng = np.random.default_rng(_check.integer("seed", seed, least=0))
    x = rng.standard_normal((samples, dimension))
    if name == "inputs on the sphere":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    if targets == "teacher":
        w = rng.standard_normal(dimension)
        y = x @ (w / np.linalg.norm(w))
    else:
        y = rng.standard_normal(samples)
    return Data(torch.from_numpy(x).to(dtype), torch.from_numpy(y[:, None]).to(dtype), name)
