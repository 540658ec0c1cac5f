import json
import math

import numpy as np
import pytest
import sympy as sp

from flatmin.ledger import claims
from flatmin.ledger.claims import check, load_claims, verdict_table
from flatmin.ledger.verdicts import VERDICTS, anchor, badge, overall, slug

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
        ({"holds": True, "could_fail": "a sign"}, "a sign"),
    ],
)
def test_a_check_says_what_would_have_turned_it(given, words):
    assert words in check(ID, **given).turns()
    assert words in check(ID, **given)._repr_html_()
    assert check(ID, holds=True).turns() is None


def test_outside_of_a_notebook_a_check_prints_once(capsys):
    verdict = check(ID, measured=0.010473, error=0.000118, printed=0.012, expected=0.0105, part="Δ_S = 0.009")
    assert capsys.readouterr().out == (
        "y22-marginal (Δ_S = 0.009): corrected\n"
        "  measured ≈ 0.01047(12) · printed 0.012 · ours 0.0105 · within 3 standard errors\n"
        "  could it fail? beyond a difference of ≈ 0.00035 (≈ 3.4 %)\n"
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
