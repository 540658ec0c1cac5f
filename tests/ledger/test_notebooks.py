"""Checks, figures and explorers as a notebook shows them: run in kernels of their own."""

import base64
import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from flatmin.ledger import collection
from flatmin.ledger.collection import collect, load_verdicts, stored_verdicts, write_verdicts
from flatmin.ledger.verdicts import MIME, Verdict, seal

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
    assert output.metadata == {"image/png": {"alt": "An empty pair of axes", "width": 660}}
    assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")


def test_collect_reads_what_the_cells_show(notebook):
    found = collect([notebook])
    assert list(found) == ["y22-flux", "y22-mfpt"]
    assert [part["part"] for part in found["y22-flux"]["parts"]] == [None, "none for isotropic noise"]
    entry = found["y22-mfpt"]
    assert (entry["verdict"], entry["chapter"]) == ("corrected", "01_valley")
    assert (entry["measured"], entry["error"], entry["printed"], entry["expected"]) == (1.0, 0.01, 2.0, 1.0)
    assert entry["parts"][0]["anchor"] == "claim-y22-mfpt-tau"


def check_output(id, part=None, verdict="reproduced", **fields):
    stored = Verdict(id, part, verdict, **(fields or {"holds": True})).sealed()
    return {"output_type": "display_data", "data": {MIME: stored}, "metadata": {}}


def write_notebook(folder, name, *outputs):
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "outputs": list(outputs)}]}), "utf8")
    return path


def test_parts_in_several_chapters_make_one_verdict(tmp_path):
    one = write_notebook(tmp_path, "01_a", check_output("y22-flux", measured=1.0, error=0.5, printed=1.0))
    bound = {"measured": 2.0, "error": 0.25, "at_least": 2.0}
    two = write_notebook(tmp_path, "02_b", check_output("y22-flux", verdict="open", **bound))
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
    given = {"measured": 0.1 + 0.2, "error": 1 / 3, "expected": 0.3}
    path = write_notebook(tmp_path, "01_a", check_output("y22-flux", **given))
    (part,) = collect([path])["y22-flux"]["parts"]
    assert (part["measured"], part["error"]) == (0.3, 0.333333333333)


def test_by_default_all_chapters_are_collected(tmp_path, monkeypatch):
    write_notebook(tmp_path, "01_a", check_output("y22-flux"))
    monkeypatch.setattr(collection.paths, "chapters", lambda: tmp_path)
    path = write_verdicts(path=tmp_path / "verdicts.json")
    assert list(load_verdicts(path)) == ["y22-flux"]
    assert [verdict.id for verdict in stored_verdicts(Path(tmp_path / "01_a.ipynb"))] == ["y22-flux"]


MEASURED = {"measured": 1.0, "error": 0.1, "printed": 1.2, "expected": None}


@pytest.mark.parametrize(
    ("verdict", "fields"),
    [
        ("not reproduced", MEASURED),
        ("corrected", MEASURED),
        ("open", MEASURED),
        ("reproduced", MEASURED | {"printed": 1.4}),
        ("reproduced", MEASURED | {"printed": 1.4, "expected": 1.0}),
        ("reproduced", MEASURED | {"sigmas": 1.0}),
        ("reproduced", {"measured": 1.0, "error": 0.1, "at_least": 1.1}),
        ("reproduced", {"measured": 1.0, "error": 0.1, "at_most": 0.5}),
        ("reproduced", {"holds": False}),
        ("reproduced", {"holds": True, "printed_holds": False}),
        ("corrected", {"holds": True}),
        ("reproduced", {"measured": 1.0, "error": 0.1}),
        ("reproduced", {"measured": 1.0, "printed": 1.0}),
        ("reproduced", {"measured": 1.0, "error": -0.1, "printed": 1.0}),
        ("reproduced", {"measured": 1.0, "error": 0.0, "tolerance": 0.1, "printed": 1.0}),
        ("reproduced", {"measured": 1.0, "tolerance": 9.0, "printed": 1.0}),
        ("reproduced", {"measured": "1.0", "error": 0.1, "printed": 1.0}),
        ("reproduced", {"measured": True, "error": 0.1, "printed": 1.0}),
        ("reproduced", {"holds": 1}),
        ("proved", {"holds": True}),
    ],
)
def test_a_verdict_that_its_numbers_do_not_give_is_refused_even_with_a_seal(tmp_path, verdict, fields):
    path = write_notebook(tmp_path, "01_a", check_output("y22-flux", verdict=verdict, **fields))
    with pytest.raises(ValueError, match=r"^01_a\.ipynb: "):
        collect([path])


