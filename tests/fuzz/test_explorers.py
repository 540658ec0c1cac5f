"""Bad values for the explorers: what makes their scripts, and what shows them."""

import pytest
import sympy as sp

from flatmin.explorers import bundle, display, formulas
from flatmin.theory.noise import RandomShift
from flatmin.theory.valleys.near_degenerate import near_degenerate_valley
from fuzz import Case, check, uncovered

X, A = sp.symbols("x a", real=True)
NONE = {"None": "without a still"}
CASES = [
    Case(formulas.step_source, {"landscape": near_degenerate_valley(), "noise": RandomShift()}, then=len),
    Case(
        formulas.function_source,
        {"name": "f", "arguments": (X,), "expression": A * X, "parameters": (A,)},
        right={"name": {"text": "a name"}},
        then=len,
    ),
    Case(formulas.exponential_source, {}, then=len),
    Case(bundle.module, {"name": "valley"}, then=len),
    Case(bundle.classic, {}, then=len),
    Case(bundle.read, {"name": "valley.js"}, then=len),
    Case(bundle.styles, {}, then=len),
    Case(display.show, {"name": "valley", "still": lambda **state: None}, right={"still": NONE}),
    Case(display.widget, {"name": "valley"}, then=lambda made: made.sigma),
]


@pytest.fixture(autouse=True)
def without_a_kernel(monkeypatch):
    monkeypatch.setenv("FLATMIN_STATIC", "1")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bad_values_are_refused_by_name(case):
    check(case)


@pytest.mark.parametrize("wrong", [-1, 0, 1e9, float("nan"), None, "text", True])
def test_start_values_lie_in_their_range(wrong):
    with pytest.raises(ValueError, match="sigma"):
        display.show("valley", sigma=wrong)
    with pytest.raises(ValueError, match="gradients"):
        display.show("stability", gradients=wrong)


@pytest.mark.parametrize("wrong", [0, 1.5, 99, None])
def test_a_batch_is_a_whole_number(wrong):
    with pytest.raises(ValueError, match="batch_size"):
        display.show("regression", batch_size=wrong)


@pytest.mark.parametrize("wrong", [[1.0] * 11, [[1.0, 1.0]] * 6, [3.0] * 12])
def test_gradients_are_twelve_numbers_within_their_plane(wrong):
    with pytest.raises(ValueError, match="gradients"):
        display.show("stability", gradients=wrong)


def test_every_public_name_has_a_case():
    assert not uncovered(CASES, formulas, bundle, display, skip={"made": "takes seconds, no argument"})
