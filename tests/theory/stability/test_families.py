"""Random minima of several families, and the bounds compared on them."""

import numpy as np
import pytest

from flatmin.theory.stability import families
from flatmin.theory.stability.threshold import largest_step


@pytest.mark.parametrize("family", [*families.FAMILIES, "orthogonal"])
def test_comparison_has_every_bound_on_its_side(family):
    minimum = families.random_minimum(family, 12, 3)
    found = families.compare(minimum, np.array([1.0, 3.0, 12.0]))
    assert found["exact"] == pytest.approx([largest_step(minimum, b, "replacement") for b in (1, 3, 12)])
    assert np.all(found["sufficient"] <= found["exact"] * (1 + 1e-9))
    for name in ("theorem_3_3", "proposition_3_4", "trace", "necessary"):
        assert np.all(found[name] >= found["exact"] * (1 - 1e-9)), name
    noise = found["exact"] ** 2 / [1, 3, 12] * found["alignment"] * found["frobenius"] ** 2
    assert found["contraction"] + noise == pytest.approx([1, 1, 1])


def test_relu_features_share_a_direction_and_unequal_gradients_do_not():
    features = families.random_minimum("relu features", 40, 0)
    unequal = families.random_minimum("unequal", 40, 0)
    assert features.sharpness > 0.3 * features.trace  # the mean of the features, 1/π of their square
    assert unequal.gamma < 0.2 < features.gamma


def test_groups_have_their_lengths_in_directions_of_their_own():
    minimum = families.grouped_minimum([(3, 2, 4.0), (5, 4, 0.5)], 1)
    assert minimum.squared_norms == pytest.approx([4.0] * 3 + [0.5] * 5)
    assert np.abs(minimum.kernel[:3, 3:]).max() < 1e-12
    assert np.linalg.matrix_rank(minimum.kernel[:3, :3]) == 2
    issue = families.random_minimum("groups", 600, 0)
    assert (issue.samples, issue.rank) == (600, 306)


def test_unknown_families_are_named():
    with pytest.raises(ValueError, match="family='cauchy'"):
        families.random_minimum("cauchy", 5, 0)


def test_a_shaped_minimum_has_the_curvature_it_says():
    assert families.shaped_minimum(2.0, 0.5).trace == pytest.approx(1)
    steep, level = families.shaped_minimum(3.0).effective_rank, families.shaped_minimum(0.0).effective_rank
    assert steep < 3 < level


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: families.random_minimum("gausian", 5, 0), "did you mean 'gaussian'"),
        (lambda: families.random_minimum("gaussian", 0, 0), "samples=0"),
        (lambda: families.random_minimum("gaussian", 5, -1), "seed=-1"),
        (lambda: families.shaped_minimum(decay=float("nan")), "decay=nan"),
        (lambda: families.shaped_minimum(spread=-1), "spread=-1"),
        (lambda: families.grouped_minimum([(2.5, 2, 1.0)], 0), "groups="),
        (lambda: families.compare(families.shaped_minimum(), [0.5]), "batch_sizes="),
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_unequal_gradients_differ_in_length_by_half_a_unit_of_the_logarithm():
    # ln|g|² of 400 gradients: twice a normal number of deviation ½, and that of χ² with 800 degrees, 0.05
    logs = np.log(families.random_minimum("unequal", 400, 0).squared_norms)
    assert logs.std() == pytest.approx(1, abs=5 / np.sqrt(2 * 400))
