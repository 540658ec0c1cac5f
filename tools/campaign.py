"""Kill what writes, damage what is written, give functions bad values; count what comes of it. Not in CI.

    python tools/campaign.py [--kills N] [--corruptions N] [--seed S] [--no-values]

A kill (SIGKILL at a random moment) is *survived* when all that was finished is there, whole, and the same
work given again ends with the same numbers, bit for bit. A damaged file is *unchanged* when it still holds
what it held (a flipped bit in white space), *clear* when it is refused, or made again, in words that name it,
*obscure* when something else complains, *silent* when it is read as something else. Bad values are those of
the tables in tests/fuzz, every argument of every public function. Exit status 1 if anything was not survived,
obscure or silent.
"""

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import notebooks
from flatmin.ledger import paths, record
from flatmin.ledger.arrays import load_state, save_state
from flatmin.ledger.collection import collect, load_verdicts, write_verdicts
from flatmin.ledger.verdicts import MIME, Verdict

ROOT = Path(__file__).resolve().parent.parent

ORIGIN = {"seed": 0, "scale": "none", "command": "python tools/campaign.py"}
POINTS = [{"x": x, "pause": 0.02} for x in range(8)]
LIMIT = 60  # seconds after which work that was given again counts as hanging


# The work


def square(point, seed):
    """A point of a sweep."""
    time.sleep(point["pause"])
    return {"x": point["x"] ** 2, "noise": np.random.default_rng(seed).random(1000)}


def sweep(folder, executor):
    """The sweep, on threads of this process or (None) on processes."""
    return record.sweep(square, POINTS, name="demo", folder=folder, executor=executor, progress=False)


def threads():
    """An executor that leaves its work to one thread."""
    return ThreadPoolExecutor(1)


def train(folder, steps=1000):
    """A training that keeps its state at every look."""
    from flatmin.networks.data.sets import gaussian
    from flatmin.networks.models import mlp
    from flatmin.networks.train import train

    start, file = mlp((10, 8, 1), seed=1), folder / "training.npz"
    options = {"eta": 0.01, "batch_size": 8, "steps": steps, "seed": [1, 2], "keep": 5}
    return train(start, "square", gaussian(64, 10, seed=2), **options, file=file, save_every=0).parameters


@lru_cache(maxsize=1)
def trained(steps=1000):
    """What that training gives when nothing disturbs it."""
    with tempfile.TemporaryDirectory() as folder:
        return train(Path(folder), steps)


def save(folder, number, name="demo"):
    """A record in which everything says its number."""
    record.save(name, {"a": np.full(20_000, number)}, **ORIGIN | {"seed": number}, folder=folder)


# Kills


class Work(NamedTuple):
    """What is killed, and how long it may run; ``whole`` returns what is wrong afterwards, or None."""

    go: object  # (folder, say): works, and says the number of what is on the disk
    whole: object  # (folder, said)
    span: float  # seconds


def states(folder, say):
    """Keep one state after the other."""
    for t in range(10**9):
        save_state(folder / "s.npz", {"a": np.full(100_000, t), "t": t}, "campaign")
        say(t)


def whole_state(folder, said):
    """The last state that was kept, or the one being written, is there."""
    state = load_state(folder / "s.npz", "campaign")
    if state is None:
        return "the state is gone" if said >= 0 else None
    return None if state["t"] >= said and (state["a"] == state["t"]).all() else "an older or mixed state"


def records(folder, say):
    """Save one record over the other."""
    for number in range(10**9):
        save(folder, number)
        say(number)


def whole_record(folder, said):
    """The last record that was saved, or the one being saved, is there."""
    if said < 0 and not (folder / "demo.npz").exists():
        return None
    found = record.load("demo", folder)
    number = found.provenance["seed"]
    return None if number >= said and (found.a == number).all() else "an older or mixed record"


def sweep_by_threads(folder, _say):
    """Compute the points in this process."""
    sweep(folder, threads())


