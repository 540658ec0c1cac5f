"""Pictures of chapter 8: the valley of many directions."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patheffects import withStroke

from flatmin.ledger import plots
from flatmin.theory.noise import RandomShift
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.valleys.high_dimensional import high_dimensional_valley

__all__ = [
    "choose_directions",
    "diagram",
    "drifts",
    "leaving",
    "simulated_and_averaged",
    "strengths",
    "where_sgd_wins",
]

#: how each algorithm is drawn: label, kind of colour, line style
_DRAWN = {
    "sgd": ("SGD", "sgd", "-"),
    "gd": ("GD", "gd", (0, (1, 1))),
    "trace": ("GLD, equal trace", "gld", "-"),
    "coordinate": ("GLD, equal kick", "gld", (0, (4, 1.5, 1, 1.5))),
}


#: a legend under its panel, clear of the data
_BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "fontsize": 9}

#: a line that is seen on every colour of a map
_ON_COLOUR = {"color": "white", "path_effects": [withStroke(linewidth=2.8, foreground="#333333")]}


def simulated_and_averaged(tau, curves, paths):
    """ln F against τ for several valleys: simulated points (draws, n) on the averaged dynamics (draws, n)."""
    figure, ax = plt.subplots(figsize=(6, 3.6))
    for which, (curve, path) in enumerate(zip(curves, paths, strict=True)):
        label = ("averaged dynamics", "simulation") if which == 0 else (None, None)
        plots.theory(ax, tau, path - path[0], label[0])
        plots.points(ax, tau[::4], (curve - curve[0])[::4], None, label[1], ms=4)
    ax.set(xlabel=r"time $\tau=\eta t$", ylabel=r"growth of $\ln F$")
    ax.legend(loc="lower right")
    return figure


def drifts(levels, rates, errors, tau, measured, ours, printed):
    """First growth of ln F̂ against Δ_S for several valleys, and ln F of one of them beside two drifts."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
    for row, error in zip(rates, errors, strict=True):
        plots.theory(left, levels, row[-1] * levels / levels[-1], kind="exact", lw=0.9)
        plots.points(left, levels, row, error, ms=4)
    left.set(xscale="log", yscale="log", xlabel=r"noise level $\Delta_S$", ylabel=r"rate of $\ln\hat F$")
    left.set_title(r"lines: $\propto\Delta_S$", fontsize=10)
    plots.theory(right, tau, ours, "averaged force")
    plots.printed(right, tau, printed, "as printed")
    plots.points(right, tau[::8], measured[::8], None, "simulation", ms=4)
    right.axhline(0.1, color=plots.colour("exact"), lw=0.8)
    right.set(xlabel=r"time $\tau$", ylabel=r"growth of $\ln F$", ylim=(-0.01, 0.27))
    right.legend(loc="lower right", fontsize=9)
    plots.label_panels((left, right))
    return figure


