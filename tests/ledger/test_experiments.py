import dataclasses
import errno
import json
import re
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from flatmin.__main__ import duration, main
from flatmin.experiments import Experiment, Grid, Scale, discover, status
from flatmin.ledger import files, record
from flatmin.ledger.claims import load_claims

MODULE = """
from flatmin.experiments import Experiment, Grid, Scale


def point(point, seed):
    if point["x"] == {stop}:
        raise KeyboardInterrupt if {interrupt} else ArithmeticError("broken")
    return {{"x": point["x"]}}


def scale(count, text):
    return Scale(dict(numbers=Grid(point, axes=dict(x=range(count)), names="{{}}")), text=text)


EXPERIMENT = Experiment(
    "{name}", "Count to five", ("y22-flux",), scale(5, "the paper's"), scale(2, "small"),
    minutes=0.5, needs=("patience",),
)
"""


@pytest.fixture
def package(tmp_path, monkeypatch, sweeps_here):
    """An empty package of experiments in place of the book's; returns a function that adds one."""
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("flatmin.__main__.discover", lambda: discover("trials"))

    def add(name="demo", stop=-1, interrupt=False, text=MODULE, file=None):
        content = text.format(name=name, stop=stop, interrupt=interrupt)
        (tmp_path / "trials" / f"{file or name.replace('-', '_')}.py").write_text(content)

    yield add
    for module in [name for name in sys.modules if name.partition(".")[0] == "trials"]:
        del sys.modules[module]


@pytest.fixture
def cli(tmp_path, capsys):
    """Run a command on results in a folder of the test; returns (exit status, stdout, stderr)."""

    def call(*words):
        code = main(["experiments", *words, "--folder", str(tmp_path / "results")])
        return code, *capsys.readouterr()

    call.folder = tmp_path / "results"
    return call


def test_an_experiment_is_listed_run_and_recorded(package, cli):
    package()
    code, out, _ = cli("list")
    assert code == 0
    assert "demo: Count to five\n  about 0.5 min, needs patience\n  claims: y22-flux" in out
    assert cli("status")[1] == "demo: absent\n"
    code, out, _ = cli("run", "demo")
    assert code == 0
    assert "demo: Count to five (about 0.5 min)" in out
    assert cli("status")[1].startswith("demo: recorded 20")
    assert cli("status")[1].endswith(", the paper's\n")


def test_quick_runs_stay_apart_from_the_results(package, cli, tmp_path):
    package()
    assert cli("run", "demo", "--quick")[0] == 0
    assert (tmp_path / "results" / ".partial" / "quick" / "demo.npz").exists()
    assert cli("status")[1] == "demo: absent\n"


def test_all_runs_all(package, cli):
    package("one")
    package("two")
    assert cli("run", "--all", "--quick")[0] == 0
    assert list(discover("trials")) == ["one", "two"]


def test_a_failed_experiment_is_partial_and_says_why(package, cli):
    package(stop=3)
    code, _, err = cli("run", "demo")
    assert code == 1
    assert "1 of 5 points failed" in err
    assert "Traceback" not in err
    assert cli("status")[1] == "demo: partial, 4 points finished\n"


def test_an_interrupted_experiment_says_that_it_goes_on(package, cli):
    package(stop=2, interrupt=True)
    code, _, err = cli("run", "demo")
    assert code == 130
    assert "goes on from there" in err


SLOW = """
import time
from flatmin.experiments import Experiment, Grid, Scale


def point(point, seed):
    time.sleep(point["x"])
    return {{"x": point["x"]}}


SCALE = Scale(dict(numbers=Grid(point, axes=dict(x=(0, 30)), names="{{}}", here=True)))
EXPERIMENT = Experiment("{name}", "Sleep", ("y22-flux",), SCALE, SCALE, minutes=0.5)
"""


def test_out_of_time_it_keeps_what_is_finished_and_begins_nothing_new(package, cli):
    package(text=SLOW)
    package("other")
    began = time.perf_counter()
    code, out, err = cli("run", "demo", "other", "--budget", "1.5s")
    assert code == 124
    assert time.perf_counter() - began < 25  # the second point alone takes 30
    assert "out of time: what is finished is kept" in err
    assert "other" not in out
    assert cli("status")[1] == "demo: partial, 1 points finished\nother: absent\n"
    assert cli("run", "other", "--budget", "1h")[0] == 0


@pytest.mark.parametrize("text", ["", "12", "m", "0s", "-3m", "1e3s", "3 m"])
def test_a_budget_is_a_time(package, cli, text, capsys):
    package()
    with pytest.raises(SystemExit) as caught:
        cli("run", "demo", f"--budget={text}")
    assert caught.value.code == 2
    assert f"budget={text!r}: must be a time such as 90s" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"^budget='.*': must be a time such as 90s"):
        duration(text)
    assert [duration(time) for time in ("90s", "12m", "1.5h")] == [90, 720, 5400]


