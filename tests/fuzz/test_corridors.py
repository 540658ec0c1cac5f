"""Bad values for the lines between networks."""

import numpy as np
import pytest
import torch

from flatmin.networks import corridors, models, parameters
from flatmin.networks.corridors import Corridors
from flatmin.networks.data.sets import Data
from fuzz import Case, check, uncovered

MODEL = models.mlp((4, 3, 3), dtype=torch.float64)
DATA = Data(torch.linspace(-1, 1, 40, dtype=torch.float64).reshape(10, 4), torch.arange(10) % 3)
START = parameters.vector(MODEL)[None]
LINES = Corridors(10, np.ones(1), np.array([[1.0, 3.0, 2.0]]), np.ones((1, 2)), np.ones((1, 2)))

CASES = [
    Case(
        corridors.corridors,
        {
            "model": MODEL,
            "loss": "cross-entropy",
            "data": DATA,
            "starts": START,
            "ends": START + 0.1,
            "points": 5,
        },
        right={"device": {"None": "the default"}},
        leave={"device": "strings and devices of torch are checked by tests/networks/test_device.py"},
        then=lambda lines: lines.losses,
    ),
    Case(LINES.heights, {"eta": 0.1, "batch_size": 5}),
    Case(LINES.hop_rates, {"eta": 0.1, "batch_size": 5}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    assert not uncovered(CASES, corridors, skip={"Corridors": "a result"})
