"""Measure a network of the reader's own as the five theories ask, within a budget."""

from __future__ import annotations

import difflib
import fnmatch
import pickle
import time
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from flatmin import _check
from flatmin.diagnosis.lines import LINES, WITH_STEP, line_of, names_of
from flatmin.diagnosis.plan import Clock, seconds
from flatmin.diagnosis.report import SECTIONS, Report
from flatmin.diagnosis.steps import Steps
from flatmin.ledger.decimals import approx
from flatmin.networks import eigen, gradient_noise
from flatmin.networks.data.samples import samples_of
from flatmin.networks.device import peak_memory
from flatmin.networks.point import Point, at
from flatmin.networks.sampled import drawn_rows
from flatmin.sampling import Sampling

__all__ = ["diagnose"]

#: samples that work is timed on first, and that are taken at least; products that a diagnosis wants
_TIMED, _LEAST, _PRODUCTS = 16, 64, 120
#: seconds of work from which on it is more than its calls
_LONG = 0.03
#: what errors are of where not all samples were taken
_DRAWN = (
    "Errors count in that other samples could have been drawn (those of ρ(λ) and η/η_typ do not); "
    "eigenvalues, ‖H‖_F, |∇L| and η* are freed of what a draw adds on average, as far as that is known."
)
_UNKNOWN = (
    "Errors do not count in that other samples could have been drawn: one sample, or a loss that weighs each "
    "by the others, does not tell."
)


def diagnose(
    model: nn.Module,
    loss,
    data,
    *,
    eta: float | None = None,
    batch_size: int | None = None,
    what: str | Iterable[str] = "all",
    samples: int | None = None,
    chunk: int | None = None,
    k: int = 10,
    layers: str | Iterable[str] | None = None,
    budget: str | float = "60s",
    seed: int = 0,
    device=None,
    dtype=None,
    mode: str = "eval",
    forward: Callable | None = None,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    sampling: str = "epoch",
    progress: bool = True,
    executor=None,
) -> Report:
    """Measure curvature, flatness, noise and stability of ``model`` where it stands, and what follows.

    The model is copied and never touched. One product with the Hessian and one pass over single samples are
    timed; what fits into the ``budget`` is measured, in order of value. Ctrl-C ends it with what there is.

    Parameters
    ----------
    model, loss, data, device, dtype, mode, forward, chunk
        As for :func:`flatmin.at`.
    eta, batch_size : float, int
        η and B of SGD; may be left out where ``what`` holds neither "stability" nor "theories".
    what : str or list of str
        "all", or names of sections and lines of the report.
    samples : int, optional
        Draw so many of the samples at random (of a loader: take its first). By default all, or as many as
        the budget allows. The numbers are those of the loss on these samples.
    k : int
        Leading eigenvalues wanted.
    layers : str or list of str, optional
        Patterns ("head.*", "*.weight") of the parameters whose own blocks are measured too.
    budget : str or float
        "60s", "5m" or seconds. It decides how many products are taken, so numbers with errors depend on the
        speed of the machine; ``math.inf`` takes all at full size, and the same each time.
    seed : int
        Of the samples, probes, batches.
    momentum, weight_decay : float
        Of ``torch.optim.SGD``. The edge of full-batch descent counts them in, η* the decay; what the papers
        say without them is left out.
    sampling : "epoch", "fresh" or "replacement"
        How batches are drawn. The thresholds for "epoch" are those of fresh batches: the same covariance.
    progress : bool
        Show a bar, on a terminal.
    executor : optional
        Processes (``concurrent.futures``, Dask): 𝒩 of each thousand samples is theirs, and of networks that
        are not fully connected every product with the Hessian, ``chunk`` by chunk.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        Naming what does not fit and what to do: see :mod:`flatmin.networks.trust`; what is not defined for
        this loss only drops its line, with the reason.

    Examples
    --------
    >>> import flatmin as fm
    >>> train, test = fm.datasets.digits()
    >>> model = fm.models.mlp((64, 8, 10))
    >>> report = fm.diagnose(model, "cross-entropy", train, eta=0.1, batch_size=50, what="curvature", k=2)
    >>> round(float(report["lambda_1"].estimate), 1), report["trace_H"].method
    (14.1, 'exact, layer by layer')
    """
    clock = Clock(seconds(budget))
    how = _settings(eta, batch_size, momentum, weight_decay, sampling)
    k = _check.integer("k", k, least=1)
    seed = _check.integer("seed", seed, least=0, most=eigen.SEEDS - 10)
    _check.flag("progress", progress)
    _sendable(executor, model, loss, forward)  # refused before anything is measured
    read, of = _drawn(data, samples, seed)
    if how["batch_size"] is not None:
        _check.integer("batch_size", batch_size, least=1, most=None if sampling == "replacement" else of)
    here = at(model, loss, read, device=device, dtype=dtype, mode=mode, forward=forward, chunk=chunk)
    names = _wanted(what, min(k, here.parameters), _layers(layers, here.names), how)
    here, timed = _planned(here, clock, seed, samples is None)
    steps = Steps(here, how, of, clock, min(k, here.parameters), seed, timed, executor)
    if here.samples < of:
        clock.notes.append(_DRAWN if steps.draw else _UNKNOWN)
    clock.work(steps.tasks(names), steps.failed, progress)
    facts = _facts(here, model, of) | how | {"seconds": clock.spent, "seed": seed}
    checks = tuple((each.name, each.found, each.allowed) for each in here.checks)
    return Report(steps.lines(names), facts, clock.plan(), checks)


