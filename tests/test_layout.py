"""Imports run one way, chapters use the library only, and nothing is kept that no chapter shows."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "lib" / "flatmin"
#: what a wing may import from, besides itself, the modules at the top and the ledger
BELOW = {
    "theory": set(),
    "networks": {"theory"},
    "diagnosis": {"theory", "networks"},
    "pictures": {"theory", "networks"},
    "explorers": {"theory"},
    "experiments": {"theory", "networks"},
    "ledger": set(),
}
EVERYWHERE = {"ledger", "_check", "estimate", "sampling", "fits"}
CHAPTERS = sorted((ROOT / "chapters" / "src").glob("*.md"))


def imported(source):
    """The modules that a source imports, at its top or inside of functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def code(chapter):
    """The Python of a chapter."""
    cells = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```", chapter.read_text("utf8"), re.M | re.S)
    lines = []
    for cell in cells:
        text = re.sub(r"\A---\n.*?^---\n", "", cell, flags=re.M | re.S)
        lines += [line for line in text.splitlines() if not line.startswith(":") and "{{" not in line]
    return "\n".join(lines)


def wings(modules):
    """The wings, and modules at the top, of the library among module names."""
    parts = (name.split(".") for name in modules)
    return {part[1] for part in parts if part[0] == "flatmin" and len(part) > 1}


@pytest.mark.parametrize("wing", BELOW)
def test_imports_run_one_way(wing):
    for path in (LIBRARY / wing).rglob("*.py"):
        found = wings(imported(path.read_text("utf8"))) - EVERYWHERE - {wing, "__version__"}
        known = {entry.stem for entry in LIBRARY.iterdir() if entry.suffix in ("", ".py")}
        assert (found & known) <= BELOW[wing], f"{path.relative_to(ROOT)} imports {found - BELOW[wing]}"


@pytest.mark.parametrize("wing", ["theory", "_check", "estimate", "sampling", "fits"])
def test_theory_knows_no_torch(wing):
    place = LIBRARY / wing
    for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        assert not {name.split(".")[0] for name in imported(path.read_text("utf8"))} & {"torch"}, path


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_chapters_import_no_experiment(chapter):
    assert "experiments" not in wings(imported(code(chapter)))


def test_every_picture_is_drawn_by_a_chapter():
    text = "\n".join(code(chapter) for chapter in CHAPTERS)
    for path in (LIBRARY / "pictures").glob("*.py"):
        tree = ast.parse(path.read_text("utf8"))
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        unused = {name for name in names if not name.startswith("_") and f"draw.{name}" not in text}
        assert not unused, f"{path.name}: {unused}"


def test_the_architecture_page_names_every_wing():
    page = (ROOT / "chapters" / "architecture.md").read_text("utf8")
    folders = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    assert folders == set(BELOW)
    for wing in folders:
        assert f"| `{wing}` |" in page
        assert f">{wing}</text>" in page


def test_every_reference_is_cited_and_every_citation_has_one():
    texts = [*(ROOT / "chapters").glob("*.md"), *CHAPTERS]
    cited = re.findall(r"\{cite:[pt]\}`([^`]*)`", "".join(path.read_text("utf8") for path in texts))
    keys = re.findall(r"^@\w+\{(\w+),$", (ROOT / "data" / "references.bib").read_text("utf8"), re.M)
    assert len(keys) == len(set(keys))
    assert {key.strip() for group in cited for key in group.split(",")} == set(keys)
