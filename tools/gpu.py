"""Run what needs a GPU where there is one: the device tests and the experiments, side by side, in time.

    python3 tools/gpu.py [NAME[=WORKERS] ...] [--budget 9m] [--out FOLDER] [--quick] [--resume PATH]

Any Python that has torch, numpy, scipy, numba, sympy, scikit-learn, tqdm, PyYAML and pytest runs it; nothing
is installed. Without names it runs the experiments that need a GPU or are not recorded yet. What is finished
when the time is over is kept: FOLDER then holds ``results*.tar`` (recorded results and logs) and
``points*.tar`` (finished points of the others), at most 8 files of 16 MiB. In ``data/results`` they unpack to
results and finished points; ``--resume FOLDER`` goes on from them here. Data sets come from the folder that
FLATMIN_DATA names; FLATMIN_COMMIT says, outside of a repository, which commit this is.

The exit status is 0, 124 where the time did not do, or 1 where something failed.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "lib"))

from flatmin.__main__ import duration  # noqa: E402 - of the checkout, installed or not
from flatmin.experiments import discover, status  # noqa: E402
from flatmin.networks import device  # noqa: E402

#: what is tested on the device beside the experiments
TESTS = (
    "tests/networks/test_device.py",
    "tests/networks/train/test_graphs.py",
    "tests/networks/train/test_train.py::test_batches_drawn_ahead_for_a_device_are_the_same",
)
PACKAGES = ("torch", "numpy", "scipy", "numba", "sympy", "scikit-learn")
GRACE = 15  # seconds between the request to stop and the end
PACKING = 10  # seconds for the tar files, of the budget
FILES, SIZE = 8, 15 * 2**20  # so many tar files of so many bytes at most
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class Job:
    """One process, its log, and how it ended."""

    name: str
    command: list
    log: Path
    workers: int = 1
    began: float = 0.0
    seconds: float = 0.0
    process: subprocess.Popen = field(default=None, repr=False)

    def start(self, threads):
        """Start it in a process group of its own."""
        settings = dict.fromkeys(_THREADS, str(threads)) | {
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            "PYTHONPATH": str(ROOT / "lib"),
            "PYTHONUNBUFFERED": "1",
            "FLATMIN_WORKERS": str(self.workers),
            "NVIDIA_TF32_OVERRIDE": "0",  # float32 is float32, in convolutions too
        }
        self.began = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=os.environ | settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def running(self):
        """Whether it still runs; notes how long it took."""
        if self.process.poll() is None:
            return True
        self.seconds = self.seconds or time.monotonic() - self.began
        return False

    def kill(self):
        """End it and what it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()

    @property
    def state(self):
        """How it ended, in words."""
        words = {0: "done", 124: "out of time", 130: "out of time", -signal.SIGKILL: "killed"}
        return words.get(self.process.returncode, "FAILED")


