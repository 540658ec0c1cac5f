"""Bad values for rescaled copies and what is measured along runs."""

import numpy as np
import pytest
import torch

import flatmin as fm
from flatmin.networks import models, parameters, scaling
from flatmin.networks.point import at
from fuzz import Case, check, uncovered

MODEL = models.mlp((3, 16, 16, 2), seed=1)
INPUTS = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
DATA = (INPUTS, MODEL(INPUTS).argmax(1))  # all classified rightly: a factor brings the loss down
HERE = at(MODEL, "cross-entropy", DATA)
torch.manual_seed(0)
RUNS = fm.train(MODEL, "cross-entropy", DATA, steps=4, batch_size=6, keep=2)
SAMPLES = dict.fromkeys(("data", "test", "loss", "model"), "samples: the tests of samples_of")
POINT = {"here": "a checked point, of which none is made by hand"}
UNDEFINED = {"*": "flatness is not defined there: NaN"}
LOSSES = np.array([[1.0, 0.5, 0.1], [2.0, 0.3, 0.2]])

CASES = [
    Case(scaling.log_flatness, {"eigenvalues": np.ones((2, 3))}, right={"eigenvalues": UNDEFINED}),
    Case(
        scaling.passage,
        {"loss": LOSSES, "logs": LOSSES, "levels": np.array([0.4, 0.25])},
        right={name: {"*": "NaN where a level is not passed"} for name in ("loss", "logs", "levels")},
    ),
    Case(scaling.over_levels, {"passed": np.ones((2, 4, 3))}, right={"passed": {"*": "NaN: not passed"}}),
    Case(
        scaling.at_equal,
        {"loss": LOSSES[None], "logs": LOSSES[None], "taus": [0, 1, 2], "at": [1, 2], "levels": [0.4, 0.25]},
        right={name: {"*": "NaN where a level is not passed"} for name in ("loss", "logs", "levels")},
    ),
    Case(
        scaling.log_normalised,
        {"eigenvalues": np.ones((2, 3)), "norm": np.ones(2), "size": np.ones(2)},
        right={"eigenvalues": UNDEFINED},
    ),
    Case(
        scaling.rescaled,
        {"model": MODEL, "theta": parameters.vector(MODEL), "factor": 2.0},
        right={"layer": {"None": "all layers"}},
    ),
    Case(scaling.matching_factor, {"here": HERE, "level": 0.1}, leave=POINT, right={"level": {"*": "NaN"}}),
    Case(
        scaling.along,
        {"runs": RUNS, "data": DATA, "test": DATA, "top": 2},
        leave={n: SAMPLES[n] for n in ("data", "test")},
    ),
    Case(
        scaling.copies,
        {
            "model": MODEL,
            "loss": "cross-entropy",
            "data": DATA,
            "thetas": HERE.theta[None],
            "levels": [0.1],
            "top": 2,
        },
        leave={name: SAMPLES[name] for name in ("data", "loss", "model")},
        right={name: {"*": "NaN: no such copy"} for name in ("levels", "thetas")},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    assert not uncovered(CASES, scaling)
