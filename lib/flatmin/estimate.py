"""A measured number with its error, and the bootstrap that most of the errors come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from flatmin import _check

__all__ = ["Estimate", "bootstrap_error", "independent_mean", "proportion", "student"]


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number (or array), its standard error, and what is behind it.

    Attributes
    ----------
    value, error : float or array
        ``error`` is one standard error, 0 where the number is exact.
    n : int or array
        How many independent things the error comes from: trajectories, runs, samples, random vectors; 0
        where the number is exact.
    method : str
        How it was found, in a few words.

    Examples
    --------
    >>> import flatmin as fm
    >>> found = fm.Estimate(0.512, 0.013, 400, "mean over trajectories")
    >>> found
    0.512 ± 0.013 (n = 400; mean over trajectories)
    >>> value, error = found
    """

    value: float | np.ndarray
    error: float | np.ndarray = 0.0
    n: int | np.ndarray = 0
    method: str = ""

    def __iter__(self):
        """Unpack as ``value, error = estimate``."""
        return iter((self.value, self.error))

    def __float__(self) -> float:
        return float(self.value)

    def scaled(self, factor: float) -> Estimate:
        """``factor`` times the number, the error with it; ValueError for a factor that is not finite."""
        factor = _check.number("factor", factor)
        return Estimate(factor * self.value, abs(factor) * self.error, self.n, self.method)

    def inverse(self) -> Estimate:
        """1 over the number, the error to first order; ValueError where it is 0."""
        if not np.all(self.value):
            raise _check.refused("value", self.value, "different from 0")
        return Estimate(1 / self.value, self.error / np.square(self.value), self.n, self.method)

    def __repr__(self) -> str:
        if np.ndim(self.value):
            how = f"; {self.method}" if self.method else ""
            return f"<{type(self).__name__} of shape {np.shape(self.value)}{how}>"
        if not self.error:
            return f"{self.value:.6g} ({self.method or 'exact'})"
        how = f"; {self.method}" if self.method else ""
        return f"{self.value:.6g} ± {self.error:.2g} (n = {self.n}{how})"


def bootstrap_error(
    statistic: Callable[[np.ndarray], float | np.ndarray], n: int, resamples: int = 400, seed: int = 0
) -> np.ndarray | float:
    """Standard error of ``statistic`` over resamples of n independent groups.

    Raises ValueError for numbers out of range.

    Parameters
    ----------
    statistic : callable
        Maps positions (n,), drawn with replacement from 0…n−1, to a number or an array.
    n : int
        How many independent groups there are, at least 1.
    resamples : int
        At least 2.
    seed : int
    """
    _check.instance("statistic", statistic, Callable)
    n = _check.integer("n", n, least=1, most=10**9)
    resamples = _check.integer("resamples", resamples, least=2, most=10**6)
    rng = np.random.default_rng(_check.integer("seed", seed, least=0))
    spread = np.std([statistic(draw) for draw in rng.integers(n, size=(resamples, n))], axis=0, ddof=1)
    return spread if np.ndim(spread) else float(spread)


def student(error: float, freedom: int, sigmas: float = 3.0) -> float:
    """``error`` of few degrees of freedom, scaled so that ``sigmas`` of it reach Student's quantile.

    That is the quantile which as many errors of a normal number reach: 99.73 % for three, 95.45 % for two.
    Where ``freedom`` is small, as many usual errors would be too few. What serves for three is too large for
    two, so ``sigmas`` is that of the comparison.

    Parameters
    ----------
    error : float
        The usual standard error, at least 0.
    freedom : int
        Its degrees of freedom, at least 1: for a mean of k independent numbers k − 1.
    sigmas : float, 0.01…10
        How many of the errors a comparison allows.

    Raises
    ------
    ValueError
        For an argument out of range, or a result beyond a double.
    """
    error = _check.number("error", error, least=0)
    freedom = _check.integer("freedom", freedom, least=1, most=10**9)
    sigmas = _check.number("sigmas", sigmas, least=0.01, most=10)
    # the lower tail: the upper one is 1 but for rounding where there are many sigmas
    scaled = -float(special.stdtrit(freedom, special.ndtr(-sigmas))) / sigmas * error
    return _check.finite(scaled, error=error, freedom=freedom, sigmas=sigmas)


def independent_mean(values, sigmas: float = 3.0) -> Estimate:
    """Mean of independent ``values`` (k,), one a start, a draw or a run, with the error of :func:`student`.

    ``sigmas`` of the error, as many as a comparison allows, reach the quantile of Student's t with k − 1
    degrees of freedom. Raises ValueError for fewer than two values, others than finite numbers, or ``sigmas``
    outside of 0.01…10.
    """
    values = _check.array("values", values, ndim=1)
    if len(values) < 2:
        raise _check.refused("values", values, "at least two independent numbers")
    error = student(float(values.std(ddof=1)) / len(values) ** 0.5, len(values) - 1, sigmas)
    return Estimate(float(values.mean()), error, len(values), "mean of independent values, Student's t")


def proportion(happened) -> Estimate:
    """Share of True along the last axis and its standard error, never zero (rule of succession).

    Raises ValueError for what is no array of truth values, or none of them.
    """
    happened = np.atleast_1d(_check.array("happened", happened, dtype=bool))
    n = happened.shape[-1]
    shrunk = (happened.sum(axis=-1) + 1) / (n + 2)
    return Estimate(happened.mean(axis=-1), np.sqrt(shrunk * (1 - shrunk) / n), n, "rule of succession")
