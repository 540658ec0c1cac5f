"""Bad values for the ensembles of the valleys, tables of first passages, and the edge of stability."""

import numpy as np
import pytest
import torch
from deep_record import escapes, runs

from flatmin.ledger.record import Result
from flatmin.networks import deep, edges, models, passage_times
from flatmin.networks.data import sets as datasets
from flatmin.theory.noise import HessianAligned
from flatmin.theory.two_valleys import ensemble
from flatmin.theory.valleys import near_degenerate, transition
from fuzz import Case, check, uncovered

RNG = np.random.default_rng(0)
LEVELS = np.geomspace(1.1, 3, 8)
STEPS = np.ceil(RNG.exponential(100 * LEVELS**2, (12, 8))).astype(int)
W, XI = np.linspace(-3, 3, 6), np.linspace(-4, 4, 40)
SPLIT = np.exp(-(XI**2) + 0.1 * W[:, None, None] * XI**2) * RNG.uniform(0.99, 1.01, (6, 4, 40))
RUN = {"eta": 0.05, "tau": 5.0, "trajectories": 2, "seed": 1}
NORM = np.sqrt([[10.0], [100], [1000]]) * RNG.uniform(0.99, 1.01, (3, 4))
GROWN = 1e-3 * np.exp(0.1 * np.arange(21))
FROM_DEEP = -40 + np.array([[0.6], [0.7]]) * np.arange(61)
RECORD = Result(
    "trial",
    {
        "net_eta": np.array([0.1, 0.2]),
        "net_parameters": np.tile([[[10]], [[100]], [[1000]]], (2, 1, 1, 4)).reshape(2, 3, 4),
        "net_diverged": np.zeros((2, 3, 4), bool),
        "net_frobenius": np.tile(NORM[..., None], (2, 1, 1, 1)),
        "net_trace": np.tile(NORM[..., None], (2, 1, 1, 1)),
        "edge_eta": np.array([0.1, 0.2]),
        "edge_frobenius": np.ones((2, 1, 3, 4)),
        "edge_mu": np.ones((2, 1, 3, 4)),
        "edge_sharpness": np.ones((2, 1, 3, 4)),
        "edge_largest_step": np.ones((2, 1, 3, 4)),
        "run_eta": np.array([0.1]),
        "run_parameters": np.array([5]),
        "run_frobenius": np.array([3.0]),
        "run_mu_0": np.array([0.5]),
        "run_losses": GROWN * RNG.uniform(0.9, 1.1, (1, 1, 5, 1)),
        "run_mean": GROWN[None, None],
        "left_scaled_log": FROM_DEEP,
        "left_scaled_top": np.exp(FROM_DEEP),
        "left_growth": np.full((2, 1), 2.0),
        "left_parameters": np.array([5, 5]),
        "outputs_1_loss": np.full((1, 1, 2, 3, 4), 0.02),
        "outputs_1_exact": np.ones((1, 1, 2, 3, 4)),
        "steps_1": np.array([[0, 2, 4, 6]]),
        "labels": np.array(["true"]),
        "batch_sizes": np.array([2]),
    },
    {},
)
WHOLE = {"result": "a recorded result"}

CASES = [
    Case(near_degenerate.boundary, {"values": {"epsilon": 0.01, "lambda_0": 8, "lambda_1": -2}, "eta": 0.1}),
    Case(transition.marginals, {"delta_s": [0.01], **RUN}),
    Case(transition.order_parameter, {"sigma": [0.1, 0.2], "epsilon": 0.01, **RUN}),
    Case(transition.laws, {"delta_s": 0.01}, leave={"delta_s": "tested in the continuum: seconds a call"}),
    Case(transition.distance, {"density": np.ones((8, 320)), "law": np.ones(321)}),
    Case(
        transition.split,
        {"w": W, "xi": XI, "density": SPLIT},
        right={"w": {"entry 1e30": "a parabola through a point that far is all but undetermined"}},
    ),
    Case(transition.landing, {"steps": 20}),
    Case(ensemble.alternating, {"trajectories": 4}),
    Case(
        ensemble.run_grid,
        {"noise": HessianAligned, "etas": [0.05], "sigmas": [0.1], "trajectories": 4, "steps": 3},
    ),
    Case(
        passage_times.mean_times,
        {"steps": STEPS, "levels": LEVELS},
        right={"steps": {"entry -1": "a level that a run did not reach"}},
    ),
    Case(passage_times.powers, {"tables": [STEPS, STEPS], "levels": LEVELS, "windows": [(100, 1000)]}),
    Case(passage_times.log_time_ratio, {"tables": (STEPS,) * 4, "levels": LEVELS, "highest": 2.0}),
    Case(
        passage_times.mean_offset,
        {"cases": [(STEPS, STEPS)], "places": [2.0], "levels": LEVELS, "window": (100, 1000)},
    ),
    Case(
        passage_times.around,
        {"losses": STEPS.astype(float), "level": 150.0, "window": 0},
        right={
            "losses": {"*": "NaN where a run has ended"},
            "level": {"*": "NaN for a run without a passage"},
        },
    ),
    Case(edges.recorded_edges, {"result": RECORD, "kind": "edge", "which": 0}, leave=WHOLE),
    Case(edges.phase_means, {"result": RECORD, "outputs": 1, "name": "exact"}, leave=WHOLE),
    Case(edges.at_end, {"result": RECORD, "kind": "net", "name": "trace", "which": 0}, leave=WHOLE),
    Case(
        edges.slope,
        {"result": RECORD, "kind": "net", "name": "trace", "which": 0, "sigmas": 2.0},
        leave=WHOLE,
    ),
    Case(edges.steady_growth, {"result": RECORD, "kind": "left"}, leave=WHOLE),
    Case(edges.series, {"result": RECORD, "kind": "net"}, leave=WHOLE),
    Case(edges.escape_rates, {"result": RECORD, "kind": "run", "which": 0}, leave=WHOLE),
    Case(edges.gamma_0, {"result": RECORD, "kind": "run", "which": 0, "mu": "mu_0"}, leave=WHOLE),
    Case(deep.Family, {"result": runs(), "kind": "vgg"}, leave=WHOLE, then=lambda family: family.isotropic),
    Case(deep.Family(runs(), "vgg").values, {"name": "mu"}),
    Case(deep.Family(runs(), "vgg").last, {"name": "mu"}),
    Case(deep.Family(runs(), "vgg").size_slope, {"name": "g_norm", "converged": True}),
    Case(deep.Family(runs(), "vgg").batch_values, {"name": "g_norm"}),
    Case(deep.Family(runs(), "vgg").batch_slope, {"name": "g_norm"}),
    Case(deep.by_network, {"result": escapes()}, leave=WHOLE),
    Case(deep.judged, {"result": deep.by_network(escapes()), "network": "VGG-19"}, leave=WHOLE),
    Case(
        edges.live_edges,
        {
            "starts": [models.mlp((3, 4, 1), 0)],
            "data": datasets.gaussian(12, 3, dtype=torch.float32),
            "eta": 0.05,
            "batch_size": 2,
            "steps": [0, 2],
        },
        leave={"starts": "those of training", "data": "those of training"},
        right={"eta": {"1e308": "infinitely far beyond the edge"}},
    ),
]
SKIP = {
    "WINDOWS": "two ranges",
    "edges": "takes nothing",
    "near_degenerate_valley": "its names: tests of the landscapes",
    "VALLEY": "a landscape",
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    assert not uncovered(CASES, near_degenerate, transition, ensemble, passage_times, edges, deep, skip=SKIP)
