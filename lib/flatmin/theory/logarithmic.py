"""The logarithmic landscape (M22): noise in proportion to the loss, power-law stationary state, escape.

With gradient noise of covariance Σ = (2L/B)H the clock τ = ∫L dt turns SGD into Langevin motion on U = log L
at temperature T = ηh/B. Times here are t = η × iterations, c = L/L* is the ratio of a loss to that of the
minimum, h the curvature there and n the number of directions that count.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import betainc, betaln, digamma

__all__ = [
    "critical_dimension",
    "fit_exponent",
    "fit_histogram",
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
    _positive(temperature=temperature)
    if not minimum > 0:
        raise ValueError(
            f"minimum={minimum!r}: the loss must be positive at the minimum, or the time change stands still"
        )
    if not np.all(np.asarray(saddle) > minimum):
        raise ValueError(f"saddle={saddle!r}: must lie above the loss of the minimum, {minimum!r}")
    stable = np.linalg.eigvalsh(np.atleast_2d(np.asarray(hessian, dtype=float)))
    unstable = np.linalg.eigvalsh(np.atleast_2d(np.asarray(saddle_hessian, dtype=float)))
    if stable[0] <= 0:
        raise ValueError(f"hessian={hessian!r}: must be positive definite")
    if len(stable) != len(unstable) or unstable[0] >= 0 or np.any(unstable[1:] <= 0):
        raise ValueError(
            f"saddle_hessian={saddle_hessian!r}: must have the shape of hessian and one negative eigenvalue"
        )
    prefactor = -unstable[0] / (2 * np.pi) * np.sqrt(stable.prod() / abs(unstable.prod()))
    power = 1 / np.asarray(temperature, dtype=float) + 1 - len(stable) / 2
    return prefactor * (np.asarray(saddle, dtype=float) / minimum) ** -power


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
