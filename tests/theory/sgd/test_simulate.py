import os
import subprocess
import sys

import numpy as np
import pytest
import sympy as sp

from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import HessianAligned, Isotropic, NoNoise, RandomShift
from flatmin.theory.sgd import kernels
from flatmin.theory.sgd.rng import LANES, seed_lanes, standard_normals, stream_key
from flatmin.theory.sgd.simulate import Passage, simulate
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

PAPER = {"epsilon": 0.02, "lambda_0": 8, "lambda_1": -2, "lambda_2": 1}
OBSERVE = ("x", "x**2", "y**2")


@pytest.fixture(scope="module")
def valley():
    return near_degenerate_valley().at(**PAPER)


@pytest.fixture(scope="module")
def quadratic():
    q = sp.Symbol("q", real=True)
    k = sp.Symbol("k", positive=True)
    return Landscape(k * q**2 / 2, (q,), (k,)).at(k=1.5)


def numpy_ensemble(landscape, sigma, eta, steps, start, seed, bound=1e3):
    """The same trajectories from the same normals, one NumPy step at a time: an independent route."""
    gradient, hessian = landscape.function(landscape.gradient), landscape.function(landscape.hessian)
    state = [np.zeros(LANES, np.uint32) for _ in range(4)]
    seed_lanes(stream_key(seed), np.arange(LANES), *state)
    z = np.zeros((2, LANES), np.float32)
    theta = np.repeat(np.array(start, float)[:, None], LANES, axis=1)
    path = [theta]
    for _ in range(steps):
        standard_normals(*state, z[0], z[1])
        shift = np.sqrt(2 * sigma) * z.astype(float)
        moved = theta - eta * (gradient(*theta).T - np.einsum("nij,jn->in", hessian(*theta), shift))
        theta = np.where((np.abs(moved) <= bound).all(axis=0), moved, theta)
        path.append(theta)
    return np.array(path)


