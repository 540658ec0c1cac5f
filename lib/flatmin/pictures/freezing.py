"""Pictures of chapter 10: continuations and their end points, freezing times by several criteria, lines."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from flatmin.ledger import plots

__all__ = [
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
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
    _similarity(left, times, matrix, frozen, limits=(0.5, 1))
    for index, (label, (mean, error, null)) in enumerate(curves.items()):
        look = _look(index)
        plots.points(right, times, mean, error, label, **look, linestyle="-", lw=0.8)
        right.axhline(null, color=look["color"], ls=(0, (1, 1)), lw=1.4)
    right.axhline(threshold, **_THIN)
    right.set(xlabel=r"$\eta t_c$", ylabel="similarity to the last end point")
    right.legend(loc="lower right", bbox_to_anchor=(1, 0.05))
    right.text(times[-1], 0.91, "0.9", ha="right", va="bottom", fontsize=9, color="0.4")
    plots.label_panels((left, right))
    return figure


def continuations(sgd, branches, names=("test loss", "flatness F")):
    """Y26 Fig. 1a–c: the plane of the first two principal components, then curves against ηt.

    ``sgd`` and every value of ``branches`` (label → …) are (plane (T, 2), times (T,), [curve (T,), …]) with
    one curve a name; branches start where SGD was left.
    """
    figure, axes = plt.subplots(1, 1 + len(names), figsize=(12.4, 3.6), width_ratios=(1.35, 1, 1))
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
        ends = [each[2][names.index(name)][-1] for each in branches.values()]
        ax.set(xlabel=r"$\eta t$", ylabel=name, ylim=(None, 1.2 * max(*ends, curve[-1])))
    axes[0].set(xlabel="first principal component", ylabel="second")
    axes[0].legend(title=r"$\eta t_c$", loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    plots.label_panels(axes)
    return figure


def ends_along(times, matrix, frozen, panels, when):
    """Y26 Fig. 1d, e: similarity of the end points of one run, and means over repeats against ηt_c.

    ``panels``: (name, [(label, mean (T,), standard error (T,))]); ``when``: freezing time, (mean, error).
    """
    figure, axes = plt.subplots(1, 1 + len(panels), figsize=(12, 3.6))
    _similarity(axes[0], times, matrix, frozen)
    for ax, (name, series) in zip(axes[1:], panels, strict=True):
        for index, (label, mean, error) in enumerate(series):
            plots.points(ax, times, mean, error, label, **_look(index) | {"ms": 3})
        _band(ax, when, label=r"$\eta\langle t_f\rangle$")
        ax.set(xlabel=r"$\eta t_c$", ylabel=name)
        ax.legend(fontsize=9)
    plots.label_panels(axes)
    return figure


def grid(etas, batch_sizes, maps):
    """Maps over learning rate and batch size, as Y26 Fig. 2; ``maps``: (title, values (η, B), options)."""
    rows = -(-len(maps) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(8.4, 3.4 * rows), squeeze=False)
    across, up = np.argsort(etas), np.argsort(batch_sizes)
    x, y = np.asarray(etas)[across], np.asarray(batch_sizes)[up]
    for ax, (title, values, options) in zip(axes.flat, maps, strict=False):
        values = np.ma.masked_invalid(values).T[up][:, across]
        plots.heatmap(ax, x, y, values, "", log="xy", **options)
        ax.set(xlabel="η", ylabel="B", yticks=y, xticks=x)
        ax.set_yticklabels([f"{size:g}" for size in y], fontsize=9)
        ax.set_xticklabels([f"{eta:g}" for eta in x], fontsize=9)
        ax.set_title(title)
        ax.minorticks_off()
        ax.invert_yaxis()
    for ax in axes.flat[len(maps) :]:
        ax.axis("off")
    plots.label_panels(axes)
    return figure


def valleys(etas, similarity, barrier, spectra):
    """Y26 Fig. S1: similarity and barrier between end points, and spectra of the layer's Hessian.

    ``similarity`` and ``barrier`` (K, K): as many conditions for each of the ``etas``, one block each;
    ``spectra``: label → eigenvalues, sharpest first.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12.4, 3.6))
    size = len(similarity) // len(etas)
    for ax, values, title, limits in (
        (axes[0], similarity, "Jaccard similarity", (0, 1)),
        (axes[1], barrier, "barrier on the line", (0, None)),
    ):
        mesh = ax.imshow(values, cmap="viridis", vmin=limits[0], vmax=limits[1])
        figure.colorbar(mesh, ax=ax)
        ax.set(title=title, xlabel="η", ylabel="η")
        middle = size * np.arange(len(etas)) + (size - 1) / 2
        ax.set_xticks(middle, [f"{eta:g}" for eta in etas])
        ax.set_yticks(middle, [f"{eta:g}" for eta in etas])
        ax.tick_params(length=0)
        for line in size * np.arange(1, len(etas)) - 0.5:
            ax.axhline(line, color="white", lw=0.8)
            ax.axvline(line, color="white", lw=0.8)
    for label, values in spectra.items():
        positive = np.where(values > 0, values, np.nan)
        axes[2].plot(np.arange(1, len(values) + 1), positive, lw=1, label=label)
    axes[2].set(yscale="log", xscale="log", xlabel="number of the eigenvalue", ylabel="λ", ylim=(1e-8, None))
    axes[2].legend(fontsize=9)
    plots.label_panels(axes)
    return figure


