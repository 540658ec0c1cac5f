"""Five more draws for the question of a sharp boundary in Y23 Fig. 3c.

The rule in :mod:`flatmin.experiments.high_dimensional` was decided for three draws, and three draws left it
undecided: Student's quantile for three is 19. The rule stays as it is, on eight draws; these are the other
five, decided on after the first three were seen and before these were run.
"""

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.high_dimensional import scan, steady


def _scale(draws, tau, strengths, **texts):
    return Scale({"": Grid(steady, scan(tau, strengths), {"draw": draws}, seed=8, names="{}")}, **texts)


EXPERIMENT = Experiment(
    name="high-dimensional-onset",
    title="When flat directions leave the sharp minimum: five more valleys (Y23 Fig. 3c)",
    claims=("y23-high-dim-phases",),
    full=_scale(range(3, 8), 20_000, 24, text="N_S = 5 and N_F = 100 as in Y23; 5 draws, 24 noise strengths"),
    quick=_scale(range(3, 5), 40, 4),
    minutes=4,
)
