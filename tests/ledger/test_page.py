"""What Sphinx makes of the ledger's outputs and pages, with every warning an error."""

import re

import nbformat
import pytest
from nbclient import NotebookClient
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from flatmin.ledger import scoreboard
from flatmin.ledger.claims import load_claims
from flatmin.ledger.collection import collect

CELLS = [
    "from flatmin.ledger.claims import check, verdict_table\nfrom flatmin.ledger import plots\n"
    "from matplotlib import pyplot as plt",
    "check('y22-flux', measured=1.0, error=0.1, printed=1.0, part='Δ_S = 0.009')",
    "verdict_table()",
    "plots.alt(plt.figure(), 'A \"quoted\" <empty> figure')",
    "_ = plt.plot([1, 2])",
]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """Build a book of one chapter and the scoreboard; returns its folder of pages."""
    source = tmp_path_factory.mktemp("book")
    cells = [nbformat.v4.new_markdown_cell("# A chapter"), *map(nbformat.v4.new_code_cell, CELLS)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    nbformat.write(notebook, source / "01_valley.ipynb")
    for name, text in scoreboard.pages(load_claims(), collect([source / "01_valley.ipynb"])).items():
        (source / name).write_text(text, "utf8")
    (source / "index.md").write_text(
        "# Front\n\n```{include} _claims_at_a_glance.md\n```\n\n```{toctree}\n01_valley\nscoreboard\n```\n",
        "utf8",
    )
    settings = {
        "extensions": "myst_nb",
        "nb_execution_mode": "off",
        "suppress_warnings": ["mystnb.unknown_mime_type"],  # as in _config.yml
        "nitpicky": True,
        "exclude_patterns": ["_*.md"],
    }
    with docutils_namespace():
        folders = {
            "srcdir": source,
            "confdir": None,
            "outdir": source / "html",
            "doctreedir": source / "trees",
        }
        app = Sphinx(**folders, buildername="html", confoverrides=settings, status=None, warningiserror=True)
        app.build()
    assert app.statuscode == 0
    return source / "html"


def test_a_check_stands_on_the_page_under_its_anchor(book):
    page = (book / "01_valley.html").read_text("utf8")
    assert page.count('id="claim-y22-flux-delta-s-0-009"') == 1
    assert page.count('href="#claim-y22-flux-delta-s-0-009"') == 1
    assert "vnd.flatmin" not in page


def test_the_scoreboard_links_to_an_anchor_that_exists(book):
    page = (book / "scoreboard.html").read_text("utf8")
    (link,) = re.findall(r'href="(01_valley\.html#[^"]+)"', page)
    name, _, anchor = link.partition("#")
    assert f'id="{anchor}"' in (book / name).read_text("utf8")
    assert "<h1>Scoreboard" in page
    assert page.count('<details class="flatmin-entry" id="score-') == len(load_claims())


def test_the_front_page_includes_the_glance(book):
    page = (book / "index.html").read_text("utf8")
    assert '<table class="flatmin-glance">' in page
    assert "<title>Front" in page


def test_pictures_carry_the_text_their_author_gave(book):
    page = (book / "01_valley.html").read_text("utf8")
    texts = re.findall(r'<img alt="([^"]*)"', page)
    assert texts[0] == "A &quot;quoted&quot; &lt;empty&gt; figure"
    assert len(texts) == 2
    assert texts[1].endswith(".png")
