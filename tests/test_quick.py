"""The checks of a minute: what they look at."""

import notebooks
import quick


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
