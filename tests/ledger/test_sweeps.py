import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from executors import Here

from flatmin.ledger import files, sweeps
from flatmin.ledger.files import FileError
from flatmin.ledger.sweeps import SweepError, stack, sweep

HERE = Path(__file__).parent


@pytest.fixture
def functions(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    import sweep_points

    return sweep_points


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def points(log):
    return [{"x": x, "log": str(log)} for x in range(5)]


def go(function, points, folder, **options):
    settings = {"name": "demo", "executor": Here(), "progress": False, "seed": 7, "folder": folder}
    return sweep(function, points, **(settings | options))


def computed(log):
    return [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []


def stored(folder):
    return sorted((folder / ".partial" / "demo").glob("*.npz"))


def test_results_come_in_the_order_of_the_points(functions, points, tmp_path):
    results = go(functions.square, points, tmp_path)
    assert [result["square"] for result in results] == [0, 1, 4, 9, 16]
    assert results.seconds > 0
    assert stack(results)["noise"].shape == (5, 3)
    assert len(stored(tmp_path)) == 5


def test_what_is_finished_is_not_computed_again(functions, points, log, tmp_path):
    first = go(functions.square, points[:3], tmp_path)
    again = go(functions.square, points[::-1], tmp_path)
    assert computed(log) == [0, 1, 2, 4, 3]
    for one, other in zip(first, again[::-1], strict=False):
        assert one["seed"] == other["seed"]
        np.testing.assert_array_equal(one["noise"], other["noise"])
    assert again.seconds > first.seconds


@pytest.mark.parametrize("change", [{"seed": 8}, {"version": "2"}, {"resume": False}, {"name": "other"}])
def test_another_seed_version_or_name_computes_anew(functions, points, log, tmp_path, change):
    go(functions.square, points, tmp_path)
    go(functions.square, points, tmp_path, **change)
    assert computed(log) == [0, 1, 2, 3, 4] * 2


def test_points_have_seeds_of_their_own_even_equal_points(functions, points, tmp_path):
    results = go(functions.square, [*points, points[0], points[0]], tmp_path)
    seeds = [int(result["seed"]) for result in results]
    assert len(set(seeds)) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)
    other = go(functions.square, points, tmp_path, seed=8)
    assert not set(seeds) & {int(result["seed"]) for result in other}


def test_local_processes_and_threads_give_the_same_numbers(functions, points, log, tmp_path):
    here = go(functions.square, points, tmp_path / "here")
    processes = go(functions.square, points, tmp_path / "processes", executor=None)
    with ThreadPoolExecutor(3) as pool:
        threads = go(functions.square, points, tmp_path / "threads", executor=pool)
    workers = {line.split()[1] for line in log.read_text().splitlines()[5:10]}
    assert str(os.getpid()) not in workers
    assert 1 <= len(workers) <= 2
    for results in (processes, threads):
        for one, other in zip(here, results, strict=True):
            np.testing.assert_array_equal(one["noise"], other["noise"])


def test_a_local_worker_keeps_to_one_thread(functions, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    (result,) = go(functions.threads, [{}], tmp_path, executor=None)
    assert (result["threads"], result["omp"]) == (1, 1)


def test_a_variable_says_how_many_processes_compute(functions, points, tmp_path, monkeypatch):
    asked = []
    pool = sweeps.ProcessPoolExecutor
    monkeypatch.setattr(sweeps, "ProcessPoolExecutor", lambda n, *a, **k: asked.append(n) or pool(n, *a, **k))
    monkeypatch.setenv("FLATMIN_WORKERS", "1")
    go(functions.square, points, tmp_path, executor=None)
    assert asked == [1]
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("FLATMIN_WORKERS", wrong)
        with pytest.raises(ValueError, match=f"FLATMIN_WORKERS='{wrong}': must be an integer at least 1"):
            go(functions.square, points, tmp_path, executor=None, version=wrong)


def test_a_dask_cluster_computes_a_sweep(functions, points, log, tmp_path):
    from distributed import Client, LocalCluster

    plain = go(functions.square, points, tmp_path / "here")
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        results = go(functions.square, points, tmp_path / "dask", executor=client.get_executor())
        go(functions.square, points, tmp_path / "dask", executor=client.get_executor())
    assert sorted(computed(log)) == sorted([0, 1, 2, 3, 4] * 2)
    for one, other in zip(plain, results, strict=True):
        np.testing.assert_array_equal(one["noise"], other["noise"])


def test_failed_points_are_named_at_the_end_and_the_others_kept(functions, points, log, tmp_path):
    with pytest.raises(SweepError, match=r"2 of 5 points failed[^$]*'x': 1,.*odd 1[^$]*'x': 3") as caught:
        go(functions.picky, points, tmp_path)
    assert [point["x"] for point, _ in caught.value.failures] == [1, 3]
    assert isinstance(caught.value.__cause__, ArithmeticError)
    assert len(stored(tmp_path)) == 3
    with pytest.raises(SweepError):
        go(functions.picky, points, tmp_path)
    assert computed(log) == [0, 1, 2, 3, 4, 1, 3]


@pytest.mark.parametrize("name", ["careless", "object_array"])
def test_a_result_that_cannot_be_kept_is_a_failure(functions, points, tmp_path, name):
    with pytest.raises(SweepError, match="must be"):
        go(getattr(functions, name), points[:1], tmp_path)


def flip(content):
    return content[:-30] + bytes([content[-30] ^ 1]) + content[-29:]


@pytest.mark.parametrize("damage", [flip, lambda content: content[:40], lambda content: b""])
def test_a_damaged_file_is_named_and_its_point_computed_again(functions, points, log, tmp_path, damage):
    before = go(functions.square, points, tmp_path)
    victim = stored(tmp_path)[2]
    victim.write_bytes(damage(victim.read_bytes()))
    with pytest.warns(UserWarning, match=f"{victim.name} is damaged"):
        after = go(functions.square, points, tmp_path)
    assert len(computed(log)) == 6
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one["noise"], other["noise"])
    go(functions.square, points, tmp_path)
    assert len(computed(log)) == 6


def test_a_file_under_the_wrong_name_is_not_read(functions, points, log, tmp_path):
    go(functions.square, points[:2], tmp_path)
    one, other = stored(tmp_path)
    one.write_bytes(other.read_bytes())
    with pytest.warns(UserWarning, match="is damaged"):
        results = go(functions.square, points[:2], tmp_path)
    assert [result["square"] for result in results] == [0, 1]


SCRIPT = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background does not inherit
sys.path.insert(0, {here!r})
from sweep_points import slow_square
from flatmin.ledger.sweeps import sweep
if __name__ == "__main__":
    sweep(slow_square, json.loads(sys.argv[1]), name="demo", folder=sys.argv[2], progress=False, seed=7)
"""


def wait_for(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_sweep_ends_its_workers_and_resumes(functions, points, log, tmp_path, blow):
    gated = [point | {"gate": str(tmp_path / "gate")} for point in points]
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(HERE)))
    command = [sys.executable, str(script), json.dumps(gated), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(stored(tmp_path)) == 3 and len(computed(log)) == 5)
        process.send_signal(blow)
        said = process.communicate(timeout=20)[1]
    assert ("KeyboardInterrupt" in said) == (blow == signal.SIGINT)
    workers = {int(line.split()[1]) for line in log.read_text().splitlines()}
    wait_for(lambda: not any(alive(worker) for worker in workers), 20)
    log.unlink()
    (tmp_path / "gate").touch()
    results = go(functions.slow_square, gated, tmp_path)
    assert computed(log) == [3, 4]
    assert [result["square"] for result in results] == [0, 1, 4, 9, 16]


SHARER = """
import json, sys
sys.path.insert(0, {here!r})
import sweep_points
from concurrent.futures import ThreadPoolExecutor
from flatmin.ledger.sweeps import sweep
print("ready", flush=True)
sys.stdin.readline()
options = dict(name="demo", folder=sys.argv[2], progress=False, seed=7, executor=ThreadPoolExecutor(1))
results = sweep(sweep_points.lingering_square, json.loads(sys.argv[1]), **options)
print([int(result["square"]) for result in results], flush=True)
"""


@pytest.fixture
def sharers(points, tmp_path):
    """Starts processes that run the sweep of ten points on one folder when they read a line."""
    many = [{"x": x, "log": points[0]["log"]} for x in range(10)]
    script = SHARER.format(here=str(HERE))
    command = [sys.executable, "-c", script, json.dumps(many), str(tmp_path)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    running = []

    def start(count):
        running.extend(subprocess.Popen(command, text=True, **pipes) for _ in range(count))
        for process in running:
            assert process.stdout.readline() == "ready\n"
        for process in running:
            process.stdin.write("go\n")
            process.stdin.flush()
        return running

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_two_processes_share_the_work_and_leave_nothing_behind(sharers, log, tmp_path):
    pair = sharers(2)
    for process in pair:
        said, complaint = process.communicate(timeout=60)
        assert process.returncode == 0, complaint
        assert said == f"{[x * x for x in range(10)]}\n"
    assert sorted(computed(log)) == list(range(10))  # each once
    assert len({line.split()[1] for line in log.read_text().splitlines()}) == 2  # by both
    assert all(path.suffix == ".npz" for path in (tmp_path / ".partial" / "demo").iterdir())
    assert len(stored(tmp_path)) == 10


def test_what_a_killed_process_had_claimed_is_taken_over(sharers, log, tmp_path):
    victim, other = sharers(2)
    wait_for(lambda: len(computed(log)) >= 3)
    victim.kill()
    victim.wait()
    said, complaint = other.communicate(timeout=60)
    assert other.returncode == 0, complaint
    assert said == f"{[x * x for x in range(10)]}\n"
    assert len(computed(log)) <= 12  # twice: the point the victim was at, and one it had not stored yet
    left = {path.name for path in (tmp_path / ".partial" / "demo").iterdir() if path.suffix != ".npz"}
    assert left == set()


def test_the_claims_of_a_killed_process_go_with_the_next_sweep(functions, sharers, log, tmp_path):
    (victim,) = sharers(1)
    wait_for(lambda: len(computed(log)) >= 3)
    victim.kill()
    victim.wait()
    folder = tmp_path / ".partial" / "demo"
    assert (folder / ".claims").exists()
    finished = len(stored(tmp_path))
    assert finished >= 1
    go(functions.lingering_square, [{"x": x, "log": str(log)} for x in range(10)], tmp_path)
    assert len(computed(log)) <= 12
    assert sorted(path.suffix for path in folder.iterdir()) == [".npz"] * 10


def test_a_worker_that_dies_is_a_failure_of_its_points_and_the_others_are_kept(functions, points, tmp_path):
    with pytest.raises(SweepError, match="of 5 points failed, the others are kept") as caught:
        go(functions.deadly, points, tmp_path, executor=None)
    assert {"x": 1, "log": points[0]["log"]} in [point for point, _ in caught.value.failures]
    assert len(stored(tmp_path)) == 5 - len(caught.value.failures)


def test_a_full_disk_ends_a_sweep_in_one_sentence_and_keeps_what_is_finished(
    functions, points, log, tmp_path, monkeypatch
):
    go(functions.square, points[:2], tmp_path)

    def full(_):
        raise OSError(errno.ENOSPC, "")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(FileError, match=r"\.npz cannot be written: the disk is full"):
        go(functions.square, points, tmp_path)
    monkeypatch.undo()
    log.unlink()
    assert [result["square"] for result in go(functions.square, points, tmp_path)] == [0, 1, 4, 9, 16]
    assert computed(log) == [2, 3, 4]
    assert sorted(path.suffix for path in (tmp_path / ".partial" / "demo").iterdir()) == [".npz"] * 5


def test_a_file_moved_to_another_points_name_is_not_read(functions, points, log, tmp_path):
    go(functions.square, points[:2], tmp_path)
    one, other = stored(tmp_path)
    other.replace(one)
    with pytest.warns(UserWarning, match="is damaged"):
        results = go(functions.square, points[:2], tmp_path)
    assert [result["square"] for result in results] == [0, 1]


def test_an_interrupt_cancels_what_waits_in_a_foreign_executor(functions, points, tmp_path):
    class Interrupted(Future):
        def exception(self, timeout=None):
            raise KeyboardInterrupt

    class Stops(Here):
        def __init__(self):
            self.futures = []

        def submit(self, function, *arguments):
            x = arguments[1]["x"]
            self.futures.append(Interrupted() if x == 2 else Future())
            if x < 2:
                self.futures[-1] = super().submit(function, *arguments)
            if x == 2:
                self.futures[-1].set_result(None)
            return self.futures[-1]

    pool = Stops()
    with pytest.raises(KeyboardInterrupt):
        go(functions.square, points, tmp_path, executor=pool)
    assert [future.cancelled() for future in pool.futures] == [False, False, False, True, True]


def test_combine_makes_the_answer(functions, points, tmp_path):
    assert go(functions.square, points, tmp_path, combine=stack)["square"].tolist() == [0, 1, 4, 9, 16]


def test_progress_counts_finished_points_too(functions, points, tmp_path, capfd):
    go(functions.square, points[:2], tmp_path)
    assert capfd.readouterr().err == ""
    go(functions.square, points, tmp_path, progress=True)
    assert "5/5" in capfd.readouterr().err


def test_stack_names_what_does_not_fit():
    with pytest.raises(ValueError, match="different arrays"):
        stack([{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match="'a' has different shapes"):
        stack([{"a": np.ones(2)}, {"a": np.ones(3)}])
    assert stack([]) == {}


def local():
    def inner(point, seed):
        return {}

    return inner


@pytest.mark.parametrize("function", [lambda point, seed: {}, local(), 3])
def test_functions_that_have_no_name_of_their_own_are_refused(function, tmp_path):
    with pytest.raises(ValueError, match="function="):
        go(function, [{}], tmp_path)


def test_a_notebooks_function_needs_an_executor(tmp_path, monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    here = type("function", (), {"__call__": lambda self, point, seed: {}})()
    here.__module__, here.__qualname__ = "__main__", "here"
    with pytest.raises(ValueError, match="what a notebook defines"):
        go(here, [{}], tmp_path, executor=None)
    assert go(here, [{}], tmp_path) == [{}]


@pytest.mark.parametrize(
    "options", [{"seed": -1}, {"seed": 1.5}, {"seed": True}, {"name": "../up"}, {"name": ""}]
)
def test_seed_and_name_are_checked(functions, points, tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options)) + "="):
        go(functions.square, points, tmp_path, **options)


@pytest.mark.parametrize("point", [{"x": float("nan")}, {"x": object()}, {"x": 1j}])
def test_points_must_be_plain(functions, tmp_path, point):
    with pytest.raises(ValueError, match="point="):
        go(functions.square, [point], tmp_path)


def test_numpy_values_in_points_are_plain(functions, log, tmp_path):
    for x in (2.0, np.float64(2.0), np.array(2.0)):
        go(functions.square, [{"x": x, "log": str(log)}], tmp_path)
    assert log.read_text().count("\n") == 1
