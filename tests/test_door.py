"""The front door: lazy, documented, and every example in it true."""

import doctest
import inspect
import os
import re
import shutil
import subprocess
import sys

import pytest

import api
import flatmin as fm


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_door_opens_without_loading_anything():
    heavy = "torch", "numpy", "sympy", "numba", "matplotlib", "sklearn", "scipy"
    code = f"import sys, flatmin as fm; print([m for m in {heavy} if m in sys.modules], len(dir(fm)) > 25)"
    assert run(code) == "[] True"
    unused = "torch", "asyncio", "scipy.integrate", "matplotlib", "sklearn"
    ask = f"print([m for m in {unused} if m in sys.modules])"
    assert run(f"import sys, flatmin as fm; fm.simulate, fm.Estimate, fm.check; {ask}") == "[]"
    help_is = "try: main(['--help'])\nexcept SystemExit: pass\n"
    ask = f"print([m for m in {heavy} if m in sys.modules])"
    assert run(f"import sys\nfrom flatmin.__main__ import main\n{help_is}{ask}").endswith("\n[]")


def test_a_library_and_a_home_that_cannot_be_written_to(root, tmp_path):
    """numba refuses to import what it can keep nowhere; a file in the place of a folder stops root too."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "lib" / "flatmin", tmp_path / "flatmin", ignore=skip)
    for folder in {path.parent for path in (tmp_path / "flatmin").rglob("*.py")}:
        (folder / "__pycache__").touch()
    (tmp_path / "home").touch()
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    env |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path), "TMPDIR": str(tmp_path)}
    env |= {"XDG_CACHE_HOME": str(tmp_path / "home" / "cache"), "FLATMIN_CACHE": str(tmp_path / "cache")}
    code = "import flatmin; from flatmin.theory.logarithmic import loops; print(flatmin.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "flatmin" / "__init__.py")), (
        done.stderr
    )


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'hessian'; it has at, Point, train"):
        _ = fm.hessian


def test_without_torch_the_networks_say_what_to_install():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import flatmin as fm\n"
        "fm.Sampling('fresh')\n"
        "try: fm.at\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    assert run(code).startswith("flatmin.at needs torch, which is not installed: pip install torch")


@pytest.mark.parametrize("name", fm.__all__)
def test_every_name_of_the_door_has_an_example_that_is_true(name):
    thing = getattr(fm, name)
    text = inspect.getdoc(thing)
    assert text, name
    assert ">>>" in text, name
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    found = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(
        test, out=found.append
    )
    assert not found, "".join(found)


@pytest.mark.parametrize("name", fm.__all__)
def test_every_argument_of_the_door_is_described(name):
    thing = getattr(fm, name)
    if inspect.ismodule(thing) or (inspect.isclass(thing) and "Parameters\n---" not in inspect.getdoc(thing)):
        return  # or made by a function of its own
    text = inspect.getdoc(thing) + (inspect.getdoc(thing.__init__) or "")
    described = set(
        re.findall(r"``(\w+)``|\b(\w+)\b(?=[^\n]* : )|^(\w+)(?:, (\w+))*", text, flags=re.MULTILINE)
    )
    words = {word for group in described for word in group if word}
    for argument in inspect.signature(thing).parameters:
        assert argument.lstrip("*") in words or argument in text, f"{name}: {argument}"


def test_the_example_of_the_readme_runs(root, tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text("utf8"), flags=re.DOTALL)
    lines = [line for line in block.splitlines() if line.strip() and not line.startswith(("import", "#"))]
    assert len(lines) <= 12
    assert "≈" not in run(block)


def test_the_three_lines_of_the_front_page_run(root):
    text = (root / "chapters" / "index.md").read_text("utf8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for line in block.splitlines() if line.strip() and not line.startswith("import")]
    assert len(lines) == 3
    given = "train, _ = fm.datasets.digits()\nmodel = fm.models.mlp((64, 16, 10))\n"
    said = run(block.replace("import flatmin as fm\n", "import flatmin as fm\n" + given))
    assert "±" in said or "error" in said


def test_the_page_of_the_library_is_what_the_docstrings_say():
    assert api.PAGE.read_text("utf8") == api.page(), "run python tools/api.py"


def test_a_simulation_leaves_the_threads_of_torch_alone(root):
    """numba's own threads, once started, give torch as many, and small products then wait for each other."""
    code = (
        "import numba, torch, flatmin as fm; from flatmin.ledger import sweeps; torch.set_num_threads(1)\n"
        "valley = fm.near_degenerate_valley().at(epsilon=0.01, lambda_0=8, lambda_1=-2, lambda_2=1)\n"
        "fm.simulate(valley, fm.RandomShift(0.2), eta=0.01, steps=9, start=(1, 1), trajectories=64, seed=1)\n"
        "sweeps.one_thread()\n"
        "assert torch.get_num_threads() == 1 and numba.config.NUMBA_NUM_THREADS == 1\n"
        "try:\n    numba.threading_layer()\nexcept ValueError:\n    print('not started')"
    )
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    said = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True, env=environment)
    assert said == "not started\n"
