"""Largest eigenvalues of many Hessians against one dense one at a time; principal axes, radius."""

import numpy as np
import pytest
import torch

from flatmin.networks import freezing, models, parameters
from flatmin.networks.data import sets
from flatmin.networks.freezing import flatness_of, principal, radius, sharpness_of, tops
from flatmin.networks.point import at
from flatmin.networks.train import train

torch.set_num_threads(1)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_eigenvalues_are_those_of_the_dense_block(small, wrapped, wrap, activation, monkeypatch):
    model, data = small(activation, "cross-entropy", sizes=(6, 5))
    theta = parameters.vector(model)
    noise = torch.randn(3, len(theta), generator=torch.Generator().manual_seed(1), dtype=theta.dtype)
    thetas = theta + 0.1 * noise
    monkeypatch.setattr("flatmin.networks.freezing.spectra._ENTRIES", {True: 2**14})
    for layer in (None, 1, 2, "3.weight", "5.bias"):
        wanted = [
            torch.linalg.eigvalsh(
                at(parameters.with_parameters(model, one), "cross-entropy", data).hessian(layer)
            )
            for one in thetas
        ]
        wanted = torch.stack(wanted).flip(1).numpy()
        top = min(4, wanted.shape[1])
        found = tops(wrapped(model) if wrap else model, "cross-entropy", data, thetas, top=top,
                     layer=layer if not wrap or not isinstance(layer, str) else f"inner.{layer}",
                     tolerance=1e-5)  # fmt: skip
        np.testing.assert_allclose(found.values, wanted[:, :top], rtol=1e-8, atol=1e-8 * wanted.max())
        assert (found.residuals <= 1e-5 * np.abs(found.values) + 1e-12 * wanted.max()).all()


@pytest.fixture(scope="module")
def trained():
    data, model = sets.digits(200).train, models.mlp((64, 30, 30, 10), 1)
    runs = train(model, "cross-entropy", data, eta=0.2, batch_size=20, steps=300, seed=[1, 2, 3], keep=1)
    return data, model, runs


def test_flatness_and_sharpness_are_those_of_the_point(trained):
    data, model, runs = trained
    thetas = runs.parameters[:, 0]
    flat, sharp = (
        flatness_of(model, "cross-entropy", data, thetas),
        sharpness_of(model, "cross-entropy", data, thetas),
    )
    for run in range(3):
        here = at(runs.model_at(run), "cross-entropy", data)
        assert flat.flatness[run] == pytest.approx(here.flatness("Y26", layer=2).value, rel=1e-3)
        assert sharp[run] == pytest.approx(float(here.eigenpairs(1).values[0]), rel=1e-3)
        wanted = torch.linalg.eigvalsh(here.hessian(2)).flip(0)[:10].numpy()
        np.testing.assert_allclose(flat.values[run], wanted, rtol=1e-3)


def test_no_flatness_where_an_eigenvalue_is_not_positive():
    values = np.array([[2.0, 0.5], [2.0, -0.1], [2.0, 1e-9]])
    found = freezing.Tops(values, np.full((3, 2), 1e-6)).flatness
    assert found[0] == pytest.approx(1)
    assert np.isnan(found[1:]).all()


def test_more_eigenvalues_than_there_are(trained):
    data, model, runs = trained
    with pytest.raises(ValueError, match="top="):
        tops(model, "cross-entropy", data, runs.parameters[:, 0], layer="5.bias", top=11)


@pytest.mark.parametrize("shape", [(40, 7), (5, 30)])
def test_principal_axes_are_those_of_the_svd(shape):
    points = np.random.default_rng(0).normal(size=shape) * np.linspace(3, 1, shape[1])
    found = principal(points.reshape(5, -1, shape[1]), axes=3)
    moved = points - points.mean(0)
    _, spread, rows = np.linalg.svd(moved, full_matrices=False)
    np.testing.assert_allclose(found.ratio, np.square(spread[:3]) / np.square(spread).sum(), rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.sum(found.axes * rows[:3], 1)), 1, rtol=1e-9)
    np.testing.assert_allclose(found.project(points), moved @ found.axes.T, atol=1e-12)
    assert (found.axes.max(1) == np.abs(found.axes).max(1)).all()


def test_radius_is_the_root_of_the_mean_squared_distance():
    ends = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
    assert radius(ends) == pytest.approx(np.sqrt((2 + 2 + 4) / 3))
    with pytest.raises(ValueError, match="ends="):
        radius(ends[:1])
    with pytest.raises(ValueError, match="points="):
        principal(np.ones((4, 3)))
