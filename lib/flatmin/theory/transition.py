"""Where a measured order parameter leaves zero, and where half of an ensemble is lost."""

from __future__ import annotations

import numpy as np

from flatmin.theory.simulate import Estimate

__all__ = ["half_lost", "onset", "peak"]


def onset(control, squares, window=(0.03, 0.3), degree=2, resamples=400, seed=0) -> Estimate:
    """Value of the control parameter at which a squared amplitude starts from zero.

    Near a continuous transition the control Δ is a smooth function of the squared amplitude s. Where
    order comes from a balance "restoring force = Δ × polynomial in s", it is 1/Δ that is close to a
    polynomial, so 1/Δ(s) is fitted to the points with s in ``window`` and extrapolated to s = 0. Points
    below the window are rounded by fluctuations, points above it need higher powers.

    Parameters
    ----------
    control : array, (n,), positive
    squares : array, (n, trajectories)
        s of each trajectory, such as its time average of x².
    window : (low, high), applied to the mean of s
    degree : int
    resamples, seed
        Bootstrap over trajectories, for the standard error.

    Raises
    ------
    ValueError
        If fewer than ``degree`` + 2 points fall into the window.
    """
    control, squares = np.asarray(control, dtype=float), np.asarray(squares, dtype=float)
    mean = squares.mean(axis=-1)
    inside = (mean > window[0]) & (mean < window[1])
    if inside.sum() < degree + 2:
        raise ValueError(
            f"window {window} holds {inside.sum()} points: a fit of degree {degree} needs {degree + 2}"
        )
    inverse, per = 1 / control[inside], squares[inside]

    def at_zero(means):
        return 1 / np.polynomial.Polynomial.fit(means, inverse, degree)(0.0)

    # one draw of trajectories per row; the same for all points, since each point has its own streams
    chosen = np.random.default_rng(seed).integers(0, per.shape[1], (resamples, per.shape[1]))
    values = [at_zero(per[:, c].mean(axis=1)) for c in chosen]
    return Estimate(float(at_zero(mean[inside])), float(np.std(values, ddof=1)), per.shape[1])


def peak(control, times, half_width=3, resamples=400, seed=0) -> Estimate:
    """Position of the maximum of a mean time on a logarithmic scale, by a parabola through its neighbours.

    Parameters
    ----------
    control : array, (n,), positive
    times : array, (n, trajectories), positive
    half_width : int
        Points on either side of the highest that the parabola is fitted to.

    Raises
    ------
    ValueError
        If the highest mean lies within ``half_width`` of an end.
    """
    logs, times = np.log(np.asarray(control, dtype=float)), np.asarray(times, dtype=float)
    top = int(times.mean(axis=-1).argmax())
    if not half_width <= top < len(logs) - half_width:
        raise ValueError(f"control: the maximum (point {top} of {len(logs)}) is too near an end")
    near = slice(top - half_width, top + half_width + 1)

    def vertex(means):
        curve, slope, _ = np.polyfit(logs[near] - logs[top], np.log(means), 2)
        return np.exp(logs[top] - slope / (2 * curve))

    chosen = np.random.default_rng(seed).integers(0, times.shape[1], (resamples, times.shape[1]))
    values = [vertex(times[near][:, c].mean(axis=1)) for c in chosen]
    return Estimate(float(vertex(times[near].mean(axis=1))), float(np.std(values, ddof=1)), times.shape[1])


def half_lost(control, lost, resamples=400, seed=0) -> Estimate:
    """Value of the control at which half of the trajectories are lost, and its bootstrap error.

    Logarithmic interpolation at the first crossing of ½.

    Parameters
    ----------
    control : array, (n,), increasing and positive
    lost : bool array, (n, trajectories)

    Raises
    ------
    ValueError
        If the fraction lost does not cross ½.
    """
    control, lost = np.log(np.asarray(control, dtype=float)), np.asarray(lost, dtype=float)
    fraction = lost.mean(axis=1)
    if fraction[0] >= 0.5 or fraction.max() < 0.5:
        raise ValueError(
            f"control: the fraction lost runs from {fraction[0]:g} to {fraction.max():g}, not across ½"
        )

    def crossing(values):
        first = max(int(np.argmax(values >= 0.5)), 1)
        share = (0.5 - values[first - 1]) / (values[first] - values[first - 1])
        return np.exp(control[first - 1] + share * (control[first] - control[first - 1]))

    rng, n = np.random.default_rng(seed), lost.shape[1]
    # drawn from the Jeffreys posterior: none lost among n is not the same as none ever lost
    drawn = rng.beta(lost.sum(axis=1) + 0.5, n - lost.sum(axis=1) + 0.5, (resamples, len(control)))
    values = [crossing(row) for row in drawn]
    return Estimate(float(crossing(fraction)), float(np.std(values, ddof=1)), n)
