"""MyST becomes Markdown that any host of notebooks shows, and nothing raw gets through."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import notebooks
import plain

BOX = """:::{admonition} Before *you* start
:class: tip
- **Claims examined:** `y22-flux`, `not-a-claim`
- over $a
  +b$ and

$$
c\\\\
d
$$
:::"""

EXERCISE = """```{exercise} ★ The {eq}`a-one`
:label: a-first

Text.

:::{hint}
Look at {eq}`a-one`.
:::
```

```{solution-start} a-first
:class: dropdown
```

Said."""


def index():
    """Return labels of every kind, two of them in another chapter."""
    return {
        "a-one": plain.Target("equation", "1.1", "01_a"),
        "b-one": plain.Target("equation", "2.1", "02_b"),
        "a-figure": plain.Target("figure", "1.3", "01_a"),
        "a-first": plain.Target("exercise", "1.1", "01_a"),
        "b-part": plain.Target("section", "A *part* here", "02_b"),
    }


@pytest.fixture
def writer(root):
    literature = plain.Bibliography(root / "data" / "references.bib")
    return plain.Writer("01_a", index(), literature, {"y22-flux"}, lambda target, label: f"<{label}>")


@pytest.mark.parametrize(
    ("myst", "made"),
    [
        ("See {eq}`a-one`, {eq}`b-one`.", "See [(1.1)](#a-one), [(2.1)](02_b.ipynb#b-one)."),
        ("{numref}`a-figure`", "[Fig. 1.3](#a-figure)"),
        ("{ref}`b-part`", "[A *part* here](02_b.ipynb#A-*part*-here)"),
        ("{ref}`so <a-first>`", "[so](#a-first)"),
        ("{doc}`the board <scoreboard>`, {doc}`it <02_b>`", "[the board](scoreboard.md), [it](02_b.ipynb)"),
        ("$$\nx\n$$ (a-one)", '<a id="a-one"></a>\n\n$$\nx\n\\tag{1.1}\n$$'),
        ("$$ x $$", "$$\nx\n$$"),
        (
            "```{math}\n:label: a-one\nx\\\\y\n```",
            '<a id="a-one"></a>\n\n$$\n\\begin{aligned}x\\\\y\\end{aligned}\n\\tag{1.1}\n$$',
        ),
        ("(b-part)=\n# Title", "# Title"),
        ("% a remark\nText", "Text"),
        ("`{eq}` in code, ``{eq}`x` ``", "`{eq}` in code, ``{eq}`x` ``"),
        ("```python\n{{ x }}\n:::{tip}\n```", "```python\n{{ x }}\n:::{tip}\n```"),
        ("{{ figure: a-figure }}", "<a-figure>"),
        (":::{margin}\nM22 Eq. 3\n:::", "> M22 Eq. 3"),
        (":::{note}\nM22\n:::", "> **Note**\n>\n> M22"),
    ],
)
def test_a_construct_becomes_plain(writer, myst, made):
    assert writer.markdown(myst) == made


def test_a_box_is_a_quote_in_which_formulas_hold_together(writer):
    lines = writer.markdown(BOX).splitlines()
    assert all(line.startswith(">") for line in lines)
    assert lines[0] == "> **Before *you* start**"
    assert "[`y22-flux`](scoreboard.md#score-y22-flux), `not-a-claim`" in lines[2]
    assert lines[3] == "> - over $a +b$ and"
    assert lines[-1] == r"> $$ \begin{aligned}c\\ d\end{aligned} $$"


def test_an_exercise_is_a_heading_and_its_solution_opens(writer):
    made = writer.markdown(EXERCISE)
    assert made.startswith(
        '<a id="a-first"></a>\n\n### Exercise 1.1: ★ The [(1.1)](#a-one)\n\nText.\n\n<details>'
    )
    assert "<summary><b>Hint</b></summary>\n\nLook at [(1.1)](#a-one).\n\n</details>" in made
    assert made.endswith("<summary><b>Solution to Exercise 1.1</b></summary>\n\nSaid.\n\n</details>")
    assert "Exercise 1.1, continued" in writer.markdown("More.")
    assert writer.markdown("```{solution-end}\n```\n\nAfter.") == "After."
    assert writer.solution is None


def test_the_literature_is_named_with_links(writer):
    assert writer.markdown("{cite:t}`yang2026`") == "[Yang et al. (2026)](https://arxiv.org/abs/2601.10962)"
    both = writer.markdown("{cite:p}`yang2023,gardiner2009`")
    assert both.startswith(
        "([Yang et al., 2023](https://doi.org/10.1103/PhysRevLett.130.237101); [Gardiner, "
    )


@pytest.mark.parametrize(
    "myst",
    [
        "{eq}`nowhere`",
        "{numref}`a-one`",
        "{cite:p}`nobody1999`",
        "{math}`x`",
        "```{figure} x.png\n```",
        ":::{admonition} T\n:class: tip\nText",
        "$$\nx",
        "a line with\n:class: tip",
    ],
)
def test_what_cannot_be_shown_is_refused(writer, myst):
    with pytest.raises(
        ValueError, match=r"no equation|no figure|no entry|knows only|not closed|closing|as it is"
    ):
        writer.markdown(myst)


def test_labels_are_counted_as_on_the_page():
    figure = new_code_cell("x", metadata={"figure": "a-figure", "caption": "c"})
    text = (
        "(top)=\n# The *top*\n\n$$\nx\n$$\n\n$$\ny\n$$ (a-one)\n\n:::{note}\n$$z$$ (a-two)\n:::\n" + EXERCISE
    )
    found = plain.targets(new_notebook(cells=[figure, new_markdown_cell(text)]), "07_a")
    assert {label: target.text for label, target in found.items()} == {
        "a-figure": "7.1",
        "top": "The *top*",
        "a-one": "7.1",
        "a-two": "7.2",
        "a-first": "7.1",
    }
    with pytest.raises(ValueError, match="07_a: the label 'a-one' stands twice"):
        plain.targets(new_notebook(cells=[new_markdown_cell("$$x$$ (a-one)\n\n$$x$$ (a-one)")]), "07_a")


# The notebooks of the book: what the launch buttons, the download and the repository open


@pytest.mark.parametrize("name", notebooks.chapter_names())
def test_no_cell_holds_a_directive_a_role_or_a_label(name):
    made = nbformat.read(notebooks.notebook_path(name), as_version=4)
    for cell in made.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r'"data:image/png;base64,[^"]*"', "", cell.source)
            text = re.sub(r"(`+).+?\1", "", text, flags=re.DOTALL)
            assert not plain.RAW.search(text), cell.source[:200]
            assert "{{" not in text.replace("{{\\", ""), cell.source[:200]


@pytest.mark.parametrize("name", notebooks.chapter_names())
def test_what_the_page_folds_is_folded_in_notebooks(name):
    made = nbformat.read(notebooks.notebook_path(name), as_version=4)
    for cell in notebooks.code_cells(made):
        if {"hide-input", "remove-cell"} & set(cell.metadata.get("tags", [])):
            assert cell.metadata.jupyter["source_hidden"]
            assert cell.metadata.cellView == "form"


@pytest.mark.parametrize("name", notebooks.chapter_names())
def test_links_within_a_notebook_lead_somewhere(name):
    made = nbformat.read(notebooks.notebook_path(name), as_version=4)
    text = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    headings = {title.strip().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for place in re.findall(r"\]\(#([^)]+)\)", text):
        assert place in headings or text.count(f'<a id="{place}"></a>') == 1, place


# The numbers that the notebooks give are those of the page

NUMBER = {
    "equation": r'id="equation-{}"[^>]*>\s*<span class="eqno">\((.*?)<a',
    "figure": r'<figure [^>]*id="{}">.*?<span class="caption-number">Fig\. (.*?) </span>',
    "exercise": r'<div class="exercise admonition" id="{}">.*?caption-number">Exercise (.*?) </span>',
}


@pytest.mark.parametrize("name", notebooks.chapter_names())
def test_page_and_notebook_number_alike(site, name):
    page = (site / "chapters" / f"{name}.html").read_text("utf8")
    own = {label: each for label, each in notebooks.book_index().items() if each.chapter == name}
    for label, target in own.items():
        if target.kind in NUMBER:
            found = re.search(NUMBER[target.kind].format(label), page, re.DOTALL)
            assert found, label
            assert found[1].strip(") ") == target.text, label
