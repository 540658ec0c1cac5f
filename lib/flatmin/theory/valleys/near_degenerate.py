"""The near-degenerate valley of Y22 and Y23: an almost flat floor along which the curvature varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sympy as sp

from flatmin import _check
from flatmin.theory.landscape import Landscape

__all__ = ["boundary", "near_degenerate_valley"]


def near_degenerate_valley(terms: Sequence[str] = ("lambda_0", "lambda_1", "lambda_2")) -> Landscape:
    """The valley of Y23 Eq. 8 (Y22 Eq. 9): L = ½ ε λ₀ x² + ½ λ(x) y², λ(x) = Σ λₙ x²ⁿ.

    Parameters
    ----------
    terms : sequence of str
        Names of the coefficients λ₀, λ₁, …; the papers have three.

    Returns
    -------
    Landscape
        Coordinates x (slow, along the valley) and y (fast, across it); parameters ε (``epsilon``) and the
        coefficients. λ(x) must be positive for every x: for three terms that means λ₂ > 0 and
        λ₀ > λ₁²/4λ₂ (when λ₁ < 0), Y22 §I.B.

    Raises
    ------
    ValueError
        For terms that are no names, occur twice, or are x, y or epsilon.

    Examples
    --------
    >>> import flatmin as fm
    >>> valley = fm.near_degenerate_valley()
    >>> valley.loss
    epsilon*lambda_0*x**2/2 + y**2*(lambda_0 + lambda_1*x**2 + lambda_2*x**4)/2
    >>> valley.at(epsilon=0.001, lambda_0=8, lambda_1=-2, lambda_2=1).is_numeric
    True
    """
    named = isinstance(terms, (tuple, list)) and all(isinstance(t, str) and t.isidentifier() for t in terms)
    if not named or not terms or len({*terms, "x", "y", "epsilon"}) < len(terms) + 3:
        raise _check.refused("terms", terms, "a sequence of different names, at least one, not x, y, epsilon")
    x, y = sp.symbols("x y", real=True)
    epsilon = sp.Symbol("epsilon", positive=True)
    # λ₀ is positive whatever the others are (the valley floor at x = 0 must be a minimum across y)
    coefficients = [
        sp.Symbol(t, positive=True) if i == 0 else sp.Symbol(t, real=True) for i, t in enumerate(terms)
    ]
    curvature = sum(c * x ** (2 * n) for n, c in enumerate(coefficients))
    loss = epsilon * coefficients[0] * x**2 / 2 + curvature * y**2 / 2
    return Landscape(
        loss,
        (x, y),
        (epsilon, *coefficients),
        positive={"λ(x)": curvature, "ε": epsilon + 0 * x},
        name="near-degenerate valley",
    )


def boundary(values: Mapping[str, float], eta) -> np.ndarray:
    """Δ_S at which x = 0 gives way at learning rate η: (−ε/λ₁)(1 − ηλ₀/2), the leading order in ε of
    :func:`flatmin.theory.continuum.critical.critical_law`; at η = 0 that of Y22 Eq. S34.

    ``values`` maps ``epsilon``, ``lambda_0`` and ``lambda_1`` to numbers, ``eta`` is a number or an array.
    Infinite for λ₁ ≥ 0, 0 where the step itself is unstable. Raises ValueError for parameters that are
    missing or out of range, or a negative η.
    """
    bounds = {"epsilon": {"above": 0}, "lambda_0": {"above": 0}, "lambda_1": {}}
    _check.instance("values", values, Mapping)
    missing = [name for name in bounds if name not in values]
    if missing:
        raise _check.refused("values", dict(values), f"with {', '.join(missing)}")
    epsilon, flat, bend = (_check.number(name, values[name], **limits) for name, limits in bounds.items())
    eta = _check.array("eta", eta, least=0)
    if bend >= 0:
        return np.full(eta.shape, np.inf)
    stable = np.minimum(eta, 2 / flat)  # beyond, one step is unstable by itself
    return -epsilon / bend * (1 - stable * flat / 2)
