import numpy as np
import pytest

from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.paths import (
    epoch_growth,
    log_losses,
    mean_losses,
    typical_edge,
    typical_growth,
)
from flatmin.theory.stability.threshold import growth, largest_step, second_moment_step


def random_minimum(samples=5, parameters=4, seed=0):
    rng = np.random.default_rng(seed)
    return Minimum.from_gradients(
        rng.normal(size=(samples, parameters)) * rng.uniform(0.5, 1.5, (samples, 1))
    )


@pytest.mark.parametrize("sampling", ["replacement", "fresh"])
def test_mean_of_paths_is_the_exact_mean(sampling):
    minimum = random_minimum()
    eta = 1.1 * largest_step(minimum, 2, sampling)
    exact = mean_losses(minimum, eta, 2, 6, sampling)
    losses = np.exp(log_losses(minimum, eta, 2, 6, 40_000, 1, sampling))
    error = losses.std(axis=0) / np.sqrt(len(losses))
    assert np.all(np.abs(losses.mean(axis=0) - exact) < 4 * error)
    assert exact[0] == pytest.approx(4 / 2 / 5)


def test_mean_losses_grow_as_rho_in_the_end():
    minimum = random_minimum()
    eta = 1.2 * largest_step(minimum, 2)
    exact = mean_losses(minimum, eta, 2, 300)
    assert exact[-1] / exact[-2] == pytest.approx(growth(minimum, eta, 2), rel=1e-6)


def test_full_batch_paths_are_gradient_descent():
    minimum = random_minimum()
    eta = 0.4 / minimum.sharpness
    for sampling in ("fresh", "epoch"):
        logs = log_losses(minimum, eta, 5, 400, 3, 0, sampling)
        slowest = 2 * np.log(np.max(np.abs(1 - eta * minimum.eigenvalues)))
        assert typical_growth(logs, 350).value == pytest.approx(slowest, rel=1e-3)


def test_typical_growth_of_one_parameter():
    """δ ← (1 − ηh_i)δ with h = 1 or 4: λ = E ln (1 − ηh)², and the mean grows as E (1 − ηh)²."""
    minimum = Minimum.from_gradients([[1.0], [2.0]])
    eta = 1.1  # between the mean-square threshold 10/17 and the typical one 5/4
    exact = np.mean(np.log(np.square([1 - eta, 1 - 4 * eta])))
    rate = typical_growth(log_losses(minimum, eta, 1, 500, 400, 3))
    assert rate.value == pytest.approx(exact, abs=4 * rate.error)
    assert rate.error < 0.02
    assert exact < 0 < np.log(growth(minimum, eta, 1))
    assert growth(minimum, eta, 1) == pytest.approx(np.mean(np.square([1 - eta, 1 - 4 * eta])))


def test_typical_edge_of_one_parameter_and_of_orthogonal_samples():
    """δ ← (1 − ηh_i)δ with h = 1 or 4 turns at η = 5/4; unit vectors at B = 1 at η = 2."""
    two = typical_edge(Minimum.from_gradients([[1.0], [2.0]]), 1, seed=3)
    assert two.value == pytest.approx(1.25, rel=0, abs=4 * two.error)
    assert two.error < 0.02
    orthogonal = typical_edge(Minimum.from_gradients(np.eye(3)), 1)
    assert orthogonal.value == pytest.approx(2, rel=0, abs=4 * orthogonal.error + 1e-5)


@pytest.mark.parametrize("sampling", ["replacement", "fresh", "epoch"])
def test_the_typical_edge_lies_beyond_that_of_the_mean(sampling):
    rows = np.random.default_rng(1).normal(size=(6, 2, 8))
    for minimum in (random_minimum(6, 4), Minimum.from_gradients(rows)):
        found = typical_edge(minimum, 2, sampling)
        mean = largest_step(minimum, 2, "fresh" if sampling == "epoch" else sampling)
        assert found.value > mean + 4 * found.error
        assert found.error < 0.05 * found.value
        logs = log_losses(minimum, found.value, 2, 402, 200, 9, sampling)  # other batches
        rate = typical_growth(logs, 102)
        slope = typical_growth(log_losses(minimum, 1.1 * found.value, 2, 402, 200, 9, sampling), 102)
        slope = (slope.value - rate.value) / (0.1 * found.value)
        assert abs(rate.value) < 4 * np.hypot(rate.error, slope * found.error)


def test_directions_that_hardly_move_do_not_hide_the_typical_edge():
    rows = np.random.default_rng(5).normal(size=(30, 20)) * 10.0 ** -np.linspace(0, 5, 20)
    found = typical_edge(Minimum.from_gradients(rows), 1)
    assert found.value == pytest.approx(typical_edge(Minimum.from_gradients(rows[:, :8]), 1).value, rel=0.02)
    assert found.value > largest_step(Minimum.from_gradients(rows), 1)


