"""What an experiment is, as data, and the one runner that computes and records it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flatmin.ledger import record

__all__ = ["Experiment", "Grid", "Scale"]


@dataclass(frozen=True)
class Grid:
    """The points of one sweep, the product of ``axes``, and the arrays that come of it.

    Attributes
    ----------
    function : callable
        ``function(point, seed)``, at the top level of a module; returns a dict of arrays and numbers. Where
        it returns ``seconds`` of its own, they count as the time it took and not as an array.
    common, axes : dict
        What all points share, and name → values: a point is ``common`` with one value of each axis.
    repeats : int, optional
        So many equal points (each with a seed of its own), the last axis.
    seed : int
        The seed of the sweep.
    names : str, optional
        How the arrays are called; default ``"KEY_{}"`` with the grid's key in :attr:`Scale.grids`.
    shape : tuple, optional
        Leading axes of the arrays; default: one for each axis, and one for the repeats.
    here : bool
        Computed in this process with all its threads, one point after the other: for points that use them,
        that share a cache, or that fill the memory.
    states : bool
        Whether the function keeps unfinished work: its points get a folder for it as ``point["states"]``.
    version : str
        To be changed with the function, so that results of the old one are not taken for its.
    """

    function: Callable
    common: Mapping = field(default_factory=dict)
    axes: Mapping[str, Sequence] = field(default_factory=dict)
    repeats: int | None = None
    seed: int = 0
    names: str | None = None
    shape: tuple[int, ...] | None = None
    here: bool = False
    states: bool = False
    version: str = "1"

    @property
    def points(self) -> list[dict]:
        """Every point, the last axis fastest."""
        names, values = tuple(self.axes), itertools.product(*map(_plain, self.axes.values()))
        found = [{**self.common, **dict(zip(names, each, strict=True))} for each in values]
        return [point for point in found for _ in range(self.repeats or 1)]

    def stacked(self, results: Sequence[dict], key: str) -> dict[str, np.ndarray]:
        """The results of the points as arrays, by their names in the record."""
        lead = self.shape
        if lead is None:
            lead = tuple(map(len, self.axes.values())) + ((self.repeats,) if self.repeats else ())
        names = self.names or f"{key}_{{}}"
        stacked = record.stack(results).items()
        return {names.format(name): np.reshape(a, (*lead, *a.shape[1:])) for name, a in stacked}


@dataclass(frozen=True)
class Scale:
    """One scale of an experiment.

    Attributes
    ----------
    grids : dict
        Key → :class:`Grid`; their arrays are named after the keys.
    more : dict
        Further arrays to record: the values on the axes.
    text : str
        How it compares with the paper's, for the provenance.
    data_set : str, optional
    """

    grids: Mapping[str, Grid]
    more: Mapping = field(default_factory=dict)
    text: str = "a small scale that takes seconds: not the paper's"
    data_set: str | None = None


@dataclass(frozen=True)
class Experiment:
    """A measurement at the paper's own scale, recorded as ``data/results/NAME``.

    Attributes
    ----------
    claims : tuple of str
        The ids that it bears on.
    full, quick : Scale
        What is recorded, and a scale that takes seconds.
    minutes : float
        How long it takes on what ``needs`` names ("GPU", a data set, ...), on two CPU cores where it names no
        hardware.
    seed : int or list, optional
        For the provenance, where it is not that of the sweeps.
    device : callable, optional
        Says what a point was computed on, a text or None for the CPU; kept with each point. Default: the CPU.
    provenance : dict
        Further entries.
    """

    name: str
    title: str
    claims: tuple
    full: Scale
    quick: Scale
    minutes: float
    needs: tuple = ()
    seed: int | Sequence[int] | None = None
    device: Callable[[], str | None] | None = None
    provenance: Mapping = field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command line that makes the result, for its provenance."""
        return f"python -m flatmin experiments run {self.name}"

    def run(self, folder: Path | None = None, quick: bool = False, executor=None) -> record.Result:
        """Compute what no earlier run has finished, and record the arrays in ``folder``.

        Everything is kept there: the results, in ``.partial`` each finished point and the states of
        unfinished ones. ``executor`` (``concurrent.futures``, of processes or a cluster) takes the points of
        all grids but those that are computed ``here``. Raises SweepError when points failed.
        """
        scale = self.quick if quick else self.full
        found, seconds, devices = self._computed(scale.grids, folder, executor)
        arrays = {}
        for key, grid in scale.grids.items():
            arrays |= grid.stacked(found[key], key)
        seeds = sorted({grid.seed for grid in scale.grids.values()})
        return record.save(
            self.name,
            arrays | dict(scale.more),
            seed=(seeds[0] if len(seeds) == 1 else seeds) if self.seed is None else self.seed,
            scale=scale.text,
            command=self.command,
            data_set=scale.data_set,
            device=" and ".join(each or "a CPU" for each in devices) if any(devices) else None,
            wall_time=seconds,
            folder=folder,
            **self.provenance,
        )

    def _computed(self, grids, folder, executor):
        """The results of every grid, the seconds they took, and on what; grids of one function share a sweep.

        Interrupted, it does not wait for the point that this process computes.
        """
        together = {}
        for key, grid in grids.items():
            how = grid.function, grid.seed, grid.version, grid.here, grid.states
            together.setdefault(how, []).append(key)
        found, seconds, devices = {}, 0.0, set()
        local = ThreadPoolExecutor(1)
        try:
            for (function, seed, version, here, states), keys in together.items():
                points = [point for key in keys for point in grids[key].points]
                if states:
                    points = [point | {"states": self._states(folder)} for point in points]
                how = {"seed": seed, "version": version, "device": self.device}
                pool = local if here else executor
                how |= {} if pool is None else {"executor": pool}
                results = record.sweep(function, points, name=self.name, folder=folder, **how)
                rest, own = iter(results), sum("seconds" in result for result in results)
                seconds += sum(float(r["seconds"]) for r in results) if own else results.seconds
                devices.update(results.devices)
                for key in keys:
                    taken = itertools.islice(rest, len(grids[key].points))
                    found[key] = [{n: v for n, v in one.items() if n != "seconds"} for one in taken]
        finally:
            local.shutdown(wait=False, cancel_futures=True)
        return found, seconds, sorted(devices)

    def _states(self, folder) -> str:
        place = record.paths.results() if folder is None else Path(folder)
        return str(place.resolve() / ".partial" / f"states-{self.name}")


def _plain(values) -> list:
    """The values on an axis as JSON keeps them."""
    return np.asarray(values).tolist() if isinstance(values, np.ndarray) else list(values)
