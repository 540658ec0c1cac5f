import numpy as np
import pytest
import sympy as sp

from flatmin.theory.continuum import fokker_planck
from flatmin.theory.continuum.fokker_planck import Equation, Region, convention_drift, noise_root, stationary
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import HessianAligned, Isotropic, RandomShift
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

X, Y = sp.symbols("x y", real=True)
VALLEY = near_degenerate_valley().at(epsilon=0.02, lambda_0=8, lambda_1=-2, lambda_2=1)
SMALL = Region(extent=(2, 2), elements=(3, 3), degree=8)


def log_ratio(density, x, y):
    """ln P relative to its value at the first point."""
    values = np.log(density(x, y))
    return values - values[0]


def test_reference_second_moments():
    equation = Equation(VALLEY, RandomShift(), convention="ito")
    # spectral elements of another code, converged to 5e-12
    assert equation.stationary(0.009).mean("x**2") == pytest.approx(0.01426372, abs=2e-8)
    assert equation.stationary(0.012).mean("x**2") == pytest.approx(0.09491014, abs=2e-8)


@pytest.mark.parametrize(
    ("convention", "epsilon"),
    [("ito", 0.001), ("ito", 0.02), ("ito", 0.1), ("stratonovich", 0.1), ("isothermal", 0.1)],
)
def test_eliminating_inner_unknowns_first_changes_nothing(epsilon, convention, monkeypatch):
    valley = near_degenerate_valley().at(epsilon=epsilon, lambda_0=8, lambda_1=-2, lambda_2=1)
    region = Region(elements=(6, 4), degree=7)
    equation = Equation(valley, RandomShift(), convention=convention, region=region)
    solve, sizes = equation._null_vector, []
    monkeypatch.setattr(
        equation, "_null_vector", lambda e, dofs, **how: sizes.append(dofs.shape[1]) or solve(e, dofs, **how)
    )
    for delta in (0.012, 0.03):
        elements = equation._elements(delta)
        condensed = equation._closed(elements)
        whole = solve(elements, equation.basis.element_dofs.T)
        whole /= equation.load @ whole
        assert np.abs(condensed - whole).max() < 1e-10 * np.abs(whole).max()
        square = equation._moment("x**2")
        assert square @ condensed == pytest.approx(square @ whole, rel=1e-10, abs=0)
        # the null vector of the operator, which was added up in another way
        assert np.abs(equation.operator(delta) @ condensed).max() < 1e-12 * abs(elements).max() * whole.max()
    assert sizes == [4 * 7] * 2  # never more than the unknowns at the edges of an element
    # where rounding has spoilt it, all unknowns are solved for
    monkeypatch.setattr(fokker_planck, "_RESIDUAL", 0.0)
    np.testing.assert_array_equal(equation._closed(elements), whole)
    assert sizes[-2:] == [4 * 7, 8**2]


def test_disk_and_box_agree():
    disk = Region(extent=2.0, elements=(5, 5), degree=10)
    box = stationary(VALLEY, 0.012, convention="ito").mean("x**2")
    assert stationary(VALLEY, 0.012, convention="ito", region=disk).mean("x**2") == pytest.approx(
        box, abs=1e-7
    )


def test_boltzmann_for_isotropic_noise():
    loss = X**2 / 2 + X**4 / 8 + Y**2 * (1 + X) ** 2 / 2 + Y**4 / 4 + X * Y / 3
    density = stationary(
        Landscape(loss, (X, Y)),
        0.3,
        convention="ito",
        noise=Isotropic(),
        region=Region((3.5, 3.5), (5, 5), 10),
    )
    x, y = np.array([0, 0.4, -0.6, 1.0, -0.3]), np.array([0, 0.3, 0.5, -0.4, -1.0])
    expected = -np.array([float(loss.subs({X: a, Y: b})) for a, b in zip(x, y, strict=True)]) / 0.3
    np.testing.assert_allclose(log_ratio(density, x, y), expected - expected[0], atol=1e-5)
    assert np.abs(density.flux(x, y)).max() < 1e-5 * density(0, 0)


def test_ornstein_uhlenbeck_with_cross_terms():
    # H constant: HΣ + ΣH = 2Δ H² gives Σ = ΔH, here with a tilted H that no symmetry halves
    loss = (2 * X**2 + 2 * 0.8 * X * Y + Y**2) / 2
    density = stationary(Landscape(loss, (X, Y)), 0.05, convention="ito", region=Region((2, 2), (6, 6), 10))
    hessian = np.array([[2, 0.8], [0.8, 1]])
    x, y = np.array([0, 0.2, -0.3, 0.1]), np.array([0, 0.1, 0.2, -0.25])
    quadratic = np.einsum("in,ij,jn->n", [x, y], np.linalg.inv(0.05 * hessian), [x, y])
    np.testing.assert_allclose(log_ratio(density, x, y), -quadratic / 2, atol=1e-6)
    assert density.mass == pytest.approx(1, abs=1e-12)
    assert density.equation.copies == 1
    np.testing.assert_allclose(
        [density.mean("x**2"), density.mean("x*y"), density.mean("y**2")], [0.1, 0.04, 0.05], atol=1e-9
    )
    assert np.abs(density.flux(x, y)).max() < 1e-6 * density(0, 0)


