"""``python -m flatmin diagnose module:make``: a report on the command line.

``make()`` returns (model, loss, data), or a dict of them with further arguments of :func:`flatmin.diagnose`.
Exit status: 0 done, 1 refused (the sentence on stderr), 2 a command that cannot be meant, 130 interrupted
(what was measured by then is printed and written).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["arguments", "run"]

_OPTIONS = {  # option: (type, metavar, help)
    "samples": (int, "N", "measure on so many samples, drawn at random"),
    "chunk": (int, "N", "samples in one graph: fewer take less memory"),
    "k": (int, "K", "how many leading eigenvalues"),
    "what": (str, "NAMES", "sections, comma-separated (default: all)"),
    "layers": (str, "GLOB", "parameters to take apart, as in 'encoder.*.weight'"),
    "budget": (str, "TIME", "such as 60s (default), 5m"),
    "seed": (int, "N", "of what is drawn"),
    "device": (str, "NAME", "cpu, cuda, cuda:1"),
    "dtype": (str, "NAME", "float32 or float64"),
    "mode": (str, "NAME", "eval (default) or train"),
    "momentum": (float, "M", "of the optimiser"),
    "weight-decay": (float, "W", "of the optimiser"),
    "sampling": (str, "NAME", "epoch (default), fresh or replacement"),
}


def arguments(parser) -> None:
    """Give an argparse ``parser`` the arguments of the command."""
    parser.add_argument("make", metavar="MODULE:FUNCTION", help="what returns (model, loss, data)")
    parser.add_argument("--eta", type=float, help="learning rate of the SGD asked about")
    parser.add_argument("--batch-size", type=int, metavar="B", help="its batch size")
    for name, (kind, metavar, words) in _OPTIONS.items():
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=words)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page here")
    parser.add_argument("--quiet", action="store_true", help="print nothing but what goes wrong")
    parser.set_defaults(refuse=parser.error)


def run(options) -> int:
    """Measure as the parsed ``options`` say and return the exit status."""
    for path in filter(None, (options.json, options.html)):
        if path.is_dir() or not path.parent.is_dir():
            options.refuse(f"{path}: must be the name of a file in a folder that exists")
    made = _made(options)
    given = {name.replace("-", "_") for name in _OPTIONS} | {"eta", "batch_size"}
    given = {name: getattr(options, name) for name in given if getattr(options, name) is not None}
    if "what" in given:
        given["what"] = tuple(part.strip() for part in given["what"].split(","))
    from flatmin import _check
    from flatmin.diagnosis.measure import diagnose

    known = inspect.signature(diagnose).parameters
    for name in made:
        _check.choice("make()", name, known)
    try:
        report = diagnose(**({"progress": not options.quiet} | made | given))
    except KeyboardInterrupt:
        print("flatmin: interrupted before the first number", file=sys.stderr)
        return 130
    if not options.quiet:
        print(report)
    if options.json:
        options.json.write_text(report.to_json(), "utf8")
    if options.html:
        report.save(options.html)
    return 130 if report.plan.interrupted else 0


def _made(options) -> dict:
    """What the function named on the command line returns, as arguments of diagnose."""
    module, _, name = options.make.rpartition(":")
    if not module or not name:
        options.refuse(f"{options.make!r}: must be MODULE:FUNCTION, or FILE.py:FUNCTION")
    try:
        make = getattr(_imported(module), name, None)
    except (ImportError, FileNotFoundError) as error:
        options.refuse(f"{module!r} cannot be imported: {error}")
    if not callable(make):
        options.refuse(f"{module!r} has no function {name!r}")
    made = make()
    if isinstance(made, tuple) and len(made) == 3:
        made = dict(zip(("model", "loss", "data"), made, strict=True))
    if not isinstance(made, Mapping) or not {"model", "loss", "data"} <= set(made):
        from flatmin import _check

        raise _check.refused(f"{name}()", made, "(model, loss, data), or a dict with these")
    return dict(made)


def _imported(module: str):
    """A module by its name, from the folder of the command too, or by the path of its file."""
    if not module.endswith(".py"):
        return importlib.import_module(module)
    spec = importlib.util.spec_from_file_location(Path(module).stem, module)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
