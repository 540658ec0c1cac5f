import json
import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

from flatmin.ledger import claims
from flatmin.ledger.claims import check, load_claims, verdict_table
from flatmin.ledger.verdicts import VERDICTS, Verdict, anchor, badge, decide, overall, slug

ID = "y22-marginal"


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(1.02, "reproduced"), (1.031, "not reproduced"), (1.18, "corrected"), (1.1, "not reproduced")],
)
def test_printed_goes_first_then_ours(measured, verdict):
    assert check(ID, measured=measured, error=0.01, printed=1, expected=1.2).verdict == verdict


def test_three_standard_errors_are_the_rule_and_sigmas_changes_it():
    assert check(ID, measured=1.0299, error=0.01, printed=1.0).verdict == "reproduced"
    assert check(ID, measured=1.0299, error=0.01, printed=1.0, sigmas=2).verdict == "not reproduced"


def test_tolerance_adds_to_the_error():
    given = {"measured": 1.05, "printed": 1.0, "note": "mesh width"}
    assert check(ID, error=0.01, tolerance=0.03, **given).verdict == "reproduced"
    assert check(ID, error=0.01, tolerance=0.01, **given).verdict == "not reproduced"
    assert check(ID, tolerance=0.05001, **given).verdict == "reproduced"


def test_expected_alone_is_what_the_paper_says():
    assert check(ID, measured=1.0, error=0.1, expected=1.2).verdict == "reproduced"
    assert check(ID, measured=1.0, error=0.1, expected=1.4).verdict == "not reproduced"


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(1.31, "reproduced"), (1.29, "open"), (1.0, "open"), (0.71, "open"), (0.69, "not reproduced")],
)
def test_a_bound_is_kept_broken_or_not_resolved(measured, verdict):
    assert check(ID, measured=measured, error=0.1, at_least=1).verdict == verdict
    assert check(ID, measured=-measured, error=0.1, at_most=-1).verdict == verdict


def test_two_bounds_make_an_interval():
    for measured, verdict in ((1.5, "reproduced"), (1.9, "open"), (2.5, "not reproduced")):
        assert check(ID, measured=measured, error=0.1, at_least=1, at_most=2).verdict == verdict


def test_tolerance_counts_in_favour_of_a_bound():
    assert check(ID, measured=1.0, tolerance=1e-9, at_least=1, note="rounding").verdict == "reproduced"
    assert check(ID, measured=0.9, tolerance=1e-9, at_least=1, note="rounding").verdict == "not reproduced"


@pytest.mark.parametrize(
    ("holds", "printed_holds", "verdict"),
    [
        (True, None, "reproduced"),
        (True, True, "reproduced"),
        (True, False, "corrected"),
        (sp.true, np.False_, "corrected"),
        (np.True_, None, "reproduced"),
    ],
)
def test_a_derivation_holds_or_does_not(holds, printed_holds, verdict):
    assert check(ID, holds=holds, printed_holds=printed_holds).verdict == verdict


