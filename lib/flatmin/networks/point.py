"""The checked point: a network, its loss and its data, at the present parameters.

:func:`at` copies the model, reads the data, and lets the pass prove itself on a few samples before the first
number: what would be wrong is refused, with the reason and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from flatmin._check import choice, flag, integer, refused
from flatmin.networks import curvature, losses, sampled, stability
from flatmin.networks.data.samples import samples_of
from flatmin.networks.device import choose
from flatmin.networks.gradient_noise import Noise
from flatmin.networks.network import Network, quiet
from flatmin.networks.parameters import block_of
from flatmin.networks.passes.generic import linearise
from flatmin.networks.trust import examine

__all__ = ["Point", "at"]

#: bytes of the largest dense matrix
_DENSE = 8 << 30
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Point:
    """A network at its present parameters, on one loss and one set of samples; made by :func:`at`.

    It is a snapshot: training the model afterwards does not change it.

    Parameters
    ----------
    network, loss, samples
        What :func:`at` made of the model, the loss and the data.
    chunk : int, optional
        How many samples one graph holds.
    checks : list of Check
        What was tested before the first number: ``name``, relative difference ``found``, ``allowed``.

    Examples
    --------
    >>> import flatmin as fm
    >>> train, test = fm.datasets.digits()
    >>> here = fm.at(fm.models.mlp((64, 8, 10)), "cross-entropy", train)
    >>> pairs = here.eigenpairs(3)
    >>> [round(float(value), 1) for value in pairs.values]
    [14.1, 8.1, 4.3]
    >>> here.trace().method
    'exact, layer by layer'
    >>> here.noise.covariance(batch_size=64, layer=2).shape
    torch.Size([80, 80])
    """

    def __init__(self, network: Network, loss, samples, chunk: int | None = None, checks=()):
        self.network, self.loss_function, self.data = network, loss, samples
        self.chunk, self.checks = chunk, tuple(checks)

    def __repr__(self):
        kind = type(self.network.module).__name__
        return (
            f"<Point: {kind} of {self.parameters} parameters, {self.samples} samples, loss {self.loss:.6g} "
            f"({self.loss_function.name}), {self.dtype} on {self.device}>"
        )

    @cached_property
    def passed(self):
        """The pass over all samples, from which derivatives are taken."""
        return linearise(self.network, self.data, self.loss_function, self.chunk)

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return len(self.data)

    @property
    def parameters(self) -> int:
        """Number of trainable parameters P."""
        return self.network.parameters

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the trainable parameters, in the order of θ."""
        return self.network.names

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type in which all is computed."""
        return self.network.dtype

    @property
    def device(self) -> torch.device:
        """Where all is computed; what comes back lies on the CPU."""
        return self.network.device

    @cached_property
    def loss(self) -> float:
        """Mean loss L."""
        return self.passed.loss

    @property
    def memory(self) -> int:
        """Bytes, about, that a measure takes at its peak, besides the data and a few vectors of P numbers."""
        return self.passed.memory

    @cached_property
    def theta(self) -> Tensor:
        """θ, the trainable parameters as one vector (P,), on the CPU."""
        return torch.cat([p.detach().reshape(-1) for p in self.network.tensors]).cpu()

    def block(self, layer: int | str | None = None) -> slice:
        """Entries of θ that belong to ``layer``, see :func:`~flatmin.networks.parameters.block_of`."""
        return block_of(zip(self.names, self.network.tensors, strict=True), layer)

    def dense_block(self, layer: int | str | None = None) -> slice:
        """Return :meth:`block` if a dense matrix of it fits into 8 GiB; ValueError otherwise."""
        block = self.block(layer)
        size = block.stop - block.start
        needed = size**2 * torch.finfo(self.dtype).bits // 8
        if needed > _DENSE:
            raise ValueError(
                f"layer={layer!r}: a dense matrix of {size} parameters takes {needed / 2**30:.0f} GiB: must "
                f"be at most {_DENSE >> 30} GiB; name one layer, or take what needs none (eigenpairs, trace)"
            )
        return block

    def double(self) -> Point:
        """The same point in float64."""
        return self if self.dtype == torch.float64 else self._in(torch.float64)

    def _in(self, dtype) -> Point:
        network = Network(self.network.module, self.network.forward, self.network.mode, self.device, dtype)
        return Point(network, self.loss_function, self.data.to(dtype=dtype), self.chunk, self.checks)

    def first(self, samples: int) -> Point:
        """The same network on the first ``samples`` samples; ValueError if there are fewer."""
        samples = integer("samples", samples, least=1, most=self.samples)
        return Point(
            self.network, self.loss_function, self.data.take(slice(0, samples)), self.chunk, self.checks
        )

    def gradient(self) -> Tensor:
        """∇L, (P,), on the CPU."""
        return self.passed.gradient().cpu()

    # what is measured: the functions of these names, with the point as their first argument
    eigenpairs = curvature.eigenpairs
    trace = curvature.trace
    frobenius_norm = curvature.frobenius_norm
    diagonal = curvature.diagonal
    spectral_density = curvature.spectral_density
    flatness = curvature.flatness
    hessian = curvature.hessian
    gauss_newton = curvature.gauss_newton
    gauss_newton_spectrum = curvature.gauss_newton_spectrum
    gauss_newton_trace = curvature.gauss_newton_trace
    batch_sharpness = sampled.batch_sharpness
    edge = stability.edge
    largest_step = stability.largest_step

    @property
    def noise(self) -> Noise:
        """The gradient noise here: ``noise.strength()``, ``noise.alignment()``, ``noise.exponent()``, …"""
        return Noise(self)


def at(
    model: nn.Module,
    loss,
    data,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    mode: str = "eval",
    samples: int | None = None,
    chunk: int | None = None,
    forward: Callable | None = None,
    checks: bool = True,
) -> Point:
    """Take ``model`` at its present parameters to be measured on ``loss`` and ``data``.

    The model is copied and never touched; the copy proves itself on a few samples (see
    :mod:`flatmin.networks.trust`), and what fails is refused.

    Parameters
    ----------
    model : torch.nn.Module
        Any module whose samples do not influence each other.
    loss : str, torch loss or callable
        "square" (½|f − y|² summed over outputs), "cross-entropy", a torch loss, or any function of
        (outputs, targets) alone that is a mean over the samples.
    data
        (inputs, targets), a Data, a Dataset, a DataLoader or a dict; see
        :func:`~flatmin.networks.data.samples.samples_of`.
    device, dtype
        Where and in which type ("float32", "float64") all is computed; by default the accelerator of the
        model, else CUDA, else the CPU, and the model's own type.
    mode : "eval" or "train"
        Batch norm takes its running statistics and dropout is off in "eval"; "train" refuses both.
    samples : int, optional
        Take the first so many samples only.
    chunk : int, optional
        How many samples one graph holds; by default as many as fit into 1 GiB.
    forward : callable, optional
        ``forward(model, inputs)`` where the model does not return the tensor that the loss takes.
    checks : bool
        False leaves the checks out.

    Returns
    -------
    Point

    Raises
    ------
    ValueError
        Naming what does not fit, and what to do.

    Examples
    --------
    >>> import flatmin as fm
    >>> train, test = fm.datasets.digits()
    >>> here = fm.at(fm.models.mlp((64, 8, 10)), "cross-entropy", train)
    >>> here.parameters, here.samples, here.gradient().shape
    (610, 1000, torch.Size([610]))
    """
    chunk = None if chunk is None else integer("chunk", chunk, least=1)
    if forward is not None and not callable(forward):
        raise refused("forward", forward, "a function of (model, inputs)")
    if isinstance(dtype, str):
        dtype = _DTYPES[choice("dtype", dtype, _DTYPES)]
    elif dtype is not None and not (isinstance(dtype, torch.dtype) and dtype in _DTYPES.values()):
        raise refused("dtype", dtype, "float32 or float64")
    where = choose(device, model if isinstance(model, nn.Module) else None)
    with quiet():
        network = Network(model, forward, mode, where, dtype)
        read = samples_of(data, samples).to(network.device, network.dtype)
    here = Point(network, losses.of(loss), read, chunk)
    here.checks = tuple(examine(here, model) if flag("checks", checks) else ())
    return here
