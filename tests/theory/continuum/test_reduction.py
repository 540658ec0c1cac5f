import numpy as np
import pytest
import sympy as sp

from flatmin.theory.continuum.critical import XI, CriticalLaw, W, critical_law
from flatmin.theory.continuum.fokker_planck import DELTA_S, Equation, Region
from flatmin.theory.continuum.reduction import Reduction
from flatmin.theory.continuum.slow import SlowEquation
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import ETA, Isotropic, RandomShift, gaussian_moments
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

VALLEY = near_degenerate_valley()
EPSILON, LAM0, LAM1, LAM2 = VALLEY.parameters
X, Y = VALLEY.coordinates


def numbers(epsilon):
    return VALLEY.at(epsilon=epsilon, lambda_0=8, lambda_1=-2, lambda_2=1)


def difference(x, p, q):
    """Total variation of two densities on a grid, each normalised over it."""
    return 0.5 * np.trapezoid(np.abs(p / np.trapezoid(p, x) - q / np.trapezoid(q, x)), x)


def two_dimensional(epsilon, cross=True):
    """The equation on a box that scales with the critical window, and a grid of x in it."""
    width = min(2.0, 7 * np.sqrt(epsilon))
    region = Region((width, 9 * np.sqrt(4 * epsilon)), (7, 6), 10)
    equation = Equation(numbers(epsilon), RandomShift(), convention="ito", cross=cross, region=region)
    return equation, np.linspace(-width, width, 801)


def test_gaussian_moments():
    a, b, s, t = sp.symbols("a b s t")
    assert gaussian_moments(a**4 * b**2 + a * b + 7, {a: s, b: t}) == 3 * s**2 * t + 7
    with pytest.raises(ValueError, match="must be a polynomial"):
        gaussian_moments(sp.exp(a), {a: s})


def test_conditional_is_the_printed_one():
    reduction = Reduction(VALLEY)
    lam, slope = reduction.curvature, sp.diff(reduction.curvature, X)
    printed = (1 + slope**2 * Y**2 / lam**2) ** (-lam / (2 * DELTA_S * slope**2) - 1)  # Y22 S25
    assert sp.simplify(sp.diff(sp.log(printed), Y) - reduction.log_conditional_slope) == 0
    assert sp.simplify(reduction.variance - DELTA_S * lam) == 0
    assert sp.simplify(reduction.tail - DELTA_S * slope**2 / lam) == 0


def test_variance_with_all_of_the_diffusion_solves_the_moment_equation():
    reduction = Reduction(VALLEY)
    v = reduction.variance / (1 - reduction.tail)
    d22 = sp.expand(reduction.diffusion[1, 1]).subs(Y**2, v)
    assert sp.simplify(reduction.curvature * v - d22) == 0


def test_anisotropy_is_the_printed_one():
    reduction = Reduction(VALLEY)
    lam = reduction.curvature
    first, second = sp.diff(lam, X), sp.diff(lam, X, 2)
    below = EPSILON**2 * LAM0**2 + DELTA_S * (EPSILON * LAM0 * second + first**2) * lam
    below += sp.Rational(3, 4) * (DELTA_S * second * lam) ** 2
    assert sp.simplify(reduction.anisotropy - lam**2 / below) == 0  # Y22 S28


def test_slow_equation_of_lowest_order_is_s29():
    reduction = Reduction(VALLEY)
    equation = reduction.slow_equation()
    strength, kappa, lam = reduction.delta, reduction.anisotropy, reduction.curvature
    drift = -(EPSILON * LAM0 * X + sp.diff(lam, X) * strength / (2 * lam))
    assert sp.simplify(equation.drift - drift) == 0
    assert sp.simplify(equation.diffusion - strength / kappa) == 0
    assert equation.convention == "ito"


