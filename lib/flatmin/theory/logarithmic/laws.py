"""The logarithmic landscape (M22): noise in proportion to the loss, power-law stationary state, escape.

With gradient noise of covariance Σ = (2L/B)H the clock τ = ∫L dt turns SGD into Langevin motion on U = log L
at temperature T = ηh/B. Times here are t = η × iterations, c = L/L* is the ratio of a loss to that of the
minimum, h the curvature there and n the number of directions that count.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq
from scipy.special import betainc, betaln, digamma

from flatmin import _check
from flatmin.theory.continuum.escape import kramers_rate

__all__ = [
    "aligned_factor",
    "critical_dimension",
    "exponent_of",
    "fit_exponent",
    "fit_histogram",
    "passage_exponent",
    "power_law_rate",
    "temperature",
]


def temperature(eta, batch_size, curvature=1.0):
    """T = ηh/B, the temperature of the motion on log L (M22 §4).

    ``eta``, ``batch_size`` and ``curvature`` are numbers or arrays, all positive; ValueError otherwise.
    """
    given = {"eta": eta, "batch_size": batch_size, "curvature": curvature}
    given = {name: _check.array(name, value, above=0) for name, value in given.items()}
    _check.together(**given)
    with np.errstate(all="ignore"):
        found = given["eta"] * given["curvature"] / given["batch_size"]
        return _check.finite(np.where(found > 0, found, np.nan)[()], **given)


def critical_dimension(eta, batch_size, curvature=1.0):
    """n_c = 2(B/(ηh) + 1), above which M22 Eq. 18 calls a minimum unstable; as for :func:`temperature`."""
    return 2 * (_inverse(eta, batch_size, curvature) + 1)


def passage_exponent(eta, batch_size, curvature=1.0, dimension=1, *, covariance="loss"):
    """Power of c in the mean time to reach c·L* around an isotropic quadratic minimum, c → ∞.

    For the ``covariance`` Σ = 2LH/B ("loss") it is B/(ηh) + 1 − n/2 (M22 Eq. 16), for (2LH + ∇L∇Lᵀ)/B
    ("gaussian inputs", W22 Prop. 2.3) it is B/(2ηh) + (3 − n)/4. Both are exponents of the diffusion; that of
    the updates is half of :attr:`.multiplicative.RegressionChain.tail_exponent`. Arguments as for
    :func:`temperature`, and n, the ``dimension``. Raises ValueError for numbers out of range or another
    covariance.
    """
    _check.choice("covariance", covariance, ("loss", "gaussian inputs"))
    inverse = _inverse(eta, batch_size, curvature)
    dimension = _check.array("dimension", dimension, above=0)
    _check.together(dimension=dimension, temperature=inverse)
    if covariance == "loss":
        return inverse + 1 - dimension / 2
    return inverse / 2 + (3 - dimension) / 4


def _inverse(eta, batch_size, curvature):
    """1/T = B/(ηh), checked."""
    with np.errstate(over="ignore"):
        found = 1 / temperature(eta, batch_size, curvature)
    return _check.finite(found, eta=eta, batch_size=batch_size, curvature=curvature)


def power_law_rate(temperature, minimum, saddle, hessian, saddle_hessian):
    """Escape rate per unit of t on the logarithmic landscape (M22 Eq. 15, 16).

    κ = |h_e|/(2π) √(det H*/|det H_s|) (L_s/L*)^(−(1/T + 1 − n/2)). Raises ValueError for a loss that is not
    positive at the minimum (the clock of the time change would stand still), a saddle that is not above it,
    or Hessians of the wrong signature.

    Parameters
    ----------
    temperature, minimum, saddle : number (the first and last also arrays)
        T = ηh/B > 0, L* > 0 and L_s > L*.
    hessian, saddle_hessian : number or (n, n)
        Of L at the minimum and at the saddle; the second has one negative eigenvalue.
    """
    temperature = _check.array("temperature", temperature, above=0)
    minimum, saddle = _check.number("minimum", minimum), _check.array("saddle", saddle)
    if not minimum > 0:
        raise _check.refused("minimum", minimum, "a positive loss, or the time change stands still")
    with np.errstate(over="ignore"):
        ratio = saddle / minimum
        if not np.all(ratio > 1) or not np.all(ratio < np.inf):
            raise _check.refused("saddle", saddle, f"above the loss of the minimum={minimum!r}")
        _check.together(temperature=temperature, saddle=saddle)
        # the rate per τ on U = log L, whose Hessians are those of L over L, times L* for the unit of t
        per_tau = kramers_rate(temperature, np.log(ratio), hessian, saddle_hessian)
        rate = per_tau * ratio ** (len(np.atleast_2d(hessian)) / 2 - 1)
    return _check.finite(rate, minimum=minimum, saddle=saddle, temperature=temperature)


def aligned_factor(loss, curvature, ratio, minimum, saddle):
    """Rate with noise of another strength across the path, over that with isotropic noise; T → 0.

    With the quasi-potential log L/T_x + ½wy² and W = T_y w the Hamilton–Jacobi equation gives ½U'(W' −
    ratio·u') = W(u − W), u = curvature/L, and the rate gains exp ∫(u − W)/U' dx. For noise aligned with the
    Hessian the ratio is h_y/h_x. Several directions multiply. Not in M22, whose App. C has 1 here. Raises
    ValueError for a ratio out of range, or a path on which the loss does not rise.

    Parameters
    ----------
    loss, curvature : callable
        L on the straight path along x, and the second derivative of L across it, as functions of x (n,).
    ratio : float
        T_y/T_x, from 10⁻³ to 10³.
    minimum, saddle : float
        The ends of the path in x.
    """
    _check.instance("loss", loss, Callable)
    _check.instance("curvature", curvature, Callable)
    ratio = _check.number("ratio", ratio, above=0, least=1e-3, most=1e3)
    minimum, saddle = _check.numbers(minimum=minimum, saddle=saddle)
    span, tiny = saddle - minimum, 1e-4
    with np.errstate(all="ignore"):
        x = minimum + span * np.linspace(0, 1, 2001)
        height, across = (np.broadcast_to(np.asarray(f(x), float), x.shape) for f in (loss, curvature))
        rises = np.all((height > 0) & (height < np.inf)) and np.all(np.diff(height) > 0)
    ends = f"from minimum={minimum:g} to saddle={saddle:g}"
    if not rises:
        raise ValueError(f"loss: must be positive, finite and rise all the way {ends}")
    if not np.isfinite(across).all():
        raise ValueError(f"curvature: must be finite all the way {ends}")
    u = CubicSpline(np.linspace(0, 1, 2001), across / height)
    potential = CubicSpline(np.linspace(0, 1, 2001), np.log(height))

    def equation(s, state):
        # in units of the span: U' and x scale, u does not
        gap, _ = state
        slope = potential(s, 1) / span**2
        return [(ratio - 1) * u(s, 1) - 2 * (u(s) + gap) * gap / slope, -gap / slope]

    solution = solve_ivp(equation, (tiny, 1 - tiny), [0.0, 0.0], method="Radau", rtol=1e-8, atol=1e-12)
    factor = float(np.exp(solution.y[1, -1])) if solution.success else np.nan
    return _check.finite(factor, ratio=ratio, minimum=minimum, saddle=saddle)


def fit_exponent(ratios, dimension=1, beyond=1.0):
    """Maximum-likelihood φ of P(θ) ∝ (L/L*)^(−φ) from samples of L/L* ≥ 1 at a quadratic minimum.

    For all samples the estimate solves ψ(φ) − ψ(φ − n/2) = ⟨log L/L*⟩. With ``beyond`` above 1 only samples
    with L/L* > beyond are used, and the density conditioned on that (n = 1 only): the exponent of the tail.
    Raises ValueError for ratios below 1, too few (10) of them above ``beyond``, or so close to it that no φ
    fits.
    """
    ratios = _check.array("ratios", ratios).ravel()
    dimension, beyond = _tail(dimension, beyond)
    if np.any(ratios < 1 - 1e-9):
        raise ValueError(f"ratios: the smallest is {ratios.min():.6g}, but L/L* cannot be below 1")
    kept = ratios[ratios > beyond]
    if len(kept) < 10:
        raise ValueError(f"ratios: {len(kept)} lie above beyond={beyond:g}, a fit needs at least 10")
    mean_log = float(np.log(np.maximum(ratios if beyond == 1 else kept, 1)).mean())
    return _solved("ratios", mean_log, dimension, beyond)


def exponent_of(mean_log, dimension=1, beyond=1.0):
    """Return the φ whose law (L/L*)^(−φ), where L/L* > ``beyond``, has the given mean of log L/L*.

    The other arguments are those of :func:`fit_exponent`. Raises ValueError where there is none.
    """
    dimension, beyond = _tail(dimension, beyond)
    return _solved("mean_log", _check.number("mean_log", mean_log, above=0), dimension, beyond)


def _solved(name, mean_log, dimension, beyond):
    """The exponent of a mean logarithm that came in as ``name``."""

    def excess(log_phi):
        return _mean_log_ratio(dimension / 2 + np.exp(log_phi), dimension, beyond) - mean_log

    low, high = _LOG_PHI
    with np.errstate(all="ignore"):
        most, least = excess(low), excess(high)
        if not least < 0 < most:
            raise ValueError(
                f"{name}: mean of log L/L* is {mean_log:.6g}, must lie between {least + mean_log:.3g} and "
                f"{most + mean_log:.3g} for an exponent in dimension={dimension:g}, beyond={beyond:g}"
            )
        return dimension / 2 + float(np.exp(brentq(excess, low, high, xtol=1e-12)))


#: range of log(φ − n/2) in which an exponent is looked for
_LOG_PHI = (-12, 25)


def _tail(dimension, beyond):
    dimension = _check.number("dimension", dimension, above=0)
    beyond = _check.number("beyond", beyond, least=1)
    if beyond > 1 and dimension != 1:
        raise ValueError(f"beyond={beyond:g}: must be 1 unless dimension is 1, it is dimension={dimension:g}")
    return dimension, beyond


def _mean_log_ratio(phi, dimension, beyond):
    """⟨log L/L*⟩ where L/L* > ``beyond`` under P(θ) ∝ (L/L*)^(−φ), θ of ``dimension`` entries."""
    half = dimension / 2
    if beyond == 1:
        if phi - half > 1e6:  # the difference of two large ψ loses its digits; next term of the series 1/φ³
            return float(-np.log1p(-half / phi) + half / (2 * phi) / (phi - half))
        return float(digamma(phi) - digamma(phi - half))

    def log_mass(phi):  # with s = L*/L the mass is ½ ∫₀^{1/beyond} s^{φ−3/2} (1−s)^{−1/2} ds
        a, b = phi - 0.5, 0.5
        inside = betainc(a, b, 1 / beyond)
        if inside > 1e-290:
            return np.log(inside) + betaln(a, b)
        # leading term of the incomplete beta function, where it underflows
        return -a * np.log(beyond) - np.log(a) - 0.5 * np.log1p(-1 / beyond) - 0.5 / (a * (beyond - 1))

    step = 1e-4 * (phi - 0.5)
    return float((log_mass(phi - step) - log_mass(phi + step)) / (2 * step))


def fit_histogram(theta, ratios_of, bins=60, least=10):
    """φ from a histogram of positions θ in one dimension, and the lowest and highest L/L* used.

    Least squares of log counts against log L/L* over those of ``bins`` equal bins that hold ``least`` counts;
    ``ratios_of`` maps positions to L/L*. Raises ValueError when fewer than three bins are left, or L/L* is
    not positive and different in them.
    """
    theta = _check.array("theta", theta).ravel()
    bins, least = _check.integer("bins", bins, least=3, most=10**6), _check.integer("least", least, least=1)
    _check.instance("ratios_of", ratios_of, Callable)
    with np.errstate(all="ignore"):
        span = _check.finite(np.ptp(theta), theta=theta)
    counts, edges = np.histogram(theta, bins=bins) if span else (np.array([len(theta)]), theta[:2])
    centres = (edges[1:] + edges[:-1]) / 2
    kept = counts >= least
    if kept.sum() < 3:
        raise ValueError(f"least={least!r}: leaves {kept.sum()} of {bins} bins of theta, must be three")
    with np.errstate(all="ignore"):
        logs = np.log(np.asarray(ratios_of(centres[kept]), dtype=float))
    if logs.shape != (kept.sum(),) or not np.isfinite(logs).all() or np.ptp(logs) == 0:
        raise ValueError("ratios_of: must map positions theta to ratios that are positive and differ")
    slope = np.polyfit(logs, np.log(counts[kept]), 1)[0]
    return -float(slope), (float(np.exp(logs.min())), float(np.exp(logs.max())))
