"""Ensembles of the two valleys from the paper's start."""

import numpy as np
import pytest

from flatmin.theory.noise import HessianAligned
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.two_valleys import ensemble
from flatmin.theory.two_valleys.landscape import PAPER, two_valleys


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


def test_mobile_are_those_whose_path_changes_side_in_the_last_tenth():
    trajectories, steps, eta, sigma = 400, 300, 0.1, 0.02
    cells = ensemble.run_grid(HessianAligned, [eta], [sigma], trajectories=trajectories, steps=steps, seed=4)
    paths = simulate(
        two_valleys().at(**PAPER), HessianAligned(sigma), eta=eta, steps=steps, trajectories=trajectories,
        start=(ensemble.alternating(trajectories), 5.0), seed=4, keep=steps + 1,
    ).trajectories[..., 0]  # fmt: skip
    hops = np.diff(np.signbit(paths), axis=1)  # hops[:, t]: between steps t and t + 1
    assert cells["mobile"].item() == hops[:, 270:].any(axis=1).mean()
    assert cells["still"].item() == (~hops.any(axis=1)).mean()
    assert 0.1 < cells["mobile"].item() < hops[:, 30:].any(axis=1).mean() - 0.1
