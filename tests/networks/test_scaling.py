"""Rescaled copies, passages of the loss, and what is measured along runs."""

import numpy as np
import pytest
import torch

import flatmin as fm
from flatmin.networks import parameters, scaling
from flatmin.networks.data.samples import samples_of
from flatmin.networks.point import at
from flatmin.networks.train.runs import predict

SIZES = (64, 12, 9, 10)


@pytest.fixture(scope="module")
def data():
    return fm.datasets.digits().train.per_class(8)


@pytest.fixture(scope="module")
def runs(data):
    starts = [fm.models.mlp(SIZES, seed=seed) for seed in range(2)]
    how = {"eta": 0.1, "batch_size": 20, "steps": 1500, "seed": [1, 2], "keep": [0, 500, 1500]}
    return fm.train(starts, "cross-entropy", data, **how)


@pytest.fixture(scope="module")
def found(runs, data):
    return scaling.along(runs, data, data)


@pytest.mark.parametrize("layer", [None, 1, 2, 3])
@pytest.mark.parametrize("factor", [0.3, 4.0])
def test_the_copy_computes_a_multiple_of_the_function(runs, data, layer, factor):
    theta = runs.parameters[0, 2].double()
    model = fm.models.mlp(SIZES, dtype=torch.float64)
    data = data.to(torch.float64)
    before = predict(model, theta, data)
    after = predict(model, scaling.rescaled(model, theta, factor, layer), data)
    assert (after - factor * before).abs().max() < 1e-12 * before.abs().max() * max(1, factor)


def test_all_layers_share_the_factor(runs):
    model, theta = runs.model_at(0, 2), runs.parameters[0, 2]
    scaled = parameters.with_parameters(model, scaling.rescaled(model, theta, 8.0))
    pairs = zip(parameters.trainable(model), parameters.trainable(scaled), strict=True)
    ratios = [float(new.detach().norm() / old.detach().norm()) for (_, old), (_, new) in pairs]
    assert np.allclose(ratios, [2, 2, 2, 4, 2, 8], rtol=1e-5)  # weight, bias, layer by layer


def test_a_network_that_is_not_homogeneous_is_refused(runs):
    model = fm.models.mlp(SIZES, activation="tanh")
    with pytest.raises(ValueError, match="model"):
        scaling.rescaled(model, parameters.vector(model), 2.0)


def test_the_factor_brings_the_loss_to_the_level(runs, data):
    model = runs.model_at(1, 2)
    here = at(model, "cross-entropy", data)
    factor = scaling.matching_factor(here, here.loss / 3)
    copy = parameters.with_parameters(model, scaling.rescaled(model, here.theta, factor))
    assert at(copy, "cross-entropy", data).loss == pytest.approx(here.loss / 3, rel=1e-4)
    assert np.isnan(scaling.matching_factor(here, 2 * here.loss))
    start = at(runs.model_at(0, 0), "cross-entropy", data)  # it is wrong on some: no factor mends that
    assert np.isnan(scaling.matching_factor(start, 1e-3))


def test_copies_share_the_loss_and_not_the_flatness(runs, data):
    model, thetas = runs.model_at(1, 2), runs.parameters[[1, 0], [2, 0]]
    level = at(model, "cross-entropy", data).loss / 3
    factors, whole, layer = scaling.copies(model, "cross-entropy", data, thetas, [level, 1e-3], top=5)
    assert whole.shape == layer.shape == (2, 4, 5)
    copy = parameters.with_parameters(model, scaling.rescaled(model, thetas[0], factors[0], 3))
    here = at(copy, "cross-entropy", data)
    assert np.allclose(whole[0, 3], here.eigenpairs(5).values, rtol=1e-3)
    assert np.allclose(layer[0, 3], here.eigenpairs(5, 2).values, rtol=1e-3)
    assert np.ptp(scaling.log_flatness(whole[0])) > 0.01
    assert np.isnan(factors[1])  # the start is wrong on some
    assert np.isnan(whole[1]).all()


def test_spectra_along_runs_are_those_of_the_points(runs, found, data):
    here = at(runs.model_at(1, 1), "cross-entropy", data).double()
    assert np.allclose(found["whole"][1, 1], here.eigenpairs(10).values, rtol=1e-3)
    assert np.allclose(found["layer"][1, 1], here.eigenpairs(10, 2).values, rtol=1e-3)
    assert found["loss"][1, 1] == pytest.approx(here.loss, rel=1e-5)
    outputs = predict(runs.model, runs.parameters[1, 1], data)
    assert found["size"][1, 1] == pytest.approx(float(outputs.square().sum(1).mean()), rel=1e-5)
    assert np.allclose(found["turned"][:, -1], 1)
    norms = [float(p.detach().norm()) for _, p in parameters.trainable(runs.model_at(1, 1)) if p.ndim == 2]
    assert np.allclose(found["norms"][1, 1], norms, rtol=1e-5)


def test_dead_units_are_counted(data):
    model = fm.models.mlp(SIZES)
    with torch.no_grad():
        model[1].bias[:3] = -1e3
    runs = fm.train(model, "cross-entropy", data, eta=1e-6, steps=1, batch_size=10, keep=2)
    assert scaling.along(runs, data, data)["dead"][0, 0, 0] >= 3 / 12


