"""Flatness along training, compared at equal loss, and with the scale of the weights taken out.

The loss of a fully connected ReLU network f can be lowered without changing what it answers: f → αf, by
scaling its layers. Y23 explains the late growth of flatness so. Here are the copies with which that can be
tested (:func:`rescaled`, :func:`matching_factor`), and a flatness that no such scaling changes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from flatmin import _check
from flatmin.networks import parameters
from flatmin.networks.data.samples import samples_of
from flatmin.networks.device import choose
from flatmin.networks.freezing.spectra import tops
from flatmin.networks.parameters import block_of
from flatmin.networks.passes.dense import dense_layers
from flatmin.networks.point import at
from flatmin.networks.train.runs import Runs

__all__ = [
    "along",
    "at_equal",
    "copies",
    "log_flatness",
    "log_normalised",
    "matching_factor",
    "over_levels",
    "passage",
    "rescaled",
]

#: ln F = −power · mean ln λ
_POWERS = {"Y23": 0.5, "Y26": 1.0}
_HOMOGENEOUS = (nn.ReLU, nn.Identity)
#: largest factor that matching_factor looks for
_LARGEST = 1e4


def log_flatness(eigenvalues, definition: str = "Y23") -> np.ndarray:
    """ln F of the ``eigenvalues`` (…, top): Y23 Eq. 6, −½ mean ln λ; Y26 Eq. 1, twice as much.

    NaN where an eigenvalue is not positive: flatness is not defined there. Raises ValueError for another
    definition or what is no array of real numbers.
    """
    values = np.atleast_1d(_check.array("eigenvalues", eigenvalues, infinite=True))
    power = _POWERS[_check.choice("definition", definition, _POWERS)]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = -power * np.log(np.where(values > 0, values, np.nan)).mean(-1)
    return found


def passage(loss, logs, levels) -> np.ndarray:
    """``logs`` (…, T) where ``loss`` (…, T) first falls to each of the ``levels`` (K,), (…, K).

    Between the checkpoints around the passage ``logs`` are linear in ln loss. NaN where a run starts below
    the level or never reaches it, or where ``logs`` are. Raises ValueError for shapes that do not fit, a
    loss below 0 or levels that are not positive.
    """
    loss = np.atleast_1d(_check.array("loss", loss, least=0, infinite=True))
    _check.array("logs", np.nan_to_num(logs), infinite=True)
    logs = np.atleast_1d(np.asarray(logs, dtype=float))
    if logs.shape != loss.shape:
        raise _check.refused("logs", logs, f"of the shape {loss.shape} of loss")
    levels = _check.array("levels", levels, above=0, ndim=1)
    found = np.full((*loss.shape[:-1], len(levels)), np.nan)
    for run in np.ndindex(loss.shape[:-1]):
        for place, level in enumerate(levels):
            after = int(np.argmax(np.append(loss[run], 0.0) <= level))
            if 0 < after < loss.shape[-1]:
                high, low = np.log(np.maximum(loss[run][after - 1 : after + 1], 1e-300))
                share = (high - math.log(level)) / (high - low) if math.isfinite(high) else 1.0
                found[(*run, place)] = logs[run][after - 1 : after + 1] @ (1 - share, share)
    return found


def over_levels(passed, least: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the levels that count, (C, S), of what C runs of S starts show at K levels, (C, S, K).

    A level counts that all C runs pass (not NaN) at ``least`` of the starts; a start where they do not pass
    all of these is NaN. Returns the means and which levels count, (K,); all NaN where none does. Raises
    ValueError for other than three axes, or a share outside (0, 1].
    """
    values = np.asarray(_check.array("passed", np.nan_to_num(passed, nan=-np.inf), ndim=3, infinite=True))
    least = _check.number("least", least, above=0, most=1)
    there = np.isfinite(values).all(0)
    counts = there.mean(0) >= least
    means = np.full(values.shape[:2], np.nan)
    if counts.any():
        good = there[:, counts].all(1)
        means[:, good] = values[:, good][..., counts].mean(-1)
    return means, counts


