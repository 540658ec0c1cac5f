"""A verdict on one check of a claim: its words, its badge, and how it shows itself in a notebook."""

import html
import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from flatmin import _check
from flatmin.ledger.arrays import sha256
from flatmin.ledger.decimals import approx, exact

VERDICTS = ("reproduced", "corrected", "not reproduced", "open")
MIME = "application/vnd.flatmin.verdict+json"

# For Jupyter and Colab, which have not the book's style sheet and let only plain colours pass: tones that can
# be read on light and on dark.
_BADGE_COLOURS = {
    "reproduced": "#16835a",
    "corrected": "#9a6a00",
    "not reproduced": "#c9453b",
    "open": "#737b8c",
}
_WEIGHT = ("not reproduced", "open", "corrected", "reproduced")  # the first one present decides

_shown = []  # the verdicts that the running cell has shown already


def overall(verdicts):
    """Return the verdict on a claim whose parts have the given ``verdicts``: the worst of them decides."""
    given = list(verdicts) if isinstance(verdicts, Iterable) and not isinstance(verdicts, str) else []
    if not given or not all(isinstance(verdict, str) and verdict in VERDICTS for verdict in given):
        raise _check.refused("verdicts", verdicts, f"a list of one or more of {VERDICTS}")
    return next(verdict for verdict in _WEIGHT if verdict in given)


def badge(verdict):
    """Return the HTML of a verdict's badge. Raises ValueError for what is no verdict."""
    _check.choice("verdict", verdict, VERDICTS)
    shape = "border:1px solid;border-radius:1em;padding:0 0.6em;white-space:nowrap"
    style = f"color:{_BADGE_COLOURS[verdict]};{shape}"
    name = verdict.replace(" ", "-")
    return f'<span class="flatmin-verdict flatmin-{name}" style="{style}">{verdict}</span>'


def slug(text):
    """Return ``text`` as lower-case ASCII words joined by hyphens; Greek letters are spelt out."""

    def spelt(letter):
        name = unicodedata.name(letter, "")
        return f" {name.split()[-1].lower()} " if name.startswith("GREEK") else letter

    plain = "".join(spelt(letter) for letter in unicodedata.normalize("NFKD", text))
    return "-".join(re.findall(r"[a-z0-9]+", plain.encode("ascii", "ignore").decode().lower()))


def anchor(id, part=None):
    """Return the HTML id under which the check of that claim and part stands on its page."""
    return f"claim-{id}" + (f"-{slug(part)}" if part else "")


