"""Pictures of chapter 10: continuations and their end points, freezing times by several criteria, lines."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from flatmin.ledger import plots

__all__ = [
    "best_of",
    "continuations",
    "control",
    "corridors_along",
    "criteria",
    "ends_along",
    "grid",
    "slopes",
    "two_ways",
    "valleys",
]

_LOOKS = ("sgd", "sharp", "gld", "gd", "printed", "flat")
_THIN = {"color": "0.6", "lw": 0.8, "ls": "-"}


def _look(index):
    """Colour and marker of the series number ``index``."""
    kind = _LOOKS[index % len(_LOOKS)]
    return {"color": plots.colour(kind), "marker": plots.MARKERS.get(kind, "o"), "ms": 4}


def _similarity(ax, times, matrix, frozen=None, label="Jaccard similarity", limits=(0, 1)):
    """A matrix over pairs of continuation times, with a square from the freezing time on."""
    plots.heatmap(ax, times, times, matrix, label, limits=limits)
    ax.set(xlabel=r"$\eta t_c$ of one end point", ylabel="of the other", aspect="equal")
    if frozen is not None:
        low, high = plots.edges(times)[[np.searchsorted(times, frozen), -1]]
        look = {"fill": False, "edgecolor": plots.colour("sharp"), "lw": 2}
        ax.add_patch(Rectangle((low, low), high - low, high - low, **look))


def _band(ax, estimate, kind="exact", label=None):
    """A vertical line at a mean with its standard error as a band."""
    value, error = estimate
    ax.axvspan(value - error, value + error, color=plots.colour(kind), alpha=0.25, lw=0)
    ax.axvline(value, color=plots.colour(kind), ls="--", lw=1.2, label=label)


def two_ways(times, matrix, frozen, curves, threshold=0.9):
    """Left: similarity of all end points of one run. Right: similarity to the last one, for several batches.

    ``curves``: label → (mean (T,), standard error (T,), null), where ``null`` is the mean similarity of the
    last end points of independent runs.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.8, 3.8))
    _similarity(left, times, matrix, frozen, limits=(0.5, 1))
    for index, (label, (mean, error, null)) in enumerate(curves.items()):
        look = _look(index)
        plots.points(right, times, mean, error, label, **look, linestyle="-", lw=0.8)
        right.axhline(null, color=look["color"], ls=(0, (1, 1)), lw=1.4)
    right.axhline(threshold, **_THIN)
    right.set(xlabel=r"$\eta t_c$", ylabel="similarity to the last end point")
    right.legend(title="dotted: independent runs")
    plots.label_panels((left, right))
    return figure


def continuations(sgd, branches, names=("test loss", "flatness F")):
    """Y26 Fig. 1a–c: the plane of the first two principal components, then curves against ηt.

    ``sgd`` and every value of ``branches`` (label → …) are (plane (T, 2), times (T,), [curve (T,), …]) with
    one curve a name; branches start where SGD was left.
    """
    figure, axes = plt.subplots(1, 1 + len(names), figsize=(11, 3.6))
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.95, len(branches)))
    for colour, (label, (plane, times, curves)) in zip(colours, branches.items(), strict=True):
        axes[0].plot(*plane.T, color=colour, ls="-", lw=1.2, label=label)
        axes[0].plot(*plane[0], "x", color=colour, ms=6)
        for ax, curve in zip(axes[1:], curves, strict=True):
            ax.plot(times, curve, color=colour, ls="-", lw=1.2)
    plane, times, curves = sgd
    axes[0].plot(*plane.T, color="0.5", ls="-", lw=0.8, label="SGD", zorder=1)
    for ax, curve, name in zip(axes[1:], curves, names, strict=True):
        ax.plot(times, curve, color="0.5", ls="-", lw=0.8, zorder=1)
        ax.set(xlabel=r"$\eta t$", ylabel=name)
    axes[0].set(xlabel="first principal component", ylabel="second")
    axes[0].legend(title=r"$\eta t_c$", fontsize=7, title_fontsize=8)
    plots.label_panels(axes)
    return figure


