"""What is read off the recorded freezing experiments, by the rules of :mod:`flatmin.networks.commitment`.

``result`` is a recorded result of the experiment freezing (its text lists the arrays). ``grid`` names a part
of it: ``"cells"`` (η, B) of the network, or ``"control"``, softmax regression. Cells come flattened, (C,),
with R runs each.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

from flatmin import _check
from flatmin.estimate import Estimate, independent_mean
from flatmin.networks.commitment import (
    CONVERGED,
    CRITERIA,
    Delay,
    bracket,
    delay,
    expected_best,
    slopes,
)

__all__ = [
    "Cells",
    "best",
    "by_start",
    "continuation_slopes",
    "delays",
    "first_time",
    "frozen_times",
    "independent_pass",
    "index_over_valley",
    "noise_slope",
    "proxy_delay",
    "rank_correlation",
    "triangle",
]

#: freezing times: by Eq. 3, by every later end point against the reference, by the search
HOW = ("definition", "reference", "search")
RULES = ("as coded", "relaxed")


class Cells:
    """The grid of cells of a recorded result, flattened.

    Attributes
    ----------
    eta, batch_size, factor, noise : (C,)
        η, B, c = (n − B)/(B(n − 1)), and ηc.
    shape : (int, int)
        Of the grid, over ``result.etas`` and ``result.batch_sizes``.
    starts : (R,)
        Which shared start each run has.
    """

    def __init__(self, result, grid: str = "cells"):
        self.result, self.grid = result, _check.choice("grid", grid, ("cells", "control"))
        own = "" if grid == "cells" else f"{grid}_"
        etas, sizes = (np.asarray(result.arrays[f"{own}{name}"]) for name in ("etas", "batch_sizes"))
        self.shape = len(etas), len(sizes)
        self.starts = np.asarray(result.starts)
        self.eta, self.batch_size = (each.ravel() for each in np.meshgrid(etas, sizes, indexing="ij"))
        self.noise = np.asarray(result.arrays[f"{grid}_noise"]).ravel()
        self.factor = self.noise / self.eta

    def __getitem__(self, name: str) -> np.ndarray:
        """A recorded array of the grid, (C, …), as numbers in double precision."""
        array = self.result.arrays.get(f"{self.grid}_{name}")
        if array is None:
            raise _check.refused("name", name, f"an array of the grid {self.grid!r}")
        return np.asarray(array).reshape(-1, *np.shape(array)[2:]).astype(float)

    @property
    def converged(self) -> np.ndarray:
        """Which runs end with training accuracy at least ``CONVERGED``, (C, R)."""
        right = self["correct"][..., -1] >= CONVERGED * float(self.result.samples) - 1e-9
        return right & (self["diverged"] == 0)

    def share(self, name: str) -> np.ndarray:
        """Jaccard similarity of a recorded pair of counts (…, 2), NaN where a run was not continued."""
        counts = self[name]
        empty = np.iinfo(self.result.arrays[f"{self.grid}_{name}"].dtype).max
        common, total = np.moveaxis(counts, -1, 0)
        share = np.where(total > 0, common / np.maximum(total, 1), 1.0)
        return np.where(common == empty, np.nan, share)

    def place(self, criterion: str, rule: str = "as coded", how: str = "search") -> np.ndarray:
        """Position of t_f among ``result.times`` by one criterion, (C, R); −1 where a run was not continued.

        ``rule`` is one of ``RULES``, ``how`` of ``HOW``. Relaxed, a run whose reference never reached the
        stopping loss does not count.
        """
        names = [str(each) for each in self.result.criteria]
        number = names.index(_check.choice("criterion", criterion, tuple(names)))
        rule = RULES.index(_check.choice("rule", rule, RULES))
        found = self["frozen"][:, :, number, rule, HOW.index(_check.choice("how", how, HOW))].astype(int)
        known = (found < 255) & (self["diverged"] == 0)
        if rule:
            known &= self["end_outcome"][:, :, -1, 1] == 0
        return np.where(known, found, -1)


def frozen_times(cells: Cells, criterion: str, rule: str = "as coded", how: str = "search") -> np.ndarray:
    """ηt_f, (C, R), NaN where a run was not continued; arguments as for :meth:`Cells.place`.

    For the search as coded at Jaccard 0.9 it is the one to single checkpoints, where that was made.
    """
    _check.instance("cells", cells, Cells)
    place = cells.place(criterion, rule, how)
    found = np.where(place < 0, np.nan, np.asarray(cells.result.times, float)[place])
    if (criterion, rule, how) == ("jaccard 0.90", "as coded", "search"):
        refined = cells["search"]
        found = np.where(np.isfinite(refined) & (place >= 0), refined, found)
    return found


def delays(cells: Cells, criterion: str, rule: str = "as coded", how: str = "search") -> Delay:
    """The censored fit of ln ηt_f on ln η and ln c over all runs; arguments as for :func:`frozen_times`.

    Raises ValueError as :func:`~flatmin.networks.commitment.delay`.
    """
    _check.instance("cells", cells, Cells)
    place, times = cells.place(criterion, rule, how), np.asarray(cells.result.times, float)
    lower, upper = bracket(np.maximum(place, 0).ravel(), times)
    if (criterion, rule, how) == ("jaccard 0.90", "as coded", "search"):
        refined = cells["search"].ravel()
        known = np.isfinite(refined)
        every = np.arange(int(cells.result.horizon) + 1)
        fine = bracket(np.where(known, refined, 0).astype(int), every)
        lower, upper = (np.where(known, a, b) for a, b in zip(fine, (lower, upper), strict=True))
    return _delay(cells, (place >= 0).ravel(), lower, upper)


def first_time(cells: Cells, loss: float | None = None) -> np.ndarray:
    """ηt of the first checkpoint of SGD with training loss at most ``loss``, (C, R); NaN where there is none.

    Without ``loss``: of the first that gets every training image right. Raises ValueError for a loss that is
    not positive.
    """
    _check.instance("cells", cells, Cells)
    if loss is None:
        reached = cells["correct"] >= float(cells.result.samples)
    else:
        reached = cells["loss"] <= _check.number("loss", loss, above=0)
    step = float(cells.result.horizon) / (reached.shape[-1] - 1)
    return np.where(reached.any(-1), step * reached.argmax(-1), np.nan)


def proxy_delay(cells: Cells, loss: float = 0.1) -> Delay:
    """The censored fit of :func:`delays` for :func:`first_time`, which Y26 plots for its other network.

    Raises ValueError as these.
    """
    loss = _check.number("loss", loss, above=0)
    found = first_time(cells, loss).ravel()
    if (found > 0).sum() <= 3:
        raise _check.refused("loss", loss, "a loss that more than three runs reach after their start")
    known, every = np.isfinite(found), np.linspace(0, float(cells.result.horizon), cells["loss"].shape[-1])
    lower, upper = bracket(np.where(known, np.searchsorted(every, found), len(every) - 1), every)
    return _delay(cells, (cells["diverged"] == 0).ravel(), np.where(known, lower, np.log(every[-1])), upper)


def _delay(cells, used, lower, upper) -> Delay:
    """The delay over the runs that are ``used`` (C · R,); ln ηt between ``lower`` and ``upper``."""
    given = cells.eta[:, None], cells.factor[:, None], cells.starts
    shape = len(cells.noise), len(cells.starts)
    eta, factor, starts = (np.broadcast_to(one, shape).ravel()[used] for one in given)
    return delay(eta, factor, lower[used], upper[used], starts)


def noise_slope(cells: Cells, values, starts=None) -> Estimate:
    """Slope of ``values`` on ln ηc, by start; NaN is left out.

    ``values`` (C, K): one a run, or, with ``starts`` (K,), one a start. Raises ValueError for other shapes
    and as :func:`~flatmin.networks.commitment.slopes`.
    """
    _check.instance("cells", cells, Cells)
    starts = cells.starts if starts is None else _check.array("starts", starts, ndim=1, dtype=int)
    values = np.asarray(values, float)
    if values.shape != (len(cells.noise), len(starts)):
        raise _check.refused("values", values, f"of shape {(len(cells.noise), len(starts))}")
    used = np.isfinite(values)
    noise, starts = (np.broadcast_to(each, values.shape)[used] for each in (cells.noise[:, None], starts))
    return slopes(np.log(noise)[:, None], values[used], starts)[0]


def by_start(cells: Cells, values, reduce=np.nanmean) -> np.ndarray:
    """``values`` (C, R) of the runs of each start, reduced: (C, starts); NaN for a start without any."""
    found = []
    for start in np.unique(cells.starts):
        own = values[:, cells.starts == start]
        empty = ~np.isfinite(own).any(1)
        found.append(np.where(empty, np.nan, reduce(np.where(empty[:, None], 0, own), axis=1)))
    return np.stack(found, 1)


def rank_correlation(cells: Cells, one, other) -> Estimate:
    """Spearman's correlation over cells of the mean logarithms of two times (C, R), for each start alone.

    Times count as at least 1. NaN is left out, and so are starts with fewer than three cells or with equal
    means in all of them; raises ValueError where fewer than two starts are left.
    """
    _check.instance("cells", cells, Cells)
    found = []
    both = np.isfinite(one) & np.isfinite(other)
    logs = [np.where(both, np.log(np.maximum(each, 1)), np.nan) for each in (one, other)]
    for a, b in zip(*(by_start(cells, each).T for each in logs), strict=True):
        known = np.isfinite(a) & np.isfinite(b)
        if known.sum() >= 3 and np.ptp(a[known]) > 0 and np.ptp(b[known]) > 0:
            found.append(float(stats.spearmanr(a[known], b[known]).statistic))
    if len(found) < 2:
        raise ValueError("one, other: must be known, and differ, in three cells of two starts at least")
    return independent_mean(np.array(found))


def independent_pass(cells: Cells, criterion: str, rule: str = "as coded") -> np.ndarray:
    """Share of pairs of independent runs of the first start that pass a criterion, (C,): its null value.

    Where most pass, a freezing time by that criterion says nothing about valleys. Raises ValueError as
    :meth:`Cells.place`.
    """
    _check.instance("cells", cells, Cells)
    what, level = CRITERIA[_check.choice("criterion", criterion, tuple(CRITERIA))]
    which = RULES.index(_check.choice("rule", rule, RULES))
    if what in ("few", "all"):
        values = cells.share(f"pair_{what}")[..., which]
    elif what == "barrier":  # passed from below
        values, level = -cells["pair_barrier"][..., which], -level
    else:
        values = cells[f"pair_{what}"][..., which] / float(cells.result.tests)
    known = np.isfinite(values) & (values <= 1)
    return ((values >= level - 1e-9) & known).sum(1) / np.maximum(known.sum(1), 1)


def index_over_valley(cells: Cells) -> Estimate:
    """How much later the index freezes than the valley: mean ln(t_f by mistakes / t_f by barrier), by start.

    Both by Eq. 3 between relaxed end points (Jaccard ≥ 0.9 on 200 images; barrier at most 0.01), times below
    1 as 1, over the cells in which at most half of the pairs of independent runs pass the former. Y26 takes
    the one for the other ("t_f marks stable commitment to the final basin"): 0 is printed, and the spacing of
    the checkpoints, ln 1.5 for most of them, is the tolerance.
    """
    _check.instance("cells", cells, Cells)
    logs = [
        np.log(np.maximum(frozen_times(cells, criterion, "relaxed", "definition"), 1))
        for criterion in ("jaccard 0.90", "barrier 0.01")
    ]
    apart = independent_pass(cells, "jaccard 0.90", "relaxed") <= 0.5
    return independent_mean(np.nanmean(by_start(cells, logs[0] - logs[1])[apart], axis=0))


def best(cells: Cells, values) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of runs of the first start: mean, its error, best, and the best that the spread alone explains, (C,).

    The latter has in every cell the mean of all cells and the cell's own normal spread. NaN runs are left
    out; cells with fewer than two are NaN.
    """
    own = np.asarray(values, float)[:, cells.starts == cells.starts[0]]
    middle, found = np.nanmean(own), np.full((4, len(own)), np.nan)
    for cell, runs in enumerate(own):
        runs = runs[np.isfinite(runs)]
        if len(runs) > 1:
            spread = runs.std(ddof=1)
            most = expected_best(middle, spread, len(runs))
            found[:, cell] = runs.mean(), spread / len(runs) ** 0.5, runs.max(), most
    return tuple(found)


