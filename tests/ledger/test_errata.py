"""The page of errata, and the proofs of the misprints that no claim covers."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from flatmin.ledger import errata, paths
from flatmin.ledger.claims import load_claims, load_verdicts
from flatmin.theory import printed
from flatmin.theory.continuum.fokker_planck import DELTA_S, Equation, Region
from flatmin.theory.continuum.reduction import Reduction
from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import SIGMA, Noise
from flatmin.theory.stability.threshold import Minimum, largest_step
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley

ERRATA = errata.load_errata()
x, y = sp.symbols("x y", real=True)
m1, m2 = sp.symbols("mu_1 mu_2", real=True)
eta, delta, eps, big_delta = sp.symbols("eta Delta_S epsilon Delta", positive=True)
kappa, lam0 = sp.symbols("kappa lambda_0", positive=True)
lam1 = sp.Symbol("lambda_1", negative=True)
lam = sp.Function("lambda", positive=True)(x)
slope = sp.diff(lam, x)


# ---------------------------------------------------------------- the page


def test_every_claim_that_differs_is_explained():
    assert errata.unexplained(ERRATA, load_verdicts()) == []


def test_the_page_is_up_to_date():
    page = errata.page(ERRATA, load_claims(), load_verdicts())
    assert (paths.chapters() / "errata.md").read_text("utf8") == page, "run `make notebooks`"


def test_every_claim_that_differs_stands_on_the_page_with_its_numbers():
    page = (paths.chapters() / "errata.md").read_text("utf8")
    for id, entry in load_verdicts().items():
        for part in entry["parts"]:
            if entry["verdict"] in errata.DIFFERENT and part["verdict"] in errata.DIFFERENT:
                assert f'href="{part["chapter"]}.html#{part["anchor"]}"' in page, (id, part["part"])


def test_proofs_exist():
    tests = {
        node.name
        for node in ast.parse(Path(__file__).read_text("utf8")).body
        if isinstance(node, ast.FunctionDef)
    }
    for erratum in ERRATA:
        if erratum.proof.startswith("test_"):
            assert erratum.proof in tests, erratum.id
            continue
        chapter, _, label = erratum.proof.partition("#")
        source = (paths.chapters() / "src" / f"{chapter}.md").read_text("utf8")
        assert not label or re.search(rf"label: {label}\n|\({label}\)", source), erratum.id


def test_what_changes_nothing_has_no_claim_that_differs_in_a_number():
    verdicts = load_verdicts()
    for erratum in ERRATA:
        if erratum.consequence == "none":
            parts = [part for id in erratum.claims for part in verdicts.get(id, {"parts": []})["parts"]]
            assert not [part for part in parts if part["verdict"] == "not reproduced"], erratum.id


ENTRY = {
    "id": "a", "paper": "Y22", "where": "S1", "printed": "$a$", "derived": "$b$", "slip": "c",
    "proof": "test_a", "consequence": "none", "says": "d",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"paper": "Y21"}, "paper: 'Y21'"),
        ({"consequence": "some"}, "consequence: 'some'"),
        ({"claims": ["y22-nothing"]}, "claims: 'y22-nothing'"),
        ({"printed": "$a"}, "dollars in pairs"),
        ({"printed": None}, "printed=None"),
        ({"says": " "}, "says="),
        ({"proof": "somewhere"}, "proof='somewhere'"),
        ({"more": "x"}, "unexpected keyword"),
        ({"claims": None}, "entry"),
    ],
)
def test_entries_are_checked(tmp_path, change, said):
    path = tmp_path / "errata.yml"
    path.write_text(repr([ENTRY | change]).replace("None", "null"), "utf8")
    with pytest.raises(ValueError, match=re.escape(said)):
        errata.load_errata(path)
    path.write_text(repr([ENTRY, ENTRY]), "utf8")
    with pytest.raises(ValueError, match="twice"):
        errata.load_errata(path)
    path.write_text("a: [", "utf8")
    with pytest.raises(ValueError, match="no list"):
        errata.load_errata(path)


def test_the_page_is_written_from_the_files_of_a_book(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "chapters").mkdir()
    for name in ("errata.yml", "claims.yml", "verdicts.json"):
        (tmp_path / "data" / name).write_bytes((paths.data() / name).read_bytes())
    written = errata.write_page(tmp_path)
    text = written.read_text("utf8")
    for erratum in ERRATA:
        assert text.count(f'<details class="flatmin-entry" id="erratum-{erratum.id}" data-changes=') == 1
        assert f"- **Printed:** {erratum.printed}\n- **Holds:** {erratum.derived}\n" in text


def test_claims_without_a_check_are_said_to_be_open():
    some = errata.Erratum(**(ENTRY | {"claims": (next(iter(load_claims())),)}))
    assert ">open</span>" in errata.page([some], load_claims(), {})


# ---------------------------------------------------------------- the proofs


def shifted_gradient(name):
    """∂L^μ/∂name of the random shift, L^μ = L(θ − μ) to first order (Y22 S1), at ε = 0."""
    loss = lam * y**2 / 2
    moved = loss - m1 * sp.diff(loss, x) - m2 * sp.diff(loss, y)
    return sp.expand(sp.diff(moved, name))


def test_s7_second_line_has_the_wrong_signs():
    written = lam * y + slope * y * m1 + lam * m2
    right = lam * y - slope * y * m1 - lam * m2
    assert sp.simplify(shifted_gradient(y) - right) == 0
    assert sp.simplify(shifted_gradient(y) - written) != 0
    third = (1 - eta * lam + eta * slope * m1) * y + eta * lam * m2
    assert sp.simplify(y - eta * right - third) == 0  # so the line after it is right


def test_bend_of_lambda_at_zero_is_two_lambda_1():
    valley = near_degenerate_valley()
    along, across = valley.coordinates
    first = valley.parameters[2]
    curvature = sp.diff(valley.loss, across, 2)  # λ₀ + λ₁x² + λ₂x⁴
    assert sp.diff(curvature, along, 2).subs(along, 0) == 2 * first
    # S6 puts ½λ''y² into the Hessian: with λ''(0) = λ₁ S17 would have ½λ₁y² where it has λ₁y²
    corner = valley.hessian[0, 0].subs(along, 0) - valley.hessian[0, 0].subs({along: 0, across: 0})
    assert sp.simplify(corner - first * across**2) == 0


def test_s10_sign_of_the_noise():
    full, batch = sp.symbols("g g_mu")  # ∇L and ∇L^μ
    assert sp.expand((-eta * full - eta * (batch - full)) + eta * batch) == 0
    assert sp.expand((-eta * full + eta * (batch - full)) + eta * batch - 2 * eta * (batch - full)) == 0


def test_s25_follows_from_s13_and_not_from_its_text():
    density = (1 + slope**2 * y**2 / lam**2) ** (-lam / (2 * delta * slope**2) - 1)

    def current(diffusion):  # S15: λyP + d(D₂₂P)/dy
        return sp.simplify((lam * y * density + sp.diff(diffusion * density, y)) / density)

    assert current(delta * (lam**2 + slope**2 * y**2)) == 0
    assert current(lam**2 + slope**2 * y**2) != 0


def test_s35_has_a_half_too_many():
    effective = kappa * lam0 * (eps + delta * lam1) * x**2 / 2 + lam0 * y**2 / 2  # S34
    bend = sp.diff(effective, x, 2)
    assert sp.simplify(bend - kappa * lam0 * (eps + delta * lam1)) == 0
    assert sp.simplify(bend / (kappa * lam0 * (eps + delta * lam1) / 2)) == 2
    assert sp.solve(bend, delta) == [printed.y22_s35(eps, lam1)] == [-eps / lam1]  # the zero is the same


def test_caption_of_fig_s5_lacks_a_sign():
    assert float(printed.y22_s35(0.02, -2.0)) == pytest.approx(0.01)  # −ε/λ₁, as in the text
    assert 0.02 / -2.0 == -0.01  # ε/λ₁, as in the caption


def test_s47_comes_from_tau_x_with_the_temperature_delta_s():
    reduction = Reduction(near_degenerate_valley())
    along, across = reduction.timescales
    assert not across.has(reduction.y)  # no y² in τ_y to be replaced
    tilt, second = sp.diff(reduction.floor, reduction.x, 2), sp.diff(reduction.curvature, reduction.x, 2)
    mean = (across / along).subs(reduction.y, sp.sqrt(reduction.variance))  # linear in y²
    given = reduction.curvature, second, tilt
    assert sp.simplify(mean - printed.y22_s47(*given, DELTA_S)) == 0


def test_s46_names_are_swapped():
    # Fig. S4 fits β₁ above the transition and β₂ below; S46 has β₁ where Δ_S < Δ_S*
    fitted = printed.Y22_FIG_S4
    assert (fitted["β above"], fitted["β below"]) == (0.48, 0.56)
    start, bend = sp.symbols("x_0 a", positive=True)  # a = A|Δ_S* − Δ_S|/Δ(0)
    time = start * sp.integrate(sp.exp(-bend * x**2 / 2), (x, 0, sp.oo))  # S45: below the transition
    above = start * sp.integrate(
        sp.exp(-bend * x**2), (x, 0, sp.oo)
    )  # about x_ss, the bend is twice as large
    for each in (time, above):
        assert float(sp.simplify(sp.diff(sp.log(each), bend) * bend)) == -printed.Y22_S46 == -0.5


def test_density_after_s46_needs_a_minus():
    a, b, gap = sp.symbols("A B g", positive=True)  # g = Δ_S − Δ_S* > 0
    effective = -a * gap * x**2 / 2 + b * x**4 / 4  # S41
    place = sp.sqrt(a * gap / b)  # S42
    assert sp.simplify(sp.diff(effective, x).subs(x, place)) == 0
    around = sp.diff(effective, x, 2).subs(x, place) / 2  # L_eff = around (x − x_ss)² + …
    assert sp.simplify(around - a * gap) == 0  # positive: P = exp(−L_eff/Δ) has the minus


class Unequal(Noise):
    """Constant, diagonal noise: D = Δ_S diag(1/κ, 1) with κ = 10."""

    def gradient_noise(self, landscape, normals):
        return sp.sqrt(2 * SIGMA) * sp.Matrix([normals[0] / sp.sqrt(10), normals[1]])


def correction():
    """Δ times the relative change of d ln P/dx to first order in Δ, from the moments of the equation.

    J_x = 0 integrated over y: ½λ'M₂ + (Δ/κ)M₀' = 0 with M_k = ∫y^k P dy; the equation times y²:
    2λM₂ = 2ΔM₀ + (½λ'M₄ + (Δ/κ)M₂')'. At the right M₂ = ΔM₀/λ, M₄ = 3Δ²M₀/λ² and M₀ = λ^(−κ/2).
    """
    p = lam ** (-kappa / 2)
    assert sp.simplify(slope / 2 * big_delta / lam * p + big_delta / kappa * sp.diff(p, x)) == 0
    m2, m4 = big_delta / lam * p, 3 * big_delta**2 / lam**2 * p
    more = sp.diff(slope * m4 / 2 + big_delta / kappa * sp.diff(m2, x), x) / (2 * lam)  # of M₂
    change = -slope / 2 * more / p / (big_delta / kappa)  # of d ln P/dx
    return sp.simplify(change / (-kappa * slope / (2 * lam)))


def test_range_of_y23_eq_11():
    found = correction()
    bend = sp.diff(lam, x, 2)
    stated = -big_delta * (kappa - 1) * (kappa * slope**2 + 4 * slope**2 - 2 * lam * bend)
    assert sp.simplify(found - stated / (4 * kappa * lam**3)) == 0
    assert sp.simplify(found.subs(kappa, 1)) == 0  # isotropic noise: exact
    large = sp.limit(found / kappa, kappa, sp.oo)
    assert sp.simplify(large + big_delta * slope**2 / (4 * lam**3)) == 0  # κΔλ'²/4λ³ must be small
    # a Gaussian y of relaxation rate λ: the force ½λ'y² diffuses x by ∫₀^∞ of its correlation
    t, rate, s = sp.symbols("t lambda s", positive=True)  # s = λ'
    force = (s / 2) ** 2 * 2 * (big_delta / rate) ** 2 * sp.exp(-2 * rate * t)
    extra = sp.integrate(force, (t, 0, sp.oo))
    assert sp.simplify(extra / (big_delta / kappa) - kappa * big_delta * s**2 / (4 * rate**3)) == 0


def test_range_of_y23_eq_11_by_the_two_dimensional_equation():
    curve = 8 - 2 * x**2 + x**4
    stated = float(correction().subs(lam, curve).doit().subs({x: 0.5, kappa: 10, big_delta: 1}))
    assert stated == pytest.approx(-0.024255, abs=1e-6)
    level, at = Landscape(curve * y**2 / 2, (x, y)), np.linspace(0.3, 0.7, 41)
    power = -5 * float((sp.diff(curve, x) / curve).subs(x, 0.5))  # −κλ'/2λ, Eq. 11's
    found = []
    for strength in (0.2, 0.1):
        region = Region((5.5, 6 * np.sqrt(strength / 7)), (8, 5))
        solution = Equation(level, Unequal(), convention="ito", region=region).stationary(strength)
        fitted = np.polyfit(at - 0.5, np.log(solution.marginal("x", at)), 5)[-2]
        found.append((fitted / power - 1) / strength)
    assert 2 * found[1] - found[0] == pytest.approx(stated, rel=0.01)  # linear in Δ; the equation to 1e-3
    assert abs(found[1]) > 0.02  # so that Eq. 11 alone is refused


def test_range_of_y23_eq_11_at_the_parameters_of_fig_3():
    noise = 0.012  # of Y22 Fig. 3b, beyond Δ_S* = 0.01
    anisotropy = printed.y22_s20(0.02, noise, -2.0)
    curve = 8 - 2 * x**2 + x**4
    bend, height = (float(sp.diff(curve, x, n).subs(x, 0.5)) for n in (1, 0))
    assert anisotropy * noise * 64 * bend**2 / (4 * height**3) == pytest.approx(0.86, abs=0.01)


def test_w22_abstract_forbids_a_stable_minimum():
    # one sample: θ ← (1 − ηh)θ, stable for ηh < 2; μ₀ = 1, B = 1
    h, step = 50.0, 0.01
    assert largest_step(Minimum(1, pairs=(np.array([h]), np.ones((1, 1)))), 1) == pytest.approx(2 / h)
    assert step < 2 / h
    assert h > (1 / step) ** 0.5  # √(B/η) = 10 would forbid it
    assert h <= 1 / step  # √(B/μ₀)/η = 100 does not


def test_w22_eq_7_sign_of_the_noise():
    place, noise, step = sp.symbols("theta xi eta", real=True)
    curvature, variance = sp.symbols("h S", positive=True)

    def mean_loss(point):  # E ξ = 0, E ξ² = S
        loss = sp.expand(curvature * point**2 / 2)
        return loss.coeff(noise, 0) + loss.coeff(noise, 2) * variance

    update = place - step * (curvature * place + noise)  # of the lemma
    written = place - step * curvature * place + step * noise  # in the first line of Eq. 7
    assert sp.expand(written - update) == 2 * step * noise
    assert sp.expand(mean_loss(written) - mean_loss(update)) == 0  # so the lemma stands
    added = step**2 * curvature * variance / 2  # η²ν, ν = Tr(HS)/2
    assert sp.expand(mean_loss(update) - mean_loss(update.subs(noise, 0)) - added) == 0


def test_w22_sigma_lacks_a_gradient():
    gradients = np.array([[1.0, 2.0], [3.0, -1.0]])
    mean = gradients.mean(axis=0)
    right = gradients.T @ gradients / 2 - np.outer(mean, mean)
    assert right == pytest.approx(np.cov(gradients.T, bias=True))
    with pytest.raises(ValueError, match="matmul"):
        gradients.T @ gradients / 2 - mean[:, None] @ np.ones((2, 1))  # ∇L Lᵀ, L a number for each sample


def test_a17_is_ito_and_a10_is_not():
    d22, p, marginal = sp.Function("D")(x, y), sp.Function("p")(x, y), sp.Function("P")(y)
    joint = p * marginal  # p(x|y)P(y), ∫p dx = 1
    ito, isothermal = sp.diff(d22 * joint, y), d22 * sp.diff(joint, y)
    # A17 under its ∫dx: P d⟨D⟩/dy + ⟨D⟩P' = ∂_y(⟨D⟩P)
    a17 = marginal * sp.diff(d22 * p, y) + d22 * p * sp.diff(marginal, y)
    assert sp.simplify(ito - a17) == 0
    assert sp.simplify(isothermal - (a17 - sp.diff(d22, y) * joint)) == 0
    # and the difference does not vanish: D = 1 + xy², p Gaussian of variance 1 about 2
    weight = sp.exp(-((x - 2) ** 2) / 2) / sp.sqrt(2 * sp.pi)
    assert sp.integrate(sp.diff(1 + x * y**2, y) * weight, (x, -sp.oo, sp.oo)) == 4 * y