def test_second_order_takes_back_three_quarters_of_the_noise():
    reduction = Reduction(VALLEY)
    first, second = reduction.slow_equation(1), reduction.slow_equation(2)
    lam, slope = reduction.curvature, sp.diff(reduction.curvature, X)
    taken = (second.diffusion - first.diffusion).subs(EPSILON, 0)
    assert sp.simplify(taken + sp.Rational(3, 4) * DELTA_S**2 * lam * slope**2) == 0
    without = reduction.slow_equation(2, cross=False).diffusion - first.diffusion
    assert sp.simplify(without - DELTA_S**2 * lam * slope**2 / 4) == 0


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("eta", [0, sp.Rational(1, 20)])
def test_second_order_becomes_the_critical_law_in_the_window(cross, eta):
    # exact numbers for λ₀, λ₁, λ₂: sympy takes minutes for the limit with symbols
    values = {LAM0: 8, LAM1: -2, LAM2: 1}
    exact = Landscape(VALLEY.loss.subs(values), (X, Y), (EPSILON,))
    slow, law = Reduction(exact).slow_equation(2, cross, eta), critical_law(VALLEY, eta, cross)
    root = sp.Symbol("r", positive=True)
    delta = law.centre.subs(values | {EPSILON: root**2}) * (1 + root**2 * W)
    window = {X: root * XI, EPSILON: root**2, DELTA_S: delta}
    for part, power in (("drift", 5), ("diffusion", 6)):
        zoomed = sp.together(getattr(slow, part).subs(window, simultaneous=True) / root**power)
        expected = getattr(law.equation, part).subs(values)
        assert sp.simplify(sp.limit(sp.cancel(zoomed), root, 0) - expected) == 0


def test_critical_law_of_the_continuous_equation():
    law = critical_law(VALLEY)
    assert sp.expand(law.linear - LAM0 * (W - 3)) == 0
    assert sp.simplify(law.cubic + (LAM1**2 + 2 * LAM0 * LAM2) / LAM1) == 0
    assert sp.simplify(law.additive + 2 * LAM0**2 / LAM1) == 0
    assert law.multiplicative == LAM0
    assert (law.onset, law.drift_onset, law.lyapunov_onset) == (5, 3, 4)
    assert critical_law(VALLEY, cross=False).onset == 9
    assert sp.simplify(law.boundary + EPSILON / LAM1 * (1 + 5 * EPSILON)) == 0


def test_critical_law_at_finite_step():
    h = ETA * LAM0
    law = critical_law(VALLEY, eta=ETA)
    assert sp.simplify(law.boundary + EPSILON / LAM1 * (1 - h / 2 + EPSILON * (5 - 2 * h))) == 0
    assert sp.simplify(law.onset - 2 * (5 - 2 * h) / (2 - h)) == 0


def test_log_density_solves_the_equation():
    law = critical_law(VALLEY)
    assert sp.simplify(sp.diff(law.log_density, XI) - law.equation.log_slope) == 0
    slope = sp.diff(law.log_density, XI).subs(XI, sp.sqrt(law.maximum))
    assert sp.simplify(slope) == 0
    numeric = critical_law(numbers(0.01))
    xi = np.linspace(-9, 9, 3001)
    for w in (-10, 0, 12):
        density = numeric.density(xi, w)
        assert np.trapezoid(density, xi) == pytest.approx(1, abs=1e-9)
        equation = numeric.equation
        put_in = SlowEquation(XI, *(e.subs(W, w) for e in (equation.drift, equation.diffusion)), "ito")
        np.testing.assert_allclose(density, put_in.density(xi), atol=1e-9)
        # the same numbers, put in where the functions are evaluated
        later = equation.at({W: w})
        np.testing.assert_allclose(later.density(xi), put_in.density(xi), rtol=1e-12)
        for name in ("stratonovich", "isothermal"):
            np.testing.assert_allclose(later.converted(name).density(xi), put_in.density(xi), rtol=1e-12)
            np.testing.assert_allclose(
                later.read_as(name).density(xi), put_in.read_as(name).density(xi), rtol=1e-12
            )


