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
from flatmin.networks.passes.pieces import linear_in_each

__all__ = ["AutogradPass", "linearise"]

#: numbers in one temporary array
_ENTRIES = 2**25
#: numbers in the gradients of one parameter whose inner products are taken from them, all at once
_GRAM = 2**27
#: bytes that the graph of one chunk may take, and how many times what a forward pass saves the graph of a
#: gradient does
_BUDGET, _GRAPHS = 2**30, 6
#: bytes of the graph of the outputs up to which the first one is kept for the first who asks
_FIRST = 2**26


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
    #: whether layers give the gradients of plain autograd; None while nobody knows
    _layerwise = None

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
        few = len(self.chunks) == 1 and self.samples * self.bytes_per_sample <= _GRAPHS * _FIRST
        with torch.set_grad_enabled(few):
            whole = torch.cat([network.outputs(self._rows(part)) for part in self.chunks])
        self._first = (whole, self._versions()) if few else None
        whole = whole.detach()
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

    def _versions(self):
        return [p._version for p in self.network.tensors]

    @functools.cached_property
    @_quietly
    def linear_in_each(self) -> bool:
        """Whether the outputs are, in pieces, linear in each tensor of θ: see :mod:`~.passes.pieces`."""
        return all(linear_in_each(self.network.outputs(self._rows(part))) for part in self.chunks)

    def _outputs_of(self, rows):
        """The outputs of some samples with their graph: that of the first pass, once, where it was kept."""
        first, self._first = self._first, None
        every = isinstance(rows, slice) and rows.indices(self.samples) == (0, self.samples, 1)
        if first is not None and every and first[1] == self._versions():
            return first[0]
        return self.network.outputs(self._rows(rows))

    def _matrix_of(self, rows):
        found = self._outputs_of(rows)
        return found.reshape(len(found), -1)

    def _rows(self, rows):
        return mapped(lambda tensor: tensor[rows], self.inputs)

    def _saved_bytes(self) -> int:
        """Bytes that a forward pass keeps of one sample."""
        rows, sizes = min(2, self.samples), {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor.detach()  # an output kept with its own graph would keep both for ever

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
        outputs = self._matrix_of(rows)
        total = self.loss_function.total(outputs, rows)
        return torch.autograd.grad(
            total, self.network.tensors, create_graph=create_graph, materialize_grads=True
        )

    def _jacobian_of(self, rows):
        """(f, w, Jᵀw): the outputs, a variable of their shape, and its pull-back with its graph."""
        outputs = self._matrix_of(rows)
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
        """|Jᵢᵀ tᵢ|² for a cotangent ``tops`` (n, C) on each sample's outputs, (n,); (n, c) for c, (n, c, C).

        Parameter by parameter (:mod:`~.passes.layers`), at about the cost of one gradient; through per-sample
        gradients where the network cannot be read so.
        """
        if tops.ndim == 2:
            return self.pulled_squares(tops[:, None])[:, 0]
        reads = (self._read(part, tops[part]) for part in self.chunks)
        parts = [read and sum(share.squares() for share in read) for read in reads]
        if any(part is None for part in parts):  # some samples go another way
            step = max(1, min(self.chunk, _ENTRIES // (self.parameters * tops.shape[1])))
            rows = [slice(i, min(i + step, self.samples)) for i in range(0, self.samples, step)]
            parts = [self._pull(part, tops[part]).square().sum(2) for part in rows]
        return torch.cat(parts)

    def _read(self, rows, tops):
        """The share of each parameter in ``tops`` (rows, c, C); None where it cannot be read, or is wrong."""
        if self._layerwise is False:
            return None
        try:
            read, rest = layers.shares_of(self.network, self._outputs_of(rows), tops) or (None, ())
            if rest:
                sizes = [p.numel() for one, p in zip(read, self.network.tensors, strict=True) if one is None]
                mapped = iter(self._pull_mapped(rows, tops, rest).split(sizes, 2))
                read = [layers.Share((), next(mapped)) if one is None else one for one in read]
            if self._layerwise is None and (read is None or tops.any()):
                self._layerwise = read is not None and self._proven(read, rows, tops)
        except Exception:  # a tensor of the graph was overwritten, or what vmap raises or makes
            self._layerwise = False
        return read if self._layerwise is not False else None

    def _proven(self, read, rows, tops) -> bool:
        """Whether what was read of one sample is its gradient by plain autograd."""
        place = int(tops[:, 0].abs().sum(1).argmax())
        at = int(torch.arange(self.samples)[rows][place])
        expected = self._pull_one_by_one(slice(at, at + 1), tops[place : place + 1, :1])
        return self._agrees(self._rows_of(read, tops, slice(place, place + 1))[:, :1], expected)

    @_quietly
    def gradient_sums(self) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """|∇ℓ_i|² (n,), Σ_j ∇ℓ_j (P,) and the products of the two (n,), in one pass.

        No products (None) where not all gradients fit at once; None for a network that is not read so.
        """
        if len(self.chunks) > 1 or self.samples * self.parameters > _ENTRIES:
            return self._gradient_sums_by_chunk()
        read = self._read(self.chunks[0], self.output_gradients[:, None])
        if read is None:
            return None
        squares, slopes, sums = 0.0, 0.0, []
        for share, p in zip(read, self.network.tensors, strict=True):
            rows = share.gradients(slice(None))
            rows = self.outputs.new_zeros(self.samples, p.numel()) if rows is None else rows[:, 0]
            sums.append(rows.sum(0))
            slopes = slopes + rows @ sums[-1]
            squares = squares + (rows.square_() if share.factors else rows.square()).sum(1)
        return squares, torch.cat(sums), slopes

    def _gradient_sums_by_chunk(self):
        squares, total = [], 0.0
        for part in self.chunks:
            read = self._read(part, self.output_gradients[part][:, None])
            if read is None:
                return None
            found = [share.squares_and_total() for share in read]
            squares.append(sum(square for square, _ in found)[:, 0])
            pairs = zip(found, self.network.tensors, strict=True)
            total = total + torch.cat(
                [self.outputs.new_zeros(p.numel()) if t is None else t for (_, t), p in pairs]
            )
        return torch.cat(squares), total, None

    @_quietly
    def pulled_gram(self, tops: Tensor) -> Tensor:
        """Inner products of Jᵢᵀ tᵢ for cotangents ``tops`` (n, c, C), (n·c, n·c).

        Parameter by parameter: nothing of the size of P is formed but a block of one layer. What is kept of
        all samples is the layers' inputs and c cotangents on their outputs. Where the network cannot be read
        so: per-sample gradients, a few at a time, again and again where they do not fit.
        """
        reads = [self._read(part, tops[part]) for part in self.chunks]
        rows = tops[..., 0].numel()
        if any(read is None or any(share.whole * rows > _GRAM for share in read) for read in reads):
            return self._gram_of_rows(tops)
        total = 0.0
        for number in range(len(self.network.tensors)):
            shares = [read[number] for read in reads]
            for read in reads:
                read[number] = None  # what is added up is given back
            joined = layers.stacked(shares)
            if joined is None:
                return self._gram_of_rows(tops)
            total = total + joined.gram()
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
        read = self._read(rows, tops)
        if read is not None:
            return self._rows_of(read, tops, slice(None))
        return self._pull_mapped(rows, tops) if self._mappable else self._pull_one_by_one(rows, tops)

    def _rows_of(self, read, tops, some):
        parts = [share.gradients(some) for share in read]
        sizes, shape = [p.numel() for p in self.network.tensors], tops[some].shape[:2]
        pairs = zip(parts, sizes, strict=True)
        return torch.cat([tops.new_zeros(*shape, k) if one is None else one for one, k in pairs], 2)

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
        rows = slice(0, min(2, self.samples))
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


def _sum_of_products(part):
    network, data, loss, vectors = part
    passed = AutogradPass(network, data, loss, len(data))
    return passed.hessian_product(vectors) * len(data)


def _flat(parts) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])
