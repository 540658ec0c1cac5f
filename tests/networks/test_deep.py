"""What is read off runs of deep networks, on records whose answers are known."""

import numpy as np
import pytest
from deep_record import escapes, runs

from flatmin.networks import deep, edges


@pytest.fixture
def family():
    """‖G‖ ∝ P^½ B^¼ but for scatter; the second depth diverged in one run, one run has not converged."""
    return deep.Family(runs(), "vgg")


def test_depths_at_which_a_run_diverged_are_left_out(family):
    assert family.labels == ["VGG-11", "VGG-16", "VGG-19"]
    assert family.values("mu").shape == (3, 3, 4)
    assert family.last("edge_exact").shape == family.parameters.shape == (3, 3)
    assert family.converged.sum() == 8


def test_isotropic_noise_has_the_alignment_that_its_traces_say(family):
    expected = 2.0 * 3.0 / (2 * family.values("loss") * family.parameters[..., None])
    np.testing.assert_allclose(family.isotropic, expected / family.values("g_norm") ** 2)


@pytest.mark.parametrize(("converged", "networks"), [(False, 9), (True, 8)])
def test_the_slope_against_size_has_students_error(family, converged, networks):
    slope = family.size_slope("g_norm", converged)
    assert slope.value == pytest.approx(0.5, abs=3 * slope.error)
    x, y = np.log(family.parameters), np.log(family.last("g_norm"))
    kept = family.converged | (not converged)
    rest = [y[k, r] - np.polyval(np.polyfit(x[k, r], y[k, r], 1), x[k, r]) for r, k in enumerate(kept.T)]
    assert sum(map(len, rest)) == networks
    assert 0.001 < slope.error < 0.1


def test_the_slope_against_batches_is_over_runs_that_converged_at_all_of_them(family):
    sizes, values = family.batch_values("g_norm")
    assert sizes.tolist() == [5, 25, 100]
    assert family.batch_label == "VGG-16"
    assert values.shape == (3, 2)
    assert np.all(np.diff(values, axis=0) > 0)
    slope = family.batch_slope("g_norm")
    assert slope.value == pytest.approx(0.25, abs=3 * slope.error)
    assert slope.n == 2


def test_escapes_are_read_network_by_network_and_only_proper_ones_judged():
    record = escapes()
    each = deep.by_network(record)
    assert each.arrays["VGG-19_losses"].shape == (3, 2, 5, 21)
    good = deep.judged(each, "VGG-19")
    assert good.arrays["VGG-19_losses"].shape == (1, 2, 5, 21)  # one too high, one stable at the small batch
    assert edges.escape_rates(good, "VGG-19", 0)[2] == pytest.approx(0.1)
    known = ["ResNet-20_eta", "ResNet-56_eta", "VGG-11_eta", "VGG-19_eta"]
    assert sorted(k for k in each.arrays if k.endswith("_eta")) == known


def test_what_is_not_there_is_named(family):
    with pytest.raises(ValueError, match="kind='cnn': must be one of"):
        deep.Family(runs(), "cnn")
    with pytest.raises(ValueError, match=r"name='nothing': must be one of .*mu"):
        family.values("nothing")
    with pytest.raises(ValueError, match=r"network='VGG-12': must be one of .*did you mean 'VGG-19'"):
        deep.judged(deep.by_network(escapes()), "VGG-12")
    with pytest.raises(ValueError, match="must be one that holds KIND_reached"):
        deep.by_network(runs())
