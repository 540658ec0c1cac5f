"""Bad values for descents from checkpoints, the similarity of end points, freezing times and spectra."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from flatmin.networks import freezing, models, parameters
from flatmin.networks.data.sets import Data
from fuzz import Case, check, uncovered

DATA = Data(torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(10, 4), torch.arange(10) % 3)
MODEL = models.mlp((4, 3, 3), dtype=torch.float64)
SCALES = torch.tensor([[1.0], [0.9], [0.7]], dtype=torch.float64)
THETAS = parameters.vector(MODEL) * SCALES
POINT = {"model": MODEL, "loss": "cross-entropy", "data": DATA}
WRONG = np.eye(4, dtype=bool)
CLASSES = np.arange(8).reshape(2, 4) % 3
SIMILAR = np.ones((3, 3), dtype=bool)

DEVICE = {"device": "strings and devices of torch are checked by tests/networks/test_device.py"}
HUGE = {"entry 1e30": "a loss beyond float64 is as large as the loss is"}
DIVERGES = dict.fromkeys(("1e308", "10**30"), "the descent diverges, which is an outcome")

CASES = [
    Case(freezing.Stop, {"first": 5, "every": 2}, right={n: {"None": "by η"} for n in ("first", "every")}),
    Case(freezing.Stop().schedule, {"eta": 0.1}, name="Stop.schedule"),
    Case(
        freezing.descend,
        {**POINT, "starts": THETAS, "eta": 0.1, "steps": 4, "keep": [0, 2], "stop": freezing.Stop()},
        right={
            "eta": DIVERGES,
            "stop": {"None": "no rule"},
            "keep": dict.fromkeys(("[]", "empty array"), "none"),
            "layer": {"None": "all"},
        },
        leave=DEVICE,
        then=lambda found: (found.ends, found.path, found.accuracy),
    ),
    Case(
        freezing.Counts(np.arange(3), np.full(3, 3)).at_least,
        {"threshold": Fraction(1, 2)},
        name="Counts.at_least",
    ),
    Case(freezing.jaccard, {"wrong": WRONG, "others": WRONG}),
    Case(freezing.agreement, {"predicted": CLASSES, "others": CLASSES}),
    Case(freezing.evaluate, {**POINT, "thetas": THETAS}, leave=DEVICE),
    Case(
        freezing.barriers,
        {**POINT, "thetas": THETAS, "pairs": [[0, 1]]},
        right={"pairs": {"None": "all pairs"}},
        leave=DEVICE,
    ),
    Case(
        freezing.frozen_from,
        {"similar": SIMILAR, "times": [0.0, 1.0, 2.0]},
        right={"above": {"True": "the reference lies above"}},
        then=lambda found: (found.index, found.time, found.kind),
    ),
    Case(freezing.search, {"same": lambda k: k > 5, "count": 21}),
    Case(freezing.principal, {"points": np.eye(4), "axes": 2}),
    Case(freezing.principal(np.eye(4)).project, {"points": np.eye(4)}, name="Principal.project"),
    Case(freezing.radius, {"ends": THETAS}),
    Case(
        freezing.tops, {**POINT, "thetas": THETAS, "top": 2}, right={"layer": {"None": "all"}}, leave=DEVICE
    ),
    Case(freezing.flatness_of, {**POINT, "thetas": THETAS, "top": 2}, right={"layer": {"None": "all"}}),
    Case(freezing.sharpness_of, {**POINT, "thetas": THETAS}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_a_search_needs_a_function():
    with pytest.raises(ValueError, match="same="):
        freezing.search([True] * 21, 21)


def test_every_public_name_has_a_case():
    made = dict.fromkeys(("Descents", "Readings", "Freezing", "Tops", "Counts", "Principal"), "a result")
    assert not uncovered(CASES, freezing, skip=made | dict.fromkeys(("Outcome", "Frozen"), "names"))
