"""What this machine can do at most: operations a second, and bytes of memory a second."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .. import fast

DEPTH = 128  # rows of the panel: with 48 columns it fills half of an L1 cache
TILES = 4000  # that a thread computes in one try


def peaks(threads: int | None = None) -> dict[str, float | None]:
    """ "flops": of the register tile, a second; "bandwidth": bytes a second of reading."""
    return {"flops": tile_flops(), "bandwidth": read_bandwidth(threads)}


def tile_flops(tries: int = 7) -> float | None:
    """FLOP/s of the register tile on numbers that stay in L1, over all threads.

    The best of some tries; None without Numba's compiler.
    """
    if fast.backend() == "numpy":
        return None
    from numba import prange

    from ..fast.jit import compiled, room
    from ..fast.threads import THREADS, settings
    from ..fast.tile import MR, NR, tile16, tile48

    if settings["DISABLE_JIT"]:
        return None
    tile = tile48 if NR == 48 else tile16

    @compiled(parallel=True)
    def run(a, b, c):
        for t in prange(len(a)):
            for _ in range(TILES):
                tile(a[t].T, 0, 0, b[t], 0, 0, c[t], 0, 0, DEPTH, MR, NR, True)

    shapes = (DEPTH, MR), (DEPTH, NR), (MR, NR)
    arrays = [room(THREADS * m, n).reshape(THREADS, m, n) for m, n in shapes]
    for array in arrays:
        array[:] = 0
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        run(*arrays)
        best = min(best, time.perf_counter() - start)
    return 2 * MR * NR * DEPTH * TILES * THREADS / best


def read_bandwidth(threads: int | None = None, nbytes: int = 1 << 28, tries: int = 5) -> float:
    """Bytes a second of reading an array of nbytes on all processors, the best of some tries.

    np.max reads the array: its computing takes no time beside the reading. An array smaller than
    the largest cache may come from the cache; on servers many programs share that cache.
    """
    threads = threads or os.cpu_count() or 1
    parts = np.ones((threads, nbytes // 4 // threads), np.float32)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(tries):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            best = max(best, parts.nbytes / (time.perf_counter() - start))
    return best
