"""Freezing times by the definition and by the search of the paper's code."""

import numpy as np
import pytest

from flatmin.networks.freezing import Frozen, frozen_from, search

TIMES = np.arange(6) * 20.0


def blocks(*sizes):
    """End points alike within consecutive blocks."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    return label[:, None] == label[None]


@pytest.mark.parametrize(
    ("similar", "index", "kind", "bounds"),
    [
        (blocks(6), 0, Frozen.START, (-np.inf, 0)),
        (blocks(1, 2, 3), 3, Frozen.WITHIN, (40, 60)),
        (blocks(2, 3, 1), 5, Frozen.NEVER, (80, np.inf)),
    ],
)
def test_the_definition(similar, index, kind, bounds):
    found = frozen_from(similar, TIMES)
    assert (found.index, found.kind, found.time) == (index, kind, TIMES[index])
    assert (found.lower, found.upper) == bounds


def test_all_pairs_count_and_not_only_those_with_the_last():
    similar = np.ones((6, 6), dtype=bool)
    similar[2, 4] = similar[4, 2] = False
    assert frozen_from(similar, TIMES).index == 3
    assert frozen_from(similar[-1], TIMES).index == 0


def test_many_runs_against_the_sentence_written_out():
    rng = np.random.default_rng(1)
    upper = np.triu(rng.random((40, 6, 6)) < 0.85, 1)
    similar = upper | upper.swapaxes(1, 2) | np.eye(6, dtype=bool)
    above = rng.random(40) < 0.2
    found = frozen_from(similar, TIMES, above=above)
    for run in range(40):
        index = min(k for k in range(6) if similar[run, k:, k:].all())
        assert found.index[run] == index
        wanted = Frozen.START if index == 0 else Frozen.NEVER if index == 5 else Frozen.WITHIN
        assert found.kind[run] == (Frozen.ABOVE if above[run] else wanted)
    assert np.isinf(found.upper[above]).all()
    assert np.isinf(found.lower[above]).all()
    assert (found.lower < found.upper).all()


def test_a_matrix_must_be_one_of_similarities():
    similar = blocks(3, 3)
    for bad, why in ((np.triu(similar), "symmetric"), (similar ^ np.eye(6, dtype=bool), "itself")):
        with pytest.raises(ValueError, match=why):
            frozen_from(bad, TIMES)
    for bad in (similar[:, :4], similar.astype(int), np.zeros((0, 6), dtype=bool)):
        with pytest.raises(ValueError, match="similar="):
            frozen_from(bad, TIMES)
    with pytest.raises(ValueError, match="times="):
        frozen_from(similar, TIMES[::-1])


def test_the_search_looks_where_the_code_looks():
    alike = np.ones(101, dtype=bool)
    alike[:37] = False
    found, tested = search(alike.__getitem__, 101)
    assert found == 37
    assert tested == [90, 80, 70, 60, 50, 40, 30, *range(31, 40)]


def test_the_search_misses_what_the_definition_sees():
    alike = np.ones(101, dtype=bool)
    alike[:37] = alike[55] = False
    assert search(alike.__getitem__, 101)[0] == 37
    assert frozen_from(alike, np.arange(101)).index == 56
    assert search(np.ones(101, dtype=bool).__getitem__, 101) == (0, [*range(90, -1, -10)])
    alike[:100] = False
    assert search(alike.__getitem__, 101)[0] == 100
    alike[:] = True
    alike[91:95] = alike[:90] = False
    assert search(alike.__getitem__, 101)[0] == 90


@pytest.mark.parametrize(("coarse", "fine", "found"), [(20, 5, 40), (50, 10, 40), (10, 1, 37), (7, 2, 37)])
def test_coarser_searches(coarse, fine, found):
    alike = np.arange(101) >= 37
    assert search(alike.__getitem__, 101, coarse=coarse, fine=fine)[0] == found
