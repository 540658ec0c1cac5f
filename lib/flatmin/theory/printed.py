"""Formulas as the papers print them, one function each, named after paper and number: for ``check``.

Nothing is repaired here. What a formula leaves open is an argument.
"""

from __future__ import annotations

import numpy as np

from flatmin import _check

__all__ = ["y23_eq6", "y23_eq15", "y23_eq16"]


def y23_eq6(curvatures) -> np.ndarray:
    """Average flatness F = Πᵢ F⁽ⁱ⁾^(1/N_S), F⁽ⁱ⁾ = λᵢ^(−1/2), of curvatures (…, N_S) > 0 (Y23 Eq. 6)."""
    curvatures = _vectors("curvatures", curvatures, above=0)
    return np.exp(-np.log(curvatures).mean(axis=-1) / 2)


def y23_eq15(delta, kappa: float, log_flatness) -> np.ndarray:
    """L_SGD,F = Σᵢ (Δ̄ − κΔ⁽ⁱ⁾) ln F⁽ⁱ⁾, Δ̄ the mean of Δ⁽ⁱ⁾ (Y23 Eq. 15); linear in ``log_flatness``.

    ``delta`` (N_S,) > 0 are the noise strengths Δ⁽ⁱ⁾ ≈ Δ_S λᵢ(0)², ``kappa`` > 0 the overall anisotropy,
    ``log_flatness`` (…, N_S) the ln F⁽ⁱ⁾, or their slopes ∂ⱼ ln F⁽ⁱ⁾ for the slope of L_SGD,F.
    """
    delta, kappa = _strengths(delta), _check.number("kappa", kappa, above=0, most=1e100)
    log_flatness = _vectors("log_flatness", log_flatness, delta, least=-1e100, most=1e100)
    return log_flatness @ (delta.mean() - kappa * delta)


def y23_eq16(delta, flatness) -> np.ndarray:
    """Weighted flatness F̂ = Πᵢ F⁽ⁱ⁾^γᵢ, γᵢ = Δ⁽ⁱ⁾/Σ Δ⁽ⁱ⁾ (Y23 Eq. 16), of F⁽ⁱ⁾ (…, N_S) > 0."""
    delta = _strengths(delta)
    return np.exp(np.log(_vectors("flatness", flatness, delta, above=0)) @ (delta / delta.sum()))


def _strengths(delta) -> np.ndarray:
    return _check.array("delta", delta, ndim=1, above=0, most=1e100)


def _vectors(name, values, like=None, **bounds) -> np.ndarray:
    """An array of vectors along the last axis, as long as those of ``like``."""
    values = _check.array(name, values, **bounds)
    if not values.ndim or (like is not None and values.shape[-1] != len(like)):
        count = "N_S" if like is None else len(like)
        raise _check.refused(name, values, f"of {count} numbers along the last axis")
    return values
