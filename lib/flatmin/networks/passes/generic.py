"""The pass for any module, through autograd, in chunks of samples.

:func:`linearise` picks the method: a fully connected network gets
:class:`~flatmin.networks.passes.dense.DensePass` (matrix products only), any other module gets
:class:`AutogradPass`. Both offer the same quantities.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor
from torch.func import vjp, vmap

from flatmin.networks.data.samples import Samples, leaves, mapped
from flatmin.networks.losses import Loss
from flatmin.networks.network import Network, quiet
from flatmin.networks.passes import layers
from flatmin.networks.passes.dense import DensePass, dense_layers

__all__ = ["AutogradPass", "linearise"]

#: numbers in one temporary array
_ENTRIES = 2**25
#: bytes that the graph of one chunk may take, and how many times what a forward pass saves the graph of a
#: gradient does
_BUDGET, _GRAPHS = 2**30, 6


def linearise(
    network: Network, samples: Samples, loss: Loss, chunk: int | None = None
) -> DensePass | AutogradPass:
    """Pass ``samples`` through ``network`` and keep what derivatives of the mean loss need.

    Raises ValueError for targets that do not fit the loss, or outputs or losses that are not finite.
    """
    inputs = leaves(samples.inputs)
    plain = network.forward is None and isinstance(samples.inputs, Tensor)
    read = dense_layers(network.module, inputs[0]) if plain and inputs[0].is_floating_point() else None
    with quiet(network):
        if read is not None:
            found = DensePass(*read, samples.inputs, samples.targets, loss)
        else:
            found = AutogradPass(network, samples, loss, chunk)
    return found


def _quietly(method):
    """Let a method of a pass leave no trace in torch's global state."""

    @functools.wraps(method)
    def wrapped(self, *arguments, **named):
        with quiet(self.network):
            return method(self, *arguments, **named)

    return wrapped


