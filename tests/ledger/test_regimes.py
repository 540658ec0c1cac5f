"""Who is right where: each cell and each sentence rests on a check of the ledger."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import yaml

from flatmin.ledger import claims, paths, regimes
from flatmin.ledger.claims import load_verdicts
from flatmin.ledger.verdicts import VERDICTS, Verdict

KEPT = regimes.load_regimes()
ENTRIES = [
    entry for mechanism in KEPT["mechanisms"] for cell in mechanism["cells"].values() for entry in cell
]


@pytest.fixture(autouse=True)
def nothing_made(monkeypatch):
    monkeypatch.setattr(claims, "_made", {})


def made(entry):
    return tuple(entry["check"]) in regimes.checks()


def test_every_check_that_a_cell_or_a_sentence_names_is_in_the_ledger():
    """Of a claim that no chapter has checked yet, a cell reads "not tested"."""
    found, checked = regimes.checks(), load_verdicts()
    named = [tuple(entry["check"]) for entry in ENTRIES]
    named += [(id, part) for each in KEPT["advice"] for id, part, _ in each["numbers"].values()]
    assert [name for name in named if name not in found and name[0] in checked] == []
    numbers = [found[tuple(entry["check"])]["measured"] for entry in ENTRIES if made(entry)]
    assert None not in numbers, "a cell has a number"


def test_the_table_has_every_cell_with_its_number_or_says_that_it_was_not_tested():
    shown = regimes.who_is_right()
    cells = re.findall(r'<td data-regime="([^"]+)" [^>]*>(.*?)</td>', shown._repr_html_())
    listed = [m["cells"].get(regime["name"], ()) for m in KEPT["mechanisms"] for regime in KEPT["regimes"]]
    for (name, cell), entries in zip(cells, listed, strict=True):
        count = sum(map(made, entries))
        assert cell.count("≈") >= count, name
        assert cell.count('class="flatmin-verdict') == count
        assert (cell == "not tested") == (count == 0)
    assert repr(shown).count("not tested") == shown._repr_html_().count("not tested") > 0
    assert len(re.findall(r"\[.+\]", repr(shown))) == sum(map(made, ENTRIES))


def test_ten_sentences_each_with_a_measured_number_that_links_to_its_check():
    shown = regimes.advice()
    items = re.findall("<li>(.*?)</li>", shown._repr_html_())
    assert len(items) == len(repr(shown).splitlines()) == 10
    for item in items:
        assert re.search(r'<a href="\d\d_\w+\.ipynb#claim-[\w.-]+">≈&nbsp;[^<]+\(\S+\)</a>', item), item
    assert not re.search(r"[{*]|href", repr(shown))
    typed = [number for each in KEPT["advice"] for number in re.findall(r"\d+\.\d+", each["text"])]
    assert typed == ["0.05"], "a result is read, not typed: this one is a setting"


def test_what_this_kernel_found_counts_before_what_is_kept(monkeypatch):
    id, part = next(entry["check"] for entry in ENTRIES if "needs" not in entry and made(entry))
    new = Verdict(id, part, "open", measured=1.5, error=0.5, at_least=0.0)
    monkeypatch.setattr(claims, "_made", {(id, part): new})
    assert f'href="#{new.anchor}"' in regimes.who_is_right()._repr_html_()
    assert "1.50(50)" in repr(regimes.who_is_right())


def test_what_a_mechanism_needs_is_decided_by_the_rule_of_the_check():
    asked = {"check": ["exponent-c-h", "a"], "what": "power", "needs": {"printed": 2, "tolerance": 0.1}}
    kept = Verdict("exponent-c-h", "a", "reproduced", 1.02, 0.01, printed=1.0, tolerance=0.1, note="x")
    for measured, word in ((1.02, "not reproduced"), (2.05, "reproduced")):
        found = {("exponent-c-h", "a"): replace(kept, measured=measured).as_dict()}
        _, verdict, _ = regimes._entry(asked, found)
        assert (verdict.verdict, verdict.printed) == (word, 2)
    assert regimes._entry(asked, {}) is None
    assert {entry["what"][:5] for entry in ENTRIES if "needs" in entry} == {"power"}, (
        "of H in C, of λ in v: Y22"
    )


def test_a_chapter_shows_what_the_ledger_says():
    """Of the chapter that shows the table: what is kept in its notebook is what would be shown now."""
    for path in paths.chapters().glob("*.ipynb"):
        cells = json.loads(path.read_text("utf8"))["cells"]
        for name, show in (("who_is_right", regimes.who_is_right), ("advice", regimes.advice)):
            for cell in cells:
                if f"regimes.{name}()" in "".join(cell["source"]):
                    kept = ["".join(each["data"]["text/plain"]) for each in cell["outputs"]]
                    assert kept == [repr(show())], f"run `make notebooks CHAPTER={path.stem}`"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"regimes": [{"name": "x"}]}, "must have"),
        ({"mechanisms": [{"name": "m", "by": "x", "cells": {"nowhere": []}}]}, "unknown regime"),
        (
            {"mechanisms": [{"name": "m", "by": "x", "cells": {"r": [{"check": ["y22-flux", "a"]}]}}]},
            "must have",
        ),
        (
            {"mechanisms": [{"name": "m", "by": "x", "cells": {"r": [{"check": ["no", "a"], "what": "x"}]}}]},
            "id='no'",
        ),
        ({"advice": [{"text": "x"}]}, "must have"),
        ({"advice": 3}, "no table"),
    ],
)
def test_a_table_of_another_form_is_refused(tmp_path, monkeypatch, change, said):
    right = {"regimes": [{"name": "r", "means": "it"}], "mechanisms": [], "advice": []}
    (tmp_path / "regimes.yml").write_text(yaml.safe_dump(right | change), "utf8")
    shutil.copy(paths.data() / "claims.yml", tmp_path)
    monkeypatch.setattr(paths, "data", lambda: tmp_path)
    with pytest.raises(ValueError, match=rf"regimes\.yml.*{said}"):
        regimes.load_regimes()


def test_every_verdict_of_the_table_is_a_word_of_the_book():
    words = re.findall(r'<span class="flatmin-verdict[^>]*>([^<]+)<', regimes.who_is_right()._repr_html_())
    assert set(words) <= set(VERDICTS)
