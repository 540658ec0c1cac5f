"""The report as HTML and as a figure: complete, self-contained, escaped, readable on a small dark screen."""

import functools
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from flatmin.diagnosis import page
from flatmin.diagnosis.report import Line, Plan, Report, Step
from flatmin.estimate import Estimate

EVIL = '<script>alert("1")</script> & $x_1$ {0}'


def line(name, section, value=None, error=0.0, *, reason="", at=None, claim=None, link=None, words=""):
    """One line of a report, as flatmin.diagnose makes them."""
    estimate = None if value is None else Estimate(value, error, 100 * bool(np.any(error)), f"way of {name}")
    return Line(name, section, name[:6], words or f"words about {name}", estimate, reason, claim, link, at)


def report(*lines, notes=(), **facts):
    """A report of these lines."""
    known = {"model": "Sequential", "parameters": 610, "loss": "square", "samples": 100, "of_samples": 200}
    known |= {"outputs": 1, "eta": 0.1, "batch_size": 32, "sampling": "epoch", "momentum": 0.0, "seed": 0}
    known |= {"weight_decay": 0.0, "device": "cpu", "dtype": "float32", "memory": 2**20, "peak": 2**28}
    steps = Step("trace", 1.0, 0.5, "done"), Step("typical edge", 9.0, None, "dropped", "would take ≈ 9.0 s")
    return Report(lines, known | {"seconds": 1.25} | facts, Plan(60.0, steps, tuple(notes)))


GRID = np.linspace(-1, 30, 200)
FULL = report(
    line("loss", "checks", 0.123),
    *(line(f"lambda_{i}", "curvature", 30.0 / i, 0.01) for i in range(1, 6)),
    line("density", "curvature", np.exp(-np.abs(GRID)), np.full(200, 1e-3), at=tuple(GRID)),
    line("trace_by_layer", "curvature", np.array([3.0, 4.5]), np.zeros(2), at=("0.weight", "2.weight")),
    line("exponent", "noise", 1.3, 0.1),
    line("noise_along", "noise", 2 / np.arange(1, 6) ** 1.3, np.full(5, 0.1), at=(30.0, 15.0, 10.0, 7.5, 6)),
    line("descent", "stability", 1.5, 0.01),
    line("exact", "stability", 1.7),
    line("bound", "stability", reason="loss: W22 defines μ for the square loss"),
    line("theory_W22", "theories", 1.4, 0.1, claim="w22-cifar-flatness", link="11_scale"),
)  # fmt: skip


class Reader(HTMLParser):
    """Text, ids and addresses of a page; tags must close in order."""

    EMPTY = frozenset({"meta", "br", "path", "use", "rect"})

    def __init__(self, text):
        super().__init__()
        self.stack, self.text, self.ids, self.addresses, self.tags = [], [], [], [], []
        self.feed(text)
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            self.ids += [value] if name == "id" else []
            self.addresses += [value] if name in ("href", "src", "xlink:href") else []
        if tag not in self.EMPTY:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.EMPTY:
            self.stack.pop()

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def whole():
    """The page of FULL."""
    return page.page(FULL)


def test_the_page_holds_every_line_and_needs_nothing_from_outside(whole):
    read = Reader(whole)
    text = " ".join(read.text)
    for one in FULL.lines:
        assert one.words in text
        assert (one.method if one.estimate else one.reason) in text
    assert len(read.ids) == len(set(read.ids))
    assert all(address.startswith("#") for address in read.addresses)
    assert not {"script", "link", "img", "iframe"} & set(read.tags)
    assert read.tags.count("svg") == 3
    assert page.page(FULL) == whole


def test_numbers_stand_after_the_sign_with_their_error():
    html = page.html(FULL)
    assert "≈ 1.500(10)" in html
    assert "0.weight ≈ 3.00, 2.weight ≈ 4.50" in html
    assert "200 values, from ≈ -1.00 to ≈ 30.0" in html.replace("−", "-")
    assert "(chapter 11, w22-cifar-flatness)" in html
    assert "would take ≈ 9.0 s" in html
    assert "svg" not in html  # a notebook keeps the tables only
    Reader(html)
    names = tuple(f"layer{i}" for i in range(12))
    many = page.html(report(line("layers", "curvature", np.arange(12.0), 0.0, at=names)))
    assert "layer9 ≈ 9.00, …" in many
    assert "layer10" not in many
    assert "Stability" not in many


