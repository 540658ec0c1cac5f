"""Ensembles of the two valleys from the paper's start."""

import numpy as np
import pytest

from flatmin.theory.noise import HessianAligned
from flatmin.theory.two_valleys import ensemble


def test_starts_alternate_between_the_sides():
    assert ensemble.alternating(4).tolist() == [-0.01, 0.01, -0.01, 0.01]


def test_a_share_of_none_has_an_error_too():
    share = ensemble.proportion(np.array([[False] * 98, [True, False] * 49]))
    assert share.value.tolist() == [0, 0.5]
    assert share.error == pytest.approx([np.sqrt(0.01 * 0.99 / 98), np.sqrt(0.25 / 98)])


def test_without_noise_each_start_stays_on_its_side():
    cells = ensemble.run_grid(HessianAligned, [0.05], [0.0, 1e-6], trajectories=6, steps=400)
    assert cells["flat"].tolist() == [[0.5, 0.5]]
    assert cells["flat_from_sharp"].tolist() == [[0, 0]]
    assert cells["flat_from_flat"].tolist() == [[1, 1]]
    assert cells["still"].tolist() == [[1, 1]]
    assert np.all(cells["end_y"] > 5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ensemble.alternating(0), "trajectories=0"),
        (lambda: ensemble.proportion([0.2, 0.4]), "happened="),
        (lambda: ensemble.proportion(np.zeros(0, bool)), "happened="),
        (lambda: ensemble.run_grid(HessianAligned, [-0.1], [0.1], trajectories=2, steps=2), "etas="),
        (lambda: ensemble.run_grid(HessianAligned, [0.1], [np.nan], trajectories=2, steps=2), "sigmas="),
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
