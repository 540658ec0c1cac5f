"""From a landscape and a noise to JavaScript: the assignments of the compiled kernel, in its order.

Only correctly rounded operations occur, so the browser gives the trajectories of
:func:`~flatmin.theory.sgd.simulate.simulate` bit for bit.
"""

from __future__ import annotations

import re
from functools import partialmethod

import sympy as sp

from flatmin import _check
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import Noise
from flatmin.theory.sgd import elementary, kernels

__all__ = ["exponential_source", "function_source", "step_source"]


class _Printer(kernels.Printer):
    """The kernel's printer with JavaScript's words for branches, roots and moduli."""

    _print_Abs = partialmethod(kernels.Printer._print_in, text="Math.abs({})")

    def _print_Piecewise(self, expr):
        *pieces, last = expr.args
        text = self._print(last.expr)
        for piece in reversed(pieces):
            text = f"({self._print(piece.cond)} ? {self._print(piece.expr)} : {text})"
        return text


def _assignments(name, expressions, indent) -> str:
    """Lines ``const name = …;`` for named expressions, each checked first."""
    for e in expressions.values():
        kernels.require_printable(name, e)
    text = kernels.assignments(expressions, "", _Printer).replace("np.sqrt(", "Math.sqrt(")
    word = re.search(r"\b(np|logarithm|sine|hyperbolic_tangent|power|sign|smaller|and|or|not|if)\b", text)
    if word:
        raise ValueError(f"{name}: must be made of what the page has, it has no {word[0]}")
    return "\n".join(f"{indent}const {line};" for line in text.splitlines())


def exponential_source() -> str:
    """JavaScript of the kernel's eˣ: the same polynomial, and 2ⁿ from the bits."""
    return (
        "function exponential(x) {\n"
        "  x = Math.min(Math.max(x, -708), 708);\n"
        "  const n = x * 1.4426950408889634 + 6755399441055744 - 6755399441055744;\n"
        "  const r = x - n * 0.6931471803691238 - n * 1.9082149292705877e-10;\n"
        "  power[1] = (n + 1023) << 20;\n"
        f"  return (1 + r * {elementary.TAYLOR}) * two[0];\n"
        "}\n"
    )


def step_source(landscape: Landscape, noise: Noise) -> str:
    """The function ``advance``: one step of n walkers in place; it returns how many live.

    ``Q``, ``Z`` hold an array for each coordinate and each normal; ``alive[i]`` falls to 0 where the step
    leaves the bound or the domain. Raises ValueError for what the page has no words for.
    """
    _check.instance("landscape", landscape, Landscape)
    normals, new, domain = kernels.step(landscape, _check.instance("noise", noise, Noise))
    names = [c.name for c in landscape.coordinates]
    load = [f"const {q} = Q[{i}][i];" for i, q in enumerate(names)]
    load += [f"const {z.name} = Z[{i}][i];" for i, z in enumerate(normals)]
    inside = [f"Math.abs({name}) <= bound" for name in new] + [f"{name} > 0" for name in domain]
    store = [f"Q[{i}][i] = {name};" for i, name in enumerate(new)]
    parameters = ", ".join(p.name for p in landscape.parameters)
    lines = [
        f"function advance(Q, Z, n, alive, eta, amplitude, {{ {parameters} }}, bound = 1000) {{",
        "  let living = 0;",
        "  for (let i = 0; i < n; i++) {",
        "    if (!alive[i]) continue;",
        *(f"    {line}" for line in load),
        _assignments("landscape", new, "    "),
        *([_assignments("domain", domain, "    ")] if domain else []),
        f"    if ({' && '.join(inside)}) {{ {' '.join(store)} living++; }} else alive[i] = 0;",
        "  }",
        "  return living;",
        "}",
    ]
    return "\n".join(lines) + "\n"


def function_source(name: str, arguments, expression: sp.Expr, parameters=()) -> str:
    """A JavaScript function of some symbols and, in braces, of the parameters.

    Raises ValueError for a stray symbol or what the page has no words for.
    """
    _check.instance("name", name, str)
    _check.instance("expression", expression, sp.Expr)
    for key, symbols in (("arguments", arguments), ("parameters", parameters)):
        if not isinstance(symbols, (tuple, list)) or not all(isinstance(s, sp.Symbol) for s in symbols):
            raise _check.refused(key, symbols, "a sequence of symbols")
    stray = expression.free_symbols - {*arguments, *parameters}
    if stray or not name.isidentifier():
        allowed = "a name for an expression in its arguments and parameters"
        raise _check.refused("name, expression", (name, stray), allowed)
    head = [a.name for a in arguments]
    if parameters:
        head.append("{ " + ", ".join(p.name for p in parameters) + " }")
    body = _assignments("expression", {"value": expression}, "  ")
    return f"function {name}({', '.join(head)}) {{\n{body}\n  return value;\n}}\n"