def sweep_by_processes(folder, _say):
    """Compute the points in two others."""
    sweep(folder, None)


def whole_sweep(folder, _said):
    """What was stored is not computed again, and the sweep ends with the right numbers."""
    store = folder / ".partial" / "demo"
    before = {path: path.stat().st_mtime_ns for path in store.glob("*.npz")}
    with threads() as pool:
        found = sweep(folder, pool)
    again = [path.name for path in before if path.stat().st_mtime_ns != before[path]]
    left = [path.name for path in store.iterdir() if path.suffix != ".npz"]
    if again or left:
        return f"computed again: {again}, left behind: {left}"
    return None if [int(r["x"]) for r in found] == [p["x"] ** 2 for p in POINTS] else "other numbers"


def training(folder, _say):
    """Train."""
    train(folder)


def whole_training(folder, _said):
    """Given again, the training ends with the same bits."""
    return None if bool((train(folder) == trained()).all()) else "other parameters"


WORKS = {
    "states": Work(states, whole_state, 0.1),
    "records": Work(records, whole_record, 0.1),
    "sweeps, threads": Work(sweep_by_threads, whole_sweep, 0.25),
    "sweeps, two processes at once": Work(sweep_by_threads, whole_sweep, 0.2),
    "trainings": Work(training, whole_training, 0.15),
    "sweeps, pools of processes": Work(sweep_by_processes, whole_sweep, 3.0),
}


def start(work, folder):
    """Start the work in a process of its own; return it and the number it has said last."""
    fork, said = multiprocessing.get_context("fork"), multiprocessing.Value("q", -1)

    def go():
        os.setsid()  # a kill of the group would also reach its workers: only the process itself is killed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what its helpers say when it is gone
        work.go(folder, lambda number: setattr(said, "value", number))

    process = fork.Process(target=go)
    process.start()
    return process, said


def kill(name, rng):
    """Kill one work at a random moment, once or twice on the same folder; return what is wrong, or None."""
    work, folder = WORKS[name], Path(tempfile.mkdtemp())
    try:
        process, said = start(work, folder)
        other = start(work, folder)[0] if "at once" in name else None
        time.sleep(rng.uniform(0, work.span))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if other is not None:
            other.join(LIMIT)
            if other.exitcode != 0:
                return f"the other process ended with {other.exitcode}"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return work.whole(folder, said.value)
    except Exception as error:
        return repr(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Corruptions


class Target(NamedTuple):
    """A file to damage: ``make(folder)`` returns it and one to swap it with, ``read(folder)`` its content."""

    make: object
    read: object
    text: bool = False  # JSON, whose fields can be edited


def plain(arrays):
    """Arrays as something that can be compared."""
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}


def make_state(folder):
    """Two states."""
    for name, t in (("s", 1), ("other", 2)):
        save_state(folder / f"{name}.npz", {"a": np.arange(50.0) + t}, f"campaign {name}")
    return folder / "s.npz", folder / "other.npz"


def make_record(folder, suffix):
    """Two records, of which one file is damaged."""
    for number, name in enumerate(("demo", "other")):
        save(folder, number, name)
    return folder / f"demo{suffix}", folder / f"other{suffix}"


def read_record(folder):
    """All that the record says."""
    found = record.load("demo", folder)
    return found.name, plain(found.arrays), found.provenance


def make_point(folder):
    """A finished sweep."""
    read_points(folder)
    return sorted((folder / ".partial" / "demo").glob("*.npz"))[:2]


def read_points(folder):
    """What the sweep returns; a point that was damaged is named and computed again."""
    points = [{"x": x, "pause": 0} for x in range(3)]
    with threads() as pool:
        found = record.sweep(square, points, name="demo", folder=folder, executor=pool, progress=False)
    return [plain(result) for result in found]


def make_training(folder):
    """A training half done, and another one."""
    train(folder / "other", 300)
    train(folder, 200)
    return folder / "training.npz", folder / "other" / "training.npz"


def read_training(folder):
    """What the training given again ends with."""
    return train(folder, 200).numpy().tobytes()


