"""The valley of Y23 Eq. 5: a few sharp directions over a floor of many flat ones, and its averaged dynamics.

L(x, y) = ½ Σᵢ λᵢ(x) yᵢ² + ½ ε λ̄₀ Σⱼ xⱼ²,  λᵢ(x) = λ₀ᵢ + Σⱼ (λ₁ᵢⱼ xⱼ² + λ₂ᵢⱼ xⱼ⁴),  λ̄₀ the mean of λ₀.

Averaging, to first order in Δ_S = ησ: at frozen x the random shift gives each yᵢ exactly

    ⟨yᵢ²⟩ = mᵢ = Δ_S λᵢ/(1 − ηλᵢ/2 − Δ_S|∇λᵢ|²/λᵢ),

and x follows the mean force, dx/dτ = −½ Σᵢ mᵢ ∇λᵢ − ελ̄₀ x. For η → 0 that is the gradient of the effective
loss (Δ_S/4) Σᵢ λᵢ² + ½ελ̄₀|x|². The noise in x, the cross diffusion of x and y and the fluctuations of the
force add terms of order Δ_S² to drift and diffusion (see :mod:`flatmin.theory.continuum.reduction` for two
dimensions), a fraction of order Δ_S of what is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sympy as sp

from flatmin import _check
from flatmin.theory.landscape import Landscape

__all__ = ["Averaged", "HighDimensionalValley", "high_dimensional_valley", "isotropic_strength"]

#: beyond this many coordinates a sympy expression of the loss is of no use
_MOST_SYMBOLS = 30
#: mean squares of y beyond this have run away
_RUNAWAY = 1e6


@dataclass(frozen=True, eq=False)
class HighDimensionalValley:
    """The valley of Y23 Eq. 5 with its tilt ε, by its coefficients; coordinates (x₁ … , y₁ …).

    Parameters
    ----------
    lambda_0 : array, (sharp,)
        Curvatures at x = 0, positive.
    lambda_1, lambda_2 : array, (sharp, flat)
        Coefficients of xⱼ² and xⱼ⁴.
    epsilon : float ≥ 0
        Tilt of the floor, which makes x = 0 the global minimum.

    Raises
    ------
    ValueError
        For other shapes, or if some λᵢ(x) is not positive for every x: then it names λ₁ (or λ₂, where that
        falls without bound), with the lowest value.
    """

    lambda_0: np.ndarray
    lambda_1: np.ndarray
    lambda_2: np.ndarray
    epsilon: float = 1e-4

    def __post_init__(self):
        largest = {"least": -1e150, "most": 1e150}
        zero = _check.array("lambda_0", self.lambda_0, ndim=1, above=0, most=1e150)
        one = _check.array("lambda_1", self.lambda_1, shape=(len(zero), None), **largest)
        two = _check.array("lambda_2", self.lambda_2, shape=one.shape, **largest)
        for name, value in (("lambda_0", zero), ("lambda_1", one), ("lambda_2", two)):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "epsilon", _check.number("epsilon", self.epsilon, least=0, most=1e150))
        if np.any(two < 0) or np.any((two == 0) & (one < 0)):
            raise _check.refused("lambda_2", two, "such that every λᵢ(x) is bounded below")
        # each direction has its own minimum −λ₁²/4λ₂, and they add
        falls = np.minimum(one, 0.0) ** 2 / (4 * np.where(two > 0, two, 1.0))
        lowest = zero - falls.sum(axis=1)
        if np.any(lowest <= 0):
            worst = int(lowest.argmin())
            allowed = f"such that every λᵢ(x) is positive; λ{worst + 1} falls to {lowest[worst]:.4g}"
            raise _check.refused("lambda_1", one, allowed)

    # ------------------------------------------------------------------ as simulate sees it
    name = "valley of many directions"
    parameters, values = (), {}

    @property
    def sharp(self) -> int:
        """Number of sharp directions N_S."""
        return self.lambda_1.shape[0]

    @property
    def flat(self) -> int:
        """Number of flat directions N_F."""
        return self.lambda_1.shape[1]

    @property
    def dimension(self) -> int:
        """Number of coordinates N_F + N_S."""
        return self.flat + self.sharp

    @property
    def coordinates(self) -> tuple[sp.Symbol, ...]:
        """Symbols x1 …, y1 …"""
        names = [f"x{j + 1}" for j in range(self.flat)] + [f"y{i + 1}" for i in range(self.sharp)]
        return tuple(sp.Symbol(name, real=True) for name in names)

    def require_numbers(self):
        """Nothing to ask for: it is made of numbers."""

    def require_domain(self, *points):
        """Nothing to ask for: the loss is defined everywhere."""

    def landscape(self) -> Landscape:
        """The same loss as a sympy expression; ValueError beyond 30 coordinates."""
        if self.dimension > _MOST_SYMBOLS:
            allowed = f"of at most {_MOST_SYMBOLS} sharp and flat directions in all"
            raise _check.refused("lambda_1", self.lambda_1, allowed)
        x, y = self.coordinates[: self.flat], self.coordinates[self.flat :]
        loss = sp.Float(self.tilt) / 2 * sum(q**2 for q in x)
        for i, fast in enumerate(y):
            terms = zip(self.lambda_1[i].tolist(), self.lambda_2[i].tolist(), x, strict=True)
            loss += (self.lambda_0[i].item() + sum(a * q**2 + b * q**4 for a, b, q in terms)) * fast**2 / 2
        return Landscape(loss, self.coordinates, name=self.name)

    # ------------------------------------------------------------------ numbers
    @property
    def tilt(self) -> float:
        """ελ̄₀, the curvature of the floor."""
        return float(self.epsilon * self.lambda_0.mean())

    def curvatures(self, x) -> np.ndarray:
        """λᵢ(x), (…, sharp), at points x (…, flat) or at whole points (…, flat + sharp)."""
        square = self._floor(x) ** 2
        return self.lambda_0 + square @ self.lambda_1.T + square**2 @ self.lambda_2.T

    def slopes(self, x) -> np.ndarray:
        """∂λᵢ/∂xⱼ, (…, sharp, flat); points as in :meth:`curvatures`."""
        x = self._floor(x)[..., None, :]
        return 2 * x * (self.lambda_1 + 2 * x**2 * self.lambda_2)

    def log_flatness(self, x) -> np.ndarray:
        """ln F(x) = −Σᵢ ln λᵢ(x)/2N_S (Y23 Eq. 6), shape (…); points as in :meth:`curvatures`."""
        return -np.log(self.curvatures(x)).mean(axis=-1) / 2

    def loss(self, point) -> np.ndarray:
        """L at points (…, flat + sharp)."""
        x, y = self._split("point", point)
        return (self.curvatures(x) * y**2).sum(axis=-1) / 2 + self.tilt * (x**2).sum(axis=-1) / 2

    def gradient(self, point) -> np.ndarray:
        """∇L at points (…, flat + sharp), of the same shape."""
        x, y = self._split("point", point)
        along = (self.slopes(x) * y[..., None] ** 2).sum(axis=-2) / 2 + self.tilt * x
        return np.concatenate([along, self.curvatures(x) * y], axis=-1)

    def hessian_product(self, point, vector) -> np.ndarray:
        """Hv at points (…, flat + sharp) for vectors of the same shape, by the structure of H.

        The block of x is diagonal, ½ Σᵢ λᵢ,ⱼⱼ yᵢ² + ελ̄₀, that of y is λᵢ, and between them stands λᵢ,ⱼ yᵢ.
        """
        (x, y), (along, across) = self._split("point", point), self._split("vector", vector)
        cross = self.slopes(x) * y[..., None]
        bends = y**2 @ self.lambda_1 + 6 * x**2 * (y**2 @ self.lambda_2) + self.tilt
        flat = bends * along + (cross * across[..., None]).sum(axis=-2)
        return np.concatenate([flat, self.curvatures(x) * across + (cross * along[..., None, :]).sum(-1)], -1)

    def _floor(self, x):
        x = _check.array("x", x, least=-1e30, most=1e30)
        if x.ndim and x.shape[-1] in (self.flat, self.dimension):
            return x[..., : self.flat]
        raise _check.refused("x", x, f"of {self.flat} or {self.dimension} numbers along the last axis")

    def _split(self, name, point):
        point = _check.array(name, point, least=-1e30, most=1e30)
        if not point.ndim or point.shape[-1] != self.dimension:
            raise _check.refused(name, point, f"of {self.dimension} numbers along the last axis")
        return point[..., : self.flat], point[..., self.flat :]

    def start(self, seed: int, reach: float = 0.3, height: float = 1.0) -> np.ndarray:
        """A point to begin at, (flat + sharp,): xⱼ uniform within ``reach`` of 0, yᵢ at ``height``."""
        rng = np.random.default_rng([_check.integer("seed", seed, least=0), 8])
        reach = _check.number("reach", reach, least=0, most=1e30)
        height = _check.number("height", height, least=-1e30, most=1e30)
        return np.concatenate([rng.uniform(-reach, reach, self.flat), np.full(self.sharp, height)])

    # ------------------------------------------------------------------ averaged over y
    def mean_squares(self, x, eta: float, sigma: float) -> np.ndarray:
        """mᵢ = ⟨yᵢ²⟩ of the discrete step at frozen x, (…, sharp); infinite where it grows without bound."""
        eta, sigma = _check.numbers(eta=eta, sigma=sigma, least=0, most=1e30)
        curve = self.curvatures(x)
        room = 1 - eta * curve / 2 - eta * sigma * (self.slopes(x) ** 2).sum(axis=-1) / curve
        with np.errstate(divide="ignore"):
            return np.where(room > 0, eta * sigma * curve / np.maximum(room, 0), np.inf)

    def thresholds(self, eta: float = 0.0) -> np.ndarray:
        """Δ_S at which xⱼ = 0 gives way while the others are 0: ελ̄₀/(−Σᵢ λ₁ᵢⱼ λ₀ᵢ/(1 − ηλ₀ᵢ/2)), (flat,).

        Infinite where the sum is not negative. Raises ValueError unless 0 ≤ η < 2/max λ₀.
        """
        eta = _check.number("eta", eta, least=0, below=2 / self.lambda_0.max())
        pull = -(self.lambda_0 / (1 - eta * self.lambda_0 / 2)) @ self.lambda_1
        return np.where(pull > 0, self.tilt / np.where(pull > 0, pull, 1.0), np.inf)

    def averaged(self, eta: float, sigma: float, start, tau) -> Averaged:
        """The averaged dynamics in τ = ηt from a point (flat + sharp,), at increasing times τ ≥ 0.

        x by the mean force, mᵢ by its own exact recursion at frozen x, written as a flow,
        dmᵢ/dτ = −(2λᵢ − ηλᵢ² − 2Δ_S|∇λᵢ|²)mᵢ + 2Δ_Sλᵢ², from mᵢ(0) = yᵢ². Where it runs away it has diverged
        and stays. Raises ValueError for a start or times of another kind.
        """
        from scipy.integrate import solve_ivp  # a sixth of the time in which `simulate` is imported

        eta, sigma = _check.numbers(eta=eta, sigma=sigma, least=0, most=1e30)
        start = _check.array("start", start, shape=(self.dimension,), least=-1e3, most=1e3)
        x, y = self._split("start", start)
        tau = _check.array("tau", tau, ndim=1, least=0, increasing=True, most=1e30)
        flow, jacobian = self._flow(eta, eta * sigma)

        def runaway(_, state):
            return _RUNAWAY - np.abs(state).max()

        runaway.terminal = True
        with np.errstate(over="ignore", invalid="ignore"):
            found = solve_ivp(
                flow, (0.0, tau[-1] or 1e-300), [*x, *y**2], "LSODA", rtol=1e-7, atol=1e-10, t_eval=tau,
                events=runaway, jac=jacobian,
            )  # fmt: skip
        path = found.y.T if found.y.size else np.concatenate([x, y**2])[None]
        path = np.concatenate([path, np.repeat(path[-1:], len(tau) - len(path), axis=0)])
        return Averaged(tau, path[:, : self.flat], path[:, self.flat :], bool(found.status))

    def _flow(self, eta, level):
        """Velocity of (x, m) and its Jacobian, as functions of (τ, state)."""

        def parts(state):
            x, m = state[: self.flat], state[self.flat :]
            square = x**2
            curve = self.lambda_0 + self.lambda_1 @ square + self.lambda_2 @ square**2
            slope = 2 * x * (self.lambda_1 + 2 * square * self.lambda_2)
            return x, m, curve, slope, 2 * curve - eta * curve**2 - 2 * level * (slope**2).sum(axis=1)

        def flow(_, state):
            x, m, curve, slope, rate = parts(state)
            return np.concatenate([-m @ slope / 2 - self.tilt * x, 2 * level * curve**2 - rate * m])

        def jacobian(_, state):  # without the slope of |∇λ|²: good enough for Newton's steps
            x, m, curve, slope, rate = parts(state)
            bend = -m @ (self.lambda_1 + 6 * x**2 * self.lambda_2) - self.tilt
            cross = (4 * level * curve - 2 * (1 - eta * curve) * m)[:, None] * slope
            return np.block([[np.diag(bend), -slope.T / 2], [cross, np.diag(-rate)]])

        return flow, jacobian


@dataclass(frozen=True, eq=False)
class Averaged:
    """Averaged dynamics: times ``tau`` (n,), ``x`` (n, flat), ``squares`` ⟨yᵢ²⟩ (n, sharp), ``diverged``."""

    tau: np.ndarray
    x: np.ndarray
    squares: np.ndarray
    diverged: bool


def high_dimensional_valley(
    n_sharp: int = 5,
    n_flat: int = 100,
    *,
    epsilon: float = 1e-4,
    depth: float = 0.5,
    alike: bool = False,
    seed: int = 0,
) -> HighDimensionalValley:
    """A valley of Y23 Eq. 5 with coefficients drawn so that every λᵢ is positive; sizes are the paper's.

    The paper does not print its coefficients; the rule is ours. λ₀ᵢ is uniform on (4, 12), around the 8 of
    the paper's 2D model. Each λᵢ can fall by ``depth``·λ₀ᵢ in all, which the flat directions share: dᵢⱼ in
    proportion to exponential variables. Direction j takes its share at xⱼ² = sᵢⱼ, uniform on (0.15, 0.35):
    λ₁ = −2d/s, λ₂ = d/s². So λᵢ ≥ (1 − depth)λ₀ᵢ > 0 for every x, by construction.

    Parameters
    ----------
    n_sharp, n_flat : int ≥ 1
        N_S and N_F; together at most 10,000.
    epsilon : float ≥ 0
    depth : float, 0 < depth < 1
    alike : bool
        All directions with the middle values instead: λ₀ = 8, equal shares, s = 0.25. For comparison.
    seed : int

    Raises
    ------
    ValueError
        For numbers out of range.
    """
    sharp, flat = _check.integers(n_sharp=n_sharp, n_flat=n_flat, least=1, most=10_000)
    if sharp + flat > 10_000:
        raise _check.refused("n_flat", flat, f"at most {10_000 - sharp} beside {sharp} sharp directions")
    depth = _check.number("depth", depth, above=0, below=1)
    rng = np.random.default_rng(_check.integer("seed", seed, least=0))
    zero = rng.uniform(4, 12, sharp)
    share, place = rng.exponential(size=(sharp, flat)), rng.uniform(0.15, 0.35, (sharp, flat))
    if _check.flag("alike", alike):
        zero, share, place = np.full(sharp, 8.0), np.ones((sharp, flat)), np.full((sharp, flat), 0.25)
    fall = depth * zero[:, None] * share / share.sum(axis=1, keepdims=True)
    return HighDimensionalValley(zero, -2 * fall / place, fall / place**2, epsilon)


def isotropic_strength(valley: HighDimensionalValley, sigma: float, x, same: str = "trace") -> float:
    """σ of isotropic noise (GLD) as strong as the random shift of strength σ is on the floor at x (flat,).

    "The same strength" has two readings. ``"trace"``: Tr C equal, 2σ Tr H² = 2σ_L(N_F + N_S).
    ``"coordinate"``: every coordinate is kicked as hard as SGD kicks a sharp one on average,
    σ_L = σ ⟨λᵢ²⟩ᵢ. Raises ValueError for another word or numbers out of range.
    """
    _check.instance("valley", valley, HighDimensionalValley)
    sigma = _check.number("sigma", sigma, least=0, most=1e100)
    curve = valley.curvatures(_check.array("x", x, ndim=1))
    if _check.choice("same", same, ("trace", "coordinate")) == "coordinate":
        return float(sigma * (curve**2).mean())
    return float(sigma * ((curve**2).sum() + valley.flat * valley.tilt**2) / valley.dimension)