def ends_along(times, matrix, frozen, panels, when):
    """Y26 Fig. 1d, e: similarity of the end points of one run, and means over repeats against ηt_c.

    ``panels``: (name, [(label, mean (T,), standard error (T,))]); ``when``: freezing time, (mean, error).
    """
    figure, axes = plt.subplots(1, 1 + len(panels), figsize=(11, 3.6))
    _similarity(axes[0], times, matrix, frozen)
    for ax, (name, series) in zip(axes[1:], panels, strict=True):
        for index, (label, mean, error) in enumerate(series):
            plots.points(ax, times, mean, error, label, **_look(index) | {"ms": 3})
        _band(ax, when, label=r"$\eta\langle t_f\rangle$")
        ax.set(xlabel=r"$\eta t_c$", ylabel=name)
        ax.legend(fontsize=8)
    plots.label_panels(axes)
    return figure


def grid(etas, batch_sizes, maps):
    """Maps over learning rate and batch size, as Y26 Fig. 2; ``maps``: (title, values (η, B), options)."""
    columns = min(len(maps), 4)
    rows = -(-len(maps) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.9 * rows), squeeze=False)
    across, up = np.argsort(etas), np.argsort(batch_sizes)
    x, y = np.asarray(etas)[across], np.asarray(batch_sizes)[up]
    for ax, (title, values, options) in zip(axes.flat, maps, strict=False):
        values = np.ma.masked_invalid(values).T[up][:, across]
        plots.heatmap(ax, x, y, values, "", log="xy", **options)
        ax.set(xlabel="η", ylabel="B", yticks=y, xticks=x)
        ax.set_yticklabels([f"{size:g}" for size in y], fontsize=8)
        ax.set_xticklabels([f"{eta:g}" for eta in x], fontsize=7)
        ax.set_title(title, fontsize=9)
        ax.minorticks_off()
        ax.invert_yaxis()
    for ax in axes.flat[len(maps) :]:
        ax.axis("off")
    plots.label_panels(axes)
    return figure


def valleys(names, similarity, barrier, spectra):
    """Y26 Fig. S1: similarity and barrier between end points, and spectra of the layer's Hessian.

    ``names`` (K,), ``similarity`` and ``barrier`` (K, K); ``spectra``: label → eigenvalues, sharpest first.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.7))
    for ax, values, title, limits in (
        (axes[0], similarity, "Jaccard similarity", (0, 1)),
        (axes[1], barrier, "barrier on the line", (0, None)),
    ):
        mesh = ax.imshow(values, cmap="viridis", vmin=limits[0], vmax=limits[1])
        figure.colorbar(mesh, ax=ax)
        ax.set_title(title)
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        ax.set_yticks(range(len(names)), names, fontsize=6)
    for index, (label, values) in enumerate(spectra.items()):
        positive = np.where(values > 0, values, np.nan)
        axes[2].plot(np.arange(1, len(values) + 1), positive, **_look(index), ls="-", lw=0.8, label=label)
    axes[2].set(yscale="log", xscale="log", xlabel="number of the eigenvalue", ylabel="λ", ylim=(1e-8, None))
    axes[2].legend(fontsize=8)
    plots.label_panels(axes)
    return figure


def criteria(base, others, colours, name=r"$\eta t_f$, Jaccard as coded", label="ηc"):
    """Freezing times by other criteria against one, a point a run (Y26 Fig. S4).

    ``base`` (R,) and others: title → (R,); ``colours`` (R,) positive. NaN is left out.
    """
    columns = min(len(others), 3)
    rows = -(-len(others) // columns)
    size = (2.9 * columns, 2.6 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    mesh = None
    for ax, (title, values) in zip(axes.flat, others.items(), strict=False):
        jitter = np.random.default_rng(0).uniform(-0.5, 0.5, (2, len(base)))
        look = {"c": np.log10(colours), "s": 6, "cmap": "viridis", "alpha": 0.6, "lw": 0}
        mesh = ax.scatter(base + jitter[0], values + jitter[1], **look)
        ax.plot([0, 100], [0, 100], **_THIN)
        ax.set(title=title)
    for ax in axes.flat[len(others) :]:
        ax.axis("off")
    for ax in axes[-1]:
        ax.set_xlabel(name)
    for ax in axes[:, 0]:
        ax.set_ylabel(r"$\eta t_f$, other")
    figure.colorbar(mesh, ax=axes, label=f"log₁₀ {label}")
    return figure


def slopes(panels, xlabel=r"$\eta\,c$, the noise that counts"):
    """Values against the noise on a logarithmic axis; ``panels``: (name, {label: (x, y, error)})."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.5), squeeze=False)
    for ax, (name, series) in zip(axes.flat, panels, strict=True):
        for index, (label, (x, y, error)) in enumerate(series.items()):
            plots.points(ax, x, y, error, label, **_look(index))
        ax.set(xscale="log", xlabel=xlabel, ylabel=name)
        ax.legend(fontsize=8)
    plots.label_panels(axes)
    return figure


