"""From a landscape and a noise to a compiled ensemble kernel.

The expressions of one SGD step are printed, after common-subexpression elimination, into a small
module whose inner loops run over :data:`~.rng.LANES` trajectories without branches, so that LLVM
vectorises them. The module is kept in a cache folder under a hash of its text, so the compiled code is
found again by the next process. No fast-math flag is set: every operation is rounded as written, and a
seed gives the same trajectory on one thread or many, on this machine or another.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import keyword
import os
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache, partialmethod, reduce
from pathlib import Path

import numpy as np
import sympy as sp
from sympy.core.relational import Relational
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import BooleanAtom
from sympy.printing.pycode import PythonCodePrinter

from flatmin import _check
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import ETA, SIGMA, Noise
from flatmin.theory.sgd import elementary, rng

__all__ = ["Call", "build", "require_printable"]

_SOURCES: dict[tuple, str] = {}
_SHARES = 4  # pieces of a call for each thread: some end early

# σ enters every sampler as √(2σ), which is worked out once per trajectory
_AMPLITUDE = sp.Symbol("amplitude", nonnegative=True)


@dataclass
class Call:
    """One call of a compiled ``run``. The fields, in this order, are its signature and its arguments.

    N trajectories in blocks of LANES, d coordinates; ``level`` and ``side`` are those of the passage,
    ``low``, ``inverse`` (bins per unit) and ``bins`` those of the histograms, one after the other.
    """

    key: np.uint64
    numbers: np.ndarray  # (N,) int64, stream number of each trajectory
    begin: np.ndarray  # (d, N)
    step: np.ndarray  # (N,) η
    amp: np.ndarray  # (N,) √(2σ)
    P: np.ndarray  # the landscape's parameters
    bound: float
    steps: int
    burn: int
    batches: int
    kept: np.ndarray  # (K,) int64, increasing
    histogram_every: int
    level: np.ndarray  # (N,)
    side: np.ndarray  # (N,)
    stop_early: bool
    low: np.ndarray
    inverse: np.ndarray
    bins: np.ndarray
    # what is filled
    final: np.ndarray  # (d, N)
    life: np.ndarray  # (N,) int64, as are living, hit, last and count
    living: np.ndarray
    sums: np.ndarray  # (observables, batches, N)
    hit: np.ndarray
    last: np.ndarray
    count: np.ndarray
    where: np.ndarray  # (d, N)
    points: np.ndarray  # (K, d, N)
    counts: tuple[np.ndarray, ...]  # one (N, bins) uint32 for each histogram

    def through(self, run, width: int, threads: int) -> None:
        """Call ``run(first, last, …)`` on the blocks of ``width`` trajectories, shared out among threads."""
        arguments = [getattr(self, f.name) for f in fields(self)]
        blocks = len(self.numbers) // width
        if threads == 1 or blocks == 1:
            run(0, blocks, *arguments)
            return
        edges = np.linspace(0, blocks, min(blocks, _SHARES * threads) + 1).astype(int).tolist()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda first, last: run(first, last, *arguments), edges[:-1], edges[1:]))


class Printer(PythonCodePrinter):
    """Python source for numba: small powers as products, branches as selects."""

    def _print_Pow(self, expr, rational=False):
        base, power = expr.as_base_exp()
        printed, twice = self._print(base), 2 * power
        if not twice.is_Integer or abs(power) > 64:
            return f"power({printed}, {self._print(power)})"
        whole, half = divmod(abs(int(twice)), 2)
        factors = [_product(f"({printed})", whole)] * (whole > 0) + [f"np.sqrt({printed})"] * half
        product = "*".join(factors)
        if power > 0:
            return f"({product})" if whole else product
        return f"(1.0/({product}))" if whole else f"(1.0/{product})"

    def _print_number(self, expr):
        return repr(float(expr))

    _print_Rational = _print_Integer = _print_NumberSymbol = _print_Pi = _print_Exp1 = _print_number

    def _print_in(self, expr, text):
        return text.format(self._print(expr.args[0]))

    _print_exp = partialmethod(_print_in, text="exponential({})")
    _print_log = partialmethod(_print_in, text="logarithm({})")
    _print_sin = partialmethod(_print_in, text="sine({}, 0)")
    _print_cos = partialmethod(_print_in, text="sine({}, 1)")
    _print_tanh = partialmethod(_print_in, text="hyperbolic_tangent({})")
    _print_sign = partialmethod(_print_in, text="sign({})")
    _print_Heaviside = partialmethod(_print_in, text="(0.5 + 0.5*sign({}))")

    def _print_folded(self, expr, function):
        return reduce(lambda a, b: f"{function}({a}, {b})", map(self._print, expr.args))

    _print_Max = partialmethod(_print_folded, function="larger")
    _print_Min = partialmethod(_print_folded, function="smaller")


def _product(factor: str, power: int) -> str:
    """Source of an integer power: a plain product, squared where that saves much."""
    if power <= 8:
        return "*".join([factor] * power)
    square = f"({_product(factor, power // 2)})"
    return f"{square}*{square}" + f"*{factor}" * (power % 2)


#: what the printer has words for
_PRINTED = (
    *(sp.Symbol, sp.Number, sp.NumberSymbol, sp.Add, sp.Mul, sp.Pow, sp.Max, sp.Min, sp.Abs, sp.sign),
    *(sp.exp, sp.log, sp.sin, sp.cos, sp.tanh, sp.Heaviside, sp.Piecewise, ExprCondPair),
    *(Relational, BooleanAtom, sp.And, sp.Or, sp.Not),
)


def require_printable(name: str, expression: sp.Expr) -> None:
    """Raise ValueError for an expression that the compiled code has no words for."""
    for node in sp.preorder_traversal(expression):
        if not isinstance(node, _PRINTED):
            allowed = f"made of what the simulator has, it has no {type(node).__name__}"
            raise _check.refused(name, node, allowed)


def assignments(expressions: dict[str, sp.Expr], indent: str, printer: type[Printer] = Printer) -> str:
    """Source lines that evaluate named expressions, sharing their common parts, in a printer's language."""
    printer = printer({"fully_qualified_modules": False, "user_functions": {}})
    expressions, reciprocals = _share_reciprocals(expressions)
    shared, reduced = sp.cse(
        list(expressions.values()), symbols=sp.numbered_symbols("w_"), optimizations="basic"
    )
    lines = [f"{name} = 1.0/({printer.doprint(e)})" for name, e in reciprocals.items()]
    lines += [f"{name} = {printer.doprint(e)}" for name, e in shared]
    lines += [f"{name} = {printer.doprint(e)}" for name, e in zip(expressions, reduced, strict=True)]
    return "\n".join(indent + line for line in lines)


