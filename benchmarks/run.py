"""Run races, record them, and write the page of their table.

    python benchmarks/run.py [RACE ...] [--rounds 5] [--device cuda] [--record] [--list]

Without names all of them, in a quarter of an hour on an idle core. With --record the rows go into
data/results/benchmarks (of named races these alone, if the record is of this machine) and the table into
chapters/_races.md; --table writes the table from the record and runs nothing.
"""

import argparse
import os
import time
import warnings

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch are loaded

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import fokker_planck
import harness
import networks
import simulate
import stability
import table
import training
from flatmin.networks import device

RACES = simulate.RACES | fokker_planck.RACES | stability.RACES | training.RACES | networks.RACES


def main():
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("races", nargs="*", metavar="RACE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", help="cpu, cuda, cuda:1, …")
    for flag in ("--record", "--list", "--table"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    if unknown := set(options.races) - set(RACES):
        parser.error(f"unknown {', '.join(sorted(unknown))}: allowed are {', '.join(RACES)}")
    if options.list:
        print("\n".join(RACES))
    elif options.table:
        table.write()
    else:
        race(options)


def race(options):
    """Run races one after the other; each is recorded when it is done."""
    os.environ[device.ENVIRONMENT] = str(device.choose(options.device))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of the peers
    print(f"{device.describe() or 'CPU'}, one thread, load {os.getloadavg()[0]:.1f}")
    for name in options.races or RACES:
        make, unit = RACES[name]
        began = time.perf_counter()
        with sdpa_kernel(SDPBackend.MATH):
            one = make()
            rows = harness.run(name, one, options.rounds)
        harness.show(rows, unit)
        print(f"  ({time.perf_counter() - began:.0f} s)", flush=True)
        if options.record:
            harness.keep(rows, one)
    if options.record:
        table.write()


if __name__ == "__main__":
    main()
