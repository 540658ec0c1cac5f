"""What every test of the book runs under: one environment, one comparison rule for notebooks."""

import os

from rules import APPROXIMATE, BYTES, ENVIRONMENT, taken

os.environ.update(ENVIRONMENT)  # before NumPy starts its threads and nbval its kernels

import matplotlib
import pytest
from matplotlib import pyplot

try:
    from nbval.plugin import IPyNbCell, IPyNbFile
except ModuleNotFoundError:  # on a machine that only runs the device tests: there are no notebooks
    IPyNbCell = IPyNbFile = ()

matplotlib.use("Agg")
#: {chapter: seconds and bytes that its kernel took}
_TAKEN = pytest.StashKey()


def pytest_collectstart(collector):
    """Tell nbval what to leave out of the comparison: stderr, verdict records, digits after ≈."""
    if isinstance(collector, IPyNbFile):
        collector.skip_compare += ("stderr", "application/vnd.flatmin.verdict+json")
        collector.sanitize_patterns[APPROXIMATE] = "≈ #"


def pytest_itemcollected(item):
    """Give a cell's outputs a minute to arrive: nbval's five seconds fail on a busy machine."""
    if isinstance(item, IPyNbCell):
        item.output_timeout = 60


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """After the last cell of a chapter note what its kernel took, and fail where that is too much memory."""
    last = isinstance(item, IPyNbCell) and getattr(nextitem, "parent", None) is not item.parent
    took = taken(item.parent.kernel.km.provisioner.pid) if last else None
    result = yield
    if took:
        item.config.stash.setdefault(_TAKEN, {})[item.parent.name] = took
        assert took[1] < BYTES, f"the kernel took {took[1] / 1e6:.0f} MB: must be below {BYTES / 1e6:.0f}"
    return result


def pytest_terminal_summary(terminalreporter, config):
    """Tell what each chapter took."""
    for name, (seconds, size) in config.stash.get(_TAKEN, {}).items():
        terminalreporter.write_line(f"{name}: {seconds:.0f} s of processor time, {size / 1e6:.0f} MB at most")


@pytest.fixture(autouse=True)
def close_figures():
    """Close the figures a test leaves open."""
    yield
    pyplot.close("all")
