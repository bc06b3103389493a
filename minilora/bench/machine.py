"""The facts on which timings depend: the machine, its peaks, libraries, environment."""

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .. import fast
from ..support import blas
from ..support.machine import processor, versions

DEPTH = 128  # rows of the tile's panel: with 48 columns it fills half of an L1 cache
TILES = 4000  # number of tiles that a thread computes in one try
TRIES = 100  # other programs may use a core during most of them
VARIABLES = ("OPENBLAS_", "MKL_", "OMP_", "NUMBA_", "MINILORA_", "KMP_")


def facts() -> dict[str, Any]:
    """The machine as this process sees it, as plain data."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
        "kernels": kernels(),
        "blas": blas_facts(),
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)},
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # of the last minute
    }


def kernels() -> dict[str, Any]:
    """The backend; for Numba also its tile, its instruction set and its threads."""
    if fast.backend() == "numpy":
        return {"backend": "numpy"}
    import llvmlite.binding as llvm

    from ..fast import threads, tile

    return {
        "backend": fast.backend(),
        "tile": f"{tile.MR} x {tile.NR}",
        "target": llvm.get_host_cpu_name(),
        "threads": threads.THREADS,
    }


def blas_facts() -> dict[str, Any]:
    """NumPy's BLAS: its name, its version, and for OpenBLAS the kernels that it chose."""
    build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    about = {"name": build.get("name"), "version": build.get("version")}
    chosen = blas.kernels()
    return about | ({"kernels": chosen} if chosen else {})


def peaks(threads: int | None = None) -> dict[str, float | None]:
    """ "flops": the register tile's FLOP/s; "bandwidth": bytes read per second."""
    return {"flops": tile_flops(), "bandwidth": read_bandwidth(threads)}


def tile_flops() -> float | None:
    """FLOP/s of the register tile, over all threads, on numbers that stay in the L1 cache.

    The best of TRIES; None without Numba's compiler.
    """
    if fast.backend() == "numpy":
        return None
    from numba import prange

    from ..fast.jit import aligned_empty, compiled
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
    arrays = [aligned_empty(THREADS * m, n).reshape(THREADS, m, n) for m, n in shapes]
    for array in arrays:
        array[:] = 0
    best = float("inf")
    for _ in range(TRIES):
        start = time.perf_counter()
        run(*arrays)
        best = min(best, time.perf_counter() - start)
    return 2 * MR * NR * DEPTH * TILES * THREADS / best


def read_bandwidth(threads: int | None = None, nbytes: int = 1 << 28, tries: int = 5) -> float:
    """Bytes per second when all cores read an array of nbytes; the best of some tries.

    np.max reads the array and computes almost nothing. An array smaller than the largest cache may
    be read from the cache; on servers many programs share that cache.
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
