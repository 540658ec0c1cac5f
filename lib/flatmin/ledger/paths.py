"""Where the book's files lie: in the checkout, in the folder that FLATMIN_HOME names, or in the package."""

import os
from pathlib import Path

_MARK = Path("data") / "claims.yml"  # what makes a folder the root of the book
_PACKED = "_book"  # where a wheel holds data/, inside the package (see setup.py)


def root():
    """Return the root folder of the book (the one with ``data/claims.yml``).

    The environment variable FLATMIN_HOME names it; where that is not set, it is the checkout that the
    library was installed from with ``pip install -e``, or what the installed package itself holds: claims,
    verdicts and recorded results, without chapters. Raises ValueError if FLATMIN_HOME names a folder without
    ``data/claims.yml``, FileNotFoundError if nothing leads to one.
    """
    home = os.environ.get("FLATMIN_HOME")
    if home:
        folder = Path(home).expanduser().resolve()
        if not (folder / _MARK).is_file():
            raise ValueError(f"FLATMIN_HOME is {home!r}, but that folder holds no {_MARK.as_posix()}")
        return folder
    for folder in (Path(__file__).resolve().parents[3], _package()):
        if (folder / _MARK).is_file():
            return folder
    raise FileNotFoundError(
        f"the library does not lie in a checkout of the book (no {_MARK.as_posix()} above it): "
        "install it with `pip install -e` from the checkout, or let FLATMIN_HOME name the checkout"
    )


def _package():
    return Path(__file__).resolve().parents[1] / _PACKED


def data():
    """Return the folder of ``claims.yml``, ``verdicts.json`` and the recorded results."""
    return root() / "data"


def results(to_write=False):
    """Return the folder of the recorded results (``NAME.npz`` with ``NAME.json``).

    ``to_write`` asks for one that results may be written to: raises FileNotFoundError, with what to do, where
    the library is installed without a checkout.
    """
    folder = root()
    if to_write and folder == _package():
        raise FileNotFoundError(
            "the installed library keeps its own results as they are: name a folder for new ones "
            "(`--folder FOLDER`, or folder=), or let FLATMIN_HOME name a checkout of the book"
        )
    return folder / "data" / "results"


def chapters():
    """Return the folder of the executed notebooks and the generated pages."""
    return root() / "chapters"
