"""What is read off runs at the edge of stability, on records whose answers are known."""

import re

import numpy as np
import pytest
import torch

from flatmin.experiments import stability_edge
from flatmin.ledger.record import Result
from flatmin.networks import edges, models
from flatmin.networks.data import sets as datasets

SIZES = np.array([10.0, 100, 1000])


@pytest.fixture
def record():
    """Norm ∝ P^½ but for one size that diverges; an escape with the growth e^0.1 a step."""
    norm = np.tile(np.sqrt(SIZES)[:, None], (1, 4)) * np.random.default_rng(0).lognormal(0, 1e-3, (3, 4))
    steps = np.arange(21)
    arrays = {
        "net_eta": np.array([0.1, 0.2]),
        "net_parameters": np.tile(SIZES.astype(int)[:, None], (2, 1, 4)),
        "net_diverged": np.tile([[False], [False], [True]], (2, 1, 4)),
        "net_frobenius": np.stack([norm, 2 * norm])[..., None],
        "net_trace": np.stack([norm**2, norm**2])[..., None],
        "run_losses": np.tile(1e-3 * np.exp(0.1 * steps), (2, 1, 5, 1)),
        "run_mean": np.tile(1e-3 * np.exp(0.1 * steps), (2, 1, 1)),
        "run_eta": np.array([0.1, 0.1]),
        "run_frobenius": np.array([3.0, 3.0]),
        "run_mu_0": np.array([0.5, 0.7]),
        "batch_sizes": np.array([2]),
    }
    return Result("trial", arrays, {})


def test_the_slope_against_size_leaves_out_sizes_that_diverged(record):
    size, values = edges.at_end(record, "net", "frobenius", 1)
    assert size[:, 0].tolist() == [10, 100]
    assert values.shape == (2, 4)
    slope = edges.slope(record, "net", "frobenius", 1)
    assert slope.value == pytest.approx(0.5, abs=4 * slope.error)
    # of four runs: two errors reach 3.31 usual ones, three 9.22 (table of Student's t, 3 degrees of freedom)
    two = edges.slope(record, "net", "frobenius", 1, sigmas=2)
    assert two.value == slope.value
    assert two.error / slope.error == pytest.approx((3.31 / 2) / (9.22 / 3), rel=0.003)
    apart = edges.slope(record, "net", "trace", 1, over="frobenius")
    assert apart.value == pytest.approx(0.5, abs=4 * apart.error)
    small, large = edges.series(record, "net")
    assert (small[0], large[0]) == ("η = 0.1", "η = 0.2")
    np.testing.assert_array_equal(large[2], 2 * small[2])
    np.testing.assert_array_equal(large[3], small[3])


def test_the_growth_of_an_exponential_escape_is_its_rate(record):
    value, error, exact = edges.escape_rates(record, "run", 0)
    assert (value, exact) == (pytest.approx(0.1), pytest.approx(0.1))
    assert error < 1e-12  # all trajectories are the same
    assert edges.gamma_0(record, "run", 0, "mu_0") == pytest.approx(0.09 * np.array([0.5, 0.7]) / 2)


def escape(rate, bend=0.0):
    """Two minima from which ln L grows by ``rate``, or less and less, up to 0.1."""
    steps = np.arange(61)
    log = np.log(1e-18) + np.array([[1.0], [1.1]]) * (rate * steps - bend * steps**2)
    arrays = {
        "run_scaled_log": log,
        "run_scaled_top": np.exp(log + 3),
        "run_parameters": np.ones(2, int),
    }
    return Result("trial", arrays, {})