def at_equal(loss, logs, taus, at, levels) -> tuple[np.ndarray, np.ndarray]:
    """ln F (C, S, T) of C runs of S starts where they are compared: at equal ηt, and at equal loss.

    Parameters
    ----------
    loss, logs : (C, S, T)
        Training loss, ∞ once a run has diverged, and ln F at the checkpoints.
    taus : (T,)
        ηt of the checkpoints, increasing.
    at : (K,)
        Some of them.
    levels : (L,)
        Of the loss.

    Returns
    -------
    (at equal ηt, at equal loss)
        (C, S, K); (C, S, L), see :func:`passage`. NaN where a run has diverged or does not come there;
        :func:`over_levels` takes the means.

    Raises
    ------
    ValueError
        For shapes that do not fit, or an ηt that is no checkpoint.
    """
    loss = _check.array("loss", loss, ndim=3, least=0, infinite=True)
    taus = _check.array("taus", taus, shape=loss.shape[2:], increasing=True)
    at = _check.array("at", at, ndim=1)
    if not np.isin(at, taus).all():
        raise _check.refused("at", at, f"some of the checkpoints {taus.tolist()}")
    passed = passage(loss, logs, levels)
    good = np.where(np.isfinite(loss), np.asarray(logs, dtype=float), np.nan)
    return good[:, :, np.searchsorted(taus, at)], passed


def log_normalised(eigenvalues, norm, size) -> np.ndarray:
    """ln of a flatness that no scaling of layers changes: −½ mean ln(λ ‖W‖²/⟨|f|²⟩), (…).

    ``eigenvalues`` (…, top) of the block of W of (1/n) Σ Jᵢᵀ Jᵢ; ``norm`` (…) is ‖W‖, ``size`` (…) mean |f|².
    A copy whose layers are scaled by any factors (see :func:`rescaled`) has the same: ∂f/∂W grows by as much
    as f does less W. NaN where an eigenvalue is not positive. Raises ValueError for a norm or size that is
    not positive, or shapes that do not fit.
    """
    norm, size = _check.array("norm", norm, above=0), _check.array("size", size, above=0)
    logs = log_flatness(eigenvalues)
    _check.together(eigenvalues=logs, norm=norm, size=size)
    return logs - np.log(norm) + 0.5 * np.log(size)


def rescaled(model: nn.Module, theta: Tensor, factor: float, layer: int | None = None) -> Tensor:
    """Parameters (P,) of the network whose outputs are ``factor`` times those at ``theta`` (P,), exactly.

    With L layers and s = factor^(1/L) the weights of every layer are multiplied by s and the biases of layer
    l by s^l, which multiplies its pre-activations by s^l; with ``layer`` that one's weights alone by
    ``factor``, and the biases from there on. ReLU passes every positive factor on.

    Raises ValueError for a factor that is not positive, a layer that is not there, or a network that is no
    chain of linear layers with ReLU (or no activation) between them.
    """
    _check.instance("model", model, nn.Module)
    layers = _layers("model", model)
    if not all(one.activation in _HOMOGENEOUS for one in layers):
        raise _check.refused("model", model, "linear layers with ReLU or no activation between them")
    size = layers[-1].bias_slice.stop
    fits = isinstance(theta, Tensor) and theta.is_floating_point() and theta.shape == (size,)
    if not fits or not bool(torch.isfinite(theta).all()):
        raise _check.refused("theta", theta, f"{size} finite numbers, in one axis")
    factor = _check.number("factor", factor, above=1e-12, most=1e12)
    shares = np.full(len(layers), 1 / len(layers))
    if layer is not None:
        chosen = _check.integer("layer", layer, least=1, most=len(layers))
        shares = np.where(np.arange(1, len(layers) + 1) == chosen, 1.0, 0.0)
    found = theta.clone()
    for one, share, below in zip(layers, shares, np.cumsum(shares), strict=True):
        found[one.weight_slice] *= factor**share
        found[one.bias_slice] *= factor**below
    return found