@pytest.mark.parametrize("printed_holds", [None, False])
def test_a_derivation_that_fails_fails_its_cell_and_says_why(capsys, printed_holds):
    with pytest.raises(AssertionError, match=r"y22-marginal: what was to be proved does not hold"):
        check(ID, holds=False, printed_holds=printed_holds)
    said = capsys.readouterr().out
    assert said.splitlines() == ["y22-marginal: not reproduced", "  derived: the statement does not hold"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give measured"),
        ({"printed": 1.0}, "give measured"),
        ({"measured": 1.0, "error": 0.1}, "something to compare with"),
        ({"measured": 1.0, "printed": 1.0}, "needs its standard error"),
        ({"measured": 1.0, "printed": 1.0, "error": 0}, "error=0.0"),
        ({"measured": 1.0, "printed": 1.0, "error": -0.1}, "error=-0.1"),
        ({"measured": 1.0, "printed": 1.0, "tolerance": 0.1}, "needs note="),
        ({"measured": 1.0, "printed": 1.0, "error": 1, "tolerance": -1}, "tolerance=-1"),
        ({"measured": 1.0, "printed": 1.0, "error": 1, "sigmas": 0}, "sigmas=0"),
        ({"measured": math.nan, "printed": 1.0, "error": 1}, "measured=nan"),
        ({"measured": 1.0, "printed": sp.Symbol("x"), "error": 1}, "printed=x"),
        ({"measured": 1.0, "printed": 1.0, "at_least": 0.5, "error": 1}, "not both"),
        ({"measured": 1.0, "at_least": 2, "at_most": 1, "error": 1}, "must not exceed"),
        ({"holds": True, "measured": 1.0}, "takes no numbers"),
        ({"holds": sp.Symbol("x") > 0}, "holds=x > 0"),
        ({"holds": 1}, "holds=1"),
        ({"printed_holds": True}, "needs holds"),
        ({"holds": False, "printed_holds": True}, "holds=True"),
        ({"holds": True, "part": " — "}, "part="),
        ({"holds": True, "part": 3}, "part=3"),
        ({"holds": True, "note": " "}, "note=' '"),
    ],
)
def test_other_combinations_are_refused_and_leave_no_trace(arguments, words):
    with pytest.raises(ValueError, match="(?s).*" + words):
        check(ID, **arguments)
    assert verdict_table().rows == []


def test_a_measurement_that_cannot_tell_the_two_apart_is_refused():
    with pytest.raises(ValueError, match="tell them apart"):
        check(ID, measured=1.0, error=0.1, printed=1.1, expected=0.9)
    assert check(ID, measured=1.0, error=0.1, printed=1.1, expected=1.1 + 1e-15).verdict == "reproduced"


def test_resolve_asks_for_a_fine_enough_measurement():
    assert check(ID, measured=1.0, error=0.01, printed=1.0, resolve=0.031).verdict == "reproduced"
    with pytest.raises(ValueError, match=r"resolve=0\.02: .* 0\.03"):
        check(ID, measured=1.0, error=0.01, printed=1.0, resolve=0.02)


def test_an_unknown_id_names_the_nearest():
    with pytest.raises(ValueError, match=r"y22-mraginal.*y22-marginal"):
        check("y22-mraginal", holds=True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"measured": 1.0, "error": 0.01, "printed": 1.0}, "beyond a difference of ≈ 0.030 (≈ 3.0 %)"),
        (
            {"measured": 1.0, "error": 0.01, "expected": 0.0, "printed": 1.0},
            "(≈ 3.0 %)",
        ),  # the one that agrees
        ({"measured": 0.0, "error": 0.01, "printed": 0.0}, "beyond a difference of ≈ 0.030"),
        ({"measured": 2.0, "error": 0.1, "at_least": 1.0}, "below ≈ 1.30"),
        ({"measured": 2.0, "error": 0.1, "at_least": 1.0, "at_most": 3.0}, "below ≈ 1.30 or above ≈ 2.70"),
        (
            {"measured": 1.4, "error": 0.03, "printed": 1.0, "tolerance": 0.05, "note": "mesh"},
            "it did; it would hold within ≈ 0.14 of the printed value (≈ 14 %)",
        ),
        (
            {"measured": 1.4, "error": 0.01, "printed": 1.0, "expected": 2.0},
            "it did; it would hold within ≈ 0.030 of the printed value (≈ 3.0 %) or of ours (≈ 1.5 %)",
        ),
        (
            {"measured": 2.0, "error": 0.01, "printed": 1.0, "expected": 2.0},
            "the printed value did: it would hold within ≈ 0.030 (≈ 3.0 %); ours would fail beyond as much"
            " (≈ 1.5 %)",
        ),
        ({"measured": 1.1, "error": 0.1, "at_least": 1.0}, "below ≈ 0.700; it would hold from ≈ 1.30"),
        ({"measured": 1.5, "error": 0.1, "at_most": 1.0}, "it did; it would hold up to ≈ 0.700"),
        (
            {"measured": 0.77, "error": 0.122, "at_least": 0.9, "at_most": 1.1},
            "below ≈ 0.534 or above ≈ 1.47; elsewhere it is open, the error is too large for it to hold",
        ),
        (
            {"measured": 0.5, "error": 0.122, "at_least": 0.9, "at_most": 1.1},
            "it did: below ≈ 0.534 or above ≈ 1.47; elsewhere it is open",
        ),
        (
            {"measured": 0.5, "error": 0.02, "at_least": 0.9, "at_most": 1.1},
            "it did; it would hold from ≈ 0.960 up to ≈ 1.04",
        ),
        ({"holds": True, "could_fail": "a sign"}, "a sign"),
    ],
)
def test_a_check_says_what_would_have_turned_it(given, words):
    assert words in check(ID, **given).turns()
    assert words in check(ID, **given)._repr_html_()
    assert check(ID, holds=True).turns() is None


