"""First passages of the loss of a network, against training step by step and against laws known exactly."""

import numpy as np
import pytest
import torch
from scipy.special import erfc

from flatmin.experiments import escape_network
from flatmin.networks import models, parameters, passages
from flatmin.networks.data import sets as datasets
from flatmin.networks.passes.generic import linearise
from flatmin.networks.train import run as training
from flatmin.pictures import logarithmic_network

LEVELS = (1.02, 1.1, 1.3, 2.0)


@pytest.fixture(scope="module")
def trained():
    """Digits, even against odd, and a network trained on them for a moment."""
    data = datasets.digits(300, "unit").train.parity()
    runs = training.run(
        models.mlp((64, 5, 1), 0, "glorot"),
        data,
        "square",
        eta=0.02,
        batch_size=50,
        steps=2000,
        checkpoints=1,
    )
    return data, runs.model_at()


def every_loss(model, data, seeds, steps, **options):
    runs = training.run(model, data, "square", steps=steps, seed=seeds, checkpoints=steps + 1, **options)
    return runs, runs.losses(data)


@pytest.mark.parametrize("batch_size", [1, 10, 7])
@pytest.mark.parametrize("sampling", ["shuffle", "replacement"])
def test_losses_and_passages_are_those_of_training(trained, batch_size, sampling):
    data, model = trained
    options = {"eta": 0.003 * batch_size, "batch_size": batch_size, "sampling": sampling}
    runs, losses = every_loss(model, data, [3, 4], 350, **options)
    found = passages.first_passages(
        model, data, LEVELS, seeds=[3, 4], steps=350, snapshots=[1.1, 1.3], keep_every=1, **options
    )
    np.testing.assert_allclose(found.reference, losses[:, 0], rtol=1e-5)
    for run in range(2):
        end = found.taken[run]
        np.testing.assert_allclose(found.losses[run, : end + 1], losses[run, : end + 1], rtol=1e-3)
        assert np.isnan(found.losses[run, end + 1 :]).all()
        own = found.losses[run, : end + 1] / found.reference
        for level, step in zip(LEVELS, found.steps[run], strict=True):
            expected = int((own > level).argmax()) if (own > level).any() else -1
            assert step == expected
        for kept, level in enumerate((1.1, 1.3)):
            step = found.steps[run, LEVELS.index(level)]
            if step >= 0:
                expected = runs.parameters[run, step].numpy()
                np.testing.assert_allclose(found.parameters[run, kept], expected, atol=2e-4)
    assert (found.steps[:, 0] > 0).all()


def test_a_linear_model_is_its_own_tangent_model():
    data = datasets.digits(200, "unit").train.parity()
    model = models.mlp((64, 1), 1, "glorot")
    options = {"eta": 0.02, "batch_size": 10}
    losses = every_loss(model, data, [5], 100, **options)[1]
    found = passages.first_passages(
        model, data, [5.0], seeds=[5], steps=100, linearised=True, keep_every=1, **options
    )
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)
    assert found.censored == [int(losses.max() <= 5 * losses[0, 0])]


def test_tangent_model_starts_like_the_network(trained):
    data, model = trained
    options = {"eta": 1e-3, "batch_size": 10, "seeds": [0], "steps": 20, "keep_every": 1}
    network, tangent = (
        passages.first_passages(model, data, [9.0], linearised=linear, **options) for linear in (False, True)
    )
    change = np.abs(network.losses - network.reference).max()
    assert np.abs(network.losses - tangent.losses).max() < 0.05 * change


def test_divergence_passes_every_level_and_ends_the_run(trained):
    data, model = trained
    for linearised in (False, True):
        found = passages.first_passages(
            model, data, LEVELS, eta=50.0, batch_size=10, seeds=[0], steps=200, linearised=linearised
        )
        assert (found.steps > 0).all()
        assert found.taken[0] == found.steps.max() < 30


def test_snapshots_lie_just_above_their_level(trained):
    data, model = trained
    found = passages.first_passages(
        model, data, LEVELS, eta=0.05, batch_size=5, seeds=range(3), steps=400, snapshots=[1.1]
    )
    for run in range(3):
        moved = parameters.with_parameters(model, torch.from_numpy(found.parameters[run, 0]))
        assert linearise(moved, data, "square").loss > 1.1 * found.reference * (1 - 1e-5)