@pytest.mark.parametrize(("convention", "power"), [("ito", 1), ("stratonovich", 0.5), ("isothermal", 0)])
def test_conventions_against_quadrature(convention, power):
    # separable: P(x) ∝ D^(−power) exp(−∫U'/D), D = Δ U''²
    loss = X**2 / 2 + X**4 / 12 + Y**2
    delta = 0.1
    density = stationary(
        Landscape(loss, (X, Y)), delta, convention=convention, region=Region((3, 3), (4, 4), 10)
    )
    x = np.array([0, 0.3, 0.7, 1.0])
    diffusion = (1 + X**2) ** 2
    exponent = sp.integrate(-(X + X**3 / 3) / diffusion, X) / delta - power * sp.log(diffusion)
    expected = sp.lambdify(X, exponent)(x)
    np.testing.assert_allclose(
        np.log(density.marginal("x", x) / density.marginal("x", 0)), expected - expected[0], atol=1e-5
    )


def test_stratonovich_drift_lies_between_in_one_dimension():
    root = sp.Matrix([[1 + X**2]])
    ito, middle = (convention_drift(root, (X,), name)[0] for name in ("ito", "stratonovich"))
    assert sp.expand(ito - 2 * middle) == 0
    assert convention_drift(root, (X,), "isothermal")[0] == 0


@pytest.mark.parametrize("extent", [(2.0, 2.0), 2.0])
@pytest.mark.parametrize("degree", [2, 3])
def test_order_of_convergence_by_a_manufactured_solution(extent, degree):
    landscape = Landscape(X**2 / 2 + Y**2 * (2 - X**2 / 4) / 2, (X, Y))
    delta = 0.4
    wanted = (
        (sp.cos(sp.pi * X / 4) * sp.cos(sp.pi * Y / 4)) ** 2
        if isinstance(extent, tuple)
        else (4 - X**2 - Y**2) ** 2
    )
    root = noise_root(landscape, RandomShift()).subs(sp.Symbol("Delta_S", positive=True), delta)
    matrix = root * root.T
    flux = [
        wanted * landscape.gradient[i] + sum(sp.diff(matrix[i, j] * wanted, (X, Y)[j]) for j in range(2))
        for i in range(2)
    ]
    source = landscape.function(-sp.diff(flux[0], X) - sp.diff(flux[1], Y))
    points = np.random.default_rng(1).uniform(-1.2, 1.2, (2, 400))
    exact = landscape.function(wanted)(*points)
    errors = []
    for number in (4, 8):
        region = Region(extent, (number, number), degree, rim="absorbing")
        equation = Equation(landscape, RandomShift(), convention="ito", region=region)
        nodes = np.asarray(equation.basis.global_coordinates())
        solution = equation.solve_source(delta, source(*nodes))
        errors.append(np.sqrt(np.mean((solution(*points) - exact) ** 2)))
    order = np.log2(errors[0] / errors[1])
    # degree + 1 in theory; a rim of straight pieces adds an error of order 2 that this solution, flat at
    # the rim (value and slope vanish), does not feel
    assert order > degree + 0.6, (errors, order)


def test_flux_circulates_and_conserves_probability():
    density = stationary(VALLEY, 0.012, convention="ito", region=Region(elements=(7, 7), degree=14))
    x, y = 0.2, 0.2  # inside an element: derivatives of P may jump between elements
    step = 1e-3
    east, west = density.flux(x + step, y)[0], density.flux(x - step, y)[0]
    north, south = density.flux(x, y + step)[1], density.flux(x, y - step)[1]
    size = np.abs(density.flux(x, y)).max()
    assert size > 1e-3
    # ∂ₓJₓ = −∂_yJ_y up to the discretisation and the finite difference, both about 1e-6 of them here
    assert abs(east - west + north - south) < 1e-4 * abs(east - west)
    # no net flux across the line through the point
    line = np.linspace(-1.6, 1.6, 801)
    assert abs(np.trapezoid(density.flux(x, line)[0], line)) < 1e-6


def test_absorbing_rim_leaks():
    far = stationary(VALLEY, 0.009, convention="ito", region=Region(rim="absorbing"))
    near = stationary(VALLEY, 0.009, convention="ito", region=Region((0.5, 0.8), rim="absorbing"))
    assert 0 < far.leak < 1e-8 < near.leak
    assert near.mass == pytest.approx(1)
    assert np.all(np.abs(near([0.5, 0.1], [0.1, 0.8])) < 1e-12)
    # the next rate is only 1.15 times as large: inverse iteration must go on until the density decays as one
    equation = near.equation
    inner = equation._inner
    decay = equation.operator(0.009)[inner] @ near.coefficients
    kept = near.leak * (equation.mass_matrix[inner] @ near.coefficients)
    np.testing.assert_allclose(decay, kept, atol=1e-7 * np.abs(kept).max())