def main(arguments=None):
    """Run the jobs within the budget and return the exit status."""
    end = time.monotonic()
    options = _parser().parse_args(arguments)
    end += options.budget - PACKING
    place = options.work / ".partial" / "quick" if options.quick else options.work
    for folder in (place / ".partial" / "logs", options.out):
        folder.mkdir(parents=True, exist_ok=True)
    for line in described():
        print(line, flush=True)
    resume(options.resume, options.work)
    jobs = [*test_jobs(options, place), *experiment_jobs(options, place, end)]
    threads = max(1, (os.cpu_count() or 1) // max(1, sum(job.workers for job in jobs)))
    for job in jobs:
        job.start(threads)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        watch(jobs, end, lambda: pack(jobs, place, options))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    stop(jobs)
    report(jobs, place, pack(jobs, place, options))
    states = {job.state for job in jobs}
    return 1 if "FAILED" in states else 124 if states - {"done"} else 0


def _parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME[=WORKERS]", help="default: what is missing")
    parser.add_argument("--budget", type=duration, default="9m", help="for all together (90s, 9m)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="where the tar files go")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "gpu-work", help="where it works")
    parser.add_argument("--resume", type=Path, help="a folder of such tar files")
    parser.add_argument("--quick", action="store_true", help="all at the small scale")
    parser.add_argument("--no-tests", action="store_true", help="only the experiments")
    return parser


def described():
    """The device and the versions, a line each."""
    yield f"device: {device.describe() or 'no GPU: the CPU'}, {os.cpu_count()} cores"
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    yield f"Python {platform.python_version()}, {', '.join(versions)}"


def test_jobs(options, place):
    """The device tests as jobs; the settings of pyproject.toml that need plug-ins are left out."""
    if options.no_tests:
        return []
    how = ("-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-o", "addopts=", "-o", "minversion=0")
    return [Job("device-tests", [sys.executable, "-m", "pytest", *how, *TESTS], _log(place, "device-tests"))]


def experiment_jobs(options, place, end):
    """The experiments as jobs that stop by themselves at ``end``."""
    known = discover()
    asked = dict(each.partition("=")[::2] for each in options.names)
    if unknown := set(asked) - set(known):
        raise SystemExit(f"there is no experiment {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if not asked:
        states = status(known, ROOT / "data" / "results")
        missing = {name for name, state in states.items() if not state.startswith("recorded")}
        asked = {name: "" for name, one in known.items() if "GPU" in one.needs or name in missing}
    command = [sys.executable, "-m", "flatmin", "experiments", "run", "--folder", str(options.work)]
    command += ["--budget", f"{max(1, end - time.monotonic()):.0f}s"] + ["--quick"] * options.quick
    return [
        Job(name, [*command, name], _log(place, name), int(workers or 2)) for name, workers in asked.items()
    ]


def _log(place, name):
    return place / ".partial" / "logs" / f"{name}.log"


def watch(jobs, end, pack_up):
    """Wait for the jobs, at the longest until ``end``; say and pack what is finished."""
    running = list(jobs)
    while running and time.monotonic() < end:
        time.sleep(0.2)
        ended = [job for job in running if not job.running()]
        for job in ended:
            running.remove(job)
            print(f"{job.name}: {job.state} after {job.seconds:.1f} s", flush=True)
        if ended:
            pack_up()


def stop(jobs):
    """Ask the jobs that still run to stop, and end those that do not."""
    for job in jobs:
        if job.running():
            job.process.send_signal(signal.SIGINT)  # its workers end with it
    late = time.monotonic() + GRACE
    while any(job.running() for job in jobs) and time.monotonic() < late:
        time.sleep(0.1)
    for job in jobs:
        job.kill()
        job.running()


def resume(folder, work):
    """Unpack the tar files of an earlier run."""
    for path in sorted(folder.glob("*.tar")) if folder else ():
        with tarfile.open(path) as archive:
            archive.extractall(work, filter="data")
        print(f"resumed from {path.name}", flush=True)


def pack(jobs, place, options):
    """Write the tar files anew; return the names of what did not fit.

    The points of an experiment that is done are in its result; the states of unfinished points stay behind.
    """
    results, points, left, written = [], [], [], set()
    for job in jobs:
        results.append(job.log)
        if not job.running() and job.state == "done":
            results += sorted(place.glob(f"{job.name}.*"))
        else:
            points += sorted((place / ".partial" / job.name).glob("*.npz"))
    for name, all_files in (("results", results), ("points", points)):
        for number, files in enumerate(batches(all_files, left), 1):
            if len(written) == FILES:
                left += files
                continue
            target = options.out / f"{name}{'' if number == 1 else number}.tar"
            with tarfile.open(target.with_suffix(".new"), "w") as archive:
                for path in files:
                    archive.add(path, path.relative_to(options.work).as_posix())
            target.with_suffix(".new").replace(target)
            written.add(target)
    for old in set(options.out.glob("points*.tar")) - written:
        old.unlink()
    return [path.name for path in left]


def batches(files, left):
    """Split the files into lists that fit into a tar file; those that fit into none go to ``left``."""
    batch, size = [], 0
    for path in files:
        own = path.stat().st_size + 2048
        if own > SIZE:
            left.append(path)
            continue
        if size + own > SIZE:
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += own
    if batch:
        yield batch


def report(jobs, place, left):
    """Print how each job ended, and the end of the log of those that failed."""
    print(f"\n{'name':24s}{'seconds':>8s}{'points':>8s}  state")
    for job in jobs:
        kept = len(list((place / ".partial" / job.name).glob("*.npz")))
        print(f"{job.name:24s}{job.seconds:8.1f}{kept or '':>8}  {job.state}")
    for name in left:
        print(f"left behind, too large: {name}")
    for job in jobs:
        if job.state in ("FAILED", "killed"):
            lines = job.log.read_text("utf8", errors="replace").splitlines()
            print(f"\n{job.name}:", *lines[-15:], sep="\n  ", flush=True)


if __name__ == "__main__":
    sys.exit(main())