def criteria(base, others, colours, name=r"$\eta t_f$, Jaccard as coded", label="ηc"):
    """Freezing times by other criteria against one, a point a run (Y26 Fig. S4).

    ``base`` (R,) and others: title → (R,); ``colours`` (R,) positive. NaN is left out.
    """
    columns = min(len(others), 3)
    rows = -(-len(others) // columns)
    size = (4 * columns, 3.2 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    mesh = None
    for ax, (title, values) in zip(axes.flat, others.items(), strict=False):
        jitter = np.random.default_rng(0).uniform(-0.5, 0.5, (2, len(base)))
        look = {"c": np.log10(colours), "s": 6, "cmap": "viridis", "alpha": 0.6, "lw": 0}
        mesh = ax.scatter(base + jitter[0], values + jitter[1], **look)
        ax.plot([0, 100], [0, 100], **_THIN)
        ax.set(title=title, xlabel=name, ylabel=r"$\eta t_f$, other")
    for ax in axes.flat[len(others) :]:
        ax.axis("off")
    figure.colorbar(mesh, ax=axes[:, -1], label=f"log₁₀ {label}")
    return figure


def slopes(panels, xlabel=r"$\eta\,c$, the noise that counts"):
    """Values against the noise on a logarithmic axis; ``panels``: (name, {label: (x, y, error)})."""
    size = (4.2 * len(panels), 3.5) if len(panels) > 1 else (5.2, 3.6)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for ax, (name, series) in zip(axes.flat, panels, strict=True):
        for index, (label, (x, y, error)) in enumerate(series.items()):
            plots.points(ax, x, y, error, label, **_look(index))
        ax.set(xscale="log", xlabel=xlabel, ylabel=name)
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.legend(fontsize=9)
    if len(panels) > 1:
        plots.label_panels(axes)
    return figure


def control(panels, threshold=0.9):
    """Similarity to the last end point against ηt_c, for the network and where there is one valley only.

    ``panels``, four of them: (title, times (T,), {label: (mean (T,), error (T,))}, null or None).
    """
    figure, axes = plt.subplots(len(panels) // 2, 2, figsize=(8.4, 1.65 * len(panels)))
    for ax, (title, times, curves, null) in zip(axes.flat, panels, strict=True):
        for index, (label, (mean, error)) in enumerate(curves.items()):
            plots.points(ax, times, mean, error, label, **_look(index), linestyle="-", lw=0.8)
        if null is not None:
            ax.axhline(null, color=plots.colour("exact"), ls=(0, (1, 1)), label="independent runs")
        ax.axhline(threshold, **_THIN)
        ax.set(xlabel=r"$\eta t_c$", ylabel="similarity to the reference", ylim=(0.5, 1.02), title=title)
    axes.flat[0].legend(fontsize=9, loc="lower right")
    plots.label_panels(axes)
    return figure


def corridors_along(panels):
    """Lines between checkpoints of different runs at the same time: barrier, and its height over the noise.

    ``panels``: (title, times (T,), barrier (T, K), heights (T, K)); heights are z² = ΔL/D, 0 where there is
    no barrier.
    """
    figure, axes = plt.subplots(len(panels), 2, figsize=(8.4, 2.3 * len(panels)), sharey="col")
    for (left, right), (title, times, barrier, heights) in zip(axes, panels, strict=True):
        at = np.broadcast_to(np.asarray(times, float)[:, None], barrier.shape)
        left.plot(at, barrier, "o", color=plots.colour("sgd"), ms=3, alpha=0.5)
        left.plot(times, barrier.mean(1), color=plots.colour("theory"), lw=1.2, ls="-")
        shown = np.where(heights > 0, np.clip(heights, 1e-2, 1e7), np.nan)
        right.plot(at, shown, "o", color=plots.colour("sharp"), ms=3, alpha=0.5)
        right.axhline(1, **_THIN)
        left.set(title=title, ylabel="barrier on the line")
        right.set(title=title, ylabel=r"$z^2=\Delta L/D$", yscale="log", ylim=(1e-1, 2e7))
        for ax in (left, right):
            ax.set(xscale="log", xlim=(0.85 * times[0], 1.15 * times[-1]))
            ax.xaxis.set_minor_formatter(NullFormatter())
    for ax in axes[-1]:
        ax.set_xlabel(r"$\eta t$")
    axes[0, 0].set_ylim(-0.03 * axes[0, 0].get_ylim()[1], None)
    plots.label_panels(axes)
    return figure
