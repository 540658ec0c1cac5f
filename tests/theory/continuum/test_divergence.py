"""Lifetimes against closed forms and simulation; one step's growth; the tail; the function that confines."""

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import quad
from scipy.optimize import brentq

from flatmin.theory.continuum import divergence
from flatmin.theory.continuum.divergence import Lifetime, edges, tail_exponent, typical_growth
from flatmin.theory.continuum.escape import mean_passage_time
from flatmin.theory.continuum.fokker_planck import Equation, Region
from flatmin.theory.continuum.slow import SlowEquation
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import RandomShift
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

X, Y = sp.symbols("x y", real=True)
BOWL = Landscape(X**2 / 2 + 2 * Y**2, (X, Y))
PAPER = near_degenerate_valley().at(epsilon=0.001, lambda_0=8, lambda_1=-2, lambda_2=1)
FLATTEST = (1.0, 0.0)


@pytest.mark.parametrize(("shrink", "kick"), [(0.3, 0.5), (0.1, 0.09), (0.1, 0.05), (2.5, 1.7), (1.0, 3.0)])
def test_typical_growth_is_the_mean_logarithm(shrink, kick):
    zero = (shrink - 1) / kick

    def integrand(z):
        return np.log(abs(1 - shrink + kick * z)) * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)

    parts = (-12.0, np.clip(zero, -12, 12)), (np.clip(zero, -12, 12), 12.0)
    exact = sum(quad(integrand, *part, limit=400)[0] for part in parts if part[0] < part[1])
    assert typical_growth(shrink, kick) == pytest.approx(exact, abs=3e-8)


def test_typical_growth_of_a_pure_kick():
    assert typical_growth(1.0, 1.0) == pytest.approx(-(np.euler_gamma + np.log(2)) / 2, abs=1e-14)


def test_the_edges_are_where_the_square_and_the_logarithm_stop_shrinking():
    eta, delta_s = 0.01, 0.02
    square, typical = edges(PAPER, eta, delta_s)
    curvature, slope = (8 - 2 * square**2 + square**4), 4 * square**3 - 4 * square
    assert delta_s * slope**2 / curvature == pytest.approx(1 - eta * curvature / 2, rel=1e-9)
    curvature, slope = (8 - 2 * typical**2 + typical**4), 4 * typical**3 - 4 * typical
    assert typical_growth(eta * curvature, np.sqrt(2 * eta * delta_s) * slope) == pytest.approx(0, abs=1e-9)
    assert square < typical
    assert edges(BOWL, 0.01, 0.02) == (np.inf, np.inf)


def test_the_lifetime_in_a_bowl_is_the_passage_of_an_ornstein_uhlenbeck_process():
    """Small steps, rim moved by the overshoot, 0.5826 of a step (Siegmund); x cannot reach its own rim."""
    eta, delta_s, rim = 1e-4, 0.05, 2.0
    found = Lifetime(BOWL, eta, delta_s, bound=(3.0, rim), cells=(16, 90), core=(1.0, 1.0)).time((0.0, 0.0))
    moved = rim + 0.5826 * np.sqrt(2 * eta * delta_s) * 4
    rest = SlowEquation(Y, -4 * Y, sp.Float(16 * delta_s), "ito")
    assert found == pytest.approx(mean_passage_time(rest, 0.0, moved, 0.0), rel=0.12)


def test_a_life_in_a_bowl_is_that_of_simulated_runs():
    life = Lifetime(BOWL, 0.05, 0.2, bound=2.0, cells=(40, 40))
    runs = simulate(
        BOWL, RandomShift(0.2 / 0.05), eta=0.05, steps=20_000, start=(0.5, 0.5), trajectories=20_000,
        bound=2.0, seed=3,
    )  # fmt: skip
    assert runs.diverged.all()
    assert life.time((0.5, 0.5)) == pytest.approx(0.05 * runs.lifetime.mean(), rel=0.08)
    assert life.rate((0.5, 0.5)) == 1 / life.time((0.5, 0.5))
    both = life.time(np.array([[0.5, 2.0], [-0.5, 2.0]]))
    assert both[0] == pytest.approx(life.time((0.5, 0.5)))
    assert both[1] < both[0]


