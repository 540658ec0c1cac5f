"""The tail of the law of :mod:`.critical_lifetimes` at Δ_S = 10, where the drift counts for nothing.

Decided before the run, after a pilot that showed 0.12: the growth of 1/Γ from decade to decade of η, of
which a constant drops out, should have the exponent of the scale-free tail; its error is the scatter of the
last three values at two resolutions.
"""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.experiments.critical_lifetimes import law


def _scale(etas, cells, **texts):
    common, axes = {"delta_s": 10.0, "bound": 1e4}, {"cells": cells, "eta": etas}
    return Scale({"": Grid(law, common, axes, names="{}")}, axes, **texts)


EXPERIMENT = Experiment(
    name="critical-tail",
    title="The lifetime in the near-degenerate valley where the noise alone counts",
    claims=("divergence-rate",),
    full=_scale(
        np.geomspace(1e-5, 1e-12, 8),
        ((60, 64), (72, 80)),
        text="Y22's valley at Δ_S = 10, no scale of the paper's: its noise level is near 0.01",
    ),
    quick=_scale((0.01, 0.001), ((16, 18), (18, 20))),
    minutes=3,
)
