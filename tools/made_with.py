"""What a chapter's outputs were made with: its code, the library it imports, the results it loads.

A notebook keeps the hash of these; where it differs from today's the notebook is stale. The library's
comments, docstrings and layout do not count, nor what stands in modules the chapter does not reach.
"""

import ast
import hashlib
from functools import cache
from pathlib import Path

import flatmin

ROOT = Path(__file__).resolve().parent.parent
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def made_with(code, root=ROOT):
    """Return the hash of a chapter's ``code`` (a text), of the modules of ``flatmin`` and of the results."""
    found = _reached(code, root / "lib")
    modules = [_parsed(path.read_text("utf8")) for path in found]
    words = _words(ast.parse(code)).union(*(each for _, _, each in modules))
    results = [path for path in sorted((root / "data" / "results").glob("*.json")) if path.stem in words]
    parts = [code, *(bare for bare, _, _ in modules), *(path.read_text("utf8") for path in results)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _reached(code, library):
    """Return the files of the library that ``code`` imports, and those they import, sorted."""
    tree = ast.parse(code)
    asked = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    through_the_door = {module for word, (module, _) in flatmin._DOOR.items() if word in asked}
    waiting, found = imported(tree) | (through_the_door if "import flatmin" in code else set()), set()
    while waiting:
        name = waiting.pop()
        if name.split(".")[0] != "flatmin":
            continue
        stem = library.joinpath(*name.split("."))
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.exists() and path not in found:
                found.add(path)
                waiting |= _parsed(path.read_text("utf8"))[1]
    return sorted(found - {library / "flatmin" / "__init__.py"})  # the door, and the version


@cache
def _parsed(text):
    """Return of a module's text its bare code, the names of modules it may import, and its words."""
    tree = ast.parse(text)
    words, names = _words(tree), imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
    return ast.unparse(tree), names, words


def imported(tree):
    """Return the names of what a module imports, with all packages above them."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in names]
    return {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}


def _words(tree):
    """Return the texts in a module that may be the name of a result."""
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str) and len(value) < 80}
