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

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from scipy.optimize import brentq
from scipy.special import gammaln, roots_legendre

from flatmin import _check
from flatmin.theory.logarithmic.laws import exponent_of

__all__ = ["RegressionChain", "StationaryLaw", "kesten_exponent"]

#: nodes for v and ξ, and for the directions across θ; in one dimension for v alone, near 0
_NODES, _ALONE = (64, 40, 16), (32, 2, 2)
#: how many nodes a quadrature may have: 8 bytes each, in a few arrays
_MOST = 20_000_000
#: numbers beyond this have squares that exceed a double
_LARGE = 1e150


def kesten_exponent(log_moment) -> float:
    """The κ > 0 with E A^κ = 1; ``log_moment`` is log E A^κ as a function of κ, which falls from 0 and rises.

    A stationary law of a recursion with the random factor A has the tail P(|δ| > u) ~ u^(−κ) (Kesten 1973).
    Raises ValueError for a function that does not rise above 0 up to κ = 10¹², or is not below 0 down to κ =
    10⁻¹².
    """
    _check.instance("log_moment", log_moment, Callable)
    high = 0.5
    while _check.number("log_moment", log_moment(high), infinite=True) < 0:
        high *= 1.5
        if high > 1e12:
            raise ValueError("log_moment: must rise above 0, it is below up to κ = 1e12")
    low = high
    while log_moment(low) >= 0:
        low /= 1.5
        if low < 1e-12:
            raise ValueError("log_moment: must fall below 0 first, it is not below down to κ = 1e-12")
    return float(brentq(log_moment, low, high, xtol=1e-10))


@dataclass(frozen=True)
class StationaryLaw:
    """Stationary law of r = |θ|, θ of ``dimension`` entries, at points ``r`` that increase from 0.

    ``mass`` is the probability of each point's hat function and ``width`` its integral, so that mass/width is
    the density of r ≥ 0. Raises ValueError for arrays of different lengths, or numbers out of range.
    """

    r: np.ndarray
    mass: np.ndarray
    width: np.ndarray
    dimension: int

    def __post_init__(self):
        points = _grid("r", self.r).shape
        _check.array("mass", self.mass, shape=points, least=0)
        _check.array("width", self.width, shape=points, above=0)
        _check.integer("dimension", self.dimension, least=1)

    @property
    def density(self) -> np.ndarray:
        """Density of r, (points,)."""
        return self.mass / self.width

    def tail(self, at) -> np.ndarray:
        """P(|θ| > r) at places ``at`` ≥ 0, interpolated in its logarithm; ValueError beyond all mass."""
        above = np.concatenate([np.cumsum(self.mass[::-1])[::-1][1:] + self.mass[:-1] / 2, [0.0]])
        keep = above > 0
        at = _check.array("at", at, least=0, most=self.r[keep][-1])
        return np.exp(np.interp(at, self.r[keep], np.log(above[keep])))

    def local_exponent(self, ratios, width: float = 0.06) -> np.ndarray:
        """−d log P(θ)/d log L at ratios c = L/L* > 1: φ as a narrow window of the density in ℝᵈ shows it.

        The slope is that of a parabola fitted where |log(L/cL*)| ≤ ``width``. Raises ValueError for ratios
        whose window reaches beyond the law's own grid or below 1.
        """
        ratios, width = _check.array("ratios", ratios, least=1), _check.number("width", width, above=0)
        inside = (self.r > 0) & (self.mass > 0)
        log_p = np.log(self.density[inside]) - (self.dimension - 1) * np.log(self.r[inside])
        logs = np.log1p(self.r[inside] ** 2)
        slopes = []
        for centre in np.log(ratios.ravel()):
            near = np.abs(logs - centre) <= width
            if near.sum() < 5 or not logs[0] < centre - width < centre + width < logs[-1]:
                raise ValueError(
                    f"ratios={np.exp(centre):.4g}, width={width:g}: its window must hold five points of the "
                    "law and lie within it"
                )
            slopes.append(-np.polyfit(logs[near] - centre, log_p[near], 2)[1])
        return np.reshape(slopes, ratios.shape)

    def fitted_exponent(self) -> float:
        """φ that maximum likelihood finds in infinitely many samples of this law."""
        return exponent_of(float(self.mass @ np.log1p(self.r**2)), self.dimension)


