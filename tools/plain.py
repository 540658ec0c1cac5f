"""From the MyST of a chapter to plain Markdown: what Colab, Binder, JupyterLab and GitHub can show.

The page is made from the MyST itself (``pages``), the notebook behind the launch buttons from what this
module writes: equations with their number, references as links with the number, admonitions as titled
quotes, hints and solutions to open. What is not listed here is refused, so no raw markup gets through.
"""

import re
from dataclasses import dataclass, field

from pybtex.database import parse_file

NUMBERED = {"equation": "({})", "figure": "Fig. {}", "exercise": "Exercise {}"}
RAW = re.compile(
    r"\{[\w:-]+\}`|^\s*(?:`{3,}|:{3,})\{|^\s*:{3,}|^\([\w-]+\)=|^\$\$ \(|\\label\{|^\s*:\w+:", re.MULTILINE
)
REPEAT = re.compile(r"^\{\{ figure: ([\w-]+) \}\}\s*$", re.MULTILINE)

_FENCE = re.compile(r"^(`{3,}|:{3,})(?:\{([\w:-]+)\}\s*(.*?)|\w*)\s*$")
_LABEL = re.compile(r"^\(([\w-]+)\)=\s*$")
_MATH_END = re.compile(r"\$\$(?:\s*\(([\w-]+)\))?\s*$")
_INLINE = re.compile(r"\{([\w:-]+)\}`([^`]+)`|(`+)(.+?)\3", re.DOTALL)
_BOXES = ("admonition", "hint", "margin", "note", "tip", "warning", "important", "seealso")
_KNOWN = ("math", "exercise", "exercise-start", "exercise-end", "solution-start", "solution-end", *_BOXES)


@dataclass(frozen=True)
class Block:
    """A piece of MyST: ``kind`` is text, code, math, label, repeat or a directive's name."""

    kind: str
    body: str
    label: str | None = None
    title: str = ""
    options: dict = field(default_factory=dict)


def blocks(text):
    """Return the blocks of a MyST text, in order. Raises ValueError for a directive that is not known."""
    lines, found, plain = text.splitlines(), [], []

    def end_text():
        if any(line.strip() for line in plain):
            found.append(Block("text", "\n".join(plain).strip("\n")))
        plain.clear()

    while lines:
        line = lines.pop(0)
        fence, label, repeat = _FENCE.match(line), _LABEL.match(line), REPEAT.match(line)
        if line.startswith("%"):
            continue
        if not (fence or label or repeat or line.startswith("$$")):
            plain.append(line)
            continue
        end_text()
        if fence:
            found.append(_fenced(fence, lines))
        elif label or repeat:
            found.append(Block("label" if label else "repeat", "", (label or repeat)[1]))
        else:
            found.append(_dollars(line, lines))
    end_text()
    return found


def _dollars(line, lines):
    """Return the display of mathematics that begins with ``line``; takes its lines from ``lines``."""
    body = line[2:]
    while not _MATH_END.search(body) and lines:
        body += "\n" + lines.pop(0)
    end = _MATH_END.search(body)
    if end is None:
        raise ValueError(f"a formula has no closing $$: {line!r}")
    return Block("math", body[: end.start()].strip(), end[1])


def _fenced(fence, lines):
    """Return the block between two fences; takes its lines from ``lines``."""
    mark, name, title = fence[1], fence[2], fence[3] or ""
    body = []
    while lines and not re.fullmatch(rf"{mark[0]}{{{len(mark)},}}\s*", lines[0]):
        body.append(lines.pop(0))
    if not lines:
        raise ValueError(f"a fence is not closed: {fence[0]!r}")
    lines.pop(0)
    if name is None and mark[0] == "`":
        return Block("code", "\n".join([fence[0], *body, mark]))
    if name not in _KNOWN:
        raise ValueError(f"{fence[0]!r}: the notebook knows only {', '.join(_KNOWN)}")
    options = {}
    while body and (option := re.match(r"^:([\w-]+):\s*(.*)$", body[0])):
        options[option[1]] = option[2].strip()
        body.pop(0)
    label = title if name == "solution-start" else options.get("label")
    return Block(name, "\n".join(body).strip("\n"), label or None, title, options)


