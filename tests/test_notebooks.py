"""The notebooks: made from their texts, executed in order, and compared by one rule."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise

import nbformat
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import layout
import notebooks
import rules
from flatmin.ledger import claims, paths, verdicts
from flatmin.ledger.claims import approx
from flatmin.ledger.verdicts import Verdict

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

"""


def chapter(*cells):
    """Return the MyST text of a chapter: a string is prose, a 1-tuple a code cell."""
    blocks = [
        f"```{{code-cell}} ipython3\n{cell[0]}\n```\n" if isinstance(cell, tuple) else f"{cell}\n"
        for cell in cells
    ]
    return HEADER + "\n".join(blocks)


@pytest.fixture
def chapters(tmp_path, monkeypatch):
    """An empty chapters folder that the pipeline works on."""
    (tmp_path / "src").mkdir()
    monkeypatch.setattr(notebooks, "CHAPTERS", tmp_path)
    return tmp_path


# The chapters of the book


def test_every_chapter_agrees_with_its_text_and_is_executed_in_order():
    problems = {name: notebooks.check(name) for name in notebooks.chapter_names()}
    assert problems == {name: [] for name in problems}


def test_texts_notebooks_and_contents_name_the_same_chapters(root):
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf8"))
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    texts = notebooks.chapter_names()
    assert sorted(path.stem for path in (root / "chapters").glob("*.ipynb")) == texts
    assert [file for file in files if re.match(r"chapters/\d\d_", file)] == [f"chapters/{n}" for n in texts]


def test_every_chapter_begins_with_the_hidden_bootstrap_cell():
    bootstrap = notebooks.placeholders()["bootstrap"]
    for name in notebooks.chapter_names():
        first = notebooks.code_cells(notebooks.read_notebook(notebooks.notebook_path(name)))[0]
        assert first.source == bootstrap, name
        assert "remove-cell" in first.metadata.tags, name


def test_notebooks_keep_no_widget_that_would_need_a_kernel_or_a_server():
    for name in notebooks.chapter_names():
        text = notebooks.notebook_path(name).read_text("utf8")
        assert "application/vnd.jupyter.widget" not in text, name


@pytest.mark.parametrize("name", notebooks.chapter_names())
def test_the_code_of_a_chapter_is_laid_out_for_the_page(name):
    assert layout.findings(notebooks.text_path(name).read_text("utf8")) == []


@pytest.mark.parametrize("name", notebooks.chapter_names())
def test_pictures_can_be_read_on_a_phone(name):
    """The panels of a wide picture are cut apart there; what is left may be 6.5 inches wide, of 110 dots."""
    for cell in notebooks.code_cells(notebooks.read_notebook(notebooks.notebook_path(name))):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                about = output.metadata["image/png"]
                ends = [0, *about.get("cuts", []), 1000]
                widest = max(right - left for left, right in pairwise(ends)) / 1000 * about["width"]
                assert widest <= 720, (cell.source[:80], about.get("alt"))


# From text to notebook


def test_the_same_text_makes_the_same_notebook_and_no_version_noise(chapters):
    text = chapter("# Title", ("1 + 1",), ("1 + 1",))
    (chapters / "src" / "01_a.md").write_text(text)
    one, other = (notebooks.make_notebook("01_a", new_notebook()) for _ in range(2))
    assert nbformat.writes(one) == nbformat.writes(other)
    assert len({cell.id for cell in one.cells}) == 3  # two equal cells, two ids
    assert "version" not in str(one.metadata)


def test_placeholders_are_filled_in_and_unknown_ones_refused():
    made = notebooks.myst_notebook(chapter("See {{ repository }}.", ("{{ bootstrap }}",)))
    address = notebooks.placeholders()["repository"]
    assert made.cells[0].source == f"See {address}."
    assert address in made.cells[1].source
    with pytest.raises(ValueError, match=r"\{\{ repo \}\}.*bootstrap.*repository"):
        notebooks.myst_notebook(chapter("{{ repo }}"))


