"""Bad values for landscapes, noises, the simulator, the near-degenerate valley and the two valleys."""

import numpy as np
import pytest
import sympy as sp

import fuzz
from flatmin.theory import conventions, expressions, landscape, noise
from flatmin.theory.sgd import elementary, kernels, rng, runs, simulate
from flatmin.theory.two_valleys import freezing_point, hopping
from flatmin.theory.two_valleys import landscape as valleys
from flatmin.theory.valleys import near_degenerate
from fuzz import Case, check, uncovered

X, Y = sp.symbols("x y", real=True)
Z = sp.Symbol("z0", real=True)
VALLEY = near_degenerate.near_degenerate_valley().at(epsilon=0.02, lambda_0=8, lambda_1=-2, lambda_2=1)
BOWL = landscape.Landscape(X**2 + Y**2, (X, Y))
FORK = valleys.two_valleys().at(**valleys.PAPER)
AT = hopping.frozen(FORK, 5.0)
CHAIN = hopping.FrozenChain(AT, 0.05, 2e-3)
PATH = freezing_point.follow(FORK, 0.05, 2e-3, start_y=5.0, steps=50, points=20)
RUNS = simulate.simulate(
    VALLEY, noise.Isotropic(0.1), eta=0.02, steps=20, start=(0.1, 0.1), trajectories=9, observe=("x",),
    histogram={"x": (-1, 1, 4)},
)  # fmt: skip

SYMBOLS = {"symbols": "names to symbols, made by the landscape itself"}
NONE = {"[]": "none", "empty array": "none"}


def noise_of(kind):
    """Cases of one kind of noise."""
    made = kind() if kind is noise.NoNoise else kind(0.1)
    arguments = {} if kind is noise.NoNoise else {"sigma": 0.1}
    arguments |= {"matrix": ((2.0, 0.5), (0.5, 1.0))} if kind is noise.LossProportional else {}
    right = {"matrix": {"None": "the identity"}} if kind is noise.LossProportional else {}
    name = kind.__qualname__
    return [
        Case(kind, arguments, right=right),
        Case(made.covariance, {"landscape": BOWL}, name=f"{name}.covariance"),
        Case(made.diffusion, {"landscape": BOWL}, name=f"{name}.diffusion"),
        Case(made.normals, {"landscape": BOWL}, name=f"{name}.normals"),
    ]


def run(**changed):
    """A short run with one argument replaced."""
    arguments = {
        "landscape": VALLEY,
        "noise": noise.Isotropic(0.1),
        "eta": 0.02,
        "steps": 3,
        "start": (0.1, 0.1),
    }
    return simulate.simulate(**(arguments | changed))


KINDS = [noise.Noise, noise.RandomShift, noise.Isotropic, noise.HessianAligned]
KINDS += [noise.LossProportional, noise.NoNoise]
SLICE = {"at": AT, "delta_s": 2e-3}
EQUATION = {"landscape": FORK, "eta": 0.05, "delta_s": 2e-3, "start_y": 5.0, "steps": 50, "points": 20}

