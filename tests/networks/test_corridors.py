"""Lines between networks against dense matrices, and hop rates against the two-valley model."""

import numpy as np
import pytest
import torch

import flatmin as fm
from flatmin.networks import models, parameters
from flatmin.networks.corridors import Corridors, corridors
from flatmin.networks.data.sets import Data
from flatmin.theory.two_valleys import hopping
from flatmin.theory.two_valleys.landscape import PAPER, two_valleys

TORCH = torch.Generator().manual_seed(1)
INPUTS = torch.randn(40, 6, generator=TORCH, dtype=torch.float64)
LABELS = torch.arange(40) % 3
TARGETS = {"cross-entropy": LABELS, "square": torch.nn.functional.one_hot(LABELS).double()}


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("loss", ["cross-entropy", "square"])
def test_lines_agree_with_dense_curvature_and_noise(loss, activation):
    nets = [models.mlp((6, 5, 4, 3), s, activation=activation, dtype=torch.float64) for s in range(2)]
    thetas, data = [parameters.vector(net) for net in nets], Data(INPUTS, TARGETS[loss])
    found = corridors(nets[0], loss, data, thetas[0][None], thetas[1][None], points=5)
    direction = thetas[1] - thetas[0]
    unit = direction / direction.norm()
    for end, net in enumerate(nets):
        here = fm.at(net, loss, data)
        assert found.curvature[0, end] == pytest.approx(float(unit @ here.hessian() @ unit), rel=1e-9)
        assert found.noise[0, end] == pytest.approx(float(unit @ here.noise.covariance() @ unit), rel=1e-9)
    on_line = [
        fm.at(parameters.with_parameters(nets[0], thetas[0] + s * direction), loss, data).loss
        for s in np.linspace(0, 1, 5)
    ]
    np.testing.assert_allclose(found.losses[0], on_line, rtol=1e-12)
    assert found.length[0] == pytest.approx(float(direction.norm()))


def test_barrier_is_counted_from_the_larger_end():
    losses = np.array([[1.0, 3.0, 2.0], [1.0, 1.5, 2.0]])
    lines = Corridors(100, np.ones(2), losses, np.ones((2, 2)), np.ones((2, 2)))
    np.testing.assert_array_equal(lines.barrier, [1.0, 0.0])
    factor = (100 - 10) / (10 * 99)
    np.testing.assert_allclose(lines.heights(0.1, 10)[0], [2 / (0.05 * factor), 1 / (0.05 * factor)])
    np.testing.assert_array_equal(lines.heights(0.1, 10)[1], 0)
    assert np.isnan(lines.hop_rates(0.1, 10)[1]).all()


def test_without_noise_nothing_hops():
    lines = Corridors(100, np.ones(1), np.array([[1.0, 3.0, 2.0]]), np.ones((1, 2)), np.zeros((1, 2)))
    assert np.isinf(lines.heights(0.1, 10)).all()
    assert (lines.hop_rates(0.1, 10) < 1e-300).all()


def test_rates_are_those_of_the_two_valley_model():
    at = hopping.frozen(two_valleys().at(**PAPER), 5.0)
    level = 1e-3  # Δ_S; D = 2 Δ_S/f along x
    for side in hopping.SIDES:
        losses = np.array([[0.0, float(at.barrier), 0.0]])
        curvature = np.full((1, 2), 2 / float(at.f[side]))
        noise = np.full((1, 2), float(at.diffusion(side, level)) * 2)  # η c = 1
        lines = Corridors(10**6, np.ones(1), losses, curvature, noise)
        rate = lines.hop_rates(1.0, 1, "replacement")[0, 0]
        assert rate == pytest.approx(float(hopping.passage_rate_asymptotic(at, side, level)), rel=1e-9)


def test_pairs_are_refused_by_name():
    net = models.mlp((6, 5, 3), dtype=torch.float64)
    data, theta = Data(INPUTS, LABELS), parameters.vector(net)[None]
    lost = theta.clone()
    lost[0, 3] = torch.nan
    for starts, ends, message in (
        (theta, theta, "ends=.*other parameters"),
        (lost, theta, "starts=.*diverged"),
        (theta, theta[:, 1:], "ends=.*one network a row"),
        (theta.repeat(2, 1), theta + 1, "as many"),
    ):
        with pytest.raises(ValueError, match=message):
            corridors(net, "cross-entropy", data, starts, ends)