def _share_reciprocals(expressions: dict[str, sp.Expr]):
    """Write 1/(y + a)ⁿ as rⁿ with one symbol r = 1/(y + a): a division costs as much as ten products."""
    powers = set().union(*(e.atoms(sp.Pow) for e in expressions.values()))
    bases = {p.base for p in powers if p.exp.is_Integer and p.exp < 0}
    # only plain sums and symbols: what holds a division or a root itself is left to the common subexpressions
    plain = [b for b in bases if b.is_polynomial(*b.free_symbols) and b.free_symbols]
    names = {b: sp.Symbol(f"r_{i}") for i, b in enumerate(sorted(plain, key=sp.default_sort_key))}
    swap = {p: names[p.base] ** -p.exp for p in powers if p.base in names and p.exp.is_Integer and p.exp < 0}
    swapped = {name: e.xreplace(swap) for name, e in expressions.items()}
    return swapped, {r: b for b, r in names.items()}


_HEADER = '''"""Generated by flatmin.theory.sgd.kernels from a landscape and a noise; not to be edited."""
import numpy as np
from numba import njit
from flatmin.theory.sgd.rng import LANES, seed_lanes, standard_normals
'''

_ADVANCE = """
@njit(nogil=True, error_model="numpy", cache=True)
def advance({q}, {z}, step, amp, alive, life, bound, P):
{parameters}
    for lane in range(LANES):
{load}
        eta = step[lane]
        amplitude = amp[lane]
{body}
        ok = alive[lane]
        {test}
        ok = ok if inside else 0
{store}
        alive[lane] = ok
        life[lane] += ok
"""

_OBSERVE = """
@njit(nogil=True, error_model="numpy", cache=True)
def observe({q}, {sums}, P):
{parameters}
    for lane in range(LANES):
{load}
{body}
{add}
"""

_PASSAGE = """
@njit(nogil=True, error_model="numpy", cache=True)
def passage({q}, level, side, hit, t, P):
{parameters}
    for lane in range(LANES):
{load}
{body}
        before = hit[lane]
        crossed = t if side[lane] * (watched - level[lane]) <= 0.0 else -1
        hit[lane] = crossed if before < 0 else before
"""

