"""Flatness on MNIST at its small scale: it records what the chapter reads."""

import numpy as np
import pytest

from flatmin.experiments import flatness_mnist
from flatmin.ledger import record
from flatmin.networks import scaling


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    from executors import Here

    folder = tmp_path_factory.mktemp("results")
    sweep = record.sweep
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "sweep", lambda *a, **k: sweep(*a, **k | {"executor": Here()}))
        flatness_mnist.EXPERIMENT.run(folder, True)
    return record.load("flatness-mnist", folder)


@pytest.mark.parametrize("key", ["base", "square", "small", "many"])
def test_every_setting_has_its_arrays(found, key):
    runs = 1 if key == "many" else 2
    shapes = {"loss": (), "accuracy": (), "whole": (10,), "layer": (10,), "output": (10,)}
    shapes |= {"norms": (3,), "turned": (3,), "dead": (2,), "size": ()}
    for name, shape in shapes.items():
        array = found.arrays[f"{key}_{name}"]
        assert array.shape == (runs, 3, 4, *shape), name
        assert array.dtype == np.float32
        assert np.isfinite(array).all(), name
    assert found.arrays[f"{key}_copy_whole"].shape == (runs, 3, 4, 10)
    assert (np.isfinite(found.arrays[f"{key}_factor"]) <= (found.arrays[f"{key}_late"] >= 0)).all()


def test_runs_are_paired_by_their_start(found):
    assert np.array_equal(found.base_whole[0, :, 0], found.base_whole[1, :, 0])
    assert not np.array_equal(found.base_whole[0, :, 1], found.base_whole[1, :, 1])


def test_methods_are_switched_in_the_middle(found):
    for key in ("sgd_first", "gd_first"):
        assert found.arrays[f"{key}_loss"].shape == (2, 2, 3, len(found.late_at))
    # what has switched from GD late is nearer to GD throughout than what switched early
    after = [list(found.at).index(tau) for tau in found.late_at]
    throughout = scaling.log_flatness(found.base_whole)[1][:, after]
    switched = scaling.log_flatness(found.gd_first_whole)[0]
    assert np.abs(switched[1] - throughout).mean() < np.abs(switched[0] - throughout).mean() + 0.1


def test_full_scale_compares_where_it_measures():
    more = flatness_mnist.EXPERIMENT.full.more
    assert set(more["compared_at"]) <= set(more["at"])
    for eta in more["eta"]:
        steps = np.array(flatness_mnist.steps_of(more["at"], eta))
        assert np.allclose(steps * eta, more["at"], rtol=1e-9)
