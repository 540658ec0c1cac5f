"""Y26 Fig. S6 at full scale: the grid of two_valleys with C = 2σH², from 0.001 on as in the authors' code."""

from flatmin.experiments import Experiment
from flatmin.experiments.two_valleys import PAPERS, scale

EXPERIMENT = Experiment(
    name="two_valleys_h2",
    title="Two valleys, C = 2σH²: the grid of Y26 Fig. S6",
    claims=("y26-h-squared",),
    full=scale("RandomShift", 2, -3, 10, 2000, 20_000, text=PAPERS),
    quick=scale("RandomShift", 2, -3, 3, 50, 20_000),  # in fewer steps noise alone drives y at the corner
    minutes=4,
)