_HOPS = """
@njit(nogil=True, error_model="numpy", cache=True)
def hops({q}, sign, last, count, {h}, t, P):
{parameters}
    for lane in range(LANES):
{load}
{body}
        now = 1.0 if watched >= 0.0 else -1.0
        hopped = now != sign[lane]
        sign[lane] = now
        last[lane] = t if hopped else last[lane]
        count[lane] += 1 if hopped else 0
{keep}
"""

_RUN = """
@njit(nogil=True, error_model="numpy", cache=True)
def run(lowest, until, {arguments}):
    s0 = np.empty(LANES, np.uint32); s1 = np.empty(LANES, np.uint32)
    s2 = np.empty(LANES, np.uint32); s3 = np.empty(LANES, np.uint32)
    e = np.empty(LANES); a = np.empty(LANES)
    alive = np.empty(LANES, np.int64); lived = np.empty(LANES, np.int64)
    {allocate}
    for block in range(lowest, until):
        lo = block * LANES
        seed_lanes(key, numbers[lo:lo + LANES], s0, s1, s2, s3)
        for lane in range(LANES):
            e[lane] = step[lo + lane]; a[lane] = amp[lo + lane]
            alive[lane] = 1; lived[lane] = 0
            {begin}
        {prepare}
        batch = 0; slot = 0
        for t in range(steps):
            if slot < kept.shape[0] and t == kept[slot]:
                for lane in range(LANES):
                    {keep}
                slot += 1
            {normals}
            advance({q}, {z}, e, a, alive, lived, bound, P)
            {watch}
            if t >= burn:
                {observe}
                if histogram_every > 0 and (t - burn) % histogram_every == 0:
                    for lane in range(LANES):
                        {histogram}
                if {has_sums} and t + 1 == burn + ((batch + 1) * (steps - burn)) // batches:
                    for lane in range(LANES):
                        {flush}
                    batch += 1
            if t % 256 == 255:
                going = 0
                for lane in range(LANES):
                    going += alive[lane]{and_unhit}
                if going == 0:
                    break
        for slot in range(slot, kept.shape[0]):  # the end, and what comes after a divergence
            for lane in range(LANES):
                {keep_last}
        for lane in range(LANES):
            {finish}
            life[lo + lane] = lived[lane]
            living[lo + lane] = alive[lane]
"""


#: names that the templates use in the functions into which coordinates and parameters are loaded
_RESERVED = re.compile(
    r"(q|z|h|new|sum|value|w_|r_)\d+_?|P|step|amp|alive|life|bound|lane|eta|amplitude|ok|inside|level|side"
    r"|hit|t|before|crossed|watched|last|count|now|hopped|np|njit|LANES|seed_lanes|standard_normals"
    r"|lowest|until|advance|observe|passage|hops|run|abs|_|" + "|".join(elementary.SOURCES)
)


def _renamed(landscape: Landscape, expressions):
    """The landscape and expressions with a new name for each symbol whose own cannot stand in the text."""
    swap = {}
    for kind, symbols in (("coordinate", landscape.coordinates), ("parameter", landscape.parameters)):
        for i, s in enumerate(symbols):
            if not s.name.isidentifier() or keyword.iskeyword(s.name) or _RESERVED.fullmatch(s.name):
                swap[s] = sp.Symbol(f"{kind}_{i}", **s.assumptions0)
    if not swap:
        return landscape, expressions
    coordinates, parameters = (
        tuple(swap.get(s, s) for s in symbols) for symbols in (landscape.coordinates, landscape.parameters)
    )
    domain = {words: e.xreplace(swap) for words, e in landscape.domain.items()}
    other = Landscape(landscape.loss.xreplace(swap), coordinates, parameters, domain=domain)
    return other, [None if e is None else e.xreplace(swap) for e in expressions]


