"""Pictures of chapter 4: the fork, the ridge, hopping and freezing, and the paper's grids."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from flatmin.ledger import plots
from flatmin.theory import printed
from flatmin.theory.two_valleys import hopping
from flatmin.theory.two_valleys.ensemble import proportion
from flatmin.theory.two_valleys.landscape import PAPER, position

__all__ = [
    "at_the_ridge",
    "effective_loss",
    "fork",
    "forks",
    "freezing",
    "grid_h",
    "grid_h2",
    "hop_rates",
    "landscape",
    "paths_and_shares",
]

_GREY, _PALE = "#666666", "#999999"


def landscape(valleys):
    """Contours of the loss with the floors of both valleys, and slices across."""
    across, along = np.linspace(-0.75, 0.85, 161), np.linspace(0.2, 60, 120)
    loss = valleys.function(valleys.loss)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.6))
    mesh = left.contourf(across, along, loss(*np.meshgrid(across, along)), levels=25, cmap="viridis")
    for side in ("flat", "sharp"):
        floor = valleys.function(position(side))(0.0, along)
        left.plot(floor, along, color="white", linestyle=plots.LINES.get(side, "-"))
    left.set(xlabel="$x$", ylabel="$y$")
    figure.colorbar(mesh, ax=left, label="$L$")
    for y in (5, 20, 60):
        right.plot(across, loss(across, y), label=f"$y={y}$")
    right.set(xlabel="$x$", ylabel="$L$", ylim=(0.4, 2.6))
    right.legend()
    plots.label_panels([left, right])
    return figure


def effective_loss(valleys, y):
    """Y26 Fig. 4a: the loss across the valleys, what the noise adds on either side, and their sum."""
    across = np.linspace(-1.0, 1.2, 441)
    loss = valleys.function(valleys.loss)
    ridge, values = float(loss(0.0, y)), loss(across, y)
    power = np.where(across >= 0, 1, -1)  # of f₁/f₂ = (x₁/x₂)², under a root
    correction = ((PAPER["x1"] / PAPER["x2"]) ** power - 1) * (values - ridge)
    figure, ax = plt.subplots()
    sharp = {"color": plots.colour("sharp")}
    plots.theory(ax, across, values, "$L$", color=plots.colour("sgd"))
    plots.theory(ax, across, values + correction, r"$L_\mathrm{eff}$", **sharp)
    plots.theory(ax, across, correction + 1.3, r"$L_\mathrm{SGD}+1.3$", linestyle="--", **sharp)
    ax.set(xlabel="$x$", ylabel=f"loss at $y={y:g}$", ylim=(0.9, 3))
    ax.legend()
    return figure


def at_the_ridge(valley, delta_s, operator, simulated, theory, printed):
    """Stationary density at the ridge for three steps, and P_flat against √η.

    ``valley`` is a frozen slice; ``operator``: (η, P_flat) of the transfer operator; ``simulated``: (η,
    P_flat, error); ``theory``: convention → P_flat; ``printed``: that of Eq. 9.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8))
    for eta, style in ((0.01, ":"), (0.000625, "--"), (0.0000390625, "-")):
        chain = hopping.FrozenChain(valley, eta, delta_s)
        near = np.abs(chain.x) < 0.03
        density = (chain.stationary / chain.weights)[near]
        left.plot(chain.x[near], density, _GREY, linestyle=style, label=f"$\\eta={eta:.2g}$")
    near = np.linspace(-0.03, 0.03, 400)
    plots.theory(left, near, hopping.stationary_density(valley, near, delta_s), "Itô, $\\eta\\to0$")
    left.set(xlabel="$x$", ylabel="stationary density")
    left.legend(fontsize=9)
    etas, flat = operator
    plots.theory(right, np.sqrt(etas), flat, "transfer operator", "exact", marker="x")
    etas, flat, error = simulated
    plots.points(right, np.sqrt(etas), flat, error, "simulation")
    for name, label, colour in (("ito", "Itô", "black"), ("isothermal", "isothermal (A10)", "#009e73")):
        plots.theory(right, [0, 0.1], [theory[name]] * 2, label, color=colour)
    plots.printed(right, [0, 0.1], [printed] * 2, "Eq. 9")
    right.set(xlabel=r"$\sqrt{\eta}$", ylabel=r"$P_\mathrm{flat}$ at $y=5$", ylim=(0.70, 0.83))
    right.legend(fontsize=9, loc="lower left", ncols=2)
    plots.label_panels([left, right])
    return figure


