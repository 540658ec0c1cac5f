"""Hopping between the two valleys at frozen y: the small-step limit in closed form, and the discrete chain.

At frozen y each side of the two-valley landscape is a parabola, L − L₀ = x(x − g)/f, and the noise on it is
constant, so the small-step limit has one diffusion constant per side, D = Δ_S (2/f)^p. The power p is that of
the Hessian in the noise covariance: 0 isotropic, 1 Hessian-aligned (Y26), 2 random shift (Y22). D jumps at
x = 0, where the stochastic convention is decided:

    flux   J = −L′P − D^c ∂ₓ(D^{1−c} P),   c = 0 Itô, ½ Stratonovich, 1 isothermal (Y26 A10)

so D^{1−c} P is continuous there. Time is τ = ηt except in :class:`FrozenChain`, which counts iterations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sparse
from numpy.polynomial.legendre import leggauss
from scipy.sparse.linalg import splu
from scipy.special import dawsn, erf, erfcx, expit

from flatmin import _check
from flatmin.fits import limit_by_halving
from flatmin.theory.conventions import convention_power
from flatmin.theory.landscape import Landscape
from flatmin.theory.two_valleys.landscape import flatness, position

__all__ = [
    "FrozenChain",
    "Slice",
    "crossing_time",
    "extrapolated_flat",
    "frozen",
    "passage_rate_asymptotic",
    "passage_time",
    "passage_time_erfi",
    "slicer",
    "splitting",
    "stationary_density",
    "stationary_flat",
]

SIDES = ("flat", "sharp")
#: noise level and distance beyond which formulas overflow, and the reduced barrier z with e^z² = 10²⁹³
_LOUDEST, _FARTHEST, _HIGHEST = 1e100, 1e50, 26.0


@dataclass(frozen=True)
class Slice:
    """The landscape across the valleys at one y > 0, or at an array of them.

    ``f`` maps each side to its flatness f > 0 (curvature 2/f), ``floor`` to the distance of the valley floor
    from the kink, g/2 > 0; ``barrier`` is ΔL > 0, the same on both sides. Raises ValueError for a side that
    is missing, or an entry that is not positive.
    """

    y: np.ndarray
    f: dict[str, np.ndarray]
    floor: dict[str, np.ndarray]
    barrier: np.ndarray

    def __post_init__(self):
        for name, values in (("y", self.y), ("barrier", self.barrier)):
            _check.array(name, values, above=0)
        for name, sides in (("f", self.f), ("floor", self.floor)):
            if not isinstance(sides, dict) or set(sides) != set(SIDES):
                raise _check.refused(name, sides, "a dict from 'flat' and 'sharp' to positive numbers")
            for values in sides.values():
                _check.array(name, values, above=0)

    def diffusion(self, side: str, delta_s, power: int = 1):
        """D = Δ_S (2/f)^power on a side (Y26 A13 for power 1), power 0, 1 or 2; ValueError for others."""
        delta_s = _check.array("delta_s", delta_s, above=0, most=_LOUDEST)
        power = _check.integer("power", power, least=0, most=2)
        _check.together(delta_s=delta_s, y=self.y)
        return delta_s * (2 / self.f[_known(side)]) ** power

    def reduced_barrier(self, side: str, delta_s, power: int = 1):
        """z = √(ΔL/D), the barrier in units of the side's own temperature; as for :meth:`diffusion`."""
        return np.sqrt(self.barrier / self.diffusion(side, delta_s, power))


def slicer(landscape: Landscape) -> Callable[[np.ndarray], Slice]:
    """A function from y > 0 to the :class:`Slice` there; compiled once, for many y.

    ValueError for another landscape than two valleys with numbers, and, from the function, where y is not
    positive: at y ≤ 0 there are no two valleys.
    """
    _check.instance("landscape", landscape, Landscape)
    if "y_f" not in landscape.values or landscape.dimension != 2:
        raise _check.refused("landscape", landscape.name, "two_valleys() with numbers for its parameters")
    f = {side: landscape.function(flatness(side)) for side in SIDES}
    floor = {side: landscape.function(position(side)) for side in SIDES}

    def at(y) -> Slice:
        y = _check.array("y", y, above=0, most=_FARTHEST)
        widths = {side: f[side](0.0, y) for side in SIDES}
        distances = {side: np.abs(floor[side](0.0, y)) for side in SIDES}
        # from f and floor, so that ΔL is right for any values of the parameters
        return Slice(y, widths, distances, distances["flat"] ** 2 / widths["flat"])

    return at


