"""Bad values for the page of a report, and for what measures while training."""

import pytest
import torch
from torch import nn

from flatmin.diagnosis import callbacks, page
from flatmin.diagnosis.measure import diagnose
from fuzz import Case, check, uncovered

torch.manual_seed(0)
MODEL, DATA = nn.Linear(3, 1), (torch.randn(12, 3), torch.randn(12, 1))
HOW = {"what": ("lambda_1", "descent"), "progress": False, "budget": 60}
REPORT = diagnose(MODEL, "square", DATA, eta=0.1, batch_size=4, k=2, **HOW)
OPTIMISER = torch.optim.SGD(MODEL.parameters(), lr=0.1)
WATCH = callbacks.Watch("square", DATA, batch_size=4, **HOW)
WATCH(MODEL, 0, OPTIMISER)


def watched(model, step, optimiser=None, eta=None):
    """A Watch at its first step."""
    how = HOW | {"what": "lambda_1"}
    return callbacks.Watch("square", DATA, every=1, batch_size=4, **how)(model, step, optimiser, eta)


CASES = [
    Case(page.html, {"report": REPORT}),
    Case(page.page, {"report": REPORT}),
    Case(page.plot, {"report": REPORT}, then=lambda figure: None),
    Case(page.save, {"report": REPORT, "path": "/dev/null"}, leave={"path": "any text names a file"}),
    Case(callbacks.Watch, {"loss": "square", "data": DATA, "every": 2, "batch_size": 4}),
    Case(callbacks.Watch.series, {"self": WATCH, "name": "lambda_1"}, leave={"self": "a Watch"}),
    Case(
        watched,
        {"model": MODEL, "step": 3, "eta": 0.1},
        leave={"optimiser": "eta is given; see the next"},
        right={"eta": {"None": "curvature and noise alone"}},
    ),
    Case(watched, {"model": MODEL, "step": 3, "optimiser": OPTIMISER}, leave={"eta": "see above"}),
    Case(callbacks.scalars, {"report": REPORT}),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    skip = dict.fromkeys(("lightning", "transformers"), "need a library of their own: test_callbacks.py")
    assert not uncovered(CASES, page, callbacks, skip=skip)
