"""Ensembles of discrete SGD, θ ← θ − η(∇L + noise), compiled from the landscape's own expression.

One call covers a grid of learning rates and noise strengths: arguments broadcast, every grid point gets
the same number of independent trajectories, and what is asked for (time averages, histograms, first
passages, hops, records) is gathered on the way, so nothing needs to be stored that is not wanted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
import sympy as sp

from flatmin import _check
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import Noise
from flatmin.theory.sgd import structured
from flatmin.theory.sgd.kernels import Call, build, require_printable
from flatmin.theory.sgd.rng import LANES, stream_key
from flatmin.theory.sgd.runs import Hops, Runs
from flatmin.theory.valleys.high_dimensional import HighDimensionalValley

__all__ = ["Passage", "simulate"]

#: results larger than this are refused before memory is asked for
_LARGEST_RESULT = 4 << 30
#: a step takes nanoseconds: more would run for weeks
_MOST_STEPS = 10**12
#: points or batches of one trajectory
_MOST_KEPT = 10**7


@dataclass(frozen=True, eq=False)
class Passage:
    """First passage to ask for: ``observable`` reaches ``level`` from the side it starts on.

    Parameters
    ----------
    level : float or array
        Broadcasts over the grid.
    observable : text or expression in the landscape's symbols
    stop : bool
        A block of trajectories ends when all of it have arrived.

    Raises
    ------
    ValueError
        For a level that is not finite, or what is neither text nor expression.

    Examples
    --------
    >>> import flatmin as fm
    >>> valley = fm.near_degenerate_valley().at(epsilon=0.001, lambda_0=8, lambda_1=-2, lambda_2=1)
    >>> runs = fm.simulate(valley, fm.RandomShift(sigma=0.2), eta=0.01, steps=20_000, start=(0.1, 1.0),
    ...     trajectories=64, seed=1, passage=fm.Passage(0.5))
    >>> runs.passage_time.shape, bool(runs.passage_time.mean() > 100)
    ((64,), True)
    """

    level: float | np.ndarray
    observable: str | sp.Expr = "x"
    stop: bool = True

    def __post_init__(self):
        _check.array("level", self.level)
        _check.instance("observable", self.observable, (str, sp.Expr))
        _check.flag("stop", self.stop)


def simulate(
    landscape: Landscape | HighDimensionalValley,
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
    keep: int | Sequence[int] = 0,
    histogram: Mapping[str, tuple[float, float, int]] | None = None,
    histogram_every: int = 16,
    passage: Passage | None = None,
    hops: str | None = None,
    bound: float = 1e3,
    threads: int | None = None,
    progress: bool = False,
) -> Runs:
    """Run SGD, θ_{t+1} = θ_t − η(∇L(θ_t) + ξ_t) (Y22 S1–S4), for an ensemble on a landscape.

    Parameters
    ----------
    landscape : Landscape with numbers (``.at(...)``), or HighDimensionalValley
        Of the latter only points can be kept: no observe, histogram, passage or hops.
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
    keep : int or sequence of int
        How many points θ_t of each trajectory to keep, equally spaced from step 0 to ``steps`` (one: the
        last), or the steps themselves, increasing.
    histogram : mapping, optional
        Such as ``{"x": (low, high, bins)}``, sampled every ``histogram_every`` iterations after burn-in.
    passage : Passage, optional
    hops : str, optional
        Expression whose changes of sign are followed, such as ``"x"`` (≥ 0 is one side).
    bound : float
        A trajectory with some |θᵢ| > bound, or outside the landscape's domain, is reported as diverged and
        stays where it was.
    threads : int, optional
        How many compute; default NUMBA_NUM_THREADS, where it is not set all cores.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Runs

    Raises
    ------
    ValueError
        Naming the argument: non-positive eta, negative sigma, steps, trajectories or bound below one,
        unknown names, a start of the wrong length or outside the domain, results too large for memory.

    Examples
    --------
    >>> import flatmin as fm
    >>> valley = fm.near_degenerate_valley().at(epsilon=0.001, lambda_0=8, lambda_1=-2, lambda_2=1)
    >>> runs = fm.simulate(valley, fm.RandomShift(sigma=0.2), eta=0.01, steps=20_000, start=(1.5, 1.5),
    ...     trajectories=64, seed=1, burn_in=10_000, observe=("x**2",))
    >>> value, error = runs.time_average("x**2")
    >>> bool(0.5 < value < 1.5), bool(error < 0.1)
    (True, True)
    """
    _check.instance("landscape", landscape, (Landscape, HighDimensionalValley)).require_numbers()
    own = isinstance(landscape, HighDimensionalValley)
    watches = {"observe": observe, "histogram": histogram, "passage": passage, "hops": hops}
    for name in watches if own else ():
        if watches[name] is not None and np.size(watches[name]):
            allowed = "left out on many directions: compute it from kept points"
            raise _check.refused(name, watches[name], allowed)
    _check.flag("progress", progress)
    # not numba.get_num_threads(): that starts numba's own threads, and gives torch as many
    most = numba.config.NUMBA_NUM_THREADS
    threads = most if threads is None else min(most, _check.integer("threads", threads, least=1))
    plan = _Plan(landscape, noise, eta, steps, burn_in, start, trajectories, seed, passage, bound)
    wanted = _Wanted(plan, observe, batches, keep, histogram, histogram_every, passage, hops)
    observed, binned = wanted.observables.values(), (axis.coordinate for axis in wanted.axes.values())
    if own:
        run = structured.build(landscape, noise)
    else:
        run = build(landscape, noise, tuple(observed), wanted.watched, wanted.hops, tuple(binned))
    return _package(_execute(run, plan, wanted, threads, progress), plan, wanted)


class _Plan:
    """What is run: arguments checked, broadcast to the grid and laid out by trajectory."""

    def __init__(self, landscape, noise, eta, steps, burn_in, start, trajectories, seed, passage, bound):
        self.landscape, self.noise = landscape, _check.instance("noise", noise, Noise)
        self.bound = _check.number("bound", bound, above=0)
        self.trajectories = _check.integer("trajectories", trajectories, least=1)
        self.seed, self.key = _check.integer("seed", seed, least=0), stream_key(seed)
        eta = _check.array("eta", eta, above=0)
        sigma = np.asarray(noise.sigma, dtype=float)
        steps = _check.array("steps", steps, least=1, most=_MOST_STEPS, dtype=int)
        burn = _check.array("burn_in", burn_in, least=0, dtype=int)
        if passage is not None:
            _check.instance("passage", passage, Passage)
        level = np.asarray(passage.level if passage else 0.0, dtype=float)
        self.grid = _check.together(eta=eta, sigma=sigma, steps=steps, burn_in=burn, level=level)
        self.require_room(8 * self.size * (2 * landscape.dimension + 8), "trajectories")
        spread = (np.broadcast_to(v, self.grid) for v in (eta, sigma, steps, burn, level))
        self.eta, self.sigma, self.steps, self.burn, self.level = spread
        if np.any(self.burn >= self.steps):
            raise _check.refused("burn_in", burn_in, f"below steps={steps.tolist()}")
        self.start = self._starts(start)
        self.side = np.zeros(self.size)
        self.watches, self.stop = passage is not None, bool(passage and passage.stop)
        if passage:
            watched = landscape.function(_expression("passage", landscape, passage.observable))(*self.start)
            self.side = np.sign(watched - self.per_trajectory(self.level))

    def _starts(self, start):
        """Where each trajectory begins, (d, size)."""
        names = [c.name for c in self.landscape.coordinates]
        sequence = isinstance(start, (tuple, list)) or (isinstance(start, np.ndarray) and start.ndim)
        if not sequence or len(start) != len(names):
            raise _check.refused("start", start, f"{len(names)} entries, one for each of {', '.join(names)}")
        shape, starts = (*self.grid, self.trajectories), []
        for name, value in zip(names, start, strict=True):
            value = _check.array(f"start of {name}", value, least=-self.bound, most=self.bound)
            try:
                starts.append(np.broadcast_to(value, shape))
            except ValueError:
                allowed = f"of a shape that broadcasts to {shape}"
                raise _check.refused(f"start of {name}", value, allowed) from None
        begin = np.stack(starts).reshape(len(names), -1)
        try:
            self.landscape.require_domain(*begin)
        except ValueError as outside:
            raise ValueError(f"start of {outside}") from None
        return begin

    def require_room(self, size, name):
        """Raise ValueError before more memory is asked for than a result may take."""
        if size > _LARGEST_RESULT:
            raise ValueError(
                f"{name}: the result would take {size / 2**30:.1f} GiB, at most {_LARGEST_RESULT >> 30} GiB: "
                "fewer trajectories, kept points, batches or histogram bins"
            )

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


class _Axis(NamedTuple):
    coordinate: int
    low: float
    high: float
    bins: int


class _Wanted:
    """What is gathered on the way: arguments checked, expressions read."""

    def __init__(self, plan, observe, batches, keep, histogram, histogram_every, passage, hops):
        names = isinstance(observe, (tuple, list)) and all(isinstance(name, str) for name in observe)
        if not names:
            raise _check.refused("observe", observe, 'a sequence of expressions, such as ("x", "x**2")')
        landscape = plan.landscape
        self.observables = {name: _expression("observe", landscape, name) for name in observe}
        self.batches = _check.integer("batches", batches, least=1, most=_MOST_KEPT)
        self.kept = _kept(keep, plan.steps)
        self.axes = _histograms(landscape, histogram)
        every = _check.integer("histogram_every", histogram_every, least=1)
        self.every = every if self.axes else 0
        self.watched = _expression("passage", landscape, passage.observable) if passage else None
        if hops is not None:
            hops = _expression("hops", landscape, _check.instance("hops", hops, str))
        self.hops = hops
        if plan.stop and (self.observables or self.axes or len(self.kept)):
            raise ValueError(
                "passage with stop=True ends runs early: must have no observe, histogram or keep beside it"
            )
        d, sums = landscape.dimension, len(self.observables) * self.batches
        bins = sum(axis.bins for axis in self.axes.values())
        size = 8 * plan.size * (d * (len(self.kept) + 3) + sums + 6) + 4 * plan.size * bins
        largest = max((8 * d * len(self.kept), "keep"), (8 * sums, "batches"), (4 * bins, "histogram"))
        plan.require_room(size, f"trajectories={plan.trajectories}, {largest[1]}")


def _expression(argument, landscape, text) -> sp.Expr:
    try:
        found = landscape.expression(text)
    except ValueError as refusal:
        raise ValueError(f"{argument}: {refusal}") from None
    require_printable(argument, found)
    return found


def _kept(keep, steps) -> np.ndarray:
    """The steps at which points are kept, increasing."""
    last = int(steps.min())
    if np.ndim(keep):
        return _check.array("keep", keep, ndim=1, dtype=int, least=0, most=last, increasing=True, empty=True)
    count = _check.integer("keep", keep, least=0, most=min(last + 1, _MOST_KEPT))
    if count and last != steps.max():
        raise _check.refused("keep", keep, "the steps themselves where the grid's runs differ in length")
    return np.unique(np.linspace(last if count == 1 else 0, last, count).round().astype(int))


def _histograms(landscape, histogram) -> dict[str, _Axis]:
    """The axis of each histogram, by the name of its coordinate."""
    if histogram is None:
        return {}
    _check.instance("histogram", histogram, Mapping)
    order, found = [c.name for c in landscape.coordinates], {}
    for name, axis in histogram.items():
        if name not in order or not isinstance(axis, (tuple, list)) or len(axis) != 3:
            allowed = f"{{'x': (low, high, bins)}} in the coordinates {order}"
            raise _check.refused("histogram", histogram, allowed)
        low, high = (_check.number("histogram range", v) for v in axis[:2])
        if not low < high:
            raise _check.refused("histogram range", (low, high), "low < high")
        bins = _check.integer("histogram bins", axis[2], least=1)
        found[name] = _Axis(order.index(name), low, high, bins)
    return found


def _execute(run, plan: _Plan, wanted: _Wanted, threads, progress) -> dict:
    """Call the kernel on each group of trajectories, in pieces if progress is to be shown."""
    out = _columns(plan, wanted, plan.size)
    pieces = []
    for steps, burn, members in plan.groups():
        # a piece holds a few blocks per thread: enough to share out, small enough to show progress
        width = 16 * LANES * threads if progress else len(members)
        pieces += [(steps, burn, members[i : i + width]) for i in range(0, len(members), width)]
    total = sum(s * len(m) for s, _, m in pieces)
    if progress:  # a bar that a notebook shows too takes a quarter of a second to import
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    with tqdm(total=total, unit="step", unit_scale=True, disable=not progress) as bar:
        if not run.signatures:
            bar.set_description("compiling")
        for steps, burn, members in pieces:
            _run_piece(run, plan, wanted, out, steps, burn, members, threads)
            bar.set_description("")
            bar.update(steps * len(members))
    return out


def _columns(plan: _Plan, wanted: _Wanted, n) -> dict:
    """What the kernel fills, by the names of :class:`Call`: one column per trajectory (in counts a row)."""
    d = plan.landscape.dimension
    return {
        "final": np.empty((d, n)),
        "life": np.zeros(n, np.int64),
        "living": np.zeros(n, np.int64),
        "sums": np.zeros((len(wanted.observables), wanted.batches, n)),
        "hit": np.full(n, -1, np.int64),
        "last": np.zeros(n, np.int64),
        "count": np.zeros(n, np.int64),
        "where": np.zeros((d, n)),
        "points": np.zeros((len(wanted.kept), d, n)),
        "counts": tuple(np.zeros((n, axis.bins), np.uint32) for axis in wanted.axes.values()),
    }


def _run_piece(run, plan: _Plan, wanted: _Wanted, out, steps, burn, members, threads):
    """One kernel call: pad the trajectories to whole blocks, run, and put the results in their columns."""
    n, lanes = len(members), getattr(run, "lanes", LANES)
    padded = np.concatenate([members, np.repeat(members[-1:], -n % lanes)])
    axes = wanted.axes.values()
    piece = _columns(plan, wanted, len(padded))
    counts = piece.pop("counts")
    Call(
        key=plan.key,
        numbers=padded,
        begin=np.ascontiguousarray(plan.start[:, padded]),
        step=plan.per_trajectory(plan.eta)[padded],
        amp=np.sqrt(2 * plan.per_trajectory(plan.sigma)[padded]),
        P=np.array([plan.landscape.values[p.name] for p in plan.landscape.parameters] or [0.0]),
        bound=plan.bound,
        steps=steps,
        burn=burn,
        batches=wanted.batches,
        kept=wanted.kept,
        histogram_every=wanted.every,
        level=plan.per_trajectory(plan.level)[padded],
        side=plan.side[padded],
        stop_early=plan.stop,
        # an empty list or tuple has no type for the compiler
        low=np.array([a.low for a in axes] or [0.0]),
        inverse=np.array([a.bins / (a.high - a.low) for a in axes] or [1.0]),
        bins=np.array([a.bins for a in axes] or [1], np.int64),
        **piece,
        counts=counts or (np.zeros((1, 1), np.uint32),),
    ).through(run, lanes, threads)
    if wanted.observables:
        # more batches than steps leave some of them empty
        edges = np.array([burn + (b * (steps - burn)) // wanted.batches for b in range(wanted.batches + 1)])
        piece["sums"] /= np.maximum(np.diff(edges), 1)[None, :, None]
    for name, values in piece.items():
        out[name][..., members] = values[..., :n]
    for kept, values in zip(out["counts"], counts, strict=True):
        kept[members] = values[:n]


def _package(out, plan: _Plan, wanted: _Wanted) -> Runs:
    """Raw columns to the shapes of :class:`Runs`."""
    shape = (*plan.grid, plan.trajectories)

    def last_axis(values):
        return np.moveaxis(values, 0, -1).reshape(*shape, values.shape[0])

    visits = np.maximum(np.broadcast_to(plan.steps[..., None], shape) - plan.burn[..., None], 0)
    visits = np.broadcast_to(-(-visits // max(wanted.every, 1)), shape)
    counts = {}
    for (name, axis), values in zip(wanted.axes.items(), out["counts"], strict=True):
        edges = np.linspace(axis.low, axis.high, axis.bins + 1)
        counts[name] = (edges, values.reshape(*shape, -1), visits)
    hit, hops = out["hit"].reshape(shape), None
    if wanted.hops is not None:
        hops = Hops(out["last"].reshape(shape), out["count"].reshape(shape), last_axis(out["where"]))
    sums = [np.moveaxis(s, 0, -1).reshape(*shape, -1) for s in out["sums"]]
    points = np.moveaxis(out["points"], 2, 0).reshape(*shape, -1, plan.landscape.dimension)
    return Runs(
        landscape=plan.landscape,
        noise=plan.noise,
        eta=plan.eta,
        steps=plan.steps,
        seed=plan.seed,
        final=last_axis(out["final"]),
        lifetime=out["life"].reshape(shape),
        diverged=(out["living"] == 0).reshape(shape),
        kept=wanted.kept if len(wanted.kept) else None,
        trajectories=points if len(wanted.kept) else None,
        passage_time=np.ma.MaskedArray(hit, hit < 0) if plan.watches else None,
        hops=hops,
        _sums=dict(zip(wanted.observables, sums, strict=True)),
        _counts=counts,
    )
