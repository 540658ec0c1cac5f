"""Steps recorded as CUDA graphs are the steps; without CUDA nothing is recorded."""

import contextlib

import pytest
import torch

from flatmin.networks import models
from flatmin.networks.data import sets as datasets
from flatmin.networks.train import graphs, loop, train

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def small():
    digits = datasets.digits(60).train.one_hot()
    return datasets.Data(digits.inputs.view(-1, 1, 8, 8), digits.targets)


def networks(runs):
    return [models.cnn_stacks((4, 8), 1, seed, "he", 1, 8) for seed in range(runs)]


def test_without_cuda_a_step_is_itself_and_has_no_branches():
    def step(positions):
        raise AssertionError

    assert graphs.recorded(step, None, torch.zeros(2, 3)) is step
    found = list(graphs.branches(3))
    assert len(found) == 3
    assert all(isinstance(one, contextlib.nullcontext) for one in found)


@CUDA
@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("method", ["sgd", "gd"])
def test_a_recorded_step_moves_as_the_step_does(runs, method, monkeypatch):
    how = {"eta": 0.05, "batch_size": 10, "steps": 120, "seed": range(runs), "keep": 4, "method": method}
    made = []
    recorded = loop.recorded
    monkeypatch.setattr(
        loop, "recorded", lambda step, *rest: made.append((step, recorded(step, *rest))) or made[-1][1]
    )
    found = []
    for least in (10**9, 100):
        monkeypatch.setattr(loop, "_RECORDED", least)
        found.append(train(networks(runs), "square", small(), device="cuda", **how).parameters)
    assert [step is not graph for step, graph in made] == [True]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@CUDA
def test_a_run_that_diverges_stops_alone():
    runs = train(
        networks(2), "square", small(), eta=[1e6, 0.05], batch_size=10, steps=200, seed=[0, 1], device="cuda"
    )
    assert runs.diverged.tolist() == [True, False]
    assert torch.isfinite(runs.parameters).all()


@CUDA
def test_what_cannot_be_recorded_is_trained_step_by_step():
    class Asking(torch.nn.Module):
        """Looks at its numbers on the CPU, which no graph can hold."""

        def __init__(self):
            super().__init__()
            self.inner = networks(1)[0]

        def forward(self, x):
            return self.inner(x) * (1.0 if float(x.sum()) < 1e9 else 0.0)

    how = {"eta": 0.05, "batch_size": 10, "steps": 120, "keep": 1, "device": "cuda"}
    found = [train(model, "square", small(), **how).parameters for model in (Asking(), networks(1)[0])]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
