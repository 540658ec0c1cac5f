"""The built pages, read as files: links, pictures, buttons; and a build that does not let errors pass."""

import re
import shutil
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from fontTools.ttLib import TTFont
from nbformat.v4 import new_code_cell, new_notebook

import book
import notebooks

LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("embed", "src")}


class Page(HTMLParser):
    """The ids, links, pictures and loaded files of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loaded, self.pictures = set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(values["href"])
        self.loaded += [values[name] for name in values if (tag, name) in LOADED and values[name]]
        if tag == "img" and "margin-left" not in values.get("style", ""):
            self.pictures.append(values)  # panels cut apart for phones: their span tells


@cache
def read(path):
    """Return the parsed page at ``path``."""
    return Page(path.read_text("utf8"))


def pages(site):
    """Return the pages of the book proper."""
    return sorted((site / "chapters").glob("*.html"))


def broken(site, path, link):
    """Say what is wrong with a link on a page, or None: file and anchor of an inner one must exist."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or link == "#":
        return None
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return f"{path.name}: {link} leads nowhere"
    if parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in read(target).ids:
        return f"{path.name}: {link} leads to a page without that anchor"
    return None


def test_every_entry_of_the_contents_became_a_page(root, site):
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf8"))
    files = [toc["root"]] + [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    assert sorted(files) == sorted(f"chapters/{path.stem}" for path in pages(site))
    assert "chapters/index.html" in (site / "index.html").read_text("utf8")


def test_inner_links_and_anchors_lead_somewhere(site):
    found = [broken(site, path, link) for path in pages(site) for link in read(path).links]
    assert len(found) > 50
    assert [problem for problem in found if problem] == []


def test_pages_load_only_files_of_the_book(site):
    for path in [*pages(site), site / "search.html", site / "genindex.html"]:
        for address in read(path).loaded:
            assert not urlsplit(address).netloc, f"{path.name} loads {address}"
            assert broken(site, path, urlsplit(address).path) is None


def test_pictures_say_what_they_show(site):
    for path in pages(site):
        for picture in read(path).pictures:
            text = picture.get("alt", "")
            assert text, f"{path.name}: {picture['src']} has no alternative text"
            assert not text.endswith(".png"), f"{path.name}: {picture['src']} has its file's name as text"


def test_chapters_open_on_binder_and_colab_and_can_be_downloaded(site):
    repository = urlsplit(notebooks.placeholders()["repository"]).path.strip("/")
    for name in notebooks.chapter_names():
        text = (site / "chapters" / f"{name}.html").read_text("utf8")
        assert re.search(
            rf"mybinder\.org/v2/gh/{repository}/main\?urlpath=lab/tree/chapters/{name}\.ipynb", text
        )
        assert f"colab.research.google.com/github/{repository}/blob/main/chapters/{name}.ipynb" in text
        assert (site / "_sources" / "chapters" / f"{name}.ipynb").is_file()


def test_no_placeholder_is_left(site):
    for path in pages(site):
        assert not re.search(r"\{\{ \w+ \}\}", path.read_text("utf8")), path.name


def test_formulas_are_drawn_by_the_copy_that_comes_along(site):
    scripts = [a for a in read(site / "chapters" / "notation.html").loaded if "mathjax" in a.lower()]
    assert scripts == ["../_static/mathjax/tex-chtml.js"]
    assert list((site / "_static/mathjax/output/chtml/fonts").rglob("*.woff"))


def test_the_picture_of_the_front_page_is_the_chapters_own_with_its_numbers(root, site):
    page = (site / "chapters" / "index.html").read_text("utf8")
    (picture,) = re.findall(r'src="([^"]*valley-runs\.png)"', page)
    shown = (site / "chapters" / picture).read_bytes()
    chapter = (site / "chapters" / "01_valley.html").read_text("utf8")
    kept = {path.read_bytes() for path in (site / "_images").iterdir() if path.name in chapter}
    assert shown in kept
    text, source = ((root / "chapters" / name).read_text("utf8") for name in ("index.md", "src/01_valley.md"))
    caption = text.partition("made/valley-runs.png")[2].partition("```")[0]
    cells = source.partition("## Three runs")[2].partition("figure: valley-runs")[0]
    for said, done in {
        r"\sigma=0.02": "sigmas = np.array([0.0, 0.02, 0.2])",
        r"\sigma=0.2": "sigmas = np.array([0.0, 0.02, 0.2])",
        r"\eta=0.01": "eta=0.01",
        "(1.5, 1.5)": "start=(1.5, 1.5)",
    }.items():
        assert said in caption
        assert done in cells, f"the caption of the front page says {said}"
    assert 'PAPER = {"epsilon": 0.001, "lambda_0": 8, "lambda_1": -2, "lambda_2": 1}' in source


def test_the_notation_names_code_that_exists(root):
    text = (root / "chapters" / "notation.md").read_text("utf8")
    cells = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| $")]
    names = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    code = "\n".join(path.read_text("utf8") for path in (root / "lib").rglob("*.py"))
    assert len(names) > 20
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", code)] == []


# What is tidied after the build


def test_no_id_stands_twice_on_a_page(site):
    for path in pages(site):
        ids = re.findall(r'\sid="([^"]+)"', path.read_text("utf8"))
        assert sorted(id for id, number in Counter(ids).items() if number > 1) == [], path.name


def test_figures_come_when_they_are_needed_and_keep_their_place(site):
    found = [
        picture for path in pages(site) for picture in read(path).pictures if "_images/" in picture["src"]
    ]
    assert len(found) > 50
    assert all(picture.get("loading") == "lazy" for picture in found)
    sized = [picture for picture in found if picture["src"].endswith(".png")]
    assert all(int(picture["width"]) > 0 and int(picture["height"]) > 0 for picture in sized)


def test_a_page_sends_only_what_it_uses(site):
    for path in [*pages(site), site / "search.html"]:
        text = path.read_text("utf8")
        assert "fontawesome.js" not in text
        assert ("searchindex.js" in text) == (path.name == "search.html")
        assert ("_static/explorers-" in text) == ("data-explorer" in text), path.name
        assert ("sphinx-design" in text) == ('class="sd-' in text), path.name
    fonts = list((site / "_static/vendor/fontawesome/webfonts").iterdir())
    assert len(fonts) == 3
    assert sum(path.stat().st_size for path in fonts) < 20_000


def test_the_icons_a_page_shows_are_in_their_font(site):
    sheet = (site / "_static/styles/pydata-sphinx-theme.css").read_text("utf8")
    for path in [*pages(site), site / "search.html"]:
        for names in re.findall(r'<i class="((?:fa[srb]?\b|fa-)[^"]*)"', path.read_text("utf8")):
            assert any(f".{name}:before" in sheet for name in names.split()), names
    fonts = [TTFont(path) for path in (site / "_static/vendor/fontawesome/webfonts").iterdir()]
    drawn = {chr(code) for font in fonts for code in font.getBestCmap()}
    assert {letter for letter in sheet if "\ue000" <= letter <= "\uf8ff"} <= drawn  # of boxes, for instance
    used = re.findall(r"--pst-icon-admonition-(?:note|tip|warning):var\((--[\w-]+)\)", sheet)
    assert len(used) == 3
    assert all(re.search(rf'{name}:"(.)"', sheet)[1] in drawn for name in used)


# The build itself


@pytest.fixture
def small_book(root, tmp_path):
    """A book of one page, with this book's configuration."""
    for name in ("_config.yml", "_static", "data/references.bib"):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if (root / name).is_dir() else shutil.copy)(root / name, target)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    return tmp_path


def test_a_warning_stops_the_build_every_time(small_book):
    (small_book / "page.md").write_text("# Page\n\nSee {ref}`nowhere`.\n")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="undefined label: 'nowhere'"):
            book.build(small_book, small_book)


def test_whoever_switches_execution_on_sees_a_failing_cell(small_book):
    config = (small_book / "_config.yml").read_text("utf8")
    assert "execute_notebooks: 'off'" in config
    (small_book / "_config.yml").write_text(config.replace("'off'", "'force'"), "utf8")
    notebook = new_notebook(cells=[new_code_cell("1 / 0")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, small_book / "page.ipynb")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            book.build(small_book, small_book)
