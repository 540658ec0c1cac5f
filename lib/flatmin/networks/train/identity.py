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

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, enum.Enum)
_PLAIN += (torch.dtype, torch.device, torch.Size, np.dtype)


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
    if isinstance(thing, _PLAIN):
        update(f"{type(thing).__name__}:{thing!r};".encode())
    elif id(thing) in seen:
        update(f"again:{seen[id(thing)][0]};".encode())
    else:
        seen[id(thing)] = len(seen), thing  # kept alive, so that no other gets its id
        update(f"{_name(type(thing))}(".encode())
        for part in _parts(thing, seen):
            update(part) if isinstance(part, memoryview) else _add(update, part, seen)
        update(b");")


def _name(thing) -> str:
    name = getattr(thing, "__qualname__", getattr(thing, "__name__", ""))
    return f"{getattr(thing, '__module__', '')}.{name}"


def _parts(thing, seen):
    """What a thing consists of: other things, and the memory of arrays."""
    match thing:
        case nn.Module():
            yield from _module_parts(thing, seen)
        case Tensor() | np.ndarray() | np.generic():
            tensor = torch.as_tensor(thing).detach().cpu()
            yield tensor.dtype, tensor.shape
            if tensor.numel():
                yield memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
        case Mapping():
            yield list(thing.items())
        case list() | tuple():
            yield from thing
        case set() | frozenset():
            yield sorted(map(repr, thing))
        case functools.partial():
            yield thing.func, thing.args, thing.keywords
        case types.MethodType():
            yield thing.__func__, thing.__self__
        case types.FunctionType():
            yield from _function_parts(thing)
        case types.CodeType():
            yield thing.co_code, thing.co_consts, thing.co_names
        case _ if hasattr(thing, "__qualname__") or hasattr(thing, "__name__"):
            yield _name(thing)
        case _:
            yield _sources(type(thing)), getattr(thing, "__dict__", {})


def _module_parts(module, seen):
    yield module.extra_repr(), module.training, _sources(type(module))
    for name, p in module._parameters.items():
        if p is not None and p.requires_grad:  # the runs' start holds its content; a tied one is met again
            number = seen.setdefault(id(p), (len(seen), p))[0]
            p = (tuple(p.shape), p.dtype, number)
        yield name, p
    for name, value in vars(module).items():
        if name in ("training", "_parameters", "_buffers", "_modules"):
            continue
        if isinstance(value, Tensor) and any(p.startswith(f"{name}_") for p in module._parameters):
            continue  # pruning and weight norm compute it anew at each call
        # hooks: their numbers differ from process to process
        hooks = name[0] == "_" and isinstance(value, Mapping)
        yield name, list(value.values()) if hooks else value
    yield dict(module._buffers), dict(module._modules)


def _function_parts(function):
    # the lines of a lambda may hold two of them
    source = b"" if function.__name__ == "<lambda>" else _source(function)
    yield _name(function), source or function.__code__
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            yield None
    yield function.__defaults__, function.__kwdefaults__


def _sources(kind) -> list[bytes]:
    return [_source(each) for each in kind.__mro__]


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
