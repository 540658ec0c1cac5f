"""Expressions read from text without running it: arithmetic, known names, and a whitelist of functions.

``sympy.sympify`` executes what it is given. Here the text is parsed by :mod:`ast`, and only what is listed
below is turned into sympy; everything else is refused in words.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Mapping

import sympy as sp

from flatmin import _check

__all__ = ["CONSTANTS", "FUNCTIONS", "parse"]

#: what a text may call; each of them the compiled simulator has too
FUNCTIONS = {
    f.__name__.lower(): f
    for f in (sp.Abs, sp.cos, sp.exp, sp.log, sp.Max, sp.Min, sp.sign, sp.sin, sp.sqrt, sp.tanh)
} | {"Piecewise": sp.Piecewise}
_OTHER_SPELLINGS = {"Abs": "abs", "Max": "max", "Min": "min"}
CONSTANTS = {"pi": sp.pi}
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_COMPARISONS = {ast.Lt: sp.Lt, ast.LtE: sp.Le, ast.Gt: sp.Gt, ast.GtE: sp.Ge}
#: the longest text, and the largest number as an exponent (a tower of powers takes for ever)
_LONGEST, _HIGHEST = 2000, 1000


class _Refused(Exception):
    """Why a text is no expression, in a few words."""


def parse(name: str, text: str, symbols: Mapping[str, sp.Symbol]) -> sp.Expr:
    """The real expression that ``text`` stands for, in ``symbols`` by name; ``name`` is for messages.

    Such as ``"x**2 + exp(-x)"``: + − * / **, numbers, ``pi``, the :data:`FUNCTIONS`, and ``Piecewise((a, x >=
    0), (b, True))`` with one comparison for each piece. Raises ValueError for anything else: unknown names
    and functions, attributes, indices, numbers beyond 1e308.
    """
    _check.instance(name, text, str)
    allowed = f"an expression in {', '.join(symbols)} and {', '.join(FUNCTIONS)}"
    if len(text) > _LONGEST:
        raise _check.refused(name, text, f"{allowed}, of at most {_LONGEST} characters")
    try:
        found = _read(ast.parse(text.strip(), mode="eval").body, symbols)
        if found.has(sp.I, sp.nan, sp.zoo, sp.oo, -sp.oo):
            raise _Refused(f"{found} is not a real number")
    except _Refused as why:
        raise _check.refused(name, text, f"{allowed}: {why}") from None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _check.refused(name, text, f"{allowed}: it cannot be read") from None
    return found


def _read(node, symbols) -> sp.Expr:
    """One node of the syntax tree as sympy."""
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _finite(sp.Integer(value) if isinstance(value, int) else sp.Float(value))
        case ast.Name(id=name) if name in symbols or name in CONSTANTS:
            return symbols[name] if name in symbols else CONSTANTS[name]
        case ast.Name(id=name):
            raise _Refused(f"{name!r} is unknown{_nearest(name, [*symbols, *CONSTANTS])}")
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
            return _read(operand, symbols) * (-1 if isinstance(sign, ast.USub) else 1)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_read(left, symbols), _read(right, symbols))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _finite(_OPERATORS[type(op)](_read(left, symbols), _read(right, symbols)))
        case ast.BinOp(op=ast.BitXor()):
            raise _Refused("a power is written x**2")
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _call(name, args, symbols)
    raise _Refused(f"{_fragment(node)!r} is none of what it may hold")


def _call(name, args, symbols) -> sp.Expr:
    """One of the functions, of arguments that are read first."""
    name = _OTHER_SPELLINGS.get(name, name)
    if name not in FUNCTIONS:
        raise _Refused(f"the function {name!r} is unknown{_nearest(name, FUNCTIONS)}")
    if name == "Piecewise":
        return _piecewise(args, symbols)
    values = [_read(a, symbols) for a in args]
    if name in ("max", "min") and len(values) < 2:
        raise _Refused(f"{name} takes two arguments or more")
    if name not in ("max", "min") and len(values) != 1:
        raise _Refused(f"{name} takes one argument")
    if name in ("exp", "log", "sqrt") and values[0].is_number:
        # sympy would look for the exact value of exp(exp(100)) until the memory is full
        try:
            getattr(math, name)(float(values[0]))
        except (ValueError, OverflowError):
            raise _Refused(f"{name}({values[0]}) is not a finite real number") from None
    return _finite(FUNCTIONS[name](*values))


def _piecewise(args, symbols) -> sp.Expr:
    """Piecewise((value, condition), …, (value, True)); a condition is one comparison."""
    pieces = []
    for piece in args:
        match piece:
            case ast.Tuple(elts=[value, ast.Constant(value=True)]):
                pieces.append((_read(value, symbols), True))
            case ast.Tuple(elts=[value, ast.Compare(left=left, ops=[op], comparators=[right])]) if (
                type(op) in _COMPARISONS
            ):
                condition = _COMPARISONS[type(op)](_read(left, symbols), _read(right, symbols))
                pieces.append((_read(value, symbols), condition))
            case _:
                raise _Refused(f"{_fragment(piece)!r} is no piece (value, condition)")
    if not pieces or pieces[-1][1] is not True:
        raise _Refused("the last piece of Piecewise must have the condition True")
    return sp.Piecewise(*pieces)


def _power(base, exponent) -> sp.Expr:
    """base**exponent, unless it is a number too large to write down."""
    if exponent.is_number and not abs(_float(exponent)) <= _HIGHEST:
        raise _Refused(f"the exponent {exponent} is beyond ±{_HIGHEST}")
    if base.is_number and exponent.is_number:
        try:
            value = _float(base) ** _float(exponent)
        except (OverflowError, ZeroDivisionError):
            value = math.nan
        if isinstance(value, complex) or not math.isfinite(value) or (value == 0 and base != 0):
            raise _Refused("a power of numbers is too large, too small or not real")
    return base**exponent


def _float(number) -> float:
    try:
        return float(number)
    except (OverflowError, TypeError):
        return math.inf


def _finite(expression) -> sp.Expr:
    """The expression, if it is no number beyond the doubles."""
    if expression.is_number and not math.isfinite(_float(expression)):
        raise _Refused("a number is not finite")
    return expression


def _nearest(name, known) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _fragment(node) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 40 else text[:37] + "…"
