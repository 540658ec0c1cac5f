"""What is read off measured curves: powers, rates, onsets, peaks, each with its error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flatmin import _check
from flatmin.estimate import Estimate, bootstrap_error

__all__ = [
    "Slope",
    "common_slope",
    "growth_rate",
    "half_lost",
    "half_slopes",
    "halves",
    "limit_by_halving",
    "log_log_slope",
    "onset",
    "passage_power",
    "peak",
    "window_slopes",
]

_EVERYTHING = (0.0, np.inf)


@dataclass(frozen=True, eq=False, repr=False)
class Slope(Estimate):
    """A fitted exponent ``value``: y ∝ x^value, or ln y = value · x for a rate.

    Attributes
    ----------
    intercept : float
        ln y at ln x = 0 (x = 0 for a rate).
    points : int
        How many points the fit used; ``n`` counts the independent groups.
    window : (float, float)
        The range of x that the points lie in.
    """

    intercept: float = 0.0
    points: int = 0
    window: tuple[float, float] = _EVERYTHING


def log_log_slope(x, y, window=None, resamples: int = 1000, seed: int = 0) -> Slope:
    """Least-squares slope of ln y against ln x, pooled over groups; the error comes from the groups.

    Raises ValueError for fewer than two groups, fewer than two points in a group, or numbers that are not
    finite.

    Parameters
    ----------
    x, y : (groups, points), or a sequence of groups of different lengths
        One group for each independent repeat (a training seed), all points of which are resampled together:
        the points of one network are not independent. Points that are not positive are left out.
    window : (low, high), optional
        Keeps low ≤ x ≤ high.
    resamples, seed : int
        Of the bootstrap.
    """
    groups = _groups(x, y, window)
    if any(len(u) < 2 for u, _ in groups):
        raise _check.refused("window", window, "wide enough to leave at least two points in each group")
    if len(groups) < 2:
        raise ValueError(f"x holds {len(groups)} groups: must be at least two independent ones")
    # sums of 1, u, v, u², uv of each group: a resample is a sum of rows
    sums = np.array([[len(u), u.sum(), v.sum(), u @ u, u @ v] for u, v in groups])
    with np.errstate(all="ignore"):
        value, intercept = _line(sums.sum(0))
        error = bootstrap_error(lambda draw: _line(sums[draw].sum(0))[0], len(groups), resamples, seed)
    if not np.isfinite([value, intercept, error]).all():
        raise ValueError("x, window: must leave different values of x in each group")
    return _slope(value, error, intercept, groups, "least squares of the logarithms, bootstrap over groups")


def common_slope(x, y, window=None) -> Slope:
    """Least-squares slope of ln y against ln x, common to all runs, each run with an intercept of its own.

    The error is the usual standard error from the scatter about the lines, so one run is enough; it takes
    that scatter as independent from point to point. ``intercept`` is the mean of the runs'. Raises ValueError
    when fewer than three points are left over after one intercept a run, or numbers are not finite.

    Parameters
    ----------
    x, y : (runs, points), or a sequence of runs of different lengths
    window : (low, high), optional
        Keeps low ≤ x ≤ high; runs that leave fewer than two points in it do not count.
    """
    groups = [(u, v) for u, v in _groups(x, y, window) if len(u) >= 2]
    count = sum(len(u) for u, _ in groups)
    if count - len(groups) < 3:
        allowed = f"wide enough to leave three points more than runs, not {count} in {len(groups)}"
        raise _check.refused("window", window, allowed)
    squares = sum(((u - u.mean()) ** 2).sum() for u, _ in groups)
    if not squares > 0:
        raise ValueError("x, window: must leave different values of x in a run")
    slope = float(sum(((u - u.mean()) * v).sum() for u, v in groups) / squares)
    rest = sum(((v - v.mean() - slope * (u - u.mean())) ** 2).sum() for u, v in groups)
    error = float(np.sqrt(rest / (count - len(groups) - 1) / squares))
    intercept = float(np.mean([v.mean() - slope * u.mean() for u, v in groups]))
    return _slope(slope, error, intercept, groups, "least squares of the logarithms, scatter about the lines")


def window_slopes(x, y, windows) -> np.ndarray:
    """Least-squares slope of ln y against ln x of each group in each window, (groups, windows).

    No pooling and no error: that is the scatter between the groups. Raises ValueError for a window that
    leaves fewer than three points in a group, or none that differ.

    Parameters
    ----------
    x, y : (groups, points), or a sequence of groups of different lengths
    windows : sequence of (low, high) or None
        Each keeps low ≤ x ≤ high, None everything; as a rule they are disjoint.
    """
    slopes = []
    for window in _sequence("windows", windows):
        window = _window(window, "windows")
        groups = [(u - u.mean(), v) for u, v in _groups(x, y, window) if len(u) >= 3]
        if len(groups) < len(x) or not all(u @ u > 0 for u, _ in groups):
            raise _check.refused("windows", windows, "wide enough for three different points in each group")
        slopes.append([u @ v / (u @ u) for u, v in groups])
    return np.array(slopes).T


def halves(x, window, span: float = 10.0):
    """Cut a range of x at its geometric middle, where every run reaches down into it.

    Raises ValueError for numbers out of range.

    Parameters
    ----------
    x : (runs, points)
        Positive; one run may have another length than the next.
    window : (low, high)
        The range; it ends at the least x of the run that reaches least far.
    span : float
        The factor that the rest of the range must span, above 1.

    Returns
    -------
    ((middle, high), (low, middle)) or None
        None where the runs do not span the range.
    """
    low, high = _check.array("window", window, shape=(2,), least=0, increasing=True).tolist()
    span = _check.number("span", span, above=1)
    low = max(low, *(float(_check.array("x", run, ndim=1, above=0).min()) for run in _sequence("x", x)))
    if high < span * low * (1 - 1e-9):
        return None
    middle = (low * high) ** 0.5
    return (middle, high), (low, middle)


def half_slopes(x, y, window, span: float = 10.0) -> list[Slope] | None:
    """:func:`common_slope` of y against x in the two :func:`halves` of a range; None if the runs do not tell.

    They do not if they do not span the range, or leave too few points for a slope in one of its halves.
    Arguments and errors as there.
    """
    windows = halves(x, window, span)
    _groups(x, y, None)  # what is wrong with the numbers themselves is said
    if windows is None:
        return None
    try:
        return [common_slope(x, y, each) for each in windows]
    except ValueError:
        return None


def growth_rate(losses, window: tuple[int, int], resamples: int = 1000, seed: int = 0) -> Slope:
    """Rate at which the mean of ``losses`` grows: slope of its logarithm against the step.

    Raises ValueError for a window outside 0…T or of fewer than two steps, fewer than two trajectories, or
    losses that are not finite and positive there.

    Parameters
    ----------
    losses : (R, T + 1)
        One row a trajectory; whole trajectories are resampled for the error.
    window : (first, last)
        Steps that the line is fitted to, both included.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    Slope
        ``window`` in steps.
    """
    losses = _check.array("losses", losses, shape=(None, None), infinite=True)
    last = losses.shape[1] - 1
    steps = _check.array("window", window, shape=(2,), dtype=int, least=0, most=last, increasing=True)
    first, last = map(int, steps)
    runs = _runs("losses", losses)
    part = losses[:, first : last + 1]
    if not np.isfinite(part).all():
        raise _check.refused("window", window, "one that ends before a run diverges")
    if not (part.mean(0) > 0).all():
        raise ValueError("losses: their mean must be positive in the window")
    t = np.arange(part.shape[1]) - (part.shape[1] - 1) / 2

    def rate(rows):
        return float(t @ np.log(part[rows].mean(0)) / (t @ t))

    whole = np.arange(len(part))
    middle = float(np.log(part.mean(0)).mean() - rate(whole) * (first + last) / 2)
    error = bootstrap_error(rate, runs, resamples, seed)
    method = "least squares of the logarithm of the mean, bootstrap over trajectories"
    return Slope(rate(whole), error, runs, method, middle, part.shape[1], (first, last))


def passage_power(steps, levels, *, times=None, between=None, resamples: int = 400, seed: int = 0) -> Slope:
    """Power x of t_p ∝ c^x: least-squares slope of log mean first-passage time against log c.

    The points along c come from the same runs, so whole runs are resampled for the error. Raises ValueError
    if runs did not reach a level used, or fewer than three levels or two runs are left.

    Parameters
    ----------
    steps : (R, C)
        First-passage steps of R independent runs, −1 where a run did not reach a level.
    levels : (C,)
        c, positive and increasing.
    times, between : (low, high)
        Exactly one is given: the levels used are those whose mean time lies in ``times``, or those that lie
        in ``between``. ``window`` of the result is in c.
    """
    levels = _check.array("levels", levels, ndim=1, above=0, increasing=True)
    steps = _check.array("steps", steps, shape=(None, len(levels)))
    if (times is None) == (between is None):
        raise ValueError(f"times={times}, between={between}: exactly one of them is to be given")
    name, given = ("between", between) if times is None else ("times", times)
    low, high = _window(given, name)
    reached = (steps >= 0).all(0)
    mean = np.where(reached, steps.mean(0), np.inf)
    scale = levels if times is None else mean
    used = np.flatnonzero((scale >= low) & (scale <= high))
    if len(used) < 3 or not (reached & (mean > 0))[used].all():
        raise ValueError(
            f"{name}={(low, high)}: must leave at least three levels, all reached by every run in steps; it "
            f"leaves {len(used)}, {int(reached[used].sum())} of them reached"
        )
    logs, kept = np.log(levels[used]), steps[:, used]

    def power(rows):
        return np.polyfit(logs, np.log(kept[rows].mean(0)), 1)

    value, intercept = map(float, power(slice(None)))
    error = bootstrap_error(lambda rows: power(rows)[0], _runs("steps", kept), resamples, seed)
    method = "least squares of the logarithm of the mean, bootstrap over runs"
    ends = (float(levels[used[0]]), float(levels[used[-1]]))
    return Slope(value, error, len(steps), method, intercept, len(used), ends)


def onset(control, squares, window=(0.03, 0.3), degree=2, resamples=400, seed=0) -> Estimate:
    """Value of the control parameter at which a squared amplitude starts from zero.

    Near a continuous transition the control Δ is a smooth function of the squared amplitude s. Where order
    comes from a balance "restoring force = Δ × polynomial in s", it is 1/Δ that is close to a polynomial, so
    1/Δ(s) is fitted to the points with s in ``window`` and extrapolated to s = 0. Points below the window are
    rounded by fluctuations, points above it need higher powers. Raises ValueError if fewer than ``degree`` +
    2 points fall into the window, for one trajectory, or for numbers that are not finite.

    Parameters
    ----------
    control : (n,)
        Δ, positive.
    squares : (n, trajectories)
        s of each trajectory, such as its time average of x². Each trajectory is resampled as a whole.
    window : (low, high)
        Applied to the mean of s.
    degree : int
        Of the polynomial.
    resamples, seed : int
        Of the bootstrap.
    """
    control = _check.array("control", control, ndim=1, above=0)
    squares = _check.array("squares", squares, shape=(len(control), None))
    degree, (low, high) = _check.integer("degree", degree, least=1), _window(window)
    mean = squares.mean(axis=-1)
    inside = (mean > low) & (mean < high)
    if inside.sum() < degree + 2:
        allowed = f"wide enough for degree {degree}: {degree + 2} points, it holds {inside.sum()}"
        raise _check.refused("window", window, allowed)
    inverse, per = 1 / control[inside], squares[inside]

    def at_zero(rows):
        means = per[:, rows].mean(axis=1)
        return 1 / np.polynomial.Polynomial.fit(means, inverse, degree)(0.0)

    runs = _runs("squares", per.T)
    with np.errstate(all="ignore"):
        error = bootstrap_error(at_zero, runs, resamples, seed)
        value = float(at_zero(np.arange(runs)))
    _check.finite((value, error), control=control, squares=squares, window=window)
    method = f"polynomial of degree {degree} in the square, bootstrap over trajectories"
    return Estimate(value, error, runs, method)


def peak(control, times, half_width=3, resamples=400, seed=0) -> Estimate:
    """Position of the maximum of a mean time on a logarithmic scale, by a parabola through its neighbours.

    Raises ValueError if the highest mean lies within ``half_width`` of an end, or is none, for one
    trajectory, or numbers that are not positive.

    Parameters
    ----------
    control : (n,)
        Positive and increasing.
    times : (n, trajectories)
        Positive.
    half_width : int
        Points on either side of the highest that the parabola is fitted to.
    resamples, seed : int
        Of the bootstrap.
    """
    logs = np.log(_check.array("control", control, ndim=1, above=0, increasing=True))
    times = _check.array("times", times, shape=(len(logs), None), above=0)
    half_width = _check.integer("half_width", half_width, least=1)
    top = int(times.mean(axis=-1).argmax())
    if not half_width <= top < len(logs) - half_width:
        raise ValueError(
            f"control, times, half_width={half_width}: the maximum (point {top} of {len(logs)}) is too near "
            "an end"
        )
    near = slice(top - half_width, top + half_width + 1)

    def vertex(rows):
        means = times[near][:, rows].mean(axis=1)
        curve, slope, _ = np.polyfit(logs[near] - logs[top], np.log(means), 2)
        return np.exp(logs[top] - slope / (2 * curve))

    runs = _runs("times", times.T)
    with np.errstate(all="ignore"):
        error, value = bootstrap_error(vertex, runs, resamples, seed), float(vertex(np.arange(runs)))
    _check.finite((value, error), control=control, times=times)
    return Estimate(value, error, runs, "parabola of the logarithms, bootstrap over trajectories")


def limit_by_halving(values) -> tuple:
    """Limit h → 0 of values at h, h/2, h/4, …, as a polynomial in h (Neville), and its change with the last.

    The change with the last power of h is an upper bound of the error in practice.

    Parameters
    ----------
    values : (n, …)
        The first axis runs over h/2^k. Raises ValueError for fewer than two values along it.
    """
    table = _check.array("values", values)
    if not table.ndim or len(table) < 2:
        raise _check.refused("values", values, "two or more values along the first axis")
    for order in range(1, len(table)):
        before, table = table[-1], table[1:] + (table[1:] - table[:-1]) / (2.0**order - 1)
    return table[0], abs(table[0] - before)


def half_lost(control, lost, resamples=400, seed=0) -> Estimate:
    """Value of the control at which half of the trajectories are lost, and its error.

    Logarithmic interpolation at the first crossing of ½. The error is the spread over draws from the Jeffreys
    posterior of each share: none lost among n is not the same as none ever lost. Raises ValueError if the
    fraction lost does not cross ½, or control does not increase.

    Parameters
    ----------
    control : (n,)
        Increasing and positive.
    lost : (n, trajectories) of bool
    resamples, seed : int
        Draws from the posterior.
    """
    control = np.log(_check.array("control", control, ndim=1, above=0, increasing=True))
    lost = _check.array("lost", lost, shape=(len(control), None), dtype=bool).astype(float)
    fraction = lost.mean(axis=1)
    if fraction[0] >= 0.5 or fraction.max() < 0.5:
        raise ValueError(
            f"control, lost: the fraction lost runs from {fraction[0]:g} to {fraction.max():g}, not across ½"
        )

    def crossing(values):
        # a draw that never crosses ½ does so at an end
        first = max(int(np.argmax(values >= 0.5)), 1) if values.max() >= 0.5 else len(values) - 1
        share = np.clip((0.5 - values[first - 1]) / (values[first] - values[first - 1]), 0, 1)
        return np.exp(control[first - 1] + share * (control[first] - control[first - 1]))

    resamples = _check.integer("resamples", resamples, least=2, most=10**6)
    rng, n = np.random.default_rng(_check.integer("seed", seed, least=0)), lost.shape[1]
    drawn = rng.beta(lost.sum(axis=1) + 0.5, n - lost.sum(axis=1) + 0.5, (resamples, len(control)))
    error = float(np.std([crossing(row) for row in drawn], ddof=1))
    return Estimate(float(crossing(fraction)), error, n, "logarithmic interpolation, Jeffreys posterior")


def _window(window, name="window") -> tuple[float, float]:
    """(low, high) of a window, checked; everything for None."""
    if window is None:
        return _EVERYTHING
    ends = _check.array(name, window, shape=(2,), infinite=True, increasing=True)
    return float(ends[0]), float(ends[1])


def _runs(name, rows) -> int:
    """How many runs there are along the first axis; a single one has no spread."""
    if len(rows) < 2:
        raise ValueError(f"{name}: holds {len(rows)} run, must be at least two independent ones for an error")
    return len(rows)


def _sequence(name, value):
    """A sequence of groups; its members are still to be checked."""
    if (
        isinstance(value, (str, bytes, dict))
        or not getattr(value, "shape", (1,))
        or not hasattr(value, "__len__")
    ):
        raise _check.refused(name, value, "a sequence of groups of numbers")
    if not len(value):
        raise _check.refused(name, value, "a sequence of at least one group")
    return value


def _groups(x, y, window):
    """(ln x, ln y) of each group, of the points that are positive and within the window."""
    (low, high), groups = _window(window), []
    x, y = _sequence("x", x), _sequence("y", y)
    if len(x) != len(y):
        raise ValueError(f"x holds {len(x)} groups and y {len(y)}: must be as many")
    for one_x, one_y in zip(x, y, strict=True):
        one_x = _check.array("x", one_x, ndim=1)
        one_y = _check.array("y", one_y, shape=one_x.shape, infinite=True)
        keep = (one_x > 0) & (one_y > 0) & (one_x >= low) & (one_x <= high)
        if not np.isfinite(one_y[keep]).all():
            raise _check.refused("y", one_y, "finite in the window")
        groups.append((np.log(one_x[keep]), np.log(one_y[keep])))
    return groups


def _slope(value, error, intercept, groups, method) -> Slope:
    every = np.concatenate([u for u, _ in groups])
    window = float(np.exp(every.min())), float(np.exp(every.max()))
    return Slope(value, error, len(groups), method, intercept, len(every), window)


def _line(sums):
    count, u, v, uu, uv = sums
    slope = (count * uv - u * v) / (count * uu - u * u)
    return float(slope), float((v - slope * u) / count)
