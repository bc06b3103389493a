"""Many calls side by side, each in a process of one thread.

For small runs this is faster than one run on all cores. joblib runs them, on this machine or on a
Dask cluster.
"""

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from ..fast import is_plain, plain
from ..support.terminal import show_warning

ONE_THREAD = ("NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def each(
    function: Callable[..., Any],
    calls: Sequence[tuple],
    jobs: int | None = None,
    dask: str | None = None,
) -> Generator[tuple[int, Any], None, None]:
    """Run function(*call) for every call; yields (its place, its result) when it ends.

    jobs: processes; None: one a core. dask: a scheduler's address, tcp://…, or "local" for a
    cluster of `jobs` workers on this machine. Raises ValueError where there is no scheduler.
    """
    if not calls:
        return
    import joblib

    jobs = min(jobs or cores(), len(calls))
    work = [(place, function, call, is_plain()) for place, call in enumerate(calls)]
    if dask is None:
        _start_tracker()
    if jobs == 1 and dask is None:
        yield from _one_by_one(work)
        return
    at_once = -1 if dask else jobs  # as many as a cluster has workers
    with _workers(jobs, dask):
        parallel = joblib.Parallel(n_jobs=at_once, return_as="generator_unordered", batch_size=1)
        yield from parallel(joblib.delayed(_placed)(*item) for item in work)


def _one_by_one(work):
    """Run all calls in one process of one thread.

    joblib would run a single job in this process, where BLAS has all its threads, and so would add
    in another order.
    """
    from joblib.externals.loky import ProcessPoolExecutor

    one_thread = dict.fromkeys(ONE_THREAD, "1")
    process = ProcessPoolExecutor(1, initializer=_begin, initargs=(os.getpid(),), env=one_thread)
    try:
        for item in work:
            yield process.submit(_placed, *item).result()
    finally:
        process.shutdown(kill_workers=True)


def _start_tracker() -> None:
    """Start the process that removes what a killed process left in shared memory.

    loky would start it only after it has made the first folder or semaphore there: a kill in
    between would leave this one.
    """
    from joblib.externals.loky.backend import resource_tracker

    resource_tracker.ensure_running()


def cores() -> int:
    """How many cores this process may use."""
    import joblib

    return joblib.cpu_count()


def _placed(place, function, call, only_pages):
    """Runs in the worker, with or without twins as in the caller."""
    with plain(only_pages):
        return place, function(*call)


@contextlib.contextmanager
def _workers(jobs: int, dask: str | None) -> Iterator[None]:
    """In the with block joblib runs its jobs in processes here, or on a Dask cluster's workers."""
    import joblib

    if dask is None:
        begin = {"initializer": _begin, "initargs": (os.getpid(),)}
        with joblib.parallel_config(backend="loky", inner_max_num_threads=1, **begin):
            yield
        return
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("--dask: Dask is not installed: pip install 'minilora[dask]'") from None
    with contextlib.ExitStack() as stack:
        address: Any = dask
        if dask == "local":
            local = LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
            address = stack.enter_context(local)
        try:
            client = stack.enter_context(Client(address, timeout=10))  # seconds
        except (OSError, ValueError) as error:
            raise ValueError(f"--dask: no scheduler at {dask!r} ({error})") from None
        client.run(_one_thread)
        with joblib.parallel_config(backend="dask"):
            yield


def _begin(parent: int) -> None:
    """Runs first in a new worker: it ends soon after its parent, and ignores Ctrl-C.

    The parent handles Ctrl-C.
    """

    def end_with_parent():
        while os.getppid() == parent:
            time.sleep(0.5)  # seconds
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    # tqdm's own lock is shared between processes, and stays behind if this process is killed
    tqdm.set_lock(threading.RLock())
    warnings.showwarning = show_warning  # for the same line as in the command's own process


def _one_thread() -> None:
    """Before this process loads Numba and BLAS."""
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