@dataclass(frozen=True)
class RegressionChain:
    """The chain of r = |θ|.

    Parameters
    ----------
    eta : float
        Learning rate, positive.
    batch_size : int
        B, fresh samples in a batch.
    dimension : int
        d, of θ.

    Raises
    ------
    ValueError
        For arguments that are not positive, or no integers where they must be.

    Examples
    --------
    >>> import flatmin as fm
    >>> chain = fm.RegressionChain(eta=0.5, batch_size=1)
    >>> round(chain.tail_exponent, 3)
    2.904
    """

    eta: float
    batch_size: int = 1
    dimension: int = 1

    def __post_init__(self):
        _check.number("eta", self.eta, above=0, most=1e100)
        for name in ("batch_size", "dimension"):
            _check.integer(name, getattr(self, name), least=1, most=10**6)

    # ------------------------------------------------------------------ far out: the factor A
    @cached_property
    def _factors(self):
        """A on a grid of quadrature nodes, and the logarithms of their weights.

        The nodes for v reach √(12B/η) beyond the bulk: E A^α = 1 is a balance of the bulk with steps of
        ηv ≈ 4.6. Either is a peak of width one in √(Bv), which a panel of ten nodes resolves up to a width of
        three. The steps across θ stay in their bulk.
        """
        nodes, weights = np.polynomial.legendre.leggauss(10)
        panels, far = 61 if self.dimension > 1 else 401, np.sqrt(12 * self.batch_size / self.eta)
        tops = [np.sqrt(self.batch_size) + 12 + far, np.sqrt(self.dimension) + 12 + min(far, 30.0)]
        edges = [np.linspace(0, top, max(panels, int(top / 3) + 2)) for top in tops if top < _MOST]
        if len(edges) < 2 or 100 * len(edges[0]) * (len(edges[1]) if self.dimension > 1 else 1) > _MOST:
            raise ValueError(
                f"{self}: eta must not be so small, with this batch_size and dimension, that the quadrature "
                f"takes more than {_MOST} nodes"
            )

        def chi(freedom, scale, edges):
            """Nodes of √(χ²/scale) and log weights."""
            x = (edges[:-1, None] + np.diff(edges)[:, None] * (nodes + 1) / 2).ravel()
            w = np.repeat(np.diff(edges), 10) / 2 * np.tile(weights, len(edges) - 1)
            return x / np.sqrt(scale), np.log(w) + _log_chi(x, freedom)

        u, log_w = chi(self.batch_size, self.batch_size, edges[0])
        square = (1 - self.eta * u**2) ** 2
        if self.dimension > 1:
            across, log_across = chi(self.dimension - 1, 1, edges[1])
            square = square[:, None] + (self.eta * u[:, None] * across) ** 2 / self.batch_size
            log_w = log_w[:, None] + log_across
        # a node that hits A = 0 must not turn A⁰ into a NaN
        return np.log(np.maximum(square, 1e-300)).ravel() / 2, log_w.ravel()

    def log_moment(self, power: float) -> float:
        """log E A^power; ValueError unless power is above −1, or where the moment exceeds a double."""
        power = _check.number("power", power, above=-1)
        log_a, log_w = self._factors
        with np.errstate(all="ignore"):
            terms = power * log_a + log_w
            top = terms.max()
            return _check.finite(float(top + np.log(np.exp(terms - top).sum())), power=power)

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
        """α > 0 with E A^α = 1: P(r > u) ~ u^(−α). ValueError where E log A ≥ 0: no stationary state."""
        if self.lyapunov >= 0:
            raise ValueError(f"{self}: no stationary state, E log A = {self.lyapunov:.4g} must be negative")
        return kesten_exponent(self.log_moment)

    # ------------------------------------------------------------------ everywhere: the transfer operator
    def matrix(self, grid, nodes=None):
        """P[i, j] = E[hat_j(r')] from r = grid[i], (points, points), and what leaves the grid, (points,).

        The hat functions are linear between the points of a grid that increases from 0; ``nodes`` are those
        of the quadratures for √v, ξ and χ_{d−1}, by default (64, 40, 16). A product rule does not see where
        the hats bend, which leaves half a per cent in passage times. In one dimension the mean over ξ is
        taken in closed form and only the first number counts, by default 32: the error falls exponentially
        once a node for v does not move r' by more than ξ does, so that the number is doubled where r doubles,
        up to r = 16. Raises ValueError for another grid, or numbers of nodes out of range.
        """
        grid = _grid("grid", grid)
        nodes = (_ALONE if self.dimension == 1 else _NODES) if nodes is None else nodes
        nodes = _check.array("nodes", nodes, shape=(3,), dtype=int, least=2, most=2000)
        if self.dimension == 1:
            return self._line(grid, nodes[0])
        u, w_u = _chi_nodes(self.batch_size, nodes[0])
        xi, w_xi = _legendre(-8.0, 8.0, nodes[1])
        w_xi = w_xi * np.exp(-(xi**2) / 2) / np.sqrt(2 * np.pi)
        chi, w_chi = _chi_nodes(self.dimension - 1, nodes[2])
        return _fill(
            grid, self.eta, self.batch_size, u / np.sqrt(self.batch_size), w_u / w_u.sum(),
            xi, w_xi / w_xi.sum(), chi, w_chi / w_chi.sum(),
        )  # fmt: skip

    def _line(self, grid, number):
        """The matrix in one dimension, by ``number`` nodes where r ≤ 1."""
        matrix, beyond = np.zeros((len(grid), len(grid))), np.zeros(len(grid))
        doubled = np.ceil(np.log2(np.clip(grid, 1, 16))).astype(int)
        for times in np.unique(doubled):
            u, w_u = _chi_nodes(self.batch_size, number * 2**times)
            rows, u = np.flatnonzero(doubled == times), u / np.sqrt(self.batch_size)
            _fill_rows(matrix, beyond, rows, grid, self.eta, self.batch_size, u, w_u / w_u.sum())
        return matrix, beyond

    def stationary(self, points: int = 500, highest: float | None = None, nodes=None) -> StationaryLaw:
        """Stationary law of r on a grid that is even near 0 and in geometric progression far out.

        The entries are right relative to themselves, however small (GTH elimination). What would jump beyond
        ``highest`` (default: where the tail is negligible) stays there; ``nodes`` as for :meth:`matrix`, by
        default (160, 80, 20) in several dimensions. Raises ValueError where there is no stationary state, or
        for numbers out of range.
        """
        points = _check.integer("points", points, least=3, most=10_000)
        nodes = (160, 80, 20) if nodes is None and self.dimension > 1 else nodes
        if highest is not None:
            highest = _check.number("highest", highest, above=0, most=_LARGE)
        alpha = self.tail_exponent
        core = np.sqrt(self.eta * self.dimension / self.batch_size)
        if highest is None:
            highest = 12 * core * max(1.0, 10 ** min(8 / alpha, 4))
        bend = core / 2
        grid = bend * np.sinh(np.linspace(0, np.arcsinh(highest / bend), points))
        if not np.all(np.diff(grid) > 0):
            raise _check.refused("highest", highest, f"large enough for {points} different points")
        matrix, beyond = self.matrix(grid, nodes)
        matrix[:, -1] += beyond
        hats = np.zeros(points)
        hats[1:] += np.diff(grid) / 2
        hats[:-1] += np.diff(grid) / 2
        mass = _check.finite(_perron(matrix), highest=highest, points=points, nodes=nodes)
        return StationaryLaw(grid, mass, hats, self.dimension)

    def passage_time(self, ratio: float, points: int | None = None, nodes=None) -> float:
        """Mean number of steps from θ = 0 until L first exceeds ``ratio``·L*, on a grid of ``points``.

        The error of a grid, one over points squared, is taken out of log t with a second one of half as many.
        By default (213 points in one dimension, 107 in several) 0.1 % and 1 % are left at η = 0.1, up to t =
        10⁵. ``nodes`` as for :meth:`matrix`. Raises ValueError for a ratio that is not above 1 (where the run
        starts), other numbers out of range, or a time that exceeds a double.
        """
        ratio = _check.number("ratio", ratio, above=1, most=_LARGE)
        points = (213 if self.dimension == 1 else 107) if points is None else points
        points = _check.integer("points", points, least=5, most=10_000)
        reach = np.sqrt(ratio - 1)
        bend = min(reach, np.sqrt(self.eta * self.dimension / self.batch_size) / 2)
        logs = []
        for number in (points, (points + 1) // 2):
            grid = bend * np.sinh(np.linspace(0, np.arcsinh(reach / bend), number))
            logs.append(np.log(_absorption(*self.matrix(grid, nodes))))
        squares = (points - 1) ** 2 / ((points + 1) // 2 - 1) ** 2
        time = float(np.exp((squares * logs[0] - logs[1]) / (squares - 1)))
        return _check.finite(time, ratio=ratio, points=points, nodes=nodes)


def _grid(name, values):
    """Checked points that increase from 0."""
    grid = _check.array(name, values, ndim=1, increasing=True, most=_LARGE)
    if len(grid) < 2 or grid[0] != 0:
        raise _check.refused(name, values, "two or more points that increase from 0")
    return grid


def _legendre(low, high, number):
    nodes, weights = roots_legendre(number)
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


def _log_chi(x, freedom):
    """Log density of √χ² with ``freedom`` degrees of freedom."""
    return (freedom - 1) * np.log(x) - x**2 / 2 - (freedom / 2 - 1) * np.log(2) - gammaln(freedom / 2)


def _chi_nodes(freedom, number):
    """Nodes and weights for √χ² with ``freedom`` degrees of freedom."""
    x, w = _legendre(max(0.0, np.sqrt(freedom) - 7.5), np.sqrt(freedom) + 7.5, number)
    return x, w * np.exp(_log_chi(x, freedom))


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
def _fill_rows(matrix, beyond, rows, grid, eta, batch, u, w_u):  # pragma: no cover - compiled
    """The same in one dimension: r' is the size of a normal number, the mean over ξ is in closed form."""
    for i in rows:
        for a in range(len(u)):
            spread = eta * u[a] / math.sqrt(batch)
            for sign in (1.0, -1.0):
                mean = sign * (1 - eta * u[a] * u[a]) * grid[i]
                j = max(np.searchsorted(grid, mean - 8 * spread) - 1, 0)
                low = (grid[j] - mean) / spread
                q_low = math.erfc(abs(low) / math.sqrt(2)) / 2
                while low < 8 and j < len(grid) - 1:
                    high = (grid[j + 1] - mean) / spread
                    q_high = math.erfc(abs(high) / math.sqrt(2)) / 2
                    inside = abs(q_low - q_high) if low > 0 or high < 0 else 1 - q_low - q_high
                    bells = (math.exp(-low * low / 2) - math.exp(-high * high / 2)) / math.sqrt(2 * math.pi)
                    share = ((mean - grid[j]) * inside + spread * bells) / (grid[j + 1] - grid[j])
                    share = min(max(share, 0.0), inside)
                    matrix[i, j] += w_u[a] * (inside - share)
                    matrix[i, j + 1] += w_u[a] * share
                    low, q_low, j = high, q_high, j + 1
                if low < 8:
                    beyond[i] += w_u[a] * (q_low if low > 0 else 1 - q_low)


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
