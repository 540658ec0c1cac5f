"""Sweeps over the points of a grid, on any ``concurrent.futures`` executor, that a kill does not undo."""

import contextlib
import importlib.util
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait

import numpy as np
from tqdm import tqdm

from flatmin import _check
from flatmin.ledger import WORKERS, WORKERS_VARIABLE, paths
from flatmin.ledger.arrays import packed, sealed, sha256
from flatmin.ledger.files import checked_path
from flatmin.ledger.store import Store

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_HASH = 32  # hexadecimal digits of a hash that go into a file name
_PAUSE = 0.2  # seconds between looks at what other processes have finished


class SweepError(RuntimeError):
    """Points of a sweep failed; ``failures`` lists (point, exception). The other points are kept."""

    def __init__(self, name, failures, total):
        self.failures = failures
        shown = "\n".join(f"  {point}: {error!r}" for point, error in failures[:10])
        more = f"\n  … and {len(failures) - 10} more" if len(failures) > 10 else ""
        super().__init__(
            f"sweep {name!r}: {len(failures)} of {total} points failed, the others are kept\n{shown}{more}"
        )


class Results(list):
    """The results of a sweep, one dict a point, in the order of the points.

    ``seconds`` is the computing time summed over the points, whenever and wherever they were computed;
    ``devices`` says, sorted, on what (with :func:`sweep`'s ``device``; "" where that said nothing).
    """

    seconds = 0.0
    devices = ()


def stack(results):
    """Return the results of a sweep as one dict of arrays, the points along the first axis.

    Raises ValueError, naming the array, when points differ in their arrays or in the shapes of these.
    """
    if not isinstance(results, (list, tuple)) or not all(isinstance(each, dict) for each in results):
        raise _check.refused("results", results, "a list of dicts, as sweep() returns it")
    names = list(results[0]) if results else []
    for result in results:
        if set(result) != set(names):
            raise ValueError(f"results hold different arrays: {sorted(names)} and {sorted(result)}")
    stacked = {}
    for name in names:
        shapes = {np.shape(result[name]) for result in results}
        if len(shapes) > 1:
            raise ValueError(f"array {name!r} has different shapes at different points: {sorted(shapes)}")
        stacked[name] = np.stack([np.asarray(result[name]) for result in results])
    return stacked


def sweep(
    function,
    points,
    *,
    name,
    folder=None,
    executor=None,
    seed=0,
    version="1",
    progress=True,
    resume=True,
    combine=None,
    device=None,
):
    """Return ``function(point, seed)`` for every point, computing only what no earlier run has finished.

    ``function`` is defined at the top level of a module and returns a dict of arrays and numbers; ``points``
    are dicts (or other JSON values) of its arguments. Each finished point is stored at once in
    ``data/results/.partial/NAME/`` (``folder`` instead of ``data/results``) under a hash of the function's
    name, ``version`` (change it when the function changes), the point and ``seed``. Each point gets a seed
    of its own, an integer below 2⁶³ that depends on ``seed`` and the point only, not on the executor or the
    order; equal points get different ones, and ``states`` in a point, a folder, makes no difference.

    ``executor`` is anything with ``submit`` that returns ``concurrent.futures`` futures, such as
    ``distributed.Client(...).get_executor()``; it is left open. The default is two local processes (or as
    many as FLATMIN_WORKERS says) of one thread each. ``resume=False`` computes all anew. ``device()`` says
    where it is called what a point is computed on, as a text or None; it is kept with the point.

    Processes that run one sweep at the same time share its points and return all of them.

    Returns :class:`Results`, or ``combine(results)``. A damaged file is named in a warning and its point
    computed again. Raises SweepError at the end when points failed, ValueError for bad arguments, FileError
    (an OSError) when a result cannot be stored; what is finished is kept.
    """
    _require_importable(function, executor)
    progress, resume = _check.flag("progress", progress), _check.flag("resume", resume)
    if not isinstance(version, str) or not (combine is None or callable(combine)):
        raise ValueError(f"version={version!r}, combine={combine!r}: must be a text, and a function or None")
    if device is not None:
        _require_importable(device, executor, "device")
    if isinstance(points, (str, bytes, dict)) or not isinstance(points, Iterable):
        raise _check.refused("points", points, "a list of points")
    points = list(points)
    tasks = _tasks(function, points, seed, version)
    name = plain_name(name)
    store = Store(
        (paths.results(to_write=True) if folder is None else checked_path("folder", folder))
        / ".partial"
        / name
    )
    done = _finished(store, [key for key, _ in tasks], resume)
    missing = [index for index, (key, _) in enumerate(tasks) if key not in done]
    failures = []
    bar = tqdm(
        total=len(points), initial=len(points) - len(missing), desc=name, unit="point", disable=not progress
    )
    with (
        store,
        bar,
        _pool(executor, missing) as pool,
        contextlib.closing(_outcomes(pool, store, (function, device), points, tasks, missing)) as outcomes,
    ):
        for index, outcome in outcomes:
            if isinstance(outcome, BaseException):
                failures.append((index, outcome))
            else:
                done[tasks[index][0]] = outcome
            bar.update()
    if failures:
        failures = [(points[index], error) for index, error in sorted(failures, key=lambda pair: pair[0])]
        raise SweepError(name, failures, len(points)) from failures[0][1]
    results = Results(done[key][0] for key, _ in tasks)
    results.seconds = sum(done[key][1] for key, _ in tasks)
    results.devices = tuple(sorted({str(arrays.pop("device_", "")) for arrays in results}))
    return results if combine is None else combine(results)


