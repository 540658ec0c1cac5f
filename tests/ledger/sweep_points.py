"""Functions that worker processes can import, and that leave a trace of each call."""

import os
import time
from pathlib import Path

import numpy as np


def trace(point):
    with open(point["log"], "a") as log:
        log.write(f"{point['x']} {os.getpid()}\n")


def square(point, seed):
    trace(point)
    noise = np.random.default_rng(seed).random(3)
    return {"square": point["x"] ** 2, "noise": noise, "seed": np.int64(seed)}


def slow_square(point, seed):
    """Like square; the points from 3 on wait until a file says that they may go on."""
    result = square(point, seed)
    while point["x"] >= 3 and not Path(point["gate"]).exists():
        time.sleep(0.02)
    return result


def picky(point, seed):
    trace(point)
    if point["x"] % 2:
        raise ArithmeticError(f"odd {point['x']}")
    return {"x": point["x"]}


def lingering_square(point, seed):
    """Like square, and takes a while."""
    time.sleep(0.15)
    return square(point, seed)


def deadly(point, seed):
    """Kills its worker at one point."""
    if point["x"] == 1:
        os._exit(9)
    return square(point, seed)


def careless(point, seed):
    return point["x"]


def object_array(point, seed):
    return {"x": np.array([None])}


def threads(point, seed):
    import threadpoolctl

    pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
    return {"threads": max(pools, default=1), "omp": int(os.environ["OMP_NUM_THREADS"])}
