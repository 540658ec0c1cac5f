"""The harness itself: it must see what it is there to see."""

import time
from collections import Counter

import numpy as np
import pytest

from flatmin import _check
from fuzz import Case, check, uncovered


def careful(eta, n=3):
    eta = _check.number("eta", eta, above=0, most=1e9)
    return np.full(_check.integer("n", n, least=1, most=99), eta)


def test_checked_arguments_pass():
    check(Case(careful, {"eta": 0.1}))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda eta: eta, "silent.*accepted"),
        (lambda eta: np.sqrt(_check.number("eta", eta)), "silent.*(holds nan|invalid value)"),
        (lambda eta: _check.number("eta", eta, infinite=True), "silent.*holds inf"),
        (lambda eta: _check.number("eta", eta), r"silent.*eta = -1"),
        (lambda eta: _check.number("step", eta, above=0), "obscure.*step="),
        (lambda eta: 1 / (_check.number("eta", eta, least=0) - 0), "obscure.*ZeroDivisionError"),
        (lambda eta: {}[eta] if eta != 0.1 else 1.0, "obscure.*KeyError|unhashable"),
        (
            lambda eta: time.sleep(30) if eta == -1 else _check.number("eta", eta, above=0),
            "obscure.*no answer",
        ),
    ],
)
def test_faults_are_seen(function, words, monkeypatch):
    monkeypatch.setattr("fuzz.SECONDS", 0.2)
    monkeypatch.setattr("fuzz.TOTAL", Counter())
    with pytest.raises(AssertionError, match=words):
        check(Case(function, {"eta": 0.1}, name="f"))


def test_a_declared_result_is_right():
    def share(eta):
        return 1 / _check.number("eta", eta, above=0, infinite=True)

    def loud(eta):
        return _check.number("eta", eta, above=0, infinite=True)

    check(Case(share, {"eta": 1.0}))
    check(Case(loud, {"eta": 1.0}, right={"eta": {"inf": "no limit"}}))


def test_names_without_a_case_are_found():
    class Module:
        __all__ = ("Case", "check", "limit")
        limit = 3

    Module.Case, Module.check = Case, check
    assert uncovered([Case(check, {})], Module) == ["Module: Case"]
    assert uncovered([Case(check, {})], Module, skip={"Case": "a record"}) == []