def test_a_number_for_the_noise_serves_the_next_one_too(monkeypatch):
    reduction, x = Reduction(numbers(0.01)), np.linspace(0, 1.5, 301)
    equation = reduction.slow_equation(order=2, eta=0.04)
    first = reduction.at_noise(equation, 0.01).density(x)
    monkeypatch.setattr(sp, "lambdify", None)  # nothing is compiled any more
    second = reduction.at_noise(equation, 0.02).density(x)
    assert np.abs(first - second).max() > 0.1
    monkeypatch.undo()
    parts = (e.subs(DELTA_S, 0.02) for e in (equation.drift, equation.diffusion))
    np.testing.assert_allclose(second, SlowEquation(X, *parts, "ito").density(x), rtol=1e-11)


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("w", [-5, 0, 6])
def test_two_dimensional_solution_tends_to_the_critical_law(w, cross):
    deviations = []
    for epsilon in (0.005, 0.00125):
        equation, x = two_dimensional(epsilon, cross)
        law = critical_law(numbers(epsilon), cross=cross)
        marginal = equation.stationary(float(law.delta_s(w))).marginal("x", x)
        deviations.append(difference(x, marginal, law.density(x / np.sqrt(epsilon), w)))
    # first order in ε: a quarter of ε, a quarter of the deviation
    assert deviations[1] < 0.008
    assert deviations[0] / deviations[1] == pytest.approx(4, rel=0.15)


def test_printed_density_does_not_tend_to_the_solution_but_second_order_does():
    epsilon = 0.00125
    equation, x = two_dimensional(epsilon)
    reduction, law = Reduction(numbers(epsilon)), critical_law(numbers(epsilon))
    delta = float(law.delta_s(5))
    marginal = equation.stationary(delta).marginal("x", x)
    assert difference(x, marginal, reduction.marginal(x, delta, convention="isothermal")) > 0.3
    assert difference(x, marginal, reduction.marginal(x, delta)) > 0.07
    assert difference(x, marginal, reduction.marginal(x, delta, order=2)) < 0.004


def test_finite_step_law_against_simulation():
    # η = 0.04 is far from continuous (ηλ₀ = 0.32); the law is a limit ε → 0, reached linearly
    eta, w = 0.04, -12.0
    xi = np.linspace(-12, 12, 4001)
    deviations = []
    for epsilon in (0.01, 0.005):
        valley = numbers(epsilon)
        law = critical_law(valley, eta=sp.Rational(4, 100))
        delta = float(law.delta_s(w))
        steps = int(20 / (epsilon**2 * 8 * eta))
        runs = simulate(
            valley,
            RandomShift(delta / eta),
            eta=eta,
            steps=steps,
            burn_in=steps // 3,
            start=(0.7 * np.sqrt(epsilon), 0.0),
            trajectories=128,
            observe=("x**2",),
            seed=3,
        )
        measured = runs.time_average("x**2")
        ours = epsilon * np.trapezoid(xi**2 * law.density(xi, w), xi)
        deviations.append(measured.value / ours - 1)
        assert measured.error / ours < 0.012
    assert abs(deviations[1]) < 0.17
    assert deviations[0] / deviations[1] == pytest.approx(2, abs=0.5)
    # the continuous law at the same Δ_S is off by more than a factor of two
    continuous = critical_law(valley)
    ignorant = epsilon * np.trapezoid(xi**2 * continuous.density(xi, float(continuous.w(delta))), xi)
    assert measured.value > 2 * ignorant


def test_conventions_of_the_slow_equation():
    equation = SlowEquation(X, -X, 1 + X**2, "ito")
    for name in ("stratonovich", "isothermal"):
        assert sp.simplify(equation.converted(name).log_slope - equation.log_slope) == 0
        assert sp.simplify(equation.read_as(name).log_slope - equation.log_slope) != 0
    # exp ∫−x/(1+x²)/(1+x²)^s: known densities
    x = np.linspace(-60, 60, 24001)
    density = equation.density(x)
    exact = (1 + x**2) ** -1.5
    np.testing.assert_allclose(density, exact / np.trapezoid(exact, x), rtol=1e-9)


