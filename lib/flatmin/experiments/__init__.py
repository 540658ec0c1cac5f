"""The full-scale experiments: one module each, run by ``python -m flatmin experiments``.

A module defines ``EXPERIMENT``, an :class:`Experiment` that holds its grids of points at the full scale and
at one that takes seconds; :mod:`flatmin.experiments.runner` computes and records them.
"""

import importlib
import pkgutil
import warnings
from pathlib import Path

from flatmin.experiments.runner import Experiment, Grid, Scale
from flatmin.ledger import record

__all__ = ["Experiment", "Grid", "Scale", "discover", "status"]


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
