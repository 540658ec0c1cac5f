import numpy as np
import pytest
import sympy as sp

from flatmin.theory.noise import HessianAligned, RandomShift
from flatmin.theory.printed import y26_a37, y26_eq9, y26_eq11, y26_eq11_regime, y26_eq12
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.two_valleys.freezing_point import Path, follow
from flatmin.theory.two_valleys.hopping import FrozenChain, frozen
from flatmin.theory.two_valleys.landscape import PAPER, barrier, flatness, path_drift, two_valleys

PAPER_LANDSCAPE = two_valleys().at(**PAPER)
EPS_PHI = 4e-4


def phi_of_y(printed=False):
    """Φ(y) of A36; as printed (the first line of A37) half of it."""
    slope = sp.diff(barrier() * (flatness("flat") - flatness("sharp")), PAPER_LANDSCAPE.symbol("y"))
    return PAPER_LANDSCAPE.function(path_drift() * slope / (4 if printed else 2))


def test_phi_is_the_drift_times_the_slope_of_the_exponent():
    """Φ(y) against a finite difference of ΔL (f₁ − f₂)/2 times the drift: the printed one is half of it."""
    derived, printed = phi_of_y(), phi_of_y(printed=True)
    h = 1e-4
    for y in (1.0, 7.0, 30.0):
        low, high = frozen(PAPER_LANDSCAPE, y - h), frozen(PAPER_LANDSCAPE, y + h)
        gap = [float(s.barrier * (s.f["flat"] - s.f["sharp"])) for s in (low, high)]
        drift = 0.01 * np.exp(-y / 100) + 40 * y / (y + 20) ** 3
        expected = drift * (gap[1] - gap[0]) / (2 * h) / 2
        assert float(derived(0.0, y)) == pytest.approx(expected, rel=1e-7, abs=0)
        assert float(printed(0.0, y)) == pytest.approx(expected / 2, rel=1e-7, abs=0)


def test_bound_is_above_phi_everywhere():
    y = np.linspace(0.1, 200, 2000)
    printed = phi_of_y(printed=True)(0.0, y)
    bound = y26_a37(PAPER_LANDSCAPE)
    assert printed.max() < bound < 1.2 * printed.max()


def test_equation_11_solves_a39_and_equation_12_is_9_there():
    delta_s = np.array([1e-4, 1e-3, 4e-3])
    y = y26_eq11(PAPER_LANDSCAPE, delta_s, EPS_PHI)
    exponent = (PAPER["x2"] * y / (PAPER["y_b"] + y)) ** 2 / (2 * delta_s)
    np.testing.assert_allclose(exponent, np.log(np.sqrt(delta_s) / EPS_PHI), rtol=1e-12)
    direct = y26_eq9(frozen(PAPER_LANDSCAPE, y), delta_s, asymptotic=True)
    np.testing.assert_allclose(y26_eq12(PAPER_LANDSCAPE, delta_s, EPS_PHI), direct, rtol=1e-12)


def test_no_freezing_point_outside_the_regime():
    # below: the logarithm is negative; above: the estimate lies beyond y = ∞
    for delta_s in (1e-8, 0.5):
        assert not 0 < y26_eq11_regime(PAPER_LANDSCAPE, delta_s, EPS_PHI) < 1
        assert np.isnan(y26_eq11(PAPER_LANDSCAPE, delta_s, EPS_PHI))
        assert np.isnan(y26_eq12(PAPER_LANDSCAPE, delta_s, EPS_PHI))
    with pytest.raises(ValueError, match=r"eps_phi=0\.0: must be finite real numbers above 0"):
        y26_eq11_regime(PAPER_LANDSCAPE, 1e-3, 0.0)


