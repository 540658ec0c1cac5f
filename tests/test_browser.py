"""The built pages in headless Chromium, without a network: errors, formulas, pictures, narrow screens."""

import functools
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from axe_playwright_python.sync_playwright import Axe

import pdf

pytestmark = pytest.mark.browser

WIDTHS = {"desktop": 1440, "narrow": 380}

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
# Pictures come when they are scrolled to: all are asked for at once.
MISSING = """async () => {
  const images = [...document.images];
  for (const image of images) image.loading = 'eager';
  await Promise.all(images.map(image => image.decode().catch(() => {})));
  return images.filter(image => !image.naturalWidth).map(image => image.src);
}"""
# Sideways scrolling of code whose lines keep to what a chapter may have.
SCROLLING_CODE = """[...document.querySelectorAll('.cell_input pre')].filter(pre =>
    pre.offsetParent && pre.scrollWidth > pre.clientWidth + 1
    && Math.max(...pre.textContent.split('\\n').map(line => line.length)) <= 84)
  .map(pre => pre.textContent.slice(0, 60))"""
CLIPPED = """[...document.querySelectorAll('.bd-article :is(pre, .output, .text_html, table)')]
  .filter(node => node.offsetParent && node.scrollWidth > node.clientWidth + 1
    && getComputedStyle(node).overflowX !== 'visible')
  .map(node => node.textContent.slice(0, 60))"""
# What was loaded, in bytes, before anything is scrolled to; the page itself is an entry of its own.
WEIGHT = """['navigation', 'resource'].flatMap(type => performance.getEntriesByType(type))
  .reduce((sum, entry) => sum + entry.transferSize, 0)"""
# What stands behind the figures, and what is done to their colours: white and nothing, in dark mode too.
BEHIND_FIGURES = """[...document.querySelectorAll('.cell_output img')].map(image => {
  const style = getComputedStyle(image); return `${style.backgroundColor} ${style.filter}`})"""
# Nothing until there is a paint: a page may be loaded before it is painted.
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
HEIGHT = "document.documentElement.scrollHeight"
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"


def page_names():
    """Return the pages of the book, from its contents, and the search page."""
    return [*pdf.entries(), "search", "genindex"]


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
        name, mark, rest = re.fullmatch(r"([^?#]*)([?#]?)(.*)", name).groups()
        page.goto(f"{address}/{name}.html{mark}{rest}", wait_until="load")
        page.evaluate("window.MathJax && MathJax.startup.promise")
        return page, trouble

    yield open_page
    for context in contexts:
        context.close()


# Formulas are MathJax's, one piece of code is coloured as the next: without them axe is soon done.
SPARED = "[...document.querySelectorAll('mjx-container'), ...[...document.querySelectorAll('pre')].slice(5)]"


