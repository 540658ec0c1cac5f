"""What first passages of a network's loss say: mean times, powers of the level, what happens around one.

Tables are first-passage steps (R, C), a row a run and a column a level, −1 where a run did not get there, as
:func:`flatmin.networks.passages.first_passages` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flatmin import _check, fits
from flatmin.estimate import Estimate

__all__ = ["around", "local_means", "log_time_ratio", "mean_offset", "mean_times", "powers"]


def mean_times(steps, levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the levels that every run reached, the mean first-passage step to each, and its error."""
    steps, levels = _table(steps, levels)
    reached = (steps >= 0).all(axis=0)
    kept = steps[:, reached]
    return levels[reached], kept.mean(axis=0), kept.std(axis=0, ddof=1) / np.sqrt(len(kept))


def powers(tables: Sequence, levels, windows: Sequence[tuple]) -> list[list[fits.Slope | None]]:
    """Return the powers of c of a network's passages, and of other models' at the same levels.

    Parameters
    ----------
    tables : sequence of (R, C)
        The network's first.
    windows : sequence of (low, high)
        Ranges of the network's mean time in steps.

    Returns
    -------
    list of list
        One list for each window, a :class:`~flatmin.fits.Slope` for each table; None in place of what every
        run reached too few levels for.
    """
    found = []
    for times in windows:
        slopes = [_power(tables[0], levels, times=times)]
        between = slopes[0].window if slopes[0] else (1, 1)
        slopes += [_power(table, levels, between=between) for table in tables[1:]]
        found.append(slopes)
    return found


def mean_offset(places, slopes: Sequence[fits.Slope | None]) -> Estimate:
    """Return the mean of power − 1/T over the ``slopes`` that exist, ``places`` being 1/T of each."""
    kept = [(fit.value - place, fit.error) for place, fit in zip(places, slopes, strict=True) if fit]
    if not kept:
        raise ValueError("slopes: at least one must exist")
    values, errors = np.array(kept).T
    error = float(np.linalg.norm(errors)) / len(values)
    return Estimate(float(values.mean()), error, len(values), "mean of powers less 1/T")


def log_time_ratio(groups: Sequence, levels, highest: float):
    """Return the mean log of the ratio of two mean passage times, of networks and of their linearisations.

    Parameters
    ----------
    groups : sequence of four tables each
        First, second, first linearised, second linearised; each group is compared at the highest of the
        ``levels`` up to ``highest`` that all its runs reached.

    Returns
    -------
    (log ratio, that of the linearised, error of their difference, levels used)

    Raises
    ------
    ValueError
        When no such level was reached by all runs of a group.
    """
    logs, errors, used = [], [], []
    for tables in groups:
        columns = [_table(steps, levels)[0] for steps in tables]
        reached = np.all([(steps >= 0).all(axis=0) for steps in columns], axis=0)
        places = np.flatnonzero(reached & (np.asarray(levels) <= highest))
        if not places.size:
            raise _check.refused("highest", highest, "at least a level that every run reached")
        columns = [steps[:, places[-1]] for steps in columns]
        means = np.log([column.mean() for column in columns])
        logs.append(means[::2] - means[1::2])
        errors += [column.std(ddof=1) / column.mean() / np.sqrt(len(column)) for column in columns]
        used.append(float(levels[places[-1]]))
    own, linear = np.mean(logs, axis=0)
    return float(own), float(linear), float(np.linalg.norm(errors)) / len(groups), used


def around(losses, level: float, window: int) -> np.ndarray:
    """Return each run's loss (R, T) from ``window`` steps before its first passage of ``level`` to as many
    after, (R, 2 window + 1); NaN outside the run, and for runs without a passage."""
    losses = np.asarray(losses, dtype=float)  # NaN where a run has ended
    if losses.ndim != 2:
        raise _check.refused("losses", losses, "an array (R, T)")
    window, level = _check.integer("window", window, least=0), _check.number("level", level)
    padded = np.pad(losses, ((0, 0), (window, window)), constant_values=np.nan)
    found = np.full((len(losses), 2 * window + 1), np.nan, dtype=np.float32)
    for row, whole, above in zip(found, padded, losses > level, strict=True):
        if above.any():
            row[:] = whole[above.argmax() : above.argmax() + 2 * window + 1]
    return found


def local_means(local) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Return for each snapshot of ``local`` (runs, snapshots, measures), NaN where a run has none, the number
    of runs that have it, and mean and error of the measures over them; NaN for fewer than two."""
    local, found = np.asarray(local, dtype=float), []
    if local.ndim != 3:
        raise _check.refused("local", local, "an array (runs, snapshots, measures)")
    for values in np.moveaxis(local, 1, 0):
        kept = values[np.isfinite(values).all(axis=1)]
        if len(kept) < 2:
            found.append((len(kept), *np.full((2, local.shape[-1]), np.nan)))
        else:
            found.append((len(kept), kept.mean(axis=0), kept.std(axis=0, ddof=1) / np.sqrt(len(kept))))
    return found


def _power(table, levels, **where):
    try:
        return fits.passage_power(table, levels, **where)
    except ValueError:
        return None


def _table(steps, levels):
    levels = _check.array("levels", levels, ndim=1)
    return _check.array("steps", steps, shape=(None, len(levels)), dtype=int), levels