def _comparisons(count):
    """Random comparisons of numbers, as Verdicts that read what they must; those refused are left out."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        size = 10.0 ** rng.integers(-3, 4)
        one, other, far = size * rng.normal(size=3)
        error = size * 10.0 ** rng.uniform(-3, 0.5)
        spread = {
            "error": error,
            "sigmas": float(rng.integers(1, 4)),
            "tolerance": float(rng.choice([0, error])),
        }
        given = [
            {"printed": one},
            {"expected": one},
            {"printed": one, "expected": other},
            {"at_least": one},
            {"at_most": one},
            {"at_least": min(one, other), "at_most": max(one, other)},
        ][rng.integers(6)]
        at = (one, other, (one + other) / 2, far)[rng.integers(4)] + error * rng.normal()
        draft = Verdict(ID, None, "open", measured=at, note="mesh", **spread, **given)
        word = _word(draft, at)
        if word != "refused":
            yield replace(draft, verdict=word)


def _word(verdict, measured):
    """What the verdict would read with another measured number."""
    try:
        return decide(replace(verdict, measured=measured))
    except ValueError:  # too coarse to tell the printed value from ours
        return "refused"


def _numbers(text, digits):
    """The numbers of a sentence but for shares, each with what rounds to it, and a little."""
    for written in re.findall(r"≈ (-?[\d.]+(?:e[+-]\d+)?)", re.sub(r" \(≈ \S+ %\)", "", text)):
        value = float(written)
        yield value, 0.6 * 10.0 ** (np.floor(np.log10(abs(value))) - digits + 1)


def test_the_numbers_that_a_check_names_give_the_verdicts_it_promises():
    """Just inside and just outside of every number of the sentence, for comparisons of every kind."""
    seen = Counter()
    for verdict in _comparisons(4000):
        said, word = verdict.turns(), verdict.verdict
        at_least, at_most = verdict.at_least, verdict.at_most
        if at_least is None and at_most is None:
            seen[word, verdict.printed is None, verdict.expected is None] += 1
            _about_values(verdict, said, *_numbers(said, 2))
            continue
        numbers = list(_numbers(said, 3))
        seen[word, at_least is None, at_most is None, "too large" in said] += 1
        sides = [side for side, bound in (("below", at_least), ("above", at_most)) if bound is not None]
        hold, fail = [], []
        if "too large" in said:
            fail = numbers
            # nothing between holds: it is open there
            among = np.linspace(fail[0][0] + fail[0][1], fail[1][0] - fail[1][1], 9)
            assert {_word(verdict, m) for m in among} == {"open"}, said
        elif word == "reproduced":
            assert said.startswith(sides[0])
            hold = numbers
        elif word == "open":
            fail, hold = numbers[: len(sides)], numbers[len(sides) :]
        else:
            assert said.startswith("it did; it would hold")
            hold = numbers
        assert (word == "not reproduced") == said.startswith("it did")
        for values, kept in ((hold, True), (fail, False)):
            for side, (value, unit) in zip(sides, values, strict=bool(values)):
                inwards = unit if side == "below" else -unit
                inside, outside = _word(verdict, value + inwards), _word(verdict, value - inwards)
                if kept:
                    narrow = len(hold) == 2 and hold[1][0] - hold[0][0] < 2 * (hold[0][1] + hold[1][1])
                    assert narrow or inside == "reproduced", said
                    assert outside != "reproduced", said
                else:
                    assert (inside, outside) != ("not reproduced",) * 2, said
                    assert outside == "not reproduced", said
    kinds = {("reproduced", a, b) for a, b in ((0, 0), (0, 1), (1, 0))} | {("corrected", 0, 0)}
    kinds |= {("not reproduced", a, b) for a, b in ((0, 0), (0, 1), (1, 0))}
    kinds |= {
        (w, a, b, 0) for w in ("reproduced", "open", "not reproduced") for a, b in ((0, 0), (0, 1), (1, 0))
    }
    kinds |= {(word, 0, 0, 1) for word in ("open", "not reproduced")}
    assert set(seen) == kinds
    assert min(seen.values()) >= 10


def _about_values(verdict, said, reach):
    """Against the printed value and ours: the one number of the sentence is a distance from either."""
    distance, unit = reach
    printed, ours = verdict.printed, verdict.expected
    for value, other, agrees in ((printed, ours, "reproduced"), (ours, printed, "corrected")):
        if value is None or (other is not None and verdict.verdict == "reproduced" and value is ours):
            continue  # what was reproduced says nothing of ours
        away = -1 if other is not None and other > value else 1  # where the other value does not agree too
        inside, outside = (_word(verdict, value + away * (distance - sign * unit)) for sign in (1, -1))
        near = other is not None and abs(value - other) < 2 * unit
        assert near or distance < unit or inside == (agrees if other is not None else "reproduced"), said
        assert outside == "not reproduced", said
    if verdict.verdict == "reproduced":
        assert said.startswith("beyond a difference of")
    elif verdict.verdict == "corrected":
        assert said.startswith("the printed value did: it would hold within")
        assert "; ours would fail beyond as much" in said
    else:
        assert said.startswith("it did; it would hold within")
        assert ("of the printed value" in said, "of ours" in said) == (printed is not None, ours is not None)


def test_outside_of_a_notebook_a_check_prints_once(capsys):
    verdict = check(ID, measured=0.010473, error=0.000118, printed=0.012, expected=0.0105, part="Δ_S = 0.009")
    assert capsys.readouterr().out == (
        "y22-marginal (Δ_S = 0.009): corrected\n"
        "  measured ≈ 0.01047(12) · printed 0.012 · ours 0.0105 · within 3 standard errors\n"
        "  could it fail? the printed value did: it would hold within ≈ 0.00035 (≈ 3.0 %);"
        " ours would fail beyond as much (≈ 3.4 %)\n"
    )
    assert repr(verdict) == "<Verdict y22-marginal (Δ_S = 0.009): corrected>"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            {"measured": 2, "error": 0.1, "printed": 1},
            "measured ≈ 2.00(10) · printed 1 · beyond 3 standard errors",
        ),
        (
            {"measured": 2, "error": 0.1, "at_least": 1},
            "measured ≈ 2.00(10) · at least 1 · kept at 3 standard errors",
        ),
        (
            {"measured": 1, "error": 0.1, "at_most": 1, "tolerance": 0.01, "note": "mesh"},
            "measured ≈ 1.00(10) · at most 1 · not resolved at 3 standard errors + 0.01\n  (mesh)",
        ),
        ({"holds": True}, "derived"),
        (
            {"holds": True, "printed_holds": False},
            "derived: the printed statement does not hold, the corrected one does",
        ),
    ],
)
def test_the_words_say_what_was_compared(arguments, line):
    assert str(check(ID, **arguments)).partition("\n  could it fail?")[0].partition("\n  ")[2] == line


def test_html_carries_badge_anchor_and_escaped_text():
    page = check(ID, holds=True, printed_holds=False, part="S30 <b>", note="a < b")._repr_html_(marked=True)
    assert page.startswith('<div id="claim-y22-marginal-s30-b" class="flatmin-check">')
    assert badge("corrected") in page
    assert "<em>S30 &lt;b&gt;</em>" in page
    assert "(a &lt; b)" in page


def test_slugs_are_ascii():
    assert slug("Δ_S = 0.009, Fig. S3") == "delta-s-0-009-fig-s3"
    assert slug("κ(x₁)") == "kappa-x1"
    assert anchor(ID) == "claim-y22-marginal"


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        (["reproduced", "corrected"], "corrected"),
        (["corrected", "open", "reproduced"], "open"),
        (["open", "not reproduced", "corrected"], "not reproduced"),
        (["reproduced"], "reproduced"),
    ],
)
def test_the_worst_part_decides(parts, verdict):
    assert overall(parts) == overall(iter(parts)) == verdict


def test_no_verdict_is_no_verdict():
    with pytest.raises(ValueError, match="one or more of"):
        overall([])
    with pytest.raises(ValueError, match="verdict='perhaps'"):
        badge("perhaps")
    assert len({badge(verdict) for verdict in VERDICTS}) == 4


def test_the_table_has_a_row_for_each_check_and_a_cell_run_again_counts_once():
    check(ID, measured=1.0, error=0.1, printed=1.0)
    check("y22-flux", holds=True)
    check(ID, measured=2.0, error=0.1, printed=1.0)
    check(ID, holds=True, part="S30")
    table = verdict_table()
    assert [(id, verdict.part) for id, verdict in table.rows] == [("y22-flux", None), (ID, None), (ID, "S30")]
    assert 'href="#claim-y22-marginal-s30"' in table._repr_html_()
    assert "≈ 2.00(10)" in repr(table)


def test_the_table_of_a_chapter_shows_what_is_not_checked():
    check("y22-flux", holds=True)
    check(ID, holds=True)
    table = verdict_table([ID, "y22-mfpt"])
    assert [(id, verdict and verdict.verdict) for id, verdict in table.rows] == [
        (ID, "reproduced"),
        ("y22-mfpt", None),
    ]
    assert repr(table).endswith("y22-mfpt: not checked")
    assert "not checked" in table._repr_html_()
    with pytest.raises(ValueError, match="y22-mfpd"):
        verdict_table(["y22-mfpd"])
    with pytest.raises(ValueError, match="must be a list"):
        verdict_table(ID)


def test_bounds_and_derivations_fill_the_columns():
    bounded = check(ID, measured=1.5, error=0.01, at_least=1, at_most=2)
    assert claims.columns(bounded) == ("≈ 1.500(10)", "≥ 1, ≤ 2", "")
    assert claims.columns(check(ID, holds=True, printed_holds=False)) == ("derived", "does not hold", "holds")
    assert claims.columns(check(ID, holds=True)) == ("derived", "", "holds")


ENTRY = (
    "- {id: a-b, paper: Y22, section: S, where: Eq. 1, statement: x, kind: [D], chapter: null, open: why}\n"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ENTRY + ENTRY, "'a-b' appears twice"),
        (ENTRY.replace("Y22", "Z99"), "paper='Z99'"),
        (ENTRY.replace("[D]", "[Q]"), r"kind=\['Q'\]"),
        (ENTRY.replace("[D]", "[]"), r"kind=\[\]"),
        (ENTRY.replace("section", "sektion"), "sektion"),
        (ENTRY.replace("statement: x, ", ""), "statement"),
    ],
)
def test_a_broken_list_of_claims_is_refused(tmp_path, text, words):
    path = tmp_path / "claims.yml"
    path.write_text(text, "utf8")
    with pytest.raises(ValueError, match=words):
        load_claims(path)


def test_claims_are_read_again_when_the_file_changes(tmp_path):
    path = tmp_path / "claims.yml"
    path.write_text(ENTRY, "utf8")
    assert list(load_claims(path)) == ["a-b"]
    path.write_text(ENTRY.replace("a-b", "c-d"), "utf8")
    assert list(load_claims(path)) == ["c-d"]


def test_a_number_on_the_edge_of_rounding_reads_the_same_when_stored_and_read_again():
    found = check("y22-diffusion", measured=0.4985000000000001, error=0.011, at_least=0.0, part="edge")
    again = type(found).from_dict(json.loads(json.dumps(found.as_dict())))
    assert str(again) == str(found)