def _facts(here, model, of) -> dict:
    """Words and numbers about the point."""
    return {
        "model": type(model).__name__,
        "loss": here.loss_function.name,
        "parameters": here.parameters,
        "samples": here.samples,
        "of_samples": of,
        "outputs": here.passed.outputs.shape[1],
        "device": str(here.device),
        "dtype": str(here.dtype).removeprefix("torch."),
        "memory": here.memory,
        "peak": peak_memory(here.device),
    }


def _sendable(executor, *parts) -> None:
    """Raise ValueError for an executor without processes, or what cannot be sent to these."""
    gradient_noise.map_of(executor)
    try:
        pickle.dumps(parts if executor is not None else None)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"executor={executor!r}: model, loss and forward must be such as pickle can send to processes, "
            f"it says: {error}; leave executor out"
        ) from error


def _settings(eta, batch_size, momentum, weight_decay, sampling) -> dict:
    """The settings of SGD, checked; η and B may be None."""
    return {
        "eta": None if eta is None else _check.number("eta", eta, above=0, most=1e10),
        "batch_size": None if batch_size is None else _check.integer("batch_size", batch_size, least=1),
        "sampling": str(Sampling.of(sampling)),
        "momentum": _check.number("momentum", momentum, least=0, below=1),
        "weight_decay": _check.number("weight_decay", weight_decay, least=0, most=1e10),
    }


def _drawn(data, samples, seed):
    """The data, or ``samples`` of them at random; and how many there are."""
    if samples is None or isinstance(data, (DataLoader, IterableDataset)):
        read = samples_of(data, samples)
        return read, len(read)
    samples = _check.integer("samples", samples, least=1)
    if isinstance(data, Dataset) and hasattr(data, "__len__"):  # the others are not even read
        of = len(data)
        return samples_of(Subset(data, drawn_rows(of, samples, seed).tolist())), of
    read = samples_of(data)
    return read.take(drawn_rows(len(read), samples, seed)), len(read)


