"""What first passages of a network's loss say: mean times, powers of the level, what happens around one.

Tables are first-passage steps (R, C), a row a run and a column a level, −1 where a run did not get there, as
:func:`flatmin.networks.passages.first_passages` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flatmin import _check, fits

__all__ = ["around", "log_time_ratio", "mean_offset", "mean_times", "powers"]

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


def mean_offset(cases: Sequence, places, levels, window) -> np.ndarray | None:
    """Return the mean of power − 1/T over step sizes, for a network and for other models, (models,).

    Each of ``cases`` is the ``tables`` of :func:`powers` at one of the ``places`` 1/T; a case without a power
    of every table in the ``window`` does not count, and None is the result where none does.
    """
    cases = [_sequence("cases", case) for case in _sequence("cases", cases)]
    cases = [[_table(table, levels, "cases")[0] for table in case] for case in cases]
    places = _check.array("places", places, shape=(len(cases),))
    window, offsets = _check.array("window", window, shape=(2,), increasing=True), []
    for tables, place in zip(cases, places, strict=True):
        (slopes,) = powers(tables, levels, [window])
        if None not in slopes:
            offsets.append([slope.value - place for slope in slopes])
    return np.mean(offsets, axis=0) if offsets else None


def log_time_ratio(tables: Sequence, levels, highest: float) -> tuple[float, float, float]:
    """Return the log of the ratio of two mean passage times, that of their linearisations, and the level.

    The four ``tables`` are first, second, first linearised, second linearised; the level is the highest up to
    ``highest`` that all their runs reached. Raises ValueError when there is none.
    """
    highest = _check.number("highest", highest)
    columns = [_table(table, levels, "tables")[0] for table in _sequence("tables", tables)]
    if len(columns) != 4:
        raise _check.refused("tables", tables, "four tables")
    reached = np.all([(steps >= 0).all(axis=0) for steps in columns], axis=0)
    places = np.flatnonzero(reached & (np.asarray(levels) <= highest))
    if not places.size:
        raise _check.refused("highest", highest, "at least a level that every run reached")
    first, second, *linear = np.log([steps[:, places[-1]].mean() for steps in columns])
    return float(first - second), float(linear[0] - linear[1]), float(levels[places[-1]])


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