@dataclass(frozen=True, eq=False)
class Verdict:
    """The outcome of one check: what was compared, and the verdict.

    Numbers that were not given are None. In a notebook it shows itself as one line with a badge and is
    stored as JSON under the MIME type ``MIME``; ``str()`` gives the same in plain text.
    """

    id: str
    part: str | None
    verdict: str
    measured: float | None = None
    error: float | None = None
    printed: float | None = None
    expected: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    tolerance: float = 0.0
    sigmas: float = 3.0
    holds: bool | None = None
    printed_holds: bool | None = None
    note: str | None = None
    could_fail: str | None = None

    def __post_init__(self):
        # what is shown is made from the digits that are stored: 0.4985 and 0.49850000000000005 round apart
        for field in fields(self):
            object.__setattr__(self, field.name, short(getattr(self, field.name)))

    @classmethod
    def from_dict(cls, values):
        """Return the verdict with the fields found in ``values``; other keys are ignored."""
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})

    @classmethod
    def stored(cls, values):
        """Return the verdict that :meth:`sealed` stored.

        Raises ValueError for values that were changed since, are of a wrong type, or whose verdict is not
        the one that their numbers give.
        """
        given = dict(values) if isinstance(values, dict) else {}
        mark = given.pop("seal", None)
        # could_fail came later: a verdict made without it has none
        if set(given) | {"could_fail"} != {field.name for field in fields(cls)}:
            raise ValueError("what is stored is no verdict of this version: execute the chapter again")
        verdict = cls(**given)
        if mark != seal(given):
            raise ValueError(f"{verdict.name} was changed after it was made: execute the chapter again")
        verdict.confirm()
        return verdict

    def sealed(self):
        """Return the verdict as a dict of JSON values with the hash of them all."""
        return self.as_dict() | {"seal": seal(self.as_dict())}

    def confirm(self):
        """Raise ValueError unless the fields are of their types and give the verdict that stands there."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not _fits(value, field.type):
                raise ValueError(f"{self.name}: {field.name}={value!r}: must be {field.type}")
        word = decide(self)
        if word != self.verdict:
            raise ValueError(
                f"{self.name}: the verdict reads {self.verdict!r}, what was compared says {word!r}"
            )

    def as_dict(self):
        """Return the verdict as a dict of JSON values; floats have 12 significant digits."""
        return asdict(self)

    def turns(self):
        """Return in words what would have turned the verdict; None if that is neither said nor a number.

        As the author says (``could_fail``), else from the numbers, by the rule of :func:`decide`: beyond what
        a claim that holds would not; within what one that failed, or is open, would.
        """
        if self.could_fail or self.holds is not None:
            return self.could_fail
        if self.at_least is not None or self.at_most is not None:
            return self._turns_of_bounds()
        reach = approx(self.reach, digits=2)
        printed, ours = (self._share(value) for value in (self.printed, self.expected))
        if self.verdict == "reproduced":
            return f"beyond a difference of {reach}{ours if self.printed is None else printed}"
        if self.verdict == "corrected":
            kept = f"the printed value did: it would hold within {reach}{printed}"
            return f"{kept}; ours would fail beyond as much{ours}"
        near = [] if self.printed is None else [f"of the printed value{printed}"]
        near += [] if self.expected is None else [f"of ours{ours}"]
        return f"it did; it would hold within {reach} {' or '.join(near)}"

    def _share(self, value):
        """Return the reach as a share of a value, in parentheses; nothing for none, or 0."""
        return f" ({approx(100 * self.reach / abs(value), digits=2)} %)" if value else ""

    def _turns_of_bounds(self):
        """Return where a number would keep the bounds, and where break them; in between it is open."""
        spread = self.sigmas * (self.error or 0.0)
        kept, inside, less, outside = [], [], [], []
        for bound, inwards, beyond, on in (
            (self.at_least, 1, "below", "from"),
            (self.at_most, -1, "above", "up to"),
        ):
            if bound is not None:
                edge = bound - inwards * self.tolerance
                kept.append(edge + inwards * spread)
                inside.append(f"{on} {approx(kept[-1])}")
                less.append(f"{beyond} {approx(kept[-1])}")
                outside.append(f"{beyond} {approx(edge - inwards * spread)}")
        if self.verdict == "reproduced":
            return " or ".join(less)
        failed, fails = self.verdict == "not reproduced", " or ".join(outside)
        if len(kept) == 2 and kept[0] > kept[1]:
            never = f"{fails}; elsewhere it is open, the error is too large for it to hold"
            return f"it did: {never}" if failed else never
        return f"{'it did' if failed else fails}; it would hold {' '.join(inside)}"

    @property
    def reach(self):
        """How far from a value the measured one may lie and still agree with it."""
        return self.sigmas * (self.error or 0.0) + self.tolerance

    @property
    def anchor(self):
        """The HTML id of this verdict on its page."""
        return anchor(self.id, self.part)

    @property
    def name(self):
        """The claim's id, with the part in parentheses."""
        return f"{self.id} ({self.part})" if self.part else self.id

    def findings(self):
        """Return in words what was compared: short phrases, those with digits that may vary after ≈."""
        if self.holds is not None:
            return [self._derivation()]
        values = {
            "printed": self.printed,
            "ours": self.expected,
            "at least": self.at_least,
            "at most": self.at_most,
        }
        compared = [f"{word} {exact(value)}" for word, value in values.items() if value is not None]
        return [f"measured {approx(self.measured, self.error)}", *compared, self._criterion()]

    def _derivation(self):
        if not self.holds:
            return "derived: the statement does not hold"
        if self.printed_holds is False:
            return "derived: the printed statement does not hold, the corrected one does"
        return "derived"

    def _criterion(self):
        counted = f"{self.sigmas:g} standard errors" if self.error is not None else ""
        allowed = " + ".join(filter(None, [counted, f"{self.tolerance:g}" if self.tolerance else ""]))
        if self.at_least is None and self.at_most is None:
            words = {"not reproduced": "beyond"}.get(self.verdict, "within")
        else:
            words = {"reproduced": "kept", "not reproduced": "broken", "open": "not resolved"}[self.verdict]
            words += " at"
        return f"{words} {allowed}"

    def __str__(self):
        note = f"\n  ({self.note})" if self.note else ""
        turns = f"\n  could it fail? {self.turns()}" if self.turns() else ""
        return f"{self.name}: {self.verdict}\n  {' · '.join(self.findings())}{note}{turns}"

    def __repr__(self):
        return f"<Verdict {self.name}: {self.verdict}>"

    def _repr_html_(self, marked=False):
        mark = f' id="{html.escape(self.anchor)}"' if marked else ""
        part = f" <em>{html.escape(self.part)}</em>" if self.part else ""
        note = f' <span class="flatmin-note">({html.escape(self.note)})</span>' if self.note else ""
        head = f"{badge(self.verdict)} <code>{html.escape(self.id)}</code>{part}"
        found = html.escape(" · ".join(self.findings()))
        turns = self.turns()
        last = f'<br><span class="flatmin-note">Could it fail? {html.escape(turns)}</span>' if turns else ""
        return f'<div{mark} class="flatmin-check">{head}: {found}{note}{last}</div>'

    def show(self):
        """Show the verdict now: on the page in IPython, as text elsewhere.

        The value of the cell's last expression, it is not shown a second time by that cell.
        """
        shell = running_shell()
        if shell is None:
            print(self)
            return
        self._publish(record=True)
        _shown.append(self)
        shell.events.register("post_execute", _shown.clear)

    def _ipython_display_(self):
        if not any(verdict is self for verdict in _shown):
            self._publish(record=False)

    def _publish(self, record):
        """Show the verdict; with ``record`` as the one place that links lead to and the ledger reads."""
        from IPython.display import publish_display_data

        bundle = {"text/plain": str(self), "text/html": self._repr_html_(marked=record)}
        publish_display_data(bundle | {MIME: self.sealed()} if record else bundle)


