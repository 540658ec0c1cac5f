"""Figures of the chapter on flatness in training: drawing only, everything shown comes in as arguments."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator

from flatmin.ledger import plots

#: colour, line style and marker of what is drawn side by side
_LOOKS = (
    {"color": plots.COLOURS["sgd"], "ls": "-", "marker": "o"},
    {"color": plots.COLOURS["gd"], "ls": (0, (1, 1)), "marker": "s"},
    {"color": plots.COLOURS["gld"], "ls": (0, (4, 1.5, 1, 1.5)), "marker": "^"},
    {"color": plots.COLOURS["sharp"], "ls": (0, (3, 1.5)), "marker": "v"},
    {"color": plots.COLOURS["flat"], "ls": (0, (6, 2)), "marker": "D"},
)


def _mean(values):
    """Mean over starts, the first axis, and its standard error, of what is finite."""
    values = np.asarray(values, dtype=float)
    good = np.isfinite(values)
    count = good.sum(0)
    filled = np.where(good, values, 0.0)
    mean = filled.sum(0) / np.maximum(count, 1)
    spread = np.where(good, values - mean, 0.0)
    error = np.sqrt((spread**2).sum(0) / np.maximum(count - 1, 1) / np.maximum(count, 1))
    return np.where(count, mean, np.nan), np.where(count > 1, error, 0.0)


def _band(ax, x, logs, label, look):
    """exp of the mean over starts as a line, of ± its standard error as a band."""
    mean, error = _mean(logs)
    line = {name: look[name] for name in ("color", "ls")}
    ax.plot(x, np.exp(mean), label=label, **line)
    ax.fill_between(x, np.exp(mean - error), np.exp(mean + error), color=look["color"], alpha=0.2, lw=0)


def _plain(axis):
    """Plain numbers on a logarithmic axis that spans about a decade."""
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.set_minor_formatter("{x:g}")


def along(rows, taus):
    """F against ηt (left) and against the loss (right), a row of panels each.

    ``rows``: (title, {label: (loss (S, T), ln F (S, T))}); the start, ηt = 0, is left out.
    """
    figure, axes = plt.subplots(len(rows), 2, figsize=(8, 3.1 * len(rows)), squeeze=False, sharey="row")
    for (left, right), (title, runs) in zip(axes, rows, strict=True):
        for (label, (loss, logs)), look in zip(runs.items(), _LOOKS, strict=False):
            _band(left, taus[1:], logs[:, 1:], label, look)
            middle = np.exp(_mean(np.log(np.where(np.isfinite(loss), loss, np.nan)))[0])
            _band(right, middle[1:], logs[:, 1:], label, look)
        left.set(xscale="log", yscale="log", xlabel="ηt", ylabel=f"flatness F, {title}")
        right.set(xscale="log", xlabel="training loss")
        right.invert_xaxis()
        right.tick_params(labelleft=True, which="both")
        left.legend(fontsize=9)
        _plain(left.yaxis)
    plots.label_panels(axes)
    return figure


def differences(panels):
    """Differences of ln F with their errors, three of which decide, one row each.

    ``panels``: (title, {row: {label: Estimate}}), the same rows in each panel.
    """
    size = (4.7 * len(panels), 0.8 + 0.45 * len(panels[0][1]))
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for ax, (title, rows) in zip(axes[0], panels, strict=True):
        for place, found in enumerate(rows.values()):
            for shift, ((label, estimate), look) in enumerate(zip(found.items(), _LOOKS, strict=False)):
                at = place + 0.16 * (shift - (len(found) - 1) / 2)
                how = {"color": look["color"], "marker": look["marker"], "ls": "none", "ms": 5}
                name = label if not place else None
                ax.errorbar(estimate.value, at, xerr=3 * estimate.error, label=name, **how)
        ax.axvline(0, color="0.5", lw=0.8, ls="-")
        ax.set(xlabel="difference of ln F", title=title, yticks=range(len(rows)), yticklabels=list(rows))
        ax.invert_yaxis()
    axes[0, -1].legend(fontsize=9)
    plots.label_panels(axes)
    return figure


def edges(panels, taus):
    """ηλ₁/2 along training; 1 is the edge of gradient descent.

    ``panels``: (title, {label: ηλ₁/2 (S, T)}).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(9.6, 3.2), sharey=True, squeeze=False)
    for ax, (title, runs) in zip(axes[0], panels, strict=True):
        for (label, ratio), look in zip(runs.items(), _LOOKS, strict=False):
            _band(ax, taus[1:], np.log(ratio[:, 1:]), label, look)
        ax.axhline(1, color=plots.colour("theory"), lw=1, ls="-")
        ax.set(xscale="log", yscale="log", xlabel="ηt", title=title)
        ax.tick_params(labelleft=True)
    axes[0, 0].set_ylabel(r"$\eta\lambda_1/2$")
    axes[0, 0].legend(fontsize=9)
    plots.label_panels(axes)
    return figure


