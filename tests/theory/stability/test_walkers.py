import numpy as np
import pytest

from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.paths import mean_losses
from flatmin.theory.stability.walkers import linear_walkers

GRADIENTS = np.array([[1.6, 0.3], [0.3, 0.9], [-0.5, 0.6], [0.6, 0.4]])
START = np.array([1.0, -0.5])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_mean_loss_is_that_of_the_exact_recursion(batch_size):
    how = {"steps": 4, "trajectories": 100_000, "seed": 2}
    delta, twos = linear_walkers(GRADIENTS, 0.5, batch_size, START, **how)
    losses = np.square(delta @ GRADIENTS.T).mean(axis=1) / 2
    exact = mean_losses(
        Minimum.from_gradients(GRADIENTS), 0.5, batch_size, 4, "replacement", GRADIENTS @ START
    )
    assert not twos.any()
    assert abs(losses.mean() - exact[-1]) < 4 * losses.std() / np.sqrt(len(losses))


@pytest.mark.parametrize("eta", [0.5, 20.0])
def test_one_direction_is_multiplied_however_far_it_goes(eta):
    """A single sample: δ is multiplied by 1 − η at every step, to 10^±600 here and in both directions."""
    delta, twos = linear_walkers([[1.0]], eta, 2, [1.0], steps=2000 if eta < 1 else 500, trajectories=1)
    steps = 2000 if eta < 1 else 500
    found = np.log(np.abs(delta[0, 0])) + twos[0] * np.log(2)
    assert found == pytest.approx(steps * np.log(abs(1 - eta)), rel=1e-12)
    assert abs(found) > 1300
    assert 2.0**-101 < abs(delta[0, 0]) < 2.0**101


def test_a_path_does_not_depend_on_how_many_there_are():
    how = {"steps": 50, "seed": 3}
    many, one = (linear_walkers(GRADIENTS, 1.0, 2, START, trajectories=n, **how)[0] for n in (7, 1))
    assert (many[0] == one[0]).all()
    other = linear_walkers(GRADIENTS, 1.0, 2, START, steps=50, seed=4, trajectories=1)[0]
    assert (one != other).all()
