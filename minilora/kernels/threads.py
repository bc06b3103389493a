"""The one place that sets up threads and the allocator; importing it does both, once, before the first kernel.

Numba can run its loops on three pools. On a two-core machine a parallel call costs about 1.5 us on TBB or OpenMP and 70
to 100 us on its own work queue, and OpenMP's idle threads spin on cores that NumPy's BLAS wants: so TBB, if installed.
"""

import ctypes
import os
import sys

import numba

numba.config.THREADING_LAYER_PRIORITY = ["tbb", "omp", "workqueue"]


def _preload_tbb() -> None:
    """Let the loader find the TBB that pip puts into <prefix>/lib, where it does not look."""
    try:
        ctypes.CDLL(os.path.join(sys.prefix, "lib", "libtbb.so.12"), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        pass  # another platform, or no TBB: Numba takes the next pool


_preload_tbb()


def num_threads() -> int:
    """How many threads a large kernel is cut for: NUMBA_NUM_THREADS where it is set, else the cores allowed."""
    return numba.config.NUMBA_NUM_THREADS


THREADS = num_threads()
