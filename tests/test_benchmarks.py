"""Races: how they are run and judged, and that the table of the book is what was recorded."""

import numpy as np
import pytest

import harness
import table
from flatmin.ledger import record


def test_tools_run_in_turn_and_the_first_call_does_not_count():
    called = []

    def tool(name, value):
        return lambda seed: called.append((name, seed)) or value

    race = harness.Race({"flatmin": tool("flatmin", 1.0), "other": tool("other", 1.5)}, harness.relative(1.0))
    rows = harness.run("race", race, 2)
    assert called == [(name, seed) for seed in range(3) for name in ("flatmin", "other")]
    assert [row[:2] for row in rows] == [("race", "flatmin"), ("race", "other")]
    assert [row[5] for row in rows] == pytest.approx([0.0, 0.5])
    assert all(row[3] <= row[2] <= row[4] for row in rows)


def test_a_peer_that_is_missing_or_fails_is_told_and_flatmin_may_not_fail():
    def fails(seed):
        raise RuntimeError("no derivative\nof this")

    tools = {"flatmin": float, "absent": harness.peer("no_such_module", float), "fails": fails}
    notes = [row[6] for row in harness.run("race", harness.Race(tools), 1)]
    assert notes == ["", "no_such_module is not installed", "RuntimeError: no derivative"]
    with pytest.raises(RuntimeError, match="no derivative"):
        harness.run("race", harness.Race({"flatmin": fails}), 1)


def test_the_error_is_the_root_mean_square_over_seeds_and_work_shares_the_time():
    race = harness.Race({"flatmin": lambda seed: 3.0 if seed == 1 else 4.0}, abs, work={"flatmin": 1e6})
    ((_, _, seconds, *_, error, _, _, _, _),) = harness.run("race", race, 2)
    assert error == pytest.approx(np.sqrt(12.5))
    assert seconds < 1e-6


@pytest.mark.parametrize(
    ("error", "own", "allowed", "right"),
    [(2e-3, 1e-3, 0, True), (2.1e-3, 1e-3, 0, False), (5e-4, 0, 1e-3, True), (np.nan, 1e-3, 0, True)],
)
def test_a_tool_is_compared_only_where_it_is_as_accurate(error, own, allowed, right):
    assert harness.as_accurate(error, own, allowed) == right


def made(*rows):
    """A record of one race: (tool, seconds, error, note)."""
    whole = [("top10", tool, s, s, s, error, note, "2026-01-01", 1.0, "abc") for tool, s, error, note in rows]
    arrays = dict(zip(harness.COLUMNS, map(np.array, zip(*whole, strict=True)), strict=True))
    origin = {"command": "make bench", "device": "a machine", "torch": "2", "numpy": "2", "peers": {}}
    return record.Result(
        "benchmarks", arrays, origin | {"units": {"top10": "ms"}, "allowed": {"top10": 1e-3}}
    )


def test_the_best_peer_is_the_fastest_that_is_accurate():
    found = made(
        ("flatmin", 0.1, 1e-6, ""), ("flatmin, a variant", 0.05, 1e-6, ""), ("hasty", 0.01, 0.2, ""),
        ("fair", 0.3, 1e-4, ""), ("broken", np.nan, np.nan, "Error: it is"),
    )  # fmt: skip
    text = table.text(found)
    assert "| 10 largest eigenvalues | 100\u00a0ms (1e−6) | fair: 300\u00a0ms (1e−4) | 3× |" in text
    assert "flatmin, a variant 0.5×; hasty 0.1× (2e−1); broken: Error: it is\n" in text
    assert "ahead in 1" in text
    behind = made(("flatmin", 0.1, 1e-6, ""), ("flatmin, hasty", 0.05, 1e-6, ""), ("fair", 0.05, 1e-4, ""))
    assert "**0.5×**" in table.text(behind)
    assert "eigenvalues (behind, 0.5×, 1× for flatmin, hasty). A quarter" in table.text(behind)
    assert "level" in table.text(made(("flatmin", 0.1, 1e-6, ""), ("fair", 0.11, 1e-4, "")))


def test_the_table_of_the_book_is_what_was_recorded():
    found = record.load(harness.RECORD)
    assert table.PAGE.read_text("utf8") == table.text(found)
    names = set(found.arrays["race"].tolist())
    assert names == set(table.TITLES)
    assert "No reason is known" not in table.PAGE.read_text("utf8")
