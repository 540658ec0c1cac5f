"""Eigenpairs of a symmetric matrix known by its products: Lanczos chains, fully orthogonalised.

One chain, from one vector, sees one direction of each eigenspace, so it finds every multiple eigenvalue once.
After it has converged, a chain from a fresh random vector z is run in the complement of everything known. Its
coefficients bound what it can have overlooked: a unit eigenvector u of an eigenvalue μ above its Ritz values
has components p_j(μ) u·z on the vectors of the chain (p_j its orthonormal polynomials), whose squares sum up
to 1 at most. So (u·z)² ≤ 1/Σ p_j(μ)², the Christoffel function, and for a random unit vector in d dimensions
the chance of that is at most (2d/π Σ p_j(μ)²)^(1/2). A chain that finds more is followed by another.

The first of these keeps out of the next few Ritz vectors too, not converged: the rest of the spectrum is then
further away, and fewer products do. They couple to the rest by ρ at most, the root of the sum of their
squared residuals, so by Weyl's inequality A has no more eigenvalues beyond t than the Ritz values and the
complement have beyond t − ρ. Where the complement has one there, the chain is given up for one without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh, eigh_tridiagonal
from torch import Tensor

from flatmin import _check

__all__ = ["Eigenpairs", "dense", "lanczos", "outwards", "tridiagonal"]

ENDS = ("largest", "smallest", "magnitude")
#: largest seed, less one for a second stream
SEEDS = 2**63 - 2
#: Ritz vectors beyond the k-th that a fresh chain may keep out of
_MORE = 6


@dataclass(frozen=True)
class Eigenpairs:
    """Eigenpairs at one end of a spectrum, the outermost first, each as often as its multiplicity.

    ``values`` (k,) and orthonormal ``vectors`` (P, k), one a column, on the CPU; ``residuals`` (k,):
    |Av − λv|, also a bound on the distance of λ to an eigenvalue; ``products``: how many it took (0: by dense
    linear algebra); ``missed``: bound on the chance that an eigenvalue further out was overlooked.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    missed: float = 0.0


def dense(matrix: Tensor, k: int, which: str = "largest") -> Eigenpairs:
    """k eigenpairs of a dense symmetric ``matrix`` (P, P); ValueError for k outside 1…P, or another end."""
    k = _check.integer("k", k, least=1, most=len(matrix))
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # seen once in float32, for a matrix with many rows of zeros
        values, vectors = (part.to(matrix.dtype) for part in torch.linalg.eigh(matrix.double()))
    keep = _outermost(values.cpu().numpy(), k, _check.choice("which", which, ENDS))
    keep = torch.from_numpy(keep).to(matrix.device)
    values, vectors = values[keep], vectors[:, keep]
    residuals = (matrix @ vectors - vectors * values).norm(dim=0)
    return Eigenpairs(values.cpu(), vectors.cpu(), residuals.cpu(), 0)


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    k: int,
    tolerance: float = 1e-3,
    steps: int = 1000,
    which: str = "largest",
    seed: int = 1,
    missed: float = 0.01,
) -> Eigenpairs:
    """k eigenpairs at one end of a symmetric matrix A, with their multiplicities (see the module's text).

    Eigenvalues are good to about tolerance² over the relative gap to the rest of the spectrum. A d-fold
    eigenvalue costs about d times the products of a simple one. Memory: one vector a product.

    Parameters
    ----------
    product : callable
        (P,) ↦ (P,), v ↦ Av.
    start : Tensor, (P,)
        First vector; its dtype and device are those of the arithmetic.
    k : int, 1…P
    tolerance : float
        Bounds every residual |Av − λv| in units of its own |λ| (near zero: of rounding).
    steps : int
        Products allowed.
    which : "largest", "smallest" (algebraic ends), or "magnitude" (largest |λ|)
    seed : int
        Of the fresh vectors.
    missed : float
        Chance allowed that an eigenvalue further out than the last one by more than the tolerance is
        overlooked (one copy; that of all d copies is about its d-th power). 1 does without the fresh chain.

    Raises
    ------
    ValueError
        For an argument out of range, a product that is not finite, or no convergence within ``steps``.
    """
    size = len(start)
    k = _check.integer("k", k, least=1, most=size)
    tolerance = _check.number("tolerance", tolerance, above=0, below=1)
    steps = _check.integer("steps", steps, least=1)
    allowed = _check.number("missed", missed, above=0, most=1)
    _check.choice("which", which, ENDS)
    generator = torch.Generator("cpu").manual_seed(_check.integer("seed", seed, least=0, most=SEEDS + 1))
    search = _Search(product, start, k, tolerance, steps, which)
    missed = search.run(start, allowed)
    while missed > allowed or len(search.values) < k:
        if len(search.values) == size:
            missed = 0.0
            break
        fresh = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu").to(start)
        missed = search.run(fresh, allowed)
    values, residuals = torch.from_numpy(search.values), torch.from_numpy(search.residuals)
    vectors = search.rows.T.cpu()
    return Eigenpairs(values.to(vectors), vectors, residuals.to(vectors), steps - search.left, missed)