def test_steady_growth_tells_an_exponential_from_a_bend():
    rate, change = edges.steady_growth(escape(0.6), "run")
    assert rate.value == pytest.approx(0.63)
    assert abs(change.value) < 1e-12
    # ln L = 0.9 t − 0.004 t²: rates 0.9 − 0.004 (a + b) over a…b, in a window that ends at ln 0.1 − 3
    logs = escape(0.9, 0.004).arrays["run_scaled_log"]
    lasts = [int(np.argmax(log > np.log(0.1) - 3)) - 1 for log in logs]
    halves = [(last - 3) // 2 for last in lasts]
    early, late = (
        np.array([0.9 - 0.004 * (6 + h) for h in halves]),
        np.array([0.9 - 0.004 * (2 * last - h) for last, h in zip(lasts, halves, strict=True)]),
    )
    bent = edges.steady_growth(escape(0.9, 0.004), "run")[1]
    assert bent.value == pytest.approx(np.mean(2 * (late - early) / (late + early)), rel=1e-9)
    assert bent.value < -0.1
    with pytest.raises(ValueError, match="at least 9 steps"):
        edges.steady_growth(escape(5.0), "run")


def test_steady_growth_is_that_of_the_window_by_hand():
    """ln L = t² from t = 3 to 13; the fastest run is at 0.09 then, and a step later at 0.15."""
    log = np.arange(31.0) ** 2
    log[:3] = 50, 20, 30
    log[14:] = 1000
    top = np.r_[np.full(13, 1e-6), 0.09, 0.15, np.full(16, 10.0)]
    arrays = {"run_scaled_log": np.tile(log, (2, 1)), "run_scaled_top": np.tile(top, (2, 1))}
    rate, change = edges.steady_growth(Result("trial", arrays, {}), "run")
    assert rate.value == pytest.approx((169 - 9) / 10)
    early, late = 64 - 9, 169 - 64
    assert change.value == pytest.approx((late - early) / ((late + early) / 2))


def test_the_band_is_the_one_that_was_declared():
    """In the text of the experiment, before it was run."""
    low, high = re.search(r"lies within ([\d.]+)…([\d.]+) by three errors", stability_edge.__doc__).groups()
    assert (float(low), float(high)) == (pytest.approx(1 - edges.BAND), pytest.approx(1 + edges.BAND))


def test_live_ratios_are_those_of_the_edge():
    data = datasets.gaussian(12, 3, dtype=torch.float32)
    ratios = edges.live_edges([models.mlp((3, 4, 1), 0), models.mlp((3, 4, 1), 1)], data, 0.05, 2, [0, 5, 20])
    assert ratios.shape == (3, 2, 3)
    assert (ratios[1] >= ratios[2] * (1 - 1e-6)).all()  # SGD is never more stable than descent


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda found: edges.slope(found, "cnn", "trace"), "'cnn'"),
        (lambda found: edges.slope(found, "net", "trace", 0, over="mu"), "over='mu'"),
        (lambda found: edges.gamma_0(found, "run", 0, "mu_1"), "did you mean"),
        (lambda found: edges.steady_growth(found, "run"), "'run', 'scaled_log'"),
        (lambda found: edges.escape_rates(found, "run", 0, cutoff=0), "cutoff=0"),
    ],
)
def test_bad_arguments_are_named(record, call, said):
    with pytest.raises(ValueError, match=said):
        call(record)


def test_the_escape_is_fitted_until_the_mean_exceeds_the_cutoff():
    """e^½ a step up to 0.02; what comes after 0.03 grows otherwise and must not count."""
    mean = np.concatenate([1e-3 * np.exp(0.5 * np.arange(7)), [0.1, 10, 1000]])
    arrays = {"run_losses": np.tile(mean, (1, 1, 5, 1)), "run_mean": mean[None, None]}
    value, _, exact = edges.escape_rates(Result("trial", arrays, {}), "run", 0)
    assert (value, exact) == (pytest.approx(0.5, rel=1e-9), pytest.approx(0.5, rel=1e-9))
    # two steps at least: 1e-3, 1e-3·e^½ and 1e-3·e, though the second exceeds the cutoff
    value, _, exact = edges.escape_rates(Result("trial", arrays, {}), "run", 0, cutoff=1.2e-3)
    assert (value, exact) == (pytest.approx(0.5, rel=1e-9), pytest.approx(0.5, rel=1e-9))
