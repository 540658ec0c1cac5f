"""Linear stability of networks: the linearisation, the exact mean loss, the escape and its fit."""

import itertools
import types

import numpy as np
import pytest
import torch
from torch import nn

from flatmin.experiments import noise_alignment, stability_escape, stability_training
from flatmin.fits import growth_rate
from flatmin.networks import curvature, edges, models, stability
from flatmin.networks.data import sets as datasets
from flatmin.networks.data.sets import Data
from flatmin.networks.point import at
from flatmin.theory.stability import minimum
from flatmin.theory.stability.bracket import Bracket
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
    matrix = curvature.gauss_newton(at_square(model, data))
    assert tangent.loss == pytest.approx(noise.loss, rel=1e-12, abs=0)
    assert tangent.mu == pytest.approx(noise.mu, rel=1e-9, abs=0)
    assert tangent.minimum.trace == pytest.approx(float(matrix.trace()), rel=1e-9, abs=0)
    assert tangent.minimum.frobenius == pytest.approx(float(matrix.norm()), rel=1e-9, abs=0)


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
    assert tangent.mean_losses(eta, 2, 1)[1] == pytest.approx(expected, rel=1e-12, abs=0)


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
    noise, matrix = (
        at(model, "square", data).noise.alignment(),
        curvature.gauss_newton(at_square(model, data)),
    )
    largest = float(torch.linalg.eigvalsh(matrix)[-1])
    assert found.bound == pytest.approx(0.2 * noise.g_norm * (noise.mu / 3) ** 0.5, rel=1e-9, abs=0)
    assert found.descent == pytest.approx(0.1 * largest, rel=1e-9, abs=0)
    at_the_edge = stability.edge(at_square(model, data), 0.2 / found.exact, 3)
    assert growth(stability.tangent(at_square(model, data)).minimum, 0.2 / found.exact, 3) == pytest.approx(
        1, abs=1e-8
    )
    assert at_the_edge.exact == pytest.approx(1)
    assert at_the_edge.descent < 0.95
    whole = stability.edge(at_square(model, data), 0.2, 12)
    assert whole.exact == pytest.approx(whole.descent, rel=1e-9, abs=0)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(torch.ones(3)), nn.CrossEntropyLoss(ignore_index=0)])
def test_a_loss_that_each_batch_divides_by_its_own_weights_has_no_edge(loss):
    """Its gradient on a batch is no mean over the samples."""
    model, (inputs, _) = several_outputs("cross-entropy")
    here = at(model, loss, (inputs, torch.arange(7) % 3))
    for refused in (lambda: stability.edge(here, 0.1, 3), lambda: stability.largest_step(here, 3)):
        with pytest.raises(ValueError, match="must not weigh or ignore labels for batches"):
            refused()


LOSSES = {
    "square": "square",
    "mean square": nn.MSELoss(),
    "cross-entropy": "cross-entropy",
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "binary": nn.BCEWithLogitsLoss(),
}


