"""The functions behind the recorded runs on the valley of many directions."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from flatmin.experiments import high_dimensional, high_dimensional_onset
from flatmin.ledger import record
from flatmin.pictures import many_directions


@pytest.mark.usefixtures("sweeps_here")
def test_the_small_scale_has_the_shapes_of_the_full_one(tmp_path):
    high_dimensional.EXPERIMENT.run(tmp_path, quick=True)
    kept = record.load("high-dimensional", tmp_path)
    assert kept.sgd_log_flatness.shape == (2, 3, len(kept.tau))
    assert kept.gld_log_flatness.shape == (2, 2, 2, len(kept.tau))
    assert kept.phases_log_flatness.shape == (2, 4, 4)
    assert kept.langevin_log_flatness.shape == (2, 2, 2, 2)
    assert kept.onset_left.shape == (2, 4)
    assert all(np.isfinite(values).all() for values in kept.arrays.values())
    high_dimensional_onset.EXPERIMENT.run(tmp_path, quick=True)
    assert record.load("high-dimensional-onset", tmp_path).left.shape == (2, 4)
    # every start is the same for all, and strong noise at large steps diverges
    np.testing.assert_array_equal(kept.sgd_log_flatness[:, 0, 0], kept.gd_log_flatness[:, 0])
    assert kept.phases_diverged[:, -1, -1].min() == 1
    assert kept.phases_diverged[:, 0, 0].max() == 0


@pytest.mark.parametrize(
    ("choice", "title"),
    [((0.002, 0.05, 5), "; 0 of 16"), ((1.0, 0.2, 1), "no threshold: ηλ > 2; 16 of 16")],
    ids=["converges", "diverges"],
)
def test_the_explorer_says_what_diverged(choice, title):
    many_directions.choose_directions(*choice)
    assert title in plt.gca().get_title()
    plt.close("all")
