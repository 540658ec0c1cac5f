"""Bad values for what is read off the recorded freezing runs."""

import numpy as np
import pytest
from recorded import freezing

from flatmin.networks import freezing_record as reading
from fuzz import Case, check, uncovered

RESULT = freezing()
CELLS = reading.Cells(RESULT)
MADE = "a result or its cells, made by this library"
HOW = {"cells": CELLS, "criterion": "jaccard 0.90", "rule": "as coded", "how": "reference"}

CASES = [
    Case(CELLS.share, {"name": "same_few"}, then=np.nanmean),
    Case(CELLS.place, {"criterion": "jaccard 0.90", "rule": "as coded", "how": "search"}),
    Case(reading.frozen_times, HOW, then=np.nanmean),
    Case(reading.delays, HOW, then=lambda found: found.a),
    Case(
        reading.first_time,
        {"cells": CELLS, "loss": 0.1},
        right={"loss": {"None": "no error"}},
        then=np.nanmean,
    ),
    Case(reading.proxy_delay, {"cells": CELLS, "loss": 0.1}, then=lambda found: found.a),
    Case(reading.continuation_slopes, {"result": RESULT, "name": "flat", "which": 0}, leave={"result": MADE}),
    Case(reading.triangle, {"values": np.arange(6)}, leave={"values": "any numbers, of a length that fits"}),
]
CASES += [
    Case(reading.independent_pass, {"cells": CELLS, "criterion": "jaccard 0.90", "rule": "as coded"}),
    Case(reading.index_over_valley, {"cells": CELLS}, then=float),
]
SKIPPED = {
    "Cells": "made of a recorded result",
    "Cells.converged": "a property",
    **dict.fromkeys(("best", "by_start", "noise_slope", "rank_correlation"), "take NaN for a run left out"),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


def test_every_public_name_has_a_case():
    assert not uncovered(CASES, reading, skip=SKIPPED)
