"""Write the page of the library's door, chapters/api.md, from the docstrings.

    python tools/api.py            writes it
    python tools/api.py check      says whether it is what the docstrings give

Docstrings are plain text with NumPy sections; a small translation keeps the page free of a second markup.
"""

import inspect
import re
import sys
from pathlib import Path

import flatmin

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "chapters" / "api.md"

HEAD = """# The library

`flatmin` is the library behind the book. What follows is its front door: everything is loaded when it is
first asked for, and torch only by what needs it. The page is made from the docstrings, and every example in
it is run by the tests.

```python
import flatmin as fm
```
"""
GROUPS = {
    "A network of your own": (
        "diagnose", "Report", "callbacks", "at", "Point", "train", "Runs", "Data", "datasets", "models",
    ),
    "Landscapes and their SGD": (
        "Landscape", "near_degenerate_valley", "two_valleys", "RandomShift", "HessianAligned", "Isotropic",
        "NoNoise", "simulate", "Passage", "stationary", "Reduction", "critical_law", "RegressionChain",
        "Minimum",
    ),
    "Numbers and claims": ("Estimate", "Sampling", "check", "load_result"),
}  # fmt: skip
_ROLE = re.compile(r":\w+:`~?\.?([^`]+)`")
_SECTIONS = ("Parameters", "Attributes", "Returns", "Raises", "Examples", "Notes")


def page():
    """Return the text of the page."""
    named = [name for names in GROUPS.values() for name in names]
    if sorted(named) != sorted(flatmin.__all__):
        raise SystemExit(
            f"tools/api.py: GROUPS and flatmin.__all__ differ: {set(named) ^ set(flatmin.__all__)}"
        )
    parts = [HEAD]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [entry(name) for name in names]
    return "\n".join(parts).rstrip() + "\n"


def entry(name):
    """Return the text about one name of the door."""
    thing = getattr(flatmin, name)
    lines = [f"(api-{name})=", f"### `fm.{name}`", ""]
    text = translated(inspect.getdoc(thing))
    if inspect.ismodule(thing):
        return "\n".join([*lines, *text, "", *members(thing, thing.__all__, f"fm.{name}.")])
    if not inspect.isclass(thing) or "**Parameters**" in text:  # others are made by a function of their own
        lines += ["```python", signature(f"fm.{name}", thing), "```", ""]
    lines += [*text, ""]
    if inspect.isclass(thing):
        public = [each for each in vars(thing) if not each.startswith("_")]
        lines += members(thing, public, ".")
    return "\n".join(lines)


def signature(name, thing):
    """Return the call as one line, or one argument a line where it is long."""
    found = inspect.signature(thing)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    text = f"{name}{found.replace(parameters=bare, return_annotation=inspect.Signature.empty)}"
    if len(text) <= 84:
        return text
    inner = text[text.index("(") + 1 : -1].split(", ")
    lines, line = [], "   "
    for part in inner:
        if len(line) + len(part) > 80:
            lines.append(line)
            line = "   "
        line += f" {part},"
    return "\n".join([text[: text.index("(") + 1], *lines, line.rstrip(","), ")"])


def members(owner, names, prefix):
    """Return the public members: in full where their docstrings have sections, else a line each."""
    short, full = [], []
    for each in names:
        member = inspect.getattr_static(owner, each)
        plain = getattr(member, "__func__", getattr(member, "func", getattr(member, "fget", member)))
        text = inspect.getdoc(plain) if callable(plain) else None
        if not text:
            continue
        quiet = isinstance(member, property) or hasattr(member, "func")
        if any(f"\n{section}\n---" in text for section in _SECTIONS):
            call = signature(f"{prefix}{each}", plain).replace("(here, ", "(").replace("(self, ", "(")
            full += [f"#### `{prefix}{each}`", "", "```python", call, "```", "", *translated(text), ""]
        else:
            first = " ".join(translated(text.split("\n\n")[0]))
            short.append(f"- `{prefix}{each}{'' if quiet else '()'}`: {first}")
    return [*short, "", *full] if short or full else []


def translated(text):
    """Return the lines of a docstring as Markdown."""
    lines, out, section = text.splitlines(), [], None
    index = 0
    while index < len(lines):
        line = lines[index]
        if index + 1 < len(lines) and line in _SECTIONS and set(lines[index + 1]) == {"-"}:
            section, index = line, index + 2
            out += ["", f"**{section}**", ""]
            if section == "Examples":
                rest = lines[index:]
                return [*out, "```python", *"\n".join(rest).rstrip().splitlines(), "```"]
            continue
        if section in ("Parameters", "Attributes", "Raises") and line and not line.startswith(" "):
            name, _, kind = line.partition(" : ")
            out.append(f"- {quoted(name)}{f' ({marked(kind)})' if kind else ''}")
        elif section in ("Parameters", "Attributes", "Raises") and line.strip():
            out.append("  " + marked(line.strip()))
        elif re.fullmatch(r" *=+( +=+)+", line):  # a table, shown as it stands
            block = []
            while index < len(lines) and lines[index].strip():
                block.append(lines[index].replace("``", ""))
                index += 1
            out += ["", "```text", *block, "```", ""]
            continue
        elif line.endswith("::"):
            out += [marked(line[:-1]), "", "```python"]
            index += 1
            block = []
            while index < len(lines) and (lines[index].startswith("    ") or not lines[index]):
                block.append(lines[index][4:])
                index += 1
            out += [*"\n".join(block).strip("\n").splitlines(), "```", ""]
            continue
        else:
            out.append(marked(line))
        index += 1
    return out


def quoted(names):
    """Return argument names as code."""
    return ", ".join(f"`{name.strip()}`" for name in names.split(","))


def marked(line):
    """Return one line of text: roles and double backticks as code, Markdown's own signs taken literally."""
    line = _ROLE.sub(lambda match: "``" + match.group(1).rsplit(".", 1)[-1] + "``", line)
    parts = line.split("``")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*_$<>|\[\]])", r"\\\1", parts[i])
    for i in range(1, len(parts), 2):
        parts[i] = f"`{parts[i]}`"
    return "".join(parts)


def main(arguments):
    """Write the page, or check it; return the exit status."""
    text = page()
    if arguments == ["check"]:
        if PAGE.exists() and PAGE.read_text("utf8") == text:
            return 0
        print("chapters/api.md is not what the docstrings give: run `make notebooks` or python tools/api.py")
        return 1
    PAGE.write_text(text, "utf8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