def violations(page):
    """Return what axe finds wrong, as (rule, element); formulas and most of the code are gone afterwards."""
    page.evaluate(f"{SPARED}.forEach(node => node.replaceWith('spared'))")
    page.add_style_tag(content="* { transition: none !important }")  # no colour between two of them
    found = Axe().run(page, options={"preload": False}).response["violations"]  # it asks for wrong addresses
    return [(rule["id"], node["html"][:200]) for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", page_names())
def test_a_page_is_whole_without_a_network(visit, name, width):
    page, trouble = visit(name, viewport={"width": WIDTHS[width], "height": 900})
    assert page.evaluate(WEIGHT) < 2.5e6
    assert page.evaluate(RAW_TEX) == []
    assert page.evaluate(UNDRAWN) == 0
    assert page.evaluate(TEX_ERRORS) == []
    assert page.evaluate(MISSING) == []
    assert page.evaluate(OVERFLOW) <= 1
    assert page.locator('mjx-container[tabindex="0"]').count() == 0
    if width == "desktop":
        for across in (1280, WIDTHS[width]):
            page.set_viewport_size({"width": across, "height": 900})
            assert page.evaluate(SCROLLING_CODE) == []
        assert violations(page) == []
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        assert set(page.evaluate(BEHIND_FIGURES)) <= {"rgb(255, 255, 255) none"}
    assert trouble == []


def test_formulas_are_drawn(visit):
    page, _ = visit("chapters/notation")
    assert page.locator("mjx-container").count() > 100


@pytest.mark.parametrize(
    "name", ["chapters/index", "chapters/scoreboard", "chapters/summary", "chapters/04_two_valleys"]
)
def test_dark_pages_and_narrow_ones_are_accessible(visit, name):
    for options in ({"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}}):
        page, _ = visit(name, **options)
        assert violations(page) == []


# Weight, code and paper


@pytest.mark.parametrize("name", ["chapters/index", "chapters/01_valley", "chapters/scoreboard"])
def test_a_page_is_soon_there(browser, address, name):
    painted = []
    for _ in range(5):  # other work on the machine makes a paint late, never early
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"{address}/{name}.html", wait_until="load")
        painted.append(page.wait_for_function(FIRST_PAINT).json_value())
        page.close()
        if painted[-1] < 1000:
            break
    assert min(painted) < 1000


def test_the_notation_fits_a_laptop(visit):
    page, _ = visit("chapters/notation", viewport={"width": 1440, "height": 900})
    tables = "[...document.querySelectorAll('table')].map(table => table.parentElement)"
    assert page.evaluate(f"{tables}.filter(node => node.scrollWidth > node.clientWidth + 1).length") == 0


def test_on_paper_nothing_is_cut_and_all_is_open(visit):
    for name in ("chapters/01_valley", "chapters/scoreboard", "chapters/errata", "chapters/api"):
        page, _ = visit(name, viewport={"width": 660, "height": 900}, color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        assert page.evaluate(CLIPPED) == [], name
        assert page.evaluate("document.documentElement.dataset.theme") == "light"
        assert page.locator("main details:not([open]):not(.hide)").count() == 0
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_book_becomes_one_pdf(browser, site):
    names = ["index", "errata", "scoreboard"]
    parts = [
        (f"{name}.html", *pdf.printed(browser, (site / "chapters" / f"{name}.html").as_uri()))
        for name in names
    ]
    written = pdf.join(browser, parts, "A book")
    assert len(written.pages) == 1 + sum(len(printed.pages) for *_, printed in parts)
    titles = [item["/Title"] for item in written.outline if not isinstance(item, list)]
    assert titles == ["Contents", "Why SGD finds flat minima", "Errata", "Scoreboard"]
    start = 1 + len(parts[0][2].pages)
    assert re.search(rf"Errata\s*{start + 1}\b", written.pages[0].extract_text())
    assert written.pages[start].extract_text().rstrip().endswith(str(start + 1))
    links = [each.get_object() for page in written.pages for each in page.get("/Annots", [])]
    inner = {
        address for link in links if (address := str(link.get("/A", {}).get("/URI", ""))).startswith("file:")
    }
    assert not [address for address in inner if re.search("(index|errata|scoreboard).html", address)]


# The ledger's pages as tools


@pytest.mark.parametrize("name", ["chapters/scoreboard", "chapters/errata"])
def test_the_ledger_is_short_until_it_is_opened(visit, name):
    for width in (360, 1440):
        page, _ = visit(name, viewport={"width": width, "height": 740})
        assert page.evaluate(HEIGHT) < 10_000
    closed = page.evaluate(HEIGHT)
    page.get_by_role("button", name="Open all").click()
    assert page.evaluate(HEIGHT) > 1.5 * closed


def shown(page):
    return page.locator("details.flatmin-entry:not([hidden])")


def wait_for_address(page, end):
    """Wait until the address ends so: playwright hears of a new one a little later."""
    page.wait_for_url(lambda url: url.endswith(end))


def test_the_scoreboard_filters_and_keeps_its_state_in_the_address(visit):
    page, trouble = visit("chapters/scoreboard")
    every = shown(page).count()
    page.get_by_label("verdict").select_option("corrected")
    page.get_by_label("paper").select_option(label="Mori et al. 2022")
    some = shown(page).count()
    assert 0 < some < every
    assert page.locator("output").inner_text() == f"{some} of {every}"
    wait_for_address(page, "?verdict=corrected&paper=M22")
    assert {entry.get_attribute("data-verdict") for entry in shown(page).all()} == {"corrected"}
    page.reload()
    assert shown(page).count() == some
    page.get_by_label("kind").select_option("N")
    page.get_by_label("chapter").select_option(label="chapter 6")
    assert shown(page).count() < some
    page.get_by_role("button", name="Show all").click()
    assert shown(page).count() == every
    wait_for_address(page, "scoreboard.html")
    assert trouble == []


def test_the_errata_filter_and_work_from_a_file(browser, site):
    page = browser.new_page()
    page.goto((site / "chapters" / "errata.html").as_uri() + "?changes=conclusion&paper=nonsense")
    assert {entry.get_attribute("data-changes") for entry in shown(page).all()} == {"conclusion"}
    page.get_by_label("paper").select_option(label="Wu, Wang & Su 2022")
    assert {entry.get_attribute("data-paper") for entry in shown(page).all()} == {"W22"}
    wait_for_address(page, "?changes=conclusion&paper=W22")
    page.close()


def test_a_link_to_an_entry_opens_it_whatever_is_filtered(visit):
    page, _ = visit("chapters/scoreboard?verdict=open#score-y22-transition")
    entry = page.locator("#score-y22-transition")
    assert entry.get_attribute("open") is not None
    assert entry.is_visible()
    assert shown(page).count() == page.locator("details.flatmin-entry").count()


def test_a_chapters_claims_lead_to_their_entries_and_back(visit):
    page, trouble = visit("chapters/04_two_valleys")
    claims = page.locator(".admonition a.flatmin-claim")
    assert claims.count() > 3
    id = claims.first.inner_text()
    claims.first.click()
    entry = page.locator(f"#score-{id}")
    entry.locator("a").first.wait_for(state="visible")
    entry.locator('a[href*="04_two_valleys.html#claim-"]').first.click()
    page.wait_for_url("**/04_two_valleys.html#claim-*")
    assert page.locator(f'[id="{page.url.partition("#")[2]}"]').is_visible()
    assert trouble == []


@pytest.mark.parametrize("word", ["glossary", "diagnose"])
def test_the_search_finds(visit, word):
    page, trouble = visit(f"search?q={word}")
    page.locator("#search-results li a").first.wait_for()
    assert word in page.locator("#search-results li p.context").first.inner_text().lower()
    assert trouble == []


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
