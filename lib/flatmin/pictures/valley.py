"""Pictures of chapter 1: one valley, one noise, and where SGD ends up."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects

from flatmin.ledger import plots
from flatmin.theory.noise import RandomShift
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.valleys.near_degenerate import boundary, near_degenerate_valley

__all__ = [
    "choose_a_valley",
    "coincident",
    "fluctuations",
    "loss_and_flatness",
    "onsets",
    "phase_diagram",
    "search_times",
    "spectrum_and_noise",
    "three_strengths",
]


def _phase(runs, values, sigma, eta):
    """The phase an ensemble shows: III if most of it diverged, else II beyond the boundary, else I."""
    if runs.diverged_fraction.value > 0.5:
        return "III"
    return "II" if eta * sigma > boundary(values, eta) else "I"


def choose_a_valley(sigma=0.1, eta=0.02, epsilon=0.001, lambda_1=-2.0, lambda_2=1.0, lambda_0=8.0):
    """Trajectories, histogram and place in the (σ, η) plane for one choice of numbers.

    A valley whose λ(x) is not positive is refused in words, in the place of the figure.
    """
    values = {"epsilon": epsilon, "lambda_0": lambda_0, "lambda_1": lambda_1, "lambda_2": lambda_2}
    try:
        valley = near_degenerate_valley().at(**values)
    except ValueError as refusal:
        print(refusal)
        return
    runs = simulate(
        valley, RandomShift(sigma), eta=eta, steps=40_000, start=(1.5, 1.5), trajectories=64, burn_in=20_000,
        seed=1, keep=401, observe=("x", "x**2", "y**2"), histogram={"x": (-2, 2, 80)},
    )  # fmt: skip
    _, (left, middle, right) = plt.subplots(1, 3, figsize=(9, 3.1))
    left.plot(runs.kept, runs.trajectories[:3, :, 0].T, color=plots.colour("sgd"), linestyle="-", lw=0.8)
    left.set(xlabel="iteration t", ylabel="x", ylim=(-2, 2), title="three trajectories")
    if runs.diverged_fraction.value < 1:
        histogram = runs.histogram("x")
        middle.stairs(histogram.density, histogram.edges, fill=True, color=plots.colour("sgd"), alpha=0.7)
    middle.set(xlabel="x", ylabel="density", title="64 runs, t > 20,000")
    etas = np.geomspace(0.003, 0.25, 100)
    plots.theory(right, boundary(values, etas) / etas, etas, "boundary I–II")
    plots.printed(right, boundary(values, 0.0) / etas, etas, "as printed")
    right.plot([sigma], [eta], "*", ms=14, color=plots.colour("highlight"), mec="black")
    right.set(xscale="log", yscale="log", xlim=(1e-3, 3), ylim=(0.003, 0.25), xlabel="σ", ylabel="η")
    right.set_title(f"phase {_phase(runs, values, sigma, eta)}")
    right.legend(loc="upper right", fontsize=9)


def loss_and_flatness(valley):
    """Loss of a valley as contours, with flatness F = λ(x)^(−1/2) along its floor below."""
    x, y = np.linspace(-1.8, 1.8, 181), np.linspace(-1.6, 1.6, 161)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(5.2, 4.6), sharex=True, height_ratios=(3, 2))
    contours = top.contourf(x, y, valley.function(valley.loss)(x, y[:, None]), 24, cmap="cividis")
    figure.colorbar(contours, ax=[top], label="loss L")
    flatness = valley.function("(lambda_0 + lambda_1*x**2 + lambda_2*x**4)**(-1/2)")(x, 0 * x)
    bottom.plot(x, flatness, color=plots.colour("theory"))
    for ax, height in ((top, (0, 0)), (bottom, (np.interp(0, x, flatness), np.interp(1, x, flatness)))):
        ax.plot([0], height[:1], "v", color=plots.colour("sharp"), ms=9, mec="white", label="lowest point")
        ax.plot(
            [-1, 1],
            [height[1]] * 2,
            "D",
            color=plots.colour("flat"),
            ms=8,
            mec="white",
            label="flattest points",
        )
    top.set_ylabel("y, across")
    bottom.set(xlabel="x, along the valley", ylabel="flatness F(x)")
    bottom.legend(loc="lower center")
    return figure


def three_strengths(runs, first_steps, sigmas):
    """Y23 Fig. 5a,c: the fall into the valley for three noise strengths, and x against time."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6), width_ratios=(2, 3))
    for row, kind, sign in zip(range(3), ("gd", "sgd", "flat"), (1, 1, -1), strict=True):
        line = {"color": plots.colour(kind), "linestyle": "-", "label": f"σ = {sigmas[row]:g}"}
        x, y = first_steps.trajectories[row, 0].T
        left.plot(sign * x, y, lw=0.7, **line)
        right.plot(runs.kept, runs.trajectories[row, 0, :, 0], lw=0.9, **line)
        right.plot(runs.kept, runs.trajectories[row, 1:3, :, 0].T, lw=0.9, color=line["color"], linestyle="-")
    left.set(xlabel="x (σ = 0.2 mirrored)", ylabel="y", title="first 4,000 iterations")
    right.set(xlabel="iteration t", ylabel="x", title="three runs of each strength")
    for height in (0, 1):
        right.axhline(height, color=plots.colour("exact"), lw=0.8)
    right.legend()
    return figure


