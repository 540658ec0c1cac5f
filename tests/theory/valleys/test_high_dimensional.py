"""The valley of many directions: its structure against sympy, its step against the printed kernels."""

import numpy as np
import pytest
import sympy as sp

from flatmin.theory.noise import HessianAligned, Isotropic, NoNoise, RandomShift
from flatmin.theory.sgd.simulate import Passage, simulate
from flatmin.theory.valleys.high_dimensional import (
    HighDimensionalValley,
    high_dimensional_valley,
    isotropic_strength,
)
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

SMALL = high_dimensional_valley(2, 3, epsilon=0.01, seed=3)
POINT = np.array([0.3, -0.2, 0.5, 0.4, -0.7])
TWO = HighDimensionalValley([8.0], [[-2.0]], [[1.0]], epsilon=0.02)


def test_structure_is_that_of_the_expression():
    whole, vector = SMALL.landscape(), np.arange(1.0, 6.0)
    there = dict(zip(whole.coordinates, POINT, strict=True))
    hessian = np.array(whole.hessian.subs(there), dtype=float)
    assert SMALL.loss(POINT) == pytest.approx(whole.function(whole.loss)(*POINT), rel=1e-13)
    np.testing.assert_allclose(SMALL.gradient(POINT), whole.function(whole.gradient)(*POINT), rtol=1e-12)
    np.testing.assert_allclose(SMALL.hessian_product(POINT, vector), hessian @ vector, rtol=1e-12)
    np.testing.assert_allclose(SMALL.curvatures(POINT), np.diag(hessian)[3:], rtol=1e-13)


@pytest.mark.parametrize(
    "noise", [RandomShift(0.05), Isotropic(0.3), NoNoise()], ids=lambda n: type(n).__name__
)
def test_compiled_step_is_that_of_the_expression(noise):
    run = {"eta": 0.05, "steps": 200, "start": POINT.tolist(), "trajectories": 5, "seed": 7, "keep": 5}
    own, printed = (simulate(each, noise, **run) for each in (SMALL, SMALL.landscape()))
    assert not own.diverged.any()
    # 200 steps of rounding, some n·eps
    np.testing.assert_allclose(own.trajectories, printed.trajectories, rtol=1e-9, atol=1e-11)


def test_one_and_one_is_the_valley_of_the_paper():
    valley = near_degenerate_valley().at(epsilon=0.02, lambda_0=8, lambda_1=-2, lambda_2=1)
    run = {
        "eta": 0.04,
        "steps": 2000,
        "start": (0.5, 0.3),
        "trajectories": 64,
        "seed": 2,
        "keep": [1000, 2000],
    }
    own, known = (simulate(each, RandomShift(0.3), **run).trajectories for each in (TWO, valley))
    for power in (1, 2):  # moments over 64 trajectories; the streams are the same, rounding is not
        np.testing.assert_allclose((own**power).mean(axis=0), (known**power).mean(axis=0), atol=1e-6)


def test_numbers_do_not_hang_on_threads_nor_on_the_other_trajectories():
    run = {"eta": 0.05, "steps": 100, "start": POINT.tolist(), "seed": 5}
    many = simulate(SMALL, RandomShift(0.1), trajectories=40, threads=2, **run).final
    few = simulate(SMALL, RandomShift(0.1), trajectories=3, threads=1, **run).final
    np.testing.assert_array_equal(many[:3], few)
    assert np.ptp(many[:, 0]) > 0


def test_divergence_is_reported_where_it_stands():
    runs = simulate(
        SMALL, RandomShift(0.01), eta=[0.05, 0.6], steps=1000, start=POINT.tolist(), trajectories=4, keep=3
    )
    assert runs.diverged.tolist() == [[False] * 4, [True] * 4]
    assert np.isfinite(runs.trajectories).all()
    assert np.all(runs.lifetime[1] < 1000)


def test_mean_square_is_the_fixed_point_of_one_step():
    eta, sigma = 0.1, 0.02
    y, mu, cross = sp.symbols("y mu cross")  # cross = Σⱼ λ,ⱼ μⱼ
    m, lam, grad, eta_, sigma_ = sp.symbols("m lambda g eta sigma", positive=True)
    moved = sp.expand((y - eta_ * (lam * y - lam * mu - y * cross)) ** 2)
    moments = {y**2: m, mu**2: 2 * sigma_, cross**2: 2 * sigma_ * grad}
    after = moved.subs(moments).subs({mu: 0, cross: 0})
    found = sp.solve(sp.Eq(after, m), m)[0]
    x = POINT[:3]
    values = {eta_: eta, sigma_: sigma}
    exact = [
        float(found.subs({**values, lam: a, grad: (b**2).sum()}))
        for a, b in zip(SMALL.curvatures(x), SMALL.slopes(x), strict=True)
    ]
    np.testing.assert_allclose(SMALL.mean_squares(x, eta, sigma), exact, rtol=1e-12)
    assert np.isinf(SMALL.mean_squares(x, 1.0, sigma)).any()


