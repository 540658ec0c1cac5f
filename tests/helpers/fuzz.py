"""Bad input, systematically: every argument of every public function gets every bad value of one table.

How a test file uses it, one for each group of modules::

    import pytest
    from fuzz import Case, check, uncovered

    from flatmin.theory.logarithmic import laws

    CASES = [
        Case(laws.temperature, {"eta": 0.1, "batch_size": 5}),
        Case(laws.mean_log_ratio, {"phi": 3.0}, right={"beyond": {"inf": "the limit is 0"}}),
        Case(chain.matrix, {"grid": np.linspace(0, 3, 9)}, leave={"nodes": "any three integers"}),
        Case(RegressionChain, {"eta": 0.1}, then=lambda chain: chain.tail_exponent),
    ]

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_bad_values_are_refused_by_name(case):
        check(case)

    def test_every_public_name_has_a_case():
        assert not uncovered(CASES, laws, skip={"XI": "a symbol"})

``arguments`` are valid ones; each parameter of the signature is mutated in turn (those with defaults too),
the others keep their valid values. What may happen:

- *clear*: a ValueError or TypeError of at most 400 characters with the argument's name in it as a word (for a
  wrong shape, the name of any argument: two shapes that do not fit are the fault of both);
- *right*: a result of finite numbers for a value that is only odd (0, −1, ∞, 10³⁰, True, another shape).
  For what can never be meant (NaN, complex, text, None, an object, nothing, and negative values of the
  ``NEVER_NEGATIVE``) a result is right only where the default is of that kind or ``right`` says why;
- *obscure*: another exception, a message that does not name the argument, a hang of over five seconds;
- *silent*: NaN or ∞ in the result, a result for what can never be meant, a warning of numpy.

``check`` fails if anything was obscure or silent. Counts of all cases stand at the end of pytest's report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import inspect
import math
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

#: calls and outcomes of all cases so far
TOTAL = Counter()
#: what a measurement takes at most, and a call that must be stopped from outside
SECONDS, HOPELESS = 5, 60
#: arguments of which no negative value can be meant, whatever the function
NEVER_NEGATIVE = frozenset(
    {"eta", "batch_size", "sigma", "delta_s", "temperature", "steps", "samples", "seed", "runs", "resamples"}
    | {"dimension", "trajectories"}
)
_NUMBERS = {
    "0": 0,
    "-1": -1,
    "-0.5": -0.5,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "1e308": 1e308,
    "10**30": 10**30,
    "complex": 1 + 2j,
}
_OTHERS = {
    "text": "text",
    "no text": "",
    "None": None,
    "[]": [],
    "object": object(),
    "True": True,
    "another shape": np.full((2, 3), 0.5),
    "array of text": np.array(["a", "b"]),
    "complex array": np.array([1.0, 2j]),
    "array of nan": np.full(3, np.nan),
    "array with inf": np.array([1.0, np.inf]),
    "empty array": np.empty(0),
}
_NEVER_MEANT = frozenset(
    {"nan", "complex", "text", "no text", "None", "[]", "object", "array of text", "complex array"}
    | {"array of nan", "empty array", "entry nan", "entry complex", "entry text", "as complex", "as text"}
)
_SHAPES = frozenset({"another shape", "shorter", "one axis more", "array with inf", "longer"})


@dataclass(frozen=True)
class Case:
    """A callable, valid arguments for it, and what is special about some.

    Attributes
    ----------
    function : callable
        A function, a class, or a bound method.
    arguments : dict
        Valid keyword arguments; parameters with defaults need not be there.
    right : {argument: {label: reason}}
        Values (by the labels of the table; "*" for all of them) whose result is right although it is not
        finite, or although the value looks as if it could not be meant.
    leave : {argument: reason}
        Arguments that are not mutated.
    then : callable, optional
        Called with the result, its own result is examined (a property of what a class makes).
    name : str, optional
        For the report and for coverage; ``__qualname__`` unless given.
    """

    function: Callable
    arguments: Mapping = field(default_factory=dict)
    right: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    leave: Mapping[str, str] = field(default_factory=dict)
    then: Callable | None = None
    name: str = ""

    def __str__(self):
        return self.name or self.function.__qualname__


def check(case: Case) -> None:
    """Call the function with every bad value of every argument; fail when an outcome is obscure or silent."""
    parameters = inspect.signature(case.function).parameters.values()
    parameters = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    outcome, why = _outcome(case, {}, "", "", None, 60)
    assert outcome == "right", f"{case}: the valid call is {outcome}: {why}"
    for collection in (case.right, case.leave):
        unknown = set(collection) - {p.name for p in parameters}
        assert not unknown, f"{case}: no such arguments: {unknown}"
    failures = []
    for parameter in parameters:
        if parameter.name in case.leave:
            continue
        valid = case.arguments.get(parameter.name, parameter.default)
        for label, value in _mutants(valid).items():
            outcome, why = _outcome(case, {parameter.name: value}, parameter.name, label, parameter, SECONDS)
            TOTAL.update({"calls": 1, outcome: 1})
            if outcome in ("obscure", "silent"):
                failures.append(f"{outcome}: {case}({parameter.name} = {label}): {why}")
    assert not failures, f"{len(failures)} of {case}:\n" + "\n".join(failures)


def uncovered(cases, *modules, skip: Mapping[str, str] | None = None) -> list[str]:
    """Public functions, classes and their public methods with arguments, of ``modules``, that have no case.

    Public is what ``__all__`` names; other objects in it (constants, symbols) need none. ``skip`` maps names
    that need none to the reason.
    """
    known = {str(case) for case in cases} | {case.function.__qualname__ for case in cases} | set(skip or {})
    missing = []
    for module in modules:
        for name in module.__all__:
            thing = getattr(module, name)
            if not (inspect.isfunction(thing) or inspect.isclass(thing)):
                continue
            names = [thing.__qualname__]
            if inspect.isclass(thing):
                names += [f"{thing.__qualname__}.{m}" for m in _methods(thing)]
            missing += [f"{module.__name__}: {n}" for n in names if n not in known]
    return missing


def report() -> str:
    """Counts of all cases so far, in one line."""
    return ", ".join(f"{TOTAL[name]} {name}" for name in ("calls", "clear", "right", "obscure", "silent"))


def _methods(kind) -> list[str]:
    """Public methods that the class itself defines and that take arguments."""
    found = []
    for name, thing in vars(kind).items():
        function = thing.__func__ if isinstance(thing, (classmethod, staticmethod)) else thing
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        if len(inspect.signature(function).parameters) > (not isinstance(thing, staticmethod)):
            found.append(name)
    return found


def _mutants(valid) -> dict:
    """Bad values by their labels: the table, and the valid value spoiled if it is an array or a sequence."""
    found = {label: value for label, value in (_NUMBERS | _OTHERS).items() if value is not valid}
    if isinstance(valid, bool):
        found.pop("True", None)
    is_tensor = hasattr(valid, "detach")
    if is_tensor or isinstance(valid, np.ndarray) or _is_numbers(valid):
        array = valid.detach().cpu().numpy() if is_tensor else np.asarray(valid)
        back = _to_tensor if is_tensor else type(valid) if isinstance(valid, (list, tuple)) else np.asarray
        found |= {label: back(value) for label, value in _spoiled(array).items()}
        found["as text"] = array.astype(str)
        found["as complex"] = array + 1j
    elif isinstance(valid, (list, tuple)) and valid:
        for label, value in {"entry nan": math.nan, "entry text": "text", "entry complex": 1j}.items():
            found[label] = type(valid)([value, *valid[1:]])
        found["shorter"] = valid[:-1]
    return found


def _is_numbers(value) -> bool:
    """Whether a value is a sequence of numbers (not of unequal sequences)."""
    return isinstance(value, (list, tuple, range)) and len(value) > 0 and all(map(_is_real, value))


def _is_real(value) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _spoiled(array) -> dict:
    """An array with one bad entry, or of another length."""
    found = {"one axis more": array[..., None]}
    if array.ndim:
        found |= {"shorter": array[:-1], "longer": np.concatenate([array, array[-1:]])}
    if array.dtype.kind in "iuf":
        bad = {"entry nan": np.nan, "entry inf": np.inf, "entry -1": -1, "entry 1e30": 1e30}
        for label, value in bad.items():
            spoiled = array.astype(float if label != "entry -1" else array.dtype)
            spoiled.flat[:1] = value
            found[label] = spoiled
        if array.ndim and len(array) > 1:
            found["reversed"] = array[::-1].copy()
    return found


def _to_tensor(array):
    import torch

    return torch.from_numpy(np.array(array))


def _outcome(case, changed, name, label, parameter, seconds) -> tuple[str, str]:
    """What a call does: one of clear, right, obscure, silent, and why."""
    arguments = {**case.arguments, **changed}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            with _at_most(seconds):
                result = case.function(**arguments)
                if case.then is not None:
                    result = case.then(result)
                wrong = _not_finite(result)
        except _TooLong:
            return "obscure", f"no answer in {seconds} s"
        except (ValueError, TypeError) as error:
            return _judged(error, case, name, label)
        except Exception as error:
            return "obscure", f"{type(error).__name__}: {error}"
    declared = case.right.get(name, {})
    if label in declared or "*" in declared:
        return "right", ""
    numeric = [str(w.message) for w in heard if issubclass(w.category, RuntimeWarning)]
    if wrong or numeric:
        return "silent", wrong or numeric[0]
    negative = name in NEVER_NEGATIVE and label in ("-1", "-0.5", "-inf", "entry -1")
    if name and (label in _NEVER_MEANT or negative) and not _like_default(parameter, changed[name]):
        return "silent", f"accepted, result {str(result)[:60]!r}"
    return "right", ""


def _judged(error, case, name, label) -> tuple[str, str]:
    """Whether the message of an error is clear."""
    message = str(error)
    names = [name] if label not in _SHAPES else [name, *case.arguments]
    if not name or len(message) > 400 or not any(re.search(rf"(?<!\w){n}(?!\w)", message) for n in names):
        return "obscure", f"{type(error).__name__}: {message[:200]}"
    return "clear", message


def _like_default(parameter, value) -> bool:
    """Whether a value is of the kind that the argument has by default: None, or nothing."""
    default = parameter.default
    if default is None or default is parameter.empty:
        return value is default
    return isinstance(default, (tuple, list, str)) and len(default) == 0 and np.size(value) == 0


def _not_finite(result, depth: int = 4) -> str:
    """The first number in a result that is not finite, in words; "" where all are."""
    if depth == 0 or result is None or isinstance(result, (str, bytes, bool)):
        return ""
    if hasattr(result, "detach"):
        result = result.detach().cpu().float().numpy()
    if isinstance(result, (int, float, complex, np.number, np.ndarray)):
        values = np.asarray(result)
        bad = values.dtype.kind in "fc" and not np.isfinite(values).all()
        return f"the result holds {values[~np.isfinite(values)].flat[0]}" if bad else ""
    if hasattr(result, "free_symbols") and hasattr(result, "has"):
        import sympy as sp

        bad = result.has(sp.nan, sp.zoo, sp.oo, -sp.oo)
        return f"the result holds {result}"[:80] if bad else ""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        parts = [getattr(result, f.name) for f in dataclasses.fields(result)]
    elif isinstance(result, Mapping):
        parts = result.values()
    else:
        parts = result if isinstance(result, (tuple, list)) else ()
    return next((words for part in parts if (words := _not_finite(part, depth - 1))), "")


class _TooLong(Exception):
    """Raised by the alarm."""


@contextlib.contextmanager
def _at_most(seconds):
    """Stop what runs longer; compiled code that never returns ends the whole process, with a traceback."""

    def alarm(*_):
        raise _TooLong

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(HOPELESS + seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
