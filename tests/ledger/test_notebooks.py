"""Checks, figures and explorers as a notebook shows them: run in kernels of their own."""

import base64
import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from flatmin.ledger import collection
from flatmin.ledger.collection import collect, load_verdicts, stored_verdicts, write_verdicts
from flatmin.ledger.verdicts import MIME

CELLS = {
    "silent": "from flatmin.ledger.claims import check, verdict_table\n"
    "from flatmin.ledger import plots, widgets\nfrom matplotlib import pyplot as plt\nplots.use()",
    "last": "check('y22-flux', measured=1.0, error=0.1, printed=1.0)",
    "middle": "verdict = check('y22-flux', holds=True, part='none for isotropic noise')\nx = 1",
    "twice": "v = check('y22-mfpt', measured=1.0, error=0.01, printed=2, expected=1, part='τ')\nv",
    "again": "v",
    "table": "verdict_table()",
    "draw": """
def draw(rate, steps):
    print("rate", rate, "steps", steps)
    plt.figure()
    plt.plot([0, rate * steps])
""",
    "explore": """
widgets.explore(draw, rate=(0.0, 1.0, 0.1, 0.5), steps=[10, 20])
print(plt.get_fignums())
""",
    "alt": "figure, ax = plt.subplots()\nplots.alt(figure, 'An empty\\n pair of axes')",
    "other": """
plt.plot([1, 2])
widgets.explore(draw, rate=(0.0, 1.0, 0.1, 0.5), steps=[10, 20])
_ = plt.title("open")
print(plt.get_fignums())
""",
}


def run(folder, static):
    """Execute the cells, write the notebook, and return {cell: outputs}."""
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLATMIN_STATIC", "1" if static else "0")
        NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    nbformat.validate(notebook)
    nbformat.write(notebook, folder / "01_valley.ipynb")
    return dict(zip(CELLS, (cell.outputs for cell in notebook.cells), strict=True))


@pytest.fixture(scope="module")
def static_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("static")


@pytest.fixture(scope="module")
def static(static_folder):
    return run(static_folder, static=True)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    return run(tmp_path_factory.mktemp("live"), static=False)


@pytest.fixture
def notebook(static, static_folder):
    return static_folder / "01_valley.ipynb"


def test_a_check_shows_itself_once_wherever_it_stands(static):
    assert static["silent"] == []
    for cell in ("last", "middle", "twice"):
        assert [output.output_type for output in static[cell]] == ["display_data"], cell
        assert set(static[cell][0].data) == {"text/plain", "text/html", MIME}


def test_a_verdict_shown_again_is_not_recorded_again(static):
    (output,) = static["again"]
    assert set(output.data) == {"text/plain", "text/html"}
    assert output.data["text/plain"] == static["twice"][0].data["text/plain"]
    assert " id=" not in output.data["text/html"]


def test_the_three_forms_of_a_verdict_agree(static):
    for cell in ("last", "middle", "twice"):
        data = static[cell][0].data
        assert f">{data[MIME]['verdict']}</span>" in data["text/html"]
        assert data["text/plain"].partition("\n")[0].endswith(f": {data[MIME]['verdict']}")


def test_the_table_of_the_chapter_links_to_the_checks(static):
    (output,) = static["table"]
    assert output.data["text/html"].count("<tr>") == 4
    assert 'href="#claim-y22-mfpt-tau"' in output.data["text/html"]
    assert "≈ 1.000(10)" in output.data["text/plain"]


def test_a_static_explorer_draws_once_and_leaves_no_figure(static):
    text = "".join(output.text for output in static["explore"] if output.output_type == "stream")
    assert text == "rate 0.5 steps 10\n[]\n"
    pictures = [output.data for output in static["explore"] if output.output_type == "display_data"]
    assert len(pictures) == 1
    assert "image/png" in pictures[0]
    assert not any("widget" in mime for mime in pictures[0])


