"""Experiments on a Dask cluster of this machine: the numbers of a local run, also where a worker dies."""

import os
import sys

import numpy as np
import pytest
from distributed import LocalCluster

from flatmin.__main__ import main
from flatmin.experiments import cluster, discover
from flatmin.ledger import record

MODULE = """
import os
from pathlib import Path

import numpy as np

from flatmin.experiments import Experiment, Grid, Scale


def point(point, seed):
    import threadpoolctl

    gate = Path(point["gate"])
    if point["x"] == 1 and os.environ.get("TRIAL_KILLS") and not gate.exists():
        gate.touch()
        os._exit(9)
    threads = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    return {{"noise": np.random.default_rng(seed).normal(size=3), "threads": max(threads, default=1)}}


SCALE = Scale(dict(numbers=Grid(point, dict(gate={gate!r}), dict(x=range(6)), names="{{}}")), text="a trial")
EXPERIMENT = Experiment("trial", "Six points", ("y22-flux",), SCALE, SCALE, minutes=0.1)
"""


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """A package with one experiment that workers can import, in place of the book's; a command to run it."""
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "__init__.py").touch()
    (tmp_path / "trials" / "trial.py").write_text(MODULE.format(gate=str(tmp_path / "gate")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("flatmin.__main__.discover", lambda: discover("trials"))
    yield lambda folder, *how: main(
        ["experiments", "run", "trial", "--folder", str(tmp_path / folder), *map(str, how)]
    )
    for module in [name for name in sys.modules if name.partition(".")[0] == "trials"]:
        del sys.modules[module]


@pytest.fixture
def workers(trial, monkeypatch):
    """Two worker processes that die once in the trial."""
    monkeypatch.setenv("TRIAL_KILLS", "1")
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as local:
        monkeypatch.delenv("TRIAL_KILLS")
        yield local


def test_a_cluster_gives_the_numbers_of_a_local_run_though_a_worker_dies(trial, workers, tmp_path):
    asked = os.environ.get("FLATMIN_WORKERS")
    assert trial("local", "--workers", 1) == 0
    assert os.environ.get("FLATMIN_WORKERS") == asked  # not for what comes after
    assert not (tmp_path / "gate").exists()
    assert trial("remote", "--dask", workers.scheduler_address) == 0
    assert (tmp_path / "gate").exists()  # a worker did die
    one, other = (record.load("trial", tmp_path / folder) for folder in ("local", "remote"))
    np.testing.assert_array_equal(one.noise, other.noise)
    assert other.threads.tolist() == [1] * 6


def test_workers_with_more_threads_are_refused(trial, capsys):
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with LocalCluster(**options) as local:
        assert trial("remote", "--dask", local.scheduler_address) == 1
    assert "has 2 threads: give workers --nthreads 1" in capsys.readouterr().err


def test_no_scheduler_is_said(trial, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 0.5)
    assert trial("remote", "--dask", "tcp://127.0.0.1:9") == 1
    assert "dask='tcp://127.0.0.1:9': no scheduler with a worker answers" in capsys.readouterr().err
    assert trial("remote", "--dask", tmp_path / "none.json") == 1
    assert "there is no such file" in capsys.readouterr().err


def test_a_scheduler_without_workers_is_said_and_left(trial, capsys, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 0.5)
    with LocalCluster(n_workers=0, processes=False, dashboard_address=None) as local:
        assert trial("remote", "--dask", local.scheduler_address) == 1
        assert not local.scheduler.clients.keys() - {"fire-and-forget"}  # no connection stays open
    assert "no scheduler with a worker answers" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--workers", "0"), ("--workers", "x"), ("--workers", "1", "--dask", "a")])
def test_bad_words_end_with_status_2(trial, words):
    with pytest.raises(SystemExit, match="2"):
        trial("remote", *words)
