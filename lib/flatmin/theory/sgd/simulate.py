"""Ensembles of discrete SGD, θ ← θ − η(∇L + noise), compiled from the landscape's own expression.

One call covers a grid of learning rates and noise strengths: arguments broadcast, every grid point gets
the same number of independent trajectories, and what is asked for (time averages, histograms, first
passages, hops, records) is gathered on the way, so nothing needs to be stored that is not wanted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numba
import numpy as np
import sympy as sp
from tqdm.auto import tqdm

from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import Noise
from flatmin.theory.sgd.kernels import build
from flatmin.theory.sgd.rng import LANES, stream_key
from flatmin.theory.sgd.runs import Hops, Runs

__all__ = ["Passage", "simulate"]

#: results larger than this are refused before memory is asked for
_LARGEST_RESULT = 4 << 30


class Passage(NamedTuple):
    """First passage to ask for: ``observable`` reaches ``level`` from the side it starts on.

    ``level`` broadcasts over the grid. With ``stop`` a block of trajectories ends when all have arrived.
    """

    level: float | np.ndarray
    observable: str | sp.Expr = "x"
    stop: bool = True


def simulate(
    landscape: Landscape,
    noise: Noise,
    *,
    eta: float | np.ndarray,
    steps: int | np.ndarray,
    start: Sequence[float | np.ndarray],
    trajectories: int = 1,
    seed: int = 0,
    burn_in: int | np.ndarray = 0,
    observe: Sequence[str] = (),
    batches: int = 8,
    record_every: int = 0,
    histogram: Mapping[str | tuple[str, ...], tuple] | None = None,
    histogram_every: int = 16,
    passage: Passage | None = None,
    hops: str | None = None,
    bound: float = 1e3,
    threads: int | None = None,
    progress: bool = False,
) -> Runs:
    """Run SGD, θ_{t+1} = θ_t − η(∇L(θ_t) + ξ_t), for an ensemble on a landscape.

    Parameters
    ----------
    landscape : Landscape with numbers (``.at(...)``).
    noise : Noise
        Its ``sigma`` broadcasts with ``eta`` to the grid.
    eta : float or array > 0
        Learning rate(s); arrays span a grid.
    steps, burn_in : int or array
        Iterations in all, and those before averages and histograms begin; broadcast to the grid.
    start : one entry per coordinate
        Floats, or arrays that broadcast to grid + (trajectories,).
    trajectories : int
        Independent trajectories at each grid point.
    seed : int
        Same seed, same numbers, whatever the number of threads. Trajectory k of grid point i (in C
        order) has the stream number i·trajectories + k.
    observe : sequence of str
        Expressions averaged over time, such as ``("x", "x**2")``; in ``batches`` consecutive batches.
    record_every : int
        Keep the points θ_t at t = 0, record_every, 2·record_every, …; 0 keeps none.
    histogram : mapping, optional
        ``{"x": (low, high, bins)}`` or ``{("x", "y"): ((low, high, bins), (low, high, bins))}``, sampled
        every ``histogram_every`` iterations after burn-in.
    passage : Passage, optional
    hops : str, optional
        Expression whose changes of sign are followed, such as ``"x"`` (≥ 0 is one side).
    bound : float
        A trajectory with some |θᵢ| > bound is reported as diverged and stays where it was.
    threads : int, optional
        numba threads; default all it was given.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Runs

    Raises
    ------
    ValueError
        Naming the argument: non-positive eta, negative sigma, steps, trajectories or bound below one,
        unknown names, a start of the wrong length, results too large for memory.
    """
    landscape.require_numbers()
    plan = _Plan(landscape, noise, eta, steps, burn_in, start, trajectories, passage, bound, batches)
    observables = {name: landscape.expression(name) for name in observe}
    spec = _histogram_spec(landscape, histogram, histogram_every)
    watched = landscape.expression(passage.observable) if passage else None
    if passage and passage.stop and (observables or spec.axes or record_every):
        raise ValueError(
            "passage with stop=True ends runs early: no observe, histogram or record_every beside it"
        )
    _check_counts(record_every=(record_every, 0), batches=(batches, 1), seed=(seed, 0))
    run = build(
        landscape,
        noise,
        tuple(observables.values()),
        watched,
        landscape.expression(hops) if hops else None,
        tuple(tuple(axis.coordinate for axis in axes) for axes in spec.axes),
    )
    gathered = _execute(run, plan, spec, len(observables), record_every, stream_key(seed), threads, progress)
    return _package(gathered, plan, spec, list(observables), seed, record_every, hops is not None)


class _Axis(NamedTuple):
    coordinate: int
    low: float
    high: float
    bins: int


class _HistogramSpec(NamedTuple):
    names: tuple[tuple[str, ...], ...]
    axes: tuple[tuple[_Axis, ...], ...]
    every: int


def _check_counts(**arguments: tuple[int, int]):
    for name, (value, least) in arguments.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def _histogram_spec(landscape, histogram, every) -> _HistogramSpec:
    names, axes = [], []
    order = [c.name for c in landscape.coordinates]
    for key, ranges in (histogram or {}).items():
        key = (key,) if isinstance(key, str) else tuple(key)
        ranges = (ranges,) if len(key) == 1 and not isinstance(ranges[0], Sequence) else tuple(ranges)
        entry = []
        for name, (low, high, bins) in zip(key, ranges, strict=True):
            if name not in order:
                raise ValueError(f"histogram of {name!r}: the coordinates are {order}")
            if not low < high or bins < 1:
                raise ValueError(
                    f"histogram range of {name} needs low < high and bins, got {(low, high, bins)}"
                )
            entry.append(_Axis(order.index(name), float(low), float(high), int(bins)))
        names.append(key)
        axes.append(tuple(entry))
    if axes:
        _check_counts(histogram_every=(every, 1))
    return _HistogramSpec(tuple(names), tuple(axes), every if axes else 0)


class _Plan:
    """Arguments checked, broadcast to the grid and laid out by trajectory."""

    def __init__(self, landscape, noise, eta, steps, burn_in, start, trajectories, passage, bound, batches):
        self.landscape, self.noise, self.bound = landscape, noise, float(bound)
        self.trajectories, self.batches = trajectories, batches
        _check_counts(trajectories=(trajectories, 1))
        eta = np.asarray(eta, dtype=float)
        if not np.all(np.isfinite(eta)) or np.any(eta <= 0):
            raise ValueError(f"eta must be positive and finite, got {eta!r}")
        if not self.bound > 0:
            raise ValueError(f"bound must be positive, got {bound!r}")
        if len(start) != landscape.dimension:
            raise ValueError(
                f"start must have {landscape.dimension} entries, one per coordinate, got {len(start)}"
            )
        steps, burn = np.asarray(steps), np.asarray(burn_in)
        for name, value, least in (("steps", steps, 1), ("burn_in", burn, 0)):
            if not np.issubdtype(value.dtype, np.integer) or np.any(value < least):
                raise ValueError(f"{name} must be integers of at least {least}, got {value!r}")
        level = np.asarray(passage.level if passage else 0.0, dtype=float)
        self.grid = np.broadcast_shapes(
            eta.shape, np.shape(noise.sigma), steps.shape, burn.shape, level.shape
        )
        self.eta, self.sigma, self.steps, self.burn = (
            np.broadcast_to(v, self.grid) for v in (eta, np.asarray(noise.sigma, dtype=float), steps, burn)
        )
        if np.any(self.burn >= self.steps):
            raise ValueError(f"burn_in must be below steps, got burn_in={burn_in} of steps={steps}")
        self.level = np.broadcast_to(level, self.grid)
        shape = (*self.grid, trajectories)
        starts = []
        for name, value in zip(landscape.coordinates, start, strict=True):
            value = np.asarray(value, dtype=float)
            if not np.all(np.isfinite(value)) or np.any(np.abs(value) > self.bound):
                raise ValueError(
                    f"start of {name} must be finite and within bound={self.bound:g}, got {value!r}"
                )
            starts.append(np.broadcast_to(value, shape))
        self.start = np.stack(starts).reshape(landscape.dimension, -1)
        self.side = np.zeros(math.prod(shape))
        self.watches, self.stop = passage is not None, bool(passage and passage.stop)
        if passage:
            watched = landscape.function(landscape.expression(passage.observable))(*self.start)
            self.side = np.sign(watched - self.per_trajectory(self.level))

    @property
    def size(self) -> int:
        """Number of trajectories in all."""
        return math.prod(self.grid) * self.trajectories

    def per_trajectory(self, values):
        """Repeat grid values for each trajectory, shape (size,)."""
        return np.repeat(np.ravel(values), self.trajectories)

    def groups(self):
        """Trajectory numbers that share steps and burn-in, and can therefore share blocks."""
        pair = np.stack([self.per_trajectory(self.steps), self.per_trajectory(self.burn)])
        for steps, burn in np.unique(pair, axis=1).T:
            yield int(steps), int(burn), np.flatnonzero((pair[0] == steps) & (pair[1] == burn))


def _execute(run, plan: _Plan, spec, n_observables, record_every, key, threads, progress) -> dict:
    """Call the kernel on each group of trajectories, in pieces if progress is to be shown."""
    records = -(-int(plan.steps.max()) // record_every) if record_every else 0
    if record_every and plan.steps.min() != plan.steps.max():
        raise ValueError("record_every needs the same number of steps at every grid point")
    out = _allocate(plan, spec, n_observables, records)
    before = numba.get_num_threads()
    if threads is not None:
        _check_counts(threads=(threads, 1))
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    pieces = []
    for steps, burn, members in plan.groups():
        # a piece holds a few blocks per thread: enough to share out, small enough to show progress
        width = 16 * LANES * numba.get_num_threads() if progress else len(members)
        pieces += [(steps, burn, members[i : i + width]) for i in range(0, len(members), width)]
    try:
        with tqdm(
            total=sum(s * len(m) for s, _, m in pieces), unit="step", unit_scale=True, disable=not progress
        ) as bar:
            for steps, burn, members in pieces:
                _run_piece(run, plan, spec, out, n_observables, record_every, key, steps, burn, members)
                bar.update(steps * len(members))
    finally:
        numba.set_num_threads(before)
    return out


def _allocate(plan: _Plan, spec, n_observables, records) -> dict:
    """Result arrays, one column per trajectory."""
    n, d = plan.size, plan.landscape.dimension
    bins = [math.prod(axis.bins for axis in axes) for axes in spec.axes]
    wanted = 8 * n * (d * (records + 3) + n_observables * plan.batches + 6) + 4 * n * sum(bins)
    if wanted > _LARGEST_RESULT:
        raise ValueError(
            f"the result would take {wanted / 2**30:.1f} GiB (limit {_LARGEST_RESULT >> 30} GiB): "
            f"fewer trajectories, a larger record_every or fewer histogram bins"
        )
    out = _columns(plan, n, n_observables, records)
    out["counts"] = [np.zeros((n, b), np.uint32) for b in bins]
    return out


def _columns(plan: _Plan, n, n_observables, records) -> dict:
    """What the kernel fills, one column per trajectory, in the order of its arguments."""
    d = plan.landscape.dimension
    return {
        "final": np.empty((d, n)),
        "life": np.zeros(n, np.int64),
        "living": np.zeros(n, np.int64),
        "sums": np.zeros((n_observables, plan.batches, n)),
        "hit": np.full(n, -1, np.int64),
        "last": np.zeros(n, np.int64),
        "count": np.zeros(n, np.int64),
        "where": np.zeros((d, n)),
        "records": np.zeros((records, d, n)),
    }


def _run_piece(run, plan: _Plan, spec, out, n_observables, every, key, steps, burn, members):
    """One kernel call: pad the trajectories to whole blocks, run, and put the results in their columns."""
    n = len(members)
    padded = np.concatenate([members, np.repeat(members[-1:], -n % LANES)])
    width = len(padded)
    axes = [axis for group in spec.axes for axis in group]
    low = np.array([a.low for a in axes] or [0.0])
    inverse = np.array([a.bins / (a.high - a.low) for a in axes] or [1.0])
    bins = np.array([a.bins for a in axes] or [1], np.int64)
    counts = tuple(np.zeros((width, c.shape[1]), np.uint32) for c in out["counts"]) or (
        np.zeros((1, 1), np.uint32),
    )
    piece = _columns(plan, width, n_observables, len(out["records"]))
    numbers = np.array([plan.landscape.values[p.name] for p in plan.landscape.parameters] or [0.0])
    run(
        key, padded, np.ascontiguousarray(plan.start[:, padded]), plan.per_trajectory(plan.eta)[padded],
        np.sqrt(2 * plan.per_trajectory(plan.sigma)[padded]), numbers, plan.bound,
        steps, burn, plan.batches, every, spec.every,
        plan.per_trajectory(plan.level)[padded], plan.side[padded], plan.stop, low, inverse, bins,
        *piece.values(), counts,
    )  # fmt: skip
    lengths = np.diff([burn + (b * (steps - burn)) // plan.batches for b in range(plan.batches + 1)])
    piece["sums"] /= np.maximum(lengths, 1)[None, :, None]
    for name, values in piece.items():
        out[name][..., members] = values[..., :n]
    for kept, values in zip(out["counts"], counts, strict=False):
        kept[members] = values[:n]


def _package(out, plan: _Plan, spec, observables, seed, record_every, has_hops) -> Runs:
    """Raw columns to the shapes of :class:`Runs`."""
    shape = (*plan.grid, plan.trajectories)

    def last_axis(values):
        return np.moveaxis(values, 0, -1).reshape(*shape, values.shape[0])

    lifetime = out["life"].reshape(shape)
    arrived = (out["hit"] >= 0).reshape(shape)
    steps = np.broadcast_to(plan.steps[..., None], shape)
    visits = np.maximum(steps - plan.burn[..., None], 0)
    visits = -(-visits // max(spec.every, 1))
    counts = {}
    for names, axes, values in zip(spec.names, spec.axes, out["counts"], strict=True):
        edges = tuple(np.linspace(a.low, a.high, a.bins + 1) for a in axes)
        counts[names] = (edges, values.reshape(*shape, -1), np.broadcast_to(visits, shape))
    hit = np.ma.MaskedArray(out["hit"].reshape(shape), ~arrived)
    hop = Hops(out["last"].reshape(shape), out["count"].reshape(shape), last_axis(out["where"]))
    sums = {
        name: np.moveaxis(s, 0, -1).reshape(*shape, -1)
        for name, s in zip(observables, out["sums"], strict=True)
    }
    records = np.moveaxis(out["records"], 2, 0).reshape(*shape, -1, plan.landscape.dimension)
    return Runs(
        landscape=plan.landscape,
        noise=plan.noise,
        eta=plan.eta,
        steps=plan.steps,
        seed=seed,
        final=last_axis(out["final"]),
        lifetime=lifetime,
        diverged=(out["living"] == 0).reshape(shape),
        times=np.arange(0, int(plan.steps.max()), record_every) if record_every else None,
        trajectories=records if record_every else None,
        passage_time=hit if plan.watches else None,
        hops=hop if has_hops else None,
        _sums=sums,
        _counts=counts,
    )
