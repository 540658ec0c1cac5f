"""Y22 Fig. S4 and its limits: order parameter, search time and divergence around the transition."""

import numpy as np

from flatmin.experiments import Experiment
from flatmin.ledger import record
from flatmin.theory.continuum.critical import critical_law
from flatmin.theory.noise import NoNoise, RandomShift
from flatmin.theory.sgd.simulate import Passage, simulate
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

VALLEY = near_degenerate_valley().at(lambda_0=8, lambda_1=-2, lambda_2=1)
ETA = 0.04
START = (1.5, 1.5)
RANGE, BINS = 1.6, 640


def distances(count=12):
    """Values of |σ/σ* − 1| at which the transition is approached, (count,)."""
    return np.geomspace(0.005, 0.8, count)


def order_parameter(point, seed):
    """⟨|x|⟩ ``mean`` with its ``error``, and the ``density`` of x (σ, bins), over time and trajectories.

    ``point``: epsilon, eta, sigma (list), tau (length of a run in τ; the first quarter is discarded),
    trajectories.
    """
    steps = round(point["tau"] / point["eta"])
    runs = simulate(
        VALLEY.at(epsilon=point["epsilon"]),
        RandomShift(np.array(point["sigma"])),
        eta=point["eta"],
        steps=steps,
        burn_in=steps // 4,
        start=(0.3, 0.0),
        trajectories=point["trajectories"],
        observe=("sqrt(x**2)",),
        histogram={"x": (-RANGE, RANGE, BINS)},
        seed=seed,
    )
    found = runs.time_average("sqrt(x**2)")
    return {"mean": found.value, "error": found.error, "density": runs.histogram("x").density}


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