def continuation_slopes(result, name: str, which: int, latest: float = 50.0) -> Estimate:
    """Slope of an end point's ``name`` on ηt_c ≤ ``latest``, by start (Y26 Fig. 1e).

    ``name`` is an array of the part ``figure_`` such as ``"flat"``, whose logarithm is taken, or
    ``"test_loss"``; ``which``: 0 at the horizon, 1 at the stopping loss. Raises ValueError for another name.
    """
    values = result.arrays.get(f"figure_{name}")
    if values is None or np.ndim(values) != 3:
        raise _check.refused("name", name, "a recorded reading of the end points")
    values = np.asarray(values, float)[..., _check.integer("which", which, least=0, most=1)]
    if which:  # where the stopping loss was not reached the reading is none
        values = np.where(result.figure_reached, values, np.nan)
    times = np.asarray(result.figure_times, float)
    early = times <= _check.number("latest", latest, above=0)
    values = np.log(values[:, early]) if name == "flat" else values[:, early]
    used = np.isfinite(values)
    columns = np.broadcast_to(times[early], values.shape)[used][:, None]
    return slopes(columns, values[used], np.broadcast_to(result.starts[:, None], values.shape)[used])[0]


def triangle(values) -> np.ndarray:
    """The symmetric matrices (…, T, T) of which ``values`` (…, T(T + 1)/2) are the upper triangles, by rows.

    Raises ValueError for another length.
    """
    values = np.asarray(values)
    count = int(round((8 * values.shape[-1] + 1) ** 0.5 - 1) // 2) if values.ndim else 0
    if not count or count * (count + 1) // 2 != values.shape[-1]:
        raise _check.refused("values", values, "upper triangles along the last axis")
    found = np.empty((*values.shape[:-1], count, count), values.dtype)
    rows, columns = np.triu_indices(count)
    found[..., rows, columns] = found[..., columns, rows] = values
    return found
