"""The pages of the chapters: a Sphinx extension, named in ``_config.yml``.

The notebooks hold plain Markdown. A page is made from the chapter's own MyST text, ``chapters/src``, and
the outputs in its notebook, so that it has all that Sphinx offers: numbers, links, captions, boxes.
"""

import base64
import html
import re
from itertools import pairwise
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

import notebooks
import plain
from flatmin.ledger import claims

# What the line says that opens a folded cell; the first word found in the cell decides.
_PROMPTS = {
    "plots.alt(": "the code of this figure",
    "explorers.show(": "the code of this figure",
    "check(": "the check",
    "verdict_table(": "the code of this table",
    "who_is_right(": "the code of this table",
    "import ": "the imports",
    "print(": "the code of these numbers",
    "": "the code",
}
_TAKEN = re.compile(r"\{figure\} made/([\w-]+)\.png")
_PANELS = re.compile(r'<img [^>]*class="[^"]*\bflatmin-cuts((?:-\d+)+)\b[^>]*>')

#: of an output: a link to a check in the notebook of another chapter
_ELSEWHERE = re.compile(r'(<a href="\d\d_\w+)\.ipynb#(?=claim-)')
_CHECKED = re.compile(r'(<div id="[^"]*" class="flatmin-check">.*?)<code>([\w.-]+)</code>')


def setup(app):
    """Register the reader of the notebooks and the layout of figures on narrow screens."""
    notebooks.CHAPTERS = Path(app.srcdir) / "chapters"
    app.connect("config-inited", _read_from_texts, priority=100)
    app.connect("builder-inited", _take_pictures)
    app.connect("html-page-context", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _read_from_texts(app, config):
    config.nb_custom_formats = config.nb_custom_formats | {".ipynb": ["pages.read", {}, False]}


def read(text):
    """Return what Sphinx reads for the notebook in ``text``: the MyST of its chapter, with its outputs."""
    kept = nbformat.reads(text, as_version=4)
    name = kept.metadata.pop("flatmin", {}).get("chapter")
    if name is None or not notebooks.text_path(name).exists():
        return kept
    notebook = notebooks.myst_notebook(notebooks.text_path(name).read_text("utf8"))
    notebooks.keep_outputs(notebook, kept)
    figures = {cell.metadata["figure"]: cell for cell in notebook.cells if "figure" in cell.metadata}
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cells.append(_with_figure(cell))
        else:
            cells += _with_repeats(_marked(cell.source), figures)
    notebook.cells, notebook.metadata = cells, kept.metadata
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def _take_pictures(app):
    """Write the pictures of chapters that pages without cells show as ``made/LABEL.png``."""
    for page in notebooks.CHAPTERS.glob("*.md"):
        for label in _TAKEN.findall(page.read_text("utf8")):
            target = notebooks.CHAPTERS / "made" / f"{label}.png"
            target.parent.mkdir(exist_ok=True)
            picture = _picture(label)
            if picture:
                target.write_bytes(picture)
            elif not target.exists():
                raise ValueError(f"made/{label}.png: no chapter keeps that figure; run `make notebooks`")


def _picture(label):
    """Return the PNG that the cell with the figure ``label`` made, or None: none has, or it is stale."""
    for name in notebooks.chapter_names():
        text = notebooks.text_path(name).read_text("utf8")
        if f"figure: {label}\n" in text:
            kept = nbformat.read(notebooks.notebook_path(name), as_version=4)
            for cell in notebooks.keep_outputs(notebooks.myst_notebook(text), kept).cells:
                if cell.metadata.get("figure") == label:
                    shown = notebooks.pictures(cell)
                    return base64.b64decode(shown[0].data["image/png"]) if shown else None
    return None


def _with_figure(cell):
    """Translate ``figure`` and ``caption`` of a cell, and say what a folded one holds."""
    label, caption = cell.metadata.pop("figure", None), cell.metadata.pop("caption", "")
    options = dict(cell.metadata.get("mystnb", {}))
    if label:
        options["figure"] = {"name": label, "caption": caption}
    if "hide-input" in cell.metadata.get("tags", []):
        holds = next(prompt for word, prompt in _PROMPTS.items() if word in cell.source)
        options |= {"code_prompt_show": f"Show {holds}", "code_prompt_hide": f"Hide {holds}"}
    if options:
        cell.metadata["mystnb"] = options
    return cell


def _with_repeats(source, figures):
    """Return the Markdown cells of a text, with the pictures between them that it repeats."""
    pieces, cells = plain.REPEAT.split(source), []
    for place, piece in enumerate(pieces):
        if place % 2:
            shown = notebooks.pictures(figures[piece])[:1]
            cells.append(new_code_cell("repeated", outputs=shown, metadata={"tags": ["remove-input"]}))
            note = f"{{numref}}`{piece}`, made further down."
            cells.append(new_markdown_cell(f'<p class="flatmin-repeated">\n\n{note}\n\n</p>'))
        elif piece.strip():
            cells.append(new_markdown_cell(piece))
    return cells


def _marked(source):
    """Return a text with hints to be opened and, in the box of a chapter, links to the claims."""
    source = re.sub(r"^(:{3,}\{hint\}.*)$", r"\1\n:class: dropdown", source, flags=re.MULTILINE)
    return re.sub(r"^:::\{admonition\}.*?^:::\s*$", _linked, source, flags=re.MULTILINE | re.DOTALL)


def _linked(box):
    if "**Claims examined" not in box[0]:
        return box[0]
    known = claims.load_claims()

    def link(match):
        id = html.escape(match[1])
        address = f"scoreboard.html#score-{id}"
        return f'<a class="flatmin-claim" href="{address}"><code>{id}</code></a>' if id in known else match[0]

    return re.sub(r"`([\w.-]+)`", link, box[0])


def _finish(app, pagename, templatename, context, doctree):
    """Link checks to the claims' rows, outputs to pages; give wide pictures a second, narrow form."""
    if context.get("body"):
        body = _CHECKED.sub(r'\1<a href="scoreboard.html#score-\2"><code>\2</code></a>', context["body"])
        context["body"] = _ELSEWHERE.sub(r"\1.html#", _PANELS.sub(stacked, body))


def stacked(match):
    """Return a picture with its panels once more, cut apart; the style sheet shows the one or the other.

    The class ``flatmin-cuts-333-667`` says where to cut, in thousandths of the width.
    """
    image = match[0]
    ends = [0, *(int(cut) for cut in match[1].split("-")[1:]), 1000]
    widest = max(right - left for left, right in pairwise(ends))
    source = re.search(r'src="([^"]*)"', image)[1]
    alt = re.search(r'alt="([^"]*)"', image)
    panels = ""
    for left, right in pairwise(ends):
        share = right - left
        style = f"width:{100_000 / share:.2f}%;margin-left:{-100 * left / share:.2f}%"
        panels += (
            f'<span style="width:{100 * share / widest:.1f}%"><img src="{source}" alt="" loading="lazy" '
            f'style="{style}"></span>'
        )
    label = f' aria-label="{alt[1]}"' if alt else ""
    return f'{image}<span class="flatmin-panels" role="img"{label}>{panels}</span>'
