"""The full-scale experiments: one module each, run by ``python -m flatmin experiments``.

A module defines ``EXPERIMENT = Experiment(...)``. Its ``run(folder, quick)`` computes the arrays, by
:func:`flatmin.ledger.record.sweep` where they take long, and records them under the experiment's name with
:func:`flatmin.ledger.record.save`, both with ``folder=folder``; ``quick`` asks for a scale that takes
seconds.
"""

import importlib
import pkgutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flatmin.ledger import record


@dataclass(frozen=True)
class Experiment:
    """A measurement at the paper's own scale, recorded as ``data/results/NAME``.

    ``claims`` are the ids it bears on; ``run`` is called as ``run(folder, quick)``; ``minutes`` is how long
    it takes on what ``needs`` names ("GPU", a data set, ...), on two CPU cores where it names no hardware.
    """

    name: str
    title: str
    claims: tuple
    run: Callable
    minutes: float
    needs: tuple = ()

    @property
    def command(self):
        """The command line that makes the result, for its provenance."""
        return f"python -m flatmin experiments run {self.name}"


def discover(package=__name__):
    """Return the experiments of all modules of ``package`` that define one, as a dict from name, sorted.

    A module that needs a library which is not installed is left out with a warning. Raises ValueError when
    two modules define experiments of one name.
    """
    found = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        try:
            experiment = getattr(importlib.import_module(module.name), "EXPERIMENT", None)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("flatmin"):
                raise
            warnings.warn(f"{module.name} is left out: {error}", stacklevel=2)
            continue
        if experiment is None:
            continue
        if experiment.name in found:
            raise ValueError(f"{module.name}: an experiment named {experiment.name!r} exists already")
        found[experiment.name] = experiment
    return dict(sorted(found.items()))


def status(experiments, folder):
    """Return {name: sentence}: whether each experiment is recorded in ``folder``, begun, or absent.

    The sweeps of an experiment are named after it, NAME or NAME-MORE; their finished points count as begun.
    """
    points = dict.fromkeys(experiments, 0)
    partial = Path(folder) / ".partial"
    for store in partial.iterdir() if partial.is_dir() else ():
        owners = [name for name in experiments if store.name == name or store.name.startswith(f"{name}-")]
        if owners:
            points[max(owners, key=len)] += len(list(store.glob("*.npz")))
    return {name: _state(name, points[name], folder) for name in experiments}


def _state(name, points, folder):
    if any((Path(folder) / f"{name}{suffix}").exists() for suffix in (".json", ".npz")):
        try:
            origin = record.load(name, folder).provenance
        except record.RecordError as error:
            return f"damaged: {error}"
        return f"recorded {origin['date']}, {origin['scale']}"
    return f"partial, {points} points finished" if points else "absent"