class AutogradPass:
    """The quantities of :class:`~flatmin.networks.passes.dense.DensePass` for any module, through autograd.

    The module must treat samples independently. Graphs of ``chunk`` samples are built at a time; where one
    chunk holds all samples its graph is kept, and a product is then one more backward pass. ``mapped``, the
    ``map`` of an executor of processes, takes the chunks of Hessian products where there are several.
    """

    piecewise_linear, mapped = False, None

    def __init__(self, network: Network, samples: Samples, loss: Loss, chunk: int | None = None):
        self.network, self.data, self.samples = network, samples, len(samples)
        self.inputs = samples.inputs
        self.bytes_per_sample = _GRAPHS * self._saved_bytes()
        fitting = max(1, _BUDGET // max(1, self.bytes_per_sample))
        self.chunk = min(self.samples, fitting if chunk is None else chunk)
        self.chunks = [
            slice(start, min(start + self.chunk, self.samples))
            for start in range(0, self.samples, self.chunk)
        ]
        with torch.no_grad():
            whole = torch.cat([network.outputs(self._rows(part)) for part in self.chunks])
        self.loss_function = loss.bind(whole, samples.targets)
        self.outputs = whole.reshape(self.samples, -1)
        self._kept = {}

    @property
    def parameters(self) -> int:
        """Number of parameters P."""
        return self.network.parameters

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the network."""
        return self.network.dtype

    @property
    def memory(self) -> int:
        """Bytes, about, that the graph of one chunk takes."""
        return self.chunk * self.bytes_per_sample

    @functools.cached_property
    def losses(self) -> Tensor:
        """ℓ_i, (n,)."""
        return self.loss_function.values(self.outputs, slice(None))

    @property
    def loss(self) -> float:
        """L = (1/n) Σ ℓ_i."""
        return float(self.losses.double().mean())

    @functools.cached_property
    def output_gradients(self) -> Tensor:
        """∂ℓ_i/∂f, (n, C)."""
        return self.loss_function.gradient(self.outputs, slice(None))

    def _rows(self, rows):
        return mapped(lambda tensor: tensor[rows], self.inputs)

    def _saved_bytes(self) -> int:
        """Bytes that a forward pass keeps of one sample."""
        rows, sizes = min(2, self.samples), {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
            self.network.outputs(self._rows(slice(0, rows)))
        for there in (*self.network.module.parameters(), *leaves(self.inputs)):
            sizes.pop(there.untyped_storage().data_ptr(), None)
        return sum(sizes.values()) // rows

    def _graph(self, index: int, make):
        """What ``make`` returns for chunk number ``index``; kept where it is the only one."""
        if make.__name__ in self._kept:
            return self._kept[make.__name__]
        found = make(self.chunks[index])
        if len(self.chunks) == 1:
            self._kept[make.__name__] = found
        return found

    def _gradient_of(self, rows, create_graph=True):
        """∂/∂θ of the sum of the losses in ``rows``, with its graph."""
        outputs = self.network.matrix(self._rows(rows))
        total = self.loss_function.total(outputs, rows)
        return torch.autograd.grad(
            total, self.network.tensors, create_graph=create_graph, materialize_grads=True
        )

    def _jacobian_of(self, rows):
        """(f, w, Jᵀw): the outputs, a variable of their shape, and its pull-back with its graph."""
        outputs = self.network.matrix(self._rows(rows))
        tops = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(
            outputs, self.network.tensors, tops, create_graph=True, materialize_grads=True
        )
        return outputs, tops, pulled

    @_quietly
    def gradient(self) -> Tensor:
        """∇L, (P,)."""
        total = 0.0
        for rows in self.chunks:
            if self._gradient_of.__name__ in self._kept:
                parts = [g.detach() for g in self._kept[self._gradient_of.__name__]]
            else:  # without the graph that only products need
                parts = self._gradient_of(rows, create_graph=False)
            total = total + _flat(parts)
        return total / self.samples

    @_quietly
    def loss_slopes(self, vector: Tensor) -> Tensor:
        """v·∇ℓ_i along ``vector`` (P,), (n,), by central differences: two forward passes, for error bars."""
        theta = torch.cat([p.detach().reshape(-1) for p in self.network.tensors])
        length = float(vector.norm())
        if not length:
            return torch.zeros_like(self.losses)
        # the step that balances rounding (eps/step) and curvature (step²)
        step = torch.finfo(self.dtype).eps ** (1 / 3) * max(float(theta.norm()), 1.0) / length
        ends = []
        with torch.no_grad():
            for sign in (1, -1):
                moved = self.network.split(theta + sign * step * vector)  # beside θ: graphs are kept of it
                values = dict(zip(self.network.names, moved, strict=True))
                outputs = [self.network.matrix(self._rows(rows), values) for rows in self.chunks]
                ends.append(self.loss_function.values(torch.cat(outputs), slice(None)))
        return (ends[0] - ends[1]) / (2 * step)

    @_quietly
    def hessian_product(self, vectors: Tensor) -> Tensor:
        """H v for the rows of ``vectors`` (k, P): (k, P)."""
        total = torch.zeros_like(vectors)
        if self.mapped is not None and len(self.chunks) > 1:
            loss = self.loss_function.loss
            parts = [(self.network, self.data.take(rows), loss, vectors) for rows in self.chunks]
            return sum(self.mapped(_sum_of_products, parts), total) / self.samples
        for index in range(len(self.chunks)):
            gradient = self._graph(index, self._gradient_of)
            live = [i for i, g in enumerate(gradient) if g.requires_grad]
            for out, vector in zip(total, vectors, strict=True):
                parts = self.network.split(vector)
                if live:  # a loss linear in θ has no second derivative
                    out += _flat(
                        torch.autograd.grad(
                            [gradient[i] for i in live],
                            self.network.tensors,
                            [parts[i] for i in live],
                            retain_graph=True,
                            materialize_grads=True,
                        )
                    )
        return total / self.samples

    @_quietly
    def gauss_newton_product(self, vectors: Tensor) -> Tensor:
        """G v for the rows of ``vectors`` (k, P): (k, P)."""
        total = torch.zeros_like(vectors)
        for index, rows in enumerate(self.chunks):
            graph = self._graph(index, self._jacobian_of)
            moved = self._moved(graph, vectors)
            tops = self.loss_function.curvature_product(self.outputs[rows], rows, moved)
            for out, top in zip(total, tops.unbind(1), strict=True):
                back = torch.autograd.grad(
                    graph[0], self.network.tensors, top, retain_graph=True, materialize_grads=True
                )
                out += _flat(back)
        return total / self.samples

    def _moved(self, graph, vectors) -> Tensor:
        """J v of one chunk, (rows, k, C): the derivative of Jᵀw in w."""
        outputs, tops, pulled = graph
        live = [i for i, g in enumerate(pulled) if g.requires_grad]
        moved = []
        for vector in vectors:
            parts = self.network.split(vector)
            (one,) = torch.autograd.grad(
                [pulled[i] for i in live], tops, [parts[i] for i in live], retain_graph=True
            )
            moved.append(one)
        return torch.stack(moved, 1) if moved else outputs.new_zeros(len(outputs), 0, outputs.shape[1])

    @_quietly
    def output_derivatives(self, vectors: Tensor) -> Tensor:
        """Derivatives of the outputs along the rows of ``vectors`` (k, P): (n, k, C)."""
        found = [self._moved(self._graph(i, self._jacobian_of), vectors) for i in range(len(self.chunks))]
        return torch.cat(found)

    @_quietly
    def pulled_squares(self, tops: Tensor) -> Tensor:
        """|Jᵢᵀ tᵢ|² for one cotangent ``tops`` (n, C) on each sample's outputs, (n,).

        Networks of convolutions and linear layers: layer by layer, at about the cost of one gradient; others
        through per-sample gradients.
        """
        parts = [self._by_layers(part, tops[part]) for part in self.chunks] if self._layerwise else [None]
        if any(part is None for part in parts):  # some samples go another way
            step = max(1, min(self.chunk, _ENTRIES // self.parameters))
            rows = [slice(i, min(i + step, self.samples)) for i in range(0, self.samples, step)]
            parts = [self._pull(part, tops[part, None])[:, 0].square().sum(1) for part in rows]
        return torch.cat(parts)

    def _by_layers(self, rows, tops):
        found, rest = layers.pulled_squares(self.network, self._rows(rows), tops), self._rest
        if found is None or not rest:
            return found
        return found + self._pull_mapped(rows, tops[:, None], rest)[:, 0].square().sum(1)

    @property
    def _rest(self):
        """Names of the parameters that are in no layer."""
        read = layers.readable(self.network)
        return () if read is None else read[1]

    @_quietly
    def pulled_gram(self, tops: Tensor) -> Tensor:
        """Inner products of Jᵢᵀ tᵢ for cotangents ``tops`` (n, c, C), (n·c, n·c).

        Networks of convolutions and linear layers: layer by layer; nothing of the size of P is formed but a
        block of one layer. What is kept of all samples is the layers' inputs and c cotangents on their
        outputs; parameters in no layer (a tenth of all at most) are mapped. Others: per-sample gradients,
        a few at a time, again and again where they do not fit.
        """
        if not self._layerwise:
            return self._gram_of_rows(tops)
        total, calls = 0.0, [layers.calls_of(self.network, self._rows(p), tops[p]) for p in self.chunks]
        for parts in zip(*calls, strict=True):
            a, deltas = (torch.cat([getattr(one, name) for one in parts]) for name in ("inputs", "deltas"))
            total = total + layers.gram(layers.Call(parts[0].module, a, deltas))
        if self._rest:
            rest = torch.cat([self._pull_mapped(p, tops[p], self._rest) for p in self.chunks]).flatten(0, 1)
            total.addmm_(rest, rest.T)
        return total

    def _gram_of_rows(self, tops):
        step = max(1, _ENTRIES // (self.parameters * tops.shape[1]))
        parts = [slice(i, min(i + step, self.samples)) for i in range(0, self.samples, step)]

        def rows(part):
            return self._pull(part, tops[part]).flatten(0, 1)

        if len(parts) == 1:
            return (found := rows(parts[0])) @ found.T
        return torch.cat(
            [torch.cat([one @ rows(q).T for q in parts], 1) for p in parts for one in (rows(p),)]
        )

    def sample_gradients(self, rows: slice = slice(None)) -> Tensor:
        """∇ℓ_i of the samples in ``rows``, (rows, P)."""
        return self.pull(rows, self.output_gradients[rows][:, None])[:, 0]

    def sample_roots(self, rows: slice = slice(None)) -> Tensor:
        """Rows Qᵀ ∂f_i/∂θ of the Gauss–Newton root, (rows, C, P)."""
        outputs = self.outputs[rows]
        units = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
        columns = units.expand(len(outputs), *units.shape)  # one column of Q for each unit vector
        return self.pull(rows, self.loss_function.root_product(outputs, rows, columns))

    @_quietly
    def pull(self, rows, tops: Tensor) -> Tensor:
        """Cotangents (rows, c, C) on the outputs of each sample, pulled back to (rows, c, P)."""
        return self._pull(rows, tops)

    def _pull(self, rows, tops):
        return self._pull_mapped(rows, tops) if self._mappable else self._pull_one_by_one(rows, tops)

    def _pull_mapped(self, rows, tops, names=None):
        """Through ``vmap``, for the parameters of these ``names``; all by default."""
        names = self.network.names if names is None else names
        held = {name: p.detach() for name, p in zip(self.network.names, self.network.tensors, strict=True)}
        values = {name: held[name] for name in names}

        def one(sample, top):
            def outputs(v):
                return self.network.matrix(mapped(lambda tensor: tensor[None], sample), held | v)[0]

            pull = vjp(outputs, values)[1]
            grads = vmap(lambda t: pull(t)[0])(top)
            return torch.cat([grads[name].flatten(1) for name in names], 1)

        with warnings.catch_warnings():  # operations without a batching rule: slower, and right
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            return vmap(one)(self._rows(rows), tops).detach()

    def _pull_one_by_one(self, rows, tops):
        found = tops.new_empty(*tops.shape[:2], self.parameters)
        positions = torch.arange(self.samples)[rows.cpu() if isinstance(rows, Tensor) else rows].tolist()
        for out, i, sample_tops in zip(found, positions, tops, strict=True):
            outputs = self.network.matrix(self._rows(slice(i, i + 1)))
            for row, top in zip(out, sample_tops, strict=True):
                row[:] = _flat(
                    torch.autograd.grad(
                        outputs[0], self.network.tensors, top, retain_graph=True, materialize_grads=True
                    )
                )
        return found

    @functools.cached_property
    def _proof(self):
        """A few samples with random cotangents, and these pulled back by plain autograd."""
        rows = slice(0, min(3, self.samples))
        generator = torch.Generator("cpu").manual_seed(0)
        shape = (rows.stop, 1, self.outputs.shape[1])
        tops = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(self.outputs)
        return rows, tops, self._pull_one_by_one(rows, tops)

    def _agrees(self, found, expected) -> bool:
        scale = expected.abs().max().clamp(min=torch.finfo(self.dtype).tiny)
        return bool((found - expected).abs().max() <= 1e4 * torch.finfo(self.dtype).eps * scale)

    @functools.cached_property
    def _mappable(self) -> bool:
        """Whether ``vmap`` of a functional call gives this module's derivatives (not those of an LSTM)."""
        rows, tops, expected = self._proof
        try:
            return self._agrees(self._pull_mapped(rows, tops), expected)
        except Exception:  # whatever an operation without a batching rule raises
            return False

    @functools.cached_property
    def _layerwise(self) -> bool:
        """Whether layers alone hold all there is to the norms (not where a weight is used elsewhere too).

        And in the order of the samples: a sample without cotangent must have none in any layer.
        """
        rows, tops, expected = self._proof
        many = slice(0, min(32, self.chunk))
        generator = torch.Generator("cpu").manual_seed(0)
        some = torch.rand(many.stop, generator=generator, device="cpu").to(self.outputs) < 0.5
        marked = some[:, None].expand(-1, self.outputs.shape[1]).to(self.outputs)
        try:
            found, placed = self._by_layers(rows, tops[:, 0]), self._by_layers(many, marked)
        except Exception:  # a layer called under no_grad or again in the backward pass, or what vmap raises
            return False
        if found is None or placed is None or bool(placed[~some].any()):
            return False
        return self._agrees(found, expected[:, 0].square().sum(1))


def _sum_of_products(part):
    network, data, loss, vectors = part
    passed = AutogradPass(network, data, loss, len(data))
    return passed.hessian_product(vectors) * len(data)


def _flat(parts) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])