def frozen(landscape: Landscape, y) -> Slice:
    """The slice of a two-valley landscape with numbers at y > 0 (a float or an array); see :func:`slicer`."""
    return slicer(landscape)(y)


def stationary_flat(at: Slice, delta_s, convention: str = "ito", power: int = 1):
    """Stationary probability of the flat side, x > 0, in the limit η → 0 at fixed Δ_S = ησ (number or array).

    Weight of a side: ∫ D^{c−1} e^{−(L−L₀)/D} dx = D^{c−1/2} √(πf)/2 · e^{z²}(1 + erf z), exact because each
    side is a parabola. ``convention`` is "ito", "stratonovich" or "isothermal", ``power`` 0, 1 or 2 is that
    of the Hessian in the noise covariance. Raises ValueError for values outside these.
    """
    _check.instance("at", at, Slice)
    c = 1 - float(convention_power(convention))
    log_weight = {}
    for side in SIDES:
        d, z = at.diffusion(side, delta_s, power), at.reduced_barrier(side, delta_s, power)
        log_weight[side] = (c - 0.5) * np.log(d) + 0.5 * np.log(at.f[side]) + z**2 + np.log1p(erf(z))
    return expit(log_weight["flat"] - log_weight["sharp"])


def stationary_density(at: Slice, x, delta_s: float, convention: str = "ito", power: int = 1):
    """Stationary density across the valleys in the limit η → 0, at one y and the points x (an array).

    On each side the Gaussian e^{−(x − x*)²/Df}, normalised on its side, times the probability of the side. At
    x = 0 it jumps unless the convention is isothermal or the noise isotropic; x = 0 is on the flat side.
    ``delta_s`` is one number; the rest, and errors, as for :func:`stationary_flat`.
    """
    x, at = _check.array("x", x, least=-_FARTHEST, most=_FARTHEST), _single(at)
    delta_s = _check.number("delta_s", delta_s, above=0, most=_LOUDEST)
    p = stationary_flat(at, delta_s, convention, power)
    density = np.empty_like(x)
    for side, chosen, share in (("flat", x >= 0, p), ("sharp", x < 0, 1 - p)):
        width = np.sqrt(at.diffusion(side, delta_s, power) * at.f[side])
        z = at.reduced_barrier(side, delta_s, power)
        norm = math.sqrt(math.pi) / 2 * width * (1 + erf(z))
        density[chosen] = share * np.exp(-(((np.abs(x[chosen]) - at.floor[side]) / width) ** 2)) / norm
    return density


def passage_time(at: Slice, side: str, delta_s, power: int = 1):
    """Mean time τ to get from the floor of a side to the kink (Y26 A23, A24), exact, by quadrature.

    In the variable u = distance from the floor/√(Df) it is f (√π/2) ∫₀^z e^{u²}(1 + erf u) du. No convention
    enters, since D is constant on the way. ``side`` is "flat" or "sharp", the rest as for
    :func:`stationary_flat`. ValueError also where the time would exceed 10³⁰⁰ (z > 26).
    """
    _check.instance("at", at, Slice)
    z = _climbed(at.reduced_barrier(side, delta_s, power))
    return at.f[side] * math.sqrt(math.pi) / 2 * _integral(lambda u: erfcx(-u), z)


def passage_time_erfi(at: Slice, side: str, delta_s):
    """τ ≈ (π/2) f erfi(z), the approximation Y26 A28; arguments and errors as for :func:`passage_time`."""
    z = _climbed(_check.instance("at", at, Slice).reduced_barrier(side, delta_s))
    # erfi z = (2/√π) e^{z²} dawsn z
    return math.sqrt(math.pi) * at.f[side] * np.exp(z**2) * dawsn(z)


