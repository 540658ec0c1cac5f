"""Pictures of chapter 6: the logarithmic landscape, linear regression and the even/odd network."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from flatmin.ledger import plots
from flatmin.networks.passage_times import mean_times
from flatmin.theory.logarithmic.laws import critical_dimension, passage_exponent
from flatmin.theory.logarithmic.loops import chain_density
from flatmin.theory.logarithmic.multiplicative import RegressionChain

__all__ = [
    "aligned_figure",
    "critical_figure",
    "fitted_figure",
    "law_figure",
    "passage_figure",
    "passages_and_offsets",
    "passages_and_paths",
    "rates_figure",
    "show_regression",
]

_BLUES = ("#9ecae1", "#4292c6", "#08306b")
_MARKERS = "os^Dv"
_PRINTED = {"color": plots.COLOURS["printed"], "linestyle": plots.LINES["printed"]}


def show_regression(eta, batch_size, dimension):
    """Mean time to reach c·L* and its local power of c: exact, as printed, and the exponents in words."""
    chain = RegressionChain(eta, batch_size, dimension)
    ratios = 1 + dimension * eta / batch_size * np.geomspace(0.5, 12, 16)
    times = eta * np.array([chain.passage_time(c, points=100, nodes=(40, 28, 10)) for c in ratios])
    shown = times < 1e8
    ratios, times = ratios[shown], times[shown]
    power = passage_exponent(eta, batch_size, dimension=dimension)
    _, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.4))
    middle = len(ratios) // 2
    plots.theory(left, ratios, times, "the chain, exactly")
    plots.printed(left, ratios, times[middle] * (ratios / ratios[middle]) ** power)
    left.set(xscale="log", yscale="log", xlabel="c = L/L*", ylabel="mean time to reach c, $t_p$")
    left.legend()
    between = np.sqrt(ratios[1:] * ratios[:-1])
    plots.theory(right, between, np.diff(np.log(times)) / np.diff(np.log(ratios)), "the chain, exactly")
    right.axhline(power, **_PRINTED)
    if chain.lyapunov < 0:
        right.axhline(chain.tail_exponent / 2, color=plots.COLOURS["exact"], linestyle=plots.LINES["exact"])
    right.set(xscale="log", xlabel="c = L/L*", ylabel="local power of c", ylim=(0, None))
    left.set_title(f"η = {eta:g}, B = {batch_size}, d = {dimension}", fontsize=10)
    instability = f"E A² = {chain.mean_square_factor:.3f}, E log A = {chain.lyapunov:.3f}"
    right.set_title(f"{instability}; $n_c$ {critical_dimension(eta, batch_size):.4g}", fontsize=10)


def law_figure(etas, laws, tail):
    """Density of θ at the first of three steps, simulated, exact and as printed; local exponents of all.

    ``laws``: StationaryLaw for each of ``etas``, B = 1; ``tail``: α at the last.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.7))
    edges = np.concatenate([[0], np.geomspace(0.03, 2.2, 22)])
    counted = chain_density(etas[0], edges)
    centres = 1 + (edges[1:] + edges[:-1]) / 2
    error = counted.std(axis=0, ddof=1) / np.sqrt(len(counted))
    plots.points(left, centres, counted.mean(axis=0), error, "SGD, η = 0.1, B = 1", markersize=4)
    inner = laws[0].r < 1.5
    plots.theory(left, 1 + laws[0].r[inner] ** 2, laws[0].density[inner] / 2, "the chain, exactly")
    u = np.linspace(0, 1.45, 200)
    for name, cover, kind in (("as printed", 1, "printed"), ("exact covariance, diffusion", 2, "gld")):
        shape = (1 + cover * u**2) ** -(1 + 1 / (cover * etas[0]))
        plots.theory(left, 1 + u**2, shape / np.trapezoid(shape, u) / 2, name, kind)
    left.set(yscale="log", xlabel="c = L/L*", ylabel="density of θ", ylim=(1e-6, 3), xlim=(1, 3))
    left.legend(fontsize=9)
    ratios = np.geomspace(1.08, 3.2, 60)
    for step, law, colour in zip(etas, laws, _BLUES, strict=True):
        right.plot(ratios, step * law.local_exponent(ratios), "-", color=colour, label=f"η = {step:g}")
    plots.theory(right, ratios[ratios < 2], ratios[ratios < 2], "η → 0")
    plots.printed(right, ratios, np.ones(60))
    plots.theory(right, ratios, ratios / (2 * ratios - 1), "exact covariance", "gld")
    right.axhline((tail + 1) / 2 * etas[-1], color=plots.COLOURS["sharp"], ls=":", label="far tail")
    right.set(xlabel="c = L/L*", ylabel="local exponent ηφ/B", ylim=(0.4, 2.7))
    right.legend(fontsize=9, ncols=2, loc="upper right")
    plots.label_panels((left, right))
    return figure


