"""What a training call is, in hashes: a checkpoint of another call must not be continued."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import types
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["digest"]

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    slice,
    torch.dtype,
    torch.device,
    torch.Size,
    np.dtype,
)


def digest(thing) -> str:
    """SHA-256 of everything that decides what ``thing`` computes.

    Arrays count with type, shape and content; modules with their types, attributes, buffers, hooks, mode,
    parts in order and the shapes (with the content where frozen) of parameters; functions, and the classes of
    modules that are not torch's, with their source (bytecode for a lambda, and where there is none) and what
    they enclose.
    What a function takes from globals does not count.
    """
    found = hashlib.sha256()
    _add(found.update, thing, {})
    return found.hexdigest()


def _add(update, thing, seen):
    """Feed ``thing`` to ``update``; what was met before counts by the order of its first meeting."""
    if isinstance(thing, (enum.Enum, *_PLAIN)):
        update(f"{type(thing).__name__}:{thing!r};".encode())
        return
    if id(thing) in seen:
        update(f"again:{seen[id(thing)][0]};".encode())
        return
    seen[id(thing)] = len(seen), thing  # kept alive, so that no other gets its id
    update(f"{_name(type(thing))}(".encode())
    if isinstance(thing, nn.Module):
        _add_module(update, thing, seen)
    elif isinstance(thing, (Tensor, np.ndarray, np.generic)):
        _add_array(update, thing)
    elif isinstance(thing, Mapping):
        _add(update, list(thing.items()), seen)
    elif isinstance(thing, (list, tuple)):
        for part in thing:
            _add(update, part, seen)
    elif isinstance(thing, (set, frozenset)):
        _add(update, sorted(map(repr, thing)), seen)
    elif isinstance(thing, functools.partial):
        _add(update, (thing.func, thing.args, thing.keywords), seen)
    elif isinstance(thing, types.MethodType):
        _add(update, (thing.__func__, thing.__self__), seen)
    elif isinstance(thing, types.FunctionType):
        _add_function(update, thing, seen)
    elif isinstance(thing, types.CodeType):
        update(thing.co_code)
        _add(update, (thing.co_consts, thing.co_names), seen)
    elif hasattr(thing, "__qualname__") or hasattr(thing, "__name__"):
        update(_name(thing).encode())
    else:
        _add_class(update, type(thing))
        _add(update, getattr(thing, "__dict__", {}), seen)
    update(b");")


def _name(thing) -> str:
    name = getattr(thing, "__qualname__", getattr(thing, "__name__", ""))
    return f"{getattr(thing, '__module__', '')}.{name}"


def _add_array(update, array):
    tensor = torch.as_tensor(array).detach().cpu()
    update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    raw = tensor.contiguous().reshape(-1)
    update(memoryview(raw.view(torch.uint8).numpy()) if raw.numel() else b"")


def _add_module(update, module, seen):
    update(f"{module.extra_repr()};{module.training};".encode())
    _add_class(update, type(module))
    for name, p in module._parameters.items():
        if p is not None and p.requires_grad:  # the runs' start holds its content; a tied one is met again
            number = seen.setdefault(id(p), (len(seen), p))[0]
            p = (tuple(p.shape), p.dtype, number)
        _add(update, (name, p), seen)
    for name, value in vars(module).items():
        if name in ("training", "_parameters", "_buffers", "_modules"):
            continue
        if isinstance(value, Tensor) and any(p.startswith(f"{name}_") for p in module._parameters):
            continue  # pruning and weight norm compute it anew at each call
        if name[0] == "_" and isinstance(value, Mapping):
            value = list(value.values())  # hooks: their numbers differ from process to process
        _add(update, (name, value), seen)
    _add(update, (dict(module._buffers), dict(module._modules)), seen)


def _add_class(update, kind):
    for each in kind.__mro__:
        update(_source(each))


def _add_function(update, function, seen):
    update(_name(function).encode())
    # the lines of a lambda may hold two of them
    source = b"" if function.__name__ == "<lambda>" else _source(function)
    update(source)
    if not source:
        _add(update, function.__code__, seen)
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not filled yet
            cells.append(None)
    _add(update, (function.__defaults__, function.__kwdefaults__, cells), seen)


@functools.cache
def _source(thing) -> bytes:
    """Source of a class or function that is not torch's own; b"" where there is none."""
    if _name(thing).startswith(("torch.", "builtins.")):
        return b""
    try:
        return inspect.getsource(thing).encode()
    except (OSError, TypeError):
        if not isinstance(thing, type):
            return b""
    # a class typed at a prompt: the bytecode of its methods
    found = [v.__code__ for v in vars(thing).values() if isinstance(v, types.FunctionType)]
    return digest(found).encode()
