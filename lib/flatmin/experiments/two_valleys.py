"""Y26 Fig. 3c, d at full scale: P_flat, last hop and freezing point over learning rate and noise, C = 2σH."""

import time

import numpy as np

from flatmin.experiments import Experiment
from flatmin.ledger import record
from flatmin.theory.noise import HessianAligned
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.two_valleys.freezing_point import follow
from flatmin.theory.two_valleys.landscape import PAPER, two_valleys

#: start of the paper's runs: y = 5, x alternating between the two sides of the ridge
START_Y, START_X = 5.0, 0.01
SEED = 2026


def alternating(trajectories):
    """x of the starts, shape (trajectories,): −0.01 and 0.01 in turn, as in the authors' code."""
    return np.where(np.arange(trajectories) % 2 == 0, -START_X, START_X)


def grid(noise, etas, sigmas, *, trajectories, steps, seed=SEED, progress=False):
    """Run the grid and summarise each cell; every array has the shape (learning rates, noise strengths).

    ``noise`` is a class such as HessianAligned. Returns a dict: the axes ``eta``, ``sigma``; ``flat`` and
    its error (share of x > 0 at the end), also by side of the start; ``time``, ``y`` at the last change of
    sign of x (0 and the start where there is none), their standard errors and standard deviations;
    ``mobile``, the share that hopped in the last tenth of the run; ``still``, the share that never hopped;
    ``end_y``.
    """
    eta, sigma = np.asarray(etas, dtype=float), np.asarray(sigmas, dtype=float)
    runs = simulate(
        two_valleys().at(**PAPER),
        noise(sigma),
        eta=eta[:, None],
        steps=steps,
        start=(alternating(trajectories), START_Y),
        trajectories=trajectories,
        seed=seed,
        hops="x",
        progress=progress,
    )
    flat, last = runs.final[..., 0] > 0, runs.hops.last
    cells = {"eta": eta, "sigma": sigma, "diverged": runs.diverged.mean(axis=-1)}
    cells["flat"], cells["flat_error"] = proportion(flat)
    cells["flat_from_sharp"], _ = proportion(flat[..., ::2])
    cells["flat_from_flat"], _ = proportion(flat[..., 1::2])
    for name, values in (("time", last), ("y", runs.hops.position[..., 1])):
        spread = values.std(axis=-1, ddof=1)
        cells[name], cells[f"{name}_spread"] = values.mean(axis=-1), spread
        cells[f"{name}_error"] = spread / np.sqrt(trajectories)
    cells["mobile"], _ = proportion(last > 0.9 * steps)
    cells["still"], _ = proportion(runs.hops.number == 0)
    cells["end_y"] = runs.final[..., 1].mean(axis=-1)
    return cells


def proportion(happened):
    """Share of True along the last axis and its standard error, never zero (rule of succession)."""
    n = happened.shape[-1]
    shrunk = (happened.sum(axis=-1) + 1) / (n + 2)
    return happened.mean(axis=-1), np.sqrt(shrunk * (1 - shrunk) / n)


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


def run_grid(experiment, noise, power, low, folder, quick):
    """Simulate and predict the grid whose axes go from 10^low to 0.1, and record both."""
    cells, trajectories, steps = (3, 200, 2000) if quick else (10, 2000, 20_000)
    axis = np.logspace(low, -1, cells)
    begin = time.perf_counter()
    arrays = grid(noise, axis, axis, trajectories=trajectories, steps=steps, progress=True)
    simulated = time.perf_counter() - begin
    points = [
        {"eta": float(eta), "sigma": float(sigma), "steps": steps, "power": power}
        for eta in axis
        for sigma in axis
    ]
    theory = record.sweep(predict, points, name=f"{experiment.name}-theory", folder=folder)
    for name, values in record.stack(theory).items():
        arrays[f"theory_{name}"] = values.reshape(cells, cells)
    record.save(
        experiment.name,
        arrays | {"trajectories": trajectories, "steps": steps},
        seed=SEED,
        scale="a few cells in seconds" if quick else "the paper's: 10 × 10 cells, 2000 runs of 20,000 steps",
        command=experiment.command,
        wall_time=simulated + theory.seconds,
        nanoseconds_per_step=1e9 * simulated / (cells**2 * trajectories * steps),
        folder=folder,
    )


def run(folder, quick):
    """Run the experiment; see :func:`run_grid`."""
    run_grid(EXPERIMENT, HessianAligned, 1, -2, folder, quick)


EXPERIMENT = Experiment(
    name="two_valleys",
    title="Two valleys, C = 2σH: the grid of Y26 Fig. 3c, d",
    claims=("y26-heatmap-freezing", "y26-heatmap-pflat", "y26-freezing-point"),
    run=run,
    minutes=4,
)