def edited(path, change):
    """Change the one verdict stored in a notebook and leave its seal."""
    notebook = json.loads(path.read_text("utf8"))
    change(notebook["cells"][0]["outputs"][0]["data"][MIME])
    path.write_text(json.dumps(notebook), "utf8")


@pytest.mark.parametrize(
    "change",
    [
        lambda verdict: verdict.update(measured=1.0000001),
        lambda verdict: verdict.update(note="twice"),
        lambda verdict: verdict.update(id="y22-mfpt"),
        lambda verdict: verdict.update(part="b"),
        lambda verdict: verdict.update(seal="0" * 64),
        lambda verdict: verdict.pop("seal"),
        lambda verdict: verdict.pop("error"),
        lambda verdict: verdict.update(more=1),
    ],
)
def test_an_edited_verdict_is_refused_by_name(tmp_path, change):
    fields = {"measured": 1.0, "error": 0.1, "printed": 1.0}
    path = write_notebook(tmp_path, "01_a", check_output("y22-flux", **fields))
    assert collect([path])["y22-flux"]["verdict"] == "reproduced"
    edited(path, change)
    with pytest.raises(ValueError, match=r"^01_a\.ipynb: .* execute the chapter again"):
        collect([path])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"cells": 3}', '{"cells": [1]}'])
def test_what_is_no_notebook_is_named(tmp_path, content):
    (tmp_path / "01_a.ipynb").write_text(content)
    with pytest.raises(ValueError, match=r"^01_a\.ipynb"):
        collect([tmp_path / "01_a.ipynb"])


@pytest.fixture
def ledger(tmp_path):
    """A file of verdicts, one of them of two parts."""
    outputs = [
        check_output("y22-flux", measured=1.0, error=0.1, printed=1.0),
        check_output("y22-flux", part="b", verdict="corrected", holds=True, printed_holds=False),
        check_output("y22-mfpt", measured=1.0, error=0.1, at_least=0.5),
    ]
    found = collect([write_notebook(tmp_path, "01_a", *outputs)])
    assert (found["y22-flux"]["verdict"], found["y22-mfpt"]["verdict"]) == ("corrected", "reproduced")
    return write_verdicts(found, tmp_path / "verdicts.json")


@pytest.mark.parametrize("again_sealed", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda found: found["y22-flux"].update(verdict="reproduced"),
        lambda found: found["y22-flux"]["parts"][1].update(verdict="reproduced"),
        lambda found: found["y22-flux"]["parts"].pop(),
        lambda found: found["y22-flux"].update(chapter="02_b"),
        lambda found: found["y22-flux"]["parts"][0].update(anchor="claim-y22-mfpt"),
        lambda found: found["y22-mfpt"].update(measured=2.0),
        lambda found: found["y22-mfpt"]["parts"][0].update(at_least=1.5),
        lambda found: found["y22-mfpt"].update(parts=[]),
        lambda found: found.update({"y22-mfpt": None}),
        lambda found: found.update({"y22-mfpt": found["y22-flux"]}),
    ],
)
def test_an_edited_file_of_verdicts_is_refused_whether_sealed_again_or_not(ledger, change, again_sealed):
    content = json.loads(ledger.read_text("utf8"))
    change(content["verdicts"])
    if again_sealed:
        content["seal"] = seal(content["verdicts"])
    ledger.write_text(json.dumps(content), "utf8")
    with pytest.raises(
        ValueError, match=r"^verdicts\.json cannot be trusted: .*`make notebooks` makes it anew"
    ):
        load_verdicts(ledger)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"{}", b'{"y22-flux": {}}'])
def test_what_is_no_file_of_verdicts_is_named(tmp_path, content):
    (tmp_path / "verdicts.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^verdicts\.json cannot be trusted"):
        load_verdicts(tmp_path / "verdicts.json")
