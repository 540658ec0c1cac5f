import numpy as np
import pytest

from flatmin.theory.logarithmic.multiplicative import RegressionChain
from flatmin.theory.logarithmic.regression import Regression


def test_the_minimum_is_one():
    data = Regression(500, 4, seed=3)
    gradient = data.inputs.T @ data.residuals / 500
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    assert data.lowest_loss == pytest.approx((data.residuals**2).mean() / 2)
    assert data.largest_step == pytest.approx(2 / (data.inputs**2).sum(axis=1).max())


def test_full_batches_in_epochs_are_gradient_descent():
    data = Regression(50, 3, seed=1)
    kept = data.run(0.3, 50, 5, keep=5, sampling="epoch", seed=2)
    np.testing.assert_allclose(kept, 0, atol=1e-12)  # it starts at the minimum


def test_stationary_variance_is_that_of_the_chain():
    data = Regression(100_000, seed=4)
    delta = data.run(0.2, 2, 600_000, keep=20_000, seed=5)[:, 0]
    expected = RegressionChain(0.2, 2).mean_square
    # N = 10⁵ moves the noise by a percent, 20,000 nearly independent records the mean square by as much
    assert delta.var() == pytest.approx(expected, rel=0.05)
    assert abs(delta.mean()) < 5 * delta.std() / 100


def test_levels_are_first_exceeded_when_the_loss_says_so():
    data, eta, ratios = Regression(200, 3, seed=6), 0.1, np.array([1.1, 1.4, 2.0, 1e9])
    hits = data.passage_steps(eta, 1, ratios, runs=3, steps=400, seed=7)
    assert np.all(hits[:, -1] == -1)
    state = np.random.SeedSequence(7).generate_state(3, np.uint64)
    for seed_state, row in zip(state, hits, strict=True):
        delta = _replay(data, eta, 400, seed_state)
        loss = np.array([((data.inputs @ d + data.residuals) ** 2).mean() / 2 for d in delta])
        for ratio, hit in zip(ratios[:-1], row, strict=False):
            over = np.flatnonzero(loss > ratio * data.lowest_loss)
            assert hit == (over[0] + 1 if len(over) else -1)


def _replay(data, eta, steps, state):
    """δ after each step with the same batches, as `_run` gives them."""
    from flatmin.theory.logarithmic.regression import _run

    return _run(data.inputs, data.residuals, eta, 1, steps, 1, False, state)


def test_shuffled_epochs_use_every_sample_once():
    data = Regression(6, 1, seed=8)
    kept = data.run(1e-9, 2, 3, keep=3, sampling="epoch", seed=9)[:, 0]
    # at a tiny step the sum of the gradients of an epoch is that of all samples: zero at the minimum
    assert abs(kept[2]) < 1e-6 * abs(kept[0])


def test_same_seed_same_numbers():
    data = Regression(1000, 2, seed=1)
    first, second, other = (data.run(0.1, 3, 5000, keep=50, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_diverging_run_passes_every_level():
    data = Regression(100, 2, seed=1)
    assert not np.isfinite(data.run(1e3, 1, 1000, keep=1)).all()
    hits = data.passage_steps(1e3, 1, [2.0, 1e99], runs=2, steps=1000, seed=1)
    assert (hits > 0).all()


def test_refusals():
    with pytest.raises(ValueError, match="samples=3"):
        Regression(3)
    with pytest.raises(ValueError, match="dimension=0"):
        Regression(10, 0)
    data = Regression(10)
    with pytest.raises(ValueError, match="ratios"):
        data.passage_steps(0.1, 1, [1.0, 2.0], runs=1, steps=1)
    with pytest.raises(ValueError, match="batch_size=11"):
        data.run(0.1, 11, 1, keep=1)
    with pytest.raises(ValueError, match="sampling='fresh'"):
        data.run(0.1, 1, 1, keep=1, sampling="fresh")
    with pytest.raises(ValueError, match="eta=0"):
        data.run(0, 1, 1, keep=1)
    with pytest.raises(ValueError, match="keep=0"):
        data.run(0.1, 1, 1, keep=0)
    with pytest.raises(ValueError, match=r"steps=5.*multiple of keep=2"):
        data.run(0.1, 1, 5, keep=2)
    with pytest.raises(ValueError, match="runs=0"):
        data.passage_steps(0.1, 1, [2.0], runs=0, steps=1)
