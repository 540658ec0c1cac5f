"""Simulated ensembles of the near-degenerate valley around its transition, and what is read off them.

Y22 §III and Fig. S4: the marginal of x as η → 0 beside the laws for it, order parameter and split of the
density at finite η.
"""

from __future__ import annotations

import numpy as np

from flatmin import _check
from flatmin.estimate import Estimate, student
from flatmin.theory.continuum.critical import critical_law
from flatmin.theory.continuum.fokker_planck import Equation, Region
from flatmin.theory.continuum.reduction import Reduction
from flatmin.theory.noise import NoNoise, RandomShift
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

__all__ = [
    "GROUPS",
    "START",
    "VALLEY",
    "distance",
    "edges",
    "landing",
    "laws",
    "marginals",
    "order_parameter",
    "split",
]

#: λ₀, λ₁, λ₂ of Y22's and Y23's figures; ε is chosen by each function
VALLEY = near_degenerate_valley().at(lambda_0=8, lambda_1=-2, lambda_2=1)
START = (1.5, 1.5)
GROUPS = 8
_RANGE, _BINS = 1.6, 320
_TILT = 0.02  # ε of Y22 Fig. 3


def marginals(delta_s, *, eta: float, tau: float, trajectories: int, seed: int) -> dict[str, np.ndarray]:
    """Simulated marginal of x at ε = 0.02 and the noise levels ``delta_s`` (n,), in groups of trajectories.

    Returns ``density`` (n, GROUPS, bins) and ``square``, ⟨x²⟩, (n, GROUPS). ``tau`` is the length of a run in
    τ = ηt, of which the first tenth is discarded. Raises ValueError for numbers out of range.
    """
    delta_s = _check.array("delta_s", delta_s, ndim=1, above=0)
    eta, steps = _steps(eta, tau)
    sigma = np.broadcast_to(delta_s[:, None] / eta, (len(delta_s), GROUPS))
    runs = simulate(
        VALLEY.at(epsilon=_TILT),
        RandomShift(sigma),
        eta=eta,
        steps=steps,
        burn_in=steps // 10,
        start=(0.1, 0.0),
        trajectories=trajectories,
        observe=("x**2",),
        histogram={"x": (-_RANGE, _RANGE, _BINS)},
        histogram_every=max(1, round(0.32 / eta)),
        seed=seed,
    )
    return {
        "density": runs.histogram("x").density.astype(np.float32),
        "square": runs.time_average("x**2").value,
    }


def edges() -> np.ndarray:
    """Edges of the bins of :func:`marginals`, (bins + 1,)."""
    return np.linspace(-_RANGE, _RANGE, _BINS + 1)


def laws(delta_s: float) -> dict[str, np.ndarray]:
    """Densities of x on :func:`edges` at ε = 0.02, by name.

    The printed one (Y22 S30), the Itô one of S29, both of ours, and that of the 2D equation.
    """
    valley = VALLEY.at(epsilon=_TILT)
    delta_s = _check.number("delta_s", delta_s, above=0)
    x, reduction, law = edges(), Reduction(valley), critical_law(valley)
    equation = Equation(valley, RandomShift(), convention="ito", region=Region((2, 2), (6, 6), 10))
    root = _TILT**0.5
    return {
        "printed (S30)": reduction.marginal(x, delta_s, convention="isothermal"),
        "S29 in Itô's sense": reduction.marginal(x, delta_s),
        "critical law": law.density(x / root, float(law.w(delta_s))) / root,
        "second order": reduction.marginal(x, delta_s, order=2),
        "2D equation": equation.stationary(delta_s).marginal("x", x),
    }


def distance(density, law) -> Estimate:
    """Kolmogorov–Smirnov distance of histograms from a density, with the jackknife's error over the groups.

    ``density`` (…, groups, bins) is that of :func:`marginals`, ``law`` (bins + 1,) stands on :func:`edges`.
    Raises ValueError for other shapes.
    """
    x = edges()
    law = _check.array("law", law, shape=(len(x),))
    density = _check.array("density", density, least=0)
    if density.ndim < 2 or density.shape[-1] != len(x) - 1 or density.shape[-2] < 2:
        raise _check.refused("density", density, f"of shape (…, groups, {len(x) - 1}), two groups or more")
    width = x[1] - x[0]
    theory = np.concatenate([[0.0], np.cumsum((law[1:] + law[:-1]) / 2 * width)])
    theory /= theory[-1]

    def of(means):
        # what fell outside the range counts half on each side, by symmetry
        outside = 1 - means.sum(axis=-1, keepdims=True) * width
        return np.abs(outside / 2 + np.cumsum(means, axis=-1) * width - theory[1:]).max(axis=-1)

    groups = density.shape[-2]
    left_out = (density.sum(axis=-2, keepdims=True) - density) / (groups - 1)
    error = _jackknife(of(left_out), axis=-1)
    return Estimate(of(density.mean(axis=-2)), error, groups, "Kolmogorov–Smirnov, jackknife over groups")


