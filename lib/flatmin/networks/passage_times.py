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

#: ranges of mean passage times in steps, in which powers of a network are judged
WINDOWS = ((10, 100), (100, 1000))


def mean_times(steps, levels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the levels that every run reached, the mean first-passage step to each, and its error."""
    steps, levels = _table(steps, levels)
    reached = (steps >= 0).all(axis=0)
    kept = steps[:, reached]
    return levels[reached], kept.mean(axis=0), kept.std(axis=0, ddof=1) / np.sqrt(len(kept))


def powers(tables: Sequence, levels, windows: Sequence[tuple]) -> list[list[fits.Slope | None]]:
    """Return the powers of c of a network's passages, and of other models' at the same levels.

    One list for each of ``windows``, ranges (low, high) of the network's mean time in steps; in it a
    :class:`~flatmin.fits.Slope` for each of ``tables``, the network's first; None in place of what every run
    reached too few levels for.
    """
    levels, found = _check.array("levels", levels, ndim=1), []
    tables = [_table(table, levels, "tables")[0] for table in _sequence("tables", tables)]
    for times in _sequence("windows", windows):
        times = _check.array("windows", times, shape=(2,), increasing=True)
        slopes = [_power(tables[0], levels, times=times)]
        between = slopes[0].window if slopes[0] else (1, 1)
        slopes += [_power(table, levels, between=between) for table in tables[1:]]
        found.append(slopes)
    return found


def mean_offset(places, slopes: Sequence[fits.Slope | None]) -> Estimate:
    """Return the mean of power − 1/T over the ``slopes`` that exist, ``places`` being 1/T of each."""
    places = _check.array("places", places, shape=(len(slopes),))
    kept = [(fit.value - place, fit.error) for place, fit in zip(places, slopes, strict=True) if fit]
    if not kept:
        raise ValueError("slopes: at least one must exist")
    values, errors = np.array(kept).T
    error = float(np.linalg.norm(errors)) / len(values)
    return Estimate(float(values.mean()), error, len(values), "mean of powers less 1/T")


def log_time_ratio(groups: Sequence, levels, highest: float):
    """Return the mean log of the ratio of two mean passage times, of networks and of their linearisations.

    Each of ``groups`` is four tables: first, second, first linearised, second linearised; it is compared at
    the highest of the ``levels`` up to ``highest`` that all its runs reached. The result is (log ratio, that
    of the linearised, error of their difference, levels used). Raises ValueError when no such level was
    reached by all runs of a group.
    """
    highest, logs, errors, used = _check.number("highest", highest), [], [], []
    for tables in _sequence("groups", groups):
        columns = [_table(steps, levels, "groups")[0] for steps in _sequence("groups", tables)]
        if len(columns) != 4:
            raise _check.refused("groups", groups, "a sequence of four tables each")
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
    losses = _numbers("losses", losses, 2)  # NaN where a run has ended
    window, level = _check.integer("window", window, least=0, most=10**9), _check.number("level", level)
    padded = np.pad(losses, ((0, 0), (window, window)), constant_values=np.nan)
    found = np.full((len(losses), 2 * window + 1), np.nan, dtype=np.float32)
    for row, whole, above in zip(found, padded, losses > level, strict=True):
        if above.any():
            row[:] = whole[above.argmax() : above.argmax() + 2 * window + 1]
    return found


def local_means(local) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Return for each snapshot of ``local`` (runs, snapshots, measures), NaN where a run has none, the number
    of runs that have it, and mean and error of the measures over them; NaN for fewer than two."""
    found = []
    for values in np.moveaxis(_numbers("local", local, 3), 1, 0):
        kept = values[np.isfinite(values).all(axis=1)]
        if len(kept) > 1:
            found.append((len(kept), kept.mean(axis=0), kept.std(axis=0, ddof=1) / np.sqrt(len(kept))))
        else:
            found.append((len(kept), *np.full((2, local.shape[-1]), np.nan)))
    return found


def _power(table, levels, **where):
    try:
        return fits.passage_power(table, levels, **where)
    except ValueError:
        return None


def _table(steps, levels, name="steps"):
    levels = _check.array("levels", levels, ndim=1)
    return _check.array(name, steps, shape=(None, len(levels)), dtype=int, least=-1), levels


def _numbers(name, values, ndim) -> np.ndarray:
    """Numbers, NaN allowed, in so many axes."""
    found = np.asarray(values)
    if found.dtype.kind not in "iuf" or found.ndim != ndim:
        raise _check.refused(name, values, f"numbers in {ndim} axes")
    return found.astype(float)


def _sequence(name, values) -> list:
    """The members of a sequence; ValueError for text, a number, or none."""
    if isinstance(values, (str, bytes)) or not np.iterable(values) or not len(values):
        raise _check.refused(name, values, "a sequence, of one member or more")
    return list(values)
