"""Pictures of chapter 5: the noise in the eigenbasis of the curvature, its strength, its alignment."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from flatmin.estimate import independent_mean
from flatmin.ledger import plots

__all__ = [
    "alignment_along",
    "alignment_and_size",
    "bases_along",
    "basis_with_fit",
    "exponents_along",
    "spectrum_and_noise",
    "strengths",
    "strengths_at_scale",
]


def _basis(ax, basis):
    """Noise along each eigenvector against its positive curvature."""
    positive = basis.curvature > 0
    look = {"color": plots.colour("sgd"), "ms": 3, "alpha": 0.5}
    ax.loglog(basis.curvature[positive], basis.noise[positive], ".", **look)


def spectrum_and_noise(basis):
    """Curvature and noise along each eigenvector by rank, and one against the other with slopes 1 and 2."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6))
    rank = np.arange(1, len(basis.curvature) + 1)
    left.semilogy(rank, basis.curvature.clamp(min=1e-12), color=plots.colour("theory"))
    left.semilogy(rank, basis.noise, ".", ms=2, color=plots.colour("sgd"))
    ylabel = r"$\lambda_i$ (line), $C_{ii}$ (points)"
    left.set(xlabel="eigenvector, sharpest first", ylabel=ylabel, ylim=(1e-12, 10))
    _basis(right, basis)
    top = np.array([1e-5, 1]) * float(basis.curvature[0])
    for power, style in ((1, "-"), (2, "--")):
        law = float(basis.noise[0]) * (top / top[1]) ** power
        right.loglog(top, law, style, color=plots.colour("theory"), lw=1, label=f"slope {power}")
    right.set(xlabel=r"$\lambda_i$", ylabel=r"$C_{ii}$", xlim=(1e-7, 1), ylim=(1e-13, 1e-2))
    right.legend()
    plots.label_panels((left, right))
    return figure


