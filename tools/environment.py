"""Make the book's own virtual environment, .venv, and install what is pinned; nothing to do when it is there.

    python tools/environment.py [cpu|cuda]        the build of torch; default: as before, or cpu

Run by any Python from 3.11 on, before anything is installed: uses the standard library only.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEAST = (3, 11)
# the examples of these modules, run: the next process finds the compiled code (numba keeps it by processor)
COMPILE = """import doctest, importlib
for name in ("sgd.simulate", "logarithmic.multiplicative"):
    doctest.testmod(importlib.import_module(f"flatmin.theory.{name}"))"""
FILES = ("requirements.txt", "constraints.txt", "pyproject.toml")


def fingerprint(root):
    """Return the hash of the files that say what is installed."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def too_old(version):
    """Return what to tell the user of a Python older than the book needs, or None."""
    if tuple(version[:2]) >= LEAST:
        return None
    least, found = (".".join(map(str, each)) for each in (LEAST, version[:3]))
    return f"The book needs Python {least} or newer, this is {found}. Name another: make PYTHON=python{least}"


def read_stamp(path):
    """Return (fingerprint, torch build) of the last finished set-up; two empty strings if there was none."""
    words = path.read_text().split() if path.exists() else []
    return tuple(words) if len(words) == 2 else ("", "")


def venv_python(venv):
    """Return the path of a virtual environment's Python."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def set_up(torch, root=ROOT):
    """Bring ``root/.venv`` up to date with the pinned requirements and the build of torch asked for."""
    venv = root / ".venv"
    stamp = venv / "set-up-finished"
    done, before = read_stamp(stamp)
    build, wanted = torch or before or "cpu", fingerprint(root)
    if (done, before) == (wanted, build):
        print(f".venv is up to date (torch: {build})", flush=True)
        return
    python = str(venv_python(venv))
    if not Path(python).exists():
        print(f"Making a virtual environment in .venv (Python {sys.version.split()[0]})", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    stamp.unlink(missing_ok=True)
    quiet = [] if sys.stdout.isatty() else ["--quiet"]  # pip's progress bars are for people
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", *quiet]
    steps = [
        (f"1/4 torch, the {build} build", [python, "tools/install_torch.py", build]),
        ("2/4 the packages of requirements.txt", [*pip, "-r", "requirements.txt", "-c", "constraints.txt"]),
        ("3/4 the library flatmin, from lib/", [*pip, "--no-deps", "-e", "."]),
        ("4/4 what is compiled once, in the caches of flatmin", [python, "-c", COMPILE]),
    ]
    for title, command in steps:
        print(f"Installing into .venv: {title}", flush=True)
        subprocess.run(command, cwd=root, check=True)
    stamp.write_text(f"{wanted} {build}\n")


def main():
    """Check the Python, set up, and explain a failure in one sentence."""
    refusal = too_old(sys.version_info)
    if refusal:
        sys.exit(refusal)
    try:
        set_up(sys.argv[1] if len(sys.argv) > 1 else "")
    except subprocess.CalledProcessError as error:
        hint = " (on Debian: apt install python3-venv)" if "venv" in error.cmd else ""
        sys.exit(f"set-up stopped: {' '.join(map(str, error.cmd))} failed{hint}")


if __name__ == "__main__":
    main()