def passage_rate_asymptotic(at: Slice, side: str, delta_s):
    """k ≈ √(2ΔL/πΔ_S f) e^{−ΔL f/2Δ_S}, the rate to the kink for high barriers, Y26 A29.

    Arguments and errors as for :func:`passage_time`; 0 for a barrier too high for any rate.
    """
    z = _check.instance("at", at, Slice).reduced_barrier(side, delta_s)
    return 2 * z / (math.sqrt(math.pi) * at.f[side]) * np.exp(-(z**2))


def splitting(at: Slice, delta_s, convention: str = "ito", power: int = 1):
    """Probability that a point on the kink reaches the flat floor before the sharp one.

    The scale density is D^{−c} e^{(L−L₀)/D}; a side's share is S = D^{−c} √(Df) dawsn z, and the answer
    S_sharp/(S_sharp + S_flat). For high barriers and p = 1 in the Itô convention it is x₁/(x₁ + x₂).
    Arguments and errors as for :func:`stationary_flat`.
    """
    _check.instance("at", at, Slice)
    share = _shares(at, delta_s, convention, power)
    return share["sharp"] / (share["sharp"] + share["flat"])


def crossing_time(at: Slice, side: str, delta_s, convention: str = "ito", power: int = 1):
    """Mean time from the floor of ``side`` to the floor of the *other* side, exact, by quadrature.

    Up to the kink it is :func:`passage_time`; beyond it come the returns, S_other M_side with M_side the
    speed measure ∫ D^{c−1} e^{−(L−L₀)/D} dx of the side left, and the way down. Its inverse is the hopping
    rate for high barriers. Arguments and errors as for :func:`passage_time`.
    """
    _check.instance("at", at, Slice)
    other = SIDES[1 - SIDES.index(_known(side))]
    c = 1 - float(convention_power(convention))
    d, z = at.diffusion(side, delta_s, power), _climbed(at.reduced_barrier(side, delta_s, power))
    speed = d ** (c - 0.5) * np.sqrt(math.pi * at.f[side]) / 2 * np.exp(z**2) * (1 + erf(z))
    down = _climbed(at.reduced_barrier(other, delta_s, power))
    descent = _integral(lambda u: erfcx(u) - np.exp(u**2 - down**2) * erfcx(down), down)
    descent = at.f[other] * math.sqrt(math.pi) / 2 * descent
    returns = _shares(at, delta_s, convention, power)[other] * speed
    return passage_time(at, side, delta_s, power) + returns + descent


