"""Run the tests of the library and, beside them, those of the chapters: `make test`.

    python tools/run_tests.py [arguments for both runs of pytest]

The two share nothing but the checkout, so that two cores take half the time; on one core they run one after
the other. What the chapters say is printed when the library is done.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def main(arguments):
    """Run both; return 0 if both passed, else the exit status of one that did not."""
    start = time.monotonic()
    pytest = [sys.executable, "-m", "pytest", "--durations=15", "-rs", *arguments]
    with tempfile.TemporaryFile() as said:
        chapters = [*pytest, "--nbval", "-p", "no:cacheprovider", "chapters"]
        library = [*pytest, "tests"]
        if cores() == 1:
            statuses = [
                subprocess.run(each, cwd=ROOT, check=False).returncode for each in (library, chapters)
            ]
        else:
            beside = subprocess.Popen(chapters, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
            try:
                statuses = [subprocess.run(library, cwd=ROOT, check=False).returncode, beside.wait()]
            finally:
                beside.kill()
            said.seek(0)
            sys.stdout.flush()
            sys.stdout.buffer.write(said.read())
    verdict = "passed" if not any(statuses) else "FAILED"
    print(
        f"library {statuses[0]}, chapters {statuses[1]}: {verdict} in {time.monotonic() - start:.0f} s",
        flush=True,
    )
    return next(filter(None, statuses), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