def hop_rates(valley, valleys, constant, limit):
    """Rates out of the sharp valley of a slice in units of the inverse time to the ridge, and A28's error.

    The error, exact time in the denominator, is drawn against y for noise levels of Y26 Fig. 4c, with the
    freezing points of Eq. 11 (``constant``: its εΦ); ``limit`` is a level to compare it with.
    """
    levels = np.geomspace(5e-4, 8e-3, 40)
    height = valley.reduced_barrier("sharp", levels) ** 2
    exact = hopping.passage_time(valley, "sharp", levels)
    asymptotic = exact * hopping.passage_rate_asymptotic(valley, "sharp", levels)
    figure, (ax, right) = plt.subplots(1, 2, figsize=(9.5, 3.9))
    plots.theory(ax, height, exact / hopping.crossing_time(valley, "sharp", levels), "hop rate (Itô)")
    plots.printed(ax, height, exact / hopping.passage_time_erfi(valley, "sharp", levels), "A28")
    plots.printed(ax, height, asymptotic, "A29", linestyle=":")
    for eta, marker in ((0.01, "s"), (0.0001, "o")):
        rate = [hopping.FrozenChain(valley, eta, d).hop_rates["sharp"] / eta for d in levels[::6]]
        look = {"color": _GREY, "label": f"operator, $\\eta={eta:g}$"}
        ax.plot(height[::6], rate * exact[::6], marker, **look)
    ax.axhline(PAPER["x1"] / (PAPER["x1"] + PAPER["x2"]), color=_PALE, linewidth=0.8)
    ylabel = r"rate out of the sharp valley × $\tau$"
    ax.set(xlabel="height of the ridge $z_-^2$", ylabel=ylabel, ylim=(0, 1.7))
    ax.legend(fontsize=9)
    for level, colour in zip((1e-4, 6e-4, 4e-3), ("#0072b2", "#009e73", "#d55e00"), strict=True):
        frozen = float(printed.y26_eq11(valleys, level, constant))
        label = f"$\\Delta_S={level:g}$"
        for y, look in ((np.geomspace(1, 30, 200), {"label": label}), (np.array([frozen]), {"marker": "o"})):
            at = hopping.frozen(valleys, y)
            ratio = hopping.passage_time_erfi(at, "sharp", level) / hopping.passage_time(at, "sharp", level)
            right.plot(y, ratio - 1, color=colour, linestyle="-", **look)
    right.axhline(limit, color=_GREY, linewidth=0.8, linestyle="--")
    right.set(xscale="log", yscale="log", ylim=(1e-4, 1.2), xlabel="$y$", ylabel="error of A28, relative")
    right.legend(fontsize=9)
    plots.label_panels([ax, right])
    return figure


