"""The command line: ``python -m flatmin experiments list | run NAME ... | status`` and ``diagnose MAKE``."""

import argparse
import contextlib
import difflib
import os
import signal
import sys
import time
from pathlib import Path

from flatmin.diagnosis import command
from flatmin.ledger import WORKERS, WORKERS_VARIABLE

# what takes tenths of a second to import is imported where it is needed: --help answers at once


class OutOfTimeError(KeyboardInterrupt):
    """The time of ``--budget`` is over: as if interrupted."""


def main(arguments=None):
    """Run one command and return the exit status.

    That is 0 done, 1 failed, 2 bad arguments, 124 out of the time of ``--budget``, 130 interrupted.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    from flatmin.ledger import paths
    from flatmin.ledger.record import RecordError, SweepError

    try:
        if options.wing == "diagnose":
            return command.run(options)
        folder = options.folder
        if folder is None:
            folder = paths.results(to_write=options.action == "run")
        experiments = discover()
        if options.action == "run":
            return _run(_chosen(parser, options, experiments), folder, options)
        (_list if options.action == "list" else _status)(experiments, folder)
    except (OSError, RecordError, SweepError, ValueError) as error:
        print(f"flatmin: {error}", file=sys.stderr)
        return 1
    return 0


def discover():
    """Return all experiments, by name."""
    from flatmin import experiments

    return experiments.discover()


def _parser():
    parser = argparse.ArgumentParser(prog="python -m flatmin", description="Why SGD finds flat minima")
    wings = parser.add_subparsers(required=True, dest="wing", metavar="diagnose|experiments")
    command.arguments(wings.add_parser("diagnose", help="a network of your own, measured: one page"))
    actions = wings.add_parser("experiments", help="the measurements at the papers' scale").add_subparsers(
        required=True, dest="action", metavar="list|run|status"
    )
    actions.add_parser("list", help="what there is, how long it takes and what it needs")
    actions.add_parser("status", help="what is recorded, begun or absent")
    run = actions.add_parser("run", help="compute and record; goes on where an earlier run was stopped")
    run.add_argument("names", nargs="*", metavar="NAME")
    run.add_argument("--all", action="store_true", help="run all experiments")
    run.add_argument("--quick", action="store_true", help="at a small scale, kept apart from the results")
    run.add_argument(
        "--budget",
        type=_told(duration),
        metavar="TIME",
        help="stop after this time (90s, 12m, 1.5h); what is finished by then is kept",
    )
    where = run.add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=_told(_workers),
        metavar="N",
        help=f"so many local processes of one thread (default: {WORKERS_VARIABLE}, or {WORKERS})",
    )
    where.add_argument(
        "--dask", metavar="ADDRESS", help="a Dask scheduler (tcp://host:8786), or the file that it writes"
    )
    for action in actions.choices.values():
        action.add_argument("--folder", type=Path, help="where the results are (default: data/results)")
    return parser


def _chosen(parser, options, experiments):
    """Return the experiments named on the command line; ends with status 2 for a name there is none of."""
    if options.all == bool(options.names):
        parser.error("run: name the experiments, or give --all")
    for name in options.names:
        if name not in experiments:
            near = difflib.get_close_matches(name, experiments, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else "`experiments list` shows them all"
            parser.error(f"run: there is no experiment {name!r}; {hint}")
    return [experiments[name] for name in (experiments if options.all else options.names)]


def duration(text):
    """Return the seconds in a text such as ``90s``, ``12m`` or ``1.5h``; ValueError for another."""
    from flatmin import _check

    return _check.duration("budget", text, "a time such as 90s, 12m or 1.5h")


def _out_of_time(*_):
    raise OutOfTimeError


def _workers(text):
    """Return a number of processes; ValueError for less than one."""
    from flatmin import _check

    return _check.integer("workers", int(text) if text.isdecimal() else text, least=1)


def _told(convert):
    """Return ``convert`` for argparse, which tells the words of its own error only."""

    def converted(text):
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted


def _run(experiments, folder, options):
    """Run the experiments one after the other and return the exit status."""
    if options.quick:
        folder = folder / ".partial" / "quick"
    from flatmin.experiments import cluster

    pool = cluster.executor_of(options.dask) if options.dask else contextlib.nullcontext()
    with pool as executor, _processes(options.workers), _budget(options.budget):
        return _run_all(experiments, folder, options.quick, executor)


@contextlib.contextmanager
def _processes(count):
    """Let sweeps in the block have so many processes, unless that is None."""
    before = os.environ.get(WORKERS_VARIABLE)
    if count is not None:
        os.environ[WORKERS_VARIABLE] = str(count)
    try:
        yield
    finally:
        os.environ.pop(WORKERS_VARIABLE, None)
        if before is not None:
            os.environ[WORKERS_VARIABLE] = before


@contextlib.contextmanager
def _budget(seconds):
    """Interrupt what runs in the block after so many seconds, unless they are None."""
    if seconds is None:
        yield
        return
    if not hasattr(signal, "setitimer"):
        raise ValueError("--budget: this system has no timers")
    before = signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _run_all(experiments, folder, quick, executor):
    for experiment in experiments:
        scale = "small scale" if quick else f"about {experiment.minutes:g} min"
        print(f"{experiment.name}: {experiment.title} ({scale})", flush=True)
        start = time.perf_counter()
        try:
            experiment.run(folder, quick, executor)
        except KeyboardInterrupt as error:
            late = isinstance(error, OutOfTimeError)
            why = "out of time" if late else "interrupted"
            print(f"{why}: what is finished is kept, the same command goes on from there", file=sys.stderr)
            return 124 if late else 130
        print(f"{experiment.name}: done in {time.perf_counter() - start:.1f} s, in {folder}", flush=True)
    return 0


def _list(experiments, _folder):
    for name, experiment in experiments.items():
        needs = f", needs {', '.join(experiment.needs)}" if experiment.needs else ""
        print(f"{name}: {experiment.title}\n  about {experiment.minutes:g} min{needs}")
        print(f"  claims: {', '.join(experiment.claims)}")
    if not experiments:
        print("there are no experiments yet")


def _status(experiments, folder):
    from flatmin.experiments import status

    for name, state in status(experiments, folder).items():
        print(f"{name}: {state}")
    if not experiments:
        print("there are no experiments yet")


if __name__ == "__main__":
    code = main()
    if code in (124, 130):  # a point that this process computes is not waited for
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
