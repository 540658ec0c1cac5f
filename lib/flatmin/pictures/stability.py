"""Pictures of chapter 7: thresholds and bounds in the (η, B) plane, growth, paths, and real networks."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from flatmin.ledger import plots
from flatmin.theory.stability import bounds
from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.paths import log_losses, mean_losses
from flatmin.theory.stability.threshold import growth, largest_step

__all__ = [
    "choose_a_minimum",
    "edges_along",
    "escapes",
    "flatness_against_size",
    "losses_and_growth",
    "noise_directions",
    "paths_and_rates",
    "planes",
    "ratios_along",
    "tightness",
]

_FAMILY_LOOKS = {
    "orthogonal": ("exact", "-"),
    "gaussian": ("sgd", "o"),
    "relu features": ("gld", "^"),
    "power law": ("gd", "s"),
    "unequal": ("sharp", "v"),
    "groups": ("highlight", "D"),
}
_BATCHES = (("sgd", "o"), ("sharp", "s"))
DRAWN = 50  # trajectories of a panel of :func:`escapes`


def _plane(ax, minimum, batch_sizes, sampling="replacement"):
    """The (B, η) plane of one minimum: exact boundary, W22's bounds, the simple ones, gradient descent."""

    def steps(function):
        return np.array([function(minimum, b, sampling) for b in batch_sizes])

    exact = steps(largest_step)
    ax.fill_between(batch_sizes, exact, 1e3 * exact.max(), color=plots.colour("diverged"), alpha=0.35, lw=0)
    plots.theory(ax, batch_sizes, exact, "exact threshold", linewidth=2.4)
    plots.printed(ax, batch_sizes, steps(bounds.theorem_3_3_step), "Theorem 3.3")
    third = steps(bounds.proposition_3_4_step)
    plots.printed(ax, batch_sizes, third, "Proposition 3.4", linestyle=":", linewidth=1.8)
    plots.theory(ax, batch_sizes, steps(bounds.necessary_step), "spaces, directions", "sgd", linestyle="--")
    plots.theory(ax, batch_sizes, steps(bounds.trace_sufficient_step), "sufficient", "flat", linestyle="-.")
    top = bounds.gradient_descent_step(minimum)
    ax.axhline(top, color=plots.colour("gd"), ls=(0, (1, 1)), label=r"$2/\lambda_1$")
    ax.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="learning rate η")
    ax.set(xlim=(batch_sizes[0], batch_sizes[-1]), ylim=(exact[0] / 4, 4 * top))


def planes(minima):
    """The (B, η) plane of several minima; ``minima``: title → minimum."""
    figure, axes = plt.subplots(2, len(minima) // 2, figsize=(8.4, 7), sharex=True, sharey=True)
    for ax, (title, minimum) in zip(axes.flat, minima.items(), strict=True):
        _plane(ax, minimum, np.geomspace(1, minimum.samples, 10))
        ax.set(title=title, ylim=(0.02, 60))
        ax.label_outer()
    axes[0, 0].legend(fontsize=9, loc="lower right")
    return figure


def choose_a_minimum(eta, batch_size, gradients):
    """A minimum with these ``gradients`` (x, y of each in turn) in the (B, η) plane; paths of its loss."""
    minimum = Minimum.from_gradients(np.reshape(gradients, (-1, 2)))
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.7))
    _plane(left, minimum, np.geomspace(1, 32, 12))
    left.plot([batch_size], [eta], "*", ms=14, color=plots.colour("highlight"), mec="black", zorder=5)
    left.set_ylim(min(left.get_ylim()[0] / 8, eta / 2), max(left.get_ylim()[1], 2 * eta))
    left.legend(fontsize=9, loc="lower right")
    rho = growth(minimum, eta, batch_size, "replacement")
    logs = log_losses(minimum, eta, batch_size, 60, 20, 1, "replacement") / np.log(10)
    right.plot(logs.T, color=plots.colour("sgd"), ls="-", lw=0.6, alpha=0.6)
    mean = np.log10(mean_losses(minimum, eta, batch_size, 60, "replacement"))
    plots.theory(right, np.arange(61), mean, "exact mean")
    title = f"{'stable' if rho <= 1 else 'unstable'}, ρ = {rho:.3g}"
    right.set(xlabel="step", ylabel=r"$\log_{10}L$", title=title)
    right.legend()
    return figure


