"""Show the page of one chapter after a change of its words: nothing is executed, only it is built anew.

    python tools/page.py NAME [--output FOLDER]      the pages go to FOLDER/_build/html (default: build/page)

The first call builds the whole book; later ones read again what has changed. Warnings are printed and do not
stop it: `make book` is the judge.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import book
import notebooks
import tidy

ROOT = Path(__file__).resolve().parent.parent


def show(name, output):
    """Update the notebook of a chapter, build what has changed below ``output``, and return its page.

    Raises ValueError for an unknown chapter, RuntimeError where there is no page at the end.
    """
    (name,) = notebooks.chosen([name])
    notebooks.update(name)
    page = output / "_build" / "html" / "chapters" / f"{name}.html"
    before = page.stat().st_mtime_ns if page.exists() else 0
    _, log = book.run_condensed(book.sphinx_command(ROOT, output), os.environ | book.ENVIRONMENT)
    if not page.exists():
        raise RuntimeError(f"the page was not built:\n{book.tell(log)}")
    if page.stat().st_mtime_ns == before:
        print("Nothing in it has changed")
    else:
        page.write_text(tidy.page(page, page.read_text("utf8")), "utf8")
    return page


def main(arguments=None):
    """Build the page and say where it is; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", help="the chapter, such as 04_two_valleys")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "page")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    page = show(options.name, options.output.resolve())
    print(f"{page.name} in {time.perf_counter() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, RuntimeError) as error:
        sys.exit(f"page: {error}")
