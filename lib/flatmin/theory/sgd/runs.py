"""What an ensemble of runs leaves: time averages, histograms, first passages and hops, with their errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flatmin import _check
from flatmin.estimate import Estimate, proportion
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import Noise

__all__ = ["Histogram", "Hops", "Runs"]


class Histogram(NamedTuple):
    """A density from counts of visits: ``edges`` (bins+1,), ``density`` and its ``error``, grid + (bins,)."""

    edges: np.ndarray
    density: np.ndarray
    error: np.ndarray

    @property
    def centres(self) -> np.ndarray:
        """Middles of the bins, (bins,)."""
        return (self.edges[1:] + self.edges[:-1]) / 2


@dataclass(frozen=True)
class Hops:
    """Changes of sign of an observable: last time, number, and where the point stood after the last one.

    Arrays of shape grid + (trajectories,); ``position`` has the coordinate as its last axis. A trajectory
    that never hops has ``last = 0``, ``number = 0`` and its start as position.
    """

    last: np.ndarray
    number: np.ndarray
    position: np.ndarray


@dataclass(frozen=True, repr=False, eq=False)
class Runs:
    """What an ensemble did. Arrays have the shape grid + (trajectories, …).

    Attributes
    ----------
    landscape, noise, eta, steps, seed
        What was run; ``eta`` and ``steps`` broadcast to the grid.
    final : array, grid + (trajectories, d)
        Where each trajectory ended (for a diverged one, the last point inside the bound).
    lifetime : int array, grid + (trajectories,)
        Steps made before divergence; equals ``steps`` if there was none (or fewer where the block had
        already arrived at its first passage).
    diverged : bool array, grid + (trajectories,)
        Whether the trajectory left |θᵢ| ≤ ``bound``.
    kept : int array, (points,), or None
        Iterations t of ``trajectories``, when ``keep`` was given.
    trajectories : array, grid + (trajectories, points, d), or None
    passage_time : masked int array, grid + (trajectories,)
        Steps to the first passage, masked where it did not happen in time.
    hops : Hops or None
    """

    landscape: Landscape
    noise: Noise
    eta: np.ndarray
    steps: np.ndarray
    seed: int
    final: np.ndarray
    lifetime: np.ndarray
    diverged: np.ndarray
    kept: np.ndarray | None
    trajectories: np.ndarray | None
    passage_time: np.ma.MaskedArray | None
    hops: Hops | None
    _sums: dict[str, np.ndarray]
    _counts: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]  # edges, counts, visits in all

    def __repr__(self) -> str:
        grid = f"grid {self.eta.shape} × " if self.eta.ndim else ""
        steps = "–".join(f"{n}" for n in sorted({int(self.steps.min()), int(self.steps.max())}))
        return (
            f"<Runs on {self.landscape.name} with {type(self.noise).__name__}: "
            f"{grid}{self.diverged.shape[-1]} trajectories, {steps} steps, "
            f"{self.diverged.sum()} of {self.diverged.size} diverged>"
        )

    @property
    def diverged_fraction(self) -> Estimate:
        """Fraction of trajectories that diverged, with its binomial standard error."""
        return proportion(self.diverged)

    def batch_means(self, observable: str) -> np.ma.MaskedArray:
        """Averages in consecutive batches of time, grid + (trajectories, batches); diverged ones masked.

        ValueError for an observable that was not asked for, or is not a number somewhere on the way.
        """
        values = self._sums[_check.choice("observable", observable, self._sums)]
        mask = np.broadcast_to(self.diverged[..., None], values.shape)
        values = np.where(mask, 0.0, values)
        if not np.isfinite(values).all():
            raise _check.refused("observable", observable, "defined wherever the trajectories went")
        return np.ma.MaskedArray(values, mask)

    def time_average(self, observable: str) -> Estimate:
        """⟨observable⟩ after burn-in over the trajectories that did not diverge.

        The standard error is that between trajectories where there are at least eight, otherwise that
        between batches within them; ``n`` counts the trajectories. A grid point where every trajectory
        diverged is masked. ValueError as in :meth:`batch_means`.
        """
        batches = self.batch_means(observable)
        means = batches.mean(axis=-1)
        count = means.count(axis=-1)
        if means.shape[-1] >= 8:
            error, method = _standard_error(means), "spread between trajectories"
        else:
            flat = batches.reshape(*batches.shape[:-2], -1)
            error, method = _standard_error(flat), "spread between batches of time"
        return Estimate(_plain(means.mean(axis=-1)), _plain(error), count, method)

    def per_trajectory(self, observable: str) -> np.ma.MaskedArray:
        """Time average of each trajectory, diverged ones masked; ValueError as in :meth:`batch_means`."""
        return self.batch_means(observable).mean(axis=-1)

    def histogram(self, coordinate: str) -> Histogram:
        """Stationary density of one coordinate, with a standard error from the spread between trajectories.

        Diverged trajectories are left out. The density is per unit of the coordinate and counts what fell
        outside the range as missing, so it integrates to the fraction inside. The error of one trajectory is
        masked. ValueError for a coordinate that was not asked for.
        """
        edges, counts, visits = self._counts[_check.choice("coordinate", coordinate, self._counts)]
        per = counts / np.maximum(visits, 1)[..., None] / np.diff(edges)
        per = np.ma.MaskedArray(per, np.broadcast_to(self.diverged[..., None], per.shape))
        return Histogram(edges, _plain(per.mean(axis=-2)), _plain(_standard_error(per, axis=-2)))


def _standard_error(values, axis=-1):
    """Standard error of the mean of masked values along an axis."""
    number = np.maximum(values.count(axis=axis), 1)
    return values.std(axis=axis, ddof=1) / np.sqrt(number)


def _plain(values):
    """An ordinary float or array where nothing is masked."""
    if np.ma.is_masked(values):
        return values
    data = np.ma.getdata(values)
    return data if data.ndim else float(data)