def best_of(noise, mean, error, best, expected):
    """Test accuracy against the noise: mean, best of the repeats, and the best that their spread explains.

    All (cells,); ``expected`` is the expected maximum of that many draws from the fitted distribution at the
    *same* mean in all cells.
    """
    figure, ax = plt.subplots(figsize=(6.2, 3.8))
    plots.points(ax, noise, mean, error, "mean of the repeats", "sgd")
    plots.points(ax, noise, best, None, "best of the repeats", "flat")
    plots.points(ax, noise, expected, None, "best expected from the spread alone", "exact")
    ax.set(xscale="log", xlabel=r"$\eta\,c$, the noise that counts", ylabel="test accuracy")
    ax.legend(fontsize=8)
    return figure


def control(panels, threshold=0.9):
    """Similarity to the last end point against ηt_c, for the network and where there is one valley only.

    ``panels``: (title, times (T,), {label: (mean (T,), error (T,))}, null or None).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(2.9 * len(panels), 3.6), sharey=True)
    for ax, (title, times, curves, null) in zip(axes, panels, strict=True):
        for index, (label, (mean, error)) in enumerate(curves.items()):
            plots.points(ax, times, mean, error, label, **_look(index), linestyle="-", lw=0.8)
        if null is not None:
            ax.axhline(null, color=plots.colour("exact"), ls=(0, (1, 1)), label="independent runs")
        ax.axhline(threshold, **_THIN)
        ax.set_xlabel(r"$\eta t_c$")
        ax.set_title(title, fontsize=9)
    axes[0].legend(fontsize=8)
    axes[0].set_ylabel("Jaccard similarity to the reference")
    plots.label_panels(axes)
    return figure


def corridors_along(panels):
    """Lines between checkpoints of different runs at the same time: barrier, and its height over the noise.

    ``panels``: (title, times (T,), barrier (T, K), heights (T, K)); heights are z² = ΔL/D, 0 where there is
    no barrier.
    """
    figure, (top, low) = plt.subplots(
        2, len(panels), figsize=(3.1 * len(panels), 5.2), sharex=True, sharey="row"
    )
    for upper, lower, (title, times, barrier, heights) in zip(top, low, panels, strict=True):
        at = np.broadcast_to(np.asarray(times, float)[:, None], barrier.shape)
        upper.plot(at, barrier, "o", color=plots.colour("sgd"), ms=3, alpha=0.5)
        upper.plot(times, barrier.mean(1), color=plots.colour("theory"), lw=1.2, ls="-")
        upper.set(title=title, xscale="log")
        shown = np.where(heights > 0, np.clip(heights, 1e-2, 1e7), np.nan)
        lower.plot(at, shown, "o", color=plots.colour("sharp"), ms=3, alpha=0.5)
        lower.axhline(1, **_THIN)
        lower.set(xscale="log", yscale="log", ylim=(1e-1, 2e7), xlabel=r"$\eta t$")
    top[0].set(ylabel="barrier on the line", ylim=(-0.03 * top[0].get_ylim()[1], None))
    low[0].set_ylabel(r"$z^2=\Delta L/D$")
    plots.label_panels((top, low))
    return figure
