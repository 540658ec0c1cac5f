"""Errors and bias of what is drawn: the jackknife, eigenvalues, what each sample puts into an edge."""

import numpy as np
import pytest
import torch
from torch import nn

import flatmin as fm
from flatmin.diagnosis.draws import Draw, influences, lowered
from flatmin.networks.point import at
from flatmin.theory.stability import threshold

torch.set_num_threads(1)
WHOLE, DRAWN = 2000, 64
X = torch.randn(WHOLE, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X[:, 0], X[:, 1], X[:, 2] = 2 * X[:, 0], 1.6 * X[:, 1], 0.3 * X[:, 2]
LINEAR = nn.Linear(30, 1, bias=False).double()
ROWS = np.random.default_rng(1).normal(size=(7, 2, 3))


def drawn(seed, samples=DRAWN, of=WHOLE):
    """A linear network, whose Hessian is the mean of xxᵀ, on some of the samples."""
    rows = torch.from_numpy(np.random.default_rng(seed).permutation(WHOLE)[:samples])
    here = at(LINEAR, "square", (X[rows], X[rows, :1]), checks=False)
    return Draw(here, of, seed)


def test_the_jackknife_of_a_mean_and_of_its_square():
    """Groups of one: the textbook's error of a mean; the square of a mean is too large by its variance."""
    draw, values = drawn(0, 30, 120), np.random.default_rng(0).normal(2, 1, 30)
    without = draw.without(values.mean(), values)
    bias, error = draw.jackknife(values.mean(), without)
    expected = np.std(values, ddof=1) / 30**0.5 * (1 - 30 / 120) ** 0.5
    assert abs(bias) < 1e-12
    assert error == pytest.approx(expected, rel=1e-10)
    assert draw.spread(values) == pytest.approx(expected, rel=1e-10)
    assert draw.jackknife(values.mean() ** 2, without**2)[0] == pytest.approx(expected**2, rel=1e-10)


def test_groups_of_different_sizes_are_weighed():
    draw = drawn(0, 75)
    assert set(draw.sizes) == {2, 3}
    values = np.random.default_rng(0).normal(size=75)
    parts = np.array([part.mean() for part in np.split(values, draw.sizes.cumsum()[:-1])])
    bias, error = draw.jackknife(values.mean(), draw.without(values.mean(), parts))
    assert abs(bias) < 1e-12
    assert error == pytest.approx(draw.spread(values), rel=0.35)  # of 32 groups: 13 % each way


def test_eigenvalues_of_a_draw():
    """λ₁ of 64 samples is high, the least low; freed of that, and with errors of the right size."""
    truth = np.linalg.eigvalsh((X.T @ X / WHOLE).numpy())
    for which, expected in (("largest", truth[::-1][:2]), ("smallest", truth[:1])):
        raw, misses = [], []
        for seed in range(150):
            draw = drawn(seed)
            pairs = draw.here.eigenpairs(len(expected), which=which)
            values = pairs.values.numpy()
            parts, bias = draw.eigenvalues(values, pairs.vectors, slice(None))
            error = draw.jackknife(values, draw.without(values, parts))[1]
            raw.append((values - expected) / error)
            misses.append((values - bias - expected) / error)
        off = abs(np.mean(raw, 0)[0])
        assert off > 0.3
        if which == "largest":
            assert abs(np.mean(misses, 0)[0]) < 0.6 * off
            assert ((np.std(misses, 0) > 0.8) & (np.std(misses, 0) < 1.2)).all()
        else:  # the least direction is one that the samples happen to leave out: more is lost than known
            assert abs(np.mean(misses, 0)[0]) < 0.8 * off


@pytest.mark.parametrize("sample", [0, 3])
def test_a_sample_moves_the_edge_as_its_influence_says(sample):
    """One copy more of a sample among copies of all."""
    copies, size = 400, 2
    rows = np.repeat(ROWS, copies, axis=0)
    more = fm.Minimum.from_gradients(np.concatenate([rows, ROWS[sample : sample + 1]]))
    minimum = fm.Minimum.from_gradients(rows)
    mode = threshold.leading_mode(minimum, None, size, "replacement")
    a, b, _ = influences(minimum, mode.moment, 1 / size)
    each = (b - a / mode.eta) / a.mean()
    moved = 1 / threshold.largest_step(more, size, "replacement") - 1 / mode.eta
    assert moved * more.samples == pytest.approx(each[sample * copies] - each.mean(), rel=1e-2)
    eta = 1.2 * mode.eta  # above the edge the mode that grows stands alone
    mode = threshold.leading_mode(minimum, eta, size, "replacement")
    a, b, _ = influences(minimum, mode.moment / np.linalg.norm(mode.moment), 1 / size)
    each = eta**2 * b - eta * a
    moved = threshold.growth(more, eta, size, "replacement") - mode.growth
    assert moved * more.samples == pytest.approx(each[sample * copies] - each.mean(), rel=1e-2)


def test_what_the_batch_adds_is_the_slope_in_c():
    minimum = fm.Minimum.from_gradients(ROWS)
    size = 2.0
    mode = threshold.leading_mode(minimum, None, size, "replacement")
    moment = mode.moment / np.linalg.norm(mode.moment)
    more = influences(minimum, moment, 1 / size)[2].mean()
    step = 1e-5
    ends = [threshold.growth(minimum, mode.eta, 1 / (1 / size + s), "replacement") for s in (step, -step)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(mode.eta**2 * more, rel=1e-4)


def test_halves_are_lower_by_as_much_as_the_whole_is():
    whole = fm.Minimum.from_gradients(X.numpy())
    step, seen, told = threshold.largest_step(whole, 8), [], []
    for seed in range(60):
        rows = np.random.default_rng(seed).permutation(WHOLE)[:DRAWN]
        part = fm.Minimum.from_gradients(X.numpy()[rows])
        seen.append(step - threshold.largest_step(part, 8))
        told.append(lowered(part, lambda of: threshold.largest_step(of, 8), 8, seed))
    assert np.mean(seen) > 0
    assert np.mean(told) == pytest.approx(np.mean(seen), rel=0.6)
    assert np.isnan(lowered(part, lambda of: threshold.largest_step(of, 40), 40, 0))
