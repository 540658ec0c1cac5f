"""Pictures of chapter 13: one network under five theories."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from flatmin.ledger import plots
from flatmin.theory.stability import stationary

__all__ = ["live", "overview", "show_laws"]

#: theories of an edge: name → (label, kind, line)
_EDGES = {
    "exact": ("exact edge", "theory", "-"),
    "descent": ("descent 2/λ₁", "gd", "-."),
    "trace": ("trace rule", "flat", ":"),
    "w22": ("W22's bound", "printed", "--"),
    "m22": ("M22, n = n_c", "sharp", (0, (6, 2))),
}


def _fluctuations(axes, noise, variance):
    """Noise and stationary variance along each direction, each ``(λ (q,), measured (q,), {name: law (q,)})``.

    In units of 2L/B and of ηL/B, where M22 has λ and 1.
    """
    labels = (r"noise $C_{ii}\cdot B/2L$", r"variance $v_i\cdot B/\eta L$")
    looks = {"linear": ("theory", "-"), "C ∝ H": ("flat", "--"), "C ∝ H²": ("printed", "-.")}
    for ax, (lam, seen, laws), label in zip(axes, (noise, variance), labels, strict=True):
        plots.points(ax, lam, seen, label="SGD", kind="sgd", ms=3)
        for name, law in laws.items():
            kind, line = looks[name]
            plots.theory(ax, lam, law, name, kind, linestyle=line, lw=1.3)
        ax.set(xscale="log", yscale="log", xlabel="eigenvalue λ", ylabel=label)
        ax.set_ylim(seen.min() / 8, seen.max() * 8)
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.legend(fontsize=9)


def _ratios(ax, rows, label):
    """Predicted over measured: ``rows`` {name: (value, error)}, one below the other; 1 is right."""
    for place, (value, error) in enumerate(rows.values()):
        plots.points(ax, [value], [place], kind="sgd", xerr=[[error], [error]])
    ax.axvline(1, color=plots.colour("theory"), lw=1)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlabel=label, ylim=(len(rows) - 0.5, -0.5), xscale="log")
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, 0.7), max(high, 1.4))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ticks = [t for t in (0.5, 0.8, 1, 1.25, 2, 4) if ax.get_xlim()[0] <= t <= ax.get_xlim()[1]]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])


def _edges_and_times(ax, sizes, measured, edges):
    """Largest stable η against B: ``measured`` (value, error) each (B,), ``edges`` {name: (B,)} of _EDGES."""
    for name, values in edges.items():
        label, kind, line = _EDGES[name]
        plots.theory(ax, sizes, values, label, kind, lw=1.3, linestyle=line)
    plots.points(ax, sizes, *measured, label="half of the runs leave", kind="sgd")
    ax.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="learning rate η")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(None, 8 * ax.get_ylim()[1])  # room for the legend
    ax.legend(fontsize=9, loc="upper left")


def _drifts(ax, steps, measured, control, predicted):
    """Change of Tr G: ``measured`` and ``control``, (value, error) each (T,), and laws {name: (T,)}."""
    looks = {"C ∝ H": ("theory", "-"), "C ∝ H²": ("printed", "-."), "small steps": ("flat", "--")}
    for name, values in predicted.items():
        kind, line = looks[name]
        plots.theory(ax, steps, values, name, kind, linestyle=line, lw=1.3)
    plots.points(ax, steps, *measured, label="label noise", kind="sgd")
    plots.points(ax, steps, *control, label="none", kind="gd")
    ax.set(xlabel="step", ylabel="change of Tr G")
    ax.legend(fontsize=9)


def overview(noise, variance, excess, edges, times, drift):
    """All observables in six panels; the arguments are those of the drawing functions above."""
    figure, axes = plt.subplots(2, 3, figsize=(12, 7.2))
    _fluctuations(axes[0, :2], noise, variance)
    _ratios(axes[0, 2], excess, "excess loss, predicted / measured")
    _edges_and_times(axes[1, 0], *edges)
    _ratios(axes[1, 1], times, "escape time, predicted / measured")
    _drifts(axes[1, 2], *drift)
    plots.label_panels(axes.flat)
    return figure


def live(noise, variance):
    """Two panels of a network measured here; arguments as there."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.6))
    _fluctuations(axes, noise, variance)
    plots.label_panels(axes)
    return figure


def show_laws(frame, eta=0.005, batch_size=10):
    """What the laws make of a network's frame at other steps and batches: variances, and the mean loss."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
    lam, unit = frame.curvature, batch_size / (eta * frame.loss)
    kinds = {"measured C": "theory", "C ∝ H": "flat", "C ∝ H²": "printed"}
    noises = (frame.noise, *frame.laws().values())
    for (name, kind), noise in zip(kinds.items(), noises, strict=True):
        variance = stationary.linear_variance(eta, lam, noise / batch_size)
        plots.theory(left, lam, variance * unit, name, kind, lw=1.3)
    left.set(xscale="log", yscale="log", xlabel="eigenvalue λ", ylabel=r"variance $v_i\cdot B/\eta L$")
    left.set_title(f"ηλ₁ = {eta * lam[0]:.2g}")
    left.legend(fontsize=9)
    grid = np.geomspace(eta / 30, 2 / lam[0], 300)
    rise = np.array([stationary.decoupled_excess(lam, step, batch_size) for step in grid])
    plots.theory(right, grid, rise, "C = 2LH/B", "flat")
    share = frame.dimension * grid * lam[0] / (2 * batch_size)
    plots.printed(right, grid, np.where(share < 1, share / (1 - share), np.inf), "M22, n directions")
    here = stationary.decoupled_excess(lam, eta, batch_size)
    right.plot(eta, here, "*", ms=14, color=plots.colour("highlight"), mec="black")
    right.set(xscale="log", yscale="log", ylim=(1e-3, 30), xlabel="learning rate η")
    right.set_ylabel("excess loss / L*")
    right.legend(fontsize=9)
    return figure