def test_leak_rate_of_a_linear_drift():
    # without drift in x the slowest rate in |x| < 1 is Δ(π/2)²; reflecting in y would need another region,
    # so take the product of both directions of a flat box
    flat = Landscape(0 * X + 0 * Y, (X, Y))
    density = stationary(
        flat, 1.0, convention="ito", noise=Isotropic(), region=Region((1, 2), (2, 2), 8, rim="absorbing")
    )
    assert density.leak == pytest.approx(np.pi**2 / 4 + np.pi**2 / 16, rel=1e-8)


def test_marginal_mean_and_symmetry():
    density = stationary(VALLEY, 0.012, convention="ito")
    x = np.linspace(-1.5, 1.5, 601)
    marginal = density.marginal("x", x)
    np.testing.assert_allclose(marginal, marginal[::-1], rtol=1e-6, atol=1e-9)
    assert np.trapezoid(marginal * x**2, x) == pytest.approx(density.mean("x**2"), rel=1e-5)
    with pytest.raises(ValueError, match="not even in x"):
        density.mean("x*y**2")
    with pytest.raises(ValueError, match=r"coordinate='z'"):
        density.marginal("z", x)


def test_outside_the_region_is_zero():
    density = stationary(VALLEY, 0.012, convention="ito")
    assert np.all(density([2.5, 0], [0, -3]) == 0)


def test_dropping_cross_terms_changes_the_equation_only_off_the_diagonal():
    whole = Equation(VALLEY, RandomShift(), convention="ito", region=SMALL)
    diagonal = Equation(VALLEY, RandomShift(), convention="ito", cross=False, region=SMALL)
    assert whole.diffusion[0, 1] != 0
    assert diagonal.diffusion[0, 1] == 0
    assert whole.diffusion[0, 0] == diagonal.diffusion[0, 0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="convention='Ito'"):
        stationary(VALLEY, 0.01, convention="Ito")
    with pytest.raises(ValueError, match="delta_s=0"):
        stationary(VALLEY, 0.0, convention="ito", region=SMALL)
    with pytest.raises(ValueError, match="too coarse"):
        stationary(VALLEY, 0.0005, convention="ito", region=Region(elements=(1, 1), degree=4))
    # not resolved, though it looks like a density: ⟨x²⟩ would be half of what it is
    with pytest.raises(ValueError, match="too coarse"):
        stationary(VALLEY, 0.009, convention="isothermal")
    with pytest.raises(ValueError, match="extent="):
        Region(extent=(1, -1))
    with pytest.raises(ValueError, match="rim="):
        Region(rim="open")
    with pytest.raises(ValueError, match="degree="):
        Region(degree=1)
    with pytest.raises(ValueError, match="elements="):
        Region(elements=(0, 3))
    with pytest.raises(ValueError, match="cross=False"):
        Equation(VALLEY, RandomShift(), convention="stratonovich", cross=False)
    with pytest.raises(ValueError, match="no value yet"):
        stationary(near_degenerate_valley(), 0.01, convention="ito")
    one = Landscape(X**2, (X,))
    with pytest.raises(ValueError, match="two are needed"):
        stationary(one, 0.01, convention="ito")


def test_hessian_aligned_noise_has_a_diffusion_matrix():
    separable = Landscape(X**2 / 2 + X**4 / 12 + Y**2, (X, Y))
    root = noise_root(separable, HessianAligned())
    value = (root * root.T).subs({X: 0.5, Y: 0.1, sp.Symbol("Delta_S", positive=True): 0.3})
    np.testing.assert_allclose(np.array(value, float), 0.3 * np.diag([1.25, 2]), atol=1e-12)


def test_stratonovich_drift_in_the_plane():
    # c = B ∇·B for one column B (product rule of B ∇·(BP)): a noise that stretches has it, one that turns not
    stretch, turn = sp.Matrix([X, Y]), sp.Matrix([-Y, X])
    assert convention_drift(stretch, (X, Y), "stratonovich") == 2 * stretch
    assert convention_drift(turn, (X, Y), "stratonovich") == sp.zeros(2, 1)
    # stretching leaves 1/r² as it is: no flux cP + D∇P
    density = 1 / (X**2 + Y**2)
    slope = sp.Matrix([sp.diff(density, q) for q in (X, Y)])
    flux = convention_drift(stretch, (X, Y), "stratonovich") * density + stretch * stretch.T * slope
    assert flux.applyfunc(sp.simplify) == sp.zeros(2, 1)
    # two columns add up; in Itô's sense a turning noise drifts inwards, ∇·D = −(x, y)
    both = sp.Matrix.hstack(stretch, turn)
    assert convention_drift(both, (X, Y), "stratonovich") == 2 * stretch
    assert convention_drift(turn, (X, Y), "ito") == -stretch
