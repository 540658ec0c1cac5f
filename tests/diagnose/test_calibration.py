"""Error bars: over 100 seeds the misses, in units of the error, have standard deviation 1 ± 0.2."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

import flatmin as fm
from flatmin.networks import curvature, gradient_noise
from flatmin.networks.point import Point, at
from flatmin.networks.stability import compressed
from flatmin.theory.stability import threshold

torch.set_num_threads(1)
SEEDS, WHOLE = range(100), 3000


class Wrapped(nn.Module):
    """The same network in a form the fast path does not read."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


@functools.cache
def trained():
    """A trained network and 3000 samples with labels that it does not fit."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(WHOLE, 6, generator=generator, dtype=torch.float64)
    teacher = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    noise = 0.7 * torch.randn(WHOLE, 3, generator=generator, dtype=torch.float64)
    data = inputs, (1.5 * torch.tanh(inputs @ teacher) + noise).argmax(1)
    model = fm.models.mlp((6, 12, 12, 3), 1, activation="tanh", dtype=torch.float64)
    runs = fm.train(model, "cross-entropy", data, eta=0.2, batch_size=50, steps=300, seed=0, keep=300)
    return runs.model_at(0, -1), data


def first(samples, wrapped=False):
    model, (inputs, targets) = trained()
    model = Wrapped(model) if wrapped else model
    return at(model, "cross-entropy", (inputs[:samples], targets[:samples]))


def calibrated(name, misses):
    spread = np.std(misses, ddof=1)
    assert 0.8 < spread < 1.2, f"{name}: {spread:.2f}"
    assert abs(np.mean(misses)) < 0.6, f"{name}: {np.mean(misses):.2f} off on average"


@pytest.mark.parametrize("probes", [12, 60])
def test_trace_and_norm(probes):
    here = first(40, wrapped=True)
    values = np.linalg.eigvalsh(here.hessian().numpy())
    found = [curvature.moments(here, probes, seed)[:2] for seed in SEEDS]
    for index, expected in enumerate((values.sum(), np.linalg.norm(values))):
        calibrated(index, [(each[index].value - expected) / each[index].error for each in found])


def test_density():
    here = first(40)
    values = np.linalg.eigvalsh(here.hessian().numpy())
    width = (values[-1] - values[0]) / 20
    grid = np.array([0.0, values[-1] / 2, values[-1]])  # where all are, where few are, where one is
    expected = np.exp(-0.5 * ((values[:, None] - grid) / width) ** 2).mean(0) / np.sqrt(2 * np.pi) / width
    found = [curvature.spectral_density(here, 25, 12, seed).on(grid, width) for seed in SEEDS]
    misses = np.array([(each.value - expected) / each.error for each in found])
    for index, place in enumerate(("bulk", "few", "edge")):
        calibrated(place, misses[:, index])


def test_alignment():
    here = first(600)
    exact = gradient_noise.alignment(here)
    found = [here.noise.sampled_alignment(256, 2, seed) for seed in SEEDS]
    for name in ("mu", "alpha", "beta"):
        each = [getattr(one, name) for one in found]
        calibrated(name, [(one.value - getattr(exact, name)) / one.error for one in each])


def test_strength_and_exponent():
    """200 samples of 3000 with eigenvectors of their own, against all."""
    whole = first(WHOLE)
    pairs = whole.eigenpairs(10)
    window = 0.999 * float(pairs.values[-1] / pairs.values[0])
    expected = whole.noise.strength().value, gradient_noise.exponent(whole, window, pairs=pairs).value
    misses = []
    for seed in SEEDS:
        rows = torch.from_numpy(np.random.default_rng(seed).permutation(WHOLE)[:200])
        part = Point(whole.network, whole.loss_function, whole.data.take(rows))
        own = part.eigenpairs(10)
        window = 0.999 * float(own.values[-1] / own.values[0])
        found = part.noise.strength(), gradient_noise.exponent(part, window, pairs=own)
        misses.append(
            [(each.value - truth) / each.error for each, truth in zip(found, expected, strict=True)]
        )
    for name, each in zip(("strength", "exponent"), np.array(misses).T, strict=True):
        calibrated(name, each)


@pytest.mark.parametrize(("model", "method"), [((6, 200, 200, 3), "random signs"), ((6, 12, 12, 3), "exact")])
def test_the_exact_trace_is_left_where_it_takes_longer_than_products(model, method):
    data = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    here = at(fm.models.mlp(model, activation="tanh"), "cross-entropy", data)
    trace, norm, layers = curvature.moments(here, 8)
    assert method in trace.method
    assert abs(trace.value - here.trace().value) <= 4 * trace.error + 1e-5 * abs(trace.value)
    assert np.sum(layers.value) == pytest.approx(trace.value, rel=1e-5)
    assert norm.value > 0


#: lines that are means or smooth functions of means over samples; and those whose error is an upper bound
DRAWN = (
    "loss", "lambda_1", "lambda_2", "trace_H", "trace_G", "flatness_Y26", "noise_strength", "noise_ratio",
    "decoupling_outputs", "alpha", "mu", "trace", "theory_M22",
)  # fmt: skip
BOUNDED = "frobenius", "exact", "smallest_batch", "necessary", "batch_sharpness"


@functools.cache
def regression():
    """A network fitted to noisy targets, and 3000 samples."""
    inputs, generator = trained()[1][0], torch.Generator().manual_seed(5)
    teacher = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(WHOLE, 2, generator=generator, dtype=torch.float64)
    data = inputs, torch.tanh(inputs @ teacher) + noise
    model = fm.models.mlp((6, 10, 10, 2), 1, activation="tanh", dtype=torch.float64)
    runs = fm.train(model, "square", data, eta=0.05, batch_size=50, steps=600, seed=0, keep=600)
    return runs.model_at(0, -1), data


def reported(samples, seed=0, what=DRAWN + BOUNDED):
    model, data = regression()
    how = {"eta": 0.3, "batch_size": 8, "k": 3, "budget": math.inf, "progress": False}
    return fm.diagnose(model, "square", data, samples=samples, seed=seed, what=what, **how)


@pytest.mark.slow
def test_drawn_samples():
    """128 of 3000 samples, a hundred times, against all: the errors count in the draw."""
    measured = [name for name in (*DRAWN, *BOUNDED) if name not in ("exact", "smallest_batch", "alpha", "mu")]
    whole = reported(WHOLE, what=measured)
    model, data = regression()
    here = at(model, "square", data)
    minimum, exact = compressed(here, torch.eye(here.parameters).double()), gradient_noise.alignment(here)
    truth = {name: whole[name].estimate.value for name in measured}
    truth |= {"exact": 0.3 / threshold.largest_step(minimum, 8), "alpha": exact.alpha, "mu": exact.mu}
    truth["smallest_batch"] = threshold.smallest_batch(minimum, 0.3)
    found = [reported(128, seed) for seed in SEEDS]
    for name, expected in truth.items():
        each = [one[name].estimate for one in found]
        misses = [(one.value - expected) / one.error for one in each]
        if name in BOUNDED:
            assert np.std(misses) < 1.2, name
            assert abs(np.mean(misses)) < 1, name
        else:
            calibrated(name, misses)


def test_what_all_samples_leave_to_chance_is_not_of_a_draw():
    """All but one of the samples: the errors of the draw are next to nothing, the numbers those of all."""
    what = "lambda_1", "trace_G", "noise_ratio", "trace_H"
    one, all_but_one = (reported(samples, what=what) for samples in (WHOLE, WHOLE - 1))
    for name in what:
        own, other = one[name].estimate, all_but_one[name].estimate
        assert other.error < 1e-2 * other.value
        assert abs(own.value - other.value) < 5 * other.error + 1e-3 * own.value
