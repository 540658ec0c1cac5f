"""Bounds on both sides of the exact threshold from the leading directions of H: for many samples and outputs.

The operator T of :mod:`.minimum` acts on matrices (r, r), too large from a few thousand rows n·K on. Here the
second moment is X = X_q ⊕ x·1: any matrix in the q leading eigenvectors of H, and a multiple of the identity
in all other directions. With M and A as there, η* = 1/max ⟨S, MS⟩/⟨S, AS⟩:

- the best X of this kind gives a lower bound of the maximum, an *upper* one of η* (the trace rule is q = 0);
- M and A⁻¹ keep covariances covariances, so M X ≤ κ A X with X > 0 and A X > 0 bounds the spectral radius
  of A⁻¹M by κ: η* ≥ 1/κ. κ is the largest eigenvalue of a matrix over the rows, found by Lanczos, for the
  best x and the best multiple of the identity added to X_q.

Both meet at q = r. Nothing of the size r² is formed: the cost is a few hundred products with the Gram matrix,
and 4nKq² operations for each product of the first bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize

from flatmin import _check
from flatmin.theory.stability.bounds import trace_sufficient_step
from flatmin.theory.stability.minimum import Minimum, checked
from flatmin.theory.stability.threshold import lanczos

__all__ = ["Bracket", "step_bracket"]

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Bracket:
    """``lower`` ≤ η* ≤ ``upper``, up to the 1e-9 of Lanczos; ``directions`` q that were treated exactly."""

    lower: float
    upper: float
    directions: int


def step_bracket(
    minimum: Minimum, batch_size: float, sampling: str = "fresh", directions: int = 100
) -> Bracket:
    """Proven bounds on the largest mean-square stable learning rate, at any number of samples and outputs.

    ``directions`` leading eigenvectors of H are treated exactly; more of them narrow the bracket. The rest,
    and what is raised, as for :func:`~.threshold.largest_step`; ValueError for fewer than one direction too.
    """
    c = checked(minimum).factor(batch_size, sampling)
    split = _Split(minimum, _check.integer("directions", directions, least=1), c)
    top, moment, rest = split.best()
    if split.rest_trace == 0:
        return Bracket(1 / top, 1 / top, len(split.values))
    size = np.trace(moment) / len(moment)

    def ceiling(logs, tolerance=1e-3):
        more, other = size * np.exp(np.clip(logs, -25, 25))
        return split.ceiling(moment + more * np.eye(len(moment)), other, tolerance)

    # the X with a given κ are a convex set, so a simplex finds the least κ
    start = np.log([0.1, max(rest / size, 1e-8)])
    simplex = start + np.array([[0, 0], [2, 0], [0, 2]])
    how = {"maxfev": 40, "xatol": 0.05, "fatol": 1e-3 * top, "initial_simplex": simplex}
    found = minimize(ceiling, start, method="Nelder-Mead", options=how).x
    lower = 1 / (ceiling(found, _TOLERANCE) * (1 + _TOLERANCE))
    lower = max(lower, trace_sufficient_step(minimum, batch_size, sampling))
    return Bracket(float(lower), float(1 / top), len(split.values))


class _Split:
    """H in its leading eigenvectors and in the rest, seen from the rows."""

    def __init__(self, minimum: Minimum, directions: int, c: float):
        self.values, self.modes = minimum.leading(directions)
        self.c, self.samples, self.outputs = c, minimum.samples, minimum.outputs
        self.kernel = minimum.kernel
        self.rows = np.sqrt(self.samples * self.values) * self.modes  # (n·K, q)
        roots = self.roots(self.rows)
        self.rest_blocks = minimum.blocks - roots @ roots.transpose(0, 2, 1)
        left = minimum.trace - self.values.sum()
        self.rest_trace = left if left > 1e-12 * minimum.trace else 0.0
        self.rest_square = max(minimum.frobenius**2 - np.square(self.values).sum(), 0.0)
        self.sums = self.values[:, None] + self.values
        self.products = np.multiply.outer(self.values, self.values)

    def roots(self, rows):
        return rows.reshape(self.samples, self.outputs, -1)

    def blocks(self, moment, rest):
        """R_i X R_iᵀ, (n, K, K)."""
        roots = self.roots(self.rows)
        seen = self.roots(self.rows @ moment) @ roots.transpose(0, 2, 1)
        return seen + rest * self.rest_blocks

    def best(self):
        """max ⟨X, MX⟩/⟨X, AX⟩ and the X that attains it, as (X_q, x)."""
        q, n = len(self.values), self.samples
        scale, rest_scale = self.sums**-0.5, (2 * self.rest_trace) ** -0.5 if self.rest_trace else 0.0

        def product(vector):
            moment, rest = scale * vector[:-1].reshape(q, q), rest_scale * vector[-1]
            blocks = self.blocks(moment, rest)
            seen = self.rows.T @ (blocks @ self.roots(self.rows)).reshape(self.rows.shape) / n
            inner = self.c * seen + (1 - self.c) * self.products * moment
            outer = self.c * np.sum(blocks * self.rest_blocks) / n + (1 - self.c) * self.rest_square * rest
            return np.append((scale * inner).ravel(), rest_scale * outer)

        vector = np.append(np.eye(q).ravel(), 1.0)
        for _ in range(40):
            value, vector, settled = lanczos(product, vector, _TOLERANCE / 10)
            if settled:
                break
        moment, rest = scale * vector[:-1].reshape(q, q), rest_scale * vector[-1]
        sign = np.sign(np.trace(moment))
        return value, sign * (moment + moment.T) / 2, sign * rest

    def ceiling(self, moment, rest, tolerance):
        """κ, the least number with M X ≤ κ A X, for X = moment ⊕ rest·1.

        Whitened by A X: y in the leading directions and, in the rest, the errors e that they leave.
        """
        q, n, c = len(self.values), self.samples, self.c
        try:
            factor = cholesky(self.sums * moment, lower=True)
        except np.linalg.LinAlgError:  # A X is not positive: this X proves nothing
            return np.inf
        blocks, length = self.blocks(moment, rest), (n / (2 * rest)) ** 0.5

        def product(vector):
            first = solve_triangular(factor, vector[:q], lower=True, trans=1)
            errors = vector[q:] - self.modes @ (self.modes.T @ vector[q:])
            all_errors = (self.rows @ first + length * errors).reshape(n, -1, 1)
            pulled = c / n * (blocks @ all_errors).ravel()
            up = self.rows.T @ pulled + (1 - c) * (self.products * moment) @ first
            down = length * pulled
            if c < 1:
                down = down + (1 - c) / 2 * (self.kernel @ errors)
            down = down - self.modes @ (self.modes.T @ down)
            return np.append(solve_triangular(factor, up, lower=True), down)

        vector = np.random.default_rng(0).standard_normal(q + len(self.modes))
        for _ in range(40):
            value, vector, settled = lanczos(product, vector, tolerance)
            if settled:
                return value
        raise RuntimeError("the ceiling of the threshold has not settled after 40 rounds of Lanczos")
