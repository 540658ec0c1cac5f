"""Lanczos iteration, fully orthogonalised, on a symmetric matrix known by its products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

__all__ = ["Eigenpairs", "lanczos", "tridiagonal"]


@dataclass(frozen=True)
class Eigenpairs:
    """Some eigenpairs, largest eigenvalue first.

    On the CPU: ``values`` (k,); ``vectors`` (P, k), one a column; ``residuals`` (k,): bound on |Av − λv|,
    which is also a bound on the distance of λ to an eigenvalue; ``products``: how many products it took.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int


class Basis:
    """Krylov basis as rows of one array that grows; the tridiagonal matrix as two lists."""

    def __init__(self, start: Tensor, room: int):
        self.rows = start.new_empty(room, len(start))
        self.rows[0] = start / start.norm()
        self.diagonal: list[float] = []
        self.off: list[float] = []

    def extend(self, product: Callable[[Tensor], Tensor]) -> bool:
        """Take one step; False when the Krylov space is exhausted."""
        m = len(self.diagonal)
        if m + 1 == len(self.rows):
            self.rows = torch.cat([self.rows, torch.empty_like(self.rows)])
        known = self.rows[: m + 1]
        w = product(self.rows[m])
        diagonal = w @ self.rows[m]
        w = w - diagonal * self.rows[m]
        if m:
            w -= self.off[-1] * self.rows[m - 1]
        # the three-term recurrence is exact but for rounding: one pass against all takes that away, and a
        # second is needed only where the first one cancels
        before, overlap = w.norm(), known @ w
        self.diagonal.append(float(diagonal + overlap[m]))
        w.addmv_(known.T, overlap, alpha=-1)
        after = w.norm()
        if after < 0.7 * before:
            w.addmv_(known.T, known @ w, alpha=-1)
            after = w.norm()
        self.off.append(float(after))
        if float(after) <= 10 * torch.finfo(w.dtype).eps * max(map(abs, self.diagonal)):
            return False
        self.rows[m + 1] = w / after
        return True

    def ritz(self, k: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The k largest (default: all) Ritz values, their coefficients as columns, their residual bounds."""
        m = len(self.diagonal)
        which = {} if k is None or k >= m else {"select": "i", "select_range": (m - k, m - 1)}
        values, vectors = eigh_tridiagonal(np.array(self.diagonal), np.array(self.off[:-1]), **which)
        return values[::-1], vectors[:, ::-1], abs(self.off[-1] * vectors[-1, ::-1])


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    k: int,
    tolerance: float = 1e-3,
    steps: int = 1000,
) -> Eigenpairs:
    """The k algebraically largest eigenpairs of a symmetric matrix.

    ``product`` maps (P,) to (P,); ``start`` (P,) is the first vector. Stops when each of the k residuals is
    below ``tolerance`` times its own |λ| (or, near zero, rounding): eigenvalues are then good to about
    tolerance² over the relative gap to the rest of the spectrum. Raises ValueError for k outside 1…P or after
    ``steps`` products without convergence.
    """
    size = len(start)
    if not 1 <= k <= size:
        raise ValueError(f"k must be 1…{size}, got {k}")
    basis = Basis(start, min(size, 2 * k + 20) + 1)
    floor = torch.finfo(start.dtype).eps ** (2 / 3)
    look = min(size, k + 4)
    for taken in range(1, min(steps, size) + 1):
        last = not basis.extend(product) or taken == size
        if taken < look and not last:
            continue
        values, vectors, residuals = basis.ritz(k)
        allowed = tolerance * np.maximum(abs(values), floor * max(map(abs, basis.diagonal)))
        if (residuals <= allowed).all() or last:
            values, vectors, residuals = (torch.from_numpy(x.copy()) for x in (values, vectors, residuals))
            turned = (basis.rows[:taken].T @ vectors.to(start)).cpu()
            return Eigenpairs(values.to(turned), turned, residuals.to(turned), taken)
        look = taken + 2 + taken // 20
    raise ValueError(f"steps must be more than {steps}: the residuals are still {residuals.max():.1e}")


def tridiagonal(product: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[np.ndarray, ...]:
    """Nodes and weights of the Gauss quadrature of the spectral measure seen from ``start``.

    Σ weights · f(nodes) ≈ startᵀ f(A) start / |start|², exact for polynomials of degree below 2·steps.
    """
    basis = Basis(start, steps + 1)
    for _ in range(min(steps, len(start))):
        if not basis.extend(product):
            break
    values, vectors, _ = basis.ritz()
    return values, vectors[0] ** 2