def matching_factor(here, level: float) -> float:
    """The α ≥ 1 at which the outputs αf have the mean cross-entropy ``level``; NaN where none has.

    ``here`` is a point with class labels as targets. Where all samples are classified rightly the loss falls
    to 0 with α. Raises ValueError for a level that is not positive or targets that are no labels.
    """
    level = _check.number("level", level, above=0)
    outputs, targets = here.passed.outputs.double().cpu(), here.data.targets
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 1:
        raise _check.refused("here", here, "a point whose targets are class labels")

    def excess(log_factor):
        loss = nn.functional.cross_entropy(math.exp(log_factor) * outputs, targets.cpu())
        return math.log(max(float(loss), 1e-300) / level)

    if excess(0.0) <= 0:
        return 1.0 if excess(0.0) == 0 else math.nan
    grid = np.linspace(0, math.log(_LARGEST), 60)
    below = next((b for b in grid[1:] if excess(b) < 0), None)
    return math.nan if below is None else math.exp(brentq(excess, 0.0, below, xtol=1e-12))


def along(runs: Runs, data, test, layer: int = 2, top: int = 10) -> dict[str, np.ndarray]:
    """What there is to say about flatness at every kept step of ``runs``; (R, T) unless said otherwise.

    Parameters
    ----------
    runs : Runs
        Of a fully connected network, as :func:`flatmin.networks.train.train` returns them.
    data, test
        Labelled samples: those trained on, and others.
    layer : int
        Which weight matrix, from 1.
    top : int

    Returns
    -------
    dict
        ``loss``, ``fitted`` (share of ``data`` classified rightly), ``accuracy`` (of ``test``);
        ``whole``, ``layer`` (R, T, top): largest eigenvalues of the Hessian and of its block of ``layer``;
        ``output`` (R, T, top): of that block of (1/n) Σ Jᵢᵀ Jᵢ, J the Jacobian of the outputs, whatever the
        loss; ``size``: mean |f|²; ``norms`` (R, T, L): ‖W_l‖; ``turned`` (R, T, L): cosine of W_l with that
        of the last kept step; ``dead`` (R, T, L − 1): share of the hidden units that no sample of ``data``
        reaches. For a run that has diverged all but the loss, the accuracies and the norms are NaN.

    Raises
    ------
    ValueError
        For runs of a network that is not fully connected, or what does not fit.
    """
    _check.instance("runs", runs, Runs)
    layers, (layer, top) = _layers("runs", runs.model), _block(runs.model, layer, top)
    found = {"loss": runs.losses(data), "fitted": runs.accuracies(data), "accuracy": runs.accuracies(test)}
    alive = np.flatnonzero(~runs.diverged)
    shape = runs.parameters.shape[:2]
    thetas, widths = runs.parameters[alive].flatten(0, 1), dict.fromkeys(("whole", "layer", "output"), top)
    if len(alive):
        measured = _tops(runs.model, runs.loss, data, thetas, layer, top)
        measured |= _activity(runs.model, data, thetas)
    for name, width in (widths | {"size": 1, "dead": len(layers) - 1}).items():
        values = np.full((*shape, width), np.nan)
        if len(alive):
            values[alive] = np.reshape(measured[name], (len(alive), shape[1], width))
        found[name] = values[..., 0] if name == "size" else values
    weights = [runs.parameters[..., one.weight_slice].double() for one in layers]
    norms = [weight.norm(dim=-1) for weight in weights]
    ends = [(w * w[:, -1:]).sum(-1) / (n * n[:, -1:]) for w, n in zip(weights, norms, strict=True)]
    found |= {"norms": torch.stack(norms, -1).numpy(), "turned": torch.stack(ends, -1).numpy()}
    return found


