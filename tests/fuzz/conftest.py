"""Counts of all calls with bad values, at the end of the report."""

import fuzz


def pytest_terminal_summary(terminalreporter):
    """One line when anything was fuzzed."""
    if fuzz.TOTAL["calls"]:
        terminalreporter.write_line(f"bad values: {fuzz.report()}")
