"""The pages of the chapters: made from the texts and the outputs in the notebooks."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

import notebooks
import page
import pages
import plain

IMAGE = '<img alt="two &lt;panels&gt;" class="flatmin-cuts-250-700" src="../_images/a.png" style="x"/>'
TEXT = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
---

# Title

{{ figure: a-figure }}

:::{admonition} Before you start
:class: tip
- **Claims examined:** `y22-flux`, `no-claim`
:::

Here `y22-flux` is code.

:::{hint}
Think.
:::

```{code-cell} ipython3
---
tags: [hide-input]
figure: a-figure
caption: |
  What.
---
plots.alt(figure, "it")
```
"""


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """The notebook of a chapter with a figure, executed, as text."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "07_a.md").write_text(TEXT)
    monkeypatch.setattr(notebooks, "CHAPTERS", tmp_path)
    notebooks.update("07_a")
    kept = notebooks.read_notebook(tmp_path / "07_a.ipynb")
    (cell,) = notebooks.code_cells(kept)
    cell.execution_count = 1
    cell.outputs = [new_output("display_data", {"image/png": "aGVsbG8=", "text/plain": "it"})]
    notebooks.write_notebook("07_a", notebooks.make_notebook("07_a", kept))
    return (tmp_path / "07_a.ipynb").read_text("utf8")


def test_a_page_has_the_text_as_it_is_and_the_outputs_of_the_notebook(chapter):
    title, repeated, _, rest, drawing = pages.read(chapter).cells
    assert title.source == "# Title\n\n"
    assert repeated.metadata.tags == ["remove-input"]
    assert repeated.outputs == drawing.outputs
    assert drawing.metadata.mystnb == {
        "figure": {"name": "a-figure", "caption": "What.\n"},
        "code_prompt_show": "Show the code of this figure",
        "code_prompt_hide": "Hide the code of this figure",
    }
    assert ":::{hint}\n:class: dropdown\nThink." in rest.source
    link = '<a class="flatmin-claim" href="scoreboard.html#score-y22-flux"><code>y22-flux</code></a>'
    assert f"**Claims examined:** {link}, `no-claim`" in rest.source
    assert "Here `y22-flux` is code." in rest.source


@pytest.mark.parametrize(
    ("code", "holds"),
    [
        ("import x\nplots.alt(figure, 'it')", "the code of this figure"),
        ("explorers.show('valley', still)", "the code of this figure"),
        ("import x\ncheck('y22-flux', measured=1)", "the check"),
        ("verdict_table(['y22-flux'])", "the code of this table"),
        ("import x\nprint(x)", "the imports"),
        ("print(x)", "the code of these numbers"),
        ("def f(x):\n    return x", "the code"),
    ],
)
def test_a_fold_says_what_it_holds(code, holds):
    folded = pages._with_figure(new_code_cell(code, metadata={"tags": ["hide-input"]}))
    assert folded.metadata.mystnb == {
        "code_prompt_show": f"Show {holds}",
        "code_prompt_hide": f"Hide {holds}",
    }
    assert "mystnb" not in pages._with_figure(new_code_cell(code)).metadata


def test_other_notebooks_are_read_as_they_are():
    notebook = nbformat.v4.new_notebook(cells=[new_code_cell("1")])
    assert pages.read(nbformat.writes(notebook)).cells[0].source == "1"


def test_panels_are_cut_apart_at_one_scale_and_described_once():
    (made,) = [pages.stacked(match) for match in pages._PANELS.finditer(IMAGE)]
    assert made.startswith(IMAGE + '<span class="flatmin-panels" role="img" aria-label="two &lt;panels&gt;">')
    widths = re.findall(r'<span style="width:([\d.]+)%"><img src="../_images/a.png" alt=""', made)
    assert widths == ["55.6", "100.0", "66.7"]  # 250, 450 and 300 of 1000
    inner = re.findall(r"width:([\d.]+)%;margin-left:(-?[\d.]+)%", made)
    assert inner == [("400.00", "0.00"), ("222.22", "-55.56"), ("333.33", "-233.33")]


def test_the_page_of_an_unknown_chapter_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no chapter '99_none'"):
        page.show("99_none", tmp_path)


# The built pages


@pytest.mark.parametrize("name", notebooks.chapter_names())
def test_the_main_figure_is_the_one_that_the_chapter_makes(site, name):
    (label,) = plain.REPEAT.findall(notebooks.text_path(name).read_text("utf8"))
    html = (site / "chapters" / f"{name}.html").read_text("utf8")
    first = re.search(r'<div class="cell_output.*?<img [^>]*src="([^"]*_images/[^"]*)"', html, re.DOTALL)
    numbered = re.search(rf'<figure [^>]*id="{label}".*?<img [^>]*src="([^"]*)"', html, re.DOTALL)
    assert first[1] == numbered[1]
    assert html.index(first[0]) < html.index("Show the imports")


@pytest.mark.parametrize("name", notebooks.chapter_names())
def test_each_check_leads_to_its_row(site, name):
    html = (site / "chapters" / f"{name}.html").read_text("utf8")
    checks = re.findall(r'<div id="claim-[^"]*" class="flatmin-check">.*?</div>', html, re.DOTALL)
    for check in checks:
        assert re.search(r'<a href="scoreboard.html#score-([\w.-]+)"><code>\1</code></a>', check)


@pytest.mark.parametrize("name", notebooks.chapter_names())
def test_the_download_is_the_plain_notebook(site, name):
    downloaded = site / "_sources" / "chapters" / f"{name}.ipynb"
    assert downloaded.read_bytes() == notebooks.notebook_path(name).read_bytes()


def test_an_output_leads_to_the_page_of_another_chapter():
    """The notebook that shows it leads to the notebook; a download keeps its file."""
    context = {"body": '<a href="05_noise.ipynb#claim-x-a">≈ 1</a> <a href="05_noise.ipynb">it</a>'}
    pages._finish(None, "", "", context, None)
    assert context["body"] == '<a href="05_noise.html#claim-x-a">≈ 1</a> <a href="05_noise.ipynb">it</a>'
