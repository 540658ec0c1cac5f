"""Make, execute and check the notebooks of the book.

The text of a chapter, ``chapters/src/NN_name.md`` (MyST), is the source of truth; ``chapters/NN_name.ipynb``
is made from it in plain Markdown (``plain``), never the other way round. The page is made from the text and
the outputs in the notebook (``pages``).

    python tools/notebooks.py update [NAME ...]   text -> notebook, outputs of unchanged cells kept
    python tools/notebooks.py format [NAME ...]   lay out the code in the texts, say what ruff finds in it
    python tools/notebooks.py execute [NAME ...]  run what is stale (or NAME, or --all), keep the outputs
    python tools/notebooks.py check               say where text, notebook and the file of verdicts disagree
                                                  (then exit status 1)
"""

import argparse
import contextlib
import hashlib
import html
import os
import re
import sys
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from tqdm import tqdm

import api
import layout
import plain
import summary
from flatmin.ledger import claims, errata, scoreboard
from flatmin.ledger.files import write_bytes
from made_with import made_with
from rules import ENVIRONMENT, SECONDS

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ROOT / "chapters"


def text_path(name):
    """Return the path of a chapter's text, ``chapters/src/NAME.md``."""
    return CHAPTERS / "src" / f"{name}.md"


def notebook_path(name):
    """Return the path of a chapter's notebook, ``chapters/NAME.ipynb``."""
    return CHAPTERS / f"{name}.ipynb"


def chapter_names():
    """Return the names of all chapters (``01_valley``, ...) in order."""
    return sorted(path.stem for path in (CHAPTERS / "src").glob("*.md"))


def placeholders():
    """Return what stands in the notebooks for each ``{{ name }}`` of the texts."""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["url"]
    bootstrap = (ROOT / "tools" / "bootstrap.py").read_text("utf8").strip()
    return {"repository": repository, "bootstrap": bootstrap.replace("{{ repository }}", repository)}


def myst_notebook(text):
    """Return the cells of a chapter's MyST text as an unexecuted notebook, its Markdown as it is.

    The id of a code cell is a hash of it, so the same text always gives the same notebook.
    Raises ValueError for a ``{{ name }}`` that is not one of :func:`placeholders`.
    """
    values = placeholders()

    def value_of(match):
        if match[1] not in values:
            raise ValueError(f"unknown placeholder {match[0]}: allowed are {sorted(values)}")
        return values[match[1]]

    notebook = jupytext.reads(text, fmt="md:myst")
    for cell in notebook.cells:
        cell.source = re.sub(r"\{\{ (\w+) \}\}", value_of, cell.source)
    _identify(notebook.cells)
    return notebook


def _identify(cells):
    """Give each cell a hash of its source for an id."""
    seen = Counter()
    for cell in cells:
        key = f"{cell.cell_type}\n{cell.source}"
        seen[key] += 1
        cell.id = hashlib.sha256(f"{seen[key]}\n{key}".encode()).hexdigest()[:12]


def book_index():
    """Return what the labels of all chapters name, a dict; ValueError for a label that is used twice."""
    texts = tuple((name, text_path(name).read_text("utf8")) for name in chapter_names())
    return _index(texts)


@lru_cache(maxsize=4)
def _index(texts):
    index = {}
    for name, text in texts:
        for label, target in plain.targets(myst_notebook(text), name).items():
            if label in index:
                raise ValueError(f"the label {label!r} stands in {index[label].chapter} and in {name}")
            index[label] = target
    return index


def keep_outputs(notebook, kept):
    """Put the outputs of ``kept`` into the code cells of ``notebook`` that have the same source."""
    known = {cell.id: cell for cell in code_cells(kept)}
    for cell in code_cells(notebook):
        if cell.id in known:
            cell.outputs = known[cell.id].outputs
            cell.execution_count = known[cell.id].execution_count
    return notebook


