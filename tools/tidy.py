"""Make built pages lighter and cleaner: what no page needs is dropped, what one needs only later comes later.

The theme sends with every page all icons twice, as a script and as fonts, and the index of the whole book;
each exercise's text has the same id. `tools/book.py` calls :func:`tidy` on what Sphinx built.
"""

import re
import struct
from collections import Counter

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

ICON_SCRIPT = re.compile(r'\s*<script[^>]*src="[^"]*fontawesome\.js[^"]*"></script>')
SEARCH_SCRIPTS = re.compile(
    r'\s*<script src="[^"]*\b(?:searchtools|language_data|searchindex)\.js[^"]*"></script>'
)
EXPLORERS = re.compile(
    r'\s*(?:<script[^>]*src="[^"]*explorers\.js[^"]*"></script>|<link[^>]*href="[^"]*explorers\.css[^"]*" />)'
)
#: of the script of all explorers, what one of them takes; and where a page names one
EXPLORER = re.compile(r'flatminExplorers\.define\("(\w+)", \(\(\) => \{\n.*?\n\}\)\(\)\);\n', re.DOTALL)
NAMED = re.compile(r'data-explorer="(\w+)"')
# names, brackets and blanks in code, which have its own colour
PLAIN_CODE = re.compile(r'<span class="(?:n|nn|p|w)">([^<]*)</span>')
DESIGN = re.compile(
    r'\s*(?:<script[^>]*src="[^"]*design-tabs\.js[^"]*"></script>|<link[^>]*sphinx-design[^>]*>)'
)
DESIGNED = re.compile(r'class="(?:[^"]* )?sd-')
FIGURE = re.compile(r'<img(?![^>]*\sloading=)([^>]*\ssrc="([^"]*_images/[^"]+)"[^>]*)>')
REPEATED = re.compile(r'\sid="((?:exercise|solution)-content)"')
ICON_RULE = re.compile(r"((?:\.fa-[\w-]+:(?:before|after),?)+)\{[^}]*\}")
NO_HEADER = re.compile(r"<th( [^>]*)?><p></p></th>")
LANDMARK = 'role="complementary" aria-label="This book"'
# a letter of the private area, escaped or as it is
GLYPH = re.compile(r"\\([ef][0-9a-f]{3})\b|([\ue000-\uf8ff])")
WOFF2 = re.compile(r'url\([^)]*\.woff2\)\s*format\("woff2"\),\s*')


def tidy(site):
    """Tidy the pages in the folder ``site`` in place."""
    (site / "_static/scripts/fontawesome.js").unlink()
    search = site / "_static/searchtools.js"  # quotes a page by its text, not by its buttons
    search.write_text(search.read_text("utf8").replace("""'[role="main"]'""", "'.bd-article'"), "utf8")
    texts = [path.read_text("utf8") for path in (site / "_static/scripts").glob("*.js")]
    explorers = site / "_static/explorers.js"
    for path in sorted(site.rglob("*.html")):
        text = page(path, path.read_text("utf8"))
        if names := sorted(set(NAMED.findall(text))):
            text = text.replace("_static/explorers.js", f"_static/{only(explorers, names)}")
        texts.append(text)
        path.write_text(texts[-1], "utf8")
    explorers.unlink()
    icons(site / "_static", {name for text in texts for name in re.findall(r"\bfa-[\w-]+", text)})


def only(script, names):
    """Write, beside the script of all explorers, one of those that a page names; return its name."""
    made = script.with_name(f"explorers-{'-'.join(names)}.js")
    kept = EXPLORER.sub(lambda found: found[0] if found[1] in names else "", script.read_text("utf8"))
    made.write_text(kept, "utf8")
    return made.name


def page(path, text):
    """Return a page's text without scripts that it does not use, its pictures lazy, its ids unique."""
    text = ICON_SCRIPT.sub("", text)
    if path.name != "search.html":
        text = SEARCH_SCRIPTS.sub("", text)
    if "data-explorer" not in text:
        text = EXPLORERS.sub("", text)
    if not DESIGNED.search(text):
        text = DESIGN.sub("", text)
    text = PLAIN_CODE.sub(r"\1", text)
    text = FIGURE.sub(lambda found: f'<img loading="lazy"{size(path.parent / found[2])}{found[1]}>', text)
    text = text.replace('<div id="pst-primary-sidebar" ', f'<div id="pst-primary-sidebar" {LANDMARK} ')
    text = text.replace(' role="doc-biblioentry"', ' role="listitem"')  # of a list, which knows only these
    text = NO_HEADER.sub(r"<td\1></td>", text)
    numbers = Counter()

    def numbered(found):
        numbers[found[1]] += 1
        return f' id="{found[1]}-{numbers[found[1]]}"'

    return REPEATED.sub(numbered, text)


def size(path):
    """Return the attributes that keep a picture's place while it is not there: a PNG's width and height."""
    head = path.read_bytes()[:24] if path.suffix == ".png" and path.is_file() else b""
    if not head.startswith(b"\x89PNG"):
        return ""
    width, height = struct.unpack(">II", head[16:24])
    return f' width="{width}" height="{height}"'


def icons(static, classes):
    """Keep of the icons' rules and fonts what a page, by one of ``classes``, or another rule uses."""

    def kept(rule):
        return rule[0] if classes & set(re.findall(r"\.(fa-[\w-]+):", rule[1])) else ""

    sheet = static / "styles/pydata-sphinx-theme.css"
    sheet.write_text(ICON_RULE.sub(kept, WOFF2.sub("", sheet.read_text("utf8"))), "utf8")
    sheets = [path.read_text("utf8") for path in static.rglob("*.css")]
    found = [letter for text in sheets for letter in GLYPH.findall(text)]
    glyphs = {int(code, 16) if code else ord(letter) for code, letter in found}
    for path in (static / "vendor/fontawesome/webfonts").glob("*.ttf"):
        font = TTFont(path)
        subsetter = Subsetter(Options(notdef_outline=True, glyph_names=False, hinting=False))
        subsetter.populate(unicodes=glyphs)
        subsetter.subset(font)
        font.save(path)
    for path in [*static.rglob("fa-*.woff2"), *static.rglob("*.map")]:
        path.unlink()
