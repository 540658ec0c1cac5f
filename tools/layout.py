"""The code in the texts of the chapters: laid out and looked through by ruff, in lines that fit the page."""

import json
import re
import subprocess
import sys

from nbformat.v4 import new_code_cell, new_notebook, writes

WIDTH = 84
OPTIONS = ["--isolated", "--config", f"line-length = {WIDTH}", "--config", "target-version = 'py311'"]
LAYOUT = ["--config", "format.skip-magic-trailing-comma = true"]
# a cell may end with a value, and readers are spared strict=
RULES = ["--select", "E,F,W,B,NPY", "--ignore", "B018,B905,E741"]

_HEAD = r"^```\{code-cell\}[^\n]*\n(?:---\n.*?^---\n|(?::[^\n]*\n)+\n?)?\n?"
_CELL = re.compile(rf"({_HEAD})(.*?)(^```\s*$)", re.MULTILINE | re.DOTALL)


def _ruff(arguments, codes):
    """Run ruff on the cells as one notebook; return what it prints, as text."""
    cells = [new_code_cell(code, id=f"c{place}") for place, code in enumerate(codes)]
    notebook = new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    command = [sys.executable, "-m", "ruff", *arguments, *OPTIONS, "--stdin-filename", "chapter.ipynb", "-"]
    run = subprocess.run(command, input=writes(notebook), capture_output=True, text=True, encoding="utf8")
    if run.returncode not in (0, 1) or (run.returncode and not run.stdout):
        raise ValueError(f"ruff: {run.stderr.strip()}")
    return run.stdout


def _codes(text):
    """Return the code of the cells in a chapter's text, without the placeholders of the pipeline."""
    return [match[2].rstrip("\n") for match in _CELL.finditer(text) if not match[2].startswith("{{ ")]


def laid_out(text):
    """Return a chapter's text with its code laid out. Raises ValueError for code that is none."""
    cells = json.loads(_ruff(["format", *LAYOUT], _codes(text)))["cells"]
    codes = iter("".join(cell["source"]) for cell in cells)

    def replaced(match):
        return match[0] if match[2].startswith("{{ ") else f"{match[1]}{next(codes)}\n{match[3]}"

    return _CELL.sub(replaced, text)


def findings(text):
    """Return what ruff finds in the code of a chapter's text, as a list of sentences."""
    codes = _codes(text)
    found = json.loads(_ruff(["check", *RULES, "--output-format", "json"], codes))
    sentences = []
    for each in found:
        head = codes[each["cell"] - 1].splitlines()[0][:50]
        place = f"line {each['location']['row']} of the cell {head!r}"
        sentences.append(f"{each['code']} {each['message']} ({place})")
    return sentences + ([] if laid_out(text) == text else ["its code is not laid out: `format` does it"])
