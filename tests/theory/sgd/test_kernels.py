import inspect
import sys
from dataclasses import fields

import pytest
import sympy as sp

from flatmin.theory.landscape import Landscape
from flatmin.theory.noise import Isotropic, NoNoise
from flatmin.theory.sgd import kernels

Q = sp.Symbol("q", real=True)
BOWL = Landscape(Q**2 / 2, (Q,))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and no modules remembered."""
    monkeypatch.setenv("FLATMIN_CACHE", str(tmp_path))
    kernels._load.cache_clear()
    yield tmp_path
    kernels._load.cache_clear()


def test_signature_and_call_are_one_list(folder):
    run = kernels.build(BOWL, Isotropic(), (Q**2,), Q, Q, (0,))
    names = [f.name for f in fields(kernels.Call)]
    assert list(inspect.signature(run.py_func).parameters) == ["lowest", "until", *names]


def test_a_damaged_cache_is_written_anew(folder):
    kernels.build(BOWL, NoNoise(), (), None, None, ())
    (path,) = folder.glob("*.py")
    whole = path.read_text(encoding="utf-8")
    for damaged in ("", whole[: len(whole) // 2]):
        path.write_text(damaged, encoding="utf-8")
        kernels._load.cache_clear()
        assert callable(kernels.build(BOWL, NoNoise(), (), None, None, ()))
        assert path.read_text(encoding="utf-8") == whole
    assert [p.name for p in folder.glob("*.tmp")] == []


@pytest.mark.parametrize("watched", [True, False])
def test_compiling_is_announced_once_and_only_to_someone_at_a_terminal(folder, monkeypatch, capsys, watched):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched, raising=False)
    for _ in range(2):
        kernels._load.cache_clear()
        kernels.build(BOWL, NoNoise(), (), None, None, ())
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("flatmin: compiling the simulator of landscape, some seconds, once\n" if watched else "")


def test_integer_powers_are_products():
    """Up to the 64th: a library's power would differ between machines."""
    for power in (2, 8, 9, 19, 64, -3):
        text = kernels.assignments({"value": Q**power}, "")
        assert "power(" not in text
        scope = {"q": 1.1}
        exec(text, scope)
        assert scope["value"] == pytest.approx(1.1**power, rel=1e-14)
    assert "power(" in kernels.assignments({"value": Q ** sp.Rational(1, 3)}, "")
