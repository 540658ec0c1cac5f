"""How the book writes numbers: ``≈`` before every digit that another machine may change."""

import math

from flatmin import _check

_LARGE, _SMALL = 6, -5  # decimal exponents outside of this range are written as e+06, e-05


def number(name, value):
    """Return ``value`` (a Python, NumPy or sympy number) as a finite float.

    Raises ValueError, naming the argument ``name``, for anything else: bool, text, complex numbers,
    arrays of more than one element, expressions with free symbols, infinities and NaN.
    """
    if getattr(value, "shape", ()) == (1,):
        value = value[0]
    if type(value).__name__ in ("BooleanTrue", "BooleanFalse"):  # of sympy, which are no numbers to it either
        raise _check.refused(name, value, "a finite real number")
    return _check.number(name, value)


def _magnitude(value, digits=17):
    """Return the decimal exponent of ``value`` after rounding to ``digits`` digits (0 for 0)."""
    return int(f"{value:.{digits - 1}e}".split("e")[1]) if value else 0


def _significant(value, digits):
    """Return ``value`` with ``digits`` significant digits, trailing zeros kept: 0.0200, 1230."""
    power = _magnitude(value, digits)
    if not _SMALL < power < _LARGE:
        return f"{value:.{digits - 1}e}"
    return f"{round(value, digits - 1 - power):.{max(digits - 1 - power, 0)}f}"


def _with_error(value, error):
    """Return ``value`` with its standard error in parentheses, two digits of it: 0.01047(12), 10.3(1.2)."""
    power = max(_magnitude(value), _magnitude(error))
    suffix = ""
    if not _SMALL < power < _LARGE:
        value, error, suffix = value / 10.0**power, error / 10.0**power, f"e{power:+03d}"
    decimals = min(1 - _magnitude(error, 2), 17)  # a float has no more of them
    rounded = f"{round(value, decimals):.{max(decimals, 0)}f}"
    inside = round(error, decimals)
    if decimals <= 0:
        text = f"{inside:.0f}"
    elif inside >= 1:
        text = f"{inside:.{decimals}f}"
    else:
        text = f"{inside * 10**decimals:.0f}"
    return f"{rounded}({text}){suffix}"


def approx(value, error=None, digits=3):
    """Return a measured number as text: ``≈ 0.01047(12)``, or ``≈ 0.0105`` without an error.

    The digits in parentheses are the standard error ``error`` in units of the last digits shown (two of
    them), or the error itself where it holds a decimal point. Without an error, ``digits`` significant
    digits are shown. What follows the sign ≈ may differ between machines: the notebook test skips exactly
    that. Infinities and NaN, outcomes no machine disagrees on, are written without the sign.
    Raises ValueError for what is no number, ``error < 0`` and ``digits < 1``.
    """
    digits = _check.integer("digits", digits, least=1)
    try:
        if not math.isfinite(value):
            return {math.inf: "∞", -math.inf: "−∞"}.get(float(value), "nan")
    except TypeError:
        pass  # not a number: the next line says so, or a sympy number, which it takes
    value = number("value", value)
    if error is None:
        return "≈ " + _significant(value, digits)
    error = number("error", error)
    if error < 0:
        raise _check.refused("error", error, "at least 0")
    return "≈ " + (_with_error(value, error) if error else _significant(value, digits) + "(0)")


def exact(value):
    """Return a number that needs no error with at most four significant digits, after ≈ if those round it.

    A float that is 0.5 but for rounding noise reads "0.5" on every machine; one that four digits do not
    exhaust was computed, and reads "≈ 0.3333".
    """
    value = number("value", value)
    if abs(value) < 10**_LARGE and math.isclose(value, round(value), rel_tol=1e-9):
        return str(round(value))
    short = f"{value:.4g}"
    if math.isclose(float(short), value, rel_tol=1e-9):
        return short
    return "≈ " + _significant(value, 4)