CASES = [
    Case(conventions.convention_power, {"convention": "ito"}),
    Case(
        expressions.parse,
        {"name": "text", "text": "x**2", "symbols": {"x": X}},
        leave={"name": "of the argument, for the message", **SYMBOLS},
    ),
    Case(
        landscape.Landscape,
        {"loss": X**2 + Y**2, "coordinates": (X, Y)},
        right={
            "loss": dict.fromkeys(("0", "-1", "-0.5", "1e308", "10**30"), "a flat landscape"),
            "name": {"text": "a name", "no text": "a name"},
            "parameters": {"[]": "none"},
        },
    ),
    Case(VALLEY.symbol, {"name": "x"}),
    Case(VALLEY.substitute, {"expression": X**2}),
    Case(VALLEY.expression, {"expression": "x**2"}),
    Case(VALLEY.function, {"expression": "x**2"}, then=lambda f: f(0.5, 0.5)),
    Case(VALLEY.require_domain, name="Landscape.require_domain"),
    Case(BOWL.even, {"expression": X**2, "coordinate": X}),
    *(case for kind in KINDS[1:] for case in noise_of(kind)),
    Case(noise.Noise, {"sigma": 0.1}),
    Case(noise.gaussian_moments, {"expression": Z**2, "variables": {Z: sp.Integer(1)}}),
    Case(
        near_degenerate.near_degenerate_valley,
        {"terms": ("lambda_0", "lambda_1")},
        right={"terms": {"entry text": "a name"}},
    ),
    Case(
        near_degenerate.boundary,
        {"values": VALLEY.values, "eta": 0.1},
        right={"eta": {"*": "0 beyond the stable step"}},
    ),
    Case(rng.stream_key, {"seed": 1}),
    Case(
        simulate.Passage,
        {"level": 0.1},
        right={"observable": {"text": "read by simulate", "no text": "so too"}},
    ),
    Case(
        simulate.simulate,
        {"landscape": VALLEY, "noise": noise.Isotropic(0.1), "eta": 0.02, "steps": 3, "start": (0.1, 0.1)},
        right={"keep": NONE},
    ),
    Case(lambda level: run(passage=simulate.Passage(level)), {"level": 0.3}, name="simulate(passage)"),
    Case(
        lambda observable: run(passage=simulate.Passage(0.3, observable)),
        {"observable": "x"},
        name="simulate(passage of)",
        leave={"observable": "its name in the message is passage"},
    ),
    Case(lambda sigma: run(noise=noise.Isotropic(sigma)), {"sigma": 0.1}, name="simulate(noise)"),
    Case(lambda keep: run(keep=keep), {"keep": [0, 2]}, right={"keep": NONE}, name="simulate(keep)"),
    Case(
        lambda histogram: run(histogram={"x": histogram}, observe=("x",)),
        {"histogram": (-1.0, 1.0, 4)},
        name="simulate(histogram)",
    ),
    Case(RUNS.batch_means, {"observable": "x"}),
    Case(RUNS.time_average, {"observable": "x"}),
    Case(RUNS.per_trajectory, {"observable": "x"}),
    Case(RUNS.histogram, {"coordinate": "x"}),
    Case(valleys.position, {"side": "flat"}),
    Case(valleys.flatness, {"side": "flat"}),
    Case(hopping.Slice, {"y": 5.0, "f": dict(AT.f), "floor": dict(AT.floor), "barrier": 0.04}),
    Case(AT.diffusion, {"side": "flat", "delta_s": 2e-3}),
    Case(AT.reduced_barrier, {"side": "flat", "delta_s": 2e-3}),
    Case(hopping.slicer, {"landscape": FORK}, then=lambda at: at(5.0)),
    Case(hopping.slicer(FORK), {"y": 5.0}, name="slicer(landscape)"),
    Case(hopping.frozen, {"landscape": FORK, "y": 5.0}),
    Case(hopping.stationary_flat, SLICE),
    Case(hopping.stationary_density, {**SLICE, "x": np.linspace(-0.2, 0.2, 5)}),
    Case(hopping.passage_time, {**SLICE, "side": "flat"}),
    Case(hopping.passage_time_erfi, {**SLICE, "side": "flat"}),
    Case(hopping.passage_rate_asymptotic, {**SLICE, "side": "flat"}),
    Case(hopping.splitting, SLICE),
    Case(hopping.crossing_time, {**SLICE, "side": "flat"}),
    Case(hopping.FrozenChain, {**SLICE, "eta": 0.05}, then=lambda chain: chain.flat_probability),
    Case(CHAIN.exit_time, {"x": 0.1}),
    Case(
        CHAIN.settled_flat,
        {"x": np.array([-0.1, 0.1])},
        right={"x": NONE},
    ),
    Case(CHAIN.survival, {"x": np.array([-0.1, 0.1])}, right={"x": NONE}),
    Case(CHAIN.mean, {"values": CHAIN.x, "side": "flat"}),
    Case(hopping.extrapolated_flat, {**SLICE, "eta": 0.05, "halvings": 2}),
    Case(freezing_point.Path, {name: getattr(PATH, name) for name in ("t", "y", "flat", "settled")}),
    Case(
        freezing_point.follow, EQUATION, then=lambda path: (path.flat[-1], path.last_hop(), path.freezing_y())
    ),
]
MODULES = [conventions, expressions, landscape, noise, elementary, kernels, rng, runs, simulate]
MODULES += [near_degenerate, valleys, hopping, freezing_point]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    hook = "what a kind of noise is made of; covariance and simulate call it with checked arguments"
    built = "made by simulate"
    skip = {f"{kind.__qualname__}.gradient_noise": hook for kind in KINDS}
    skip |= {f"Noise.{method}": "cases of its kinds" for method in ("covariance", "diffusion", "normals")}
    skip |= dict.fromkeys(("Runs", "Histogram", "Hops", "Call", "Call.through", "build"), built)
    skip |= {"require_printable": "takes what expression gives", "source": "takes the text of the kernel"}
    skip |= {"Landscape.at": "names of parameters, below"}
    skip |= dict.fromkeys(("two_valleys", "frozen_valleys", "barrier", "path_drift"), "no argument")
    assert not uncovered(CASES, *MODULES, skip=skip)


@pytest.mark.parametrize("label", [*fuzz._NUMBERS, *fuzz._OTHERS])
def test_bad_parameters_are_refused(label):
    if label not in ("0", "-1", "-0.5", "10**30"):
        with pytest.raises(ValueError, match=r"lambda_1="):
            VALLEY.at(lambda_1=(fuzz._NUMBERS | fuzz._OTHERS)[label])
