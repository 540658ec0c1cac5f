"""One forward and backward pass through a fully connected network, kept, and all that follows from it.

For a network z_l = W_l a_{l−1} + b_l, a_l = φ(z_l), f = z_L every derivative of the loss is a product of four
cached arrays: layer inputs a, slopes φ′(z), δ_l = ∂ℓ/∂z_l, and M_ml = ∂²ℓ/∂z_m∂z_l of each sample. Nothing
here calls autograd, and all of it is exact for any elementwise activation, not only for piecewise linear
ones.

Notation: n samples, C outputs, layer l of h_l units and d_l = h_{l−1} inputs; k columns of a product.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from flatmin.networks.losses import Loss, SampleLosses
from flatmin.networks.parameters import trainable

__all__ = ["DensePass", "dense_layers"]


def _relu(z):
    return z.clamp(min=0), (z > 0).to(z.dtype), None


def _tanh(z):
    a = z.tanh()
    slope = 1 - a * a
    return a, slope, -2 * a * slope


def _identity(z):
    return z, torch.ones_like(z), None


# φ(z), φ′(z), φ″(z) (None where it vanishes)
_ACTIVATIONS = {nn.ReLU: _relu, nn.Tanh: _tanh, nn.Identity: _identity}


@dataclass
class Layer:
    """One linear layer and the activation after it; ``start`` is where it begins in θ."""

    weight: Tensor
    bias: Tensor | None
    activation: type
    start: int

    @property
    def weight_slice(self) -> slice:
        """Entries of θ that hold the weight."""
        return slice(self.start, self.start + self.weight.numel())

    @property
    def bias_slice(self) -> slice:
        """Entries of θ that hold the bias (empty without one)."""
        end = self.weight_slice.stop
        return slice(end, end if self.bias is None else end + self.bias.numel())


def _flattened(model):
    if isinstance(model, nn.Sequential):
        for child in model:
            yield from _flattened(child)
    else:
        yield model


def dense_layers(model: nn.Module) -> tuple[list[nn.Module], list[Layer]] | None:
    """Read a network as fixed modules followed by linear layers and activations.

    Returns (fixed, layers), where ``fixed`` are the leading modules without trainable parameters (Flatten, a
    random-feature map), or None if the network is of another kind or shares or freezes weights.
    """
    modules = list(_flattened(model))
    split = next((i for i, m in enumerate(modules) if trainable(m)), None)
    if split is None:
        return None
    layers, start = [], 0
    for module in modules[split:]:
        if type(module) is nn.Linear and len(trainable(module)) == len(list(module.parameters())):
            bias = None if module.bias is None else module.bias.detach()
            layers.append(Layer(module.weight.detach(), bias, nn.Identity, start))
            start = layers[-1].bias_slice.stop
        elif type(module) in _ACTIVATIONS and layers and layers[-1].activation is nn.Identity:
            layers[-1].activation = type(module)
        else:
            return None
    shared = start != sum(p.numel() for _, p in trainable(model))
    return None if shared or layers[-1].activation is not nn.Identity else (modules[:split], layers)


class DensePass(SampleLosses):
    """Forward and backward pass of a fully connected network over n samples, kept.

    All matrices are of the mean loss L = (1/n) Σ ℓ_i. ``parameters`` is P, ``samples`` n, ``outputs`` f (n,
    C).
    """

    def __init__(self, fixed: list[nn.Module], layers: list[Layer], inputs: Tensor, targets, loss: Loss):
        with torch.no_grad():
            a = inputs.to(layers[0].weight.dtype)
            for module in fixed:
                a = module(a)
        self.layers, self.loss_function = layers, loss
        self.samples, self.parameters = len(a), layers[-1].bias_slice.stop
        self._space = None
        #: a_{l−1}, φ′(z_l) and φ″(z_l) (or None) of each layer
        self.inputs, self.slopes, self.bends = [], [], []
        for layer in layers:
            self.inputs.append(a)
            z = a @ layer.weight.T if layer.bias is None else torch.addmm(layer.bias, a, layer.weight.T)
            a, slope, bend = _ACTIVATIONS[layer.activation](z)
            self.slopes.append(slope)
            self.bends.append(bend)
        self.outputs = a
        self.targets = loss.targets(targets, a.shape[1], a.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network."""
        return self.outputs.dtype

    @property
    def piecewise_linear(self) -> bool:
        """Whether no activation is curved, so that φ″ = 0 throughout."""
        return all(bend is None for bend in self.bends)

    @cached_property
    def prepared(self) -> Tensor:
        """What products with ∂²ℓ/∂f² need of the outputs."""
        return self.loss_function.prepared(self.outputs)

    @cached_property
    def deltas(self) -> list[Tensor]:
        """δ_l = ∂ℓ_i/∂z_l of each layer, (n, h_l)."""
        return self._backward(self.loss_function.gradient(self.outputs, self.targets))

    @cached_property
    def roots(self) -> list[Tensor]:
        """S_l = Qᵀ ∂f/∂z_l of each layer, (n, C, h_l), where Q Qᵀ = ∂²ℓ/∂f².

        Row c of sample i, outer product with a_{l−1}, is a column of the Gauss–Newton root in layer l.
        """
        return self._backward(self.loss_function.root(self.outputs).transpose(1, 2))

    def _backward(self, top: Tensor) -> list[Tensor]:
        """Carry ∂/∂z_L (n, …, C) back through the layers."""
        out = [top]
        for below, layer in zip(self.slopes[-2::-1], self.layers[:0:-1], strict=True):
            back = out[-1] @ layer.weight
            out.append(back * (below if back.ndim == 2 else below[:, None, :]))
        return out[::-1]

    @cached_property
    def input_products(self) -> list[Tensor]:
        """ã_i·ã_j of each layer's inputs, with 1 added where there is a bias, (n, n)."""
        return [
            a @ a.T + (0.0 if layer.bias is None else 1.0)
            for a, layer in zip(self.inputs, self.layers, strict=True)
        ]

    def input_norms(self) -> list[Tensor]:
        """|ã_i|² of each layer's inputs, with 1 added where there is a bias, (n,)."""
        return [
            a.square().sum(1) + (0.0 if layer.bias is None else 1.0)
            for a, layer in zip(self.inputs, self.layers, strict=True)
        ]

    def gradient(self) -> Tensor:
        """∇L, (P,)."""
        parts = []
        for layer, a, delta in zip(self.layers, self.inputs, self.deltas, strict=True):
            parts.append((delta.T @ a).reshape(-1))
            if layer.bias is not None:
                parts.append(delta.sum(0))
        return torch.cat(parts) / self.samples

    def sample_gradients(self, rows: slice = slice(None)) -> Tensor:
        """∇ℓ_i of the samples in ``rows``, (rows, P)."""
        return self._outer([delta[rows] for delta in self.deltas], rows)

    def sample_roots(self, rows: slice = slice(None)) -> Tensor:
        """Rows Qᵀ ∂f_i/∂θ of the Gauss–Newton root G = (1/n) Σ RᵢᵀRᵢ, (rows, C, P)."""
        return self._outer([root[rows] for root in self.roots], rows)

    def pulled_squares(self, tops: Tensor) -> Tensor:
        """|Jᵢᵀ tᵢ|² for one cotangent ``tops`` (n, C) on each sample's outputs, (n,)."""
        pairs = zip(self._backward(tops), self.input_norms(), strict=True)
        return sum(back.square().sum(1) * norm for back, norm in pairs)

    def _outer(self, backs: list[Tensor], rows: slice) -> Tensor:
        parts = []
        for layer, a, back in zip(self.layers, self.inputs, backs, strict=True):
            inner = a[rows] if back.ndim == 2 else a[rows][:, None]
            parts.append((back[..., :, None] * inner[..., None, :]).flatten(-2))
            if layer.bias is not None:
                parts.append(back)
        return torch.cat(parts, -1)

    def hessian_product(self, vectors: Tensor) -> Tensor:
        """H v for the rows of ``vectors`` (k, P): (k, P). An analytic R-operator (Pearlmutter 1994)."""
        return self._product(vectors, gauss_newton=False)

    def gauss_newton_product(self, vectors: Tensor) -> Tensor:
        """G v for the rows of ``vectors`` (k, P), G the Gauss–Newton matrix: (k, P)."""
        return self._product(vectors, gauss_newton=True)

    def _product(self, vectors, gauss_newton):
        n, k = self.samples, len(vectors)
        weights = [vectors[:, layer.weight_slice].reshape(k, *layer.weight.shape) for layer in self.layers]
        moved_inputs, moved_z, backs = self._workspace(k)
        self._forward_derivative(vectors, weights, moved_inputs, moved_z)
        result = torch.empty_like(vectors)
        back = self.loss_function.curvature_product(self.prepared, moved_z[-1])
        for index in range(len(self.layers) - 1, -1, -1):
            layer, a, delta = self.layers[index], self.inputs[index], self.deltas[index]
            h, d = layer.weight.shape
            product = (back.reshape(n, k * h).T @ a).view(k, h, d)
            if index and not gauss_newton:
                crossed = delta.T @ moved_inputs[index].view(n, k * d)
                product += crossed.view(h, k, d).transpose(0, 1)
            result[:, layer.weight_slice] = product.view(k, h * d)
            if layer.bias is not None:
                result[:, layer.bias_slice] = back.sum(0)
            if index:
                below = torch.mm(back.reshape(n * k, h), layer.weight, out=backs[index].view(n * k, d))
                if not gauss_newton:
                    below.view(n, k * d).addmm_(delta, weights[index].transpose(0, 1).reshape(h, k * d))
                back = backs[index].mul_(self.slopes[index - 1][:, None, :])
                bend = self.bends[index - 1]
                if bend is not None and not gauss_newton:
                    back += (bend * (delta @ layer.weight))[:, None, :] * moved_z[index - 1]
        return result.div_(n)

    def _forward_derivative(self, vectors, weights, moved_inputs, moved_z):
        """Fill in the derivatives along the vectors of each layer's inputs and of z, (n, k, ·)."""
        n, k = self.samples, len(vectors)
        for index, layer in enumerate(self.layers):
            h, d = layer.weight.shape
            moved = moved_z[index]
            torch.mm(self.inputs[index], weights[index].reshape(k * h, d).T, out=moved.view(n, k * h))
            if index:
                torch.mul(moved_z[index - 1], self.slopes[index - 1][:, None, :], out=moved_inputs[index])
                moved.view(n * k, h).addmm_(moved_inputs[index].view(n * k, d), layer.weight.T)
            if layer.bias is not None:
                moved += vectors[:, layer.bias_slice]

    def _workspace(self, k):
        """Arrays (n, k, ·) that products reuse: fresh ones cost more in page faults than the arithmetic."""
        if self._space is None or self._space[0] != k:

            def rooms(widths):
                return [self.outputs.new_empty(self.samples, k, width) for width in widths]

            inner = [0, *(layer.weight.shape[1] for layer in self.layers[1:])]  # the data do not move
            self._space = k, rooms(inner), rooms(len(layer.weight) for layer in self.layers), rooms(inner)
        return self._space[1:]

    @cached_property
    def curvatures(self) -> list[Tensor]:
        """M_ll = ∂²ℓ_i/∂z_l² of each layer, (n, h_l, h_l), exact for curved activations too."""
        if self.piecewise_linear:
            return [s.transpose(1, 2) @ s for s in self.roots]
        root = self.loss_function.root(self.outputs)
        out = [root @ root.transpose(1, 2)]
        for index in range(len(self.layers) - 1, 0, -1):
            weight, slope, bend = self.layers[index].weight, self.slopes[index - 1], self.bends[index - 1]
            inner = weight.T @ out[-1] @ weight
            inner *= slope[:, :, None] * slope[:, None, :]
            if bend is not None:
                inner += torch.diag_embed(bend * (self.deltas[index] @ weight))
            out.append(inner)
        return out[::-1]

    def input_slopes(self, lower: int) -> list[Tensor | None]:
        """A = ∂a_{m−1}/∂z_lower for each layer m above ``lower``, (n, d_m, h_lower); None up to it."""
        out: list[Tensor | None] = [None] * (lower + 1)
        if lower + 1 < len(self.layers):
            out.append(torch.diag_embed(self.slopes[lower]))
        for index in range(lower + 1, len(self.layers) - 1):
            out.append(self.slopes[index][:, :, None] * (self.layers[index].weight @ out[-1]))
        return out