def test_partial_points_belong_to_the_experiment_they_are_named_after(tmp_path, package):
    package("one")
    package("one-more")
    for sweep in ("one", "one-half", "one-more", "one-more-time"):
        folder = tmp_path / ".partial" / sweep
        folder.mkdir(parents=True)
        (folder / "x.npz").touch()
    states = status(discover("trials"), tmp_path)
    assert states == {"one": "partial, 2 points finished", "one-more": "partial, 2 points finished"}


def test_a_full_disk_is_one_sentence_and_what_is_finished_stays(package, cli, monkeypatch):
    package()
    sync, synced = files.os.fsync, []

    def full(handle):
        synced.append(handle)
        if len(synced) > 4:  # two for each file: itself and its folder
            raise OSError(errno.ENOSPC, "")
        sync(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    code, _, err = cli("run", "demo")
    assert code == 1
    sentence = err.splitlines()[-1]  # after the progress bar
    assert re.fullmatch(r"flatmin: \S+\.npz cannot be written: the disk is full: make room, .*", sentence)
    monkeypatch.undo()
    assert status(["demo"], cli.folder)["demo"] == "partial, 2 points finished"


def test_a_folder_without_permission_or_in_the_way_is_one_sentence(package, cli, tmp_path):
    package()
    folder = tmp_path / "results"
    for put, words in (
        (folder.touch, "a file stands where one of its folders should be"),
        (lambda: folder.symlink_to("nowhere"), "a file stands where one of its folders should be"),
        (lambda: (folder / "demo.npz").mkdir(parents=True), "a folder stands in its place"),
    ):
        put()
        code, _, err = cli("run", "demo")
        assert code == 1
        assert words in err
        assert err.count("flatmin: ") == 1
        assert "Traceback" not in err
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()


def test_a_record_that_is_changed_is_called_damaged_and_the_others_are_still_reported(package, cli, tmp_path):
    package("one")
    package("two")
    cli("run", "--all")
    path = tmp_path / "results" / "one.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf8")) | {"provenance": {}}), "utf8")
    code, out, _ = cli("status")
    assert code == 0
    assert re.search(r"^one: damaged: .*one\.json was changed after it was made", out, re.M)
    assert re.search(r"^two: recorded 20", out, re.M)


def test_a_damaged_record_is_called_so(package, cli, tmp_path):
    package()
    cli("run", "demo")
    (tmp_path / "results" / "demo.npz").write_bytes(b"")
    assert cli("status")[1].startswith("demo: damaged: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run",), "name the experiments, or give --all"),
        (("run", "demo", "--all"), "name the experiments, or give --all"),
        (("run", "dmeo"), "there is no experiment 'dmeo'; did you mean demo"),
        (("run", "zzz"), "`experiments list` shows them all"),
        (("rum",), "invalid choice"),
    ],
)
def test_bad_commands_end_with_status_2(package, cli, capsys, words, said):
    package()
    with pytest.raises(SystemExit) as caught:
        cli(*words)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_two_experiments_of_one_name_are_refused(package, cli):
    package("one", file="a")
    package("one", file="b")
    code, _, err = cli("list")
    assert code == 1
    assert "trials.b: an experiment named 'one' exists already" in err


def test_a_module_that_lacks_a_library_is_left_out_with_a_warning(package):
    package()
    package(text="import no_such_library\n", file="needs_more")
    with pytest.warns(UserWarning, match=r"trials\.needs_more is left out: .*no_such_library"):
        assert list(discover("trials")) == ["demo"]


def test_no_experiments_is_said(package, cli):
    assert cli("list")[1] == cli("status")[1] == "there are no experiments yet\n"


def test_a_grid_is_the_product_of_its_axes_and_stacks_what_comes_of_it():
    grid = Grid(len, {"n": 1}, {"a": np.array([0.5, 2.0]), "b": "xyz"}, repeats=2)
    assert len(grid.points) == 12
    assert grid.points[2] == {"n": 1, "a": 0.5, "b": "y"}
    results = [{"value": [i, -i]} for i in range(12)]
    stacked = grid.stacked(results, "few")
    assert list(stacked) == ["few_value"]
    assert stacked["few_value"].shape == (2, 3, 2, 2)
    assert stacked["few_value"][1, 0, 1].tolist() == [7, -7]
    flat = dataclasses.replace(grid, names="{}_flat", shape=(12,)).stacked(results, "few")
    assert flat["value_flat"].shape == (12, 2)
    assert Grid(len).stacked([{"value": [3, 4]}], "one")["one_value"].tolist() == [3, 4]


