"""Bad values for one network under five theories: the stationary state, frames, runs and drift."""

import numpy as np
import pytest
import torch

from flatmin.networks import models, one_network
from flatmin.networks.data.sets import Data
from flatmin.networks.point import at
from flatmin.theory.stability import stationary
from flatmin.theory.stability.minimum import Minimum
from fuzz import Case, check, uncovered

torch.set_num_threads(1)
RNG = np.random.default_rng(0)
HERE = Minimum.from_gradients(RNG.normal(size=(9, 4)))
ERRORS = RNG.normal(size=9)
STEP = {"minimum": HERE, "residuals": ERRORS, "eta": 0.05, "batch_size": 2}
INPUTS = torch.from_numpy(RNG.normal(size=(12, 5)))
DATA = Data(INPUTS, INPUTS[:, 0], "numbers")
MODEL = models.mlp((5, 3, 1), activation="tanh", dtype=torch.float64)
POINT = at(MODEL, "square", DATA)
FRAME = one_network.frame(POINT, 4)
NETS = {"model": "train() refuses it", "data": "train() refuses it"}
PLACE = {"here": "the point itself, made by at(), which checks it"}
FAR = {"*": "beyond the edge: ∞, as documented"}

CASES = [
    Case(
        stationary.linear_variance,
        {"eta": 0.1, "curvature": [1.0, 2.0], "noise": [1.0, 1.0]},
        right={"eta": FAR, "curvature": FAR},
    ),
    Case(stationary.excess, {"curvature": [1.0, 2.0], "variance": [1.0, 1.0]}, right={"variance": FAR}),
    Case(
        stationary.decoupled_excess,
        {"curvature": [1.0, 2.0], "eta": 0.1, "batch_size": 2},
        right={"eta": FAR, "curvature": FAR},
    ),
    Case(stationary.noise_at, {"minimum": HERE, "residuals": ERRORS}),
    Case(stationary.second_moment, STEP, right={"eta": FAR}),
    Case(stationary.mean_path, {**STEP, "steps": 3}, right={"eta": FAR}),
    Case(
        stationary.linearised_losses,
        {"minimum": HERE, "residuals": ERRORS, "eta": 0.05, "batches": np.zeros((2, 3, 2), int)},
        right={"eta": FAR},
    ),
    Case(one_network.frame, {"here": POINT, "directions": 4}, leave=PLACE, then=lambda f: f.noise),
    Case(
        one_network.framed, {"here": POINT, "vectors": FRAME.vectors}, leave=PLACE, then=lambda f: f.curvature
    ),
    Case(one_network.derivatives, {"here": POINT, "vectors": FRAME.vectors}, leave=PLACE),
    Case(
        one_network.edges_of,
        {"frame": FRAME, "batch_size": 2},
        then=lambda edges: np.array([edges["exact"], edges["typical"]]),
    ),
    Case(
        one_network.stay,
        {
            "model": MODEL,
            "data": DATA,
            "vectors": FRAME.vectors,
            "eta": 0.01,
            "batch_size": 2,
            "seeds": [0, 1],
            "steps": 10,
            "every": 2,
        },
        leave=NETS,
        then=lambda found: found[0],
    ),
    Case(
        one_network.leave,
        {
            "model": MODEL,
            "data": DATA,
            "frame": FRAME,
            "eta": 0.01,
            "batch_size": 2,
            "seeds": [0, 1],
            "steps": 4,
        },
        leave=NETS,
        right={"eta": FAR, "looked": {"10**30": "all there are"}},
        then=lambda found: found[1],
    ),
    Case(
        one_network.lifted,
        {"models": [MODEL, MODEL], "data": DATA, "vectors": FRAME.vectors},
        leave={"models": "networks", "data": "at() refuses it"},
    ),
    Case(one_network.doubled, {"data": DATA, "size": 0.1}, then=lambda d: d.targets.numpy()),
    Case(
        one_network.drift,
        {"here": POINT, "eta": 0.01, "batch_size": 2, "size": 0.1},
        leave=PLACE,
        then=lambda found: found["small"],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    assert not uncovered(CASES, stationary, one_network, skip={"Frame": "made by frame"})
