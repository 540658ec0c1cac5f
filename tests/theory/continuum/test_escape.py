import numpy as np
import pytest
import sympy as sp
from scipy.integrate import dblquad
from scipy.special import erfcx

from flatmin.theory.continuum.escape import escape_rate, kramers_rate, mean_passage_time, plane_passage_time
from flatmin.theory.continuum.slow import SlowEquation

X = sp.Symbol("x", real=True)


def test_free_diffusion():
    # D T'' = −1, T(0) = 0, T'(far) = 0
    free = SlowEquation(X, sp.Integer(0), sp.Rational(1, 2), "ito")
    assert mean_passage_time(free, 0.7, 0.0, 2.0) == pytest.approx(
        (2 * 2 * 0.7 - 0.7**2) / (2 * 0.5), rel=1e-12
    )
    assert mean_passage_time(free, 0.0, 0.0, 2.0) == 0


def test_downhill_and_uphill_agree_by_symmetry():
    up = SlowEquation(X, -X + X**2 / 3, 1 + X**2 / 2, "ito")
    down = SlowEquation(X, -X - X**2 / 3, 1 + X**2 / 2, "ito")
    assert mean_passage_time(up, 0.5, -0.2, 2.5) == pytest.approx(
        mean_passage_time(down, -0.5, 0.2, -2.5), rel=1e-12
    )


def test_ornstein_uhlenbeck_against_closed_form():
    # τ = ∫₀^b √π/2·erfcx(u)·2 du for a = −x, D = 1/2, no wall
    ou = SlowEquation(X, -X, sp.Rational(1, 2), "ito")
    nodes, weights = np.polynomial.legendre.leggauss(60)
    b = 1.3
    expected = (weights * np.sqrt(np.pi) * erfcx(b * (nodes + 1) / 2)).sum() * b / 2
    assert mean_passage_time(ou, b, 0.0, 9.0) == pytest.approx(expected, rel=1e-10)


def test_barrier_against_kramers():
    delta = 0.02
    double_well = SlowEquation(X, X - X**3, sp.Float(delta), "ito")
    time = mean_passage_time(double_well, -1.0, 1.0, -4.0, panels=800)
    kramers = 2 * np.pi / np.sqrt(2) * np.exp(0.25 / delta)
    assert time == pytest.approx(kramers, rel=0.05)
    assert time != pytest.approx(kramers, rel=1e-3)  # the correction is first order in the noise


def test_a_quarter_of_the_time_is_not_lost_between_panels():
    equation = SlowEquation(X, -2 * X**3 + X, 0.3 + X**2, "ito")
    coarse, fine = (mean_passage_time(equation, 1.5, 0.1, 4.0, panels=n) for n in (40, 320))
    assert coarse == pytest.approx(fine, rel=1e-10)


def test_position_dependent_diffusion_against_double_quadrature():
    drift, diffusion = -X, 1 + X**2
    equation = SlowEquation(X, drift, diffusion, "ito")
    # ψ = exp ∫a/D = (1 + x²)^(−1/2); τ = ∫ dx/ψ(x) ∫ₓ ψ/D
    expected, _ = dblquad(
        lambda z, x: np.sqrt(1 + x**2) * (1 + z**2) ** -1.5, 0, 1, lambda x: x, lambda x: 50.0
    )
    assert mean_passage_time(equation, 1.0, 0.0, 50.0, panels=600) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("convention", ["ito", "stratonovich", "isothermal"])
def test_conventions_are_the_same_process_after_conversion(convention):
    ito = SlowEquation(X, X - X**3, 0.1 + X**2 / 4, "ito")
    other = ito.converted(convention)
    assert mean_passage_time(other, 1.2, 0.0, 4.0) == pytest.approx(
        mean_passage_time(ito, 1.2, 0.0, 4.0), rel=1e-12
    )
    if convention != "ito":
        misread = ito.read_as(convention)
        assert (
            abs(mean_passage_time(misread, 1.2, 0.0, 4.0) / mean_passage_time(ito, 1.2, 0.0, 4.0) - 1) > 0.05
        )


def test_against_simulation():
    # Euler steps of dx = −x dτ + √(2D) dW with D = 0.2 + x²/2, extrapolated from two step sizes
    equation = SlowEquation(X, -X, sp.Rational(1, 5) + X**2 / 2, "ito")
    rng = np.random.default_rng(5)
    means, errors = [], []
    for step in (4e-3, 1e-3):
        x, time, going = np.full(4000, 1.0), np.zeros(4000), np.ones(4000, bool)
        while going.any():
            time[going] += step
            x[going] += -x[going] * step + np.sqrt(
                2 * step * (0.2 + x[going] ** 2 / 2)
            ) * rng.standard_normal(going.sum())
            going &= x > 0
        means.append(time.mean())
        errors.append(time.std() / np.sqrt(len(x)))
    # a walk that is looked at every step overshoots: the mean is high by a multiple of √step
    limit = 2 * means[1] - means[0]
    error = np.hypot(2 * errors[1], errors[0])
    assert limit == pytest.approx(mean_passage_time(equation, 1.0, 0.0, 60.0, panels=800), abs=4 * error)


def test_steep_slope_without_noise():
    # Péclet number 1e7: the time is distance over speed, where integrals of exp(1e7 x) would be 0/0
    steep = SlowEquation(X, sp.Integer(-2), sp.Float(1e-7), "ito")
    assert mean_passage_time(steep, 1.5, 0.0, 2.0, panels=50) == pytest.approx(0.75, rel=1e-6)
    curved = SlowEquation(X, -(X**3), sp.Float(1e-9), "ito")
    assert mean_passage_time(curved, 2.0, 0.5, 3.0) == pytest.approx((1 / 0.25 - 1 / 4) / 2, rel=1e-5)