def verdicts():
    """A few verdicts of all kinds."""
    return [
        Verdict("y22-flux", None, "reproduced", measured=1.25, error=0.1, printed=1.3),
        Verdict("y22-flux", "b", "corrected", holds=True, printed_holds=False, note="by hand"),
        Verdict("y22-mfpt", None, "reproduced", measured=0.5, error=0.01, at_least=0.25, at_most=1.0),
        Verdict("m22-loss-noise", "slope", "not reproduced", measured=2.0, error=0.1, printed=1.0),
    ]


def make_ledger(folder, damaged):
    """A chapter that stores verdicts and the file that collects them; ``damaged`` says which is to be."""
    for name, shown in (("01_a", verdicts()), ("02_b", verdicts()[::2])):
        outputs = [{"output_type": "display_data", "data": {MIME: each.sealed()}} for each in shown]
        content = {"cells": [{"cell_type": "code", "outputs": outputs}]}
        (folder / f"{name}.ipynb").write_text(json.dumps(content, indent=1))
    (folder / "src").mkdir()
    (folder / "src" / "01_a.md").touch()
    files = [folder / "verdicts.json", folder / "other.json"]
    made = [folder / "01_a.ipynb", folder / "02_b.ipynb"]
    for file, notebook in zip(files, made, strict=True):
        write_verdicts(collect([notebook]), file)
    return made if damaged == "notebook" else files


def read_ledger(folder):
    """The verdicts of both, after the check that `tools/notebooks.py check` makes of them."""
    notebooks.CHAPTERS, paths.data = folder, lambda: folder
    for problem in notebooks.ledger_problems():
        raise ValueError(problem)
    return collect([folder / "01_a.ipynb"]), load_verdicts()


TARGETS = {
    "states": Target(make_state, lambda folder: plain(load_state(folder / "s.npz", "campaign s") or {})),
    "records (json)": Target(lambda folder: make_record(folder, ".json"), read_record, True),
    "records (npz)": Target(lambda folder: make_record(folder, ".npz"), read_record),
    "points of sweeps": Target(make_point, read_points),
    "states of trainings": Target(make_training, read_training),
    "verdicts in notebooks": Target(lambda folder: make_ledger(folder, "notebook"), read_ledger, True),
    "file of verdicts": Target(lambda folder: make_ledger(folder, "file"), read_ledger, True),
}


def truncate(path, _other, rng):
    """Keep the beginning, or nothing."""
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size) if rng.random() < 0.8 else 0])


def flip(path, _other, rng):
    """Flip a few bits."""
    content = bytearray(path.read_bytes())
    for position in rng.integers(len(content), size=rng.integers(1, 4)):
        content[position] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def garble(path, _other, rng):
    """Write a block of zeros or noise over a part."""
    content = bytearray(path.read_bytes())
    begin, length = int(rng.integers(len(content))), int(rng.integers(1, 64))
    content[begin : begin + length] = bytes(length) if rng.random() < 0.5 else rng.bytes(length)
    path.write_bytes(content)


def swap(path, other, _rng):
    """Put a good file of the same sort in its place."""
    path.write_bytes(other.read_bytes())


def block(path, _other, rng):
    """Put a folder or a dangling link in its place."""
    path.unlink()
    path.mkdir() if rng.random() < 0.5 else path.symlink_to("nowhere")


