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
    offset = passage_times.mean_offset([1.0, 2.0, 0.5], [network, None, model])
    assert offset.value == pytest.approx((network.value - 1 + model.value - 0.5) / 2)
    assert offset.n == 2


def test_the_ratio_of_two_passage_times_is_taken_at_the_highest_level_all_reached():
    fast, slow = passages(2), passages(2, seed=1, scale=300.0)
    late = slow.copy()
    late[0, 8:] = -1
    own, linear, error, used = passage_times.log_time_ratio([(slow, fast, late, fast)], LEVELS, 3.5)
    assert used == [LEVELS[7]]
    assert own == pytest.approx(np.log(3), abs=4 * error)
    assert linear == pytest.approx(np.log(3), abs=4 * error)


def test_the_loss_around_a_passage_ends_with_the_run():
    losses = np.array([[1, 1, 5, 1.5, 1], [1, 1, 1, 1, 1], [3, 1, 1, 1, np.nan]])
    found = passage_times.around(losses, 2, 2)
    np.testing.assert_array_equal(found[0], [1, 1, 5, 1.5, 1])
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[2], [np.nan, np.nan, 3, 1, 1])


def test_snapshots_are_averaged_over_the_runs_that_have_them():
    local = np.array([[[1.0, 2], [4, 5]], [[3, 4], [np.nan, np.nan]]])
    (n, mean, error), (few, none, _) = passage_times.local_means(local)
    assert (n, mean.tolist(), error.tolist()) == (2, [2, 3], [1, 1])
    assert few == 1
    assert np.isnan(none).all()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: passage_times.mean_times(np.ones((3, 2), int), LEVELS), "steps="),
        (lambda: passage_times.mean_times(np.ones((3, 12)), LEVELS), "steps="),
        (lambda: passage_times.mean_offset([1.0], [None]), "slopes"),
        (lambda: passage_times.log_time_ratio([(passages(1),) * 4], LEVELS, 1.0), "highest=1.0"),
        (lambda: passage_times.around([1, 2], 2, 2), "losses="),
        (lambda: passage_times.around([[1, 2]], 2, -1), "window=-1"),
        (lambda: passage_times.local_means([1.0]), "local="),
    ],
)
def test_bad_arguments_are_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
