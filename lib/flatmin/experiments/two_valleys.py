"""Y26 Fig. 3c, d at full scale: P_flat, last hop and freezing point over learning rate and noise, C = 2σH."""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.theory import noise
from flatmin.theory.two_valleys.ensemble import SEED, START_X, START_Y, run_grid
from flatmin.theory.two_valleys.freezing_point import follow
from flatmin.theory.two_valleys.landscape import PAPER, two_valleys

PAPERS = "the paper's: 10 × 10 cells, 2000 runs of 20,000 steps"


def simulated(point, seed):
    """:func:`~flatmin.theory.two_valleys.ensemble.run_grid` of all cells in one call.

    ``point``: noise (name of its class), axis (of η and of σ), trajectories, steps.
    """
    kind = getattr(noise, point["noise"])
    size = {"trajectories": point["trajectories"], "steps": point["steps"]}
    return run_grid(kind, point["axis"], point["axis"], **size, seed=SEED, progress=True)


def predict(point, seed):
    """Rate equation for one cell: {"flat", "time", "y", "time_spread", "y_spread"}; ``seed`` is not used."""
    path = follow(
        two_valleys().at(**PAPER),
        point["eta"],
        point["eta"] * point["sigma"],
        start_y=START_Y,
        start_x=(-START_X, START_X),
        steps=point["steps"],
        power=point["power"],
    )
    time_mean, time_spread = path.last_hop()
    y_mean, y_spread = path.freezing_y()
    return {
        "flat": path.flat[-1],
        "time": time_mean,
        "time_spread": time_spread,
        "y": y_mean,
        "y_spread": y_spread,
    }


def scale(kind, power, low, cells, trajectories, steps, **texts):
    """Cells on axes from 10^``low`` to 0.1, noise of the class ``kind`` with C ∝ H^``power``."""
    axis = np.logspace(low, -1, cells).tolist()
    size = {"trajectories": trajectories, "steps": steps}
    theory = {"steps": steps, "power": power}
    grids = {
        "": Grid(simulated, {"noise": kind, "axis": axis, **size}, seed=SEED, names="{}", here=True),
        "theory": Grid(predict, theory, {"eta": axis, "sigma": axis}, seed=SEED),
    }
    return Scale(grids, size, **texts)


EXPERIMENT = Experiment(
    name="two_valleys",
    title="Two valleys, C = 2σH: the grid of Y26 Fig. 3c, d",
    claims=("y26-heatmap-freezing", "y26-heatmap-pflat", "y26-freezing-point"),
    full=scale("HessianAligned", 1, -2, 10, 2000, 20_000, text=PAPERS),
    quick=scale("HessianAligned", 1, -2, 3, 200, 2000),
    minutes=4,
)
