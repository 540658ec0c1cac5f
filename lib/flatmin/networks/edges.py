"""How near SGD runs to the edge of stability: what is read off live and recorded runs (W22 Fig. 3 and 4).

``result`` is a recorded result (:func:`flatmin.ledger.record.load`) of the experiment that a function names.
"""

from __future__ import annotations

import numpy as np

from flatmin import _check, fits
from flatmin.estimate import Estimate, independent_mean
from flatmin.networks import stability
from flatmin.networks.point import at
from flatmin.networks.train import train

__all__ = [
    "at_end",
    "escape_rates",
    "gamma_0",
    "live_edges",
    "recorded_edges",
    "series",
    "slope",
    "steady_growth",
]

#: the window of :func:`steady_growth`: steps left out, in which a start turns into the directions that grow,
#: and the loss that no run may exceed
SETTLED, TOP = 3, 0.1

#: of the experiment stability-edge: the share of the steps after which a checkpoint is late; the loss of a
#: fitting one over that of outputs 0; how far from 1 a ratio that settles there may be
LATE, FITTING, BAND = 2 / 3, (0.01, 0.1), 0.1


def live_edges(starts, data, eta, batch_size, steps):
    """Train ``starts`` and return W22's ratio, the exact one and that of descent (see
    :class:`~flatmin.networks.stability.Edge`) at each of ``steps``, (3, runs, T).

    Square loss, one output; ``steps`` increase, the last one is the end of the training. Raises ValueError as
    :func:`flatmin.networks.train.train` does.
    """
    steps = _check.array("steps", steps, ndim=1, dtype=int, least=0, increasing=True).tolist()
    how = {"eta": eta, "batch_size": batch_size, "steps": steps[-1], "keep": steps}
    runs = train(starts, "square", data, seed=range(len(starts)), **how)
    found = np.empty((3, len(starts), len(steps)))
    for run, place in np.ndindex(found.shape[1:]):
        here = stability.edge(at(runs.model_at(run, place), "square", data), eta, batch_size)
        found[:, run, place] = here.bound, here.exact, here.descent
    return found


def recorded_edges(result, kind: str, which: int) -> dict[int, np.ndarray]:
    """{B: the three ratios (3, runs, T)} recorded by stability-training at step size number ``which``."""
    names = "eta", "frobenius", "mu", "largest_step", "sharpness"
    eta, norm, mu, largest, sharpness = (_chosen(_get(result, kind, name), which) for name in names)
    return {
        int(size): np.stack([eta * norm[i] * np.sqrt(mu[i] / size), eta / largest[i], eta * sharpness[i] / 2])
        for i, size in enumerate(result.batch_sizes)
    }


def phase_means(result, outputs: int, name: str, phase: str = "late") -> dict[tuple[str, int], np.ndarray]:
    """{(labels, B): each run's mean of a recorded ratio over the checkpoints of a phase, (runs,)}.

    ``result`` of the experiment stability-edge, ``name`` one of its ratios; ``phase`` "late" or "fitting"
    (:data:`LATE`, :data:`FITTING`; the loss at outputs 0 is ½). Runs that diverged, or have no such
    checkpoint, are left out. Raises ValueError for what was not recorded.
    """
    kind = f"outputs_{_check.integer('outputs', outputs, least=1)}"
    if f"{kind}_loss" not in result.arrays:
        raise _check.refused("outputs", outputs, "a number of outputs that was recorded")
    phase = _check.choice("phase", phase, ("late", "fitting"))
    values, losses = (_get(result, kind, each) for each in (name, "loss"))
    low, high = (0.5 * share for share in FITTING)
    found = {}
    for place in np.ndindex(values.shape[:2]):
        steps = result.arrays[f"steps_{outputs}"][place[1]]
        rows, loss = (a[place].reshape(-1, len(steps)) for a in (values, losses))
        used = np.broadcast_to(steps >= LATE * steps[-1], loss.shape)
        if phase == "fitting":
            used = (loss >= low) & (loss <= high)
        kept = used.any(1) & np.isfinite(loss).all(1)
        means = [row[each].mean() for row, each in zip(rows[kept], used[kept], strict=True)]
        found[str(result.arrays["labels"][place[0]]), int(result.batch_sizes[place[1]])] = np.array(means)
    return found