def test_averaged_dynamics_are_those_of_the_simulation():
    valley = high_dimensional_valley(seed=4)
    start = valley.start(4)
    runs = simulate(
        valley,
        RandomShift(0.02),
        eta=0.05,
        steps=8000,
        start=start.tolist(),
        trajectories=16,
        seed=1,
        keep=41,
    )
    path = valley.averaged(0.05, 0.02, start, runs.kept * 0.05)
    gap = valley.log_flatness(runs.trajectories).mean(axis=0) - valley.log_flatness(path.x)
    assert not path.diverged
    assert np.sqrt((gap**2).mean()) < 0.005
    assert np.ptp(valley.log_flatness(path.x)) > 0.15


def test_averaged_dynamics_that_run_away_say_so():
    path = SMALL.averaged(1.0, 0.1, POINT, np.linspace(0, 100, 11))
    assert path.diverged
    assert np.isfinite(path.x).all()


def test_thresholds_are_where_the_averaged_force_changes_sign():
    valley = high_dimensional_valley(3, 6, seed=2)
    eta, small = 0.05, 1e-6
    for j, level in enumerate(valley.thresholds(eta)):
        x = np.zeros(6)
        x[j] = small
        force = -valley.mean_squares(x, eta, level / eta) @ valley.slopes(x) / 2 - valley.tilt * x
        assert abs(force[j]) < 1e-6 * valley.tilt * small


def test_every_curvature_is_positive_and_keeps_its_depth():
    valley = high_dimensional_valley(4, 30, depth=0.7, seed=9)
    squares = -valley.lambda_1 / (2 * valley.lambda_2)
    for i in range(4):
        lowest = valley.curvatures(np.sqrt(squares[i]))[i]
        assert lowest == pytest.approx(0.3 * valley.lambda_0[i])
    assert isotropic_strength(valley, 0.1, np.zeros(30), "coordinate") > isotropic_strength(
        valley, 0.1, np.zeros(30)
    )


def test_equal_trace_is_equal_trace():
    x = POINT[:3]
    hessian = np.array([SMALL.hessian_product([*x, 0, 0], e) for e in np.eye(5)])
    strength = isotropic_strength(SMALL, 0.3, x)
    assert 2 * strength * 5 == pytest.approx(2 * 0.3 * np.trace(hessian @ hessian))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: HighDimensionalValley([8.0], [[-8.0]], [[1.0]]), "lambda_1="),
        (lambda: HighDimensionalValley([8.0], [[1.0]], [[-1.0]]), "lambda_2="),
        (lambda: HighDimensionalValley([8.0], [[-1.0]], [[0.0]]), "lambda_2="),
        (lambda: HighDimensionalValley([8.0, 0.0], [[1.0]], [[1.0]]), "lambda_0="),
        (lambda: high_dimensional_valley(0, 3), "n_sharp=0"),
        (lambda: high_dimensional_valley(1, 0), "n_flat=0"),
        (lambda: simulate(SMALL, NoNoise(), eta=0.1, steps=2, start=(0.1, 0.2)), "start="),
        (lambda: simulate(SMALL, HessianAligned(0.1), eta=0.1, steps=2, start=POINT.tolist()), "noise="),
        (lambda: simulate(SMALL, NoNoise(), eta=0.1, steps=2, start=POINT.tolist(), hops="x1"), "hops="),
        (
            lambda: simulate(SMALL, NoNoise(), eta=0.1, steps=2, start=POINT.tolist(), passage=Passage(0.1)),
            "passage=",
        ),
        (lambda: high_dimensional_valley(epsilon=1).landscape(), "lambda_1"),
    ],
)
def test_bad_input_is_refused_by_name(call, name):
    with pytest.raises(ValueError, match=name):
        call()


def test_flatness_is_the_mean_log_of_the_widths():
    # F = Π λᵢ^(−1/2N_S) (Y23 Eq. 6): the geometric mean of the widths λᵢ^(−½)
    widths = SMALL.curvatures(POINT) ** -0.5
    assert np.exp(SMALL.log_flatness(POINT)) == pytest.approx(widths[0] ** 0.5 * widths[1] ** 0.5, rel=1e-12)