def test_what_comes_from_the_reader_is_escaped():
    lines = (
        line("lambda_1", "curvature", 2.0, 0.1, words=EVIL),
        line("trace_by_layer", "curvature", np.ones(1), 0.0, at=(EVIL,)),
        line("mu", "noise", reason=EVIL, claim=EVIL, link="javascript:alert(1)"),
        line("descent", "stability", 1.0),
    )
    bad = report(*lines, model=EVIL, notes=(EVIL,))
    for text in (page.page(bad), page.html(bad)):
        assert "<script" not in text
        read = Reader(text)
        assert " ".join(read.text).count(EVIL) >= 6
        assert all(address.startswith("#") for address in read.addresses)
    page.plot(bad).canvas.draw()


def test_only_a_report_is_shown():
    for function in (page.html, page.page, page.plot, lambda one: page.save(one, "x.html")):
        with pytest.raises(ValueError, match="report=3: must be"):
            function(3)


def test_the_figure_shows_what_there_is():
    assert len(page.plot(FULL).axes) == 3
    without = report(*(one for one in FULL.lines if one.name.startswith("lambda")))
    (ax,) = page.plot(without).axes
    assert ax.get_ylabel() == "eigenvalue of H"
    edges = report(*(one for one in FULL.lines if one.section == "stability"))
    (ax,) = page.plot(edges).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["descent", "exact"]
    assert ax.get_xlim()[0] < 1 < ax.get_xlim()[1]
    nothing = report(FULL.lines[0])
    with pytest.raises(ValueError, match="report: must hold curvature, noise or stability"):
        page.plot(nothing)
    assert "<svg" not in page.page(nothing)


def test_extreme_numbers_are_drawn():
    odd = report(
        line("lambda_1", "curvature", 1e-300),
        line("descent", "stability", 1e-12, 1.0),
        line("exact", "stability", 1e12, 0.0),
        line("noise_along", "noise", np.array([0.0, 1e-30]), 0.0, at=(-1.0, 2.0)),
    )
    page.plot(odd).canvas.draw()
    Reader(page.page(odd))


def test_the_style_of_later_figures_stays_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    page.plot(FULL)
    assert dict(matplotlib.rcParams) == before


def test_saving_takes_the_name_of_a_file_in_a_folder_that_exists(tmp_path, whole):
    path = page.save(FULL, tmp_path / "report.html")
    assert path.read_text("utf8") == whole
    for bad in ("", tmp_path, tmp_path / "none" / "report.html", 3, None):
        with pytest.raises(ValueError, match="path="):
            page.save(FULL, bad)


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium, or a skip where there is none."""
    from playwright.sync_api import sync_playwright

    names = "chromium", "chromium-browser", "google-chrome"
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None and os.environ.get("FLATMIN_REQUIRE_BROWSER") != "1":
        pytest.skip("no Chromium here")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_the_file_is_whole_offline_on_wide_and_narrow_screens(chromium, tmp_path, whole, width, scheme):
    path = tmp_path / "report.html"
    path.write_text(whole, "utf8")
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
    )
    tab, asked = context.new_page(), []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    shot = os.environ.get("FLATMIN_SHOTS")
    if shot:
        tab.screenshot(path=f"{shot}/{width}_{scheme}.png", full_page=True)
    assert asked == [path.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    colours = functools.partial(re.findall, r"[\d.]+")
    ink, paper = (
        colours(tab.evaluate(f"getComputedStyle(document.body).{name}"))
        for name in ("color", "backgroundColor")
    )
    bright = [sum(map(float, one[:3])) / 765 for one in (ink, paper)]
    assert (bright[0] - bright[1] > 0.6) if scheme == "dark" else (bright[1] - bright[0] > 0.6)
    drawn = tab.evaluate("[...document.querySelectorAll('svg path')].map(p => getComputedStyle(p).stroke)")
    assert f"rgb({', '.join(ink[:3])})" in drawn
    context.close()
