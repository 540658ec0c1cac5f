"""Who is right where: which mechanism acts in which regime, and what follows for a step and a batch.

``data/regimes.yml`` names checks and says in a few words what each measured; numbers and verdicts are those
of the ledger. A cell of the table without a check reads *not tested*.
"""

import re
from dataclasses import replace
from functools import lru_cache

import yaml

from flatmin.ledger import paths
from flatmin.ledger.claims import claim_of, columns, load_verdicts, verdict_table
from flatmin.ledger.scoreboard import filled, line, link, typeset
from flatmin.ledger.verdicts import Verdict, badge, decide

NOT_TESTED = "not tested"
_LEFT = 'style="text-align:left;vertical-align:top"'  # a notebook sets cells to the right
_FIELDS = {"regimes": {"name", "means"}, "mechanisms": {"name", "by", "cells"}, "advice": {"text", "numbers"}}
_ASKED = {"check", "what", "needs"}


def load_regimes():
    """Return ``data/regimes.yml`` as a dict of its lists ``regimes``, ``mechanisms`` and ``advice``.

    Raises ValueError, naming what is wrong, for an unknown or missing field, regime or claim.
    """
    path = paths.data() / "regimes.yml"
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read(path, _changed):
    try:
        kept = yaml.safe_load(path.read_text("utf8"))
        for name, fields in _FIELDS.items():
            wrong = [entry for entry in kept[name] if set(entry) != fields]
            if wrong:
                raise ValueError(f"{name}: {wrong[0]!r}: must have {sorted(fields)}")
        known = {regime["name"] for regime in kept["regimes"]}
        for mechanism in kept["mechanisms"]:
            if not set(mechanism["cells"]) <= known:
                raise ValueError(f"{mechanism['name']}: an unknown regime; allowed are {sorted(known)}")
            for entry in (entry for cell in mechanism["cells"].values() for entry in cell):
                if not {"check", "what"} <= set(entry) <= _ASKED:
                    raise ValueError(f"{mechanism['name']}, {entry!r}: must have check, what, perhaps needs")
                claim_of(entry["check"][0])
    except (yaml.YAMLError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path.name} is no table of regimes: {error!r}") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    return kept


def checks():
    """Return the checks of the ledger, and over them those that this kernel made.

    A dict from (claim, part) to the part's fields, ``chapter`` empty where it was made here.
    """
    kept = {(id, part["part"]): part for id, entry in load_verdicts().items() for part in entry["parts"]}
    for id, made in verdict_table().rows:
        kept[id, made.part] = made.as_dict() | {"chapter": "", "anchor": made.anchor}
    return kept


class Shown:
    """Something that shows itself as HTML in a notebook and as text elsewhere."""

    def __init__(self, markup, text):
        self.markup, self.text = markup, text

    def _repr_html_(self):
        return self.markup

    def __repr__(self):
        return self.text


def who_is_right():
    """Return the table of mechanisms and regimes: in each cell what was measured, and the verdict."""
    kept, found = load_regimes(), checks()
    lines = [f"{regime['name']}: {regime['means']}" for regime in kept["regimes"]]
    for mechanism in kept["mechanisms"]:
        lines += ["", f"{mechanism['name']} ({mechanism['by']})"]
        for name, entries in _cells(kept, mechanism, found):
            lines += [f"  {name}: {words}" for words in [_words(*each) for each in entries] or [NOT_TESTED]]
    means = "".join(
        f"<li><b>{line(regime['name'])}:</b> {typeset(regime['means'])}</li>" for regime in kept["regimes"]
    )
    return Shown(table(kept, found) + f"<ul>{means}</ul>", "\n".join(lines))


def table(kept, found, ending=".ipynb"):
    """Return the HTML of the table ``kept`` with the checks ``found``; links to files of that ``ending``."""
    head = "".join(f'<th scope="col" {_LEFT}>{line(regime["name"])}</th>' for regime in kept["regimes"])
    wide = f'scope="rowgroup" colspan="{len(kept["regimes"])}" {_LEFT}'
    body = ""
    for mechanism in kept["mechanisms"]:
        cells = ""
        for name, entries in _cells(kept, mechanism, found):
            shown = "".join(f"<div>{_markup(*each, ending)}</div>" for each in entries)
            cells += f'<td data-regime="{line(name)}" {_LEFT}>{shown or NOT_TESTED}</td>'
        title = f"{typeset(mechanism['name'])} <span>({line(mechanism['by'])})</span>"
        body += f"<tbody><tr><th {wide}>{title}</th></tr><tr>{cells}</tr></tbody>"
    return f'<table class="flatmin-regimes"><thead><tr>{head}</tr></thead>{body}</table>'


def _cells(kept, mechanism, found):
    """Yield each regime's name and the entries of its cell whose checks were made."""
    for regime in kept["regimes"]:
        entries = (_entry(each, found) for each in mechanism["cells"].get(regime["name"], ()))
        yield regime["name"], [each for each in entries if each]


def _entry(entry, found):
    """Return (what, verdict, its part) of an entry, or None where its check was not made.

    ``needs`` are fields of a verdict that take the place of what the check compared with: the mechanism asks
    for another value than the claim, and the same rule decides.
    """
    id, name = entry["check"]
    part = found.get((id, name))
    if part is None:
        return None
    verdict = Verdict.from_dict(part | {"id": id})
    if "needs" in entry:
        bare = dict.fromkeys(("printed", "expected", "at_least", "at_most"))
        verdict = replace(verdict, note=verdict.note or entry["what"], **(bare | entry["needs"]))
        verdict = replace(verdict, verdict=decide(verdict))
    return entry["what"], verdict, part


def _numbers(verdict):
    """Return what was measured, and what it was compared with, without the criterion."""
    measured, asked, ours = columns(verdict)
    named = f"printed {asked}" if verdict.printed is not None else asked
    return measured, "".join(f" · {each}" for each in (named, ours and f"ours {ours}") if each)


def _words(what, verdict, _part):
    return f"{what}: {''.join(_numbers(verdict))}, {verdict.verdict} [{verdict.name}]"


def _markup(what, verdict, part, ending):
    measured, compared = (re.sub("([≈≥≤]) ", r"\1&nbsp;", line(each)) for each in _numbers(verdict))
    return f"{badge(verdict.verdict)} {typeset(what)}: {link(part, measured, ending)} {compared}"


def advice():
    """Return what the book says about a step and a batch, a sentence a line, with the numbers behind it."""
    plain = (each | {"text": each["text"].replace("**", "")} for each in load_regimes()["advice"])
    found = checks()
    text = filter(None, (filled(each, found, None) for each in plain))
    return Shown(advised(), "\n".join(f"{place}. {each}" for place, each in enumerate(text, 1)))


def advised(ending=".ipynb"):
    """Return the HTML of :func:`advice`, numbers linked to files of that ``ending`` (None: to nothing)."""
    found, kept = checks(), load_regimes()["advice"]
    items = (filled(each | {"text": _bold(typeset(each["text"]))}, found, ending) for each in kept)
    return f'<ol class="flatmin-advice">{"".join(f"<li>{item}</li>" for item in items if item)}</ol>'


def _bold(text):
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