def test_paths_start_in_the_moment_they_are_given():
    minimum, moment = random_minimum(), np.diag([0.0, 3.0, 0.0, 0.0])
    moment[1, 2] = moment[2, 1] = 1e-9
    logs = log_losses(minimum, 0.1, 1, 0, 20_000, 0, moment=moment)[:, 0]
    assert np.exp(logs).mean() == pytest.approx(1.5 * minimum.eigenvalues[1], rel=4 * 2**0.5 / 20_000**0.5)


def test_the_typical_edge_of_the_whole_set_is_that_of_descent():
    minimum = random_minimum()
    found = typical_edge(minimum, 5)
    assert found.value == pytest.approx(2 / minimum.sharpness, rel=1e-3, abs=0)


def test_many_samples_in_two_batches_have_few_orders():
    """12 samples in two halves: 924 orders, not the 479 million of single samples."""
    minimum = random_minimum(12, 2)
    assert 0 < epoch_growth(minimum, 0.2, 6) < 1


def test_a_loss_of_zero_stays_zero():
    minimum = Minimum.from_gradients([[1.0]])
    logs = log_losses(minimum, 1.0, 1, 3, 2, 0)
    assert np.all(np.isfinite(logs[:, 0]))
    assert np.all(logs[:, 1:] == -np.inf)


def test_epoch_growth_against_paths_and_against_orthogonal_samples():
    minimum = Minimum.from_gradients(1.5 * np.eye(4))
    for batch_size in (1, 2, 4):
        # each sample is met once an epoch, its error multiplied by 1 − η‖g‖²/B
        assert epoch_growth(minimum, 0.6, batch_size) == pytest.approx((1 - 0.6 * 2.25 / batch_size) ** 2)
    minimum = random_minimum(4, 3)
    eta = largest_step(minimum, 2)
    logs = log_losses(minimum, eta, 2, 14, 40_000, 5, "epoch")
    early, late = np.exp(logs[:, [10, 14]]).reshape(20, -1, 2).mean(axis=1).T  # 20 groups
    ratio = late.mean() / early.mean()
    error = np.std(late - ratio * early, ddof=1) / np.sqrt(20) / early.mean()
    assert ratio == pytest.approx(epoch_growth(minimum, eta, 2) ** 2, abs=4 * error)
    assert error < 0.02 * ratio


def test_an_epoch_of_one_batch_is_gradient_descent():
    minimum = random_minimum(3, 2)
    assert epoch_growth(minimum, 0.2, 3) == pytest.approx(growth(minimum, 0.2, 3))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda m: log_losses(m, 0.0, 1, 2, 2, 0), "eta"),
        (lambda m: log_losses(m, 0.1, 1.5, 2, 2, 0), "batch_size"),
        (lambda m: log_losses(m, 0.1, 6, 2, 2, 0), "batch_size"),
        (lambda m: log_losses(m, 0.1, 2, 2, 2, 0, "epoch"), "batch_size"),
        (lambda m: log_losses(m, 0.1, 1, 2, 2, 0, "bootstrap"), "sampling"),
        (lambda m: epoch_growth(random_minimum(10, 3), 0.1, 1), "batch_size"),
        (lambda m: typical_growth(np.zeros((3, 4)), 3), "discard"),
        (lambda m: typical_growth(np.zeros((1, 4))), "log_losses"),
        (lambda m: typical_growth(np.array([[0.0, -np.inf]] * 2)), "log_losses.*finite"),
        (lambda m: epoch_growth(m, -0.1, 5), "eta"),
        (lambda m: epoch_growth(Minimum.from_gradients(np.eye(51)), 0.1, 51), "rank=51"),
        (lambda m: typical_edge(m, 2, steps=3), "steps"),
        (lambda m: typical_edge(m, 2, trajectories=1), "trajectories"),
        (lambda m: typical_edge(m, 2, "epoch"), "batch_size=2: must be a divisor of the 5 samples"),
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(random_minimum())


@pytest.mark.parametrize("seed", range(3))
def test_below_the_threshold_the_mean_decays_for_as_long_as_one_looks(seed):
    """An antisymmetric part of the second moment, of rounding, has a factor above 1 and must not be kept."""
    rng = np.random.default_rng(seed)
    minimum = Minimum.from_gradients(rng.normal(size=(12, 30)) * rng.uniform(0.5, 1.5, (12, 1)))
    eta = 0.9 * largest_step(minimum, 3)
    losses = mean_losses(minimum, eta, 3, 4000)
    assert losses[-1] < losses[100] < losses[0]
    moment = np.diag(1 / minimum.eigenvalues) / minimum.samples
    for _ in range(1000):
        moment = second_moment_step(minimum, moment, eta, 3)
    loss = minimum.eigenvalues @ np.diag(moment) / 2
    assert loss == pytest.approx(losses[1000], rel=1e-9, abs=1e-300)
