"""The claims, the executed notebooks, the verdicts file and the generated pages say the same."""

import html
import json
import re

import pytest
import yaml

from flatmin.ledger import paths, scoreboard
from flatmin.ledger.claims import claim_of, load_claims
from flatmin.ledger.collection import collect, load_verdicts
from flatmin.ledger.verdicts import MIME, Verdict

REMEDY = "run `make notebooks`"
NOTEBOOKS = sorted(paths.chapters().glob("*.ipynb"))


def verdict_outputs(path):
    cells = json.loads(path.read_text("utf8"))["cells"]
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [data for data in outputs if MIME in data]


def visible_text(data, mime):
    text = data[mime]
    return text if isinstance(text, str) else "".join(text)


def test_the_verdicts_file_is_what_the_notebooks_say():
    assert load_verdicts() == collect(NOTEBOOKS), REMEDY


def test_verdicts_and_claims_match_one_to_one():
    claims, verdicts = load_claims(), load_verdicts()
    assert set(verdicts) <= set(claims), "a verdict without a claim"
    silent = [id for id, claim in claims.items() if id not in verdicts and not claim.open]
    assert not silent, f"neither a verdict nor a reason why it is open: {silent}"
    both = [id for id, entry in verdicts.items() if claims[id].open and entry["verdict"] != "open"]
    assert not both, f"settled, but data/claims.yml still says why they are open: {both}"


def test_what_is_open_says_what_it_would_take_on_the_scoreboard_and_in_its_chapter():
    claims, verdicts = load_claims(), load_verdicts()
    for id, word in scoreboard.standing(claims, verdicts).items():
        if word == "open":
            assert "would take" in (claims[id].open or ""), f"{id}: data/claims.yml"
            row = re.search(
                rf'id="score-{id}" .*</details>', scoreboard.pages(claims, verdicts)["scoreboard.md"]
            )
            undecided = [
                part for part in verdicts.get(id, {"parts": ()})["parts"] if part["verdict"] == "open"
            ]
            assert row[0].partition("</summary>")[2].count("would take") == 1 + len(undecided), id
        if word == "open" and claims[id].chapter:
            text = (paths.chapters() / "src" / f"{claims[id].chapter}.md").read_text("utf8")
            said = re.findall(r"^(?:\*\*)?Open(?: here)?:.*?(?=\n\n)", text, re.M | re.S)
            assert [each for each in said if f"`{id}`" in each and "would take" in each], f"{id}: its chapter"


def test_a_claim_names_a_chapter_that_checks_it():
    claims = load_claims()
    for id, entry in load_verdicts().items():
        chapters = {part["chapter"] for part in entry["parts"]}
        assert claims[id].chapter in chapters, f"{id}: data/claims.yml says {claims[id].chapter}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_announces_the_claims_that_it_checks(path):
    text = (path.parent / "src" / f"{path.stem}.md").read_text("utf8")
    box = re.search(r"\*\*Claims examined:\*\*(.*?)\n(?:- )?\*\*", text, re.S)[1]
    checked = {data[MIME]["id"] for data in verdict_outputs(path)}
    assert set(re.findall(r"`([^`]+)`", box)) == checked


def test_every_verdict_says_what_would_have_turned_it():
    for id, entry in load_verdicts().items():
        for part in entry["parts"]:
            verdict = Verdict.from_dict({"id": id} | part)
            turns = verdict.turns()
            assert turns, f"{verdict.name}: give could_fail"
            values = [value for value in (verdict.printed, verdict.expected) if value is not None]
            if values and all(values) and not verdict.could_fail:
                assert turns.endswith("%)"), f"{verdict.name}: how much of the value is it?"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_shows_is_what_it_stores(path):
    for data in verdict_outputs(path):
        verdict = Verdict.from_dict(data[MIME])
        claim_of(verdict.id)
        page, plain = visible_text(data, "text/html"), visible_text(data, "text/plain")
        assert re.search(r'<span class="flatmin-verdict[^>]*>([^<]*)</span>', page)[1] == verdict.verdict
        assert f'id="{verdict.anchor}"' in page
        assert plain == str(verdict)
        assert html.escape(" · ".join(verdict.findings())) in page


@pytest.mark.parametrize("name", ["scoreboard.md", "_claims_at_a_glance.md", "_findings.md"])
def test_the_generated_pages_are_up_to_date(name):
    findings = yaml.safe_load((paths.data() / "findings.yml").read_text("utf8"))
    wanted = scoreboard.pages(load_claims(), load_verdicts(), findings)[name]
    assert (paths.chapters() / name).read_text("utf8") == wanted, REMEDY
    if name == "_findings.md":
        assert wanted.count("\n1. ") == len(findings) == 3, "a check that the front page quotes is gone"


def test_links_of_the_scoreboard_lead_to_checks_of_the_notebooks():
    page = (paths.chapters() / "scoreboard.md").read_text("utf8")
    anchors = {
        f"{path.stem}.html#{Verdict.from_dict(data[MIME]).anchor}"
        for path in NOTEBOOKS
        for data in verdict_outputs(path)
    }
    assert set(re.findall(r'href="([^"]+#[^"]+)"', page)) == anchors
