"""Where the book's files lie: found from an editable install of the library, or named by FLATMIN_HOME."""

import os
from pathlib import Path

_MARK = Path("data") / "claims.yml"  # what makes a folder the root of the book


def root():
    """Return the root folder of the book (the one with ``data/claims.yml``).

    The environment variable FLATMIN_HOME names it; where that is not set, it is the checkout that the
    library was installed from with ``pip install -e``. Raises ValueError if FLATMIN_HOME names a folder
    without ``data/claims.yml``, FileNotFoundError if neither leads to one.
    """
    home = os.environ.get("FLATMIN_HOME")
    if home:
        folder = Path(home).expanduser().resolve()
        if not (folder / _MARK).is_file():
            raise ValueError(f"FLATMIN_HOME is {home!r}, but that folder holds no {_MARK.as_posix()}")
        return folder
    folder = Path(__file__).resolve().parents[3]
    if not (folder / _MARK).is_file():
        raise FileNotFoundError(
            f"the library does not lie in a checkout of the book (no {_MARK.as_posix()} above it): "
            "install it with `pip install -e` from the checkout, or let FLATMIN_HOME name the checkout"
        )
    return folder


def data():
    """Return the folder of ``claims.yml``, ``verdicts.json`` and the recorded results."""
    return root() / "data"


def results():
    """Return the folder of the recorded results (``NAME.npz`` with ``NAME.json``)."""
    return data() / "results"


def chapters():
    """Return the folder of the executed notebooks and the generated pages."""
    return root() / "chapters"