def phase_diagram(sigmas, etas, flatness, search_time, values, printed_upper):
    """Y23 Fig. 5b,d: flatness of the end and search time over (σ, η), with the boundaries.

    ``flatness`` and ``search_time`` (etas, sigmas) are masked where runs diverge; ``printed_upper`` is the
    Δ_m of Y22 S38 at each η.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 4.4), sharey=True)
    plots.heatmap(axes[0], sigmas, etas, flatness, r"flatness $F(x_{ss})$", log="xy")
    shown = np.ma.maximum(search_time, 0.1)
    label = r"search time $\tau_s$ (3000: or more)"
    plots.heatmap(axes[1], sigmas, etas, shown, label, log="xy", log_values=True, cmap="cividis")
    white = {"color": "white"}
    for ax in axes:
        ax.plot(boundary(values, etas) / etas, etas, lw=3.5, **white)
        plots.theory(ax, boundary(values, etas) / etas, etas, r"$\Delta_S^*$ with the finite step")
        plots.printed(ax, boundary(values, 0.0) / etas, etas, r"$\Delta_S^*$ as printed", **white)
        plots.printed(ax, printed_upper / etas, etas, r"$\Delta_m$ (S38)", color="black", linestyle=":")
        ax.set(xlabel="noise strength σ", xlim=sigmas[[0, -1]], ylim=etas[[0, -1]])
        for name, place in (("I", (2.5e-3, 0.012)), ("II", (0.1, 0.02)), ("III", (0.5, 0.12))):
            shade = "black" if name == "III" else "white"
            written = ax.text(*place, name, fontsize=16, fontweight="bold", color=shade)
            if shade == "white":
                written.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="black")])
    axes[0].set_ylabel("learning rate η")
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18), "ncols": 2}
    grey = {"facecolor": "#9a9a9a", "frameon": True, "labelcolor": "black", "framealpha": 1}
    axes[0].legend(fontsize=9, **below, **grey)
    plots.label_panels(axes)
    return figure


def onsets(scan, balanced, etas, values, errors):
    """⟨x²⟩ across one onset, and the onset against the learning rate.

    ``scan`` = (Δ_S, squares (n, trajectories)); ``balanced`` = (Δ_S, s) of the averaged force; ``values``
    and ``errors`` of the onset at each η.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
    deltas, squares = scan
    error = squares.std(axis=1) / np.sqrt(squares.shape[1])
    plots.theory(left, balanced[0] * 1e4, balanced[1], "balance of the slow force")
    plots.points(left, deltas * 1e4, squares.mean(axis=1), error, "simulation, η = 0.04")
    printed = {"color": plots.colour("printed"), "linestyle": "--", "lw": 1.2}
    left.axvline(5, label=r"$\Delta_S^*$ as printed", **printed)
    left.set(xlabel=r"noise level $10^4\,\Delta_S$", ylabel=r"$\langle x^2\rangle$", ylim=(-0.01, 0.45))
    plots.theory(right, [0, 0.2], [5, 1], "finite step")
    plots.printed(right, [0, 0.2], [5, 5])
    plots.points(right, etas, values * 1e4, errors * 1e4, "simulation")
    right.set(xlabel="learning rate η", ylabel=r"onset $10^4\,\Delta_S^*$", ylim=(0, 6))
    left.legend()
    right.legend()
    plots.label_panels((left, right))
    return figure


