"""Linear stability of networks: the linearisation, the exact mean loss, the escape and its fit."""

import types

import numpy as np
import pytest
import torch

from flatmin.experiments import noise_alignment, stability_escape, stability_training
from flatmin.fits import growth_rate
from flatmin.networks import curvature, edges, models, stability
from flatmin.networks.data import sets as datasets
from flatmin.networks.data.sets import Data
from flatmin.networks.point import at
from flatmin.theory.stability.threshold import growth, largest_step


def at_square(model, data):
    return at(model, "square", data)


@pytest.fixture
def near_fit():
    """A network and targets it fits but for small residuals, in float64."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    model = models.mlp((4, 6, 1), 3, activation="tanh", dtype=torch.float64)
    with torch.no_grad():
        outputs = model(inputs)
    return model, Data(inputs, outputs + 1e-5 * torch.randn(12, 1, generator=generator, dtype=torch.float64))


def test_tangent_agrees_with_the_other_routes(near_fit):
    model, data = near_fit
    tangent = stability.tangent(at_square(model, data))
    noise = at(model, "square", data).noise.alignment()
    matrix = curvature.gauss_newton(model, data, "square")
    assert tangent.loss == pytest.approx(noise.loss, rel=1e-12)
    assert tangent.mu == pytest.approx(noise.mu, rel=1e-9)
    assert tangent.minimum.trace == pytest.approx(float(matrix.trace()), rel=1e-9)
    assert tangent.minimum.frobenius == pytest.approx(float(matrix.norm()), rel=1e-9)


def test_tangent_is_the_same_for_a_network_of_another_kind(near_fit, wrapped):
    model, data = near_fit
    one, other = stability.tangent(at_square(model, data)), stability.tangent(at_square(wrapped(model), data))
    np.testing.assert_allclose(one.gram, other.gram, rtol=1e-10)
    np.testing.assert_allclose(one.residuals, other.residuals, rtol=1e-10)


def test_mean_losses_of_all_batches_by_hand(near_fit):
    tangent = stability.tangent(at_square(*near_fit))
    n, eta = 12, 0.3
    after = [
        tangent.residuals - eta / 2 * tangent.gram[:, [i, j]] @ tangent.residuals[[i, j]]
        for i in range(n)
        for j in range(i)
    ]
    expected = np.mean([0.5 * np.mean(e**2) for e in after])
    assert tangent.mean_losses(eta, 2, 1)[1] == pytest.approx(expected, rel=1e-12)


def test_mean_losses_of_the_whole_set_are_gradient_descent(near_fit):
    tangent = stability.tangent(at_square(*near_fit))
    residuals, found = tangent.residuals, []
    for _ in range(5):
        found.append(0.5 * np.mean(residuals**2))
        residuals = residuals - 0.3 / 12 * tangent.gram @ residuals
    np.testing.assert_allclose(tangent.mean_losses(0.3, 12, 4), found, rtol=1e-10)


def test_mean_losses_grow_as_theory_says_in_the_long_run(near_fit):
    tangent = stability.tangent(at_square(*near_fit))
    edge = largest_step(tangent.minimum, 3)
    late = tangent.mean_losses(1.5 * edge, 3, 300)[-2:]
    assert late[1] / late[0] == pytest.approx(growth(tangent.minimum, 1.5 * edge, 3), rel=1e-6)
    below = tangent.mean_losses(0.9 * edge, 3, 300)
    assert below[-1] < below[100] < below[0]


def test_mean_losses_are_the_mean_of_losses(near_fit):
    tangent = stability.tangent(at_square(*near_fit))
    found = tangent.losses(0.2, 3, 6, range(4000))
    error = found.std(0, ddof=1) / np.sqrt(len(found))
    expected = tangent.mean_losses(0.2, 3, 6)
    assert (np.abs(found.mean(0) - expected)[1:] < 4 * error[1:]).all()
    with pytest.raises(ValueError, match="batch_size"):
        tangent.mean_losses(0.2, 13, 1)


def test_edge_is_the_three_ratios(near_fit):
    model, data = near_fit
    found = stability.edge(at_square(model, data), 0.2, 3)
    noise, matrix = at(model, "square", data).noise.alignment(), curvature.gauss_newton(model, data, "square")
    largest = float(torch.linalg.eigvalsh(matrix)[-1])
    assert found.bound == pytest.approx(0.2 * noise.g_norm * (noise.mu / 3) ** 0.5, rel=1e-9)
    assert found.descent == pytest.approx(0.1 * largest, rel=1e-9)
    at_the_edge = stability.edge(at_square(model, data), 0.2 / found.exact, 3)
    assert growth(stability.tangent(at_square(model, data)).minimum, 0.2 / found.exact, 3) == pytest.approx(
        1, abs=1e-8
    )
    assert at_the_edge.exact == pytest.approx(1)
    assert at_the_edge.descent < 0.95
    whole = stability.edge(at_square(model, data), 0.2, 12)
    assert whole.exact == pytest.approx(whole.descent, rel=1e-9)


def test_escape_follows_its_linearisation_close_to_the_minimum(near_fit):
    model, data = near_fit
    found = stability.escape(at_square(model, data), eta=0.2, batch_size=3, steps=6, trajectories=5, seed=2)
    assert found.losses.shape == found.linearised.shape == (5, 7)
    np.testing.assert_allclose(found.losses, found.linearised, rtol=1e-2)
    assert len(np.unique(found.losses[:, 1])) == 5  # each with batches of its own


def test_escape_does_not_depend_on_blocks(near_fit, monkeypatch):
    whole = stability.escape(at_square(*near_fit), eta=0.2, batch_size=3, steps=4, trajectories=5).losses
    monkeypatch.setattr(stability, "_ENTRIES", 1)
    parts = stability.escape(at_square(*near_fit), eta=0.2, batch_size=3, steps=4, trajectories=5).losses
    np.testing.assert_allclose(parts, whole, rtol=1e-10)


def test_escape_reports_divergence_as_infinity(near_fit):
    model = models.linear_network((4, 6, 6, 1), 0)
    found = stability.escape(at_square(model, near_fit[1]), eta=30.0, batch_size=1, steps=30, trajectories=4)
    assert not np.isnan(found.losses).any()
    assert np.isinf(found.losses[:, -1]).all()


def test_growth_rate_finds_the_rate_it_is_given():
    rng = np.random.default_rng(0)
    losses = np.exp(0.4 * np.arange(9)) * rng.lognormal(sigma=0.3, size=(500, 1))
    exact = growth_rate(losses, (2, 8))
    assert exact.value == pytest.approx(0.4, rel=0, abs=1e-12)
    assert exact.error < 1e-12  # the factor of a trajectory drops out of the slope
    noisy = growth_rate(losses * rng.lognormal(sigma=0.3, size=(500, 9)), (0, 8))
    assert abs(noisy.value - 0.4) < 4 * noisy.error
    assert 1e-3 < noisy.error < 1e-2


@pytest.mark.parametrize(
    ("losses", "window", "message"),
    [
        (np.ones((3, 5)), (0, 5), "window=5: must be an integer at least 0 and at most 4"),
        (np.ones((3, 5)), (2, 2), "must be two increasing"),
        (np.ones((1, 5)), (0, 2), "at least two"),
        (np.full((3, 5), np.inf), (0, 2), "before a run diverges"),
    ],
)
def test_growth_rate_refuses(losses, window, message):
    with pytest.raises(ValueError, match=message):
        growth_rate(losses, window)


def test_what_the_chapter_reads_from_the_edges():
    """The three ratios agree, live and recorded, for one network trained twice."""
    steps, eta = [0, 10, 40], 0.05
    point = {"kind": "fcn", "size": 4, "images": "digits", "scale": "unit", "repeat": 0, "eta": eta}
    found = stability_training.along(point | {"batch_size": 5, "steps": 40, "checkpoints": steps}, 0)
    arrays = {f"fcn_{name}": np.asarray(value)[None, None, None] for name, value in found.items()}
    stored = types.SimpleNamespace(arrays=arrays | {"fcn_eta": np.array([eta])}, batch_sizes=[5])
    data = stability_training.data_of(point)
    live = edges.live_edges([noise_alignment.network("fcn", 4, 0, data)], data, eta, 5, steps)
    np.testing.assert_allclose(edges.recorded_edges(stored, "fcn", 0)[5], live, rtol=1e-6)


def test_what_the_chapter_reads_from_the_sizes():
    size = np.array([[10, 10], [100, 100], [1000, 1000]])
    values = np.stack([np.ones((3, 2)), 3 * size**0.5 * [1.0, 2.0]], -1)
    diverged = np.zeros((3, 2), bool)
    stored = types.SimpleNamespace(
        arrays={"a_parameters": size[None], "a_trace": values[None], "a_diverged": diverged[None]}
    )
    fit = edges.slope(stored, "a", "trace", 0)
    assert (fit.value, fit.points) == (pytest.approx(0.5), 6)
    diverged[2, 1] = True
    assert edges.at_end(stored, "a", "trace", 0)[1].shape == (2, 2)


def test_what_the_chapter_reads_from_the_escapes():
    mean = 1e-4 * 2.0 ** np.arange(21)
    losses = np.tile(mean, (2, 1, 5, 1))
    stored = types.SimpleNamespace(
        arrays={
            "a_losses": losses,
            "a_mean": np.tile(mean, (2, 1, 1)),
            "a_eta": np.array([0.1, 0.2]),
            "a_frobenius": np.array([30.0, 20.0]),
            "a_mu": np.array([0.5, 1.0]),
        },
        batch_sizes=[2],
    )
    value, _, exact = edges.escape_rates(stored, "a", 0)
    assert (value, exact) == (pytest.approx(np.log(2)), pytest.approx(np.log(2)))
    np.testing.assert_allclose(edges.gamma_0(stored, "a", 0, "mu"), [2.25, 8.0])


def test_the_sharp_minimum_is_stable_for_descent_and_not_for_sgd():
    model, data, eta = stability_escape.sharp_minimum("linear", 8, 0)
    minimum = stability.tangent(at_square(model, data)).minimum
    assert eta * minimum.sharpness < 2
    assert largest_step(minimum, 1) < eta


def test_data_of_a_variant():
    point = {"kind": "fcn", "images": "digits", "scale": "unit", "repeat": 0}
    data = stability_training.data_of(point)
    assert set(data.targets.unique().tolist()) == {-1.0, 1.0}
    assert len(data) == 500
    linear = stability_training.data_of({"kind": "linear", "images": "mnist", "scale": "unit", "repeat": 3})
    torch.testing.assert_close(linear.inputs, datasets.gaussian(100, 50, 3, dtype=torch.float32).inputs)
