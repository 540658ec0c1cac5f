"""One pass over a data set, from which curvature and gradient noise are measured.

:func:`linearise` picks the method: a fully connected network gets
:class:`~flatmin.networks.passes.dense.DensePass` (matrix products only), any other ``torch.nn.Module`` gets
:class:`AutogradPass` (one cached backward graph for products, ``torch.func`` for per-sample gradients). Both
offer the same quantities.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from flatmin.networks import losses
from flatmin.networks.data.sets import Data
from flatmin.networks.device import home, place
from flatmin.networks.losses import Loss, SampleLosses
from flatmin.networks.parameters import trainable
from flatmin.networks.passes import layers
from flatmin.networks.passes.dense import DensePass, dense_layers

__all__ = ["AutogradPass", "linearise"]

#: numbers in one temporary array
_ENTRIES = 2**25


def linearise(
    model: nn.Module, data: Data, loss: str | Loss, device: torch.device | None = None
) -> DensePass | AutogradPass:
    """Pass the samples of ``data`` through ``model`` and keep what derivatives of the mean loss need.

    Inputs are cast to the dtype of the parameters. The pass and all it returns lie on ``device``, by default
    where the model lies. Raises ValueError for an empty data set, an unknown loss,
    targets that do not fit it, or a model without trainable parameters.
    """
    if len(data) == 0:
        raise ValueError("data must hold at least one sample")
    if not trainable(model):
        raise ValueError("model must have trainable parameters")
    loss = losses.by_name(loss)
    model, data = place(model, data, home(model) if device is None else device)
    read = dense_layers(model)
    if read is not None:
        return DensePass(*read, data.inputs, data.targets, loss)
    return AutogradPass(model, data.inputs, data.targets, loss)


class AutogradPass(SampleLosses):
    """The quantities of :class:`~flatmin.networks.passes.dense.DensePass` for any module, through autograd.

    The module must treat samples independently (no batch norm in training mode).
    """

    piecewise_linear = False

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss):
        self.model, self.loss_function = model, loss
        self.names, self.tensors = zip(*trainable(model), strict=True)
        self.inputs = inputs.to(self.tensors[0].dtype)
        self.samples = len(inputs)
        self.parameters = sum(p.numel() for p in self.tensors)
        with torch.no_grad():
            self.outputs = self._matrix(model(self.inputs))
        self.targets = loss.targets(targets, self.outputs.shape[1], self.dtype)

    @staticmethod
    def _matrix(outputs):
        return outputs[:, None] if outputs.ndim == 1 else outputs

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network."""
        return self.tensors[0].dtype

    @cached_property
    def _graph(self):
        """Gradient with its graph, made once: each Hessian product is then one more backward pass."""
        with torch.enable_grad():
            outputs = self._matrix(self.model(self.inputs))
            mean = self.loss_function.values(outputs, self.targets).mean()
            return torch.autograd.grad(mean, self.tensors, create_graph=True)

    def gradient(self) -> Tensor:
        """∇L, (P,)."""
        return torch.cat([g.detach().reshape(-1) for g in self._graph])

    def pulled_squares(self, tops: Tensor) -> Tensor:
        """|Jᵢᵀ tᵢ|² for one cotangent ``tops`` (n, C) on each sample's outputs, (n,).

        Networks of convolutions and linear layers: layer by layer, at about the cost of one gradient; others
        through per-sample gradients.
        """
        found = layers.pulled_squares(self.model, self.inputs, tops)
        if found is not None:
            return found
        step = max(1, _ENTRIES // self.parameters)
        parts = [slice(start, start + step) for start in range(0, self.samples, step)]
        return torch.cat([self._pull(part, tops[part, None])[:, 0].square().sum(1) for part in parts])

    def hessian_product(self, vectors: Tensor) -> Tensor:
        """H v for the rows of ``vectors`` (k, P): (k, P)."""
        return torch.stack([self._one_product(v) for v in vectors])

    def _one_product(self, vector):
        parts = vector.split([p.numel() for p in self.tensors])
        grads = torch.autograd.grad(
            self._graph,
            self.tensors,
            [part.view_as(p) for part, p in zip(parts, self.tensors, strict=True)],
            retain_graph=True,
            materialize_grads=True,
        )
        return torch.cat([g.reshape(-1) for g in grads])

    def gauss_newton_product(self, vectors: Tensor) -> Tensor:
        """G v for the rows of ``vectors`` (k, P): (k, P), through one forward and one backward derivative."""
        return torch.stack([self._one_gauss_newton(v) for v in vectors])

    def _one_gauss_newton(self, vector):
        start, tangents = 0, {}
        for name, p in zip(self.names, self.tensors, strict=True):
            tangents[name] = vector[start : start + p.numel()].view_as(p)
            start += p.numel()
        values = {name: p.detach() for name, p in zip(self.names, self.tensors, strict=True)}
        outputs, moved = torch.func.jvp(self._functional, (values,), (tangents,))
        prepared = self.loss_function.prepared(outputs)
        back = self.loss_function.curvature_product(prepared, moved[:, None])[:, 0] / self.samples
        (grads,) = vjp(self._functional, values)[1](back)
        return torch.cat([grads[name].reshape(-1) for name in self.names])

    def _functional(self, values):
        return self._matrix(functional_call(self.model, values, (self.inputs,)))

    def sample_gradients(self, rows: slice = slice(None)) -> Tensor:
        """∇ℓ_i of the samples in ``rows``, (rows, P)."""
        tops = self.loss_function.gradient(self.outputs, self.targets)[rows]
        return self._pull(rows, tops[:, None])[:, 0]

    def sample_roots(self, rows: slice = slice(None)) -> Tensor:
        """Rows Qᵀ ∂f_i/∂θ of the Gauss–Newton root, (rows, C, P)."""
        return self._pull(rows, self.loss_function.root(self.outputs[rows]).transpose(1, 2))

    def _pull(self, rows, tops):
        """Cotangents (rows, c, C) on the outputs of each sample, pulled back to (rows, c, P)."""
        values = {name: p.detach() for name, p in zip(self.names, self.tensors, strict=True)}

        def one(sample, top):
            def outputs(v):
                return self._matrix(functional_call(self.model, v, (sample[None],)))[0]

            pull = vjp(outputs, values)[1]
            grads = vmap(lambda t: pull(t)[0])(top)
            return torch.cat([grads[name].flatten(1) for name in self.names], 1)

        return vmap(one)(self.inputs[rows], tops)
