"""The rules that decide what measured freezing times, spreads and flatness say (Y26 §II).

Runs that share a start are not independent. So every statistic is computed for each shared start alone, and
the value is the mean over starts; its error is scaled so that three errors reach the 99.73 % quantile of
Student's t with (starts − 1) degrees of freedom: 3.1 usual standard errors would be too few where there are
six starts, it takes 5.5.

- *Delay* (Y26 Fig. 2a): ln ηt_f = c + a ln η + b ln f, with f = (n − B)/(B(n − 1)) the covariance of a
  batch's gradient over that of one sample's. A freezing time is known to lie between two checkpoints
  (:func:`bracket`), so the fit is one of intervals (:func:`censored_fit`). The printed claim is reproduced if
  a > 0 and b > 0, each by three errors; the times collapse on the noise ηf if a and b differ by less than two
  errors.
- *Spread, flatness, accuracy* (Fig. 2b–d): the slope of the logarithm (of the accuracy itself) on ln ηf over
  the cells whose runs converged (training accuracy at least :data:`CONVERGED`), also with equal losses.
- *Valleys* (Fig. S1): the share of pairs of runs with a barrier above :data:`BARRIER` on the straight line;
  pairs share runs, so the error comes from leaving out one run at a time (:func:`pair_mean`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import integrate, optimize, special, stats

from flatmin import _check
from flatmin.estimate import Estimate, independent_mean, student

__all__ = [
    "Delay",
    "bracket",
    "censored_fit",
    "delay",
    "expected_best",
    "pair_mean",
    "slopes",
]

#: training accuracy from which on a run counts as converged (Y26 Fig. 2c)
CONVERGED = 0.999
#: largest loss on the straight line above the larger end that is no barrier
BARRIER = 0.01
#: what makes two end points one valley: share of errors on the small test set, on all, predictions, barrier
CRITERIA = {
    "jaccard 0.90": ("few", 0.90),
    "jaccard 0.95": ("few", 0.95),
    "jaccard 0.99": ("few", 0.99),
    "jaccard all 0.90": ("all", 0.90),
    "agreement 0.99": ("agree", 0.99),
    "barrier 0.01": ("barrier", BARRIER),
}


def _groups(starts, length):
    """Positions of each start; at least two starts."""
    starts = _check.array("starts", starts, shape=(length,), dtype=int)
    found = [np.flatnonzero(starts == each) for each in np.unique(starts)]
    if len(found) < 2:
        raise _check.refused("starts", starts, "at least two different ones")
    return found


def _columns(columns, length):
    """The design (n, 1 + k): a constant, then the columns."""
    columns = _check.array("columns", columns, shape=(length, None))
    return np.column_stack([np.ones(length), columns])


def _require_rank(design, names):
    if len(design) <= design.shape[1] or np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(
            f"{names}: must vary independently within a start; {len(design)} rows do not determine "
            f"{design.shape[1]} coefficients"
        )


def slopes(columns, y, starts) -> tuple[Estimate, ...]:
    """Least-squares coefficients of ``y`` on each of the columns and a constant, one fit a start.

    Raises ValueError for numbers that are not finite, fewer than two starts, or a start whose rows do not
    determine the coefficients.

    Parameters
    ----------
    columns : (n, k)
    y : (n,)
    starts : (n,) of int
        Which start each row belongs to.

    Returns
    -------
    tuple of Estimate
        k coefficients, see :func:`~flatmin.estimate.independent_mean`.
    """
    y = _check.array("y", y, ndim=1)
    design, found = _columns(columns, len(y)), []
    for rows in _groups(starts, len(y)):
        _require_rank(design[rows], "columns, starts")
        found.append(np.linalg.lstsq(design[rows], y[rows], rcond=None)[0][1:])
    return tuple(independent_mean(each) for each in np.array(found).T)


def bracket(frozen, times) -> tuple[np.ndarray, np.ndarray]:
    """Between which logarithms a freezing time lies that was found at a checkpoint.

    At the first or second checkpoint: below the second; at the last: above the one before; else between the
    checkpoint and the one before. Raises ValueError for positions outside ``times``, or times that do not
    increase from 0.

    Parameters
    ----------
    frozen : (n,) of int
        Position of t_f among the times.
    times : (T,)
        T ≥ 3 checkpoints, the first 0.

    Returns
    -------
    lower, upper : (n,)
        −∞ or ∞ where there is no bound.
    """
    times = _check.array("times", times, shape=(None,), least=0, increasing=True)
    if len(times) < 3 or times[0] != 0:
        raise _check.refused("times", times, "at least three times, the first 0")
    last = len(times) - 1
    frozen = _check.array("frozen", frozen, ndim=1, dtype=int, least=0, most=last)
    logs = np.log(np.maximum(times, np.finfo(float).tiny))
    lower = np.where(frozen <= 1, -np.inf, logs[np.maximum(frozen - 1, 0)])
    return lower, np.where(frozen == last, np.inf, logs[np.maximum(frozen, 1)])


def censored_fit(columns, lower, upper) -> tuple[np.ndarray, float]:
    """Maximum-likelihood line for a normal y of which only bounds are known (a Tobit fit of intervals).

    Raises ValueError for bounds in the wrong order, columns that do not determine the coefficients, or too
    few rows that are bounded on both sides.

    Parameters
    ----------
    columns : (n, k)
    lower, upper : (n,)
        lower < y ≤ upper, −∞ and ∞ allowed; equal where y itself is known.

    Returns
    -------
    coefficients : (1 + k,)
        The constant first.
    scatter : float
        Standard deviation of y about the line.
    """
    lower = _check.array("lower", lower, ndim=1, infinite=True)
    upper = _check.array("upper", upper, shape=lower.shape, infinite=True)
    design = _columns(columns, len(lower))
    if (lower > upper).any() or (lower == np.inf).any() or (upper == -np.inf).any():
        raise ValueError("lower, upper: must be in order, lower ≤ upper, and leave room between them")
    _require_rank(design, "columns")
    bounded = np.isfinite(lower) & np.isfinite(upper)
    if bounded.sum() <= design.shape[1] or np.linalg.matrix_rank(design[bounded]) < design.shape[1]:
        raise ValueError(
            f"lower, upper: must bound more rows on both sides than coefficients, not {bounded.sum()}"
        )
    middle = np.where(bounded, (np.where(bounded, lower, 0) + np.where(bounded, upper, 0)) / 2, 0)
    line = np.linalg.lstsq(design[bounded], middle[bounded], rcond=None)[0]
    scatter = max(float(np.std(middle[bounded] - design[bounded] @ line)), 1e-2)

    def minus(parameters):
        return -_likelihood(design @ parameters[:-1], np.exp(parameters[-1]), lower, upper).sum()

    first = np.append(line, np.log(scatter))
    limits = [(None, None)] * len(line) + [(np.log(1e-3 * scatter), np.log(1e3 * scatter))]
    found = optimize.minimize(minus, first, method="Nelder-Mead", bounds=limits, options=_PATIENT).x
    return found[:-1], float(np.exp(found[-1]))


_PATIENT = {"maxiter": 4000, "maxfev": 8000, "xatol": 1e-6, "fatol": 1e-8}


def _likelihood(mean, scatter, lower, upper):
    """Logarithm of P(lower < y ≤ upper), or of the density where the bounds are equal."""
    a, b = (lower - mean) / scatter, (upper - mean) / scatter
    flip = a > 0  # in the upper tail by symmetry: there a difference of Φ keeps its digits
    a, b = np.where(flip, -b, a), np.where(flip, -a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        top, bottom = special.log_ndtr(b), special.log_ndtr(a)
        inside = top + np.log1p(-np.exp(np.minimum(bottom - top, 0)))
    exact = lower == upper
    density = stats.norm.logpdf(np.where(exact, a, 0)) - np.log(scatter)
    return np.maximum(np.where(exact, density, inside), -1e6)


@dataclass(frozen=True)
class Delay:
    """How freezing times grow with η and with the batch factor f: ln ηt_f = c + a ln η + b ln f.

    Attributes
    ----------
    a, b, difference : Estimate
        ``difference`` is a − b.
    scatter : float
        Standard deviation of ln ηt_f about the line, mean over starts.
    by_start : (starts, 2)
        a and b of each start.
    grows : bool
        a > 0 and b > 0, each by three errors.
    collapses : bool
        |a − b| below two errors: then only the noise ηf counts, as far as these runs can tell.
    """

    a: Estimate
    b: Estimate
    difference: Estimate
    scatter: float
    by_start: np.ndarray

    @property
    def grows(self) -> bool:  # noqa: D102 - an attribute of the class's docstring
        return all(each.value > 3 * each.error for each in (self.a, self.b))

    @property
    def collapses(self) -> bool:  # noqa: D102
        return abs(self.difference.value) < 2 * self.difference.error


def delay(eta, factor, lower, upper, starts) -> Delay:
    """Fit ln ηt_f = c + a ln η + b ln f for each start alone.

    Raises ValueError as :func:`censored_fit`, for fewer than two starts, and for η or f that are not
    positive.

    Parameters
    ----------
    eta, factor : (n,)
        Step size and batch factor (n − B)/(B(n − 1)) of each run.
    lower, upper : (n,)
        Bounds of ln ηt_f, see :func:`bracket`.
    starts : (n,) of int
        The shared start of each run.
    """
    eta = _check.array("eta", eta, ndim=1, above=0)
    factor = _check.array("factor", factor, shape=eta.shape, above=0)
    lower = _check.array("lower", lower, shape=eta.shape, infinite=True)
    upper = _check.array("upper", upper, shape=eta.shape, infinite=True)
    logs, found = np.log(np.column_stack([eta, factor])), []
    for rows in _groups(starts, len(eta)):
        _require_rank(_columns(logs[rows], len(rows)), "eta, factor, starts")
        (_, a, b), scatter = censored_fit(logs[rows], lower[rows], upper[rows])
        found.append((a, b, a - b, scatter))
    found = np.array(found).T
    return Delay(*map(independent_mean, found[:3]), float(found[3].mean()), found[:2].T)


def pair_mean(values) -> Estimate:
    """Mean over the pairs of R runs; the error by leaving out one run at a time (jackknife).

    ``values`` (R, R), symmetric, numbers or truth values of the pairs off the diagonal. Raises ValueError
    for fewer than three runs, or numbers that are not finite.
    """
    values = np.asarray(values)
    if values.dtype == bool:
        values = values.astype(float)
    values = _check.array("values", values, ndim=2)
    runs = len(values)
    if runs < 3 or values.shape != (runs, runs) or not np.allclose(values, values.T, rtol=1e-9, atol=0):
        raise _check.refused("values", values, "symmetric, (R, R) for three runs or more")
    off = values - np.diag(np.diag(values))
    total, without = off.sum(), off.sum() - 2 * off.sum(0)
    left = without / ((runs - 1) * (runs - 2))
    error = float(np.sqrt((runs - 1) * left.var()))
    mean = float(total / (runs * (runs - 1)))
    return Estimate(mean, student(error, runs - 1), runs, "mean over pairs, jackknife")


def expected_best(mean: float, spread: float, runs: int) -> float:
    """Expected largest of ``runs`` independent normal numbers of that mean and standard deviation ``spread``.

    What "the best of 20" gains by a larger spread alone. Raises ValueError for a negative spread, or runs
    below 1.
    """
    mean = _check.number("mean", mean)
    spread = _check.number("spread", spread, least=0)
    runs = _check.integer("runs", runs, least=1, most=10**6)

    def beyond(z):
        return 1 - special.ndtr(z) ** runs - special.ndtr(-z) ** runs

    gain = 0.0 if runs == 1 else integrate.quad(beyond, 0, 12)[0]
    return _check.finite(mean + spread * gain, mean=mean, spread=spread)
