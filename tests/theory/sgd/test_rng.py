import numpy as np
import pytest
from scipy import stats

from flatmin.theory.sgd.rng import LANES, TAIL, seed_lanes, standard_normals, stream_key

DRAWS = 1 << 15


@pytest.fixture(scope="module")
def normals():
    """DRAWS pairs from each of LANES streams: 4.2 million numbers, shape (LANES, 2 DRAWS)."""
    state = [np.zeros(LANES, np.uint32) for _ in range(4)]
    seed_lanes(stream_key(7), np.arange(LANES), *state)
    z0, z1 = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    out = np.empty((2, DRAWS, LANES))
    for i in range(DRAWS):
        standard_normals(*state, z0, z1)
        out[:, i] = z0, z1
    return out


def test_distribution_is_normal(normals):
    assert stats.kstest(normals.ravel(), "norm").pvalue > 0.01


def test_moments_to_the_eighth(normals):
    z = normals.ravel()
    for order in range(1, 9):
        exact = 0.0 if order % 2 else float(np.prod(np.arange(1, order, 2)))
        spread = np.sqrt(np.prod(np.arange(1, 2 * order, 2)) - exact**2)
        assert abs((z**order).mean() - exact) < 4 * spread / np.sqrt(z.size), order


def test_tail_probabilities(normals):
    # a chi-square of the counts beyond 3, 3.5, …, 5 standard deviations, where each expects several
    z = np.abs(normals.ravel())
    edges = np.array([3.0, 3.5, 4.0, 4.5, 5.0, np.inf])
    counts = np.histogram(z, edges)[0]
    expected = -np.diff(2 * stats.norm.sf(edges)) * z.size
    assert expected.min() > 1
    assert stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), len(counts)) > 0.01


def test_the_radius_reaches_the_stated_tail():
    # the smallest uniform has all radius bits zero: put in by hand a state that gives it
    state = [np.zeros(LANES, np.uint32) for _ in range(4)]
    state[1][:] = 4  # keeps the second word small and the state alive
    z0, z1 = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    standard_normals(*state, z0, z1)
    assert pytest.approx(7.353, abs=1e-3) == TAIL
    assert 6.4 < np.hypot(z0, z1).max() <= TAIL * (1 + 1e-6)


def test_pairs_lanes_and_successive_draws_are_uncorrelated(normals):
    pair = (normals[0] * normals[1]).mean()
    successive = (normals[:, 1:] * normals[:, :-1]).mean()
    lanes = (normals[..., 1:] * normals[..., :-1]).mean()
    squares = ((normals[0] ** 2 - 1) * (normals[1] ** 2 - 1)).mean() / 2
    for value, count in ((pair, DRAWS), (successive, 2 * DRAWS), (lanes, 2 * DRAWS), (squares, DRAWS)):
        assert abs(value) < 4 / np.sqrt(count * LANES)


def test_streams_of_neighbouring_seeds_and_numbers_differ():
    first = []
    for seed in range(50):
        state = [np.zeros(LANES, np.uint32) for _ in range(4)]
        seed_lanes(stream_key(seed), np.arange(LANES) + 100 * seed, *state)
        first.append(np.stack(state, axis=1))
    assert len(np.unique(np.concatenate(first), axis=0)) == 50 * LANES


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1"])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match=r"seed=.*: must be an integer at least 0"):
        stream_key(seed)
