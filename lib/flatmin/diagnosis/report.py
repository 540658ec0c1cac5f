"""What :func:`flatmin.diagnose` returns: lines of numbers with their errors, as text, as JSON, side by side.

JSON, schema ``flatmin.diagnose/1``: an object with ``schema``, ``facts`` (words and numbers about the
point), ``plan`` (``budget`` in seconds, ``notes``, ``steps``: name, planned, took, state, note),
``checks`` (name, found, allowed) and ``lines``, in the order of the page, each with ``name``, ``section``,
``symbol``, ``words``, ``claim``, ``link``, ``at`` (null or a list), ``reason`` ("" where there is a number)
and ``estimate``: null, or ``value``, ``error`` (numbers, or lists along ``at``), ``n`` and ``method``.
"""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from flatmin import _check
from flatmin.estimate import Estimate
from flatmin.ledger.decimals import approx

__all__ = ["SCHEMA", "SECTIONS", "Comparison", "Line", "Plan", "Report", "Step"]

SCHEMA = "flatmin.diagnose/1"
#: the sections of a report, in order
SECTIONS = ("checks", "curvature", "flatness", "noise", "stability", "theories")
#: entries of an array that the text shows, and its width
_SHOWN, _WIDTH = 8, 110


@dataclass(frozen=True)
class Line:
    """One number of a report, or one array along ``at``.

    Attributes
    ----------
    name, section, symbol, words : str
        What it is; ``section`` is one of SECTIONS.
    estimate : Estimate or None
    reason : str
        Why there is no number, "" where there is one.
    claim, link : str or None
        The claim of the book about it, and the chapter that tests it ("07_stability").
    at : tuple or None
        For an array: the eigenvalues or names that its entries belong to.
    """

    name: str
    section: str
    symbol: str
    words: str
    estimate: Estimate | None = None
    reason: str = ""
    claim: str | None = None
    link: str | None = None
    at: tuple | None = None

    @property
    def method(self) -> str:
        """How the number was found."""
        return "" if self.estimate is None else self.estimate.method

    @property
    def samples(self) -> int:
        """How many independent things the error comes from, 0 for an exact number."""
        return 0 if self.estimate is None else int(np.max(self.estimate.n))

    @property
    def number(self) -> str:
        """The number with its error, in a few characters; "—" for none, "… values" for an array."""
        if self.estimate is None:
            return "—"
        if np.ndim(self.estimate.value):
            return f"{len(self.at)} values"
        value, error = float(self.estimate.value), float(self.estimate.error)
        return approx(value, error if error > 1e-8 * abs(value) else None, digits=4)


@dataclass(frozen=True)
class Step:
    """One step of a plan: ``planned`` and ``took`` in seconds, its ``state`` and what there is to say."""

    name: str
    planned: float
    took: float | None = None
    state: str = "planned"
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What was to be measured within ``budget`` seconds, what was, and (``notes``) what less time costs."""

    budget: float
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def interrupted(self) -> bool:
        """Whether it was ended before its time."""
        return any(step.state == "interrupted" for step in self.steps)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the steps that the budget, or an interruption, left out."""
        return tuple(step.name for step in self.steps if step.state in ("dropped", "interrupted"))


class Comparison(dict):
    """``{name: difference in standard errors of the two}`` of two reports; None where one has no number.

    ±∞ where two exact numbers differ; for an array the difference of the largest size.
    """

    def __str__(self):
        rows = [f"{name:<24}{'—' if z is None else f'{z:+.1f}'}" for name, z in self.items()]
        return "\n".join(["line                    difference in standard errors", *rows])


