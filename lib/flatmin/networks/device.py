"""Where networks are trained and measured: a CUDA device where there is one, else the CPU.

Every function that trains or measures takes ``device=None`` and asks :func:`choose`. Data and parameters are
moved there for the time of the call; what comes back lies on the CPU. Everything random (batch orders, noise,
probes) is drawn on the CPU, so that all devices see the same numbers; sums are rounded differently on each
(and float32 convolutions to three digits on cards that have TF32, which torch uses unless it is told not to).
"""

from __future__ import annotations

import copy
import os
import sys

import torch
from torch import nn

from flatmin import _check
from flatmin.networks.data.sets import Data
from flatmin.networks.parameters import trainable

__all__ = ["ENVIRONMENT", "choose", "describe", "peak_memory", "place"]

#: the environment variable that names the device
ENVIRONMENT = "FLATMIN_DEVICE"


def choose(device: str | torch.device | None = None, model: nn.Module | None = None) -> torch.device:
    """Return the device to work on.

    That is ``device`` (``"cpu"``, ``"cuda"``, ``"cuda:1"``); else what the environment variable
    FLATMIN_DEVICE names; else the accelerator that ``model`` lies on; else CUDA where it is there; else the
    CPU. Raises ValueError for a device that is of another kind or not there.
    """
    if device is not None:
        return _checked("device", device)
    if os.environ.get(ENVIRONMENT):
        return _checked(ENVIRONMENT, os.environ[ENVIRONMENT])
    if model is not None and home(model).type != "cpu":
        return home(model)
    return _checked("device", "cuda" if torch.cuda.is_available() else "cpu")


def home(model: nn.Module) -> torch.device:
    """Return the device that the trainable parameters of ``model`` lie on; the CPU if it has none."""
    return next((p.device for _, p in trainable(model)), torch.device("cpu"))


def _checked(name, value):
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    allowed = ["cpu", *(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count))]
    if str(value) not in allowed:
        raise _check.refused(name, str(value), f"one of {', '.join(allowed)}")
    if str(value) == "cuda":  # by its number, as tensors name it
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(value)


def place(model: nn.Module, data: Data, device: torch.device) -> tuple[nn.Module, Data]:
    """Return ``model`` and ``data`` on ``device``: themselves where they lie there, else copies."""
    if home(model) != device:
        model = copy.deepcopy(model).to(device)
    return model, data.to(device=device)


def describe(device: str | torch.device | None = None) -> str | None:
    """Return the name of the accelerator that :func:`choose` chooses, for a provenance; None for the CPU."""
    chosen = choose(device)
    return None if chosen.type == "cpu" else torch.cuda.get_device_name(chosen)


def peak_memory(device: str | torch.device | None = None) -> int:
    """Return the most bytes taken so far: by tensors on a CUDA ``device``, else by the whole process.

    0 where the system does not say.
    """
    if choose(device).type == "cuda":
        return torch.cuda.max_memory_allocated(choose(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used
