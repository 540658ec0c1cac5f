"""Recorded results: arrays and where they come from, under one seal.

A result is ``data/results/NAME.npz`` (arrays, no pickles) beside ``NAME.json``: the hash of the arrays, their
provenance, and a seal, the hash of all of this and the name. :func:`save` writes the pair, :func:`load`
refuses one that was changed or put together from two, :func:`provenance_table` shows its origin,
:func:`sweep` computes the points of a grid.
"""

import contextlib
import datetime
import html
import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np

import flatmin
from flatmin import _check
from flatmin.ledger import paths
from flatmin.ledger.arrays import packed, sha256, unpacked
from flatmin.ledger.files import FileError, checked_path, read_bytes, write_bytes
from flatmin.ledger.sweeps import Results, SweepError, plain_name, stack, sweep

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

FORMAT = 2
_ENTRIES = ("format", "name", "sha256", "seal", "provenance")
_ABSOLUTE_PATH = re.compile(r"(?:^|[\s\"'=:(,])(?:~?/[\w.-]+|[A-Za-z]:\\)")
_TAKEN = ("name", "arrays", "provenance")
_ORIGIN = ("date", "device", "scale", "seed", "data_set", "command", "wall_time", "flatmin", "numpy")


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
    argument, for values that JSON or npz cannot hold and for texts with an absolute path in them; FileError
    (an OSError) where the files cannot be written.
    """
    plain_name(name)
    content = packed(arrays)
    for key in _TAKEN:
        if key in arrays:
            raise ValueError(f"array name {key!r}: must be none of {', '.join(_TAKEN)}")
    if not isinstance(scale, str) or not scale.strip():
        raise ValueError(f"scale={scale!r}: must say how the run compares with the paper's")
    if not isinstance(command, str) or not command.strip():
        raise ValueError(f"command={command!r}: must be the line that makes the result again")
    for key, value in (("data_set", data_set), ("device", device)):
        if value is not None and not (isinstance(value, str) and value.strip()):
            raise _check.refused(key, value, "a text, or None")
    if wall_time is not None:
        wall_time = _check.number("wall_time", wall_time, least=0)
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
    record = json.loads(_checked_json(record))
    _check.array("seed", seed, least=0, dtype=int)
    text = _checked_json(record | {"seal": seal(record)})
    folder = paths.results(to_write=True) if folder is None else checked_path("folder", folder)
    npz, record_file, pending = _files(folder, name)
    write_bytes(pending, text.encode())  # a kill between the two files leaves what fits the arrays
    write_bytes(npz, content)
    write_bytes(record_file, text.encode())
    pending.unlink(missing_ok=True)
    return Result(name, unpacked(content), record["provenance"])


def seal(record):
    """Return the hash of everything in a record but the seal itself. Raises ValueError for NaN and ∞."""
    rest = {key: value for key, value in record.items() if key != "seal"}
    return sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode())


def load(name, folder=None):
    """Return the recorded Result of that name from ``data/results`` (or ``folder``).

    Raises RecordError, naming the file, when one of the two files is absent or cannot be read, when the
    record is of another name or format or was changed after it was sealed, or when the arrays are not those
    it was made with.

    Examples
    --------
    >>> import flatmin as fm
    >>> result = fm.load_result("noise-alignment")
    >>> result.provenance["scale"][:60]
    'four kinds of models and 5 runs as W22 Fig. 1; n = 100, d = '
    """
    plain_name(name)
    folder = paths.results() if folder is None else checked_path("folder", folder)
    npz, record_file, pending = _files(folder, name)
    try:
        return _fitting(name, record_file, npz)
    except RecordError:
        if pending.exists():  # a kill came between the two files: these fit, or nothing does
            with contextlib.suppress(RecordError):
                return _fitting(name, pending, npz)
        raise


def _files(folder, name):
    """Return the files of a result: the arrays, their record, and the record while it is being written."""
    return folder / f"{name}.npz", folder / f"{name}.json", folder / f".{name}.next"


def _fitting(name, record_file, npz):
    """Return the Result of two files; RecordError unless they belong together and to that name."""
    record, content = _record(record_file, _content(record_file)), _content(npz)
    if record["name"] != name:
        raise RecordError(f"{_shown(record_file)} is the record of {record['name']!r}, not of {name!r}")
    if sha256(content) != record["sha256"]:
        raise RecordError(
            f"{_shown(npz)} is not the file that {record_file.name} describes: its hash differs"
        )
    try:
        return Result(name, unpacked(content), record["provenance"])
    except Exception as error:  # what was sealed is no npz file, or holds pickles
        raise RecordError(f"{_shown(npz)} holds something else than arrays: {error}") from None


def _content(path):
    """Return the bytes of one of the files of a record."""
    try:
        content = read_bytes(path)
    except FileError as error:
        raise RecordError(str(error)) from None
    if content is None:
        raise RecordError(
            f"{_shown(path)} does not exist: `python -m flatmin experiments list` says what makes it"
        )
    return content


def _record(path, content):
    """Return the record in the content of its file; RecordError for one that is none, old, or changed."""
    try:
        record = json.loads(content.decode("utf8"))
        missing = [key for key in _ENTRIES if key not in record and key != "seal"]
        if missing:
            raise KeyError(*missing)
        kind, provenance = record["format"], dict(record["provenance"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"{_shown(path)} is no record of a result: {error!r}") from None
    if kind != FORMAT:
        raise RecordError(f"{_shown(path)} has format {kind!r}: this library reads format {FORMAT}")
    try:
        intact = set(record) == set(_ENTRIES) and record["seal"] == seal(record)
    except ValueError:  # NaN, which was never sealed
        intact = False
    if not intact:
        raise RecordError(
            f"{_shown(path)} was changed after it was made: its seal does not fit; restore it, or make the "
            "result again"
        )
    absent = [key for key in _ORIGIN if key not in provenance]
    if absent:
        raise RecordError(f"{_shown(path)} does not say where the result comes from: no {', '.join(absent)}")
    return record


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


def _shown(path):
    """Return a path as text, from the book's root where it lies in the book."""
    with contextlib.suppress(FileNotFoundError, ValueError):  # there may be no book
        return path.relative_to(paths.root()).as_posix()
    return str(path)


def _checked_json(record):
    """Return the record as JSON text; ValueError for what JSON cannot hold and for absolute paths."""
    for key, value in record["provenance"].items():
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{key}={_check.shown(value)}: cannot be kept as JSON: {error}") from None
        if _ABSOLUTE_PATH.search(text.strip('"')):
            raise ValueError(f"{key}={value!r}: must hold no absolute path, which means nothing elsewhere")
    return json.dumps(record, indent=1, ensure_ascii=False, default=_plain) + "\n"


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
    """Return the git commit of the library, with "+" if its files differ from it.

    Where git has none, what the environment variable FLATMIN_COMMIT says; else None.
    """
    source = Path(flatmin.__file__).parent

    def git(*words):
        command = ["git", "-C", str(source), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", "__init__.py")  # else the repository is somebody else's
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("FLATMIN_COMMIT") or None


def _cpu():
    """Return the model of the CPU and the number of cores this process may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"
