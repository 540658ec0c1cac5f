"""The claims of the papers and what the chapters found: ``check`` states one comparison and its verdict.

``data/claims.yml`` lists every claim. A chapter calls :func:`check` with what it measured or proved; the
verdict appears below the cell and is kept in the notebook, from where :func:`collect` reads it.
"""

import difflib
import html
from dataclasses import dataclass, replace
from functools import lru_cache

import yaml

from flatmin import _check
from flatmin.ledger import paths
from flatmin.ledger.collection import collect, load_verdicts, write_verdicts
from flatmin.ledger.decimals import approx, exact, number
from flatmin.ledger.verdicts import Verdict, badge, decide, slug

__all__ = [
    "Claim",
    "Verdict",
    "approx",
    "check",
    "claim_of",
    "collect",
    "exact",
    "load_claims",
    "load_verdicts",
    "verdict_table",
    "write_verdicts",
]

PAPERS = ("Y23", "Y22", "W22", "M22", "Y26", "beyond")
KINDS = ("D", "T", "N")

_made = {}  # (id, part) -> Verdict: the checks made in this process, in order


@dataclass(frozen=True)
class Claim:
    """One entry of ``data/claims.yml``: a testable statement, where it stands, and why it is still open.

    ``kind`` holds D (derivation), T (toy model), N (network); ``doubtful`` says that the printed form was
    doubted beforehand; ``chapter`` is the chapter that examines it or is to.
    """

    id: str
    paper: str
    section: str
    where: str | None
    statement: str
    kind: tuple
    doubtful: bool = False
    chapter: str | None = None
    open: str | None = None


def load_claims(path=None):
    """Return the claims as a dict from id to :class:`Claim`, in the order of ``data/claims.yml``.

    Raises ValueError, naming the entry, for a repeated id, an unknown or missing field, an unknown paper
    or kind.
    """
    path = paths.data() / "claims.yml" if path is None else path
    return dict(_read_claims(path, path.stat().st_mtime_ns))


