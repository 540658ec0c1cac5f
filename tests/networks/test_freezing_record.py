"""What is read off the recorded freezing runs, on made-up ones of which everything is known."""

import numpy as np
import pytest
from recorded import TIMES, freezing

from flatmin.networks import freezing_record as reading
from flatmin.networks.commitment import expected_best


@pytest.fixture
def cells():
    return reading.Cells(freezing())


def test_cells_are_flat_and_know_what_is_missing(cells):
    assert cells.shape == (4, 3)
    np.testing.assert_allclose(cells.eta * cells.factor, cells.noise)
    assert cells.noise[4] == pytest.approx(0.05 * 950 / (50 * 999))
    assert not cells.converged[11, 1]
    assert cells.converged.sum() == 47
    share = cells.share("same_few")
    assert np.isnan(share[-1, 3]).all()
    np.testing.assert_allclose(share[1], 0.9)


def test_freezing_times_take_the_finer_search_where_there_is_one(cells):
    times = reading.frozen_times(cells, "jaccard 0.90")
    exact = np.ceil(600 * cells.noise**0.5)
    np.testing.assert_array_equal(times[:, 0], exact)
    np.testing.assert_array_equal(times[:-1, 2], TIMES[np.searchsorted(TIMES, 600 * cells.noise[:-1] ** 0.5)])
    assert np.isnan(times[-1, 3])
    later = reading.frozen_times(cells, "jaccard 0.90", "as coded", "definition")
    assert (later[:-1] >= times[:-1]).all()


def test_relaxed_leaves_out_runs_that_never_reached_the_loss(cells):
    assert cells.place("jaccard 0.90", "relaxed")[4, 0] == -1
    assert cells.place("jaccard 0.90", "as coded")[4, 0] >= 0


def test_delays_find_the_powers_that_were_put_in(cells):
    found = reading.delays(cells, "jaccard 0.90")
    assert found.a.value == pytest.approx(0.5, abs=0.15)
    assert found.b.value == pytest.approx(0.5, abs=0.15)
    np.testing.assert_allclose(found.by_start.mean(0), [found.a.value, found.b.value])


def test_first_times_and_their_delay(cells):
    exact = np.ceil(600 * cells.noise**0.5)
    np.testing.assert_array_equal(reading.first_time(cells, 0.1), np.repeat(exact[:, None], 4, 1))
    assert np.isnan(reading.first_time(cells, 0.01)).all()
    np.testing.assert_array_equal(reading.first_time(cells), 7)
    found = reading.proxy_delay(cells)
    assert found.a.value == pytest.approx(0.5, abs=0.05)
    assert found.b.value == pytest.approx(0.5, abs=0.05)


def test_slopes_on_the_noise_leave_out_what_is_missing(cells):
    values = 3 * np.log(cells.noise)[:, None] + np.arange(4)
    values[2, 1] = np.nan
    by_run = reading.noise_slope(cells, values - [0, 1, 2, 3])
    assert by_run.value == pytest.approx(3)
    means = reading.by_start(cells, values)
    assert means.shape == (12, 2)
    assert means[2, 0] == pytest.approx(values[2, 0])
    assert reading.noise_slope(cells, means[:, ::1], np.array([0, 1])).n == 2
    with pytest.raises(ValueError, match="values="):
        reading.noise_slope(cells, values[:, :3])


def test_rank_correlation_is_one_for_the_same_order(cells):
    times = reading.frozen_times(cells, "jaccard 0.90")
    assert reading.rank_correlation(cells, times, 3 * times).value == pytest.approx(1)
    with pytest.raises(ValueError, match="one, other"):
        reading.rank_correlation(cells, times, np.ones_like(times))


def test_independent_runs_that_pass(cells):
    np.testing.assert_array_equal(reading.independent_pass(cells, "jaccard 0.90"), np.repeat([0, 1], 6))
    np.testing.assert_array_equal(reading.independent_pass(cells, "barrier 0.01"), 0)


def test_the_index_is_compared_with_the_valley_where_runs_differ(cells):
    times = reading.frozen_times(cells, "jaccard 0.90", "relaxed", "definition")[:6]
    found = reading.index_over_valley(cells)
    assert found.value == pytest.approx(np.nanmean(np.log(times / 2)), abs=0.05)
    assert found.n == 2


def test_the_best_that_a_spread_explains(cells):
    values = np.zeros((12, 4))
    values[:, 1] = 2
    mean, error, most, expected = reading.best(cells, values)
    np.testing.assert_allclose(mean, 1)
    np.testing.assert_allclose(error, 1)
    np.testing.assert_allclose(most, 2)
    np.testing.assert_allclose(expected, expected_best(1, 2**0.5, 2))


def test_continuation_slopes_stop_at_the_latest_time():
    for which in (0, 1):
        found = reading.continuation_slopes(freezing(), "flat", which)
        assert found.value == pytest.approx(0.01)
    with pytest.raises(ValueError, match="name="):
        reading.continuation_slopes(freezing(), "times", 0)


def test_triangles_become_matrices():
    found = reading.triangle(np.array([[1, 2, 3, 4, 5, 6]]))
    np.testing.assert_array_equal(found, [[[1, 2, 3], [2, 4, 5], [3, 5, 6]]])
    with pytest.raises(ValueError, match="values="):
        reading.triangle(np.arange(5))


def test_names_are_checked(cells):
    for bad in (
        lambda: cells["nothing"],
        lambda: cells.place("jaccard"),
        lambda: cells.place("jaccard 0.90", "raw"),
        lambda: reading.Cells(freezing(), "grid"),
        lambda: reading.frozen_times(freezing(), "jaccard 0.90"),
    ):
        with pytest.raises(ValueError, match=r"name=|criterion=|rule=|grid=|cells="):
            bad()
