"""M22's model with its steps kept discrete."""

import numpy as np
import pytest
from scipy.special import erfc

from flatmin.theory.logarithmic.passages import decoupled_passages


def test_decoupled_first_step_is_gaussian():
    runs, size = 20_000, 10
    found = decoupled_passages([40.0], [1.05, 1.2, 1.5], eta=0.02, batch_size=size, steps=1, runs=runs)
    for level, column in zip((1.05, 1.2, 1.5), found.T, strict=True):
        expected = erfc(np.sqrt((level - 1) * size / 2) / 0.8)  # x = ηh ξ/√B, ηh = 0.8
        share = (column == 1).mean()
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / runs)


def test_decoupled_mean_loss_follows_its_recursion():
    # E|x|² ← (1 − ηh)² E|x|² + n(ηh)²(1 + E|x|²)/B: the median run passes where nothing stops it growing
    found = decoupled_passages(np.full(50, 30.0), [1.5, 3.0, 1e6], eta=0.05, batch_size=2, steps=200, runs=50)
    assert (found > 0).all()  # 1.5² × 50/2 + 0.25 > 1: every run explodes
    assert (np.diff(found, axis=1) >= 0).all()
    calm = decoupled_passages([30.0], [4.0], eta=0.005, batch_size=100, steps=200, runs=50)
    assert (calm == -1).all()


def test_a_diverging_run_passes_every_level():
    found = decoupled_passages([1.0], [2.0, 1e140], eta=1e3, batch_size=1, steps=400, runs=4)
    assert (found > 0).all()


def test_refusals():
    with pytest.raises(ValueError, match="curvatures"):
        decoupled_passages([1.0, -1.0], [2.0], eta=0.1, batch_size=1, steps=1, runs=1)
    with pytest.raises(ValueError, match="levels"):
        decoupled_passages([1.0], [2.0, 1.5], eta=0.1, batch_size=1, steps=1, runs=1)
