"""The book on two pages: every paper, the ledger's counts, the page of the book and the PDF."""

import io
import re
from collections import Counter

import pytest
from pypdf import PdfReader

import summary
from flatmin.ledger.claims import load_claims, load_verdicts
from flatmin.ledger.errata import load_errata
from flatmin.ledger.scoreboard import PAPER_NAMES, filled, standing

STANDS = standing(load_claims(), load_verdicts())
SECTIONS = summary.sections(".html")
# what does not fit: text wider than its column or cell
WIDE = """(edge => [...document.querySelectorAll('li, p, h2, td, th, mjx-container')]
  .filter(node => node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).display !== 'inline'
    || edge(node) > 1 + edge(node.closest('.columns, table, body')))
  .map(node => node.textContent.slice(0, 60)))(node => node.getBoundingClientRect().right)"""


def test_the_page_is_up_to_date():
    assert summary.PAGE.read_text("utf8") == summary.page(), "run `make notebooks`"


def test_every_paper_has_its_counts_what_holds_what_is_corrected_and_what_is_open():
    errata, claims = load_errata(), load_claims()
    for (title, counts, body), paper in zip(SECTIONS, PAPER_NAMES, strict=False):
        own = Counter(STANDS[id] for id, claim in claims.items() if claim.paper == paper)
        assert paper == "beyond" or f"({paper})" in title
        assert counts.startswith(f"{own.total()} claims: ")
        assert dict(map(reversed, re.findall(r"(\d+) ([a-z ]+?)(?:,|$)", counts.partition(": ")[2]))) == {
            word: str(count) for word, count in own.items()
        }
        assert re.search(r"<b>Holds\.</b> .*\)</a>", body), "a number with its error"
        differ = [each for each in errata if each.paper == paper and each.consequence != "none"]
        assert body.count("<b>→</b>") == len(differ) + 1
        assert body.count("Changes the conclusion") == sum(
            each.consequence == "conclusion" for each in differ
        )
        assert len(re.findall("<li>", body)) == len(differ) + own["open"]
    assert f"{len(STANDS)} claims: " in summary.page()


def test_a_number_that_is_gone_is_no_sentence():
    found = {"text": "It is {a}.", "numbers": {"a": ["y22-flux", "nothing", "measured"]}}
    assert filled(found, {}, None) is None


@pytest.mark.browser
def test_it_is_two_pages_with_every_paper_and_the_counts(browser, tmp_path):
    pages = PdfReader(io.BytesIO(summary.printed(browser, tmp_path))).pages
    assert len(pages) == 2
    assert {tuple(map(round, page.mediabox[2:])) for page in pages} == {(595, 842)}
    text = " ".join(" ".join(page.extract_text() for page in pages).split())
    for title, counts, _ in SECTIONS:
        assert title in text
        assert counts in text
    for place in range(1, 11):
        assert f"{place}. " in text
    view = browser.new_page(viewport={"width": 718, "height": 1000})  # A4 within its margins
    view.goto((tmp_path / "summary.html").as_uri(), wait_until="load")
    view.evaluate("MathJax.startup.promise.then(() => true)")
    assert view.evaluate(WIDE) == []
    view.close()


@pytest.mark.browser
def test_what_does_not_fit_is_an_error(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "SIZES", (20,))
    with pytest.raises(RuntimeError, match="more than two pages"):
        summary.printed(browser, tmp_path)
