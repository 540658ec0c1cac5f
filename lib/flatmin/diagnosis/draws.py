"""What numbers on m samples, drawn of n without replacement, leave to the draw: their errors and bias.

*Jackknife by groups* (Busing, Meijer & van der Leeden 1999). The m samples are split at random into groups of
s_g; what depends on means over samples is found again from the means without one group. With h = m/s_g, θ the
number and θ_g that without the group, its bias is Σ (1 − 1/h)θ_g − (G − 1)θ and its variance
(1/G) Σ (hθ − (h − 1)θ_g − θ̃)²/(h − 1), θ̃ = θ − bias. Both are of a draw from infinitely many samples; from n
they are 1 − m/n of that, to first order: both go as 1/m − 1/n. One product with each group's Hessian, of all
vectors asked about, is enough.

*Eigenvalues.* v_jᵀH_gv_j says how λ_j moves, to first order. Two levels d apart that the draw couples by s
are pushed apart to D = (d² + 4s²)^½ on average (exact for two), so of the D that is seen, D − (D² − 4s²)^½ is
the draw's, half of it each; s² = E|v_jᵀΔHv_l|² follows from the groups. The many unknown levels are hardly
pushed themselves: they lift λ_j by s²/D (its secular equation), s² = E|r|² of r = (1 − VVᵀ)ΔHv_j, their level
the Rayleigh quotient of r, found by one product with Σ ±r_g. So λ₁ of few samples is high and λ_min low, and
that is taken off.

*Edges.* 1/η* = ⟨S, MS⟩/⟨S, AS⟩ is stationary in the second moment S of the edge (A, M as in
:mod:`flatmin.theory.stability.minimum`, both self-adjoint), and so is ρ. So only what a sample puts into A
and M counts: a_i = 2 Tr(S²G_i) and b_i = 2(1 − c) Tr(SGSG_i) + c Tr(SG_iSG_i), to first order; ρ gets
η²b_i − ηa_i for Tr S² = 1. η* of few samples is low: how much is told by that of halves of them.

*What none of this sees*: samples that were not drawn. Where a few of all carry a number (cross-entropy, when
most samples are learnt), most draws miss them: it comes out small, η* large, and the error too small.
"""

from __future__ import annotations

import numpy as np
import torch

from flatmin.networks.curvature import signs_like
from flatmin.networks.point import Point
from flatmin.theory.stability.minimum import Minimum

__all__ = ["Draw", "influences", "lowered"]

#: groups of samples; probes whose products with H and with each group's are compared, and bytes of these
_GROUPS, PROBES, _BYTES = 32, 16, 2**28


