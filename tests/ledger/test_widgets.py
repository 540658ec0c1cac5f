import asyncio

import matplotlib
import pytest
from IPython.core.interactiveshell import InteractiveShell
from ipywidgets import HTML, Checkbox, Dropdown, FloatLogSlider, FloatSlider, Image, IntSlider
from matplotlib import pyplot

from flatmin.ledger import widgets
from flatmin.ledger.widgets import choice, explore, log_slider

calls = []


def draw(**values):
    calls.append(values)
    pyplot.figure()


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


CONTROLS = {
    "rate": (0.0, 1.0, 0.1, 0.5),
    "steps": (0, 10, 1, 3),
    "sigma": log_slider(1e-3, 1.0, 0.1),
    "noise": ["random shift", "isotropic"],
    "convention": choice({"Itô": 0, "isothermal": 1}, 1),
    "cross": True,
}
START = {"rate": 0.5, "steps": 3, "sigma": 0.1, "noise": "random shift", "convention": 1, "cross": True}


def test_static_draws_once_at_the_start_values_and_closes(monkeypatch):
    monkeypatch.setenv("FLATMIN_STATIC", "1")
    mine = pyplot.figure().number
    explore(draw, **CONTROLS)
    assert calls == [START]
    assert pyplot.get_fignums() == [mine]


def test_a_function_that_fails_leaves_no_figure(monkeypatch):
    monkeypatch.setenv("FLATMIN_STATIC", "1")

    def fail():
        pyplot.figure()
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        explore(fail)
    assert pyplot.get_fignums() == []


@pytest.fixture
def live(monkeypatch):
    """Explore with a frontend listening; returns what was shown."""
    monkeypatch.setenv("FLATMIN_STATIC", "0")
    monkeypatch.setattr(widgets, "running_shell", InteractiveShell.instance)
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    yield shown
    InteractiveShell.clear_instance()


def test_live_controls_replace_one_picture(live):
    explore(draw, **CONTROLS)
    (box,) = live
    kinds = [type(child) for child in box.children]
    assert kinds == [FloatSlider, IntSlider, FloatLogSlider, Dropdown, Dropdown, Checkbox, HTML, Image]
    assert calls == [START]
    controls = dict(zip(CONTROLS, box.children, strict=False))
    assert bytes(box.children[-1].value).startswith(b"\x89PNG")
    controls["sigma"].value = 0.01
    controls["noise"].value = "isotropic"
    assert calls[1:] == [START | {"sigma": 0.01}, START | {"sigma": 0.01, "noise": "isotropic"}]
    assert pyplot.get_fignums() == []
    assert live == [box]


def test_of_quick_moves_only_the_last_is_drawn(live):
    signs = []

    def slow(rate):
        signs.append(live[0].children[-2].value)
        calls.append(rate)
        pyplot.figure()

    async def moves():
        for value in (0.1, 0.2, 0.3):
            box.children[0].value = value
        assert calls == [0.5]
        await asyncio.sleep(4 * widgets._PATIENCE)
        box.children[0].value = 0.4
        await asyncio.sleep(4 * widgets._PATIENCE)

    explore(slow, rate=(0.0, 1.0, 0.1, 0.5))
    (box,) = live
    asyncio.run(moves())
    assert calls == [0.5, 0.3, 0.4]
    assert "computing" in signs[1]
    assert box.children[-2].value == ""


def test_what_is_printed_or_fails_stands_in_words(live):
    def refuse(rate):
        print("λ <", rate)
        if rate > 0.7:
            raise ValueError("rate: must be less")

    explore(refuse, rate=(0.0, 1.0, 0.1, 0.5))
    (box,) = live
    *_, words, image = box.children
    assert (words.value, image.layout.display) == ("<pre>λ &lt; 0.5\n</pre>", "none")
    box.children[0].value = 0.8
    assert "ValueError: rate: must be less" in words.value


def test_labels_are_symbols(live):
    explore(draw, lambda_1=(0.0, 1.0, 0.1, 0.5), n_flat=(1, 5, 1, 2))
    assert [child.description for child in live[0].children[:2]] == ["λ₁", "n flat"]


def test_sliders_redraw_when_let_go(live):
    explore(draw, rate=(0.0, 1.0, 0.1, 0.5), sigma=log_slider(0.01, 1, 0.1))
    (box,) = live
    assert [child.continuous_update for child in box.children[:2]] == [False, False]
    assert (box.children[1].min, box.children[1].max) == (-2, 0)


@pytest.mark.parametrize(
    ("control", "words"),
    [
        ((0, 1, 0.1, 2), r"rate=\(0, 1, 0.1, 2\)"),
        ((1, 0, 0.1, 0.5), "min < max"),
        ((0, 1, 0, 0.5), "step > 0"),
        ((0, 1, 0.5), "rate="),
        (0.5, "rate=0.5"),
        (log_slider(0, 1, 0.5), "rate: min=0"),
        ([], "options"),
    ],
)
def test_wrong_controls_are_named(control, words):
    with pytest.raises(ValueError, match=words):
        explore(draw, rate=control)
    assert calls == []


def test_a_choice_starts_at_one_of_its_options():
    with pytest.raises(ValueError, match="value=3"):
        choice([1, 2], 3)


def test_figures_are_drawn_without_a_display():
    assert matplotlib.get_backend().lower() == "agg"