def test_update_keeps_the_outputs_of_unchanged_cells_only(chapters):
    text = chapters / "src" / "01_a.md"
    text.write_text(chapter("# Title", ("1 + 1",), ("2 + 2",)))
    made = notebooks.update("01_a")
    for count, cell in enumerate(notebooks.code_cells(made), start=1):
        cell.execution_count = count
        cell.outputs = [new_output("stream", text=str(count))]
    nbformat.write(made, chapters / "01_a.ipynb")
    assert notebooks.check("01_a") == []

    text.write_text(chapter("# Another title", ("1 + 1",), ("3 + 3",)))
    assert "cell 1: source differs" in notebooks.check("01_a")[0]
    kept, changed = notebooks.code_cells(notebooks.update("01_a"))
    assert kept.outputs[0].text == "1"
    assert changed.outputs == []
    assert notebooks.check("01_a") == ["code cell 2 (['3 + 3']) is not executed"]


def test_an_edit_in_the_notebook_is_found(chapters):
    (chapters / "src" / "01_a.md").write_text(chapter("# Title", "Text.\n\n+++\n\nMore."))
    made = notebooks.update("01_a")
    assert notebooks.check("01_a") == []
    made.metadata.kernelspec["name"] = "conda-env"
    made.cells[1].metadata.tags = ["hide-cell"]
    nbformat.write(made, chapters / "01_a.ipynb")
    assert notebooks.check("01_a") == [
        "cell 2: metadata differs between text and notebook",
        "the notebook's metadata is not what the text makes",
    ]
    made.cells.pop()
    nbformat.write(made, chapters / "01_a.ipynb")
    assert notebooks.check("01_a") == ["the text has 2 cells, the notebook 1"]


FIGURE = """```{{code-cell}} ipython3
---
tags: [hide-input]
figure: a-figure
caption: |
  **What to see**, {{eq}}`a-one`.
---
{}
```
"""
DRAWING = "from IPython.display import Image\nImage(filename='x.png', alt='a [dot]')"


def with_picture(cell):
    """Give a cell an executed picture."""
    cell.execution_count = 1
    data = {"image/png": "aGVs\nbG8=\n", "text/plain": "a [dot]"}
    about = {"image/png": {"alt": 'a [dot], "x" < 1', "width": 480}}
    cell.outputs = [new_output("display_data", data, metadata=about)]


def test_a_figure_is_numbered_captioned_folded_and_repeated_where_the_text_says(chapters):
    text = "# Title\n\n{{ figure: a-figure }}\n\n$$x$$ (a-one)\n\nSee {numref}`a-figure`."
    (chapters / "src" / "07_a.md").write_text(chapter(text) + FIGURE.format(DRAWING))
    first, drawing, caption = notebooks.update("07_a").cells
    assert "*[Fig. 7.1](#a-figure) stands here once the chapter was executed.*" in first.source
    assert (drawing.metadata.cellView, drawing.metadata.tags) == ("form", ["hide-input"])
    assert drawing.metadata.jupyter == {"source_hidden": True}
    assert caption.source == '<a id="a-figure"></a>\n\n**Fig. 7.1.** **What to see**, [(7.1)](#a-one).'
    kept = notebooks.read_notebook(chapters / "07_a.ipynb")
    with_picture(kept.cells[1])
    nbformat.write(kept, chapters / "07_a.ipynb")
    assert notebooks.check("07_a") == ["cell 1: source differs between text and notebook"]
    first = notebooks.update("07_a").cells[0]
    image = '<img alt="a [dot], &quot;x&quot; &lt; 1" width="480" src="data:image/png;base64,aGVsbG8=">'
    assert f"\n\n{image}\n\n*[Fig. 7.1](#a-figure), made" in first.source
    assert notebooks.check("07_a") == []