def _inner(found):
    """Yield blocks and those inside them, in order."""
    for block in found:
        yield block
        if block.kind in (*_BOXES, "exercise"):
            yield from _inner(blocks(block.body))


@dataclass(frozen=True)
class Target:
    """What a label names: its ``kind``, its number or title, and the chapter (file stem) it stands in."""

    kind: str
    text: str
    chapter: str


def targets(notebook, chapter):
    """Return what the labels of one chapter's MyST notebook name, a dict from label to :class:`Target`.

    Numbers count as the page's do: equations with labels, figures with captions, exercises. Raises
    ValueError for a label that stands twice.
    """
    counts, found = dict.fromkeys(NUMBERED, 0), {}

    def add(kind, label, text=None):
        if text is None:
            counts[kind] += 1
            text = f"{int(chapter[:2])}.{counts[kind]}"
        if label in found:
            raise ValueError(f"{chapter}: the label {label!r} stands twice")
        found[label] = Target(kind, text, chapter)

    waiting = None
    for cell in notebook.cells:
        if cell.cell_type == "code" and "figure" in cell.metadata:
            add("figure", cell.metadata["figure"])
        for block in _inner(blocks(cell.source)) if cell.cell_type == "markdown" else ():
            if block.kind == "math" and block.label:
                add("equation", block.label)
            elif block.kind in ("exercise", "exercise-start"):
                add("exercise", block.label)
            elif block.kind == "label":
                waiting = block.label
            elif waiting and block.kind == "text":
                add("section", waiting, block.body.splitlines()[0].lstrip("# "))
                waiting = None
    return found


class Bibliography:
    """The literature, as links with authors and year."""

    def __init__(self, path):
        self.entries = parse_file(path, bib_format="bibtex").entries

    def cite(self, key, textual):
        """Return the link of one entry. Raises ValueError for a key that is not there."""
        if key not in self.entries:
            raise ValueError(f"there is no entry {key!r} in the bibliography")
        entry = self.entries[key]
        people = [" ".join(map(str, p.rich_last_names)) for p in entry.persons.get("author", [])]
        who = people[0] if len(people) == 1 else f"{people[0]} and {people[1]}"
        who = who if len(people) < 3 else f"{people[0]} et al."
        year = entry.fields["year"]
        name = f"{who} ({year})" if textual else f"{who}, {year}"
        return f"[{name}]({self._address(entry)})"

    @staticmethod
    def _address(entry):
        fields = entry.fields
        arxiv = re.search(r"arXiv:\s*([\d.]+)", " ".join(fields.values()))
        if "doi" in fields:
            return f"https://doi.org/{fields['doi']}"
        if "url" in fields:
            return fields["url"]
        return f"https://arxiv.org/abs/{arxiv[1]}" if arxiv else "references.md"


