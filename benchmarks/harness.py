"""Races of flatmin against the tools one would otherwise take: how they are run, judged and recorded.

All tools of a race run in turn in one process, after one call of each that does not count, with another seed
in every round. Times are medians of processor time on one thread of a CPU (other processes then count little)
or of wall time on a GPU, with the fastest and the slowest round. The error is the root mean square over the
rounds.

The rule, written down before the recorded run: a tool is *as accurate* as flatmin if its error is at most
twice flatmin's, or at most what the race allows. A ratio above 1.15 counts as ahead, below 1/1.15 as behind,
else as level. What a tool cannot do is its message; a peer that is not installed is named and left out.
"""

import datetime
import importlib.util
import os
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from flatmin.ledger import record
from flatmin.networks import device

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "build" / "peers" / "lib"  # see requirements.txt
sys.path += map(str, PEERS.glob("python3*/site-packages"))
for _library in PEERS.glob("libmkl_rt.*"):
    os.environ.setdefault("PYPARDISO_MKL_RT", str(_library))

RECORD = "benchmarks"
COLUMNS = ("race", "tool", "seconds", "fastest", "slowest", "error", "note", "date", "load", "commit")
PACKAGES = (
    "scipy", "numba", "scikit-fem", "pypardiso", "curvlinops-for-pytorch", "hessian-eigenthings", "pyhessian",
    "backpack-for-pytorch",
)  # fmt: skip
EQUAL, LEVEL = 2.0, 1.15
#: seconds after which a slow tool that has one time is not called again
LONGEST = 10.0
UNITS = {"s": 1.0, "ms": 1e3, "µs a step and network": 1e6, "ns a step": 1e9}


@dataclass
class Race:
    """What is raced.

    ``tools``: name → call of a seed, flatmin first (others that begin with "flatmin" are variants of it, no
    peers); a text in place of a call says why there is none. ``error`` of a result, None where there is
    nothing to compare; ``allowed``: the error that makes any tool accurate enough; ``work``: in how many
    parts (steps × networks) the time of a tool is shared, 1 where it does not say.
    """

    tools: dict
    error: object = None
    allowed: float = 0.0
    work: dict = field(default_factory=dict)


def peer(module, call):
    """The call, or why there is none."""
    return call if importlib.util.find_spec(module) else f"{module} is not installed"


def relative(exact):
    """The largest error of a result, relative to ``exact``."""
    exact = np.asarray(exact, float)
    return lambda found: float(np.max(np.abs(np.asarray(found, float) / exact - 1)))


def run(name, race, rounds):
    """Rows of one race, in the order of ``COLUMNS``."""
    spent, errors, notes = ({tool: [] for tool in race.tools} for _ in range(3))
    for seed in range(rounds + 1):
        for tool, call in race.tools.items():
            if notes[tool] or (len(spent[tool]) > 1 and sum(spent[tool]) > LONGEST):
                continue
            if isinstance(call, str):
                notes[tool] = call
                continue
            torch.manual_seed(seed)
            try:
                seconds, result = timed(call, seed)
            except Exception as error:
                if tool.startswith("flatmin"):
                    raise
                notes[tool] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:90]}"
                continue
            spent[tool].append(seconds)
            if seed:
                errors[tool].append(np.nan if race.error is None else race.error(result))
    load, commit = round(os.getloadavg()[0], 1), (record._commit() or "")[:10]
    when = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = []
    for tool in race.tools:
        times = np.array(spent[tool][1:] or [np.nan]) / race.work.get(tool, 1)
        off = float(np.sqrt(np.mean(np.square(errors[tool] or [np.nan]))))
        measured = float(np.median(times)), float(times.min()), float(times.max()), off
        rows.append((name, tool, *measured, notes[tool] or "", when, load, commit))
    return rows


def timed(call, seed):
    """Seconds of a call, and its result."""
    cuda = device.choose().type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    began = clock()
    result = call(seed)
    if cuda:
        torch.cuda.synchronize()
    return clock() - began, result


def show(rows, unit):
    """Print a race."""
    print(f"\n{rows[0][0]}  [{unit}; load {rows[0][8]}]")
    for _, tool, seconds, fastest, slowest, error, note, *_ in rows:
        ratio = seconds / rows[0][2]
        times = f"{seconds * UNITS[unit]:11.4g} ({fastest * UNITS[unit]:.4g}–{slowest * UNITS[unit]:.4g})"
        print(f"  {tool:36}", note or f"{times:32}{ratio:8.2f}×   error {error:.1e}", flush=True)


def as_accurate(error, own, allowed):
    """Whether a tool of that error may be compared with flatmin's time."""
    return np.isnan(error) or error <= max(EQUAL * own, allowed)


def keep(rows, race):
    """Put the rows of a race into the record; other races stay if they are of the same machine."""
    where = device.describe() or record._cpu()
    name = rows[0][0]
    table, allowed = list(rows), {name: race.allowed}
    try:
        old = record.load(RECORD)
    except record.RecordError:
        old = None
    if old is not None and old.provenance["device"] == where:
        kept = zip(*(old.arrays[column].tolist() for column in COLUMNS), strict=True)
        table = [row for row in kept if row[0] != name] + table
        allowed = old.provenance["allowed"] | allowed
    columns = dict(zip(COLUMNS, map(list, zip(*table, strict=True)), strict=True))
    record.save(
        RECORD,
        columns,
        seed=0,
        scale="none of a paper: problems of a size that one thread does in seconds",
        device=where,
        command="make bench",
        allowed=allowed,
        threads=1,
        peers=_versions(),
    )


def _versions():
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
