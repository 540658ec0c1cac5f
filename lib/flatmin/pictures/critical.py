"""Pictures of chapter 3: the transition, its order parameter, search time and exponents, and divergence."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from flatmin.ledger import plots

__all__ = ["at_scale", "boundaries", "divergence", "exponents", "order_parameter", "window"]


def boundaries(tilts, splits, measured, shrink=0.84):
    """Boundary in units of ε/|λ₁| against the tilt: w of the 2D equation, and simulated at ηλ₀ = 0.32.

    ``measured``: (ε, w, its error); ``shrink`` is 1 − ηλ₀/2.
    """
    figure, ax = plt.subplots()
    line = np.linspace(0, 0.021, 50)
    plots.printed(ax, line, 1 + 0 * line, "$-ε/λ_1$, as printed")
    plots.theory(ax, line, 1 + 5 * line, "ours, η → 0")
    plots.theory(ax, line, shrink + (5 - 4 * (1 - shrink)) * line, "ours, η = 0.04", kind="sgd")
    plots.points(ax, tilts, 1 + tilts * np.array(splits), label="2D equation", kind="exact")
    at, w, error = measured
    plots.points(ax, at, shrink * (1 + at * w), shrink * at * error, label="simulation, η = 0.04")
    ax.set(xlabel="tilt ε", ylabel="$Δ_S^*\\,|λ_1|/ε$", xlim=(0, None), ylim=(0.83, 1.2))
    ax.legend(fontsize=9, ncols=2)
    return figure


def order_parameter(sigma, measured, dense, mean_x, printed, boundary):
    """⟨|x|⟩ at ε = 0.01: ``measured`` (values, errors) at ``sigma``; ``mean_x``, ``printed`` at ``dense``."""
    figure, ax = plt.subplots()
    plots.theory(ax, dense, mean_x, "second order, η = 0.04")
    plots.printed(ax, dense, printed, "S42, as printed")
    plots.points(ax, sigma, *measured, label="simulation, ⟨|x|⟩")
    ax.axvline(boundary, color="0.7", linewidth=1)
    ax.set(xlabel="noise strength σ", ylabel="⟨|x|⟩ at ε = 0.01", ylim=(0, None))
    ax.legend()
    return figure


def at_scale(sigma, order, search, star):
    """Order parameter and search time at the paper's settings.

    ``order``: (measured, error, second order); ``search``: (measured, error, second order, printed).
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.8, 4.2))
    value, error, ours = order
    plots.theory(axes[0], sigma, ours, "second order, η = 0.04")
    plots.points(axes[0], sigma, value, error, label="simulation")
    dense = np.linspace(0.0125, 0.019, 50)
    plots.printed(axes[0], dense, np.sqrt(0.8 * (1 - 0.0125 / dense)), "S42, as printed")
    axes[0].set(xlabel="noise strength σ", ylabel="⟨|x|⟩")
    value, error, ours, printed = search
    plots.theory(axes[1], sigma, ours, "second order, η = 0.04")
    plots.printed(axes[1], sigma, printed, "S44, as printed")
    plots.points(axes[1], sigma, value, error, label="simulation")
    axes[1].set(xlabel="noise strength σ", ylabel="search time $τ_s$", yscale="log")
    for ax in axes:
        ax.set_xticks([0.005, 0.01, 0.015, 0.02])
        ax.axvline(star, color="0.7", linewidth=1)
        ax.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


def exponents(gap, sides, papers):
    """Local exponents against the distance from the transition.

    ``gap`` = σ/σ* − 1; ``sides``: name → (which points, values, errors, theory); ``papers``: name → (derived,
    fitted).
    """

    def local(values, g):
        """Slope of the logarithms between every other point."""
        logs = np.log(values)
        return (logs[2:] - logs[:-2]) / (g[2:] - g[:-2])

    figure, axes = plt.subplots(1, len(sides), figsize=(9.4, 3.2))
    for ax, (name, (side, data, spread, theory)) in zip(axes, sides.items(), strict=True):
        order = np.argsort(np.abs(gap[side]))
        every = (np.log(np.abs(gap)), data, spread / data, theory)
        g, values, errors, curve = (each[side][order] for each in every)
        sign, centre = (1 if name == "α" else -1), np.exp((g[2:] + g[:-2]) / 2)
        error_bar = np.hypot(errors[2:], errors[:-2]) / (g[2:] - g[:-2])
        plots.points(ax, centre, sign * local(values, g), error_bar, label="simulation")
        plots.theory(ax, centre, sign * local(curve, g), "second order")
        plots.printed(ax, centre, papers[name][0] + 0 * centre, "Y22, derived")
        ax.axhline(papers[name][1], color="0.6", linestyle=":", label="Y22, fitted")
        ax.set(xscale="log", xlabel="|σ/σ* − 1|", title=f"local exponent {name}", ylim=(0, 1.4))
    axes[0].legend(fontsize=9)
    return figure


def divergence(eta, delta_s, law, grids, s38):
    """Rate of loss against η at each noise level, and contours of the lifetime over (η, Δ_S).

    ``law``: (Δ_S, η) → rate, of arrays; ``grids``: (Δ_S, η, rates, errors), measured; ``s38`` at ``eta``, the
    step sizes of the lines; ``delta_s`` spans the plane.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.9), layout="constrained")
    levels = np.unique(np.concatenate([np.ravel(grid[0]) for grid in grids]))
    shades = dict(zip(levels, plt.get_cmap("viridis")(np.linspace(0.75, 0, len(levels))), strict=True))
    for level, shade in shades.items():
        plots.theory(left, eta, law(level, eta), color=shade, linewidth=1.2)
        left.annotate(
            f"$Δ_S$ = {level:g}", (eta[-1], law(level, eta[-1])), (4, -3), color=shade, fontsize=9,
            textcoords="offset points",
        )  # fmt: skip
    for deltas, steps, rates, errors in grids:
        for level, rate, error in zip(deltas, rates, errors, strict=True):
            plots.points(left, steps, rate, error, color=shades[level], markersize=4)
    left.set(xlabel="learning rate η", ylabel="losses per unit of τ", xscale="log", yscale="log")
    left.set_xlim(None, 5)
    right.set(xlabel="learning rate η", ylabel="noise level $Δ_S$", xscale="log", yscale="log")
    right.set(xlim=(eta[0], eta[-1]), ylim=(delta_s[0], 1.5), title="mean lifetime τ")
    plane, decades = 1 / law(delta_s[:, None], eta), np.arange(-1, 8)
    lines = right.contour(eta, delta_s, plane, 10.0**decades, cmap="viridis_r", norm="log")
    right.clabel(lines, fmt={10.0**k: f"$10^{{{k}}}$" for k in decades}, fontsize=9)
    plots.printed(right, eta, s38, "$Δ_m$, S38")
    right.legend(fontsize=9, loc="upper left")
    plots.label_panels([left, right])
    return figure


def window(w, h, onset, xi, density, levels, times):
    """The critical law at w: its ``density`` over ``xi``, and the time from ξ = 15 to 0 at all ``levels``."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.2, 3.2))
    plots.theory(left, xi, density)
    left.set(xlabel="ξ", ylabel="density", title=f"w = {w:g}, ηλ₀ = {h:g}")
    plots.theory(right, levels, times)
    right.axvline(onset, color="0.7", linewidth=1)
    right.set(xlabel="w", ylabel="T(w), from ξ = 15 to 0", yscale="log")
    return figure