@pytest.mark.parametrize(
    ("noise", "power", "eta", "sigma"), [(HessianAligned, 1, 0.05, 0.05), (RandomShift, 2, 0.02, 0.02)]
)
def test_rate_equation_predicts_the_simulation_without_a_constant(noise, power, eta, sigma):
    n, steps = 1024, 12_000
    start_x = np.where(np.arange(n) % 2 == 0, -0.01, 0.01)
    runs = simulate(
        PAPER_LANDSCAPE, noise(sigma), eta=eta, steps=steps, start=(start_x, 5.0), trajectories=n, seed=17,
        hops="x",
    )  # fmt: skip
    path = follow(PAPER_LANDSCAPE, eta, eta * sigma, start_y=5.0, steps=steps, power=power)
    flat = np.mean(runs.final[:, 0] > 0)
    assert abs(flat - path.flat[-1]) < 4 * np.sqrt(path.flat[-1] * (1 - path.flat[-1]) / n)
    for values, (mean, spread) in (
        (runs.hops.last, path.last_hop()),
        (runs.hops.position[:, 1], path.freezing_y()),
    ):
        assert abs(values.mean() - mean) < 4 * values.std() / np.sqrt(n)
        assert spread == pytest.approx(values.std(), rel=0.1)
    still = np.mean(runs.hops.number == 0)
    assert abs(still - path.settled[0]) < 4 * np.sqrt((still + 1 / n) / n)
    assert path.y[-1] == pytest.approx(runs.final[:, 1].mean(), rel=2e-3)


@pytest.mark.parametrize(
    ("eta", "delta_s", "power"),
    [(0.05, 2e-3, 1), (0.00278, 2.78e-4, 2), (0.00167, 2.15e-5, 2)],  # the last two move little in y
)
def test_rate_equation_does_not_hang_on_its_grid(eta, delta_s, power):
    options = {"start_y": 5.0, "steps": 8000, "power": power}
    coarse = follow(PAPER_LANDSCAPE, eta, delta_s, resolution=0.7, points=1000, **options)
    fine = follow(PAPER_LANDSCAPE, eta, delta_s, resolution=0.1, points=4000, **options)
    assert coarse.flat[-1] == pytest.approx(fine.flat[-1], abs=2e-4)
    assert coarse.last_hop()[0] == pytest.approx(fine.last_hop()[0], rel=5e-3, abs=0.5)
    assert np.all(np.diff(fine.settled) >= 0)
    assert fine.settled[-1] == pytest.approx(1)


def test_without_hops_the_start_decides():
    path = follow(PAPER_LANDSCAPE, 0.01, 1e-5, start_y=5.0, start_x=(-0.05, 0.05, 0.05, 0.05), steps=500)
    assert np.all(path.flat == 0.75)
    assert path.last_hop()[0] == pytest.approx(0, abs=1e-6)
    assert path.freezing_y()[0] == pytest.approx(5.0, abs=1e-6)


def test_start_on_the_ridge_is_split_by_the_chain():
    path = follow(PAPER_LANDSCAPE, 0.02, 1e-3, start_y=5.0, start_x=0.0, steps=200)
    chain = FrozenChain(frozen(PAPER_LANDSCAPE, 5.0), 0.02, 1e-3)
    assert path.flat[0] == pytest.approx(float(chain.settled_flat(0.0)))
    assert 0.4 < path.flat[0] < 0.7


def test_bad_steps_are_named():
    with pytest.raises(ValueError, match="steps=0: must be an integer at least 1"):
        follow(PAPER_LANDSCAPE, 0.01, 1e-3, start_y=5.0, steps=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start_x": 2.0}, r"start_x=2\.0: must be between -0\.4"),
        ({"start_y": -5.0}, r"start_y=-5\.0"),
        ({"resolution": 0.0}, r"resolution=0\.0"),
        ({"points": 0}, "points=0"),
        ({"power": 3}, "power=3"),
        ({"eta": 0.5}, r"eta=0\.5: must be below f"),
        ({"landscape": two_valleys()}, "landscape='two valleys': must be"),
    ],
)
def test_bad_arguments_of_the_rate_equation_are_named(change, words):
    good = {"landscape": PAPER_LANDSCAPE, "eta": 0.02, "delta_s": 1e-3, "start_y": 5.0, "steps": 100}
    with pytest.raises(ValueError, match=words):
        follow(**(good | change))


def test_moments_of_the_last_hop_weigh_each_interval_at_its_middle():
    # a quarter never hops, half hops last in (0, 2), a quarter in (2, 6): means ½·1 + ¼·4 and ¼·5 + ½·6 + ¼·9
    settled, half = np.array([0.25, 0.75, 1.0]), np.full(3, 0.5)
    path = Path(np.array([0.0, 2.0, 6.0]), np.array([5.0, 7.0, 11.0]), half, settled)
    assert path.last_hop() == pytest.approx((1.5, np.sqrt(0.25 * 1.5**2 + 0.5 * 0.5**2 + 0.25 * 2.5**2)))
    assert path.freezing_y()[0] == pytest.approx(6.5)
