"""Samples from whatever a reader has: tensors, arrays, dicts, a data set, a loader; checked once.

Inputs are a tensor, or a dict, tuple or list of them (a dict becomes keyword arguments of the model, a tuple
or list its positional ones); every tensor has the samples along its first axis. Arrays and lists of numbers
are tensors too.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from flatmin._check import integer, refused
from flatmin.networks.data.sets import Data

__all__ = ["Samples", "leaves", "mapped", "samples_of"]

#: names under which a dict of a batch holds its targets
_TARGETS = ("labels", "label", "targets", "target")
_FORMS = "(inputs, targets), a Data, a Dataset, a DataLoader or a dict with the targets under 'labels'"
#: unsigned types that torch knows by name only, and what holds their values
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}


def mapped(function, tree):
    """``function`` of every tensor of a tree of dicts, tuples and lists; the tree keeps its shape."""
    if isinstance(tree, Mapping):
        return {key: mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(mapped(function, value) for value in tree)
    return function(tree)


def leaves(tree) -> list[Tensor]:
    """All tensors of a tree, in order."""
    found: list[Tensor] = []
    mapped(found.append, tree)
    return found


@dataclass(frozen=True)
class Samples:
    """n samples: a tree of ``inputs`` and a tree of ``targets``, each tensor with n rows."""

    inputs: Any
    targets: Any
    name: str = ""

    def __len__(self):
        return len(leaves(self.inputs)[0])

    def take(self, rows) -> Samples:
        """The samples at ``rows``, a slice or positions."""
        return Samples(self.rows(rows), mapped(lambda t: t[rows], self.targets), self.name)

    def rows(self, rows):
        """Only the inputs at ``rows``."""
        return mapped(lambda t: t[rows], self.inputs)

    def to(self, device=None, dtype=None) -> Samples:
        """The samples on ``device``, floating-point tensors in ``dtype``; integers stay what they are."""

        def moved(tensor):
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        return Samples(mapped(moved, self.inputs), mapped(moved, self.targets), self.name)


def samples_of(data, samples: int | None = None) -> Samples:
    """Read ``data`` as samples, at most the first ``samples`` of them.

    Parameters
    ----------
    data
        A pair (inputs, targets) of tensors or arrays (inputs also a dict or tuple of them), a flatmin
        ``Data``, a torch ``Dataset``, list of pairs or ``DataLoader`` (read once, in its order; global random
        state is left as it was), or a dict with the targets under "labels".
    samples : int, optional
        How many to keep; all by default.

    Raises
    ------
    ValueError
        For other data, no samples, tensors of different lengths, numbers that are not finite, complex or
        sparse tensors, or batches of a loader that do not fit together.
    """
    if samples is not None:
        samples = integer("samples", samples, least=1)
    if isinstance(data, (Samples, Data)):
        found = Samples(data.inputs, data.targets, data.name)
    elif isinstance(data, DataLoader):
        found = _joined(_batches(data, samples), type(data.dataset).__name__)
    elif isinstance(data, (Mapping, tuple, list)) and not _listed(data):
        found = Samples(*_pair(data))
    elif _indexed(data):
        found = _joined(_batches(_collated(data, samples), samples), type(data).__name__)
    else:
        raise refused("data", data, _FORMS)
    _require_sound(found)
    return found if samples is None or len(found) <= samples else found.take(slice(0, samples))


def _listed(data) -> bool:
    """Whether it is a list of samples, not the list [inputs, targets]."""
    return (
        isinstance(data, list) and len(data) != 2 and all(isinstance(one, (tuple, Mapping)) for one in data)
    )


def _indexed(data) -> bool:
    """Whether it is a data set: of torch, or something with a length whose item 0 is a sample."""
    if isinstance(data, IterableDataset) or (isinstance(data, Dataset) and hasattr(data, "__len__")):
        return True
    if isinstance(data, (Tensor, np.ndarray, str, bytes)) or not all(
        hasattr(data, name) for name in ("__getitem__", "__len__")
    ):
        return False
    try:
        return not len(data) or isinstance(data[0], (tuple, list, Mapping))
    except (KeyError, TypeError):  # a table of columns, say
        return False


def _collated(data, samples):
    """Items of a data set in batches of 256, in order."""
    items = iter(data) if isinstance(data, IterableDataset) else (data[i] for i in range(len(data)))
    items = itertools.islice(items, samples)
    while batch := list(itertools.islice(items, 256)):
        try:
            yield default_collate([_whole(item) for item in batch])
        except RuntimeError as error:
            raise _unlike(error) from None
        except TypeError as error:
            raise ValueError(
                f"data: {str(error).splitlines()[0]}: must be tensors, arrays or numbers (a transform to "
                "tensors is missing?)"
            ) from None


def _whole(item):
    """An item with its lists of numbers as tensors: to torch's collate they are so many inputs."""
    if isinstance(item, Mapping):
        return {key: _whole(value) for key, value in item.items()}
    if isinstance(item, list) and item and all(isinstance(value, Number) for value in item):
        return torch.tensor(item)
    return tuple(map(_whole, item)) if isinstance(item, (tuple, list)) else item


