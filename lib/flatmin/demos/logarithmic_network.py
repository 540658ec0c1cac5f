"""Pictures of the even/odd network of the chapter on the logarithmic landscape (M22 Fig. 3c)."""

import numpy as np

from flatmin.ledger import plots
from flatmin.networks import escape

_MARKERS = "os^Dv"


def mean_times(steps, levels):
    """Mean first-passage step over runs (R, C) and its error, at the levels that every run reached."""
    reached = (np.asarray(steps) >= 0).all(axis=0)
    kept = steps[:, reached]
    return levels[reached], kept.mean(axis=0), kept.std(axis=0, ddof=1) / np.sqrt(len(kept))


def show_times(ax, levels, series, printed, every=4):
    """Mean first-passage time t_p = ηk against c, log–log.

    ``series`` is a list of (label, η, steps (R, C), steps of the tangent model (R', C)), ``printed`` M22's
    power for each of them, drawn as a short dashed line through the measurement.
    """
    blues = np.array([[0.62, 0.79, 0.88], [0.26, 0.57, 0.78], [0.03, 0.19, 0.42]])
    position = np.linspace(0, 1, len(series))
    tones = np.column_stack([np.interp(position, [0, 0.5, 1], part) for part in blues.T])
    for (label, eta, steps, tangent), power, tone, marker in zip(
        series, printed, tones, _MARKERS, strict=False
    ):
        c, mean, error = mean_times(steps, levels)
        some = slice(1, None, every)
        ax.errorbar(c[some], eta * mean[some], eta * error[some], fmt=marker, ms=4, color=tone, label=label)
        c_line, line, _ = mean_times(tangent, levels)
        plots.theory(ax, c_line, eta * line, linewidth=1)
        middle = np.abs(np.log(mean / 30)).argmin()
        span = c[middle] * np.array([0.85, 1.18])
        plots.printed(ax, span, eta * mean[middle] * (span / c[middle]) ** power, None, linewidth=1.6)
    plots.theory(ax, [], [], "linearised network", linewidth=1)
    plots.printed(ax, [], [])
    ax.set(xscale="log", yscale="log", xlabel="c = L/L*", ylabel=r"mean first-passage time $t_p=\eta k$")
    ax.set_xticks([1, 1.5, 2, 3, 4, 6], ["1", "1.5", "2", "3", "4", "6"])
    ax.minorticks_off()
    ax.legend(fontsize=8)


def show_paths(ax, path, level, runs=3, around=30):
    """The loss of the first runs around their first passage of ``level``; ``path`` (R, 2W + 1) in L*."""
    passed = path[np.isfinite(path[:, path.shape[1] // 2])]
    centre = path.shape[1] // 2
    time = np.arange(-around, around + 1)
    shown = passed[:runs, centre - around : centre + around + 1]
    for row, style in zip(shown, ("-", "--", ":"), strict=False):
        ax.plot(time, row, style, color=plots.colour("sgd"), lw=1)
    with np.errstate(all="ignore"):
        middle = np.nanmedian(passed[:, centre - around : centre + around + 1], axis=0)
    plots.theory(ax, time, middle, "median over runs", linewidth=2)
    ax.axhline(level, color=plots.colour("exact"), lw=1, ls=":")
    ax.set(xlabel="steps after the passage", ylabel="L/L*", yscale="log")
    ax.set_yticks([1, 1.5, 2, 3, 4], ["1", "1.5", "2", "3", "4"])
    ax.minorticks_off()
    ax.legend(fontsize=8)


def show_powers(ax, groups, levels, inverse, window, lines):
    """Fitted power of c against B/(ηh): measured points and the formulas ``lines``.

    ``groups`` is a list of (label, kind, marker, [1/T], [steps (R, C)]), where 1/T = B/(ηh); ``lines`` one of
    (label, kind, offset): power = B/(ηh) + offset over ``inverse`` (2,).
    """
    for label, kind, marker, places, tables in groups:
        found = [escape.passage_power(steps, levels, times=window) for steps in tables]
        values, errors = [fit.value for fit in found], [fit.error for fit in found]
        plots.points(ax, places, values, errors, label, kind, marker=marker, markersize=5)
    for label, kind, offset in lines:
        plots.theory(ax, inverse, np.asarray(inverse) + offset, label, kind, linewidth=1.2)
    ax.set(xlabel=r"$B/(\eta h)$", ylabel="power of c", ylim=(0, None))
    ax.legend(fontsize=8)
