"""Training against torch.optim, stacking, resuming, noise of GLD, divergence."""

import elsewhere
import numpy as np
import pytest
import torch

from flatmin.networks import models, parameters
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at
from flatmin.networks.train import loop, train
from flatmin.sampling import Sampling


@pytest.fixture(scope="module")
def data():
    return datasets.digits().train.first(60)


def by_optimiser(model, data, eta, batch_size, steps, seed, sampling):
    twin = parameters.with_parameters(model, parameters.vector(model))
    optimiser = torch.optim.SGD(twin.parameters(), lr=eta)
    per_epoch = len(data) // batch_size
    for t in range(steps):
        index = Sampling(sampling).draw(len(data), batch_size, seed, t // per_epoch)[t % per_epoch]
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(data.inputs[index]), data.targets[index])
        loss.backward()
        optimiser.step()
    return parameters.vector(twin)


@pytest.mark.parametrize("sampling", ["epoch", "fresh", "replacement"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "identity"])
@pytest.mark.parametrize("wrap", [False, True])
def test_sgd_is_that_of_torch_optim(data, sampling, activation, wrap, wrapped):
    data = data.to(torch.float64)
    model = models.mlp((64, 9, 8, 10), 2, activation=activation, dtype=torch.float64)
    start = wrapped(model) if wrap else model
    eta = [0.05, 0.1]
    runs = train(
        start,
        "cross-entropy",
        data,
        eta=eta,
        batch_size=13,
        steps=17,
        seed=[4, 5],
        sampling=sampling,
        keep=[17],
    )
    for run, seed in enumerate((4, 5)):
        expected = by_optimiser(model, data, eta[run], 13, 17, seed, sampling)
        torch.testing.assert_close(runs.parameters[run, 0], expected, rtol=1e-10, atol=1e-12)