def switches(panels, times):
    """ln F at the end above that of gradient descent throughout, against when the method was switched.

    ``panels``: (title, {label: list of Estimate, one a time}, Estimate of SGD throughout), two in a row.
    """
    rows = (len(panels) + 1) // 2
    figure, axes = plt.subplots(rows, 2, figsize=(8, 3 * rows), sharey=True, sharex=True, squeeze=False)
    for ax, (title, runs, throughout) in zip(axes.flat, panels, strict=False):
        for (label, found), look in zip(runs.items(), (_LOOKS[0], _LOOKS[1]), strict=True):
            shown = {"color": look["color"], "marker": look["marker"], "ls": look["ls"], "ms": 5}
            values, errors = [one.value for one in found], [one.error for one in found]
            ax.errorbar(times, values, yerr=errors, label=label, **shown)
        value, error = throughout
        ax.axhspan(value - error, value + error, color="0.85", label="SGD throughout")
        ax.axhline(0, color="0.5", lw=0.8, ls="-")
        ax.set(xscale="log", title=title)
        ax.set_xticks(times, [f"{time:g}" for time in times])
        ax.minorticks_off()
        ax.tick_params(labelleft=True)
    for ax in axes[-1]:
        ax.set_xlabel(r"switched at $\eta t_s$")
    for ax in axes[:, 0]:
        ax.set_ylabel("ln F above descent")
    axes[0, 0].legend(fontsize=9)
    plots.label_panels(axes)
    return figure


def scaling(growth, copied, taus, curves):
    """The scaling explanation: (a) growth of the weights, (b) of ln F, (c) the two flatnesses along training.

    ``growth``: {layer: ln growth over ln s (S,)}; ``copied``: {label: growth of ln F (S,)};
    ``curves``: {label: ln F less its value at the reference (S, T)}.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2))
    for ax, found in ((axes[0], growth), (axes[1], copied)):
        for place, values in enumerate(found.values()):
            values = np.asarray(values, dtype=float)
            values = values[np.isfinite(values)]
            spread = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(len(values))
            ax.plot(place + spread, values, "o", ms=3, color=plots.colour("sgd"), alpha=0.5)
            ax.plot(
                [place - 0.3, place + 0.3], [values.mean()] * 2, color=plots.colour("theory"), lw=1.5, ls="-"
            )
        ax.set_xticks(range(len(found)), list(found), rotation=30, ha="right", fontsize=9)
    axes[0].axhline(1, **{"color": plots.colour("printed"), "ls": plots.LINES["printed"], "lw": 1.2})
    axes[0].set_ylabel(r"$\ln$ growth of $\|W_l\|$ over $\ln s$")
    axes[1].set_ylabel("growth of ln F")
    for (label, logs), look in zip(curves.items(), _LOOKS, strict=False):
        mean, error = _mean(logs)
        axes[2].plot(taus[1:], mean[1:], color=look["color"], ls=look["ls"], label=label)
        low, high = (mean - error)[1:], (mean + error)[1:]
        axes[2].fill_between(taus[1:], low, high, color=look["color"], alpha=0.2, lw=0)
    axes[2].set(xscale="log", xlabel="ηt", ylabel=f"ln F less that at ηt = {taus[-1]:g}")
    axes[2].legend(fontsize=9)
    plots.label_panels(axes)
    return figure


def accuracy(groups):
    """Test accuracy against ln F at the end, one point a run.

    ``groups``: (title, {label: (ln F (S,), accuracy (S,))}).
    """
    figure, axes = plt.subplots(1, len(groups), figsize=(9.6, 3.2), squeeze=False, sharey=True)
    for ax, (title, runs) in zip(axes[0], groups, strict=True):
        for (label, (logs, found)), look in zip(runs.items(), _LOOKS, strict=False):
            ax.plot(logs, found, ls="none", marker=look["marker"], color=look["color"], ms=4, label=label)
        ax.set(xlabel="ln F", title=title)
        ax.tick_params(labelleft=True)
    axes[0, 0].set_ylabel("test accuracy")
    axes[0, 0].legend(fontsize=9)
    plots.label_panels(axes)
    return figure
