"""The functions behind the recorded comparison of stability bounds, and the pictures drawn from it."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from flatmin.experiments import stability_random
from flatmin.ledger import record
from flatmin.pictures import stability as demo
from flatmin.theory.stability.threshold import largest_step


@pytest.mark.parametrize("family", [*stability_random.FAMILIES, "orthogonal"])
def test_comparison_has_every_bound_on_its_side(family):
    minimum = stability_random.random_minimum(family, 12, 3)
    found = stability_random.compare(minimum, np.array([1.0, 3.0, 12.0]))
    assert found["exact"] == pytest.approx([largest_step(minimum, b, True) for b in (1, 3, 12)])
    assert np.all(found["sufficient"] <= found["exact"] * (1 + 1e-9))
    for name in ("theorem_3_3", "proposition_3_4", "trace", "direction"):
        assert np.all(found[name] >= found["exact"] * (1 - 1e-9)), name
    noise = found["exact"] ** 2 / [1, 3, 12] * found["alignment"] * found["frobenius"] ** 2
    assert found["contraction"] + noise == pytest.approx([1, 1, 1])


def test_relu_features_share_a_direction_and_unequal_gradients_do_not():
    features = stability_random.random_minimum("relu features", 40, 0)
    unequal = stability_random.random_minimum("unequal", 40, 0)
    assert features.sharpness > 0.3 * features.trace  # the mean of the features, 1/π of their square
    assert unequal.gamma < 0.2 < features.gamma


def test_unknown_families_are_named():
    with pytest.raises(ValueError, match="family='cauchy'"):
        stability_random.random_minimum("cauchy", 5, 0)


def test_the_record_holds_what_the_pictures_need(tmp_path):
    stability_random.EXPERIMENT.run(tmp_path, True)
    kept = record.load("stability-random", tmp_path)
    rows = {
        family: {name: values[i] for name, values in kept.arrays.items() if name != "batch_sizes"}
        for i, family in enumerate(stability_random.FAMILIES)
    }
    figure = demo.tightness(rows, kept.batch_sizes)
    left = figure.axes[0]
    assert len(left.lines) == len(rows) + 2  # and the orthogonal ones, and B = rank
    assert max(line.get_ydata().max() for line in left.lines[: len(rows)]) <= 1 + 1e-9
    plt.close(figure)


def test_choose_a_minimum_says_what_is_stable():
    for eta, word in ((0.2, "stable"), (11.0, "unstable")):
        figure = demo.choose_a_minimum(eta, 2)
        assert figure.axes[1].get_title().startswith(f"{word},")
        plt.close(figure)