@dataclass(frozen=True, repr=False)
class Report:
    """Everything measured at one point; made by :func:`flatmin.diagnose`.

    ``report["lambda_1"]`` is a :class:`Line`; printed, it is a page of text.

    Attributes
    ----------
    lines : tuple of Line
    facts : dict
        Model, loss, parameters P, samples n used, of_samples, outputs C, eta, batch_size, sampling, momentum,
        weight_decay, device, dtype, memory and peak in bytes, seconds, seed.
    plan : Plan
    checks : tuple
        (name, difference found, difference allowed) of what was tested before the first number.

    Examples
    --------
    >>> import flatmin as fm
    >>> train, test = fm.datasets.digits()
    >>> report = fm.diagnose(fm.models.mlp((64, 8, 10)), "cross-entropy", train, what="loss")
    >>> report["loss"].words, round(float(report["loss"].estimate), 2)
    ('mean loss', 3.27)
    >>> fm.Report.from_json(report.to_json()).compare(report)["loss"]
    0.0
    """

    lines: tuple[Line, ...]
    facts: dict
    plan: Plan
    checks: tuple[tuple[str, float, float], ...] = ()
    _by_name: dict = field(init=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "_by_name", {line.name: line for line in self.lines})

    def __getitem__(self, name: str) -> Line:
        """The line of a name; ValueError, with the nearest name, for another."""
        return self._by_name[_check.choice("name", name, self._by_name)]

    def __contains__(self, name) -> bool:
        return name in self._by_name

    @property
    def sections(self) -> dict[str, tuple[Line, ...]]:
        """The lines of each section, in order."""
        return {name: tuple(line for line in self.lines if line.section == name) for name in SECTIONS}

    def __repr__(self):
        numbers = sum(line.estimate is not None for line in self.lines)
        return (
            f"<Report on {self.facts['model']}: {numbers} numbers of {len(self.lines)} lines; "
            "print() shows them>"
        )

    def __str__(self):
        rows = [self.head, ""]
        for section, lines in self.sections.items():
            tested = _wrapped(self.tested, "  ") if section == "checks" else ()
            rows += [section.upper(), *tested, *(row for line in lines for row in _rows(line)), ""]
        return "\n".join([*rows, *_plan_rows(self.plan)])

    @property
    def tested(self) -> str:
        """A sentence that names the checks passed before the first number; "" for none."""
        names = ", ".join(dict.fromkeys(name for name, _, _ in self.checks))
        return f"Passed on a few samples: {names}." if names else ""

    @property
    def head(self) -> str:
        """Two sentences about the point: network, samples, where, how long."""
        f = self.facts
        part = "" if f["samples"] == f["of_samples"] else f" (drawn of {f['of_samples']})"
        extra = "".join(f", {name} {f[name]:g}" for name in ("momentum", "weight_decay") if f[name])
        step = [f"{symbol} = {f[name]:g}" for symbol, name in (("η", "eta"), ("B", "batch_size")) if f[name]]
        about = f"SGD with {', '.join([*step, f['sampling']])}{extra.replace('_', ' ')}. " if step else ""
        return (
            f"{f['model']} of {f['parameters']} parameters, {f['loss']}, {f['samples']} samples{part}, "
            f"{f['outputs']} outputs, {f['dtype']} on {f['device']}.\n"
            f"{about}Measured in {approx(f['seconds'], digits=2)} s; the graph of a chunk takes "
            f"{approx(f['memory'] / 2**20, digits=2)} MiB, at its peak the process "
            f"{approx(f['peak'] / 2**20, digits=2)} MiB."
        )

    def compare(self, other: Report) -> Comparison:
        """Differences from ``other`` (other − self) in units of their standard errors, line by line.

        For two measurements of one point: what both took of the same samples or vectors is in both errors,
        so the true scatter is smaller. Raises ValueError for what is no report.
        """
        _check.instance("other", other, Report)
        names = [*self._by_name, *(name for name in other._by_name if name not in self)]
        return Comparison({n: _distance(self._by_name.get(n), other._by_name.get(n)) for n in names})

    def to_json(self) -> str:
        """The report as JSON text; the module's text is the schema."""
        lines = []
        for line in self.lines:
            entry = {k: v for k, v in vars(line).items() if k != "estimate"}
            entry["at"] = None if line.at is None else list(line.at)
            entry["estimate"] = None if line.estimate is None else _plain(vars(line.estimate))
            lines.append(entry)
        whole = {"schema": SCHEMA, "facts": self.facts, "plan": asdict(self.plan)}
        return json.dumps(
            whole | {"checks": self.checks, "lines": lines}, ensure_ascii=False, allow_nan=False
        )

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what :meth:`to_json` wrote; ValueError for another text or schema."""
        try:
            read = json.loads(_check.instance("text", text, str))
            if read["schema"] != SCHEMA:
                raise _check.refused("schema", read["schema"], SCHEMA)
            lines = tuple(_line(entry) for entry in read["lines"])
            steps = tuple(Step(**step) for step in read["plan"]["steps"])
            plan = Plan(read["plan"]["budget"], steps, tuple(read["plan"]["notes"]))
            return cls(lines, read["facts"], plan, tuple(map(tuple, read["checks"])))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError):
            raise _check.refused("text", text, f"what to_json() wrote, {SCHEMA}") from None

    def _repr_html_(self) -> str:
        from flatmin.diagnosis import page

        return page.html(self)

    def save(self, path) -> None:
        """Write the report as one self-contained HTML file, see :func:`flatmin.diagnosis.page.save`."""
        from flatmin.diagnosis import page

        page.save(self, path)

    def plot(self):
        """Draw spectrum, edges and noise, see :func:`flatmin.diagnosis.page.plot`."""
        from flatmin.diagnosis import page

        return page.plot(self)


def _rows(line: Line):
    """The rows of text that show a line."""
    yield f"  {line.symbol:<16}{line.number:<18} {line.words}"
    told = line.reason if line.estimate is None else line.method
    yield from _wrapped(told, " " * 37) if told else ()
    if line.estimate is not None and line.at is not None:
        errors = np.broadcast_to(line.estimate.error, np.shape(line.estimate.value))
        shown = list(zip(line.at, line.estimate.value, errors, strict=True))
        for place, value, error in shown[:_SHOWN]:
            place = place if isinstance(place, str) else approx(place)
            yield f"      {place:<31}{approx(float(value), float(error) or None)}"
        if len(shown) > _SHOWN:
            yield f"      … and {len(shown) - _SHOWN} more"


def _wrapped(text, indent):
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _plan_rows(plan: Plan):
    yield f"PLAN, {plan.budget:g} s" if plan.budget else "PLAN, without a limit"
    for step in plan.steps:
        took = "" if step.took is None else f", took {approx(step.took, digits=2)} s"
        note = f": {step.note}" if step.note else ""
        told = f"{step.name}: {step.state}, planned {approx(step.planned, digits=2)} s{took}{note}"
        yield from _wrapped(told, "  ")
    yield from (row for note in plan.notes for row in _wrapped(note, "  "))


def _distance(one: Line | None, other: Line | None) -> float | None:
    if one is None or other is None or one.estimate is None or other.estimate is None:
        return None
    if np.shape(one.estimate.value) != np.shape(other.estimate.value) or one.at != other.at:
        return None
    difference = np.asarray(other.estimate.value, float) - one.estimate.value
    error = np.hypot(one.estimate.error, other.estimate.error) * np.ones_like(difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        units = np.where(difference == 0, 0.0, difference / error)
    return float(units.flat[np.argmax(np.abs(units))])


def _plain(values: dict) -> dict:
    """Numbers and lists of an estimate, whatever its class."""
    return {
        name: value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
        for name, value in values.items()
        if name in ("value", "error", "n", "method")
    }


def _line(entry: dict) -> Line:
    given = dict(entry)
    if given["estimate"] is not None:
        made = Estimate(**given["estimate"])
        if isinstance(made.value, list):
            made = replace(made, value=np.array(made.value), error=np.array(made.error))
        given["estimate"] = made
    given["at"] = None if given["at"] is None else tuple(given["at"])
    return Line(**given)


def finite(estimate: Estimate) -> bool:
    """Whether every number of an estimate is finite."""
    return bool(np.isfinite(estimate.value).all() and np.isfinite(estimate.error).all()) and all(
        not isinstance(n, float) or math.isfinite(n) for n in np.ravel(estimate.n).tolist()
    )