def test_gd_uses_every_sample(data):
    data = data.to(torch.float64)
    model = models.mlp((64, 6, 10), dtype=torch.float64)
    runs = train(model, "cross-entropy", data, eta=0.1, steps=3, method="gd")
    expected = by_optimiser(model, data, 0.1, len(data), 3, 0, "epoch")
    torch.testing.assert_close(runs.parameters[0, -1], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sampling", ["epoch", "fresh", "replacement"])
def test_batches_depend_on_seed_and_epoch_only(sampling):
    one = Sampling(sampling).draw(20, 6, 3, 2)
    assert one.shape == (3, 6)
    assert (one == Sampling(sampling).draw(20, 6, 3, 2)).all()
    assert (one != Sampling(sampling).draw(20, 6, 3, 3)).any()
    assert (one != Sampling(sampling).draw(20, 6, 4, 2)).any()
    if sampling == "epoch":
        assert len(np.unique(one)) == 18
    if sampling == "fresh":
        assert all(len(np.unique(batch)) == 6 for batch in one)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("sampling", ["epoch", "replacement"])
def test_langevin_noise_has_the_trace_of_the_batch_noise(data, wrap, sampling, wrapped):
    model = models.mlp((64, 6, 10), 1)
    start = wrapped(model) if wrap else model
    eta, seeds = 0.01, 20 if wrap else 200
    gld = train(
        start,
        "cross-entropy",
        data,
        eta=eta,
        batch_size=10,
        steps=1,
        seed=range(seeds),
        method="gld",
        sampling=sampling,
    )
    gd = train(start, "cross-entropy", data, eta=eta, steps=1, method="gd")
    noise = (gld.parameters[:, -1] - gd.parameters[:, -1]) / eta
    expected = at(model, "cross-entropy", data).noise.covariance(10, sampling).trace()
    squares = noise.square().sum(1)
    error = squares.std() / seeds**0.5
    assert abs(squares.mean() - expected) < 4 * error
    assert error < 0.02 * expected


def test_langevin_noise_of_given_trace(data):
    model = models.mlp((64, 6, 10), 1)
    gld = train(
        model, "cross-entropy", data, eta=1e-3, steps=1, seed=range(100), method="gld", noise_trace=7.0
    )
    gd = train(model, "cross-entropy", data, eta=1e-3, steps=1, method="gd")
    squares = ((gld.parameters[:, -1] - gd.parameters[:, -1]) / 1e-3).square().sum(1)
    assert abs(squares.mean() - 7.0) < 4 * squares.std() / 10


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("method", ["sgd", "gld"])
def test_a_killed_run_continues_bit_for_bit(data, tmp_path, monkeypatch, method):
    def call(file, **more):
        model = models.mlp((64, 7, 10), 5)
        return train(
            model,
            "cross-entropy",
            data,
            eta=0.1,
            batch_size=16,
            steps=450,
            seed=range(3),
            method=method,
            keep=7,
            file=file,
            save_every=0,
            **more,
        )

    whole = call(None)
    original = loop._Steps.__call__

    def stopping(self, t):
        if t == 317:
            raise Interrupted
        original(self, t)

    file = tmp_path / "run.npz"
    with monkeypatch.context() as patch:
        patch.setattr(loop._Steps, "__call__", stopping)
        with pytest.raises(Interrupted):
            call(file)
    steps = []
    monkeypatch.setattr(loop._Steps, "__call__", lambda self, t: (steps.append(t), original(self, t))[1])
    resumed = call(file)
    assert steps[0] == 300
    assert torch.equal(resumed.parameters, whole.parameters)
    steps.clear()
    assert torch.equal(call(file).parameters, whole.parameters)
    assert steps == []


def test_a_checkpoint_of_another_call_is_refused(data, tmp_path):
    file = tmp_path / "run.npz"
    model = models.mlp((64, 7, 10))
    train(model, "cross-entropy", data, batch_size=10, steps=5, file=file)
    with pytest.raises(ValueError, match="another training call"):
        train(model, "cross-entropy", data, batch_size=10, steps=5, eta=0.2, file=file)


def test_divergence_is_reported_and_leaves_the_other_runs_alone(data):
    model = models.mlp((64, 8, 10), 1)
    call = {"loss": "square", "data": data, "batch_size": 20, "steps": 400, "keep": 5}
    both = train(model, eta=[0.01, 1e4], **call)
    alone = train(model, eta=[0.01, 0.01], **call)
    assert both.diverged.tolist() == [False, True]
    values = both.losses(data)
    assert np.isfinite(values[0]).all()
    assert np.isinf(values[1, 1:]).all()
    assert torch.isfinite(both.parameters).all()
    torch.testing.assert_close(both.parameters[0], alone.parameters[0])


def test_loss_and_accuracy_of_runs(data):
    model = models.mlp((64, 16, 10), 0)
    runs = train(model, "cross-entropy", data, eta=0.1, batch_size=20, steps=600, seed=[0, 1], keep=[0, 600])
    values, accuracies = runs.losses(data), runs.accuracies(data)
    outputs = runs.model_at(1)(data.inputs).detach()
    expected = torch.nn.functional.cross_entropy(outputs, data.targets)
    assert values[1, 1] == pytest.approx(float(expected), rel=1e-5)
    assert values[0, 0] == values[1, 0]
    assert accuracies[:, 1] == pytest.approx([1.0, 1.0])
    assert torch.equal(parameters.vector(runs.model_at(0, 0)), parameters.vector(model))


def test_parity_task_is_classified_by_sign(data):
    parity = data.parity()
    runs = train(models.mlp((64, 20, 1), 0, "glorot"), "square", parity, eta=0.05, batch_size=20, steps=800)
    assert runs.accuracies(parity)[0, 1] == 1.0
    assert runs.losses(parity)[0, 1] < 0.1


def test_starts_can_differ(data):
    starts = [models.mlp((64, 5, 10), seed) for seed in range(3)]
    runs = train(starts, "cross-entropy", data, batch_size=20, steps=10, seed=[0, 1, 2], keep=2)
    for run, start in enumerate(starts):
        assert torch.equal(runs.parameters[run, 0], parameters.vector(start))
        alone = train(start, "cross-entropy", data, batch_size=20, steps=10, seed=run)
        torch.testing.assert_close(runs.parameters[run], alone.parameters[0])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"method": "adam"}, "method='adam': must be one of"),
        ({"sampling": "subset"}, "sampling='subset': must be one of"),
        ({"batch_size": 61}, "batch_size=61: must be an integer at least 1 and at most 60"),
        ({"batch_size": 0}, "batch_size=0: must be an integer"),
        ({"eta": 0.0}, "eta=0.0: must be a finite real number above 0"),
        ({"eta": [0.1, np.nan]}, "eta=.*must be finite real numbers above 0"),
        ({"steps": 0}, "steps=0: must be an integer at least 1"),
        ({"steps": 2.0}, "steps=2.0: must be an integer"),
        ({"keep": 0}, "keep=0: must be an integer at least 1"),
        ({"keep": [0, 11]}, r"keep=\[0, 11\]: must be integers at least 0 and at most 10"),
        ({"keep": "all"}, "keep='all': must be an integer"),
        ({"seed": -1}, "seed=-1: must be an integer at least 0"),
        (
            {"seed": [0, 1], "eta": [0.1, 0.1, 0.1]},
            r"seed \(2,\), eta \(3,\).*must have shapes that broadcast",
        ),
        ({"noise_trace": 1.0}, "noise_trace=1.0: must be None with method='sgd'"),
        ({"threads": 0}, "threads=0: must be an integer at least 1"),
        ({"save_every": -1}, "save_every=-1: must be"),
        ({"file": "."}, "file='.': must be the name of a file"),
        ({"loss": "hinge"}, "loss='hinge': must be one of"),
        ({"model": []}, r"model=\[\]: must be a torch.nn.Module"),
    ],
)
def test_bad_arguments_are_named(data, arguments, word):
    call = {"model": models.mlp((64, 5, 10)), "loss": "cross-entropy", "batch_size": 10, "steps": 10}
    with pytest.raises(ValueError, match=word):
        train(data=data, **call | arguments)


def test_a_network_is_the_same_in_both_precisions():
    single, double = (models.mlp((6, 5, 3), 4, dtype=dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(parameters.vector(single), parameters.vector(double).float(), rtol=0, atol=0)


def test_outputs_beyond_the_range_are_an_infinite_loss_and_no_nan(data):
    model = models.mlp((64, 5, 10))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e25)
    runs = train(model, "square", data, eta=1e-3, steps=2, keep=[0, 2])
    assert runs.diverged_at.tolist() == [2]
    assert np.isposinf(runs.losses(data)).all()


@pytest.mark.parametrize("sampling", ["epoch", "fresh"])
def test_batches_drawn_ahead_for_a_device_are_the_same(data, sampling, monkeypatch):
    monkeypatch.setattr(loop, "_AHEAD", 9)  # blocks of two epochs of four steps
    data = data.first(50).to(torch.float64)
    call = {"eta": 0.1, "batch_size": 12, "steps": 43, "seed": [3, 4], "sampling": sampling}
    model = models.mlp((64, 6, 10), dtype=torch.float64)
    expected = train(model, "cross-entropy", data, **call).parameters
    with elsewhere.chosen():
        found = train(model, "cross-entropy", data, **call).parameters
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
