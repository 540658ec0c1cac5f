"""The Chromium that this machine has, for the tests of the pages and for the book as PDF."""

import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


def found():
    """Return the path of Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def launch(playwright):
    """Return a headless Chromium; FileNotFoundError where there is none."""
    if found() is None:
        raise FileNotFoundError(f"no Chromium here (looked for {', '.join(NAMES)})")
    return playwright.chromium.launch(executable_path=found(), args=ARGUMENTS)
