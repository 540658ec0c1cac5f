import numpy as np
import pytest

from flatmin.theory.transition import half_lost, onset, peak


def test_onset_of_a_known_square_root():
    # s = (Δ − 2)(1 + 0.3(Δ − 2)) with noise between trajectories
    rng = np.random.default_rng(1)
    control = np.linspace(1.9, 2.4, 30)
    s = np.maximum(control - 2, 0) * (1 + 0.3 * (control - 2))
    value, error, count = onset(control, s[:, None] + 0.01 * rng.standard_normal((30, 40)))
    assert abs(value - 2) < 4 * error
    assert 0 < error < 0.01
    assert count == 40


def test_peak_of_a_known_parabola():
    rng = np.random.default_rng(2)
    control = np.geomspace(0.5, 2, 21)
    times = np.exp(-(np.log(control / 1.1) ** 2)) * 5
    value, error, _ = peak(control, times[:, None] * rng.uniform(0.9, 1.1, (21, 200)))
    assert abs(value - 1.1) < 4 * error < 0.1


def test_half_lost_of_a_known_sigmoid():
    rng = np.random.default_rng(3)
    control = np.geomspace(0.1, 10, 25)
    fraction = 1 / (1 + control**-3)
    value, error, _ = half_lost(control, rng.random((25, 400)) < fraction[:, None])
    assert abs(value - 1) < 4 * error < 0.5


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (onset, (np.arange(5.0), np.zeros((5, 3))), "holds 0 points"),
        (peak, (np.arange(1.0, 9), np.arange(1.0, 9)[:, None]), "too near an end"),
        (half_lost, (np.arange(1.0, 4), np.zeros((3, 2), bool)), "not across ½"),
    ],
)
def test_what_cannot_be_read_off_is_refused(function, arguments, words):
    with pytest.raises(ValueError, match=words):
        function(*arguments)
