"""The built pages in headless Chromium, without a network: errors, formulas, pictures, narrow screens."""

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from playwright.sync_api import sync_playwright

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
WIDTHS = {"desktop": 1400, "narrow": 380}

# Text that should have become a formula: TeX delimiters or commands outside code.
RAW_TEX = r"""() => {
  const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  const found = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (node.parentElement.closest('pre, code, script, style, mjx-container')) continue;
    if (/\$|\\[(\[]|\\[a-zA-Z]+\{|\\begin/.test(node.data)) found.push(node.data.trim().slice(0, 80));
  }
  return found;
}"""
UNDRAWN = "document.querySelectorAll('.math:not(:has(mjx-container))').length"
TEX_ERRORS = """[...document.querySelectorAll('mjx-merror, mjx-container [style*="color: red"]')]
  .map(node => node.closest('mjx-container').textContent.slice(0, 80))"""
MISSING = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"


def page_names():
    """Return the pages of the book, from its contents, and the search page."""
    with open(os.path.join(os.path.dirname(__file__), "..", "_toc.yml"), encoding="utf8") as file:
        toc = yaml.safe_load(file)
    entries = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    return [toc["root"], *entries, "search", "genindex"]


@pytest.fixture(scope="session")
def address(site):
    """The address at which the built pages are served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; where there is none the test is skipped, unless it is required."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None and os.environ.get("FLATMIN_REQUIRE_BROWSER") == "1":
        pytest.fail("FLATMIN_REQUIRE_BROWSER=1 and there is no Chromium")
    if path is None:
        pytest.skip("no Chromium here")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, address):
    """A function that opens a page and returns it with the list of what went wrong on the way."""
    contexts = []

    def open_page(name, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page, trouble = context.new_page(), []

        def refuse(route):
            trouble.append(f"asks for {route.request.url}")
            route.abort()

        context.route(lambda url: not url.startswith((address, "data:", "blob:")), refuse)
        page.on("console", lambda m: m.type in ("error", "warning") and trouble.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: trouble.append(f"script: {error}"))
        page.on("response", lambda r: r.status >= 400 and trouble.append(f"{r.status}: {r.url}"))
        page.goto(f"{address}/{name}.html", wait_until="load")
        page.evaluate("window.MathJax && MathJax.startup.promise")
        return page, trouble

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", page_names())
def test_a_page_is_whole_without_a_network(visit, name, width):
    page, trouble = visit(name, viewport={"width": WIDTHS[width], "height": 900})
    assert page.evaluate(RAW_TEX) == []
    assert page.evaluate(UNDRAWN) == 0
    assert page.evaluate(TEX_ERRORS) == []
    assert page.evaluate(MISSING) == []
    assert page.evaluate(OVERFLOW) <= 1
    assert trouble == []


def test_formulas_are_drawn(visit):
    page, _ = visit("chapters/notation")
    assert page.locator("mjx-container").count() > 100


def test_figures_stay_on_white_in_dark_mode(visit):
    for name in page_names():
        page, _ = visit(name, color_scheme="dark")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        styles = """[...document.querySelectorAll('.cell_output img')].map(image => {
          const style = getComputedStyle(image); return [style.backgroundColor, style.filter]})"""
        assert all(style == ["rgb(255, 255, 255)", "none"] for style in page.evaluate(styles)), name


def test_the_checks_see_what_is_wrong(visit, site):
    """A page with one fault of each kind: none may be overlooked."""
    whole = (site / "chapters" / "notation.html").read_text("utf8")
    faults = r"""<p>$x^2$ and \(y\)</p><p class="math">\(\nosuchmacro\)</p><span class="math">x</span>
      <img src="gone.png" alt="gone"><div style="width: 3000px">wide</div>
      <script src="https://example.org/widget.js"></script><script>undefinedFunction()</script>"""
    faulty = whole.replace("</article>", faults + "</article>", 1)
    assert faulty != whole
    (site / "faulty.html").write_text(faulty.replace("../", ""), "utf8")
    try:
        page, trouble = visit("faulty", viewport={"width": 900, "height": 900})
        assert page.evaluate(RAW_TEX) == ["$x^2$ and"]  # the other one is drawn
        assert page.evaluate(UNDRAWN) == 1
        assert len(page.evaluate(TEX_ERRORS)) == 1
        assert [address.rsplit("/", 1)[1] for address in page.evaluate(MISSING)] == ["gone.png"]
        assert page.evaluate(OVERFLOW) > 1000
    finally:
        (site / "faulty.html").unlink()
    assert any("example.org" in each for each in trouble)
    assert any("undefinedFunction" in each for each in trouble)
    assert any(each.startswith("404") for each in trouble)
