"""The logarithmic landscape (M22): noise in proportion to the loss, power-law stationary state, escape.

With gradient noise of covariance Σ = (2L/B)H the clock τ = ∫L dt turns SGD into Langevin motion on U = log L
at temperature T = ηh/B. Times here are t = η × iterations, c = L/L* is the ratio of a loss to that of the
minimum, h the curvature there and n the number of directions that count.
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline
from scipy.optimize import brentq
from scipy.special import betainc, betaln, digamma

from flatmin.theory.continuum.escape import kramers_rate

__all__ = [
    "aligned_factor",
    "critical_dimension",
    "exponent_of",
    "fit_exponent",
    "fit_histogram",
    "mean_log_ratio",
    "passage_exponent",
    "power_law_rate",
    "stationary_exponent",
    "temperature",
]


def _positive(**arguments):
    for name, value in arguments.items():
        values = np.asarray(value, dtype=float)
        if not np.all(np.isfinite(values)) or np.any(values <= 0):
            raise ValueError(f"{name}={value!r}: must be positive and finite")


def temperature(eta, batch_size, curvature=1.0):
    """T = ηh/B, the temperature of the motion on log L (M22 §4); numbers or arrays, all positive."""
    _positive(eta=eta, batch_size=batch_size, curvature=curvature)
    return np.asarray(eta, dtype=float) * curvature / batch_size


def stationary_exponent(eta, batch_size, curvature=1.0, dimension=1):
    """φ = 1 + B/(ηh) of the stationary density P ∝ L^(−φ) (M22 Eq. 17).

    Raises ValueError where L^(−φ) cannot be normalised around a quadratic minimum of ``dimension`` n, which
    takes φ > n/2: there is no stationary state.
    """
    phi = 1 + 1 / temperature(eta, batch_size, curvature)
    if np.any(phi <= np.asarray(dimension) / 2):
        raise ValueError(
            f"eta={eta!r}, batch_size={batch_size!r}, curvature={curvature!r}: no stationary state in "
            f"dimension={dimension!r}, φ = 1 + B/(ηh) = {phi!r} must exceed n/2"
        )
    return phi


def critical_dimension(eta, batch_size, curvature=1.0):
    """n_c = 2(B/(ηh) + 1), above which M22 Eq. 18 calls a minimum unstable."""
    return 2 * (1 / temperature(eta, batch_size, curvature) + 1)


def passage_exponent(eta, batch_size, curvature=1.0, dimension=1, *, covariance="loss"):
    """Power of c in the mean time to reach c·L* around an isotropic quadratic minimum, c → ∞.

    ``covariance`` "loss": Σ = 2LH/B, which gives B/(ηh) + 1 − n/2 (M22 Eq. 16); "gaussian inputs":
    Σ = (2LH + ∇L∇Lᵀ)/B (W22 Prop. 2.3), which gives B/(2ηh) + (3 − n)/4. Both are exponents of the
    diffusion; that of the updates is half of :meth:`multiplicative.RegressionChain.tail_exponent`.
    """
    inverse = 1 / temperature(eta, batch_size, curvature)
    if covariance == "loss":
        return inverse + 1 - np.asarray(dimension) / 2
    if covariance == "gaussian inputs":
        return inverse / 2 + (3 - np.asarray(dimension)) / 4
    raise ValueError(f"covariance={covariance!r}: allowed are 'loss' and 'gaussian inputs'")


def power_law_rate(temperature, minimum, saddle, hessian, saddle_hessian):
    """Escape rate per unit of t on the logarithmic landscape (M22 Eq. 15, 16).

    κ = |h_e|/(2π) √(det H*/|det H_s|) (L_s/L*)^(−(1/T + 1 − n/2)).

    Parameters
    ----------
    temperature : T = ηh/B > 0, number or array
    minimum, saddle : L* and L_s, 0 < L* < L_s
    hessian, saddle_hessian : numbers for n = 1, or (n, n) matrices; the second has one negative eigenvalue

    Raises
    ------
    ValueError
        For a loss that is not positive at the minimum (the clock of the time change would stand still), a
        saddle that is not above it, or Hessians of the wrong signature.
    """
    if not minimum > 0:
        raise ValueError(
            f"minimum={minimum!r}: the loss must be positive at the minimum, or the time change stands still"
        )
    if not np.all(np.asarray(saddle) > minimum):
        raise ValueError(f"saddle={saddle!r}: must lie above the loss of the minimum, {minimum!r}")
    # the rate per unit of τ on U = log L, whose Hessians are those of L over L, times L* for the unit of t
    n = len(np.atleast_2d(hessian))
    ratio = np.asarray(saddle, dtype=float) / minimum
    return kramers_rate(temperature, np.log(ratio), hessian, saddle_hessian) * ratio ** (n / 2 - 1)


def aligned_factor(loss, curvature, ratio, minimum, saddle):
    """Rate with noise of another strength across the path, over that with isotropic noise; T → 0.

    The path from ``minimum`` to ``saddle`` is straight, along x; ``loss`` (x) is L on it, ``curvature`` (x)
    the second derivative of L across it, and ``ratio`` = T_y/T_x. With the quasi-potential log L/T_x + ½wy²
    and W = T_y w the Hamilton–Jacobi equation gives ½U'(W' − ratio·u') = W(u − W), u = curvature/L, and the
    rate gains exp ∫(u − W)/U' dx. For noise aligned with the Hessian the ratio is h_y/h_x. Several directions
    multiply. Not in M22, whose App. C has 1 here.

    Raises ValueError for a ratio that is not positive, or a path on which the loss does not rise.
    """
    _positive(ratio=ratio)
    span, tiny = saddle - minimum, 1e-4
    x = minimum + span * np.linspace(0, 1, 2001)
    height, across = np.asarray(loss(x), dtype=float), np.asarray(curvature(x) + 0 * x, dtype=float)
    if np.any(height <= 0) or np.any(np.diff(height) <= 0):
        raise ValueError("loss: must be positive and rise all the way from minimum to saddle")
    u = CubicSpline(np.linspace(0, 1, 2001), across / height)
    potential = CubicSpline(np.linspace(0, 1, 2001), np.log(height))

    def equation(s, state):
        # in units of the span: U' and x scale, u does not
        gap, _ = state
        slope = potential(s, 1) / span**2
        return [(ratio - 1) * u(s, 1) - 2 * (u(s) + gap) * gap / slope, -gap / slope]

    solution = solve_ivp(equation, (tiny, 1 - tiny), [0.0, 0.0], method="Radau", rtol=1e-8, atol=1e-12)
    return float(np.exp(solution.y[1, -1]))


def fit_exponent(ratios, dimension=1, beyond=1.0):
    """Maximum-likelihood φ of P(θ) ∝ (L/L*)^(−φ) from samples of L/L* at a quadratic minimum.

    For all samples the estimate solves ψ(φ) − ψ(φ − n/2) = ⟨log L/L*⟩. ``beyond`` > 1 uses only samples with
    L/L* > beyond and the density conditioned on that (n = 1 only): the exponent of the tail.

    Raises ValueError for ratios below 1, for too few (10) of them, or for none above 1.
    """
    ratios = np.ravel(np.asarray(ratios, dtype=float))
    if np.any(ratios < 1 - 1e-9):
        raise ValueError(f"ratios: the smallest is {ratios.min():.6g}, but L/L* cannot be below 1")
    if beyond > 1 and dimension != 1:
        raise ValueError(f"beyond={beyond!r}: tails are fitted for dimension=1 only, got {dimension!r}")
    kept = ratios[ratios > beyond]
    if len(kept) < 10:
        raise ValueError(f"ratios: {len(kept)} lie above {beyond!r}, a fit needs at least 10")
    return exponent_of(
        float(np.log(np.maximum(ratios if beyond <= 1 else kept, 1)).mean()), dimension, beyond
    )


def exponent_of(mean_log, dimension=1, beyond=1.0):
    """Return the φ whose law (L/L*)^(−φ), where L/L* > ``beyond``, has the given mean of log L/L*."""

    def excess(log_phi):
        return mean_log_ratio(dimension / 2 + np.exp(log_phi), dimension, beyond) - mean_log

    return dimension / 2 + float(np.exp(brentq(excess, -12, 25, xtol=1e-12)))


def mean_log_ratio(phi, dimension=1, beyond=1.0):
    """⟨log L/L*⟩ where L/L* > ``beyond`` under P(θ) ∝ (L/L*)^(−φ), θ of ``dimension`` entries, φ > n/2."""
    if beyond <= 1:
        return float(digamma(phi) - digamma(phi - dimension / 2))

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
    """φ from a histogram: least squares of log counts against log L/L* over bins with ``least`` counts.

    ``theta`` (samples,) in one dimension, ``ratios_of`` maps places to L/L*. The bins are equal and span the
    samples. Returns (φ, (lowest, highest L/L* used)). Raises ValueError when fewer than three bins are left.
    """
    counts, edges = np.histogram(np.ravel(theta), bins=bins)
    centres = (edges[1:] + edges[:-1]) / 2
    kept = counts >= least
    if kept.sum() < 3:
        raise ValueError(f"least={least!r}: leaves {kept.sum()} of {bins} bins, a fit needs three")
    logs = np.log(ratios_of(centres[kept]))
    slope = np.polyfit(logs, np.log(counts[kept]), 1)[0]
    return -float(slope), (float(np.exp(logs.min())), float(np.exp(logs.max())))