def _layers(layers, names) -> tuple[str, ...]:
    """The parameters that the patterns name; ValueError where one names none."""
    if layers is None:
        return ()
    patterns = [layers] if isinstance(layers, str) else list(_check.instance("layers", layers, Iterable))
    some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    if not patterns:
        raise _check.refused("layers", layers, f"patterns of names such as {some}, at least one")
    found: list[str] = []
    for pattern in patterns:
        fitting = fnmatch.filter(names, _check.instance("layers", pattern, str))
        if not fitting:
            raise _check.refused("layers", pattern, f"a pattern of some parameter's name, such as {some}")
        found += fitting
    return tuple(dict.fromkeys(found))


def _wanted(what, k, layers, how) -> list[str]:
    """The names of the lines asked for, in order; ValueError for a name of nothing, or without η and B."""
    every = names_of(k, layers)
    parts = [what] if isinstance(what, str) else list(_check.instance("what", what, Iterable))
    if not parts:
        raise _check.refused("what", what, "'all', or names of sections and lines, at least one")
    chosen: set[str] = set()
    for part in parts:
        if not isinstance(part, str) or part not in every:  # a short list in the message
            near = difflib.get_close_matches(part, every, n=1) if isinstance(part, str) else []
            part = _check.choice("what", part, ["all", *SECTIONS, *near, *([] if near else ["lambda_1"])])
        chosen |= {name for name in every if part in ("all", name, line_of(name).section)}
        if part in ("curvature", "all"):
            chosen |= {name for name in every if name not in LINES}
    names = [name for name in every if name in chosen]
    late = [name for name in names if line_of(name).section in WITH_STEP]
    for name in ("eta", "batch_size") if late else ():
        if how[name] is None:
            raise _check.refused(
                name, None, f"given for the line {late[0]!r}, or what= without stability and theories"
            )
    return names


def _planned(here, clock, seed, cut: bool):
    """The point on the samples that fit (all, unless they may be ``cut``), and the seconds of a product and
    of a pass over single samples there. After Ctrl-C: a few samples, and nothing will be measured."""
    try:
        timed, n = _timed(here), here.samples
        here = _fitting(here, clock, timed[0], seed) if cut else here
        return here, [each * here.samples / n for each in timed]
    except KeyboardInterrupt:
        clock.interrupted = True
        return here.first(min(_TIMED, here.samples)), (0.0, 0.0)


def _timed(here) -> tuple[float, float]:
    """Seconds of a product with the Hessian over all samples, and of a pass over single samples."""
    samples = min(_TIMED, here.samples)
    while True:  # of more and more of them, until it is they that take the time and not the calls
        passed = here.first(samples).passed
        vector = torch.ones(1, here.parameters, dtype=here.dtype, device=here.device)
        product = _seconds(here, lambda passed=passed, vector=vector: passed.hessian_product(vector))
        single = _seconds(here, lambda passed=passed: passed.pulled_squares(passed.output_gradients))
        if samples == here.samples or product > _LONG:
            return product * here.samples / samples, single * here.samples / samples
        samples = min(8 * samples, here.samples)


def _seconds(here, work):
    """How long it takes; where that is quick, once more without what only the first call does."""
    for _ in range(2):
        began = time.perf_counter()
        work()
        if here.device.type == "cuda":
            torch.cuda.synchronize(here.device)
        took = time.perf_counter() - began
        if took > 1:
            break
    return took


def _fitting(here, clock, product, seed):
    """The point on as many of its samples, drawn at random, as leave time for enough products."""
    fitting = clock.share(0.5, product * _PRODUCTS / here.samples, min(_LEAST, here.samples), here.samples)
    if fitting == here.samples or not here.loss_function.apart(here.data.targets):
        return here
    whole = approx(product * _PRODUCTS, digits=2)
    clock.notes.append(
        f"≈ {fitting} of {here.samples} samples, drawn at random: {_PRODUCTS} products over all would "
        f"take {whole} s. All numbers are of the loss on these; samples={here.samples} takes all."
    )
    read = here.data.take(drawn_rows(here.samples, fitting, seed))
    return Point(here.network, here.loss_function, read, here.chunk, here.checks)
