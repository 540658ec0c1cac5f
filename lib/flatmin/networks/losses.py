"""Losses as functions of a network's outputs: their values, slopes and curvature, sample by sample.

``of(loss)`` reads a name, a torch loss module, or any ``callable(outputs, targets)`` that is a mean over
samples. ``of(loss).bind(outputs, targets)`` checks both once and gives the ℓ_i with L = (1/n) Σ ℓ_i, where L
is the loss as torch computes it:

- ``"square"``: ℓ = ½ |f − y|² summed over outputs (W22 §1, M22 Eq. 1). Labels become one-hot targets.
  ``nn.MSELoss`` averages over the C outputs too: its L is 2/C times that.
- ``"cross-entropy"``: ℓ = −log softmax(f)[y] of integer labels (Y23, Y26, M22 App. D).
  ``nn.CrossEntropyLoss`` with class weights, smoothing, ignored labels, class probabilities; classes along
  axis 1, (n, V, …). Torch divides by the total weight of what counts, so ℓ_i is n times sample i's share.
- ``nn.BCEWithLogitsLoss``, ``nn.HuberLoss``, ``nn.SmoothL1Loss`` (whose curvature is a step), ``nn.NLLLoss``.
- anything else by automatic differentiation in output space.

Outputs (n, *s) are flattened to (n, C). Every method of a bound loss takes the flat outputs ``f`` (r, C) of
the samples at ``rows`` (a slice or positions), so that chunks can be used; with Q Qᵀ = ∂²ℓ/∂f² of a sample:

- ``values(f, rows)`` (r,): ℓ_i, and ``total(f, rows)``: their sum; differentiable in f, the sum twice.
- ``gradient(f, rows)`` (r, C): ∂ℓ/∂f.
- ``curvature_product(f, rows, v)`` (r, k, C): (∂²ℓ/∂f²) v for v (r, k, C).
- ``root_product(f, rows, z)`` (r, k, C): Q z; ``root_transpose(f, rows, v)``: Qᵀ v.
- ``curvature_diagonal(f, rows)`` (r, C): the diagonal of ∂²ℓ/∂f².
- ``curvature_inner(f, rows, g, others)`` (r, r'): ⟨∂²ℓ_i, ∂²ℓ_j⟩ between the samples at rows and at others.

None of them forms an array (n, C, C).
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from flatmin import _check
from flatmin.networks.data.samples import leaves, mapped

__all__ = ["Bound", "Loss", "of"]

_ALL = slice(None)
#: outputs up to which a loss without a closed form gets a root, from an eigendecomposition a sample
_ROOT_OUTPUTS = 64
#: numbers in one temporary array
_ENTRIES = 2**22


class Loss:
    """A mean over samples of a loss of the outputs; made by :func:`of` from what is kept in ``given``.

    ``name`` is what it is called in messages: ``"square"``, ``"MSELoss()"``, ``"function(…)"``.
    """

    def __init__(self, name: str, given, function: Callable, kind: type[Bound]):
        self.name, self.given, self._function, self._kind = name, given, function, kind
        self._placed = function

    def __repr__(self):
        return f"Loss({self.name})"

    def __call__(self, outputs: Tensor, targets) -> Tensor:
        """The mean loss itself, one differentiable number: outputs (n, *s), targets in its own form."""
        return self.function(outputs)(outputs, targets)

    def function(self, like: Tensor) -> Callable:
        """What computes it, its own tensors (class weights) in the dtype and on the device of ``like``."""
        if not isinstance(self._function, nn.Module):
            return self._function
        own = [*self._placed.parameters(), *self._placed.buffers()]
        if any(t.device != like.device or (t.is_floating_point() and t.dtype != like.dtype) for t in own):
            self._placed = copy.deepcopy(self._function).to(like)  # the reader's module stays as it is
        return self._placed

    def targets(self, targets, outputs: int | tuple[int, ...], dtype: torch.dtype):
        """Return the targets (n, …) in the form that this loss takes, checked.

        ``outputs`` is the shape *s of one sample's outputs, ``dtype`` their type, to which real targets are
        cast. Raises ValueError for shapes or labels that do not fit, and for NaN or infinite targets.
        """
        shape = (outputs,) if isinstance(outputs, int) else tuple(outputs)
        return self._kind.fitted(self._function, targets, shape, dtype)

    def bind(self, outputs: Tensor, targets) -> Bound:
        """Fix the targets (n, …), for a callable also a tree of them, to all outputs (n, *s) of a network.

        Targets (n,) and outputs (n, 1) fit; nothing is broadcast. Raises ValueError for outputs or targets
        that are not finite or do not fit, and for a loss that is not a mean over samples: one that adds them
        up, or couples them.
        """
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point() or not outputs.ndim:
            raise _check.refused("outputs", outputs, "a tensor (n, …) of real numbers")
        if not outputs.numel():
            raise ValueError(f"outputs of shape {tuple(outputs.shape)}: must be at least one number")
        if not torch.isfinite(outputs).all():
            raise ValueError(f"outputs of shape {tuple(outputs.shape)} hold NaN or ∞: must be finite")
        outputs = outputs.detach()
        targets = self.targets(targets, tuple(outputs.shape[1:]), outputs.dtype)
        for leaf in leaves(targets):
            if len(leaf) != len(outputs):
                raise ValueError(f"targets: {len(leaf)} rows, must be {len(outputs)}, one an output")
        bound = self._kind(self, outputs, targets)
        bound.verify(outputs.reshape(bound.samples, bound.columns))
        return bound

    @property
    def saturates(self) -> bool:
        """Whether ∂ℓ/∂f is a difference p − 1 that good fits make small: cross-entropy."""
        return self._kind is _CrossEntropy

    def apart(self, targets) -> bool:
        """Whether a sample's share of L is a loss of its own, whatever the other ``targets``.

        Torch's cross-entropy divides by the weight of all labels that count: there it is not where labels
        have weights, or some are ignored.
        """
        if self._kind is not _CrossEntropy or isinstance(self.given, str):
            return True
        if getattr(self.given, "weight", None) is not None:
            return False
        return not (isinstance(targets, Tensor) and bool((targets == _ignored(self.given)).any()))

    def require_apart(self, targets, why: str) -> None:
        """Raise ValueError, with ``why`` it matters, unless :meth:`apart`."""
        if not self.apart(targets):
            raise ValueError(f"loss={self.name}: must not weigh or ignore labels {why}")

    def total(self, outputs: Tensor, targets) -> Tensor:
        """B L of a batch of outputs (B, *s), differentiable: what training steps along."""
        if self.closed(outputs.shape[1:]):
            return _VALUES[self.given](outputs, targets).sum()
        return len(outputs) * self(outputs, targets)

    def totals(self, outputs: Tensor, targets) -> Tensor:
        """B L_r of R batches at once, (R,): outputs (R, B, *s), targets (R, B, …) as fitted."""
        if self.closed(outputs.shape[2:]):
            return _VALUES[self.given](outputs, targets).sum(1)
        batches = (self(one, mapped(lambda y, r=r: y[r], targets)) for r, one in enumerate(outputs))
        return outputs.shape[1] * torch.stack(list(batches))

    def slopes(self, outputs: Tensor, targets) -> Tensor:
        """∂(B L_r)/∂f of R batches at once, (R, B, *s): outputs (R, B, *s), targets (R, B, …) as fitted."""
        if self.closed(outputs.shape[2:]):
            return _SLOPES[self.given](outputs, targets)
        with torch.enable_grad():
            f = outputs.detach().requires_grad_()
            total = sum(self(one, mapped(lambda y, r=r: y[r], targets)) for r, one in enumerate(f))
            return torch.autograd.grad(f.shape[1] * total, f)[0]

    def closed(self, shape) -> bool:
        """Whether :meth:`total` is Σ ℓ_i in closed form, for outputs of one sample of this shape."""
        return isinstance(self.given, str) and len(shape) == 1


def _likelihood(outputs, targets):
    return torch.logsumexp(outputs, -1) - outputs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _likelihood_slope(outputs, targets):
    slopes, index = torch.softmax(outputs, -1), targets.unsqueeze(-1)
    return slopes.scatter_add(-1, index, slopes.new_full((1,), -1.0).expand(index.shape))


#: ℓ (…, n) and ∂ℓ/∂f (…, n, C) of the losses by name, for outputs (…, n, C)
_VALUES = {"square": lambda f, y: 0.5 * (f - y).square().sum(-1), "cross-entropy": _likelihood}
_SLOPES = {"square": lambda f, y: f - y, "cross-entropy": _likelihood_slope}


class Bound:
    """A loss with its targets; made by :meth:`Loss.bind`. Its methods: see the module's first lines.

    ``samples`` n, ``columns`` C, ``shape`` *s of one sample's outputs, ``targets`` in the form that the loss
    takes, all n. ``convex``: whether it is known that ∂²ℓ/∂f² has a root; the losses without a closed form
    find out when asked.
    """

    convex = False

    def __init__(self, loss: Loss, outputs: Tensor, targets):
        self.loss, self.name, self.targets = loss, loss.name, targets
        self.samples, self.shape = len(outputs), tuple(outputs.shape[1:])
        self.columns = math.prod(self.shape)
        self._function = loss.function(outputs)
        self._prepare(outputs)

    def _prepare(self, outputs: Tensor) -> None:
        """Work out what depends on the targets alone."""

    def total(self, f: Tensor, rows=_ALL) -> Tensor:
        """Σ ℓ_i over the rows, one differentiable number."""
        return self.values(f, rows).sum()

    def root_transpose(self, f: Tensor, rows, vectors: Tensor) -> Tensor:
        """Qᵀ v; the roots with another transpose have their own."""
        return self.root_product(f, rows, vectors)

    def curvature(self, f: Tensor, rows=_ALL) -> Tensor:
        """∂²ℓ/∂f² itself, (r, C, C): for few outputs or few rows."""
        unit = torch.eye(self.columns, dtype=f.dtype, device=f.device)
        return self.curvature_product(f, rows, unit.expand(len(f), -1, -1))

    def verify(self, f: Tensor) -> None:
        """Refuse a loss that is not the mean of its ℓ_i; outputs f (n, C)."""
        with torch.no_grad():
            whole = float(self._function(f.reshape(-1, *self.shape), self.targets))
            values = self.values(f).double()
        if not math.isfinite(whole):
            raise ValueError(f"loss={self.name} is {whole} at these outputs: must be finite")
        mean, size = float(values.mean()), float(values.abs().mean()) + 1
        # sums by halves: log2 of their length roundings, a few more in each term
        eps = 16 * torch.finfo(f.dtype).eps * (4 + math.log2(f.numel() + 1))
        if abs(whole - mean) > eps * size:  # large outputs whose losses are small are known to less
            size += float((self.gradient(f) * f).abs().sum()) / self.samples
        if abs(whole - mean) <= eps * size:
            return
        found = f"loss={self.name}: {whole:.6g} is not the mean {mean:.6g} of its samples' losses"
        if abs(whole - float(values.sum())) <= self.samples * eps * size:
            raise ValueError(f"{found} but their sum: must be divided by the number of samples")
        raise ValueError(
            f"{found}: must be a mean over samples that do not act on each other (no batch statistics, no "
            "contrast between samples, no broadcast); for ignored or weighted labels give nn.CrossEntropyLoss"
        )


class _Elementwise(Bound):
    """ℓ = Σ_c w_c φ(f_c, y_c): every matrix is diagonal. Subclasses give φ, φ′, φ″ and the weights."""

    weights: float | Tensor = 1.0

    @staticmethod
    def fitted(module, targets, shape, dtype):
        targets = _tensor(targets)
        wanted = (len(targets), *shape)
        if targets.is_complex() or not _same_shape(tuple(targets.shape), wanted):
            raise ValueError(_misfit(targets, wanted))
        return _finite(targets.to(dtype).reshape(wanted))

    def _weight(self, rows):
        return self.weights[rows] if isinstance(self.weights, Tensor) else self.weights

    def _of(self, rows):
        return self.targets[rows].reshape(-1, self.columns)

    def values(self, f, rows=_ALL):
        """Σ_c w_c φ(f_c, y_c)."""
        return (self._weight(rows) * self._phi(f, self._of(rows), rows)).sum(-1)

    def gradient(self, f, rows=_ALL):
        """w φ′."""
        return self._weight(rows) * self._slope(f, self._of(rows), rows)

    def curvature_diagonal(self, f, rows=_ALL):
        """w φ″."""
        return self._weight(rows) * self._bend(f, self._of(rows), rows)

    def curvature_product(self, f, rows, vectors):
        """w φ″ ∘ v."""
        return self.curvature_diagonal(f, rows)[:, None] * vectors

    def root_product(self, f, rows, vectors):
        """√(w φ″) ∘ z."""
        return _root_of(self.curvature_diagonal(f, rows), self.name)[:, None] * vectors

    def curvature_inner(self, f, rows, g, others):
        """Products of the diagonals."""
        return self.curvature_diagonal(f, rows) @ self.curvature_diagonal(g, others).T


class _Square(_Elementwise):
    @staticmethod
    def fitted(module, targets, shape, dtype):
        targets = _tensor(targets)
        if targets.is_floating_point() or targets.is_complex():
            return _Elementwise.fitted(module, targets, shape, dtype)
        if math.prod(shape) == 1:
            raise ValueError(
                "targets are class labels but the network has one output: must be real numbers for the "
                "square loss, or ±1 as Data.parity() makes them"
            )
        if targets.ndim != 1 or len(shape) != 1:
            raise ValueError(_misfit(targets, (len(targets), *shape)))
        _require_labels(targets, shape[0])
        return functional.one_hot(targets.long(), shape[0]).to(dtype)

    convex = True

    def _phi(self, f, y, rows):
        return 0.5 * (f - y).square()

    def _slope(self, f, y, rows):
        return f - y

    def _bend(self, f, y, rows):
        return torch.ones_like(f)

    def curvature_product(self, f, rows, vectors):
        """The vectors themselves, times the weight."""
        return vectors if self.weights == 1 else self.weights * vectors

    def root_product(self, f, rows, vectors):
        """The vectors themselves, times the root of the weight."""
        return vectors if self.weights == 1 else self.weights**0.5 * vectors


class _MeanSquare(_Square):
    fitted = staticmethod(_Elementwise.fitted)

    def _prepare(self, outputs):
        self.weights = 2 / self.columns


class _Logistic(_Elementwise):
    """ℓ = (1/C) Σ w [(1 − y) f + (1 + (p − 1) y) log(1 + e^{−f})], p the weight of positive targets."""

    def _prepare(self, outputs):
        def whole(tensor):
            try:
                return tensor.to(outputs).expand(outputs.shape).reshape(self.samples, -1)
            except RuntimeError:
                weights = f"weights of shape {tuple(tensor.shape)}"
                told = f"loss={self.name}: its {weights} must fit outputs {tuple(outputs.shape)}"
                raise ValueError(told) from None

        given = self.loss.given
        self.weights = (1 if given.weight is None else whole(given.weight)) / self.columns
        self._extra = None if given.pos_weight is None else whole(given.pos_weight) - 1
        positive = self._positive(self._of(_ALL), _ALL) * self.weights
        self.convex = bool((positive >= 0).all())

    def _positive(self, y, rows):
        return torch.ones_like(y) if self._extra is None else 1 + self._extra[rows] * y

    def _phi(self, f, y, rows):
        return (1 - y) * f - self._positive(y, rows) * functional.logsigmoid(f)

    def _slope(self, f, y, rows):
        return 1 - y - self._positive(y, rows) * torch.sigmoid(-f)

    def _bend(self, f, y, rows):
        return self._positive(y, rows) * torch.sigmoid(f) * torch.sigmoid(-f)


class _Huber(_Elementwise):
    """ℓ = (s/C) Σ of ½ d² for |d| < δ, else δ (|d| − δ/2), d = f − y; s = 1 for Huber, 1/δ for smooth L1.

    The curvature is a step: s/C within δ, 0 beyond.
    """

    convex = True

    def _prepare(self, outputs):
        given = self.loss.given
        huber = isinstance(given, nn.HuberLoss)
        self._delta = float(given.delta if huber else given.beta)
        self.weights = 1 / self.columns if huber or self._delta == 0 else 1 / self._delta / self.columns

    def _phi(self, f, y, rows):
        size = (f - y).abs()
        if self._delta == 0:  # smooth L1 with β = 0: |d|
            return size
        outside = self._delta * (size - self._delta / 2)
        return torch.where(size < self._delta, 0.5 * (f - y).square(), outside)

    def _slope(self, f, y, rows):
        return (f - y).sign() if self._delta == 0 else (f - y).clamp(-self._delta, self._delta)

    def _bend(self, f, y, rows):
        return ((f - y).abs() < self._delta).to(f.dtype)


class _CrossEntropy(Bound):
    """ℓ = −Σ_tv q_tv log p_tv with softmax p over the V classes of each of T positions, and weights q ≥ 0.

    Class weights, smoothing, ignored labels and torch's mean are all in q (n, V, T). With m_t = Σ_v q_tv
    the second derivative is m (diag p − p pᵀ) at each position, and Q = √m (diag √p − p √pᵀ) its root:
    Q Qᵀ/m = diag p − 2 p pᵀ + p (√pᵀ√p) pᵀ.
    """

    @staticmethod
    def fitted(module, targets, shape, dtype):
        targets = _tensor(targets)
        if not shape:
            raise ValueError("outputs of shape (n,): must be (n, classes, …) for labels")
        labels = (len(targets), *shape[1:])
        likely = isinstance(module, nn.CrossEntropyLoss) and targets.is_floating_point()
        if likely and tuple(targets.shape) == (len(targets), *shape):
            return _finite(targets.to(dtype))
        whole = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
        if not whole or tuple(targets.shape) != labels:
            raise ValueError(f"{_misfit(targets, labels)}, integer labels with classes along axis 1")
        _require_labels(targets[targets != _ignored(module)], shape[0])
        return targets.long()

    def _prepare(self, outputs):
        module, (classes, *rest), n = self.loss.given, self.shape, self.samples
        weight, smooth = getattr(module, "weight", None), float(getattr(module, "label_smoothing", 0.0))
        if weight is None:
            weight = outputs.new_ones(classes)
        elif tuple(weight.shape) != (classes,):
            raise ValueError(f"loss={self.name}: weight must be one for each of {classes} classes")
        weight, self._memo = weight.detach().to(outputs), None
        if self.targets.is_floating_point():
            likely = (1 - smooth) * self.targets.reshape(n, classes, -1) + smooth / classes
            self._q = 1 / math.prod(rest) * weight[:, None] * likely
        else:
            valid = self.targets != _ignored(module)
            labels, counts = (
                self.targets.where(valid, 0).reshape(n, 1, -1),
                valid.to(outputs).reshape(n, 1, -1),
            )
            each = weight[labels] * counts
            total = float(each.double().sum())  # what torch divides by: the weight of all that counts
            if not total > 0:
                raise ValueError(f"targets: every label is ignored by loss={self.name} or weighs nothing")
            each, counts = each * (n / total), counts * (n / total)
            self._q = outputs.new_zeros(n, classes, math.prod(rest)).scatter_(1, labels, (1 - smooth) * each)
            if smooth:
                self._q += smooth / classes * weight[:, None] * counts
        mass = self._q.sum(1, keepdim=True)
        self._mass, self.convex = None if bool((mass == 1).all()) else mass, bool((mass >= 0).all())

    def _cube(self, f):
        return f.reshape(len(f), self.shape[0], -1)

    def _p(self, f):
        """Softmax (r, V, T), kept for the next call with the same outputs: products come by the hundred."""
        if self._memo is None or self._memo[0] is not f or self._memo[1] != f._version:
            p = torch.softmax(self._cube(f), 1)
            if f.requires_grad:
                return p
            self._memo = f, f._version, p
        return self._memo[2]

    def values(self, f, rows=_ALL):
        """−Σ q log p."""
        return -(self._q[rows] * torch.log_softmax(self._cube(f), 1)).sum((1, 2))

    def gradient(self, f, rows=_ALL):
        """m p − q."""
        p = self._p(f)
        return ((p if self._mass is None else self._mass[rows] * p) - self._q[rows]).flatten(1)

    def _scaled(self, moved, rows, root):
        """Times m, or √m, at each position, in place; (r, k, V, T) as (r, k, C)."""
        if self._mass is not None:
            mass = self._mass[rows]
            moved *= (_root_of(mass, self.name) if root else mass)[:, None]
        return moved.flatten(2)

    def curvature_product(self, f, rows, vectors):
        """m (p ∘ v − p (p·v)) at each position."""
        p = self._p(f)[:, None]
        weighted = p * vectors.reshape(len(f), -1, *p.shape[2:])
        weighted.addcmul_(p, weighted.sum(2, keepdim=True), value=-1)
        return self._scaled(weighted, rows, root=False)

    def root_product(self, f, rows, vectors):
        """√m (√p ∘ z − p (√p·z))."""
        p = self._p(f)[:, None]
        weighted = p.sqrt() * vectors.reshape(len(f), -1, *p.shape[2:])
        weighted.addcmul_(p, weighted.sum(2, keepdim=True), value=-1)
        return self._scaled(weighted, rows, root=True)

    def root_transpose(self, f, rows, vectors):
        """√m (√p ∘ v − √p (p·v))."""
        p = self._p(f)[:, None]
        vectors = vectors.reshape(len(f), -1, *p.shape[2:])
        moved = vectors - (p * vectors).sum(2, keepdim=True)
        moved *= p.sqrt()
        return self._scaled(moved, rows, root=True)

    def curvature_diagonal(self, f, rows=_ALL):
        """m p (1 − p)."""
        p = self._p(f)
        return (p * (1 - p) if self._mass is None else self._mass[rows] * p * (1 - p)).flatten(1)

    def curvature_inner(self, f, rows, g, others):
        """m m' [Σ p p' − Σ p p'² − Σ p² p' + (p·p')²], summed over positions."""
        total = f.new_zeros(len(f), len(g))
        p, r = self._p(f).clone(), torch.softmax(self._cube(g), 1)
        masses = None if self._mass is None else (self._mass[rows], self._mass[others])
        for t in range(p.shape[2]):
            one, other = p[:, :, t], r[:, :, t]
            both = one @ other.T
            part = both + both.square() - one @ other.square().T - one.square() @ other.T
            if masses is not None:
                part *= masses[0][:, :, t] * masses[1][:, :, t].T
            total += part
        return total


class _LogLikelihood(_CrossEntropy):
    """ℓ = −Σ q f: outputs that are log-probabilities already; no curvature in output space."""

    def values(self, f, rows=_ALL):
        """−Σ q f."""
        return -(self._q[rows] * self._cube(f)).sum((1, 2))

    def gradient(self, f, rows=_ALL):
        """−q."""
        return -self._q[rows].flatten(1)

    def curvature_product(self, f, rows, vectors):
        return torch.zeros_like(vectors)

    root_product = root_transpose = curvature_product

    def curvature_diagonal(self, f, rows=_ALL):
        return torch.zeros_like(f)

    def curvature_inner(self, f, rows, g, others):
        return f.new_zeros(len(f), len(g))


class _Generic(Bound):
    """Any mean over samples, by automatic differentiation in output space.

    For r samples Σ ℓ_i is r times the loss of these samples, so one backward pass gives every sample's
    gradient, and one more a product with every sample's second derivative.
    """

    @staticmethod
    def fitted(module, targets, shape, dtype):
        if not leaves(targets):
            raise _check.refused("targets", targets, "at least one tensor")
        targets = mapped(lambda leaf: _finite(_tensor(leaf)), targets)
        real = isinstance(targets, Tensor) and targets.is_floating_point()
        return targets.to(dtype) if real else targets

    def total(self, f, rows=_ALL):
        """r L of the r samples at ``rows``."""
        return len(f) * self._function(f.reshape(-1, *self.shape), _rows(self.targets, rows))

    def values(self, f, rows=_ALL):
        """Loss of each sample alone."""

        def alone(one, target):
            return self._function(one.reshape(1, *self.shape), _rows(target, None))

        targets = _rows(self.targets, rows)
        if isinstance(targets, Tensor):
            try:
                with warnings.catch_warnings():  # operations without a batching rule: slower, and right
                    warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
                    return torch.vmap(alone)(f, targets)
            except Exception:
                pass  # what vmap cannot read, one by one; a fault of the loss itself comes again there
        return torch.stack([alone(one, _rows(targets, i)) for i, one in enumerate(f)])

    def verify(self, f):
        """Refuse what fails, returns no number, or is not the mean of its samples' losses."""
        try:
            with torch.no_grad():
                found = self._function(f.reshape(-1, *self.shape), self.targets)
        except Exception as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            outputs = (self.samples, *self.shape)
            raise ValueError(f"loss={self.name} fails on outputs {outputs} and targets: {why}") from error
        if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
            told = f"loss={self.name} gives {_check.shown(found)}: must be one number, a mean over samples"
            raise ValueError(told)
        super().verify(f)
        together = self.gradient(f)[:2]
        apart = torch.cat([self.gradient(f[i : i + 1], slice(i, i + 1)) for i in range(len(together))])
        bound = 1e3 * torch.finfo(f.dtype).eps * (1 + float(together.abs().max()))
        if not float((apart - together).abs().max()) <= bound:
            raise ValueError(
                f"loss={self.name}: a sample's slope depends on the other samples: must be a mean over "
                "samples that do not act on each other"
            )

    def _graph(self, f, rows):
        with torch.enable_grad():
            f = f.detach().requires_grad_()
            total = self.total(f, rows)
            if not total.requires_grad:
                raise ValueError(f"loss={self.name} has no gradient: must be computed by torch alone")
            return f, torch.autograd.grad(total, f, create_graph=True)[0]

    def gradient(self, f, rows=_ALL):
        """∂ℓ/∂f by one backward pass."""
        return self._graph(f, rows)[1].detach()

    def curvature_product(self, f, rows, vectors):
        """(∂²ℓ/∂f²) v, one backward pass a column."""
        f, slope = self._graph(f, rows)
        if not slope.requires_grad:  # linear in the outputs
            return torch.zeros_like(vectors)

        def one(column):
            return torch.autograd.grad(slope, f, column, retain_graph=True, materialize_grads=True)[0]

        return torch.stack([one(column) for column in vectors.unbind(1)], 1)

    def curvature_diagonal(self, f, rows=_ALL):
        """Diagonal, a few unit columns at a time; one product where every output stands for itself."""
        if type(self.loss.given) in _ONE_BY_ONE:
            return self.curvature_product(f, rows, torch.ones_like(f)[:, None])[:, 0]
        found, unit = torch.empty_like(f), torch.zeros_like(f)
        for column in range(self.columns):
            unit[:, column] = 1
            found[:, column] = self.curvature_product(f, rows, unit[:, None])[:, 0, column]
            unit[:, column] = 0
        return found

    def root_product(self, f, rows, vectors):
        """U √Λ Uᵀ z of each sample's eigenvectors U and eigenvalues Λ: symmetric, its own transpose."""
        if type(self.loss.given) in _ONE_BY_ONE:
            return _root_of(self.curvature_diagonal(f, rows), self.name)[:, None] * vectors
        found = []
        for part, dense in self._dense(f, rows):
            values, basis = torch.linalg.eigh(dense)
            roots = _root_of(values, self.name)
            # below rounding it is 0: √ would make much of it
            none = values <= 16 * self.columns * torch.finfo(f.dtype).eps * values[:, -1:].abs()
            root = basis * roots.masked_fill(none, 0)[:, None] @ basis.mT
            found.append(vectors[part] @ root)
        return torch.cat(found)

    def curvature_inner(self, f, rows, g, others):
        """⟨∂²ℓ_i, ∂²ℓ_j⟩ from the matrices themselves, or from their diagonals where they are diagonal."""
        if type(self.loss.given) in _ONE_BY_ONE:
            return self.curvature_diagonal(f, rows) @ self.curvature_diagonal(g, others).T
        right = [(part, dense.flatten(1)) for part, dense in self._dense(g, others)]
        found = f.new_empty(len(f), len(g))
        for part, dense in self._dense(f, rows):
            for other, flat in right:
                found[part, other] = dense.flatten(1) @ flat.T
        return found

    def _dense(self, f, rows):
        """Yield chunks of samples and their symmetric ∂²ℓ/∂f²."""
        if self.columns > _ROOT_OUTPUTS:
            raise ValueError(
                f"loss={self.name} has no closed form: with {self.columns} outputs it has no "
                f"Gauss–Newton root: must be at most {_ROOT_OUTPUTS}; products are not bounded"
            )
        index = torch.arange(self.samples, device=f.device)[rows]
        step = max(1, _ENTRIES // self.columns**2)
        for start in range(0, len(f), step):
            part = slice(start, start + step)
            dense = self.curvature(f[part], index[part])
            yield part, (dense + dense.mT) / 2


#: modules without a closed form here whose loss is a sum over outputs, one by one
_ONE_BY_ONE = (nn.L1Loss, nn.PoissonNLLLoss, nn.KLDivLoss, nn.BCELoss, nn.SoftMarginLoss)
_CLOSED = {
    nn.MSELoss: _MeanSquare,
    nn.CrossEntropyLoss: _CrossEntropy,
    nn.NLLLoss: _LogLikelihood,
    nn.BCEWithLogitsLoss: _Logistic,
    nn.HuberLoss: _Huber,
    nn.SmoothL1Loss: _Huber,
}
_FUNCTIONS = {
    functional.mse_loss: nn.MSELoss,
    functional.cross_entropy: nn.CrossEntropyLoss,
    functional.nll_loss: nn.NLLLoss,
    functional.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    functional.huber_loss: nn.HuberLoss,
    functional.smooth_l1_loss: nn.SmoothL1Loss,
}


def _half_square(outputs, targets):
    return 0.5 * (outputs - targets.reshape(outputs.shape)).square().sum() / len(outputs)


_LOSSES = {
    "square": Loss("square", "square", _half_square, _Square),
    "cross-entropy": Loss("cross-entropy", "cross-entropy", functional.cross_entropy, _CrossEntropy),
}


def of(loss: str | nn.Module | Callable | Loss) -> Loss:
    """Read a loss.

    That is ``"square"``, ``"cross-entropy"``, a torch loss module with ``reduction="mean"``, or a function of
    (outputs, targets) that returns the mean over samples as a torch number. Raises ValueError for another
    name, a class in place of a module, another reduction, or something that is no function.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        return _LOSSES[_check.choice("loss", loss, _LOSSES)]
    if isinstance(loss, type) or not callable(loss):
        names = ", ".join(map(repr, _LOSSES))
        allowed = f"one of {names}, a loss module (torch.nn.MSELoss()) or a function of (outputs, targets)"
        raise _check.refused("loss", loss, allowed)
    if not isinstance(loss, nn.Module) and inspect.isfunction(loss) and loss in _FUNCTIONS:
        loss = _FUNCTIONS[loss]()
    if not isinstance(loss, nn.Module):
        return Loss(f"{getattr(loss, '__qualname__', type(loss).__qualname__)}(…)", loss, loss, _Generic)
    name, reduction = type(loss).__name__, getattr(loss, "reduction", "mean")
    if reduction not in ("mean", "batchmean"):
        raise ValueError(
            f"loss={name}(reduction={reduction!r}): must be a mean over samples, {name}(reduction='mean')"
        )
    return Loss(f"{name}()", loss, loss, _CLOSED.get(type(loss), _Generic))


def _require_labels(labels, classes):
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise ValueError(
            f"targets: labels run to {int(labels.max())} from {int(labels.min())}; labels must lie in "
            f"0…{classes - 1} for {classes} outputs"
        )


def _ignored(module) -> int:
    return getattr(module, "ignore_index", -100)


def _tensor(targets) -> Tensor:
    if not isinstance(targets, Tensor) or targets.ndim == 0:
        raise _check.refused("targets", targets, "a tensor with one row a sample")
    return targets


def _finite(targets: Tensor) -> Tensor:
    if targets.is_floating_point() and not torch.isfinite(targets).all():
        raise ValueError(f"targets of shape {tuple(targets.shape)} hold NaN or ∞: must be finite")
    return targets


def _same_shape(one, other) -> bool:
    """Whether shapes agree; (n,) and (n, 1) do."""
    return one == other or (one[0] == other[0] and {one[1:], other[1:]} == {(), (1,)})


def _misfit(targets, wanted) -> str:
    columns = f" ({targets.shape[1]} columns)" if targets.ndim == 2 else ""
    return f"targets of {targets.dtype}, shape {tuple(targets.shape)}{columns}, do not fit: must be {wanted}"


def _root_of(diagonal: Tensor, name: str) -> Tensor:
    """√ of what must not be negative but by rounding: ``diagonal`` (r, C) or (r, 1, T)."""
    least, largest = float(diagonal.min()), float(diagonal.abs().max())
    if not least >= -16 * diagonal.shape[-1] * torch.finfo(diagonal.dtype).eps * largest:
        raise ValueError(
            f"loss={name}: Gauss–Newton root not defined for this loss, its curvature in the outputs is "
            f"negative somewhere ({least:.3g}): must be convex in the outputs; products are defined"
        )
    return diagonal.clamp(min=0).sqrt()


def _rows(tree, rows):
    return mapped(lambda leaf: leaf[rows], tree)