def tridiagonal(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[np.ndarray, ...]:
    """Nodes and weights of the Gauss quadrature of the spectral measure seen from ``start``.

    Σ weights · f(nodes) ≈ startᵀ f(A) start / |start|², exact for polynomials of degree below 2·steps.
    """
    chain = _Chain(product, start, start.new_empty(0, len(start)), steps + 1)
    for _ in range(min(steps, len(start))):
        if not chain.extend():
            break
    values, vectors = eigh_tridiagonal(chain.diagonal, chain.off[:-1])
    return values, vectors[0] ** 2


class _Chain:
    """A Lanczos chain in the complement of the orthonormal rows ``known`` (l, P)."""

    def __init__(self, product, start: Tensor, known: Tensor, room: int, scale: float = 0.0):
        self.product, self.known, self.scale, size = product, len(known), scale, len(start)
        self.limit = size - self.known  # dimensions there are
        self.rows = start.new_empty(self.known + min(room, self.limit) + 1, size)
        self.rows[: self.known] = known
        for _ in range(2):
            start = start / start.norm()
            start = start - known.T @ (known @ start)
        self.rows[self.known] = start / start.norm()
        self.diagonal: list[float] = []
        self.off: list[float] = []
        self.couplings: list[Tensor] = []  # with the known rows
        self.ended = False

    def extend(self) -> bool:
        """Take one product; False when the chain leads nowhere."""
        at = self.known + len(self.diagonal)
        if at + 1 == len(self.rows):
            more = self.rows.new_empty(min(len(self.diagonal) // 2 + 10, self.limit), self.rows.shape[1])
            self.rows = torch.cat([self.rows, more])
        every, row = self.rows[: at + 1], self.rows[at]
        w = self.product(row)
        diagonal = w @ row
        w = w - diagonal * row
        if self.off:
            w -= self.off[-1] * self.rows[at - 1]
        # the three-term recurrence is exact but for rounding: one pass against all takes that away, and a
        # second is needed only where the first one cancels
        before, overlap = w.norm(), every @ w
        w.addmv_(every.T, overlap, alpha=-1)
        after = w.norm()
        if after < 0.7 * before:
            w.addmv_(every.T, every @ w, alpha=-1)
            after = w.norm()
        self.couplings.append(overlap[: self.known])
        self.diagonal.append(float(diagonal + overlap[at]))
        self.off.append(float(after))
        if not np.isfinite(self.diagonal[-1]) or not np.isfinite(self.off[-1]):
            raise ValueError("product: must be finite; the matrix has NaN or infinite entries")
        # what is left so near rounding points anywhere, and no longer belongs to the chain
        self.scale = max(self.scale, abs(self.diagonal[-1]))
        if self.off[-1] <= torch.finfo(w.dtype).eps ** 0.75 * self.scale or len(self.diagonal) == self.limit:
            self.ended = True
            return False
        self.rows[at + 1] = w / after
        return True

    def overlooked(self, mu: float, sign: int) -> float:
        """Bound on the chance that a vector of an eigenvalue sign · ``mu`` or beyond has stayed unseen."""
        if self.ended:
            return 0.0
        before, now, total, step = 0.0, 1.0, 1.0, 0.0
        for alpha, beta in zip(self.diagonal, self.off, strict=True):
            before, now, step = now, ((mu - sign * alpha) * now - step * before) / beta, beta
            total += now * now
            if total > 1e200:
                break
        return float(min(1.0, np.sqrt(2 * self.limit / (np.pi * total))))


def _outermost(values: np.ndarray, k: int, which: str) -> np.ndarray:
    """Positions of the k outermost of ``values``, the outermost first."""
    return np.argsort(-outwards(values, which), kind="stable")[:k].copy()


def outwards(values, which: str):
    """``values``, an array or a tensor, on an axis that points outwards from the middle of the spectrum."""
    return abs(values) if which == "magnitude" else values if which == "largest" else -values


class _Search:
    """Chains, one after the other, each in the complement of the k outermost pairs found so far."""

    def __init__(self, product, like: Tensor, k: int, tolerance: float, steps: int, which: str):
        self.product, self.k, self.tolerance, self.which = product, k, tolerance, which
        self.values, self.residuals = np.empty(0), np.empty(0)
        self.rows, self.left, self.steps = like.new_empty(0, len(like)), steps, steps
        self.more, self.slack = self.rows, 0.0  # further Ritz vectors, and how they couple to the rest
        self.floor, self.scale = torch.finfo(like.dtype).eps ** (2 / 3), 0.0
        self.signs = {"largest": (1,), "smallest": (-1,), "magnitude": (1, -1)}[which]
        self._standing = ""

    def run(self, start: Tensor, allowed: float) -> float:
        """Follow one chain, and keep what it finds; its bound on what it missed if that is nothing, else 1.

        It ends when all of its Ritz pairs among the k outermost have converged and, unless it is the first,
        its bound has fallen below ``allowed``.
        """
        room = 20 if len(self.rows) else 2 * self.k + 20
        chain = _Chain(self.product, start, torch.cat([self.rows, self.more]), room, self.scale)
        first, look = not len(self.rows), self.k + 4 - len(self.rows)
        self._standing = self._standing or f"{self.k} eigenpairs take as many products at least"
        while not chain.ended:
            if self.left == 0:
                raise _check.refused("steps", self.steps, f"more than that: {self._standing}")
            self.left -= 1
            chain.extend()
            taken = len(chain.diagonal)
            if taken < look and not chain.ended:
                continue
            look = taken + 1 + taken // 20
            nodes, vectors, ends, wanted = self._look(chain)
            if len(self.more) and wanted.any():
                self.more, self.slack = self.more[:0], 0.0
                return 1.0
            bad = wanted & (ends > self._allowed(nodes))
            self._standing = f"the residuals are still {ends[bad].max(initial=0):.1e}"
            if bad.any():
                continue
            edge = self._beyond(nodes) - self.slack
            missed = max(chain.overlooked(edge, sign) for sign in self.signs)
            if (first and self.k > 1) or missed <= allowed:
                break
            self._standing = f"the chance of a missed eigenvalue is still {missed:.1e}"
        if not wanted.any():
            return missed
        self._keep(chain, nodes[wanted], vectors[:, wanted], ends[wanted])
        if first and self.k > 1:
            self._set_aside(chain, nodes[~wanted], vectors[:, ~wanted], ends[~wanted])
        return missed if first and self.k == 1 else 1.0  # further copies of a single one do not count

    def _look(self, chain):
        """Ritz values of a chain, coefficients, residuals, and which belong to the outermost k."""
        m, count = len(chain.diagonal), self.k + _MORE
        self.scale = chain.scale
        select = {"largest": (max(0, m - count), m - 1), "smallest": (0, min(count, m) - 1)}.get(self.which)
        how = {} if select is None or m <= count else {"select": "i", "select_range": select}
        nodes, vectors = eigh_tridiagonal(np.array(chain.diagonal), np.array(chain.off[:-1]), **how)
        ends = np.zeros(len(nodes)) if chain.ended else np.abs(chain.off[-1] * vectors[-1])
        best = _outermost(np.concatenate([self.values, nodes]), self.k, self.which) - len(self.values)
        wanted = np.zeros(len(nodes), bool)
        wanted[best[best >= 0]] = True
        if len(self.values) == self.k:  # a copy of the last one is none too few
            beyond = outwards(nodes, self.which) > self._beyond(np.empty(0)) - self.slack
            wanted = beyond if len(self.more) else wanted & beyond
        return nodes, vectors, ends, wanted

    def _allowed(self, values):
        return self.tolerance * np.maximum(np.abs(values), self.floor * self.scale)

    def _beyond(self, nodes: np.ndarray) -> float:
        """Where "further out than the k-th" begins, on an axis that points outwards."""
        every = np.concatenate([self.values, nodes])
        last = every[_outermost(every, self.k, self.which)[-1]]
        return float(outwards(last, self.which) + self._allowed(last))

    def _keep(self, chain, nodes, vectors, ends):
        """Join the pairs found to those known, by a Rayleigh–Ritz step, and keep the outermost k."""
        known, m = len(self.values), len(chain.diagonal)
        new = torch.from_numpy(vectors.T.copy()).to(chain.rows) @ chain.rows[chain.known : chain.known + m]
        rows = torch.cat([self.rows, new])
        inner = np.diag(np.concatenate([self.values, nodes]))
        if known:
            coupling = torch.stack(chain.couplings, 1).double().cpu().numpy() @ vectors
            inner[:known, known:], inner[known:, :known] = coupling, coupling.T
        values, turn = eigh(inner) if known else (nodes, np.eye(len(nodes)))
        keep = _outermost(values, self.k, self.which)
        turn = turn[:, keep]
        self.values = values[keep]
        self.residuals = np.abs(turn).T @ np.concatenate([self.residuals, ends])
        self.rows = torch.from_numpy(turn.T.copy()).to(rows) @ rows

    def _set_aside(self, chain, nodes, vectors, ends):
        """Keep as many of the next Ritz vectors as leave the widest gap to the rest."""
        order, edge, m = _outermost(nodes, _MORE, self.which), self._beyond(np.empty(0)), len(chain.diagonal)
        gaps = edge - outwards(nodes[order], self.which)
        slacks = np.sqrt(np.cumsum(np.append(0, ends[order] ** 2)))[: len(order)]
        slacks[slacks > gaps[:1] / 2] = np.inf  # none but the k beyond the edge less the slack
        count = int(np.argmax(gaps - slacks)) if len(order) else 0
        if count:
            chosen = torch.from_numpy(vectors[:, order[:count]].T.copy()).to(chain.rows)
            self.more, self.slack = chosen @ chain.rows[:m], float(slacks[count])
