"""Y22 §III at ε = 0.02: the simulated marginal of x as η → 0 against the reduced laws and the 2D equation."""

import numpy as np

from flatmin.experiments import Experiment
from flatmin.ledger import record
from flatmin.theory.continuum.critical import critical_law
from flatmin.theory.continuum.fokker_planck import Equation, Region
from flatmin.theory.continuum.reduction import Reduction
from flatmin.theory.noise import RandomShift
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

DELTA_S = (0.008, 0.009, 0.010, 0.012)
GROUPS = 8
RANGE, BINS = 1.6, 320
VALLEY = near_degenerate_valley().at(epsilon=0.02, lambda_0=8, lambda_1=-2, lambda_2=1)


def measure(point, seed):
    """Simulate at one step size: ``density`` (Δ_S, groups, bins) of x and ``square`` (Δ_S, groups), ⟨x²⟩.

    ``point``: eta, tau (length of a run in τ = ηt, the first tenth discarded), trajectories in a group.
    """
    eta, steps = point["eta"], round(point["tau"] / point["eta"])
    sigma = np.broadcast_to(np.array(DELTA_S)[:, None] / eta, (len(DELTA_S), GROUPS))
    runs = simulate(
        VALLEY,
        RandomShift(sigma),
        eta=eta,
        steps=steps,
        burn_in=steps // 10,
        start=(0.1, 0.0),
        trajectories=point["trajectories"],
        observe=("x**2",),
        histogram={"x": (-RANGE, RANGE, BINS)},
        histogram_every=max(1, round(0.32 / eta)),
        seed=seed,
    )
    return {
        "density": runs.histogram("x").density.astype(np.float32),
        "square": runs.time_average("x**2").value,
    }


def edges():
    """Edges of the bins, (BINS + 1,)."""
    return np.linspace(-RANGE, RANGE, BINS + 1)


def laws(delta_s):
    """Densities of x on :func:`edges`, by name: the printed one, the Itô one of S29, both of ours, and 2D."""
    x, reduction, law = edges(), Reduction(VALLEY), critical_law(VALLEY)
    equation = Equation(VALLEY, RandomShift(), convention="ito", region=Region((2, 2), (6, 6), 10))
    root = float(VALLEY.values["epsilon"]) ** 0.5
    return {
        "printed (S30)": reduction.marginal(x, delta_s, convention="isothermal"),
        "S29 in Itô's sense": reduction.marginal(x, delta_s),
        "critical law": law.density(x / root, float(law.w(delta_s))) / root,
        "second order": reduction.marginal(x, delta_s, order=2),
        "2D equation": equation.stationary(delta_s).marginal("x", x),
    }


def distance(density, law):
    """Kolmogorov–Smirnov distance of histograms (…, groups, bins) from a density on the edges, and its error.

    The error is the jackknife's over the groups.
    """
    x = edges()
    width = x[1] - x[0]
    theory = np.concatenate([[0.0], np.cumsum((law[1:] + law[:-1]) / 2 * width)])
    theory /= theory[-1]

    def of(means):
        # what fell outside the range counts half on each side, by symmetry
        outside = 1 - means.sum(axis=-1, keepdims=True) * width
        return np.abs(outside / 2 + np.cumsum(means, axis=-1) * width - theory[1:]).max(axis=-1)

    groups = density.shape[-2]
    left_out = (density.sum(axis=-2, keepdims=True) - density) / (groups - 1)
    leave_one = of(left_out)
    spread = ((leave_one - leave_one.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return of(density.mean(axis=-2)), np.sqrt((groups - 1) / groups * spread)


def run(folder, quick):
    """Four step sizes, each halved, at four noise levels."""
    etas = (0.02, 0.01) if quick else (0.02, 0.01, 0.005, 0.0025)
    length = {"tau": 400 if quick else 20_000, "trajectories": 4 if quick else 32}
    points = [{"eta": eta, **length} for eta in etas]
    results = record.sweep(measure, points, name=EXPERIMENT.name, seed=11, folder=folder)
    return record.save(
        EXPERIMENT.name,
        {"eta": np.array(etas), "delta_s": np.array(DELTA_S), **record.stack(results)},
        seed=11,
        scale=(
            "ε = 0.02 and noise levels of Y22 Fig. 3; "
            f"{GROUPS * length['trajectories']} trajectories of τ = {length['tau']} at each η and Δ_S"
        ),
        command=EXPERIMENT.command,
        wall_time=results.seconds,
        folder=folder,
    )


EXPERIMENT = Experiment(
    name="critical-marginals",
    title="The marginal of x near the transition, as η → 0",
    claims=("y22-marginal", "y23-lsgd", "convention"),
    run=run,
    minutes=3,
)
