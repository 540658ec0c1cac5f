"""Bad values for a diagnosis and its report."""

import math

import pytest
import torch

from flatmin.diagnosis import lines, measure, plan, report
from flatmin.networks import models
from flatmin.networks.data.samples import samples_of
from fuzz import Case, check, uncovered

torch.set_num_threads(1)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 5, generator=GENERATOR, dtype=torch.float64)
MODEL = models.mlp((5, 4, 3), activation="tanh", dtype=torch.float64)
GIVEN = {
    "model": MODEL, "loss": "cross-entropy", "data": samples_of((X, torch.arange(12) % 3)), "eta": 0.1,
    "batch_size": 4, "what": "loss", "progress": False, "budget": math.inf,
}  # fmt: skip
FOUND = measure.diagnose(**GIVEN)
NONE = {"None": "not asked about"}

CASES = [
    Case(
        measure.diagnose,
        GIVEN,
        leave={
            "device": "as for fm.at",
            "dtype": "as for fm.at",
            "mode": "as for fm.at",
            "data": "as for fm.at",
        },
        right={"eta": NONE, "batch_size": NONE},
        then=lambda found: float(found["loss"].estimate),
    ),
    Case(plan.seconds, {"budget": "60s"}, right={"budget": {"inf": "no limit"}}),
    Case(FOUND.compare, {"other": FOUND}),
    Case(report.Report.from_json, {"text": FOUND.to_json()}, then=lambda found: len(found.lines)),
]
SKIP = dict.fromkeys(("Clock", "Task", "Plan", "Step", "Comparison", "Line", "Report"), "made by diagnose")
SKIP |= {
    "Report.save": "of the page",
    "line_of": "names of this library",
    "names_of": "names of this library",
}
SKIP |= {f"Clock.{name}": "called by a diagnosis" for name in ("share", "work")}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


@pytest.mark.parametrize("module", [lines, measure, plan, report])
def test_every_public_name_has_a_case(module):
    assert not uncovered(CASES, module, skip=SKIP)
