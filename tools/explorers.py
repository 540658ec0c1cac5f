"""Write the explorers' script and style sheet for the pages, _static/explorers.js and .css."""

from pathlib import Path

from flatmin.explorers import bundle
from flatmin.ledger.files import write_bytes

STATIC = Path(__file__).resolve().parent.parent / "_static"


def main():
    """Write both files."""
    write_bytes(STATIC / "explorers.js", bundle.classic().encode("utf8"))
    write_bytes(STATIC / "explorers.css", bundle.styles().encode("utf8"))


if __name__ == "__main__":
    main()
