"""SGD for linear regression with Gaussian inputs as a random recursion, exactly.

With independent standard normal inputs x ∈ ℝᵈ and labels y, and a batch of B fresh samples, let r = |θ|.
Given |Xθ − y|² = B(1 + r²)v the batch gradient is a Gaussian vector, so that one step is

    along θ:    (1 − ηv) r + η √(v/B) ξ,              v ~ χ²_B/B, ξ ~ N(0, 1)
    across θ:   η √(v(1 + r²)/B) · χ_{d−1},

a Markov chain of r alone in any dimension. Far out it multiplies r by a random factor A with
A² = (1 − ηv)² + η²(v/B)χ²_{d−1}. If E log A < 0 there is a stationary law, with a tail P(r > u) ~ u^(−α),
where E A^α = 1 (Kesten 1973, Goldie 1991). The loss is L = ½(1 + r²), so c = L/L* = 1 + r².
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from scipy.optimize import brentq
from scipy.special import gammaln

from flatmin.theory.logarithmic.laws import exponent_of

__all__ = ["RegressionChain", "StationaryLaw", "kesten_exponent"]

#: nodes for v and ξ, and for the directions across θ
_NODES = (64, 40, 16)


def kesten_exponent(log_moment) -> float:
    """The κ > 0 with E A^κ = 1, from ``log_moment`` (κ) = log E A^κ, which falls from 0 and rises again.

    A stationary law of a recursion with the random factor A has the tail P(|δ| > u) ~ u^(−κ) (Kesten 1973).
    """
    high = 0.5
    while log_moment(high) < 0:
        high *= 1.5
    low = high
    while log_moment(low) >= 0:
        low /= 1.5
    return float(brentq(log_moment, low, high, xtol=1e-10))


@dataclass(frozen=True)
class StationaryLaw:
    """Stationary law of r = |θ| on a grid: ``r`` (points,) from 0, ``mass`` (points,) of its hat functions.

    ``width`` (points,) is the integral of each hat function, so mass/width is the density of r ≥ 0.
    """

    r: np.ndarray
    mass: np.ndarray
    width: np.ndarray
    dimension: int

    @property
    def density(self) -> np.ndarray:
        """Density of r, (points,)."""
        return self.mass / self.width

    def tail(self, at) -> np.ndarray:
        """P(|θ| > r) at the places ``at`` ≥ 0, interpolated in its logarithm."""
        above = np.concatenate([np.cumsum(self.mass[::-1])[::-1][1:] + self.mass[:-1] / 2, [0.0]])
        keep = above > 0
        return np.exp(np.interp(at, self.r[keep], np.log(above[keep])))

    def local_exponent(self, ratios, width: float = 0.06) -> np.ndarray:
        """−d log P(θ)/d log L at ratios c = L/L* > 1: the φ that a narrow window of the density would show.

        P(θ) is the density in ℝᵈ. The slope is that of a parabola fitted where |log(L/cL*)| ≤ ``width``.
        Raises ValueError for ratios whose window reaches beyond the law's own grid or below 1.
        """
        inside = (self.r > 0) & (self.mass > 0)
        log_p = np.log(self.density[inside]) - (self.dimension - 1) * np.log(self.r[inside])
        logs = np.log1p(self.r[inside] ** 2)
        slopes = []
        for centre in np.log(np.ravel(ratios).astype(float)):
            near = np.abs(logs - centre) <= width
            if near.sum() < 5 or not logs[0] < centre - width < centre + width < logs[-1]:
                raise ValueError(
                    f"ratios={np.exp(centre):.4g}: its window has fewer than five points of the law"
                )
            slopes.append(-np.polyfit(logs[near] - centre, log_p[near], 2)[1])
        return np.reshape(slopes, np.shape(ratios))

    def fitted_exponent(self) -> float:
        """φ that maximum likelihood finds in infinitely many samples of this law."""
        return exponent_of(float(self.mass @ np.log1p(self.r**2)), self.dimension)


@dataclass(frozen=True)
class RegressionChain:
    """The chain of r = |θ| at learning rate ``eta``, batch size ``batch_size`` and ``dimension`` d.

    Raises ValueError for arguments that are not positive, or integers where they must be.
    """

    eta: float
    batch_size: int = 1
    dimension: int = 1

    def __post_init__(self):
        if not self.eta > 0:
            raise ValueError(f"eta={self.eta!r}: must be positive")
        for name in ("batch_size", "dimension"):
            if getattr(self, name) < 1 or getattr(self, name) != int(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r}: must be an integer of at least 1")

    # ------------------------------------------------------------------ far out: the factor A
    @cached_property
    def _factors(self):
        """A on a grid of quadrature nodes, and the logarithms of their weights.

        The nodes reach √(12B/η) beyond the bulk: E A^α = 1 is a balance of the bulk with steps of ηv ≈ 4.6.
        """
        log_a, log_w = np.zeros(1), np.zeros(1)
        nodes, weights = np.polynomial.legendre.leggauss(10)

        def chi(freedom, scale):
            """Nodes of √(χ²/scale) and log weights, far into its tail."""
            top = np.sqrt(freedom) + 12 + np.sqrt(12 * self.batch_size / self.eta)
            edges = np.linspace(0, top, 61 if self.dimension > 1 else 401)
            x = (edges[:-1, None] + np.diff(edges)[:, None] * (nodes + 1) / 2).ravel()
            w = np.repeat(np.diff(edges), 10) / 2 * np.tile(weights, len(edges) - 1)
            log_density = (freedom - 1) * np.log(x) - x**2 / 2 - (freedom / 2 - 1) * np.log(2)
            return x / np.sqrt(scale), np.log(w) + log_density - gammaln(freedom / 2)

        u, log_w = chi(self.batch_size, self.batch_size)
        square = (1 - self.eta * u**2) ** 2
        if self.dimension > 1:
            across, log_across = chi(self.dimension - 1, 1)
            square = square[:, None] + (self.eta * u[:, None] * across) ** 2 / self.batch_size
            log_w = log_w[:, None] + log_across
        with np.errstate(divide="ignore"):
            log_a = np.log(square) / 2
        return log_a.ravel(), log_w.ravel()

    def log_moment(self, power: float) -> float:
        """log E A^power."""
        log_a, log_w = self._factors
        terms = power * log_a + log_w
        top = terms.max()
        return float(top + np.log(np.exp(terms - top).sum()))

    @property
    def lyapunov(self) -> float:
        """E log A, the rate per step at which r shrinks or grows far out."""
        log_a, log_w = self._factors
        return float(np.exp(log_w) @ log_a)

    @property
    def mean_square_factor(self) -> float:
        """E A² = 1 − 2η + η²(1 + (d + 1)/B): the mean loss is bounded where this is below 1."""
        return 1 - 2 * self.eta + self.eta**2 * (1 + (self.dimension + 1) / self.batch_size)

    @property
    def mean_square(self) -> float:
        """⟨r²⟩ in the stationary state, (ηd/B)/(2 − η(1 + (d + 1)/B)). Raises ValueError where infinite."""
        if self.mean_square_factor >= 1:
            raise ValueError(f"{self}: E A² = {self.mean_square_factor:.4g} must be below 1 for a mean loss")
        return self.eta**2 * self.dimension / self.batch_size / (1 - self.mean_square_factor)

    @cached_property
    def tail_exponent(self) -> float:
        """α > 0 with E A^α = 1, so that P(r > u) ~ u^(−α).

        Raises ValueError where E log A ≥ 0: η is too large for any stationary state.
        """
        if self.lyapunov >= 0:
            raise ValueError(f"{self}: no stationary state, E log A = {self.lyapunov:.4g} must be negative")
        return kesten_exponent(self.log_moment)

    # ------------------------------------------------------------------ everywhere: the transfer operator
    def matrix(self, grid, nodes=_NODES):
        """P[i, j] = E[hat_j(r')] from r = grid[i]: (points, points), and what leaves the grid, (points,).

        ``grid`` increases from 0; hat functions are linear between its points. ``nodes``: quadrature nodes
        for √v, ξ and χ_{d−1}.
        """
        grid = np.asarray(grid, dtype=float)
        if grid[0] != 0 or not np.all(np.diff(grid) > 0):
            raise ValueError(f"grid={grid}: must increase from 0")
        u, w_u = _chi_nodes(self.batch_size, nodes[0])
        xi, w_xi = _legendre(-8.0, 8.0, nodes[1])
        w_xi = w_xi * np.exp(-(xi**2) / 2) / np.sqrt(2 * np.pi)
        chi, w_chi = (np.zeros(1), np.ones(1))
        if self.dimension > 1:
            chi, w_chi = _chi_nodes(self.dimension - 1, nodes[2])
        return _fill(
            grid, self.eta, self.batch_size, u / np.sqrt(self.batch_size), w_u / w_u.sum(),
            xi, w_xi / w_xi.sum(), chi, w_chi / w_chi.sum(),
        )  # fmt: skip

    def stationary(
        self, points: int = 500, highest: float | None = None, nodes=(160, 80, 20)
    ) -> StationaryLaw:
        """Stationary law of r on ``points`` points, even near 0 and in geometric progression far out.

        ``highest`` is the last point (default: where the tail is negligible); what would jump beyond it
        stays there. The entries are right relative to themselves, however small (GTH elimination). Raises
        ValueError where there is no stationary state.
        """
        alpha = self.tail_exponent
        core = np.sqrt(self.eta * self.dimension / self.batch_size)
        if highest is None:
            highest = 12 * core * max(1.0, 10 ** min(8 / alpha, 4))
        bend = core / 2
        grid = bend * np.sinh(np.linspace(0, np.arcsinh(highest / bend), points))
        matrix, beyond = self.matrix(grid, nodes)
        matrix[:, -1] += beyond
        hats = np.zeros(points)
        hats[1:] += np.diff(grid) / 2
        hats[:-1] += np.diff(grid) / 2
        return StationaryLaw(grid, _perron(matrix), hats, self.dimension)

    def passage_time(self, ratio: float, points: int = 160, nodes=_NODES) -> float:
        """Mean number of steps from θ = 0 until L first exceeds ``ratio``·L*.

        Raises ValueError for a ratio at or below 1, where the run starts.
        """
        if not ratio > 1:
            raise ValueError(f"ratio={ratio!r}: must exceed 1, where the run starts")
        reach = np.sqrt(ratio - 1)
        bend = min(reach, np.sqrt(self.eta * self.dimension / self.batch_size) / 2)
        grid = bend * np.sinh(np.linspace(0, np.arcsinh(reach / bend), points))
        matrix, beyond = self.matrix(grid, nodes)
        return float(_absorption(matrix, beyond))


def _legendre(low, high, number):
    nodes, weights = np.polynomial.legendre.leggauss(number)
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


def _chi_nodes(freedom, number):
    """Nodes and weights for √χ² with ``freedom`` degrees of freedom."""
    x, w = _legendre(max(0.0, np.sqrt(freedom) - 7.5), np.sqrt(freedom) + 7.5, number)
    log_density = (freedom - 1) * np.log(x) - x**2 / 2 - (freedom / 2 - 1) * np.log(2) - gammaln(freedom / 2)
    return x, w * np.exp(log_density)


@njit(cache=True)
def _fill(grid, eta, batch, u, w_u, xi, w_xi, chi, w_chi):  # pragma: no cover - compiled
    """Expectations of the hat functions by the product rule, and the weight that leaves the grid."""
    points = len(grid)
    matrix, beyond = np.zeros((points, points)), np.zeros(points)
    last = grid[-1]
    for i in range(points):
        r = grid[i]
        spread = np.sqrt((1 + r * r) / batch)
        for a in range(len(u)):
            shrunk = (1 - eta * u[a] * u[a]) * r
            for b in range(len(xi)):
                along = shrunk + eta * u[a] * xi[b] / np.sqrt(batch)
                weight = w_u[a] * w_xi[b]
                for k in range(len(chi)):
                    across = eta * u[a] * spread * chi[k]
                    new = np.sqrt(along * along + across * across)
                    if new >= last:
                        beyond[i] += weight * w_chi[k]
                        continue
                    j = np.searchsorted(grid, new, side="right") - 1
                    share = (new - grid[j]) / (grid[j + 1] - grid[j])
                    matrix[i, j] += weight * w_chi[k] * (1 - share)
                    matrix[i, j + 1] += weight * w_chi[k] * share
    return matrix, beyond


@njit(cache=True)
def _perron(matrix):  # pragma: no cover - compiled
    """Stationary vector of a stochastic matrix by GTH elimination: no subtraction, no loss of digits."""
    m = matrix.copy()
    n = len(m)
    for k in range(n - 1, 0, -1):
        out = m[k, :k].sum()
        for i in range(k):
            m[i, k] /= out
        for i in range(k):
            for j in range(k):
                m[i, j] += m[i, k] * m[k, j]
    mass = np.zeros(n)
    mass[0] = 1.0
    for k in range(1, n):
        total = 0.0
        for i in range(k):
            total += mass[i] * m[i, k]
        mass[k] = total
    return mass / mass.sum()


@njit(cache=True)
def _absorption(matrix, beyond):  # pragma: no cover - compiled
    """Mean number of steps from state 0 until absorption, again without subtraction."""
    m, leave = matrix.copy(), beyond.copy()
    n = len(m)
    time = np.ones(n)
    for k in range(n - 1, 0, -1):  # leave out state k: paths through it are joined
        out = m[k, :k].sum() + leave[k]
        for i in range(k):
            share = m[i, k] / out
            leave[i] += share * leave[k]
            time[i] += share * time[k]
            for j in range(k):
                m[i, j] += share * m[k, j]
    return time[0] / leave[0]
