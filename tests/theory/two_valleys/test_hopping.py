import numpy as np
import pytest
from scipy.integrate import quad

from flatmin.theory.conventions import CONVENTIONS
from flatmin.theory.noise import HessianAligned
from flatmin.theory.printed import y26_eq9
from flatmin.theory.sgd.simulate import simulate
from flatmin.theory.two_valleys.hopping import (
    SIDES,
    FrozenChain,
    crossing_time,
    extrapolated_flat,
    frozen,
    passage_rate_asymptotic,
    passage_time,
    passage_time_erfi,
    splitting,
    stationary_density,
    stationary_flat,
)
from flatmin.theory.two_valleys.landscape import PAPER, frozen_valleys, two_valleys

PAPER_LANDSCAPE = two_valleys().at(**PAPER)
RATIO = PAPER["x1"] / PAPER["x2"]


@pytest.fixture(scope="module")
def at():
    return frozen(PAPER_LANDSCAPE, 5.0)


def potential(at, x, delta_s, power):
    """Φ = (L − L₀)/D and D at x, straight from Eq. 5 at frozen y."""
    side, sign = ("flat", 1) if x >= 0 else ("sharp", -1)
    d = float(at.diffusion(side, delta_s, power))
    return x * (x - 2 * sign * float(at.floor[side])) / float(at.f[side]) / d, d


