"""What every test of the book runs under: one environment, one comparison rule for notebooks."""

import os

from rules import APPROXIMATE, ENVIRONMENT

os.environ.update(ENVIRONMENT)  # before NumPy starts its threads and nbval its kernels

import matplotlib
import pytest
from matplotlib import pyplot

try:
    from nbval.plugin import IPyNbCell, IPyNbFile
except ModuleNotFoundError:  # on a machine that only runs the device tests: there are no notebooks
    IPyNbCell = IPyNbFile = ()

matplotlib.use("Agg")


def pytest_collectstart(collector):
    """Tell nbval what to leave out of the comparison: stderr, verdict records, digits after ≈."""
    if isinstance(collector, IPyNbFile):
        collector.skip_compare += ("stderr", "application/vnd.flatmin.verdict+json")
        collector.sanitize_patterns[APPROXIMATE] = "≈ #"


def pytest_itemcollected(item):
    """Give a cell's outputs a minute to arrive: nbval's five seconds fail on a busy machine."""
    if isinstance(item, IPyNbCell):
        item.output_timeout = 60


@pytest.fixture(autouse=True)
def close_figures():
    """Close the figures a test leaves open."""
    yield
    pyplot.close("all")