class Writer:
    """Writes the plain Markdown of one chapter.

    ``index`` holds the labels of the whole book, ``claims`` the ids of the claims; ``picture`` gives the
    Markdown of a figure that is shown a second time.
    """

    def __init__(self, chapter, index, bibliography, claims, picture):
        self.chapter, self.index, self.bibliography = chapter, index, bibliography
        self.claims, self.picture = claims, picture
        self.solution = None  # the label of the exercise whose solution is open

    def markdown(self, text):
        """Return a MyST cell as plain Markdown. Raises ValueError, naming it, for what cannot be shown."""
        pieces, pending = [], []

        def close():
            if self.solution and any(piece.strip() for piece in pending):
                pieces.append(self._folded(pending))
            else:
                pieces.extend(pending)
            pending.clear()

        for block in blocks(text):
            if block.kind in ("solution-start", "solution-end"):
                close()
                self.solution, self.first = block.label, True
            else:
                pending.append(self.block(block))
        close()
        made = "\n\n".join(piece for piece in pieces if piece.strip())
        raw = RAW.search(re.sub(r"(`+).+?\1", "", made, flags=re.DOTALL))
        if raw:
            raise ValueError(f"{self.chapter}: {raw[0]!r} would stand in the notebook as it is")
        return made

    def caption(self, label, text):
        """Return the caption of a figure with its number, in plain Markdown."""
        return f'<a id="{label}"></a>\n\n**{self._name(label)}.** {self.markdown(text)}'.strip()

    def _folded(self, pieces):
        """Return text of a solution, to be opened."""
        head = f"Solution to {self._name(self.solution)}" + ("" if self.first else ", continued")
        self.first = False
        inside = "\n\n".join(pieces)
        return f"<details>\n<summary><b>{head}</b></summary>\n\n{inside}\n\n</details>"

    def block(self, block):
        """Return one block as plain Markdown."""
        if block.kind == "text":
            return self.inline(block.body)
        if block.kind == "math":
            return self._math(block)
        if block.kind == "exercise-start" or block.kind == "exercise":
            number = self._name(block.label)
            title = f": {self.inline(block.title)}" if block.title else ""
            inside = "\n\n".join(map(self.block, blocks(block.body)))
            return f'<a id="{block.label}"></a>\n\n### {number}{title}\n\n{inside}'.rstrip()
        if block.kind in _BOXES:
            return self._box(block)
        if block.kind == "repeat":
            return self.picture(self._target(block.label, "figure"), block.label)
        return block.body if block.kind == "code" else ""

    def _math(self, block):
        body = block.body
        if r"\\" in body:  # as the page does it
            body = rf"\begin{{aligned}}{body}\end{{aligned}}"
        if not block.label:
            return f"$$\n{body}\n$$"
        number = self._target(block.label, "equation").text
        return f'<a id="{block.label}"></a>\n\n$$\n{body}\n\\tag{{{number}}}\n$$'

    def _box(self, block):
        """Return an admonition as a titled quote, a hint as something to open."""
        inside = "\n\n".join(map(self.block, blocks(block.body)))
        if block.kind == "hint":
            return f"<details>\n<summary><b>Hint</b></summary>\n\n{inside}\n\n</details>"
        title = self.inline(block.title) if block.title else block.kind.capitalize()
        head = [] if block.kind == "margin" else [f"**{title}**", ""]
        return "\n".join(f"> {line}".rstrip() for line in [*head, *_unbroken(inside)])

    def inline(self, text):
        """Return text with its roles written out; code is left as it is."""

        def written(match):
            if match[1] is None:
                code = match[4].strip()
                boxed = "**Claims examined" in text and code in self.claims
                return f"[{match[0]}](scoreboard.md#score-{code})" if boxed else match[0]
            return self._role(match[1], match[2].strip())

        return _INLINE.sub(written, text)

    def _role(self, role, content):
        explicit = re.fullmatch(r"(.*?)\s*<(.+)>", content, re.DOTALL)
        title, name = explicit.groups() if explicit else (None, content)
        if role == "eq":
            return self._link(name, "equation")
        if role == "numref":
            return self._link(name, "figure")
        if role == "ref":
            return self._link(name, None, title)
        if role == "doc":
            file = f"{name}.ipynb" if re.match(r"\d\d_", name) else f"{name}.md"
            return f"[{title or name}]({file})"
        if role in ("cite:t", "cite:p"):
            keys = [key.strip() for key in content.split(",")]
            links = [self.bibliography.cite(key, role == "cite:t") for key in keys]
            return ", ".join(links) if role == "cite:t" else f"({'; '.join(links)})"
        known = "eq, numref, ref, doc, cite:t and cite:p"
        raise ValueError(f"{self.chapter}: the role {{{role}}}: the notebook knows only {known}")

    def _target(self, label, kind=None):
        target = self.index.get(label)
        if target is None or kind not in (None, target.kind):
            raise ValueError(f"{self.chapter}: there is no {kind or 'label'} {label!r}")
        return target

    def _name(self, label):
        target = self._target(label)
        return NUMBERED.get(target.kind, "{}").format(target.text)

    def _link(self, label, kind, title=None):
        target = self._target(label, kind)
        place = label if target.kind in NUMBERED else self.inline(target.text).replace(" ", "-")
        file = "" if target.chapter == self.chapter else f"{target.chapter}.ipynb"
        return f"[{title or self.inline(self._name(label))}]({file}#{place})"


def _unbroken(text):
    """Return the lines of a text, those joined between which a formula would break (in a quote it does)."""
    lines = []
    for line in text.splitlines():
        last = lines[-1].replace(r"\$", "") if lines else ""
        if last.count("$$") % 2 or last.replace("$$", "").count("$") % 2:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return lines