@lru_cache(maxsize=4)
def _read_claims(path, _changed):
    try:
        entries = list(yaml.safe_load(path.read_text("utf8")))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no list of claims: {' '.join(str(error).split())}") from None
    claims = {}
    for entry in entries:
        try:
            claim = Claim(**{**entry, "kind": tuple(entry["kind"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"{path.name}, entry {entry!r}: {error}") from None
        if claim.id in claims:
            raise ValueError(f"{path.name}: id {claim.id!r} appears twice")
        if claim.paper not in PAPERS:
            raise ValueError(f"{path.name}, {claim.id}: paper={claim.paper!r}: allowed are {PAPERS}")
        if not claim.kind or not set(claim.kind) <= set(KINDS):
            raise ValueError(f"{path.name}, {claim.id}: kind={list(claim.kind)!r}: allowed are {KINDS}")
        claims[claim.id] = claim
    return claims


def claim_of(id):
    """Return the claim of that id. Raises ValueError with the nearest ids when there is none."""
    claims = load_claims()
    if not isinstance(id, str) or id not in claims:
        near = difflib.get_close_matches(str(id), claims, n=3, cutoff=0)
        allowed = f"the id of a claim in data/claims.yml; the nearest are {', '.join(near)}"
        raise _check.refused("id", id, allowed)
    return claims[id]


def check(
    id,
    *,
    measured=None,
    error=None,
    printed=None,
    expected=None,
    at_least=None,
    at_most=None,
    holds=None,
    printed_holds=None,
    tolerance=0.0,
    sigmas=3.0,
    resolve=None,
    part=None,
    note=None,
    could_fail=None,
):
    """Compare what was found with claim ``id``; show the verdict, keep it and return it.

    A call is one of three comparisons:

    - *Measurement*: ``measured`` with its standard error ``error``, against ``printed`` (what the paper's
      formula or figure gives) and ``expected`` (what our derivation gives). Two numbers agree when they
      differ by at most ``sigmas * error + tolerance``. The printed one agrees: reproduced; else ours does:
      corrected; else not reproduced. Without ``printed``, ``expected`` is what the paper says.
    - *Bound*: ``measured`` against ``at_least``, ``at_most`` or both: reproduced when it keeps the bound by
      ``sigmas * error``, not reproduced when it breaks it by as much, else open: not resolved.
      ``tolerance`` counts in the bound's favour.
    - *Derivation*: ``holds``, whether our statement was proved in the cell, and ``printed_holds``, whether
      the printed one was (None where the two are the same).

    ``error`` must be positive and may be left out only where ``tolerance`` is. A ``tolerance`` needs a
    ``note`` that says where it comes from (a discretisation, a reading of a figure). ``resolve`` is a
    difference that the measurement must be able to see. ``part`` names one of several checks of a claim.
    ``could_fail`` says in a sentence what would have turned the verdict; a comparison of numbers says it by
    itself, a derivation should.
    Numbers are in the claim's own units and may be Python, NumPy or sympy numbers.

    Raises ValueError for an unknown id, for other combinations of arguments, and for a measurement too
    coarse to mean anything: its reach exceeds ``resolve``, or it agrees with both ``printed`` and
    ``expected`` although these differ. Raises AssertionError, after it has shown the verdict, where
    ``holds`` is False: a derivation that fails, fails its cell.

    Examples
    --------
    >>> import flatmin as fm
    >>> verdict = fm.check("y23-lsgd", measured=1.02, error=0.01, printed=1.0, part="an example")
    y23-lsgd (an example): reproduced
      measured ≈ 1.020(10) · printed 1 · within 3 standard errors
      could it fail? beyond a difference of ≈ 0.030 (≈ 3.0 %)
    >>> verdict.verdict
    'reproduced'
    """
    numbers = {
        "measured": measured,
        "error": error,
        "printed": printed,
        "expected": expected,
        "at_least": at_least,
        "at_most": at_most,
        "tolerance": tolerance,
        "sigmas": sigmas,
    }
    draft = _draft(id, part, numbers, note=note, could_fail=could_fail)
    draft = replace(draft, holds=_truth("holds", holds), printed_holds=_truth("printed_holds", printed_holds))
    verdict = replace(draft, verdict=decide(draft))
    if resolve is not None and verdict.reach > number("resolve", resolve):
        raise ValueError(f"resolve={resolve!r}: the measurement reaches no further than {verdict.reach:.3g}")
    _made.pop((id, part), None)  # a cell run again goes to the end, like its output
    _made[id, part] = verdict
    verdict.show()
    if verdict.holds is False:
        raise AssertionError(f"{verdict.name}: what was to be proved does not hold")
    return verdict


def _draft(id, part, numbers, **texts):
    """Return the arguments of a check as a Verdict yet to be decided; ValueError for what cannot be one."""
    claim_of(id)
    if part is not None and not (isinstance(part, str) and slug(part)):
        raise _check.refused("part", part, "a text with a letter or a digit in it")
    for name, text in texts.items():
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise _check.refused(name, text, "a text that says something")
    required = ("tolerance", "sigmas")
    values = {
        name: number(name, value) for name, value in numbers.items() if value is not None or name in required
    }
    return Verdict(id, part, "open", **values, **texts)


def _truth(name, value):
    """Return a Python, NumPy or sympy truth value as bool, or None for None; ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or type(value).__name__ in ("bool", "BooleanTrue", "BooleanFalse"):
        return bool(value)
    raise _check.refused(name, value, "True or False (an unevaluated expression proves nothing)")


class VerdictTable:
    """The table of the checks made so far, as HTML and as plain text; see :func:`verdict_table`."""

    def __init__(self, rows):
        self.rows = rows  # (claim id, Verdict or None)

    def __repr__(self):
        # no columns: padding would depend on digits that may differ between machines
        return "\n".join(str(verdict) if verdict else f"{id}: not checked" for id, verdict in self.rows)

    def _repr_html_(self):
        heads = ("claim", "where", "measured", "printed", "ours", "verdict")
        head = "".join(f"<th>{name}</th>" for name in heads)
        body = "".join(f"<tr>{_row(claim_of(id), verdict)}</tr>" for id, verdict in self.rows)
        return f'<table class="flatmin-found"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _row(claim, verdict):
    """Return the cells of one row of the table, as HTML."""
    id, where = html.escape(claim.id), html.escape(claim.where or "")
    if verdict is None:
        return f"<td><code>{id}</code></td><td>{where}</td>" + "<td></td>" * 3 + "<td>not checked</td>"
    part = f"<br>{html.escape(verdict.part)}" if verdict.part else ""
    link = f'<a href="#{html.escape(verdict.anchor)}"><code>{id}</code></a>{part}'
    cells = [link, where, *(html.escape(text) for text in columns(verdict)), badge(verdict.verdict)]
    return "".join(f"<td>{cell}</td>" for cell in cells)


def columns(verdict):
    """Return the texts of the columns *measured*, *printed* and *ours* for a verdict."""
    if verdict.holds is not None:
        printed = {None: "", True: "holds", False: "does not hold"}[verdict.printed_holds]
        return "derived", printed, "holds" if verdict.holds else "does not hold"
    bounds = []
    if verdict.at_least is not None:
        bounds.append(f"≥ {exact(verdict.at_least)}")
    if verdict.at_most is not None:
        bounds.append(f"≤ {exact(verdict.at_most)}")
    printed = exact(verdict.printed) if verdict.printed is not None else ", ".join(bounds)
    ours = exact(verdict.expected) if verdict.expected is not None else ""
    return approx(verdict.measured, verdict.error), printed, ours


def verdict_table(chapter_ids=None):
    """Return the table of the checks made so far in this kernel, one row a check, with links to them.

    ``chapter_ids`` lists the claims to show, in that order; those without a check are shown as not checked.
    By default all checks are shown in the order they were made. Raises ValueError for an unknown id.
    """
    if chapter_ids is None:
        return VerdictTable([(verdict.id, verdict) for verdict in _made.values()])
    if isinstance(chapter_ids, str):
        raise ValueError(f"chapter_ids={chapter_ids!r}: must be a list of claim ids")
    rows = []
    for id in chapter_ids:
        claim_of(id)
        rows += [(id, verdict) for verdict in _made.values() if verdict.id == id] or [(id, None)]
    return VerdictTable(rows)