def fitted_figure(kept, live):
    """M22 Fig. 3a: fitted φ against B, and over the printed one, with the chain's own.

    ``kept``: the recorded result; ``live``: {(eta, B): φ} drawn as open circles.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
    sizes = np.array([1, 2, 3, 6, 20, 100, 1000])
    for step, values, kind in zip(kept.eta, kept.all, ("simulation", "sharp", "langevin"), strict=True):
        mean, error = values.mean(axis=1), values.std(axis=1, ddof=1) / np.sqrt(values.shape[1])
        exact = [RegressionChain(step, int(b)).stationary(200).fitted_exponent() for b in sizes]
        over, last = 1 + kept.batch_size / step, step == kept.eta[-1]
        look = {"kind": kind, "markersize": 4}
        plots.points(left, kept.batch_size, mean, error, f"η = {step:g}", **look)
        plots.points(right, kept.batch_size, mean / over, error / over, **look)
        plots.printed(left, sizes, 1 + sizes / step, "as printed" if last else None)
        plots.theory(right, sizes, exact / (1 + sizes / step), "the chain, exactly" if last else None)
        drawn = np.array([(b, phi / (1 + b / step)) for (e, b), phi in live.items() if e == step])
        open_circle = {"mfc": "none", "color": plots.COLOURS[kind], "ms": 6}
        right.plot(drawn[:, 0] * 1.15, drawn[:, 1], "o", label="live" if last else None, **open_circle)
    right.axhline(1, **_PRINTED)
    left.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="fitted exponent φ")
    right.set(xscale="log", xlabel="batch size B", ylabel="fitted φ over printed", ylim=(0, 1.2))
    left.legend(fontsize=9)
    right.legend(fontsize=9)
    plots.label_panels((left, right))
    return figure


def rates_figure(inverse, exact, exact_additive, eq15, eq19, simulated):
    """Escape rates against 1/T, and the formulas over the exact rates; ``simulated``: (rate, error) pairs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.5))
    value, error = np.array(simulated).T
    plots.points(left, inverse[: len(value)], value, error, "SGD, noise ∝ L")
    plots.theory(left, inverse, exact, "exact")
    plots.printed(left, inverse, eq15, "Eq. 15")
    plots.theory(left, inverse[:-1], exact_additive, "additive noise, exact", "langevin")
    left.set(yscale="log", xlabel="1/T = B/(ηh)", ylabel="escape rate κ", xlim=(0, 21), ylim=(1e-17, 1))
    left.legend(fontsize=9)
    plots.points(right, 1 / inverse, eq15 / exact, label="Eq. 15")
    plots.points(
        right, 1 / inverse[:-1], eq19[:-1] / exact_additive, label="Eq. 19, additive noise", kind="langevin"
    )
    right.axhline(1, color=plots.COLOURS["theory"], lw=1)
    right.set(xlabel="temperature T", ylabel="formula over exact rate", ylim=(0.85, 1.2))
    right.legend(fontsize=9)
    plots.label_panels((left, right))
    return figure


def aligned_figure(temperatures, ratios, limits):
    """Rate with aligned over isotropic noise; ``ratios``: {k/h: values}, ``limits``: {k/h: T → 0}."""
    figure, ax = plt.subplots(figsize=(5.2, 4))
    kinds = ("sgd", "theory", "gd", "sharp", "langevin")
    for marker, kind, (stiffness, values) in zip("oPsv^", kinds, ratios.items(), strict=True):
        look = {"marker": marker, "color": plots.COLOURS[kind], "linestyle": "-", "lw": 1}
        ax.plot(temperatures, values, label=f"k = {stiffness:g} h", **look)
        if stiffness in limits:
            ax.plot([0], [limits[stiffness]], "*", color=plots.COLOURS[kind], ms=11)
    ax.plot([], [], "*", color="black", ms=11, label="ours, T → 0")
    ax.axhline(1, label="App. C", **_PRINTED)
    ax.set(yscale="log", xlabel="temperature T", ylabel="rate, aligned over isotropic", xlim=(-0.01, 0.42))
    ax.legend(fontsize=8, title="curvature across", title_fontsize=8)
    return figure