def twice(point, seed):
    return {"seed": seed, "seconds": 50.0 if point["x"] else 0.5}


def abacus():
    return "an abacus"


def hands():
    return None


def keeps(point, seed):
    return {"where": point["states"]}


@pytest.mark.usefixtures("sweeps_here")
def test_the_runner_gives_equal_points_seeds_of_their_own_and_counts_the_time_they_say(tmp_path):
    grids = {
        "a": Grid(twice, axes={"x": (0, 1)}, seed=3),
        "b": Grid(twice, {"x": 0}, repeats=2, seed=3, here=True),
        "c": Grid(keeps, {"x": 0}, seed=4, states=True),
    }
    scale = Scale(grids, {"x": (0, 1)}, text="as it is", data_set="none")
    trial = Experiment("trial", "Trial", (), scale, scale, 1, device=abacus, provenance={"k": 2})
    trial.run(tmp_path)
    kept = record.load("trial", tmp_path)
    assert set(kept.arrays) == {"a_seed", "b_seed", "c_where", "x"}  # seconds are no array
    assert len({*kept.a_seed.tolist(), *kept.b_seed.tolist()}) == 3  # x = 0 is the same point in a and in b
    assert kept.a_seed[0] == kept.b_seed[0]
    assert str(kept.c_where) == str(tmp_path / ".partial" / "states-trial")
    said = kept.provenance
    assert (said["seed"], said["device"], said["data_set"], said["k"]) == ([3, 4], "an abacus", "none", 2)
    assert said["wall_time"] == pytest.approx(51.5, abs=0.4)


@pytest.mark.usefixtures("sweeps_here")
def test_a_result_says_on_what_each_of_its_points_was_computed(tmp_path):
    def trial(count, device):
        scale = Scale({"a": Grid(keeps, {"y": 0}, {"x": range(count)}, states=True)})
        return Experiment("trial", "Trial", (), scale, scale, 1, device=device)

    trial(2, abacus).run(tmp_path / "there")
    shutil.move(tmp_path / "there", tmp_path / "here")  # finished points are finished in another folder too
    done = trial(2, hands).run(tmp_path / "here")
    assert done.provenance["device"] == "an abacus"
    assert str(tmp_path / "there") in str(done.a_where)
    assert trial(3, hands).run(tmp_path / "here").provenance["device"] == "a CPU and an abacus"
    assert set(done.arrays) == {"a_where"}


def test_the_full_scale_that_is_declared_is_the_one_that_is_recorded():
    for name, experiment in discover().items():
        kept, declared = record.load(name), set(experiment.full.more)
        for array, values in experiment.full.more.items():
            np.testing.assert_array_equal(kept.arrays[array], values, err_msg=f"{name}: {array}")
        leads = {}  # of grids whose arrays have the same kind of name
        for key, grid in experiment.full.grids.items():
            (lead,) = (a.shape for a in grid.stacked([{"": 0}] * len(grid.points), key).values())
            leads.setdefault(grid.names or f"{key}_{{}}", {})[key] = lead
        for pattern in sorted(leads, key=len, reverse=True):  # "{}" last: it fits every name
            head, _, tail = pattern.partition("{}")
            named = {n for n in kept.arrays if n.startswith(head) and n.endswith(tail)} - declared
            for key, lead in leads[pattern].items():
                found = {n for n in named if np.shape(kept.arrays[n])[: len(lead)] == lead}
                assert found, f"{name}: {key}"
                declared |= found
        assert declared == set(kept.arrays), name
        seeds = sorted({grid.seed for grid in experiment.full.grids.values()})
        declared_seeds = seeds if experiment.seed is None else list(experiment.seed)
        assert np.atleast_1d(kept.provenance["seed"]).tolist() == declared_seeds, name


def test_the_books_own_experiments_bear_on_claims_and_keep_their_names():
    for name, experiment in discover().items():
        assert experiment.name == name
        assert set(experiment.claims) <= set(load_claims())
        assert experiment.minutes > 0


def test_the_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "flatmin", "experiments", "status"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=True,
    )
    assert done.stdout


def test_the_recipe_for_contributors_runs(root, tmp_path, monkeypatch, sweeps_here):
    code = re.search(r"```python\n(.*?)```", (root / "CONTRIBUTING.md").read_text("utf8"), re.S)[1]
    recipe = types.ModuleType("recipe")
    monkeypatch.setitem(sys.modules, "recipe", recipe)
    exec(code, vars(recipe))
    recipe.EXPERIMENT.run(tmp_path, quick=True)
    found = record.load("my-experiment", tmp_path)
    assert found.square == pytest.approx(found.eta**2)