def test_a_label_of_two_chapters_is_refused(chapters):
    for name in ("01_a", "02_b"):
        (chapters / "src" / f"{name}.md").write_text(chapter("# T\n\n$$x$$ (a-one)"))
    with pytest.raises(ValueError, match="the label 'a-one' stands in 01_a and in 02_b"):
        notebooks.update("01_a")


def test_code_is_laid_out_in_lines_that_fit_the_page(chapters, capsys):
    path = chapters / "src" / "01_a.md"
    long = f"x = f({', '.join(f'value_{i}' for i in range(9))})"
    path.write_text(chapter("# T", (":tags: [hide-input]\n\nx = { 1:2 }\nimport os",), (long,)))
    assert notebooks.main(["format", "01_a"]) == 1
    said = capsys.readouterr().out
    assert "01_a: F401 `os` imported but unused (line 2 of the cell 'x = {1: 2}')" in said
    text = path.read_text()
    assert ":tags: [hide-input]\n\nx = {1: 2}\nimport os\n```" in text
    assert "x = f(\n    value_0, " in text
    path.write_text(text.replace("import os\n", ""))
    assert notebooks.main(["format", "01_a"]) == 1  # f is not defined
    assert capsys.readouterr().out.startswith("01_a: F821 Undefined name `f`")


def test_what_a_kernel_took_is_read_while_it_runs():
    """The most memory, in bytes, as the process itself is told; nothing of one that is not there."""
    resource = pytest.importorskip("resource")
    seconds, size = rules.taken(os.getpid()) or pytest.skip("no /proc here")
    used = resource.getrusage(resource.RUSAGE_SELF)
    assert seconds == pytest.approx(used.ru_utime + used.ru_stime, abs=0.5)
    assert size == pytest.approx(1024 * used.ru_maxrss, rel=0.05)
    assert rules.taken(2**31) is None


def test_what_is_stale_is_seen(chapters, monkeypatch):
    (chapters / "src" / "01_a.md").write_text(chapter("# T", ("from flatmin import estimate\n1",)))
    assert notebooks.stale("01_a")
    notebooks.execute("01_a")
    assert not notebooks.stale("01_a")
    (chapters / "src" / "01_a.md").write_text(chapter("# Other", ("from flatmin import estimate\n1",)))
    assert not notebooks.stale("01_a")  # words alone need no execution
    monkeypatch.setattr(notebooks, "made_with", lambda code: "another library")
    assert notebooks.stale("01_a")


def test_a_chapter_without_a_notebook_is_a_problem(chapters):
    (chapters / "src" / "01_a.md").write_text(chapter("# Title"))
    assert notebooks.check("01_a") == ["there is no notebook yet"]


@pytest.mark.parametrize(
    "damage", [lambda text: "", lambda text: text[:99], lambda text: "[]", lambda text: "{}"]
)
def test_a_damaged_notebook_is_named_with_what_to_do(chapters, damage):
    (chapters / "src" / "01_a.md").write_text(chapter("# Title"))
    notebooks.update("01_a")
    path = chapters / "01_a.ipynb"
    path.write_text(damage(path.read_text("utf8")))
    (problem,) = notebooks.check("01_a")
    assert re.fullmatch(r"01_a\.ipynb is damaged \(.*\): delete it and run `make notebooks`", problem)
    with pytest.raises(ValueError, match=r"01_a\.ipynb is damaged"):
        notebooks.update("01_a")


def test_a_file_of_verdicts_that_the_notebooks_do_not_give_is_a_problem(chapters, monkeypatch):
    (chapters / "src" / "01_a.md").write_text(chapter("# Title"))
    monkeypatch.setattr(paths, "data", lambda: chapters)
    verdict = Verdict("y22-flux", None, "reproduced", measured=1.0, error=0.1, printed=1.0)

    def stored(verdict):
        output = new_output("display_data", {verdicts.MIME: verdict.sealed()})
        nbformat.write(executed(("check()", [output])), chapters / "01_a.ipynb")

    stored(verdict)
    claims.write_verdicts(claims.collect([chapters / "01_a.ipynb"]))
    assert notebooks.ledger_problems() == []
    stored(dataclasses.replace(verdict, measured=1.05))
    assert notebooks.ledger_problems() == [
        "verdicts.json is not what 01_a.ipynb says on y22-flux: `make notebooks` makes it anew"
    ]
    stored(dataclasses.replace(verdict, measured=2.0))
    (problem,) = notebooks.ledger_problems()
    assert problem.startswith("01_a.ipynb: y22-flux: the verdict reads 'reproduced'")


