"""One forward and backward pass through a fully connected network, kept, and all that follows from it.

For a network z_l = W_l a_{l−1} + b_l, a_l = φ(z_l), f = z_L every derivative of the loss is a product of four
cached arrays: layer inputs a, slopes φ′(z), bends φ″(z) and δ_l = ∂ℓ/∂z_l of each sample. Nothing here calls
autograd, and all of it is exact for any elementwise activation, not only for piecewise linear ones.

Notation: n samples, C outputs, layer l of h_l units and d_l = h_{l−1} inputs; k columns of a product.

Memory: three numbers a sample and hidden unit (four where the activation is curved), two a sample and output,
and ``ENTRIES`` numbers of temporary arrays at a time, whatever n is. Neither ∂²ℓ/∂f² nor its root is formed:
the loss multiplies by them. Only what a caller asks for by sample (``sample_gradients``, ``sample_roots``,
``roots``, ``curvatures``) grows with the samples asked for.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from flatmin.networks.losses import Loss
from flatmin.networks.models.fully_connected import Features
from flatmin.networks.parameters import trainable

__all__ = ["ENTRIES", "DensePass", "dense_layers"]

#: numbers in the temporary arrays of one product (128 MB in float64)
ENTRIES = 2**24
#: parameters whose operations are torch's own
_PARAMETERS = (nn.Parameter,)
#: largest Gram matrix of the samples that is kept
_KEPT_GRAM = 2**24
#: least pivot, by the largest, of the Gram matrix of samples whose axes are orthonormal in double precision
_LEAST_PIVOT = 1e-4
_ALL = slice(None)


def _relu(z, module):
    return z.clamp(min=0), (z > 0).to(z.dtype), None


def _leaky_relu(z, module):
    slope = torch.where(z > 0, z.new_ones(()), z.new_full((), module.negative_slope))
    return z * slope, slope, None


def _identity(z, module):
    return z, z.new_ones(()).expand_as(z), None


def _tanh(z, module):
    a = z.tanh()
    slope = 1 - a * a
    return a, slope, -2 * a * slope


def _sigmoid(z, module):
    a = z.sigmoid()
    slope = a * (1 - a)
    return a, slope, slope * (1 - 2 * a)


def _silu(z, module):
    s = z.sigmoid()
    inner = s * (1 - s)
    return z * s, s + z * inner, inner * (2 + z * (1 - 2 * s))


def _softplus(z, module):
    steep = z * module.beta > module.threshold  # torch's own: a straight line from there on
    s = (z * module.beta).sigmoid()
    a = nn.functional.softplus(z, module.beta, module.threshold)
    return a, torch.where(steep, 1.0, s).to(z.dtype), torch.where(steep, 0.0, module.beta * s * (1 - s))


def _elu(z, module):
    bent = module.alpha * z.clamp(max=0).exp()
    a = torch.where(z > 0, z, module.alpha * z.clamp(max=0).expm1())
    return a, torch.where(z > 0, 1.0, bent), torch.where(z > 0, 0.0, bent)


def _gelu(z, module):
    if module.approximate == "tanh":
        scale, cubic = math.sqrt(2 / math.pi), 0.044715
        t = (scale * (z + cubic * z**3)).tanh()
        inner, bent, slope = scale * (1 + 3 * cubic * z * z), 6 * scale * cubic * z, 1 - t * t
        first = 0.5 * (1 + t) + 0.5 * z * slope * inner
        return 0.5 * z * (1 + t), first, slope * (inner + 0.5 * z * (bent - 2 * t * inner * inner))
    below = 0.5 * torch.special.erfc(-z / math.sqrt(2))
    density = (-0.5 * z * z).exp() / math.sqrt(2 * math.pi)
    return z * below, below + z * density, density * (2 - z * z)


# (φ(z), φ′(z), φ″(z), None where it vanishes) of z and the module
_ACTIVATIONS = {
    nn.ReLU: _relu,
    nn.LeakyReLU: _leaky_relu,
    nn.Identity: _identity,
    nn.Tanh: _tanh,
    nn.Sigmoid: _sigmoid,
    nn.SiLU: _silu,
    nn.Softplus: _softplus,
    nn.ELU: _elu,
    nn.GELU: _gelu,
}


@dataclass
class Layer:
    """One linear layer and the activation after it; ``start`` is where it begins in θ."""

    weight: Tensor
    bias: Tensor | None
    activation: type
    start: int
    #: φ, φ′ and φ″ (None where it vanishes) of z
    derivatives: Callable = lambda z: _identity(z, None)

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
    """The modules of nested Sequentials in order, the Sequentials themselves too."""
    yield model
    if type(model) is nn.Sequential:
        for child in model:
            yield from _flattened(child)


def _plain(module: nn.Module) -> bool:
    """Whether a module does what its type says: one of the proven types, and nothing hung on it."""
    if not isinstance(module, nn.Module):
        return False
    kind = type(module)
    own = [p for p in module._parameters.values() if p is not None]  # .parameters() is ten times as slow
    hooks = (
        *(value for name, value in vars(module).items() if name.endswith("_hooks")),
        *(p._backward_hooks for p in own),
        *(getattr(p, "_post_accumulate_grad_hooks", None) for p in own),
    )
    if any(hooks) or "forward" in vars(module):
        return False
    if kind is nn.Flatten:
        return (module.start_dim, module.end_dim) == (1, -1)
    if kind is nn.Linear:
        held = {name: p for name, p in module._parameters.items() if p is not None}
        kept = held.keys() <= {"weight", "bias"} and not module._buffers and not module._modules
        return "weight" in held and kept and all(type(p) in _PARAMETERS for p in held.values())
    return kind in (nn.Sequential, Features) or kind in _ACTIVATIONS


def dense_layers(
    model: nn.Module, inputs: Tensor | None = None
) -> tuple[list[nn.Module], list[Layer]] | None:
    """Read a network as fixed modules followed by linear layers and activations.

    Returns (fixed, layers), where ``fixed`` are the leading modules without trainable parameters (Flatten, a
    random-feature map, frozen layers), or None for every network that is not exactly such a chain: another
    type of module, a subclass, a hook of any kind, a parametrization or pruning, a module or parameter used
    twice, a layer frozen in part or above a trained one, parameters of several dtypes, or ``inputs`` that are
    not (n, d) where the layers begin.
    """
    modules = list(_flattened(model))
    if _has_any_global_hook() or not all(map(_plain, modules)):
        return None
    owned = [id(p) for m in modules for p in m.parameters(False)]
    kinds = {p.dtype for p in model.parameters()}
    if len(set(owned)) != len(owned) or len(kinds) != 1 or not next(iter(kinds)).is_floating_point:
        return None
    modules = [m for m in modules if type(m) is not nn.Sequential]
    split = next((i for i, m in enumerate(modules) if trainable(m)), None)
    if split is None or any(getattr(m, "inplace", False) for m in modules[:split]):
        return None
    flat = any(type(m) is nn.Flatten for m in modules[:split])
    if inputs is not None and (inputs.ndim < 2 or (inputs.ndim != 2 and not flat)):
        return None
    layers = _layers(modules[split:])
    return None if layers is None else (modules[:split], layers)


def _layers(modules) -> list[Layer] | None:
    """The trained part of a chain, or None where it is anything but linear layers and activations."""
    layers, start = [], 0
    for module in modules:
        if type(module) is nn.Linear and all(p.requires_grad for p in module.parameters()):
            bias = None if module.bias is None else module.bias.detach()
            layers.append(Layer(module.weight.detach(), bias, nn.Identity, start))
            start = layers[-1].bias_slice.stop
        elif type(module) in _ACTIVATIONS and layers[-1].activation is nn.Identity:
            layers[-1].activation, form = type(module), _ACTIVATIONS[type(module)]
            layers[-1].derivatives = lambda z, form=form, module=module: form(z, module)
        else:
            return None
    return None if layers[-1].activation is not nn.Identity else layers


def _squares(rows: Tensor) -> Tensor:
    """|row|² of each row, without a second array of their size."""
    step = max(1, ENTRIES // 16 // rows.shape[1])
    return torch.cat([part.square().sum(1) for part in rows.split(step)])


class DensePass:
    """Forward and backward pass of a fully connected network over n samples, kept.

    All matrices are of the mean loss L = (1/n) Σ ℓ_i. ``parameters`` is P, ``samples`` n, ``outputs`` f (n,
    C), ``loss_function`` the loss bound to the targets. Per-sample arrays take ``rows``, a slice of samples.

    ``fixed`` and ``layers`` are as :func:`dense_layers` returns them, inputs and targets (n, …). Raises
    ValueError as :meth:`flatmin.networks.losses.Loss.bind`.
    """

    def __init__(self, fixed: list[nn.Module], layers: list[Layer], inputs: Tensor, targets, loss: Loss):
        with torch.no_grad():
            a = inputs.to(layers[0].weight.dtype)
            for module in fixed:
                a = module(a)
        self.layers, self.samples, self.parameters = layers, len(a), layers[-1].bias_slice.stop
        self._space = None
        #: a_{l−1}, φ′(z_l) and φ″(z_l) (or None) of each layer
        self.inputs, self.slopes, self.bends = [], [], []
        for layer in layers:
            self.inputs.append(a)
            z = a @ layer.weight.T if layer.bias is None else torch.addmm(layer.bias, a, layer.weight.T)
            a, slope, bend = layer.derivatives(z)
            self.slopes.append(slope)
            self.bends.append(bend)
        self.outputs = a
        self.loss_function = loss.bind(a, targets)
        self.targets = self.loss_function.targets

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network."""
        return self.outputs.dtype

    @property
    def piecewise_linear(self) -> bool:
        """Whether no activation is curved, so that φ″ = 0 throughout."""
        return all(bend is None for bend in self.bends)

    @property
    def memory(self) -> int:
        """Bytes, about, of what is kept and of the temporary arrays of one product."""
        kept = [
            *self.inputs[1:],
            *self.slopes,
            *filter(torch.is_tensor, self.bends),
            self.outputs,
            self.outputs,
        ]
        return (sum(t.numel() for t in kept) + ENTRIES) * self.outputs.element_size()

    @cached_property
    def losses(self) -> Tensor:
        """ℓ_i, (n,)."""
        return self.loss_function.values(self.outputs)

    @property
    def loss(self) -> float:
        """L = (1/n) Σ ℓ_i."""
        return float(self.losses.double().mean())

    def chunks(self, numbers: int) -> Iterator[slice]:
        """Slices of samples that need ``ENTRIES`` numbers at a time when one sample needs ``numbers``."""
        step = max(1, ENTRIES // max(1, numbers))
        for start in range(0, self.samples, step):
            yield slice(start, min(start + step, self.samples))

    def narrowed(self) -> tuple[DensePass, Callable[[Tensor], Tensor]] | None:
        """The same pass with the inputs along n axes only, and the map of vectors (P′, k) back to (P, k).

        The n samples X (n, d) span n directions: XXᵀ = CCᵀ with a triangle C, their coordinates along the
        orthonormal axes A = XᵀC⁻ᵀ. What the matrices of the mean loss hold beyond that, by first weights
        across the axes, is 0. None for more samples than half the inputs, where that saves little, or for
        samples that depend on each other.
        """
        first, x = self.layers[0], self.inputs[0]
        (n, d), h = x.shape, len(first.weight)
        if n > d // 2:
            return None
        triangle, failed = torch.linalg.cholesky_ex(x.double() @ x.double().T)
        if failed or triangle.diagonal().min() < _LEAST_PIVOT * triangle.diagonal().max():
            return None

        def widened(vectors: Tensor) -> Tensor:
            rows = vectors[: h * n].to(triangle).view(h, n, -1).transpose(0, 1).flatten(1)
            whole = x.T @ torch.linalg.solve_triangular(triangle.T, rows, upper=True).to(x)
            whole = whole.view(d, h, -1).transpose(0, 1).flatten(0, 1)
            return torch.cat([whole.to(vectors), vectors[h * n :]])

        out, gone = copy.copy(self), h * (d - n)
        out.layers = [replace(each, start=each.start - gone) for each in self.layers]
        out.layers[0] = replace(first, weight=first.weight[:, :n])  # products need its shape only
        out.inputs, out.parameters = [triangle.to(x), *self.inputs[1:]], self.parameters - gone
        return out, widened

    # The backward pass

    @property
    def output_gradients(self) -> Tensor:
        """∂ℓ_i/∂f, (n, C)."""
        return self.deltas[-1]

    @cached_property
    def deltas(self) -> list[Tensor]:
        """δ_l = ∂ℓ_i/∂z_l of each layer, (n, h_l)."""
        return self._backward(self.loss_function.gradient(self.outputs))

    def _backward(self, top: Tensor, rows=_ALL) -> list[Tensor]:
        """∂/∂z of each layer from that of the last, ``top`` (r, …, C)."""
        if len(self.layers) == 1:
            return [top]
        return [*self._carried(top @ self.layers[-1].weight, rows), top]

    def _carried(self, back: Tensor, rows) -> list[Tensor]:
        """∂/∂z of each layer but the last from ``back`` (r, …, d), ∂ by the last layer's inputs."""
        out = []
        for index in range(len(self.layers) - 2, -1, -1):
            below = self.slopes[index][rows]
            out.append(back * (below if back.ndim == 2 else below[:, None, :]))
            if index:
                back = out[-1] @ self.layers[index].weight
        return out[::-1]

    def hidden_roots(self, rows: slice = _ALL) -> list[Tensor]:
        """S_l = Qᵀ ∂f/∂z_l of each layer but the last, (r, C, h_l), where Q Qᵀ = ∂²ℓ/∂f².

        Row c of sample i, outer product with a_{l−1}, is a column of the Gauss–Newton root in layer l. In the
        last layer it is Qᵀ itself, by which the loss multiplies. Raises ValueError where the loss has none.
        """
        if len(self.layers) == 1:
            return []
        weight, f = self.layers[-1].weight, self.outputs[rows]
        if len(weight) <= weight.shape[1]:  # whichever is less: Qᵀ itself, or its product with each column
            moved = self._top_root(rows) @ weight
        else:
            columns = weight.T.expand(len(f), -1, -1)
            moved = self.loss_function.root_transpose(f, rows, columns).transpose(1, 2)
        return self._carried(moved, rows)

    @cached_property
    def roots(self) -> list[Tensor]:
        """S_l of each layer and all samples, (n, C, h_l), the last (n, C, C) too: for few outputs."""
        return [*self.hidden_roots(), self._top_root(_ALL)]

    def _top_root(self, rows) -> Tensor:
        """Qᵀ of each sample, (r, C, C): a row of it is a column Q e_c."""
        f = self.outputs[rows]
        unit = torch.eye(f.shape[1], dtype=f.dtype, device=f.device)
        return self.loss_function.root_product(f, rows, unit.expand(len(f), -1, -1))

    # Gradients and rows of the Gauss–Newton root

    @cached_property
    def input_products(self) -> list[Tensor]:
        """ã_i·ã_j of each layer's inputs, with 1 added where there is a bias, (n, n)."""
        return [self._inner(index, _ALL, _ALL) for index in range(len(self.layers))]

    def _inner(self, index, rows, others) -> Tensor:
        a = self.inputs[index]
        return a[rows] @ a[others].T + (0.0 if self.layers[index].bias is None else 1.0)

    def gradient(self) -> Tensor:
        """∇L, (P,)."""
        parts = []
        for layer, a, delta in zip(self.layers, self.inputs, self.deltas, strict=True):
            parts.append((delta.T @ a).reshape(-1))
            if layer.bias is not None:
                parts.append(delta.sum(0))
        return torch.cat(parts) / self.samples

    def sample_gradients(self, rows: slice = _ALL) -> Tensor:
        """∇ℓ_i of the samples in ``rows``, (r, P)."""
        return self._outer([delta[rows] for delta in self.deltas], rows)

    def sample_roots(self, rows: slice = _ALL) -> Tensor:
        """Rows Qᵀ ∂f_i/∂θ of the Gauss–Newton root G = (1/n) Σ RᵢᵀRᵢ, (r, C, P)."""
        found = self._roots_of(rows)
        return self._outer(found if len(found) == len(self.layers) else [*found, self._top_root(rows)], rows)

    def pull(self, rows: slice, tops: Tensor) -> Tensor:
        """Cotangents (r, c, C) on the outputs of each sample, pulled back to (r, c, P)."""
        return self._outer(self._backward(tops, rows), rows)

    def pulled_squares(self, tops: Tensor) -> Tensor:
        """|Jᵢᵀ tᵢ|² for one cotangent ``tops`` (n, C) on each sample's outputs, (n,); of c, (n, c)."""
        if tops.ndim == 3:
            return torch.stack([self.pulled_squares(top) for top in tops.unbind(1)], 1)
        parts = zip(self.layers, self._backward(tops), self.inputs, strict=True)
        return sum(_squares(back) * (_squares(a) + (each.bias is not None)) for each, back, a in parts)

    def pulled_gram(self, tops: Tensor) -> Tensor:
        """Inner products of Jᵢᵀ tᵢ for cotangents ``tops`` (n, c, C), (n·c, n·c); layer by layer."""
        (n, c, _), total = tops.shape, 0.0
        for index, back in enumerate(self._backward(tops)):
            back = back.flatten(0, 1)
            total = total + (back @ back.T).view(n, c, n, c) * self._gram(index, _ALL, _ALL)
        return total.view(n * c, n * c)

    def _outer(self, backs: list[Tensor], rows: slice) -> Tensor:
        parts = []
        for layer, a, back in zip(self.layers, self.inputs, backs, strict=True):
            inner = a[rows] if back.ndim == 2 else a[rows][:, None]
            parts.append((back[..., :, None] * inner[..., None, :]).flatten(-2))
            if layer.bias is not None:
                parts.append(back)
        return torch.cat(parts, -1)

    def root_products(self, left: list[Tensor], rows: slice) -> Tensor:
        """Inner products of parameter-space rows with the Gauss–Newton root, (r · c, n · C).

        ``left`` holds for each layer what the rows carry in z_l: (r, c, h_l) for several of a sample, (r,
        h_l) for one. Σ_l (ã_i·ã_j) (left_l · S_l): nothing of the size of P is formed.
        """
        left = [one if one.ndim == 3 else one[:, None] for one in left]
        (r, c, classes), parts = left[-1].shape, []
        widest = max([r * c, *(len(layer.weight) for layer in self.layers[:-1])])
        for part in self.chunks(16 * classes * widest):  # stays in cache
            roots, shape = self._roots_of(part), (r, c, part.stop - part.start, classes)
            total = None if len(roots) == len(left) else self._top_products(left[-1], rows, part)
            for index, (one, root) in enumerate(zip(left, roots, strict=False)):
                product = (one.reshape(r * c, -1) @ root.flatten(0, 1).T).view(shape)
                product *= self._gram(index, rows, part)
                total = product if total is None else total.add_(product)
            parts.append(total)
        found = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        return found.view(r * c, self.samples * classes)

    def _top_products(self, left, rows, part) -> Tensor:
        """The last layer's share of :meth:`root_products`, (r, c, p, C), its root (p, C, C) not formed."""
        (r, c, classes), f = left.shape, self.outputs[part]
        tops = left.reshape(1, r * c, classes).expand(len(f), -1, -1)
        moved = self.loss_function.root_transpose(f, part, tops).transpose(0, 1)
        return moved.reshape(r, c, len(f), classes) * self._gram(-1, rows, part)

    def _gram(self, index, rows, part) -> Tensor:
        """ã_i·ã_j between some samples and others, as (r, 1, p, 1)."""
        if self.samples**2 <= _KEPT_GRAM:
            return self.input_products[index][rows, part][:, None, :, None]
        return self._inner(index, rows, part)[:, None, :, None]

    def _roots_of(self, rows) -> list[Tensor]:
        """S_l of some samples; all, the last too, are kept where they fit: Gram matrices ask repeatedly."""
        widths = sum(len(layer.weight) for layer in self.layers)
        if self.samples * self.outputs.shape[1] * widths > ENTRIES:
            return self.hidden_roots(rows)
        return [root[rows] for root in self.roots]

    # Products

    def hessian_product(self, vectors: Tensor) -> Tensor:
        """H v for the rows of ``vectors`` (k, P): (k, P). An analytic R-operator (Pearlmutter 1994)."""
        return self._product(vectors, gauss_newton=False)

    def gauss_newton_product(self, vectors: Tensor) -> Tensor:
        """G v for the rows of ``vectors`` (k, P), G the Gauss–Newton matrix: (k, P)."""
        return self._product(vectors, gauss_newton=True)

    def output_derivatives(self, vectors: Tensor) -> Tensor:
        """Derivatives of the outputs along the rows of ``vectors`` (k, P): (n, k, C)."""
        weights, found = self._weights(vectors), []
        for rows in self._product_chunks(len(vectors)):
            moved_inputs, moved_z, _ = self._workspace(rows.stop - rows.start, len(vectors))
            self._forward_derivative(vectors, weights, rows, moved_inputs, moved_z)
            found.append(moved_z[-1].clone())
        return torch.cat(found)

    def _weights(self, vectors):
        k = len(vectors)
        return [vectors[:, layer.weight_slice].reshape(k, *layer.weight.shape) for layer in self.layers]

    def _product_chunks(self, k):
        widths = [len(layer.weight) for layer in self.layers]
        return self.chunks(k * (3 * sum(widths[:-1]) + widths[-1]))  # the workspace

    def _product(self, vectors, gauss_newton):
        result, weights = torch.empty_like(vectors), self._weights(vectors)
        for rows in self._product_chunks(len(vectors)):
            self._add_product(result, vectors, weights, rows, gauss_newton)
        return result.div_(self.samples)

    def _add_product(self, result, vectors, weights, rows, gauss_newton):
        n, k = rows.stop - rows.start, len(vectors)
        add = Tensor.add_ if rows.start else Tensor.copy_
        moved_inputs, moved_z, backs = self._workspace(n, k)
        self._forward_derivative(vectors, weights, rows, moved_inputs, moved_z)
        back = self.loss_function.curvature_product(self._outputs_of(rows), rows, moved_z[-1])
        for index in range(len(self.layers) - 1, -1, -1):
            layer, a, delta = self.layers[index], self.inputs[index][rows], self.deltas[index][rows]
            h, d = layer.weight.shape
            product = (back.reshape(n, k * h).T @ a).view(k, h, d)
            if index and not gauss_newton:
                crossed = delta.T @ moved_inputs[index].view(n, k * d)
                product += crossed.view(h, k, d).transpose(0, 1)
            add(result[:, layer.weight_slice], product.view(k, h * d))
            if layer.bias is not None:
                add(result[:, layer.bias_slice], back.sum(0))
            if index:
                below = torch.mm(back.reshape(n * k, h), layer.weight, out=backs[index].view(n * k, d))
                if not gauss_newton:
                    below.view(n, k * d).addmm_(delta, weights[index].transpose(0, 1).reshape(h, k * d))
                back = backs[index].mul_(self.slopes[index - 1][rows][:, None, :])
                bend = self.bends[index - 1]
                if bend is not None and not gauss_newton:
                    back += (bend[rows] * (delta @ layer.weight))[:, None, :] * moved_z[index - 1]

    def _outputs_of(self, rows):
        """Outputs of some samples; the same tensor for all of them, so that the loss may keep its softmax."""
        return self.outputs if rows == slice(0, self.samples) else self.outputs[rows]

    def _forward_derivative(self, vectors, weights, rows, moved_inputs, moved_z):
        """Fill in the derivatives along the vectors of each layer's inputs and of z, (r, k, ·)."""
        n, k = rows.stop - rows.start, len(vectors)
        for index, layer in enumerate(self.layers):
            h, d = layer.weight.shape
            moved, a = moved_z[index], self.inputs[index][rows]
            torch.mm(a, weights[index].reshape(k * h, d).T, out=moved.view(n, k * h))
            if index:
                slope = self.slopes[index - 1][rows][:, None, :]
                torch.mul(moved_z[index - 1], slope, out=moved_inputs[index])
                moved.view(n * k, h).addmm_(moved_inputs[index].view(n * k, d), layer.weight.T)
            if layer.bias is not None:
                moved += vectors[:, layer.bias_slice]

    def _workspace(self, n, k):
        """Arrays (n, k, ·) that products reuse: fresh ones cost more in page faults than the arithmetic."""
        if self._space is None or self._space[0] != (n, k):

            def rooms(widths):
                return [self.outputs.new_empty(n, k, width) for width in widths]

            self._space = None
            inner = [0, *(layer.weight.shape[1] for layer in self.layers[1:])]  # the data do not move
            outer = [len(layer.weight) for layer in self.layers]
            self._space = (n, k), rooms(inner), rooms(outer), rooms(inner)
        return self._space[1:]

    # Curvature in z

    def curvature_product(self, index: int, rows: slice, vectors: Tensor) -> Tensor:
        """M_ll v, (r, k, h_l), for vectors (r, k, h_l) in z of layer ``index``, exact; M_ll is not formed."""
        moved = [vectors]
        for slope, layer in zip(self.slopes[index:-1], self.layers[index + 1 :], strict=True):
            moved.append((moved[-1] * slope[rows][:, None, :]) @ layer.weight.T)
        back = self.loss_function.curvature_product(self._outputs_of(rows), rows, moved[-1])
        for upper in range(len(self.layers) - 1, index, -1):
            weight, bend = self.layers[upper].weight, self.bends[upper - 1]
            back = (back @ weight) * self.slopes[upper - 1][rows][:, None, :]
            if bend is not None:
                bent = bend[rows] * (self.deltas[upper][rows] @ weight)
                back = back + bent[:, None, :] * moved[upper - 1 - index]
        return back

    def curvatures(self, rows: slice = _ALL) -> list[Tensor]:
        """M_ll = ∂²ℓ_i/∂z_l² of each layer, (r, h_l, h_l), the last (r, C, C) too: for few outputs."""
        return [*self.hidden_curvatures(rows), self.loss_function.curvature(self.outputs[rows], rows)]

    def hidden_curvatures(self, rows: slice = _ALL) -> list[Tensor]:
        """M_ll of each layer but the last, (r, h_l, h_l), exact for curved activations too."""
        if len(self.layers) == 1:
            return []
        if self._through_roots:
            return [s.transpose(1, 2) @ s for s in self.hidden_roots(rows)]
        out = [self._bent(self._below_top(rows), len(self.layers) - 1, rows)]
        for index in range(len(self.layers) - 2, 0, -1):
            weight = self.layers[index].weight
            out.append(self._bent(weight.T @ out[-1] @ weight, index, rows))
        return out[::-1]

    def _below_top(self, rows) -> Tensor:
        """W_Lᵀ ∂²ℓ/∂f² W_L of each sample, (r, d, d), a few samples at a time."""
        weight, loss = self.layers[-1].weight, self.loss_function
        positions = torch.arange(self.samples, device=weight.device)[rows]
        found = weight.new_empty(len(positions), weight.shape[1], weight.shape[1])
        step = max(1, ENTRIES // 16 // weight.numel())
        for out, part in zip(found.split(step), positions.split(step), strict=True):
            f = self.outputs[part]
            if len(weight) <= weight.shape[1]:  # whichever is less work
                out[:] = weight.T @ loss.curvature(f, part) @ weight
            else:
                out[:] = loss.curvature_product(f, part, weight.T.expand(len(f), -1, -1)) @ weight
        return found

    def _bent(self, inner, index, rows):
        """M of the layer below ``index`` from Wᵀ M W: φ′ on both sides, and φ″ on the diagonal."""
        slope, bend = self.slopes[index - 1][rows], self.bends[index - 1]
        inner *= slope[:, :, None]
        inner *= slope[:, None, :]
        if bend is not None:
            bent = bend[rows] * (self.deltas[index][rows] @ self.layers[index].weight)
            inner.diagonal(dim1=1, dim2=2).add_(bent)
        return inner

    @property
    def _through_roots(self) -> bool:
        """Whether M = SᵀS: no curved activation, a loss with a root, no more outputs than hidden units."""
        widest = max((len(layer.weight) for layer in self.layers[:-1]), default=0)
        return self.piecewise_linear and self.loss_function.convex and self.outputs.shape[1] <= widest

    @property
    def diagonal_products(self) -> float:
        """How many products with the Hessian take about as long as :attr:`curvature_diagonals`."""
        widths = [len(layer.weight) for layer in self.layers]
        if len(widths) == 1 or self._through_roots:
            return widths[-1] / 5
        work = widths[-2] ** 2 * widths[-1] + sum(a * b * (a + b) for a, b in pairwise(widths[:-1]))
        return work / (20 * self.parameters)

    @cached_property
    def curvature_diagonals(self) -> list[Tensor]:
        """Diagonal of M_ll of each layer, (n, h_l), exact; the samples in chunks.

        Tr H = (1/n) Σ_l Σ_i |ã_{l−1,i}|² Tr M_ll,i, and the diagonal of H in W_l is (1/n) Σ_i M_pp a_q².
        """
        widths = [len(layer.weight) for layer in self.layers]
        hidden = [self.outputs.new_empty(self.samples, width) for width in widths[:-1]]
        numbers = 16 * sum(h * (self.outputs.shape[1] + h) for h in widths[:-1])  # stays in cache
        for rows in self.chunks(numbers) if hidden else ():
            if self._through_roots:
                found = [root.square().sum(1) for root in self.hidden_roots(rows)]
            else:
                found = [m.diagonal(dim1=1, dim2=2) for m in self.hidden_curvatures(rows)]
            for whole, part in zip(hidden, found, strict=True):
                whole[rows] = part
        return [*hidden, self.loss_function.curvature_diagonal(self.outputs)]

    def curvature_inner(self, index: int, rows: slice, others: slice) -> Tensor:
        """⟨M_ll,i, M_ll,j⟩ between the samples in ``rows`` and ``others``, (r, r')."""
        if index == len(self.layers) - 1:
            return self.loss_function.curvature_inner(self.outputs[rows], rows, self.outputs[others], others)
        left, right = (self.hidden_curvatures(part)[index].flatten(1) for part in (rows, others))
        return left @ right.T

    def input_slopes(self, lower: int, rows: slice = _ALL) -> list[Tensor | None]:
        """A = ∂a_{m−1}/∂z_lower for each layer m above ``lower``, (r, d_m, h_lower); None up to it."""
        out: list[Tensor | None] = [None] * (lower + 1)
        if lower + 1 < len(self.layers):
            out.append(torch.diag_embed(self.slopes[lower][rows]))
        for index in range(lower + 1, len(self.layers) - 1):
            out.append(self.slopes[index][rows][:, :, None] * (self.layers[index].weight @ out[-1]))
        return out
