"""Y26 Fig. S6 at full scale: the grid of two_valleys with C = 2σH²."""

from flatmin.experiments import Experiment
from flatmin.experiments.two_valleys import run_grid
from flatmin.theory.noise import RandomShift


def run(folder, quick):
    """Run the experiment on η, σ from 0.001 to 0.1, as the authors' code has it."""
    run_grid(EXPERIMENT, RandomShift, 2, -3, folder, quick)


EXPERIMENT = Experiment(
    name="two_valleys_h2",
    title="Two valleys, C = 2σH²: the grid of Y26 Fig. S6",
    claims=("y26-h-squared",),
    run=run,
    minutes=4,
)
