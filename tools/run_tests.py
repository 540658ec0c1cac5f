"""Run the tests of the library and every chapter, two processes at a time: `make test`.

    python tools/run_tests.py [arguments for every run of pytest]

The groups share nothing but the checkout, so that two cores take half the time; on one core they run one
after the other. The longest begins first. What a group says is printed when it is done; until then a line a
minute says how far each has come.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("tests/networks", "tests/diagnose")
#: what each run of pytest takes, the longest first (9 minutes of a core the chapters, 4 and 3 the parts)
GROUPS = {
    "chapters": ("--nbval", "chapters"),
    "library": ("tests", *(f"--ignore={part}" for part in PARTS)),
    **{part: (part,) for part in PARTS},
}
COMMAND = [sys.executable, "-m", "pytest", "--durations=15", "-rs", "-p", "no:cacheprovider"]


def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def run(name, arguments, said):
    """Run a group, which writes into the file ``said``; return its exit status and the seconds it took."""
    start = time.monotonic()
    with said.open("wb") as output:
        command = [*COMMAND, *arguments, *GROUPS[name]]
        status = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False)
    return status.returncode, time.monotonic() - start


def reached(said):
    """Return where a group is that writes into ``said``: its file and percentage, "" before the first one."""
    text = said.read_text("utf8", errors="replace") if said.exists() else ""
    files, shares = re.findall(r"^(?:chapters|tests)/\S+", text, re.M), re.findall(r"\[ *(\d+)%\]", text)
    return f"{files[-1]} ({shares[-1] if shares else 0} %)" if files else ""


def main(arguments, pause=60.0):
    """Run all groups, a line each ``pause`` seconds; return 0 if all passed, else one exit status."""
    start, statuses = time.monotonic(), {}
    print(f"Groups: {', '.join(GROUPS)}; each is told when it is done", flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(min(2, cores())) as pool:
        texts = {name: Path(folder, name.replace("/", "_")) for name in GROUPS}
        waiting = {pool.submit(run, name, arguments, texts[name]): name for name in GROUPS}
        while waiting:
            done, _ = wait(waiting, pause, FIRST_COMPLETED)
            for group in done:
                name = waiting.pop(group)
                statuses[name], seconds = group.result()
                sys.stdout.buffer.write(texts[name].read_bytes())
                print(f"{name}: exit status {statuses[name]} after {seconds:.0f} s", flush=True)
            if not done:
                places = "; ".join(filter(None, (reached(texts[name]) for name in waiting.values())))
                print(f"{time.monotonic() - start:.0f} s: {places}", flush=True)
    verdict = "passed" if not any(statuses.values()) else "FAILED"
    told = ", ".join(f"{name} {statuses[name]}" for name in GROUPS)
    print(f"{told}: {verdict} in {time.monotonic() - start:.0f} s", flush=True)
    return next(filter(None, statuses.values()), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
