"""Y22 §III at ε = 0.02: the simulated marginal of x as η → 0 against the reduced laws and the 2D equation."""

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.theory.valleys.transition import marginals

DELTA_S = (0.008, 0.009, 0.010, 0.012)


def measure(point, seed):
    """:func:`~flatmin.theory.valleys.transition.marginals` at one step size; ``point``: its arguments."""
    return marginals(DELTA_S, **point, seed=seed)


def _scale(etas, tau, trajectories, **texts):
    common = {"tau": tau, "trajectories": trajectories}
    grids = {"": Grid(measure, common, {"eta": etas}, seed=11, names="{}")}
    return Scale(grids, {"eta": etas, "delta_s": DELTA_S}, **texts)


EXPERIMENT = Experiment(
    name="critical-marginals",
    title="The marginal of x near the transition, as η → 0",
    claims=("y22-marginal", "y23-lsgd", "convention"),
    full=_scale(
        (0.02, 0.01, 0.005, 0.0025),
        20_000,
        32,
        text="ε = 0.02 and noise levels of Y22 Fig. 3; 256 trajectories of τ = 20000 at each η and Δ_S",
    ),
    quick=_scale((0.02, 0.01), 400, 4),
    minutes=3,
)