def divergence(point, seed):
    """Rate of divergence per τ, ``rate`` (Δ_S,) with its ``error``, and what the convergence conditions say.

    ``curvature``, ``square`` and ``slope`` are ⟨λ⟩, ⟨λ²⟩ and ⟨λ'²⟩ over the runs that did not diverge; NaN
    where all did. ``point``: epsilon, eta, delta_s (list), tau, trajectories.
    """
    delta = np.array(point["delta_s"])
    observed = ("8 - 2*x**2 + x**4", "(8 - 2*x**2 + x**4)**2", "(4*x**3 - 4*x)**2")
    steps = round(point["tau"] / point["eta"])
    runs = simulate(
        VALLEY.at(epsilon=point["epsilon"]),
        RandomShift(delta / point["eta"]),
        eta=point["eta"],
        steps=steps,
        burn_in=steps // 10,
        start=(1.0, 0.0),
        trajectories=point["trajectories"],
        observe=observed,
        bound=50.0,
        seed=seed,
    )
    exposure = point["eta"] * runs.lifetime.sum(axis=-1)
    number = runs.diverged.sum(axis=-1)
    means = [np.ma.filled(np.ma.asarray(runs.time_average(name).value), np.nan) for name in observed]
    return {
        "rate": number / exposure,
        "error": np.sqrt(np.maximum(number, 1)) / exposure,
        "fraction": number / runs.diverged.shape[-1],
        **dict(zip(("curvature", "square", "slope"), means, strict=True)),
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


def split(w, xi, density, reach=1.5):
    """The w at which ln P(ξ) turns convex at 0, and its jackknife error, from :func:`onset`'s arrays.

    The curvature is that of a fit of a cubic in ξ² over 0 < ξ < ``reach``, which is biased by 0.02 in w
    on the exact law; its zero is that of a parabola in w.
    """
    inside = (xi > 0) & (xi < reach)
    density = (density + density[..., ::-1]) / 2

    def zero(means):
        bends = [np.polyfit(xi[inside] ** 2, np.log(p[inside]), 3)[2] for p in means]
        roots = np.roots(np.polyfit(w, bends, 2))
        return roots[np.argmin(np.abs(roots - w.mean()))].real

    groups = density.shape[1]
    without = np.array([zero(np.delete(density, k, axis=1).mean(axis=1)) for k in range(groups)])
    error = np.sqrt((groups - 1) / groups * ((without - without.mean()) ** 2).sum())
    return zero(density.mean(axis=1)), error


def landing(eta=ETA, steps=200):
    """Where x stands once gradient descent from ``START`` has brought y to the floor (ε = 0)."""
    runs = simulate(VALLEY.at(epsilon=1e-12), NoNoise(), eta=eta, steps=steps, start=START)
    return float(runs.final[0, 0])


def run(folder, quick):
    """The paper's ε = 0.001 and η = 0.04 for the first two; five step sizes for the divergence."""
    gaps = distances(4 if quick else 14)
    star = 0.01055  # near the transition, to place the grid; the analysis uses the predicted value
    sigma = np.sort(np.concatenate([star * (1 - gaps), star * (1 + gaps)]))
    base = {"epsilon": 0.001, "eta": ETA, "sigma": sigma.tolist()}
    seconds, arrays = 0.0, {"sigma": sigma}
    order = {**base, "tau": 2000 if quick else 200_000, "trajectories": 4 if quick else 64}
    level = np.where(sigma < star, 0.0, np.sqrt(np.maximum(0, 1 - star / sigma)) * 0.9)
    search = {
        **base,
        "level": level.tolist(),
        "tau": 4000 if quick else 400_000,
        "trajectories": 16 if quick else 512,
    }
    etas = (0.04, 0.01) if quick else (0.1, 0.04, 0.01, 0.0025, 0.000625)
    noise = {"epsilon": 0.001, "delta_s": [0.008, 0.01, 0.012, 0.016, 0.02, 0.03, 0.05]}
    ends = [
        {**noise, "eta": eta, "tau": 50 if quick else 1000, "trajectories": 16 if quick else 256}
        for eta in etas
    ]
    tilts = (0.02,) if quick else (0.02, 0.01, 0.005)
    near = [
        {"epsilon": e, "eta": ETA, "relaxations": 20 if quick else 200, "trajectories": 1 if quick else 8}
        for e in tilts
    ]
    for part, function, points in (
        ("onset", onset, near),
        ("order", order_parameter, [order]),
        ("search", search_time, [search]),
        ("divergence", divergence, ends),
    ):
        results = record.sweep(function, points, name=f"{EXPERIMENT.name}-{part}", seed=17, folder=folder)
        seconds += results.seconds
        arrays |= {f"{part}_{name}": value for name, value in record.stack(results).items()}
    arrays["order_density"] = np.asarray(arrays["order_density"], dtype=np.float32)
    return record.save(
        EXPERIMENT.name,
        arrays
        | {
            "onset_epsilon": np.array(tilts),
            "search_level": level,
            "divergence_eta": np.array(etas),
            "delta_s": np.array(noise["delta_s"]),
        },
        seed=17,
        scale=(
            "ε = 0.001 and η = 0.04 as in Y22 Fig. S4, whose grid, length and fit window are not stated: "
            f"{len(sigma)} noise strengths, {order['trajectories']} runs of τ = {order['tau']}, "
            f"{search['trajectories']} first passages; divergence of {ends[0]['trajectories']} runs of "
            f"τ = {ends[0]['tau']} at {len(etas)} steps; the split at ε = {', '.join(map(str, tilts))}"
        ),
        command=EXPERIMENT.command,
        wall_time=seconds,
        folder=folder,
    )


EXPERIMENT = Experiment(
    name="critical-point",
    title="Order parameter, search time and divergence around the transition (Y22 Fig. S4)",
    claims=(
        "y22-transition",
        "y22-xss-alpha",
        "y22-beta",
        "y22-exponents",
        "y22-mfpt",
        "y22-delta-m",
        "y22-convergence-1",
    ),
    run=run,
    minutes=10,
)
