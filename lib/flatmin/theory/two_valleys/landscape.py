"""The two-valley landscape of Y26 (Eq. 5, A1–A4): a path along y that forks into a flat and a sharp valley.

Both valleys have one formula. With c(x) = x₁ on the flat side (x ≥ 0) and c(x) = −x₂ on the sharp side,
the valley position is g/2 = c y/(y + y_b), the flatness f = f₀ (c/x₀)² ((y + y_f)/(y + y_b))², and
L = L₀(y) + x(x − g)/f. Written so, the two sides differ in one number and the simulator needs no branch.
"""

from __future__ import annotations

import sympy as sp

from flatmin import _check
from flatmin.theory.landscape import Landscape

__all__ = ["PAPER", "barrier", "flatness", "frozen_valleys", "path_drift", "position", "two_valleys"]

#: Table S1 of Y26, as the authors' code has it
PAPER = {"x1": 0.8, "x2": 0.65, "x0": 1.0, "f0": 1.0, "y_b": 30.0, "y_f": 20.0, "y_d": 100.0, "L_d": 1.0}

_X, _Y = sp.symbols("x y", real=True)
_PARAMETERS = sp.symbols("x1 x2 x0 f0 y_b y_f y_d L_d", positive=True)
_X1, _X2, _X0, _F0, _YB, _YF, _YD, _LD = _PARAMETERS
_SIDES = {"flat": _X1, "sharp": -_X2}


def two_valleys() -> Landscape:
    """The loss of Y26 Eq. 5 in the coordinates x (across the valleys) and y (along them).

    Returns
    -------
    Landscape
        Parameters x1, x2 (where the flat and the sharp valley end up), x0, f0, y_b, y_f, y_d, L_d, all
        positive; ``two_valleys().at(**PAPER)`` is the paper's. Its domain is y > −y_f, where the loss has a
        pole. The valleys meet at x = 0 in a kink, where the loss is continuous and its gradient is not; x = 0
        itself belongs to the flat side.

    Examples
    --------
    >>> import flatmin as fm
    >>> from flatmin.theory.two_valleys.landscape import PAPER
    >>> valleys = fm.two_valleys().at(**PAPER)
    >>> valleys.coordinates
    (x, y)
    """
    side = sp.Piecewise((_X1, _X >= 0), (-_X2, True))
    floor = _LD * sp.exp(-_Y / _YD) + _X0**2 / _F0
    # x (x − g)/f with the fractions in y cleared: half the divisions of the printed form
    across = _X * (_X * (_Y + _YB) - 2 * side * _Y) * (_Y + _YB) / (side * (_Y + _YF)) ** 2
    return Landscape(
        floor + across * _X0**2 / _F0,
        (_X, _Y),
        _PARAMETERS,
        positive={p.name: p for p in _PARAMETERS},
        name="two valleys",
        domain={"y + y_f": _Y + _YF},
    )


def frozen_valleys() -> Landscape:
    """The slice of :func:`two_valleys` at frozen y: coordinates x and an idle one, y among the parameters.

    The idle coordinate never moves; it makes the slice two-dimensional, as Hessian-aligned noise needs.
    ``at`` raises ValueError for parameters that are not positive and y ≤ −y_f.
    """
    valleys = two_valleys()
    idle = sp.Symbol("idle", real=True)
    return Landscape(
        valleys.loss,
        (_X, idle),
        (*_PARAMETERS, _Y),
        positive={**valleys.positive, **valleys.domain},
        name="frozen valleys",
    )


def position(side: str) -> sp.Expr:
    """Valley floor at y: c y/(y + y_b), c = x₁ ("flat") or −x₂ ("sharp"), Y26 A1; ValueError for another."""
    return _side(side) * _Y / (_Y + _YB)


def flatness(side: str) -> sp.Expr:
    """f(y) of a side (Y26 A2); the curvature across the valley is 2/f. ``side`` as for :func:`position`."""
    return _F0 * (_side(side) / _X0) ** 2 * ((_Y + _YF) / (_Y + _YB)) ** 2


def barrier() -> sp.Expr:
    """ΔL(y) = x₀² y²/(f₀ (y + y_f)²): height of the kink over either floor (Y26 A3)."""
    return _X0**2 * _Y**2 / (_F0 * (_Y + _YF) ** 2)


def path_drift() -> sp.Expr:
    """dy/dτ along either floor without noise, −dL(x*(y), y)/dy = −L₀′(y) + ΔL′(y) (Y26 A12); τ = ηt."""
    return _LD / _YD * sp.exp(-_Y / _YD) + sp.diff(barrier(), _Y)


def _side(side: str) -> sp.Symbol:
    return _SIDES[_check.choice("side", side, _SIDES)]
