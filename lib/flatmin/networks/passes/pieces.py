"""Whether a network is linear in each of its parameters, piece by piece: then Tr H = Tr G, exactly.

The Hessian of a mean loss is G + (1/n) Σ_i Σ_c ∂ℓ_i/∂f_c ∂²f_ic/∂θ², with the Gauss–Newton matrix G. Where no
path from the parameters to the outputs meets a tensor of parameters twice, and all on the way is linear
(convolutions, linear layers, averages, skip connections, batch norm by running statistics) or linear in
pieces (ReLU, max-pool), f is linear in each single tensor, ∂²f/∂θ² has no diagonal, and H and G have the same
diagonal, so the same traces, of the whole and of each tensor (but not the same entries beside the diagonal).

The answer is read off the graph that autograd itself differentiates: a node that is in none of the lists
below, or a product of two things that depend on the same tensor (tied or recurrent weights, x·x, attention),
makes it no.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["LEAF", "linear_in_each"]

#: the name of the node of a tensor that is computed from nothing
LEAF = "torch::autograd::AccumulateGrad"

#: operations that are linear in what depends on parameters, or in pieces, or sums of such
_LINEAR = frozenset((
    "Add", "Sub", "Neg", "Sum", "Mean", "Cat", "Stack", "T", "Transpose", "Permute", "View", "UnsafeView",
    "ReshapeAlias", "Expand", "Squeeze", "Unsqueeze", "Slice", "Select", "Split", "Unbind", "Clone", "Alias",
    "Flip", "Roll", "Index", "Gather", "ConstantPadNd", "ReflectionPad1D", "ReflectionPad2D",
    "ReplicationPad1D", "ReplicationPad2D", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D",
    "AdaptiveAvgPool3D", "UpsampleNearest1D", "UpsampleNearest2D", "Embedding", "MaskedFill", "Where",
    "Relu", "LeakyRelu", "Hardtanh", "Threshold", "Abs", "Clamp", "ClampMin", "ClampMax",
    "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D", "Amax", "Max",
    "Maximum", "Minimum",
))  # fmt: skip
#: operations that are linear in each argument: which of their places must not depend on the same tensors
_PRODUCTS = {
    "Mul": (0, 1),
    "Mm": (0, 1),
    "Bmm": (0, 1),
    "Mv": (0, 1),
    "Dot": (0, 1),
    "Addmm": (1, 2),
    "Addmv": (1, 2),
    "Baddbmm": (1, 2),
    "Convolution": (0, 1),
    "PreluKernel": (0, 1),
    "NativeBatchNorm": (0, 1),
}


def linear_in_each(outputs: Tensor) -> bool:
    """Whether ``outputs`` are, in pieces, linear in each leaf tensor of their graph, the others held."""
    below: dict = {}
    todo = [outputs.grad_fn]
    while todo:
        node = todo[-1]
        if node in below:
            todo.pop()
            continue
        parts = [taken for taken, _ in node.next_functions]
        missing = [taken for taken in parts if taken is not None and taken not in below]
        if missing:
            todo += missing
            continue
        found = _leaves(node, [below.get(taken, frozenset()) for taken in parts])
        if found is None:
            return False
        below[todo.pop()] = found
    return True


def _leaves(node, parts: list[frozenset]) -> frozenset | None:
    """The tensors a node depends on, from those of its arguments; None where it is not linear in each."""
    if node.name() == LEAF:
        return frozenset([id(node.variable)])
    kind, _, version = node.name().partition("Backward")
    if not version.isdigit():  # an operation of the reader's own, with a derivative of its own
        return None
    if kind == "Div":
        return parts[0] if not any(parts[1:]) else None
    if kind == "Mul" and len(parts) == 1:  # by a number
        return parts[0]
    if kind in _PRODUCTS:
        one, other = (parts[place] for place in _PRODUCTS[kind])
        if one & other or (kind == "NativeBatchNorm" and node._saved_training):
            return None
    elif kind not in _LINEAR:
        return None
    return frozenset().union(*parts)
