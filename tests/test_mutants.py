"""The list of slips is in step with the code; the tool tells a slip that is noticed from one that is not."""

import re
from collections import Counter

import pytest

import mutants

#: modules without a formula of their own: parsing
PLAIN = {"theory/expressions.py"}
#: modules outside of the theory whose numbers stand in verdicts, or are what a reader's are judged by
OTHERS = (
    *("estimate", "fits", "sampling", "diagnosis/draws", "diagnosis/steps"),
    *(
        f"networks/{name}"
        for name in ("commitment", "curvature", "edges", "eigen", "gradient_noise", "losses")
    ),
    *(
        f"networks/{name}"
        for name in ("one_network", "passage_times", "sampled", "scaling", "stability", "trust")
    ),
    *(f"networks/freezing/{name}" for name in ("forms", "geometry", "similarity", "spectra", "times")),
    *(f"networks/passes/{name}" for name in ("dense", "layers", "pieces")),
)


def test_every_text_stands_once_and_every_test_is_there(root):
    assert max(Counter(m.name for m in mutants.MUTANTS).values()) == 1
    for mutant in mutants.MUTANTS:
        assert (root / "lib/flatmin" / mutant.file).read_text("utf-8").count(mutant.text) == 1, mutant.name
        assert mutant.tests, mutant.name
        for test in mutant.tests:
            file, _, name = test.partition("::")
            text = (root / "tests" / file).read_text("utf-8")
            assert not name or re.search(rf"^def {name}\(", text, re.M), test


def test_every_formula_module_has_a_slip(root):
    library = root / "lib/flatmin"
    modules = [path for path in (library / "theory").rglob("*.py") if path.name != "__init__.py"]
    modules += [library / f"{name}.py" for name in OTHERS]
    assert all(path.is_file() for path in modules)
    missing = {path.relative_to(library).as_posix() for path in modules} - {m.file for m in mutants.MUTANTS}
    assert missing == PLAIN


def test_tests_that_are_not_done_in_time_count_as_failed_and_say_so(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mutants, "_PATIENCE", 0.05)  # seconds: less than Python takes to start pytest
    slip = mutants.Mutant("slow", "estimate.py", "n = happened", "n = 1 * happened", ("test_check.py",))
    assert mutants.Copy(tmp_path / "copy").verdict(slip) == ("killed (too slow)", "not done after 0.05 s")
    found = {"slow": ("killed (too slow)", "", 1.0), "kramers-prefactor": ("killed", "", 1.0)}
    monkeypatch.setattr(mutants, "judge", lambda *_: found)
    assert mutants.main([]) == 0
    assert "2 slips: 1 killed, 1 killed (too slow), 0 survived, 0 fault in " in capsys.readouterr().out
    found["slow"] = ("survived", "", 1.0)
    assert mutants.main([]) == 1
    assert "2 slips: 1 killed, 1 survived, 0 fault in " in capsys.readouterr().out


def test_what_is_noticed_what_is_not_and_what_is_no_slip(root):
    file, tests = "theory/printed.py", ("theory/test_printed.py::test_y23_eq6",)
    before = (root / "lib/flatmin" / file).read_bytes()
    text = "np.exp(-np.log(curvatures).mean(axis=-1) / 2)"
    slips = {"noticed": text[:-1] + "0)", "not noticed": text.replace("2)", "2.0)"), "not Python": "return)"}
    listed = [mutants.Mutant(name, file, text, slip, tests) for name, slip in slips.items()]
    listed.append(mutants.Mutant("not there", file, "np.exp(-np.log(curvatures)) / 3", "", tests))
    found = mutants.judge(listed, 1, show=lambda *_, **__: None)
    assert {name: verdict for name, (verdict, *_) in found.items()} == {
        "noticed": "killed",
        "not noticed": "survived",
        "not Python": "fault",
        "not there": "fault",
    }
    assert found["noticed"][1] == "test_y23_eq6"
    assert (root / "lib/flatmin" / file).read_bytes() == before
    other = mutants.Mutant("other", file, text, text, ("theory/test_printed.py::test_that_is_not_there",))
    with pytest.raises(ValueError, match="a test fails without a slip"):
        mutants.judge([other], 1)
