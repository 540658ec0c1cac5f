"""Y23 Fig. 2a, 3a and 3c: flatness of the valley of many directions under SGD, GD and Langevin dynamics.

N_S = 5 and N_F = 100 as in the paper; it prints no other number of the model. Ours: the rule of
:func:`~flatmin.theory.valleys.high_dimensional.high_dimensional_valley` with ε = 10⁻⁴, one valley and one
start (within 0.3 of x = 0, y = 1) for each draw. Averages are of ln F.

What is decided before the run. Errors over draws are paired, with Student's t at the level of 3σ:

- *dynamics* (η = 0.01, σ = 0.1, 5 draws; GLD in both readings, GD). Faster: ln F at the time at which SGD
  has made half of its gain (up to the last tenth of τ); further: the mean of ln F over the last tenth. SGD
  minus each other > 0.
- *sigma* (σ = 0.001, 0.01, 0.1). Larger σ flatter: both differences of ln F over the last tenth > 0.
  Saturates: |ln F(end) − ln F(0.8 end)| over the largest excursion of the curve from its start, at most
  0.05, each σ.
- *phases* (20 × 20, 3 draws; τ = 3000, flatness over its second half, 4 walkers). A cell has diverged when
  half of its walkers have. Divergent region: cells that have not diverged although a neighbour at smaller σ
  or η has, at most 2 % of the cells. Flatter with η and σ: neighbouring cells, neither with a diverged
  walker, between which ln F falls by more than 0.005, at most 5 % along σ and along η. No sharp boundary:
  share of flat directions with ⟨xⱼ²⟩ > 0.01 against σ at η = 0.05 (τ = 20000); the ratio of the σ at which
  it passes 90 % and 10 % (linear in ln σ) is at least 2 in the draws (3 draws, t); in the valley with all
  directions alike, the control, it is at most 1.5 (two steps of the grid).
- *lsgd*. Averaged dynamics: rms over each whole curve ln F(t) against simulation, σ = 0.01 and 0.1, 5
  draws, all below 0.005. Live, 5 further draws (it was tried out on these five): exponent of the first
  growth of ln F̂ in Δ_S, ε = 0, within 0.05 of 1; the time in which ln F gains 0.1 at Δ_S = 10⁻³ (η → 0
  from η = 0.02 and 0.01) over that of the averaged force and over that of the drift of Eq. 15 as printed.
"""

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale
from flatmin.theory.noise import Isotropic, NoNoise, RandomShift
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.valleys.high_dimensional import high_dimensional_valley, isotropic_strength

SIGMAS = (0.001, 0.01, 0.1)
READINGS = ("trace", "coordinate")
#: a direction whose mean square is above this has left x = 0
LEFT = 0.01


def _runs(point, sigma, eta, kept, seed):
    """Walkers on the valley of a draw, from its start, at the noise strengths ``sigma`` (n,)."""
    valley = high_dimensional_valley(seed=point["draw"], alike=point.get("alike", False))
    start = valley.start(point["draw"])
    same = point.get("same")
    if same:
        sigma = [isotropic_strength(valley, s, start[: valley.flat], same) for s in sigma]
    noise = Isotropic(np.array(sigma)) if same else RandomShift(np.array(sigma)) if any(sigma) else NoNoise()
    size = {"steps": int(kept[-1]), "keep": kept, "trajectories": point["walkers"]}
    return valley, simulate(valley, noise, eta=eta, start=list(start), seed=seed, **size)


def curve(point, seed):
    """ln F along a run: ``log_flatness`` (points,) with its ``error`` over the walkers, and ``diverged``.

    ``point``: draw, sigma (0: GD), same (reading, for GLD), eta, tau, points, walkers.
    """
    eta = point["eta"]
    kept = np.round(_times(point["tau"], point["points"], eta) / eta).astype(int)
    valley, runs = _runs(point, [point["sigma"]], eta, kept, seed)
    log = valley.log_flatness(runs.trajectories.reshape(-1, len(kept), valley.dimension))
    error = log.std(axis=0, ddof=1) / len(log) ** 0.5
    return {"log_flatness": log.mean(axis=0), "error": error, "diverged": runs.diverged.mean()}