def _source(landscape: Landscape, noise: Noise, observables, passage, hop, histograms) -> str:
    """The text of the module that holds the kernel."""
    landscape, (passage, hop, *observables) = _renamed(landscape, (passage, hop, *observables))
    q = [f"q{i}" for i in range(landscape.dimension)]
    names = [c.name for c in landscape.coordinates]
    parameters = "\n".join(f"    {p.name} = P[{i}]" for i, p in enumerate(landscape.parameters)) or "    pass"
    load = "\n".join(f"        {name} = {array}[lane]" for name, array in zip(names, q, strict=True))
    common = {"q": ", ".join(q), "parameters": parameters, "load": load}
    pairs = (len(noise.normals(landscape)) + 1) // 2
    z = [f"z{i}_" for i in range(2 * pairs)]
    sums = [f"sum{k}" for k in range(len(observables))]
    parts = [_advance_source(landscape, noise, q, z, common)]
    if observables:
        body = assignments({f"value{k}": e for k, e in enumerate(observables)}, " " * 8)
        add = "\n".join(f"        {s}[lane] += value{k}" for k, s in enumerate(sums))
        parts.append(_OBSERVE.format(**common, sums=", ".join(sums), body=body, add=add))
    if passage is not None:
        parts.append(_PASSAGE.format(**common, body=assignments({"watched": passage}, " " * 8)))
    if hop is not None:
        h = [f"h{i}" for i in range(landscape.dimension)]
        keep = "\n".join(
            f"        {a}[lane] = {n} if hopped else {a}[lane]" for a, n in zip(h, names, strict=True)
        )
        body = assignments({"watched": hop}, " " * 8)
        parts.append(_HOPS.format(**common, h=", ".join(h), keep=keep, body=body))
    helpers = elementary.source("\n".join(parts))
    run = _run_source(q, z, pairs, sums, passage is not None, hop is not None, histograms)
    return "\n".join([_HEADER, helpers, *parts, run])


def step(landscape: Landscape, noise: Noise) -> tuple[tuple[sp.Symbol, ...], dict, dict]:
    """One step: its normals, and by name the new coordinates and what of them must be positive.

    Expressions in the old coordinates, the parameters, η, the normals and ``amplitude``, √(2σ). Raises
    ValueError for a function that the compiled code does not have.
    """
    normals = noise.normals(landscape)
    kick = noise.gradient_noise(landscape, normals).subs(SIGMA, _AMPLITUDE**2 / 2)
    moved = sp.Matrix(landscape.coordinates) - ETA * (landscape.gradient + kick)
    new = {f"new{i}": e for i, e in enumerate(moved)}
    there = dict(zip(landscape.coordinates, map(sp.Symbol, new), strict=True))
    domain = {f"domain{k}": e.xreplace(there) for k, e in enumerate(landscape.domain.values())}
    for e in (*new.values(), *domain.values()):
        require_printable("landscape", e)
    return normals, new, domain


def _advance_source(landscape, noise, q, z, common) -> str:
    """One step of all lanes; a lane that would leave the bound or the domain stays and is dead."""
    normals, new, domain = step(landscape, noise)
    load_z = "".join(
        f"\n        {s.name} = np.float64({array}[lane])" for s, array in zip(normals, z, strict=False)
    )
    body = assignments(new, " " * 8)
    if domain:
        body += "\n" + assignments(domain, " " * 8)
    inside = [f"(abs({name}) <= bound)" for name in new] + [f"({name} > 0.0)" for name in domain]
    names = [c.name for c in landscape.coordinates]
    store = [
        f"        {a}[lane] = new{i} if ok else {n}" for i, (a, n) in enumerate(zip(q, names, strict=True))
    ]
    return _ADVANCE.format(
        **{**common, "load": common["load"] + load_z},
        z=", ".join(z) or "_",
        body=body,
        test="inside = " + " & ".join(inside),
        store="\n".join(store),
    )