def at_end(result, kind: str, name: str, which: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """P and a value at the end of training, (sizes, runs), for the sizes at which no run diverged.

    ``result`` of the experiment stability-size; ``which``: number of the step size, where there are several.
    """
    values, size, diverged = (_get(result, kind, n, which) for n in (name, "parameters", "diverged"))
    if size.ndim != 2:
        raise _check.refused("which", which, "the number of a step size")
    values = values[..., -1] if values.ndim == 3 else values  # the last checkpoint
    kept = ~diverged.any(1)
    return size[kept].astype(float), values[kept]


def slope(
    result, kind: str, name: str, which: int | None = None, over: str | None = None, sigmas: float = 3.0
) -> Estimate:
    """Slope of log(value at the end) against log P, fitted to each run; arguments as :func:`at_end`.

    With ``over`` that of the ratio of two values: the difference of their slopes, paired. ``sigmas``: how
    many errors are compared with, see :func:`~flatmin.estimate.independent_mean`.
    """
    size, values = at_end(result, kind, name, which)
    if over is not None:
        if not isinstance(over, str) or f"{kind}_{over}" not in result.arrays:
            raise _check.refused("over", over, f"the name of an array of {kind!r}")
        values = values / at_end(result, kind, over, which)[1]
    slopes = [np.polyfit(*np.log(run), 1)[0] for run in zip(size.T, values.T, strict=True)]
    return independent_mean(slopes, sigmas)


def series(result, kind: str) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """(label, P, ‖H‖_F, Tr H) for the smallest and the largest step size of one kind of model."""
    found, etas = [], _get(result, kind, "eta")
    for which in sorted({0, len(etas) - 1}):
        size, frobenius = at_end(result, kind, "frobenius", which)
        found.append((f"η = {etas[which]:g}", size[:, 0], frobenius, at_end(result, kind, "trace", which)[1]))
    return found


def escape_rates(result, kind: str, which: int, cutoff: float = 0.03) -> tuple[float, float, float]:
    """Log growth of the mean loss a step, its error, and the exact one, averaged over the recorded minima.

    ``result`` of the experiment stability-escape, ``which`` the number of the batch size. Each is fitted over
    the steps from 0 until the exact mean exceeds ``cutoff``, at least two.
    """
    cutoff, found = _check.number("cutoff", cutoff, above=0), []
    recorded = (_chosen(_get(result, kind, name), which, axis=1) for name in ("losses", "mean"))
    for losses, mean in zip(*recorded, strict=True):
        last = max(2, int(np.argmax(np.append(mean, np.inf) > cutoff)) - 1)
        fit = fits.growth_rate(losses, (0, last))
        exact = np.polyfit(np.arange(last + 1), np.log(mean[: last + 1]), 1)[0]
        found.append((fit.value, fit.error, exact))
    value, error, exact = np.array(found).T
    return value.mean(), np.sqrt(np.square(error).sum()) / len(error), exact.mean()


def steady_growth(result, kind: str) -> tuple[Estimate, Estimate]:
    """Whether an escape is exponential: typical log growth a step and its change.

    ``result`` of the experiment stability-escape, from the start scaled down to a loss of 1e-18. The window
    runs from step SETTLED to the last one at which no run has exceeded the loss TOP; it is cut into halves.
    Returns the rate of the mean of ln L over the window, and the rate in the later half less that in the
    earlier one, over their mean; each a mean over the recorded minima. Raises ValueError for a window of less
    than six steps.
    """
    logs, tops = (_get(result, kind, name) for name in ("scaled_log", "scaled_top"))
    found = []
    for log, top in zip(logs, tops, strict=True):
        last = int(np.argmax(np.append(top, np.inf) > TOP)) - 1
        half = (last - SETTLED) // 2
        if half < 3:
            raise _check.refused("result", result, f"an escape of at least {SETTLED + 6} steps up to {TOP}")
        early, late = log[SETTLED + half] - log[SETTLED], log[last] - log[last - half]
        rate = (log[last] - log[SETTLED]) / (last - SETTLED)
        found.append((rate, 2 * (late - early) / (late + early)))
    return tuple(independent_mean(values) for values in np.transpose(found))


def gamma_0(result, kind: str, which: int, mu: str) -> np.ndarray:
    """W22's γ₀ = η² μ ‖H‖_F²/B at each recorded minimum; ``mu`` is ``"mu"`` (of the start) or ``"mu_0"``."""
    scale = _get(result, kind, "eta") * _get(result, kind, "frobenius")
    size = _chosen(result.batch_sizes, which)
    return scale**2 * _get(result, kind, _check.choice("mu", mu, ("mu", "mu_0"))) / size


def _get(result, kind, name, which=None):
    """A recorded array by kind of model and name, at place ``which`` of its first axis if given."""
    array = result.arrays.get(f"{kind}_{name}")
    if array is None:
        kinds = sorted({key.removesuffix("_parameters") for key in result.arrays if "_parameters" in key})
        allowed = f"a kind ({', '.join(kinds)}) and an array of it"
        raise _check.refused("kind, name", (kind, name), allowed)
    return array if which is None else _chosen(array, which)


def _chosen(array, which, axis=0):
    size = np.shape(array)[axis]
    return np.take(array, _check.integer("which", which, least=-size, most=size - 1), axis)
