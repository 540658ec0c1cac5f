"""How long a run lives in the near-degenerate valley at Y22's numbers, over step size and noise level.

Decided before the run:

* A run starts at the flattest point of the floor, (1, 0), and is lost once |x| or |y| exceeds 50. It is
  watched until then, or for four times a rough lifetime (``_horizon``, from earlier coarse rates, which sets
  nothing but this length). Rate = losses ÷ time at risk, error = rate ÷ √losses.
* The law, the lifetime that solves the update's own backward equation (no fitted constant; same start, same
  bound), is confirmed if measured/predicted is within 0.9 and 1.1 at each of the 15 points with 0.0025 ≤ η ≤
  0.04 and 0.012 ≤ Δ_S ≤ 0.05. Being exact but for its grid, it must also pass χ² over all points that have
  been predicted (at 99.73 %), the sampling errors alone in it.
* That the rate does not depend on η at a Δ_S is rejected by χ² about the weighted mean over its step sizes.
* "law", "map" and "tail" hold the law: at the runs' points, over the plane (η, Δ_S), and down to η = 10⁻⁹
  with a run lost at 10⁴, where the exponent should near that of the scale-free tail.
* The exponent d ln Γ/d ln η between neighbouring η is compared with the law's, from 600 losses or more a
  point ("high" began with 704 runs, of which too few were lost in the time given; it has 1024).
"""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.theory.continuum.divergence import Lifetime
from flatmin.theory.noise import RandomShift
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.valleys.transition import VALLEY

DELTA_S = (0.012, 0.016, 0.02, 0.03, 0.05)


def lifetime(point, seed):
    """Losses per unit of τ, ``rate`` with its ``error``, and their number ``lost``.

    ``point``: eta, delta_s, trajectories, horizon (length of a run as a multiple of the usual one).
    """
    tau = point["horizon"] * _horizon(point["delta_s"])
    runs = simulate(
        VALLEY.at(epsilon=0.001),
        RandomShift(point["delta_s"] / point["eta"]),
        eta=point["eta"],
        steps=round(tau / point["eta"]),
        start=(1.0, 0.0),
        trajectories=point["trajectories"],
        bound=50.0,
        seed=seed,
    )
    exposure, lost = point["eta"] * float(runs.lifetime.sum()), int(runs.diverged.sum())
    return {"rate": lost / exposure, "error": np.sqrt(max(lost, 1)) / exposure, "lost": lost}


def law(point, seed):
    """The law's ``rate`` from (1, 0); ``point``: eta, delta_s, and ``bound`` and ``cells`` of the law."""
    known = Lifetime(VALLEY.at(epsilon=0.001), **point)
    return {"rate": known.rate((1.0, 0.0))}


def _horizon(delta_s):
    """Four times a rough mean lifetime at Δ_S."""
    return 4 / (0.04 * (delta_s / 0.05) ** 3.7)


def _scale(etas, smaller, deltas, trajectories, plane, tail, cells, horizon=1.0, **texts):
    """``smaller``: the step sizes of "low" and "high", the crossover at the last two of ``deltas``.

    ``trajectories`` belong to the three grids of runs; "law" is the law at all their points, ``plane`` and
    ``tail`` are (η, Δ_S) of the map and of the tail, ``cells`` those of the law up to 50 and up to 10⁴.
    """
    axes = {
        "lifetime": {"delta_s": deltas, "eta": etas},
        "low": {"delta_s": deltas[-2:-1], "eta": smaller},
        "high": {"delta_s": deltas[-1:], "eta": smaller},
        "law": {"delta_s": deltas, "eta": (*etas, *smaller)},
        "map": {"delta_s": plane[1], "eta": plane[0]},
        "tail": {"delta_s": tail[1], "eta": tail[0]},
    }
    runs = [(lifetime, {"trajectories": number, "horizon": horizon}) for number in trajectories]
    laws = [(law, {"cells": cells[bound > 50], "bound": bound}) for bound in (50.0, 50.0, 1e4)]
    grids = {
        part: Grid(function, common, axes[part], seed=23)
        for part, (function, common) in zip(axes, runs + laws, strict=True)
    }
    more = {f"{part}_{name}": values for part, each in axes.items() for name, values in each.items()}
    return Scale(grids, more, **texts)


EXPERIMENT = Experiment(
    name="critical-lifetimes",
    title="How long a run lives in the near-degenerate valley",
    claims=("y22-delta-m", "divergence-rate"),
    full=_scale(
        (0.04, 0.01, 0.0025, 0.000625),
        (1.6e-4, 4e-5, 1e-5),
        DELTA_S,
        (1024, 704, 1024),
        (np.sort([*np.geomspace(1e-5, 0.16, 8), 0.02, 0.08]), np.geomspace(0.008, 0.5, 7)),
        (np.geomspace(1e-2, 1e-9, 8), (0.05, 0.2)),
        ((54, 60), (66, 72)),
        text=(
            "Y22's valley at ε = 0.001; 1024 runs at each of 4 step sizes and 5 noise levels, "
            "704 and 1024 at 3 smaller steps and 2 noise levels"
        ),
    ),
    quick=_scale(
        (0.04, 0.01),
        (0.0025,),
        DELTA_S,
        (16, 16, 16),
        ((0.01, 0.04), (0.02, 0.05)),
        ((0.01,), (0.05,)),
        ((26, 30), (26, 30)),
        horizon=0.02,
    ),
    minutes=40,
)
