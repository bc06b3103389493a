"""Many calls side by side, each in a process with one thread.

For small runs this is faster than one run on all cores. joblib runs them: with loky on this
machine, or on a Dask cluster.
"""

import contextlib
import functools
import itertools
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from ..fast import is_plain, plain
from ..methods import own
from ..support.terminal import show_warning

LIBRARIES = ("NUMBA", "OPENBLAS", "OMP", "MKL", "BLIS")
ONE_THREAD = (*(f"{name}_NUM_THREADS" for name in LIBRARIES), "VECLIB_MAXIMUM_THREADS")


def each(
    function: Callable[..., Any],
    calls: Sequence[tuple],
    jobs: int | None = None,
    dask: str | None = None,
) -> Generator[tuple[int, Any], None, None]:
    """Run function(*call) for every call; yields (index of the call, result) as each one ends.

    jobs: processes; None: one per core. dask: a scheduler's address, tcp://…, or "local" for a
    cluster of `jobs` workers on this machine. Raises ValueError if no scheduler answers there.
    """
    if not calls:
        return
    jobs = min(jobs or cores(), len(calls))
    here = is_plain(), [*own.FILES.values()]
    work = [(place, function, call, *here) for place, call in enumerate(calls)]
    yield from _here(work, jobs) if dask is None else _on_cluster(work, jobs, dask)


def _here(work, jobs):
    """Run all calls in processes with one thread each on this machine.

    A single worker is a new process, too: BLAS in this process uses all threads, and would add in
    another order.
    """
    from joblib.externals import loky

    _start_tracker()
    one_thread = dict.fromkeys(ONE_THREAD, "1")
    prints = warnings.showwarning is show_warning  # in a command, each warning is one line
    begin = {"initializer": _begin, "initargs": (os.getpid(), prints), "env": one_thread}
    waiting, results, others = iter(work), set(), set(threading.enumerate())

    def submit(most):
        for item in itertools.islice(waiting, most):
            results.add(pool.submit(_placed, *item))

    with contextlib.ExitStack() as stack:
        with _ctrl_c_waits():
            pool = loky.ProcessPoolExecutor(jobs, **begin)
            stack.push(functools.partial(_end, pool, results, others))
            submit(jobs + 1)  # the first starts all workers
        while results:
            done, _ = loky.wait(results, return_when=loky.FIRST_COMPLETED)
            for result in done:
                results.remove(result)
                with _ctrl_c_waits():
                    submit(1)
                yield result.result()


def _end(pool, results, others, error, *_) -> None:
    """End the workers; kill them after an error or Ctrl-C.

    others: the threads that are not the pool's.
    """
    # loky's thread fails if it has to kill before every call has reached a worker
    while error and not all(result.running() or result.done() for result in results):
        time.sleep(0.001)  # seconds
    with warnings.catch_warnings():  # without psutil and pgrep, loky warns but still kills
        warnings.simplefilter("ignore")
        pool.shutdown(kill_workers=bool(error))
    # A daemon thread of loky may hold the last reference to a semaphore. If the program ended
    # first, loky's cleaning process would not learn that the semaphore is gone, and would warn.
    for thread in set(threading.enumerate()) - others:
        if thread.name == "QueueFeederThread":
            thread.join(10)  # seconds


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Delay Ctrl-C until the end of the with block.

    It then cannot come between the line that makes a semaphore and the line that registers its
    removal. Processes that start in the block ignore Ctrl-C.
    """
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    came: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *what: came.append(what))
    # a new process inherits the signals that this thread blocks
    masks = hasattr(signal, "pthread_sigmask")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT]) if masks else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, usual)
        if came:
            usual(*came[0])


def _start_tracker() -> None:
    """Start the process that removes what a killed process left in shared memory.

    loky would start it only after making the first folder or semaphore there: a kill in between
    would leave that one behind.
    """
    from joblib.externals.loky.backend import resource_tracker

    resource_tracker.ensure_running()


def cores() -> int:
    """How many cores this process may use."""
    import joblib

    return joblib.cpu_count()


def _placed(place, function, call, only_pages, techniques):
    """Run one call in the worker, with the techniques of the caller's files, and twins or none."""
    for file in techniques:
        own.read(*file)
    with plain(only_pages):
        return place, function(*call)


def _on_cluster(work, jobs, dask):
    """Run all calls on a Dask cluster, as many at once as it has workers."""
    import joblib

    with _cluster(jobs, dask):
        parallel = joblib.Parallel(n_jobs=-1, return_as="generator_unordered", batch_size=1)
        yield from parallel(joblib.delayed(_placed)(*item) for item in work)


@contextlib.contextmanager
def _cluster(jobs: int, dask: str) -> Iterator[None]:
    """In the with block joblib runs its jobs on a Dask cluster."""
    import joblib

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


def _begin(parent: int, prints: bool) -> None:
    """Runs first in a new worker: it will end soon after its parent, and ignores Ctrl-C.

    The parent handles Ctrl-C.
    """

    def end_with_parent():
        while os.getppid() == parent:
            time.sleep(0.5)  # seconds
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    # tqdm's own lock is in shared memory, and stays there if this process is killed
    tqdm.set_lock(threading.RLock())
    if prints:
        warnings.showwarning = show_warning


def _one_thread() -> None:
    """Runs before this process loads Numba and BLAS."""
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
