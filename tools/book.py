"""Build the book's HTML from the notebooks as they are kept; any warning is an error.

    python tools/book.py [--output FOLDER]        the pages go to FOLDER/_build/html (default: the checkout)

Every build starts from nothing: with documents left from an earlier build Sphinx would not repeat, and so
not fail on, the warnings of a page that did not change.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from rules import ENVIRONMENT
from tidy import tidy

ROOT = Path(__file__).resolve().parent.parent
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PROGRESS = re.compile(r"(reading sources|copying images|writing output)\.\.\. *\[ *(\d+)%\] *(.*)")
TROUBLE = re.compile(r"WARNING|ERROR|CRITICAL|Error:|Exception")


def sphinx_command(source, output):
    """Return the Jupyter Book command that builds the book in ``source`` into ``output/_build/html``."""
    here = str(Path(__file__).parent)  # of the extension `pages`, for books elsewhere too
    program = (
        f"import sys; sys.path.append({here!r}); from jupyter_book.cli.main import main; sys.exit(main())"
    )
    options = ["--path-output", str(output), "-W", "-n", "--keep-going"]
    return [sys.executable, "-c", program, "build", str(source), *options]


def run_condensed(command, environment):
    """Run a Sphinx build and show a bar for its progress; return (exit status, lines of the log)."""
    log = []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf8"}
    with (
        subprocess.Popen(command, env=environment, cwd=ROOT, errors="replace", **pipes) as process,
        tqdm(total=100, desc="building", unit="%", disable=None, leave=False) as bar,
    ):
        for line in process.stdout:
            line = COLOUR.sub("", line).rstrip()
            log.append(line)
            step = PROGRESS.match(line)
            if step:
                bar.set_description(f"{step[1]} {step[3]}"[:60])
                bar.n = int(step[2])
                bar.refresh()
            elif TROUBLE.search(line):
                bar.write(line)
    return process.returncode, log


def tell(log):
    """Return the end of a log without progress and without the frames of tracebacks."""
    lines = [line for line in log if line and not line.startswith("  ") and not PROGRESS.match(line)]
    return "\n".join(lines[-40:])


def build(output=ROOT, source=ROOT):
    """Build the book in ``source`` into ``output/_build/html``, from nothing, and return that folder.

    Raises RuntimeError with the log's last lines when a warning or an error stops the build.
    """
    for folder in (".doctrees", "html", "jupyter_execute"):
        shutil.rmtree(output / "_build" / folder, ignore_errors=True)
    status, log = run_condensed(sphinx_command(source, output), os.environ | ENVIRONMENT)
    (output / "_build").mkdir(exist_ok=True)
    (output / "_build" / "book.log").write_text("\n".join(log), "utf8")
    if status:
        raise RuntimeError(f"the book was not built:\n{tell(log)}")
    tidy(output / "_build" / "html")
    return output / "_build" / "html"


def main():
    """Build the book and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT, help="where to put _build/html")
    output = parser.parse_args().output.resolve()
    print("Building the book (every page anew, warnings are errors) ...", flush=True)
    start = time.perf_counter()
    try:
        pages = build(output)
    except RuntimeError as error:
        sys.exit(str(error))
    count = len(list(pages.glob("chapters/*.html")))
    print(f"{count} pages in {time.perf_counter() - start:.0f} s: open {pages / 'index.html'}")


if __name__ == "__main__":
    main()