def make_notebook(name, kept):
    """Return the notebook of a chapter in plain Markdown, with the outputs that its cells have in ``kept``.

    Raises ValueError, naming it, for MyST that plain Markdown cannot show.
    """
    source = keep_outputs(myst_notebook(text_path(name).read_text("utf8")), kept)
    figures = {cell.metadata["figure"]: cell for cell in code_cells(source) if "figure" in cell.metadata}

    def picture(target, label):
        if target.chapter != name:
            raise ValueError(f"{name}: {{{{ figure: {label} }}}} must be a figure of this chapter")
        return repeated(figures[label], label, plain.NUMBERED["figure"].format(target.text))

    writer = plain.Writer(name, book_index(), literature(), frozenset(claims.load_claims()), picture)
    cells = []
    for cell in source.cells:
        if cell.cell_type == "markdown":
            cells.append(nbformat.v4.new_markdown_cell(writer.markdown(cell.source)))
            continue
        figure, caption = (cell.metadata.pop(key, "") for key in ("figure", "caption"))
        _fold(cell, solution=writer.solution)
        cells.append(cell)
        if figure:
            cells.append(nbformat.v4.new_markdown_cell(writer.caption(figure, caption)))
    source.cells = [cell for cell in cells if cell.cell_type == "code" or cell.source]
    _identify(source.cells)
    source.metadata = NotebookNode(
        kernelspec={"display_name": "Python 3", "language": "python", "name": "python3"},
        language_info={"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"},
        flatmin={"chapter": name, "made_with": kept.metadata.get("flatmin", {}).get("made_with", "")},
    )
    source.nbformat, source.nbformat_minor = 4, 5
    return source


@lru_cache(maxsize=1)
def literature():
    """Return the book's bibliography."""
    return plain.Bibliography(ROOT / "data" / "references.bib")


def _fold(cell, solution):
    """Fold the code of a cell in JupyterLab and Colab where the page folds it; of a solution all of it."""
    if solution or {"hide-input", "remove-cell"} & set(cell.metadata.get("tags", [])):
        cell.metadata["jupyter"] = {"source_hidden": True} | ({"outputs_hidden": True} if solution else {})
        cell.metadata["cellView"] = "form"


def pictures(cell):
    """Return the outputs of a code cell that are pictures."""
    return [output for output in cell.outputs if "image/png" in output.get("data", {})]


def repeated(cell, label, number):
    """Return the picture that a cell shows, as wide as on the page, with a link to its place."""
    shown = pictures(cell)
    if not shown:
        return f"*[{number}](#{label}) stands here once the chapter was executed.*"
    about = shown[0].metadata.get("image/png", {})
    alt = html.escape(about.get("alt") or "")
    width = f' width="{about["width"]}"' if "width" in about else ""  # Markdown's own form knows no width
    content = "".join(shown[0].data["image/png"].split())
    image = f'<img alt="{alt}"{width} src="data:image/png;base64,{content}">'
    return f"{image}\n\n*[{number}](#{label}), made further down.*"


def read_notebook(path):
    """Return the notebook at ``path``, or an empty one where there is none; ValueError for a damaged one."""
    if not path.exists():
        return nbformat.v4.new_notebook()
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat says it in many ways
        reason = (str(error).strip() or repr(error)).splitlines()[0][:100]
        raise ValueError(f"{path.name} is damaged ({reason}): delete it and run `make notebooks`") from None
    return notebook


def update(name):
    """Make the notebook of a chapter from its text and write it; return it.

    A cell whose source is unchanged keeps its outputs and its execution count.
    """
    notebook = make_notebook(name, read_notebook(notebook_path(name)))
    write_notebook(name, notebook)
    return notebook


def write_notebook(name, notebook):
    """Write the notebook of a chapter, where it differs from the one that is there."""
    nbformat.validate(notebook)
    content = nbformat.writes(notebook).encode() + b"\n"
    if not notebook_path(name).exists() or notebook_path(name).read_bytes() != content:
        write_bytes(notebook_path(name), content)


