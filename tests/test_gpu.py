"""What runs on a machine that lends a GPU and little else: no plug-ins, no downloads, and a limit of time."""

import os
import subprocess
import sys
import tarfile

import pytest

import gpu

#: on a machine without most packages, with two small data sets in the folder of FLATMIN_DATA
BARE = """
import gzip, hashlib, os, sys
from pathlib import Path

ABSENT = {"pooch", "skfem", "ipywidgets", "matplotlib", "IPython", "distributed", "hypothesis", "nbval"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from flatmin.__main__ import main
from flatmin.networks import curvature, gradient_noise, stability
from flatmin.networks.data import files, sets

sums = {}
for name, axes in (("images-idx3-ubyte.gz", (4, 28, 28)), ("labels-idx1-ubyte.gz", (4,))):
    values = bytes(4 * 28 * 28 if len(axes) == 3 else 4)
    header = bytes([0, 0, 8, len(axes)]) + b"".join(size.to_bytes(4, "big") for size in axes)
    for part in ("train-", "t10k-"):
        content = gzip.compress(header + values)
        Path(os.environ["FLATMIN_DATA"], part + name).write_bytes(content)
        sums[part + name] = hashlib.sha256(content).hexdigest()
files.MNIST = files.Source("mnist", (), sums)

assert main(["experiments", "list"]) == 0
print(len(sets.digits(10).train), len(sets.mnist(train=3).train))
try:
    sets.cifar10(train=10)
except files.DataUnavailableError as error:
    print(error)
assert not ABSENT & set(sys.modules)
"""


def test_networks_and_experiments_need_few_packages(root, tmp_path):
    """Data at hand are read, too; what would have to be downloaded is refused in a sentence."""
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", BARE],
        env=os.environ | {"FLATMIN_DATA": str(tmp_path), "PYTHONPATH": str(root / "lib")},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert "10 3\n" in told.stdout
    assert "to download it takes pooch, which is not installed" in told.stdout


@pytest.fixture
def go(tmp_path, capsys, monkeypatch):
    """Run the script in this process; returns (exit status, what it printed)."""
    monkeypatch.setattr(gpu.signal, "signal", lambda *_: None)

    def call(*words):
        folders = ("--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"))
        code = gpu.main([*words, *folders, "--no-tests"])
        return code, capsys.readouterr().out

    return call


def names(path):
    with tarfile.open(path) as archive:
        return archive.getnames()


def test_an_experiment_comes_back_in_a_tar_file(go, tmp_path):
    code, said = go("stability-random", "--quick")
    assert code == 0, said
    assert said.splitlines()[0].startswith("device: ")
    assert "stability-random: done after " in said
    kept = {f".partial/quick/stability-random.{ending}" for ending in ("npz", "json")}
    log = ".partial/quick/.partial/logs/stability-random.log"
    assert {*names(tmp_path / "out" / "results.tar")} == kept | {log}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.tar"]


def test_finished_points_of_what_is_out_of_time_are_gone_on_from(tmp_path):
    options = gpu._parser().parse_args(["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")])
    point, log = tmp_path / "work" / ".partial" / "demo" / "1.npz", tmp_path / "work" / ".partial" / "log"
    point.parent.mkdir(parents=True)
    point.write_bytes(b"finished")
    options.out.mkdir()
    job = gpu.Job("demo", [sys.executable, "-c", "raise SystemExit(124)"], log)
    job.start(1)
    gpu.watch([job], gpu.time.monotonic() + 60, lambda: None)
    assert job.state == "out of time"
    assert gpu.pack([job], options.work, options) == []
    gpu.resume(options.out, tmp_path / "later")
    assert (tmp_path / "later" / ".partial" / "demo" / "1.npz").read_bytes() == b"finished"
    job.process.returncode = 0  # done later: its points are in its result
    gpu.pack([job], options.work, options)
    assert [path.name for path in options.out.iterdir()] == ["results.tar"]


def test_a_failure_is_told_with_the_end_of_its_log(go, monkeypatch):
    monkeypatch.setenv("FLATMIN_WORKERS", "1")
    code, said = go("stability-random=0", "--quick")  # no processes to compute with
    assert code == 1
    assert "FAILED" in said
    assert "FLATMIN_WORKERS='0': must be an integer at least 1" in said
    with pytest.raises(SystemExit, match="there is no experiment nothing"):
        go("nothing")


def test_a_job_that_does_not_stop_is_ended(tmp_path, monkeypatch):
    stubborn = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    job = gpu.Job("stubborn", [sys.executable, "-c", stubborn], tmp_path / "log")
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    job.start(1)
    gpu.watch([job], gpu.time.monotonic() + 1, lambda: None)
    gpu.stop([job])
    assert job.state == "killed"
    assert 1 <= job.seconds < 20


def test_tar_files_stay_below_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "SIZE", 10_000)
    paths = [tmp_path / str(index) for index in range(5)]
    for path, size in zip(paths, (4000, 3000, 9000, 100, 4000), strict=True):
        path.write_bytes(bytes(size))
    left = []
    assert list(gpu.batches(paths, left)) == [[paths[0]], [paths[1], paths[3]], [paths[4]]]
    assert left == [paths[2]]
