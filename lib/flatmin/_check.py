"""Checks of arguments, each once, with one form of message: ``name=value: must be …``.

Each function returns the checked value in the type that the caller computes with. A value of a wrong kind
(text, None, complex numbers) is refused in the same words as one out of range.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
import reprlib

import numpy as np

__all__ = [
    "array",
    "choice",
    "duration",
    "finite",
    "flag",
    "instance",
    "integer",
    "integers",
    "number",
    "numbers",
    "refused",
    "together",
]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def refused(name: str, value, allowed: str) -> ValueError:
    """The error for an argument: its name, its value (shortened) and what is ``allowed``; to be raised."""
    return ValueError(f"{name}={shown(value)}: must be {allowed}")


def shown(value) -> str:
    """A value in a message: short, and an array of many numbers by its shape."""
    shape = getattr(value, "shape", None)
    if shape is not None and math.prod(shape) > 8:
        return f"<{type(value).__name__} of shape {tuple(shape)}>"
    if isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0:
        value = value.item()
    return " ".join(_SHORT.repr(value).split())


def number(name: str, value, *, above=None, least=None, below=None, most=None, infinite=False) -> float:
    """``value`` as a float within the bounds; ``infinite`` lets ±∞ pass, NaN never does."""
    allowed = _range("a real number" if infinite else "a finite real number", above, least, below, most)
    if isinstance(value, (bool, np.bool_, str, bytes)) or value is None or np.ndim(value):
        raise refused(name, value, allowed)
    try:
        if isinstance(value, (complex, np.complexfloating)):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise refused(name, value, allowed) from None
    if (
        math.isnan(found)
        or not (infinite or math.isfinite(found))
        or not _inside(found, above, least, below, most)
    ):
        raise refused(name, value, allowed)
    return found


def numbers(*, above=None, least=None, most=None, **arguments) -> tuple[float, ...]:
    """Each of the ``arguments`` as :func:`number` gives it, all within the same bounds."""
    return tuple(number(n, value, above=above, least=least, most=most) for n, value in arguments.items())


def integers(*, least=None, most=None, **arguments) -> tuple[int, ...]:
    """Each of the ``arguments`` as :func:`integer` gives it, all within the same bounds."""
    return tuple(integer(n, value, least=least, most=most) for n, value in arguments.items())


def integer(name: str, value, *, least=None, most=None) -> int:
    """``value`` as an int within the bounds; whole floats are refused like others."""
    try:
        found = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        found = None
    if found is None or not _inside(found, None, least, None, most):
        raise refused(name, value, _range("an integer", None, least, None, most))
    return found


def array(
    name: str,
    value,
    *,
    above=None,
    least=None,
    below=None,
    most=None,
    ndim: int | None = None,
    shape: tuple | None = None,
    dtype=float,
    increasing: bool = False,
    infinite: bool = False,
    empty: bool = False,
) -> np.ndarray:
    """``value`` as an array of ``dtype`` (float, int or bool), every entry finite and within the bounds.

    ``shape`` fixes lengths, None in it stands for any; ``increasing`` asks for strict growth along the last
    axis. An integer array takes no fractions.
    """
    kind = {float: "finite real numbers", int: "integers", bool: "truth values"}[dtype]
    allowed = _range("real numbers" if infinite else kind, above, least, below, most)
    allowed += "" if ndim is None else f", in {ndim} axes" if ndim != 1 else ", in one axis"
    allowed += (
        "" if shape is None else f", of shape ({', '.join('n' if s is None else str(s) for s in shape)})"
    )
    allowed += ", increasing" if increasing else ""
    allowed += "" if empty else ", at least one"
    try:
        given = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        raise refused(name, value, allowed) from None
    kinds = {float: "iuf", int: "iu", bool: "b"}[dtype]
    if given.dtype.kind not in kinds and not (given.size == 0 and empty and given.dtype.kind in "fiub"):
        raise refused(name, value, allowed)
    found = given.astype(dtype)
    fits = empty or found.size
    fits = fits and (ndim is None or found.ndim == ndim)
    fits = fits and (shape is None or _fits(found.shape, shape))
    if not fits or (dtype is float and not _finite(found, infinite)):
        raise refused(name, value, allowed)
    if not _inside(found, above, least, below, most) or (increasing and not np.all(np.diff(found) > 0)):
        raise refused(name, value, allowed)
    return found


def together(**arguments: np.ndarray) -> tuple[int, ...]:
    """Shape that the arrays broadcast to; the error names them all where they do not."""
    shapes = {name: np.shape(value) for name, value in arguments.items()}
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{found}: must have shapes that broadcast") from None


def finite(result, **arguments):
    """``result`` if every number in it is finite; the error names the ``arguments`` it came from.

    For arguments each of which may be large or small, but not all at once.
    """
    if np.all(np.isfinite(result)):
        return result
    found = ", ".join(f"{name}={shown(value)}" for name, value in arguments.items())
    raise ValueError(f"{found}: must not be so large or small that the result exceeds a double")


def instance(name: str, value, kind: type | tuple[type, ...]):
    """``value`` if it is an instance of ``kind`` (or of one of several)."""
    if isinstance(value, kind):
        return value
    kinds = kind if isinstance(kind, tuple) else (kind,)
    raise refused(name, value, f"of the type {' or '.join(each.__name__ for each in kinds)}")


def choice(name: str, value, allowed):
    """``value`` if it is one of ``allowed`` (names, or keys of a mapping); the error suggests the nearest."""
    names = list(allowed)
    if isinstance(value, str) and value in names:
        return value
    near = difflib.get_close_matches(value, map(str, names), n=1) if isinstance(value, str) else ()
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    words = f"one of {', '.join(map(repr, names))}" if names else "one that was asked for, there is none"
    raise refused(name, value, words + hint)


def duration(name: str, value, allowed: str) -> float:
    """Seconds in a text such as 90s, 12m or 1.5h, above 0; the error says what is ``allowed``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", value) if isinstance(value, str) else None
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else 0.0
    if not 0 < seconds < math.inf:
        raise refused(name, value, allowed)
    return seconds


def flag(name: str, value) -> bool:
    """``value`` as a bool; only True and False are."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise refused(name, value, "True or False")


def _finite(values, infinite):
    return not np.isnan(values).any() if infinite else np.isfinite(values).all()


def _fits(shape, wanted):
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))


def _inside(value, above, least, below, most) -> bool:
    whole = bool if isinstance(value, (int, float)) else np.all  # np.all takes microseconds, many a step
    bounds = ((above, operator.gt), (least, operator.ge), (below, operator.lt), (most, operator.le))
    return all(bound is None or whole(holds(value, bound)) for bound, holds in bounds)


def _range(kind, above, least, below, most) -> str:
    words = [("above", above), ("at least", least), ("below", below), ("at most", most)]
    found = " and ".join(f"{word} {bound:.6g}" for word, bound in words if bound is not None)
    return f"{kind} {found}" if found else kind