def several_outputs(loss, samples=7):
    """A linear map to three outputs, and targets that ``loss`` takes, in float64."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    if loss in ("cross-entropy", "smoothed"):
        targets = torch.randint(3, (samples,), generator=generator)
    elif loss == "binary":
        targets = torch.randint(2, (samples, 3), generator=generator).double()
    else:
        targets = torch.randn(samples, 3, generator=generator, dtype=torch.float64)
    model = models.mlp((3, 2, 3), 4, activation="tanh", dtype=torch.float64)
    return model, (inputs, targets)


def curvatures(model, loss, data):
    """Gauss–Newton matrix of each sample and its gradient, by autograd, (n, P, P) and (n, P)."""
    function = {"square": lambda f, y: 0.5 * (f - y).square().sum(), "cross-entropy": nn.CrossEntropyLoss()}
    function = function.get(loss, LOSSES[loss])
    names, found, slopes = [name for name, _ in model.named_parameters()], [], []
    theta = {name: p.detach() for name, p in model.named_parameters()}
    for x, y in zip(*data, strict=True):

        def outputs(values, x=x):
            return torch.func.functional_call(model, values, (x[None],))

        def of(f, y=y):
            return function(f, y[None])

        f = outputs(theta)
        jacobian = torch.func.jacrev(outputs)(theta)
        jacobian = torch.cat([jacobian[name].reshape(3, -1) for name in names], 1)
        bent = torch.autograd.functional.hessian(of, f).reshape(3, 3)
        found.append(jacobian.T @ bent @ jacobian)
        slopes.append(torch.autograd.functional.jacobian(of, f).reshape(3) @ jacobian)
    return torch.stack(found).numpy(), torch.stack(slopes).numpy()


@pytest.mark.parametrize("loss", LOSSES)
def test_edge_of_several_outputs_against_the_dense_operator(loss):
    """E (1 − ηG_B) ⊗ (1 − ηG_B) over all pairs of samples has the top eigenvalue 1 at the edge."""
    model, data = several_outputs(loss)
    each, _ = curvatures(model, loss, data)
    here = at(model, LOSSES[loss], data)
    eta = stability.largest_step(here, 2)
    steps = [np.eye(len(each[0])) - eta * each[list(b)].mean(0) for b in itertools.combinations(range(7), 2)]
    top = np.linalg.eigvalsh(np.mean([np.kron(step, step) for step in steps], axis=0))[-1]
    assert top == pytest.approx(1, rel=0, abs=1e-11)
    found = stability.edge(here, eta, 2)
    assert found.exact == pytest.approx(1, rel=1e-11, abs=0)
    assert found.within == (found.exact, found.exact)
    largest = np.linalg.eigvalsh(each.mean(0))[-1]
    assert found.descent == pytest.approx(eta * largest / 2, rel=1e-9, abs=0)
    assert max(found.descent, found.trace, found.necessary) <= 1 + 1e-9
    assert (found.bound is None) == (loss not in ("square", "mean square"))
    assert ("bound" in found.reasons) == (found.bound is None)


@pytest.mark.parametrize("loss", LOSSES)
def test_residuals_are_the_gradients_in_the_rows(loss):
    model, data = several_outputs(loss)
    here = at(model, LOSSES[loss], data)
    tangent = stability.tangent(here)
    _, slopes = curvatures(model, loss, data)
    pulled = np.einsum("ik,ikp->ip", tangent.residuals, here.passed.sample_roots().numpy())
    np.testing.assert_allclose(pulled, slopes, rtol=1e-9, atol=1e-9 * np.abs(slopes).max())
    assert tangent.quadratic == (loss in ("square", "mean square"))


@pytest.mark.parametrize("loss", ["square", "cross-entropy"])
def test_batch_sharpness_of_a_network_is_its_mean_of_ratios(loss):
    model, data = several_outputs(loss)
    each, slopes = curvatures(model, loss, data)
    ratios = []
    for batch in itertools.combinations(range(7), 3):
        gradient = slopes[list(batch)].mean(0)
        ratios.append(gradient @ each[list(batch)].mean(0) @ gradient / (gradient @ gradient))
    found = stability.edge(at(model, LOSSES[loss], data), 0.3, 3)
    assert found.sharpness.value == pytest.approx(0.15 * np.mean(ratios), rel=1e-9, abs=0)
    assert found.sharpness.error == 0


@pytest.mark.parametrize("loss", ["square", "cross-entropy"])
def test_both_routes_and_both_precisions_have_one_edge(loss, wrapped):
    model, data = several_outputs(loss)
    dense, generic = at(model, loss, data), at(wrapped(model), loss, data)
    for name in ("exact", "descent", "trace"):
        one, other = (getattr(stability.edge(here, 0.2, 2), name) for here in (dense, generic))
        assert one == pytest.approx(other, rel=1e-9, abs=0)
    single = at(model.float(), loss, data)  # the weights are rounded once, to 2⁻²⁴
    assert single.dtype == torch.float32
    assert stability.edge(single, 0.2, 2).exact == pytest.approx(
        stability.edge(dense, 0.2, 2).exact, rel=1e-5, abs=0
    )


def test_typical_edge_is_beyond_the_exact_one():
    model, data = several_outputs("cross-entropy")
    here = at(model, "cross-entropy", data)
    found = stability.edge(here, 0.3, 1, typical=True)
    assert found.typical.value + 4 * found.typical.error < found.exact
    assert found.typical.error < 0.1 * found.typical.value
    assert stability.edge(here, 0.3, 1).typical is None


def test_many_rows_get_a_bracket(monkeypatch):
    model, data = several_outputs("square")
    exact = stability.edge(at(model, "square", data), 0.2, 2)
    monkeypatch.setattr(minimum, "_LAZY", 10)
    found = stability.edge(at(model, "square", data), 0.2, 2)
    low, high = found.within
    assert low * (1 - 1e-8) <= exact.exact <= high * (1 + 1e-8)
    assert found.exact is None
    assert "within" in found.reasons["exact"]
    for name in ("descent", "trace", "bound"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=1e-8, abs=0)
    assert isinstance(stability.largest_step(at(model, "square", data), 2), Bracket)
    monkeypatch.setattr(stability, "MOST_ROWS", 20)
    with pytest.raises(ValueError, match="7 samples × 3 outputs are too many"):
        stability.edge(at(model, "square", data), 0.2, 2)


def test_what_is_not_defined_is_none_with_the_reason():
    model, (inputs, targets) = several_outputs("square")
    huber = stability.edge(at(model, nn.HuberLoss(delta=0.1), (inputs, targets)), 0.2, 2)
    assert huber.sharpness is None
    assert "no parabola" in huber.reasons["sharpness"]
    assert huber.exact > 0
    fitted = stability.edge(at(model, "square", (inputs, model(inputs).detach())), 0.2, 2)
    assert fitted.bound is None
    assert "exactly" in fitted.reasons["bound"]


def test_escape_of_a_classifier_follows_its_parabola():
    """To first order in η losses and parabola agree; at a tenth of η the rest is a hundredth."""
    model, data = several_outputs("cross-entropy")
    gaps = []
    for eta in (0.02, 0.002):
        found = stability.escape_runs(at(model, "cross-entropy", data), eta, 2, steps=3, trajectories=4)
        np.testing.assert_allclose(found.losses[:, 0], found.linearised[:, 0], rtol=1e-12)
        gaps.append(np.abs(found.losses - found.linearised)[:, 3].mean())
    assert gaps[1] < gaps[0] / 50


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.0, 2), "eta=0"),
        ((np.nan, 2), "eta=nan"),
        ((0.1, 0), "batch_size=0"),
        ((0.1, 8), "batch_size=8"),
        ((0.1, 2.5), "batch_size=2.5"),
        ((0.1, 2, "epoch"), "sampling='epoch'"),
        ((0.1, 2, "subset"), "sampling='subset'"),
    ],
)
def test_edge_names_bad_input(arguments, name):
    with pytest.raises(ValueError, match=name):
        stability.edge(at(several_outputs("square")[0], "square", several_outputs("square")[1]), *arguments)


def test_escape_follows_its_linearisation_close_to_the_minimum(near_fit):
    model, data = near_fit
    found = stability.escape_runs(
        at_square(model, data), eta=0.2, batch_size=3, steps=6, trajectories=5, seed=2
    )
    assert found.losses.shape == found.linearised.shape == (5, 7)
    np.testing.assert_allclose(found.losses, found.linearised, rtol=1e-2)
    assert len(np.unique(found.losses[:, 1])) == 5  # each with batches of its own


def test_escape_does_not_depend_on_blocks(near_fit, monkeypatch):
    whole = stability.escape_runs(at_square(*near_fit), eta=0.2, batch_size=3, steps=4, trajectories=5).losses
    monkeypatch.setattr(stability, "_ENTRIES", 1)
    parts = stability.escape_runs(at_square(*near_fit), eta=0.2, batch_size=3, steps=4, trajectories=5).losses
    np.testing.assert_allclose(parts, whole, rtol=1e-10)


def test_escape_reports_divergence_as_infinity(near_fit):
    model = models.linear_network((4, 6, 6, 1), 0)
    found = stability.escape_runs(
        at_square(model, near_fit[1]), eta=30.0, batch_size=1, steps=30, trajectories=4
    )
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
        (np.ones((3, 5)), (0, 5), "window=.*at most 4"),
        (np.ones((3, 5)), (2, 2), "window=.*increasing"),
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


def test_what_the_chapter_reads_from_the_edge_of_stochastic_stability():
    """Late: steps 8 and 10 of 10. Fitting: a loss of 0.005 to 0.05; the last run diverged."""
    loss = np.array([[0.6, 0.04, 0.02, 1e-3], [0.6, 0.3, 0.2, 0.1], [np.inf] * 4])
    exact = np.array([[0.0, 1, 2, 4], [0.0, 3, 5, 7], [np.inf] * 4])
    stored = types.SimpleNamespace(
        arrays={
            "outputs_1_loss": loss[None, None],
            "outputs_1_exact": exact[None, None],
            "steps_1": np.array([[0, 5, 8, 10]]),
            "labels": np.array(["true"]),
        },
        batch_sizes=[5],
    )
    np.testing.assert_allclose(edges.phase_means(stored, 1, "exact")["true", 5], [3, 6])
    np.testing.assert_allclose(edges.phase_means(stored, 1, "exact", "fitting")["true", 5], [1.5])


def test_what_the_chapter_reads_from_the_sizes():
    size = np.array([[10, 10], [100, 100], [1000, 1000]])
    values = np.stack([np.ones((3, 2)), 3 * size**0.5 * [1.0, 2.0]], -1)
    diverged = np.zeros((3, 2), bool)
    stored = types.SimpleNamespace(
        arrays={"a_parameters": size[None], "a_trace": values[None], "a_diverged": diverged[None]}
    )
    fit = edges.slope(stored, "a", "trace", 0)
    assert (fit.value, fit.n) == (pytest.approx(0.5), 2)
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
