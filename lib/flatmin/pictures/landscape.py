"""Pictures of chapter 2: conventions, the elimination against the 2D equation, the effective loss."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from flatmin.ledger import plots

__all__ = [
    "conventions",
    "cross_diffusion",
    "distances_at_scale",
    "distances_from_2d",
    "effective_losses",
    "marginals",
]


#: a legend of two columns that leaves its panel free
_BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2}


def conventions(etas, groups, limits, square):
    """⟨x²⟩ against the step, ``groups`` (etas, groups) with their ``limits`` (groups,), and each convention's
    value ``square``: name → value."""
    figure, ax = plt.subplots()
    root = groups.shape[1] ** 0.5
    plots.points(ax, etas, groups.mean(axis=1), groups.std(axis=1, ddof=1) / root, label="simulation")
    plots.points(ax, [0], limits.mean(), limits.std(ddof=1) / root, kind="exact", label="extrapolated")
    names = {"ito": "Itô", "stratonovich": "Stratonovich", "isothermal": "isothermal"}
    for (key, name), kind in zip(names.items(), ("theory", "gld", "printed"), strict=True):
        look = {"color": plots.COLOURS[kind], "linestyle": plots.LINES.get(kind, "-")}
        ax.axhline(square[key], label=name, **look)
    ax.set(xlabel="step size η", ylabel="⟨x²⟩ at $Δ_S$ = 0.009", ylim=(0, None))
    ax.legend(loc=(0.6, 0.1))
    return figure


def distances_from_2d(tilts, distances):
    """Total variation of four 1D laws from the 2D solution against the tilt; ``distances``: name → values."""
    figure, ax = plt.subplots()
    plots.printed(ax, tilts, distances["S30"], label="S30, as printed", marker="s")
    plots.theory(ax, tilts, distances["S29, Itô"], label="S29 in Itô's sense", kind="gld", marker="^")
    plots.theory(ax, tilts, distances["critical law"], label="critical law", kind="exact", marker="x")
    plots.theory(ax, tilts, distances["second order"], label="second order", marker="o")
    ax.plot(tilts, 2 * tilts, color="0.7", linewidth=1, label="∝ ε")
    ax.set(xscale="log", yscale="log", xlabel="tilt ε", ylabel="total variation from the 2D solution")
    ax.set_xticks(tilts, [f"{tilt:g}" for tilt in tilts])
    ax.minorticks_off()
    ax.legend(fontsize=9)
    return figure


def effective_losses(x, floor, solutions, losses):
    """Effective loss on the ``floor`` above density and flux in the plane, a column for each noise level.

    ``solutions``: Δ_S → density of the 2D equation; ``losses``: Δ_S → three curves over ``x``, as printed, of
    second order and of the 2D solution.
    """
    figure, axes = plt.subplots(2, 2, figsize=(8.2, 6.2), gridspec_kw={"height_ratios": [1, 1.5]})
    xs, ys = np.linspace(-0.9, 0.9, 145), np.linspace(-0.75, 0.75, 121)
    for (top, bottom), (delta, solution) in zip(axes.T, solutions.items(), strict=True):
        keep = np.flatnonzero(solution.marginal("x", x) > 1e-4)
        first, second, third = losses[delta]
        plots.printed(top, x[keep], first[keep])
        plots.theory(top, x[keep], second[keep], "second order")
        plots.points(top, x[keep][::24], third[keep][::24], label="2D solution", kind="exact")
        top.plot(x[keep], floor[keep], color="0.6", linewidth=1, label="loss on the floor")
        top.set(title=f"$Δ_S$ = {delta}", xlabel="x", ylabel="effective loss at y = 0", ylim=(-0.6, 1.6))
        density = solution(xs[None], ys[:, None])
        bottom.contourf(xs, ys, density, levels=np.linspace(0.03, 1, 12) * density.max(), cmap="Greys")
        jx, jy = solution.flux(xs[None, ::9], ys[::9, None])
        scale = 10 * np.hypot(jx, jy).max()
        bottom.quiver(xs[::9], ys[::9], jx, jy, color=plots.COLOURS["sgd"], pivot="mid", scale=scale)
        bottom.set(xlabel="x", ylabel="y")
    axes[0, 0].legend(fontsize=9, **_BELOW)
    return figure


def cross_diffusion(x, levels, equations, samples):
    """Density of x with and without cross diffusion: of the 2D ``equations``, simulated in ``samples``."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 4), sharex=True)
    looks = (("with", "theory", "simulation"), ("without", "printed", "sharp"))
    for sample, equation, (label, line, dots) in zip(samples, equations, looks, strict=True):
        for ax, delta, density, error in zip(axes, levels, sample.density, sample.error, strict=True):
            curve = equation.stationary(delta).marginal("x", x)
            plots.theory(ax, x, curve, f"{label} $D_{{12}}$, η → 0", line)
            plots.points(ax, sample.centres, density, error, f"{label}, η = 0.01", dots, markersize=3)
            ax.set(xlabel="x", title=f"$Δ_S$ = {delta}", xlim=(-1, 1))
    axes[0].set_ylabel("density of x")
    axes[1].legend(fontsize=9, **_BELOW)
    return figure


def marginals(panels, xlim=None):
    """Density of x in the 2D equation, of second order and as printed, a panel each.

    ``panels``: (title, x, 2D density, second order, printed).
    """
    size = {"figsize": (3.2 * len(panels), 3)} if len(panels) > 1 else {}
    figure, axes = plt.subplots(1, len(panels), squeeze=False, **size)
    for ax, (title, x, exact, second, printed) in zip(axes[0], panels, strict=True):
        plots.theory(ax, x, exact, "2D equation", kind="exact", linewidth=3)
        plots.theory(ax, x, second, "second order")
        plots.printed(ax, x, printed, "S30, as printed")
        ax.set(title=title, xlabel="x", xlim=xlim)
    axes[0, 0].set_ylabel("density")
    if len(panels) > 1:
        axes[0, 0].set_ylim(top=1.6 * max(panels[0][2]))  # room for the legend
    axes[0, 0].legend(fontsize=9)
    return figure


def distances_at_scale(etas, panels):
    """Distance of the simulated marginal from several laws against the step, one panel a noise level (four).

    ``panels``: Δ_S → {name of the law: (distances, errors)}.
    """
    figure, axes = plt.subplots(2, 2, figsize=(8.2, 6.2), sharex=True, sharey=True)
    styles = {
        "printed (S30)": "printed",
        "S29 in Itô's sense": "gld",
        "second order": "theory",
        "2D equation": "exact",
    }
    for ax, (delta, found) in zip(axes.flat, panels.items(), strict=True):
        for name, kind in styles.items():
            look = {"kind": kind, "linestyle": plots.LINES.get(kind, "-"), "linewidth": 1}
            plots.points(ax, etas, *found[name], label=name, **look)
        ax.set(xscale="log", yscale="log", ylim=(1.5e-3, 0.2), title=f"$Δ_S$ = {delta:g}")
        ax.set_xticks(etas, [f"{eta:g}" for eta in etas])
        ax.minorticks_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("Kolmogorov–Smirnov distance")
    for ax in axes[1]:
        ax.set_xlabel("learning rate η")
    axes[0, 0].legend(fontsize=9, loc="lower right")
    return figure