def test_decoupled_first_step_is_gaussian():
    runs, size = 20_000, 10
    found = passages.decoupled_passages(
        [40.0], [1.05, 1.2, 1.5], eta=0.02, batch_size=size, steps=1, runs=runs
    )
    for level, column in zip((1.05, 1.2, 1.5), found.T, strict=True):
        expected = erfc(np.sqrt((level - 1) * size / 2) / 0.8)  # x = ηh ξ/√B, ηh = 0.8
        share = (column == 1).mean()
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / runs)


def test_decoupled_mean_loss_follows_its_recursion():
    # E|x|² ← (1 − ηh)² E|x|² + n(ηh)²(1 + E|x|²)/B: the median run passes where nothing stops it growing
    found = passages.decoupled_passages(
        np.full(50, 30.0), [1.5, 3.0, 1e6], eta=0.05, batch_size=2, steps=200, runs=50
    )
    assert (found > 0).all()  # 1.5² × 50/2 + 0.25 > 1: every run explodes
    assert (np.diff(found, axis=1) >= 0).all()
    calm = passages.decoupled_passages([30.0], [4.0], eta=0.005, batch_size=100, steps=200, runs=50)
    assert (calm == -1).all()


def test_tail_exponent_of_two_equal_chances():
    # |1 − ηĥ| is 1/2 or √2: E = 1 at √2^κ = golden ratio
    curvatures = torch.tensor([0.5, 1 + np.sqrt(2)])
    found = passages.tail_exponent(curvatures, 1.0, 1, draws=400_000)
    assert found == pytest.approx(np.log2((1 + np.sqrt(5)) / 2), abs=0.01)
    assert passages.tail_exponent(torch.tensor([0.5, 1.5]), 1.0, 1) == np.inf
    assert passages.tail_exponent(torch.tensor([2.5, 4.0]), 1.0, 1) == 0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"levels": []}, "levels"),
        ({"levels": [1.2, 1.1]}, "levels"),
        ({"levels": [1.0, 1.1]}, "levels"),
        ({"eta": 0.0}, "eta"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 301}, "batch"),
        ({"snapshots": [0.9]}, "snapshots"),
        ({"snapshots": [1.5], "linearised": True}, "snapshots"),
        ({"model": models.mlp((64, 5, 5, 1))}, "model"),
        ({"model": models.mlp((64, 5, 1), activation="tanh")}, "model"),
        ({"model": models.mlp((64, 5, 1), dtype=torch.float64)}, "float32"),
    ],
)
def test_refusals_name_the_argument(trained, changes, word):
    data, model = trained
    arguments = {"model": model, "data": data, "levels": LEVELS, "eta": 0.01, "batch_size": 10, "steps": 5}
    with pytest.raises(ValueError, match=word):
        passages.first_passages(**(arguments | {"seeds": [0]} | changes))
    with pytest.raises(ValueError, match="curvatures"):
        passages.decoupled_passages([1.0, -1.0], [2.0], eta=0.1, batch_size=1, steps=1, runs=1)
    with pytest.raises(ValueError, match="levels"):
        passages.decoupled_passages([1.0], [2.0, 1.5], eta=0.1, batch_size=1, steps=1, runs=1)
    with pytest.raises(ValueError, match="curvatures"):
        passages.tail_exponent(torch.tensor([-1.0]), 0.1, 1)


def test_experiment_looks_at_the_network_where_it_passes():
    point = {
        "data": "digits", "samples": 300, "pretraining": 500, "network": 1, "model": "network",
        "eta": 0.03, "batch_size": 10, "steps": 200, "runs": 3, "looked": 2,
    }  # fmt: skip
    found = escape_network.passages(point, 7)
    assert found["steps"].shape == (3, len(escape_network.LEVELS))
    assert found["local"].shape == (2, len(escape_network.SNAPSHOTS), len(escape_network.LOCAL))
    start = escape_network.sharpest(*escape_network.pretrained("digits", 300, 500, 1)[::-1])
    losses = found["local"][..., escape_network.LOCAL.index("loss")] / start["loss"]
    passed = np.isfinite(losses)
    assert passed[:, 0].all()
    assert (losses > 0.999 * np.array(escape_network.SNAPSHOTS))[passed].all()