def exponents_along(windows, entropy, square):
    """Exponent of C against H along training in several windows of λ/λ₁, for cross-entropy and square loss.

    ``entropy`` and ``square``: steps, and for each of them slopes (networks, windows).
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), sharey=True)
    looks = list(zip(windows, "os^", ("sharp", "sgd", "flat"), ("-", "--", ":"), strict=True))
    for ax, name, (steps, slopes) in zip(axes, ("cross-entropy", "square"), (entropy, square), strict=True):
        for k, ((low, high), marker, kind, style) in enumerate(looks):
            found = [independent_mean(each[:, k]) for each in slopes]
            values, errors = zip(*found, strict=True)
            label = rf"$10^{{{np.log10(low):.0f}}}$ to $10^{{{np.log10(high):.0f}}}$"
            look = {"marker": marker, "ls": style, "color": plots.colour(kind), "label": label}
            ax.errorbar(np.maximum(steps, 10) * 1.03**k, values, errors, **look)
        for power in (1, 2):
            ax.axhline(power, color=plots.colour("printed"), ls=(0, (6, 3)), lw=1)
        ax.set(xscale="log", xlabel="step (the start at 10)", xlim=(8, 2e4), ylim=(0.3, 2.9), title=name)
    for power, text in ((1, "M22, Y26: H"), (2, "Y22, Y23: H²")):
        axes[1].text(10, power + 0.05, text, fontsize=10)
    axes[0].set_ylabel("exponent of C against H")
    axes[0].legend(loc="upper left", title=r"$\lambda/\lambda_1$ from", ncols=2)
    plots.label_panels(axes)
    return figure


def _strengths(ax, losses, values, powers, **style):
    """𝒩 against L ≤ 3 of several runs; power laws through the end of the first."""
    look = {"color": plots.colour("sgd"), "ms": 4, "marker": ".", "ls": "none"} | style
    ax.loglog(losses.T, np.where(losses < 3, values, np.nan).T, **look)
    if not powers:
        return
    limits = {"xlim": (ax.get_xlim()[0], 3), "ylim": ax.get_ylim()}
    grid = np.geomspace(losses.min(), 3)
    for power in powers:
        law = values[0, -1] * (grid / losses[0, -1]) ** power
        line = {"ls": "-" if power == 1 else "--", "color": plots.colour("theory"), "lw": 1}
        ax.loglog(grid, law, label=f"slope {power}", **line)
    ax.set(xlabel="loss $L$", **limits)
    ax.legend()


def strengths(curves, powers):
    """Noise strength against loss along training; ``curves``: loss → (L, 𝒩), (runs, steps) each, with the
    ``powers`` drawn beside each."""
    figure, axes = plt.subplots(1, len(curves), figsize=(8.6, 3.6))
    for ax, (loss, (losses, values)), shown in zip(axes, curves.items(), powers, strict=True):
        _strengths(ax, losses, values, shown)
        ax.set_title(loss)
    axes[0].set_ylabel(r"noise strength $\mathcal{N}$")
    plots.label_panels(axes)
    return figure


def strengths_at_scale(names, square, entropy):
    """M22 Fig. 2 and 5, recorded: 𝒩 against L for both losses, and 𝒩 over its decoupled form.

    ``names``: kind ("fcn", "cnn", "large", "half") → name; ``square`` and ``entropy``: kind → (L, 𝒩, Tr G),
    (runs, epochs) each.
    """
    looks = {"fcn": (".", "sgd"), "cnn": ("^", "gd"), "large": ("s", "sharp"), "half": ("x", "gld")}
    figure, axes = plt.subplots(2, 2, figsize=(8.4, 7))
    (dense, convolutional), (ratio, xent) = axes
    for kind, name in reversed(names.items()):  # those that set the limits last
        marker, colour = looks[kind]
        style = {"marker": marker, "color": plots.colour(colour), "ls": "none", "ms": 4}
        losses, values, trace = square[kind]
        ax, powers = (dense if kind in ("fcn", "large") else convolutional), (1,) * (kind in ("fcn", "cnn"))
        _strengths(ax, losses, values, powers, **style)
        ratio.semilogx(losses.T, (5 * values / (losses * trace)).T, **style)[0].set_label(name)
        if kind in entropy:
            _strengths(xent, *entropy[kind][:2], (1, 2) * (kind == "fcn"), **style)
    ratio.axhline(1, color=plots.colour("theory"), lw=1)
    ratio.set(xlabel="loss $L$", ylabel=r"$K\mathcal{N}/(2L\,\mathrm{Tr}\,G)$", ylim=(0, 18))
    ratio.legend(loc="upper left", fontsize=9.5)
    titles = ("fully connected, square", "convolutional, square", "decoupling", "cross-entropy")
    for ax, title in zip(axes.ravel(), titles, strict=True):
        ax.set_title(title)
    for ax in (dense, convolutional, xent):
        ax.set_ylabel(r"noise strength $\mathcal{N}$")
        ax.legend(loc="lower right")
    plots.label_panels(axes.ravel())
    return figure


def alignment_along(tracks):
    """α, β, μ, γ along training, means over runs; ``tracks``: name → (steps, [run][step] of alignments)."""
    looks = {
        "alpha": ("o-", "sgd"),
        "beta": ("s--", "gd"),
        "mu": ("^-.", "langevin"),
        "gamma": ("v:", "sharp"),
    }
    figure, axes = plt.subplots(2, len(tracks) // 2, figsize=(8, 6), sharey=True)
    for ax, (name, (steps, rows)) in zip(axes.flat, tracks.items(), strict=True):
        for measure, (style, kind) in looks.items():
            values = np.mean([[getattr(one, measure) for one in row] for row in rows], axis=0)
            ax.plot(np.maximum(steps, 2), values, style, color=plots.colour(kind), ms=4, label=measure)
        ax.set(xscale="log", title=name, xlabel="step")
    for ax in axes[:, 0]:
        ax.set_ylabel("alignment")
    axes[0, 0].legend(loc="lower left", ncols=2)
    return figure


def alignment_and_size(result, kinds):
    """W22 Fig. 1 and 2, recorded: μ along training, and at its end against P; ``kinds``: kind → name."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.8))
    for (kind, name), marker in zip(kinds.items(), "os^D", strict=True):
        mu, size = result.arrays[f"{kind}_mu"], result.arrays[f"{kind}_parameters"][:, 0]
        steps, middle, end = np.maximum(result.arrays[f"{kind}_steps"], 2), mu[len(mu) // 2], mu[..., -1]
        look = {"marker": marker, "lw": 0.8}
        left.errorbar(steps, middle.mean(0), middle.std(0, ddof=1), ms=3, label=name, **look)
        right.errorbar(size, end.mean(1), end.std(1, ddof=1), ms=4, **look)
    left.set(xscale="log", xlabel="step", ylabel=r"$\mu$", ylim=(0, 1.4))
    right.set(xscale="log", xlabel="parameters $P$", ylim=(0, 1.4))
    left.legend(loc="lower left")
    plots.label_panels((left, right))
    return figure


def basis_with_fit(basis, fit, window, title):
    """Noise against curvature, with the power law fitted over λ ≥ ``window`` λ₁."""
    figure, ax = plt.subplots()
    _basis(ax, basis)
    sharpest = float(basis.curvature[0])
    x = sharpest * np.array([window, 1])
    law = np.exp(fit.intercept) * (x / sharpest) ** fit.value
    plots.theory(ax, x, law, label=f"slope {fit.value:.2f}")
    ax.set(xlabel=r"$\lambda_i$", ylabel="$C_{ii}$", title=title)
    ax.set(xlim=(1e-7 * x[1], 2 * x[1]), ylim=(1e-10 * law[1], 10 * law[1]))
    ax.legend()
    return figure


def bases_along(bases):
    """Noise against curvature at several times; ``bases``: step → basis."""
    figure, axes = plt.subplots(2, len(bases) // 2, figsize=(8, 6), sharex=True, sharey=True)
    for ax, (step, basis) in zip(axes.flat, bases.items(), strict=True):
        _basis(ax, basis)
        ax.set(title=f"step {step}", xlabel=r"$\lambda_i$", xlim=(1e-7, 100), ylim=(1e-14, 10))
    for ax in axes[:, 0]:
        ax.set_ylabel("$C_{ii}$")
    return figure