def plain_name(name):
    """Return a name that makes a good file name; ValueError for another."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _check.refused("name", name, "lower-case letters, digits, '-' and '_'")
    return name


def _require_importable(function, executor, what="function"):
    """Raise ValueError for a function that a worker could not import by name."""
    name = getattr(function, "__qualname__", None)
    if not callable(function) or name is None or "<" in name:
        raise ValueError(f"{what}={function!r}: must be defined at the top level of a module")
    if executor is not None and not hasattr(executor, "submit"):
        raise _check.refused("executor", executor, "an executor with submit(), or None")
    interactive = not hasattr(sys.modules["__main__"], "__file__")
    if executor is None and function.__module__ == "__main__" and interactive:
        raise ValueError(
            f"{what}={name}: a worker process cannot import what a notebook defines: put it into a "
            "module, or pass executor=concurrent.futures.ThreadPoolExecutor()"
        )


def _tasks(function, points, seed, version):
    """Return (key, seed) of each point."""
    seed = _check.integer("seed", seed, least=0)
    seen = Counter()
    tasks = []
    for point in points:
        if isinstance(point, dict):  # where unfinished work is kept makes no other point of it
            point = {key: value for key, value in point.items() if key != "states"}
        text = canonical(point)
        seen[text] += 1
        own = sha256(f"{text}\n{seen[text]}".encode())
        words = [int(own[start : start + 8], 16) for start in range(0, 64, 8)]
        state = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)
        identity = f"{function.__module__}.{function.__qualname__}\n{version}\n{seed}\n{own}"
        tasks.append((sha256(identity.encode())[:_HASH], int(state[0] >> np.uint64(1))))
    return tasks


def canonical(point):
    """Return a point as JSON text, the same for equal points. Raises ValueError for what JSON cannot hold."""

    def plain(value):
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(f"{value!r} is no number, text, list or dict")

    try:
        return json.dumps(point, sort_keys=True, allow_nan=False, default=plain)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"points: point={_check.shown(point)}: must hold finite numbers, text, lists and dicts: {error}"
        ) from None


def _finished(store, keys, resume):
    """Return {key: (arrays, seconds)} of the points that are in the store; without ``resume``, empty it."""
    done = {}
    for key in keys:
        if not resume:
            store.forget(key)
        elif (found := store.read(key)) is not None:
            done[key] = found
    return done


def _run(functions, point, seed, key):
    """Compute one point (in a worker) and return it packed and sealed, with the seconds it took and where."""
    function, device = functions
    start = time.perf_counter()
    result = function(point, seed)
    if not isinstance(result, dict) or {"seconds_", "device_"} & result.keys():
        raise ValueError(
            f"{function.__qualname__} returned {type(result).__name__}: must be a dict of arrays"
        )
    where = {} if device is None else {"device_": device() or ""}
    return sealed(packed(result | where | {"seconds_": time.perf_counter() - start}), key)


def _outcomes(pool, store, functions, points, tasks, missing):
    """Yield (index, outcome) of the missing points as they come, this process's and those of others.

    The outcome is (arrays, seconds), stored, or an exception. A point is claimed when it is handed to the
    pool, not earlier, so that processes share the work; where a pool does not tell its size, all are.
    """
    size = getattr(pool, "_max_workers", None)
    ahead = 2 * size if size else len(missing)  # a worker finds its next point waiting
    waiting, elsewhere, running = deque(missing), [], {}
    try:
        while waiting or elsewhere or running:
            while waiting and len(running) < ahead:
                index = waiting.popleft()
                key, seed = tasks[index]
                if not store.claim(key):
                    elsewhere.append(index)
                    continue
                found = store.read(key)  # finished by another process by now
                try:
                    if found is None:
                        running[pool.submit(_run, functions, points[index], seed, key)] = index
                        continue
                except BrokenExecutor as error:
                    found = error
                store.release(key)
                yield index, found
            if running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index = running.pop(future)
                    key = tasks[index][0]
                    error = future.exception()
                    found = store.keep(key, future.result()) if error is None else error
                    store.release(key)
                    yield index, found
            elif elsewhere and not waiting:
                time.sleep(_PAUSE)
                waiting.extend(elsewhere)
                elsewhere.clear()
    finally:
        for future in running:
            future.cancel()


@contextlib.contextmanager
def _pool(executor, missing):
    """Yield the executor, or a pool of local processes that ends with the block, at once on an exception."""
    if executor is not None or not missing:
        yield executor
        return
    others = multiprocessing.active_children()
    asked = os.environ.get(WORKERS_VARIABLE) or str(WORKERS)
    if not asked.isdecimal() or int(asked) < 1:
        raise _check.refused(WORKERS_VARIABLE, asked, "an integer at least 1")
    workers = min(int(asked), len(missing))
    # spawn, not fork: a forked copy of threads of torch or OpenMP can hang
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - set(others):
            process.terminate()
        raise
    pool.shutdown()


def _start_worker():
    """Keep a worker to one thread, leave Ctrl-C to the parent, and end with it even if that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def one_thread():
    """Keep this process's numerical libraries, loaded or not, to one thread."""
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))  # for what is imported from now on
    if importlib.util.find_spec("threadpoolctl"):
        import threadpoolctl

        threadpoolctl.threadpool_limits(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "numba" in sys.modules:
        sys.modules["numba"].config.NUMBA_NUM_THREADS = 1


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
