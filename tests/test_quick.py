"""The checks of a minute: what they look at; and how `make test` tells how far it is."""

import sys

import notebooks
import quick
import run_tests


def test_a_changed_module_calls_for_the_tests_that_import_it(tmp_path):
    (tmp_path / "tests" / "deep").mkdir(parents=True)
    for name, text in {
        "tests/deep/test_one.py": "from flatmin.deep import one",
        "tests/test_two.py": "import flatmin.two",
        "tests/test_tool.py": "import notebooks",
        "tests/test_rest.py": "import numpy",
    }.items():
        (tmp_path / name).write_text(text)

    def touched(*files):
        return quick.touched(files, tmp_path)

    assert touched("lib/flatmin/deep/one.py") == ["tests/deep/test_one.py"]
    assert touched("lib/flatmin/deep/__init__.py") == ["tests/deep/test_one.py"]
    assert touched("tools/notebooks.py", "lib/flatmin/two.py") == ["tests/test_tool.py", "tests/test_two.py"]
    assert touched("tests/test_rest.py", "README.md") == ["tests/test_rest.py"]


def test_a_changed_verdict_is_told():
    def ledger(**words):
        return {"a": {"parts": [{"part": part, "verdict": word} for part, word in words.items()]}}

    assert notebooks.changed_verdicts(ledger(x="open", y="open"), ledger(x="corrected", y="open")) == [
        "verdict changed: a (x): open → corrected"
    ]
    assert notebooks.changed_verdicts({}, ledger(x="open")) == ["verdict changed: a (x): not checked → open"]


def test_while_groups_run_a_line_tells_how_far_and_each_is_told_whole(tmp_path, monkeypatch, capfdbinary):
    """The second stops until the first has failed; what they write is not mixed."""
    wait = "import time, pathlib; here = pathlib.Path('first')\nwhile not here.exists(): time.sleep(0.01)"
    texts = {
        "first": "import time, pathlib\nprint('tests/a.py ... [ 50%]', flush=True); time.sleep(1)\n"
        "print('FAILED', flush=True); pathlib.Path('first').touch(); raise SystemExit(1)",
        "tests/b": f"{wait}\nprint('passed')",
    }
    for name, text in texts.items():
        (tmp_path / name.replace("/", "_")).with_suffix(".py").write_text(text)
    monkeypatch.setattr(run_tests, "ROOT", tmp_path)
    monkeypatch.setattr(run_tests, "COMMAND", [sys.executable])
    monkeypatch.setattr(run_tests, "cores", lambda: 2)
    monkeypatch.setattr(run_tests, "GROUPS", {"first": ("first.py",), "tests/b": ("tests_b.py",)})
    assert run_tests.main([], pause=0.05) == 1
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines[-1].startswith("first 1, tests/b 0: FAILED in ")
    whole = lines.index("tests/a.py ... [ 50%]")
    assert lines[whole + 1] == "FAILED"
    assert lines[whole + 2].startswith("first: exit status 1 after ")
    assert any(line.endswith(" s: tests/a.py (50 %)") for line in lines[:whole])