def test_bad_input_is_named():
    ou = SlowEquation(X, -X, sp.Rational(1, 2), "ito")
    with pytest.raises(ValueError, match="start=3"):
        mean_passage_time(ou, 3.0, 0.0, 2.0)
    with pytest.raises(ValueError, match="panels=0"):
        mean_passage_time(ou, 1.0, 0.0, 2.0, panels=0)
    with pytest.raises(ValueError, match="diffusion must be positive"):
        mean_passage_time(SlowEquation(X, -X, 1 - X, "ito"), 0.5, 0.0, 2.0)
    with pytest.raises(ValueError, match="largest double"):
        mean_passage_time(SlowEquation(X, X, sp.Float(1e-4), "ito"), 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="without numbers"):
        mean_passage_time(SlowEquation(X, -sp.Symbol("k") * X, sp.Integer(1), "ito"), 1.0, 0.0, 2.0)


def test_constant_slope_against_closed_form():
    # drift +1 towards the wall, D = 1: τ(b) = e^far(1 − e^{−b}) − b
    slope = SlowEquation(X, sp.Integer(1), sp.Integer(1), "ito")
    assert mean_passage_time(slope, 0.5, 0.0, 3.0) == pytest.approx(
        np.exp(3) * (1 - np.exp(-0.5)) - 0.5, rel=1e-11
    )


DOUBLE_WELL = SlowEquation(X, X - X**3, sp.Float(0.05), "ito")


def test_escape_rate_is_the_lowest_eigenvalue():
    # free diffusion between an absorbing and a reflecting end: D(π/2a)²
    free = SlowEquation(X, sp.Integer(0), sp.Rational(1, 2), "ito")
    assert escape_rate(free, 0.0, 2.0, panels=20) == pytest.approx(0.5 * (np.pi / 4) ** 2, rel=1e-9)
    # Ornstein–Uhlenbeck absorbed at the centre: the first odd mode decays at rate 1
    ou = SlowEquation(X, -X, sp.Rational(1, 2), "ito")
    assert escape_rate(ou, 0.0, 8.0) == pytest.approx(1, rel=1e-9)
    assert escape_rate(ou, 0.0, -8.0) == pytest.approx(1, rel=1e-9)


def test_escape_rate_is_the_inverse_mean_time_over_a_high_barrier():
    rate, time = escape_rate(DOUBLE_WELL, 1.0, -4.0), mean_passage_time(DOUBLE_WELL, -1.0, 1.0, -4.0)
    assert rate * time == pytest.approx(1, abs=0.01)
    assert kramers_rate(0.05, 0.25, 2.0, -1.0) == pytest.approx(rate, rel=0.12)
    low = SlowEquation(X, X - X**3, sp.Float(0.01), "ito")
    assert kramers_rate(0.01, 0.25, 2.0, -1.0) == pytest.approx(escape_rate(low, 1.0, -4.0), rel=0.02, abs=0)


def test_plane_passage_time_is_the_one_dimensional_one_for_separate_directions():
    time = plane_passage_time(
        lambda x, y: (x**2 - 1) ** 2 / 4 + y**2,
        (0.05, 0.2),
        (-1, 0),
        1.0,
        ((-2.5, 1.2), (-2, 2)),
        cells=(296, 20),
    )
    assert time == pytest.approx(mean_passage_time(DOUBLE_WELL, -1.0, 1.0, -2.5), rel=2e-3)


def test_plane_passage_time_converges_at_second_order_and_scales_with_the_clock():
    def potential(x, y):
        return (x**2 - 1) ** 2 / 4 + (1 + x**2) * y**2

    box = ((-2.5, 1.2), (-2, 2))
    times = [
        plane_passage_time(potential, (0.1, 0.1), (-1, 0), 1.0, box, cells=(37 * k, 20 * k))
        for k in (2, 4, 8)
    ]
    assert (times[1] - times[0]) / (times[2] - times[1]) == pytest.approx(4, rel=0.2)
    double = plane_passage_time(
        potential, (0.1, 0.1), (-1, 0), 1.0, box, cells=(74, 40), clock=lambda x, y: 2 + 0 * x
    )
    assert double == pytest.approx(2 * times[0], rel=1e-9)


def test_rates_refuse_what_is_no_escape():
    with pytest.raises(ValueError, match="target=1"):
        escape_rate(DOUBLE_WELL, 1.0, 1.0)
    with pytest.raises(ValueError, match="panels=0"):
        escape_rate(DOUBLE_WELL, 1.0, -4.0, panels=0)
    with pytest.raises(ValueError, match="barrier"):
        kramers_rate(0.1, -1.0, 2.0, -1.0)
    with pytest.raises(ValueError, match="temperature"):
        kramers_rate(0.0, 1.0, 2.0, -1.0)
    with pytest.raises(ValueError, match="positive definite"):
        kramers_rate(0.1, 1.0, -2.0, -1.0)
    with pytest.raises(ValueError, match="one negative eigenvalue"):
        kramers_rate(0.1, 1.0, np.eye(2), -np.eye(2))
    box = ((-2, 2), (-1, 1))
    with pytest.raises(ValueError, match="temperatures"):
        plane_passage_time(lambda x, y: x + y, (0.1, 0.0), (-1, 0), 1.0, box)
    with pytest.raises(ValueError, match="start"):
        plane_passage_time(lambda x, y: x + y, (0.1, 0.1), (1.5, 0), 1.0, box)
    with pytest.raises(ValueError, match="too long for this grid"):
        plane_passage_time(lambda x, y: (x**2 - 1) ** 2 / 4 + y**2, (0.005, 0.005), (-1, 0), 1.0, box)
