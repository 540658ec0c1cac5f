"""How a noise whose strength depends on the point is read: the three conventions, in one place.

In one coordinate the flux is J = drift·P − D^(1−s) ∂ₓ(D^s P), with the power s = 1 for Itô, ½ for
Stratonovich and 0 for isothermal (Y26 A10); where nothing flows, P ∝ D^(−s) exp ∫ drift/D.
"""

from __future__ import annotations

import sympy as sp

from flatmin import _check

__all__ = ["CONVENTIONS", "convention_power"]

#: name → power s
CONVENTIONS = {"ito": sp.Integer(1), "stratonovich": sp.Rational(1, 2), "isothermal": sp.Integer(0)}


def convention_power(convention: str) -> sp.Rational:
    """The power s of a convention, exact; ValueError for a name that is none."""
    return CONVENTIONS[_check.choice("convention", convention, CONVENTIONS)]
