import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

from flatmin.theory.continuum.escape import kramers_rate
from flatmin.theory.logarithmic import laws as logarithmic


def test_exponents():
    assert logarithmic.temperature(0.1, 5, 2.0) == pytest.approx(0.04)
    assert logarithmic.critical_dimension(0.1, 1, 95.6) == pytest.approx(2 * (1 / 9.56 + 1))
    np.testing.assert_allclose(logarithmic.passage_exponent(0.1, 1, dimension=np.array([1, 20])), [10.5, 1])
    assert logarithmic.passage_exponent(0.1, 1, dimension=1, covariance="gaussian inputs") == 5.5


@pytest.mark.parametrize("covariance", ["loss", "gaussian inputs"])
@pytest.mark.parametrize("dimension", [1, 3])
def test_passage_exponent_is_that_of_the_radial_diffusion(covariance, dimension):
    # q = |θ|²: drift −2q + ε(d(1 + q) + e q), diffusion 2ε(q + (1 + e)q²), e = 1 with the rank-one term
    eps, extra = 0.2, covariance == "gaussian inputs"

    def log_scale_slope(log_q, _):
        q = np.exp(log_q)
        drift = -2 * q + eps * (dimension * (1 + q) + extra * q)
        return -drift * q / (2 * eps * (q + (1 + extra) * q**2)) + 1

    # the scale function s' ~ q^(a−1) gives the power a of the hitting probability
    grown = solve_ivp(log_scale_slope, (8, 14), [0.0], rtol=1e-9).y[0, -1] / 6
    wanted = logarithmic.passage_exponent(eps, 1, dimension=dimension, covariance=covariance)
    assert grown == pytest.approx(wanted, abs=1e-3)


def test_the_rate_is_kramers_rate_on_the_logarithm():
    minimum, saddle, hessian, top = 0.3, 0.8, np.diag([2.0, 5.0]), np.diag([-1.0, 4.0])
    per_tau = kramers_rate(0.1, np.log(saddle / minimum), hessian / minimum, top / saddle)
    rate = logarithmic.power_law_rate(0.1, minimum, saddle, hessian, top)
    assert rate == pytest.approx(minimum * per_tau, rel=1e-12, abs=0)
    one = logarithmic.power_law_rate(0.1, minimum, saddle, 2.0, -1.0)
    assert one == pytest.approx(np.sqrt(2) / (2 * np.pi) * (saddle / minimum) ** -10.5, rel=1e-12, abs=0)


def test_rate_refuses_what_has_no_logarithmic_barrier():
    with pytest.raises(ValueError, match=r"minimum=0\.0: must be a positive loss"):
        logarithmic.power_law_rate(0.1, 0.0, 1.0, 2.0, -1.0)
    with pytest.raises(ValueError, match=r"saddle=.*must be above"):
        logarithmic.power_law_rate(0.1, 1.0, 0.9, 2.0, -1.0)
    with pytest.raises(ValueError, match="saddle_hessian"):
        logarithmic.power_law_rate(0.1, 1.0, 2.0, 2.0, 1.0)
    with pytest.raises(ValueError, match="temperature"):
        logarithmic.power_law_rate(0.0, 1.0, 2.0, 2.0, -1.0)


def test_another_covariance_is_refused():
    with pytest.raises(ValueError, match="covariance='h'"):
        logarithmic.passage_exponent(0.1, 1, covariance="h")


@pytest.mark.parametrize(
    ("phi", "beyond"), [(1.3, 1.0), (6.0, 1.0), (6.0, 1.4), (300.0, 1.01), (4000.0, 1.5)]
)
def test_mean_log_ratio_against_quadrature(phi, beyond):
    low = np.sqrt(beyond - 1)
    high = low + 40 / (phi * max(low, phi**-0.5)) if phi > 10 else np.inf
    weights = [
        quad(lambda u, p=p: np.log1p(u * u) ** p * ((1 + u * u) / beyond) ** -phi, low, high, epsabs=0)[0]
        for p in (0, 1)
    ]
    assert logarithmic._mean_log_ratio(phi, 1, beyond) == pytest.approx(weights[1] / weights[0], rel=2e-5)