def paths_and_shares(sigmas, ensembles, paths, printed, boltzmann, eta=0.01):
    """Trajectories over the ridge, and the share in the flat valley against y from several starts.

    ``ensembles``: start → runs; ``paths``: start → rate equation for each of ``sigmas``; ``printed`` (A32)
    and ``boltzmann``: two levels.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.9))
    first = next(iter(ensembles.values()))
    for k, (sigma, colour) in enumerate(zip(sigmas, ("#0072b2", "#009e73", "#d55e00"), strict=True)):
        for trajectory in first.trajectories[k, 4:6]:
            left.plot(trajectory[:, 1], trajectory[:, 0], color=colour, linewidth=0.7, linestyle="-")
        for (name, runs), style in zip(ensembles.items(), ("-", "--", ":"), strict=True):
            share, error = proportion(runs.trajectories[k, :, :, 0].T >= 0)
            mean_y = runs.trajectories[k, :, :, 1].mean(axis=0)
            thin = np.unique(np.geomspace(1, len(mean_y) - 1, 16).astype(int))
            label = f"$\\Delta_S={eta * sigma:.1g}$" if style == "-" else None
            plots.points(right, mean_y[thin], share[thin], error[thin], label, color=colour, markersize=3)
            right.plot(paths[name][k].y, paths[name][k].flat, color=colour, linestyle=style, linewidth=1)
    right.axhline(printed, color=plots.colour("printed"), linewidth=1, linestyle="--")
    right.axhline(boltzmann, color=_GREY, linewidth=1, linestyle=":")
    left.axhline(0, color=_PALE, linewidth=0.8)
    left.set(xlabel="$y$", ylabel="$x$", xlim=(1, 12))
    right.set(xlabel="$y$", ylabel=r"$P_\mathrm{flat}$", xlim=(0.9, 10), ylim=(-0.02, 1.02))
    right.legend(fontsize=9, loc=(0.55, 0.32))
    plots.label_panels([left, right])
    return figure


def freezing(valleys, levels, simulated, theory, constants):
    """Stationary P_flat over Δ_S and y, with freezing points: simulated, rate equation and Eq. 11.

    ``simulated`` and ``theory``: (mean, standard deviation) at the ``levels`` of Δ_S; ``constants``: that of
    Eq. 11 in the text and in the code.
    """
    axis, heights = np.logspace(-4, np.log10(6e-3), 80), np.linspace(0.1, 15, 90)
    steady = hopping.stationary_flat(hopping.frozen(valleys, heights[:, None]), axis)
    figure, ax = plt.subplots(figsize=(5.2, 4.6))
    label = r"stationary $P_\mathrm{flat}$ (Itô)"
    plots.heatmap(ax, axis, heights, steady, label, log="x", limits=(0.6, 1))
    look = {"color": "white", "markeredgecolor": "black", "ecolor": "black"}
    plots.points(ax, levels, *simulated, "simulation, mean and std", **look)
    mean, spread = theory
    plots.theory(ax, levels, mean, "rate equation")
    for edge in (mean - spread, mean + spread):
        plots.theory(ax, levels, edge, linewidth=0.7)
    for constant, where, colour in zip(constants, ("text", "code"), ("#d55e00", "#cc79a7"), strict=True):
        estimate = printed.y26_eq11(valleys, axis, constant)
        plots.printed(ax, axis, estimate, f"Eq. 11, constant of the {where}", color=colour)
    ax.axhline(5, color="black", linestyle=":", linewidth=1)
    ax.set(xlabel=r"$\Delta_S$", ylabel="$y$", ylim=(0.1, 15))
    ax.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.55, -0.15), ncols=1)
    return figure


def _share(ax, runs, path, every, label=None, line=None):
    """The share of runs in the flat valley against their mean y, and the rate equation."""
    share, error = proportion(runs.trajectories[..., 0].T >= 0)
    some = slice(None, None, every)
    y = runs.trajectories[..., 1].mean(axis=0)[some]
    plots.points(ax, y, share[some], error[some], label, markersize=3)
    plots.theory(ax, path.y, path.flat, line)
    ax.axvline(path.freezing_y()[0], color=_PALE, linewidth=0.8)
    ax.set(xlabel="$y$", ylim=(-0.02, 1.02))


def fork(runs, path):
    """Six trajectories in the plane, and the share in the flat valley beside the rate equation."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.4))
    for trajectory in runs.trajectories[:6]:
        left.plot(trajectory[:, 1], trajectory[:, 0], linewidth=0.7, linestyle="-")
    left.axhline(0, color=_PALE, linewidth=0.8)
    left.set(xlabel="$y$", ylabel="$x$")
    _share(right, runs, path, 8, f"{len(runs.trajectories)} runs", "rate equation")
    right.set_ylabel(r"$P_\mathrm{flat}$")
    right.legend()
    return figure


def forks(panels):
    """The share in the flat valley for four settings; ``panels``: (title, runs, path)."""
    figure, axes = plt.subplots(2, 2, figsize=(8, 5.8), sharey=True)
    for ax, (title, runs, path) in zip(axes.flat, panels, strict=True):
        _share(ax, runs, path, 10)
        ax.set_title(title)
    for ax in axes[:, 0]:
        ax.set_ylabel(r"$P_\mathrm{flat}$")
    return figure


def _grid(result, maps):
    """Two maps of a recorded grid, and P_flat of all its cells against the rate equation."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6))
    for ax, (values, label, options) in zip(axes, maps, strict=False):
        plots.heatmap(ax, result.sigma, result.eta, values, label, log="xy", **options)
        ax.set(xlabel=r"$\sigma$", ylabel=r"$\eta$")
    cells = (result.arrays[name].ravel() for name in ("theory_flat", "flat", "flat_error"))
    plots.points(axes[2], *cells, markersize=3)
    plots.theory(axes[2], [0.45, 1], [0.45, 1])
    axes[2].set(xlabel=r"$P_\mathrm{flat}$, rate equation", ylabel=r"$P_\mathrm{flat}$, simulated")
    plots.label_panels(axes)
    return figure


def grid_h(result):
    """Y26 Fig. 3c, d: scaled freezing time and P_flat of the recorded grid."""
    shown = np.maximum(result.eta[:, None] * result.time, 1e-4)  # zero has no place on a logarithmic scale
    time = (shown, r"$\eta\langle t_f\rangle$", {"log_values": True, "limits": (1e-2, 1e3)})
    return _grid(result, (time, (result.flat, r"$P_\mathrm{flat}$", {"limits": (0.5, 1)})))


def grid_h2(result):
    """Y26 Fig. S6: P_flat of the recorded grid, and the share that still hops at the end."""
    flat = (result.flat, r"$P_\mathrm{flat}$", {"limits": (0.5, 1)})
    return _grid(result, (flat, (result.mobile, "hops in the last tenth", {"limits": (0, 1)})))
