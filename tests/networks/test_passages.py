"""First passages of the loss of a network, against training step by step and against laws known exactly."""

import numpy as np
import pytest
import torch

from flatmin.experiments import escape_network
from flatmin.networks import models, parameters, passage_times, passages
from flatmin.networks.data import sets as datasets
from flatmin.networks.point import at
from flatmin.networks.train import train

LEVELS = (1.02, 1.1, 1.3, 2.0)


@pytest.fixture(scope="module")
def trained():
    """Digits, even against odd, and a network trained on them for a moment."""
    data = datasets.digits(300, "unit").train.parity()
    runs = train(
        models.mlp((64, 5, 1), 0, "glorot"),
        "square",
        data,
        eta=0.02,
        batch_size=50,
        steps=2000,
        keep=1,
    )
    return data, runs.model_at()


def every_loss(model, data, seeds, steps, **options):
    runs = train(model, "square", data, steps=steps, seed=seeds, keep=steps + 1, **options)
    return runs, runs.losses(data)


@pytest.mark.parametrize("batch_size", [1, 10, 7])
@pytest.mark.parametrize("sampling", ["epoch", "replacement"])
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
    assert (found.steps < 0).sum(0) == [int(losses.max() <= 5 * losses[0, 0])]


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
        assert at(moved, "square", data).passed.loss > 1.1 * found.reference * (1 - 1e-5)


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
        ({"seeds": [-1]}, "seeds"),
        ({"sampling": "shuffle"}, "sampling"),
        ({"keep_every": 0}, "keep_every"),
        ({"model": models.mlp((64, 5, 5, 1))}, "model"),
        ({"model": models.mlp((64, 5, 1), activation="tanh")}, "model"),
        ({"model": models.mlp((64, 5, 1), dtype=torch.float64)}, "float32"),
    ],
)
def test_refusals_name_the_argument(trained, changes, word):
    data, model = trained
    arguments = {"model": model, "data": data, "levels": LEVELS, "eta": 0.01, "batch_size": 10, "steps": 5}
    with pytest.raises(ValueError, match=word):
        passages.first_passages(**({"seeds": [0]} | arguments | changes))


POINT = {
    "data": "digits", "samples": 300, "pretraining": 500, "network": 1, "eta": 0.03, "batch_size": 10,
    "steps": 200, "runs": 3,
}  # fmt: skip


def test_experiment_looks_at_the_network_where_it_passes():
    found = escape_network.looked(POINT, 7)
    shape = (escape_network.LOOKED, len(escape_network.SNAPSHOTS))
    assert all(found[f"local_{name}"].shape == shape for name in ("h", "noise", "loss"))
    start = escape_network.sharpest(*escape_network.network_of(POINT)[::-1])
    losses = found["local_loss"] / start["loss"]
    passed = np.isfinite(losses)
    assert passed[:, 0].all()
    assert (losses > 0.999 * np.array(escape_network.SNAPSHOTS))[passed].all()


def test_experiment_gives_a_network_and_its_linearisation_the_same_batches():
    found = escape_network.passages(POINT | {"runs": 20}, 7)
    shape = (20, len(escape_network.LEVELS))
    assert [found[name].shape for name in ("network", "tangent", "decoupled")] == [shape] * 3
    for other, least, most in (("tangent", 0.8, 1), ("decoupled", -0.7, 0.7)):  # 20 pairs: ±0.22 by chance
        place = np.flatnonzero((found["network"] >= 0).all(0) & (found[other] >= 0).all(0))[-1]
        logs = np.log([found[name][:, place] for name in ("network", other)])
        assert least < np.corrcoef(logs)[0, 1] < most
    seeds = [escape_network.seeds_of(POINT | {"network": k}, first, 20) for k in (1, 2) for first in (0, 20)]
    assert len(np.unique(seeds)) == 80


def test_paths_are_centred_on_the_passage():
    losses = np.ones((2, 1000))
    losses[0, 500], losses[0, 700] = 2.5, 3.0
    path = passage_times.around(losses, escape_network.SHOWN, escape_network.WINDOW)
    assert path.shape == (2, 2 * escape_network.WINDOW + 1)
    assert path[0, escape_network.WINDOW] == 2.5
    assert path[0, -1] == 3.0
    assert np.isnan(path[1]).all()


def test_powers_are_compared_at_the_same_levels():
    levels = np.geomspace(1.1, 3, 20)
    steps, tangent = (np.round(np.ones((5, 1)) * 1e8 * levels**power).astype(int) for power in (3, 2))
    late = np.where(levels < 2, tangent, -1)
    windows = ((2e8, 1e9), (1e11, 1e12))
    found = passage_times.powers((steps, tangent, late), levels, windows)
    assert [fit.value for fit in found[0][:2]] == pytest.approx([3, 2])
    assert found[0][0].window == found[0][1].window
    assert found[0][2] is None
    assert found[1] == [None] * 3


def test_start_of_the_experiment_agrees_with_the_dense_spectrum():
    found = escape_network.at_start(POINT, 0)
    data, model = escape_network.network_of(POINT)
    rows = torch.cat(list(escape_network.output_gradients(model, data))).double()
    values = torch.linalg.eigvalsh(rows @ rows.T / len(data)).flip(0)
    assert found["h"] == pytest.approx(float(values[0]), rel=1e-3)
    assert found["dimension"] == pytest.approx(float(values.sum() ** 2 / values.square().sum()), rel=1e-3)
    assert 0 < found["threshold"] < 2 / found["h"]  # SGD is unstable before descent is