def _fits(value, kind):
    """Whether a value is what the annotation of a field says; numbers are finite, and no truth values."""
    kinds = {"str": str, "float": (int, float), "bool": bool, "None": type(None)}
    names = [getattr(kind, "__name__", str(kind))] if isinstance(kind, type) else str(kind).split(" | ")
    if isinstance(value, bool):
        return "bool" in names
    return isinstance(value, tuple(kinds[name] for name in names)) and not (
        isinstance(value, float) and not math.isfinite(value)
    )


def seal(values):
    """Return the hash of JSON values. Raises ValueError for NaN and infinities."""
    return sha256(json.dumps(values, sort_keys=True, allow_nan=False).encode())


def decide(draft):
    """Return the word that follows from what a check compared, see :func:`flatmin.ledger.claims.check`.

    ``draft`` is a Verdict, whose own word is not looked at. Raises ValueError for a comparison that is none,
    or too coarse to mean anything.
    """
    if draft.holds is not None or draft.printed_holds is not None:
        return _derived(draft)
    _require_sound(draft)
    if draft.at_least is not None or draft.at_most is not None:
        return _bounded(draft)
    agreeing = [
        value is not None and abs(draft.measured - value) <= draft.reach
        for value in (draft.printed, draft.expected)
    ]
    if all(agreeing) and not math.isclose(draft.printed, draft.expected, rel_tol=1e-9):
        raise ValueError(
            f"measured={draft.measured!r} agrees with printed={draft.printed!r} and with expected="
            f"{draft.expected!r}, within {draft.reach:.3g}: it must be precise enough to tell them apart"
        )
    if agreeing[0] or (draft.printed is None and agreeing[1]):
        return "reproduced"
    return "corrected" if agreeing[1] else "not reproduced"


def _derived(draft):
    """Return the word for a derivation."""
    numbers = (draft.measured, draft.error, draft.printed, draft.expected, draft.at_least, draft.at_most)
    if any(value is not None for value in numbers) or draft.tolerance:
        raise ValueError(
            "holds, like printed_holds, is for derivations and takes no numbers: make two checks with part="
        )
    if draft.holds is None:
        raise ValueError("printed_holds needs holds: say whether our own statement was proved")
    if draft.printed_holds and not draft.holds:
        raise ValueError(
            "holds=False with printed_holds=True: what holds as printed is checked by holds=True"
        )
    if not draft.holds:
        return "not reproduced"
    return "corrected" if draft.printed_holds is False else "reproduced"


def _require_sound(draft):
    """Raise ValueError unless the numbers of a measurement form a comparison with an error."""
    bounds = (draft.at_least, draft.at_most)
    values = (draft.printed, draft.expected)
    if draft.measured is None:
        raise ValueError("give measured (a number) or holds (a derivation)")
    if all(value is None for value in bounds + values):
        raise ValueError("measured needs something to compare with: printed, expected, at_least or at_most")
    if any(value is not None for value in bounds) and any(value is not None for value in values):
        raise ValueError("give printed/expected or at_least/at_most, not both: make two checks with part=")
    if None not in bounds and draft.at_least > draft.at_most:
        raise ValueError(f"at_least={draft.at_least!r}: must not exceed at_most={draft.at_most!r}")
    if draft.sigmas <= 0:
        raise ValueError(f"sigmas={draft.sigmas!r}: must be positive")
    if draft.tolerance < 0:
        raise ValueError(f"tolerance={draft.tolerance!r}: must be at least 0")
    if draft.tolerance and not draft.note:
        raise ValueError(f"tolerance={draft.tolerance!r} needs note= to say where it comes from")
    if draft.error is None and not draft.tolerance:
        raise ValueError("error: a measured number needs its standard error, or a tolerance with a note")
    if draft.error is not None and draft.error <= 0:
        raise ValueError(
            f"error={draft.error!r}: must be positive (leave it out if a tolerance is all there is)"
        )
    if not math.isfinite(draft.reach):
        raise ValueError(f"error={draft.error!r}, sigmas={draft.sigmas!r}: their product must be finite")


def _bounded(draft):
    """Return the verdict of a measurement against bounds (None: no bound on that side)."""
    spread = draft.sigmas * (draft.error or 0.0)
    margins = []  # how far inside each bound the number lies
    if draft.at_least is not None:
        margins.append(draft.measured - draft.at_least + draft.tolerance)
    if draft.at_most is not None:
        margins.append(draft.at_most - draft.measured + draft.tolerance)
    if all(margin >= spread for margin in margins):
        return "reproduced"
    return "not reproduced" if any(margin < -spread for margin in margins) else "open"


def running_shell():
    """Return the IPython shell this code runs in, or None."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return get_ipython()


def short(value):
    """Return a float with 12 significant digits, so that rounding noise does not reach the files."""
    return float(f"{value:.12g}") if isinstance(value, float) else value
