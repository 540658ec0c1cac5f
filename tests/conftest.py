"""What several tests share: the book built once, and a copy of the checkout as git sees it."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import book
import chromium

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # modules that tests import


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return ROOT


@pytest.fixture
def sweeps_here(monkeypatch):
    """Let sweeps compute in this process: without processes to start, small ones take seconds less."""
    from executors import Here

    from flatmin.ledger import record

    monkeypatch.setattr(record, "sweep", functools.partial(record.sweep, executor=Here()))


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the built HTML; a warning of the build fails every test that asks for it."""
    return book.build(tmp_path_factory.mktemp("book"))


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; where there is none the test is skipped, unless it is required."""
    if chromium.found() is None and os.environ.get("FLATMIN_REQUIRE_BROWSER") == "1":
        pytest.fail("FLATMIN_REQUIRE_BROWSER=1 and there is no Chromium")
    if chromium.found() is None:
        pytest.skip("no Chromium here")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = chromium.launch(playwright)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def tracked():
    """The files that belong to the checkout: those git tracks, and new ones it does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = sorted(set(filter(None, listing.stdout.split("\0"))))
    return [ROOT / name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="session")
def clone(tracked, tmp_path_factory):
    """A git repository that holds the checkout as it stands, in one commit."""
    folder = tmp_path_factory.mktemp("clone")
    for path in tracked:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "as it stands"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder
