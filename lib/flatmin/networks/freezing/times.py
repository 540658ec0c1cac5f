"""Freezing times: by the definition, and by the search that the authors' code runs. They are not the same.

The definition (Y26 Eq. 3) asks that all later end points are alike, pair by pair. The code compares each with
that of the last checkpoint only, looks at every tenth checkpoint backwards from the end, and at every one
between the first that differs and the next: what lies before is never looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from flatmin import _check

__all__ = ["Freezing", "Frozen", "frozen_from", "search"]


class Frozen(IntEnum):
    """What is known of a freezing time: t_f ≤ the first checkpoint; between two; that only the last end
    point is like itself; nothing, since the reference lies above the stopping loss."""

    START = 0
    WITHIN = 1
    NEVER = 2
    ABOVE = 3


@dataclass(frozen=True, eq=False)
class Freezing:
    """Freezing times of runs, arrays of one shape.

    Attributes
    ----------
    index : int array
        The earliest checkpoint from which on all end points are alike.
    time : float array
        Its time, the t_f of Y26: for NEVER that of the last checkpoint.
    lower, upper : float arrays
        lower < t_f ≤ upper: for a censored fit. START: lower is −∞; NEVER and ABOVE: upper is ∞, and lower
        the last checkpoint but one (NEVER), or −∞ (ABOVE, nothing is known).
    kind : int array
        A :class:`Frozen` each.
    """

    index: np.ndarray
    time: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    kind: np.ndarray


def frozen_from(similar, times, *, above=False) -> Freezing:
    """t_f = min{t_c : the end points from t_i and t_j are alike for all t_i, t_j ≥ t_c} (Y26 Eq. 3).

    Parameters
    ----------
    similar : (…, T, T) or (…, T) bool
        Whether two end points are alike, for all pairs; or each against one reference, that of the last
        checkpoint.
    times : (T,), increasing
        Of the checkpoints; T tells which of the two forms ``similar`` has, where both fit the pairs count.
    above : bool or (…)
        Whether a run's reference ended above the stopping loss: a class of its own.

    Raises
    ------
    ValueError
        For arrays that do not fit, a matrix that is not symmetric, an end point not like itself, fewer than
        two checkpoints.
    """
    times = _check.array("times", times, ndim=1, increasing=True)
    if len(times) < 2:
        raise _check.refused("times", times, "at least two")
    similar = _check.array("similar", similar, dtype=bool)
    count = len(times)
    if not similar.ndim or similar.shape[-1] != count:
        raise _check.refused("similar", similar, f"of shape (…, {count}, {count}) or (…, {count})")
    if similar.ndim > 1 and similar.shape[-2] == count:
        if (similar != np.swapaxes(similar, -1, -2)).any():
            raise _check.refused("similar", similar, "symmetric in the last two axes")
        own, later = np.diagonal(similar, axis1=-2, axis2=-1), np.triu(np.ones((count, count), bool))
        similar = (similar | ~later).all(-1)  # each with all later ones
        own = own.all()
    else:
        own = similar[..., -1].all()
    if not own:
        raise _check.refused("similar", similar, "True for an end point and itself")
    frozen = np.logical_and.accumulate(similar[..., ::-1], axis=-1)[..., ::-1]
    return _freezing(count - frozen.sum(-1), times, above)


def _freezing(index, times, above) -> Freezing:
    """Classes and bounds of the earliest checkpoints ``index`` from which on all is alike."""
    last = len(times) - 1
    above = np.broadcast_to(_check.array("above", above, dtype=bool), np.shape(index))
    kind = np.where(index == 0, Frozen.START, np.where(index == last, Frozen.NEVER, Frozen.WITHIN))
    kind = np.where(above, Frozen.ABOVE, kind).astype(np.uint8)
    lower = np.where(above | (index == 0), -np.inf, times[np.maximum(index - 1, 0)])
    upper = np.where(above | (index == last), np.inf, times[index])
    return Freezing(np.asarray(index), times[index], lower, upper, kind)


def search(
    same: Callable[[int], bool], count: int, *, coarse: int = 10, fine: int = 1
) -> tuple[int, list[int]]:
    """The earliest checkpoint of ``count`` that the search of Y26's code finds, and those it tested in turn.

    ``same(k)`` says whether the end point from checkpoint k is like the reference, that of the last one.
    Backwards from the last in steps of ``coarse`` (10; 20 or 50 at small η) to the first, until one differs;
    then in steps of ``fine`` (1; 5 or 10) between it and the next: the earliest tested one from which on all
    *tested* ones agree, 0 if none differs.

    Raises ValueError for counts below 1 (two checkpoints at least), or something that is no function.
    """
    if not callable(same):
        raise _check.refused("same", same, "a function of the checkpoint's number")
    count = _check.integer("count", count, least=2, most=10**6)
    coarse, fine = _check.integers(least=1, coarse=coarse, fine=fine)
    tested: dict[int, bool] = {}

    def test(k):
        tested[k] = bool(same(k))
        return tested[k]

    places = [*range(count - 1 - coarse, 0, -coarse), 0]
    differs = next((k for k in places if not test(k)), None)
    if differs is not None:
        for k in range(differs + fine, min(differs + coarse, count - 1), fine):
            if k not in tested:
                test(k)
    later = [k for k in sorted(tested) if not tested[k]]
    start = -1 if not later else later[-1]
    found = min([k for k in tested if k > start], default=count - 1)
    return found, list(tested)
