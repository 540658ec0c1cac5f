"""What an ensemble of runs leaves: time averages, histograms, first passages and hops, with their errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flatmin.estimate import Estimate
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
        """Bin centres, shape (bins,)."""
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


@dataclass(frozen=True)
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
    times : int array, (records,)
        Iterations t of ``trajectories``, when ``record_every`` was given.
    trajectories : array, grid + (trajectories, records, d)
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
    times: np.ndarray | None
    trajectories: np.ndarray | None
    passage_time: np.ma.MaskedArray | None
    hops: Hops | None
    _sums: dict[str, np.ndarray]
    _counts: dict[tuple[str, ...], tuple[tuple[np.ndarray, ...], np.ndarray]]

    @property
    def diverged_fraction(self) -> Estimate:
        """Fraction of trajectories that diverged, with its binomial standard error."""
        n = self.diverged.shape[-1]
        p = self.diverged.mean(axis=-1)
        # the rule-of-succession estimate keeps the error positive where none or all diverged
        shrunk = (p * n + 1) / (n + 2)
        return Estimate(p, np.sqrt(shrunk * (1 - shrunk) / n), np.full(np.shape(p), n))

    def batch_means(self, observable: str) -> np.ma.MaskedArray:
        """Averages in consecutive batches of time, grid + (trajectories, batches); diverged ones masked."""
        if observable not in self._sums:
            raise ValueError(
                f"observable {observable!r} was not gathered: simulate(observe=…) had {list(self._sums)}"
            )
        values = self._sums[observable]
        mask = np.broadcast_to(self.diverged[..., None], values.shape)
        return np.ma.MaskedArray(np.where(mask, 0.0, values), mask)

    def time_average(self, observable: str) -> Estimate:
        """⟨observable⟩ after burn-in over the trajectories that did not diverge.

        The standard error is that between trajectories where there are at least eight, otherwise that
        between batches within them. Value and error are NaN-free: a grid point where every trajectory
        diverged is masked.
        """
        batches = self.batch_means(observable)
        means = batches.mean(axis=-1)
        count = means.count(axis=-1)
        if means.shape[-1] >= 8:
            error = means.std(axis=-1, ddof=1) / np.sqrt(np.maximum(count, 1))
        else:
            flat = batches.reshape(*batches.shape[:-2], -1)
            error = flat.std(axis=-1, ddof=1) / np.sqrt(np.maximum(flat.count(axis=-1), 1))
        return Estimate(_plain(means.mean(axis=-1)), _plain(error), count)

    def per_trajectory(self, observable: str) -> np.ma.MaskedArray:
        """Time average of each trajectory, grid + (trajectories,); diverged ones are masked."""
        return self.batch_means(observable).mean(axis=-1)

    def histogram(self, *coordinates: str) -> Histogram:
        """Stationary density of one coordinate, with a standard error from the spread between trajectories.

        Diverged trajectories are left out. The density is per unit of the coordinate and counts what fell
        outside the range as missing, so it integrates to the fraction inside.
        """
        counts, edges, visits = self._visits(coordinates)
        if len(edges) != 1:
            raise ValueError("histogram gives one coordinate; use density_2d for two")
        per = counts / np.maximum(visits, 1)[..., None] / np.diff(edges[0])
        keep = np.broadcast_to((~self.diverged)[..., None], per.shape)
        per = np.ma.MaskedArray(per, ~keep)
        number = np.maximum(per.count(axis=-2), 1)
        return Histogram(
            edges[0], _plain(per.mean(axis=-2)), _plain(per.std(axis=-2, ddof=1) / np.sqrt(number))
        )

    def density_2d(self, *coordinates: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges along each of two coordinates and the density, grid + (bins_0, bins_1)."""
        counts, edges, visits = self._visits(coordinates)
        if len(edges) != 2:
            raise ValueError("density_2d gives two coordinates; use histogram for one")
        shape = tuple(len(e) - 1 for e in edges)
        alive = ~self.diverged
        total = (counts * alive[..., None]).sum(axis=-2).reshape(*counts.shape[:-2], *shape)
        number = np.maximum((visits * alive).sum(axis=-1), 1)
        return (
            edges[0],
            edges[1],
            total / number[..., None, None] / np.outer(np.diff(edges[0]), np.diff(edges[1])),
        )

    def _visits(self, coordinates):
        if tuple(coordinates) not in self._counts:
            asked = [", ".join(k) for k in self._counts]
            raise ValueError(
                f"histogram of {coordinates} was not gathered: simulate(histogram=…) had {asked}"
            )
        edges, counts, visits = self._counts[tuple(coordinates)]
        return counts, edges, visits


def _plain(values):
    """An ordinary float or array where nothing is masked."""
    if np.ma.is_masked(values):
        return values
    data = np.ma.getdata(values)
    return data if data.ndim else float(data)
