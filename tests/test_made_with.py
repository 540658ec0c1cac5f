"""A notebook is stale when what made it has changed: its code, the library it reaches, its results."""

import pytest

import made_with

CODE = "from flatmin.one import f\nimport numpy\nf('demo')"


@pytest.fixture
def book(tmp_path):
    """A library of three modules, of which CODE reaches two, and a result."""
    library = tmp_path / "lib" / "flatmin"
    library.mkdir(parents=True)
    (tmp_path / "data" / "results").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "one": '"""One."""\nfrom flatmin import two\n\ndef f(x):\n    """Do it."""\n    return two.g(x)\n',
        "two": "def g(x):\n    return x + 1\n",
        "three": "z = 1\n",
    }.items():
        (library / f"{name}.py").write_text(text)
    for name in ("demo", "other"):
        (tmp_path / "data" / "results" / f"{name}.json").write_text('{"seal": 1}')
    return tmp_path


def changed(book, file, text):
    """Return whether a new text of a file makes the notebook stale."""
    before = made_with.made_with(CODE, book)
    (book / file).write_text(text)
    return made_with.made_with(CODE, book) != before


def test_a_reached_module_counts(book):
    assert changed(book, "lib/flatmin/two.py", "def g(x):\n    return x + 2\n")


def test_an_unreached_module_counts_not(book):
    assert not changed(book, "lib/flatmin/three.py", "z = 2\n")


def test_words_and_layout_count_not(book):
    text = '"""Another."""\nfrom flatmin import two\ndef f(x):\n    """Why."""  # well\n'
    text += "    return two.g(\n        x)\n"
    assert not changed(book, "lib/flatmin/one.py", text)


def test_a_loaded_result_counts_and_another_does_not(book):
    assert changed(book, "data/results/demo.json", '{"seal": 2}')
    assert not changed(book, "data/results/other.json", '{"seal": 2}')


def test_code_counts(book):
    assert made_with.made_with(CODE, book) != made_with.made_with(CODE + "\n1", book)


def test_what_the_door_leads_to_counts(root):
    found = {path.stem for path in made_with._reached("import flatmin as fm\nfm.Sampling", root / "lib")}
    assert "sampling" in found
    assert "estimate" not in found
