"""One network under five theories: frames, runs and the drift along a valley, by other routes."""

import numpy as np
import pytest
import torch

from flatmin.networks import models, one_network, parameters
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at
from flatmin.theory.stability import stationary

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def net():
    """A network of one output, and 40 digits, in float64."""
    data = datasets.digits(40, "unit", torch.float64).train.parity()
    return models.mlp((64, 3, 1), 1, activation="tanh", dtype=torch.float64), data


def test_a_frame_is_the_leading_part_of_the_dense_matrix(net):
    here = at(net[0], "square", net[1])
    frame = one_network.frame(here, 5)
    values, vectors = np.linalg.eigh(here.gauss_newton().numpy())
    assert frame.curvature == pytest.approx(values[::-1][:5], rel=1e-5)
    sigma = here.noise.covariance().numpy()
    top = vectors[:, ::-1][:, :5]
    assert frame.noise == pytest.approx(np.einsum("pi,pq,qi->i", top, sigma, top), rel=1e-3)
    laws = frame.laws()
    assert laws["h"] == pytest.approx(2 * here.loss * frame.curvature)
    assert laws["h2"].sum() == pytest.approx(frame.noise.sum())
    assert laws["h2"][0] / laws["h2"][1] == pytest.approx((frame.curvature[0] / frame.curvature[1]) ** 2)


def test_edges_are_ordered_as_proved(net):
    edges = one_network.edges_of(one_network.frame(at(net[0], "square", net[1]), 10), 2)
    assert edges["exact"] <= min(edges["descent"], edges["trace"], edges["w22"], edges["typical"])


def test_a_linear_network_leaves_as_its_linearisation(net):
    data = net[1]
    line = models.mlp((64, 1), 1, dtype=torch.float64)
    frame = one_network.frame(at(line, "square", data), 39)
    found = one_network.leave(line, data, frame, 0.02, 4, [1, 2], 12, 3)
    assert found[0].shape == (2, 5)
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_staying_keeps_places_and_models(net):
    model, data = net
    vectors = torch.eye(at(model, "square", data).parameters, dtype=torch.float64)[:, :4]
    places, blocks = one_network.stay(model, data, vectors, 0.01, 4, [0, 1, 2], 30, 5, 10)
    assert places.shape == (3, 6, 4)
    assert [len(each) for each in blocks] == [3]
    moved = parameters.vector(blocks[0][2]) - parameters.vector(model)
    assert places[2, -1] == pytest.approx((moved @ vectors).numpy(), abs=1e-12)


def test_lifted_is_the_parabola_of_a_linear_network(net):
    data = net[1]
    line = models.mlp((64, 1), 1, dtype=torch.float64)
    here = at(line, "square", data)
    frame = one_network.frame(here, 3)
    shifts = np.random.default_rng(0).normal(size=(4, 3)) * 0.1
    nets = [
        parameters.with_parameters(line, here.theta + frame.vectors @ torch.from_numpy(one)) for one in shifts
    ]
    found = one_network.lifted(nets, data, frame.vectors).mean()
    variance = shifts.var(0, ddof=1)
    assert found == pytest.approx(stationary.excess(frame.curvature, variance), rel=1e-5)
    with pytest.raises(ValueError, match="models"):
        one_network.lifted(nets[:1], data, frame.vectors)


def test_label_noise_is_the_noise_of_doubled_data(net):
    both = one_network.doubled(net[1], 0.3)
    assert len(both) == 80
    away = both.targets.reshape(2, 40) - net[1].targets.reshape(1, 40)
    assert away[0] == pytest.approx(torch.full((40,), 0.3))
    assert away[1] == pytest.approx(-away[0])


def test_the_drift_is_the_slope_of_the_effective_loss(net):
    """``small`` against finite differences of Tr G along the projected gradient, all by dense matrices."""
    model, data = net
    data = data.first(12)
    here = at(model, "square", data)
    eta, batch, size = 0.01, 3, 0.2
    found = one_network.drift(here, eta, batch, size)
    rows = here.passed.sample_roots()[:, 0]
    slope = torch.zeros(here.parameters, dtype=torch.float64)
    for k in range(here.parameters):
        for sign in (1, -1):
            moved = here.theta.clone()
            moved[k] += sign * 1e-4
            there = at(parameters.with_parameters(model, moved), "square", data, checks=False)
            slope[k] += sign * there.gauss_newton_trace().value / 2e-4
    within = torch.linalg.lstsq(rows.T, slope[:, None]).solution[:, 0]
    along = slope - rows.T @ within
    expected = -eta * eta * size**2 / (4 * batch) * float(along @ along)
    assert found["small"] == pytest.approx(expected, rel=1e-4)
    assert found["exact"] < found["small"] < 0  # steps of finite size and their errors add to it
    g = rows.numpy() @ np.linalg.svd(rows.numpy(), full_matrices=False)[2].T
    h, unit = g.T @ g / 12, np.eye(12)
    left = unit - eta * h
    made = sum(np.kron(np.outer(each, each), np.outer(each, each)) for each in g) / 12 - np.kron(h, h)
    recursion = np.eye(144) - np.kron(left, left) - eta**2 / batch * made
    moment = np.linalg.solve(recursion, (eta**2 * size**2 / batch * h).ravel()).reshape(12, 12)
    acting = np.trace(moment - left @ moment @ left) / eta**2
    labels = size**2 / batch * np.trace(h)
    assert found["h2_all"] / found["h2"] == pytest.approx(acting / labels, rel=1e-6)
    assert acting > labels * 1.001


def test_what_does_not_fit_is_refused(net):
    inputs = net[1].inputs
    two = models.mlp((64, 2, 2), dtype=torch.float64)
    labels = torch.arange(40) % 2
    with pytest.raises(ValueError, match="square"):
        one_network.frame(at(two, "cross-entropy", (inputs, labels)), 2)
    here = at(two, "square", (inputs, torch.zeros(40, 2, dtype=torch.float64)))
    with pytest.raises(ValueError, match="one output"):
        one_network.drift(here, 0.1, 2, 0.1)
    with pytest.raises(ValueError, match="targets"):
        one_network.doubled(datasets.digits(20).train, 0.1)
