"""The explorers in headless Chromium, on a page opened from a file: the numbers and a reader's hands."""

import html
import json

import numpy as np
import pytest
import sympy as sp
from axe_playwright_python.sync_playwright import Axe

import flatmin as fm
from flatmin.explorers import bundle
from flatmin.explorers.catalogue import EXPLORERS
from flatmin.theory.continuum.critical import critical_law
from flatmin.theory.continuum.divergence import edges, typical_growth
from flatmin.theory.continuum.fokker_planck import DELTA_S
from flatmin.theory.continuum.reduction import Reduction
from flatmin.theory.logarithmic import multiplicative
from flatmin.theory.logarithmic.loops import regression_walkers
from flatmin.theory.noise import ETA
from flatmin.theory.printed import m22_eq16_power
from flatmin.theory.stability import bounds
from flatmin.theory.stability.paths import mean_losses, typical_edge
from flatmin.theory.stability.threshold import growth, largest_step
from flatmin.theory.stability.walkers import linear_walkers
from flatmin.theory.two_valleys.ensemble import START_X
from flatmin.theory.two_valleys.freezing_point import follow
from flatmin.theory.two_valleys.hopping import frozen
from flatmin.theory.two_valleys.landscape import PAPER, barrier, flatness, path_drift, position
from flatmin.theory.valleys.high_dimensional import high_dimensional_valley, isotropic_strength

pytestmark = pytest.mark.browser

PAGE = """<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf8"><title>One</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{styles}</style>
<script src="explorers.js"></script></head><body style="background: {paper}; color: {ink}">
<main><h1>One</h1>{places}</main></body></html>"""
MODEL = "document.querySelector('[data-explorer]').model"
PLACE = """<div class="cell_output"><img alt="still" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">
<div data-explorer="{name}" data-state="{state}"><p>words</p></div></div>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the script and a page for each explorer and theme."""
    place = tmp_path_factory.mktemp("explorers")
    (place / "explorers.js").write_text(bundle.classic(), "utf8")
    for name, explorer in EXPLORERS.items():
        state = html.escape(json.dumps(explorer.state()))
        for theme in ("light", "dark"):
            places = PLACE.format(name=name, state=state)
            paper, ink = ("#121212", "#ddd") if theme == "dark" else ("#fff", "#222")
            text = PAGE.format(theme=theme, paper=paper, ink=ink, styles=bundle.styles(), places=places)
            (place / f"{name}-{theme}.html").write_text(text, "utf8")
    return place


