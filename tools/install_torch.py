"""Install the torch that requirements.txt pins, in its light CPU build unless asked otherwise.

    python tools/install_torch.py [cpu|cuda]      the default is $TORCH, or cpu

Plain ``pip install torch`` brings a Linux user several GB of CUDA libraries. So for ``cpu``: ask pip what it
would install and take that where it is light (macOS, Windows, a machine with wheels of its own); otherwise
let uv find the CPU build, whose index it knows; if that fails too, say so and install what pip offers.
``cuda`` is plain pip. Needs nothing but pip; runs before anything else is installed.
"""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from pip._vendor.packaging.requirements import Requirement  # a new environment has no other copy

ROOT = Path(__file__).resolve().parent.parent
BUILDS = ("cpu", "cuda")
CONSTRAINTS = ("--constraint", str(ROOT / "constraints.txt"))


class Build(NamedTuple):
    """A build of torch: its version, and whether it does without the CUDA libraries."""

    version: str
    light: bool


def pinned_version(requirements):
    """Return the version of torch that the text of a requirements file pins; ValueError if none."""
    match = re.search(r"^torch==([\w.]+)\s*(?:#.*)?$", requirements, re.MULTILINE)
    if match is None:
        raise ValueError("requirements.txt: expected a line torch==VERSION, found none")
    return match[1]


def is_light(version, requires, system=None):
    """Say whether a torch with this version and ``Requires-Dist`` lines is free of CUDA libraries."""
    if (system or platform.system()) != "Linux":
        return True
    needed = [Requirement(line) for line in requires or []]
    heavy = [
        each.name
        for each in needed
        if each.name.startswith(("nvidia", "cuda"))
        and (each.marker is None or each.marker.evaluate({"extra": ""}))
    ]
    return not heavy and "+cu" not in version


def installed_build():
    """Return the installed build of torch, or None."""
    try:
        found = importlib.metadata.distribution("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Build(found.version, is_light(found.version, found.requires))


def build_in_report(report):
    """Return the build of torch in the text of a pip installation report, or None."""
    for item in json.loads(report)["install"]:
        metadata = item["metadata"]
        if metadata["name"].lower() == "torch":
            return Build(metadata["version"], is_light(metadata["version"], metadata.get("requires_dist")))
    return None


def pip(*arguments):
    """Return the command that runs pip for this Python."""
    return [sys.executable, "-m", "pip", *arguments]


def offered_build(pin):
    """Ask pip, without installing, which build of torch it would take; None when it finds none."""
    options = ("--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-")
    answer = subprocess.run(pip("install", *options, f"torch=={pin}"), capture_output=True, text=True)
    return build_in_report(answer.stdout) if answer.returncode == 0 else None


def choose(wanted, pin, installed, offered):
    """Return how to get the wanted build: ``keep``, ``pip`` or ``uv`` (pip if uv cannot).

    ``installed`` is a :class:`Build` or None; ``offered`` is a function that returns pip's, called if needed.
    Raises ValueError when ``wanted`` is neither ``cpu`` nor ``cuda``.
    """
    if wanted not in BUILDS:
        raise ValueError(f"TORCH={wanted!r}: allowed are {' and '.join(BUILDS)}")
    light = wanted == "cpu"
    if installed and installed.version.split("+")[0] == pin and installed.light == light:
        return "keep"
    if not light:
        return "pip"
    build = offered()
    return "pip" if build and build.light else "uv"


def install(wanted):
    """Install the wanted build of torch (``cpu`` or ``cuda``) and say what is done."""
    pin = pinned_version((ROOT / "requirements.txt").read_text("utf8"))
    installed = installed_build()
    way = choose(wanted, pin, installed, lambda: offered_build(pin))
    if way == "keep":
        print(f"torch {installed.version} is there")
        return
    if installed:
        subprocess.run(pip("uninstall", "--quiet", "--yes", "torch"), check=True)
    if way == "uv" and install_by_uv(pin):
        return
    if way == "uv":
        print(
            "No CPU build of torch can be had from here: installing the CUDA build, several GB.", flush=True
        )
    else:
        print(f"Installing torch {pin} ({wanted}) ...", flush=True)
    subprocess.run(pip("install", *CONSTRAINTS, f"torch=={pin}"), check=True)


def install_by_uv(pin):
    """Install the CPU build of torch by uv, installing uv first; return whether that worked."""
    print(f"pip offers only the CUDA build of torch {pin}: asking uv for the CPU build ...", flush=True)
    uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    commands = (
        pip("install", "--quiet", *CONSTRAINTS, "uv"),
        [*uv, *CONSTRAINTS, "--torch-backend", "cpu", f"torch=={pin}"],
    )
    return all(subprocess.run(command).returncode == 0 for command in commands)


if __name__ == "__main__":
    try:
        install(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TORCH") or "cpu")
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"install_torch: {error}")
