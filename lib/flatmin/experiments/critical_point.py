"""Y22 Fig. S4 and its limits: order parameter and search time around the transition, and its split."""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.theory.continuum.critical import critical_law
from flatmin.theory.noise import RandomShift
from flatmin.theory.sgd.simulate import Passage, simulate
from flatmin.theory.valleys.transition import START, VALLEY, order_parameter

ETA = 0.04


def order(point, seed):
    """:func:`~flatmin.theory.valleys.transition.order_parameter`; ``point``: its arguments."""
    return order_parameter(**point, seed=seed)


def search_time(point, seed):
    """First-passage times τ = ηt from ``START`` to ``level``: ``mean``, ``error`` and ``arrived`` (fraction).

    ``point``: epsilon, eta, sigma and level (lists), tau (longest time), trajectories.
    """
    runs = simulate(
        VALLEY.at(epsilon=point["epsilon"]),
        RandomShift(np.array(point["sigma"])),
        eta=point["eta"],
        steps=round(point["tau"] / point["eta"]),
        start=START,
        trajectories=point["trajectories"],
        passage=Passage(np.array(point["level"]), "x"),
        seed=seed,
    )
    times = point["eta"] * runs.passage_time
    arrived = times.count(axis=-1)
    return {
        "mean": np.ma.getdata(times.mean(axis=-1)),
        "error": np.ma.getdata(times.std(axis=-1, ddof=1)) / np.sqrt(np.maximum(arrived, 1)),
        "arrived": arrived / times.shape[-1],
    }


def onset(point, seed):
    """Densities of ξ = x/√ε around the predicted split: ``density`` (w, groups, bins), ``w``, ``xi`` (bins,).

    ``point``: epsilon, eta, relaxations (length of a run in units of 1/8ε²), trajectories in each of eight
    groups.
    """
    epsilon, eta = point["epsilon"], point["eta"]
    valley = VALLEY.at(epsilon=epsilon)
    law = critical_law(valley, eta=eta)
    w = float(law.onset) + np.linspace(-6, 4, 6)
    sigma = np.broadcast_to(law.delta_s(w)[:, None] / eta, (len(w), 8))
    steps = round(point["relaxations"] / (8 * epsilon**2) / eta)
    runs = simulate(
        valley,
        RandomShift(sigma),
        eta=eta,
        steps=steps,
        burn_in=steps // 10,
        start=(epsilon**0.5, 0.0),
        trajectories=point["trajectories"],
        histogram={"x": (-4 * epsilon**0.5, 4 * epsilon**0.5, 160)},
        seed=seed,
    )
    found = runs.histogram("x")
    return {"w": w, "xi": found.centres / epsilon**0.5, "density": found.density * epsilon**0.5}


def _scale(gaps, tilts, lengths, **texts):
    """``lengths``: part → length of its runs (in τ; for the onset in relaxations) and number of them."""
    star = 0.01055  # near the transition, to place the grid; the analysis uses the predicted value
    gaps = np.geomspace(0.005, 0.8, gaps)
    sigma = np.sort(np.concatenate([star * (1 - gaps), star * (1 + gaps)]))
    level = np.where(sigma < star, 0.0, np.sqrt(np.maximum(0, 1 - star / sigma)) * 0.9)
    base = {"eta": ETA, "sigma": sigma.tolist()}
    parts = {
        "onset": (onset, {"eta": ETA}, {"epsilon": tilts}),
        "order": (order, base, {"epsilon": (0.001,)}),
        "search": (search_time, base | {"level": level.tolist()}, {"epsilon": (0.001,)}),
    }
    grids = {}
    for part, (function, common, axes) in parts.items():
        length = zip(
            ("relaxations" if part == "onset" else "tau", "trajectories"), lengths[part], strict=True
        )
        grids[part] = Grid(function, common | dict(length), axes, seed=17)
    return Scale(grids, {"sigma": sigma, "onset_epsilon": tilts, "search_level": level}, **texts)


EXPERIMENT = Experiment(
    name="critical-point",
    title="Order parameter and search time around the transition (Y22 Fig. S4)",
    claims=(
        "y22-transition",
        "y22-xss-alpha",
        "y22-beta",
        "y22-exponents",
        "y22-mfpt",
    ),
    full=_scale(
        gaps=14,
        tilts=(0.02, 0.01, 0.005),
        lengths={
            "onset": (200, 8),
            "order": (200_000, 64),
            "search": (400_000, 512),
        },
        text=(
            "ε = 0.001 and η = 0.04 as in Y22 Fig. S4, whose grid, length and fit window are not stated: 28 "
            "noise strengths, 64 runs of τ = 200000, 512 first passages; the split at ε = 0.02, 0.01, 0.005"
        ),
    ),
    quick=_scale(
        gaps=4,
        tilts=(0.02,),
        lengths={"onset": (20, 1), "order": (2000, 4), "search": (4000, 16)},
    ),
    minutes=8,
)
