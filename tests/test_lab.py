"""The notebooks as the launch buttons show them: in JupyterLab, in headless Chromium, without a network.

JupyterLab is no part of the book's environment: `make test-clean` installs it into one of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

import notebooks
from flatmin.explorers.catalogue import EXPLORERS

pytestmark = [pytest.mark.clean, pytest.mark.browser]

VERSION = "4.6.6"
SHOWN = ["04_two_valleys", "08_many_directions"]
SETTINGS = "lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
COUNT = "selector => document.querySelectorAll(selector).length"
PICTURES = ".jp-MarkdownOutput img, .jp-OutputArea img"
LOADED = "all => [...document.querySelectorAll(all)].every(i => i.complete && i.naturalWidth > 0)"
# what should have become a formula, or markup that Jupyter does not know
RAW = r"""() => [...document.querySelectorAll('.jp-MarkdownOutput')].flatMap(cell => {
  const copy = cell.cloneNode(true);
  copy.querySelectorAll('mjx-container, code, pre').forEach(node => node.remove());
  return copy.textContent.match(/\$|\\[a-zA-Z]+\{|\{[\w:-]+\}|:::|```/g) || [];
})"""


def formulas(text):
    """Return how many formulas stand in Markdown."""
    text = re.sub(r"(`+).+?\1", "", text, flags=re.DOTALL)
    display = re.findall(r"\$\$.+?\$\$", text, flags=re.DOTALL)
    rest = re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL)
    return len(display) + len(re.findall(r"(?<!\\)\$[^$]+\$", rest))


@pytest.fixture(scope="module")
def shown(root, tmp_path_factory):
    """A folder with copies of the notebooks: JupyterLab writes into what it opens."""
    folder = tmp_path_factory.mktemp("shown")
    shutil.copytree(root / "chapters", folder / "chapters")
    return folder


@pytest.fixture(scope="module")
def lab(root, shown, tmp_path_factory):
    """The address of a JupyterLab that shows the book; FLATMIN_LAB names an environment that has one."""
    home = tmp_path_factory.mktemp("lab")
    environment = Path(os.environ.get("FLATMIN_LAB") or home / "venv")
    if not environment.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pinned = (root / "requirements.txt").read_text("utf8").split()
        widgets = [pin for pin in pinned if pin.startswith(("ipywidgets==", "anywidget=="))]
        packages = [f"jupyterlab=={VERSION}", "ipykernel", *widgets]
        subprocess.run([environment / "bin" / "pip", "install", "-q", *packages], check=True)
    settings = home / "config" / SETTINGS
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')  # else only what is on the screen is drawn
    variables = {"CONFIG": "config", "DATA": "data", "RUNTIME": "run"}
    own = {f"JUPYTER_{name}_DIR": str(home / folder) for name, folder in variables.items()}
    kernel = home / "share" / "kernels" / "book" / "kernel.json"  # this Python: it has the library
    kernel.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "book", "language": "python"}))
    own |= {"JUPYTER_PATH": str(home / "share"), "FLATMIN_STATIC": "0"}
    command = [environment / "bin" / "jupyter", "lab", "--no-browser", "--allow-root", "--port=8947"]
    options = ["--IdentityProvider.token=", "--LabApp.news_url=", f"--ServerApp.root_dir={shown}"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen([*command, *options], env=os.environ | own, stdout=log, stderr=log)
    address = "http://127.0.0.1:8947"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def page(browser, lab):
    """A function that opens a chapter in JupyterLab and waits until it is drawn."""

    def open_notebook(name):
        tab = browser.new_page(viewport={"width": 1300, "height": 1400})
        tab.goto(f"{lab}/lab/tree/{name}.ipynb?reset")
        tab.wait_for_selector(".jp-Notebook .jp-Cell", timeout=120_000)
        return tab

    def open_chapter(name):
        tab = open_notebook(f"chapters/{name}")
        count, last = -1, -2
        while count != last or count == 0:
            tab.wait_for_timeout(4000)
            last, count = count, tab.evaluate(COUNT, ".jp-Notebook mjx-container")
        return tab

    open_chapter.any = open_notebook
    return open_chapter


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_reads_as_the_page_does(page, name):
    made = nbformat.read(notebooks.notebook_path(name), as_version=4)
    markdown = [cell.source for cell in made.cells if cell.cell_type == "markdown"]
    tab = page(name)
    assert tab.evaluate(COUNT, ".jp-MarkdownOutput mjx-container") == sum(map(formulas, markdown))
    assert tab.evaluate(COUNT, ".jp-Notebook mjx-merror") == 0
    assert tab.evaluate(RAW) == []
    numbers = "".join(markdown).count(r"\tag{")
    assert tab.evaluate(COUNT, ".jp-MarkdownOutput mjx-mlabeledtr") == numbers
    assert tab.evaluate(COUNT, PICTURES) > 5
    tab.wait_for_function(LOADED, arg=PICTURES, timeout=60_000)
    folded = sum(bool(cell.metadata.get("jupyter")) for cell in notebooks.code_cells(made))
    assert tab.evaluate(COUNT, ".jp-CodeCell .jp-Cell-inputWrapper .jp-Placeholder") == folded
    assert tab.evaluate(COUNT, ".jp-MarkdownOutput details") == "".join(markdown).count("<details>")


@pytest.fixture(params=["valley", "regression", "stability"])
def live(shown, request):
    """A notebook with one explorer, not run yet, where JupyterLab finds it; its path without the ending."""
    code = f'from flatmin.explorers.display import widget\nseen = widget("{request.param}")\nseen'
    first = next(iter(EXPLORERS[request.param].controls))
    told = f"print(seen.{first} > {EXPLORERS[request.param].state()[first]}, seen.summary['steps'] > 0)"
    cells = [nbformat.v4.new_code_cell(each) for each in (code, told)]
    kernel = {"name": "book", "display_name": "book", "language": "python"}
    made = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(made, shown / "live.ipynb")
    return "live"


def test_an_explorer_lives_in_jupyterlab(page, live):
    """It moves, a slider's key reaches the kernel, and what is seen comes back."""
    tab = page.any(live)
    asked = []
    tab.on("request", lambda r: asked.append(r.url) if "127.0.0.1" not in r.url[:25] else None)
    tab.wait_for_selector("text=/book.*Idle/", timeout=120_000)  # a key pressed before is lost
    tab.locator(".jp-CodeCell .cm-content").first.click()
    tab.keyboard.press("Control+Enter")
    tab.wait_for_selector(".flatmin-explorer canvas", timeout=120_000)
    said = tab.locator(".fmx-said").inner_text()
    tab.wait_for_function("old => document.querySelector('.fmx-said').textContent !== old", arg=said)
    tab.locator(".flatmin-explorer input").first.focus()
    tab.keyboard.press("ArrowRight")
    tab.wait_for_timeout(2000)
    tab.locator(".jp-CodeCell").nth(1).locator(".cm-content").click()
    tab.keyboard.press("Control+Enter")
    tab.wait_for_selector(".jp-OutputArea-output pre >> text=True", timeout=60_000)
    assert tab.locator(".jp-OutputArea-output pre").last.inner_text().strip() == "True True"
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == []
