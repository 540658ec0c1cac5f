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
* The exponent d ln Γ/d ln η between neighbouring η (600 losses or more each) is compared with the law's.
"""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
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


def _horizon(delta_s):
    """Four times a rough mean lifetime at Δ_S."""
    return 4 / (0.04 * (delta_s / 0.05) ** 3.7)


def _scale(etas, smaller, deltas, trajectories, horizon=1.0, **texts):
    """``smaller``: the step sizes of the crossover, at the largest three noise levels of ``deltas``."""
    axes = {"lifetime": {"delta_s": deltas, "eta": etas}}
    axes["crossover"] = {"delta_s": deltas[:-4:-1], "eta": smaller}
    grids = {
        part: Grid(lifetime, {"trajectories": number, "horizon": horizon}, axes[part], seed=23)
        for part, number in zip(axes, trajectories, strict=True)
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
        (1024, 704),
        text=(
            "Y22's valley at ε = 0.001; 1024 runs at each of 4 step sizes and 5 noise levels, "
            "704 at each of 3 smaller steps and 3 noise levels"
        ),
    ),
    quick=_scale((0.04, 0.01), (0.0025,), DELTA_S, (16, 16), horizon=0.02),
    minutes=40,
)
