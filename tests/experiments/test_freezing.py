"""The experiments on freezing at their small scale: what they record, and what is shared between runs."""

import numpy as np
import pytest

from flatmin.experiments import freezing, freezing_cnn
from flatmin.experiments.freezing_runs import Ends, Task
from flatmin.ledger import record
from flatmin.networks.commitment import CRITERIA
from flatmin.networks.freezing import Counts, search

R, T, S = 5, 6, 21


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The small scale, recorded in this process."""
    folder, patch = tmp_path_factory.mktemp("freezing"), pytest.MonkeyPatch()
    from executors import Here

    sweep = record.sweep
    patch.setattr(record, "sweep", lambda *given, **how: sweep(*given, **({"executor": Here()} | how)))
    freezing.EXPERIMENT.run(folder, quick=True)
    patch.undo()
    return record.load("freezing", folder)


@pytest.fixture(scope="module")
def one():
    """A trained cell of the small scale."""
    point = freezing.EXPERIMENT.quick.grids["cells"].points[-1]
    task = Task(point)
    runs = task.sgd(point["eta"], point["batch_size"], 1)
    return task, runs, Ends(task, runs, point["least_step"], point["repeats"])


@pytest.mark.parametrize(
    ("name", "shape"),
    {
        "cells_noise": (2, 2),
        "cells_loss": (2, 2, R, S),
        "cells_test_correct": (2, 2, R, 21),
        "cells_flat": (2, 2, 5, 21),
        "cells_end_loss": (2, 2, R, T, 2),
        "cells_end_flat": (2, 2, R, T),
        "cells_same_few": (2, 2, R, T, 2, 2),
        "cells_same_barrier": (2, 2, R, T, 2),
        "cells_frozen": (2, 2, R, len(CRITERIA), 2, 3),
        "cells_pair_all": (2, 2, 3, 2, 2),
        "cells_distance": (2, 2, 3, 2),
        "cells_radius": (2, 2, 2, 2, 2),
        "cells_sharpness": (2, 2, 5, 2),
        "control_frozen": (1, 1, R, len(CRITERIA), 2, 3),
        "figure_flat": (R, 4, 2),
        "figure_same_all": (3, 10, 2),
        "figure_path_axes": (2, 4, 2),
        "valley_barrier": (4, 4, 2),
        "valley_spectrum": (4, 64),
        "step_all": (1, 2, T, 2),
        "corridor_losses": (1, 1, 2, 10, 11),
    }.items(),
)
def test_the_small_scale_records_what_the_text_lists(recorded, name, shape):
    assert np.shape(recorded.arrays[name]) == shape


def test_the_full_record_has_the_same_arrays(recorded):
    full = record.load("freezing")
    assert set(full.arrays) == set(recorded.arrays)
    for name, values in full.arrays.items():
        assert np.ndim(values) == np.ndim(recorded.arrays[name])


def test_the_noise_is_that_of_batches_without_replacement(recorded):
    eta, size = np.meshgrid(recorded.etas, recorded.batch_sizes, indexing="ij")
    n = recorded.samples
    assert recorded.cells_noise == pytest.approx(eta * (n - size) / (size * (n - 1)))


def test_every_checkpoint_is_like_itself_and_the_last_is_the_reference(recorded):
    few, agree = recorded.cells_same_few[:, :, :2, -1], recorded.cells_same_agree[:, :, :2, -1]
    assert (few[..., 0] == few[..., 1]).all()
    assert (agree == recorded.tests).all()
    assert (recorded.cells_same_barrier[:, :, :2, -1] == 0).all()
    assert (recorded.cells_end_steps[:, :, :2, -1, 0] == 0).all()  # as coded it is raw


def test_freezing_times_of_runs_are_ordered(recorded):
    frozen = recorded.cells_frozen[:, :, :2].astype(int)
    exact, reference, found = np.moveaxis(frozen, -1, 0)
    assert (reference <= exact).all()  # all pairs include those with the reference
    assert (found <= reference).all()  # the search leaves checkpoints out
    assert (frozen[:, :, :, 0] <= frozen[:, :, :, 1]).all()  # 0.95 asks for more than 0.9
    assert (frozen[:, :, :, 1] <= frozen[:, :, :, 2]).all()


def test_the_search_among_the_checkpoints_is_the_authors(one):
    task, _, ends = one
    rng, count = np.random.default_rng(0), len(task.times)
    upper, grid = np.stack(np.triu_indices(count), 1), np.flatnonzero(task.times % 5 == 0)
    for _ in range(200):
        last = np.append(rng.random(count - 1) < 0.6, True)
        alike = (last[upper[:, 0]] & last[upper[:, 1]]) | (upper[:, 0] == upper[:, 1])
        exact, reference, found = ends._frozen(alike, upper)
        assert exact == reference == count - np.logical_and.accumulate(last[::-1]).sum()
        coarse, _ = search(lambda k, last=last: last[grid[k]], len(grid), coarse=1)
        low = grid[coarse - 1] if coarse else -1
        inside = [k for k in range(low + 1, grid[coarse] + 1) if coarse and not last[k]]
        assert found == (max(inside) + 1 if inside else low + 1)


def test_the_shared_start_is_continued_once_for_all_its_repeats(one):
    task, _, ends = one
    for start in (0, 1):
        rows = np.flatnonzero(task.start[ends.rows] == start)
        assert len(np.unique(ends.which[rows, 0])) == 1
        assert len(np.unique(ends.which[rows, 1:])) == len(rows) * (len(task.times) - 1)
    assert len(ends.k) == ends.which.max() + 1 == 5 * 5 + 2


def test_the_same_seed_gives_the_same_arrays():
    point = freezing.EXPERIMENT.quick.grids["corridor"].points[0]
    one, again, other = (freezing.corridor(point, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["losses"], other["losses"])


def test_thresholds_compare_whole_numbers():
    assert Counts(np.array([18]), np.array([20])).at_least(0.9).all()
    assert not Counts(np.array([179]), np.array([199])).at_least(0.9).any()


def test_the_network_of_images_records_the_same_cells(tmp_path, sweeps_here):
    freezing_cnn.EXPERIMENT.run(tmp_path, quick=True)
    found = record.load("freezing-cnn", tmp_path)
    assert np.shape(found.cells_frozen)[-3:] == (len(CRITERIA), 2, 3)
    assert np.isfinite(found.cells_end_loss).any()
    assert set(found.arrays) == set(record.load("freezing-cnn").arrays)
