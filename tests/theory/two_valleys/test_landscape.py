import numpy as np
import pytest
import sympy as sp

from flatmin.theory.noise import HessianAligned, RandomShift
from flatmin.theory.sgd.rng import LANES, seed_lanes, standard_normals, stream_key
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.two_valleys.landscape import (
    PAPER,
    barrier,
    flatness,
    frozen_valleys,
    path_drift,
    position,
    two_valleys,
)


@pytest.fixture(scope="module")
def valleys():
    return two_valleys()


@pytest.fixture(scope="module")
def paper(valleys):
    return valleys.at(**PAPER)


@pytest.mark.parametrize(("side", "inside"), [("flat", sp.Rational(1, 7)), ("sharp", -sp.Rational(1, 7))])
def test_each_side_is_equation_5(valleys, side, inside):
    x, y = valleys.coordinates
    v = {p.name: p for p in valleys.parameters}
    # Eq. 5, A1, A2 and A4 typed in from the paper
    c = v["x1"] if side == "flat" else v["x2"]
    g = 2 * c * y / (y + v["y_b"])
    f = v["f0"] * c**2 / v["x0"] ** 2 * (y + v["y_f"]) ** 2 / (y + v["y_b"]) ** 2
    floor = v["L_d"] * sp.exp(-y / v["y_d"]) + v["x0"] ** 2 / v["f0"]
    printed = floor + (x * (x - g) if side == "flat" else x * (x + g)) / f
    assert sp.simplify((valleys.loss - printed).subs(x, inside)) == 0
    assert sp.simplify(f - flatness(side)) == 0


def test_both_floors_lie_at_the_barrier_below_the_kink(valleys):
    x, y = valleys.coordinates
    numbers = {valleys.symbol(name): sp.nsimplify(value) for name, value in PAPER.items()}
    for side in ("flat", "sharp"):
        for at in (sp.Rational(1, 2), 5, 40):
            here = {**numbers, y: at}
            depth = valleys.loss.subs(here).subs(x, 0) - valleys.loss.subs(here).subs(
                x, position(side).subs(here)
            )
            assert sp.simplify(depth - barrier().subs(here)) == 0
    x1, x2 = valleys.symbol("x1"), valleys.symbol("x2")
    assert sp.simplify(flatness("flat") / flatness("sharp") - (x1 / x2) ** 2) == 0


def test_path_drift_is_the_slope_along_the_floor(paper):
    slope = paper.function(paper.gradient[1])
    for side in ("flat", "sharp"):
        floor = paper.function(position(side))
        for y in (1.0, 9.0, 60.0):
            expected = -float(slope(floor(0.0, y), y))
            assert float(paper.function(path_drift())(0.0, y)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("x", [-0.31, -0.02, 0.02, 0.4])
@pytest.mark.parametrize("y", [1.0, 20.0])
def test_gradient_and_hessian_agree_with_finite_differences(paper, x, y):
    loss, gradient = paper.function(paper.loss), paper.function(paper.gradient)
    hessian = paper.function(paper.hessian)(x, y)
    h = 1e-5
    numeric = [(loss(x + h, y) - loss(x - h, y)) / (2 * h), (loss(x, y + h) - loss(x, y - h)) / (2 * h)]
    np.testing.assert_allclose(gradient(x, y), numeric, rtol=1e-7, atol=1e-9)
    columns = [
        (gradient(x + h, y) - gradient(x - h, y)) / (2 * h),
        (gradient(x, y + h) - gradient(x, y - h)) / (2 * h),
    ]
    np.testing.assert_allclose(hessian, np.stack(columns, axis=-1), rtol=1e-6, atol=1e-8)


def numpy_path(landscape, power, sigma, eta, start, steps, seed):
    """The trajectories from the same normals with NumPy and an eigendecomposition of the Hessian."""
    gradient, hessian = landscape.function(landscape.gradient), landscape.function(landscape.hessian)
    state = [np.zeros(LANES, np.uint32) for _ in range(4)]
    seed_lanes(stream_key(seed), np.arange(LANES), *state)
    z = np.zeros((2, LANES), np.float32)
    theta = np.repeat(np.array(start, float)[:, None], LANES, axis=1)
    path = [theta]
    for _ in range(steps):
        standard_normals(*state, z[0], z[1])
        values, vectors = np.linalg.eigh(hessian(*theta))
        if power == 1:
            values = np.sqrt(np.maximum(values, 0))
        root = np.einsum("nij,nj,nkj->nik", vectors, values, vectors)
        # the random shift enters with a minus sign, −Hμ
        sign = 1 if power == 1 else -1
        kick = sign * np.sqrt(2 * sigma) * np.einsum("nij,jn->in", root, z.astype(float))
        theta = theta - eta * (gradient(*theta).T + kick)
        path.append(theta)
    return np.array(path)


@pytest.mark.parametrize(("noise", "power"), [(HessianAligned, 1), (RandomShift, 2)])
def test_compiled_steps_are_those_of_numpy(paper, noise, power):
    runs = simulate(
        paper, noise(0.1), eta=0.02, steps=120, start=(0.05, 3.0), trajectories=LANES, seed=3,
        keep=121, hops="x",
    )  # fmt: skip
    path = numpy_path(paper, power, 0.1, 0.02, (0.05, 3.0), 120, 3)
    # a rounding error at the kink would send a trajectory to the other side; within 120 steps none does
    np.testing.assert_allclose(runs.trajectories, np.moveaxis(path, 2, 0), rtol=0, atol=1e-10)
    sides = path[:, 0] >= 0
    changes = sides[1:] != sides[:-1]
    assert changes.any(axis=0).sum() > 10
    np.testing.assert_array_equal(runs.hops.number, changes.sum(axis=0))
    last = np.where(changes.any(axis=0), 120 - np.argmax(changes[::-1], axis=0), 0)
    np.testing.assert_array_equal(runs.hops.last, last)
    where = np.moveaxis(path, 2, 0)[np.arange(LANES), last]
    np.testing.assert_allclose(runs.hops.position, where, atol=1e-10)


def test_frozen_valleys_do_not_move_along_y(paper):
    still = frozen_valleys().at(**PAPER, y=5.0)
    runs = simulate(still, HessianAligned(0.1), eta=0.02, steps=500, start=(0.05, 0.0), trajectories=64)
    assert np.abs(runs.final[:, 1]).max() < 1e-14
    assert np.ptp(runs.final[:, 0]) > 0.01
    whole = float(paper.function(paper.loss)(0.2, 5.0))
    assert float(still.function(still.loss)(0.2, 0.0)) == pytest.approx(whole, rel=1e-14)


def test_unknown_side_is_refused():
    with pytest.raises(ValueError, match="side='left': must be one of"):
        flatness("left")


def test_there_is_nothing_beyond_the_pole(paper):
    with pytest.raises(ValueError, match=r"start of x, y: must lie where y \+ y_f > 0"):
        simulate(paper, HessianAligned(0.1), eta=0.02, steps=10, start=(0.05, -20.0))
    with pytest.raises(ValueError, match=r"x, y: must lie where y \+ y_f > 0"):
        paper.function(paper.loss)(0.1, [0.0, -21.0])
    with pytest.raises(ValueError, match=r"y \+ y_f = .* must be positive"):
        frozen_valleys().at(**PAPER, y=-20.0)
    with pytest.raises(ValueError, match=r"x1 = .* must be positive"):
        two_valleys().at(**{**PAPER, "x1": -0.8})