class Draw:
    """The samples of the point ``here`` as drawn of ``of``: groups, errors, bias (see the module's text)."""

    def __init__(self, here, of: int, seed: int):
        self.here, self.rest = here, 1 - here.samples / of
        order = torch.from_numpy(np.random.default_rng(seed).permutation(here.samples))
        self.rows = order.tensor_split(min(_GROUPS, here.samples))
        self.sizes = np.array([len(rows) for rows in self.rows])

    def points(self):
        """The point on each group of samples."""
        here = self.here
        for rows in self.rows:
            yield Point(here.network, here.loss_function, here.data.take(rows), here.chunk)

    def without(self, whole, parts):
        """Means over the samples without each group, (G, …), from the mean and those of the groups."""
        sizes = self.sizes.reshape(-1, *[1] * (np.ndim(parts) - 1))
        m = self.here.samples
        return (m * np.asarray(whole) - sizes * parts) / (m - sizes)

    def jackknife(self, whole, without):
        """Bias and standard error of the ``whole`` number(s), from those ``without`` each group (G, …)."""
        h = (self.here.samples / self.sizes).reshape(-1, *[1] * (np.ndim(without) - 1))
        bias = ((1 - 1 / h) * without).sum(0) - (len(self.sizes) - 1) * whole
        pseudo = h * whole - (h - 1) * without
        variance = (np.square(pseudo - (whole - bias)) / (h - 1)).mean(0)
        return self.rest * bias, (self.rest * variance) ** 0.5

    def spread(self, shares) -> float:
        """Standard error of the mean of each sample's ``shares`` (m,)."""
        shares = np.asarray(shares, float)
        return float((self.rest / len(shares)) ** 0.5 * np.std(shares, ddof=1))

    def eigenvalues(self, values, vectors, block: slice):
        """v_jᵀH_gv_j of each group (G, k), and how much too far out the eigenvalues lie, (k,).

        ``values`` (k,), from one end, with ``vectors`` (block, k) of the block's Hessian.
        """
        here, inner, beyond = self.here, [], []
        rows = torch.zeros(vectors.shape[1], here.parameters, dtype=here.dtype, device=here.device)
        rows[:, block] = vectors.T.to(rows)
        signs, mixed = np.random.default_rng(0).choice([-1.0, 1.0], len(self.rows)), torch.zeros_like(rows)
        for sign, point in zip(signs, self.points(), strict=True):
            moved = point.passed.hessian_product(rows)
            along = moved[:, block] @ rows[:, block].T
            moved = moved - along @ rows
            mixed[:, block] += sign * moved[:, block]
            inner.append(((along + along.T) / 2).double().cpu().numpy())
            beyond.append(moved[:, block].double().square().sum(1).cpu().numpy())
        inner, h = np.array(inner), here.samples / self.sizes
        lengths = mixed.double().square().sum(1).clamp(min=1e-300)
        level = ((here.passed.hessian_product(mixed) * mixed).double().sum(1) / lengths).cpu().numpy()
        coupled = self.rest * (np.square(inner) / (h - 1)[:, None, None]).mean(0)
        apart = values[:, None] - values
        pushed = (np.abs(apart) - np.sqrt(np.maximum(apart**2 - 4 * coupled, 0))) / 2
        square, far = self.rest * (np.array(beyond) / (h - 1)[:, None]).mean(0), values - level
        lifted = np.sign(far) * np.minimum(square / np.maximum(np.abs(far), 1e-300), square**0.5)
        return inner[:, range(len(values)), range(len(values))], (np.sign(apart) * pushed).sum(1) + lifted

    def moments(self, probes: int, seed: int):
        """(z ∘ H_gz) by parameter (G, layers), |H|² without each group over |H|² (G,), and by how much the
        scatter of the latter is too large because the signs z are few."""
        here = self.here
        probes = int(max(2, min(probes, PROBES, _BYTES // (8 * here.parameters))))
        generator = torch.Generator("cpu").manual_seed(seed)
        signs = signs_like(here.passed.outputs, (probes, here.parameters), generator)
        whole = here.passed.hessian_product(signs)
        total, blocks = float(whole.double().square().sum()), [here.block(name) for name in here.names]
        layers, squares, crossed, m = [], [], [], here.samples
        for size, point in zip(self.sizes, self.points(), strict=True):
            moved = point.passed.hessian_product(signs)
            shares = (signs * moved).double().sum(0)
            layers.append([float(shares[block].sum()) / probes for block in blocks])
            crossed.append((whole * moved).double().sum(1).cpu().numpy())
            both, own = m * size * crossed[-1].sum(), float(moved.double().square().sum())
            squares.append((m**2 * total - 2 * both + size**2 * own) / (m - size) ** 2 / total)
        crossed = np.array(crossed)
        rest = crossed - crossed.mean(0) - crossed.mean(1, keepdims=True) + crossed.mean()
        within = np.square(rest).sum() / ((len(rest) - 1) * (probes - 1)) / probes
        shrink = max(0.4, 1 - within / max(crossed.mean(1).var(ddof=1), 1e-300)) ** 0.5
        return np.array(layers), np.array(squares), shrink


def influences(minimum: Minimum, moment: np.ndarray, c: float):
    """a_i, b_i (see the module's text) and Tr(SG_iSG_i) − Tr(SGSG_i), each (n,), of S = ``moment`` (r, r)."""
    roots = minimum.roots
    moved = roots @ moment
    own = np.square(moved @ roots.transpose(0, 2, 1)).sum((1, 2))
    through = ((roots @ (moment * minimum.eigenvalues @ moment)) * roots).sum((1, 2))
    return 2 * np.square(moved).sum((1, 2)), 2 * (1 - c) * through + c * own, own - through


def lowered(minimum: Minimum, step, batch_size: int, seed: int) -> float:
    """By how much ``step`` (a function of a minimum) is smaller for a half of the samples, on average; NaN
    where a half holds no batch."""
    halves = np.array_split(np.random.default_rng(seed).permutation(minimum.samples), 2)
    if min(map(len, halves)) < batch_size:
        return float("nan")
    rows = minimum.roots
    return step(minimum) - float(np.mean([step(Minimum.from_gradients(rows[half])) for half in halves]))