@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
@pytest.mark.parametrize("power", [0, 1, 2])
def test_stationary_probability_by_quadrature(at, convention, power):
    delta_s, c = {0: 5e-3, 1: 2e-3, 2: 4e-4}[power], 1 - float(CONVENTIONS[convention])

    def density(x):
        phi, d = potential(at, x, delta_s, power)
        return d ** (c - 1) * np.exp(-phi)

    weights = {
        "flat": quad(density, 0, 1.5, epsrel=1e-12, points=[0.1])[0],
        "sharp": quad(density, -1.5, -1e-300, epsrel=1e-12, points=[-0.1])[0],
    }
    expected = weights["flat"] / sum(weights.values())
    assert float(stationary_flat(at, delta_s, convention, power)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
def test_crossing_time_and_splitting_by_double_quadrature(at, convention):
    delta_s, c = 4e-3, 1 - float(CONVENTIONS[convention])

    def scale(x):
        phi, d = potential(at, x, delta_s, 1)
        return d**-c * np.exp(phi)

    def speed(x):
        phi, d = potential(at, x, delta_s, 1)
        return d ** (c - 1) * np.exp(-phi)

    left, right = -float(at.floor["sharp"]), float(at.floor["flat"])
    # integrals up to x of the speed measure, split at the kink
    below = quad(speed, -1.5, -1e-300, epsrel=1e-10, points=[left])[0]

    def before(x):
        if x < 0:
            return quad(speed, -1.5, x, epsrel=1e-10, points=[left])[0]
        return below + quad(speed, 0, x, epsrel=1e-10)[0]

    time = quad(lambda x: scale(x) * before(x), left, -1e-300, epsrel=1e-9)[0]
    time += quad(lambda x: scale(x) * before(x), 0, right, epsrel=1e-9)[0]
    assert float(crossing_time(at, "sharp", delta_s, convention)) == pytest.approx(time, rel=1e-7)
    shares = [quad(scale, left, -1e-300)[0], quad(scale, 0, right)[0]]
    assert float(splitting(at, delta_s, convention)) == pytest.approx(shares[0] / sum(shares), rel=1e-7)


@pytest.mark.parametrize("side", SIDES)
def test_passage_time_to_the_kink(at, side):
    delta_s = 3e-3
    d, f, floor = (float(v) for v in (at.diffusion(side, delta_s), at.f[side], at.floor[side]))

    def inner(u):
        # distance from the floor towards the kink; the far end is 40 standard deviations away
        return quad(lambda v: np.exp(-(v**2) / (d * f)), -40 * np.sqrt(d * f), u, epsrel=1e-11, points=[0])[0]

    expected = quad(lambda u: np.exp(u**2 / (d * f)) * inner(u), 0, floor, epsrel=1e-9)[0] / d
    assert float(passage_time(at, side, delta_s)) == pytest.approx(expected, rel=1e-8)


def test_erfi_time_and_its_asymptote_close_in_on_the_exact_time(at):
    errors = []
    for delta_s in (8e-4, 4e-4, 2e-4):
        exact = float(passage_time(at, "sharp", delta_s))
        errors.append(
            [
                float(passage_time_erfi(at, "sharp", delta_s)) / exact - 1,
                float(passage_rate_asymptotic(at, "sharp", delta_s)) * exact - 1,
            ]
        )
    # erfi is wrong by a term in ln z/erfi z, its asymptote by 1/2z²
    erfi, asymptote = np.abs(errors).T
    assert np.all(np.diff(erfi) < 0)
    assert np.all(np.diff(asymptote) < 0)
    assert erfi[-1] < 1e-6 < 0.02 < asymptote[-1] < 0.05


def test_high_barriers_give_one_power_of_gamma_per_convention(at):
    """The prefactor of Eq. 9: γ^{−1} Itô, γ^{−1/2} Stratonovich (as printed), 1 isothermal (A10)."""
    delta_s = 1e-4
    exponent = at.barrier * (at.f["sharp"] - at.f["flat"]) / (2 * delta_s)
    for convention, power in (("ito", -2), ("stratonovich", -1), ("isothermal", 0)):
        p = stationary_flat(at, delta_s, convention)
        odds = np.exp(exponent) * RATIO**power
        assert float(p) == pytest.approx(1 / (1 + odds), rel=1e-12)
    assert float(y26_eq9(at, delta_s, asymptotic=True)) == pytest.approx(
        float(stationary_flat(at, delta_s, "stratonovich")), abs=1e-12
    )


def test_isotropic_noise_keeps_detailed_balance_in_every_convention():
    y = np.array([0.5, 2.0, 5.0, 20.0])
    for convention in CONVENTIONS:
        p = stationary_flat(frozen(PAPER_LANDSCAPE, y), 3e-3, convention, power=0)
        np.testing.assert_allclose(p, RATIO / (1 + RATIO), rtol=1e-12)


def test_hops_in_both_directions_balance_for_high_barriers(at):
    for convention in CONVENTIONS:
        leave = {side: 1 / float(crossing_time(at, side, 3e-4, convention)) for side in SIDES}
        balance = leave["sharp"] / sum(leave.values())
        assert balance == pytest.approx(float(stationary_flat(at, 3e-4, convention)), abs=1e-7)


def test_splitting_in_ito_tends_to_the_ratio_of_slopes(at):
    p = [float(splitting(at, d)) for d in (1e-3, 1e-4, 1e-5)]
    limit = PAPER["x1"] / (PAPER["x1"] + PAPER["x2"])
    assert abs(p[2] - limit) < abs(p[1] - limit) < abs(p[0] - limit)
    assert p[2] == pytest.approx(limit, abs=2e-4)


def test_printed_forms_do_not_overflow(at):
    assert float(y26_eq9(at, 1e-6)) == pytest.approx(1)
    assert np.isfinite(y26_eq9(at, 1e-6, asymptotic=True))


@pytest.mark.parametrize("power", [0, 1, 2])
def test_chain_extrapolates_to_ito_and_to_nothing_else(at, power):
    delta_s = {0: 5e-3, 1: 2e-3, 2: 4e-4}[power]
    value, error, _, _ = extrapolated_flat(at, delta_s, power, eta=0.005, halvings=4)
    assert error < 2e-5
    assert abs(value - float(stationary_flat(at, delta_s, "ito", power))) < 3e-6
    if power:
        for other in ("stratonovich", "isothermal"):
            assert abs(value - float(stationary_flat(at, delta_s, other, power))) > 1e-2


def test_correction_is_of_order_root_eta_with_a_jump_of_noise_and_eta_without():
    at = frozen(PAPER_LANDSCAPE, 2.0)
    for power, delta_s, order in ((1, 2e-3, 0.5), (0, 5e-3, 1.0)):
        *_, etas, values = extrapolated_flat(at, delta_s, power, eta=0.0005, halvings=3)
        limit = float(stationary_flat(at, delta_s, "ito", power))
        slope = np.polyfit(np.log(etas), np.log(np.abs(values - limit)), 1)[0]
        assert abs(slope - order) < 0.1, f"observed order {slope:.3f} for power {power}"


def test_quadrature_of_the_chain_has_converged(at, monkeypatch):
    coarse = FrozenChain(at, 0.01, 1e-3)
    values = coarse.flat_probability, coarse.relaxation_rate, *coarse.exit_rates.values()
    monkeypatch.setattr(FrozenChain, "_NODES", 20)
    fine = FrozenChain(at, 0.01, 1e-3, reach=11.0)
    assert len(fine.x) > 1.5 * len(coarse.x)
    others = fine.flat_probability, fine.relaxation_rate, *fine.exit_rates.values()
    np.testing.assert_allclose(values, others, rtol=1e-8)


def test_settled_mass_is_the_autoregressive_law_behind_a_high_barrier():
    at = frozen(PAPER_LANDSCAPE, 30.0)
    chain = FrozenChain(at, 0.05, 5e-4)
    assert chain.isolated
    for side, sign in (("flat", 1), ("sharp", -1)):
        floor = sign * float(at.floor[side])
        # variance of an AR(1) step: Δ_S/(1 − η/f)
        expected = 5e-4 / (1 - 0.05 / float(at.f[side]))
        assert chain.mean(chain.x, side) == pytest.approx(floor, abs=1e-10)
        assert chain.mean((chain.x - floor) ** 2, side) == pytest.approx(expected, rel=1e-9, abs=0)
    with pytest.raises(ValueError, match="the valleys are isolated"):
        _ = chain.stationary


def test_rates_of_the_chain_predict_its_own_evolution(at):
    chain = FrozenChain(at, 0.01, 2e-3)
    mass = np.zeros(len(chain.x))
    nearest = int(np.argmin(np.abs(chain.x + 0.01)))
    mass[nearest] = 1.0
    for _ in range(1500):
        mass = chain.operator @ mass
    start = float(chain.settled_flat(chain.x[nearest]))
    p = chain.flat_probability
    expected = p + (start - p) * (1 - chain.relaxation_rate) ** 1500
    assert mass[chain.on_flat_side].sum() == pytest.approx(expected, abs=1e-9)
    leave = chain.hop_rates
    assert leave["sharp"] / sum(leave.values()) == pytest.approx(p, rel=1e-12)
    # without a change of sign from the start: the sharp side alone
    inside = chain.operator[~chain.on_flat_side][:, ~chain.on_flat_side]
    alone = np.zeros(inside.shape[0])
    alone[nearest] = 1.0
    for _ in range(1500):
        alone = inside @ alone
    predicted = float(chain.survival(chain.x[nearest])) * (1 - chain.exit_rates["sharp"]) ** 1500
    assert alone.sum() == pytest.approx(predicted, rel=1e-6)


def test_simulation_at_frozen_y_has_the_stationary_law_of_the_chain():
    sigma, eta = 0.2, 0.02
    runs = simulate(
        frozen_valleys().at(**PAPER, y=4.0), HessianAligned(sigma), eta=eta, steps=40_000, start=(-0.05, 0.0),
        trajectories=256, seed=9, burn_in=4_000, observe=("Piecewise((1, x >= 0), (0, True))",),
    )  # fmt: skip
    measured = runs.time_average("Piecewise((1, x >= 0), (0, True))")
    chain = FrozenChain(frozen(PAPER_LANDSCAPE, 4.0), eta, eta * sigma)
    assert abs(measured.value - chain.flat_probability) < 4 * measured.error
    assert measured.error < 2e-3
    # it is not the small-step limit, and still less the printed form
    assert abs(measured.value - float(stationary_flat(chain.at, eta * sigma))) > 5 * measured.error


def test_arrays_broadcast(at):
    grid = frozen(PAPER_LANDSCAPE, np.array([2.0, 5.0, 9.0]))
    delta_s = np.array([[1e-3], [3e-3]])
    for function in (stationary_flat, y26_eq9, splitting):
        values = function(grid, delta_s)
        assert values.shape == (2, 3)
        assert values[1, 1] == pytest.approx(float(function(at, 3e-3)), rel=1e-13)
    for function in (passage_time, crossing_time, passage_time_erfi):
        values = function(grid, "sharp", delta_s)
        assert values.shape == (2, 3)
        assert values[1, 1] == pytest.approx(float(function(at, "sharp", 3e-3)), rel=1e-12)


def test_bad_input_is_named(at):
    with pytest.raises(ValueError, match=r"y=0\.0: must be finite real numbers above 0"):
        frozen(PAPER_LANDSCAPE, 0.0)
    with pytest.raises(ValueError, match="convention='anti-ito': must be one of"):
        stationary_flat(at, 1e-3, "anti-ito")
    with pytest.raises(ValueError, match=r"delta_s=-0\.001: must be finite real numbers above 0"):
        passage_time(at, "flat", -1e-3)
    with pytest.raises(ValueError, match="side='left': must be one of"):
        passage_time(at, "left", 1e-3)
    with pytest.raises(ValueError, match="power=3: must be an integer at least 0 and at most 2"):
        FrozenChain(at, 0.01, 1e-3, power=3)
    with pytest.raises(ValueError, match=r"eta=0\.3: must be below f="):
        FrozenChain(at, 0.3, 1e-3)
    with pytest.raises(ValueError, match="halvings=1: must be an integer at least 2"):
        extrapolated_flat(at, 1e-3, halvings=1)


def test_exit_time_of_the_chain_tends_to_the_passage_time(at):
    """τ to the kink, in time units ηt, from chains at smaller and smaller steps: an extrapolation in √η."""
    delta_s, floor = 2e-3, float(at.floor["sharp"])
    times = np.array([e * FrozenChain(at, e, delta_s).exit_time(-floor) for e in 2e-3 / 4.0 ** np.arange(5)])
    for order in range(1, 5):
        times = times[1:] + (times[1:] - times[:-1]) / (2.0**order - 1)
    assert times[0] == pytest.approx(float(passage_time(at, "sharp", delta_s)), rel=1e-5)


@pytest.mark.parametrize(("convention", "jump"), [("ito", 2), ("stratonovich", 1), ("isothermal", 0)])
def test_density_is_normalised_and_jumps_by_the_conventions_power_of_gamma(at, convention, jump):
    x = np.linspace(-1.5, 1.5, 600_001)
    density = stationary_density(at, x, 3e-3, convention)
    sharp, flat = density[x < 0], density[x >= 0]
    share = np.trapezoid(flat, dx=x[1] - x[0])
    assert share == pytest.approx(float(stationary_flat(at, 3e-3, convention)), abs=1e-5)
    assert share + np.trapezoid(sharp, dx=x[1] - x[0]) == pytest.approx(1, abs=1e-4)
    assert flat[0] / sharp[-1] == pytest.approx(RATIO**jump, rel=1e-3)


def test_chain_has_the_density_of_the_small_step_limit_away_from_the_ridge(at):
    chain = FrozenChain(at, 1e-5, 3e-3)
    expected = stationary_density(at, chain.x, 3e-3)
    away = np.abs(chain.x) > 10 * max(chain.kick.values())
    np.testing.assert_allclose(
        (chain.stationary / chain.weights)[away], expected[away], atol=0.01 * expected.max()
    )


def test_a_chain_answers_only_where_it_has_nodes(at):
    chain = FrozenChain(at, 0.01, 2e-3)
    assert chain.x[-1] < 2
    for function in (chain.settled_flat, chain.survival, chain.exit_time):
        with pytest.raises(ValueError, match=r"x=2\.0: must be .* at most 0\.545"):
            function(2.0)
        with pytest.raises(ValueError, match="x=nan"):
            function(np.nan)
    for values in (np.zeros(3), np.full(chain.x.shape, np.nan)):
        with pytest.raises(ValueError, match="values="):
            chain.mean(values, "flat")


def test_what_would_not_fit_or_overflow_is_refused(at):
    with pytest.raises(ValueError, match=r"eta or delta_s=.*can be resolved"):
        FrozenChain(at, 1e-14, 2e-3)
    for function in (passage_time, passage_time_erfi, crossing_time):
        with pytest.raises(ValueError, match=r"delta_s: z=.*barriers"):
            function(at, "sharp", 1e-8)
    assert float(passage_rate_asymptotic(at, "sharp", 1e-8)) == 0
    with pytest.raises(ValueError, match=r"at=.*a Slice at one y"):
        FrozenChain(frozen(PAPER_LANDSCAPE, [1.0, 2.0]), 0.01, 2e-3)