def test_reduction_with_isotropic_noise_is_boltzmann_at_lowest_order():
    reduction = Reduction(VALLEY, noise=Isotropic())
    equation = reduction.slow_equation(1)
    # ∫dy exp(−L/Δ) = exp(−U/Δ) λ^(−1/2)
    boltzmann = -reduction.floor / DELTA_S - sp.log(reduction.curvature) / 2
    assert sp.simplify(equation.log_slope - sp.diff(boltzmann, X)) == 0


def test_effective_loss_of_a_gaussian_valley():
    # constant λ: P(x, 0) is a Gaussian and the effective loss is known
    straight = Landscape(sp.Rational(1, 4) * X**2 + Y**2, (X, Y))
    reduction = Reduction(straight)
    x = np.linspace(-1, 1, 5)
    density = np.exp(-(x**2) / 0.1)
    loss = reduction.effective_loss(x, density, 0.05)
    strength, variance = 0.05 * 4, 0.05 * 2
    expected = -strength * (np.log(density) - 0.5 * np.log(2 * np.pi * variance)) - x**2 / 4
    np.testing.assert_allclose(loss, expected)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="fast='z'"):
        Reduction(VALLEY, fast="z")
    with pytest.raises(ValueError, match="two are needed"):
        Reduction(Landscape(X**2, (X,)))
    with pytest.raises(ValueError, match="is left over"):
        Reduction(Landscape(X**2 + Y**4, (X, Y)))
    with pytest.raises(ValueError, match="order=3"):
        Reduction(VALLEY).slow_equation(3)
    with pytest.raises(ValueError, match="eta=-1"):
        Reduction(VALLEY).slow_equation(2, eta=-1)
    with pytest.raises(ValueError, match="delta_s=-1"):
        Reduction(VALLEY).at_noise(X, -1)
    with pytest.raises(ValueError, match="convention='it'"):
        SlowEquation(X, X, X, "it")
    with pytest.raises(ValueError, match="convention='it'"):
        SlowEquation(X, X, X, "ito").converted("it")
    with pytest.raises(ValueError, match=r"x=.*increasing"):
        SlowEquation(X, -X, 1 + X**2, "ito").density([1, 0, 2])
    with pytest.raises(ValueError, match=r"values=.*other symbols than the coordinate: Delta_S"):
        Reduction(VALLEY.at(epsilon=0.01, lambda_0=8, lambda_1=-2, lambda_2=1)).slow_equation().at({X: 1})
    with pytest.raises(ValueError, match="without numbers"):
        Reduction(VALLEY).slow_equation().density(np.linspace(-1, 1, 5))
    with pytest.raises(ValueError, match="lambda_1=2"):
        critical_law(VALLEY.at(lambda_1=2))
    with pytest.raises(ValueError, match="eta=1"):
        critical_law(numbers(0.01), eta=1)
    with pytest.raises(ValueError, match="needs the parameters"):
        critical_law(Landscape(X**2 + Y**2, (X, Y)))
    bent = Landscape(VALLEY.loss + X**2 * Y**4, (X, Y), VALLEY.parameters)
    with pytest.raises(ValueError, match="must be"):
        critical_law(bent)
    assert isinstance(critical_law(near_degenerate_valley(("lambda_0", "lambda_1"))), CriticalLaw)


def test_effective_loss_of_known_densities_weighs_by_the_local_noise():
    # Δ(x) = Δ_S λ(x)² and ⟨y²⟩ = Δ_S λ(x) (Y22 S26–S27), both at x itself: λ falls from 8 to 7 on the way
    x, delta_s, epsilon = np.linspace(0, 1, 6), 0.05, 0.1
    lam, ln_density = 8 - 2 * x**2 + x**4, -(x**2) / 0.1
    loss = Reduction(numbers(epsilon)).effective_loss(x, np.exp(ln_density), delta_s)
    on_the_floor = ln_density - np.log(2 * np.pi * delta_s * lam) / 2
    np.testing.assert_allclose(loss, -delta_s * lam**2 * on_the_floor - epsilon * 8 * x**2 / 2, rtol=1e-12)
