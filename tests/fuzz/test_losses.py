"""Bad values for losses and the reader of fully connected networks."""

import pytest
import torch
from torch import nn

from flatmin.networks import losses
from flatmin.networks.passes import dense
from fuzz import Case, check, uncovered

OUTPUTS = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
REAL = OUTPUTS.flip(0)
LABELS = torch.tensor([0, 2, 1, 2])
SQUARE, CROSS = losses.of("square"), losses.of(nn.CrossEntropyLoss(label_smoothing=0.1))
BINARY, FUNCTION = losses.of(nn.BCEWithLogitsLoss()), losses.of(lambda f, y: (f - y).pow(4).mean())
LOSSES = {"square": (SQUARE, REAL), "classes": (CROSS, LABELS), "binary": (BINARY, REAL.sigmoid())}
LOSSES["function"] = (FUNCTION, REAL)

SHAPE = {"outputs": "a shape: training and passes take it from the outputs themselves"}
CASES = [
    Case(losses.of, {"loss": "square"}),
    *(
        Case(loss.bind, {"outputs": OUTPUTS, "targets": targets}, name="Loss.bind")
        for loss, targets in LOSSES.values()
    ),
    *(
        Case(
            loss.targets,
            {"targets": targets, "outputs": 3, "dtype": torch.float64},
            leave={**SHAPE, "dtype": "the outputs' own"},
            name="Loss.targets",
        )
        for loss, targets in LOSSES.values()
    ),
]
INNER = "called with outputs of the network and with targets that Loss.targets or Loss.bind has checked"
SKIP = {
    **dict.fromkeys(("Loss", "Bound"), "made by of and Loss.bind"),
    **{
        f"Loss.{name}": INNER
        for name in ("apart", "require_apart", "function", "total", "totals", "slopes", "closed")
    },
    **{f"Bound.{name}": INNER for name in ("total", "root_transpose", "curvature", "verify")},
}


@pytest.mark.parametrize("case", CASES, ids=[f"{case}-{i}" for i, case in enumerate(CASES)])
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    assert not uncovered(CASES, losses, skip=SKIP)


@pytest.mark.parametrize("model", [None, 3, "net", nn.Linear, torch.zeros(3), [], nn.Sequential(), nn.ReLU()])
def test_the_fast_route_reads_only_networks(model):
    """It never raises: what it does not know is left to the route that does, and says what is wrong."""
    assert dense.dense_layers(model) is None