def test_paths_are_centred_on_the_passage():
    losses = np.ones((2, 1000))
    losses[0, 500], losses[0, 700] = 2.5, 3.0
    path = escape_network.around(losses)
    assert path.shape == (2, 2 * escape_network.WINDOW + 1)
    assert path[0, escape_network.WINDOW] == 2.5
    assert path[0, -1] == 3.0
    assert np.isnan(path[1]).all()


def test_power_of_known_passages_and_its_error():
    rng, levels = np.random.default_rng(0), np.geomspace(1.1, 3, 20)
    found = []
    for _ in range(200):
        factors = rng.exponential(size=(100, 1)) + np.zeros((1, 20))
        factors[:, 10:] = rng.exponential(size=(100, 1))  # two groups of levels that share their runs
        found.append(
            passages.passage_power(100 * factors * levels**4, levels, between=(1.0, 9.0), resamples=100)
        )
    values, errors = np.array([(one.value, one.error) for one in found]).T
    assert abs(values.mean() - 4) < 4 * values.std() / np.sqrt(200)
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)
    exact = passages.passage_power(np.ones((5, 1)) * 10 * levels**3, levels, times=(20, 100))
    assert exact.value == pytest.approx(3)
    assert exact.error < 1e-9
    assert exact.window[0] >= 2 ** (1 / 3)


def test_power_refuses_levels_that_were_not_reached():
    levels, steps = np.geomspace(1.1, 3, 20), np.full((4, 20), 7)
    steps[0, 15:] = -1
    assert passages.passage_power(steps, levels, between=(1.0, levels[14])).value == pytest.approx(0)
    for arguments in ({"between": (1, 9)}, {"times": (8, 9)}, {}, {"times": (1, 9), "between": (1, 9)}):
        with pytest.raises(ValueError, match=r"between|times"):
            passages.passage_power(steps, levels, **arguments)


def test_time_ratio_of_two_networks_and_its_error():
    rng, levels = np.random.default_rng(1), np.array([1.2, 1.5, 1.9, 3.0])
    deviations = []
    for _ in range(300):
        four = [scale * rng.exponential(size=(80, 4)) for scale in (300, 100, 50, 200)]
        four[0][3, 2:] = -1  # one run of one network did not reach the third level
        own, linear, error, used = logarithmic_network.log_time_ratio([four], levels, 2)
        assert used == [1.5]
        deviations.append((own - np.log(3) - linear + np.log(0.25)) / error)
    assert abs(np.mean(deviations)) < 4 / np.sqrt(300)
    assert np.std(deviations) == pytest.approx(1, abs=0.15)


def test_powers_are_compared_at_the_same_levels():
    levels = np.geomspace(1.1, 3, 20)
    steps, tangent = (np.ones((5, 1)) * 10 * levels**power for power in (3, 2))
    late = np.where(levels < 2, tangent, -1)
    windows = ((20, 100), (10_000, 100_000))
    found = logarithmic_network.powers((steps, tangent, late), levels, windows)
    assert [fit.value for fit in found[0][:2]] == pytest.approx([3, 2])
    assert found[0][0].window == found[0][1].window
    assert found[0][2] is None
    assert found[1] == [None] * 3
    assert logarithmic_network.in_words(found, windows).endswith("–, –, –")


def test_start_of_the_experiment_agrees_with_the_dense_spectrum():
    point = {"data": "digits", "samples": 300, "pretraining": 500, "network": 1}
    found = escape_network.at_start(point, 0)
    data, model = escape_network.pretrained("digits", 300, 500, 1)
    rows = torch.cat(list(escape_network.output_gradients(model, data))).double()
    values = torch.linalg.eigvalsh(rows @ rows.T / len(data)).flip(0)
    assert found["h"] == pytest.approx(float(values[0]), rel=1e-3)
    assert found["dimension"] == pytest.approx(float(values.sum() ** 2 / values.square().sum()), rel=1e-3)
    assert found["trace"] == pytest.approx(float(values.sum()), rel=1e-4)
    assert (np.diff(found["threshold"]) <= 0).all()  # more directions, less room
    assert found["threshold"][0] < 2 / found["h"]