def order_parameter(
    sigma, *, epsilon: float, eta: float, tau: float, trajectories: int, seed: int
) -> dict[str, np.ndarray]:
    """⟨|x|⟩ ``mean`` with its ``error``, and the ``density`` of x (σ, 640), over time and trajectories.

    ``sigma`` (n,) are noise strengths, ``tau`` is the length of a run in τ; its first quarter is discarded.
    """
    eta, steps = _steps(eta, tau)
    runs = simulate(
        VALLEY.at(epsilon=epsilon),
        RandomShift(_check.array("sigma", sigma, ndim=1, least=0)),
        eta=eta,
        steps=steps,
        burn_in=steps // 4,
        start=(0.3, 0.0),
        trajectories=trajectories,
        observe=("sqrt(x**2)",),
        histogram={"x": (-_RANGE, _RANGE, 2 * _BINS)},
        seed=seed,
    )
    found = runs.time_average("sqrt(x**2)")
    density = runs.histogram("x").density.astype(np.float32)
    return {"mean": found.value, "error": found.error, "density": density}


def split(w, xi, density, reach: float = 1.5) -> Estimate:
    """The w (n,) at which ln P(ξ) turns convex at 0, with the jackknife's error over the groups.

    ``density`` (n, groups, bins) at the centres ``xi`` of the bins, ξ = x/√ε, is positive for 0 < ξ <
    ``reach``: there the curvature at 0 is that of a fit of a cubic in ξ², which is biased by 0.02 in w on the
    exact law. Its zero is that of a parabola in w. Raises ValueError for other shapes, or a density that is 0
    there.
    """
    w, xi = _check.array("w", w, ndim=1), _check.array("xi", xi, ndim=1)
    density = _check.array("density", density, shape=(len(w), None, len(xi)), least=0)
    inside = (xi > 0) & (xi < _check.number("reach", reach, above=0))
    density = (density + density[..., ::-1]) / 2
    if len(w) < 3 or density.shape[1] < 2 or inside.sum() < 4 or not (density[..., inside] > 0).all():
        where = f"{len(w)} w, {density.shape[1]} groups, {inside.sum()} bins below reach={reach:g}"
        raise ValueError(
            f"w, xi, density: must be at least 3, 2 and 4, with density above 0 there, not {where}"
        )

    def zero(means):
        bends = [np.polyfit(xi[inside] ** 2, np.log(p[inside]), 3)[2] for p in means]
        roots = np.roots(np.polyfit(w, bends, 2))
        return roots[np.argmin(np.abs(roots - w.mean()))].real

    groups = density.shape[1]
    without = np.array([zero(np.delete(density, k, axis=1).mean(axis=1)) for k in range(groups)])
    return Estimate(zero(density.mean(axis=1)), _jackknife(without, axis=0), groups, "jackknife over groups")


def landing(eta: float = 0.04, steps: int = 200) -> float:
    """Where x stands once gradient descent from ``START`` has brought y to the floor (ε = 0)."""
    eta, steps = _check.number("eta", eta, above=0), _check.integer("steps", steps, least=1)
    runs = simulate(VALLEY.at(epsilon=1e-12), NoNoise(), eta=eta, steps=steps, start=START)
    return float(runs.final[0, 0])


def _steps(eta, tau) -> tuple[float, int]:
    eta, tau = _check.numbers(eta=eta, tau=tau, above=0)
    if not 1 <= tau / eta <= 1e12:
        raise ValueError(f"eta={eta:g}, tau={tau:g}: must give a run of 1 to 10¹² steps")
    return eta, round(tau / eta)


def _jackknife(left_out, axis):
    """Error of a statistic from its values with one group left out, by Student's t."""
    groups = left_out.shape[axis]
    spread = ((left_out - left_out.mean(axis=axis, keepdims=True)) ** 2).sum(axis=axis)
    return student(1.0, groups - 1) * np.sqrt((groups - 1) / groups * spread)
