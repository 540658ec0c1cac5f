"""What the notebooks run under, and by what rule their outputs are compared."""

import os
import re
from pathlib import Path

# What every kernel of the book runs under: widgets draw once, one thread per linear-algebra call,
# the same order in every set.
ENVIRONMENT = {
    "FLATMIN_STATIC": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}

# The one sanitising rule: what follows the sign ≈, a number with its sign, exponent, uncertainty and
# percent sign, may differ in its last digits between machines and reads "≈ #" when outputs are compared.
_GAP = r"(?:\s|&nbsp;)*"
_EXPONENT = (
    r"(?:[eE][+\-−]?\d+|" + _GAP + r"[×·]" + _GAP + r"10(?:<sup>[+\-−]?\d+</sup>|[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+))?"
)
_NUMBER = r"[+\-−]?\d+(?:,\d{3})*(?:\.\d+)?"
APPROXIMATE = (
    rf"≈{_GAP}{_NUMBER}{_EXPONENT}(?:\(\d+(?:\.\d+)?\){_EXPONENT})?"
    rf"(?:{_GAP}(?:±|&plusmn;){_GAP}{_NUMBER}{_EXPONENT})?(?:{_GAP}%)?"
)

#: seconds on two cores, and bytes of memory, that a chapter may take
SECONDS, BYTES = 90, 2**30


def taken(pid):
    """Return the seconds of processor time and the most bytes that a running process took; None off Linux."""
    folder = Path("/proc", str(pid))
    if not folder.exists():
        return None
    user, system = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
    kilobytes = re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())[1]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK"), 1024 * int(kilobytes)
