"""What is read off tables of first passages."""

import numpy as np
import pytest

from flatmin.networks import passage_times

LEVELS = np.geomspace(1.1, 4, 12)


def passages(power, runs=200, seed=0, scale=100.0):
    """Exponential times with the mean scale·c^power."""
    mean = scale * LEVELS**power
    return np.ceil(np.random.default_rng(seed).exponential(mean, (runs, len(LEVELS)))).astype(int)


def test_levels_that_a_run_did_not_reach_have_no_mean():
    steps = passages(2)
    steps[3, 9:] = -1
    levels, mean, error = passage_times.mean_times(steps, LEVELS)
    assert levels.tolist() == LEVELS[:9].tolist()
    # the mean of an exponential is known to 1/√runs, and rounding up adds a half
    assert mean == pytest.approx(100 * levels**2 + 0.5, rel=4 / 200**0.5)
    assert error == pytest.approx(mean / 200**0.5, rel=0.3)


def test_powers_of_other_models_are_at_the_levels_of_the_network():
    (network, model), (nothing, _) = passage_times.powers(
        [passages(3), passages(2, seed=1)], LEVELS, [(150, 3000), (1e6, 1e7)]
    )
    assert network.value == pytest.approx(3, abs=4 * network.error)
    assert model.value == pytest.approx(2, abs=4 * model.error)
    assert model.window == network.window
    assert nothing is None


def test_offsets_are_means_over_the_step_sizes_that_every_model_has():
    network, model, late = passages(3), passages(2, seed=1), passages(3, scale=1e6)
    window = (150, 3000)
    own, other = passage_times.powers([network, model], LEVELS, [window])[0]
    found = passage_times.mean_offset([(network, model), (late, model)], [1.0, 2.0], LEVELS, window)
    assert found == pytest.approx([own.value - 1, other.value - 1])
    both = passage_times.mean_offset([(network, model)] * 2, [1.0, 2.0], LEVELS, window)
    assert both == pytest.approx([own.value - 1.5, other.value - 1.5])
    assert passage_times.mean_offset([(late, model)], [1.0], LEVELS, window) is None


def test_the_ratio_of_two_passage_times_is_taken_at_the_highest_level_all_reached():
    fast, slow = passages(2), passages(2, seed=1, scale=300.0)
    late = slow.copy()
    late[0, 8:] = -1
    own, linear, used = passage_times.log_time_ratio((slow, fast, late, fast), LEVELS, 3.5)
    assert used == LEVELS[7]
    error = (2 / 200) ** 0.5  # of the ratio of two means of 200 exponentials
    assert own == pytest.approx(np.log(3), abs=4 * error)
    assert linear == pytest.approx(np.log(3), abs=4 * error)
    assert passage_times.log_time_ratio((fast, slow, fast, fast), LEVELS, 1.2)[:2] == pytest.approx(
        (-np.log(slow[:, 0].mean() / fast[:, 0].mean()), 0), abs=1e-12
    )


def test_the_loss_around_a_passage_ends_with_the_run():
    losses = np.array([[1, 1, 5, 1.5, 1], [1, 1, 1, 1, 1], [3, 1, 1, 1, np.nan]])
    found = passage_times.around(losses, 2, 2)
    np.testing.assert_array_equal(found[0], [1, 1, 5, 1.5, 1])
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[2], [np.nan, np.nan, 3, 1, 1])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: passage_times.mean_times(np.ones((3, 2), int), LEVELS), "steps="),
        (lambda: passage_times.mean_times(np.ones((3, 12)), LEVELS), "steps="),
        (lambda: passage_times.mean_offset([(passages(1),)], [1.0, 2.0], LEVELS, (1, 9)), "places="),
        (lambda: passage_times.log_time_ratio((passages(1),) * 4, LEVELS, 1.0), "highest=1.0"),
        (lambda: passage_times.log_time_ratio((passages(1),) * 3, LEVELS, 2.0), "tables="),
        (lambda: passage_times.around([1, 2], 2, 2), "losses="),
        (lambda: passage_times.around([[1, 2]], 2, -1), "window=-1"),
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
