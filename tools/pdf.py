"""Print the built pages into one PDF: title, contents with page numbers, outline, links within the book.

    python tools/pdf.py [PAGE ...] [--site FOLDER] [--output FILE]       default: every page in _build/html

Headless Chromium prints each page as the style sheet says for paper; pypdf joins what it printed.
"""

import argparse
import html
import io
import re
import sys
from pathlib import Path

import yaml
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.annotations import Link
from pypdf.generic import ArrayObject, Fit, NameObject
from tqdm import tqdm

import book
import chromium

ROOT = Path(__file__).resolve().parent.parent
PAPER = {"format": "A4", "print_background": True}
MARGIN = {"top": "18mm", "bottom": "20mm", "left": "18mm", "right": "18mm"}
# every picture there, every formula drawn, all folded text open
READY = """async () => {
  for (const image of document.images) image.loading = 'eager';
  await (window.MathJax && MathJax.startup && MathJax.startup.promise);
  await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
  dispatchEvent(new Event('beforeprint'));
}"""
HEADINGS = """[...document.querySelectorAll('.bd-article :is(h1, h2)')]
  .map(heading => heading.innerText.replace(/#$/, '').replace(/\\s+/g, ' ').trim())"""
LINE, TOP, POINT = 8, 60, 72 / 25.4  # of the contents: mm a line, mm above the first; points a mm


def entries():
    """Return the pages of the book in order, as paths without ending below the built site."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text("utf8"))
    return [toc["root"], *(entry["file"] for part in toc["parts"] for entry in part["chapters"])]


def printed(browser, address):
    """Return (headings, the title first; PDF) of the page at ``address``."""
    page = browser.new_page(color_scheme="light", viewport={"width": 1000, "height": 1000})
    try:
        page.goto(address, wait_until="load")
        page.evaluate(READY)
        headings = page.evaluate(HEADINGS)
        pdf = page.pdf(**PAPER, margin=MARGIN, outline=True, tagged=True)
    finally:
        page.close()
    return headings, PdfReader(io.BytesIO(pdf))


def drawn(browser, body):
    """Return the PDF of some HTML of our own, on A4 without margins."""
    page = browser.new_page()
    style = "body{margin:0;font-family:sans-serif} section{position:relative;height:296.9mm;break-after:page}"
    page.set_content(f"<meta charset='utf8'><style>{style}</style>{body}")
    pdf = PdfReader(io.BytesIO(page.pdf(**PAPER)))
    page.close()
    return pdf


def contents(lines, name):
    """Return the HTML of the page with the title and the contents: ``lines`` of (title, page number)."""
    rows = "".join(
        f'<div style="position:absolute;left:18mm;right:18mm;top:{TOP + LINE * place}mm;display:flex">'
        f'<span style="flex:1">{html.escape(title)}</span><span>{number}</span></div>'
        for place, (title, number) in enumerate(lines)
    )
    return f'<section><h1 style="margin:0;padding:25mm 18mm 0">{html.escape(name)}</h1>{rows}</section>'


def numbers(count):
    """Return the HTML of ``count`` pages with nothing but their number."""
    place = "position:absolute;bottom:9mm;width:100%;text-align:center;font-size:9pt"
    return "".join(f'<section><div style="{place}">{each}</div></section>' for each in range(1, count + 1))


def flat(outline):
    """Return the entries of an outline in their order, without its nesting."""
    return [each for item in outline for each in (flat(item) if isinstance(item, list) else [item])]


def add_sections(writer, parent, pdf, headings, start):
    """Put a page's sections below it in the outline: Chromium knows their places, the page their words."""
    places = [(re.sub(r"\s", "", item.title), item) for item in flat(pdf.outline)]
    for heading in headings:
        number = re.match(
            r"[\d.]+\.(?= )", heading
        )  # words at the foot of a page come doubled, numbers first
        key = number[0] if number else re.sub(r"\s", "", heading)
        item = next((item for words, item in places if words.startswith(key)), None)
        if item is not None:
            place = start + pdf.get_destination_page_number(item)
            writer.add_outline_item(title=heading, page_number=place, parent=parent)


def link_within(writer, starts):
    """Let links between the pages of the site lead to the page of the PDF where that page begins."""
    for page in writer.pages:
        for annotation in page.get("/Annots", []):
            link = annotation.get_object()
            address = str(link.get("/A", {}).get("/URI", ""))
            target = Path(re.split("[?#]", address)[0]).name
            if address.startswith("file:") and target in starts:
                place = writer.pages[starts[target]].indirect_reference
                del link["/A"]
                link[NameObject("/Dest")] = ArrayObject([place, NameObject("/Fit")])


def join(browser, parts, name):
    """Return the writer of the whole book from ``parts``: (file name, headings, PDF) of each page."""
    starts, place = {}, 1
    for file, _, pdf in parts:
        starts[file] = place
        place += len(pdf.pages)
    lines = [(headings[0], starts[file] + 1) for file, headings, _ in parts]
    writer = PdfWriter()
    writer.append(drawn(browser, contents(lines, name)), outline_item="Contents", import_outline=False)
    for file, (title, *headings), pdf in parts:
        writer.append(pdf, import_outline=False)
        parent = writer.add_outline_item(title=title, page_number=starts[file])
        add_sections(writer, parent, pdf, headings, starts[file])
    link_within(writer, starts)
    for page, stamp in zip(writer.pages, drawn(browser, numbers(place)).pages, strict=True):
        page.merge_page(stamp)
        page.compress_content_streams()
    for row, (file, _, _) in enumerate(parts):
        top = 842 - (TOP + LINE * row) * POINT
        rect = (18 * POINT, top - LINE * POINT, 595 - 18 * POINT, top)
        writer.add_annotation(0, Link(rect=rect, target_page_index=starts[file], fit=Fit.fit()))
    writer.add_metadata({"/Title": name})
    writer.compress_identical_objects()
    return writer


def main():
    """Print the pages, join them and say where the PDF is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="chapters/01_valley, say; default: all")
    parser.add_argument("--site", type=Path, default=ROOT / "_build" / "html", help="the built pages")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "_build" / "book.pdf", help="where the PDF goes"
    )
    given = parser.parse_args()
    if not (given.site / "index.html").exists():
        book.build()
    name = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["title"]
    try:
        with sync_playwright() as playwright:
            browser = chromium.launch(playwright)
            parts = []
            for page in tqdm(given.pages or entries(), desc="printing", disable=None):
                path = (given.site / f"{page}.html").resolve()
                parts.append((path.name, *printed(browser, path.as_uri())))
            writer = join(browser, parts, name)
            browser.close()
    except FileNotFoundError as error:
        sys.exit(str(error))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    writer.write(given.output)
    print(f"{len(writer.pages)} pages, {given.output.stat().st_size / 1e6:.1f} MB: {given.output}")


if __name__ == "__main__":
    main()
