"""The experiments of the network wing at their small scale: they run, and record what the chapter reads."""

import numpy as np
import pytest
import torch

from flatmin.experiments import (
    escape_network,
    noise_alignment,
    noise_spectrum,
    noise_square,
    noise_strength,
    noise_strength_wide,
    one_network,
    parity_network,
    stability_edge,
    stability_escape,
    stability_size,
    stability_training,
)
from flatmin.ledger import record
from flatmin.networks import curvature, models
from flatmin.networks.data import sets
from flatmin.networks.point import at

#: arrays the chapter reads, with the shape of the small scale (None: any length)
SHAPES = {
    noise_spectrum: {"curvature": (2, 4, None), "noise": (2, 4, None), "epochs": (4,), "loss": (2, 4)},
    noise_square: {"one_curvature": (2, 2, 144), "ten_noise": (2, 2, 144), "ten_loss": (2, 2)},
    parity_network: {
        "exact": (1, 3, 3, None),
        "decoupled": (1, 3, 3, None),
        "distance": (1, 3, 3),
        "loss": (1, 3, 3),
        "top_values": (1, 5, 30),
        "top_dimension": (1, 5),
        "top_loss": (1, 5),
    },
    noise_strength: {
        "fcn_square_loss": (2, 15),
        "fcn_square_trace_g": (2, 15),
        "fcn_xent_strength": (2, 15),
        "fcn_square_epochs": (15,),
    },
    noise_strength_wide: {
        "large_square_loss": (2, 8),
        "large_square_trace_g": (2, 8),
        "large_xent_strength": (2, 5),
        "half_square_loss": (3, 5),
        "half_xent_strength": (2, 5),
    },
    noise_alignment: {
        "fcn_mu": (2, 2, 4),
        "cnn_gamma": (2, 2, 4),
        "rfm_parameters": (2, 2),
        "linear_steps": (4,),
    },
    stability_training: {
        "fcn_frobenius": (1, 2, 2, 4),
        "cnn_largest_step": (1, 2, 2, 4),
        "fcn_mu": (1, 2, 2, 4),
        "fcn_spaces": (1, 2, 2, 4),
        "fcn_batch_sharpness": (1, 2, 2, 4),
        "cnn_typical": (1, 2, 2),
        "fcn_eta": (1,),
        "batch_sizes": (2,),
    },
    stability_edge: {
        "outputs_1_exact": (2, 3, 1, 2, 3),
        "outputs_1_sharpness": (2, 3, 1, 2, 3),
        "outputs_1_typical": (2, 3, 1, 2),
        "steps_1": (3, 3),
    },
    stability_size: {
        "fcn_frobenius": (2, 2, 2, 2),
        "linear_trace": (2, 2, 2, 2),
        "fcn_spaces": (2, 2, 2, 2),
        "linear_typical": (2, 2, 2),
        "one_hot_frobenius": (2, 2),
    },
    stability_escape: {
        "fcn_losses": (2, 2, 4, 21),
        "cnn_mean": (2, 2, 21),
        "rfm_descent": (2, 21),
        "linear_growth": (2, 2),
        "fcn_scaled_log": (2, 41),
        "cnn_scaled_gap": (2, 61),
    },
    escape_network: {
        "network": (2, 3, 4, 64),
        "tangent": (2, 3, 4, 64),
        "decoupled": (2, 3, 4, 64),
        "smaller_network": (2, 2, 4, 64),
        "threshold": (2,),
        "h": (2,),
    },
    one_network: {
        "parity_variance": (2, 2, 12),
        "parity_lifted": (2, 2),
        "edge_left": (2, 2, 5, 10),
        "edge_time": (2, 2, 20, 2),
        "valley_trace": (2, 2, 3, 4),
        "valley_exact": (2, 2, 3),
        "ten_variance": (2, 1, 12),
    },
}


@pytest.mark.parametrize("module", SHAPES, ids=lambda module: module.EXPERIMENT.name)
@pytest.mark.usefixtures("sweeps_here")
def test_the_small_scale_records_what_the_chapter_reads(module, tmp_path):
    module.EXPERIMENT.run(tmp_path, True)
    found = record.load(module.EXPERIMENT.name, tmp_path)
    for name, shape in SHAPES[module].items():
        array = np.asarray(found.arrays[name])
        assert array.ndim == len(shape)
        assert all(want in (None, have) for want, have in zip(shape, array.shape, strict=True)), name
        if array.dtype.kind == "f":
            assert np.isfinite(array).all(), name
    assert found.provenance["command"] == module.EXPERIMENT.command


def test_the_gram_matrix_in_rows_gives_the_dimension_and_the_distance():
    data = sets.digits(scale="unit").train.first(300).parity()
    here = at(models.mlp((64, 5, 1), dtype=torch.float64), "square", data.to(torch.float64))
    square, between = parity_network.gram_sums(here, rows=70)
    assert square**0.5 == pytest.approx(float(curvature.gauss_newton(here).norm()))
    assert (between / square) ** 0.5 == pytest.approx(here.noise.decoupling().distance)


def test_noise_alignment_uses_a_stable_step_for_random_features():
    data = noise_alignment.task("rfm", 0)
    model = noise_alignment.network("rfm", 50, 0, data)
    features = model[0](data.inputs)
    largest = np.linalg.eigvalsh((features.T @ features / len(data)).numpy())[-1]
    assert noise_alignment.step_size("rfm", model, data) == pytest.approx(1 / largest, rel=1e-4)


def test_a_noise_strength_run_continues_where_it_was_killed_also_with_more_epochs(tmp_path, monkeypatch):
    plain = noise_strength.QUICK | {"loss": "square", "epochs": [0, 1, 2, 4], "repeat": 0}
    point = plain | {"states": str(tmp_path)}
    whole = noise_strength.measure(plain, 0)
    short = noise_strength.measure(point | {"epochs": [0, 1]}, 0)
    assert len(list(tmp_path.iterdir())) == 1
    trained, calls = noise_strength.trained, []
    monkeypatch.setattr(noise_strength, "trained", lambda *a: (calls.append(a[4:]), trained(*a))[1])
    longer = noise_strength.measure(point, 0)
    assert calls == [(1, 2), (2, 4)]
    for name in noise_strength.MEASURES:
        assert np.array_equal(longer[name], whole[name])
        assert np.array_equal(short[name], whole[name][:2])
    assert longer["seconds"] > short["seconds"] > 0


def test_a_damaged_state_of_a_noise_strength_run_is_named_and_computed_again(tmp_path):
    point = noise_strength.QUICK | {"loss": "square", "epochs": [0, 1], "repeat": 0, "states": str(tmp_path)}
    whole = noise_strength.measure(point, 0)
    (file,) = tmp_path.iterdir()
    for content in (file.read_bytes()[:-100], b""):
        file.write_bytes(content)
        with pytest.warns(UserWarning, match=file.name):
            again = noise_strength.measure(point, 0)
        assert np.array_equal(again["strength"], whole["strength"])


def test_a_diverged_noise_strength_run_reads_infinity(monkeypatch):
    monkeypatch.setitem(noise_strength.ETA["fcn"], "square", 1e6)
    point = noise_strength.QUICK | {"loss": "square", "epochs": [0, 10, 20], "repeat": 0}
    found = noise_strength.measure(point, 0)
    assert np.isfinite(found["loss"][0])
    assert np.isinf(found["loss"][1:]).all()