class FrozenChain:
    """The discrete update at frozen y, as a transfer operator: x ← x − η(∂ₓL + ξ), ξ ~ N(0, 2σ (2/f)^p).

    On either side it is an AR(1) step, so K(x′|x) is a Gaussian whose mean and width jump at x = 0. The
    density after a step is smooth; it is kept at Gauss–Legendre nodes ``x`` (increasing, with their
    ``weights``) on panels that end at x = 0, where the quadrature error is below 1e-10 (see the tests). Rates
    and times are per iteration.

    Parameters
    ----------
    at : Slice at one y
    eta, delta_s : floats > 0
        Step size and Δ_S = ησ.
    power : 0, 1 or 2
        That of the Hessian in the noise covariance.
    reach : float > 0
        How far the interval extends beyond the floors, in standard deviations of the valleys.

    Raises
    ------
    ValueError
        Where η ≥ f on a side: the chain is unstable there (Y22 S7: η · curvature < 2), and for a step so
        small that the operator would not fit into memory.
    """

    #: nodes a panel and panels per kick; kernel tails are cut at this many standard deviations
    _NODES, _PANEL, _CUT = 12, 2.5, 9.0
    #: nodes in all; the operator holds about a hundred numbers for each
    _MOST = 200_000

    def __init__(self, at: Slice, eta: float, delta_s: float, power: int = 1, reach: float = 9.0):
        self.at, self.eta = _single(at), _check.number("eta", eta, above=0)
        self.delta_s = _check.number("delta_s", delta_s, above=0, most=_LOUDEST)
        self.power, reach = power, _check.number("reach", reach, above=0, most=100)
        self.factor, self.kick, spread = {}, {}, {}
        for side in SIDES:
            f = float(at.f[side])
            if eta >= f:
                raise _check.refused("eta", eta, f"below f={f:.4g} of the {side} side at y={at.y:g}")
            variance = 2 * self.eta * float(at.diffusion(side, self.delta_s, power))
            self.factor[side], self.kick[side] = 1 - 2 * self.eta / f, math.sqrt(variance)
            spread[side] = math.sqrt(variance / (1 - self.factor[side] ** 2))
        widest = reach * max(spread.values()) + max(self.kick.values())
        lengths = [float(at.floor[side]) + widest for side in SIDES]
        nodes = self._NODES * sum(lengths) / (self._PANEL * min(self.kick.values()))
        if not nodes <= self._MOST:
            allowed = f"so large that its kicks can be resolved: {nodes:.2g} nodes are more than {self._MOST}"
            raise _check.refused("eta or delta_s", (self.eta, self.delta_s), allowed)
        (right, right_weights), (left, left_weights) = map(self._panels, lengths)
        self.x = np.concatenate([-left[::-1], right])
        self.weights = np.concatenate([left_weights[::-1], right_weights])

    def _panels(self, length):
        """Nodes and weights on (0, length): panels no wider than the kicks allow."""
        count = max(2, math.ceil(length / (self._PANEL * min(self.kick.values()))))
        nodes, weights = leggauss(self._NODES)
        edges = np.linspace(0, length, count + 1)
        half = np.diff(edges)[:, None] / 2
        return (edges[:-1, None] + half * (nodes + 1)).ravel(), (half * weights).ravel()

    @property
    def on_flat_side(self) -> np.ndarray:
        """Which nodes lie on the flat side, shape (nodes,)."""
        return self.x > 0

    @cached_property
    def operator(self) -> sparse.csc_array:
        """K, shape (nodes, nodes): K @ p is the probability *mass* at the nodes one step after mass p.

        Columns are normalised, so that mass is kept exactly; the factor they are divided by is 1 to
        quadrature accuracy except at the far ends, where it keeps the chain inside.
        """
        mean = np.empty_like(self.x)
        width = np.empty_like(self.x)
        for side, chosen, sign in (("flat", self.on_flat_side, 1), ("sharp", ~self.on_flat_side, -1)):
            floor = sign * float(self.at.floor[side])
            mean[chosen] = floor + self.factor[side] * (self.x[chosen] - floor)
            width[chosen] = self.kick[side]
        first = np.searchsorted(self.x, mean - self._CUT * width)
        last = np.searchsorted(self.x, mean + self._CUT * width)
        counts = last - first
        pointers = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(pointers[-1]) - np.repeat(pointers[:-1] - first, counts)
        z = (self.x[rows] - np.repeat(mean, counts)) / np.repeat(width, counts)
        mass = self.weights[rows] * np.exp(-(z**2) / 2)
        mass /= np.repeat(np.add.reduceat(mass, pointers[:-1]), counts)
        return sparse.csc_array((mass, rows, pointers), shape=(len(self.x),) * 2)

    @cached_property
    def _settled(self) -> dict[str, tuple[float, np.ndarray, np.ndarray]]:
        """Per side: exit rate, settled mass and survival, the Perron pair of the operator on that side."""
        found = {}
        for side, chosen in (("flat", self.on_flat_side), ("sharp", ~self.on_flat_side)):
            inside = self.operator[chosen][:, chosen]
            factors = _shifted(inside)
            size, rate = inside.shape[0], np.inf
            mass, survival = np.full(size, 1 / size), np.ones(size)
            for _ in range(200):
                mass = factors.solve(mass)
                mass /= mass.sum()
                survival = factors.solve(survival, trans="T")
                survival /= survival.max()
                before, rate = rate, 1 - float((inside @ mass).sum())
                if abs(rate - before) <= 1e-10 * rate + 1e-15:
                    break
            found[side] = max(rate, 0.0), mass, survival / (survival @ mass)
        return found

    @property
    def exit_rates(self) -> dict[str, float]:
        """Rates per iteration of the next change of sign of x, from each side once settled in it.

        1 − (largest eigenvalue of the operator restricted to the side). A change of sign need not be a hop:
        many are followed by a return. These rates set the last hop as the simulation counts it.
        """
        return {side: rate for side, (rate, *_) in self._settled.items()}

    def exit_time(self, x: float) -> float:
        """Mean iterations from x to the first change of its sign, (1 − K)⁻¹1; ValueError off the nodes."""
        x = float(self._inside(_check.number("x", x)))
        chosen = self.on_flat_side if x >= 0 else ~self.on_flat_side
        inside = self.operator[chosen][:, chosen]
        factors = splu(sparse.csc_matrix(sparse.eye_array(inside.shape[0]) - inside))
        times = factors.solve(np.ones(inside.shape[0]), trans="T")
        return float(np.interp(x, self.x[chosen], times))

    @property
    def isolated(self) -> bool:
        """Whether no change of sign is to be expected in 10¹² iterations from either side.

        The stationary law then hangs on numbers below rounding, and asking for it is a ValueError.
        """
        return max(self.exit_rates.values()) < 1e-12

    @cached_property
    def stationary(self) -> np.ndarray:
        """Stationary mass at the nodes, shape (nodes,), sum 1.

        One node's equation is dropped and its mass set to 1, which leaves a banded system; the node lies on
        the side that is left less often, where most of the mass is.
        """
        if self.isolated:
            raise ValueError(
                f"delta_s={self.delta_s:g} is too small at y={self.at.y:g}: the valleys are isolated, "
                "no hop between them is to be expected in 10¹² iterations"
            )
        deep = min(SIDES, key=self.exit_rates.get)
        chosen, mass = (self.on_flat_side if deep == "flat" else ~self.on_flat_side), self._settled[deep][1]
        pin = np.flatnonzero(chosen)[np.argmax(mass / self.weights[chosen])]
        keep = np.arange(len(self.x)) != pin
        rest = sparse.csc_array(sparse.eye_array(len(self.x)) - self.operator)[keep][:, keep]
        mass = np.empty(len(self.x))
        mass[keep] = splu(sparse.csc_matrix(rest)).solve(self.operator[:, [pin]].toarray().ravel()[keep])
        mass[pin] = 1.0
        return mass / mass.sum()

    @property
    def flat_probability(self) -> float:
        """Stationary probability of x > 0."""
        return float(self.stationary[self.on_flat_side].sum())

    @cached_property
    def _slow(self) -> tuple[float, np.ndarray, np.ndarray]:
        """1 − λ₂ and the right (mass) and left (function) eigenvectors of the slowest decaying mode."""
        factors = _shifted(self.operator)
        # start from "flat minus its mean" and take the stationary part out at every turn
        left = self.on_flat_side.astype(float)
        right = self.stationary * (left - self.flat_probability)
        decay = np.inf
        for _ in range(200):
            right = factors.solve(right)
            right -= self.stationary * right.sum()
            right /= np.abs(right).sum()
            left = factors.solve(left, trans="T")
            left -= left @ self.stationary
            left /= np.abs(left).max()
            before = decay
            decay = 1 - (left @ (self.operator @ right)) / (left @ right)
            if abs(decay - before) <= 1e-10 * abs(decay) + 1e-15:
                break
        return max(float(decay), 0.0), right, left / (left @ right)

    @property
    def relaxation_rate(self) -> float:
        """1 − λ₂ per iteration: P_flat relaxes to its stationary value at this rate, k₊ + k₋."""
        return self._slow[0]

    @property
    def hop_rates(self) -> dict[str, float]:
        """Rates per iteration of leaving each side for good: {"flat": k₊, "sharp": k₋} (Y26 A30)."""
        p = self.flat_probability
        return {"flat": self.relaxation_rate * (1 - p), "sharp": self.relaxation_rate * p}

    def settled_flat(self, x) -> np.ndarray:
        """P_flat after a start at x, once all but the slowest mode has died out, run back to the start.

        It is π + c·φ(x) with φ the left slow eigenvector: the value from which the rate equation starts. An
        intercept and no probability, it may lie outside 0…1, by little where barriers are high. ``x`` is a
        number or an array; ValueError outside the nodes, where φ is not known.
        """
        _, right, left = self._slow
        amplitude = right[self.on_flat_side].sum()
        return self.flat_probability + amplitude * np.interp(self._inside(x), self.x, left)

    def survival(self, x) -> np.ndarray:
        """Probability that a start at x sees no change of sign for long, over that of a settled start.

        ValueError outside the nodes.
        """
        x = self._inside(x)
        values = np.empty(np.shape(x))
        for side, chosen in (("flat", self.on_flat_side), ("sharp", ~self.on_flat_side)):
            here = (x >= 0) == (side == "flat")
            values[here] = np.interp(x[here], self.x[chosen], self._settled[side][2])
        return values

    def mean(self, values: np.ndarray, side: str) -> float:
        """Mean of ``values`` (nodes,) over one side by the stationary law; if isolated, the settled one.

        ValueError for another side than "flat" and "sharp", or values that are not one for each node.
        """
        values = _check.array("values", values, shape=self.x.shape)
        chosen = self.on_flat_side if _known(side) == "flat" else ~self.on_flat_side
        mass = self._settled[side][1] if self.isolated else self.stationary[chosen]
        return float(mass @ values[chosen] / mass.sum())

    def _inside(self, x) -> np.ndarray:
        """x as an array, if it lies among the nodes."""
        return _check.array("x", x, least=float(self.x[0]), most=float(self.x[-1]), empty=True)


