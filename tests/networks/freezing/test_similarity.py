"""Similarity of end points in whole numbers, readings and barriers against one network at a time."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from flatmin.networks import freezing, models, parameters
from flatmin.networks.data import sets
from flatmin.networks.freezing import agreement, barriers, evaluate, jaccard
from flatmin.networks.train import train
from flatmin.networks.train.runs import correct

torch.set_num_threads(1)


def test_eighteen_of_twenty_is_nine_tenths():
    wrong, others = np.zeros((2, 200), dtype=bool)
    wrong[:19], others[1:20] = True, True
    found = jaccard(wrong, others)
    assert (found.common, found.total) == (18, 20)
    assert found.at_least(0.9)
    assert not found.at_least(Fraction(901, 1000))
    assert found.share == 0.9
    counts = freezing.Counts(np.arange(1, 3000), np.full(2999, 3000))
    for threshold in (0.07, 0.29, 0.57, 0.95, 0.99, 1.0):
        exact = [Fraction(int(k), 3000) >= Fraction(str(threshold)) for k in counts.common]
        np.testing.assert_array_equal(counts.at_least(threshold), exact)


def test_two_empty_sets_are_alike():
    none, one = np.zeros(5, dtype=bool), np.eye(5, dtype=bool)[0]
    assert jaccard(none, none).at_least(1.0)
    assert jaccard(none, none).share == 1
    assert not jaccard(none, one).at_least(1e-9)


def test_all_pairs_by_sets():
    rng = np.random.default_rng(0)
    wrong = rng.random((6, 53)) < 0.3
    found = jaccard(wrong[:, None], wrong[None])
    for i, j in np.ndindex(6, 6):
        one, other = (set(np.flatnonzero(wrong[k])) for k in (i, j))
        assert (found.common[i, j], found.total[i, j]) == (len(one & other), len(one | other))
    classes = rng.integers(10, size=(6, 53)).astype(np.uint8)
    same = agreement(classes[:, None], classes[None])
    assert same.common[2, 4] == (classes[2] == classes[4]).sum()
    assert (same.total == 53).all()


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, float("nan"), "0.9", None])
def test_thresholds_lie_between_0_and_1(threshold):
    with pytest.raises(ValueError, match="threshold="):
        freezing.Counts(np.array([1]), np.array([2])).at_least(threshold)


def test_sets_of_no_or_other_samples_are_refused():
    with pytest.raises(ValueError, match="wrong="):
        jaccard(np.zeros((3, 0), dtype=bool), np.zeros((3, 0), dtype=bool))
    with pytest.raises(ValueError, match="wrong, others: 4 and 5 samples"):
        jaccard(np.zeros(4, dtype=bool), np.zeros(5, dtype=bool))


@pytest.fixture(scope="module")
def networks():
    data, model = sets.digits(300), models.mlp((64, 12, 10), 1)
    runs = train(model, "cross-entropy", data.train, eta=0.3, batch_size=10, steps=150, seed=range(4), keep=1)
    return data, model, runs


@pytest.mark.parametrize("wrap", [False, True])
def test_readings_are_those_of_the_runs(networks, wrap, wrapped, monkeypatch):
    data, model, runs = networks
    monkeypatch.setattr("flatmin.networks.freezing.forms._ENTRIES", {True: 2**14})  # several chunks
    thetas = runs.parameters[:, 0]
    found = evaluate(wrapped(model) if wrap else model, "cross-entropy", data.test, thetas)
    np.testing.assert_allclose(found.loss, runs.losses(data.test)[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found.accuracy, runs.accuracies(data.test)[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(found.wrong, found.predictions != data.test.targets.numpy())


def test_one_output_predicts_by_its_sign(networks):
    data = networks[0].train.parity()
    model = models.mlp((64, 5, 1), 0)
    theta = parameters.vector(model)[None]
    found = evaluate(model, "square", data, theta)
    right = correct(model(data.inputs).detach(), data.targets)
    np.testing.assert_array_equal(found.wrong[0], ~right.numpy())


@pytest.mark.parametrize("wrap", [False, True])
def test_barriers_are_those_of_the_networks_on_the_line(networks, wrap, wrapped):
    data, model, runs = networks
    thetas, data = runs.parameters[:, 0], data.train
    used, pairs = wrapped(model) if wrap else model, np.array([[0, 2], [3, 1], [2, 2], [1, 3]])
    found = barriers(used, "cross-entropy", data, thetas, pairs, points=5)
    for pair, (one, other) in enumerate(pairs):
        losses = []
        for place in (0, 0.25, 0.5, 0.75, 1):
            theta = (1 - place) * thetas[one] + place * thetas[other]
            twin = parameters.with_parameters(model, theta)
            losses.append(float(torch.nn.functional.cross_entropy(twin(data.inputs), data.targets).detach()))
        assert found[pair] == pytest.approx(max(losses) - max(losses[0], losses[-1]), rel=1e-5, abs=1e-7)
    assert found.max() > 1e-3
    matrix = barriers(used, "cross-entropy", data, thetas, points=5)
    np.testing.assert_allclose(matrix[pairs[:, 0], pairs[:, 1]], found, atol=1e-6)
    np.testing.assert_array_equal(matrix, matrix.T)
    assert (np.diag(matrix) == 0).all()
    assert (matrix >= 0).all()


def test_no_barrier_in_a_convex_loss():
    data, model = sets.digits(100).train, models.mlp((64, 10), 1)
    starts = torch.stack([parameters.vector(models.mlp((64, 10), seed)) for seed in range(3)])
    assert barriers(model, "cross-entropy", data, starts).max() < 1e-6


def test_pairs_are_rows_that_exist(networks):
    data, model, runs = networks
    thetas = runs.parameters[:, 0]
    with pytest.raises(ValueError, match="pairs="):
        barriers(model, "cross-entropy", data.train, thetas, [[0, 4]])
    with pytest.raises(ValueError, match="points="):
        barriers(model, "cross-entropy", data.train, thetas, points=2)


def test_a_test_set_of_no_samples_is_refused(networks):
    _, model, runs = networks
    none = torch.zeros(0, 64), torch.zeros(0, dtype=torch.long)
    with pytest.raises(ValueError, match="data"):
        evaluate(model, "cross-entropy", none, runs.parameters[:, 0])