def _run_source(q, z, pairs, sums, has_passage, has_hops, histograms) -> str:
    """The driver: blocks of lanes in parallel, the step loop, what is watched on the way."""
    hop_state = [f"h{i}" for i in range(len(q))]
    allocate = [f"{a} = np.empty(LANES)" for a in q + sums]
    allocate += [f"{a} = np.empty(LANES, np.float32)" for a in z]
    begin = [f"{a}[lane] = begin[{i}, lo + lane]" for i, a in enumerate(q)]
    begin += [f"{a}[lane] = 0.0" for a in z + sums]
    finish = [f"final[{i}, lo + lane] = {a}[lane]" for i, a in enumerate(q)]
    prepare, watch = [], []
    if has_passage:
        allocate += ["lv = np.empty(LANES); sd = np.empty(LANES); ht = np.empty(LANES, np.int64)"]
        begin += ["lv[lane] = level[lo + lane]; sd[lane] = side[lo + lane]; ht[lane] = -1"]
        prepare += [f"passage({', '.join(q)}, lv, sd, ht, 0, P)"]
        watch += [f"passage({', '.join(q)}, lv, sd, ht, t + 1, P)"]
        finish += ["hit[lo + lane] = ht[lane]"]
    if has_hops:
        arguments = f"{', '.join(q)}, sign, lt, ct, {', '.join(hop_state)}"
        allocate += [
            "sign = np.empty(LANES); lt = np.empty(LANES, np.int64); ct = np.empty(LANES, np.int64)",
            *(f"{h} = np.empty(LANES)" for h in hop_state),
        ]
        begin += [f"{h}[lane] = {a}[lane]" for h, a in zip(hop_state, q, strict=True)]
        begin += ["sign[lane] = 0.0; lt[lane] = 0; ct[lane] = 0"]
        prepare += [f"hops({arguments}, 0, P)", "for lane in range(LANES):", "    ct[lane] = 0"]
        watch += [f"hops({arguments}, t + 1, P)"]
        finish += ["last[lo + lane] = lt[lane]; count[lo + lane] = ct[lane]"]
        finish += [f"where[{i}, lo + lane] = {h}[lane]" for i, h in enumerate(hop_state)]
    flush = [f"sums[{k}, batch, lo + lane] = {s}[lane]; {s}[lane] = 0.0" for k, s in enumerate(sums)]
    draws = [f"standard_normals(s0, s1, s2, s3, {z[2 * k]}, {z[2 * k + 1]})" for k in range(pairs)]
    keep = [f"points[slot, {i}, lo + lane] = {a}[lane]" for i, a in enumerate(q)]

    def lines(found, indent):
        return f"\n{' ' * indent}".join(found) or "pass"

    return _RUN.format(
        arguments=", ".join(f.name for f in fields(Call)),
        q=", ".join(q),
        z=", ".join(z) or "0",
        allocate=lines(allocate, 4),
        begin=lines(begin, 12),
        prepare=lines(prepare, 8),
        keep=lines(keep, 20),
        keep_last=lines(keep, 16),
        normals=lines(draws, 12),
        watch=lines(watch, 12),
        observe=f"observe({', '.join(q + sums)}, P)" if sums else "pass",
        has_sums=bool(sums),
        histogram=lines(_histogram_lines(histograms), 24),
        flush=lines(flush, 24),
        and_unhit=" * (1 if ht[lane] < 0 or not stop_early else 0)" if has_passage else "",
        finish=lines(finish, 12),
    )


def _histogram_lines(histograms) -> list[str]:
    """Count one visit per histogram; a point outside the range is counted in none of its bins."""
    lines = []
    for k, coordinate in enumerate(histograms):
        lines.append(f"place = (q{coordinate}[lane] - low[{k}]) * inverse[{k}]")
        count = f"counts[{k}][lo + lane, np.int64(place)] += np.uint32(1)"
        lines.append(f"if place >= 0.0 and place < bins[{k}]: {count}")
    return lines


def _cache_folder() -> Path:
    """Where generated modules and their compiled code live: FLATMIN_CACHE, else the user's cache."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("FLATMIN_CACHE") or Path(user_cache) / "flatmin")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="flatmin-"))


@lru_cache(maxsize=64)
def _load(text: str, name: str):
    """The function ``run`` of a generated module, written to the cache folder unless it is there."""
    sources = text + inspect.getsource(rng)
    module_name = f"flatmin_kernel_{hashlib.sha256(sources.encode()).hexdigest()[:20]}"
    path = _cache_folder() / f"{module_name}.py"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        if sys.stderr.isatty():  # someone at a terminal; never in a notebook or a log
            print(f"flatmin: compiling the simulator of {name}, some seconds, once", file=sys.stderr)
        # written aside and renamed, so that a second process never imports half a module
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8"
        ) as out:
            out.write(text)
        os.replace(out.name, path)
    spec = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module.run


def build(landscape: Landscape, noise: Noise, observables, passage, hop, histograms):
    """The compiled ``run`` of a landscape under a noise, to be called with a :class:`Call`.

    ``observables`` are averaged over time, ``passage`` is watched for a first passage, ``hop`` for changes of
    sign (expressions; None for none); ``histograms`` are coordinate numbers. Only symbols and structure enter
    the text: other parameter values and another σ share the kernel. Raises ValueError for an expression with
    a function that the compiled code does not have.
    """
    settings = tuple((f.name, getattr(noise, f.name)) for f in fields(noise) if f.name != "sigma")
    key = (landscape.loss, landscape.coordinates, landscape.parameters, type(noise), settings)
    key += (tuple(landscape.domain.values()),)
    key += (observables, passage, hop, histograms)
    if key not in _SOURCES:  # writing the text of a long expression takes seconds
        _SOURCES[key] = _source(landscape, noise, observables, passage, hop, histograms)
    return _load(_SOURCES[key], landscape.name)