def test_an_explorer_leaves_the_cells_own_figure_alone(static):
    text = "".join(output.text for output in static["other"] if output.output_type == "stream")
    assert text == "rate 0.5 steps 10\n[1]\n"
    assert sum("image/png" in output.get("data", {}) for output in static["other"]) == 2


def test_a_live_explorer_shows_widgets_and_leaves_no_figure(live):
    shown = [output for output in live["explore"] if output.output_type == "display_data"]
    assert ["application/vnd.jupyter.widget-view+json" in output.data for output in shown] == [True]
    assert [output.text for output in live["explore"] if output.output_type == "stream"] == ["[]\n"]


def test_alt_shows_the_picture_once_with_its_text(static):
    (output,) = static["alt"]
    assert output.data["text/plain"] == "An empty pair of axes"
    assert output.metadata == {"image/png": {"alt": "An empty pair of axes"}}
    assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")


def test_collect_reads_what_the_cells_show(notebook):
    found = collect([notebook])
    assert list(found) == ["y22-flux", "y22-mfpt"]
    assert [part["part"] for part in found["y22-flux"]["parts"]] == [None, "none for isotropic noise"]
    entry = found["y22-mfpt"]
    assert (entry["verdict"], entry["chapter"]) == ("corrected", "01_valley")
    assert (entry["measured"], entry["error"], entry["printed"], entry["expected"]) == (1.0, 0.01, 2.0, 1.0)
    assert entry["parts"][0]["anchor"] == "claim-y22-mfpt-tau"


def check_output(id, **fields):
    verdict = {"id": id, "part": None, "verdict": "reproduced", "measured": None} | fields
    return {"output_type": "display_data", "data": {MIME: verdict}, "metadata": {}}


def write_notebook(folder, name, *outputs):
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "outputs": list(outputs)}]}), "utf8")
    return path


def test_parts_in_several_chapters_make_one_verdict(tmp_path):
    one = write_notebook(tmp_path, "01_a", check_output("y22-flux", measured=1.0, error=0.5))
    two = write_notebook(tmp_path, "02_b", check_output("y22-flux", verdict="open", measured=2.0, error=0.25))
    entry = collect([two, one])["y22-flux"]
    assert [part["chapter"] for part in entry["parts"]] == ["01_a", "02_b"]
    assert (entry["verdict"], entry["chapter"], entry["measured"]) == ("open", "02_b", 2.0)


def test_the_same_check_twice_in_a_chapter_is_refused(tmp_path):
    path = write_notebook(
        tmp_path, "01_a", check_output("y22-flux", part="a"), check_output("y22-flux", part="A")
    )
    with pytest.raises(ValueError, match=r"01_a\.ipynb checks y22-flux \(A\) twice"):
        collect([path])


def test_the_file_of_verdicts_is_stable_and_read_back(tmp_path, notebook):
    found = collect([notebook])
    first = write_verdicts(found, tmp_path / "one.json")
    second = write_verdicts(dict(reversed(found.items())), tmp_path / "two.json")
    assert first.read_bytes() == second.read_bytes()
    assert load_verdicts(first) == found
    assert load_verdicts(tmp_path / "none.json") == {}


def test_floats_are_kept_to_twelve_digits(tmp_path):
    path = write_notebook(tmp_path, "01_a", check_output("y22-flux", measured=0.1 + 0.2, error=1 / 3))
    (part,) = collect([path])["y22-flux"]["parts"]
    assert (part["measured"], part["error"]) == (0.3, 0.333333333333)


def test_by_default_all_chapters_are_collected(tmp_path, monkeypatch):
    write_notebook(tmp_path, "01_a", check_output("y22-flux"))
    monkeypatch.setattr(collection.paths, "chapters", lambda: tmp_path)
    path = write_verdicts(path=tmp_path / "verdicts.json")
    assert list(load_verdicts(path)) == ["y22-flux"]
    assert [verdict.id for verdict in stored_verdicts(Path(tmp_path / "01_a.ipynb"))] == ["y22-flux"]