def test_the_spectrum_of_the_outputs_does_not_see_homogeneous_scaling(runs, data):
    """λ(JᵀJ) of a layer times ‖W‖² over mean |f|² is the same for the copy; the exponents are exact."""
    model, theta = fm.models.mlp(SIZES, dtype=torch.float64), runs.parameters[0, 1].double()
    inputs = samples_of(data).inputs
    values, logs = [], []
    for each in (theta, scaling.rescaled(model, theta, 5.0), scaling.rescaled(model, theta, 5.0, 2)):
        copy = parameters.with_parameters(model, each)
        here = at(copy, "square", (inputs.double(), torch.zeros(len(inputs), 10, dtype=torch.float64)))
        weight = dict(parameters.trainable(copy))["3.weight"]
        size = here.passed.outputs.square().sum(1).mean()
        found = here.eigenpairs(5, 2).values
        values.append(found * (weight.norm() ** 2 / size).detach())
        logs.append(scaling.log_normalised(found, float(weight.detach().norm()), float(size)))
    assert torch.allclose(values[0], values[1], rtol=1e-8)
    assert torch.allclose(values[0], values[2], rtol=1e-8)
    assert np.allclose(logs, -0.5 * float(values[0].log().mean()))


def test_passages_are_interpolated_in_the_log_of_the_loss():
    loss = np.array([[1.0, 0.1, 0.001], [1.0, 2.0, 0.5], [0.01, 0.1, 0.001]])
    values = np.array([[0.0, 1.0, 3.0], [0.0, 1.0, 3.0], [0.0, 1.0, 3.0]])
    found = scaling.passage(loss, values, [0.1**0.5, 0.01, 1e-4])
    assert np.allclose(found[0, :2], [0.5, 2.0])
    assert np.isnan(found[:, 2]).all()
    assert found[1, 0] != found[1, 0]  # never that low
    assert np.isnan(found[2, 0])  # below from the start on
    diverged = scaling.passage(np.array([np.inf, 0.1]), np.array([0.0, 1.0]), [0.2])
    assert np.allclose(diverged, 1.0)


def test_flatness_of_both_papers():
    values = np.array([[4.0, 1.0], [1.0, -1.0]])
    assert np.allclose(scaling.log_flatness(values)[0], -0.25 * np.log(4))
    assert np.allclose(scaling.log_flatness(values, "Y26")[0], -0.5 * np.log(4))
    assert np.isnan(scaling.log_flatness(values)[1])


def test_a_level_counts_that_enough_starts_pass():
    passed = np.ones((2, 5, 3))
    passed[0, 0, 1] = np.nan  # four of five pass it: counts, without that start
    passed[1, :2, 2] = np.nan  # three of five: does not
    means, counts = scaling.over_levels(passed)
    assert counts.tolist() == [True, True, False]
    assert np.isnan(means[:, 0]).all()
    assert np.allclose(means[:, 1:], 1)
    none, counts = scaling.over_levels(np.full((2, 5, 1), np.nan))
    assert np.isnan(none).all()
    assert not counts.any()


def test_stacked_spectra_are_those_of_one_after_the_other(runs, data, monkeypatch):
    thetas = runs.parameters[:, 1:].flatten(0, 1)
    alone = scaling._tops(runs.model, "cross-entropy", data, thetas, 2, 6)
    monkeypatch.setattr(scaling, "choose", lambda *_: torch.device("cuda"))  # as there, computed here
    together = scaling._tops(runs.model, "cross-entropy", data, thetas, 2, 6)
    for name, values in alone.items():
        assert np.allclose(values, together[name], rtol=2e-3), name


def test_runs_are_compared_at_equal_time_and_at_equal_loss():
    taus = np.array([0, 1, 2, 4])
    loss = np.array([[[1, 0.5, 0.25, 0.125]] * 5, [[1, 0.25, 0.125, 0.0625]] * 5])
    logs = -np.log(loss)  # a function of the loss: equal loss, equal flatness
    times, losses = scaling.at_equal(loss, logs, taus, [2, 4], [0.4, 0.2, 0.1])
    assert np.allclose(times[1] - times[0], np.log(2))
    assert np.allclose((losses[1] - losses[0])[:, :2], 0)
    assert scaling.over_levels(losses)[1].tolist() == [True, True, False]
    loss[0, 0, 2:] = np.inf
    assert np.isnan(scaling.at_equal(loss, logs, taus, [2, 4], [0.4])[0][0, 0]).all()
    with pytest.raises(ValueError, match="at="):
        scaling.at_equal(loss, logs, taus, [3], [0.4])


def test_a_run_that_diverged_has_no_flatness(data):
    starts = [fm.models.mlp(SIZES, seed=seed) for seed in range(2)]
    how = {"eta": [0.01, 1e4], "batch_size": 20, "steps": 200, "keep": 2}
    found = scaling.along(fm.train(starts, "square", data.one_hot(), **how), data.one_hot(), data)
    assert np.isfinite(found["whole"][0]).all()
    assert np.isnan(found["whole"][1]).all()
    assert np.isinf(found["loss"][1, -1])