def losses_and_growth(minimum, batch_size, ratios, simulated, eta_ratios):
    """Left: E L against the step, exact and simulated, for a few η/η*. Right: growth per step against η/η*.

    ``simulated``: η/η* → ln L (trajectories, steps + 1), for the ``ratios``. Batches with replacement.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.8))
    edge = largest_step(minimum, batch_size, "replacement")
    for ratio, kind in zip(ratios, ("flat", "sgd", "sharp"), strict=True):
        losses = np.exp(simulated[ratio])
        steps = np.arange(losses.shape[1])
        exact = mean_losses(minimum, ratio * edge, batch_size, steps[-1], "replacement")
        plots.theory(left, steps, exact, color=plots.colour(kind), linestyle="-")
        error = losses.std(axis=0) / np.sqrt(len(losses))
        plots.points(left, steps, losses.mean(axis=0), error, f"η = {ratio:g} η*", kind, ms=4)
    left.set(xlabel="step", ylabel="E L", yscale="log")
    left.legend()
    etas = eta_ratios * edge
    one = np.array([bounds.one_step_growth(minimum, eta, batch_size, "replacement") for eta in etas])
    printed = [bounds.theorem_3_5_growth(minimum, eta, batch_size, "replacement") for eta in etas]
    shade = {"color": plots.colour("flat"), "alpha": 0.3, "lw": 0}
    right.fill_between(eta_ratios, one[:, 0], one[:, 1], label="one step, any θ", **shade)
    exact = [growth(minimum, eta, batch_size, "replacement") for eta in etas]
    plots.theory(right, eta_ratios, exact, "exact ρ")
    plots.printed(right, eta_ratios, printed, r"$\gamma_0$ of Theorem 3.5")
    right.axhline(1, color="0.6", lw=0.8, ls="-")
    right.set(xlabel="η / η*", ylabel="growth of E L per step", xlim=eta_ratios[[0, -1]], ylim=(0, 3))
    right.legend()
    plots.label_panels((left, right))
    return figure


def tightness(rows, batch_sizes):
    """Exact step over what a bound allows, against B over 2/(λ₁η*(1)) − 1, for families of minima.

    ``rows``: family → dict of arrays (repeats, B) as of
    :func:`flatmin.theory.stability.families.compare`; ``batch_sizes`` begin with 1.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.8), sharex=True)
    for family, row in rows.items():
        kind, marker = _FAMILY_LOOKS[family]
        colour = plots.colour(kind)
        balance = 2 / (row["sharpness"] * row["exact"][:, 0]) - 1
        x = np.mean(batch_sizes / balance[:, None], axis=0)
        for ax, bound in ((left, row["theorem_3_3"]), (right, row["necessary"])):
            ratio = row["exact"] / bound
            ax.plot(x, ratio.mean(axis=0), color=colour, marker=marker, ms=4, ls="-", lw=0.8, label=family)
            ax.fill_between(x, ratio.min(axis=0), ratio.max(axis=0), color=colour, alpha=0.25, lw=0)
    places = np.concatenate([line.get_xdata() for line in left.lines])
    x = np.geomspace(places.min(), places.max(), 200)
    line = plots.theory(left, x, 2 * np.sqrt(x) / (1 + x), "orthogonal gradients")
    left.axvline(1, color="0.6", lw=0.8, ls="-")
    left.set(xscale="log", yscale="log", ylabel="exact η* / η of the bound")
    right.axhline(1, color="0.6", lw=0.8, ls="-")
    right.set(ylim=(0.5, 1.02))
    for ax, title in ((left, "Theorem 3.3, best μ₀"), (right, "spaces and directions")):
        ax.set(xlabel=r"$B/(2/\lambda_1\eta^*(1)-1)$", title=title)
    left.legend(handles=[line], fontsize=9, loc="lower right")
    right.legend(fontsize=9, loc="lower right")
    plots.label_panels((left, right))
    return figure


