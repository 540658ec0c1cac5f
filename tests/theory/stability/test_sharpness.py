"""Quotients in the leading mode at η*: all batches counted, an angle integrated, paths simulated."""

import itertools

import numpy as np
import pytest

from flatmin.theory.stability.minimum import Minimum
from flatmin.theory.stability.sharpness import at_edge, batch_sharpness
from flatmin.theory.stability.threshold import largest_step, leading_mode

#: two directions of curvature in four samples: in batches of three one of them counts twice
TWICE = Minimum.from_gradients([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])


def within(found, value):
    assert found.value == pytest.approx(value, rel=0, abs=4 * found.error + 1e-9)


@pytest.mark.parametrize("sampling", ["fresh", "replacement"])
def test_quotients_of_a_plane_by_all_batches_and_angles(sampling):
    """Two parameters: the quotients depend on the angle of δ, whose density under a normal law is known."""
    rows = np.random.default_rng(4).normal(size=(5, 2)) * [[2.0], [1.0], [0.5], [1.0], [0.3]]
    minimum, size = Minimum.from_gradients(rows), 2
    mode, g = leading_mode(minimum, None, size, sampling), minimum.gradients
    angle = 2 * np.pi * np.arange(20_000) / 20_000
    turn = np.stack([np.cos(angle), np.sin(angle)])
    inverse = np.linalg.inv(mode.moment)
    square = 1 / np.einsum("ka,kl,la->a", turn, inverse, turn)  # ½⟨|δ|²⟩ at this angle; also its density
    batches = (
        itertools.combinations(range(5), size)
        if sampling == "fresh"
        else itertools.product(range(5), repeat=size)
    )
    ratios, sums = [], np.zeros(4)
    for batch in batches:
        H = g[list(batch)].T @ g[list(batch)] / size
        a1, a2, a3 = (np.einsum("ka,kl,la->a", turn, np.linalg.matrix_power(H, k), turn) for k in (1, 2, 3))
        ratios.append(np.average(a3 / a2, weights=square))
        weight = square**2  # density times the length squared
        sums += [np.mean(weight * each) for each in (a1, a2, a3, a1 * a3 / a2)]
    found, half = at_edge(minimum, size, sampling, draws=40_000, seed=1), mode.eta / 2
    assert found.eta == mode.eta
    within(found.batch_sharpness, half * np.mean(ratios))
    within(found.descent, half * sums[1] / sums[0])
    within(found.of_means, half * sums[2] / sums[1])
    within(found.weighted, half * sums[3] / sums[0])
    assert half * sums[1] / sums[0] == pytest.approx(1, rel=1e-9)
    assert found.batch_sharpness.error < 0.01


def test_a_single_sample_sees_the_trace_and_the_whole_set_the_sharpness():
    minimum = Minimum.from_gradients(np.random.default_rng(2).normal(size=(8, 11)))
    one = at_edge(minimum, 1, draws=20_000)
    within(one.batch_sharpness, largest_step(minimum, 1) * minimum.trace / 2)
    within(one.weighted, 1)  # of one output: the quotients of a sample are both |g|²
    whole = at_edge(minimum, 8, draws=50)
    for found in (whole.batch_sharpness, whole.weighted, whole.of_means, whole.descent):
        assert found.value == pytest.approx(1, rel=1e-6)


def test_stable_although_batch_sharpness_exceeds_the_edge_and_the_reverse():
    """At δ = (1, 1) three of e₁, e₁, e₂, e₂ find (1 + ε³)/(1 + ε²), ε = ½, times ⅔ of the longer."""
    edge = largest_step(TWICE, 3)
    assert edge == pytest.approx(18 / 5)
    assert batch_sharpness(TWICE, np.ones(4), 3).value == pytest.approx(3 / 5)
    assert edge > 2 / (3 / 5)  # not necessary
    line = Minimum.from_gradients([[1.0], [2.0], [3.0]])
    for size in (1, 2):
        assert batch_sharpness(line, [1.0, 2.0, 3.0], size).value == pytest.approx(14 / 3)
        assert largest_step(line, size) < 2 / (14 / 3)  # not sufficient, at any δ
    rows = np.zeros((2, 2, 2))
    rows[0], rows[1] = np.diag([1.0, 0.5**0.5]), np.diag([0.5**0.5, 1.0])  # two outputs, B = 1
    both = Minimum.from_gradients(rows)
    errors = np.array([[1, 0.5**0.5], [0.5**0.5, 1]])
    assert batch_sharpness(both, errors, 1).value > 2 / largest_step(both, 1)


def test_the_level_of_gaussian_gradients_is_that_of_paths_weighted_with_their_length():
    """Paths at η*, resampled in proportion to |δ|², as the second moment counts them."""
    rng = np.random.default_rng(3)
    minimum = Minimum.from_gradients(rng.normal(size=(20, 40)))
    found, g, paths = at_edge(minimum, 2), minimum.gradients, 1000
    delta, seen = rng.normal(size=(paths, minimum.rank)), []
    for _ in range(40):
        chosen = g[rng.permuted(np.tile(np.arange(20), (paths, 1)), axis=1)[:, :2]]
        gradient = np.einsum("kba,kbc,kc->ka", chosen, chosen, delta, optimize=True) / 2
        curved = np.square(np.einsum("kba,ka->kb", chosen, gradient)).sum(1) / 2
        seen.append(found.eta / 2 * np.mean(curved / np.square(gradient).sum(1)))
        delta -= found.eta * gradient
        weights = np.square(delta).sum(1)
        places = np.searchsorted(np.cumsum(weights / weights.sum()), (np.arange(paths) + 0.5) / paths)
        delta = delta[places.clip(0, paths - 1)] / np.sqrt(weights)[places.clip(0, paths - 1), None]
    assert np.mean(seen[20:]) == pytest.approx(found.batch_sharpness.value, abs=0.03)
    assert found.batch_sharpness.value < 0.95


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 5), ("sampling", "epoch"), ("draws", 1), ("seed", -1)]
)
def test_refusals(name, value):
    with pytest.raises(ValueError, match=f"{name}="):
        at_edge(TWICE, **{"batch_size": 2, name: value})
