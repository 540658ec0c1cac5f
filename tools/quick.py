"""What can be said of a change within a minute: `make check`.

    python tools/quick.py [--since COMMIT]      default: what is not committed, or else the last commit

Lint and layout of all code, that in the chapters too; texts against notebooks; and the tests that were
changed or import a module that was, without the slow ones. `make test` runs everything.
"""

import argparse
import ast
import subprocess
import sys
import time
from pathlib import Path

import layout
import notebooks
from made_with import imported

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = "not slow and not browser and not clean"


def changed(since=None):
    """Return the files that differ from a commit, with those git does not know yet, from the root."""

    def git(*words):
        run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return set(run.stdout.split("\0")) - {""}

    new = git("ls-files", "--others", "--exclude-standard", "-z")
    found = git("diff", "--name-only", "-z", since or "HEAD") | new
    return sorted(found or git("diff", "--name-only", "-z", "HEAD~1"))


def touched(files, root=ROOT):
    """Return the tests to run for changed ``files``: themselves, or those that import what was changed."""
    modules = set()
    for file in map(Path, files):
        if file.suffix == ".py" and file.parts[0] == "lib":
            parts = file.with_suffix("").parts[1:]
            modules.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
        elif file.suffix == ".py" and file.parts[0] == "tools":
            modules.add(file.stem)
    tests = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        name = path.relative_to(root).as_posix()
        if name in files or modules & imported(ast.parse(path.read_text("utf8"))):
            tests.append(name)
    return tests


def words():
    """Return what is wrong with the code in the chapters and with their notebooks, as a list of sentences."""
    problems = []
    for name in notebooks.chapter_names():
        found = layout.findings(notebooks.text_path(name).read_text("utf8")) + notebooks.check(name)
        problems += [f"{name}: {problem}" for problem in found]
    return problems + notebooks.ledger_problems()


def main(arguments=None):
    """Run all of it and say how long it took; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--since", help="a commit, such as main: look at all that differs from it")
    tests = touched(changed(parser.parse_args(arguments).since))
    start, problems = time.perf_counter(), words()
    print("\n".join(problems) or "The chapters' code is laid out, and their notebooks agree with the texts")
    commands = [["ruff", "check", "--quiet"], ["ruff", "format", "--check", "--quiet"]]
    if tests:
        print(f"Tests: {', '.join(tests)}", flush=True)
        commands.append(["pytest", "-q", "-m", SKIPPED, *tests])
    statuses = [subprocess.run([sys.executable, "-m", *each], cwd=ROOT).returncode for each in commands]
    failed = bool(problems) or any(status not in (0, 5) for status in statuses)  # 5: only slow ones
    print(f"{'FAILED' if failed else 'passed'} in {time.perf_counter() - start:.0f} s; `make test` runs all")
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"check: {error}")