def test_unexecuted_misordered_and_failed_cells_are_found():
    error = new_output("error", ename="ValueError", evalue="", traceback=[])
    announced = new_code_cell("raise ValueError", execution_count=4, outputs=[error])
    announced.metadata.tags = ["raises-exception"]
    cells = [
        new_code_cell("a", execution_count=1),
        new_markdown_cell("prose"),
        new_code_cell("b", execution_count=3),
        new_code_cell("c", execution_count=3, outputs=[error]),
        announced,
        new_code_cell("plots.alt(figure, 'x')", execution_count=5),
        new_code_cell("d"),
    ]
    assert notebooks.execution_problems(new_notebook(cells=cells)) == [
        "code cell 2 (['b']) was executed as number 3, not in order from 1",
        "code cell 3 (['c']) holds an error: ValueError",
        "code cell 5 ([\"plots.alt(figure, 'x')\"]) holds no picture",
        "code cell 6 (['d']) is not executed",
    ]


def test_chapters_are_chosen_by_name_file_or_path(chapters):
    (chapters / "src" / "01_a.md").write_text(chapter("# Title"))
    assert notebooks.chosen(["01_a", "chapters/01_a.ipynb", "01_a.md"]) == ["01_a"] * 3
    with pytest.raises(ValueError, match="no chapter '02_b': allowed are 01_a"):
        notebooks.chosen(["02_b"])


# Execution


def test_execution_is_repeatable_static_and_quiet(chapters, capsys, monkeypatch):
    monkeypatch.delenv("FLATMIN_STATIC")
    noisy = (
        "import os, sys\nprint('out'); sys.stdout.flush()\nprint('warned', file=sys.stderr); print('more')"
    )
    text = chapter("# Title", (noisy,), ("os.environ['FLATMIN_STATIC'], os.getcwd()[-3:], 6 * 7",))
    (chapters / "src" / "01_a.md").write_text(text)
    notebooks.execute("01_a")
    first = (chapters / "01_a.ipynb").read_bytes()
    assert "01_a: on stderr (not kept): warned" in capsys.readouterr().out
    assert notebooks.check("01_a") == []
    made = notebooks.read_notebook(chapters / "01_a.ipynb")
    streams, value = (cell.outputs for cell in made.cells[1:])
    assert [(output.name, output.text) for output in streams] == [("stdout", "out\nmore\n")]
    assert value[0].data["text/plain"] == f"('1', {str(chapters)[-3:]!r}, 42)"

    written = (chapters / "01_a.ipynb").stat().st_mtime_ns
    notebooks.execute("01_a")
    assert (chapters / "01_a.ipynb").read_bytes() == first
    assert (chapters / "01_a.ipynb").stat().st_mtime_ns == written  # what is the same is not written


def test_a_failing_cell_stops_with_its_source_and_traceback(chapters):
    (chapters / "src" / "01_a.md").write_text(chapter("# Title", ("x = 1",), ("divided = x / 0",)))
    with pytest.raises(SystemExit, match=r"(?s)01_a: a cell failed.*divided = x / 0.*ZeroDivisionError"):
        notebooks.execute("01_a")
    assert notebooks.check("01_a") == [
        "code cell 1 (['x = 1']) is not executed",
        "code cell 2 (['divided = x / 0']) is not executed",
    ]


# Comparison