def paths_and_rates(logs, mean, scan):
    """Left: ln L along paths with their exact mean and their median. Right: rates against η over η*.

    ``logs`` (trajectories, steps + 1), ``mean`` (steps + 1,) of L; ``scan`` = (η/η*, ln ρ, typical, errors).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.8))
    steps = np.arange(logs.shape[1])
    left.plot(steps, logs.T / np.log(10), color=plots.colour("sgd"), ls="-", lw=0.4, alpha=0.25)
    plots.theory(left, steps, np.log10(mean), "exact mean", linewidth=2.2)
    sample = np.log10(np.exp(logs).mean(axis=0))
    plots.theory(left, steps, sample, f"mean of {len(logs)}", "sharp", linewidth=1.6)
    median = np.median(logs, axis=0) / np.log(10)
    plots.theory(left, steps, median, "median", "gd", linestyle="-.", linewidth=2.2)
    left.set(xlabel="step", ylabel=r"$\log_{10}L$")
    left.legend()
    ratio, ln_rho, typical, errors = scan
    plots.theory(right, ratio, ln_rho, "mean: ln ρ")
    plots.points(right, ratio, typical, errors, "typical path", ms=4)
    right.axhline(0, color="0.6", lw=0.8, ls="-")
    right.set(xlabel="η / η*", ylabel="growth of ln L per step", ylim=(min(typical) - 0.3, None))
    right.legend()
    plots.label_panels((left, right))
    return figure


def noise_directions(sizes, cases):
    """Largest stable Tr H against the number of parameters, for noise along H and isotropic noise.

    ``cases``: title → dict with "aligned", "isotropic" (exact η Tr H/B) and "bound aligned", "bound
    isotropic".
    """
    figure, axes = plt.subplots(1, len(cases), figsize=(8.4, 3.6), sharey=True)
    for ax, (title, case) in zip(axes, cases.items(), strict=True):
        plots.theory(ax, sizes, case["aligned"], "C ∝ H, exact", "sgd", marker="o", ms=4)
        plots.theory(ax, sizes, case["isotropic"], "C ∝ 1, exact", "gld", marker="^", ms=4)
        for kind, name in (("aligned", "sgd"), ("isotropic", "gld")):
            label = f"C ∝ {'H' if kind == 'aligned' else '1'}, bound of W22"
            plots.printed(ax, sizes, case[f"bound {kind}"], label, color=plots.colour(name))
        ax.axhline(2, color="0.6", lw=0.8, ls="-")
        ax.set(xscale="log", yscale="log", xlabel="parameters P", title=title)
    axes[0].set_ylabel("largest stable η Tr H / B")
    axes[0].legend(fontsize=9)
    plots.label_panels(axes)
    return figure


def edges_along(panels):
    """W22 Fig. 3b beside the exact threshold.

    ``panels``: (title, steps (T,), {B: ratios}) with the first two ratios of
    :func:`flatmin.networks.edges.live_edges`, each (runs, T). Points are means over runs, bars their standard
    deviation.
    """
    figure, axes = plt.subplots(2, len(panels) // 2, figsize=(8.4, 6.6), sharey=True)
    for ax, (title, steps, ratios) in zip(axes.flat, panels, strict=True):
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
    for ax in axes[:, 0]:
        ax.set_ylabel("η over the largest stable η")
    axes[0, 1].legend(fontsize=9, loc="upper left")
    return figure


def ratios_along(panels):
    """Batch sharpness beside the exact edge and other ratios along training, each 1 at its edge.

    ``panels``: (title, steps (T,), {"exact", "sharpness", "descent", "trace": (runs, T)}), three in a row.
    Points are means over runs, bars their standard deviation.
    """
    rows = len(panels) // 3
    figure, axes = plt.subplots(rows, 3, figsize=(9.3, 3.2 * rows), sharey=True, squeeze=False)
    for ax, (title, steps, ratios) in zip(axes.flat, panels, strict=True):
        thousands = np.asarray(steps) / 1000
        for name, kind, label in (("descent", "gd", r"$\eta\lambda_1/2$"), ("trace", "gld", "trace rule")):
            plots.theory(ax, thousands, ratios[name].mean(0), label, kind, linewidth=1.2)
        for name, kind, label in (("exact", "theory", "exact"), ("sharpness", "sgd", "batch sharpness")):
            look = {"marker": "s" if kind == "theory" else "o", "ms": 4, "linestyle": "-", "lw": 0.8}
            mean, spread = ratios[name].mean(0), ratios[name].std(0, ddof=1)
            plots.points(ax, thousands, mean, spread, label, kind, **look)
        ax.axhline(1, color="0.6", lw=1, ls="-")
        ax.set(title=title, ylim=(0, 1.4))
    for ax in axes[-1]:
        ax.set_xlabel("step / 1000")
    for ax in axes[:, 0]:
        ax.set_ylabel("ratio, 1 at its edge")
    axes[-1, 0].legend(fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.71))
    return figure


def flatness_against_size(panels):
    """W22 Fig. 3a for several models.

    ``panels``: (title, [(label, parameters (sizes,), frobenius, trace)]) for one or more step sizes, the
    largest last, with values (sizes, runs). Points are means over runs, bars their standard deviation.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(9.6, 4.2))
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
        ax.set_ylim(ax.get_ylim()[0] / 6, None)  # room for the legend
        ax.legend(fontsize=9, loc="lower right")
    axes[0].set_ylabel("curvature at the end")
    return figure


def escapes(panels, top=10.0):
    """W22 Fig. 4: trajectories of the loss, their mean, and the exact mean of the linearised network.

    ``panels``: (title, losses (R, T + 1), mean (T + 1,), descent (T + 1,), factor), where ``factor`` is the
    growth per step of W22's γ₀ with the alignment measured at the start. Losses above ``top`` are cut off.
    """
    columns = 2
    rows = len(panels) // columns + 1  # one place more than panels, for the legend
    figure, axes = plt.subplots(rows, columns, figsize=(8, 3 * rows))
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (title, losses, mean, descent, factor) in zip(axes.flat, panels, strict=False):
        t = np.arange(len(mean))
        shown = np.where(np.isfinite(losses), losses, np.nan)
        ax.plot(t, shown[:DRAWN].T, color=plots.colour("sgd"), lw=0.5, alpha=0.3, ls="-")
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
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center")
    return figure
