"""Puts what the library reads of the book, ``data/``, into the wheel, as ``flatmin/_book/data``.

An editable install reads ``data/`` where it lies. Everything else is in pyproject.toml.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = ("claims.yml", "regimes.yml", "verdicts.json", "results/*.json", "results/*.npz")


class WithData(build_py):
    """Builds the package, then copies the data into it."""

    def run(self):
        """Build; nothing is copied for an editable install."""
        super().run()
        if self.editable_mode:
            return
        root = Path(__file__).resolve().parent
        for path in (path for pattern in FILES for path in (root / "data").glob(pattern)):
            target = Path(self.build_lib) / "flatmin" / "_book" / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


setup(cmdclass={"build_py": WithData})