def test_agrees_with_numpy_step_by_step(valley):
    runs = simulate(
        valley,
        RandomShift(0.3),
        eta=0.03,
        steps=200,
        start=(1.2, -0.7),
        trajectories=LANES,
        seed=5,
        keep=201,
    )
    path = numpy_ensemble(valley, 0.3, 0.03, 200, (1.2, -0.7), 5)
    np.testing.assert_allclose(runs.trajectories.transpose(1, 2, 0), path, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(runs.final.T, path[-1], rtol=1e-9, atol=1e-12)


def test_same_seed_same_numbers_whatever_the_threads(valley):
    def once(threads):
        runs = simulate(
            valley, RandomShift(np.array([0.1, 0.5])), eta=np.array([[0.01], [0.05]]), steps=400,
            start=(1.5, 1.5), trajectories=100, seed=3, burn_in=50, observe=OBSERVE, threads=threads,
        )  # fmt: skip
        return runs.final, runs.per_trajectory("x**2"), runs.lifetime

    for one, two in zip(once(1), once(2), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_trajectory_does_not_depend_on_its_neighbours(valley):
    few = simulate(valley, RandomShift(0.3), eta=0.03, steps=300, start=(1.0, 0.5), trajectories=3, seed=9)
    many = simulate(valley, RandomShift(0.3), eta=0.03, steps=300, start=(1.0, 0.5), trajectories=200, seed=9)
    np.testing.assert_array_equal(few.final, many.final[:3])
    other = simulate(valley, RandomShift(0.3), eta=0.03, steps=300, start=(1.0, 0.5), trajectories=3, seed=10)
    assert not np.any(few.final == other.final)


def test_compiled_code_rounds_every_operation(tmp_path):
    # fused multiply-adds would make the numbers depend on the machine; an empty cache, for compiled code
    # that comes from the cache cannot be inspected
    code = """
import sys
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley
from flatmin.theory.noise import RandomShift
from flatmin.theory.sgd.rng import standard_normals
from flatmin.theory.sgd.simulate import simulate
valley = near_degenerate_valley().at(epsilon=0.02, lambda_0=8, lambda_1=-2, lambda_2=1)
simulate(valley, RandomShift(0.3), eta=0.03, steps=2, start=(1.0, 0.5))
(kernel,) = [m for name, m in sys.modules.items() if name.startswith("flatmin_kernel_")]
texts = [*kernel.advance.inspect_asm().values(), *standard_normals.inspect_asm().values()]
assert all("mul" in t for t in texts), "no assembly to look at"
print(sum(word in t for t in texts for word in ("fmadd", "fmsub", "fnmadd", "fmla")))
"""
    environment = {**os.environ, "FLATMIN_CACHE": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0"


def test_stationary_variance_of_the_discrete_linear_chain(quadratic):
    # q ← (1 − ηk) q + η√(2σ) z has the variance 2ση²/(1 − (1 − ηk)²), not only in the limit η → 0
    eta = np.array([0.02, 0.2, 0.8])
    runs = simulate(
        quadratic,
        Isotropic(0.4),
        eta=eta,
        steps=30_000,
        burn_in=1_000,
        start=(0.0,),
        trajectories=64,
        seed=1,
        observe=("q**2",),
    )
    exact = 2 * 0.4 * eta**2 / (1 - (1 - eta * 1.5) ** 2)
    average = runs.time_average("q**2")
    value, error, count = average.value, average.error, average.n
    assert np.all(np.abs(value - exact) < 4 * error)
    assert np.all(error < 0.02 * exact)
    assert np.all(count == 64)


def test_error_bars_cover(quadratic):
    # 60 independent ensembles: the pull has unit spread if the standard error is right
    seeds = np.arange(60)
    exact = 2 * 0.4 * 0.2**2 / (1 - (1 - 0.2 * 1.5) ** 2)
    pulls = []
    for seed in seeds:
        runs = simulate(
            quadratic,
            Isotropic(0.4),
            eta=0.2,
            steps=500,
            burn_in=50,
            start=(0.0,),
            trajectories=64,
            seed=int(seed),
            observe=("q**2",),
        )
        value, error = runs.time_average("q**2")
        pulls.append((value - exact) / error)
    assert abs(np.mean(pulls)) < 4 / np.sqrt(60)
    assert 0.7 < np.std(pulls) < 1.35


def test_histogram_is_the_gaussian_of_the_linear_chain(quadratic):
    runs = simulate(
        quadratic, Isotropic(0.4), eta=0.2, steps=20_000, burn_in=100, start=(0.0,), trajectories=128, seed=2,
        histogram={"q": (-2, 2, 40)}, histogram_every=20,
    )  # fmt: skip
    histogram = runs.histogram("q")
    variance = 2 * 0.4 * 0.2**2 / (1 - (1 - 0.2 * 1.5) ** 2)
    exact = np.exp(-(histogram.centres**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    well = exact > 0.02
    pulls = (histogram.density - exact)[well] / histogram.error[well]
    assert np.abs(pulls).max() < 5
    assert (histogram.density * np.diff(histogram.edges)).sum() == pytest.approx(1, abs=1e-3)


def test_gradient_descent_is_the_plain_recursion(valley):
    runs = simulate(valley, NoNoise(), eta=0.02, steps=50, start=(1.5, 1.5), keep=6)
    gradient = valley.function(valley.gradient)
    theta = np.array([1.5, 1.5])
    for t in range(50):
        if t % 10 == 0:
            np.testing.assert_allclose(runs.trajectories[0, t // 10], theta, rtol=1e-12)
        theta = theta - 0.02 * gradient(*theta)
    np.testing.assert_allclose(runs.final[0], theta, rtol=1e-12)
    assert list(runs.kept) == [0, 10, 20, 30, 40, 50]
    np.testing.assert_array_equal(runs.trajectories[0, -1], runs.final[0])


def test_first_passage_of_gradient_descent_is_exact(quadratic):
    # (1 − ηk)ᵗ ≤ level first at t = ceil(log level / log(1 − ηk))
    level = np.array([0.5, 0.1, 0.01])
    runs = simulate(quadratic, NoNoise(), eta=0.1, steps=200, start=(1.0,), passage=Passage(level, "q"))
    assert list(runs.passage_time[:, 0]) == list(np.ceil(np.log(level) / np.log(0.85)).astype(int))


def test_passages_that_do_not_happen_are_masked(quadratic):
    runs = simulate(quadratic, NoNoise(), eta=0.1, steps=20, start=(1.0,), passage=Passage(-0.5, "q"))
    assert runs.passage_time.mask.all()
    at_start = simulate(quadratic, NoNoise(), eta=0.1, steps=20, start=(1.0,), passage=Passage(1.0, "q"))
    assert at_start.passage_time[0] == 0


def test_hops_are_the_sign_changes_of_the_recorded_path(valley):
    runs = simulate(
        valley,
        Isotropic(0.5),
        eta=0.05,
        steps=400,
        start=(0.05, 0.1),
        trajectories=70,
        seed=4,
        hops="x",
        keep=401,
    )
    path = runs.trajectories
    for k in range(70):
        sign = path[k, :, 0] >= 0
        changes = np.flatnonzero(sign[1:] != sign[:-1]) + 1
        assert runs.hops.number[k] == len(changes)
        last = changes[-1] if len(changes) else 0
        assert runs.hops.last[k] == last
        np.testing.assert_array_equal(runs.hops.position[k], path[k, last])


def test_divergence_is_reported_per_trajectory(valley):
    runs = simulate(
        valley,
        RandomShift(100.0),
        eta=0.05,
        steps=3_000,
        start=(1.5, 1.5),
        trajectories=64,
        seed=1,
        observe=("x",),
        bound=50.0,
    )
    assert runs.diverged.all()
    assert np.all(runs.lifetime < 3_000)
    assert np.all(np.abs(runs.final) <= 50)
    assert np.all(np.isfinite(runs.final))
    assert runs.diverged_fraction.value == 1
    assert np.ma.is_masked(runs.time_average("x").value)
    some = simulate(
        valley,
        RandomShift(0.45),
        eta=0.05,
        steps=20_000,
        start=(0.1, 0.1),
        trajectories=100,
        seed=1,
        observe=("x",),
    )
    assert 0 < some.diverged.sum() < 100
    assert some.time_average("x").n == 100 - some.diverged.sum()


def test_grid_points_may_have_their_own_length(quadratic):
    steps = np.array([100, 1000])
    runs = simulate(quadratic, NoNoise(), eta=0.01, steps=steps, start=(1.0,))
    np.testing.assert_allclose(runs.final[:, 0, 0], 0.985**steps, rtol=1e-10)


def test_each_trajectory_has_the_step_and_length_of_its_grid_point(quadratic):
    eta, steps, start = np.array([[0.01], [0.2]]), np.array([10, 20, 40]), np.array([1.0, -2.0])
    runs = simulate(quadratic, NoNoise(), eta=eta, steps=steps, start=(start,), trajectories=2)
    expected = (1 - 1.5 * eta[..., None]) ** steps[:, None] * start
    np.testing.assert_allclose(runs.final[..., 0], expected, rtol=1e-10)


def test_progress_in_pieces_gives_the_same_numbers(valley, capsys):
    arguments = {
        "eta": 0.03,
        "steps": 50,
        "start": (1.0, 0.5),
        "trajectories": 5_000,
        "seed": 2,
        "observe": OBSERVE,
    }
    plain = simulate(valley, RandomShift(0.3), **arguments)
    shown = simulate(valley, RandomShift(0.3), progress=True, **arguments)
    np.testing.assert_array_equal(plain.final, shown.final)
    assert "step" in capsys.readouterr().err


def test_kept_points_are_those_of_the_whole_path(valley):
    arguments = {"eta": 0.03, "steps": 300, "start": (1.2, -0.7), "trajectories": 5, "seed": 5}
    whole = simulate(valley, RandomShift(0.3), keep=301, **arguments).trajectories
    for keep, steps in (((0, 7, 250), [0, 7, 250]), (range(0, 300, 100), [0, 100, 200]), (1, [300])):
        runs = simulate(valley, RandomShift(0.3), keep=keep, **arguments)
        assert list(runs.kept) == steps
        np.testing.assert_array_equal(runs.trajectories, whole[:, steps])
    assert simulate(valley, RandomShift(0.3), **arguments).kept is None


def test_a_diverged_trajectory_is_kept_where_it_stayed(valley):
    # all diverge within some steps, and the loop ends early: what would have come after is not left empty
    runs = simulate(
        valley,
        RandomShift(100.0),
        eta=0.05,
        steps=3_000,
        start=(1.5, 1.5),
        trajectories=4,
        keep=5,
        bound=50.0,
    )
    assert runs.diverged.all()
    for k in range(1, 5):
        np.testing.assert_array_equal(runs.trajectories[:, k], runs.final)


def test_runs_are_shown_in_one_line(valley):
    runs = simulate(
        valley, RandomShift(0.1), eta=[0.01, 0.02], steps=10, start=(1, 1), trajectories=3, keep=11
    )
    words = "near-degenerate valley with RandomShift: grid (2,) × 3 trajectories, 10 steps, 0 of 6 diverged"
    assert repr(runs) == f"<Runs on {words}>"


def test_a_coordinate_may_have_any_name():
    """Names that the compiled code uses itself, or that are no Python names, change nothing."""
    t = sp.symbols("t0 t1", real=True)
    plain = Landscape(t[0] ** 2 / 2 + t[0] ** 2 * t[1] ** 2, t)
    start = {"eta": 0.1, "steps": 50, "start": (0.3, 0.2), "trajectories": 3, "seed": 2, "hops": None}
    expected = simulate(plain, RandomShift(0.1), observe=("t0*t1",), **start)
    for one, two, product in (("q0", "z0", "q0*z0"), ("lane", "z1", "lane*z1"), ("r_{1}", "lambda", None)):
        other = sp.symbols((one, two), real=True)
        landscape = Landscape(other[0] ** 2 / 2 + other[0] ** 2 * other[1] ** 2, other)
        runs = simulate(landscape, RandomShift(0.1), observe=(product,) if product else (), **start)
        # the order of a sum may follow the names
        np.testing.assert_allclose(runs.final, expected.final, rtol=1e-10)
        if product:
            assert runs.time_average(product).value == pytest.approx(expected.time_average("t0*t1").value)


def test_a_trajectory_that_leaves_the_domain_has_diverged():
    # downhill from 1 + x > 0 across the pole, where the formula goes on and means nothing
    x = sp.Symbol("x", real=True)
    slope = Landscape(x + 1e-6 / (1 + x), (x,), domain={"1 + x": 1 + x})
    runs = simulate(slope, NoNoise(), eta=0.3, steps=100, start=(0.0,))
    assert runs.diverged.all()
    assert runs.lifetime[0] == 3  # 0, −0.3, −0.6, −0.9
    assert runs.final[0, 0] == pytest.approx(-0.9, abs=1e-3)
    with pytest.raises(ValueError, match=r"start of x: must lie where 1 \+ x > 0"):
        simulate(slope, NoNoise(), eta=0.3, steps=100, start=(-1.5,))


ELEMENTARY = {
    "exp(-x**2)": lambda x: np.exp(-(x**2)),
    "cos(3*x)": lambda x: np.cos(3 * x),
    "sin(x)": np.sin,
    "log(1 + x**2)": lambda x: np.log(1 + x**2),
    "tanh(x)": np.tanh,
    "sqrt(1 + x**2)": lambda x: np.sqrt(1 + x**2),
    "abs(x)": np.abs,
    "sign(x - 1/10)": lambda x: np.sign(x - 0.1),
    "max(x, 1/10) - min(x, 0)": lambda x: np.maximum(x, 0.1) - np.minimum(x, 0),
    "(1 + x**2)**(1/3)": lambda x: (1 + x**2) ** (1 / 3),
    "(1 + x**2)**(-3/2)": lambda x: (1 + x**2) ** -1.5,
    "(x/2)**19": lambda x: (x / 2) ** 19,
    "pi*x": lambda x: np.pi * x,
}


def test_elementary_functions_are_averaged_as_numpy_does(quadratic):
    names = {
        name.replace("x", "q").replace("eqp", "exp").replace("maq", "max"): f
        for name, f in ELEMENTARY.items()
    }
    runs = simulate(
        quadratic, Isotropic(0.4), eta=0.2, steps=40, start=(0.5,), trajectories=8, seed=3,
        observe=tuple(names), batches=1, keep=41,
    )  # fmt: skip
    after = runs.trajectories[:, 1:, 0]
    for name, function in names.items():
        expected = function(after).mean(axis=1)
        # rounding of a sum of forty numbers, and of each
        np.testing.assert_allclose(
            runs.per_trajectory(name), expected, rtol=1e-13, atol=1e-13 * np.abs(function(after)).max()
        )


def test_losses_may_hold_elementary_functions():
    x = sp.Symbol("x", real=True)
    loss = 1 - sp.cos(x) + sp.log(1 + x**2) / 4 + sp.tanh(x) ** 2 / 8 + sp.Abs(x - 1) / 16
    landscape = Landscape(loss, (x,))
    runs = simulate(landscape, NoNoise(), eta=0.2, steps=30, start=(1.7,))
    theta, slope = 1.7, landscape.function(landscape.gradient)
    for _ in range(30):
        theta = theta - 0.2 * float(slope(theta)[0])
    assert runs.final[0, 0] == pytest.approx(theta, abs=1e-12)
    with pytest.raises(ValueError, match=r"landscape=.*it has no DiracDelta"):
        simulate(landscape, RandomShift(0.1), eta=0.2, steps=30, start=(1.7,))


def test_an_average_that_is_not_a_number_is_refused(quadratic):
    runs = simulate(
        quadratic, Isotropic(0.4), eta=0.2, steps=40, start=(0.5,), trajectories=8, observe=("log(q)", "q")
    )
    assert np.isfinite(runs.time_average("q").value)
    with pytest.raises(ValueError, match=r"observable='log\(q\)': must be defined wherever"):
        runs.time_average("log(q)")


def test_kernels_are_shared_between_parameter_values(valley):
    simulate(valley, RandomShift(0.3), eta=0.03, steps=2, start=(1.0, 0.5))
    before = kernels._load.cache_info().misses
    other = near_degenerate_valley().at(**{**PAPER, "epsilon": 0.5, "lambda_2": 3})
    simulate(other, RandomShift(0.7), eta=0.01, steps=2, start=(1.0, 0.5))
    assert kernels._load.cache_info().misses == before


def test_an_unwritable_cache_is_no_obstacle(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    code = (
        "import sympy as sp; from flatmin.theory.landscape import Landscape;"
        "from flatmin.theory.noise import NoNoise;"
        "from flatmin.theory.sgd.simulate import simulate; q = sp.Symbol('q', real=True);"
        "print(simulate(Landscape(q**2/2, (q,)), NoNoise(), eta=0.5, steps=3, start=(1.0,)).final[0, 0])"
    )
    environment = {**os.environ, "FLATMIN_CACHE": str(blocked)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "0.125"


BAD = [
    ({"eta": 0.0}, "eta=0.0: must be finite real numbers above 0"),
    ({"eta": np.array([0.1, -0.1])}, "eta=.*: must be finite real numbers above 0"),
    ({"eta": float("inf")}, "eta=inf: must be finite real numbers above 0"),
    ({"eta": 0.1j}, "eta=0.1j: must be finite real numbers above 0"),
    ({"steps": 0}, "steps=0: must be integers at least 1"),
    ({"steps": 10.0}, "steps=10.0: must be integers"),
    ({"steps": 10**15}, "steps=1000000000000000: must be .* at most 1e\\+12"),
    ({"burn_in": -1}, "burn_in=-1: must be integers"),
    ({"burn_in": 10}, "burn_in=10: must be below steps=10"),
    ({"trajectories": 0}, "trajectories=0: must be an integer at least 1"),
    ({"trajectories": 10**12}, "trajectories: the result would take"),
    ({"start": (1.0,)}, "start=.*: must be 2 entries, one for each of x, y"),
    ({"start": "xy"}, "start='xy': must be 2 entries"),
    ({"start": (1.0, float("nan"))}, "start of y=nan: must be finite real numbers at least -1000"),
    ({"start": (1.0, np.zeros(3))}, "start of y=.*: must be of a shape that broadcasts to"),
    ({"bound": 0.0}, "bound=0.0: must be a finite real number above 0"),
    ({"observe": ("z",)}, "observe: expression='z': must be .*'z' is unknown"),
    ({"observe": "x**2"}, "observe='x\\*\\*2': must be a sequence of expressions"),
    ({"observe": ("__import__('os').getcwd()",)}, "observe: expression=.*none of what it may hold"),
    ({"observe": ("gamma(x)",)}, "observe: expression=.*the function 'gamma' is unknown"),
    ({"hops": "lambda: x"}, "hops: expression="),
    ({"hops": ""}, "hops: expression=''"),
    ({"passage": Passage(0.1, "x.diff()")}, "passage: expression="),
    ({"passage": Passage(0.1, sp.gamma(sp.Symbol("x", real=True)))}, "passage=.*it has no gamma"),
    ({"passage": 0.1}, "passage=0.1: must be of the type Passage"),
    ({"histogram": {"z": (0, 1, 5)}}, "histogram=.* in the coordinates"),
    ({"histogram": {"x": (0, 1)}}, "histogram=.*: must be .*low, high, bins"),
    ({"histogram": {"x": (1, 0, 5)}}, "low < high"),
    ({"histogram": {"x": (0, 1, 0)}}, "histogram bins=0: must be an integer at least 1"),
    ({"histogram": {"x": (0, 1, 10**10)}}, "histogram: the result would take"),
    ({"seed": -1}, "seed=-1: must be an integer at least 0"),
    ({"threads": 0}, "threads=0: must be an integer at least 1"),
    ({"batches": 0}, "batches=0: must be an integer at least 1"),
    ({"progress": 1}, "progress=1: must be True or False"),
    ({"keep": -1}, "keep=-1: must be an integer at least 0"),
    ({"keep": 12}, "keep=12: must be .* at most 11"),
    ({"keep": (3, 2)}, "keep=.*increasing"),
    ({"keep": (3, 11)}, "keep=.* at most 10"),
    ({"keep": 3, "steps": np.array([5, 10])}, "keep=3: must be the steps themselves"),
    ({"passage": Passage(0.1), "observe": ("x",)}, "ends runs early"),
    (
        {"trajectories": 10**7, "keep": 101, "steps": 100},
        "trajectories=10000000, keep: the result would take",
    ),
]


@pytest.mark.parametrize(
    ("change", "words"), BAD, ids=[next(iter(c)) + str(i) for i, (c, _) in enumerate(BAD)]
)
def test_bad_arguments_are_named(valley, change, words):
    arguments = {"eta": 0.01, "steps": 10, "start": (1.0, 1.0), **change}
    with pytest.raises(ValueError, match=words):
        simulate(valley, RandomShift(0.1), **arguments)


def test_what_was_not_gathered_is_named(valley):
    runs = simulate(valley, RandomShift(0.1), eta=0.01, steps=10, start=(1.0, 1.0), observe=("x",))
    with pytest.raises(ValueError, match="observable='y': must be one of 'x'"):
        runs.time_average("y")
    with pytest.raises(ValueError, match="coordinate='x': must be one that was asked for, there is none"):
        runs.histogram("x")


def test_symbolic_landscapes_cannot_be_run():
    with pytest.raises(ValueError, match="have no value yet"):
        simulate(near_degenerate_valley(), NoNoise(), eta=0.1, steps=1, start=(0.0, 0.0))


def test_aligned_noise_runs_where_the_hessian_is_indefinite(valley):
    runs = simulate(
        valley, HessianAligned(0.1), eta=0.02, steps=500, start=(0.1, 1.5), trajectories=64, seed=1
    )
    assert not runs.diverged.any()
