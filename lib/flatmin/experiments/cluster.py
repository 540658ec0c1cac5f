"""The workers of a Dask cluster as the executor of experiments: the command line's ``--dask``."""

import contextlib
from pathlib import Path

from flatmin.ledger.sweeps import one_thread

__all__ = ["executor_of"]

_PATIENCE = 60  # seconds in which the scheduler must answer and the first worker be there


@contextlib.contextmanager
def executor_of(address):
    """Yield an executor (``concurrent.futures``) on the Dask cluster at ``address``.

    ``address`` is that of a scheduler (``tcp://host:8786``) or the file that it writes (``cluster.json``).
    Numerical libraries are kept to one thread on every worker, also on those that come later, so that results
    are those of a local run, to the bit on equal processors. A worker that dies loses only the points that it
    is at: others do them again.

    Raises ValueError where the package is missing, no scheduler or no worker answers, or a worker has more
    threads than one: points of one process would share the switches of torch.
    """
    try:
        import distributed
    except ModuleNotFoundError:
        raise ValueError(
            f"dask={address!r}: needs the package distributed (pip install distributed)"
        ) from None
    file = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    if "scheduler_file" in file and not Path(address).is_file():
        raise ValueError(f"dask={address!r}: there is no such file; the scheduler writes it when it starts")
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(distributed.Client(**file, timeout=_PATIENCE))
            client.wait_for_workers(1, timeout=_PATIENCE)
        except (OSError, TimeoutError, ValueError) as error:
            raise ValueError(f"dask={address!r}: no scheduler with a worker answers: {error}") from None
        threads = client.nthreads()
        if wrong := [name for name, count in threads.items() if count != 1]:
            many = threads[wrong[0]]
            raise ValueError(f"dask={address!r}: {wrong[0]} has {many} threads: give workers --nthreads 1")
        client.register_plugin(_plugin(distributed), name="flatmin-one-thread")
        yield client.get_executor()


def _plugin(distributed):
    """What every worker does when it joins."""

    class OneThread(distributed.WorkerPlugin):
        def setup(self, worker):
            one_thread()

    return OneThread()