def _unlike(error) -> ValueError:
    return ValueError(
        f"data: its samples or batches do not fit together ({str(error).splitlines()[0]}): pad all samples "
        "to one shape, or give the tensors (inputs, targets) yourself"
    )


def _batches(loader, samples):
    """(inputs, targets) of the batches, until there are enough; a loader draws a seed from torch."""
    found, taken = [], 0
    with torch.random.fork_rng(devices=[]):
        for batch in loader:
            if not isinstance(batch, (Mapping, tuple, list)):
                raise refused("data", batch, f"batches of {_FORMS}")
            found.append(_pair(batch))
            taken += len(leaves(found[-1][0])[0])
            if samples is not None and taken >= samples:
                break
    if not found:
        raise ValueError("data holds no samples: must hold at least one")
    return found


def _joined(batches, name) -> Samples:
    try:
        return Samples(*(_concatenated([batch[side] for batch in batches]) for side in (0, 1)), name)
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise _unlike(error) from None


def _concatenated(trees):
    first = trees[0]
    if isinstance(first, Mapping):
        return {key: _concatenated([tree[key] for tree in trees]) for key in first}
    if isinstance(first, tuple):
        return tuple(_concatenated([tree[i] for tree in trees]) for i in range(len(first)))
    return torch.cat(trees)


def _pair(data):
    """(inputs, targets) of a pair or of a dict with its targets under a known name."""
    if isinstance(data, Mapping):
        key = next((key for key in _TARGETS if key in data), None)
        if key is None or len(data) < 2:
            raise ValueError(f"data holds {list(data)}: must hold its targets under one of {_TARGETS}")
        data = {other: value for other, value in data.items() if other != key}, data[key]
    if len(data) != 2:
        raise ValueError(f"data holds {len(data)} parts: must be {_FORMS}; several inputs: ((a, b), targets)")
    if any(isinstance(part, (Data, Dataset)) for part in data):
        raise ValueError("data holds several data sets: must be one of them")
    return mapped(_tensor, _gathered(data[0])), mapped(_tensor, _gathered(data[1]))


def _gathered(tree):
    """A tree whose lists of numbers, of lists of numbers, … are arrays."""
    if isinstance(tree, Mapping):
        return {key: _gathered(value) for key, value in tree.items()}
    if isinstance(tree, list) and not any(isinstance(x, (Tensor, np.ndarray, Mapping, tuple)) for x in tree):
        return _tensor(tree)
    return tuple(map(_gathered, tree)) if isinstance(tree, (tuple, list)) else tree


def _tensor(value) -> Tensor:
    allowed = "tensors or arrays of numbers"
    if isinstance(value, Tensor):
        found = value.detach()
    else:
        if np.ma.is_masked(value):
            raise refused("data", value, "without masked entries")
        try:
            array = np.asarray(value)
        except (TypeError, ValueError):
            raise refused("data", value, allowed) from None
        if array.dtype.kind not in "biufc" or array.dtype.itemsize > 16 or array.dtype == np.longdouble:
            raise refused("data", value, f"{allowed}, not of {array.dtype}")
        # a copy: torch reads no foreign byte order nor steps backwards, and warns of what is read-only
        found = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    return found.to(_WIDER.get(found.dtype, found.dtype))


def _require_sound(found: Samples):
    inputs, targets = leaves(found.inputs), leaves(found.targets)
    if not inputs or not targets:
        raise ValueError("data holds no tensor of inputs or of targets: must hold both")
    for name, tensors in (("inputs", inputs), ("targets", targets)):
        for tensor in tensors:
            told = f"data: {name} of shape {tuple(tensor.shape)}, {tensor.dtype}"
            if tensor.is_complex() or tensor.layout != torch.strided:
                raise ValueError(f"{told}: must be dense and real")
            if tensor.ndim == 0:
                raise ValueError(f"{told}: must have the samples along the first axis (torch.stack a list)")
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{told}: hold NaN or ∞, must be finite")
    lengths = {len(tensor) for tensor in inputs + targets}
    if len(lengths) > 1:
        raise ValueError(f"data hold tensors of {sorted(lengths)} samples: must be as many inputs as targets")
    if lengths == {0}:
        raise ValueError("data hold no samples: must hold at least one")
