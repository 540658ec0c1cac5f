"""Power laws fitted to measurements, with an error that resamples what is independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Slope", "common_slope", "log_log_slope"]


@dataclass(frozen=True)
class Slope:
    """A fitted exponent: y ∝ x^value.

    ``error`` is the standard deviation over bootstrap resamples of the groups, ``groups`` their number,
    ``points`` how many points the fit used, ``window`` the range of x it used.
    """

    value: float
    error: float
    intercept: float
    groups: int
    points: int
    window: tuple[float, float]


def log_log_slope(x, y, window=None, resamples: int = 1000, seed: int = 0) -> Slope:
    """Least-squares slope of log y against log x, pooled over groups; the error comes from the groups.

    ``x``, ``y``: (groups, points), or a sequence of groups of different lengths, one group for each
    independent repeat (a training seed), all points of which are resampled together: the points of one
    network are not independent. ``window = (low, high)`` keeps low ≤ x ≤ high. Points that are not positive
    are left out. Raises ValueError for fewer than two groups, or fewer than two points in a group.
    """
    low, high = (0.0, np.inf) if window is None else window
    groups = []
    for one_x, one_y in zip(x, y, strict=True):
        one_x, one_y = np.asarray(one_x, float), np.asarray(one_y, float)
        keep = (one_x > 0) & (one_y > 0) & (one_x >= low) & (one_x <= high)
        if keep.sum() < 2:
            raise ValueError(f"window must leave at least two points in each group, got {window}")
        groups.append((np.log(one_x[keep]), np.log(one_y[keep])))
    if len(groups) < 2:
        raise ValueError(f"x must hold at least two independent groups, got {len(groups)}")
    # sums of 1, u, v, u², uv of each group: a resample is a sum of rows
    sums = np.array([[len(u), u.sum(), v.sum(), u @ u, u @ v] for u, v in groups])
    value, intercept = _fit(sums.sum(0))
    draws = np.random.default_rng(seed).integers(len(groups), size=(resamples, len(groups)))
    spread = [_fit(sums[draw].sum(0))[0] for draw in draws]
    every = np.concatenate([u for u, _ in groups])
    return Slope(
        value,
        float(np.std(spread)),
        intercept,
        len(groups),
        len(every),
        (float(np.exp(every.min())), float(np.exp(every.max()))),
    )


def common_slope(x, y, window=None) -> Slope:
    """Least-squares slope of log y against log x, common to all runs, each run with an intercept of its own.

    ``x``, ``y``: (runs, points), or a sequence of runs of different lengths; ``window = (low, high)`` keeps
    low ≤ x ≤ high, and runs that leave fewer than two points in it do not count. The error is the usual
    standard error from the scatter about the lines, so one run is enough; it takes that scatter as
    independent from point to point. ``intercept`` is the mean of the runs'. Raises ValueError when fewer than
    three points are left over after one intercept a run.
    """
    low, high = (0.0, np.inf) if window is None else window
    parts = []
    for one_x, one_y in zip(x, y, strict=True):
        one_x, one_y = np.asarray(one_x, float), np.asarray(one_y, float)
        keep = (one_x > 0) & (one_y > 0) & (one_x >= low) & (one_x <= high)
        if keep.sum() >= 2:
            parts.append((np.log(one_x[keep]), np.log(one_y[keep])))
    count = sum(len(u) for u, _ in parts)
    if count - len(parts) < 3:
        raise ValueError(
            f"window must leave three points more than runs, got {window}: {count} in {len(parts)}"
        )
    squares = sum(((u - u.mean()) ** 2).sum() for u, _ in parts)
    slope = float(sum(((u - u.mean()) * v).sum() for u, v in parts) / squares)
    rest = sum(((v - v.mean() - slope * (u - u.mean())) ** 2).sum() for u, v in parts)
    every = np.concatenate([u for u, _ in parts])
    return Slope(
        slope,
        float(np.sqrt(rest / (count - len(parts) - 1) / squares)),
        float(np.mean([v.mean() - slope * u.mean() for u, v in parts])),
        len(parts),
        count,
        (float(np.exp(every.min())), float(np.exp(every.max()))),
    )


def _fit(sums):
    count, u, v, uu, uv = sums
    slope = (count * uv - u * v) / (count * uu - u * u)
    return float(slope), float((v - slope * u) / count)