@torch.no_grad()
def _activity(model, data, thetas) -> dict:
    """Mean |f|² (R,) and the shares of dead units (R, L − 1) at ``thetas`` (R, P), one after the other."""
    (fixed, layers), device = dense_layers(model), choose(None, model)
    inputs, sizes, dead = samples_of(data).to(device, thetas.dtype).inputs, [], []
    for module in fixed:
        inputs = module(inputs)
    for theta in thetas.to(device):
        a, quiet = inputs, []
        for layer in layers:
            a = a @ theta[layer.weight_slice].view(layer.weight.shape).T
            a = layer.derivatives(a if layer.bias is None else a + theta[layer.bias_slice])[0]
            quiet.append((a <= 0).all(0).double().mean())
        sizes.append(a.double().square().sum(1).mean())
        dead.append(torch.stack(quiet)[:-1])
    return {"size": torch.stack(sizes).cpu().numpy(), "dead": torch.stack(dead).cpu().numpy()}


def copies(model: nn.Module, loss, data, thetas: Tensor, levels, layer: int = 2, top: int = 10):
    """Spectra of the copies of networks whose outputs are multiplied until their loss is a given level.

    ``thetas`` (R, P) and ``levels`` (R,) belong together. Returns the factors α (R,) and the eigenvalues (R,
    1 + L, top) of the whole Hessian and of the block of ``layer``: first of the copy with all layers scaled
    alike, then of those with one layer scaled (see :func:`rescaled`). All 1 + L compute the same function.
    NaN where no factor gives that loss.

    Raises ValueError as :func:`rescaled` and :func:`matching_factor`, or for lengths that differ.
    """
    layers, (layer, top) = len(_layers("model", model)), _block(model, layer, top)
    if not isinstance(thetas, Tensor) or thetas.ndim != 2 or not bool(torch.isfinite(thetas).all()):
        raise _check.refused("thetas", thetas, "a tensor of finite numbers, of shape (R, P)")
    levels = _check.array("levels", levels, above=0, shape=(len(thetas),))
    which, factors, scaled = (None, *range(1, layers + 1)), np.full(len(thetas), np.nan), []
    for run, theta in enumerate(thetas):
        twin = parameters.with_parameters(model, theta)
        factors[run] = matching_factor(at(twin, loss, data, checks=False), levels[run])
        if not math.isnan(factors[run]):
            scaled += [rescaled(model, theta, factors[run], one) for one in which]
    found = {name: np.full((len(thetas), len(which), top), np.nan) for name in ("whole", "layer")}
    if scaled:
        for name, values in _tops(model, loss, data, torch.stack(scaled), layer, top, found).items():
            found[name][~np.isnan(factors)] = values.reshape(-1, len(which), top)
    return factors, found["whole"], found["layer"]


def _layers(name, model):
    """The layers of a fully connected network; ValueError for another."""
    read = dense_layers(model)
    if read is None:
        raise _check.refused(name, model, "a fully connected network, or of one")
    return read[1]


def _block(model, layer, top) -> tuple[int, int]:
    """The number of a layer and of eigenvalues that its weights have, checked."""
    layer = _check.integer("layer", layer, least=1)
    block = block_of(parameters.trainable(model), layer)
    return layer, _check.integer("top", top, least=1, most=block.stop - block.start)


def _tops(model, loss, data, thetas, layer, top, names=("whole", "layer", "output")) -> dict:
    """The eigenvalues that :func:`along` names, at each of ``thetas``, (R, top)."""
    inputs = samples_of(data).inputs
    unit = inputs, inputs.new_zeros(len(inputs), len(_layers("model", model)[-1].weight))
    kinds = {"whole": (loss, data, None), "layer": (loss, data, layer), "output": ("square", unit, layer)}
    found = {}
    for name in names:
        loss, samples, which = kinds[name]
        if choose(None, model).type == "cuda":  # stacked there; one by one is faster on the CPU
            found[name] = tops(model, loss, samples, thetas, layer=which, top=top).values
            continue
        points = (at(parameters.with_parameters(model, t), loss, samples, checks=False) for t in thetas)
        each = [here.eigenpairs(top, which, missed=1).values.double().numpy() for here in points]
        found[name] = np.stack(each)
    return found
