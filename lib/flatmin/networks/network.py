"""A private copy of the reader's module, and the one way in which it is called.

Whatever is measured is measured on this copy: the reader's model, its buffers, hooks and mode stay as they
were. Mode, device, dtype and the kernels that have no second derivative are decided here and nowhere else.
"""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from flatmin._check import choice, refused
from flatmin.networks.data.samples import leaves
from flatmin.networks.parameters import trainable

__all__ = ["Network", "quiet", "unfit"]


_FORWARD = "give forward=lambda model, x: … that returns the tensor the loss takes"


class Network:
    """A copy of ``model``, ready to be differentiated.

    Parameters
    ----------
    model : torch.nn.Module
    forward : callable, optional
        ``forward(model, inputs)`` returns the outputs; by default a tensor is passed as the model's only
        argument, a dict as keyword arguments, a tuple as positional ones.
    mode : "eval" or "train"
        In which mode the copy runs.
    device, dtype
        Where it lies, and the floating-point type of its parameters (default: their own).

    Raises
    ------
    ValueError
        For a model that cannot be copied, is compiled or scripted, has no trainable, or has complex, sparse,
        mixed, half-precision or not finite parameters, for embeddings whose gradient is none of the loss, for
        batch norm without running statistics, and in mode "train" for batch norm and dropout.
    """

    def __init__(
        self, model: nn.Module, forward: Callable | None, mode: str, device: torch.device, dtype=None
    ):
        _require_module(model)
        self.forward = forward
        self.module = _copied(model).to(device)
        if dtype is not None:
            self.module = self.module.to(dtype)
        self.mode = choice("mode", mode, ("eval", "train"))
        self.module.train().train(mode == "train")  # some models empty their caches on the way
        for part in self.module.modules():
            _make_differentiable(part)
        _require_no_coupling(self.module, mode)
        named = trainable(self.module)
        if not named:
            raise ValueError(
                "model must have trainable parameters: all are frozen or quantised, or there are none"
            )
        self.names, self.tensors = zip(*named, strict=True)
        _require_parameters(self.module)
        self._homes = [
            (name, part, key)
            for name, p in named
            for part in self.module.modules()
            for key, held in part._parameters.items()
            if held is p
        ]

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return self.tensors[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return self.tensors[0].device

    @property
    def parameters(self) -> int:
        """Number of trainable parameters P."""
        return sum(p.numel() for p in self.tensors)

    def split(self, vector: Tensor) -> list[Tensor]:
        """A vector (P,) as tensors of the parameters' shapes; views."""
        parts = vector.split([p.numel() for p in self.tensors])
        return [part.view(p.shape) for part, p in zip(parts, self.tensors, strict=True)]

    def load(self, theta: Tensor) -> None:
        """Set the parameters to the vector ``theta`` (P,)."""
        with torch.no_grad():
            torch._foreach_copy_(self.tensors, self.split(theta))  # one launch on a GPU, not one a tensor

    def hold(self, theta: Tensor) -> list[Tensor]:
        """Let the parameters lie in the vector ``theta`` (P,), move with it and it with them; the views."""
        views = self.split(theta)
        for p, view in zip(self.tensors, views, strict=True):
            p.data = view
        return views

    def outputs(self, inputs, values: dict[str, Tensor] | None = None) -> Tensor:
        """What the model returns for ``inputs``, (n, …); ``values`` stand in for the parameters by name."""
        rows = len(leaves(inputs)[0])
        with self._holding(values):
            if self.forward is not None:
                found = self.forward(self.module, inputs)
            elif isinstance(inputs, Mapping):
                found = self.module(**inputs)
            else:
                found = self.module(*inputs) if isinstance(inputs, tuple) else self.module(inputs)
        return _with_rows(_precise(_selected(found), self.dtype), rows)

    @contextlib.contextmanager
    def _holding(self, values):
        """Let the module hold other tensors for its parameters, wherever these are used.

        ``torch.func.functional_call`` does not put back a module that stands in two places.
        """
        if values is None:
            yield
            return
        before = [part._parameters[key] for _, part, key in self._homes]
        recurrent = [part for part in self.module.modules() if isinstance(part, nn.RNNBase)]
        try:
            for name, part, key in self._homes:
                part._parameters[key] = values[name]
            _refresh(recurrent)
            yield
        finally:
            for (_, part, key), tensor in zip(self._homes, before, strict=True):
                part._parameters[key] = tensor
            _refresh(recurrent)

    def matrix(self, inputs, values: dict[str, Tensor] | None = None) -> Tensor:
        """The outputs as (n, C)."""
        found = self.outputs(inputs, values)
        return found.reshape(len(found), -1)


def _refresh(recurrent):
    """Let recurrent layers find their weights anew: they keep a list of them."""
    for part in recurrent:
        part._flat_weights = [getattr(part, name, None) for name in part._flat_weights_names]


def _make_differentiable(part: nn.Module):
    """Let a module of the copy compute the same by operations whose first two derivatives are right."""
    if type(part) is nn.EmbeddingBag:
        part.__class__ = _Bag
    if isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
        part.sparse = False
    if type(part) is _WeightNorm:
        part.__class__ = _Normed
    for hook in part._forward_pre_hooks.values():
        if type(hook) is WeightNorm:
            hook.__class__ = _NormedBefore


def _normed(v, g, dim):
    """g v/|v|, the norm over all axes but ``dim`` (−1: all); torch's has a wrong second derivative."""
    axes = [axis for axis in range(v.ndim) if axis != dim]
    return v * (g / v.square().sum(axes, keepdim=True).sqrt())


class _Normed(_WeightNorm):
    def forward(self, weight_g, weight_v):
        return _normed(weight_v, weight_g, self.dim)


class _NormedBefore(WeightNorm):
    def compute_weight(self, module):
        return _normed(getattr(module, self.name + "_v"), getattr(module, self.name + "_g"), self.dim)


class _Bag(nn.EmbeddingBag):
    """An embedding bag from operations that have a second derivative, which torch's own has not."""

    def forward(self, input, offsets=None, per_sample_weights=None):
        if input.ndim != 2 or offsets is not None:
            raise ValueError("EmbeddingBag with offsets couples samples: must get a row (n, length) a sample")
        found = nn.functional.embedding(input, self.weight, self.padding_idx)
        real = torch.ones_like(input) if self.padding_idx is None else (input != self.padding_idx).long()
        if self.mode == "max":
            hidden = found.masked_fill(real[..., None] == 0, -torch.inf).amax(1)
            return torch.where(real.any(1, keepdim=True), hidden, torch.zeros_like(hidden))
        weights = real.to(found) if per_sample_weights is None else real * per_sample_weights
        total = (weights[..., None] * found).sum(1)
        return total / real.sum(1, keepdim=True).clamp(min=1) if self.mode == "mean" else total


def _selected(found) -> Tensor:
    """The one floating-point tensor among what a model returned."""
    if isinstance(found, Mapping) and isinstance(found.get("logits"), Tensor):
        found = found["logits"]
    if isinstance(found, (Mapping, tuple, list)):
        parts = list(found.values()) if isinstance(found, Mapping) else list(found)
        if len(parts) != 1 or not isinstance(parts[0], Tensor):
            kind = list(found) if isinstance(found, Mapping) else f"{type(found).__name__} of {len(parts)}"
            raise ValueError(f"model returned {kind}: must return one tensor; {_FORWARD}")
        found = parts[0]
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = f"a tensor of {found.dtype}" if isinstance(found, Tensor) else f"{type(found).__name__}"
        raise ValueError(f"model returned {kind}: must return a tensor of real numbers; {_FORWARD}")
    return found


def _precise(found: Tensor, dtype: torch.dtype) -> Tensor:
    """Outputs of the parameters' type; less precise ones are refused."""
    if torch.finfo(found.dtype).eps > torch.finfo(dtype).eps:
        raise ValueError(
            f"model returned a tensor of {found.dtype} with parameters of {dtype}: must not round its "
            "outputs (autocast, .half() or .float() inside); measure with dtype='float32', or give forward="
        )
    return found.to(dtype)


def _with_rows(found: Tensor, rows: int) -> Tensor:
    """Outputs (n, …), also of one sample whose first axis was squeezed away."""
    if found.ndim and len(found) == rows:
        return found
    if rows == 1:
        return found[None]
    raise ValueError(
        f"model returned a tensor of shape {tuple(found.shape)} for {rows} samples: must have the samples "
        f"along its first axis; {_FORWARD}"
    )


def _require_module(model):
    if not isinstance(model, nn.Module):
        raise refused("model", model, "a torch.nn.Module")
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule) or hasattr(part, "_orig_mod"):
            raise ValueError(
                f"model={type(model).__name__}: {name or 'it'} must not be compiled or scripted; give the "
                "module that was"
            )
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
            for option in ("max_norm", "scale_grad_by_freq"):
                if getattr(part, option):
                    raise ValueError(
                        f"model: {name} ({type(part).__name__}) has {option}={getattr(part, option)}: must "
                        "be without, its gradient is not that of the loss"
                    )
    held = (*model.parameters(), *model.buffers())  # of torch's own types: another may hold numbers there
    if any(t.is_meta and type(t) in (Tensor, nn.Parameter) for t in held):
        raise ValueError("model has parameters or buffers on the device 'meta': must hold numbers")
    if any(isinstance(p, UninitializedParameter) for p in model.parameters()):
        raise ValueError("model has lazy parameters without a shape: must have seen an input first")
    for name, p in model.named_parameters():
        if p.is_complex() or p.layout != torch.strided:
            raise ValueError(f"model: parameter {name} of {p.dtype}, {p.layout}: must be dense and real")


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy.

    Tensors that were computed from others (by pruning, weight norm, or to be kept) come as NaN: a module that
    computes them anew at each call does not notice, one that does not would be measured wrong.
    """
    memo = {}
    for module in model.modules():
        for value in _held(module):
            if isinstance(value, Tensor) and not value.is_leaf:
                try:
                    memo[id(value)] = torch.full_like(value.detach(), torch.nan)
                except RuntimeError:  # left from inside a transformation of torch.func
                    memo[id(value)] = torch.tensor(torch.nan)
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise ValueError(
            f"model={type(model).__name__}: must be copyable by copy.deepcopy, which says: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None
    for parameter in twin.parameters():
        parameter.grad = None
    return twin


def _held(module):
    """The attributes of a module, and what its lists and dicts of attributes hold."""
    for value in vars(module).values():
        yield value
        if isinstance(value, (list, tuple)):
            yield from value
        elif isinstance(value, Mapping):
            yield from value.values()


def _require_no_coupling(module: nn.Module, mode: str):
    """Refuse what makes outputs depend on the batch, and in training mode on chance."""
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None:
            raise ValueError(
                f"model: {name} ({type(part).__name__}) keeps no running statistics, so that a sample's "
                "output depends on the batch: must have track_running_stats=True"
            )
        why = unfit(part) if mode == "train" else ""
        if why:
            raise ValueError(
                f"mode='train': {name} ({type(part).__name__}) {why}: must be mode='eval', or replaced"
            )


def unfit(part) -> str:
    """Why a part in training mode is random, depends on the batch or keeps a state; "" if it does not."""
    if isinstance(part, nn.modules.batchnorm._BatchNorm):
        return "makes a sample's output depend on its batch"
    if isinstance(part, nn.modules.instancenorm._InstanceNorm) and part.track_running_stats:
        return "moves its running statistics"
    if isinstance(part, nn.RReLU):
        return "is random"
    for name in ("p", "dropout"):
        share = getattr(part, name, 0.0)
        if isinstance(part, (nn.modules.dropout._DropoutNd, nn.RNNBase, nn.MultiheadAttention)) and (
            isinstance(share, float) and share > 0
        ):
            return f"is random ({name}={share})"
    return ""


def _require_parameters(module: nn.Module):
    kinds = set()
    for name, p in module.named_parameters():
        if not torch.isfinite(p).all():
            raise ValueError(f"model: parameter {name} holds NaN or ∞: must be finite")
        if p.requires_grad:
            kinds.add(p.dtype)
    if kinds & {torch.float16, torch.bfloat16}:
        raise ValueError(
            f"model: parameters of {', '.join(map(str, kinds))}: derivatives would be noise; must be "
            "measured with dtype='float32' or 'float64'"
        )
    if len(kinds) > 1:
        raise ValueError(f"model: parameters of {sorted(map(str, kinds))}: must be of one type; give dtype=")


@contextlib.contextmanager
def quiet(network: Network | None = None):
    """Run what is inside with exact kernels and leave no trace in torch's global state.

    Autograd is on, whatever the caller chose. Attention by the math kernel (flash attention has no second
    derivative), no fused fast path, no TF32;
    cuDNN off for recurrent networks, whose backward pass it has in training mode only. No autocast of the
    caller. The random states of torch, NumPy and Python are put back.
    """
    devices, recurrent, kind = [], False, "cpu"
    if network is not None:
        devices, kind = [network.device] if network.device.type == "cuda" else [], network.device.type
        recurrent = any(isinstance(part, nn.RNNBase) for part in network.module.modules())
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    precision, fast = torch.get_float32_matmul_precision(), torch.backends.mha.get_fastpath_enabled()
    # only where it is on: a model's own, inside, would keep its rounded weights from one call to the next
    autocast = (
        torch.autocast(kind, enabled=False)
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        else contextlib.nullcontext()
    )
    cudnn = torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled and not recurrent,
        benchmark=False,
        deterministic=True,
        allow_tf32=False,
    )
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.mha.set_fastpath_enabled(False)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.random.fork_rng(devices),
            autocast,
            sdpa_kernel(SDPBackend.MATH),
            cudnn,
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.mha.set_fastpath_enabled(fast)
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
