"""Bad values for the ledger: claims, records, states, sweeps, and how numbers are written."""

import numpy as np
import pytest
from executors import Here
from matplotlib.figure import Figure

from flatmin.ledger import arrays, claims, decimals, paths, plots, record, sweeps, verdicts
from fuzz import Case, check


def value(point, seed):
    return {"x": 1.0}


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Nothing is written into the book, whatever ``folder`` is."""
    monkeypatch.chdir(tmp_path)
    results = paths.results
    monkeypatch.setattr(paths, "results", lambda to_write=False: tmp_path if to_write else results())
    monkeypatch.setattr(claims, "_made", {})


NAME = {"text": "a name", "no text": "a name"}
MEASURED = {"id": "y22-flux", "measured": 1.0, "error": 0.1, "printed": 1.0}
SAVED = {
    "name": "demo",
    "arrays": {"a": 1},
    "seed": 3,
    "scale": "small",
    "command": "python",
    "wall_time": 1.0,
}
SWEPT = {"function": value, "points": [{"x": 1}], "name": "demo", "folder": "here", "executor": Here()}
NOTHING = {"[]": "nothing in, nothing out", "empty array": "nothing in, nothing out"}
POINTS = NOTHING | {"array of text": "points may be text", "entry text": "points may be text"}
WORDS = dict.fromkeys(("name", "scale", "command", "data_set", "device", "folder"), NAME)
CASES = [
    Case(
        claims.check,
        MEASURED,
        right={"part": NAME, "note": NAME, "could_fail": NAME},
        then=lambda verdict: verdict.reach,
    ),
    Case(claims.claim_of, {"id": "y22-flux"}, then=lambda claim: len(claim.kind)),
    Case(decimals.number, {"name": "value", "value": 1.0}, leave={"name": "names what it is told to"}),
    Case(
        decimals.approx,
        {"value": 1.0, "error": 0.1, "digits": 3},
        right={"value": {"nan": "an outcome, written as such"}},
        then=len,
    ),
    Case(decimals.exact, {"value": 1.0}, then=len),
    Case(arrays.packed, {"arrays": {"a": np.ones(3)}, "compress": True}, then=len),
    Case(
        arrays.save_state,
        {"path": "s.npz", "arrays": {"a": np.ones(3)}, "kind": "demo"},
        right={"path": NAME, "kind": NAME},
    ),
    Case(arrays.load_state, {"path": "none.npz", "kind": "demo"}, right={"path": NAME, "kind": NAME}),
    Case(record.save, SAVED | {"folder": "here"}, right=WORDS, then=repr),
    Case(record.load, {"name": "two_valleys"}, leave={"name": "see below", "folder": "see below"}, then=repr),
    Case(
        sweeps.sweep,
        SWEPT | {"progress": False},
        right={"points": POINTS, "name": NAME, "folder": NAME, "version": NAME},
        then=len,
    ),
    Case(sweeps.stack, {"results": [{"a": 1.0}]}, right={"results": NOTHING}),
    Case(plots.edges, {"centres": np.arange(1.0, 4.0), "log": True}),
    Case(plots.colour, {"kind": "sgd"}, then=len),
    Case(plots.publish, {"figure": Figure(), "text": "it"}, right={"text": NAME}, then=repr),
    Case(plots.alt, {"figure": Figure(), "text": "it"}, right={"text": NAME}, then=repr),
    Case(verdicts.overall, {"verdicts": ["open"]}, then=len),
    Case(verdicts.badge, {"verdict": "open"}, then=len),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


@pytest.mark.parametrize(
    "wrong", [0, -1, 1.5, 1j, None, [], object(), True, "", "Upper case", np.array(["a"])]
)
def test_a_record_is_named_by_a_name_and_lies_in_a_folder(wrong, tmp_path):
    with pytest.raises(ValueError, match="name="):
        record.load(wrong)
    if wrong is not None and wrong != "Upper case":
        with pytest.raises(ValueError, match="folder="):
            record.load("two_valleys", wrong)