def critical_figure(dimensions, rates, around, lyapunov, steps, shift):
    """Growth rate against dimension, ``rates`` (dimensions, runs) and exact; critical dimension against η."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.3))
    error = rates.std(axis=1, ddof=1) / np.sqrt(rates.shape[1])
    plots.points(left, dimensions, rates.mean(axis=1), error, "SGD")
    plots.theory(left, around, lyapunov, "E log A")
    left.axhline(0, color=plots.COLOURS["exact"], lw=0.8)
    left.axvline(22, label="$n_c$, printed", **_PRINTED)
    left.set(xlabel="dimension d", ylabel="growth of log|θ − θ*| per step")
    left.legend(fontsize=9)
    plots.theory(right, steps, shift, "E log A = 0", marker="o")
    right.axhline(-2, color=plots.COLOURS["gd"], linestyle=plots.LINES["gd"], label="E A² = 1")
    right.axhline(2, label="printed", **_PRINTED)
    right.set(xlabel="η", ylabel="critical dimension − 2B/η", ylim=(-3, 3), xlim=(0, 0.21))
    right.legend(fontsize=9)
    plots.label_panels((left, right))
    return figure


def passage_figure(ratios, curves, exact, live):
    """M22 Fig. 3b: t_p against c, and its local power, at η = 0.1, B = 1.

    ``curves``: {d: (data sets, ratios) of mean times}; ``exact``: {d: (indices of ratios, times)}; ``live``:
    mean times for d = 5 at the first ratios.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 4.2))
    for (d, (here, times)), colour in zip(
        exact.items(), plt.get_cmap("viridis")(np.linspace(0, 0.9, len(exact))), strict=True
    ):
        mean, error = curves[d].mean(axis=0), curves[d].std(axis=0, ddof=1) / np.sqrt(len(curves[d]))
        thin = slice(0, None, 3)
        look = {"fmt": "o", "ms": 3, "color": colour, "label": f"d = {d}"}
        left.errorbar(ratios[: len(mean)][thin], mean[thin], error[thin], **look)
        left.plot(ratios[here], times, "-", color="black", lw=1)
        anchor = np.abs(np.log(mean / 30)).argmin()
        span = np.array([0.75, 1.35]) * ratios[anchor]
        left.plot(span, mean[anchor] * (span / ratios[anchor]) ** (11 - d / 2), lw=1.4, **_PRINTED)
        centre = np.sqrt(ratios[here[1:]] * ratios[here[:-1]])
        right.plot(centre, np.diff(np.log(times)) / np.diff(np.log(ratios[here])), "-", color=colour)
        right.plot([centre[0], centre[-1]], [11 - d / 2] * 2, "--", color=colour, lw=1)
    left.plot(ratios[: len(live)], live, "x", color="black", ms=4, label="live, d = 5")
    left.set(xscale="log", yscale="log", ylabel="mean first-passage time $t_p$", ylim=(0.05, 5e4))
    left.legend(fontsize=9, ncols=2)
    right.set(xscale="log", ylabel="local power of c (dashed: printed)", ylim=(0, 14))
    for ax in (left, right):
        ax.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
        ax.minorticks_off()
        ax.set_xlabel("c = L/L*")
    plots.label_panels((left, right))
    return figure


def _show_times(ax, levels, series, printed, label, every=4):
    """Mean first-passage time t_p = ηk against c, log–log; the printed power is a short dashed line through
    the measurement, named ``label``."""
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
    ax.legend(fontsize=9)


def _show_paths(ax, path, level, runs=3, around=30):
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
    ax.legend(fontsize=9)


def _show_offsets(ax, offsets, nine, own):
    """Power of c less 1/T of networks and of their linearisations, joined, one column for each window."""
    shift = np.linspace(-0.12, 0.12, len(own))
    for place, found in enumerate(offsets.values()):
        sides = place + shift + np.array([[-0.2], [0.2]])  # network on the left, linearised on the right
        ax.plot(sides, found.T, "-", lw=0.7, color="0.7", zorder=0)
        for at, values, kind, marker, name in zip(
            sides,
            found.T,
            ("simulation", "theory"),
            "ox",
            ("network", "linearised, same batches"),
            strict=True,
        ):
            ax.plot(at, values, marker, ms=5, color=plots.colour(kind), label=None if place else name)
        label = None if place else "as printed, its own n = 1/Σp²"
        ax.plot(place + shift, own, "_", ms=9, mew=2, color=plots.colour("exact"), label=label)
    plots.printed(ax, (-0.5, len(offsets) - 0.5), (nine, nine), "as printed, n = 9")
    ax.set_xticks(range(len(offsets)), [f"{low}–{high}" for low, high in offsets])
    ax.set(xlabel="mean passage time in steps", ylabel=r"power of c less $B/(\eta h)$", ylim=(None, 0.5))
    ax.legend(fontsize=9, loc="upper left")


def passages_and_paths(levels, series, power, paths, level, title):
    """Left: first-passage times of several networks, with one printed ``power``. Right: the loss around
    passages of ``level``; ``series`` and ``paths`` as in :func:`passages_and_offsets` and of
    :func:`flatmin.networks.passage_times.around`."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.9))
    _show_times(left, levels, series, [power] * len(series), "as printed", every=3)
    _show_paths(right, paths, level)
    right.set_title(title)
    plots.label_panels((left, right))
    return figure


def passages_and_offsets(levels, series, printed, offsets, nine, own):
    """Left: first-passage times of a network. Right: powers of c less 1/T of several.

    ``series`` is a list of (label, η, steps (R, C), steps of the tangent model (R', C), those of M22's model
    with discrete steps or None), ``printed`` M22's power for each of them with n = 9. ``offsets`` maps
    windows to (networks, 2), network and linearised; ``nine`` and ``own`` (networks,) are the printed offsets
    for n = 9 and for each network's own n.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 4))
    _show_times(left, levels, series, printed, "as printed, n = 9")
    _show_offsets(right, offsets, nine, own)
    plots.label_panels((left, right))
    return figure
