import matplotlib
import pytest
from IPython.core.interactiveshell import InteractiveShell
from ipywidgets import Checkbox, Dropdown, FloatLogSlider, FloatSlider, IntSlider, Output
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


def test_live_controls_redraw_and_leave_no_figure(live):
    explore(draw, **CONTROLS)
    box = next(item for item in live if hasattr(item, "children"))
    kinds = [type(child) for child in box.children]
    assert kinds == [FloatSlider, IntSlider, FloatLogSlider, Dropdown, Dropdown, Checkbox, Output]
    assert calls == [START]
    controls = dict(zip(CONTROLS, box.children, strict=False))
    controls["sigma"].value = 0.01
    controls["noise"].value = "isotropic"
    assert calls[1:] == [START | {"sigma": 0.01}, START | {"sigma": 0.01, "noise": "isotropic"}]
    assert pyplot.get_fignums() == []
    pictures = [item for item in live if item is not box]
    assert len(pictures) == 3


def test_sliders_redraw_when_let_go(live):
    explore(draw, rate=(0.0, 1.0, 0.1, 0.5), sigma=log_slider(0.01, 1, 0.1))
    box = next(item for item in live if hasattr(item, "children"))
    assert [child.continuous_update for child in box.children[:-1]] == [False, False]
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
