"""Descent from many checkpoints against torch alone, against training, and against its own rule."""

import math

import numpy as np
import pytest
import torch

from flatmin.networks import models, parameters
from flatmin.networks.data import sets
from flatmin.networks.data.sets import Data
from flatmin.networks.freezing import Outcome, Stop, descend
from flatmin.networks.freezing import descent as module
from flatmin.networks.train import train

torch.set_num_threads(1)


def one_by_one(model, theta, loss, data, eta, steps):
    """Plain gradient descent of one run by torch."""
    twin = parameters.with_parameters(model, theta)
    for _ in range(steps):
        value = loss(twin(data.inputs), data.targets)
        gradients = torch.autograd.grad(value, list(twin.parameters()))
        with torch.no_grad():
            for p, g in zip(twin.parameters(), gradients, strict=True):
                p -= eta * g
    with torch.no_grad():
        outputs = twin(data.inputs)
    return parameters.vector(twin), float(loss(outputs, data.targets)), outputs


def starts_of(model, runs):
    theta = parameters.vector(model)
    noise = torch.randn(runs, len(theta), generator=torch.Generator().manual_seed(1), dtype=theta.dtype)
    return theta + 0.05 * noise


@pytest.mark.parametrize("samples", [8, 25], ids=["sample space", "weight space"])
def test_every_run_is_plain_gradient_descent(case, samples):
    model, data, loss = case
    data = data.first(samples)  # five inputs
    function = {"cross-entropy": torch.nn.functional.cross_entropy}.get(
        loss, lambda f, y: 0.5 * (f - y).square().sum() / len(f)
    )
    if loss == "square" and data.targets.shape[1] > 1:
        data = Data(data.inputs, (data.targets == data.targets.max(1, keepdim=True).values).double())
    starts, etas, steps = starts_of(model, 3), [0.02, 0.05, 0.01], [12, 0, 7]
    found = descend(model, loss, data, starts, eta=etas, steps=steps, keep=[0, 5])
    for run in range(3):
        end, value, _ = one_by_one(model, starts[run], function, data, etas[run], steps[run])
        torch.testing.assert_close(found.ends[run], end, rtol=1e-10, atol=1e-12)
        assert found.loss[run] == pytest.approx(value, rel=1e-10)
        middle, value, _ = one_by_one(model, starts[run], function, data, etas[run], min(5, steps[run]))
        torch.testing.assert_close(found.path[run, 1], middle, rtol=1e-10, atol=1e-12)
        assert found.losses[run, 1] == pytest.approx(value, rel=1e-10)
    torch.testing.assert_close(found.path[:, 0], starts, rtol=0, atol=0)
    np.testing.assert_array_equal(found.steps, steps)
    assert (found.outcome == Outcome.LENGTH).all()


def test_other_networks_go_one_by_one(small, wrapped, monkeypatch):
    model, data = small(loss="cross-entropy")
    starts = starts_of(model, 3)
    wanted = descend(model, "cross-entropy", data, starts, eta=0.3, steps=20, keep=[7], layer=2)
    monkeypatch.setattr("flatmin.networks.freezing.forms._ENTRIES", {True: 200})  # chunks of samples
    found = descend(wrapped(model), "cross-entropy", data, starts, eta=0.3, steps=20, keep=[7], layer=2)
    torch.testing.assert_close(found.ends, wanted.ends, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.path, wanted.path, rtol=1e-10, atol=1e-12)
    assert found.path.shape == (3, 1, model[3].weight.numel())
    np.testing.assert_allclose(found.losses, wanted.losses)


