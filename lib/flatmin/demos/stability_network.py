"""Pictures of chapter 7 for real networks: the edge along training, flatness against size, the escape."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from flatmin.ledger import plots

__all__ = ["edges_along", "escapes", "flatness_against_size"]

_BATCHES = (("sgd", "o"), ("sharp", "s"))


def edges_along(panels):
    """W22 Fig. 3b beside the exact threshold.

    ``panels``: (title, steps (T,), {B: (bound, exact)}), with the ratios (runs, T) of
    :class:`~flatmin.networks.stability.Edge`. Points are means over runs, bars their standard deviation.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(8.6, 3.8), sharey=True)
    for ax, (title, steps, ratios) in zip(axes, panels, strict=True):
        at = np.maximum(steps, steps[1] / 2)  # the start, which a logarithmic axis has no place for
        for (size, (bound, exact)), (kind, marker) in zip(ratios.items(), _BATCHES, strict=True):
            colour = plots.colour(kind)
            ax.plot(at, bound.mean(0), ls=(0, (6, 3)), lw=1.2, color=colour, label=f"W22's bound, B = {size}")
            error = exact.std(0, ddof=1)
            look = {"marker": marker, "ms": 4, "linestyle": "-", "lw": 0.8}
            plots.points(ax, at, exact.mean(0), error, f"exact, B = {size}", kind, **look)
        ax.axhline(1, color=plots.colour("theory"), lw=1)
        ax.set(xscale="log", ylim=(0, 2.5), xlabel="step", title=title)
    axes[0].set_ylabel("η over the largest stable η")
    axes[-1].legend(fontsize=8, loc="upper right")
    return figure


def flatness_against_size(panels):
    """W22 Fig. 3a for several models.

    ``panels``: (title, [(label, parameters (sizes,), frobenius, trace)]) for one or more step sizes, the
    largest last, with values (sizes, runs). Points are means over runs, bars their standard deviation.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(8.6, 3.6))
    for ax, (title, series) in zip(axes, panels, strict=True):
        for index, (label, parameters, frobenius, trace) in enumerate(series):
            last = index == len(series) - 1
            for values, kind, name in ((trace, "sharp", "Tr H"), (frobenius, "sgd", r"$\|H\|_F$")):
                look = {"fillstyle": "full" if last else "none", "linestyle": "-" if last else ":", "lw": 0.8}
                spread = values.std(1, ddof=1)
                plots.points(ax, parameters, values.mean(1), spread, f"{name}, {label}", kind, **look)
        ax.set(xscale="log", yscale="log", xlabel="parameters P", title=title)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylim(ax.get_ylim()[0] / 2.5, None)  # room for the legend
        ax.legend(fontsize=7, loc="lower right")
    axes[0].set_ylabel("curvature at the end")
    return figure


def escapes(panels, top=10.0):
    """W22 Fig. 4: trajectories of the loss, their mean, and the exact mean of the linearised network.

    ``panels``: (title, losses (R, T + 1), mean (T + 1,), descent (T + 1,), factor), where ``factor`` is the
    growth per step of W22's γ₀ with the alignment measured at the start. Losses above ``top`` are cut off.
    """
    columns = 3
    rows = len(panels) // columns + 1  # one place more than panels, for the legend
    figure, axes = plt.subplots(rows, columns, figsize=(8.6, 2.7 * rows))
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (title, losses, mean, descent, factor) in zip(axes.flat, panels, strict=False):
        t = np.arange(len(mean))
        shown = np.where(np.isfinite(losses), losses, np.nan)
        ax.plot(t, shown.T, color=plots.colour("sgd"), lw=0.4, alpha=0.15, ls="-")
        plots.theory(ax, t, mean, "linearised SGD, exact mean")
        plots.printed(ax, t, losses[0, 0] * factor**t, r"$\gamma_0^t$ with the $\mu$ of the start")
        ax.plot(t, descent, color=plots.colour("gd"), ls=":", label="gradient descent goes on")
        known = (losses < 1e9).all(0)  # from there on the mean is that of runs about to diverge
        error = losses[:, known].std(0, ddof=1) / np.sqrt(len(losses))
        plots.points(ax, t[known], losses[:, known].mean(0), error, "mean of the trajectories", "sharp")
        floor = max(1e-7, np.nanmin(shown) / 2)
        ax.set(yscale="log", ylim=(floor, top), xlabel="step", title=title)
    for ax in axes[:, 0]:
        ax.set_ylabel("loss L")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), fontsize=8, loc="center")
    return figure