def code_cells(notebook):
    """Return the code cells of a notebook, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execution_problems(notebook):
    """Return what is wrong with the outputs of a notebook, as a list of sentences.

    Every code cell must have run, in order from 1, one that draws must hold its picture, and none may hold
    an error it does not announce by the tag ``raises-exception``.
    """
    problems = []
    for position, cell in enumerate(code_cells(notebook), start=1):
        head = f"code cell {position} ({cell.source.strip().splitlines()[:1]})"
        if cell.execution_count is None:
            problems.append(f"{head} is not executed")
        elif cell.execution_count != position:
            problems.append(f"{head} was executed as number {cell.execution_count}, not in order from 1")
        if cell.execution_count is not None and "plots.alt(" in cell.source and not pictures(cell):
            problems.append(f"{head} holds no picture")
        errors = [output.ename for output in cell.outputs if output.output_type == "error"]
        if errors and "raises-exception" not in cell.metadata.get("tags", []):
            problems.append(f"{head} holds an error: {errors[0]}")
    return problems


def sync_problems(name, notebook):
    """Return where a notebook differs from the MyST text it is made from, as a list of sentences."""
    wanted = make_notebook(name, notebook)
    if len(wanted.cells) != len(notebook.cells):
        return [f"the text has {len(wanted.cells)} cells, the notebook {len(notebook.cells)}"]
    problems = []
    for position, (one, other) in enumerate(zip(wanted.cells, notebook.cells, strict=True), start=1):
        for part in ("cell_type", "source", "metadata", "id"):
            if one[part] != other.get(part):
                problems.append(f"cell {position}: {part} differs between text and notebook")
                break
    if wanted.metadata != notebook.metadata:
        problems.append("the notebook's metadata is not what the text makes")
    return problems


def stale(name):
    """Return whether a chapter must be executed: not all of its cells are, or what made them has changed."""
    notebook = update(name)
    if execution_problems(notebook):
        return True
    return notebook.metadata["flatmin"]["made_with"] != _made_with(notebook)


def _made_with(notebook):
    return made_with("\n".join(cell.source for cell in code_cells(notebook)))


def check(name):
    """Return all problems of a chapter's notebook, as a list of sentences."""
    if not notebook_path(name).exists():
        return ["there is no notebook yet"]
    try:
        notebook = read_notebook(notebook_path(name))
    except ValueError as error:
        return [str(error)]
    return sync_problems(name, notebook) + execution_problems(notebook)


def clean_outputs(notebook):
    """Drop from the outputs what a machine or a moment put there; return what stood on stderr.

    Removes stderr, execution timestamps and widget state, and joins neighbouring pieces of stdout.
    """
    said = []
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        outputs = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                said.append(output.text)
            elif output.output_type == "stream" and outputs and outputs[-1].output_type == "stream":
                outputs[-1].text += output.text
            else:
                outputs.append(output)
        cell.outputs = outputs
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info.pop("version", None)
    return said


def run_cells(notebook, name):
    """Run all cells of a notebook in a new kernel in ``chapters/``, with a progress bar.

    Raises nbclient's CellExecutionError when a cell fails.
    """
    metadata = NotebookNode({key: dict(value) for key, value in notebook.metadata.items()})
    with tqdm(total=len(notebook.cells), desc=name, unit="cell", disable=None, leave=False) as bar:
        client = NotebookClient(
            notebook,
            timeout=600,
            iopub_timeout=120,  # of a busy machine; nbclient goes on without the outputs after 4 s
            raise_on_iopub_timeout=True,
            kernel_name="python3",
            resources={"metadata": {"path": str(CHAPTERS)}},
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=40"],  # no notice that the kernel listens on a local port
            on_cell_complete=lambda cell, cell_index: bar.update(cell_index + 1 - bar.n),
        )
        client.execute(env=os.environ | ENVIRONMENT)
    notebook.metadata = metadata  # nbclient writes the kernel's version into it


def execute(name):
    """Execute a chapter's notebook from its first cell, keep the outputs, and return the seconds it took.

    Exits with the cell and its traceback when one fails; the notebook is then left as it was.
    """
    notebook = update(name)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    start = time.perf_counter()
    try:
        run_cells(notebook, name)
    except CellExecutionError as error:
        sys.exit(f"{name}: a cell failed\n{error}")
    seconds = time.perf_counter() - start
    for text in clean_outputs(notebook):
        if "\r" not in text:  # progress bars rewrite their line; what is left is worth a look
            print(f"{name}: on stderr (not kept): {text.strip()}")
    notebook.metadata["flatmin"]["made_with"] = _made_with(notebook)
    write_notebook(name, make_notebook(name, notebook))
    slow = f", over the budget of {SECONDS} s" if seconds > SECONDS else ""
    print(f"{name}: {len(code_cells(notebook))} code cells in {seconds:.1f} s{slow}", flush=True)
    return seconds


