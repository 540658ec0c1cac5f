"""What the explorers are made of, without a browser."""

import gzip
import html
import json
import re
from pathlib import Path

import pytest
import sympy as sp
import traitlets

from flatmin.explorers import bundle, display, formulas
from flatmin.explorers.catalogue import EXPLORERS, Points
from flatmin.ledger.widgets import Choice

STATIC = Path(__file__).resolve().parents[2] / "_static"


def test_the_committed_script_is_a_fresh_one():
    """Else: python tools/explorers.py."""
    assert (STATIC / "explorers.js").read_text("utf8") == bundle.classic()
    for name, text in bundle.made().items():
        assert bundle.read(name) == text
    assert (STATIC / "explorers.css").read_text("utf8") == bundle.styles()


def test_the_script_is_small_and_asks_for_nothing():
    text = bundle.classic()
    assert len(gzip.compress(text.encode())) < 100_000
    assert not re.search(r"https?://|\bimport *\(|\bfetch *\(|\beval *\(", text)


@pytest.mark.parametrize("name", EXPLORERS)
def test_a_module_has_the_interface_of_a_widget(name):
    assert bundle.module(name).endswith("export default { render };\n")


@pytest.mark.parametrize("name", EXPLORERS)
def test_a_page_gets_a_still_and_a_place(name, monkeypatch):
    monkeypatch.setenv("FLATMIN_STATIC", "1")
    shown, drawn = [], []
    monkeypatch.setattr("IPython.display.display", shown.append)
    display.show(name, lambda **state: drawn.append(state))
    (place,) = shown
    state = json.loads(html.unescape(re.search(r'data-state="(.*?)"', place.data)[1]))
    assert drawn == [state] == [EXPLORERS[name].state()]
    assert f'data-explorer="{name}"' in place.data


@pytest.mark.parametrize("name", EXPLORERS)
def test_the_traits_of_a_widget_are_the_declared_parameters(name):
    made = display.widget(name)
    assert {key: getattr(made, key) for key in EXPLORERS[name].controls} == EXPLORERS[name].state()
    for key, (_, control) in EXPLORERS[name].controls.items():
        wrong = "nowhere" if isinstance(control, Choice) else control.high + 1
        with pytest.raises(traitlets.TraitError):
            setattr(made, key, [wrong] * len(control.value) if isinstance(control, Points) else wrong)


def test_what_the_page_has_no_words_for_is_refused():
    x = sp.Symbol("x", real=True)
    for expression in (sp.log(x), sp.sin(x), sp.tanh(x), x ** sp.Rational(1, 3), sp.sign(x), sp.gamma(x)):
        with pytest.raises(ValueError, match="expression"):
            formulas.function_source("f", (x,), expression)
