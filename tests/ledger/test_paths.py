from pathlib import Path

import pytest

from flatmin.ledger import paths

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_checkout_is_found(monkeypatch):
    monkeypatch.delenv("FLATMIN_HOME", raising=False)
    assert paths.root() == CHECKOUT
    assert paths.data() == CHECKOUT / "data"
    assert paths.results() == CHECKOUT / "data" / "results"
    assert paths.chapters() == CHECKOUT / "chapters"


def test_flatmin_home_names_another(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "claims.yml").write_text("[]\n")
    monkeypatch.setenv("FLATMIN_HOME", str(tmp_path))
    assert paths.root() == tmp_path.resolve()


def test_a_wrong_flatmin_home_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FLATMIN_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"FLATMIN_HOME is .* holds no data/claims.yml"):
        paths.root()


def test_a_library_outside_of_a_checkout_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.delenv("FLATMIN_HOME", raising=False)
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages/flatmin/ledger/paths.py"))
    with pytest.raises(FileNotFoundError, match="pip install -e"):
        paths.root()


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """The library as a wheel holds it, data inside; returns that folder."""
    monkeypatch.delenv("FLATMIN_HOME", raising=False)
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages/flatmin/ledger/paths.py"))
    book = tmp_path / "site-packages" / "flatmin" / "_book"
    (book / "data").mkdir(parents=True)
    (book / "data" / "claims.yml").write_text("[]\n")
    return book


def test_an_installed_library_holds_data_of_its_own(installed):
    assert paths.results() == installed / "data" / "results"


def test_new_results_do_not_go_into_an_installed_library(installed, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"name a folder for new ones \(`--folder FOLDER`"):
        paths.results(to_write=True)


def test_in_a_checkout_results_are_written_where_they_are_read(monkeypatch):
    monkeypatch.delenv("FLATMIN_HOME", raising=False)
    assert paths.results(to_write=True) == paths.results()
