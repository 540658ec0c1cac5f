import numpy as np
import pytest

from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.paths import epoch_growth, log_losses, mean_losses, typical_growth
from flatmin.theory.stability.threshold import growth, largest_step


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
    ],
)
def test_bad_input_is_named(call, name):
    with pytest.raises(ValueError, match=name):
        call(random_minimum())