def extrapolated_flat(
    at: Slice, delta_s: float, power: int = 1, eta: float = 0.01, halvings: int = 5
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Stationary P_flat of the discrete chain extrapolated to η → 0 at fixed Δ_S, and what it comes from.

    The chain is solved at η/4^k, k = 0 … halvings, where √η halves each time, and the values are extrapolated
    as a polynomial in √η (Neville). Returns the value, its change with the last refinement (an upper bound on
    the error in practice), the steps and the values there, (halvings + 1,). Raises ValueError as
    :class:`FrozenChain`, for isolated valleys, and for fewer than two halvings.
    """
    halvings = _check.integer("halvings", halvings, least=2, most=12)
    etas = _check.number("eta", eta, above=0) / 4.0 ** np.arange(halvings + 1)
    values = np.array([FrozenChain(at, e, delta_s, power).flat_probability for e in etas])
    limit, change = limit_by_halving(values)
    return float(limit), float(change), etas, values


def _shifted(operator):
    """LU factors of 1 + 1e-9 − K, for inverse iteration towards the eigenvalues next to 1."""
    return splu(sparse.csc_matrix(sparse.eye_array(operator.shape[0]) * (1 + 1e-9) - operator))


def _shares(at: Slice, delta_s, convention: str, power: int) -> dict[str, np.ndarray]:
    """∫ D^{−c} e^{(L−L₀)/D} dx from the kink to either floor."""
    c = 1 - float(convention_power(convention))
    shares = {}
    for side in SIDES:
        d, z = at.diffusion(side, delta_s, power), at.reduced_barrier(side, delta_s, power)
        shares[side] = d ** (0.5 - c) * np.sqrt(at.f[side]) * dawsn(z)
    return shares


def _integral(integrand, upper):
    """∫₀^upper by 80 Gauss–Legendre nodes; upper may be an array."""
    nodes, weights = leggauss(80)
    upper = np.asarray(upper, dtype=float)
    u = (nodes + 1) / 2 * upper[..., None]
    # the integrand may hold ``upper`` itself: keep its axis in front
    values = np.moveaxis(np.asarray([integrand(np.moveaxis(u, -1, 0)[k]) for k in range(80)]), 0, -1)
    return (values * weights).sum(axis=-1) * upper / 2


def _known(side: str) -> str:
    return _check.choice("side", side, SIDES)


def _single(at: Slice) -> Slice:
    """A slice at one y."""
    if np.ndim(_check.instance("at", at, Slice).y):
        raise _check.refused("at", at.y, "a Slice at one y")
    return at


def _climbed(z):
    """A reduced barrier over which a passage time is still a number."""
    if np.any(z > _HIGHEST):
        allowed = f"so large that the barriers are at most {_HIGHEST:g}² of it"
        raise _check.refused("delta_s: z", z, allowed)
    return z