def search_times(sigmas, times, line_sigmas, lines, flatness, eta, printed_onset):
    """Search time against noise for several tolerances on the averaged dynamics, and flatness beside it.

    ``times`` and ``lines`` are keyed by tolerance: (sigmas, trajectories) and (line_sigmas,); ``flatness``:
    (σ, F) of the simulation, then of the balance of forces; ``printed_onset`` is a σ, at the step ``eta``.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
    for (tolerance, measured), kind in zip(times.items(), ("flat", "simulation", "sharp"), strict=True):
        error = measured.std(axis=1) / np.sqrt(measured.shape[1])
        plots.theory(left, line_sigmas, lines[tolerance], color=plots.colour(kind), linestyle="-")
        plots.points(left, sigmas, measured.mean(axis=1), error, f"within {tolerance:g}", kind, ms=4)
    look = {"color": plots.colour("printed"), "linestyle": "--", "lw": 1.2}
    left.axvline(printed_onset, label=r"$\Delta_S^*/\eta$ as printed", **look)
    left.set(xscale="log", yscale="log", ylim=(0.5, 1e4), title=f"η = {eta:g}")
    left.set(xlabel="noise strength σ", ylabel=r"search time $\tau_s$")
    measured_sigma, measured_flatness, line_sigma, line_flatness = flatness
    plots.theory(right, line_sigma, line_flatness, "balance of the slow force")
    plots.points(right, measured_sigma, measured_flatness, label="simulation")
    right.axvline(printed_onset, **look)
    right.set(xscale="log", xlim=(2e-3, 0.3), xlabel="noise strength σ", ylabel=r"flatness $F(x_{ss})$")
    left.legend(fontsize=9)
    right.legend(loc="lower right")
    plots.label_panels((left, right))
    return figure


def coincident(sigmas, times, line_sigmas, line):
    """Y22 Fig. S2: time to come down (sigmas, trajectories) where the lowest point is the flattest."""
    figure, ax = plt.subplots(figsize=(5.6, 3.4))
    error = times.std(axis=1) / np.sqrt(times.shape[1])
    plots.theory(ax, line_sigmas, line, "averaged slow force")
    plots.points(ax, sigmas, times.mean(axis=1), error, "simulation, η = 0.01")
    ax.set(xlabel="noise strength σ", ylabel=r"search time $\tau_s$ to $x=0.1$", yscale="log")
    ax.legend()
    return figure


def fluctuations(sigmas, along, across, theory_across, onset, printed_onset):
    """Y22 Fig. S3: variances along and across the valley, (sigmas, trajectories), against noise."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.5))
    root = np.sqrt(along.shape[1])
    plots.points(left, sigmas, along.mean(axis=1), along.std(axis=1) / root, "simulation")
    left.axvline(onset, color=plots.colour("theory"), lw=1.2, label="onset, finite step")
    left.axvline(
        printed_onset, color=plots.colour("printed"), linestyle="--", lw=1.2, label="onset as printed"
    )
    guide = np.array([0.04, sigmas[-1]])
    square = along.mean(axis=1)[-1] * (guide / guide[-1]) ** 2
    left.plot(guide, square, color=plots.colour("exact"), linestyle="-", label="∝ σ²")
    plots.theory(right, sigmas, theory_across, r"$\Delta_S\lambda/(1-\eta\lambda/2)$")
    plots.points(right, sigmas, across.mean(axis=1), across.std(axis=1) / root, "simulation")
    for ax, label in ((left, "$V_x$"), (right, "$V_y$")):
        ax.set(xscale="log", yscale="log", xlabel="noise strength σ", ylabel=label)
        ax.legend(fontsize=9)
    plots.label_panels((left, right))
    return figure


def spectrum_and_noise(curvature, noise):
    """Y23 Fig. 1 in small: Hessian eigenvalues by rank, and gradient variance along the eigenvectors."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
    left.plot(np.arange(1, len(curvature) + 1), curvature, ".", color=plots.colour("simulation"), ms=4)
    left.set(xscale="log", xlabel="rank", ylabel="eigenvalue of the Hessian", title="one of five networks")
    kept = curvature > 1e-5 * curvature[0]
    right.loglog(curvature[kept], noise[kept], ".", color=plots.colour("simulation"), ms=4, label="network")
    guide = np.array([1e-2, 1]) * curvature[0]
    for power, kind, label in ((1, "theory", "∝ H"), (2, "printed", "∝ H² (random shift)")):
        line = noise[0] * (guide / curvature[0]) ** power
        right.plot(guide, line, color=plots.colour(kind), linestyle="-" if power == 1 else "--", label=label)
    right.set(xlabel="eigenvalue of H", ylabel="gradient variance along it")
    right.legend()
    plots.label_panels((left, right))
    return figure