def test_the_lifetime_in_the_valley_is_that_of_simulated_runs_and_of_the_finer_grid():
    eta, delta_s = 0.04, 0.05
    runs = simulate(
        PAPER, RandomShift(delta_s / eta), eta=eta, steps=10_000, start=FLATTEST, trajectories=2048,
        bound=50.0, seed=8,
    )  # fmt: skip
    times = eta * runs.lifetime
    here = Lifetime(PAPER, eta, delta_s)
    assert runs.diverged.all()
    assert abs(times.mean() - here.time(FLATTEST)) < 4 * times.std() / 2048**0.5
    assert Lifetime(PAPER, eta, delta_s, cells=(50, 54)).time(FLATTEST) == pytest.approx(
        here.time(FLATTEST), rel=0.01
    )
    assert Lifetime(PAPER, eta, delta_s, bound=(3.0, 50.0)).time(FLATTEST) < here.time(FLATTEST)


def test_small_steps_in_a_small_box_leak_as_the_fokker_planck_equation_says():
    delta_s, box = 0.05, (1.9, 3.0)
    region = Region(extent=box, elements=(8, 8), degree=8, rim="absorbing")
    density = Equation(PAPER, RandomShift(), convention="ito", region=region).stationary(delta_s)
    leak = density.leak
    times = [
        Lifetime(PAPER, eta, delta_s, bound=box, cells=(64, 64)).time((0.0, 0.0)) for eta in (4e-5, 1e-5)
    ]
    # absorbed between steps only: the rate falls short by a share ∝ √η, which the two step sizes give
    limit = 2 / times[1] - 1 / times[0]
    slowest = Lifetime(PAPER, 1e-5, delta_s, bound=box, cells=(64, 64))
    assert limit == pytest.approx(leak * slowest_share(density, slowest), rel=0.03)


def slowest_share(density, life):
    """⟨T⟩ over the slowest density is 1/leak; T(0)⁻¹ is that rate times this."""
    x, y = np.linspace(0, 1.9, 60), np.linspace(0, 3.0, 60)
    grid = np.meshgrid(x, y, indexing="ij")
    weight = density(*grid)
    mean = (life.time(np.stack(grid)) * weight).sum() / weight.sum()
    return mean / life.time((0.0, 0.0))


def test_the_tail_exponent_solves_the_difference_equation():
    """The same condition on a grid: k'' B + k' b + p(p − 1)A k = 0, k'(0) = 0, u k' = p k far out."""
    u = np.linspace(0, 20, 20_001)
    a, c = 36 * u**4 + 16 * u**2, 24 * u**3 + 4 * u
    square = 36 * u**6 - 32 * u**4 + 8 * u**2 + 1

    def far(p):
        k, h = np.ones_like(u), u[1]
        for i in range(1, len(u) - 1):
            bend, slope = square[i] / h**2, -(p - 1) * (u[i] * a[i] - c[i]) / h
            middle = p * (p - 1) * a[i] - 2 * bend
            k[i + 1] = -((bend - slope) * k[i - 1] + middle * k[i]) / (bend + slope)
        return p * k[-2] - u[-2] * (k[-1] - k[-3]) / (2 * h)

    assert tail_exponent() == pytest.approx(brentq(far, 0.6, 0.8), abs=5e-3)
    assert 0.70 < tail_exponent() < 0.72


def test_the_generator_makes_the_confining_function_fall_in_every_direction():
    """Sturm: x⁶(kB-part) ≤ −x⁶(1 + u²)/10 for V = ln x + k(u) and the noise of ½x⁴y² alone."""
    square, powers = divergence.CONFINING
    u, rho = sp.symbols("u rho", positive=True)
    radius = sp.sqrt(Y**2 + square * X**2)
    v = sp.log(radius) + sum(q * (X / radius) ** j for j, q in enumerate(powers, 1))
    hessian = sp.hessian(X**4 * Y**2 / 2, (X, Y))
    noise = sum(e * f for e, f in zip(hessian**2, sp.hessian(v, (X, Y)), strict=True))
    leading = noise.subs({X: 1, Y: u})
    for value in (0, 0.3, 0.7, 1.0, 3.0, 30.0):
        assert leading.subs(u, value) <= -0.1 * (1 + value**2)
    slack = sp.expand(sp.expand((leading + (1 + u**2) / 10).subs(u, sp.sqrt(rho**2 - square))) * rho**12)
    assert sp.Poly(slack, rho).count_roots(sp.Rational(67, 100), None) == 0