def steady(point, seed):
    """The second half of runs at all noise strengths ``sigma`` (n,) and one ``eta``.

    ``log_flatness`` with its ``error`` over the walkers, ``averaged`` (ln F at the mean of x over time, Y23's
    way), ``left`` (share of directions that left x = 0) and ``diverged`` (share of walkers), each (n,).
    ``point``: draw, alike, sigma, same, eta, tau, points, walkers.
    """
    end = round(point["tau"] / point["eta"])
    kept = np.unique(np.linspace(end // 2, end, point["points"]).round().astype(int))
    valley, runs = _runs(point, point["sigma"], point["eta"], kept, seed)
    x = runs.trajectories[..., : valley.flat]
    log = valley.log_flatness(x).mean(axis=-1)
    squares = (x**2).mean(axis=(1, 2))
    return {
        "log_flatness": log.mean(axis=-1),
        "error": log.std(axis=-1, ddof=1) / log.shape[-1] ** 0.5,
        "averaged": valley.log_flatness(x.mean(axis=2)).mean(axis=-1),
        "left": (squares > LEFT).mean(axis=-1),
        "diverged": runs.diverged.mean(axis=-1),
    }


def _times(tau, points, eta):
    """Times τ of a curve, whole steps: half of the points equally spaced from 0, half by equal factors."""
    end = round(tau / eta)
    early = np.geomspace(10, end, points // 2 + 2)[:-1]
    kept = np.unique(np.concatenate([early, np.linspace(0, end, points // 2)]).round())
    return kept * eta


def scan(tau, count, **point):
    """What the points of a fine line of σ at η = 0.05 share, ``count`` noise strengths."""
    sigma = np.geomspace(2e-4, 2e-2, count).tolist()
    return {"eta": 0.05, "sigma": sigma, "tau": tau, "points": 17, "walkers": 4, **point}


def _scale(draws, taus, cells, strengths, points, **texts):
    """``draws`` of the curves and of the diagram; ``taus`` of curves, diagram and fine line."""
    sigma, eta = np.geomspace(1e-4, 1, cells), np.geomspace(0.01, 0.3, cells)
    slow = scan(taus[2], strengths)
    walk = {"eta": 0.01, "tau": taus[0], "points": points, "walkers": 16}
    many, few = range(draws[0]), range(draws[1])
    rest = {"tau": taus[1], "points": 17, "walkers": 4}
    plane = {"draw": few, "eta": eta.tolist()}
    grids = {
        "sgd": Grid(curve, walk, {"draw": many, "sigma": SIGMAS}, seed=8),
        "gld": Grid(curve, walk, {"draw": many, "same": READINGS, "sigma": SIGMAS[1:]}, seed=8),
        "gd": Grid(curve, walk | {"sigma": 0.0}, {"draw": many}, seed=8),
        "phases": Grid(steady, rest | {"sigma": sigma.tolist()}, plane, seed=8),
        "langevin": Grid(
            steady,
            rest | {"sigma": sigma[::2].tolist()},
            {"draw": few, "same": READINGS, "eta": eta[::2].tolist()},
            seed=8,
        ),
        "onset": Grid(steady, slow, {"draw": few}, seed=8),
        "alike": Grid(steady, slow | {"draw": 0, "alike": True}, seed=8),
    }
    axes = {"sigma": sigma, "eta": eta, "scanned": np.array(slow["sigma"])}
    return Scale(grids, axes | {"tau": _times(taus[0], points, walk["eta"]), "taus": taus}, **texts)


EXPERIMENT = Experiment(
    name="high-dimensional",
    title="The valley of many directions (Y23 Fig. 2a, 3a, 3c)",
    claims=("y23-high-dim-dynamics", "y23-high-dim-sigma", "y23-high-dim-phases", "y23-high-dim-lsgd"),
    full=_scale(
        draws=(5, 3),
        taus=(8000, 3000, 20_000),
        cells=20,
        strengths=24,
        points=120,
        text=(
            "N_S = 5 and N_F = 100 as in Y23, whose coefficients, ε, starts and lengths are not stated: 5 "
            "draws of 800,000 steps at η = 0.01; 20 × 20 cells of τ = 3000 for 3 draws; 24 noise strengths "
            "of τ = 20000"
        ),
    ),
    quick=_scale(draws=(2, 2), taus=(40, 20, 40), cells=4, strengths=4, points=11),
    minutes=15,
)
