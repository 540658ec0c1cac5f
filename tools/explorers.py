"""Write what is generated of the explorers: their formulas, in lib/, and the pages' script, in _static/."""

from pathlib import Path

from flatmin.explorers import bundle
from flatmin.ledger.files import write_bytes

ROOT = Path(__file__).resolve().parent.parent


def main():
    """Write the formulas of each explorer, then the script and style sheet made of all files."""
    for name, text in bundle.made().items():
        write_bytes(ROOT / "lib" / "flatmin" / "explorers" / "web" / name, text.encode("utf8"))
    write_bytes(ROOT / "_static" / "explorers.js", bundle.classic().encode("utf8"))
    write_bytes(ROOT / "_static" / "explorers.css", bundle.styles().encode("utf8"))


if __name__ == "__main__":
    main()
