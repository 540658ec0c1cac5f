"""The experiments on VGG and ResNet at their small scale, and what they are made of."""

import numpy as np
import pytest
import torch

from flatmin.experiments import scale, scale_escape, scale_full
from flatmin.ledger import record
from flatmin.networks import deep, models, parameters
from flatmin.networks.point import at

ALONG, END = (
    ("loss", "mu", "mu_error", "g_norm", "bound", "bound_error"),
    ("sharpness", "largest", "edge_exact"),
)


@pytest.mark.usefixtures("sweeps_here")
def test_the_small_scale_records_alignment_flatness_and_edges(tmp_path):
    scale.EXPERIMENT.run(tmp_path, True)
    arrays = record.load("scale", tmp_path).arrays
    for kind in ("vgg", "resnet"):
        for lead in (kind, f"{kind}_batch"):
            for name in ALONG:
                assert arrays[f"{lead}_{name}"].shape == (2, 2, 2)
            for name in END:
                assert arrays[f"{lead}_{name}"].shape == (2, 2)
        assert (arrays[f"{kind}_mu"] > 0).all()
        ratio = float(arrays[f"{kind}_eta"]) * arrays[f"{kind}_g_norm"] * np.sqrt(arrays[f"{kind}_mu"] / 25)
        assert arrays[f"{kind}_bound"] == pytest.approx(ratio, rel=0.2)  # up to the jackknife's bias
    assert not arrays["vgg_diverged"].any()


@pytest.mark.usefixtures("sweeps_here")
def test_the_full_width_records_the_same_of_one_run(tmp_path):
    scale_full.EXPERIMENT.run(tmp_path, True)
    arrays = record.load("scale-full", tmp_path).arrays
    for kind in ("vgg", "resnet"):
        assert arrays[f"{kind}_mu"].shape == (1, 1, 2)
        assert arrays[f"{kind}_edge_exact"].shape == (1, 1)


@pytest.mark.usefixtures("sweeps_here")
def test_the_escape_starts_where_descent_ended(tmp_path):
    scale_escape.EXPERIMENT.run(tmp_path, True)
    arrays = record.load("scale-escape", tmp_path).arrays
    for kind in ("vgg", "resnet"):
        assert arrays[f"{kind}_losses"].shape == (1, 1, 2, 4, 21)
        assert arrays[f"{kind}_mean"].shape == (1, 1, 2, 21)
        descent = arrays[f"{kind}_descent"][0, 0]
        assert arrays[f"{kind}_losses"][0, 0, :, :, 0] == pytest.approx(descent[0], rel=1e-4)
        assert np.isfinite(descent).all()
        assert arrays[f"{kind}_reached"] > deep.NEAR  # a few steps, so that nothing is judged


def test_a_run_that_diverges_is_recorded_as_such():
    grid = scale.EXPERIMENT.quick.grids["vgg"]
    found = scale.along(grid.points[0] | {"eta": 1e8}, 0)
    assert found["diverged"].all()
    assert np.isfinite(found["loss"][:, 0]).all()
    assert np.isinf([found["loss"][:, -1], found["mu"][:, -1], found["edge_exact"]]).all()


def test_images_are_standardised_one_by_one_and_digits_enlarged():
    data = scale.task("digits", 30)
    assert data.inputs.shape == (30, 3, 32, 32)
    torch.testing.assert_close(data.inputs.mean((1, 2, 3)), torch.zeros(30), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.inputs.std((1, 2, 3)), torch.ones(30))
    assert torch.equal(data.inputs[:, 0, 0], data.inputs[:, 2, 3])
    assert data.targets.shape == (30, 10)


@pytest.mark.parametrize(("kind", "depth"), [("vgg", 11), ("resnet", 8)])
def test_the_networks_move_in_every_layer_from_the_start(kind, depth):
    model, data = scale.network(kind, depth, 2, 0), scale.task("digits", 10)
    gradient = at(model, "square", data).gradient()
    for name, part in zip(
        dict(parameters.trainable(model)),
        gradient.split([p.numel() for _, p in parameters.trainable(model)]),
        strict=True,
    ):
        assert part.abs().max() > 0, name


def test_the_smallest_loss_of_a_constant_is_what_converged_is_measured_by():
    labels = torch.arange(10).repeat(4)
    targets = torch.nn.functional.one_hot(labels, 10).double()
    best = 0.5 * (targets - targets.mean(0)).square().sum(1).mean()
    assert float(best) == pytest.approx(0.45)
    assert float(best) > 30 * deep.CONVERGED
    assert isinstance(scale.network("resnet", 8, 2, 0), models.FixupResNet)