def test_a_network_of_one_layer(small):
    _, data = small(loss="cross-entropy")
    model = models.mlp((5, 3), 1, dtype=torch.float64)
    found = descend(model, "cross-entropy", data.first(9), starts_of(model, 2), eta=0.5, steps=9)
    for run, start in enumerate(starts_of(model, 2)):
        wanted = one_by_one(model, start, torch.nn.functional.cross_entropy, data.first(9), 0.5, 9)[0]
        torch.testing.assert_close(found.ends[run], wanted, rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def digits():
    """A few digits, a network that they are easy for, checkpoints on the way."""
    data, model = sets.digits().train.first(60), models.mlp((64, 12, 10), 1)
    runs = train(model, "cross-entropy", data, eta=0.2, batch_size=20, steps=60, seed=[1, 2], keep=4)
    return data, model, runs.parameters.flatten(0, 1)


def by_the_rule(model, theta, data, eta, limit, rule):
    """Steps, loss and whether the rule stopped it, with the loop of the paper's code written out."""
    first, every = rule.schedule(eta)
    hits = 0
    for t in range(limit + 1):
        theta_t, value, outputs = one_by_one(model, theta, torch.nn.functional.cross_entropy, data, eta, 0)
        if t >= first and (t - first) % every == 0:
            right = float((outputs.argmax(1) == data.targets).double().mean())
            hits = hits + 1 if value <= rule.loss and right >= rule.accuracy else 0
            if hits == rule.times:
                return t, value, True
        theta = one_by_one(model, theta_t, torch.nn.functional.cross_entropy, data, eta, 1)[0]
    return limit, value, False


def test_each_run_stops_by_the_rule_on_its_own(digits, monkeypatch):
    data, model, starts = digits
    etas = [0.5, 0.21, 0.5, 0.5, 0.3, 0.5, 0.25, 0.5]
    lengths = [400, 400, 130, 400, 400, 40, 400, 400]
    rule = Stop(loss=0.08)
    monkeypatch.setattr(module, "_STACK", {True: (2**30, 3)})  # runs wait for others to end
    found = descend(model, "cross-entropy", data, starts, eta=etas, steps=lengths, stop=rule)
    for run, theta in enumerate(starts):
        steps, value, stopped = by_the_rule(model, theta, data, etas[run], lengths[run], rule)
        assert found.steps[run] == steps
        assert found.loss[run] == pytest.approx(value, rel=1e-3)
        above = Outcome.ABOVE if value > rule.loss else Outcome.LENGTH
        assert found.outcome[run] == (Outcome.STOPPED if stopped else above)
    assert len(set(found.outcome)) >= 2
    assert (found.loss[found.outcome == Outcome.STOPPED] <= rule.loss).all()
    alone = descend(model, "cross-entropy", data, starts[3:4], eta=0.5, steps=400, stop=rule)
    torch.testing.assert_close(found.ends[3], alone.ends[0], rtol=1e-4, atol=1e-5)


def test_schedule_is_that_of_the_code():
    assert [Stop().schedule(eta) for eta in (0.1, 0.05, 0.02, 0.005, 0.03, 0.9)] == [
        *((100, 10), (100, 20), (250, 50), (1000, 200), (167, 34), (100, 10))
    ]
    assert Stop(first=7, every=3).schedule(0.1) == (7, 3)
    assert Stop().schedule(1e-300) == (10**9, 10**9)


def test_divergence_is_an_outcome_and_spares_the_others(digits):
    data, model, starts = digits
    found = descend(
        model, "square", data, starts[:3], eta=[0.05, 1e12, 0.05], steps=200, stop=Stop(), keep=[0, 150]
    )
    assert found.outcome.tolist() == [Outcome.ABOVE, Outcome.DIVERGED, Outcome.ABOVE]
    assert found.diverged.tolist() == [False, True, False]
    assert math.isinf(found.loss[1])
    assert np.isfinite(found.loss[[0, 2]]).all()
    assert found.accuracy[1] == 0
    assert math.isinf(found.losses[1, 1])
    assert math.isfinite(found.losses[1, 0])
    torch.testing.assert_close(found.ends[1], starts[1], rtol=0, atol=0)
    assert torch.isfinite(found.path).all()
    assert not np.isnan(found.losses).any()
    assert found.steps[1] <= 110
    alone = descend(model, "square", data, starts[:1], eta=0.05, steps=200)
    torch.testing.assert_close(found.ends[0], alone.ends[0], rtol=1e-4, atol=1e-5)


def test_the_path_stays_at_the_end(digits):
    data, model, starts = digits
    rule = Stop(loss=0.1)
    found = descend(model, "cross-entropy", data, starts, eta=0.5, steps=300, stop=rule, keep=[250, 300])
    ended = found.outcome == Outcome.STOPPED
    assert ended.any()
    torch.testing.assert_close(found.path[ended, 1], found.ends[ended], rtol=0, atol=0)
    np.testing.assert_array_equal(found.losses[ended, 1], found.loss[ended])


def test_no_steps_leave_the_checkpoint_as_it_is(digits):
    data, model, starts = digits
    found = descend(model, "cross-entropy", data, starts, eta=0.1, steps=0, stop=Stop(loss=1e-9))
    torch.testing.assert_close(found.ends, starts, rtol=0, atol=1e-7)
    assert (found.outcome == Outcome.ABOVE).all()
    assert (found.steps == 0).all()


def test_a_diverged_checkpoint_is_refused_by_its_number(digits):
    data, model, starts = digits
    lost = starts.clone()
    lost[2, 5] = torch.nan
    with pytest.raises(ValueError, match=r"starts: row 2 of 8 .*diverged"):
        descend(model, "cross-entropy", data, lost, eta=0.1, steps=3)


def test_runs_of_unequal_length_are_refused(digits):
    data, model, starts = digits
    with pytest.raises(ValueError, match=r"eta=.*of shape \(8\)"):
        descend(model, "cross-entropy", data, starts, eta=[0.1] * 3, steps=3)
    with pytest.raises(ValueError, match="starts="):
        descend(model, "cross-entropy", data, starts[:, :-1], eta=0.1, steps=3)