SAME = [
    "≈ 0.01047(12)",
    "≈ 3.1e-04",
    "≈ −12 %",
    "≈ 1.23 ± 0.04",
    "≈ +7",
    "≈0.5",
    "≈ 1.05(12)e-03",
    "≈ 3.1×10⁻⁴",
    "≈ 3.1 × 10<sup>−4</sup>",
    "≈ 1,234.5(6.7)",
    "≈&nbsp;1.2 &plusmn; 0.3&nbsp;%",
    "≈     7.25",
]


@pytest.mark.parametrize("number", SAME)
def test_what_follows_the_sign_is_not_compared(number):
    for frame in ("{}", "<td>{}</td>", "a {}, b", "rate {}: reproduced", "({})"):
        assert re.sub(rules.APPROXIMATE, "≈ #", frame.format(number)) == frame.format("≈ #")


@pytest.mark.parametrize("text", ["0.01047(12)", "= 3", "≈ nan", "≈ inf", "≈ x", "~ 3", "≃ 3"])
def test_nothing_else_is_left_out(text):
    assert re.sub(rules.APPROXIMATE, "≈ #", text) == text


def test_the_rule_ends_with_the_number():
    text = "≈ 1.2, 3.4 and ≈ 5 of 6"
    assert re.sub(rules.APPROXIMATE, "≈ #", text) == "≈ #, 3.4 and ≈ # of 6"


@given(st.floats(-1e9, 1e9), st.none() | st.floats(1e-12, 1e9))
def test_the_ledgers_numbers_follow_the_rule(value, error):
    assert re.fullmatch(rules.APPROXIMATE, approx(value, error))


def executed(*cells):
    """Return a notebook of (source, stored outputs) that counts as executed."""
    made = [
        new_code_cell(source, execution_count=count, outputs=outputs)
        for count, (source, outputs) in enumerate(cells, start=1)
    ]
    return new_notebook(cells=made)


def stream(text):
    """Return stored output on stdout."""
    return new_output("stream", name="stdout", text=text)


MIME = "application/vnd.flatmin.verdict+json"
VERDICT = f"""from IPython.display import publish_display_data
bundle = {{"text/plain": "≈ 2.5(1)", "text/html": "<td>≈ 2.5 %</td>", "{MIME}": {{"measured": 2.5}}}}
publish_display_data(bundle)"""


def test_nbval_is_strict_but_for_what_the_rule_names(root, tmp_path):
    """`pytest --nbval` with the book's own settings, on one notebook that is right and one that is wrong."""
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    (tmp_path / "chapters").mkdir()
    stored = {"text/plain": "≈ 2.4(3)", "text/html": "<td>≈ 9 %</td>", MIME: {"measured": 2.4}}
    verdict = new_output("display_data", data=stored)
    right = executed(
        ("print('≈ 0.12(3) of', 1)", [stream("≈ 0.11(4) of 1\n")]),
        ("import sys; print('warning', file=sys.stderr)", []),
        (VERDICT, [verdict]),
        ("import os; print(os.environ['FLATMIN_STATIC'])", [stream("1\n")]),
    )
    wrong = executed(
        ("print('0.12(3)')", [stream("0.11(4)\n")]),
        ("print('≈ 0.12(3) of', 1)", [stream("≈ 0.12(3) of 2\n")]),
        ("1", []),
    )
    nbformat.write(right, tmp_path / "chapters" / "01_right.ipynb")
    nbformat.write(wrong, tmp_path / "chapters" / "02_wrong.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", "-rA"]
    bare = {key: value for key, value in os.environ.items() if key not in rules.ENVIRONMENT}
    run = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True)
    outcomes = re.findall(r"^(PASSED|FAILED) chapters/(\S+)::.*Cell (\d)", run.stdout, re.MULTILINE)
    expected = [("PASSED", "01_right.ipynb", str(i)) for i in range(4)]
    expected += [("FAILED", "02_wrong.ipynb", str(i)) for i in range(3)]
    assert sorted(outcomes) == sorted(expected), run.stdout
