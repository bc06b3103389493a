"""The ways to write a matrix product, timed on one thread and on more: notebook 09's record.

python -m studies.speed ladder --out data/results/kernels
"""

import contextlib
import ctypes
import functools
import statistics
from timeit import timeit
from typing import Any

import numpy as np

from minilora import fast
from minilora.bench import kernels, machine, turns, work
from minilora.bench.turns import Calls, Settings, Side

BLAS = "BLAS"
ROWS, DEPTH = 8192, 576
COLUMNS = 4, 16, 64, 256  # of w: a product of few columns computes little for each byte
ARRAY = 1 << 26  # bytes of an array that is made and dropped


def climbed(settings: Settings) -> dict[str, Any]:
    """Time every way at every number of columns on one thread, and the last two ways on more.

    On one thread NumPy's BLAS runs in the same process as the kernels. On more threads it runs in
    a process of its own, because the two pools of threads would disturb each other. Also: the
    machine's limits, fused kernels, new arrays. {} without Numba's kernels.
    """
    if fast.backend() == "numpy":
        return {}
    threads, rounds = settings.threads, settings.rounds
    one, more = Side("one", 1, hide="OPENBLAS_"), Side(turns.OURS, threads)
    blas = Side(BLAS, threads, hide="OPENBLAS_")
    with turns.together(one, more, blas) as sides:
        new_arrays = {
            "large pages": blas.ask(pages),
            "small pages": blas.ask(pages, small=True),
            "kept": more.ask(pages, keep=True),
        }
        peaks = {"1": one.ask(machine.peaks, threads=1)}
        peaks[str(threads)] = more.ask(machine.peaks, threads=threads)
        shapes = [(ROWS, DEPTH, columns) for columns in COLUMNS]
        products = [one.ask(rungs, sizes=sizes, rounds=rounds) for sizes in shapes]

        def last(side):
            how = {"chosen": [("matmul_nn", shapes[-1])], "seconds": 0.1}
            return sides[side].ask(kernels.timed, side=side, **how)[0]

        times = turns.in_turn((more.name, BLAS), rounds, last)
        ways = {"register tile": times[more.name], BLAS: times[BLAS]}
        return {
            "peaks": peaks,
            "threads": threads,
            "pages": new_arrays,
            "products": products,
            "together": {way: turns.summary(found)["median"] for way, found in ways.items()},
            "fused": one.ask(fused, rows=ROWS, rounds=rounds),
        }


def rungs(sizes: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Seconds of each way for a product of M, K, N numbers, NumPy's too: medians of rounds."""
    from minilora.fast.ladder import LADDER

    x, w = work.arguments("matmul_nn", sizes)
    wanted = x.astype(np.float64) @ w.astype(np.float64)
    calls = {way: functools.partial(call, x, w) for way, call in LADDER.items()}
    calls[BLAS] = functools.partial(np.matmul, x, w)
    for way, call in calls.items():
        work.check(way, call(), wanted)
    flops, nbytes = work.cost("matmul_nn", sizes)
    seconds = _medians(calls, rounds)
    return {"sizes": list(sizes), "flops": flops, "bytes": nbytes, "seconds": seconds}


def _medians(calls: Calls, rounds: int) -> dict[str, float]:
    return {name: statistics.median(seconds) for name, seconds in turns.race(calls, rounds).items()}


def fused(rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of an adapted linear and of attention, each as one kernel and in pieces."""
    product, adapted = work.kernel("matmul_nt"), work.kernel("adapted_nt")
    (x, w), (z, b) = (work.arguments("matmul_nt", (rows, K, DEPTH)) for K in (DEPTH, 8))
    tokens = work.arguments("attention_forward", (1, rows // 2, 4, 64))
    attention, in_numpy = work.kernel("attention_forward"), work.KERNELS["attention_forward"].numpy
    pairs: dict[str, Calls] = {
        "adapted linear": {
            "in one": lambda: adapted(x, w, z, b),
            "in pieces": lambda: product(x, w) + product(z, b),
        },
        "attention": {
            "in one": lambda: attention(*tokens)[0],
            "in pieces": lambda: in_numpy(*tokens)[0],
        },
    }
    for name, calls in pairs.items():
        work.check(name, calls["in one"](), calls["in pieces"]())
    return {name: _medians(calls, rounds) for name, calls in pairs.items()}


def pages(small: bool = False, keep: bool = False, times: int = 20) -> dict[str, float]:
    """Seconds and page faults of making an array of 64 MB, filling it and freeing it.

    small: with pages of 4 KB only, as on systems that give no large ones (Linux). keep: the C
    library keeps freed memory, as it does where the kernels run.
    """
    if keep:
        from minilora.fast import heap

        heap.set_up()

    def make():
        np.empty(ARRAY // 4, np.float32)[:] = 1

    _small_pages_only(small)
    make()
    before = page_faults()
    seconds = timeit(make, number=times) / times
    _small_pages_only(False)
    return {"seconds": seconds, "faults": (page_faults() - before) / times}


def page_faults() -> int:
    """How many pages of memory this process got so far; 0 where the system does not tell it."""
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return 0


def _small_pages_only(yes: bool) -> None:
    """Linux: refuse large pages to this process, or allow them again; elsewhere nothing."""
    thp_disable = 41  # PR_SET_THP_DISABLE
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).prctl(thp_disable, int(yes), 0, 0, 0)