def strengths(tau, curves, sigmas, weak, averaged=None):
    """Y23 Fig. 2a and 3a: ln F against τ for the algorithms, and for SGD at several noise strengths.

    ``curves`` maps "sgd", "gd", "trace", "coordinate" to (n,); ``weak`` has one row for each of ``sigmas``.
    With ``averaged``, the averaged dynamics for each of them, the rows of ``weak`` are points on it.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
    for name, curve in curves.items():
        label, kind, line = _DRAWN[name]
        left.plot(tau, curve, color=plots.colour(kind), linestyle=line, label=label)
    shown = np.unique(np.geomspace(1, len(tau) - 1, 40).astype(int)) if averaged is not None else slice(None)
    for which, (row, sigma, kind) in enumerate(zip(weak, sigmas, ("sharp", "flat", "sgd"), strict=True)):
        if averaged is None:
            right.plot(tau, row, color=plots.colour(kind), label=f"σ = {sigma:g}")
        else:
            plots.points(right, tau[shown], row[shown], None, f"σ = {sigma:g}", kind, ms=4)
            plots.theory(right, tau, averaged[which], lw=1)
    low = min(curves["gd"].min(), np.min(weak))
    left.set_ylim(low - 0.3, np.max(weak) + 0.05)
    for ax, title in ((left, f"σ = {sigmas[-1]:g}"), (right, "SGD")):
        ax.set(
            xlabel=r"time $\tau=\eta t$", ylabel=r"$\ln F$", title=title, xlim=(tau[1], tau[-1]), xscale="log"
        )
        ax.legend(ncols=2 if ax is left else 3, **_BELOW)
    plots.label_panels((left, right))
    return figure


def diagram(sigma, eta, gain, thresholds, highest):
    """Y23 Fig. 3c: ln F − ln F(0) of the steady state over (σ, η), and along Δ_S for three learning rates.

    ``gain`` (draws, eta, sigma) is masked where runs diverge; ``thresholds`` maps names to Δ_S, (eta,) or
    shorter; ``highest`` is 2/max λ₀.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.8))
    plots.heatmap(left, sigma, eta, gain.mean(axis=0), r"growth of $\ln F$ over $\ln F(0)$", log="xy")
    for (name, level), line in zip(thresholds.items(), ("-", "--", ":"), strict=True):
        left.plot(level / eta[: len(level)], eta[: len(level)], label=name, **_ON_COLOUR, linestyle=line)
    left.axhline(highest, color=plots.colour("sharp"), lw=1.2)
    left.set(xlabel="noise strength σ", ylabel="learning rate η", xlim=sigma[[0, -1]], ylim=eta[[0, -1]])
    left.legend(ncols=3, columnspacing=1, **_BELOW)
    for which, kind in zip((0, len(eta) // 3, 3 * len(eta) // 4), ("flat", "sgd", "sharp"), strict=True):
        options = {"color": plots.colour(kind), "ms": 3, "lw": 0.8, "linestyle": "-"}
        for draw, marker in zip(gain, "osv", strict=False):
            label = f"η = {eta[which]:.2g}" if marker == "o" else None
            right.plot(sigma * eta[which], draw[which], marker=marker, label=label, **options)
    right.set(xscale="log", xlabel=r"noise level $\Delta_S=\eta\sigma$", ylabel=r"$\ln F-\ln F(0)$")
    right.legend(ncols=3, columnspacing=1, **_BELOW)
    plots.label_panels((left, right))
    return figure


def where_sgd_wins(sigma, eta, ahead):
    """ln F of SGD less that of GLD over (σ, η), × where negative; ``ahead`` maps readings to (eta, sigma)."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
    for ax, (name, values) in zip(axes, ahead.items(), strict=True):
        clipped = np.ma.MaskedArray(np.clip(np.ma.getdata(values), -0.3, 0.3), np.ma.getmaskarray(values))
        label = r"$\ln F_{SGD}-\ln F_{GLD}$, cut at 0.3" if ax is axes[1] else None
        plots.heatmap(ax, sigma, eta, clipped, label, log="xy", limits=(-0.3, 0.3), cmap="PuOr")
        behind = np.argwhere(np.ma.filled(values, 1) < 0)
        ax.plot(sigma[behind[:, 1]], eta[behind[:, 0]], "x", color="black", ms=6)
        ax.set(xlabel="noise strength σ", title=_DRAWN[name][0])
        ax.tick_params(labelleft=True)
    axes[0].set_ylabel("learning rate η")
    plots.label_panels(axes)
    return figure


def leaving(sigma, left, alike, predicted):
    """Share of flat directions that have left x = 0 against σ: draws (draws, n), the valley alike (n,).

    ``predicted`` has a row for each of the first draws and a last one for all directions alike.
    """
    figure, ax = plt.subplots(figsize=(6, 3.6))
    for which, row in enumerate(predicted):
        plots.theory(ax, sigma, row, "averaged dynamics" if which == 0 else None, lw=1.1)
    for which, row in enumerate(left):
        followed = {} if which < len(predicted) - 1 else {"alpha": 0.45}
        plots.points(ax, sigma, row, None, f"{len(left)} draws" if which == 0 else None, ms=4, **followed)
    plots.points(ax, sigma, alike, None, "all directions alike", "sharp", ms=4)
    ax.set(xscale="log", xlabel="noise strength σ", ylabel="share that left 0", title="η = 0.05")
    ax.legend(fontsize=9)
    return figure


def choose_directions(sigma=0.02, eta=0.05, n_flat=100):
    """ln F against time for one choice: SGD simulated and averaged, and GD."""
    valley = high_dimensional_valley(n_flat=n_flat, seed=1)
    start, steps = valley.start(1), 20_000
    runs = simulate(
        valley, RandomShift(sigma), eta=eta, steps=steps, start=list(start), trajectories=16, seed=1, keep=81
    )
    tau = runs.kept * eta
    living = runs.trajectories[~runs.diverged]
    _, ax = plt.subplots(figsize=(6, 3.6))
    for noise, label, kind in ((sigma, "averaged dynamics", "theory"), (0.0, "GD", "gd")):
        path = valley.averaged(eta, noise, start, tau)
        if not path.diverged:
            plots.theory(ax, tau, valley.log_flatness(path.x), label, kind)
    if len(living):
        log = valley.log_flatness(living)
        plots.points(ax, tau[::4], log.mean(axis=0)[::4], log.std(axis=0)[::4], "SGD", ms=4)
    ax.set(xlabel=r"time $\tau=\eta t$", ylabel=r"$\ln F$")
    words = "no threshold: ηλ > 2"
    if eta * valley.lambda_0.max() < 2:
        given = (valley.thresholds(eta) < eta * sigma).mean()
        words = f"{given:.0%} of the directions beyond their threshold"
    ax.set_title(f"{words}; {runs.diverged.sum()} of 16 runs diverged", fontsize=10)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=9)