@pytest.fixture
def visit(browser, folder):
    """A function that opens an explorer's page; at the end nothing may have gone wrong on any."""
    contexts, trouble = [], []

    def open_page(name, address="", theme="light", width=900, **options):
        context = browser.new_context(viewport={"width": width, "height": 1000}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: trouble.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: trouble.append(f"script: {error}"))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or trouble.append(r.url))
        page.goto(f"{(folder / f'{name}-{theme}.html').as_uri()}{address}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture(scope="module")
def evaluate(browser, folder):
    """A function that runs code among the functions of one explorer and returns what it returns."""
    page = browser.new_page()
    page.goto((folder / "valley-light.html").as_uri())

    def run(name, code):
        module = bundle.module(name).replace("export default { render };", code)
        return page.evaluate("text => new Function(text)()", module)

    return run


def summary(page):
    return page.evaluate(f"{MODEL}.get('summary')")


def wait_for(page, condition):
    code = f"(() => {{ const now = {MODEL}.get('summary'); return now && {condition}; }})()"
    page.wait_for_function(code, timeout=120_000)  # a machine may be busy


# ---------------------------------------------------------------- the same numbers

VALLEYS = [
    (0.1, 0.02, 0.001, -2.0),
    (2.0, 0.02, 0.001, -2.0),
    (0.01, 0.2, 0.05, -3.5),
    (3.0, 0.24, 1e-4, -4.0),
]


@pytest.mark.parametrize(("sigma", "eta", "epsilon", "lambda_1"), VALLEYS)
def test_walkers_of_the_valley_are_those_of_simulate(evaluate, sigma, eta, epsilon, lambda_1):
    """Bit for bit, 100 walkers for 1000 steps; in the second setting most diverge, in the last all."""
    given = {"sigma": sigma, "eta": eta, "epsilon": epsilon, "lambda_1": lambda_1}
    code = f"""const given = {json.dumps(given)}, w = ensembleOf(100);
      w.run(1000, given.eta, given.sigma, {{ ...FIXED, ...given }});
      return {{ x: [...w.Q[0]], y: [...w.Q[1]], alive: [...w.alive], lived: w.lived }};"""
    found = evaluate("valley", code)
    valley = fm.near_degenerate_valley().at(epsilon=epsilon, lambda_0=8, lambda_1=lambda_1, lambda_2=1)
    noise, start = fm.RandomShift(sigma), (1.5, 1.5)
    runs = fm.simulate(valley, noise, eta=eta, steps=1000, start=start, trajectories=100, seed=1)
    assert (runs.final == np.transpose([found["x"], found["y"]])).all()
    assert (runs.diverged == (np.array(found["alive"]) == 0)).all()
    assert found["lived"] == runs.lifetime.sum()


FORKS = [(1e-3, 0.02, 1.5, "ridge"), (1e-2, 0.05, 3.0, "sharp"), (1e-4, 0.005, 1.05, "flat")]


@pytest.mark.parametrize(("delta_s", "eta", "ratio", "start"), FORKS)
def test_walkers_and_hops_of_the_two_valleys_are_those_of_simulate(evaluate, delta_s, eta, ratio, start):
    given = {"delta_s": delta_s, "eta": eta, "ratio": ratio, "start": start}
    code = f"""const now = numbers({json.dumps(given)}), w = ensembleOf(100, now.at);
      const watch = new Watch(w, 10);
      w.run(1000, now.eta, now.sigma, now.P, () => watch.step());
      return {{ x: [...w.Q[0]], y: [...w.Q[1]], start: [...w.starts[0]], last: [...watch.last],
               where: [...watch.where], frozen: watch.frozen() }};"""
    found = evaluate("two_valleys", code)
    runs = fm.simulate(fork(ratio), fm.HessianAligned(delta_s / eta), eta=eta, steps=1000,
                       start=(np.array(found["start"]), 1.0), trajectories=100, seed=1, hops="x",
                       keep=range(0, 1001, 10))  # fmt: skip
    assert (runs.final == np.transpose([found["x"], found["y"]])).all()
    assert (runs.hops.last == found["last"]).all()
    assert (runs.hops.position[:, 1] == found["where"]).all()
    flat = runs.trajectories[:, :, 0] >= 0
    alike = (flat == flat[:, -1:]).mean(axis=0) >= 0.9
    assert found["frozen"] == len(alike) - np.argmin(np.append(alike[::-1], False))
    floors = frozen(fork(ratio), 1.0).floor
    expected = {"ridge": [-START_X, START_X], "sharp": [-floors["sharp"]], "flat": [floors["flat"]]}[start]
    assert found["start"][: len(expected)] == pytest.approx(expected, rel=1e-14, abs=0)


@pytest.mark.parametrize(
    ("sigma", "eta", "kind"), [(0.02, 0.05, "shift"), (0.3, 0.1, "shift"), (0.01, 0.02, "iso")]
)
def test_walkers_of_many_directions_are_those_of_simulate(evaluate, sigma, eta, kind):
    """In the second setting all diverge."""
    strengths = "Math.sqrt(2 * sigma), 0" if kind == "shift" else "0, Math.sqrt(2 * sigma)"
    code = f"""const sigma = {sigma}, swarm = new Swarm(16, {strengths}, {eta});
      swarm.run(1000);
      return {{ points: swarm.q.map(q => [...q]), alive: [...swarm.alive] }};"""
    found = evaluate("many_directions", code)
    valley = high_dimensional_valley(seed=1)
    noise = fm.RandomShift(sigma) if kind == "shift" else fm.Isotropic(sigma)
    start = list(valley.start(1))
    runs = fm.simulate(valley, noise, eta=eta, steps=1000, start=start, trajectories=16, seed=1)
    assert (runs.final == found["points"]).all()
    assert (runs.diverged == (np.array(found["alive"]) == 0)).all()


def test_what_is_predicted_in_many_directions_is_the_librarys(evaluate):
    valley, eta, sigma = high_dimensional_valley(seed=1), 0.05, 0.02
    code = f"""const path = averaged({eta}, {eta * sigma}, 1000);
      for (;;) {{
        const {{ done, value }} = path.next();
        if (done) return {{ path: value, limits: thresholds({eta}), strengths: isotropicStrengths({sigma}) }};
      }}"""
    found = evaluate("many_directions", code)
    tau, log_flatness = np.transpose(found["path"])
    expected = valley.log_flatness(valley.averaged(eta, sigma, valley.start(1), tau).x)
    assert np.abs(log_flatness - expected).max() < 1e-5
    assert found["limits"] == pytest.approx(valley.thresholds(eta).tolist(), rel=1e-12, abs=0)
    for same, name in (("trace", "trace"), ("coordinate", "kick")):
        strength = isotropic_strength(valley, sigma, np.zeros(100), same)
        assert found["strengths"][name] == pytest.approx(strength, rel=1e-12)


REGRESSIONS = [(0.1, 1, 5), (1.0, 1, 25), (0.3, 4, 2), (0.05, 8, 1)]


@pytest.mark.parametrize(("eta", "batch_size", "dimension"), REGRESSIONS)
def test_walkers_and_passages_of_the_regression_are_those_of_the_library(
    evaluate, eta, batch_size, dimension
):
    """In the second setting all are lost."""
    code = f"""const {{ levels }} = levelsOf({eta}, {batch_size}, {dimension});
      const w = new Regressors(100, {eta}, {batch_size}, {dimension}, levels);
      w.run(1000);
      return {{ levels, theta: w.theta.map(v => [...v]), passed: w.passed.map(v => [...v]),
               alive: [...w.alive] }};"""
    found = evaluate("regression", code)
    how = {"eta": eta, "batch_size": batch_size, "dimension": dimension, "ratios": found["levels"]}
    runs = regression_walkers(**how, steps=1000, runs=100, seed=1)
    assert (runs.theta == np.transpose(found["theta"])).all()
    assert (runs.passed == np.transpose(found["passed"])).all()
    assert (runs.diverged == (np.array(found["alive"]) == 0)).all()
    assert runs.diverged.all() == (dimension == 25)


@pytest.mark.parametrize(("eta", "batch_size", "dimension"), [(0.1, 1, 5), (0.3, 4, 2), (0.4, 2, 1)])
def test_the_chain_in_the_page_is_that_of_the_library(evaluate, eta, batch_size, dimension):
    """On the same grid with the same nodes, where any level ends it."""
    code = f"""const now = levelsOf({eta}, {batch_size}, {dimension});
      const theory = chainTimes(now, {eta}, {batch_size}, {dimension});
      for (;;) {{
        const {{ done, value }} = theory.next();
        if (done) return {{ ...now, times: value, nodes: NODES }};
      }}"""
    found = evaluate("regression", code)
    chain = fm.RegressionChain(eta, batch_size, dimension)
    for k in (0, 4, 9):
        matrix = chain.matrix(np.array(found["grid"][: found["at"][k] + 1]), found["nodes"])
        # in one dimension the library takes the mean over ξ in closed form, and the page by its nodes
        close = 1e-9 if dimension > 1 else 0.01
        assert found["times"][k] == pytest.approx(multiplicative._absorption(*matrix), rel=close)
    if dimension == 1:  # and close to what more points and nodes give
        assert found["times"][4] == pytest.approx(chain.passage_time(found["levels"][4]), rel=0.02)


def test_the_printed_power_of_the_regression_and_its_mean_factor(evaluate):
    rng = np.random.default_rng(0)
    points = [(rng.uniform(0.02, 1), *map(int, rng.integers(1, (9, 26)))) for _ in range(100)]
    code = f"return {json.dumps(points)}.map(point => [printedPower(...point), meanFactor(...point)]);"
    found = np.array(evaluate("regression", code))
    expected = [
        (m22_eq16_power(eta, b, dimension=d), fm.RegressionChain(eta, b, d).mean_square_factor)
        for eta, b, d in points
    ]
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()


GRADIENTS = EXPLORERS["stability"].controls["gradients"][1].value


@pytest.mark.parametrize(("eta", "batch_size"), [(1.5, 1), (9.0, 3), (0.06, 32), (2.4, 2)])
def test_paths_of_linear_stability_are_those_of_the_library(evaluate, eta, batch_size):
    """In the second setting all run away, far beyond what a double holds."""
    code = f"""const minimum = new Minimum2({json.dumps(GRADIENTS)});
      const paths = new Paths(100, minimum.g, {eta}, {batch_size}, FIXED.start);
      for (let k = 0; k < 1000; k++) paths.step();
      return {{ x: [...paths.x], y: [...paths.y], twos: [...paths.twos] }};"""
    found = evaluate("stability", code)
    how = {"eta": eta, "batch_size": batch_size, "steps": 1000, "trajectories": 100, "seed": 1}
    delta, twos = linear_walkers(np.reshape(GRADIENTS, (-1, 2)), start=(1.0, 1.0), **how)
    assert (delta == np.transpose([found["x"], found["y"]]).astype(float)).all()
    assert (twos == found["twos"]).all()
    assert (twos > 1000).all() == (eta == 9.0)


def stability_points():
    """A hundred sets of six gradients, unlike in length and spectrum, with a step and a batch size."""
    rng = np.random.default_rng(5)
    for k in range(100):
        gradients = rng.normal(size=(6, 2)) * np.exp(rng.normal(size=(6, 1)) / 2) * (1, 0.1 if k % 4 else 1)
        yield gradients.ravel().tolist(), float(rng.uniform(0.05, 5)), int(rng.integers(1, 33))


def test_edges_and_bounds_of_linear_stability_are_the_librarys(evaluate):
    points = list(stability_points())
    code = f"""return {json.dumps(points)}.map(([flat, eta, batch]) => {{
        const m = new Minimum2(flat);
        return [m.growth(eta, batch), m.exact(batch), m.descent(), m.traceNecessary(batch),
          m.traceSufficient(batch), m.theorem(batch)];
      }});"""
    found = np.array(evaluate("stability", code), dtype=float)
    for values, (flat, eta, batch) in zip(found, points, strict=True):
        minimum, drawn = fm.Minimum.from_gradients(np.reshape(flat, (-1, 2))), (batch, "replacement")
        named = (bounds.trace_necessary_step, bounds.trace_sufficient_step, bounds.theorem_3_3_step)
        expected = [largest_step(minimum, *drawn), bounds.gradient_descent_step(minimum)]
        expected += [bound(minimum, *drawn) for bound in named]
        assert values[1:] == pytest.approx(expected, rel=1e-12, abs=0)
        assert values[0] == pytest.approx(growth(minimum, eta, *drawn), rel=1e-10)  # Lanczos settles there


def test_the_exact_mean_of_the_loss_is_the_librarys(evaluate):
    for flat, eta, batch in list(stability_points())[:5]:
        gradients, drawn = np.reshape(flat, (-1, 2)), (batch, 20, "replacement")
        found = evaluate(
            "stability", f"return new Minimum2({flat}).meanLosses({eta}, {batch}, [1, 0.5], 20);"
        )
        minimum = fm.Minimum.from_gradients(gradients)
        expected = mean_losses(minimum, eta, *drawn, residuals=gradients @ [1, 0.5])
        assert np.exp(found) == pytest.approx(expected, rel=1e-9)


def test_gradients_on_a_line_and_none_at_all(evaluate):
    """One direction only, and nothing that moves."""
    line = [v for k in (1.0, 2.0, -0.5, 0.3, 0.7, 1.1) for v in (0.6 * k, 0.8 * k)]
    found = evaluate("stability", f"const m = new Minimum2({line}); return [m.exact(2), m.theorem(2)];")
    minimum = fm.Minimum.from_gradients(np.reshape(line, (-1, 2)))
    expected = [f(minimum, 2, "replacement") for f in (largest_step, bounds.theorem_3_3_step)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert evaluate("stability", f"return new Minimum2({[0.0] * 12}).values;") == []


def test_numbers_are_written_for_readers(evaluate):
    """Also powers of two digits, and levels that three digits would not tell from 1."""
    code = "return [short(1.2e-17), short(-3e-4), short(-10.5), ratio(1.00165), ratio(1.09), ratio(17.4527)];"
    assert evaluate("regression", code) == ["1.2·10⁻¹⁷", "−3.0·10⁻⁴", "−10.5", "1.0016", "1.09", "17.5"]


def test_the_edge_of_typical_paths_in_the_page_is_that_of_the_library(evaluate):
    """Each from its own random batches, 64 paths of 300 steps: within four standard errors."""
    code = f"""const theory = typicalEdges(new Minimum2({json.dumps(GRADIENTS)}), [1, 4, 16]);
      for (;;) {{ const {{ done, value }} = theory.next(); if (done) return value; }}"""
    minimum = fm.Minimum.from_gradients(np.reshape(GRADIENTS, (-1, 2)))
    for batch, found in evaluate("stability", code):
        edge = typical_edge(minimum, batch, "replacement", seed=4)
        assert abs(found - edge.value) < 4 * np.sqrt(2) * edge.error, batch


def fork(ratio):
    return fm.two_valleys().at(**{**PAPER, "x1": PAPER["x2"] * ratio**0.5})


def formulas():
    """Explorer, function, arguments and expression of all that is written into the scripts."""
    valley, valleys = fm.near_degenerate_valley(), fm.two_valleys()
    (x, y), slow = valley.coordinates, Reduction(valley).slow_equation(order=2, eta=ETA)
    curvature = valley.hessian[1, 1]
    yield "valley", valley, "loss", (x, y), valley.loss
    yield "valley", valley, "drift", (x, ETA, DELTA_S), slow.drift
    yield "valley", valley, "diffusion", (x, ETA, DELTA_S), slow.diffusion
    yield "valley", valley, "boundary", (ETA,), critical_law(valley, ETA).boundary
    yield "valley", valley, "curvature", (x,), curvature
    yield "valley", valley, "bend", (x,), sp.diff(curvature, x)
    x, y = valleys.coordinates
    yield "two_valleys", valleys, "loss", (x, y), valleys.loss
    yield "two_valleys", valleys, "downhill", (x, y), -valleys.gradient[1]
    yield "two_valleys", valleys, "barrier", (y,), barrier()
    yield "two_valleys", valleys, "pathDrift", (y,), path_drift()
    for side in ("flat", "sharp"):
        yield "two_valleys", valleys, f"floor{side.title()}", (y,), position(side)
        yield "two_valleys", valleys, f"width{side.title()}", (y,), flatness(side)


@pytest.mark.parametrize("formula", [*formulas()], ids=lambda f: f"{f[0]}-{f[2]}")
def test_a_formula_of_the_script_is_that_of_the_library(evaluate, formula):
    """At 100 points, to 1e-12 of the largest value there: a sum may cancel."""
    name, landscape, function, arguments, expression = formula
    rng = np.random.default_rng(3)
    ranges = {"x": (-1.5, 1.5), "y": (0.1, 12), "eta": (0.003, 0.2), "Delta_S": (1e-4, 0.1)}
    points = np.array([rng.uniform(*ranges[a.name], 100) for a in arguments]).T
    if name == "valley":
        numbers = {"epsilon": 0.01, "lambda_0": 8, "lambda_1": -2.5, "lambda_2": 1.0}
    else:
        numbers = {**PAPER, "x1": 0.9}
    exact = sp.lambdify((*arguments, *landscape.parameters), expression)
    expected = [exact(*point, *(numbers[p.name] for p in landscape.parameters)) for point in points]
    code = f"return {points.tolist()}.map(point => {function}(...point, {json.dumps(numbers)}));"
    found = np.array(evaluate(name, code))
    assert np.abs(found - expected).max() <= 1e-12 * np.abs(expected).max()


def test_the_predicted_density_is_that_of_the_slow_equation(evaluate):
    valley = fm.near_degenerate_valley().at(epsilon=0.01, lambda_0=8, lambda_1=-2, lambda_2=1)
    numbers = {"epsilon": 0.01, "lambda_0": 8, "lambda_1": -2, "lambda_2": 1}
    law = evaluate("valley", f"return slowLaw(0.02, 0.02, {json.dumps(numbers)});")
    x = np.array(law["xs"])
    both = Reduction(valley).marginal(np.concatenate([-x[:0:-1], x]), 0.02, order=2, eta=0.02)
    expected = 2 * both[len(x) - 1 :]  # of |x|
    assert law["sound"]
    assert np.abs(law["density"] - expected).max() < 1e-4 * expected.max()


def test_the_typical_edge_is_that_of_the_library(evaluate):
    points = [(0.1, 0.05), (0.5, 0.2), (1.2, 0.3), (0.02, 0.5), (0.3, 5.0), (1.9, 0.01)]
    found = evaluate("valley", f"return {json.dumps(points)}.map(([a, b]) => typicalGrowth(a, b));")
    assert found == pytest.approx([float(typical_growth(*p)) for p in points], abs=7e-6)
    valley = fm.near_degenerate_valley().at(epsilon=0.001, lambda_0=8, lambda_1=-2, lambda_2=1)
    numbers = {"epsilon": 0.001, "lambda_0": 8, "lambda_1": -2, "lambda_2": 1}
    for eta, delta_s in ((0.05, 0.02), (0.1, 0.2), (0.2, 0.01)):
        found = evaluate("valley", f"return typicalEdge({eta}, {delta_s}, {json.dumps(numbers)});")
        assert found == pytest.approx(edges(valley, eta, delta_s)[1], rel=1e-4)


@pytest.mark.parametrize(("delta_s", "eta", "ratio", "start"), FORKS[:2])
def test_the_rate_equation_in_the_page_is_that_of_the_library(evaluate, delta_s, eta, ratio, start):
    """Fewer nodes and straight lines between the tabulated y: to 0.002 in P_flat and 0.5 % in the times."""
    given = {"delta_s": delta_s, "eta": eta, "ratio": ratio, "start": start}
    code = f"""const now = numbers({json.dumps(given)});
      const theory = follow(now.eta, now.Delta, now.at, FIXED.start_y, now.end, now.P);
      for (;;) {{
        const {{ done, value: path }} = theory.next();
        if (done) return {{ ...path, time: lastHop(path, path.t), where: lastHop(path, path.y),
                          frozen: path.t[frozenFrom(path, FIXED.alike)] }};
      }}"""
    found = evaluate("two_valleys", code)
    valleys, floors = fork(ratio), frozen(fork(ratio), 1.0).floor
    starts = {"ridge": (-START_X, START_X), "sharp": [-float(floors["sharp"])]}[start]
    path = follow(valleys, eta, delta_s, start_y=1.0, start_x=starts, steps=round(400 / eta), points=1000)
    assert np.abs(path.flat - found["flat"]).max() < 0.002
    assert np.abs(path.y - found["y"]).max() < 0.01
    for moments, kept in ((path.last_hop(), "time"), (path.freezing_y(), "where")):
        assert [found[kept]["mean"], found[kept]["spread"]] == pytest.approx(moments, rel=0.005)
    steps = [round(found["frozen"]), round(400 / eta)]
    runs = fm.simulate(valleys, fm.HessianAligned(delta_s / eta), eta=eta, steps=steps[1], keep=steps,
                       start=(np.resize(starts, 1000), 1.0), trajectories=1000, seed=2, hops="x")  # fmt: skip
    then, end = np.transpose(runs.trajectories[:, :, 0] >= 0)
    assert (then == end).mean() == pytest.approx(0.9, abs=0.03)  # of 1000 walkers: three standard errors


# ---------------------------------------------------------------- in the book


def test_the_books_pages_mount_them_from_a_file(site, browser):
    """Each explorer stands in a chapter and one on the front page; nothing is asked of a network."""
    pages = [path for path in sorted(site.rglob("*.html")) if "data-explorer=" in path.read_text("utf8")]
    found = set()
    for path in pages:
        page, trouble = browser.new_page(), []
        page.on("console", lambda m, trouble=trouble: m.type == "error" and trouble.append(m.text))
        page.on("pageerror", lambda error, trouble=trouble: trouble.append(str(error)))
        page.goto(path.as_uri())
        page.locator("[data-explorer]").first.scroll_into_view_if_needed()
        wait_for(page, "now.steps > 0")
        found |= {page.locator("[data-explorer]").first.get_attribute("data-explorer")}
        assert not page.locator(".fmx-still:visible").count()
        assert trouble == []
        page.close()
    assert found == set(EXPLORERS)
    assert site / "chapters" / "index.html" in pages


# ---------------------------------------------------------------- the reader's hands


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", EXPLORERS)
def test_an_explorer_runs_on_a_phone_from_a_file(visit, name, theme):
    """By day it moves; at night the reader wants no motion, and gets a result."""
    motion = "reduce" if theme == "dark" else "no-preference"
    page = visit(name, theme=theme, width=360, device_scale_factor=3, reduced_motion=motion)
    if theme == "dark":
        result = 300 if name == "stability" else 20000
        wait_for(page, f"now.steps >= {result}")
        page.wait_for_timeout(300)
        assert summary(page)["steps"] == result
        assert page.get_by_role("button", name="Play").is_visible()
    wait_for(page, "now.steps > 20")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("canvas").count() == (3 if name == "stability" else 2)
    wide = page.evaluate("[...document.querySelectorAll('canvas')].map(c => c.width / c.clientWidth)")
    assert max(wide) <= 2.01  # not more than two pixels for one, whatever the screen has
    assert not page.locator("img").is_visible()  # the still gives way
    page.get_by_role("button", name="Copy as Python").click()
    found = Axe().run(page).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    page.emulate_media(media="print")
    assert page.locator("img").is_visible()
    assert not page.locator("canvas").first.is_visible()


@pytest.mark.parametrize("name", EXPLORERS)
def test_a_copied_run_gives_the_numbers_on_the_screen(visit, name, capsys):
    """Also after a slider was moved on the way: the run begins anew before it is copied."""
    page = visit(name)
    wait_for(page, "now.steps > 50")
    page.locator("input").first.focus()
    page.keyboard.press("ArrowRight")
    wait_for(page, "now.steps > 200")
    page.get_by_role("button", name="Copy as Python").click()
    code = page.locator("pre").inner_text()
    now, given = summary(page), {}
    exec(code, given)
    told = [float(word) for word in capsys.readouterr().out.split()]
    if name == "valley":
        assert told == [pytest.approx(now["rms"], rel=1e-12), now["lost"]]
    elif name == "many_directions":
        assert told[0] == pytest.approx(now["log_flatness"], rel=1e-10)
    elif name == "regression":
        means = [mean for mean in now["means"] if mean is not None]
        assert told == [*now["passed"], now["lost"], *(pytest.approx(mean, rel=1e-12) for mean in means)]
    elif name == "stability":
        assert told == pytest.approx([now["rate"], now["rho"], now["edge"]], rel=1e-10)
    else:
        assert given["runs"].hops.last.mean() == pytest.approx(now["last_hop"], rel=1e-12)
        assert told == [now["flat"], pytest.approx(now["last_hop_y"], rel=1e-12)]
    assert f"steps={now['steps']}," in code


def test_the_address_keeps_the_state_and_takes_none_out_of_range(visit, evaluate):
    page = visit("valley")
    page.locator("input").first.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash.includes('sigma')")
    moved = page.evaluate(f"{MODEL}.get('sigma')")
    assert moved > 0.1
    again = visit("valley", address=page.evaluate("location.hash"))
    assert again.evaluate(f"{MODEL}.get('sigma')") == moved
    controls = [evaluate(name, "return CONTROLS;") for name in EXPLORERS]
    given = (
        "#explorer=it&sigma=99&eta=NaN&epsilon=&lambda_1=-1e9&walkers=1e9&start=x&batch_size=1.5&gradients="
    )
    addresses = [f"{given}{wrong}" for wrong in ("1,2", "9" + ",1" * 11, "x" + ",1" * 11)]
    code = "([all, hashes]) => all.flatMap(c => hashes.map(h => flatminExplorers.fromAddress('it', c, h)))"
    assert page.evaluate(code, [controls, addresses]) == [{}] * 3 * len(EXPLORERS)


def test_a_gradient_is_dragged_or_moved_by_a_key_and_kept_in_the_address(visit):
    page, state = visit("stability"), EXPLORERS["stability"].state()
    wait_for(page, "now.typical !== null")
    before, handle = summary(page), page.locator(".fmx-handle").nth(1)
    handle.press("ArrowRight")
    kept = page.evaluate(f"{MODEL}.get('gradients')")
    assert kept == [*state["gradients"][:2], state["gradients"][2] + 0.05, *state["gradients"][3:]]
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 40, steps=3)
    page.mouse.up()
    x, y = page.evaluate(f"{MODEL}.get('gradients').slice(2, 4)")
    assert x > kept[2] + 0.2
    assert y < kept[3] - 0.1
    wait_for(page, f"now.edge !== {before['edge']} && now.typical !== null")
    assert handle.get_attribute("aria-label").startswith(f"gradient 2 at {x:g}, {y:g};")
    page.wait_for_function(f"decodeURIComponent(location.hash).includes(',{x:g},{y:g},')")
    again = visit("stability", address=page.evaluate("location.hash"))
    assert again.evaluate(f"{MODEL}.get('gradients')") == page.evaluate(f"{MODEL}.get('gradients')")


@pytest.mark.parametrize(
    ("first", "others", "said"),
    [("0,0", ",0,0", "all gradients are 0"), ("1,-1", ",0,0", "nothing moves"), ("1,0", ",1,0", "stable")],
)
def test_gradients_in_a_row_or_without_effect(visit, capsys, first, others, said):
    """No run, or one that is at its end after a step: the page says so, and so does the copied code."""
    page = visit("stability", address=f"#explorer=stability&eta=1&gradients={first}{others * 5}")
    wait_for(page, "now.steps > 20")
    page.get_by_role("button", name="Copy as Python").click()
    assert page.locator(".fmx-badge").inner_text().startswith(said)
    changes = "−∞" if said == "stable" else "–"
    assert f"of a run changes by {changes} a step" in page.locator(".fmx-said").inner_text()
    with np.errstate(divide="ignore"):
        exec(page.locator("pre").inner_text(), {})
    told = capsys.readouterr().out.split()
    assert told[:1] == (["-inf"] if said == "stable" else [])


def test_an_explorer_that_runs_leaves_the_address_of_another_place(visit):
    page = visit("valley", address="#explorer=valley&sigma=0.2")
    wait_for(page, "now.steps > 50")
    page.evaluate("location.hash = '#elsewhere'")
    wait_for(page, f"now.steps > {summary(page)['steps'] + 100}")
    page.wait_for_timeout(1500)  # it speaks every half a second
    assert page.evaluate("location.hash") == "#elsewhere"


def test_pause_restart_and_out_of_sight(visit):
    page = visit("valley")
    wait_for(page, "now.steps > 50")
    page.get_by_role("button", name="Pause").press("Enter")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    stood = summary(page)["steps"]
    page.wait_for_timeout(600)
    assert summary(page)["steps"] == stood
    page.get_by_role("button", name="Play").press("Enter")
    wait_for(page, f"now.steps > {stood}")
    page.get_by_role("button", name="Pause").press("Enter")
    page.get_by_role("button", name="Restart").press("Enter")
    wait_for(page, "now.steps === 0")
    page.get_by_role("button", name="Play").press("Enter")
    wait_for(page, "now.steps > 50")
    page.evaluate("document.querySelector('main').style.marginTop = '5000px'")
    stood = -1
    for _ in range(15):  # a busy browser notices late
        before, stood = stood, summary(page)["steps"]
        if stood == before:
            break
        page.wait_for_timeout(700)
    assert stood == before


def test_a_screen_reader_hears_changes_of_phase_only(visit):
    page = visit("valley")
    wait_for(page, "now.steps > 100")
    page.evaluate("""() => { window.heard = 0; const status = document.querySelector('[role=status]');
      new MutationObserver(() => heard++).observe(status, { childList: true }); }""")
    shown = page.locator(".fmx-said").inner_text()
    page.wait_for_function("old => document.querySelector('.fmx-said').textContent !== old", arg=shown)
    assert page.evaluate("heard") <= 1
    for control in page.locator("input").all():
        assert control.get_attribute("aria-valuetext")
    assert page.locator("canvas").first.get_attribute("aria-label").startswith("Walkers")