def edit(path, _other, rng):
    """Change, remove or add a field of the JSON, anywhere."""
    content = json.loads(path.read_text("utf8"))
    places = []

    def walk(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(content)
    node, key = places[rng.integers(len(places))]
    others = [None, True, 0, 7, float("nan"), "", "x", {}, [], "reproduced", "corrected", "open"]
    if isinstance(node[key], float):
        others += [node[key] * 1.001, -node[key], 2 * node[key]]
    what = rng.integers(3) if isinstance(node, dict) else 0
    if what == 0:
        node[key] = others[rng.integers(len(others))]
    elif what == 1:
        del node[key]
    else:
        node["added"] = 1
    path.write_text(json.dumps(content), "utf8")


def corrupt(name, rng):
    """Damage one file and read it; return "unchanged", "clear", "obscure" or "silent", and a sentence."""
    target, folder = TARGETS[name], Path(tempfile.mkdtemp())
    harms = [truncate, flip, garble, swap, block] + ([edit] * 4 if target.text else [])
    harm = harms[rng.integers(len(harms))]
    try:
        path, other = target.make(folder)
        before = target.read(folder)
        harm(path, other, rng)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            after = target.read(folder)
        named = any(path.name in str(each.message) for each in said)
        if after != before:
            return "silent", f"{harm.__name__} of {name}"
        return "clear" if named else "unchanged", ""
    except (ValueError, OSError, record.RecordError) as error:
        sentence = str(error)
        clear = path.name in sentence and "\n" not in sentence and "Errno" not in sentence
        return "clear" if clear else "obscure", f"{harm.__name__} of {name}: {error!r}"
    except Exception as error:
        return "obscure", f"{harm.__name__} of {name}: {error!r}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(title, columns, rows):
    """Print counts, the sum last."""
    rows = {**rows, "all": sum(rows.values(), Counter())}
    print(f"\n{title:32}" + "".join(f"{column:>11}" for column in columns))
    for name, counts in rows.items():
        print(f"{name:32}" + "".join(f"{counts[column]:>11}" for column in columns))


def kills(number, rng):
    """Kill so many times; return the counts by kind, and what went wrong."""
    rows, wrong = {name: Counter() for name in WORKS}, []
    shares = [
        name for name in WORKS for _ in range(1 if "pools" in name else 4)
    ]  # pools take seconds to start
    trained()
    for index in tqdm(range(number), desc="kills", disable=None):
        name = shares[index % len(shares)]
        complaint = kill(name, rng)
        rows[name].update(["tried"] if complaint else ["tried", "survived"])
        wrong += [f"{name}: {complaint}"] if complaint else []
    return rows, wrong


def corruptions(number, rng):
    """Damage so many files; return the counts by kind, and what went wrong."""
    rows, wrong = {name: Counter() for name in TARGETS}, []
    for index in tqdm(range(number), desc="corruptions", disable=None):
        name = list(TARGETS)[index % len(TARGETS)]
        outcome, sentence = corrupt(name, rng)
        rows[name].update(["tried", outcome])
        wrong += [f"{outcome}: {sentence}"] if outcome in ("obscure", "silent") else []
    return rows, wrong


def bad_values():
    """Run the tables of bad values; print their counts and return a complaint for each file that fails."""
    wrong, total = [], Counter()
    for path in sorted((ROOT / "tests" / "fuzz").glob("test_*.py")):
        run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)]
        done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
        counts = re.findall(r"(\d+) (calls|clear|right|obscure|silent)", done.stdout)
        total.update({word: int(number) for number, word in counts})
        wrong += [f"{path.name} fails"] if done.returncode else []
    print("\nbad values:", ", ".join(f"{number} {word}" for word, number in total.items()))
    return wrong


def main():
    """Run the campaign, print its tables, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=84)
    parser.add_argument("--corruptions", type=int, default=210)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-values", action="store_true", help="leave the bad values out (minutes)")
    options = parser.parse_args()
    record._commit = lambda: None  # asking git takes longer than all of the writing that is to be hit
    began, wrong = time.monotonic(), []
    for title, run, number, columns in (
        ("kills", kills, options.kills, ("tried", "survived")),
        (
            "corruptions",
            corruptions,
            options.corruptions,
            ("tried", "unchanged", "clear", "obscure", "silent"),
        ),
    ):
        rows, complaints = run(number, np.random.default_rng([options.seed, number]))
        table(title, columns, rows)
        wrong += complaints
    wrong += [] if options.no_values else bad_values()
    print(f"\n{time.monotonic() - began:.0f} s, seed {options.seed}", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
