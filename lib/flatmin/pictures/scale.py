"""Pictures of chapter 11: estimates from few samples; alignment, escape and flatness of deep networks."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from flatmin.ledger import plots
from flatmin.theory.stability.families import shaped_minimum
from flatmin.theory.stability.threshold import largest_step, leading_mode

__all__ = [
    "alignment_along",
    "choose_a_spectrum",
    "escapes",
    "estimates",
    "flatness_and_bound",
    "ratios",
]

#: the sizes of a family, the smallest first
_SIZES = (("sgd", "o"), ("gd", "s"), ("gld", "^"), ("sharp", "v"), ("printed", "D"))
#: ratios that are 1 at an edge: name → (label, kind, marker)
_RATIOS = {
    "exact": ("exact edge, η/η*(B)", "sgd", "o"),
    "descent": ("descent, ηλ₁/2", "gd", "s"),
    "sharpness": ("batch sharpness · η/2", "gld", "^"),
    "trace": ("trace", "sharp", "v"),
    "bound": ("W22's bound", "printed", "D"),
}


def _small_ticks(*axes):
    for ax in axes:
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_minor_formatter(NullFormatter())


def estimates(sizes, samples, found, naive, scatter):
    """Estimates of μ over the exact value, and the error they claim against their scatter.

    ``sizes`` (M,): drawn of so many ``samples``; ``found``, ``naive`` (M, repeats): estimate over exact;
    ``scatter`` (M, repeats): the errors that the estimates claim, over the exact value.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
    for values, kind, label, shift in (
        (found, "sgd", "two probes, weights as in all pairs", 0.96),
        (naive, "printed", "one probe, all pairs alike", 1.04),
    ):
        spread = values.std(1, ddof=1)
        plots.points(left, sizes * shift, values.mean(1), spread, label, kind)
    left.axhline(1, color=plots.colour("theory"), lw=1)
    left.set(xscale="log", xlabel="samples drawn m", ylabel="estimate of μ / exact μ")
    plots.points(right, sizes, found.std(1, ddof=1), label="scatter of the estimates", kind="sgd")
    plots.points(right, sizes, scatter.mean(1), label="error that they claim", kind="gd", fillstyle="none")
    share = np.sqrt(1 / sizes - 1 / samples)
    line = found[0].std(ddof=1) * share / share[0]
    plots.theory(right, sizes, line, r"$\propto\sqrt{1/m-1/n}$", lw=1)
    right.set(xscale="log", yscale="log", xlabel="samples drawn m", ylabel="relative to the exact μ")
    _small_ticks(left, right)
    for ax in (left, right):
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.legend(fontsize=9)
    left.set_ylim(None, 1.25 * left.get_ylim()[1])  # room for the legend
    return figure


def alignment_along(panels):
    """W22 Fig. 5a: μ along training.

    ``panels``: (title, steps (T,), outputs K, {label: (μ (R, T), error (R, T), isotropic μ (R, T))}). Points
    are means over runs; a bar is the larger of the runs' standard deviation and the estimator's error.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(8.4, 4.2), squeeze=False)
    for ax, (title, steps, outputs, series) in zip(axes[0], panels, strict=True):
        steps = np.asarray(steps)
        at = np.maximum(steps, steps[1] / 2)  # the start, which a logarithmic axis has no place for
        for (label, (mu, error, null)), (kind, marker) in zip(series.items(), _SIZES, strict=False):
            bar = error.mean(0)
            if len(mu) > 1:
                bar = np.maximum(bar, mu.std(0, ddof=1))
            look = {"marker": marker, "ms": 4, "linestyle": "-", "lw": 0.8}
            plots.points(ax, at, mu.mean(0), bar, label, kind, **look)
            ax.plot(at, null.mean(0), ls=":", lw=1, color=plots.colour(kind))
        ax.axhline(1 / outputs, color=plots.colour("theory"), lw=1)
        ax.text(at[-1], 1.5 / outputs, "1/K", ha="right", fontsize=9)
        ax.plot([], [], ls=":", lw=1, color="0.4", label="isotropic noise")
        ax.set(xscale="log", yscale="log", xlabel="step", title=title)
        ax.set(ylim=(None, 4 / outputs), ylabel="alignment μ")
        ax.legend(fontsize=9, loc="center left")
    return figure


def ratios(panels):
    """The ratios of chapter 7, each 1 at its edge, against the batch size; W22 Fig. 6b is the dashed one.

    ``panels``: (title, batch sizes (B,), {name: (B, runs)}) with names among exact, descent, sharpness,
    trace, bound. Points are means over runs, bars their standard deviation.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.1 * len(panels), 3.8), squeeze=False)
    for ax, (title, sizes, found) in zip(axes[0], panels, strict=True):
        for name, values in found.items():
            label, kind, marker = _RATIOS[name]
            look = {"marker": marker, "ms": 4, "lw": 0.8, "linestyle": "--" if name == "bound" else "-"}
            bar = values.std(1, ddof=1) if values.shape[1] > 1 else None
            plots.points(ax, sizes, values.mean(1), bar, label, kind, **look)
        ax.axhline(1, color=plots.colour("theory"), lw=1)
        ax.set(xscale="log", yscale="log", xlabel="batch size B", title=title)
        ax.set(ylabel="ratio, 1 at the edge", ylim=(0.02, 2.5))
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.margins(x=0.15)
    _small_ticks(*axes[0])
    axes[0, 0].legend(fontsize=9, loc="lower left")
    return figure


