"""A device that is not there, to test without one that code puts its tensors where they belong.

Its tensors say that they lie on another device (``meta``, which every build of torch has) and refuse to meet
those of the CPU, as those of a real device do, unless one is a scalar; they have no ``numpy()``. They compute
on the CPU. Where CUDA is there the real device is used instead.
"""

import contextlib
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from flatmin.networks import device
from flatmin.networks.passes import dense

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("meta")
_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(torch.Tensor):
    """A tensor on DEVICE, around the one on the CPU that holds its numbers."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            requires_grad=False,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Elsewhere({self.inner})"

    @property
    def data(self):
        """The tensor itself, out of any graph; what is set is held from then on."""
        return self.detach()

    @data.setter
    def data(self, value):
        self.inner = value.inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _run(function, args, kwargs):
    leaves = tree_leaves((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    ours = [x for x in tensors if isinstance(x, Elsewhere)]
    if ours and function not in _COPIES:
        strangers = [x for x in tensors if not isinstance(x, Elsewhere) and x.ndim]
        if strangers:
            raise RuntimeError(f"{function}: tensors on two devices, {DEVICE} and {strangers[0].device}")
    target = kwargs.get("device")
    if target is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    there = bool(ours) if target is None else torch.device(target).type == DEVICE.type
    plain = tree_map(lambda x: x.inner if isinstance(x, Elsewhere) else x, (args, kwargs))
    found = function(*plain[0], **plain[1])
    known = {id(x.inner): x for x in ours}  # an operation in place returns the tensor itself

    def wrapped(x):
        if not isinstance(x, torch.Tensor):
            return x
        if id(x) in known:
            return known[id(x)]
        return Elsewhere(x) if there else x

    if function is torch.ops.aten.copy_.default:
        return args[0]
    return tree_map(wrapped, found)


class _Factories(TorchDispatchMode):
    """Makes ``torch.zeros(..., device=DEVICE)`` and ``tensor.to(DEVICE)`` return tensors of DEVICE."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


@contextlib.contextmanager
def chosen():
    """A block in which DEVICE is what :func:`flatmin.networks.device.choose` chooses."""
    if DEVICE.type == "cuda":
        yield
        return
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # modules keep the class of tensors
    try:
        with (
            mock.patch.object(device, "_checked", return_value=DEVICE),
            mock.patch.object(dense, "_PARAMETERS", (torch.nn.Parameter, Elsewhere)),
            _Factories(),
        ):
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
