"""The recorded comparison of stability bounds, and the pictures drawn from it."""

import matplotlib.pyplot as plt
import pytest

from flatmin.experiments import stability_random
from flatmin.ledger import record
from flatmin.pictures import stability as demo
from flatmin.theory.stability.families import FAMILIES


@pytest.mark.usefixtures("sweeps_here")
def test_the_record_holds_what_the_pictures_need(tmp_path):
    stability_random.EXPERIMENT.run(tmp_path, True)
    kept = record.load("stability-random", tmp_path)
    rows = {
        family: {name: values[i] for name, values in kept.arrays.items() if name != "batch_sizes"}
        for i, family in enumerate(FAMILIES)
    }
    figure = demo.tightness(rows, kept.batch_sizes)
    left = figure.axes[0]
    assert len(left.lines) == len(rows) + 2  # and the orthogonal ones, and B = rank
    assert max(line.get_ydata().max() for line in left.lines[: len(rows)]) <= 1 + 1e-9
    plt.close(figure)


def test_choose_a_minimum_says_what_is_stable():
    for eta, word in ((0.2, "stable"), (11.0, "unstable")):
        figure = demo.choose_a_minimum(eta, 2, [1.5, 0.2, 0.3, 0.9, -0.5, 0.6])
        assert figure.axes[1].get_title().startswith(f"{word},")
        plt.close(figure)
