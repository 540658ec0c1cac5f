"""Recorded results: arrays with a hash and a provenance.

A result is ``data/results/NAME.npz`` (arrays, no pickles) beside ``NAME.json`` (the hash of the arrays and
where they come from). :func:`save` writes the pair, :func:`load` refuses one that does not fit together,
:func:`provenance_table` shows its origin, :func:`sweep` computes the points of a grid.
"""

import datetime
import html
import json
import os
import platform
import re
import subprocess
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np

import flatmin
from flatmin.ledger import paths
from flatmin.ledger.arrays import packed, sha256, unpacked, write_bytes
from flatmin.ledger.sweeps import Results, SweepError, stack, sweep

__all__ = [
    "RecordError",
    "Result",
    "Results",
    "SweepError",
    "load",
    "provenance_table",
    "save",
    "stack",
    "sweep",
]

FORMAT = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_ABSOLUTE_PATH = re.compile(r"(?:^|[\s\"'=:(,])(?:~?/[\w.-]+|[A-Za-z]:\\)")
_TAKEN = ("name", "arrays", "provenance")


class RecordError(RuntimeError):
    """A recorded result that is absent, damaged or of another format; the message names the file."""


class Result:
    """A recorded result: its ``name``, its ``arrays`` (also attributes) and its ``provenance`` (a dict)."""

    def __init__(self, name, arrays, provenance):
        self.name = name
        self.arrays = arrays
        self.provenance = provenance

    def __getattr__(self, key):
        arrays = self.__dict__.get("arrays", {})
        if key in arrays:
            return arrays[key]
        raise AttributeError(f"the result holds no array {key!r}, but {', '.join(arrays)}")

    def __repr__(self):
        shapes = ", ".join(f"{key} {np.shape(array)}" for key, array in self.arrays.items())
        return f"<Result {self.name}: {shapes}>"


def save(
    name,
    arrays,
    *,
    seed,
    scale,
    command,
    data_set=None,
    device=None,
    wall_time=None,
    folder=None,
    **more,
):
    """Record arrays (a dict of arrays and numbers) under ``name`` and return the Result.

    ``seed`` is the seed (an integer, or a list), ``scale`` says in words how the run compares with the
    paper's, ``command`` is the line that makes it again, ``data_set`` names the data, ``device`` the
    hardware (default: this CPU's model), ``wall_time`` is in seconds; ``more`` are further entries. Versions,
    git commit and date are added. ``folder`` stands in for ``data/results``. Raises ValueError, naming the
    argument, for values that JSON or npz cannot hold and for texts with an absolute path in them.
    """
    _require_name(name)
    for key in _TAKEN:
        if key in arrays:
            raise ValueError(f"array name {key!r}: must be none of {', '.join(_TAKEN)}")
    if not isinstance(scale, str) or not scale.strip():
        raise ValueError(f"scale={scale!r}: must say how the run compares with the paper's")
    if not isinstance(command, str) or not command.strip():
        raise ValueError(f"command={command!r}: must be the line that makes the result again")
    content = packed(arrays)
    provenance = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": _cpu() if device is None else device,
        "scale": scale,
        "seed": seed,
        "data_set": data_set,
        "command": command,
        "wall_time": wall_time,
        **_versions(),
        **more,
    }
    record = {"format": FORMAT, "name": name, "sha256": sha256(content), "provenance": provenance}
    text = _checked_json(record)
    folder = _folder(folder)
    write_bytes(folder / f"{name}.npz", content)
    write_bytes(folder / f"{name}.json", text.encode())
    return Result(name, unpacked(content), json.loads(text)["provenance"])


def load(name, folder=None):
    """Return the recorded Result of that name from ``data/results`` (or ``folder``).

    Raises RecordError, naming the file, when one of the two files is absent or unreadable, is of another
    format, or when the arrays are not those the record was made with.
    """
    _require_name(name)
    npz, record_file = (_folder(folder) / f"{name}{suffix}" for suffix in (".npz", ".json"))
    for path in (record_file, npz):
        if not path.is_file():
            raise RecordError(
                f"{_shown(path)} does not exist: `python -m flatmin experiments list` says what makes it"
            )
    try:
        record = json.loads(record_file.read_text("utf8"))
        kind, expected, provenance = record["format"], record["sha256"], dict(record["provenance"])
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{_shown(record_file)} is no record of a result: {error!r}") from None
    if kind != FORMAT:
        raise RecordError(f"{_shown(record_file)} has format {kind!r}: this library reads format {FORMAT}")
    content = npz.read_bytes()
    if sha256(content) != expected:
        raise RecordError(
            f"{_shown(npz)} is not the file that {record_file.name} describes: its hash differs"
        )
    try:
        return Result(name, unpacked(content), provenance)
    except (ValueError, zipfile.BadZipFile) as error:
        raise RecordError(f"{_shown(npz)} holds something else than arrays: {error}") from None


class ProvenanceTable:
    """Where a recorded result comes from, as HTML and as plain text; see :func:`provenance_table`."""

    def __init__(self, rows):
        self.rows = rows  # (what, text)

    def __repr__(self):
        return "\n".join(f"{what}: {text}" for what, text in self.rows)

    def _repr_html_(self):
        rows = "".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in self.rows)
        return f'<table class="flatmin-provenance"><tbody>{rows}</tbody></table>'


def provenance_table(result):
    """Return a small table that says where a recorded Result comes from, for a chapter to show."""
    origin = result.provenance
    versions = [f"flatmin {origin['flatmin']}", f"numpy {origin['numpy']}"]
    versions += [f"torch {origin['torch']}"] if origin.get("torch") else []
    rows = [("recorded", f"{result.name}, {origin['date']}"), ("scale", origin["scale"])]
    rows += [("data", origin["data_set"])] if origin.get("data_set") else []
    rows += [("device", origin["device"])]
    rows += [("time", _duration(origin["wall_time"]))] if origin.get("wall_time") is not None else []
    rows += [("seed", str(origin["seed"])), ("made by", origin["command"]), ("versions", ", ".join(versions))]
    return ProvenanceTable(rows)


def _duration(seconds):
    """Return seconds in words: 12 s, 3.4 min, 5.6 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s"


def _require_name(name):
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name={name!r}: must be lower-case letters, digits, '-' and '_'")


def _folder(folder):
    return paths.results() if folder is None else Path(folder)


def _shown(path):
    """Return a path as text, from the book's root where it lies in the book."""
    root = paths.root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _checked_json(record):
    """Return the record as JSON text; ValueError for what JSON cannot hold and for absolute paths."""
    try:
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"provenance {record['provenance']!r}: cannot be kept as JSON: {error}") from None
    for key, value in record["provenance"].items():
        if _ABSOLUTE_PATH.search(json.dumps(value, ensure_ascii=False, default=_plain).strip('"')):
            raise ValueError(f"{key}={value!r}: must hold no absolute path, which means nothing elsewhere")
    return text


def _plain(value):
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{value!r} is no number, text, list or dict")


def _versions():
    """Return the versions of what computed the result; None for a library that is not installed."""
    versions = {"flatmin": flatmin.__version__, "commit": _commit(), "python": platform.python_version()}
    for library in ("numpy", "torch"):
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = None
    return versions


def _commit():
    """Return the git commit of the library, with "+" if its files differ from it; None outside of git."""
    source = Path(flatmin.__file__).parent

    def git(*words):
        command = ["git", "-C", str(source), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu():
    """Return the model of the CPU and the number of cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"