def flatness_and_bound(panels):
    """W22 Fig. 6a: ‖G‖_F of SGD's solutions and W22's bound on it, against the number of parameters.

    ``panels``: (title, parameters (D,), ‖G‖_F (D, R), bound (D, R), Tr G (D, R), names (D,)).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(8.4, 4.2), squeeze=False)
    for ax, (title, parameters, norm, bound, trace, names) in zip(axes[0], panels, strict=True):
        for values, kind, label in (
            (trace, "sharp", "Tr G"),
            (bound, "printed", r"W22's bound $\sqrt{B/\mu}/\eta$"),
            (norm, "sgd", r"$\|G\|_{\mathrm{F}}$"),
        ):
            bar = values.std(1, ddof=1) if values.shape[1] > 1 else None
            look = {"linestyle": "--" if kind == "printed" else "-", "lw": 0.8}
            plots.points(ax, parameters, values.mean(1), bar, label, kind, **look)
        for x, y, name in zip(parameters, norm.mean(1), names, strict=True):
            number = str(name).rpartition("-")[2]
            ax.annotate(number, (x, y), (0, -14), textcoords="offset points", ha="center", fontsize=9)
        ax.set(xscale="log", yscale="log", xlabel="parameters P", ylabel="curvature at the end", title=title)
        low, high = ax.get_ylim()
        ax.set_ylim(low / 2, 6 * high)  # room for names and legend
        ax.margins(x=0.15)
        ax.legend(fontsize=9, loc="upper left")
    _small_ticks(*axes[0])
    return figure


def escapes(panels, top=10.0):
    """W22 Fig. 5b with its control.

    ``panels``: (title, losses (S, T + 1), control (S, T + 1), mean (T + 1,), descent (T + 1,)): trajectories
    of SGD at a small and at a large batch, the exact mean of the linearised network at the small one, and
    gradient descent, all from one minimum. Losses above ``top`` are cut off.
    """
    size = (4.1 * max(1.25, len(panels)), 3.6)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for ax, (title, losses, control, mean, descent) in zip(axes[0], panels, strict=True):
        t = np.arange(losses.shape[1])
        for values, kind in ((control, "gld"), (losses, "sgd")):
            shown = np.where(np.isfinite(values), values, np.nan)
            ax.plot(t, shown.T, color=plots.colour(kind), lw=0.4, alpha=0.2, ls="-")
        plots.theory(ax, t, mean, "linearised, exact mean")
        ax.plot(t, descent, color=plots.colour("gd"), ls=":", label="gradient descent")
        plots.points(ax, t, control.mean(0), label="large batch, mean", kind="gld", ms=3)
        known = (losses < 1e9).all(0)
        look = {"label": "small batch, mean", "kind": "sharp", "ms": 3}
        plots.points(ax, t[known], losses[:, known].mean(0), **look)
        ax.set(yscale="log", xlabel="step", ylabel="loss L", title=title)
    floor = min(min(p[4].min(), p[1][:, 0].min()) for p in panels)
    highest = max(p[1][np.isfinite(p[1])].max() for p in panels)
    for ax in axes[0]:
        ax.set_ylim(floor / 3, min(top, 300 * highest))
    axes[0, 0].legend(fontsize=9, loc="upper left")
    return figure


def choose_a_spectrum(decay=1.0, spread=0.0, batch_size=2):
    """What becomes of W22's ratio when SGD sits on the exact edge at every batch, or ignores the batch.

    Left: the spectrum of a minimum of 24 samples; right: η‖H‖_F√(μ/B) with η = η*(B), and with η = 2/λ₁,
    where nothing but B changes.
    """
    minimum = shaped_minimum(decay, spread)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6), width_ratios=(1, 1.4))
    left.plot(np.arange(1, minimum.rank + 1), np.sort(minimum.eigenvalues)[::-1], ".-", lw=0.8)
    title = f"effective rank {minimum.effective_rank:.2g}"
    left.set(xlabel="number", ylabel="eigenvalue of H", yscale="log", title=title)
    sizes = np.unique(np.geomspace(1, minimum.samples, 14).round().astype(int))
    edge = np.array([largest_step(minimum, int(b), "replacement") for b in sizes])
    mu = np.array([leading_mode(minimum, None, int(b), "replacement").alignment for b in sizes])
    share = minimum.frobenius * np.sqrt(mu / sizes)
    plots.theory(right, sizes, edge * share, "on the exact edge at every B", "sgd", marker="o", ms=3)
    fixed = 2 / minimum.sharpness * minimum.frobenius * np.sqrt(mu[-1] / sizes)
    plots.printed(right, sizes, fixed, r"$\lambda_1=2/\eta$ whatever B: arithmetic")
    place = int(np.argmin(np.abs(sizes - batch_size)))
    right.plot(sizes[place], (edge * share)[place], "*", ms=14, color=plots.colour("highlight"), mec="black")
    right.axhline(1, color=plots.colour("theory"), lw=1)
    right.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="W22's ratio", ylim=(0.05, 20))
    _small_ticks(left, right)
    right.legend(fontsize=9)
    return figure
