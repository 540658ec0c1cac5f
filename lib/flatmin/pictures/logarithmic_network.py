"""Pictures of the even/odd network of the chapter on the logarithmic landscape (M22 Fig. 3c)."""

import numpy as np

from flatmin.ledger import plots
from flatmin.ledger.claims import approx
from flatmin.networks import passages

_MARKERS = "os^Dv"


def mean_times(steps, levels):
    """Mean first-passage step over runs (R, C) and its error, at the levels that every run reached."""
    reached = (np.asarray(steps) >= 0).all(axis=0)
    kept = steps[:, reached]
    return levels[reached], kept.mean(axis=0), kept.std(axis=0, ddof=1) / np.sqrt(len(kept))


def show_times(ax, levels, series, printed, label, every=4):
    """Mean first-passage time t_p = ηk against c, log–log.

    ``series`` is a list of (label, η, steps (R, C), steps of the tangent model (R', C), those of M22's model
    with discrete steps or None), ``printed`` M22's power for each of them, drawn as a short dashed line
    through the measurement and named ``label``.
    """
    blues = np.array([[0.62, 0.79, 0.88], [0.26, 0.57, 0.78], [0.03, 0.19, 0.42]])
    position = np.linspace(0, 1, len(series))
    tones = np.column_stack([np.interp(position, [0, 0.5, 1], part) for part in blues.T])
    for (name, eta, steps, *models), power, tone, marker in zip(
        series, printed, tones, _MARKERS, strict=False
    ):
        c, mean, error = mean_times(steps, levels)
        some = slice(1, None, every)
        ax.errorbar(c[some], eta * mean[some], eta * error[some], fmt=marker, ms=4, color=tone, label=name)
        for kind, model in zip(("theory", "gld"), models, strict=True):
            if model is not None:
                c_line, line, _ = mean_times(model, levels)
                plots.theory(ax, c_line, eta * line, kind=kind, linewidth=1)
        middle = np.abs(np.log(mean / 30)).argmin()
        span = c[middle] * np.array([0.85, 1.18])
        plots.printed(ax, span, eta * mean[middle] * (span / c[middle]) ** power, None, linewidth=1.6)
    plots.theory(ax, [], [], "linearised network", linewidth=1)
    if any(one[4] is not None for one in series):
        plots.theory(ax, [], [], "M22's model, discrete steps", "gld", linewidth=1)
    plots.printed(ax, [], [], label)
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


def show_powers(ax, groups, ends, lines):
    """Powers of c against 1/T = B/(ηh): fits as points, the formulas ``lines``.

    ``groups`` is a list of (label, kind, marker, [1/T], fits of :func:`powers`), ``lines`` one of
    (label, kind, offset): power = 1/T + offset between the ``ends``.
    """
    for label, kind, marker, places, fits in groups:
        kept = [(place, fit.value, fit.error) for place, fit in zip(places, fits, strict=True) if fit]
        plots.points(ax, *zip(*kept, strict=True), label, kind, marker=marker, markersize=5)
    for label, kind, offset in lines:
        plots.theory(ax, ends, np.asarray(ends) + offset, label, kind, linewidth=1.2)
    ax.set(xlabel=r"$1/T=B/(\eta h)$", ylabel="power of c", ylim=(0, None))
    ax.legend(fontsize=8)


def mean_offset(places, fits):
    """Mean of power − 1/T over the fits that exist, and its error."""
    kept = [(fit.value - place, fit.error) for place, fit in zip(places, fits, strict=True) if fit]
    values, errors = np.array(kept).T
    return float(values.mean()), float(np.linalg.norm(errors)) / len(values)


def powers(tables, levels, windows):
    """Powers of c of a network's passages, and of other models' at the same levels, for each window.

    ``tables`` are first-passage steps (R, C), the network's first; ``windows`` are ranges of its mean time in
    steps. One list of :class:`flatmin.fits.Slope` for each window, None in place of what too few
    levels were reached for by every run.
    """
    found = []
    for times in windows:
        fits = [_power(tables[0], levels, times=times)]
        between = fits[0].window if fits[0] else (1, 1)
        fits += [_power(table, levels, between=between) for table in tables[1:]]
        found.append(fits)
    return found


def _power(table, levels, **where):
    try:
        return passages.passage_power(table, levels, **where)
    except ValueError:
        return None


def in_words(found, windows):
    """The powers of :func:`powers` as text, a line for each window."""
    texts = []
    for (low, high), fits in zip(windows, found, strict=True):
        powers_here = ["–" if fit is None else approx(fit.value, fit.error) for fit in fits]
        texts.append(f"\n    steps {low}–{high}: " + ", ".join(powers_here))
    return "".join(texts)


def log_time_ratio(groups, levels, highest):
    """Mean log of the ratio of two mean passage times, of networks and of their linearisations.

    ``groups`` is a list of (first, second, first linearised, second linearised), (R, C) each; every group is
    compared at the highest of the ``levels`` up to ``highest`` that all its runs reached. Returns
    (log ratio, that of the linearised, error of their difference, levels used).
    """
    logs, errors, used = [], [], []
    for tables in groups:
        reached = np.all([(np.asarray(steps) >= 0).all(axis=0) for steps in tables], axis=0)
        place = np.flatnonzero(reached & (levels <= highest))[-1]
        columns = [np.asarray(steps)[:, place] for steps in tables]
        means = np.log([column.mean() for column in columns])
        logs.append(means[::2] - means[1::2])
        errors += [column.std(ddof=1) / column.mean() / np.sqrt(len(column)) for column in columns]
        used.append(float(levels[place]))
    own, linear = np.mean(logs, axis=0)
    return float(own), float(linear), float(np.linalg.norm(errors)) / len(groups), used


def where_it_passes(local, snapshots, start):
    """Lines of text: curvature and noise along the sharpest direction at the passages, relative to the start.

    ``local`` (runs, snapshots, 2): h and the noise along v in units of 2Lh; ``start`` is h there.
    """
    lines = []
    for level, values in zip(snapshots, np.moveaxis(local, 1, 0), strict=True):
        kept = values[np.isfinite(values).all(axis=1)]
        if len(kept) > 1:
            error = kept.std(axis=0, ddof=1) / np.sqrt(len(kept))
            means = kept.mean(axis=0)
            h, noise = (approx(m, e) for m, e in zip(means / (start, 1), error / (start, 1), strict=True))
            lines.append(f"c = {level:g} ({len(kept)} runs): h/h* = {h}, noise along v/2Lh = {noise}")
    return "\n".join(lines)
