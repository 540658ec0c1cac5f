"""Run the tests of the library and every chapter, two processes at a time: `make test`.

    python tools/run_tests.py [arguments for every run of pytest]

The groups share nothing but the checkout, so that two cores take half the time; on one core they run one
after the other. The longest begins first. What a group says is printed when it is done.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("tests/networks", "tests/diagnose")
#: what each run of pytest takes, the longest first (9 minutes of a core the chapters, 4 and 3 the parts)
GROUPS = {
    "chapters": ("--nbval", "chapters"),
    "library": ("tests", *(f"--ignore={part}" for part in PARTS)),
    **{part: (part,) for part in PARTS},
}


def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def run(name, arguments):
    """Run a group; return its name, its exit status, what it said and the seconds it took."""
    start = time.monotonic()
    command = [sys.executable, "-m", "pytest", "--durations=15", "-rs", "-p", "no:cacheprovider"]
    with tempfile.TemporaryFile() as said:
        command += [*arguments, *GROUPS[name]]
        status = subprocess.run(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, check=False)
        said.seek(0)
        return name, status.returncode, said.read(), time.monotonic() - start


def main(arguments):
    """Run all groups; return 0 if all passed, else the exit status of one that did not."""
    start, statuses = time.monotonic(), {}
    print(f"Groups: {', '.join(GROUPS)}; each is told when it is done", flush=True)
    with ThreadPoolExecutor(min(2, cores())) as pool:
        for done in as_completed(pool.submit(run, name, arguments) for name in GROUPS):
            name, statuses[name], said, seconds = done.result()
            sys.stdout.buffer.write(said)
            print(f"{name}: exit status {statuses[name]} after {seconds:.0f} s", flush=True)
    verdict = "passed" if not any(statuses.values()) else "FAILED"
    told = ", ".join(f"{name} {status}" for name, status in statuses.items())
    print(f"{told}: {verdict} in {time.monotonic() - start:.0f} s", flush=True)
    return next(filter(None, statuses.values()), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