def ledger_problems():
    """Return where ``data/verdicts.json`` is not what the notebooks say, as a list of sentences."""
    made = [path for path in map(notebook_path, chapter_names()) if path.exists()]
    try:
        found, kept = claims.collect(made), claims.load_verdicts()
    except ValueError as error:
        return [str(error)]
    wrong = sorted(id for id in found.keys() | kept.keys() if found.get(id) != kept.get(id))
    parts = [part for ledger in (found, kept) for id in wrong if id in ledger for part in ledger[id]["parts"]]
    where = ", ".join(sorted({f"{part['chapter']}.ipynb" for part in parts}))
    problem = f"verdicts.json is not what {where} says on {', '.join(wrong)}: `make notebooks` makes it anew"
    return [problem] if wrong else []


def changed_verdicts(before, after):
    """Return in words which checks have another verdict than before, are new, or are gone; both ledgers."""
    old, new = (
        {(id, part["part"]): part["verdict"] for id, entry in ledger.items() for part in entry["parts"]}
        for ledger in (before, after)
    )
    changes = []
    for key in sorted(old.keys() | new.keys(), key=str):
        words = old.get(key, "not checked"), new.get(key, "not checked")
        if words[0] != words[1]:
            name = f"{key[0]} ({key[1]})" if key[1] else key[0]
            changes.append(f"verdict changed: {name}: {words[0]} → {words[1]}")
    return changes


def write_ledger():
    """Collect the verdicts of all executed chapters, say which changed, and write the generated files."""
    made = [path for path in map(notebook_path, chapter_names()) if path.exists()]
    found = claims.collect(made)
    with contextlib.suppress(ValueError):  # a damaged file is made anew
        print("".join(f"{change}\n" for change in changed_verdicts(claims.load_verdicts(), found)), end="")
    claims.write_verdicts(found)
    scoreboard.write_pages()
    errata.write_page()
    summary.write_page()
    api.main([])


def format_texts(names):
    """Lay out the code in the texts of chapters and print what is found in it; return the exit status."""
    problems = []
    for name in names:
        text = text_path(name).read_text("utf8")
        new = layout.laid_out(text)
        if new != text:
            text_path(name).write_text(new, "utf8")
        problems += [f"{name}: {finding}" for finding in layout.findings(new)]
    print("\n".join(problems) or f"the code of {len(names)} chapters is laid out")
    return 1 if problems else 0


def chosen(names):
    """Return the names of the chapters given by name, file or path; ValueError for an unknown one."""
    known = chapter_names()
    picked = [Path(name).stem for name in names]
    for name in picked:
        if name not in known:
            raise ValueError(f"there is no chapter {name!r}: allowed are {', '.join(known)}")
    return picked


def main(arguments=None):
    """Run one of the commands; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=["update", "format", "execute", "check"])
    parser.add_argument("names", nargs="*", help="chapters, such as 01_valley (default: all)")
    parser.add_argument("--all", action="store_true", help="execute fresh notebooks too")
    options = parser.parse_args(arguments)
    names = chosen(options.names) or chapter_names()
    if options.command == "format":
        return format_texts(names)
    if options.command == "check":
        problems = [f"{name}: {problem}" for name in names for problem in check(name)] + ledger_problems()
        print(
            "\n".join(problems) or f"{len(names)} notebooks agree with their texts and are executed in order"
        )
        return 1 if problems else 0
    if options.command == "update":
        for name in names:
            update(name)
    else:  # each notebook is made, and refused, before the first is executed
        due = [name for name in names if stale(name) or options.all or options.names]
        print(f"Executing {len(due)} of {len(names)} notebooks ({len(names) - len(due)} are up to date)")
        for name in due:
            execute(name)
        write_ledger()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"notebooks: {error}")
