"""Chapter 7 on real networks: what is read from the recorded runs, and its pictures."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from flatmin import fits
from flatmin.ledger import plots
from flatmin.networks import stability
from flatmin.networks.train import run as training

__all__ = [
    "at_end",
    "edges_along",
    "escape_rates",
    "escapes",
    "flatness_against_size",
    "gamma_0",
    "live_edges",
    "recorded_edges",
    "series",
    "slope",
]

_BATCHES = (("sgd", "o"), ("sharp", "s"))


def live_edges(starts, data, eta, batch_size, steps):
    """Train ``starts`` and return W22's ratio, the exact one and that of descent (see
    :class:`~flatmin.networks.stability.Edge`) at each of ``steps``, (3, runs, T)."""
    how = {"eta": eta, "batch_size": batch_size, "steps": int(steps[-1]), "checkpoints": steps}
    runs = training.run(starts, data, "square", seed=range(len(starts)), **how)
    found = [
        [stability.edge(runs.model_at(run, c), data, eta, batch_size) for c in range(len(steps))]
        for run in range(len(starts))
    ]
    return np.array([[[e.bound, e.exact, e.descent] for e in row] for row in found]).transpose(2, 0, 1)


def recorded_edges(result, kind, which):
    """{B: the three ratios (3, runs, T)} recorded by stability-training at step size number ``which``."""
    get = {n: result.arrays[f"{kind}_{n}"][which] for n in ("frobenius", "mu", "largest_step", "sharpness")}
    eta, found = result.arrays[f"{kind}_eta"][which], {}
    for i, size in enumerate(result.batch_sizes):
        bound = eta * get["frobenius"][i] * np.sqrt(get["mu"][i] / size)
        found[int(size)] = np.stack([bound, eta / get["largest_step"][i], eta * get["sharpness"][i] / 2])
    return found


def at_end(result, prefix, name, which=()):
    """P and a value at the end of training, (sizes, runs), for the sizes at which no run diverged.

    ``result`` of the experiment stability-size; ``which``: number of the step size, where there are several.
    """
    values, size, diverged = (result.arrays[f"{prefix}_{n}"][which] for n in (name, "parameters", "diverged"))
    values = values[..., -1] if values.ndim == 3 else values  # the last checkpoint
    kept = ~diverged.any(1)
    return size[kept].astype(float), values[kept]


def slope(result, prefix, name, which=()):
    """Slope of log(value at the end) against log P, runs as groups; arguments as :func:`at_end`."""
    size, values = at_end(result, prefix, name, which)
    return fits.log_log_slope(size.T, values.T)


def series(result, kind):
    """(label, P, ‖H‖_F, Tr H) for the smallest and the largest step size of one kind of model."""
    found, etas = [], result.arrays[f"{kind}_eta"]
    for which in sorted({0, len(etas) - 1}):
        size, frobenius = at_end(result, kind, "frobenius", which)
        found.append((f"η = {etas[which]:g}", size[:, 0], frobenius, at_end(result, kind, "trace", which)[1]))
    return found


def escape_rates(result, kind, which, cutoff=0.03):
    """Log growth of the mean loss a step, its error, and the exact one, averaged over the recorded minima.

    ``result`` of the experiment stability-escape, ``which`` the number of the batch size. Each is fitted over
    the steps from 0 until the exact mean exceeds ``cutoff``, at least two.
    """
    found = []
    recorded = (result.arrays[f"{kind}_{name}"][:, which] for name in ("losses", "mean"))
    for losses, mean in zip(*recorded, strict=True):
        last = max(2, int(np.argmax(np.append(mean, np.inf) > cutoff)) - 1)
        fit = stability.growth(losses, (0, last))
        exact = np.polyfit(np.arange(last + 1), np.log(mean[: last + 1]), 1)[0]
        found.append((fit.value, fit.error, exact))
    value, error, exact = np.array(found).T
    return value.mean(), np.sqrt(np.square(error).sum()) / len(error), exact.mean()


def gamma_0(result, kind, which, mu):
    """W22's γ₀ = η² μ ‖H‖_F²/B at each recorded minimum; ``mu`` is ``"mu"`` (of the start) or ``"mu_0"``."""
    scale = result.arrays[f"{kind}_eta"] * result.arrays[f"{kind}_frobenius"]
    return scale**2 * result.arrays[f"{kind}_{mu}"] / result.batch_sizes[which]


def edges_along(panels):
    """W22 Fig. 3b beside the exact threshold.

    ``panels``: (title, steps (T,), {B: ratios}) with the first two ratios of :func:`live_edges`, each
    (runs, T). Points are means over runs, bars their standard deviation.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(8.6, 3.8), sharey=True)
    for ax, (title, steps, ratios) in zip(axes, panels, strict=True):
        steps = np.asarray(steps)
        at = np.maximum(steps, steps[1] / 2)  # the start, which a logarithmic axis has no place for
        for (size, (bound, exact, *_)), (kind, marker) in zip(ratios.items(), _BATCHES, strict=True):
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
