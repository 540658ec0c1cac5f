"""Bad values at the door: points, samples, gradient noise, stability of networks."""

import pytest
import torch

from flatmin.networks import gradient_noise, models, parameters, point, sampled, stability
from flatmin.networks.data import samples
from flatmin.networks.point import at
from fuzz import Case, check, uncovered

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 5, generator=GENERATOR, dtype=torch.float64)
Y = torch.randint(3, (12,), generator=GENERATOR)
MODEL = models.mlp((5, 4, 3), activation="tanh", dtype=torch.float64)
HERE = at(MODEL, "cross-entropy", (X, Y))
ONE = at(models.mlp((5, 4, 1), dtype=torch.float64), "square", (X, X[:, :1]))
TANGENT = stability.tangent(ONE)
SAMPLED = HERE.noise.sampled_alignment(8)
MANY = {"samples": {"10**30": "all there are"}, "probes": {"10**30": "the outputs themselves"}}
PLACE = {"here": "the point itself, made by at(), which checks it"}

CASES = [
    Case(point.at, {"model": MODEL, "loss": "cross-entropy", "data": (X, Y)}, then=lambda here: here.loss),
    Case(HERE.block, {"layer": 2}, then=lambda block: block.stop),
    Case(HERE.dense_block, {"layer": 2}, then=lambda block: block.stop),
    Case(HERE.first, {"samples": 5}, then=lambda here: here.loss),
    Case(samples.samples_of, {"data": (X, Y), "samples": 5}, then=lambda found: found.inputs.numpy()),
    Case(gradient_noise.covariance, {"here": HERE, "batch_size": 4}, leave=PLACE, then=lambda c: c.numpy()),
    Case(
        gradient_noise.in_hessian_basis,
        {"here": HERE, "batch_size": 4},
        leave=PLACE,
        then=lambda b: b.noise.numpy(),
    ),
    Case(gradient_noise.exponent, {"here": HERE}, leave=PLACE),
    Case(gradient_noise.alignment, {"here": HERE}, leave=PLACE, then=lambda a: a.mu),
    Case(
        gradient_noise.noise_strength,
        {"here": HERE},
        leave=PLACE,
        right={"executor": {"None": "without one"}},
    ),
    Case(
        gradient_noise.along,
        {"here": HERE, "vectors": torch.eye(HERE.parameters, dtype=torch.float64)[:, :3]},
        leave=PLACE,
    ),
    Case(
        stability.compressed,
        {"here": HERE, "directions": torch.eye(HERE.parameters, dtype=torch.float64)[:, :3]},
        leave=PLACE,
        then=lambda minimum: minimum.trace,
    ),
    Case(
        sampled.sampled_alignment,
        {"here": HERE, "samples": 8, "of_samples": 1000},
        leave=PLACE,
        right=MANY | {"of_samples": {"None": "all"}},
        then=lambda a: a.mu,
    ),
    Case(SAMPLED.of, {"function": lambda one: one.mu}),
    Case(SAMPLED.bound, {"eta": 0.1, "batch_size": 5}),
    Case(sampled.batch_sharpness, {"here": HERE, "batch_size": 4, "batches": 5}, leave=PLACE),
    Case(gradient_noise.decoupling, {"here": ONE}, leave=PLACE, then=lambda d: d.exact.numpy()),
    Case(gradient_noise.decoupling_factors, {"here": ONE}, leave=PLACE, then=lambda f: f.samples),
    Case(stability.tangent, {"here": HERE}, leave=PLACE, then=lambda t: t.gram),
    Case(stability.edge, {"here": HERE, "eta": 0.1, "batch_size": 4}, leave=PLACE, then=lambda e: e.within),
    Case(stability.largest_step, {"here": HERE, "batch_size": 4}, leave=PLACE),
    Case(
        stability.escape_runs,
        {"here": ONE, "eta": 0.1, "batch_size": 4, "steps": 3, "trajectories": 4},
        leave=PLACE,
        then=lambda e: e.linearised,
    ),
    Case(
        parameters.with_parameters,
        {"model": MODEL, "theta": HERE.theta},
        then=lambda m: parameters.vector(m).numpy(),
    ),
    Case(
        parameters.block_of,
        {"named": parameters.trainable(MODEL), "layer": 2},
        leave={"named": "parameters of a module"},
        right={"layer": {"None": "all parameters"}},
        then=lambda block: block.stop,
    ),
    Case(TANGENT.mean_losses, {"eta": 0.1, "batch_size": 4, "steps": 3}),
    Case(TANGENT.losses, {"eta": 0.1, "batch_size": 4, "steps": 3, "seeds": [0, 1]}),
]
MADE = "Point Noise Alignment Decoupling DecouplingFactors HessianBasis NoiseStrength"
MADE += " Edge Escape Tangent Samples SampledAlignment"
RESULTS = dict.fromkeys(MADE.split(), "made by its function, or by what takes a point")
METHODS = {
    f"Point.{name}": "the function of that name, which has its own case"
    for name in vars(point.Point)
    if not name.startswith("_")
} | {f"Noise.{name}": "calls the function of that name" for name in vars(gradient_noise.Noise)}
INSIDE = {
    "Samples.take": "of a tree",
    "Samples.rows": "of a tree",
    "Samples.to": "of a tree",
    "leaves": "of a tree",
    "mapped": "of a tree",
    "vector": "of a model",
    "trainable": "of a model",
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


@pytest.mark.parametrize("module", [gradient_noise, parameters, point, sampled, samples, stability])
def test_every_public_name_has_a_case(module):
    assert not uncovered(CASES, module, skip=RESULTS | INSIDE | METHODS)
