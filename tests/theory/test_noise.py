import numpy as np
import pytest
import sympy as sp

from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import (
    ETA,
    SIGMA,
    HessianAligned,
    Isotropic,
    LossProportional,
    NoNoise,
    RandomShift,
)
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

PAPER = {"epsilon": 0.1, "lambda_0": 8, "lambda_1": -2, "lambda_2": 1}
NOISES = [RandomShift(), Isotropic(), HessianAligned()]


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_random_shift_covariance_is_twice_sigma_hessian_squared(dimension):
    q = sp.symbols(f"q0:{dimension}", real=True)
    loss = sp.Function("L", real=True)(*q)
    landscape = Landscape(loss, q)
    difference = RandomShift().covariance(landscape) - 2 * SIGMA * landscape.hessian**2
    assert difference.applyfunc(sp.simplify) == sp.zeros(dimension, dimension)


def test_diffusion_is_half_eta_times_covariance():
    valley = near_degenerate_valley()
    expected = ETA * SIGMA * valley.hessian**2
    assert (RandomShift().diffusion(valley) - expected).applyfunc(sp.simplify) == sp.zeros(2, 2)


@pytest.mark.parametrize("noise", NOISES, ids=lambda n: type(n).__name__)
def test_draws_have_the_covariance_that_is_stated(noise):
    valley = near_degenerate_valley().at(**PAPER)
    point, sigma, n = (0.8, 0.5), 0.3, 200_000
    normals = noise.normals(valley)
    kick = valley.substitute(noise.gradient_noise(valley, normals)).subs(SIGMA, sigma)
    z = np.random.default_rng(0).standard_normal((len(normals), n))
    drawn = np.stack(
        np.broadcast_arrays(*sp.lambdify((*valley.coordinates, *normals), list(kick))(*point, *z))
    )
    stated = valley.function(noise.covariance(valley).subs(SIGMA, sigma))(*point)
    scale = np.sqrt(np.outer(np.diag(stated), np.diag(stated)))
    # the standard error of a covariance entry is below √2/√n of its scale
    np.testing.assert_allclose((np.cov(drawn) - stated) / scale, 0, atol=5 * np.sqrt(2 / n))


def test_projected_hessian_drops_the_negative_eigenvalue():
    valley = near_degenerate_valley().at(**PAPER)
    point = (0.2, 1.5)
    hessian = valley.function(valley.hessian)(*point)
    values, vectors = np.linalg.eigh(hessian)
    assert values[0] < 0 < values[1]
    projected = vectors @ np.diag(np.maximum(values, 0)) @ vectors.T
    covariance = valley.function(HessianAligned().covariance(valley).subs(SIGMA, 0.5))(*point)
    np.testing.assert_allclose(covariance, projected, rtol=1e-10, atol=1e-12)


def test_no_noise_has_no_covariance():
    assert NoNoise().covariance(near_degenerate_valley()) == sp.zeros(2, 2)


@pytest.mark.parametrize("sigma", [-0.1, float("nan"), [0.1, -1.0]])
def test_negative_sigma_is_refused(sigma):
    with pytest.raises(ValueError, match=r"sigma=.*: must be finite real numbers at least 0"):
        RandomShift(sigma)


def test_hessian_aligned_needs_two_coordinates():
    q = sp.Symbol("q", real=True)
    with pytest.raises(ValueError, match="must be of two coordinates"):
        HessianAligned().covariance(Landscape(q**2, (q,)))


def test_loss_proportional_noise_has_the_covariance_that_is_stated():
    valley = near_degenerate_valley()
    matrix = sp.Matrix([[2.0, 0.5], [0.5, 1.0]])
    noise = LossProportional(matrix=((2.0, 0.5), (0.5, 1.0)))
    rest = noise.covariance(valley) - 2 * SIGMA * valley.loss * matrix
    at = dict.fromkeys(valley.coordinates, 0.7) | dict.fromkeys((*valley.parameters, SIGMA), 0.3)
    np.testing.assert_allclose(np.array(rest.subs(at), dtype=float), 0, atol=1e-12)
    assert LossProportional().covariance(valley)[0, 0].equals(2 * SIGMA * valley.loss)


def test_loss_proportional_noise_refuses_what_is_no_covariance():
    for matrix in (((1.0, 2.0), (0.0, 1.0)), ((1.0, 2.0), (2.0, 1.0)), ((1.0, 2.0),)):
        with pytest.raises(ValueError, match="matrix"):
            LossProportional(0.1, matrix)
    with pytest.raises(ValueError, match=r"as many rows as .* has coordinates, 2"):
        LossProportional(0.1, ((1.0,),)).covariance(near_degenerate_valley())
    with pytest.raises(ValueError, match="sigma"):
        LossProportional(-0.1)