@pytest.mark.parametrize("phi", [1e3, 0.9e6, 1.1e6, 1e12, 1e30])
@pytest.mark.parametrize("dimension", [1, 4])
def test_mean_log_ratio_keeps_its_digits_for_narrow_minima(phi, dimension):
    # ⟨log L/L*⟩ = n/2φ (1 + (n/2 + 1)/2φ + O(φ⁻²)); a difference of two ψ has an error of eps log φ
    half, error = dimension / 2, 8 * np.finfo(float).eps * np.log(phi) if phi < 1e6 else 0.0
    expected = half / phi * (1 + (half + 1) / (2 * phi))
    found = logarithmic._mean_log_ratio(phi, dimension, 1)
    assert found == pytest.approx(expected, rel=10 / phi**2 + 1e-12, abs=error)


def test_arguments_out_of_range_are_named():
    for eta in (-0.1, 0, np.nan, 1j, "0.1"):
        for function in (
            logarithmic.temperature,
            logarithmic.critical_dimension,
            logarithmic.passage_exponent,
        ):
            with pytest.raises(ValueError, match="eta="):
                function(eta, 1)
    with pytest.raises(ValueError, match="dimension=-1"):
        logarithmic.passage_exponent(0.1, 1, dimension=-1)
    with pytest.raises(ValueError, match=r"eta \(2,\), batch_size \(3,\)"):
        logarithmic.temperature(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="beyond=2: must be 1 unless dimension is 1"):
        logarithmic.exponent_of(0.3, 3, 2.0)
    with pytest.raises(ValueError, match=r"mean_log: mean of log L/L\* is 0.01"):
        logarithmic.exponent_of(0.01, 1, 1.5)


@pytest.mark.parametrize("dimension", [1, 4])
def test_fit_recovers_the_exponent(dimension):
    # a Student vector with ν = 2φ − n degrees of freedom has density ∝ (1 + |z|²)^(−φ)
    rng, phi = np.random.default_rng(2), 5.0
    chi = rng.chisquare(2 * phi - dimension, 20_000)
    ratios = 1 + (rng.standard_normal((20_000, dimension)) ** 2).sum(axis=1) / chi
    assert logarithmic.fit_exponent(ratios, dimension) == pytest.approx(phi, abs=0.15)
    if dimension == 1:
        assert logarithmic.fit_exponent(ratios, beyond=1.3) == pytest.approx(phi, abs=0.5)
        theta = np.sqrt(ratios - 1) * rng.choice([-1, 1], 20_000)
        found, window = logarithmic.fit_histogram(theta, lambda at: 1 + at**2)
        assert found == pytest.approx(phi, rel=0.1)
        assert 1 <= window[0] < window[1] < ratios.max()


def test_fits_refuse_bad_samples():
    with pytest.raises(ValueError, match="cannot be below 1"):
        logarithmic.fit_exponent(np.full(20, 0.5))
    with pytest.raises(ValueError, match="at least 10"):
        logarithmic.fit_exponent(np.full(5, 1.5))
    with pytest.raises(ValueError, match="beyond=2"):
        logarithmic.fit_exponent(np.full(20, 3.0), dimension=2, beyond=2)
    with pytest.raises(ValueError, match="least=10"):
        logarithmic.fit_histogram(np.array([0.0] * 50 + [1e6]), lambda at: 1 + at**2)


def well(x):
    return 1 / 8 + (x**2 - 1) ** 2 / 4


def test_aligned_factor_is_one_for_isotropic_noise_and_a_power_for_stiff_directions():
    assert logarithmic.aligned_factor(well, lambda x: 3.0, 1.0, -1, 0) == pytest.approx(1, abs=1e-6)
    # k → ∞ at fixed ratio: [L_s/L*]^((r − 1)/2)
    stiff = logarithmic.aligned_factor(well, lambda x: 500.0, 1.5, -1, 0)
    assert stiff == pytest.approx(3**0.25, rel=2e-3)
    with pytest.raises(ValueError, match="loss"):
        logarithmic.aligned_factor(well, lambda x: 1.0, 2.0, 0, -1)
    with pytest.raises(ValueError, match="ratio"):
        logarithmic.aligned_factor(well, lambda x: 1.0, 0.0, -1, 0)
